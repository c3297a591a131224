//! Compaction: what is alive in packs that are partly dead moves to new ones, and the old ones are deleted.

use super::Maintenance;
use crate::engine::{EngineError, Shared};
use bytes::Bytes;
use holdfast_core::{
    ids::{ChunkId, DomainId, Epoch, PackId},
    pack::Entry,
};
use holdfast_gateway_object::PackBuilder;
use holdfast_meta_raft_machine::{
    ask::{ChunksOf, HeaderNow, PackOf, ReclaimablePacks},
    command::{Command, Request},
    records::{Job, Pack},
};
use holdfast_storage_node_store::{ShardId, WriteClass};
use std::{collections::BTreeMap, sync::Arc};

/// Packs that are looked at together: their survivors fill new packs.
const STEP: usize = 128;

/// Packs among which those are looked for that this process looks after.
const LOOK: u32 = 2048;

/// A pack that is being filled with survivors, and where each came from.
struct Target {
    builder: PackBuilder,
    moved: BTreeMap<ChunkId, PackId>,
}

impl Maintenance {
    pub(super) async fn compact_some(self) -> Result<(), EngineError> {
        let shared = self.engine.shared.clone();
        loop {
            if self.upkeep.is_paused(Job::Compaction) {
                return Ok(());
            }
            let header = shared.meta.ask(HeaderNow {}).await?;
            if header.is_some_and(|header| header.collection_stopped.is_some()) {
                return Ok(());
            }
            let mut candidates = shared.meta.ask(ReclaimablePacks { limit: LOOK }).await?;
            candidates.retain(|pack| shared.placement.is_mine(pack.pg()));
            candidates.truncate(STEP);
            if candidates.is_empty() {
                return Ok(());
            }
            let mut targets: BTreeMap<DomainId, Target> = BTreeMap::new();
            let mut epochs: BTreeMap<PackId, Epoch> = BTreeMap::new();
            for id in &candidates {
                let Some(pack) = shared.meta.ask(PackOf { id: *id }).await? else { continue };
                epochs.insert(*id, pack.epoch);
                if pack.entries > 0 {
                    self.upkeep.admit(pack.live, false).await;
                    self.upkeep.count(Job::Compaction, pack.live);
                    match move_out(&shared, *id, &pack, &mut targets).await {
                        Ok(()) => self.engine.metrics().compacted_packs.inc(),
                        Err(error @ (EngineError::Meta(_) | EngineError::Kv(_))) => return Err(error),
                        Err(error) => tracing::warn!(pack = %id, %error, "a pack could not be compacted yet"),
                    }
                }
            }
            // One pool that takes nothing keeps no other from getting its room back.
            let mut failed = None;
            for (domain, target) in targets {
                failed = write(&shared, domain, target).await.err().or(failed);
            }
            let deleted = self.delete_empty(&epochs).await?;
            if let Some(error) = failed {
                return Err(error);
            }
            // What could not be moved now is not tried again at once.
            if deleted < candidates.len() {
                return Ok(());
            }
        }
    }

    /// Deletes those of `packs` in which nothing is left; how many.
    async fn delete_empty(&self, packs: &BTreeMap<PackId, Epoch>) -> Result<usize, EngineError> {
        let shared = &self.engine.shared;
        let delete = |id: &PackId| Request::idempotent(Command::DeletePacks { packs: vec![*id] });
        let outcomes = shared.meta.submit(packs.keys().map(delete).collect()).await?;
        let mut deleted = 0;
        let mut by_device: BTreeMap<_, Vec<ShardId>> = BTreeMap::new();
        for ((id, epoch), outcome) in packs.iter().zip(outcomes) {
            if let Err(rejection) = outcome.accepted() {
                tracing::debug!(pack = %id, %rejection, "the pack is kept");
                continue;
            }
            deleted += 1;
            let devices = shared.placement.devices_of(*id, *epoch).await?.unwrap_or_default();
            for (index, device) in devices.into_iter().enumerate() {
                by_device.entry(device).or_default().push(ShardId { pack: *id, index: index as u8 });
            }
        }
        self.engine.metrics().deleted_packs.inc_by(deleted as u64);
        for (slot, shards) in by_device {
            // A device that is away finds them when its inventory is compared.
            let Some(device) = shared.placement.devices.get(slot) else { continue };
            if let Err(error) = device.delete(shards).await {
                tracing::warn!(device = %slot, %error, "shards could not be deleted yet");
            }
        }
        Ok(deleted)
    }
}

/// Adds what the index still finds in a pack to the target of its domain.
async fn move_out(
    shared: &Arc<Shared>,
    id: PackId,
    pack: &Pack,
    targets: &mut BTreeMap<DomainId, Target>,
) -> Result<(), EngineError> {
    let (data, contents) = shared.read_pack(id, pack).await?;
    let ids = contents.entries.iter().map(|entry| entry.chunk).collect();
    let places = shared.meta.ask(ChunksOf { domain: pack.domain, ids }).await?;
    let alive =
        contents.entries.iter().zip(places).filter(|(entry, place)| {
            place.is_some_and(|place| place.pack == id && place.offset == entry.offset)
        });
    for (entry, _) in alive {
        let stored = data.slice(entry.offset as usize..(entry.offset + entry.stored) as usize);
        add(shared, pack.domain, id, entry, &stored, targets).await?;
    }
    Ok(())
}

async fn add(
    shared: &Arc<Shared>,
    domain: DomainId,
    from: PackId,
    entry: &Entry,
    stored: &Bytes,
    targets: &mut BTreeMap<DomainId, Target>,
) -> Result<(), EngineError> {
    let fresh = || Target { builder: PackBuilder::new(shared.buffers.take()), moved: BTreeMap::new() };
    let target = targets.entry(domain).or_insert_with(fresh);
    if !target.builder.fits(stored.len()) {
        let full = std::mem::replace(target, fresh());
        write(shared, domain, full).await?;
    }
    let target = targets.entry(domain).or_insert_with(fresh);
    target.builder.add_stored(entry, stored);
    target.moved.insert(entry.chunk, from);
    Ok(())
}

/// Writes a target and lets the index find the chunks there, unless they moved or died meanwhile.
async fn write(shared: &Arc<Shared>, domain: DomainId, target: Target) -> Result<(), EngineError> {
    if target.builder.is_empty() {
        return Ok(());
    }
    let mut pack = shared.write_pack(target.builder, domain, WriteClass::Maintenance).await?;
    for chunk in &mut pack.chunks {
        chunk.moved_from = target.moved.get(&chunk.entry.chunk).copied();
    }
    shared.meta.request(Request::idempotent(Command::RegisterPack(pack))).await?.accepted()?;
    Ok(())
}
