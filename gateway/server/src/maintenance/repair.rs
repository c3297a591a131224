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

/// Packs that are repaired at once.
const AT_ONCE: usize = 4;

/// After a vain try, a pack waits for so long.
const LATER: Duration = Duration::from_secs(15);

/// Packs that are looked at together.
const PAGE: u32 = 1000;

impl Maintenance {
    pub(super) async fn repair_some(self) -> Result<(), EngineError> {
        let mut after = None;
        loop {
            let degraded = self.engine.meta().ask(DegradedPacks { after, limit: PAGE }).await?;
            if after.is_none() {
                self.engine.metrics().degraded_packs.set(degraded.len() as i64);
            }
            let placement = &self.engine.shared.placement;
            let mine = degraded.iter().filter(|(_, pack)| placement.is_mine(pack.pg()) && self.is_due(*pack));
            let repaired = futures::stream::iter(mine.map(Ok)).try_for_each_concurrent(AT_ONCE, async |(spare, pack)| {
                if self.upkeep.is_paused(Job::Rebuild) {
                    return Ok(());
                }
                match self.repair(*pack, *spare).await {
                    Ok(_) => Ok(()),
                    Err(error @ (EngineError::Meta(_) | EngineError::Kv(_))) => Err(error),
                    Err(error) => {
                        tracing::warn!(%pack, %error, "a pack could not be repaired: it is tried again later");
                        self.later().insert(*pack, Instant::now() + LATER);
                        Ok(())
                    }
                }
            });
            repaired.await?;
            match degraded.last() {
                Some(last) if degraded.len() == PAGE as usize => after = Some(*last),
                Some(_) | None => return Ok(()),
            }
        }
    }

    fn later(&self) -> MutexGuard<'_, BTreeMap<PackId, Instant>> {
        self.later.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a pack was not tried in vain a moment ago.
    fn is_due(&self, pack: PackId) -> bool {
        let mut later = self.later();
        later.retain(|_, at| *at > Instant::now());
        !later.contains_key(&pack)
    }

    /// Rebuilds what a pack misses on the devices that are in service; whether anything was. Its `spare` shards say how many
    /// more it can lose.
    async fn repair(&self, id: PackId, spare: u8) -> Result<bool, EngineError> {
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
        if targets.is_empty() {
            return Ok(false);
        }
        let bytes = u64::from(pack.shard_len) * (pack.profile.data() + targets.len()) as u64;
        self.upkeep.admit(bytes, spare == 0).await;
        let mask = shared.rebuild(id, &pack, targets, pg.epoch).await?;
        if mask == 0 {
            return Ok(false);
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
        Ok(true)
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
        self.code.encode(&inputs, &mut outputs).map_err(|_| EngineError::Unreadable(id))?;
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
