//! Packs, the chunk index and manifest segments: who references what.

use super::{Step, Stop, Tx};
use crate::{
    command::{NewPack, Outcome, PackChunk, Rejection},
    keys::{self, Unreferenced},
    records::{Chunk, ChunkRef, Pack, Pg, Segment, SegmentRef, SegmentUse, Tombstone},
};
use holdfast_core::{
    ids::{DomainId, PackId, SegmentId},
    kv::View,
    limits::{PACK_CHUNKS_MAX, SEGMENT_CHUNKS_MAX},
};

/// A pack is worth compacting from this part of its data being dead, in sixteenths.
const RECLAIM_FROM_SIXTEENTHS: u64 = 2;

impl<V: View + ?Sized> Tx<'_, V> {
    pub(super) fn register_pack(&mut self, new: NewPack) -> Step<Outcome> {
        if self.kv.get(&keys::tombstone(new.id))?.is_some() {
            return Err(Rejection::Tombstoned.into());
        }
        let key = keys::pack(new.id);
        if self.kv.get(&key)?.is_some() {
            return Ok(Outcome::Registered { adopted: 0 });
        }
        let pg: Pg = self.read(&keys::pg(new.id.pg()))?.ok_or(Rejection::NoSuchPg)?;
        if pg.epoch != new.epoch {
            return Err(Rejection::StaleEpoch { given: new.epoch, current: pg.epoch }.into());
        }
        let mut pack = Pack {
            domain: new.domain,
            profile: new.profile,
            epoch: new.epoch,
            shard_len: new.shard_len,
            missing: new.missing & new.profile.mask(),
            entries: 0,
            live: 0,
            data: new.chunks.iter().map(|chunk| u64::from(chunk.entry.stored)).sum(),
        };
        if pg.devices.len() != new.profile.total() || new.chunks.len() > PACK_CHUNKS_MAX {
            return Err(Rejection::Malformed.into());
        }
        // Whoever reads it knows its pool by its name alone.
        let pool = new.id.pg().pool();
        if self.header.cluster_version >= 6
            && (new.domain.pool() != pool || crate::query::profile_of(&self.kv, pool)? != Some(new.profile))
        {
            return Err(Rejection::Malformed.into());
        }
        if pack.present() < new.profile.write_quorum() {
            return Err(Rejection::BelowQuorum.into());
        }
        let mut adopted = 0;
        for chunk in &new.chunks {
            if self.adopt(new.id, new.domain, chunk)? {
                adopted += 1;
                pack.entries += 1;
                pack.live += u64::from(chunk.entry.stored);
            }
        }
        if pack.missing != 0 {
            self.kv.put(keys::degraded(spare(&pack), new.id), Vec::new());
        }
        self.rank(new.id, None, &pack);
        self.write(key, &pack);
        Ok(Outcome::Registered { adopted })
    }

    /// Lets the index find `chunk` in `pack`, unless it knows the chunk elsewhere. Where two uploads bring the same
    /// chunk, the first location wins and the other's bytes are dead.
    fn adopt(&mut self, pack: PackId, domain: DomainId, chunk: &PackChunk) -> Step<bool> {
        let PackChunk { entry, moved_from } = chunk;
        let key = keys::chunk(domain, entry.chunk);
        let known: Option<Chunk> = self.read(&key)?;
        let place = |refs, zero_since_ms| Chunk {
            pack,
            offset: entry.offset,
            stored: entry.stored,
            plain: entry.plain,
            codec: entry.codec,
            refs,
            zero_since_ms,
        };
        match (known, moved_from) {
            // Condemned while it was being moved.
            (None, Some(_)) => Ok(false),
            (None, None) => {
                let now = self.now();
                self.kv.put(keys::zero(now, Unreferenced::Chunk(domain, entry.chunk)), Vec::new());
                self.write(key, &place(0, Some(now)));
                Ok(true)
            }
            (Some(known), Some(from)) if known.pack == *from => {
                self.write(key, &place(known.refs, known.zero_since_ms));
                self.leave_pack(*from, known.stored)?;
                Ok(true)
            }
            (Some(known), Some(_)) => {
                debug_assert!(known.pack != pack, "a chunk is in a pack once");
                Ok(false)
            }
            // What is there cannot be read any more: these bytes are the chunk from now on.
            (Some(known), None) if self.is_lost(known.pack)? => {
                self.write(key, &place(known.refs, known.zero_since_ms));
                self.leave_pack(known.pack, known.stored)?;
                Ok(true)
            }
            // Its uploader leans on it from now on: the grace period begins anew.
            (Some(mut known), None) => {
                if let Some(since) = known.zero_since_ms {
                    let (now, what) = (self.now(), Unreferenced::Chunk(domain, entry.chunk));
                    self.kv.retract(keys::zero(since, what))?;
                    self.kv.put(keys::zero(now, what), Vec::new());
                    known.zero_since_ms = Some(now);
                    self.write(key, &known);
                }
                Ok(false)
            }
        }
    }

    fn is_lost(&self, id: PackId) -> Step<bool> {
        Ok(self.read::<Pack>(&keys::pack(id))?.is_some_and(|pack| pack.is_lost()))
    }

    /// The index no longer finds a chunk of `stored` bytes in `pack`.
    pub(super) fn leave_pack(&mut self, id: PackId, stored: u32) -> Step<()> {
        let key = keys::pack(id);
        let before: Pack = self
            .read(&key)?
            .ok_or_else(|| Stop::Inconsistent(format!("the index names pack {id}, which does not exist")))?;
        let mut after = before.clone();
        let enough = after.entries > 0 && after.live >= u64::from(stored);
        if !enough {
            return Err(Stop::Inconsistent(format!(
                "pack {id} holds fewer chunks than the index finds in it"
            )));
        }
        after.entries -= 1;
        after.live -= u64::from(stored);
        self.rank(id, Some(&before), &after);
        self.write(key, &after);
        Ok(())
    }

    /// Keeps the pack's place among those worth compacting.
    fn rank(&mut self, id: PackId, before: Option<&Pack>, after: &Pack) {
        let (old, new) = (before.and_then(reclaim_level), reclaim_level(after));
        if old == new {
            return;
        }
        if let Some(level) = old {
            self.kv.delete(keys::reclaim(level, id));
        }
        if let Some(level) = new {
            self.kv.put(keys::reclaim(level, id), Vec::new());
        }
    }

    pub(super) fn register_segment(
        &mut self,
        id: SegmentId,
        domain: DomainId,
        chunks: Vec<ChunkRef>,
    ) -> Step<Outcome> {
        let key = keys::segment(id);
        if self.kv.get(&key)?.is_some() {
            return Ok(Outcome::Done);
        }
        if chunks.is_empty() || chunks.len() > SEGMENT_CHUNKS_MAX {
            return Err(Rejection::Malformed.into());
        }
        for chunk in &chunks {
            let chunk_key = keys::chunk(domain, chunk.id);
            let mut record: Chunk = self.read(&chunk_key)?.ok_or(Rejection::ChunkGone(chunk.id))?;
            if record.plain != chunk.plain {
                return Err(Rejection::Malformed.into());
            }
            record.refs += 1;
            if let Some(since) = record.zero_since_ms.take() {
                self.kv.retract(keys::zero(since, Unreferenced::Chunk(domain, chunk.id)))?;
            }
            self.write(chunk_key, &record);
        }
        let now = self.now();
        self.write(key, &Segment { domain, chunks });
        self.write(keys::segment_use(id), &SegmentUse { refs: 0, zero_since_ms: Some(now) });
        self.kv.put(keys::zero(now, Unreferenced::Segment(id)), Vec::new());
        Ok(Outcome::Done)
    }

    /// Counts one more version or part that names `segments`.
    pub(super) fn reference(&mut self, segments: &[SegmentRef]) -> Step<()> {
        for segment in segments {
            let key = keys::segment_use(segment.id);
            let mut usage: SegmentUse = self.read(&key)?.ok_or(Rejection::SegmentGone)?;
            usage.refs += 1;
            if let Some(since) = usage.zero_since_ms.take() {
                self.kv.retract(keys::zero(since, Unreferenced::Segment(segment.id)))?;
            }
            self.write(key, &usage);
        }
        Ok(())
    }

    pub(super) fn delete_packs(&mut self, packs: &[PackId]) -> Step<Outcome> {
        self.check_collecting()?;
        for &id in packs {
            let Some(pack) = self.read::<Pack>(&keys::pack(id))? else { continue };
            if pack.entries > 0 {
                return Err(Rejection::PackInUse.into());
            }
            if let Some(level) = reclaim_level(&pack) {
                self.kv.delete(keys::reclaim(level, id));
            }
            if pack.missing != 0 {
                self.kv.delete(keys::degraded(spare(&pack), id));
            }
            self.kv.delete(keys::pack(id));
            let since_ms = self.now();
            self.write(keys::tombstone(id), &Tombstone { since_ms });
            self.kv.put(keys::tombstone_time(since_ms, id), Vec::new());
        }
        Ok(Outcome::Done)
    }

    pub(super) fn tombstone_packs(&mut self, packs: &[PackId]) -> Step<Outcome> {
        self.check_collecting()?;
        for &id in packs {
            if self.kv.get(&keys::pack(id))?.is_some() {
                return Err(Rejection::PackInUse.into());
            }
            if self.kv.get(&keys::tombstone(id))?.is_some() {
                continue;
            }
            let since_ms = self.now();
            self.write(keys::tombstone(id), &Tombstone { since_ms });
            self.kv.put(keys::tombstone_time(since_ms, id), Vec::new());
        }
        Ok(Outcome::Done)
    }
}

/// How many more shards the pack can lose.
pub(super) fn spare(pack: &Pack) -> u8 {
    pack.present().saturating_sub(pack.profile.data()) as u8
}

/// The pack's rank among those to compact, the emptiest at 0; `None` where it is not worth it.
fn reclaim_level(pack: &Pack) -> Option<u8> {
    if pack.entries == 0 {
        return Some(0);
    }
    let dead = (pack.data - pack.live) * 16 / pack.data.max(1);
    (dead >= RECLAIM_FROM_SIXTEENTHS).then(|| (16 - dead.min(15)) as u8)
}
