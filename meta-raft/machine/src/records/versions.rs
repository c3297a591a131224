//! What versions and buckets are beyond plain objects: history, tags, locks, and what doors keep with them.

use super::Record;
use holdfast_core::{codec, ids::VersionId, kv::KvError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Whether a bucket keeps what is overwritten and deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Versioning {
    #[default]
    Off,
    Enabled,
    /// What was kept stays; nothing more is kept.
    Suspended,
}

/// A version as clients name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VersionName {
    /// The one that was written while versions were not kept.
    Null,
    Id(VersionId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockMode {
    /// Whoever has the permission may go around it.
    Governance,
    Compliance,
}

/// Until when a version may not be removed, on the wall clock in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    pub mode: LockMode,
    pub until_ms: u64,
}

/// What a version has beyond [`super::Version`]. A plain object of a bucket without versions has none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Extra {
    /// It has an id of its own. The others are a key's null version, of which there is one at most.
    pub named: bool,
    /// The key was deleted here.
    pub marker: bool,
    pub tags: Vec<(String, String)>,
    pub retention: Option<Retention>,
    pub legal_hold: bool,
    /// Who wrote it; empty for the system's owner.
    pub owner: String,
    /// What doors keep with it, by name.
    pub documents: BTreeMap<String, String>,
}
record!(Extra, "a version's extras");

/// The document that says how a version is encrypted, or what a bucket encrypts with.
pub const ENCRYPTION: &str = "encryption";

impl Extra {
    /// Whether the version may not be removed at `now_ms`, by whoever may or may not bypass governance.
    pub fn is_locked(&self, now_ms: u64, bypass: bool) -> bool {
        let retained = self.retention.filter(|retention| retention.until_ms > now_ms);
        self.legal_hold || retained.is_some_and(|retention| retention.mode == LockMode::Compliance || !bypass)
    }
}

/// What a bucket is set to. Its documents are the doors' business.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BucketConfig {
    /// The raft entry that changed it last: what is remembered of it elsewhere is known by it.
    pub number: u64,
    /// Empty for the system's owner.
    pub owner: String,
    pub versioning: Versioning,
    pub object_lock: bool,
    /// For how many milliseconds versions are retained that do not say so themselves.
    pub default_retention: Option<(LockMode, u64)>,
    pub documents: BTreeMap<String, String>,
}
record!(BucketConfig, "a bucket's configuration");
