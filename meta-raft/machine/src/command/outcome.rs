//! What commands come to.

use super::Changed;
use crate::records::VersionName;
use holdfast_core::ids::{BucketId, ChunkId, Epoch, HostId, NodeId, PackId, PgId, VersionId};
use serde::{Deserialize, Serialize};

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Done,
    Bucket(BucketId),
    Committed(Committed),
    Deleted {
        existed: bool,
    },
    /// How many of the pack's chunks were new, or moved.
    Registered {
        adopted: u32,
    },
    Collected(Collected),
    Rejected(Rejection),
    Host(HostId),
    /// How far the group was looked at; `None` where it is settled.
    Settling {
        after: Option<PackId>,
    },
    Removed(Removed),
    /// Of each change, in order.
    Changed(Vec<Changed>),
}

/// What a delete did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// There was something to delete.
    pub existed: bool,
    /// The version that was removed, or the marker that was made.
    pub version: Option<VersionName>,
    /// It is a delete marker.
    pub marker: bool,
}

impl Outcome {
    /// What the command did, or why it did nothing.
    ///
    /// # Errors
    /// Its rejection.
    pub fn accepted(self) -> Result<Self, Rejection> {
        if let Self::Rejected(rejection) = self { Err(rejection) } else { Ok(self) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    pub version: VersionId,
    pub node: NodeId,
    pub modified_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Collected {
    /// Steps done; fewer than asked for means that nothing is left that is old enough.
    pub steps: u32,
    pub chunks_condemned: u32,
    pub bytes_condemned: u64,
}

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    #[error("the bucket does not exist")]
    NoSuchBucket,
    #[error("the bucket exists already")]
    BucketExists,
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    #[error("the key does not exist")]
    NoSuchKey,
    #[error("the object's key is empty or longer than {} bytes", holdfast_core::limits::KEY_BYTES_MAX)]
    BadKey,
    #[error("the object is not in the state that the request demands")]
    PreconditionFailed,
    #[error("the upload does not exist: it was completed or aborted")]
    NoSuchUpload,
    #[error("part {0} was not uploaded, or has another ETag")]
    InvalidPart(u16),
    #[error("parts are not named in ascending order")]
    InvalidPartOrder,
    #[error("part {0} is smaller than the minimum, and not the last")]
    PartTooSmall(u16),
    #[error("the object would be larger than the maximum")]
    TooLarge,
    #[error("chunk {0} is no longer stored")]
    ChunkGone(ChunkId),
    #[error("a manifest segment no longer exists")]
    SegmentGone,
    #[error("the pack was written with epoch {given} of its placement group, which is now at {current}")]
    StaleEpoch { given: Epoch, current: Epoch },
    #[error("the placement group does not exist")]
    NoSuchPg,
    #[error("the pack has fewer durable shards than its write quorum")]
    BelowQuorum,
    #[error("the pack was deleted, and its name is barred")]
    Tombstoned,
    #[error("the pack does not exist")]
    NoSuchPack,
    #[error("live chunks are in the pack")]
    PackInUse,
    #[error("the device does not exist")]
    NoSuchDevice,
    #[error("the pool exists already, with another profile")]
    PoolExists,
    #[error("the request is older than outcomes are remembered")]
    RequestExpired,
    #[error("garbage collection is stopped: {0}")]
    CollectionStopped(String),
    #[error("the command needs cluster version {0}")]
    NeedsClusterVersion(u32),
    #[error("the command is malformed")]
    Malformed,
    #[error("the cluster is founded already")]
    ClusterExists,
    #[error("the token is not known: it was used, or never made here")]
    BadToken,
    #[error("the token has expired: make a new one")]
    TokenExpired,
    #[error("the token does not allow these roles")]
    RolesNotAllowed,
    #[error("another host has that name: choose another, or revoke it first")]
    NameTaken,
    #[error("the host does not exist")]
    NoSuchHost,
    #[error("placement group {0} is moving already")]
    PgMoving(PgId),
    #[error("the device is another host's")]
    NotYourDevice,
    #[error(
        "another disk may not take the device's place: an operator must allow it with \"holdfast device replace\""
    )]
    NotReplaceable,
    #[error("the version does not exist")]
    NoSuchVersion,
    #[error("the version is a delete marker")]
    IsMarker,
    #[error("the version is locked")]
    Locked,
    #[error("the bucket's other settings do not allow it")]
    BucketState,
    #[error("identities were changed meanwhile")]
    IdentitiesChanged,
    #[error("change {at} leans on what is no longer so")]
    Overtaken { at: u32 },
    #[error("the owner of the bucket may not store more: delete something, or have the quota raised")]
    OverQuota,
}
