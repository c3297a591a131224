//! Sorted key-value contracts: how state machines see their state without knowing where it lives.
//!
//! A [`View`] is read, a [`Batch`] is what a decision wants written, and a [`Store`] takes batches atomically. The
//! in-memory [`MemStore`] serves tests and the simulator; RocksDB stands behind the same traits in production, and one
//! conformance suite ([`conformance`]) holds for both.

use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};
use thiserror::Error;

pub mod conformance;
mod overlay;

pub use overlay::Overlay;

/// The store could not read or write. Nothing may be concluded from it, least of all that a key is absent.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum KvError {
    /// The medium failed, or the store cannot be used now.
    #[error("the key-value store failed: {0}")]
    Storage(String),
    /// The store's own files are damaged.
    #[error("the key-value store is damaged: {0}")]
    Damaged(String),
    /// A record does not decode.
    #[error(transparent)]
    Decode(#[from] crate::codec::DecodeError),
}

/// A key and its value.
pub type Record = (Vec<u8>, Vec<u8>);

/// What a scan's visitor answers: go on, or stop.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// A consistent, sorted image of the state.
pub trait View {
    /// The value of `key`.
    ///
    /// # Errors
    /// Where the store cannot tell.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// The values of `keys`, in their order. Stores that can read many at once override it.
    ///
    /// # Errors
    /// As [`View::get`].
    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, KvError> {
        keys.iter().map(|key| self.get(key)).collect()
    }

    /// Shows `visit` each record with `start <= key < end` in key order until it breaks.
    ///
    /// # Errors
    /// As [`View::get`]; records before the failure have been shown.
    fn scan(&self, start: &[u8], end: &[u8], visit: Visit<'_>) -> Result<(), KvError>;
}

impl<V: View + ?Sized> View for &V {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        (**self).get(key)
    }

    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, KvError> {
        (**self).get_many(keys)
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: Visit<'_>) -> Result<(), KvError> {
        (**self).scan(start, end, visit)
    }
}

/// Puts and deletes that become visible together. The last word on a key counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Batch {
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.writes.insert(key, Some(value));
    }

    pub fn delete(&mut self, key: Vec<u8>) {
        self.writes.insert(key, None);
    }

    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// The writes in key order; `None` deletes.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.writes.iter().map(|(key, value)| (key.as_slice(), value.as_deref()))
    }
}

/// How far a write must have come before the call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Visible now; durable with the next [`Durability::Synced`] write, in order. A crash before that loses a suffix.
    Buffered,
    /// On the medium, and so is every write before it.
    Synced,
}

/// A [`View`] that also takes batches.
pub trait Store: View {
    /// Writes all of `batch` or nothing.
    ///
    /// # Errors
    /// After an error it is unknown what a restart will find; the store must not be written to again.
    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), KvError>;
}

/// A sorted map in memory, with the crash semantics of a write-ahead log: buffered writes survive a crash as a prefix.
#[derive(Debug, Clone, Default)]
pub struct MemStore {
    inner: Arc<RwLock<MemInner>>,
}

#[derive(Debug, Clone, Default)]
struct MemInner {
    durable: BTreeMap<Vec<u8>, Vec<u8>>,
    visible: BTreeMap<Vec<u8>, Vec<u8>>,
    buffered: Vec<Batch>,
}

fn apply_to(map: &mut BTreeMap<Vec<u8>, Vec<u8>>, batch: &Batch) {
    for (key, value) in batch.iter() {
        match value {
            Some(value) => map.insert(key.to_vec(), value.to_vec()),
            None => map.remove(key),
        };
    }
}

impl MemStore {
    fn read_lock(&self) -> RwLockReadGuard<'_, MemInner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_lock(&self) -> RwLockWriteGuard<'_, MemInner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loses power: of the batches not yet synced the first `keep` survive.
    pub fn crash(&self, keep: usize) {
        let mut inner = self.write_lock();
        let buffered = std::mem::take(&mut inner.buffered);
        for batch in buffered.iter().take(keep) {
            apply_to(&mut inner.durable, batch);
        }
        inner.visible = inner.durable.clone();
    }

    /// How many batches a crash may lose.
    pub fn buffered(&self) -> usize {
        self.read_lock().buffered.len()
    }

    /// All visible records, for comparing replicas and for snapshots.
    pub fn dump(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.read_lock().visible.clone()
    }

    /// Replaces everything, durably: the installation of a snapshot.
    pub fn restore(&self, records: BTreeMap<Vec<u8>, Vec<u8>>) {
        *self.write_lock() = MemInner { durable: records.clone(), visible: records, buffered: Vec::new() };
    }
}

impl View for MemStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.read_lock().visible.get(key).cloned())
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: Visit<'_>) -> Result<(), KvError> {
        if start >= end {
            return Ok(());
        }
        let inner = self.read_lock();
        let range = inner.visible.range::<[u8], _>((Bound::Included(start), Bound::Excluded(end)));
        for (key, value) in range {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Store for MemStore {
    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), KvError> {
        let mut inner = self.write_lock();
        apply_to(&mut inner.visible, batch);
        inner.buffered.push(batch.clone());
        if durability == Durability::Synced {
            let buffered = std::mem::take(&mut inner.buffered);
            for batch in &buffered {
                apply_to(&mut inner.durable, batch);
            }
        }
        Ok(())
    }
}

/// The least key above every key that starts with `prefix`; an empty result means that there is none.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// Collects the records under `prefix`, `limit` at most.
///
/// # Errors
/// As [`View::scan`].
pub fn scan_prefix(view: &(impl View + ?Sized), prefix: &[u8], limit: usize) -> Result<Vec<Record>, KvError> {
    let mut found = Vec::new();
    if limit == 0 {
        return Ok(found);
    }
    view.scan(prefix, &prefix_end(prefix), &mut |key, value| {
        found.push((key.to_vec(), value.to_vec()));
        if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_conforms() {
        conformance::check(&mut MemStore::default);
    }

    #[test]
    fn a_crash_keeps_a_prefix_of_what_was_not_synced() {
        let store = MemStore::default();
        for (name, durability) in
            [("a", Durability::Synced), ("b", Durability::Buffered), ("c", Durability::Buffered)]
        {
            let mut batch = Batch::default();
            batch.put(name.into(), vec![1]);
            store.write(&batch, durability).expect("memory takes writes");
        }
        store.crash(1);
        let keys: Vec<_> = store.dump().into_keys().collect();
        assert_eq!(keys, [b"a".to_vec(), b"b".to_vec()]);
    }

    #[test]
    fn the_end_of_a_prefix_is_above_all_its_keys() {
        assert_eq!(prefix_end(b"ab"), b"ac");
        assert_eq!(prefix_end(b"a\xff\xff"), b"b");
        assert!(prefix_end(b"\xff").is_empty());
    }
}
