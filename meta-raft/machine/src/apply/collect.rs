//! Garbage collection: late, bounded, and never of what a live upload may lean on.
//!
//! An object's bytes become free in two stages, each half of the grace period long, so that the whole is one. First a
//! removed version's segments keep their references, for readers that have resolved them. Then chunks that nothing
//! references stay, for uploads that found them while deduplicating. What became unreferenced since the oldest live
//! lease began is not touched at all.

use super::{Step, Stop, Tx};
use crate::{
    command::{Collected, Outcome, Rejection},
    keys::{self, Table, Unreferenced},
    records::{Chunk, Lease, Record, Segment, SegmentUse},
};
use holdfast_core::{
    ids::{BucketId, ChunkId, DomainId, LeaseId, PackId, SegmentId},
    kv::{View, prefix_end, scan_prefix},
    limits::{COLLECT_STEPS_MAX, REQUEST_WINDOW_MS, TOMBSTONE_MS},
};
use std::ops::ControlFlow;

/// Leases that are looked at: one for each upload in progress that is old enough to hold one.
const LEASES_MAX: usize = 100_000;

impl<V: View + ?Sized> Tx<'_, V> {
    pub(super) fn check_collecting(&self) -> Step<()> {
        match &self.header.collection_stopped {
            Some(reason) => Err(Rejection::CollectionStopped(reason.clone()).into()),
            None => Ok(()),
        }
    }

    pub(super) fn hold_lease(&mut self, id: LeaseId, since_ms: u64, ttl_ms: u64) -> Step<Outcome> {
        let key = keys::lease(id);
        let since_ms = match self.read::<Lease>(&key)? {
            Some(lease) => lease.since_ms,
            None => since_ms,
        };
        let expires_ms = self.now() + ttl_ms;
        self.write(key, &Lease { since_ms, expires_ms });
        Ok(Outcome::Done)
    }

    pub(super) fn collect(&mut self, grace_ms: u64, steps: u32) -> Step<Outcome> {
        self.check_collecting()?;
        let steps = steps.min(COLLECT_STEPS_MAX);
        let mut done = Collected::default();
        self.forget(steps, &mut done)?;
        let before = self.now().saturating_sub(grace_ms / 2);
        let protected = self.oldest_lease()?.unwrap_or(u64::MAX);
        self.release(before, steps, &mut done)?;
        self.condemn(before.min(protected), steps, &mut done)?;
        Ok(Outcome::Collected(done))
    }

    /// Drops the references that removed versions still hold.
    fn release(&mut self, before: u64, steps: u32, done: &mut Collected) -> Step<()> {
        while done.steps < steps {
            let Some(key) = self.first(Table::Release, &keys::release_before(before))? else { break };
            let segment = keys::parse_release(&key)
                .ok_or_else(|| Stop::Inconsistent("a release names no segment".to_owned()))?;
            self.kv.delete(key);
            done.steps += 1;
            let use_key = keys::segment_use(segment);
            let mut usage: SegmentUse = self.read(&use_key)?.ok_or_else(|| {
                Stop::Inconsistent(format!("segment {segment} is released and does not exist"))
            })?;
            let counted = usage.refs > 0;
            if !counted {
                return Err(Stop::Inconsistent(format!(
                    "segment {segment} is released more often than referenced"
                )));
            }
            usage.refs -= 1;
            if usage.refs > 0 {
                self.write(use_key, &usage);
            } else {
                done.steps += self.drop_segment(segment)?;
            }
        }
        Ok(())
    }

    /// Forgets a segment that nothing names; how many chunks it named.
    fn drop_segment(&mut self, id: SegmentId) -> Step<u32> {
        let segment: Segment = self
            .read(&keys::segment(id))?
            .ok_or_else(|| Stop::Inconsistent(format!("segment {id} has references and no chunks")))?;
        for chunk in &segment.chunks {
            self.drop_reference(segment.domain, chunk.id)?;
        }
        self.kv.delete(keys::segment(id));
        self.kv.delete(keys::segment_use(id));
        Ok(segment.chunks.len() as u32)
    }

    fn drop_reference(&mut self, domain: DomainId, id: ChunkId) -> Step<()> {
        let key = keys::chunk(domain, id);
        let mut chunk: Chunk = self
            .read(&key)?
            .ok_or_else(|| Stop::Inconsistent(format!("chunk {id} is referenced and does not exist")))?;
        chunk.refs = chunk.refs.checked_sub(1).ok_or_else(|| {
            Stop::Inconsistent(format!("chunk {id} is released more often than referenced"))
        })?;
        if chunk.refs == 0 {
            let now = self.now();
            chunk.zero_since_ms = Some(now);
            self.kv.put(keys::zero(now, Unreferenced::Chunk(domain, id)), Vec::new());
        }
        self.write(key, &chunk);
        Ok(())
    }

    /// Forgets what nothing has referenced since `before`.
    fn condemn(&mut self, before: u64, steps: u32, done: &mut Collected) -> Step<()> {
        while done.steps < steps {
            let Some(key) = self.first(Table::Zero, &keys::zero_before(before))? else { break };
            let what = keys::parse_zero(&key)
                .ok_or_else(|| Stop::Inconsistent("a queue names nothing".to_owned()))?;
            self.kv.delete(key);
            done.steps += 1;
            match what {
                Unreferenced::Segment(id) => done.steps += self.drop_segment(id)?,
                Unreferenced::Chunk(domain, id) => {
                    let key = keys::chunk(domain, id);
                    let chunk: Chunk = self.read(&key)?.ok_or_else(|| {
                        Stop::Inconsistent(format!("chunk {id} is queued and does not exist"))
                    })?;
                    if chunk.refs > 0 {
                        return Err(Stop::Inconsistent(format!("chunk {id} is queued and referenced")));
                    }
                    self.kv.delete(key);
                    self.leave_pack(chunk.pack, chunk.stored)?;
                    done.chunks_condemned += 1;
                    done.bytes_condemned += u64::from(chunk.stored);
                }
            }
        }
        Ok(())
    }

    /// When the oldest live lease began. Expired ones are forgotten on the way.
    fn oldest_lease(&mut self) -> Step<Option<u64>> {
        let mut oldest = None;
        for (key, value) in scan_prefix(&self.kv, &keys::table(Table::Lease), LEASES_MAX)? {
            let lease = Lease::from_bytes(&value)?;
            if lease.expires_ms <= self.now() {
                self.kv.delete(key);
            } else {
                oldest = Some(oldest.map_or(lease.since_ms, |since: u64| since.min(lease.since_ms)));
            }
        }
        Ok(oldest)
    }

    /// Forgets outcomes, tombstones and journals that can no longer matter.
    fn forget(&mut self, steps: u32, done: &mut Collected) -> Step<()> {
        let limit = steps as usize;
        let end = keys::requests_before(self.now().saturating_sub(REQUEST_WINDOW_MS));
        let mut outdated = self.keys_below(Table::Request, &end, limit)?;
        let end = keys::tombstones_before(self.now().saturating_sub(TOMBSTONE_MS));
        for key in self.keys_below(Table::TombstoneTime, &end, limit)? {
            outdated.extend(keys::tail(&key).map(|id| keys::tombstone(PackId(id))));
            outdated.push(key);
        }
        for (dead, _) in scan_prefix(&self.kv, &keys::table(Table::DeadJournal), 1)? {
            let bucket = keys::tail(&dead).map(|id| BucketId(u64::from_be_bytes(id)));
            let bucket =
                bucket.ok_or_else(|| Stop::Inconsistent("a dead journal names no bucket".to_owned()))?;
            let records = scan_prefix(&self.kv, &keys::journal_of(bucket), limit)?;
            if records.len() < limit {
                outdated.push(dead);
            }
            outdated.extend(records.into_iter().map(|(key, _)| key));
        }
        done.steps += outdated.len() as u32;
        outdated.into_iter().for_each(|key| self.kv.delete(key));
        Ok(())
    }

    /// Up to `limit` keys of `table` that are below `end`.
    fn keys_below(&self, table: Table, end: &[u8], limit: usize) -> Step<Vec<Vec<u8>>> {
        let mut keys = Vec::new();
        self.kv.scan(&keys::table(table), end, &mut |key, _| {
            keys.push(key.to_vec());
            if keys.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(keys)
    }

    /// The first key of `table` that is below `end`.
    fn first(&self, table: Table, end: &[u8]) -> Step<Option<Vec<u8>>> {
        let start = keys::table(table);
        debug_assert!(end <= prefix_end(&start).as_slice(), "the end is in the table");
        let mut first = None;
        self.kv.scan(&start, end, &mut |key, _| {
            first = Some(key.to_vec());
            ControlFlow::Break(())
        })?;
        Ok(first)
    }
}
