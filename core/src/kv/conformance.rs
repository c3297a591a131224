//! What every [`Store`] must do, run by each implementation's tests.

use super::{Batch, Durability, Store, scan_prefix};
use std::ops::ControlFlow;

/// Checks a fresh store from `make` against each clause of the contract.
///
/// # Panics
/// Where a clause does not hold.
pub fn check<S: Store>(make: &mut dyn FnMut() -> S) {
    last_write_of_a_batch_wins(&make());
    scans_are_ordered_and_half_open(&make());
    a_scan_stops_where_it_is_told(&make());
    many_gets_answer_in_order(&make());
}

fn fill(store: &impl Store, keys: &[&[u8]]) {
    let mut batch = Batch::default();
    for key in keys {
        batch.put(key.to_vec(), [b"value of ", *key].concat());
    }
    store.write(&batch, Durability::Synced).expect("a write");
}

fn last_write_of_a_batch_wins(store: &impl Store) {
    let mut batch = Batch::default();
    batch.put(b"a".to_vec(), b"1".to_vec());
    batch.put(b"a".to_vec(), b"2".to_vec());
    batch.put(b"b".to_vec(), b"1".to_vec());
    batch.delete(b"b".to_vec());
    store.write(&batch, Durability::Buffered).expect("a write");
    assert_eq!(store.get(b"a").expect("a read"), Some(b"2".to_vec()));
    assert_eq!(store.get(b"b").expect("a read"), None);
}

fn scans_are_ordered_and_half_open(store: &impl Store) {
    fill(store, &[b"a", b"a\0", b"a\xff", b"b", b"c"]);
    let mut seen = Vec::new();
    store
        .scan(b"a\0", b"b", &mut |key, _| {
            seen.push(key.to_vec());
            ControlFlow::Continue(())
        })
        .expect("a scan");
    assert_eq!(seen, [b"a\0".to_vec(), b"a\xff".to_vec()]);
    store.scan(b"b", b"b", &mut |_, _| panic!("an empty range shows nothing")).expect("a scan");
    store.scan(b"c", b"a", &mut |_, _| panic!("a backward range shows nothing")).expect("a scan");
}

fn a_scan_stops_where_it_is_told(store: &impl Store) {
    fill(store, &[b"p1", b"p2", b"p3", b"q"]);
    let found = scan_prefix(store, b"p", 2).expect("a scan");
    assert_eq!(found.len(), 2);
    assert_eq!(found[1], (b"p2".to_vec(), b"value of p2".to_vec()));
    assert!(scan_prefix(store, b"p", 0).expect("a scan").is_empty());
}

fn many_gets_answer_in_order(store: &impl Store) {
    fill(store, &[b"x", b"z"]);
    let found = store.get_many(&[b"z".to_vec(), b"y".to_vec(), b"x".to_vec()]).expect("reads");
    assert_eq!(found, [Some(b"value of z".to_vec()), None, Some(b"value of x".to_vec())]);
}
