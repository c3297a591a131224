//! What operators set while the cluster runs.

use super::Record;
use holdfast_core::{codec, kv::KvError};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Work that goes on behind the doors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Job {
    /// Shards that are missing are made anew.
    Rebuild,
    /// Packs move to where they belong: after a change of devices, or off those that drain.
    Rebalance,
    /// Shards are read from their media and verified.
    Scrub,
    /// Live chunks of half-empty packs are written into new ones.
    Compaction,
}

impl Job {
    pub const ALL: [Self; 4] = [Self::Rebuild, Self::Rebalance, Self::Scrub, Self::Compaction];

    pub fn name(self) -> &'static str {
        match self {
            Self::Rebuild => "rebuild",
            Self::Rebalance => "rebalance",
            Self::Scrub => "scrub",
            Self::Compaction => "compaction",
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Job {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let job = Self::ALL.into_iter().find(|job| job.name() == text);
        job.ok_or_else(|| {
            format!("{text:?} is no job: the jobs are rebuild, rebalance, scrub and compaction")
        })
    }
}

/// How the cluster's own work is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Settings {
    /// Sorted.
    pub paused: Vec<Job>,
    /// Bytes a second that a node may read and write for rebuilding, moving and scrubbing; 0 is the default.
    pub upkeep_bytes_per_s: u64,
    /// When an operator last asked for a scrub, on the metadata's clock.
    pub scrub_asked_ms: u64,
}
record!(Settings, "the settings");

impl Settings {
    pub fn is_paused(&self, job: Job) -> bool {
        self.paused.contains(&job)
    }

    /// Pauses a job, or lets it go on.
    pub fn set_paused(&mut self, job: Job, paused: bool) {
        self.paused.retain(|other| *other != job);
        if paused {
            self.paused.push(job);
            self.paused.sort_unstable();
        }
    }
}

/// Leave to use the admin API, for whoever knows the secret with this record's hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminToken {
    /// What it is for, in the operator's words.
    pub name: String,
    /// It may look and not touch.
    pub read_only: bool,
    /// On the metadata's clock.
    pub expires_ms: u64,
}
record!(AdminToken, "an admin token");
