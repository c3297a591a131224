//! What is said of a cluster: the JSON of the command line and of the HTTP API.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The cluster's health.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Status {
    /// The cluster's name for itself.
    pub cluster: String,
    /// There are no problems.
    pub healthy: bool,
    pub problems: Vec<String>,
    /// The host that leads the metadata; 0 where there is none.
    pub leader: u64,
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
    pub members_down: usize,
    /// The pool's erasure profile, K+M.
    pub profile: Option<String>,
    /// The failure domain that it survives the loss of one of.
    pub domain: Option<String>,
    pub groups: Groups,
    pub degraded_packs: usize,
    /// How many more shards the most endangered pack can lose.
    pub worst_spare: Option<u8>,
    /// What the data's durability is computed to be.
    pub durability: Option<String>,
    pub devices: Vec<Device>,
    pub jobs: Vec<JobStatus>,
    /// Bytes of shards.
    pub live: u64,
    /// Bytes free on the devices' file systems.
    pub free: u64,
    /// What was committed before is in the metadata's archive: milliseconds since 1970; 0 where nothing is.
    pub archived_until_ms: u64,
    /// Why garbage collection is stopped, where it is.
    pub collection_stopped: Option<String>,
    pub cluster_version: u32,
}

/// How many placement groups are how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct Groups {
    pub clean: usize,
    /// Packs are on their way to other devices.
    pub moving: usize,
    /// A device is down or out, and the data can lose another.
    pub degraded: usize,
    /// Not one more device may be lost.
    pub at_risk: usize,
    /// Fewer shards can be reached than reading needs.
    pub unreadable: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Device {
    pub device: u32,
    pub host: Option<String>,
    /// zone/rack/node
    pub place: String,
    /// serving, draining, out or removed
    pub duty: String,
    /// It was heard of a moment ago.
    pub up: bool,
    /// Nothing is on it, and nothing is meant to be: it may be unplugged.
    pub empty: bool,
    pub weight: u64,
    /// Placement groups with shards on it.
    pub groups: usize,
    /// Placement groups that are moving away from it.
    pub leaving: usize,
    /// Bytes of shards.
    pub live: Option<u64>,
    pub free: Option<u64>,
    pub shards: Option<u64>,
    /// How far the scrub's round is, in percent.
    pub scrubbed: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Node {
    pub host: u64,
    pub name: String,
    pub roles: String,
    pub address: String,
    pub place: String,
    pub devices: usize,
    /// up, down or revoked
    pub state: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Pool {
    pub pool: u8,
    /// The storage class of what is written to it.
    pub class: String,
    /// The class of the devices that it is on, where it names one.
    pub on: Option<String>,
    pub devices: usize,
    pub profile: String,
    pub domain: String,
    pub groups: u32,
    pub survives: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Group {
    pub group: u32,
    pub epoch: u64,
    /// Shard `i` of its packs belongs on the device at place `i`.
    pub devices: Vec<u32>,
    /// Where older packs still are, while they move.
    pub from: Option<Vec<u32>>,
    pub down: usize,
    /// clean, moving, degraded, at risk or unreadable
    pub state: String,
}

/// A placement group with its packs.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct GroupDetail {
    #[serde(flatten)]
    pub group: Group,
    /// Where each shard belongs.
    pub shards: Vec<GroupShard>,
    /// Packs, of which 10 000 are counted at most.
    pub packs: usize,
    /// Of those, how many are still where they were before the group moved.
    pub left_behind: usize,
    pub degraded: usize,
    /// Stored bytes that are alive, and that there are.
    pub live: u64,
    pub data: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct GroupShard {
    pub shard: usize,
    pub device: u32,
    pub place: Option<String>,
    pub duty: Option<String>,
    pub up: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Member {
    pub host: u64,
    pub name: Option<String>,
    pub address: Option<String>,
    /// voter or learner
    pub member: String,
    pub leads: bool,
    pub up: bool,
}

/// Long work of the cluster itself.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct JobStatus {
    /// rebuild, rebalance, scrub or compaction
    pub job: String,
    /// idle, running or paused
    pub state: String,
    /// What is left, in words.
    pub left: String,
    /// Bytes that are left, where that is known.
    pub left_bytes: Option<u64>,
    /// Over the last seconds.
    pub bytes_per_s: u64,
    /// Seconds until it is done, at this rate.
    pub estimate_s: Option<u64>,
}

/// What the placement planner would change.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Plan {
    pub changes: Vec<PlannedChange>,
    /// Why a group cannot be as it should.
    pub stuck: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PlannedChange {
    pub group: u32,
    pub devices: Vec<u32>,
    pub reason: String,
}

/// What an order came to, in words.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Said {
    pub message: String,
}

/// A device's duty, as ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DutyOrder {
    Serving,
    Draining,
    Removed,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceOrder {
    pub duty: Option<DutyOrder>,
    /// How much of the data it should hold, beside others.
    pub weight: Option<u64>,
    /// The class whose pools it serves, as hdd; empty for none.
    pub class: Option<String>,
    /// An empty disk may take its place.
    #[serde(default)]
    pub replaceable: bool,
    /// Removes it though shards are on it.
    #[serde(default)]
    pub force: bool,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolOrder {
    /// K+M; by default the best that the devices carry.
    pub profile: Option<String>,
    /// device, node, rack or zone
    pub domain: Option<String>,
    pub groups: Option<u32>,
    /// The storage class that it is for; without one it is the first pool.
    pub class: Option<String>,
    /// The class of the devices that it is on.
    pub on: Option<String>,
}
