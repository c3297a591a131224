//! Scrubbing: every shard is read from its medium once in a period, at an even rate. Where a round is survives restarts.

use super::Maintenance;
use crate::{clock::unix_ms, engine::EngineError};
use holdfast_core::codec;
use holdfast_meta_raft_machine::{ask::PackOf, records::Job};
use holdfast_storage_node_server::{Device, ScrubProgress};
use holdfast_storage_node_store::{Inventory, ShardError, ShardId};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval};

/// How often some shards are read, at most.
const TICK: Duration = Duration::from_secs(10);

/// How often a round that an operator asked for goes on.
const ASKED_TICK: Duration = Duration::from_millis(250);

/// Shards of a device that are read at a time.
const STEP: usize = 256;

impl Maintenance {
    pub(super) async fn scrub_for_ever(self) -> Result<(), EngineError> {
        let period = self.config.scrub_period;
        let mut rounds: BTreeMap<_, ScrubProgress> = BTreeMap::new();
        let mut ticks = interval(ASKED_TICK.min(period));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut even: Option<tokio::time::Instant> = None;
        loop {
            ticks.tick().await;
            if self.upkeep.is_paused(Job::Scrub) {
                continue;
            }
            let due = even.is_none_or(|at| at.elapsed() >= TICK.min(period));
            if due {
                even = Some(tokio::time::Instant::now());
            }
            let asked = self.upkeep.settings().scrub_asked_ms;
            for device in self.engine.shared.placement.devices.in_service() {
                let round = rounds.entry(device.slot()).or_insert_with(|| begin(&device));
                if asked > round.asked_ms {
                    // What the device lacks is found by comparing, and not by reading.
                    match self.reconcile(device.clone()).await {
                        Ok(()) => {}
                        Err(EngineError::Meta(error)) if error.is_passing() => {
                            tracing::debug!(%error, "the scrub that was asked for begins later");
                            continue;
                        }
                        Err(error) => return Err(error),
                    }
                    let total = device.usage().shards;
                    *round = ScrubProgress {
                        asked_ms: asked,
                        began_ms: unix_ms(),
                        total,
                        asked: true,
                        ..Default::default()
                    };
                    device.show_scrub(round.clone());
                }
                let count = match round.asked {
                    true => STEP,
                    false if !due => continue,
                    false => share(&device, TICK.min(period), period),
                };
                self.scrub_some(&device, round, count).await?;
            }
        }
    }

    async fn scrub_some(
        &self,
        device: &Arc<Device>,
        round: &mut ScrubProgress,
        count: usize,
    ) -> Result<(), EngineError> {
        let after = round.cursor.map(|(pack, index)| ShardId { pack, index });
        let Ok(page) = device.inventory(after, count) else { return Ok(()) };
        for entry in &page {
            self.upkeep.admit(u64::from(entry.len), false).await;
            if self.is_bad(device, entry).await? {
                // Found where it should be, or where nobody looks for it any more.
                match self.engine.meta().ask(PackOf { id: entry.id.pack }).await {
                    Ok(Some(pack)) => {
                        self.engine.shared.report(entry.id.pack, pack.epoch, 1 << entry.id.index)
                    }
                    Ok(None) => {}
                    // The next round finds it again.
                    Err(error) if error.is_passing() => tracing::debug!(%error, "damage is reported later"),
                    Err(error) => return Err(error.into()),
                }
            }
            self.upkeep.count(Job::Scrub, u64::from(entry.len));
        }
        self.engine.metrics().scrubbed_shards.inc_by(page.len() as u64);
        round.done += page.len() as u64;
        round.cursor =
            page.last().map(|entry| (entry.id.pack, entry.id.index)).filter(|_| page.len() == count);
        if round.cursor.is_none() {
            // Behind the last shard, the next round begins.
            let (asked_ms, total) = (round.asked_ms, device.usage().shards);
            let finished_ms = unix_ms();
            *round =
                ScrubProgress { asked_ms, began_ms: finished_ms, finished_ms, total, ..Default::default() };
        }
        device.show_scrub(round.clone());
        if !page.is_empty() {
            let (device, bytes) = (device.clone(), codec::encode(round));
            let kept = tokio::task::spawn_blocking(move || device.keep_scrub(&bytes)).await;
            if let Ok(Err(error)) = kept {
                tracing::debug!(%error, "a restart would begin the scrub's round anew");
            }
        }
        Ok(())
    }

    async fn is_bad(&self, device: &Arc<Device>, entry: &Inventory) -> Result<bool, EngineError> {
        let (device, id) = (device.clone(), entry.id);
        let verified = tokio::task::spawn_blocking(move || device.verify(id)).await;
        let verified = verified.map_err(|_| EngineError::ShuttingDown)?;
        Ok(matches!(verified, Err(ShardError::Damaged | ShardError::Disk(_))))
    }
}

/// Where the device's round was, or a new one.
fn begin(device: &Device) -> ScrubProgress {
    let kept = device.kept_scrub().and_then(|bytes| codec::decode("a scrub's progress", &bytes).ok());
    let total = device.usage().shards;
    let round = kept.unwrap_or_else(|| ScrubProgress { began_ms: unix_ms(), total, ..Default::default() });
    device.show_scrub(round.clone());
    round
}

/// Shards that are due in a tick, for all to be read in a period.
fn share(device: &Device, tick: Duration, period: Duration) -> usize {
    let share = tick.as_secs_f64() / period.as_secs_f64();
    ((device.usage().shards as f64 * share).ceil() as usize).clamp(1, 4096)
}
