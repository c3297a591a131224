//! How much a node does for clients.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Counts what is done for clients. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Foreground {
    count: Arc<AtomicU64>,
}

impl Foreground {
    /// Something was done for a client.
    pub fn served(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}
