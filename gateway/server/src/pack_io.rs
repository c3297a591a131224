//! Carrying out write and read sessions on devices.

use crate::{
    clock::{Stopwatch, unix_ms},
    engine::{EngineError, Shared, new_pack_id},
    placement::{Group, PoolInUse},
};
use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use holdfast_core::{
    ids::{ChunkId, DeviceId, DomainId, Epoch, PackId, PgId},
    pack::Entry,
    profile::Profile,
};
use holdfast_erasure::ErasureCode;
use holdfast_gateway_object::{
    PackBuilder, ReadSession, SealedPack, WriteOutcome, WriteSession, open_chunk, suspects,
};
use holdfast_meta_raft_machine::{
    command::{Command, NewPack, PackChunk, Request},
    records::Pack,
};
use holdfast_storage_node_store::{PutShard, ShardError, ShardId, WriteClass};
use std::sync::Arc;

/// Times that a pack is written again because its placement group changed meanwhile.
const PLACEMENT_RETRIES: usize = 3;

/// What writing the shards of one pack came to.
struct Attempt {
    outcome: WriteOutcome,
    stale: bool,
    full: bool,
}

/// A chunk to be read: where it is, and the pack it is in.
#[derive(Debug, Clone)]
pub struct Located {
    pub entry: Entry,
    pub pack: PackId,
    /// Tells where the pack's shards are.
    pub epoch: Epoch,
    pub shard_len: u32,
    /// Shards known to be missing.
    pub missing: u32,
}

/// What is to be registered of a pack whose shards are durable, but for those `missing`.
fn registration(sealed: &SealedPack, pool: &PoolInUse, epoch: Epoch, missing: u32) -> NewPack {
    let chunk = |entry: &Entry| PackChunk { entry: *entry, moved_from: None };
    NewPack {
        id: sealed.id,
        domain: sealed.domain,
        profile: pool.profile(),
        epoch,
        shard_len: sealed.shard_len,
        missing,
        chunks: sealed.entries.iter().map(chunk).collect(),
    }
}

impl Shared {
    /// Closes a pack, makes its shards durable, and says what is to be registered.
    pub async fn write_pack(
        self: &Arc<Self>,
        builder: PackBuilder,
        domain: DomainId,
        class: WriteClass,
    ) -> Result<NewPack, EngineError> {
        let for_user = class == WriteClass::User;
        if for_user {
            self.config.foreground.served();
        }
        let id = domain.pool();
        let (mut group, mut unavailable) = self.placement.choose(id, for_user).ok_or(EngineError::Full)?;
        let pool = self.placement.pool(id).ok_or(EngineError::Full)?;
        let quorum = pool.profile().write_quorum();
        self.metrics.pack_fill.observe(builder.plain() as f64);
        self.metrics.plain_bytes.inc_by(builder.plain() as u64);
        self.metrics.stored_bytes.inc_by(builder.stored() as u64);
        let mut sealed = builder.seal(new_pack_id(group.id), domain, &pool.code);
        for _ in 0..PLACEMENT_RETRIES {
            let attempt = self.write_shards(&sealed, &pool, &group, unavailable, class).await;
            match attempt.outcome {
                WriteOutcome::Durable { missing } => {
                    return Ok(registration(&sealed, &pool, group.epoch, missing));
                }
                WriteOutcome::Failed { .. } if attempt.stale => {
                    self.placement.refresh().await?;
                    // The pack's name says its group; only the epoch is new.
                    group = self.placement.group(sealed.id.pg()).ok_or(EngineError::Full)?;
                    unavailable = 0;
                }
                WriteOutcome::Failed { durable } => {
                    // Devices failed that seemed to be up. What is known of them now may show a group that is whole enough.
                    let choice = self.placement.choose(id, for_user);
                    let nobody_else = choice.as_ref().is_none_or(|(_, mask)| *mask != 0);
                    let able = |(other, mask): &(Group, u32)| {
                        other.id != group.id && other.devices.len() - mask.count_ones() as usize >= quorum
                    };
                    if let Some((other, mask)) = choice.filter(|choice| !attempt.full && able(choice)) {
                        sealed = self.seal_again(&sealed, &pool, other.id);
                        (group, unavailable) = (other, mask);
                        continue;
                    }
                    let full = attempt.full || (nobody_else && self.placement.is_full(id));
                    return Err(if full {
                        EngineError::Full
                    } else {
                        EngineError::BelowQuorum { durable, quorum }
                    });
                }
            }
        }
        Err(EngineError::BelowQuorum { durable: 0, quorum })
    }

    /// Writes one chunk as a pack of a given name; `None` where that name's placement group does not take it, or, where it
    /// must be `whole`, is not.
    pub async fn write_named(
        self: &Arc<Self>,
        id: PackId,
        domain: DomainId,
        chunk: &[u8],
        whole: bool,
    ) -> Result<Option<NewPack>, EngineError> {
        let Some(group) = self.placement.group(id.pg()) else { return Ok(None) };
        let Some(pool) = self.placement.pool(id.pg().pool()) else { return Ok(None) };
        let unavailable = self.placement.unavailable(&group.devices, false);
        if whole && unavailable != 0 {
            return Ok(None);
        }
        let mut builder = PackBuilder::new(self.buffers.take());
        builder.add(ChunkId::of(chunk), chunk);
        let sealed = builder.seal(id, domain, &pool.code);
        let class = WriteClass::Maintenance;
        let attempt = self.write_shards(&sealed, &pool, &group, unavailable, class).await;
        if attempt.stale {
            self.placement.refresh().await?;
        }
        let WriteOutcome::Durable { missing } = attempt.outcome else { return Ok(None) };
        Ok(Some(registration(&sealed, &pool, group.epoch, missing)))
    }

    /// The same pack for another group. What was written of the first is no pack's, and is removed in time.
    fn seal_again(&self, sealed: &SealedPack, pool: &PoolInUse, group: PgId) -> SealedPack {
        let data: Vec<u8> = sealed.shards[..pool.profile().data()].concat();
        let mut builder = PackBuilder::new(self.buffers.take());
        for entry in &sealed.entries {
            let stored = &data[entry.offset as usize..(entry.offset + entry.stored) as usize];
            builder.add_stored(entry, stored);
        }
        builder.seal(new_pack_id(group), sealed.domain, &pool.code)
    }

    async fn write_shards(
        self: &Arc<Self>,
        sealed: &SealedPack,
        pool: &PoolInUse,
        &Group { ref devices, epoch, .. }: &Group,
        unavailable: u32,
        class: WriteClass,
    ) -> Attempt {
        let watch = Stopwatch::start();
        let config = &self.config;
        let mut session = WriteSession::new(
            pool.profile(),
            unavailable,
            watch.now(),
            config.write_patience,
            config.write_timeout,
        );
        let mut puts = FuturesUnordered::new();
        for (index, payload) in sealed.shards.iter().enumerate().filter(|(i, _)| unavailable >> i & 1 == 0) {
            let Some(device) = self.placement.devices.get(devices[index]) else {
                session.handle_result(index, false);
                continue;
            };
            let id = ShardId { pack: sealed.id, index: index as u8 };
            let shard = PutShard { id, epoch, class, now_ms: unix_ms(), payload: payload.clone() };
            puts.push(async move { (index, device.put(shard).await) });
        }
        let (mut stale, mut full) = (false, false);
        loop {
            let now = watch.now();
            if let Some(outcome) = session.poll_outcome(now) {
                // Late shards go on in the background: what the devices have is reconciled with the metadata later.
                if !puts.is_empty() {
                    tokio::spawn(puts.for_each(|_| std::future::ready(())));
                }
                return Attempt { outcome, stale, full };
            }
            tokio::select! {
                Some((index, result)) = puts.next() => {
                    match &result {
                        Ok(()) => {}
                        Err(ShardError::StaleEpoch { .. }) => stale = true,
                        Err(ShardError::Full { .. }) => full = true,
                        Err(error @ ShardError::Unreachable(_)) => {
                            tracing::debug!(pack = %sealed.id, index, %error, "a shard was not written");
                        }
                        Err(error) => tracing::warn!(pack = %sealed.id, index, %error, "a shard was not written"),
                    }
                    session.handle_result(index, result.is_ok());
                }
                () = tokio::time::sleep_until(watch.instant(session.poll_timeout(now))) => {}
            }
        }
    }

    /// Reads `len` bytes from `offset` of a pack's data, avoiding shards, and which shards gave them.
    async fn read_range(
        self: &Arc<Self>,
        (pack, epoch): (PackId, Epoch),
        shard_len: u32,
        offset: u32,
        len: u32,
        avoid: u32,
    ) -> Result<(Vec<Bytes>, u32), EngineError> {
        let devices = self.placement.devices_of(pack, epoch).await?.ok_or(EngineError::Unreadable(pack))?;
        let code = &self.placement.pool(pack.pg().pool()).ok_or(EngineError::Unreadable(pack))?.code;
        let slow = self.slow_shards(&devices, code.profile(), avoid);
        if slow != 0 {
            let range = (pack, epoch, shard_len, offset, len);
            if let Ok(found) = self.read_range_from(code, &devices, range, avoid | slow).await {
                return Ok(found);
            }
        }
        self.read_range_from(code, &devices, (pack, epoch, shard_len, offset, len), avoid).await
    }

    /// Shards on devices that are late time and again, no more than can be done without.
    fn slow_shards(&self, devices: &[DeviceId], profile: Profile, avoid: u32) -> u32 {
        let now = self.started.now();
        let mut spare = profile.parity().saturating_sub(avoid.count_ones() as usize);
        let mut slow = 0;
        for (shard, device) in devices.iter().enumerate().filter(|(shard, _)| avoid >> shard & 1 == 0) {
            if spare > 0 && self.stragglers.is_one(*device, now) {
                slow |= 1 << shard;
                spare -= 1;
            }
        }
        slow
    }

    async fn read_range_from(
        self: &Arc<Self>,
        code: &ErasureCode,
        devices: &[DeviceId],
        (pack, epoch, shard_len, offset, len): (PackId, Epoch, u32, u32, u32),
        avoid: u32,
    ) -> Result<(Vec<Bytes>, u32), EngineError> {
        let mut session = ReadSession::new(code, shard_len, offset, len, avoid);
        let mut fetches = FuturesUnordered::new();
        let mut damaged = 0u32;
        let mut gone = true;
        let mut late_at: Option<tokio::time::Instant> = None;
        loop {
            while let Some(fetch) = session.poll_fetch() {
                let device = devices.get(fetch.shard).and_then(|device| self.placement.devices.get(*device));
                let patience = self.latency.late_after(fetch.len, self.config.hedge_after);
                fetches.push(async move {
                    let Some(device) = device else { return (fetch, None) };
                    let id = ShardId { pack, index: fetch.shard as u8 };
                    let watch = Stopwatch::start();
                    let read = device.read(id, fetch.offset, fetch.len).await;
                    if read.is_ok() {
                        let taken = watch.now();
                        self.latency.record(fetch.len, taken);
                        if taken < patience {
                            self.stragglers.prompt(devices[fetch.shard]);
                        }
                    }
                    (fetch, Some(read))
                });
                late_at.get_or_insert_with(|| tokio::time::Instant::now() + patience);
            }
            if let Some(result) = session.poll_result() {
                if damaged != 0 {
                    self.report(pack, epoch, damaged);
                }
                return match result {
                    Ok(pieces) => Ok((pieces, session.used())),
                    Err(_) if gone => Err(EngineError::Gone),
                    Err(_) => Err(EngineError::Unreadable(pack)),
                };
            }
            tokio::select! {
                Some((fetch, read)) = fetches.next() => {
                    let bytes = match read {
                        Some(Ok(bytes)) => Some(bytes),
                        Some(Err(ShardError::Damaged | ShardError::NotFound | ShardError::Disk(_))) => {
                            damaged |= 1 << fetch.shard;
                            None
                        }
                        Some(Err(_)) | None => None,
                    };
                    gone &= bytes.is_none();
                    session.handle_fetched(fetch, bytes);
                }
                () = tokio::time::sleep_until(late_at.unwrap_or_else(tokio::time::Instant::now)) => {
                    let late = session.pending().filter_map(|shard| devices.get(shard));
                    late.for_each(|device| self.stragglers.late(*device, self.started.now()));
                    late_at = Some(tokio::time::Instant::now() + self.config.hedge_after);
                    self.metrics.hedged_reads.inc();
                    session.handle_late();
                }
            }
        }
    }

    /// Tells the metadata of shards found bad, without waiting.
    pub fn report(&self, pack: PackId, epoch: Epoch, mask: u32) {
        self.metrics.bad_shards.inc_by(u64::from(mask.count_ones()));
        tracing::warn!(%pack, mask, "shards are missing or damaged: they are read around and will be repaired");
        let report = Command::ReportMissing { shards: vec![(pack, epoch, mask)] };
        let report = self.meta.submit(vec![Request::idempotent(report)]);
        tokio::spawn(async move {
            if let Err(error) = report.await {
                tracing::warn!(%error, "bad shards could not be reported: they are found again later");
            }
        });
    }

    /// Reads chunks that follow one another in one pack; each is verified to be itself.
    ///
    /// # Errors
    /// [`EngineError::Gone`] where the pack is no longer there, [`EngineError::Unreadable`] where too much of it is bad.
    pub async fn read_chunks(self: &Arc<Self>, run: &[Located]) -> Result<Vec<Bytes>, EngineError> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(Vec::new()) };
        self.config.foreground.served();
        let offset = first.entry.offset;
        let len = last.entry.offset + last.entry.stored - offset;
        let read = |avoid| self.read_range((first.pack, first.epoch), first.shard_len, offset, len, avoid);
        let (pieces, used) = match read(first.missing).await {
            Err(EngineError::Unreadable(_)) if first.missing != 0 => read(0).await?,
            other => other?,
        };
        if let Some(chunks) = open_run(run, &pieces) {
            return Ok(chunks);
        }
        // Every block has its checksum, and still a chunk is not itself: a device lies.
        let pool = self.placement.pool(first.pack.pg().pool());
        let parity = pool.map_or(0, |pool| pool.profile().parity());
        for avoid in suspects(used, parity) {
            let Ok((pieces, _)) = read(avoid).await else { continue };
            if let Some(chunks) = open_run(run, &pieces) {
                tracing::error!(pack = %first.pack, mask = avoid, "a device returned wrong bytes with right checksums");
                self.report(first.pack, first.epoch, avoid);
                return Ok(chunks);
            }
        }
        Err(EngineError::Unreadable(first.pack))
    }

    /// All data shards of a pack, as one range, and what its table says of it. Table and chunks are verified, so that a
    /// device that lies is not believed when others are rebuilt from it.
    pub async fn read_pack(
        self: &Arc<Self>,
        id: PackId,
        pack: &Pack,
    ) -> Result<(Bytes, holdfast_core::pack::Contents), EngineError> {
        let len = pack.shard_len * pack.profile.data() as u32;
        let mut avoid_sets = vec![pack.missing];
        if pack.missing != 0 {
            avoid_sets.push(0);
        }
        let mut lied = false;
        for avoid in avoid_sets {
            let Ok((pieces, _)) = self.read_range((id, pack.epoch), pack.shard_len, 0, len, avoid).await
            else {
                continue;
            };
            match whole_pack(id, pieces) {
                Some(found) => return Ok(found),
                None => lied = true,
            }
        }
        // Only where enough could be read, and was wrong, does a device lie: it is found by leaving some out.
        let all = ((1u64 << pack.profile.total()) - 1) as u32;
        for avoid in suspects(all, pack.profile.parity()).into_iter().filter(|_| lied) {
            let Ok((pieces, _)) = self.read_range((id, pack.epoch), pack.shard_len, 0, len, avoid).await
            else {
                continue;
            };
            if let Some(found) = whole_pack(id, pieces) {
                return Ok(found);
            }
        }
        Err(EngineError::Unreadable(id))
    }
}

/// A pack's bytes and its table, where both are what they should be.
pub(crate) fn whole_pack(id: PackId, pieces: Vec<Bytes>) -> Option<(Bytes, holdfast_core::pack::Contents)> {
    let whole = Bytes::from(pieces.concat());
    let footer = &whole[whole.len().checked_sub(holdfast_core::pack::FOOTER_BYTES)?..];
    let tail = holdfast_core::pack::table_bytes(footer).ok()?;
    let table_at = whole.len().checked_sub(tail)?;
    let contents = holdfast_core::pack::contents(&whole[table_at..], whole.len()).ok()?;
    let right = contents.pack == id && contents.entries.iter().all(|entry| is_itself(&whole, entry));
    right.then_some((whole, contents))
}

/// Whether a pack holds the chunk that its table says.
fn is_itself(whole: &Bytes, entry: &Entry) -> bool {
    let stored = whole.slice(entry.offset as usize..(entry.offset + entry.stored) as usize);
    open_chunk(entry.chunk, entry.codec, stored, entry.plain as usize).is_ok()
}

/// Cuts a run's bytes into its chunks and verifies each; `None` where one is not itself.
fn open_run(run: &[Located], pieces: &[Bytes]) -> Option<Vec<Bytes>> {
    let base = run.first()?.entry.offset;
    run.iter()
        .map(|located| {
            let entry = &located.entry;
            let stored = slice(pieces, (entry.offset - base) as usize, entry.stored as usize)?;
            open_chunk(entry.chunk, entry.codec, stored, entry.plain as usize).ok()
        })
        .collect()
}

/// `len` bytes from `offset` of the pieces as a whole: shared where they lie in one piece.
fn slice(pieces: &[Bytes], mut offset: usize, len: usize) -> Option<Bytes> {
    let mut parts = Vec::new();
    let mut left = len;
    for piece in pieces {
        if offset >= piece.len() {
            offset -= piece.len();
            continue;
        }
        let take = left.min(piece.len() - offset);
        parts.push(piece.slice(offset..offset + take));
        offset = 0;
        left -= take;
        if left == 0 {
            break;
        }
    }
    match (left, parts.as_slice()) {
        (0, [one]) => Some(one.clone()),
        (0, _) => Some(Bytes::from(parts.concat())),
        (_, _) => None,
    }
}
