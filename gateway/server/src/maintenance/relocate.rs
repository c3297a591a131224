//! Moving the packs of placement groups that were given other devices.
//!
//! A pack's epoch says where its shards are. Each shard that changes its place is copied, verified, from where it was, or
//! made anew; only then is the pack said to be in its new place. When no pack is left behind, the group is settled, and
//! what lies in the old places belongs to nobody: its device removes it.

use super::Maintenance;
use crate::engine::EngineError;
use bytes::Bytes;
use holdfast_core::ids::{DeviceId, PackId, PgId};
use holdfast_meta_raft_machine::{
    ask::Packs,
    command::{Command, Outcome, Request},
    records::{Job, Pack, Pg},
};
use holdfast_storage_node_server::DeviceAccess;
use holdfast_storage_node_store::ShardId;

/// Packs that are looked at together.
const PAGE: u32 = 500;

/// Packs that one command looks at, to settle a group.
const SETTLE_STEPS: u32 = 2000;

impl Maintenance {
    pub(super) async fn relocate_some(self) -> Result<(), EngineError> {
        let shared = &self.engine.shared;
        let table = shared.placement.table();
        let moving = table.iter().filter(|(id, pg)| pg.previous.is_some() && shared.placement.is_mine(*id));
        // The most endangered first: those whose old places are gone.
        let mut moving: Vec<(usize, &(PgId, Pg))> = moving
            .map(|group| {
                let old = group.1.previous.iter().flat_map(|previous| &previous.devices);
                (old.filter(|device| shared.placement.devices.get(**device).is_some()).count(), group)
            })
            .collect();
        moving.sort_by_key(|(reachable, _)| *reachable);
        for (_, (id, pg)) in moving {
            self.relocate(*id, pg).await?;
        }
        Ok(())
    }

    async fn relocate(&self, id: PgId, pg: &Pg) -> Result<(), EngineError> {
        if pg.previous.is_none() {
            return Ok(());
        }
        let mut after = None;
        let mut whole = true;
        loop {
            let page = self.engine.meta().ask(Packs { pg: Some(id), after, limit: PAGE }).await?;
            for (pack_id, pack) in page.iter().filter(|(_, pack)| pg.is_behind(pack.epoch)) {
                if self.upkeep.is_paused(self.job_of(pack, pg)) {
                    whole = false;
                    continue;
                }
                match self.move_pack(*pack_id, pack, pg).await {
                    Ok(moved) => whole &= moved,
                    Err(error @ (EngineError::Meta(_) | EngineError::Kv(_))) => return Err(error),
                    Err(error) => {
                        whole = false;
                        tracing::warn!(pack = %pack_id, %error, "a pack could not be moved yet");
                    }
                }
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE as usize => after = Some(*last),
                Some(_) | None => break,
            }
        }
        if whole { self.settle(id, pg).await } else { Ok(()) }
    }

    /// What moving a pack is: where its old places are gone, its shards are made anew.
    fn job_of(&self, pack: &Pack, pg: &Pg) -> Job {
        let placement = &self.engine.shared.placement;
        let places = pg.devices_at(pack.epoch).iter().zip(&pg.devices).enumerate();
        let lost = |(index, (from, to)): (usize, (&DeviceId, &DeviceId))| {
            from != to && (pack.missing >> index & 1 == 1 || placement.is_given_up(*from))
        };
        if places.into_iter().any(lost) { Job::Rebuild } else { Job::Rebalance }
    }

    /// Brings a pack's shards to where they belong; whether it is there now.
    async fn move_pack(&self, id: PackId, pack: &Pack, pg: &Pg) -> Result<bool, EngineError> {
        let shared = &self.engine.shared;
        let old = pg.devices_at(pack.epoch);
        let mut missing = pack.missing;
        let mut rebuild: Vec<(usize, DeviceAccess)> = Vec::new();
        // Shards that are not in their new places.
        let mut unwritten = 0u32;
        let places = old.iter().copied().zip(pg.devices.iter().copied()).enumerate();
        for (index, (from, to)) in places.filter(|(_, (from, to))| from != to) {
            let Some(target) = shared.placement.devices.get(to) else {
                unwritten |= 1 << index;
                continue;
            };
            let shard = ShardId { pack: id, index: index as u8 };
            let source = shared.placement.devices.get(from).filter(|_| missing >> index & 1 == 0);
            if source.is_some() {
                self.upkeep.admit(u64::from(pack.shard_len), false).await;
                self.upkeep.count(Job::Rebalance, u64::from(pack.shard_len));
            }
            let copied = match copy(source, shard, pack.shard_len).await {
                Some(bytes) => shared.rewrite(target.clone(), shard, pg.epoch, bytes).await,
                None => false,
            };
            if copied {
                missing &= !(1 << index);
                self.engine.metrics().moved_shards.inc();
            } else {
                rebuild.push((index, target));
            }
        }
        if !rebuild.is_empty() {
            let wanted = rebuild.iter().fold(0u32, |mask, (index, _)| mask | 1 << index);
            let bytes = u64::from(pack.shard_len) * (pack.profile.data() + rebuild.len()) as u64;
            // Those that are at hand, wherever they are.
            let left = pack.present() - (wanted & !pack.missing).count_ones() as usize;
            self.upkeep.admit(bytes, left <= pack.profile.data()).await;
            let made = match shared.rebuild(id, pack, rebuild, pg.epoch).await {
                Ok(made) => made,
                // Too little of it can be read, wherever it is: what there is moves, so that the others can.
                Err(EngineError::Unreadable(_)) if pack.is_lost() => 0,
                Err(error) => return Err(error),
            };
            unwritten |= wanted & !made;
            missing &= !made;
            self.engine.metrics().repaired_shards.inc_by(u64::from(made.count_ones()));
            self.upkeep.count(Job::Rebuild, u64::from(pack.shard_len) * u64::from(made.count_ones()));
        }
        // A shard that cannot be written in its new place still counts in the old one.
        if self.may_wait(old, pg, unwritten & !pack.missing) {
            return Ok(false);
        }
        missing |= unwritten;
        let was = (pack.epoch, pack.missing);
        let place = Command::PlacePack { pack: id, was, epoch: pg.epoch, missing };
        match self.engine.meta().request(Request::idempotent(place)).await?.accepted() {
            Ok(_) => Ok(true),
            Err(rejection) => {
                tracing::debug!(pack = %id, %rejection, "a move came too late");
                shared.placement.refresh().await?;
                Ok(false)
            }
        }
    }

    /// Whether shards that are not in their new places still count in the old ones. A new place that was given up is
    /// replaced by the leader; an old one that only cannot be reached now may come back.
    fn may_wait(&self, before: &[DeviceId], pg: &Pg, unwritten: u32) -> bool {
        let placement = &self.engine.shared.placement;
        let counts = |index: usize| {
            let (old, new) = (before[index], pg.devices[index]);
            old != new && !placement.is_given_up(old)
        };
        (0..before.len()).any(|index| unwritten >> index & 1 == 1 && counts(index))
    }

    async fn settle(&self, id: PgId, pg: &Pg) -> Result<(), EngineError> {
        let mut after = None;
        loop {
            let settle = Command::SettlePg { pg: id, epoch: pg.epoch, after, steps: SETTLE_STEPS };
            match self.engine.meta().request(Request::idempotent(settle)).await?.accepted() {
                Ok(Outcome::Settling { after: Some(seen) }) => after = Some(seen),
                Ok(_) => {
                    tracing::info!(pg = %id, "a placement group is settled on its new devices");
                    break;
                }
                Err(rejection) => {
                    tracing::debug!(pg = %id, %rejection, "the group cannot be settled yet");
                    break;
                }
            }
        }
        Ok(self.engine.shared.placement.refresh().await?)
    }
}

/// A whole shard, verified, from where it is.
async fn copy(source: Option<DeviceAccess>, shard: ShardId, len: u32) -> Option<Bytes> {
    source?.read(shard, 0, len).await.ok()
}
