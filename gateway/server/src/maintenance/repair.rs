//! Writing missing shards again, the most endangered packs first.

use super::Maintenance;
use crate::{
    clock::unix_ms,
    engine::{EngineError, Shared},
};
use bytes::Bytes;
use futures::TryStreamExt;
use holdfast_core::ids::{Epoch, PackId};
use holdfast_meta_raft_machine::{
    ask::{DegradedPacks, PackOf},
    command::{Command, Outcome, Rejection, Request},
    records::{Job, Pack},
};
use holdfast_storage_node_server::DeviceAccess;
use holdfast_storage_node_store::{PutShard, ShardError, ShardId, WriteClass};
use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// Packs that are looked at together.
const STEP: u32 = 256;

/// How often it is looked again which packs are the most endangered.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Packs that are remembered as tried in vain.
const LATER_MAX: usize = 100_000;

/// Packs that are repaired at once.
const AT_ONCE: usize = 4;

/// After a vain try, a pack waits for so long.
const LATER: Duration = Duration::from_secs(5);

impl Maintenance {
    pub(super) async fn repair_some(self) -> Result<(), EngineError> {
        self.later().retain(|_, at| *at > Instant::now());
        let (mut after, mut began) = (None, Instant::now());
        loop {
            let degraded = self.engine.meta().ask(DegradedPacks { after, limit: STEP }).await?;
            if after.is_none() {
                self.engine.metrics().degraded_packs.set(degraded.len() as i64);
            }
            if !degraded.is_empty() {
                // What was paused before any of these was found is known here, whichever host found it.
                self.clone().follow_settings().await?;
            }
            let mine = degraded.iter().map(|(_, pack)| *pack).filter(|pack| self.is_due(*pack));
            let repaired = futures::stream::iter(mine.collect::<Vec<PackId>>().into_iter().map(Ok));
            repaired.try_for_each_concurrent(AT_ONCE, async |pack| self.repair_or_later(pack).await).await?;
            if self.upkeep.is_paused(Job::Rebuild) {
                return Ok(());
            }
            after = match degraded.last() {
                // What became more endangered meanwhile is before all that is left.
                Some(_) if began.elapsed() > LOOK_AGAIN => {
                    began = Instant::now();
                    None
                }
                Some(last) if degraded.len() == STEP as usize => Some(*last),
                Some(_) | None => return Ok(()),
            };
        }
    }

    /// Whether this process repairs a pack, and has not just tried in vain.
    fn is_due(&self, pack: PackId) -> bool {
        self.engine.shared.placement.is_mine(pack.pg()) && !self.later().contains_key(&pack)
    }

    /// Repairs a pack; one that cannot be is left alone for a while.
    async fn repair_or_later(&self, pack: PackId) -> Result<(), EngineError> {
        if self.upkeep.is_paused(Job::Rebuild) {
            return Ok(());
        }
        let in_vain = match self.repair(pack).await {
            Ok(in_vain) => in_vain,
            Err(error @ (EngineError::Meta(_) | EngineError::Kv(_))) => return Err(error),
            Err(error) => {
                tracing::warn!(%pack, %error, "a pack could not be repaired: it is tried again later");
                true
            }
        };
        let mut later = self.later();
        if in_vain && later.len() < LATER_MAX {
            later.insert(pack, Instant::now() + LATER);
        }
        Ok(())
    }

    fn later(&self) -> MutexGuard<'_, BTreeMap<PackId, Instant>> {
        self.later.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rebuilds what a pack misses on the devices that are in service; whether that was tried, and not all was done.
    async fn repair(&self, id: PackId) -> Result<bool, EngineError> {
        let shared = &self.engine.shared;
        let Some(pack) = self.engine.meta().ask(PackOf { id }).await? else { return Ok(false) };
        let Some(pg) = shared.placement.pg(id.pg()) else { return Ok(false) };
        // Shards that are about to move are made on the way.
        let stays = |index: &usize| pg.devices_at(pack.epoch)[*index] == pg.devices[*index];
        let targets: Vec<(usize, DeviceAccess)> = (0..pack.profile.total())
            .filter(|index| pack.missing >> index & 1 == 1)
            .filter(stays)
            .filter_map(|index| Some((index, shared.placement.devices.get(pg.devices[index])?)))
            .collect();
        let wanted = targets.iter().fold(0, |mask, (index, _)| mask | 1 << index);
        if targets.is_empty() {
            return Ok(false);
        }
        let bytes = u64::from(pack.shard_len) * (pack.profile.data() + targets.len()) as u64;
        self.upkeep.admit(bytes, pack.present() <= pack.profile.data()).await;
        let mask = shared.rebuild(id, &pack, targets, pg.epoch).await?;
        if mask == 0 {
            return Ok(true);
        }
        // What is found missing from now on may be what was just written: then it is not taken for whole.
        let was = (pack.epoch, pack.missing);
        let command = Command::RestoreShards { pack: id, was, epoch: pg.epoch, mask };
        let mut outcome = shared.meta.request(Request::idempotent(command)).await?;
        if matches!(outcome, Outcome::Rejected(Rejection::NeedsClusterVersion(_))) {
            // Members of the version before take part.
            let command = Command::RepairShards { pack: id, epoch: pg.epoch, mask };
            outcome = shared.meta.request(Request::idempotent(command)).await?;
        }
        if let Err(rejection) = outcome.accepted() {
            tracing::debug!(pack = %id, %rejection, "a repair came too late");
            shared.placement.refresh().await?;
            return Ok(false);
        }
        self.engine.metrics().repaired_shards.inc_by(u64::from(mask.count_ones()));
        self.upkeep.count(Job::Rebuild, u64::from(pack.shard_len) * u64::from(mask.count_ones()));
        Ok(mask != wanted)
    }
}

impl Shared {
    /// Makes shards of a pack anew and writes them to devices, under `epoch`; the mask of those that are durable.
    pub async fn rebuild(
        self: &Arc<Self>,
        id: PackId,
        pack: &Pack,
        targets: Vec<(usize, DeviceAccess)>,
        epoch: Epoch,
    ) -> Result<u32, EngineError> {
        let (data, _) = self.read_pack(id, pack).await?;
        let (k, shard_len) = (pack.profile.data(), pack.shard_len as usize);
        let mut parity = vec![vec![0; shard_len]; pack.profile.parity()];
        let inputs: Vec<&[u8]> = data.chunks_exact(shard_len).collect();
        let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        let pool = self.placement.pool(id.pg().pool()).ok_or(EngineError::Unreadable(id))?;
        pool.code.encode(&inputs, &mut outputs).map_err(|_| EngineError::Unreadable(id))?;
        let mut mask = 0;
        for (index, device) in targets {
            let payload = match index.checked_sub(k) {
                None => data.slice(index * shard_len..(index + 1) * shard_len),
                Some(row) => Bytes::from(std::mem::take(&mut parity[row])),
            };
            let shard = ShardId { pack: id, index: index as u8 };
            mask |= u32::from(self.rewrite(device, shard, epoch, payload).await) << index;
        }
        Ok(mask)
    }

    /// Writes a shard, also where the device has another one of that name whose checksums are right; whether it is durable.
    pub async fn rewrite(&self, device: DeviceAccess, id: ShardId, epoch: Epoch, payload: Bytes) -> bool {
        let put = PutShard { id, epoch, class: WriteClass::Maintenance, now_ms: unix_ms(), payload };
        match timeout(self.config.write_timeout, device.put(put)).await {
            Ok(Ok(())) => return true,
            Ok(Err(error @ ShardError::StaleEpoch { .. })) => {
                tracing::debug!(pack = %id.pack, index = id.index, %error, "a repair came too late");
                if let Err(error) = self.placement.refresh().await {
                    tracing::debug!(%error, "the placement table cannot be read yet");
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(pack = %id.pack, index = id.index, %error, "a shard could not be written again yet");
            }
            Err(_) => {
                tracing::warn!(pack = %id.pack, index = id.index, "a device takes too long to write a shard again");
            }
        }
        false
    }
}
