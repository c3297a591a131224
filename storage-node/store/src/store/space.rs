//! How space comes back: deleted shards leave holes, and empty segments are used again or removed.

use super::{
    Allocator, Hole, Located, Place, SPARE_SEGMENTS, ShardError, ShardId, ShardStore, segment_key, shard_key,
};
use crate::{
    disk::{Disk, SegmentId},
    record::record_bytes,
};
use holdfast_core::kv::{Batch, Durability, Store};

impl<D: Disk, S: Store> ShardStore<D, S> {
    /// Forgets shards. A crash may bring them back until [`ShardStore::maintain`], which also gives their space back.
    ///
    /// # Errors
    /// Where the index fails.
    pub fn delete(&self, ids: &[ShardId]) -> Result<(), ShardError> {
        let mut allocator = self.allocator();
        let mut batch = Batch::default();
        for &id in ids {
            if let Some(located) = self.locate(id)? {
                self.unlink(&mut allocator, id, &located, &mut batch);
            }
        }
        if !batch.is_empty() {
            self.index.write(&batch, Durability::Buffered)?;
        }
        Ok(())
    }

    pub(super) fn unlink(
        &self,
        allocator: &mut Allocator,
        id: ShardId,
        located: &Located,
        batch: &mut Batch,
    ) {
        batch.delete(shard_key(id));
        allocator.deleted = true;
        allocator.shards = allocator.shards.saturating_sub(1);
        if let Place::Segment { segment, generation, offset } = located.place {
            let len = record_bytes(located.len as usize);
            let room = allocator.segments.entry(segment).or_default();
            room.live = room.live.saturating_sub(len);
            allocator.holes.push(Hole { segment, generation, offset, len });
        }
    }

    /// Gives the space of deleted shards back to the file system: empty segments are kept for reuse or removed, others
    /// get holes. An idle active segment that is partly dead is sealed first.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn maintain(&self) -> Result<(), ShardError> {
        let mut allocator = self.allocator();
        let idle = !std::mem::replace(&mut allocator.busy, false);
        if idle {
            self.settle_active(&mut allocator)?;
            while let Some(spare) = allocator.spare.pop_first() {
                self.remove_segment(&mut allocator, spare)?;
            }
        }
        if !std::mem::replace(&mut allocator.deleted, false) && allocator.holes.is_empty() {
            return Ok(());
        }
        // From here on a crash cannot bring back what is about to be overwritten by holes.
        self.index.write(&Batch::default(), Durability::Synced)?;
        let active = allocator.active.map(|active| active.segment);
        while let Some(hole) = allocator.holes.last().copied() {
            self.give_back(&mut allocator, hole, active, idle)?;
            allocator.holes.pop();
        }
        Ok(())
    }

    fn give_back(
        &self,
        allocator: &mut Allocator,
        hole: Hole,
        active: Option<SegmentId>,
        idle: bool,
    ) -> Result<(), ShardError> {
        let spares = allocator.spare.len();
        let Some(room) = allocator.segments.get_mut(&hole.segment) else { return Ok(()) };
        if room.generation != hole.generation {
            return Ok(());
        }
        if room.live == 0 && Some(hole.segment) != active {
            let reusable = room.punched == 0 && !idle && spares < SPARE_SEGMENTS;
            return self.free_segment(allocator, hole.segment, reusable);
        }
        room.punched += hole.len;
        Ok(self.disk.punch(hole.segment, hole.offset, hole.len)?)
    }

    /// Cuts the idle active segment off behind its records; where a quarter of it is dead, ends its life.
    fn settle_active(&self, allocator: &mut Allocator) -> Result<(), ShardError> {
        let Some(mut active) = allocator.active else { return Ok(()) };
        let room = allocator.segments.get(&active.segment).copied().unwrap_or_default();
        if active.reserved > active.end {
            self.disk.truncate(active.segment, active.end)?;
            active.reserved = active.end;
            allocator.active = Some(active);
        }
        if room.live < active.end - active.end / 4 {
            allocator.active = None;
            allocator.indexed.push((active.segment, active.generation));
            if room.live == 0 {
                self.remove_segment(allocator, active.segment)?;
            }
        }
        Ok(())
    }

    /// An empty segment becomes a spare one, or goes.
    fn free_segment(
        &self,
        allocator: &mut Allocator,
        segment: SegmentId,
        reusable: bool,
    ) -> Result<(), ShardError> {
        if allocator.spare.contains(&segment) {
            return Ok(());
        }
        if !reusable {
            return self.remove_segment(allocator, segment);
        }
        allocator.segments.entry(segment).or_default().end = 0;
        allocator.spare.insert(segment);
        Ok(())
    }

    pub(super) fn remove_segment(
        &self,
        allocator: &mut Allocator,
        segment: SegmentId,
    ) -> Result<(), ShardError> {
        allocator.segments.remove(&segment);
        let mut batch = Batch::default();
        batch.delete(segment_key(segment));
        // Synced: after a crash the file's number may be used again, in a generation that must not be known yet.
        self.index.write(&batch, Durability::Synced)?;
        Ok(self.disk.remove(segment)?)
    }
}
