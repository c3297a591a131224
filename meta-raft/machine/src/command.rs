//! What can be asked of the metadata, and what it answers.
//!
//! Commands are idempotent: a repeated [`Request`] with the same id gets the first answer, and the commands without an
//! id (packs, segments, collection) change nothing when they are applied again.

use crate::records::{
    AccessKey, Archive, Attributes, Authority, BucketConfig, Checksum, ChecksumAlgorithm, ChunkRef,
    ClassPool, DeviceSpec, Duty, ENCRYPTION, Etag, Extra, Host, Keyring, Link, LockMode, PartSummary, PgSpec,
    PoolSpec, Retention, SegmentRef, Settings, VersionName, Versioning,
};
use holdfast_core::{
    chunker::ChunkerProfile,
    codec::{self, DecodeError},
    ids::{
        BucketId, DeviceId, DomainId, Epoch, HostId, Incarnation, LeaseId, PackId, PgId, PoolId, RequestId,
        SegmentId, UploadId, VersionId,
    },
    pack::Entry as PackEntry,
    profile::Profile,
    roles::Roles,
    topology::{FailureDomain, Place},
};
use serde::{Deserialize, Serialize};

mod outcome;
mod tree;

pub use outcome::{Collected, Committed, Outcome, Rejection, Removed};
pub use tree::{Changed, Guarded, TreeChange, Within};

/// One raft entry: commands that share an fsync but not a fate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// The proposing leader's wall clock, in milliseconds since 1970.
    pub stamp_ms: u64,
    /// Milliseconds since that leader proposed the entry before, on a clock that nobody can set.
    pub elapsed_ms: u64,
    pub requests: Vec<Request>,
}

#[derive(Serialize, Deserialize)]
enum VersionedEntry {
    V1(LogEntry),
}

impl LogEntry {
    pub fn to_bytes(self) -> Vec<u8> {
        codec::encode(&VersionedEntry::V1(self))
    }

    /// # Errors
    /// Where the bytes are no entry of a version that this binary knows.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let VersionedEntry::V1(entry) = codec::decode("a raft entry", bytes)?;
        Ok(entry)
    }
}

/// Requests and outcomes between processes, under the versions of this module's types.
#[derive(Serialize, Deserialize)]
enum VersionedRequests {
    V1(Vec<Request>),
}

#[derive(Serialize, Deserialize)]
enum VersionedOutcomes {
    V1(Vec<Outcome>),
}

/// Requests as they are sent to another process.
pub fn encode_requests(requests: Vec<Request>) -> Vec<u8> {
    codec::encode(&VersionedRequests::V1(requests))
}

/// # Errors
/// Where the bytes are no requests that this binary knows.
pub fn decode_requests(bytes: &[u8]) -> Result<Vec<Request>, DecodeError> {
    let VersionedRequests::V1(requests) = codec::decode("requests", bytes)?;
    Ok(requests)
}

/// Outcomes as they are sent to another process.
pub fn encode_outcomes(outcomes: Vec<Outcome>) -> Vec<u8> {
    codec::encode(&VersionedOutcomes::V1(outcomes))
}

/// # Errors
/// Where the bytes are no outcomes that this binary knows.
pub fn decode_outcomes(bytes: &[u8]) -> Result<Vec<Outcome>, DecodeError> {
    let VersionedOutcomes::V1(outcomes) = codec::decode("outcomes", bytes)?;
    Ok(outcomes)
}

/// A command, and the name under which its outcome is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub id: Option<RequestId>,
    pub command: Command,
}

impl Request {
    /// A request that needs no memory: applying it twice is applying it once.
    pub fn idempotent(command: Command) -> Self {
        Self { id: None, command }
    }
}

/// A condition on the object that a key names now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Condition {
    #[default]
    Always,
    /// `If-None-Match: *`
    Absent,
    /// `If-Match: *`
    Present,
    /// `If-Match: "etag"`
    Matches(Etag),
    /// `If-None-Match: "etag"`
    Differs(Etag),
}

/// [`Condition`] with what only deletes can demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Precondition {
    pub condition: Condition,
    /// Bytes that the object must have.
    pub size: Option<u64>,
    /// Seconds since 1970 at which it must have been written.
    pub modified_s: Option<u64>,
}

/// What a version must be to be removed for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Demand {
    #[default]
    None,
    /// This one, and another has taken its place.
    Noncurrent(VersionId),
    /// This delete marker, and nothing is under it.
    LastMarker(VersionId),
}

/// What of a version may change after it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VersionChange {
    Tags(Vec<(String, String)>),
    Retention {
        retention: Option<Retention>,
        /// Governance may be gone around.
        bypass: bool,
    },
    LegalHold(bool),
    /// A door's own; `None` removes it.
    Document(String, Option<String>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConfigChange {
    Versioning(Versioning),
    /// Versions can be locked from now on, for ever.
    ObjectLock,
    /// For how many milliseconds versions are retained that do not say so themselves.
    DefaultRetention(Option<(LockMode, u64)>),
    /// A door's own; `None` removes it.
    Document(String, Option<String>),
}

/// An object to be committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewObject {
    pub bytes: u64,
    pub etag: Etag,
    pub content: NewContent,
    pub attributes: Attributes,
    pub checksum: Option<Checksum>,
    /// Where it is a copy of an object that was made of parts.
    pub parts: Vec<PartSummary>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NewContent {
    Inline(Vec<u8>),
    Segments(Vec<SegmentRef>),
}

/// A pack whose shards are durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPack {
    pub id: PackId,
    pub domain: DomainId,
    pub profile: Profile,
    /// Of the placement group, as the devices that took the shards knew it.
    pub epoch: Epoch,
    pub shard_len: u32,
    /// Bit `i`: shard `i` is not durable.
    pub missing: u32,
    pub chunks: Vec<PackChunk>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackChunk {
    pub entry: PackEntry,
    /// Compaction: the chunk is moved only if it is still there.
    pub moved_from: Option<PackId>,
}

/// A part that a client names when it completes an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPart {
    pub number: u16,
    pub md5: [u8; 16],
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    CreateBucket {
        name: String,
        domain: DomainId,
        chunker: ChunkerProfile,
    },
    DeleteBucket {
        name: String,
    },
    RegisterPack(NewPack),
    RegisterSegment {
        id: SegmentId,
        domain: DomainId,
        chunks: Vec<ChunkRef>,
    },
    PutObject {
        bucket: BucketId,
        key: Vec<u8>,
        condition: Condition,
        object: NewObject,
    },
    DeleteObject {
        bucket: BucketId,
        key: Vec<u8>,
        condition: Condition,
    },
    CreateUpload {
        bucket: BucketId,
        key: Vec<u8>,
        id: UploadId,
        attributes: Attributes,
        checksum: Option<(ChecksumAlgorithm, bool)>,
    },
    PutPart {
        bucket: BucketId,
        key: Vec<u8>,
        id: UploadId,
        number: u16,
        bytes: u64,
        md5: [u8; 16],
        checksum: Option<Checksum>,
        segments: Vec<SegmentRef>,
    },
    CompleteUpload {
        bucket: BucketId,
        key: Vec<u8>,
        id: UploadId,
        condition: Condition,
        parts: Vec<NamedPart>,
        etag: Etag,
        checksum: Option<Checksum>,
    },
    AbortUpload {
        bucket: BucketId,
        key: Vec<u8>,
        id: UploadId,
    },
    /// Makes or renews a lease. `since_ms` is on the metadata's clock.
    HoldLease {
        id: LeaseId,
        since_ms: u64,
        ttl_ms: u64,
    },
    DropLease {
        id: LeaseId,
    },
    /// Does up to `steps` steps of garbage collection.
    Collect {
        grace_ms: u64,
        steps: u32,
    },
    /// Deletes packs in which the index finds nothing.
    DeletePacks {
        packs: Vec<PackId>,
    },
    /// Bars the names of shards that no pack record knows.
    TombstonePacks {
        packs: Vec<PackId>,
    },
    /// Shards found missing or damaged: pack and mask.
    ReportShards {
        shards: Vec<(PackId, u32)>,
    },
    /// Shards written again on the devices of `epoch`.
    RepairShards {
        pack: PackId,
        epoch: Epoch,
        mask: u32,
    },
    PutDevice {
        id: DeviceId,
        device: DeviceSpec,
    },
    /// Another disk stands in the slot: its placement groups get new epochs.
    ReplaceDevice {
        id: DeviceId,
        incarnation: Incarnation,
    },
    CreatePool {
        pool: PoolSpec,
        pgs: Vec<(PgId, PgSpec)>,
    },
    StopCollection {
        reason: String,
    },
    ResumeCollection,
    RaiseClusterVersion {
        version: u32,
    },
    /// Makes this state a cluster's: its authority, its first host and its first key pair.
    FoundCluster {
        authority: Authority,
        host: Host,
        key: AccessKey,
    },
    MakeToken {
        /// BLAKE3 of the secret.
        hash: [u8; 32],
        roles: Roles,
        ttl_ms: u64,
    },
    /// Lets a host in, and uses up the token.
    AdmitHost {
        token: [u8; 32],
        host: Host,
    },
    /// What a host says of itself has changed.
    MoveHost {
        id: HostId,
        address: String,
        place: Place,
    },
    RevokeHost {
        id: HostId,
    },
    AddDevice {
        id: DeviceId,
        host: HostId,
        device: DeviceSpec,
    },
    SetDuty {
        id: DeviceId,
        duty: Duty,
    },
    Reweigh {
        id: DeviceId,
        weight: u64,
    },
    /// An empty disk may take the slot.
    AllowReplacement {
        id: DeviceId,
    },
    /// The pool of a cluster.
    FoundPool {
        pool: PoolSpec,
        domain: FailureDomain,
        pgs: Vec<(PgId, PgSpec)>,
    },
    /// Gives a placement group other devices; its packs move there one by one.
    ReassignPg {
        pg: PgId,
        /// At which the change was planned.
        epoch: Epoch,
        devices: Vec<DeviceId>,
    },
    /// A pack's shards are on the devices of `epoch`, but for `missing`. Its epoch and what it missed must be as they
    /// `was` when it was looked at.
    PlacePack {
        pack: PackId,
        was: (Epoch, u32),
        epoch: Epoch,
        missing: u32,
    },
    /// Shards found missing or damaged where a pack of this epoch has them: pack, epoch and mask.
    ReportMissing {
        shards: Vec<(PackId, Epoch, u32)>,
    },
    /// Looks at up to `steps` packs of a group that moves, and forgets where they were once none is left there.
    SettlePg {
        pg: PgId,
        epoch: Epoch,
        after: Option<PackId>,
        steps: u32,
    },
    /// The key under which the metadata is archived from now on.
    SetKeyring {
        keyring: Keyring,
    },
    /// How far the archive is.
    NoteArchive {
        archive: Archive,
    },
    /// The metadata goes on with one member, without those that were: their hosts have no part in it any more, and all
    /// placement groups skip epochs, so that nothing that follows the old ones is accepted by a device.
    TakeOver {
        id: HostId,
        host: Host,
        skip_epochs: u64,
    },
    /// Shards written again on the devices of `epoch`, of a pack whose epoch and missing shards are as they `was`.
    RestoreShards {
        pack: PackId,
        was: (Epoch, u32),
        epoch: Epoch,
        mask: u32,
    },
    /// [`Command::SetDuty`], if the duty is as it `was`.
    ChangeDuty {
        id: DeviceId,
        was: Duty,
        duty: Duty,
    },
    SetSettings {
        was: Settings,
        settings: Settings,
    },
    MakeAdminToken {
        /// BLAKE3 of the secret.
        hash: [u8; 32],
        name: String,
        read_only: bool,
        ttl_ms: u64,
    },
    DropAdminToken {
        hash: [u8; 32],
    },
    /// [`Command::AdmitHost`] that may be repeated by whoever has the same key.
    LetHostIn {
        token: [u8; 32],
        /// BLAKE3 of the certificate request.
        request: [u8; 32],
        host: Host,
    },
    /// The host keeps the metadata from now on, or no longer.
    ChangeRoles {
        id: HostId,
        roles: Roles,
    },
    /// [`Command::CreateBucket`] with what it is set to from its first moment.
    MakeBucket {
        name: String,
        domain: DomainId,
        chunker: ChunkerProfile,
        config: BucketConfig,
    },
    ConfigureBucket {
        bucket: BucketId,
        change: ConfigChange,
    },
    /// [`Command::PutObject`] with extras. Whether it is named follows from the bucket.
    PutVersion {
        bucket: BucketId,
        key: Vec<u8>,
        condition: Condition,
        object: NewObject,
        extra: Extra,
    },
    /// Deletes what a key names now, or for good one of its versions.
    DeleteVersion {
        bucket: BucketId,
        key: Vec<u8>,
        version: Option<VersionName>,
        precondition: Precondition,
        /// Governance may be gone around.
        bypass: bool,
        /// Of a delete marker.
        owner: String,
        demand: Demand,
    },
    ChangeVersion {
        bucket: BucketId,
        key: Vec<u8>,
        version: Option<VersionName>,
        /// The version that was found under that name when the change was allowed.
        judged: VersionId,
        change: VersionChange,
    },
    /// [`Command::DeleteBucket`] of the one that was looked at.
    RemoveBucket {
        bucket: BucketId,
    },
    /// [`Command::CreateUpload`] with what its version will have.
    StartUpload {
        bucket: BucketId,
        key: Vec<u8>,
        id: UploadId,
        attributes: Attributes,
        checksum: Option<(ChecksumAlgorithm, bool)>,
        extra: Extra,
    },
    /// Changes identities, if they are as they were at `number`; `None` removes one.
    ChangeIdentities {
        number: u64,
        changes: Vec<(String, Option<String>)>,
    },
    /// A reader of a bucket's journal needs nothing any more before `position`. It never goes back.
    NoteCursor {
        bucket: BucketId,
        name: String,
        position: u64,
    },
    /// Makes a pool beside the first one.
    FoundClassPool {
        id: PoolId,
        pool: ClassPool,
        pgs: Vec<(PgId, PgSpec)>,
    },
    SetDeviceClass {
        id: DeviceId,
        class: Option<String>,
    },
    /// A version's bytes are elsewhere from now on: those of a class of storage, which is kept as this document.
    MoveContent {
        bucket: BucketId,
        key: Vec<u8>,
        version: VersionName,
        /// The version that was read.
        judged: VersionId,
        segments: Vec<SegmentRef>,
        /// The document that names the class.
        document: String,
        /// Its text, as it was when the version was read, and as it is from now on.
        from: Option<String>,
        to: Option<String>,
    },
    /// Changes names as a sync client asks, one after another: all of them, or none.
    ChangeTree {
        bucket: BucketId,
        /// Whose new versions are; empty for the system's owner.
        owner: String,
        changes: Vec<Guarded>,
    },
    /// Limits the bytes that an owner of buckets may store, or no longer does.
    SetQuota {
        owner: String,
        bytes: Option<u64>,
    },
    /// Lets a user see a directory of a bucket, and perhaps change what is in it; with `writes` of `None` no longer.
    Share {
        bucket: BucketId,
        path: Vec<u8>,
        user: String,
        writes: Option<bool>,
    },
    /// Lets whoever has a link read what it leads to. `id` is BLAKE3 of its secret.
    MakeLink {
        bucket: BucketId,
        id: [u8; 32],
        link: Box<Link>,
    },
    RemoveLink {
        bucket: BucketId,
        id: [u8; 32],
    },
    /// Takes one from the downloads that a link has left.
    CountDownload {
        bucket: BucketId,
        id: [u8; 32],
    },
}

impl Command {
    /// The first cluster version that knows the command.
    pub fn since_version(&self) -> u32 {
        match self {
            Self::FoundCluster { .. }
            | Self::MakeToken { .. }
            | Self::AdmitHost { .. }
            | Self::MoveHost { .. }
            | Self::RevokeHost { .. }
            | Self::AddDevice { .. }
            | Self::SetDuty { .. }
            | Self::Reweigh { .. }
            | Self::AllowReplacement { .. }
            | Self::FoundPool { .. }
            | Self::ReassignPg { .. }
            | Self::PlacePack { .. }
            | Self::ReportMissing { .. }
            | Self::SettlePg { .. } => 2,
            Self::SetKeyring { .. }
            | Self::NoteArchive { .. }
            | Self::TakeOver { .. }
            | Self::RestoreShards { .. }
            | Self::ChangeDuty { .. }
            | Self::SetSettings { .. }
            | Self::MakeAdminToken { .. }
            | Self::DropAdminToken { .. }
            | Self::LetHostIn { .. }
            | Self::ChangeRoles { .. } => 3,
            // Whoever does not know of encryption would hand out sealed bytes, or put plain ones beside them.
            Self::PutVersion { extra, .. } | Self::StartUpload { extra, .. }
                if extra.documents.contains_key(ENCRYPTION) =>
            {
                5
            }
            Self::ConfigureBucket { change: ConfigChange::Document(name, Some(_)), .. }
                if name == ENCRYPTION =>
            {
                5
            }
            Self::NoteCursor { .. } => 5,
            Self::FoundClassPool { .. } | Self::SetDeviceClass { .. } | Self::MoveContent { .. } => 6,
            Self::ChangeTree { .. }
            | Self::SetQuota { .. }
            | Self::Share { .. }
            | Self::MakeLink { .. }
            | Self::RemoveLink { .. }
            | Self::CountDownload { .. } => 7,
            Self::MakeBucket { .. }
            | Self::ConfigureBucket { .. }
            | Self::PutVersion { .. }
            | Self::DeleteVersion { .. }
            | Self::ChangeVersion { .. }
            | Self::RemoveBucket { .. }
            | Self::StartUpload { .. }
            | Self::ChangeIdentities { .. } => 4,
            Self::CreateBucket { .. }
            | Self::DeleteBucket { .. }
            | Self::RegisterPack(_)
            | Self::RegisterSegment { .. }
            | Self::PutObject { .. }
            | Self::DeleteObject { .. }
            | Self::CreateUpload { .. }
            | Self::PutPart { .. }
            | Self::CompleteUpload { .. }
            | Self::AbortUpload { .. }
            | Self::HoldLease { .. }
            | Self::DropLease { .. }
            | Self::Collect { .. }
            | Self::DeletePacks { .. }
            | Self::TombstonePacks { .. }
            | Self::ReportShards { .. }
            | Self::RepairShards { .. }
            | Self::PutDevice { .. }
            | Self::ReplaceDevice { .. }
            | Self::CreatePool { .. }
            | Self::StopCollection { .. }
            | Self::ResumeCollection
            | Self::RaiseClusterVersion { .. } => 1,
        }
    }
}
