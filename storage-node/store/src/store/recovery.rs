//! Opening a store: what the index may have lost is read again from the active segments.

use super::{
    Allocator, IDLE_READ_BUFFERS, Located, Place, Recovered, Room, SegmentState, SegmentVersions, ShardError,
    ShardId, ShardStore, StoreConfig, decode_located, encode_located, encode_segment, segment_key, shard_key,
};
use crate::{
    disk::{Disk, SegmentId},
    record::{HEADER_BYTES, Header, block_sums},
    store::{SEGMENT_BYTES, record_bytes},
};
use holdfast_core::{
    buffer::BufferPool,
    codec,
    ids::{Epoch, Incarnation, PgId},
    kv::{Batch, Durability, KvError, Store, prefix_end, scan_prefix},
};
use std::{collections::BTreeMap, ops::ControlFlow, sync::Mutex};

impl<D: Disk, S: Store> ShardStore<D, S> {
    /// Opens the shards of `device`. The caller knows that disk and index belong to it.
    ///
    /// # Errors
    /// Where the index is damaged or the disk fails.
    pub fn open(
        disk: D,
        index: S,
        device: Incarnation,
        config: StoreConfig,
    ) -> Result<(Self, Recovered), ShardError> {
        let buffers = BufferPool::new(IDLE_READ_BUFFERS);
        let store =
            Self { disk, index, device, config, allocator: Mutex::new(Allocator::default()), buffers };
        let mut allocator = Allocator { epochs: store.load_epochs()?, ..Allocator::default() };
        let known = store.load_segments()?;
        let reindexed = store.reindex(&known)?;
        for (&segment, state) in &known {
            allocator.segments.insert(segment, Room { generation: state.generation, ..Room::default() });
        }
        store.count(&mut allocator)?;
        store.drop_strays(&mut allocator)?;
        let shards = allocator.shards;
        Ok((Self { allocator: Mutex::new(allocator), ..store }, Recovered { shards, reindexed }))
    }

    /// As [`ShardStore::open`], with an empty index that is made anew from the segments. Small shards, which were in the
    /// lost index, are missing then.
    ///
    /// # Errors
    /// As [`ShardStore::open`].
    pub fn rebuild(
        disk: D,
        index: S,
        device: Incarnation,
        config: StoreConfig,
    ) -> Result<(Self, Recovered), ShardError> {
        let mut batch = Batch::default();
        for segment in disk.segments()? {
            if let Some(generation) = newest_generation(&disk, device, segment)? {
                batch.put(segment_key(segment), encode_segment(SegmentState { generation, active: true }));
            }
        }
        index.write(&batch, Durability::Synced)?;
        Self::open(disk, index, device, config)
    }

    fn load_epochs(&self) -> Result<BTreeMap<PgId, Epoch>, ShardError> {
        let mut epochs = BTreeMap::new();
        for (key, value) in scan_prefix(&self.index, b"e", usize::MAX)? {
            let pg = key.get(1..).and_then(|pg| Some(PgId(u32::from_be_bytes(pg.try_into().ok()?))));
            let epoch = value.as_slice().try_into().ok().map(|epoch| Epoch(u64::from_be_bytes(epoch)));
            let (Some(pg), Some(epoch)) = (pg, epoch) else {
                return Err(KvError::Storage("an epoch's record is damaged".to_owned()).into());
            };
            epochs.insert(pg, epoch);
        }
        Ok(epochs)
    }

    fn load_segments(&self) -> Result<BTreeMap<SegmentId, SegmentState>, ShardError> {
        let mut segments = BTreeMap::new();
        for (key, value) in scan_prefix(&self.index, b"g", usize::MAX)? {
            let number = key.get(1..).and_then(|number| Some(u32::from_be_bytes(number.try_into().ok()?)));
            let segment = number.ok_or_else(|| KvError::Storage("a segment's key is damaged".to_owned()))?;
            let SegmentVersions::V1(state) =
                codec::decode("a segment's record", &value).map_err(KvError::from)?;
            segments.insert(SegmentId(segment), state);
        }
        Ok(segments)
    }

    /// Indexes the records of active segments that the index does not have; then all are sealed, durably.
    fn reindex(&self, known: &BTreeMap<SegmentId, SegmentState>) -> Result<u64, ShardError> {
        let existing = self.disk.segments()?;
        let mut batch = Batch::default();
        let mut reindexed = 0;
        for (&segment, state) in known.iter().filter(|(_, state)| state.active) {
            if existing.contains(&segment) {
                reindexed += self.reindex_segment(segment, state.generation, &mut batch)?;
            }
            batch.put(segment_key(segment), encode_segment(SegmentState { active: false, ..*state }));
        }
        if !batch.is_empty() {
            self.index.write(&batch, Durability::Synced)?;
        }
        Ok(reindexed)
    }

    fn reindex_segment(
        &self,
        segment: SegmentId,
        generation: u64,
        batch: &mut Batch,
    ) -> Result<u64, ShardError> {
        let mut reindexed = 0;
        let mut page = vec![0; HEADER_BYTES];
        let mut offset = 0;
        while offset + HEADER_BYTES as u64 <= SEGMENT_BYTES {
            self.disk.read(segment, offset, &mut page)?;
            let Ok(header) = Header::from_page(&page, self.device, segment, generation, offset) else {
                // Torn, damaged, or never written: what follows may still be whole, and says itself that it belongs here.
                offset += HEADER_BYTES as u64;
                continue;
            };
            offset += header.record_bytes();
            let id = ShardId { pack: header.pack, index: header.shard };
            if self.locate(id)?.is_none() && self.payload_is_whole(&header)? {
                let place = Place::Segment { segment, generation, offset: header.offset };
                let located =
                    Located { place, len: header.len, written_ms: header.written_ms, blocks: header.blocks };
                batch.put(shard_key(id), encode_located(located));
                reindexed += 1;
            }
        }
        Ok(reindexed)
    }

    fn payload_is_whole(&self, header: &Header) -> Result<bool, ShardError> {
        let mut payload = vec![0; header.len as usize];
        self.disk.read(header.segment, header.offset + HEADER_BYTES as u64, &mut payload)?;
        Ok(block_sums(&payload) == header.blocks)
    }

    /// Counts what the index names, segment by segment.
    fn count(&self, allocator: &mut Allocator) -> Result<(), ShardError> {
        let mut failure = None;
        self.index.scan(b"s", &prefix_end(b"s"), &mut |_, value| match decode_located(value) {
            Ok(located) => {
                allocator.shards += 1;
                if let Place::Segment { segment, offset, .. } = located.place {
                    let bytes = record_bytes(located.len as usize);
                    let room = allocator.segments.entry(segment).or_default();
                    room.live += bytes;
                    room.end = room.end.max(offset + bytes);
                }
                ControlFlow::Continue(())
            }
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        })?;
        failure.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Removes segment files that the index does not know, and empty ones.
    fn drop_strays(&self, allocator: &mut Allocator) -> Result<(), ShardError> {
        for segment in self.disk.segments()? {
            if allocator.segments.get(&segment).is_none_or(|room| room.live == 0) {
                self.disk.remove(segment)?;
            }
        }
        let mut batch = Batch::default();
        for segment in
            allocator.segments.iter().filter(|(_, room)| room.live == 0).map(|(segment, _)| *segment)
        {
            batch.delete(segment_key(segment));
        }
        allocator.segments.retain(|_, room| room.live > 0);
        if !batch.is_empty() {
            self.index.write(&batch, Durability::Synced)?;
        }
        Ok(())
    }
}

/// The newest generation of which a segment has a whole header. What an older one left behind it is not live.
fn newest_generation<D: Disk>(
    disk: &D,
    device: Incarnation,
    segment: SegmentId,
) -> Result<Option<u64>, ShardError> {
    let mut newest = None;
    let mut page = vec![0; HEADER_BYTES];
    for offset in (0..SEGMENT_BYTES).step_by(HEADER_BYTES) {
        disk.read(segment, offset, &mut page)?;
        newest = newest.max(Header::generation_of(&page, device, segment, offset));
    }
    Ok(newest)
}
