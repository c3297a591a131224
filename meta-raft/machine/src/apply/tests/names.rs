//! Names changed by sync clients and by S3, and a client that follows the journal: at its end it knows what is there.

use super::*;
use crate::{
    CLUSTER_VERSION,
    command::{ConfigChange, Demand, Guarded, Precondition, TreeChange, Within},
    list::{ListRequest, VersionItem, list_versions},
    names::{NameChange, Named, changes, names},
    records::{Account, Extra, Shares, Versioning},
};
use holdfast_core::ids::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// What a client believes.
#[derive(Default, Clone, PartialEq, Eq, Debug)]
struct Believed {
    /// The directory that it follows; empty for all.
    base: Vec<u8>,
    /// Which directory that was.
    directory: Option<NodeId>,
    names: BTreeMap<NodeId, Named>,
    cursor: u64,
    /// A list of all names that is being read: what it has shown, where its next page begins, and its cursor.
    reading: Option<(BTreeMap<NodeId, Named>, Vec<u8>, u64)>,
    /// Where the journal ended when the last list was read.
    listed_to: u64,
}

impl Believed {
    fn whole(store: &MemStore, limit: usize) -> Self {
        Self::of(store, b"", limit)
    }

    fn of(store: &MemStore, base: &[u8], limit: usize) -> Self {
        let mut believed = Self { base: base.to_vec(), ..Self::default() };
        let (mut after, mut first) = (Vec::new(), None);
        loop {
            let page = names(store, BUCKET, base, &after, limit).expect("memory reads");
            believed.directory = page.base;
            believed.cursor = *first.get_or_insert(page.journal);
            believed.names.extend(page.names.into_iter().map(|named| (named.node, named)));
            match page.after {
                Some(next) => after = next,
                None => return believed,
            }
        }
    }

    /// Reads another page of a list of all names, while other things happen.
    fn read_on(&mut self, store: &MemStore, limit: usize) {
        let (mut seen, after, first) = self.reading.take().unwrap_or_default();
        let page = names(store, BUCKET, &self.base, &after, limit).expect("memory reads");
        let first = if after.is_empty() { page.journal } else { first };
        seen.extend(page.names.into_iter().map(|named| (named.node, named)));
        match page.after {
            Some(next) => self.reading = Some((seen, next, first)),
            None => {
                let (base, listed_to) = (std::mem::take(&mut self.base), page.journal);
                let directory = page.base;
                *self = Self { base, directory, names: seen, cursor: first, reading: None, listed_to };
            }
        }
    }

    fn follow(&mut self, store: &MemStore, limit: usize) {
        loop {
            let page = changes(store, BUCKET, &self.base, self.cursor, limit).expect("memory reads");
            assert!(!page.lost || !self.base.is_empty(), "the journal is short");
            let mut strange = page.lost || page.base != self.directory;
            for change in page.changes {
                match change {
                    NameChange::Is(named) => drop(self.names.insert(named.node, named)),
                    NameChange::Moved(named) => {
                        // What is in it may have come to where the list had been read already, or from where nothing
                        // was known.
                        let unknown = !self.base.is_empty() && !self.names.contains_key(&named.node);
                        strange |= self.cursor < self.listed_to || unknown;
                        self.names.insert(named.node, named);
                    }
                    NameChange::Gone(node) => drop(self.names.remove(&node)),
                    NameChange::Passed(_) => strange |= self.cursor < self.listed_to,
                    NameChange::Left(node) => strange |= self.names.contains_key(&node),
                }
            }
            if strange {
                *self = Self::of(store, &self.base, limit);
                if page.base.is_none() {
                    return;
                }
                continue;
            }
            self.cursor = page.next;
            if page.next >= page.head {
                return;
            }
        }
    }

    fn path(&self, node: NodeId) -> Vec<u8> {
        let Some(named) = self.names.get(&node) else { return Vec::new() };
        let slash: &[u8] = if named.file.is_none() { b"/" } else { b"" };
        [&self.path(named.parent), &named.name, slash].concat()
    }

    fn pick(&self, nth: u8) -> Option<&Named> {
        self.names.values().nth(usize::from(nth) % self.names.len().max(1))
    }

    /// A path in a directory, or in the root.
    fn place(&self, directory: u8, name: u8) -> Vec<u8> {
        let directories: Vec<&Named> = self.names.values().filter(|named| named.file.is_none()).collect();
        let parent = directories.get(usize::from(directory) % (directories.len() + 1));
        let above = parent.map_or(Vec::new(), |named| self.path(named.node));
        [above.as_slice(), &[b'a' + name % 4]].concat()
    }
}

/// What happens to names. The numbers pick one of what is there, a directory, and a name.
#[derive(Debug, Clone)]
enum Deed {
    Make(u8, u8),
    Put(u8, u8),
    Write(u8),
    Move(u8, u8, u8),
    Describe(u8),
    Remove(u8),
    /// Through the other door, whose keys are any.
    PutKey(Vec<u8>),
    DeleteKey(Vec<u8>),
    /// The newest version of a key, for good.
    Uncover(Vec<u8>),
    /// The client looks.
    Follow(u8),
    /// It reads a page of all names.
    Read(u8),
}

fn deed() -> impl Strategy<Value = Deed> {
    let key =
        || proptest::sample::select(vec!["a", "b", "a/a", "a/b", "a/a/b", "b/a/a", "a/", "c/d/", "a-b"]);
    let key = || key().prop_map(|key| key.as_bytes().to_vec());
    prop_oneof![
        3 => (any::<u8>(), any::<u8>()).prop_map(|(at, name)| Deed::Make(at, name)),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(at, name)| Deed::Put(at, name)),
        2 => any::<u8>().prop_map(Deed::Write),
        5 => (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(of, at, name)| Deed::Move(of, at, name)),
        1 => any::<u8>().prop_map(Deed::Describe),
        3 => any::<u8>().prop_map(Deed::Remove),
        3 => key().prop_map(Deed::PutKey),
        2 => key().prop_map(Deed::DeleteKey),
        1 => key().prop_map(Deed::Uncover),
        2 => any::<u8>().prop_map(Deed::Follow),
        3 => any::<u8>().prop_map(Deed::Read),
    ]
}

fn all_of(bucket: BucketId, changes: Vec<TreeChange>) -> Command {
    let changes = changes.into_iter().map(Guarded::from).collect();
    Command::ChangeTree { bucket, owner: String::new(), changes }
}

fn object(text: &[u8]) -> NewObject {
    let content = NewContent::Inline(text.to_vec());
    NewObject { bytes: text.len() as u64, content, ..Machine::object(Vec::new()) }
}

fn make(path: &[u8]) -> TreeChange {
    TreeChange::MakeDirectory { path: path.into() }
}

/// A new file.
fn put(path: &[u8]) -> TreeChange {
    TreeChange::Put {
        path: path.into(),
        on: None,
        object: Box::new(object(b"secret")),
        extra: Extra::default(),
    }
}

impl Machine {
    fn change(&mut self, change: TreeChange) -> Outcome {
        self.run(
            1,
            Command::ChangeTree { bucket: BUCKET, owner: String::new(), changes: vec![change.into()] },
        )
    }

    fn deed(&mut self, client: &mut Believed, deed: &Deed, text: &[u8]) {
        // A client that knows all is never overtaken, unless a name is in its way.
        let now = Believed::whole(&self.store, 1000);
        let on = |named: &Named| named.file.as_ref().map(|file| (named.node, file.version));
        let change = match deed {
            Deed::Make(at, name) => {
                TreeChange::MakeDirectory { path: [&now.place(*at, *name)[..], b"/"].concat() }
            }
            Deed::Put(at, name) => TreeChange::Put {
                path: now.place(*at, *name),
                on: None,
                object: Box::new(object(text)),
                extra: Extra::default(),
            },
            Deed::Write(of) => match now.pick(*of).and_then(|named| Some((now.path(named.node), on(named)?)))
            {
                Some((path, on)) => TreeChange::Put {
                    path,
                    on: Some(on),
                    object: Box::new(object(text)),
                    extra: Extra::default(),
                },
                None => return,
            },
            Deed::Move(of, at, name) => match now.pick(*of) {
                Some(named) => {
                    let slash: &[u8] = if named.file.is_none() { b"/" } else { b"" };
                    let to = [&now.place(*at, *name)[..], slash].concat();
                    TreeChange::Move { node: named.node, from: now.path(named.node), to }
                }
                None => return,
            },
            Deed::Describe(of) => {
                match now.pick(*of).and_then(|named| Some((now.path(named.node), on(named)?))) {
                    Some((path, on)) => {
                        let text = Some(String::from_utf8_lossy(text).into_owned());
                        TreeChange::Describe { path, on, name: crate::records::FILE.into(), text }
                    }
                    None => return,
                }
            }
            Deed::Remove(of) => match now.pick(*of) {
                Some(named) => match on(named) {
                    Some(on) => TreeChange::RemoveFile { path: now.path(named.node), on },
                    None => TreeChange::RemoveDirectory { node: named.node, path: now.path(named.node) },
                },
                None => return,
            },
            Deed::PutKey(key) => {
                let put = Command::PutObject {
                    bucket: BUCKET,
                    key: key.clone(),
                    condition: Condition::Always,
                    object: object(text),
                };
                self.run(1, put);
                return;
            }
            Deed::DeleteKey(key) => {
                let condition = Condition::Always;
                self.run(1, Command::DeleteObject { bucket: BUCKET, key: key.clone(), condition });
                return;
            }
            Deed::Uncover(key) => {
                let found = query::look_up(&self.store, BUCKET, key, None).expect("memory reads");
                let LookedUp::Found(object) = found else { return };
                let delete = Command::DeleteVersion {
                    bucket: BUCKET,
                    key: key.clone(),
                    version: Some(crate::records::VersionName::Id(object.version.id)),
                    precondition: Precondition::default(),
                    bypass: false,
                    owner: String::new(),
                    demand: Demand::None,
                };
                self.run(1, delete);
                return;
            }
            Deed::Read(limit) => return client.read_on(&self.store, usize::from(*limit % 3) + 1),
            Deed::Follow(limit) => return client.follow(&self.store, usize::from(*limit % 5) + 1),
        };
        let before = self.contents();
        let outcome = self.change(change.clone());
        assert!(
            matches!(outcome, Outcome::Changed(_) | Outcome::Rejected(Rejection::Overtaken { .. })),
            "{change:?}: {outcome:?}"
        );
        let lost: Vec<_> = before.difference(&self.contents()).cloned().collect();
        assert!(lost.is_empty(), "{change:?} loses {lost:?}");
    }

    /// The bytes of all versions that a listing shows, whatever their keys.
    fn contents(&self) -> BTreeSet<Vec<u8>> {
        let wanted = ListRequest { max: 10_000, ..ListRequest::default() };
        let page = list_versions(&self.store, BUCKET, &wanted, None).expect("memory reads");
        let mut found = BTreeSet::new();
        for item in page.items {
            let VersionItem::Version(shown) = item else { continue };
            let name = Some(shown.name);
            let object = query::look_up(&self.store, BUCKET, &shown.key, name).expect("memory reads");
            let LookedUp::Found(object) = object else { panic!("{shown:?} is listed, and not there") };
            let (node, id) = (object.version.node, object.version.id);
            found.extend(query::inline(&self.store, BUCKET, node, id).expect("memory reads"));
        }
        found
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn whoever_follows_the_journal_knows_what_is_there(
        deeds in proptest::collection::vec(deed(), 1..60), limit in 1usize..8, versions: bool
    ) {
        let mut machine = Machine::new();
        machine.run(0, Command::RaiseClusterVersion { version: CLUSTER_VERSION });
        if versions {
            let change = ConfigChange::Versioning(Versioning::Enabled);
            machine.run(0, Command::ConfigureBucket { bucket: BUCKET, change });
        }
        let mut client = Believed::whole(&machine.store, limit);
        let mut guest = Believed::of(&machine.store, b"a/", limit);
        for (at, deed) in deeds.iter().enumerate() {
            // Without versions what is overwritten goes, as it should.
            if versions || !matches!(deed, Deed::Write(_) | Deed::Remove(_)) {
                machine.deed(&mut client, deed, &[at as u8; 3]);
            }
            if let Deed::Follow(limit) = deed {
                guest.follow(&machine.store, usize::from(*limit % 5) + 1);
            }
        }
        client.follow(&machine.store, limit);
        let now = Believed::whole(&machine.store, limit);
        prop_assert_eq!(&client.names, &now.names);
        prop_assert_eq!(&now.names, &Believed::whole(&machine.store, 1000).names);
        guest.follow(&machine.store, limit);
        prop_assert_eq!(&guest.names, &Believed::of(&machine.store, b"a/", 1000).names);
        for named in now.names.values() {
            prop_assert!(named.parent == NodeId::ROOT || now.names.contains_key(&named.parent), "{:?}", named);
        }
        machine.check(0)?;
    }
}

#[test]
fn a_directorys_rename_is_one_record_and_keeps_what_is_in_it() {
    let mut machine = Machine::new();
    machine.run(0, Command::RaiseClusterVersion { version: CLUSTER_VERSION });
    for at in 0..500 {
        let (key, condition) = (format!("d/{at}").into_bytes(), Condition::Always);
        machine.run(1, Command::PutObject { bucket: BUCKET, key, condition, object: object(&[at as u8; 2]) });
    }
    let before = Believed::whole(&machine.store, 1000);
    let directory = before.names.values().find(|named| named.file.is_none()).expect("it is there").node;
    let to_itself = TreeChange::Move { node: directory, from: b"d/".into(), to: b"d/x/".into() };
    assert_eq!(machine.change(to_itself), Outcome::Rejected(Rejection::Overtaken { at: 0 }));
    let rename = TreeChange::Move { node: directory, from: b"d/".into(), to: b"e/f/".into() };
    let command =
        Command::ChangeTree { bucket: BUCKET, owner: String::new(), changes: vec![rename.clone().into()] };
    let requests = vec![Request::idempotent(command)];
    let entry = LogEntry { stamp_ms: 6_000_000, elapsed_ms: 1, requests };
    let applied = apply(&machine.store, machine.index + 1, Some(entry)).expect("memory reads");
    assert!(applied.batch.len() <= 7, "three names, two lines of the journal, the usage, the header");
    assert!(matches!(machine.change(rename), Outcome::Changed(_)));
    let mut client = before.clone();
    client.follow(&machine.store, 100);
    assert_eq!(client.names.len(), before.names.len() + 1);
    assert!(query::object(&machine.store, BUCKET, b"e/f/77").expect("memory reads").is_some());
    assert!(query::object(&machine.store, BUCKET, b"d/77").expect("memory reads").is_none());
}

#[test]
fn all_changes_of_a_command_are_made_or_none() {
    let mut machine = Machine::new();
    machine.run(0, Command::RaiseClusterVersion { version: CLUSTER_VERSION });
    let all = |changes: Vec<TreeChange>| all_of(BUCKET, changes);
    let outcome = machine.run(1, all(vec![make(b"a/"), make(b"a/b/"), make(b"a/")]));
    assert_eq!(outcome, Outcome::Rejected(Rejection::Overtaken { at: 2 }));
    assert!(Believed::whole(&machine.store, 10).names.is_empty());
    // Two names are swapped by way of a third.
    assert!(matches!(
        machine.run(1, all(vec![make(b"a/"), make(b"b/"), make(b"a/x/")])),
        Outcome::Changed(_)
    ));
    let now = Believed::whole(&machine.store, 10);
    let node = |path: &[u8]| *now.names.keys().find(|node| now.path(**node) == path).expect("it is there");
    let (a, b) = (node(b"a/"), node(b"b/"));
    let to = |node, from: &[u8], to: &[u8]| TreeChange::Move { node, from: from.into(), to: to.into() };
    let swap = vec![to(a, b"a/", b"t/"), to(b, b"b/", b"a/"), to(a, b"t/", b"b/")];
    assert!(matches!(machine.run(1, all(swap)), Outcome::Changed(_)));
    let now = Believed::whole(&machine.store, 10);
    assert_eq!((now.path(a), now.path(b)), (b"b/".to_vec(), b"a/".to_vec()));
    // Names that no file system has, and what is not empty.
    for bad in [&b"../"[..], b"a/./", b"a//", b"\0/"] {
        assert_eq!(machine.run(1, all(vec![make(bad)])), Outcome::Rejected(Rejection::BadKey), "{bad:?}");
    }
    let full = TreeChange::RemoveDirectory { node: a, path: b"b/".into() };
    assert_eq!(machine.change(full), Outcome::Rejected(Rejection::Overtaken { at: 0 }));
    // A bucket goes with the empty directories in it.
    assert_eq!(machine.run(1, Command::DeleteBucket { name: "b".into() }), Outcome::Done);
}

#[test]
fn trees_are_no_deeper_than_keys_are_long_and_are_walked_through_however_deep() {
    let mut machine = Machine::new();
    machine.run(0, Command::RaiseClusterVersion { version: CLUSTER_VERSION });
    let deep = |name: &str, depth: usize| format!("{name}/").repeat(depth).into_bytes();
    assert!(matches!(machine.change(make(&deep("a", 300))), Outcome::Changed(_)));
    assert!(matches!(machine.change(make(&deep("b", 300))), Outcome::Changed(_)));
    let now = Believed::whole(&machine.store, 1000);
    let root = |name: &[u8]| {
        let at = now.names.values().find(|named| named.parent == NodeId::ROOT && named.name == name);
        at.expect("it is there").node
    };
    let into = |node, from: &[u8], to: Vec<u8>| TreeChange::Move { node, from: from.into(), to };
    // 601 bytes and 600 more are too many, 601 and 200 are not.
    let far = [&deep("b", 300)[..], b"a/"].concat();
    assert_eq!(machine.change(into(root(b"a"), b"a/", far)), Outcome::Rejected(Rejection::BadKey));
    let near = [&deep("b", 100)[..], b"a/"].concat();
    assert!(matches!(machine.change(into(root(b"a"), b"a/", near)), Outcome::Changed(_)));
    assert_eq!(Believed::whole(&machine.store, 7).names.len(), 600);
    let wanted = ListRequest { max: 10_000, ..ListRequest::default() };
    let files = crate::list::list(&machine.store, BUCKET, &wanted).expect("memory reads").items;
    assert!(files.is_empty(), "there are directories alone");
    // What is in many directories is one of a few changes.
    let many = (0..100).map(|at| make(format!("{at}/{}", "c/".repeat(400)).as_bytes())).collect();
    let many = all_of(BUCKET, many);
    assert_eq!(machine.run(1, many), Outcome::Rejected(Rejection::TooLarge));
}

#[test]
fn nobody_stores_more_than_a_quota_by_more_than_nothing() {
    let mut machine = Machine::new();
    machine.run(0, Command::RaiseClusterVersion { version: CLUSTER_VERSION });
    let make = |name: &str| Command::MakeBucket {
        name: name.into(),
        domain: DomainId(0),
        chunker: ChunkerProfile::V1,
        config: crate::records::BucketConfig { owner: "alice".into(), ..Default::default() },
    };
    let Outcome::Bucket(one) = machine.run(0, make("one")) else { panic!("it is made") };
    let Outcome::Bucket(two) = machine.run(0, make("two")) else { panic!("it is made") };
    let put = |machine: &mut Machine, bucket, key: &[u8], bytes: usize| {
        let put = Command::PutObject {
            bucket,
            key: key.to_vec(),
            condition: Condition::Always,
            object: object(&vec![7; bytes]),
        };
        machine.run(1, put)
    };
    put(&mut machine, one, b"before", 60);
    machine.run(1, Command::SetQuota { owner: "alice".into(), bytes: Some(100) });
    let account = |machine: &Machine| crate::people::account(&machine.store, "alice").expect("memory reads");
    assert_eq!(account(&machine), Some(Account { used: 60, quota: 100 }));
    assert!(matches!(put(&mut machine, two, b"fits", 40), Outcome::Committed(_)));
    assert_eq!(put(&mut machine, one, b"too much", 1), Outcome::Rejected(Rejection::OverQuota));
    assert_eq!(account(&machine), Some(Account { used: 100, quota: 100 }), "what was refused is not counted");
    // What takes the place of something larger fits, and so does what comes after a deletion.
    assert!(matches!(put(&mut machine, one, b"before", 50), Outcome::Committed(_)));
    let delete = Command::DeleteObject { bucket: two, key: b"fits".into(), condition: Condition::Always };
    machine.run(1, delete);
    assert_eq!(account(&machine), Some(Account { used: 50, quota: 100 }));
    // What is uploaded in parts counts from the part on.
    let id = UploadId([9; 16]);
    let create = Command::CreateUpload {
        bucket: one,
        key: b"parts".into(),
        id,
        attributes: crate::records::Attributes::default(),
        checksum: None,
    };
    assert_eq!(machine.run(1, create), Outcome::Done);
    let part = |machine: &mut Machine, number, bytes| {
        let part = Command::PutPart {
            bucket: one,
            key: b"parts".into(),
            id,
            number,
            bytes,
            md5: [0; 16],
            checksum: None,
            segments: Vec::new(),
        };
        machine.run(1, part)
    };
    assert_eq!(part(&mut machine, 1, 30), Outcome::Done);
    assert_eq!(part(&mut machine, 2, 20), Outcome::Done);
    assert_eq!(part(&mut machine, 1, 31), Outcome::Rejected(Rejection::OverQuota));
    assert_eq!(account(&machine), Some(Account { used: 100, quota: 100 }));
    machine.run(1, Command::SetQuota { owner: "alice".into(), bytes: None });
    machine.run(1, Command::SetQuota { owner: "alice".into(), bytes: Some(100) });
    assert_eq!(account(&machine), Some(Account { used: 100, quota: 100 }), "it is counted again");
    assert_eq!(part(&mut machine, 1, 10), Outcome::Done);
    assert_eq!(machine.run(1, Command::AbortUpload { bucket: one, key: b"parts".into(), id }), Outcome::Done);
    assert_eq!(account(&machine), Some(Account { used: 50, quota: 100 }));
    // Others are not limited, and in the end nobody is.
    assert!(matches!(put(&mut machine, BUCKET, b"another owner's", 1000), Outcome::Committed(_)));
    machine.run(1, Command::SetQuota { owner: "alice".into(), bytes: None });
    assert!(matches!(put(&mut machine, one, b"too much", 1000), Outcome::Committed(_)));
    assert_eq!(account(&machine), None);
}

#[test]
fn what_is_shared_goes_with_its_directory() {
    let mut machine = Machine::new();
    machine.run(0, Command::RaiseClusterVersion { version: CLUSTER_VERSION });
    let all = |changes: Vec<TreeChange>| all_of(BUCKET, changes);
    machine.run(1, all(vec![make(b"a/"), make(b"a/b/"), make(b"c/")]));
    let share = |path: &[u8], user: &str, writes| Command::Share {
        bucket: BUCKET,
        path: path.into(),
        user: user.into(),
        writes,
    };
    assert_eq!(machine.run(1, share(b"a/b/", "bob", Some(true))), Outcome::Done);
    assert_eq!(machine.run(1, share(b"c/", "bob", Some(false))), Outcome::Done);
    assert_eq!(machine.run(1, share(b"", "carol", Some(false))), Outcome::Done);
    assert_eq!(machine.run(1, share(b"none/", "bob", Some(true))), Outcome::Rejected(Rejection::NoSuchKey));
    let paths = |machine: &Machine, user: &str| -> Vec<Vec<u8>> {
        let Shares(shares) = crate::people::shares_for(&machine.store, BUCKET, user).expect("memory reads");
        shares.into_iter().map(|share| share.path).collect()
    };
    let now = Believed::whole(&machine.store, 10);
    let node = |path: &[u8]| *now.names.keys().find(|node| now.path(**node) == path).expect("it is there");
    let moved = TreeChange::Move { node: node(b"a/"), from: b"a/".into(), to: b"c/d/".into() };
    assert!(matches!(machine.change(moved), Outcome::Changed(_)));
    assert_eq!(paths(&machine, "bob"), [b"c/d/b/".to_vec(), b"c/".to_vec()]);
    assert_eq!(paths(&machine, "carol"), [b"".to_vec()]);
    let remove = TreeChange::RemoveDirectory { node: node(b"a/b/"), path: b"c/d/b/".into() };
    assert!(matches!(machine.change(remove), Outcome::Changed(_)));
    assert_eq!(paths(&machine, "bob"), [b"c/".to_vec()], "what is made anew of its name is not shared");
    let gone = machine.run(1, share(b"c/d/b/", "bob", None));
    assert_eq!(gone, Outcome::Rejected(Rejection::NoSuchKey), "whoever ends nothing is told");
    machine.run(1, share(b"c/", "bob", None));
    assert!(paths(&machine, "bob").is_empty());
}

#[test]
fn what_was_deleted_from_a_directory_goes_with_it() {
    let mut machine = Machine::new();
    machine.run(0, Command::RaiseClusterVersion { version: CLUSTER_VERSION });
    let Outcome::Bucket(bucket) = machine.run(
        0,
        Command::MakeBucket {
            name: "kept".into(),
            domain: DomainId(0),
            chunker: ChunkerProfile::V1,
            config: crate::records::BucketConfig {
                versioning: crate::records::Versioning::Enabled,
                ..Default::default()
            },
        },
    ) else {
        panic!("it is made")
    };
    let all = |machine: &mut Machine, changes| {
        let Outcome::Changed(done) = machine.run(1, all_of(bucket, changes)) else { panic!("it is made") };
        done
    };
    let done = all(&mut machine, vec![make(b"p/"), put(b"p/secret"), put(b"p/other")]);
    let on = |at: usize| (done[at].node, done[at].version.expect("a file"));
    all(&mut machine, vec![TreeChange::RemoveFile { path: b"p/secret".into(), on: on(1) }]);
    all(&mut machine, vec![TreeChange::Move { node: done[0].node, from: b"p/".into(), to: b"old/".into() }]);
    let history = |machine: &Machine, prefix: &[u8]| -> Vec<Vec<u8>> {
        let wanted = ListRequest { prefix: prefix.to_vec(), max: 100, ..ListRequest::default() };
        let page = list_versions(&machine.store, bucket, &wanted, None).expect("memory reads");
        page.items
            .into_iter()
            .filter_map(|item| match item {
                VersionItem::Version(shown) => Some(shown.key),
                VersionItem::CommonPrefix(_) => None,
            })
            .collect()
    };
    assert!(history(&machine, b"p/").is_empty());
    assert_eq!(history(&machine, b"old/secret").len(), 2, "its marker, and what was deleted");
    // A directory that is made anew has no past.
    all(&mut machine, vec![TreeChange::RemoveFile { path: b"old/other".into(), on: on(2) }]);
    all(&mut machine, vec![TreeChange::RemoveDirectory { node: done[0].node, path: b"old/".into() }]);
    all(&mut machine, vec![make(b"old/"), put(b"old/new")]);
    assert_eq!(history(&machine, b"old/"), [b"old/new".to_vec()]);
    assert_eq!(history(&machine, b"old (deleted").len(), 4, "and nothing is lost");
}

#[test]
fn a_file_is_no_directory() {
    let mut machine = Machine::new();
    machine.run(0, Command::RaiseClusterVersion { version: CLUSTER_VERSION });
    assert!(matches!(machine.change(put(b"a")), Outcome::Changed(_)));
    assert!(matches!(machine.change(put(b"other")), Outcome::Changed(_)));
    let node = Believed::whole(&machine.store, 10);
    let other = *node.names.iter().find(|(_, named)| named.name == b"other").expect("it is there").0;
    let overtaken = Outcome::Rejected(Rejection::Overtaken { at: 0 });
    assert_eq!(machine.change(put(b"a/b")), overtaken);
    assert_eq!(machine.change(put(b"a/b/c")), overtaken);
    assert_eq!(machine.change(TreeChange::MakeDirectory { path: b"a/b/".into() }), overtaken);
    let moved = TreeChange::Move { node: other, from: b"other".into(), to: b"a/other".into() };
    assert_eq!(machine.change(moved), overtaken);
    // S3 has both, where it is asked for: what is in such a directory already is changed as ever.
    let by_s3 = Command::PutObject {
        bucket: BUCKET,
        key: b"a/by s3".to_vec(),
        condition: Condition::Always,
        object: object(b"x"),
    };
    assert!(matches!(machine.run(1, by_s3), Outcome::Committed(_)));
    assert!(matches!(machine.change(put(b"a/b")), Outcome::Changed(_)));
}

#[test]
fn a_name_comes_to_the_directory_that_was_meant_or_nowhere() {
    let mut machine = Machine::new();
    machine.run(0, Command::RaiseClusterVersion { version: CLUSTER_VERSION });
    let mut all = |changes: Vec<(TreeChange, Option<Within>)>| {
        let changes = changes.into_iter().map(|(change, within)| Guarded { change, within }).collect();
        machine.run(1, Command::ChangeTree { bucket: BUCKET, owner: String::new(), changes })
    };
    let nodes = |outcome: Outcome| -> Vec<NodeId> {
        let Outcome::Changed(changed) = outcome else { panic!("{outcome:?}") };
        changed.iter().map(|changed| changed.node).collect()
    };
    let node = |outcome| nodes(outcome)[0];
    let overtaken = |at| Outcome::Rejected(Rejection::Overtaken { at });
    let root = Some(Within::Node(NodeId::ROOT));
    let old = node(all(vec![(make(b"d/"), root)]));
    let file = node(all(vec![(put(b"d/file"), Some(Within::Node(old)))]));
    // It is renamed, and another has its name: nothing that was meant for the one comes to the other.
    let away = TreeChange::Move { node: old, from: b"d/".into(), to: b"e/".into() };
    let new = nodes(all(vec![(away, root), (make(b"d/"), Some(Within::There))]))[1];
    assert_ne!(old, new);
    assert_eq!(all(vec![(put(b"d/lost"), Some(Within::Node(old)))]), overtaken(0));
    assert_eq!(all(vec![(make(b"d/sub/"), Some(Within::Node(old)))]), overtaken(0));
    let moved = |to: &[u8]| TreeChange::Move { node: file, from: b"e/file".into(), to: to.into() };
    assert_eq!(all(vec![(moved(b"d/file"), Some(Within::Node(old)))]), overtaken(0));
    // Nor is it made again where it was.
    assert_eq!(all(vec![(put(b"gone/x"), Some(Within::There))]), overtaken(0));
    let within_new = vec![(make(b"gone/"), root), (put(b"gone/x"), Some(Within::There))];
    assert!(matches!(all(within_new), Outcome::Changed(_)));
    assert_eq!(node(all(vec![(moved(b"d/file"), Some(Within::Node(new)))])), file);
}

#[test]
fn a_directory_that_a_device_empties_stays_until_it_is_removed() {
    let mut machine = Machine::new();
    machine.run(0, Command::RaiseClusterVersion { version: CLUSTER_VERSION });
    for key in [&b"s3/one"[..], b"s3/sub/two"] {
        let (key, condition) = (key.to_vec(), Condition::Always);
        machine.run(1, Command::PutObject { bucket: BUCKET, key, condition, object: object(b"x") });
    }
    let now = Believed::whole(&machine.store, 10);
    let on = |name: &[u8]| {
        let named = now.names.values().find(|named| named.name == name).expect("it is there");
        (named.node, named.file.as_ref().map(|file| file.version))
    };
    let (two, version) = on(b"two");
    let remove = TreeChange::RemoveFile { path: b"s3/sub/two".into(), on: (two, version.expect("a file")) };
    let moved = TreeChange::Move { node: on(b"one").0, from: b"s3/one".into(), to: b"one".into() };
    for change in [remove, moved] {
        assert!(matches!(machine.change(change), Outcome::Changed(_)));
    }
    let left = Believed::whole(&machine.store, 10);
    let mut names: Vec<&[u8]> = left.names.values().map(|named| named.name.as_slice()).collect();
    names.sort();
    assert_eq!(names, [&b"one"[..], b"s3", b"sub"]);
    // All of it at once, as a device does that deletes the directory.
    for (name, path) in [(&b"sub"[..], &b"s3/sub/"[..]), (b"s3", b"s3/")] {
        let gone = TreeChange::RemoveDirectory { node: on(name).0, path: path.into() };
        assert!(matches!(machine.change(gone), Outcome::Changed(_)), "{name:?}");
    }
}
