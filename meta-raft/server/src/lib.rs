//! The metadata service of one member: consensus and state on RocksDB, driven by one thread.
//!
//! Requests that arrive while the log is being synced wait together and share the next fsync. State writes ride on the
//! log's: both families share RocksDB's write-ahead log, so that the state on the disk is always a prefix of what the log
//! says, and a restart applies the rest again.

mod collector;
mod driver;
mod metrics;
mod watermark;

pub use collector::{Collector, CollectorConfig};
pub use driver::{MetaHandle, MetaNode};
pub use metrics::MetaMetrics;

use holdfast_core::kv::KvError;
use holdfast_kv::Tuning;
use holdfast_meta_raft_pump::{LogError, PumpError};
use std::path::PathBuf;
use thiserror::Error;

/// Where the metadata is and what it may use.
#[derive(Debug, Clone)]
pub struct MetaConfig {
    pub dir: PathBuf,
    pub tuning: Tuning,
}

impl MetaConfig {
    /// Sizes for a member that shares its host: memory stays bounded at any number of objects.
    pub fn new(dir: PathBuf) -> Self {
        let tuning = Tuning {
            block_cache_bytes: 64 << 20,
            memtable_bytes: 16 << 20,
            open_files: 512,
            background_jobs: 2,
        };
        Self { dir, tuning }
    }
}

/// The metadata service cannot serve.
#[derive(Debug, Error)]
pub enum MetaError {
    #[error(
        "the metadata store is damaged or unreadable: {0}. Nothing was changed. Restore the directory from a backup; \
             if only this process's disk is at fault, repair it and start again"
    )]
    Store(#[from] KvError),
    #[error("the metadata log cannot be used: {0}")]
    Log(#[from] LogError),
    #[error("the metadata log cannot be used: {0}")]
    Pump(#[from] PumpError),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the metadata service has too much to do")]
    Busy,
    #[error("the metadata service has stopped")]
    Stopped,
}
