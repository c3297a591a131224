use super::*;
use crate::{
    apply,
    ask::LookedUp,
    command::{
        Command, Condition, ConfigChange, Demand, LogEntry, NewContent, NewObject, Outcome, Precondition,
        Rejection, Removed, Request, VersionChange,
    },
    query,
    records::{Attributes, Etag, LockMode, Retention, VersionName, Versioning},
};
use holdfast_core::{
    chunker::ChunkerProfile,
    ids::{DomainId, VersionId},
    kv::{Durability, MemStore, Store},
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const BUCKET: BucketId = BucketId(1);

fn run(store: &MemStore, index: u64, command: Command) -> Outcome {
    let entry = LogEntry { stamp_ms: 1000, elapsed_ms: 0, requests: vec![Request::idempotent(command)] };
    let applied = apply(store, index, Some(entry)).expect("memory reads");
    store.write(&applied.batch, Durability::Buffered).expect("memory writes");
    applied.outcomes.into_iter().next().expect("an outcome")
}

fn bucket_with(keys: &[Vec<u8>], deleted: &[Vec<u8>]) -> MemStore {
    let store = MemStore::default();
    let create = Command::CreateBucket { name: "b".into(), domain: DomainId(1), chunker: ChunkerProfile::V1 };
    assert_eq!(run(&store, 1, create), Outcome::Bucket(BUCKET));
    run(&store, 2, Command::RaiseClusterVersion { version: crate::CLUSTER_VERSION });
    let mut index = 2;
    for key in keys {
        index += 1;
        assert!(matches!(run(&store, index, put(key)), Outcome::Committed(_)));
    }
    for key in deleted {
        index += 1;
        let delete = Command::DeleteObject { bucket: BUCKET, key: key.clone(), condition: Condition::Always };
        assert!(matches!(run(&store, index, delete), Outcome::Deleted { .. }));
    }
    store
}

/// S3's rules over a sorted set: (names, truncated).
fn model(keys: &BTreeSet<Vec<u8>>, request: &ListRequest) -> (Vec<Vec<u8>>, bool) {
    let mut names: Vec<Vec<u8>> = Vec::new();
    for key in keys.iter().filter(|key| key.starts_with(&request.prefix)) {
        let name = common_prefix(key, &request.prefix, &request.delimiter).unwrap_or_else(|| key.clone());
        if name > request.after && names.last() != Some(&name) {
            names.push(name);
        }
    }
    let truncated = names.len() > request.max;
    names.truncate(request.max);
    (names, truncated && request.max > 0)
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    let symbol =
        prop_oneof![4 => Just(b'/'), 3 => Just(b'a'), 1 => Just(b'-'), 1 => Just(b'0'), 1 => Just(0xff_u8)];
    proptest::collection::vec(symbol, 1..7)
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(Vec::new()), key()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn pages_are_those_of_a_sorted_set(
        keys in proptest::collection::vec(key(), 0..24),
        deleted in proptest::collection::vec(key(), 0..6),
        prefix in text(),
        delimiter in prop_oneof![
            Just(vec![]), Just(b"/".to_vec()), Just(b"/".to_vec()), Just(b"a".to_vec()), Just(b"a/".to_vec()), Just(b"//".to_vec())
        ],
        after in text(),
        max in 0usize..8,
    ) {
        let store = bucket_with(&keys, &deleted);
        let mut set: BTreeSet<_> = keys.into_iter().collect();
        deleted.iter().for_each(|key| { set.remove(key); });
        let mut request = ListRequest { prefix, delimiter, after, max };
        loop {
            let page = list(&store, BUCKET, &request).expect("memory reads");
            let names: Vec<_> = page.items.iter().map(|item| item.name().to_vec()).collect();
            prop_assert_eq!((names, page.truncated), model(&set, &request), "{:?}", &request);
            for item in &page.items {
                let is_object = matches!(item, Item::Object { .. });
                prop_assert!(!is_object || query::entry(&store, BUCKET, item.name()).expect("memory reads").is_some());
            }
            match page.items.last() {
                Some(last) if page.truncated => request.after = last.name().to_vec(),
                _ => break,
            }
        }
    }

    #[test]
    fn deleting_everything_leaves_no_directory(keys in proptest::collection::vec(key(), 0..12)) {
        let store = bucket_with(&keys, &keys);
        let left = holdfast_core::kv::scan_prefix(&store, &keys::dir(Tree::Live, BUCKET, NodeId::ROOT)[..11], 10).expect("memory reads");
        prop_assert_eq!(left.len(), 0);
        let usage = query::usage(&store, BUCKET).expect("memory reads").expect("the bucket");
        prop_assert_eq!((usage.objects, usage.bytes), (0, 0));
    }
}

#[test]
fn keys_come_in_byte_order_whatever_their_slashes() {
    let keys = [&b"a"[..], b"a-b", b"a/", b"a/b", b"a//c", b"a0", b"/", b"//x"].map(<[u8]>::to_vec);
    let store = bucket_with(&keys, &[]);
    let page =
        list(&store, BUCKET, &ListRequest { max: 100, ..ListRequest::default() }).expect("memory reads");
    let mut sorted = keys.to_vec();
    sorted.sort();
    let listed: Vec<_> = page.items.iter().map(|item| item.name().to_vec()).collect();
    assert_eq!(listed, sorted);
}

/// What a key's history should be, newest first: (name, is a marker).
type History = Vec<(VersionName, bool)>;

#[derive(Debug, Clone)]
enum Act {
    Put(Vec<u8>),
    Delete(Vec<u8>),
    /// The version so far down the key's history.
    Purge(Vec<u8>, usize),
    Keep(Versioning),
}

fn act() -> impl Strategy<Value = Act> {
    let name = || prop_oneof![Just("a"), Just("a/b"), Just("a/c"), Just("d/e/f"), Just("z")];
    let name = move || name().prop_map(|name| name.as_bytes().to_vec());
    prop_oneof![
        5 => name().prop_map(Act::Put),
        3 => name().prop_map(Act::Delete),
        4 => (name(), 0..4usize).prop_map(|(name, at)| Act::Purge(name, at)),
        1 => prop_oneof![Just(Versioning::Enabled), Just(Versioning::Suspended)].prop_map(Act::Keep),
    ]
}

/// The name of a version that is written now, after whatever it replaces was taken out of the history.
fn add(history: &mut History, versioning: Versioning, id: VersionId, marker: bool) {
    let name = match versioning {
        Versioning::Enabled => VersionName::Id(id),
        Versioning::Off | Versioning::Suspended => {
            history.retain(|(name, _)| *name != VersionName::Null);
            VersionName::Null
        }
    };
    history.insert(0, (name, marker));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn histories_are_those_of_a_model(acts in proptest::collection::vec(act(), 1..40), max in 1..4usize) {
        let store = bucket_with(&[], &[]);
        let mut model = BTreeMap::<Vec<u8>, History>::new();
        let mut versioning = Versioning::Off;
        for (index, act) in (10..).zip(acts) {
            match act {
                Act::Keep(wanted) => {
                    versioning = wanted;
                    let change = ConfigChange::Versioning(wanted);
                    prop_assert_eq!(run(&store, index, Command::ConfigureBucket { bucket: BUCKET, change }), Outcome::Done);
                }
                Act::Put(key) => {
                    let Outcome::Committed(done) = run(&store, index, put(&key)) else { panic!("{key:?} is not put") };
                    add(model.entry(key).or_default(), versioning, done.version, false);
                }
                Act::Delete(key) => {
                    let Outcome::Removed(removed) = run(&store, index, delete(&key, None)) else { panic!("not deleted") };
                    let history = model.entry(key).or_default();
                    prop_assert_eq!(removed.marker, versioning != Versioning::Off);
                    match removed.version {
                        None => history.clear(),
                        Some(VersionName::Id(id)) => add(history, versioning, id, true),
                        Some(VersionName::Null) => add(history, versioning, VersionId(0), true),
                    }
                }
                Act::Purge(key, at) => {
                    let history = model.entry(key.clone()).or_default();
                    let gone = if at < history.len() { Some(history.remove(at)) } else { None };
                    let name = gone.map_or(VersionName::Id(VersionId(u64::MAX)), |(name, _)| name);
                    let Outcome::Removed(removed) = run(&store, index, delete(&key, Some(name))) else { panic!("not purged") };
                    prop_assert_eq!((removed.existed, removed.marker), (gone.is_some(), gone.is_some_and(|gone| gone.1)));
                }
            }
        }
        model.retain(|_, history| !history.is_empty());
        // What is there now.
        let shown = list(&store, BUCKET, &ListRequest { max: 100, ..ListRequest::default() }).expect("memory reads");
        let shown: Vec<&[u8]> = shown.items.iter().map(Item::name).collect();
        let there: Vec<&[u8]> =
            model.iter().filter(|(_, history)| !history[0].1).map(|(key, _)| key.as_slice()).collect();
        prop_assert_eq!(shown, there);
        // Histories, page by page.
        let (mut after, mut version, mut pages) = (Vec::new(), None, Vec::new());
        loop {
            let request = ListRequest { after: after.clone(), max, ..ListRequest::default() };
            let page = list_versions(&store, BUCKET, &request, version).expect("memory reads");
            prop_assert!(page.items.len() <= max);
            for item in page.items {
                let VersionItem::Version(shown) = item else { panic!("nobody asked for prefixes") };
                (after, version) = (shown.key.clone(), Some(shown.name));
                pages.push((shown.key, shown.name, shown.marker, shown.latest));
            }
            if !page.truncated {
                break;
            }
        }
        let expected: Vec<_> = model
            .iter()
            .flat_map(|(key, history)| {
                let line = |(at, (name, marker)): (usize, &(VersionName, bool))| (key.clone(), *name, *marker, at == 0);
                history.iter().enumerate().map(line).collect::<Vec<_>>()
            })
            .collect();
        prop_assert_eq!(&pages, &expected);
        // Each by its name; and nothing is left of what is gone.
        for (key, name, marker, latest) in expected {
            let LookedUp::Found(found) = query::look_up(&store, BUCKET, &key, Some(name)).expect("memory reads") else {
                panic!("{key:?} {name:?} is not found")
            };
            prop_assert_eq!((found.extra.marker, found.latest), (marker, latest));
        }
        let count: usize = model.values().map(Vec::len).sum();
        let usage = query::usage(&store, BUCKET).expect("memory reads").expect("a bucket");
        prop_assert_eq!(usage.objects, count as u64);
        let records = |table| holdfast_core::kv::scan_prefix(&store, &keys::table(table), 1000).expect("memory reads").len();
        prop_assert_eq!(records(keys::Table::Version), count);
        let nulls = model.values().filter(|history| history.iter().skip(1).any(|(name, _)| *name == VersionName::Null));
        prop_assert_eq!(records(keys::Table::NullVersion), nulls.count());
        let directories = records(keys::Table::DirEntry) + records(keys::Table::HiddenEntry);
        prop_assert!(!model.is_empty() || directories == 0, "directories go with their last child");
    }
}

fn put(key: &[u8]) -> Command {
    let object = NewObject {
        bytes: 0,
        etag: Etag::Md5([0; 16]),
        content: NewContent::Inline(Vec::new()),
        attributes: Attributes::default(),
        checksum: None,
        parts: Vec::new(),
    };
    Command::PutObject { bucket: BUCKET, key: key.to_vec(), condition: Condition::Always, object }
}

fn delete(key: &[u8], version: Option<VersionName>) -> Command {
    Command::DeleteVersion {
        bucket: BUCKET,
        key: key.to_vec(),
        version,
        precondition: Precondition::default(),
        bypass: false,
        owner: String::new(),
        demand: Demand::None,
    }
}

#[test]
fn locks_fail_closed() {
    let store = bucket_with(&[], &[]);
    let configure = |change| Command::ConfigureBucket { bucket: BUCKET, change };
    let locked = Outcome::Rejected(Rejection::Locked);
    let state = Outcome::Rejected(Rejection::BucketState);
    let lock = |mode, until_ms| Some(Retention { mode, until_ms });
    assert_eq!(run(&store, 10, configure(ConfigChange::ObjectLock)), state, "without versions");
    run(&store, 11, configure(ConfigChange::Versioning(Versioning::Enabled)));
    assert_eq!(run(&store, 12, configure(ConfigChange::ObjectLock)), Outcome::Done);
    assert_eq!(run(&store, 13, configure(ConfigChange::Versioning(Versioning::Suspended))), state);
    let Outcome::Committed(done) = run(&store, 14, put(b"k")) else { panic!("not put") };
    let purge = |bypass| Command::DeleteVersion {
        bucket: BUCKET,
        key: b"k".to_vec(),
        version: Some(VersionName::Id(done.version)),
        precondition: Precondition::default(),
        bypass,
        owner: String::new(),
        demand: Demand::None,
    };
    let judged = done.version;
    let change =
        |change| Command::ChangeVersion { bucket: BUCKET, key: b"k".to_vec(), version: None, judged, change };
    let retain = |retention, bypass| change(VersionChange::Retention { retention, bypass });
    assert_eq!(run(&store, 15, change(VersionChange::LegalHold(true))), Outcome::Done);
    assert_eq!(run(&store, 16, purge(true)), locked);
    run(&store, 17, change(VersionChange::LegalHold(false)));
    // The wall clock of all entries here is 1000.
    run(&store, 18, retain(lock(LockMode::Governance, 2000), false));
    assert_eq!(run(&store, 19, retain(None, false)), locked);
    assert_eq!(run(&store, 20, retain(lock(LockMode::Governance, 1500), false)), locked);
    assert_eq!(run(&store, 21, retain(lock(LockMode::Compliance, 3000), false)), locked);
    assert_eq!(run(&store, 22, purge(false)), locked);
    assert_eq!(run(&store, 23, retain(lock(LockMode::Governance, 2500), false)), Outcome::Done);
    assert_eq!(run(&store, 24, retain(lock(LockMode::Compliance, 3000), true)), Outcome::Done);
    for bypass in [false, true] {
        assert_eq!(run(&store, 25 + 4 * u64::from(bypass), purge(bypass)), locked);
        assert_eq!(run(&store, 25 + 4 * u64::from(bypass) + 1, retain(None, bypass)), locked);
        assert_eq!(
            run(&store, 25 + 4 * u64::from(bypass) + 2, retain(lock(LockMode::Compliance, 2999), bypass)),
            locked
        );
        assert_eq!(
            run(&store, 25 + 4 * u64::from(bypass) + 3, retain(lock(LockMode::Governance, 9000), bypass)),
            locked
        );
    }
    assert_eq!(run(&store, 33, retain(lock(LockMode::Compliance, 4000), false)), Outcome::Done);
    // Another version has taken its place: what was allowed for the one is not done to the other.
    run(&store, 34, put(b"k"));
    assert_eq!(
        run(&store, 35, change(VersionChange::LegalHold(true))),
        Outcome::Rejected(Rejection::PreconditionFailed)
    );
    // A marker may hide it; it is still there.
    assert!(matches!(run(&store, 36, delete(b"k", None)), Outcome::Removed(Removed { marker: true, .. })));
    assert_eq!(run(&store, 37, purge(true)), locked);
    assert_eq!(
        run(&store, 38, Command::DeleteBucket { name: "b".into() }),
        Outcome::Rejected(Rejection::BucketNotEmpty)
    );
}

#[test]
fn a_removal_takes_only_what_it_demands() {
    let store = bucket_with(&[], &[]);
    run(
        &store,
        10,
        Command::ConfigureBucket { bucket: BUCKET, change: ConfigChange::Versioning(Versioning::Enabled) },
    );
    let written = |index| match run(&store, index, put(b"k")) {
        Outcome::Committed(done) => done.version,
        other @ Outcome::Done
        | other @ Outcome::Bucket(_)
        | other @ Outcome::Deleted { .. }
        | other @ Outcome::Registered { .. }
        | other @ Outcome::Collected(_)
        | other @ Outcome::Rejected(_)
        | other @ Outcome::Host(_)
        | other @ Outcome::Settling { .. }
        | other @ Outcome::Changed(_)
        | other @ Outcome::Removed(_) => panic!("{other:?}"),
    };
    let (one, two) = (written(11), written(12));
    let remove = |id: VersionId, demand| match delete(b"k", Some(VersionName::Id(id))) {
        Command::DeleteVersion { bucket, key, version, precondition, bypass, owner, .. } => {
            Command::DeleteVersion { bucket, key, version, precondition, bypass, owner, demand }
        }
        other @ Command::CreateBucket { .. }
        | other @ Command::DeleteBucket { .. }
        | other @ Command::RegisterPack(_)
        | other @ Command::RegisterSegment { .. }
        | other @ Command::PutObject { .. }
        | other @ Command::DeleteObject { .. }
        | other @ Command::CreateUpload { .. }
        | other @ Command::PutPart { .. }
        | other @ Command::CompleteUpload { .. }
        | other @ Command::AbortUpload { .. }
        | other @ Command::HoldLease { .. }
        | other @ Command::DropLease { .. }
        | other @ Command::Collect { .. }
        | other @ Command::DeletePacks { .. }
        | other @ Command::TombstonePacks { .. }
        | other @ Command::ReportShards { .. }
        | other @ Command::RepairShards { .. }
        | other @ Command::PutDevice { .. }
        | other @ Command::ReplaceDevice { .. }
        | other @ Command::CreatePool { .. }
        | other @ Command::StopCollection { .. }
        | other @ Command::ResumeCollection
        | other @ Command::RaiseClusterVersion { .. }
        | other @ Command::FoundCluster { .. }
        | other @ Command::MakeToken { .. }
        | other @ Command::AdmitHost { .. }
        | other @ Command::MoveHost { .. }
        | other @ Command::RevokeHost { .. }
        | other @ Command::AddDevice { .. }
        | other @ Command::SetDuty { .. }
        | other @ Command::Reweigh { .. }
        | other @ Command::AllowReplacement { .. }
        | other @ Command::FoundPool { .. }
        | other @ Command::ReassignPg { .. }
        | other @ Command::PlacePack { .. }
        | other @ Command::ReportMissing { .. }
        | other @ Command::SettlePg { .. }
        | other @ Command::SetKeyring { .. }
        | other @ Command::NoteArchive { .. }
        | other @ Command::TakeOver { .. }
        | other @ Command::RestoreShards { .. }
        | other @ Command::ChangeDuty { .. }
        | other @ Command::SetSettings { .. }
        | other @ Command::MakeAdminToken { .. }
        | other @ Command::DropAdminToken { .. }
        | other @ Command::LetHostIn { .. }
        | other @ Command::ChangeRoles { .. }
        | other @ Command::MakeBucket { .. }
        | other @ Command::ConfigureBucket { .. }
        | other @ Command::PutVersion { .. }
        | other @ Command::ChangeVersion { .. }
        | other @ Command::RemoveBucket { .. }
        | other @ Command::StartUpload { .. }
        | other @ Command::ChangeIdentities { .. }
        | other @ Command::NoteCursor { .. }
        | other @ Command::FoundClassPool { .. }
        | other @ Command::SetDeviceClass { .. }
        | other @ Command::ChangeTree { .. }
        | other @ Command::SetQuota { .. }
        | other @ Command::Share { .. }
        | other @ Command::MakeLink { .. }
        | other @ Command::RemoveLink { .. }
        | other @ Command::CountDownload { .. }
        | other @ Command::MoveContent { .. } => panic!("{other:?}"),
    };
    let refused = Outcome::Rejected(Rejection::PreconditionFailed);
    assert_eq!(run(&store, 13, remove(two, Demand::Noncurrent(two))), refused, "it is the current one");
    assert_eq!(run(&store, 14, remove(one, Demand::Noncurrent(two))), refused, "it is another one");
    let Outcome::Removed(Removed { version: Some(VersionName::Id(marker)), .. }) =
        run(&store, 15, delete(b"k", None))
    else {
        panic!("there is no marker")
    };
    assert_eq!(run(&store, 16, remove(marker, Demand::LastMarker(marker))), refused, "versions are under it");
    for (index, id) in [(17, one), (18, two)] {
        assert!(matches!(run(&store, index, remove(id, Demand::Noncurrent(id))), Outcome::Removed(_)));
    }
    assert!(matches!(run(&store, 19, remove(marker, Demand::LastMarker(marker))), Outcome::Removed(_)));
    assert_eq!(query::usage(&store, BUCKET).expect("memory reads").expect("a bucket").objects, 0);
}
