//! The metadata service of one member: consensus and state on RocksDB, driven by one thread.
//!
//! Requests that arrive while the log is being synced wait together and share the next fsync. State writes ride on the
//! log's: both families share RocksDB's write-ahead log, so that the state on the disk is always a prefix of what the log
//! says, and a restart applies the rest again.

mod beats;
mod collector;
mod driver;
mod gate;
mod heads;
mod meta;
mod metrics;
mod node;
mod proposals;
mod reads;
mod remote;
mod restore;
mod service;
mod snapshots;
mod steward;
mod store;
mod watermark;

pub use beats::Beats;
pub use collector::{Collector, CollectorConfig};
pub use driver::{GroupStatus, NoPeers, Peers};
pub use meta::Meta;
pub use metrics::MetaMetrics;
pub use node::{MetaHandle, MetaNode};
pub use remote::RemoteMeta;
pub use restore::{Restore, survive};
pub use service::{MetaService, NetPeers};
pub use steward::{Steward, StewardConfig};

use holdfast_core::kv::KvError;
use holdfast_kv::Tuning;
pub use holdfast_meta_raft_pump::LoggedEntry;
pub use holdfast_meta_raft_pump::MemberId;
use holdfast_meta_raft_pump::{LogError, PumpError};
use std::path::PathBuf;
use thiserror::Error;

/// Where the metadata is and what it may use.
#[derive(Debug, Clone)]
pub struct MetaConfig {
    pub dir: PathBuf,
    pub tuning: Tuning,
    pub member: MemberId,
    /// A fresh store is a group of its own, instead of waiting to be let into one.
    pub founds: bool,
    /// Names this life of the process; random.
    pub boot: [u8; 16],
}

impl MetaConfig {
    /// Sizes for a member that shares its host: memory stays bounded at any number of objects.
    pub fn new(dir: PathBuf, member: MemberId, founds: bool, boot: [u8; 16]) -> Self {
        let tuning = Tuning {
            block_cache_bytes: 64 << 20,
            memtable_bytes: 16 << 20,
            open_files: 512,
            background_jobs: 2,
        };
        Self { dir, tuning, member, founds, boot }
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
    #[error("this member does not lead")]
    NotLeader(Option<MemberId>),
    #[error("the leader changed: it is not known whether the request was carried out")]
    LostLeadership,
    #[error("a snapshot could not be fetched: {0}")]
    Snapshot(String),
    #[error("the metadata cannot be reached: {0}")]
    Unreachable(String),
    #[error("the metadata refuses: {0}")]
    Refused(String),
}

impl MetaError {
    /// Whether the same may work in a moment: nothing here is damaged.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Busy
            | Self::NotLeader(_)
            | Self::LostLeadership
            | Self::Snapshot(_)
            | Self::Unreachable(_) => true,
            Self::Store(_)
            | Self::Log(_)
            | Self::Pump(_)
            | Self::Io { .. }
            | Self::Stopped
            | Self::Refused(_) => false,
        }
    }
}
