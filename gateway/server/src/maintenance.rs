//! What goes on behind the doors: devices are watched, packs repaired and compacted, shards scrubbed and reconciled.
//!
//! Each duty is a loop of bounded steps on its own pace. Every step can be interrupted anywhere: what it did is in the
//! metadata, and the next one starts from there.

mod compact;
mod devices;
mod reconcile;
mod relocate;
mod repair;
mod scrub;
mod upkeep;

pub use devices::OpenDevice;
pub use upkeep::{Done, Upkeep};

use crate::engine::{Engine, EngineError};
use holdfast_core::ids::PackId;
use holdfast_meta_raft_machine::ask::SettingsNow;
use holdfast_meta_raft_server::MetaError;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

/// How maintenance behaves.
#[derive(Clone)]
pub struct MaintenanceConfig {
    /// Opens the device of a slot again, after it was taken out of service.
    pub open_device: OpenDevice,
    /// Every shard is read from its medium once in this time.
    pub scrub_period: Duration,
    /// Every device's inventory is compared with the metadata this often.
    pub reconcile_every: Duration,
}

/// The loops' pace: how soon they notice that there is something to do.
const PACE: Duration = Duration::from_secs(1);

/// Maintenance of one process.
#[derive(Clone)]
pub struct Maintenance {
    engine: Engine,
    config: Arc<MaintenanceConfig>,
    upkeep: Upkeep,
    /// Packs that could not be repaired, and when that is tried again.
    later: Arc<Mutex<BTreeMap<PackId, Instant>>>,
}

impl Maintenance {
    pub fn new(engine: Engine, config: MaintenanceConfig) -> Self {
        let upkeep = Upkeep::new(engine.foreground().clone());
        Self { engine, config: Arc::new(config), upkeep, later: Arc::default() }
    }

    /// Runs all duties until the future is dropped.
    ///
    /// # Errors
    /// Where the metadata service stops, or its store is damaged.
    pub async fn run(self) -> Result<(), EngineError> {
        let mut duties = JoinSet::new();
        duties.spawn(self.clone().every(PACE, |this| async move { this.follow_settings().await }));
        duties.spawn(self.clone().every(PACE, |this| async move { this.watch_devices().await }));
        duties.spawn(self.clone().every(PACE, |this| async move { this.repair_some().await }));
        duties.spawn(self.clone().every(PACE, |this| async move { this.relocate_some().await }));
        let compaction =
            (self.config().gc_grace / 8).clamp(Duration::from_millis(250), Duration::from_secs(30));
        duties.spawn(self.clone().every(compaction, |this| async move { this.compact_some().await }));
        duties.spawn(self.clone().every(PACE, |this| async move { this.maintain_devices().await }));
        duties.spawn(
            self.clone().every(self.config.reconcile_every, |this| async move { this.reconcile_all().await }),
        );
        duties.spawn(self.clone().scrub_for_ever());
        match duties.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(_)) | None => Err(EngineError::ShuttingDown),
        }
    }

    fn config(&self) -> &crate::engine::EngineConfig {
        self.engine.config()
    }

    /// Does one thing again and again. What fails in passing is said, and tried again.
    async fn every<F>(self, pace: Duration, mut step: impl FnMut(Self) -> F + Send) -> Result<(), EngineError>
    where
        F: Future<Output = Result<(), EngineError>> + Send,
    {
        let mut ticks = interval(pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match step(self.clone()).await {
                Ok(()) => {}
                Err(EngineError::Meta(error)) if error.is_passing() => {
                    tracing::debug!(%error, "maintenance waits for the metadata");
                }
                Err(error @ (EngineError::Meta(_) | EngineError::Kv(_) | EngineError::ShuttingDown)) => {
                    return Err(error);
                }
                Err(error) => tracing::warn!(%error, "maintenance could not go on: it is tried again"),
            }
        }
    }

    /// What this process has done of each job, and may do.
    pub fn upkeep(&self) -> &Upkeep {
        &self.upkeep
    }

    async fn follow_settings(self) -> Result<(), EngineError> {
        match self.engine.meta().ask(SettingsNow {}).await {
            Ok(settings) => self.upkeep.set(settings),
            // A member of the version before knows of none.
            Err(MetaError::Refused(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Lets the devices give space back.
    async fn maintain_devices(self) -> Result<(), EngineError> {
        for device in self.engine.shared.placement.devices.in_service() {
            let slot = device.slot();
            let result = tokio::task::spawn_blocking(move || device.maintain()).await;
            if let Ok(Err(error)) = result {
                tracing::warn!(device = %slot, %error, "a device could not give space back");
            }
        }
        if self.engine.metrics().in_flight.get() == 0 {
            self.engine.shared.buffers.trim();
        }
        Ok(())
    }
}
