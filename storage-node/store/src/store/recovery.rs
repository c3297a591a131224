//! Opening a store: what the index may have lost is read again from the active segments.

use super::{
    Allocator, Hole, IDLE_READ_BUFFERS, Located, Place, Recovered, Room, SegmentState, SegmentVersions,
    ShardError, ShardId, ShardStore, StoreConfig, decode_located, encode_located, encode_segment, epoch_key,
    segment_key, shard_key,
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

/// The key that an index has from its making on.
const BUILT: &[u8] = b"built";

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
        let mut known = store.load_segments()?;
        store.adopt_strays(&mut known)?;
        let reindexed = store.reindex(&known)?;
        let mut allocator = Allocator { epochs: store.load_epochs()?, ..Allocator::default() };
        for (&segment, state) in &known {
            allocator.segments.insert(segment, Room { generation: state.generation, ..Room::default() });
        }
        store.count(&mut allocator)?;
        store.drop_empty(&mut allocator)?;
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
        // Until this is durable, the index is not one: a rebuild that was interrupted begins again.
        batch.put(BUILT.to_vec(), Vec::new());
        for segment in disk.segments()? {
            if let Some(generation) = newest_generation(&disk, device, segment)? {
                batch.put(segment_key(segment), encode_segment(SegmentState { generation, active: true }));
            }
        }
        index.write(&batch, Durability::Synced)?;
        Self::open(disk, index, device, config)
    }

    /// Whether an index was made by [`ShardStore::rebuild`], to its end. Any other must not be opened.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn is_built(index: &S) -> Result<bool, KvError> {
        Ok(index.get(BUILT)?.is_some())
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
            let unreadable = self.disk.read(segment, offset, &mut page).is_err();
            let header = Header::from_page(&page, self.device, segment, generation, offset);
            let Some(header) = header.ok().filter(|_| !unreadable) else {
                // Torn, damaged, or never written: what follows may still be whole, and says itself that it belongs here.
                offset += HEADER_BYTES as u64;
                continue;
            };
            offset += header.record_bytes();
            let id = ShardId { pack: header.pack, index: header.shard };
            self.raise_epoch(&header, batch)?;
            if self.locate(id)?.is_none() && self.payload_is_whole(&header) {
                let place = Place::Segment { segment, generation, offset: header.offset };
                let located =
                    Located { place, len: header.len, written_ms: header.written_ms, blocks: header.blocks };
                batch.put(shard_key(id), encode_located(located));
                reindexed += 1;
            }
        }
        Ok(reindexed)
    }

    fn payload_is_whole(&self, header: &Header) -> bool {
        let mut payload = vec![0; header.len as usize];
        let read = self.disk.read(header.segment, header.offset + HEADER_BYTES as u64, &mut payload);
        read.is_ok() && block_sums(&payload) == header.blocks
    }

    /// A record's epoch was seen, even where the index lost that it was.
    fn raise_epoch(&self, header: &Header, batch: &mut Batch) -> Result<(), ShardError> {
        let key = epoch_key(header.pack.pg());
        let newest = batch
            .iter()
            .find(|(other, _)| *other == key.as_slice())
            .and_then(|(_, value)| value.map(<[u8]>::to_vec));
        let known = match newest {
            Some(value) => Some(value),
            None => self.index.get(&key)?,
        };
        let value = header.epoch.0.to_be_bytes();
        if known.is_none_or(|known| known.as_slice() < value.as_slice()) {
            batch.put(key, value.to_vec());
        }
        Ok(())
    }

    /// Counts what the index names, segment by segment; what lies between is given back.
    fn count(&self, allocator: &mut Allocator) -> Result<(), ShardError> {
        let mut extents: BTreeMap<SegmentId, Vec<(u64, u64)>> = BTreeMap::new();
        let mut failure = None;
        self.index.scan(b"s", &prefix_end(b"s"), &mut |_, value| match decode_located(value) {
            Ok(located) => {
                allocator.shards += 1;
                if let Place::Segment { segment, offset, .. } = located.place {
                    let len = record_bytes(located.len as usize);
                    extents.entry(segment).or_default().push((offset, offset + len));
                }
                ControlFlow::Continue(())
            }
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        })?;
        if let Some(error) = failure {
            return Err(error.into());
        }
        for (segment, mut records) in extents {
            records.sort_unstable();
            let room = allocator.segments.entry(segment).or_default();
            let generation = room.generation;
            for (offset, end) in records {
                if offset > room.end {
                    let len = offset - room.end;
                    allocator.holes.push(Hole { segment, generation, offset: room.end, len });
                }
                room.live += end - offset;
                room.end = room.end.max(end);
            }
        }
        Ok(())
    }

    /// Takes in segments that the index does not know, though they hold records: the index lost them. What is no longer
    /// needed of them is found by comparing inventories.
    fn adopt_strays(&self, known: &mut BTreeMap<SegmentId, SegmentState>) -> Result<(), ShardError> {
        for segment in self.disk.segments()? {
            if !known.contains_key(&segment)
                && let Some(generation) = newest_generation(&self.disk, self.device, segment)?
            {
                known.insert(segment, SegmentState { generation, active: true });
            }
        }
        Ok(())
    }

    /// Removes segments in which nothing is.
    fn drop_empty(&self, allocator: &mut Allocator) -> Result<(), ShardError> {
        let empty: Vec<SegmentId> = allocator
            .segments
            .iter()
            .filter(|(_, room)| room.live == 0)
            .map(|(segment, _)| *segment)
            .collect();
        for segment in empty {
            self.remove_segment(allocator, segment)?;
        }
        for segment in self.disk.segments()? {
            match allocator.segments.get(&segment) {
                // What was reserved and not written is given back.
                Some(room) => self.disk.truncate(segment, room.end)?,
                None => self.disk.remove(segment)?,
            }
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
        if disk.read(segment, offset, &mut page).is_err() {
            continue;
        }
        newest = newest.max(Header::generation_of(&page, device, segment, offset));
    }
    Ok(newest)
}
