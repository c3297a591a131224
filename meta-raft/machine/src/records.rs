//! What the state holds. Each stored type sits in an enum of its versions; see [`holdfast_core::codec`].

use holdfast_core::{
    chunker::ChunkerProfile,
    codec,
    ids::{BucketId, ChunkId, DomainId, Epoch, NodeId, PackId, SegmentId, UploadId, VersionId},
    kv::KvError,
    pack::Codec,
    profile::Profile,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A type with a place in the state. Its stored form names its version.
pub trait Record: Sized {
    /// For error messages.
    const WHAT: &'static str;
    fn to_bytes(&self) -> Vec<u8>;
    /// # Errors
    /// Where the bytes are no version of the record that this binary knows.
    fn from_bytes(bytes: &[u8]) -> Result<Self, KvError>;
}

/// Stores a type as variant `V1` of an enum of its own.
macro_rules! record {
    ($type:ident, $what:literal) => {
        const _: () = {
            #[derive(Serialize)]
            enum Written<'a> {
                V1(&'a $type),
            }
            #[derive(Deserialize)]
            enum Read {
                V1($type),
            }
            impl Record for $type {
                const WHAT: &'static str = $what;

                fn to_bytes(&self) -> Vec<u8> {
                    codec::encode(&Written::V1(self))
                }

                fn from_bytes(bytes: &[u8]) -> Result<Self, KvError> {
                    let Read::V1(record) = codec::decode(Self::WHAT, bytes)?;
                    Ok(record)
                }
            }
        };
    };
}

/// The document of a version that says what a file is beside its bytes: when it was modified, whether it may be run, whether
/// it is a link.
pub const FILE: &str = "file";

mod archive;
mod cluster;
mod people;
mod settings;
mod versions;

pub use archive::{Archive, ArchivedState, Keyring, LogStream};
pub use cluster::{
    AccessKey, Authority, ClassPool, Device, DeviceSpec, Duty, Host, Pg, PgBefore3, PgSpec, Pool, PoolSpec,
    Previous, Token, UsedToken,
};

pub use people::{Account, Link, Share, Shares};
pub use settings::{AdminToken, Job, Settings};
pub use versions::{BucketConfig, ENCRYPTION, Extra, LockMode, Retention, VersionName, Versioning};

/// What the machine itself keeps between entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Header {
    /// The last raft entry that is in the state.
    pub applied_index: u64,
    /// The metadata's own clock: milliseconds that have passed, counted from the wall clock of the first entry. Grace
    /// periods, leases and request ids use it.
    pub clock_ms: u64,
    /// The hash of every write so far; equal on all members at equal index.
    pub state_hash: [u8; 32],
    /// Commands newer than this are refused, so that members of mixed versions never diverge.
    pub cluster_version: u32,
    pub next_bucket: u64,
    pub next_node: u64,
    pub next_version: u64,
    /// Tells apart releases of one segment.
    pub next_release: u64,
    /// Why garbage collection is stopped, where it is.
    pub collection_stopped: Option<String>,
}
record!(Header, "the metadata header");

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    pub id: BucketId,
    pub name: String,
    pub created_ms: u64,
    /// What its chunks are deduplicated with.
    pub domain: DomainId,
    pub chunker: ChunkerProfile,
}
record!(Bucket, "a bucket");

/// The part of a bucket that changes with every object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct BucketUsage {
    pub objects: u64,
    /// Sum of the sizes of its objects.
    pub bytes: u64,
    /// The number of the next journal record.
    pub journal_next: u64,
    /// Multipart uploads in progress.
    pub uploads: u64,
}
record!(BucketUsage, "a bucket's usage");

/// An entity tag as S3 makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Etag {
    /// MD5 of the object.
    Md5([u8; 16]),
    /// MD5 of the MD5s of so many parts.
    Multipart { md5: [u8; 16], parts: u16 },
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let md5 = match self {
            Self::Md5(md5) | Self::Multipart { md5, .. } => md5,
        };
        for byte in md5 {
            write!(f, "{byte:02x}")?;
        }
        match self {
            Self::Md5(_) => Ok(()),
            Self::Multipart { parts, .. } => write!(f, "-{parts}"),
        }
    }
}

/// The algorithms of S3's additional checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ChecksumAlgorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

/// A checksum that a client gave, or that was computed for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    pub algorithm: ChecksumAlgorithm,
    pub value: Vec<u8>,
    /// The checksum of the parts' checksums, of so many parts, instead of one over all bytes.
    pub composite_parts: Option<u16>,
}

/// What a client says of an object beside its bytes. Expiry is S3's `Expires` header, kept as the client wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Attributes {
    pub content_type: Option<String>,
    pub cache_control: Option<String>,
    pub content_disposition: Option<String>,
    pub content_encoding: Option<String>,
    pub content_language: Option<String>,
    pub expires: Option<String>,
    /// `x-amz-meta-*`, lower-case names without the prefix, sorted.
    pub user: Vec<(String, String)>,
}

/// A run of up to 1024 chunks of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRef {
    pub id: SegmentId,
    /// Bytes of the object in its chunks together: of those that are sealed, without the seals.
    pub bytes: u64,
}

/// Where an object's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// Beside the version, in the metadata.
    Inline,
    /// In packs, through these segments in order.
    Segments(Vec<SegmentRef>),
}

/// A part as it stood when its upload was completed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartSummary {
    pub number: u16,
    pub bytes: u64,
    pub checksum: Option<Checksum>,
}

/// One version of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub id: VersionId,
    pub node: NodeId,
    /// The leader's wall clock at the commit, in milliseconds since 1970.
    pub modified_ms: u64,
    pub bytes: u64,
    pub etag: Etag,
    pub content: Content,
    pub attributes: Attributes,
    pub checksum: Option<Checksum>,
    pub parts: Vec<PartSummary>,
    /// The multipart upload that made it, so that a repeated completion is recognised.
    pub upload: Option<UploadId>,
}
record!(Version, "an object version");

impl DirEntry {
    pub fn node(&self) -> NodeId {
        match self {
            Self::File { node, .. } | Self::Directory { node, .. } | Self::Kept { node, .. } => *node,
        }
    }
}

/// What listings show of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub version: VersionId,
    pub modified_ms: u64,
    pub bytes: u64,
    pub etag: Etag,
    pub checksum: Option<(ChecksumAlgorithm, bool)>,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirEntry {
    File {
        node: NodeId,
        current: Summary,
    },
    /// Implicit: there as long as it has children.
    Directory {
        node: NodeId,
        children: u64,
    },
    /// Made by somebody, and there until it is removed.
    Kept {
        node: NodeId,
        children: u64,
    },
}
record!(DirEntry, "a directory entry");

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    Put,
    Delete,
    /// A file has another key, which is the record's; or a directory has another path, with all that is in it.
    Move,
    /// A directory was made.
    Make,
    /// A directory is gone.
    Vanish,
    /// A version has other documents.
    Describe,
}

/// A line of a bucket's journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalRecord {
    pub change: Change,
    pub node: NodeId,
    pub version: VersionId,
    pub key: Vec<u8>,
    pub index: u64,
}

impl Record for JournalRecord {
    const WHAT: &'static str = "a journal record";

    fn to_bytes(&self) -> Vec<u8> {
        codec::encode(&StoredLine::V1(self.clone()))
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, KvError> {
        Ok(JournalLine::from_bytes(bytes)?.record)
    }
}

/// A line of a bucket's journal as it is stored: version 1 does not say in which directory the name is.
#[derive(Serialize, Deserialize)]
enum StoredLine {
    V1(JournalRecord),
    V2(JournalRecord, NodeId),
}

/// A line with the directory that its name is in, wherever that is moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalLine {
    pub record: JournalRecord,
    pub parent: Option<NodeId>,
}

impl Record for JournalLine {
    const WHAT: &'static str = "a journal record";

    fn to_bytes(&self) -> Vec<u8> {
        codec::encode(&match self.parent {
            Some(parent) => StoredLine::V2(self.record.clone(), parent),
            None => StoredLine::V1(self.record.clone()),
        })
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, KvError> {
        Ok(match codec::decode(Self::WHAT, bytes)? {
            StoredLine::V1(record) => Self { record, parent: None },
            StoredLine::V2(record, parent) => Self { record, parent: Some(parent) },
        })
    }
}

/// Where a chunk is, and who needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    pub pack: PackId,
    pub offset: u32,
    pub stored: u32,
    pub plain: u32,
    pub codec: Codec,
    /// How often segments name it.
    pub refs: u64,
    /// Since when none does.
    pub zero_since_ms: Option<u64>,
}
record!(Chunk, "a chunk");

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRef {
    pub id: ChunkId,
    pub plain: u32,
}

/// The chunks of a segment. Never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    pub domain: DomainId,
    pub chunks: Vec<ChunkRef>,
}
record!(Segment, "a manifest segment");

/// How many versions and parts name a segment. Apart from [`Segment`], since it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentUse {
    pub refs: u64,
    pub zero_since_ms: Option<u64>,
}
record!(SegmentUse, "a manifest segment's references");

/// A pack and how much of it is alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    pub domain: DomainId,
    pub profile: Profile,
    /// The epoch of its placement group at which it was written.
    pub epoch: Epoch,
    pub shard_len: u32,
    /// Bit `i`: shard `i` is not where it should be, or damaged.
    pub missing: u32,
    /// Chunks that the index finds here.
    pub entries: u32,
    /// Stored bytes of those chunks.
    pub live: u64,
    /// Stored bytes of all chunks that it was made with.
    pub data: u64,
}
record!(Pack, "a pack");

impl Pack {
    /// Shards that are where they should be.
    pub fn present(&self) -> usize {
        self.profile.total() - self.missing.count_ones() as usize
    }

    /// Too few shards are left to read it. Devices that come back may change that.
    pub fn is_lost(&self) -> bool {
        self.present() < self.profile.data()
    }
}

/// A multipart upload in progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    pub created_ms: u64,
    pub attributes: Attributes,
    /// The algorithm asked for, and whether the object's checksum is one of the parts' checksums.
    pub checksum: Option<(ChecksumAlgorithm, bool)>,
}
record!(Upload, "a multipart upload");

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub bytes: u64,
    pub md5: [u8; 16],
    pub checksum: Option<Checksum>,
    pub modified_ms: u64,
    pub segments: Vec<SegmentRef>,
}
record!(Part, "an uploaded part");

/// A live upload's protection from garbage collection: what became unreferenced since `since_ms` stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub since_ms: u64,
    pub expires_ms: u64,
}
record!(Lease, "an upload's lease");

/// A deleted pack's name, and when it was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    pub since_ms: u64,
}
record!(Tombstone, "a tombstone");

record!(Remembered, "a remembered outcome");
/// What a request was answered, for a client that repeats it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub outcome: crate::command::Outcome,
}
