//! Where the records of each table begin, as the one who applies entries knows it.
//!
//! Some tables are queues: their first records are taken, and others added behind. In a store that is a log-structured merge
//! tree, to find the first record is to pass all that were taken and not yet compacted away, which are millions after a
//! busy quarter of an hour; and each round would pass them again. A scan from a table's beginning starts here where the last
//! one found its first record, or where one was written since before that.

use holdfast_core::kv::{Batch, KvError, View, Visit};
use std::{cell::RefCell, collections::BTreeMap, ops::ControlFlow};

/// Bytes of a table's name, with which its keys begin.
const TABLE_BYTES: usize = 3;

/// Before which key each table has no record, by the table's name. True of one state and whoever alone writes it.
#[derive(Debug, Default)]
pub struct Heads {
    heads: RefCell<BTreeMap<[u8; TABLE_BYTES], Vec<u8>>>,
    /// The entry that was applied last.
    applied: u64,
}

impl Heads {
    /// What applies the entry at `index` reads `state` through this. After a gap the state is another one.
    pub fn over<'a, V: View>(&'a mut self, state: &'a V, index: u64) -> WithHeads<'a, V> {
        if index != self.applied + 1 {
            self.heads.get_mut().clear();
        }
        WithHeads { state, heads: &self.heads }
    }

    /// The entry at `index` wrote this.
    pub fn wrote(&mut self, batch: &Batch, index: u64) {
        let heads = self.heads.get_mut();
        for (key, value) in batch.iter() {
            let Some(table) = key.first_chunk::<TABLE_BYTES>() else { continue };
            if value.is_some()
                && let Some(head) = heads.get_mut(table)
                && key < head.as_slice()
            {
                *head = key.to_vec();
            }
        }
        self.applied = index;
    }
}

/// A state whose tables are scanned from their heads.
pub struct WithHeads<'a, V> {
    state: &'a V,
    heads: &'a RefCell<BTreeMap<[u8; TABLE_BYTES], Vec<u8>>>,
}

impl<V: View> View for WithHeads<'_, V> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.state.get(key)
    }

    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, KvError> {
        self.state.get_many(keys)
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: Visit<'_>) -> Result<(), KvError> {
        let Ok(table) = <[u8; TABLE_BYTES]>::try_from(start) else {
            return self.state.scan(start, end, visit);
        };
        let known = self.heads.borrow().get(&table).cloned();
        let from = known.unwrap_or_else(|| start.to_vec());
        if from.as_slice() >= end {
            return Ok(());
        }
        let mut first: Option<Vec<u8>> = None;
        self.state.scan(&from, end, &mut |key, value| -> ControlFlow<()> {
            if first.is_none() {
                first = Some(key.to_vec());
            }
            visit(key, value)
        })?;
        self.heads.borrow_mut().insert(table, first.unwrap_or_else(|| end.to_vec()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::kv::{Durability, MemStore, Store, prefix_end};
    use proptest::prelude::*;
    use std::cell::Cell;

    /// Counts the records that are shown to scans.
    struct Counting {
        store: MemStore,
        starts: RefCell<Vec<Vec<u8>>>,
        shown: Cell<usize>,
    }

    impl View for Counting {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
            self.store.get(key)
        }

        fn scan(&self, start: &[u8], end: &[u8], visit: Visit<'_>) -> Result<(), KvError> {
            self.starts.borrow_mut().push(start.to_vec());
            self.store.scan(start, end, &mut |key, value| {
                self.shown.set(self.shown.get() + 1);
                visit(key, value)
            })
        }
    }

    fn keys(view: &impl View, start: &[u8], end: &[u8], limit: usize) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        view.scan(start, end, &mut |key, _| {
            keys.push(key.to_vec());
            if keys.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .expect("memory does not fail");
        keys
    }

    #[test]
    fn a_scan_begins_where_the_last_one_found_something() {
        let state = Counting { store: MemStore::default(), starts: RefCell::default(), shown: Cell::new(0) };
        let mut heads = Heads::default();
        let mut batch = Batch::default();
        (0..10).for_each(|n| batch.put(vec![1, 0, 0, n], Vec::new()));
        state.store.write(&batch, Durability::Buffered).expect("memory does not fail");
        heads.wrote(&batch, 1);
        assert_eq!(keys(&heads.over(&state, 2), &[1, 0, 0], &[1, 0, 0, 5], 9).len(), 5);
        let mut batch = Batch::default();
        (0..5).for_each(|n| batch.delete(vec![1, 0, 0, n]));
        state.store.write(&batch, Durability::Buffered).expect("memory does not fail");
        heads.wrote(&batch, 2);
        assert_eq!(keys(&heads.over(&state, 3), &[1, 0, 0], &[1, 0, 0, 5], 9).len(), 0);
        assert_eq!(keys(&heads.over(&state, 3), &[1, 0, 0], &[1, 0, 1], 1), [[1, 0, 0, 5]]);
        assert_eq!(state.starts.borrow().last(), Some(&vec![1, 0, 0, 5]));
        // After a gap nothing is known.
        keys(&heads.over(&state, 9), &[1, 0, 0], &[1, 0, 1], 1);
        assert_eq!(state.starts.borrow().last(), Some(&vec![1, 0, 0]));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put(u8, u8),
        Delete(u8, u8),
        Scan(u8, u8, usize),
    }

    proptest! {
        #[test]
        fn nothing_is_ever_missed(steps in proptest::collection::vec(prop_oneof![
            (0u8..3, any::<u8>()).prop_map(|(table, key)| Step::Put(table, key)),
            (0u8..3, any::<u8>()).prop_map(|(table, key)| Step::Delete(table, key)),
            (0u8..3, any::<u8>(), 1usize..5).prop_map(|(table, end, limit)| Step::Scan(table, end, limit)),
        ], 0..200)) {
            let (store, mut heads) = (MemStore::default(), Heads::default());
            for (index, step) in (1..).zip(steps) {
                let mut batch = Batch::default();
                match step {
                    Step::Put(table, key) => batch.put(vec![table, 0, 0, key], vec![1]),
                    Step::Delete(table, key) => batch.delete(vec![table, 0, 0, key]),
                    Step::Scan(table, end, limit) => {
                        let start = [table, 0, 0];
                        for end in [vec![table, 0, 0, end], prefix_end(&start)] {
                            let found = keys(&heads.over(&store, index), &start, &end, limit);
                            prop_assert_eq!(found, keys(&store, &start, &end, limit));
                        }
                    }
                }
                store.write(&batch, Durability::Buffered).expect("memory does not fail");
                heads.wrote(&batch, index);
            }
        }
    }
}
