//! Garbage collection's clock, and the auditor that may stop it.

use crate::{MetaError, MetaHandle};
use holdfast_core::limits::COLLECT_STEPS_MAX;
use holdfast_meta_raft_machine::{
    audit::audit,
    command::{Command, Outcome, Request},
};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// Records that one pass of the auditor holds in memory, roughly.
const AUDIT_RECORDS_A_PASS: u64 = 1 << 20;

#[derive(Debug, Clone, Copy)]
pub struct CollectorConfig {
    /// How long what was removed stays, from removal to reuse.
    pub grace: Duration,
    /// How often all references are counted again.
    pub audit_every: Duration,
}

/// Runs collection and audits until its future is dropped.
pub struct Collector {
    meta: MetaHandle,
    config: CollectorConfig,
}

impl Collector {
    pub fn new(meta: MetaHandle, config: CollectorConfig) -> Self {
        Self { meta, config }
    }

    /// Audits once, then collects and audits for ever.
    ///
    /// # Errors
    /// Where the metadata service stops, or its store is damaged.
    pub async fn run(self) -> Result<(), MetaError> {
        let pace = (self.config.grace / 8).clamp(Duration::from_millis(200), Duration::from_secs(60));
        let mut collect = interval_at(Instant::now() + pace, pace);
        collect.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut audits = interval_at(Instant::now() + self.config.audit_every, self.config.audit_every);
        audits.set_missed_tick_behavior(MissedTickBehavior::Delay);
        passing(self.audit().await)?;
        loop {
            tokio::select! {
                _ = collect.tick() => passing(self.collect().await)?,
                _ = audits.tick() => passing(self.audit().await)?,
            }
        }
    }

    /// Does all garbage collection that is due, in bounded commands.
    async fn collect(&self) -> Result<(), MetaError> {
        loop {
            let grace_ms = self.config.grace.as_millis() as u64;
            let command = Command::Collect { grace_ms, steps: COLLECT_STEPS_MAX };
            if !self.meta.leads() {
                return Ok(());
            }
            let outcome = self.meta.request(Request::idempotent(command)).await?;
            // Rejected where collection is stopped.
            let Outcome::Collected(done) = outcome else { return Ok(()) };
            self.meta.metrics().chunks_condemned.inc_by(u64::from(done.chunks_condemned));
            if done.steps < COLLECT_STEPS_MAX {
                return Ok(());
            }
        }
    }

    /// Counts all references on one view, off the runtime's threads.
    async fn audit(&self) -> Result<(), MetaError> {
        if !self.meta.leads() {
            return Ok(());
        }
        let meta = self.meta.clone();
        let result = tokio::task::spawn_blocking(move || {
            // Every byte of the store is read and verified on the way.
            meta.database().verify()?;
            let passes = meta.database().table_bytes() / (64 * AUDIT_RECORDS_A_PASS) + 1;
            audit(&meta.state().snapshot(), u16::try_from(passes).unwrap_or(u16::MAX))
        });
        match result.await.map_err(|_| MetaError::Stopped)?? {
            Ok(audited) => {
                self.meta.metrics().audits.inc();
                tracing::info!(?audited, "every reference counter is right");
            }
            Err(mismatch) => {
                let reason = mismatch.0;
                tracing::error!(%reason, "a reference counter is wrong: garbage collection is stopped, nothing more is deleted");
                self.meta.request(Request::idempotent(Command::StopCollection { reason })).await?;
            }
        }
        Ok(())
    }
}

/// Lets an overload pass: what was not done now is done with the next tick.
fn passing(result: Result<(), MetaError>) -> Result<(), MetaError> {
    match result {
        Err(error) if error.is_passing() => Ok(()),
        other => other,
    }
}
