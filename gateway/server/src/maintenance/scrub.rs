//! Scrubbing: every shard is read from its medium once in a period, at an even rate.

use super::Maintenance;
use crate::engine::EngineError;
use holdfast_meta_raft_machine::ask::PackOf;
use holdfast_storage_node_server::Device;
use holdfast_storage_node_store::{ShardError, ShardId};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval};

/// How often some shards are read, at most.
const TICK: Duration = Duration::from_secs(10);

/// Shards of a device that are read at a time.
const STEP: usize = 4096;

impl Maintenance {
    pub(super) async fn scrub_for_ever(self) -> Result<(), EngineError> {
        let mut cursors: BTreeMap<_, Option<ShardId>> = BTreeMap::new();
        let tick = TICK.min(self.config.scrub_period);
        let mut ticks = interval(tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for device in self.engine.shared.placement.devices.in_service() {
                let share = tick.as_secs_f64() / self.config.scrub_period.as_secs_f64();
                let cursor = cursors.entry(device.slot()).or_default();
                let after = *cursor;
                let read = tokio::task::spawn_blocking(move || {
                    let count = ((device.usage().shards as f64 * share).ceil() as usize).clamp(1, STEP);
                    scrub(&device, after, count)
                });
                let Ok((next, seen, bad)) = read.await else { return Err(EngineError::ShuttingDown) };
                self.engine.metrics().scrubbed_shards.inc_by(seen);
                *cursor = next;
                for shard in bad {
                    // Found where it should be, or where nobody looks for it any more.
                    match self.engine.meta().ask(PackOf { id: shard.pack }).await {
                        Ok(Some(pack)) => self.engine.shared.report(shard.pack, pack.epoch, 1 << shard.index),
                        Ok(None) => {}
                        // The next round finds it again.
                        Err(error) if error.is_passing() => {
                            tracing::debug!(%error, "damage is reported later")
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
    }
}

/// Verifies up to `count` shards above `after`: where to go on, how many there were, and the damaged ones.
fn scrub(device: &Arc<Device>, after: Option<ShardId>, count: usize) -> (Option<ShardId>, u64, Vec<ShardId>) {
    let Ok(page) = device.inventory(after, count) else {
        return (after, 0, Vec::new());
    };
    let bad = page
        .iter()
        .filter(|entry| matches!(device.verify(entry.id), Err(ShardError::Damaged | ShardError::Disk(_))));
    // Behind the last shard, the next round begins.
    let next = page.last().map(|entry| entry.id).filter(|_| page.len() == count);
    (next, page.len() as u64, bad.map(|entry| entry.id).collect())
}
