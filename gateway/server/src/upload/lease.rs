//! Leases: uploads that take a good part of the grace period say that they are alive.

use crate::engine::{EngineError, Shared, new_lease_id};
use holdfast_core::ids::LeaseId;
use holdfast_meta_raft_machine::command::{Command, Request};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// An upload's age, on this process's clock and on the metadata's, and its lease once it holds one.
pub struct LeaseKeeper {
    started: Instant,
    since_ms: u64,
    held: Option<(LeaseId, Instant)>,
}

/// A lease that ends with its upload's commit.
pub struct Lease(LeaseId);

impl Lease {
    pub fn release(self) -> Request {
        Request::idempotent(Command::DropLease { id: self.0 })
    }
}

impl LeaseKeeper {
    /// # Errors
    /// Where the metadata cannot be read.
    pub async fn start(shared: &Shared) -> Result<Self, EngineError> {
        let since_ms = shared.clock_ms().await?;
        Ok(Self { started: Instant::now(), since_ms, held: None })
    }

    /// To be called as the upload goes on: takes the lease when the upload is an eighth of the grace period old, and
    /// renews it as often.
    ///
    /// # Errors
    /// Where the lease cannot be taken.
    pub async fn keep(&mut self, shared: &Arc<Shared>) -> Result<(), EngineError> {
        let grace = shared.config.gc_grace;
        let due = match self.held {
            None => self.started.elapsed() >= grace / 8,
            Some((_, renewed)) => renewed.elapsed() >= grace / 8,
        };
        if !due {
            return Ok(());
        }
        let id = self.held.map_or_else(new_lease_id, |(id, _)| id);
        let ttl_ms = grace.max(Duration::from_secs(10)).as_millis() as u64;
        let hold = Command::HoldLease { id, since_ms: self.since_ms, ttl_ms };
        shared.meta.request(Request::idempotent(hold)).await?;
        self.held = Some((id, Instant::now()));
        Ok(())
    }

    pub fn finish(self) -> Option<Lease> {
        self.held.map(|(id, _)| Lease(id))
    }
}
