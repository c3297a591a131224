//! Writes in progress over a view: what a command sees of the commands before it in the same batch.

use super::{Batch, KvError, View, Visit};
use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
};

/// What an overlay said of a key: nothing, that it is deleted, or its value.
type Before = Option<Option<Vec<u8>>>;

/// A view with uncommitted writes on top, which can be taken as one [`Batch`].
///
/// Writes of one command can be marked and rolled back, so that a rejected command leaves nothing behind.
pub struct Overlay<'a, V: ?Sized> {
    base: &'a V,
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// What each key overwritten since the mark held in `writes` before.
    undo: Vec<(Vec<u8>, Before)>,
}

impl<'a, V: View + ?Sized> Overlay<'a, V> {
    pub fn new(base: &'a V) -> Self {
        Self { base, writes: BTreeMap::new(), undo: Vec::new() }
    }

    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.set(key, Some(value));
    }

    pub fn delete(&mut self, key: Vec<u8>) {
        self.set(key, None);
    }

    /// Deletes a key. Where it was written in this overlay and the base does not have it, the store below never sees
    /// either.
    ///
    /// # Errors
    /// Where the base cannot be read.
    pub fn retract(&mut self, key: Vec<u8>) -> Result<(), KvError> {
        if self.writes.contains_key(&key)
            && self.base.get(&key)?.is_none()
            && let Some(before) = self.writes.remove(&key)
        {
            self.undo.push((key, Some(before)));
        } else {
            self.set(key, None);
        }
        Ok(())
    }

    fn set(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        let before = self.writes.insert(key.clone(), value);
        self.undo.push((key, before));
    }

    /// From here on, [`Overlay::rollback`] undoes.
    pub fn mark(&mut self) {
        self.undo.clear();
    }

    /// Undoes every write since the mark.
    pub fn rollback(&mut self) {
        while let Some((key, before)) = self.undo.pop() {
            match before {
                Some(value) => self.writes.insert(key, value),
                None => self.writes.remove(&key),
            };
        }
    }

    /// The writes so far, in key order; `None` deletes.
    pub fn writes(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.writes.iter().map(|(key, value)| (key.as_slice(), value.as_deref()))
    }

    /// The writes, as one atomic batch.
    pub fn into_batch(self) -> Batch {
        Batch { writes: self.writes }
    }
}

impl<V: View + ?Sized> View for Overlay<'_, V> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        match self.writes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: Visit<'_>) -> Result<(), KvError> {
        if start >= end {
            return Ok(());
        }
        let mut above =
            self.writes.range::<[u8], _>((Bound::Included(start), Bound::Excluded(end))).peekable();
        let mut stopped = false;
        self.base.scan(start, end, &mut |key, value| {
            // Writes that sort before this record of the base come first.
            while let Some((over, written)) = above.next_if(|(over, _)| over.as_slice() < key) {
                if let Some(written) = written
                    && visit(over, written).is_break()
                {
                    stopped = true;
                    return ControlFlow::Break(());
                }
            }
            let shown = match above.next_if(|(over, _)| over.as_slice() == key) {
                Some((_, Some(written))) => visit(key, written),
                Some((_, None)) => ControlFlow::Continue(()),
                None => visit(key, value),
            };
            stopped = shown.is_break();
            shown
        })?;
        if stopped {
            return Ok(());
        }
        for (over, written) in above {
            if let Some(written) = written
                && visit(over, written).is_break()
            {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{Durability, MemStore, Store, scan_prefix};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_overlay_reads_like_the_store_after_its_batch(
            base in proptest::collection::btree_map(0u8..24, any::<u8>(), 0..16),
            writes in proptest::collection::vec((0u8..24, any::<Option<u8>>()), 0..16),
            limit in 0usize..20,
        ) {
            let store = MemStore::default();
            let mut batch = Batch::default();
            for (key, value) in base {
                batch.put(vec![1, key], vec![value]);
            }
            store.write(&batch, Durability::Buffered).expect("memory takes writes");
            let mut overlay = Overlay::new(&store);
            for (key, value) in writes {
                match value {
                    Some(value) => overlay.put(vec![1, key], vec![value]),
                    None => overlay.delete(vec![1, key]),
                }
            }
            let before = scan_prefix(&overlay, &[1], limit).expect("memory scans");
            overlay.mark();
            overlay.put(vec![1, 3], vec![9]);
            overlay.delete(vec![1, 4]);
            overlay.rollback();
            prop_assert_eq!(&before, &scan_prefix(&overlay, &[1], limit).expect("memory scans"));
            store.write(&overlay.into_batch(), Durability::Buffered).expect("memory takes writes");
            prop_assert_eq!(before, scan_prefix(&store, &[1], limit).expect("memory scans"));
        }
    }
}
