//! The store itself: where shards go, how they are found, and how their space comes back.

mod recovery;
mod space;
#[cfg(test)]
mod tests;

use crate::{
    disk::{Disk, SegmentId, Space},
    record::{HEADER_BYTES, Header, block_sums, crc32c, record_bytes},
};
use bytes::Bytes;
use holdfast_core::{
    buffer::BufferPool,
    codec,
    ids::{Epoch, Incarnation, PackId, PgId},
    kv::{Batch, Durability, KvError, Store},
    limits::{BLOCK_BYTES, SHARD_ALIGN, SMALL_SHARD_BYTES},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::ControlFlow,
    sync::{Mutex, MutexGuard, PoisonError},
};
use thiserror::Error;

/// A segment's length. Large enough that opening one is rare, small enough that reading the active one again after a
/// crash takes well under a second.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// Room is taken from the file system in steps of this, so that a little data does not hold a whole segment's space.
const RESERVE_STEP: u64 = 4 << 20;

/// Buffers of shard reads that are kept for the next ones.
const IDLE_READ_BUFFERS: usize = 4;

/// Empty segments that are kept for reuse; more are removed.
const SPARE_SEGMENTS: usize = 1;

/// Names a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId {
    pub pack: PackId,
    pub index: u8,
}

/// What a write is for: the last room of a device is kept for what frees room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteClass {
    /// New data.
    User,
    /// Compaction and repair.
    Maintenance,
}

/// A shard to be stored.
#[derive(Debug, Clone)]
pub struct PutShard {
    pub id: ShardId,
    pub epoch: Epoch,
    pub class: WriteClass,
    /// The caller's wall clock, in milliseconds since 1970.
    pub now_ms: u64,
    /// Zero-copy where aligned to 4 KiB in memory and length.
    pub payload: Bytes,
}

/// Why a shard was not written or read.
#[derive(Debug, Error)]
pub enum ShardError {
    #[error("the device does not have the shard")]
    NotFound,
    #[error("the shard is damaged on the device")]
    Damaged,
    #[error("the shard is of epoch {given}, and the device has seen epoch {seen} of its placement group")]
    StaleEpoch { given: Epoch, seen: Epoch },
    #[error(
        "the device is full: {free} bytes are free, and {reserved} are reserved; add devices or delete data"
    )]
    Full { free: u64, reserved: u64 },
    #[error("the device has another, or a newer one, of that name")]
    Another,
    #[error("the range is outside the shard")]
    Range,
    #[error("the device failed: {0}")]
    Disk(io::Error),
    #[error("the device's index failed: {0}")]
    Index(#[from] KvError),
    #[error("the device cannot be reached: {0}")]
    Unreachable(String),
}

impl From<io::Error> for ShardError {
    fn from(error: io::Error) -> Self {
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if full { Self::Full { free: 0, reserved: 0 } } else { Self::Disk(error) }
    }
}

/// How much room is kept.
#[derive(Debug, Clone, Copy)]
pub struct StoreConfig {
    /// Free bytes below which new data is refused.
    pub reserve_user: u64,
    /// Free bytes below which nothing is written.
    pub reserve_maintenance: u64,
}

impl StoreConfig {
    /// Keeps 5 % of what the store can have, its own bytes and the free ones, between 64 MiB and 64 GiB; a quarter of it
    /// for maintenance alone. On a disk that is shared with others, what they hold does not count: a twentieth of it
    /// could be more than what is left.
    pub fn for_capacity(bytes: u64) -> Self {
        let reserve_user = (bytes / 20).clamp(64 << 20, 64 << 30);
        Self { reserve_user, reserve_maintenance: reserve_user / 4 }
    }
}

/// What opening found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    pub shards: u64,
    /// Records of active segments that the index had lost.
    pub reindexed: u64,
}

/// A device's occupancy in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// In records that the index names.
    pub live: u64,
    /// In segment files, holes not counted.
    pub allocated: u64,
    pub shards: u64,
}

/// A line of a device's inventory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inventory {
    pub id: ShardId,
    /// Bytes.
    pub len: u32,
    pub written_ms: u64,
}

/// Where a shard is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Place {
    Segment {
        segment: SegmentId,
        generation: u64,
        offset: u64,
    },
    /// In the index itself.
    Small(Vec<u8>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Located {
    place: Place,
    len: u32,
    written_ms: u64,
    blocks: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
enum LocatedVersions {
    V1(Located),
}

/// What the index knows of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct SegmentState {
    generation: u64,
    /// Its tail may hold records that the index lost.
    active: bool,
}

#[derive(Serialize, Deserialize)]
enum SegmentVersions {
    V1(SegmentState),
}

fn shard_key(id: ShardId) -> Vec<u8> {
    [b"s".as_slice(), id.pack.as_bytes(), &[id.index]].concat()
}

fn segment_key(segment: SegmentId) -> Vec<u8> {
    [b"g".as_slice(), &segment.0.to_be_bytes()].concat()
}

fn epoch_key(pg: PgId) -> Vec<u8> {
    [b"e".as_slice(), &pg.0.to_be_bytes()].concat()
}

fn decode_located(bytes: &[u8]) -> Result<Located, KvError> {
    let LocatedVersions::V1(located) = codec::decode("a shard's index record", bytes)?;
    Ok(located)
}

fn encode_located(located: Located) -> Vec<u8> {
    codec::encode(&LocatedVersions::V1(located))
}

fn encode_segment(state: SegmentState) -> Vec<u8> {
    codec::encode(&SegmentVersions::V1(state))
}

/// The segment that is being appended to.
#[derive(Debug, Clone, Copy)]
struct Active {
    segment: SegmentId,
    generation: u64,
    end: u64,
    reserved: u64,
}

/// The record of a deleted shard.
#[derive(Debug, Clone, Copy)]
struct Hole {
    segment: SegmentId,
    generation: u64,
    offset: u64,
    len: u64,
}

/// A segment's room, as memory knows it.
#[derive(Debug, Clone, Copy, Default)]
struct Room {
    generation: u64,
    /// Bytes of records that the index names.
    live: u64,
    /// Bytes up to its last record.
    end: u64,
    /// Bytes given back as holes.
    punched: u64,
}

#[derive(Debug, Default)]
struct Allocator {
    active: Option<Active>,
    segments: BTreeMap<SegmentId, Room>,
    spare: BTreeSet<SegmentId>,
    /// Segments that were left while records of the batch at hand were not yet indexed.
    left: Vec<(SegmentId, u64)>,
    /// Segments all of whose records are indexed; the next sync of the index seals them.
    indexed: Vec<(SegmentId, u64)>,
    /// Deleted records whose bytes are still allocated.
    holes: Vec<Hole>,
    epochs: BTreeMap<PgId, Epoch>,
    shards: u64,
    /// Deletions that a crash may still undo.
    deleted: bool,
    /// Written since the last [`ShardStore::maintain`].
    busy: bool,
}

/// The shards of one device.
pub struct ShardStore<D, S> {
    disk: D,
    index: S,
    device: Incarnation,
    config: StoreConfig,
    allocator: Mutex<Allocator>,
    buffers: BufferPool,
}

/// Where each shard of a batch goes.
struct Planned<'a> {
    put: &'a PutShard,
    blocks: Vec<u32>,
    place: Place,
    /// The index must forget the damaged shard before this one is acknowledged.
    replaces: bool,
}

impl<D: Disk, S: Store> ShardStore<D, S> {
    fn allocator(&self) -> MutexGuard<'_, Allocator> {
        self.allocator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locate(&self, id: ShardId) -> Result<Option<Located>, ShardError> {
        Ok(self.index.get(&shard_key(id))?.map(|bytes| decode_located(&bytes)).transpose()?)
    }

    /// Stores shards, all durable when this returns. Each has an answer of its own; a shard that is there already is
    /// acknowledged as it is.
    ///
    /// # Errors
    /// The outer error is a failed sync or index write: the device must not be used again before a restart.
    pub fn put(&self, puts: &[PutShard]) -> Result<Vec<Result<(), ShardError>>, ShardError> {
        let mut allocator = self.allocator();
        allocator.busy = true;
        let mut answers = Vec::with_capacity(puts.len());
        let mut batch = Batch::default();
        let mut planned: BTreeMap<ShardId, Planned<'_>> = BTreeMap::new();
        let mut touched = BTreeSet::new();
        for put in puts {
            let answer = self.plan(&mut allocator, put, &mut batch, &planned);
            answers.push(answer.map(|plan| {
                if let Some(plan) = plan {
                    if let Place::Segment { segment, .. } = plan.place {
                        touched.insert(segment);
                    }
                    planned.insert(put.id, plan);
                }
            }));
        }
        for segment in touched {
            self.disk.sync(segment)?;
        }
        let mut synced = false;
        for (id, plan) in planned {
            synced |= plan.replaces;
            if let Place::Segment { segment, .. } = plan.place {
                let room = allocator.segments.entry(segment).or_default();
                room.live += record_bytes(plan.put.payload.len());
            } else {
                synced = true;
            }
            allocator.shards += 1;
            let located = Located {
                len: plan.put.payload.len() as u32,
                written_ms: plan.put.now_ms,
                blocks: plan.blocks,
                place: plan.place,
            };
            batch.put(shard_key(id), encode_located(located));
        }
        if !batch.is_empty() {
            let durability = if synced { Durability::Synced } else { Durability::Buffered };
            self.index.write(&batch, durability)?;
        }
        let left = std::mem::take(&mut allocator.left);
        allocator.indexed.extend(left);
        Ok(answers)
    }

    /// Checks one shard and writes its record, not yet durable. `None` where the device has it.
    fn plan<'a>(
        &self,
        allocator: &mut Allocator,
        put: &'a PutShard,
        batch: &mut Batch,
        planned: &BTreeMap<ShardId, Planned<'_>>,
    ) -> Result<Option<Planned<'a>>, ShardError> {
        self.fence(allocator, put.id.pack.pg(), put.epoch, batch)?;
        let blocks = block_sums(&put.payload);
        if let Some(other) = planned.get(&put.id) {
            let same = other.put.payload.len() == put.payload.len() && other.blocks == blocks;
            return if same { Ok(None) } else { Err(ShardError::Another) };
        }
        let present = self.locate(put.id)?;
        // A repeated write, unless what is there is damaged: then this one replaces it.
        if let Some(located) = &present
            && self.verify_located(put.id, located).is_ok()
        {
            let same = located.len as usize == put.payload.len() && located.blocks == blocks;
            match (same, put.class) {
                (true, _) => return Ok(None),
                // What was made anew from a whole pack is right, and what has right checksums and differs is not.
                (false, WriteClass::Maintenance) => {}
                (false, WriteClass::User) => return Err(ShardError::Another),
            }
        }
        self.check_room(put)?;
        let place = if put.payload.len() <= SMALL_SHARD_BYTES {
            Place::Small(put.payload.to_vec())
        } else {
            self.append(allocator, put, &blocks)?
        };
        let replaces = present.is_some();
        if let Some(located) = present {
            self.unlink(allocator, put.id, &located, batch);
        }
        Ok(Some(Planned { put, blocks, place, replaces }))
    }

    /// Refuses epochs older than the newest seen, and remembers a newer one with the batch.
    fn fence(
        &self,
        allocator: &mut Allocator,
        pg: PgId,
        given: Epoch,
        batch: &mut Batch,
    ) -> Result<(), ShardError> {
        let seen = allocator.epochs.get(&pg).copied().unwrap_or(Epoch(0));
        if given < seen {
            return Err(ShardError::StaleEpoch { given, seen });
        }
        if given > seen {
            allocator.epochs.insert(pg, given);
            batch.put(epoch_key(pg), given.0.to_be_bytes().to_vec());
        }
        Ok(())
    }

    fn check_room(&self, put: &PutShard) -> Result<(), ShardError> {
        let reserved = match put.class {
            WriteClass::User => self.config.reserve_user,
            WriteClass::Maintenance => self.config.reserve_maintenance,
        };
        let free = self.disk.space()?.free;
        if free < reserved + record_bytes(put.payload.len()) {
            return Err(ShardError::Full { free, reserved });
        }
        Ok(())
    }

    /// Whether new data would be refused for want of room.
    ///
    /// # Errors
    /// Where the file system cannot tell.
    pub fn nearly_full(&self) -> io::Result<bool> {
        Ok(self.disk.space()?.free < self.config.reserve_user + RESERVE_STEP)
    }

    /// Writes a record to the active segment.
    fn append(&self, allocator: &mut Allocator, put: &PutShard, blocks: &[u32]) -> Result<Place, ShardError> {
        let bytes = record_bytes(put.payload.len());
        if bytes > SEGMENT_BYTES {
            return Err(ShardError::Range);
        }
        let mut active = match allocator.active {
            Some(active) if active.end + bytes <= SEGMENT_BYTES => active,
            Some(_) | None => self.open_segment(allocator)?,
        };
        if active.end + bytes > active.reserved {
            let until = (active.end + bytes).next_multiple_of(RESERVE_STEP).min(SEGMENT_BYTES);
            self.disk.reserve(active.segment, active.reserved, until)?;
            active.reserved = until;
        }
        let header = Header {
            device: self.device,
            segment: active.segment,
            generation: active.generation,
            offset: active.end,
            pack: put.id.pack,
            shard: put.id.index,
            epoch: put.epoch,
            written_ms: put.now_ms,
            len: put.payload.len() as u32,
            blocks: blocks.to_vec(),
        };
        let offset = active.end;
        allocator.active = Some(active);
        self.disk.write(active.segment, offset, &[&header.to_page().0, &put.payload])?;
        active.end += bytes;
        allocator.active = Some(active);
        allocator.segments.entry(active.segment).or_default().end = active.end;
        Ok(Place::Segment { segment: active.segment, generation: active.generation, offset })
    }

    /// Leaves the active segment and opens another: a spare one in a new life, or a new one.
    ///
    /// The index is synced with the new generation before the segment's first record is written: whatever the index
    /// still said of an earlier life is gone from then on. The same sync makes durable what the index says of segments
    /// that were left before, which need not be read again after a crash.
    fn open_segment(&self, allocator: &mut Allocator) -> Result<Active, ShardError> {
        let mut batch = Batch::default();
        if let Some(active) = allocator.active.take() {
            self.disk.truncate(active.segment, active.end)?;
            allocator.left.push((active.segment, active.generation));
        }
        for (segment, generation) in std::mem::take(&mut allocator.indexed) {
            let same_life =
                allocator.segments.get(&segment).is_some_and(|room| room.generation == generation);
            if same_life {
                batch.put(segment_key(segment), encode_segment(SegmentState { generation, active: false }));
            }
        }
        let (segment, generation) = match allocator.spare.pop_first() {
            Some(segment) => {
                (segment, allocator.segments.get(&segment).map_or(1, |room| room.generation + 1))
            }
            None => (SegmentId(allocator.segments.last_key_value().map_or(0, |(last, _)| last.0 + 1)), 1),
        };
        batch.put(segment_key(segment), encode_segment(SegmentState { generation, active: true }));
        self.index.write(&batch, Durability::Synced)?;
        allocator.segments.insert(segment, Room { generation, ..Room::default() });
        let active = Active { segment, generation, end: 0, reserved: 0 };
        allocator.active = Some(active);
        Ok(active)
    }

    /// Reads `range` of a shard; every byte returned has been verified.
    ///
    /// # Errors
    /// [`ShardError::Damaged`] where a block does not have its checksum, and what the device says.
    pub fn read(&self, id: ShardId, offset: u32, len: u32) -> Result<Bytes, ShardError> {
        let located = self.locate(id)?.ok_or(ShardError::NotFound)?;
        match self.read_located(&located, offset, len, false) {
            // It may have been deleted, and its segment reused, since it was located.
            Err(ShardError::Damaged) if self.locate(id)?.as_ref() != Some(&located) => {
                Err(ShardError::NotFound)
            }
            other => other,
        }
    }

    fn read_located(
        &self,
        located: &Located,
        offset: u32,
        len: u32,
        medium: bool,
    ) -> Result<Bytes, ShardError> {
        let end = offset.checked_add(len).filter(|&end| end <= located.len).ok_or(ShardError::Range)?;
        let first = offset as usize / BLOCK_BYTES;
        let from = first * BLOCK_BYTES;
        let to = (end as usize).next_multiple_of(BLOCK_BYTES).min(located.len as usize);
        let bytes = match &located.place {
            Place::Small(payload) => {
                Bytes::copy_from_slice(payload.get(from..to).ok_or(ShardError::Damaged)?)
            }
            Place::Segment { segment, offset: at, .. } => {
                let mut buffer = self.buffers.take();
                buffer.grow(to - from);
                let bytes = &mut buffer.as_mut_slice()[..to - from];
                let start = at + (HEADER_BYTES + from) as u64;
                if medium {
                    self.disk.read_medium(*segment, start, bytes)?;
                } else {
                    self.disk.read(*segment, start, bytes)?;
                }
                Bytes::from_owner(buffer).slice(..to - from)
            }
        };
        let sums = located.blocks.get(first..).ok_or(ShardError::Damaged)?;
        let blocks = bytes.chunks(BLOCK_BYTES);
        if blocks.len() > sums.len() || !blocks.zip(sums).all(|(block, sum)| crc32c(block) == *sum) {
            return Err(ShardError::Damaged);
        }
        Ok(bytes.slice(offset as usize - from..end as usize - from))
    }

    /// Reads a whole shard from the medium, header included, and checks it.
    ///
    /// # Errors
    /// As [`ShardStore::read`].
    pub fn verify(&self, id: ShardId) -> Result<(), ShardError> {
        let located = self.locate(id)?.ok_or(ShardError::NotFound)?;
        match self.verify_located(id, &located) {
            Err(ShardError::Damaged) if self.locate(id)?.as_ref() != Some(&located) => {
                Err(ShardError::NotFound)
            }
            other => other,
        }
    }

    fn verify_located(&self, id: ShardId, located: &Located) -> Result<(), ShardError> {
        self.read_located(located, 0, located.len, true)?;
        if let Place::Segment { segment, generation, offset } = located.place {
            let mut page = vec![0; HEADER_BYTES];
            self.disk.read_medium(segment, offset, &mut page)?;
            let header = Header::from_page(&page, self.device, segment, generation, offset)
                .map_err(|_| ShardError::Damaged)?;
            if (header.pack, header.shard, header.len) != (id.pack, id.index, located.len) {
                return Err(ShardError::Damaged);
            }
        }
        Ok(())
    }

    /// Up to `limit` shards above `after`, in the order of packs.
    ///
    /// # Errors
    /// Where the index fails.
    pub fn inventory(&self, after: Option<ShardId>, limit: usize) -> Result<Vec<Inventory>, ShardError> {
        let start = after.map_or(b"s".to_vec(), |id| [shard_key(id), vec![0]].concat());
        let mut found = Vec::new();
        let mut failure = None;
        self.index.scan(&start, b"t", &mut |key, value| {
            match (parse_shard_key(key), decode_located(value)) {
                (Some(id), Ok(located)) => {
                    let Located { len, written_ms, .. } = located;
                    found.push(Inventory { id, len, written_ms });
                }
                (_, Err(error)) => failure = Some(error),
                (None, Ok(_)) => failure = Some(KvError::Storage("a shard's key is too short".to_owned())),
            }
            if found.len() < limit && failure.is_none() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        failure.map_or(Ok(found), |error| Err(error.into()))
    }

    pub fn usage(&self) -> Usage {
        let allocator = self.allocator();
        let rooms = allocator.segments.values();
        Usage {
            live: rooms.clone().map(|room| room.live).sum(),
            allocated: rooms.map(|room| room.end.saturating_sub(room.punched)).sum(),
            shards: allocator.shards,
        }
    }

    /// The disk's room.
    ///
    /// # Errors
    /// Where the file system cannot tell.
    pub fn space(&self) -> io::Result<Space> {
        self.disk.space()
    }

    /// The disk below, for tests that harm it.
    pub fn disk(&self) -> &D {
        &self.disk
    }
}

fn parse_shard_key(key: &[u8]) -> Option<ShardId> {
    let (pack, index) = key.get(1..)?.split_at_checked(PackId::LEN)?;
    let [index] = index else { return None };
    Some(ShardId { pack: PackId::from_slice(pack)?, index: *index })
}

const _: () = assert!(SHARD_ALIGN == HEADER_BYTES && SEGMENT_BYTES.is_multiple_of(RESERVE_STEP));
