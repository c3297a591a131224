//! Comparing what a device has with what the metadata says it should have.

use super::Maintenance;
use crate::{clock::unix_ms, engine::EngineError};
use holdfast_core::ids::PackId;
use holdfast_meta_raft_machine::{
    command::{Command, Outcome, Request},
    query,
};
use holdfast_storage_node_server::Device;
use holdfast_storage_node_store::{Inventory, ShardError, ShardId};
use std::{collections::BTreeSet, sync::Arc};

/// Packs that are compared at a time: bounds memory.
const PAGE: usize = 1000;

/// Shards of a device that are read from its index at a time.
const INVENTORY_PAGE: usize = 4096;

impl Maintenance {
    pub(super) async fn reconcile_all(self) -> Result<(), EngineError> {
        for device in self.engine.shared.placement.devices.in_service() {
            self.reconcile(device).await?;
        }
        Ok(())
    }

    /// Reports shards that the device lacks, and removes those that nothing needs.
    pub(super) async fn reconcile(&self, device: Arc<Device>) -> Result<(), EngineError> {
        let mut after: Option<PackId> = None;
        loop {
            // The metadata is read before the inventory: a shard without a record may be newer than the records.
            let page = query::packs(&self.engine.meta().view(), after, PAGE)?;
            let last = page.last().map(|(id, _)| *id).filter(|_| page.len() == PAGE);
            let Some(inventory) = inventory_between(&device, after, last).await else { return Ok(()) };
            let mut extra: Vec<Inventory> = Vec::new();
            let mut found: BTreeSet<ShardId> = BTreeSet::new();
            let mut expected: BTreeSet<ShardId> = BTreeSet::new();
            let mut missing = Vec::new();
            found.extend(inventory.iter().map(|entry| entry.id));
            for (id, pack) in &page {
                let Some(group) = self.engine.shared.placement.group(id.pg()) else { continue };
                for (index, _) in group.devices.iter().enumerate().filter(|(_, slot)| **slot == device.slot())
                {
                    let shard = ShardId { pack: *id, index: index as u8 };
                    expected.insert(shard);
                    if !found.contains(&shard) && pack.missing >> index & 1 == 0 {
                        missing.push((*id, 1 << index));
                    }
                }
            }
            extra.extend(inventory.into_iter().filter(|entry| !expected.contains(&entry.id)));
            if !missing.is_empty() {
                tracing::warn!(device = %device.slot(), shards = missing.len(), "the device lacks shards: they will be rebuilt");
                let report = Command::ReportShards { shards: missing };
                self.engine.meta().request(Request::idempotent(report)).await?;
            }
            self.remove_orphans(&device, extra).await?;
            match last {
                Some(last) => after = Some(last),
                None => return Ok(()),
            }
        }
    }

    /// Deletes shards whose pack does not exist, once its name can never come into use.
    async fn remove_orphans(&self, device: &Arc<Device>, extra: Vec<Inventory>) -> Result<(), EngineError> {
        let grace_ms = self.config().gc_grace.as_millis() as u64;
        let old_enough = |entry: &&Inventory| entry.written_ms.saturating_add(grace_ms) < unix_ms();
        let orphans: Vec<ShardId> = extra.iter().filter(old_enough).map(|entry| entry.id).collect();
        for some in orphans.chunks(PAGE) {
            let bar = |id: &ShardId| Request::idempotent(Command::TombstonePacks { packs: vec![id.pack] });
            let outcomes = self.engine.meta().submit(some.iter().map(bar).collect()).await?;
            let barred = some.iter().zip(outcomes).filter(|(_, outcome)| *outcome == Outcome::Done);
            let barred: Vec<ShardId> = barred.map(|(id, _)| *id).collect();
            if barred.is_empty() {
                continue;
            }
            tracing::info!(device = %device.slot(), shards = barred.len(), "removing shards that belong to no pack");
            let device = device.clone();
            let result = tokio::task::spawn_blocking(move || device.delete(&barred)).await;
            if let Ok(Err(error)) = result {
                tracing::warn!(%error, "orphaned shards could not be deleted yet");
            }
        }
        Ok(())
    }
}

/// A device's shards of packs above `after`, up to `last` where there is one; `None` where the device fails.
async fn inventory_between(
    device: &Arc<Device>,
    after: Option<PackId>,
    last: Option<PackId>,
) -> Option<Vec<Inventory>> {
    let device = device.clone();
    let read = move || -> Result<Vec<Inventory>, ShardError> {
        let mut all: Vec<Inventory> = Vec::new();
        let mut cursor = after.map(|pack| ShardId { pack, index: u8::MAX });
        loop {
            let page = device.inventory(cursor, INVENTORY_PAGE)?;
            let whole = page.len() == INVENTORY_PAGE;
            cursor = page.last().map(|entry| entry.id);
            let beyond = |entry: &Inventory| last.is_some_and(|last| entry.id.pack > last);
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
