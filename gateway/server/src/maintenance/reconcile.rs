//! Comparing what a device has with what the metadata says it should have, placement group by placement group.

use super::Maintenance;
use crate::{clock::unix_ms, engine::EngineError};
use holdfast_core::ids::{DeviceId, PackId, PgId};
use holdfast_meta_raft_machine::{
    ask::Packs,
    command::{Command, Outcome, Request},
    records::{Pack, Pg},
};
use holdfast_storage_node_server::Device;
use holdfast_storage_node_store::{Inventory, ShardError, ShardId};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Packs that are compared at a time: bounds memory.
const PAGE: u32 = 1000;

/// Shards of a device that are read from its index at a time.
const INVENTORY_PAGE: usize = 4096;

/// Some packs of one group, and the range of names that they cover.
struct Span {
    packs: BTreeMap<PackId, Pack>,
    after: Option<PackId>,
    upto: PackId,
    last: bool,
}

impl Maintenance {
    pub(super) async fn reconcile_all(self) -> Result<(), EngineError> {
        for device in self.engine.shared.placement.devices.in_service() {
            self.reconcile(device).await?;
        }
        Ok(())
    }

    /// Reports shards that the device lacks, and removes those that nothing needs.
    pub(super) async fn reconcile(&self, device: Arc<Device>) -> Result<(), EngineError> {
        self.engine.shared.placement.refresh().await?;
        for (id, _) in &*self.engine.shared.placement.table() {
            let mut after = None;
            loop {
                let span = self.span(*id, after).await?;
                // As it is known now: the group may have moved since the last span.
                let Some(pg) = self.engine.shared.placement.pg(*id) else { break };
                if !self.compare(&device, &pg, &span).await? {
                    return Ok(());
                }
                if span.last {
                    break;
                }
                after = Some(span.upto);
            }
        }
        Ok(())
    }

    /// The metadata is read before the inventory: a shard without a record may be newer than the records.
    async fn span(&self, pg: PgId, after: Option<PackId>) -> Result<Span, EngineError> {
        let page = self.engine.meta().ask(Packs { pg: Some(pg), after, limit: PAGE }).await?;
        let last = page.len() < PAGE as usize;
        let end = PackId::new(pg, [0xff; 12]);
        let upto = page.last().map(|(id, _)| *id).filter(|_| !last).unwrap_or(end);
        Ok(Span { packs: page.into_iter().collect(), after, upto, last })
    }

    /// Whether the device could be compared.
    async fn compare(&self, device: &Arc<Device>, pg: &Pg, span: &Span) -> Result<bool, EngineError> {
        let start = span.after.unwrap_or(PackId::new(span.upto.pg(), [0; 12]));
        let Some(inventory) = inventory_between(device, start, span.after.is_some(), span.upto).await else {
            return Ok(false);
        };
        let mine = |slot: &DeviceId| *slot == device.slot();
        let found: BTreeSet<ShardId> = inventory.iter().map(|entry| entry.id).collect();
        let mut expected: BTreeSet<ShardId> = BTreeSet::new();
        let mut missing = Vec::new();
        // A pack that is newer than the table is somewhere that the table does not know.
        for (id, pack) in span.packs.iter().filter(|(_, pack)| pack.epoch <= pg.epoch) {
            for (index, _) in pg.devices_at(pack.epoch).iter().enumerate().filter(|(_, slot)| mine(slot)) {
                let shard = ShardId { pack: *id, index: index as u8 };
                expected.insert(shard);
                if !found.contains(&shard) && pack.missing >> index & 1 == 0 {
                    missing.push((*id, pack.epoch, 1 << index));
                }
            }
        }
        if !missing.is_empty() {
            tracing::warn!(device = %device.slot(), shards = missing.len(), "the device lacks shards: they will be rebuilt");
            let report = Command::ReportMissing { shards: missing };
            self.engine.meta().request(Request::idempotent(report)).await?;
        }
        // A group that moves has copies in two places, and the new ones may not be told of yet.
        let extra: Vec<Inventory> = if pg.previous.is_some() {
            Vec::new()
        } else {
            inventory.into_iter().filter(|entry| !expected.contains(&entry.id)).collect()
        };
        // What came back into its place while the inventory was read is no stray: the table is read once more.
        if !extra.is_empty() {
            self.engine.shared.placement.refresh().await?;
            let unmoved = self.engine.shared.placement.pg(span.upto.pg()).is_some_and(|now| now == *pg);
            if unmoved {
                self.remove_extra(device, extra, pg, span).await?;
            }
        }
        Ok(true)
    }

    /// Deletes shards that are in the wrong place, and those whose pack does not exist once its name can never come into
    /// use.
    async fn remove_extra(
        &self,
        device: &Arc<Device>,
        extra: Vec<Inventory>,
        pg: &Pg,
        span: &Span,
    ) -> Result<(), EngineError> {
        let grace_ms = self.config().gc_grace.as_millis() as u64;
        let old_enough = |entry: &&Inventory| entry.written_ms.saturating_add(grace_ms) < unix_ms();
        let old: Vec<ShardId> = extra.iter().filter(old_enough).map(|entry| entry.id).collect();
        let (stray, orphans): (Vec<ShardId>, Vec<ShardId>) =
            old.into_iter().partition(|shard| span.packs.contains_key(&shard.pack));
        // Its right place must have it.
        let elsewhere = |shard: &ShardId| {
            span.packs
                .get(&shard.pack)
                .is_some_and(|pack| pack.epoch <= pg.epoch && pack.missing >> shard.index & 1 == 0)
        };
        let stray: Vec<ShardId> = stray.into_iter().filter(elsewhere).collect();
        delete(device, stray, "removing shards that moved to other devices").await;
        for some in orphans.chunks(PAGE as usize) {
            let bar = |id: &ShardId| Request::idempotent(Command::TombstonePacks { packs: vec![id.pack] });
            let outcomes = self.engine.meta().submit(some.iter().map(bar).collect()).await?;
            let barred = some.iter().zip(outcomes).filter(|(_, outcome)| *outcome == Outcome::Done);
            let barred: Vec<ShardId> = barred.map(|(id, _)| *id).collect();
            delete(device, barred, "removing shards that belong to no pack").await;
        }
        Ok(())
    }
}

async fn delete(device: &Arc<Device>, shards: Vec<ShardId>, why: &str) {
    if shards.is_empty() {
        return;
    }
    tracing::info!(device = %device.slot(), shards = shards.len(), "{why}");
    let device = device.clone();
    let result = tokio::task::spawn_blocking(move || device.delete(&shards)).await;
    if let Ok(Err(error)) = result {
        tracing::warn!(%error, "shards could not be deleted yet");
    }
}

/// A device's shards of packs from `start`, or above it, up to `upto`; `None` where the device fails.
async fn inventory_between(
    device: &Arc<Device>,
    start: PackId,
    above: bool,
    upto: PackId,
) -> Option<Vec<Inventory>> {
    let device = device.clone();
    let read = move || -> Result<Vec<Inventory>, ShardError> {
        let mut all: Vec<Inventory> = Vec::new();
        let first = if above { Some(start) } else { start.before() };
        let mut cursor = first.map(|pack| ShardId { pack, index: u8::MAX });
        loop {
            let page = device.inventory(cursor, INVENTORY_PAGE)?;
            let whole = page.len() == INVENTORY_PAGE;
            cursor = page.last().map(|entry| entry.id);
            let beyond = |entry: &Inventory| entry.id.pack > upto;
            let done = page.last().is_some_and(beyond);
            all.extend(page.into_iter().filter(|entry| !beyond(entry)));
            if done || !whole {
                return Ok(all);
            }
        }
    };
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(inventory)) => Some(inventory),
        Ok(Err(error)) => {
            tracing::warn!(%error, "a device's inventory cannot be read");
            None
        }
        Err(_) => None,
    }
}
