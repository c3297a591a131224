use super::*;
use crate::{
    apply,
    command::{Command, Condition, LogEntry, NewContent, NewObject, Outcome, Request},
    query,
    records::{Attributes, Etag},
};
use holdfast_core::{
    chunker::ChunkerProfile,
    ids::DomainId,
    kv::{Durability, MemStore, Store},
};
use proptest::prelude::*;
use std::collections::BTreeSet;

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
    let mut index = 1;
    for key in keys {
        index += 1;
        let object = NewObject {
            bytes: 0,
            etag: Etag::Md5([0; 16]),
            content: NewContent::Inline(Vec::new()),
            attributes: Attributes::default(),
            checksum: None,
            parts: Vec::new(),
        };
        let put =
            Command::PutObject { bucket: BUCKET, key: key.clone(), condition: Condition::Always, object };
        assert!(matches!(run(&store, index, put), Outcome::Committed(_)));
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
        let left = holdfast_core::kv::scan_prefix(&store, &keys::dir(BUCKET, NodeId::ROOT)[..11], 10).expect("memory reads");
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
