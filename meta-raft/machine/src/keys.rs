//! The layout of the state: every key starts with its table and its partition.
//!
//! There is one partition today. Its number is in every key from the first day, so that the namespace can be split by
//! bucket and the chunk index by hash without rewriting a record.

use holdfast_core::ids::{
    BucketId, ChunkId, DeviceId, DomainId, HostId, LeaseId, NodeId, PackId, PgId, PoolId, RequestId,
    SegmentId, UploadId, VersionId,
};

const PARTITION: [u8; 2] = [0, 0];

/// The first byte of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Table {
    Header = b'a',
    BucketName = b'b',
    Bucket = b'c',
    BucketUsage = b'd',
    DirEntry = b'e',
    Version = b'f',
    Inline = b'g',
    Journal = b'h',
    Upload = b'i',
    Part = b'j',
    Chunk = b'k',
    Segment = b'l',
    SegmentUse = b'm',
    Pack = b'n',
    Device = b'o',
    Pg = b'p',
    Pool = b'q',
    Lease = b'r',
    Request = b's',
    /// What nothing references, by the time since when.
    Zero = b't',
    /// Segment references to drop, by the time they were given up.
    Release = b'u',
    /// Packs with missing shards, the most endangered first.
    Degraded = b'v',
    /// Packs worth compacting, the emptiest first.
    Reclaim = b'w',
    Tombstone = b'x',
    /// Tombstones by the time since when.
    TombstoneTime = b'y',
    /// Journals of buckets that were deleted.
    DeadJournal = b'z',
    Host = b'A',
    /// Join tokens by the hash of their secret.
    Token = b'B',
    Authority = b'C',
    AccessKey = b'D',
    Keyring = b'E',
    Archive = b'F',
    Settings = b'G',
    /// Admin tokens by the hash of their secret.
    AdminToken = b'H',
    /// Whom a join token let in, by the hash of its secret.
    UsedToken = b'I',
    /// Names whose current version is a delete marker, laid out as [`Table::DirEntry`].
    HiddenEntry = b'J',
    /// What versions have beyond plain objects.
    Extra = b'K',
    BucketConfig = b'L',
    /// A node's null version, where it is not the current one.
    NullVersion = b'M',
    /// What an upload's version will have beyond a plain object.
    UploadExtra = b'N',
    /// Users, groups, roles, policies and keys, by name.
    Identity = b'O',
    /// The raft entry that changed an identity last.
    IdentityNumber = b'P',
    /// How far readers of a bucket's journal are.
    Cursor = b'Q',
    /// Pools beside the first one.
    ClassPool = b'R',
    DeviceClass = b'S',
    /// What owners of buckets store, where that is limited.
    Account = b'T',
    /// What of a bucket is shared, by its user.
    Share = b'U',
    /// Links to what is in a bucket, by the hashes of their secrets.
    Link = b'V',
}

/// A tree of names. Each has directories of its own; a name with versions is in one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tree {
    /// Objects that are there.
    Live,
    /// Objects that were deleted, and have a history. Listings of what is there do not meet them.
    Hidden,
}

impl Tree {
    fn table(self) -> Table {
        match self {
            Self::Live => Table::DirEntry,
            Self::Hidden => Table::HiddenEntry,
        }
    }
}

pub fn table(table: Table) -> Vec<u8> {
    vec![table as u8, PARTITION[0], PARTITION[1]]
}

fn key(of: Table, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(3 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.extend_from_slice(&[of as u8, PARTITION[0], PARTITION[1]]);
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

pub fn header() -> Vec<u8> {
    table(Table::Header)
}

pub fn account(owner: &str) -> Vec<u8> {
    key(Table::Account, &[owner.as_bytes()])
}

pub fn shares_of(bucket: BucketId) -> Vec<u8> {
    key(Table::Share, &[&bucket.0.to_be_bytes()])
}

pub fn share(bucket: BucketId, user: &str) -> Vec<u8> {
    key(Table::Share, &[&bucket.0.to_be_bytes(), user.as_bytes()])
}

pub fn links_of(bucket: BucketId) -> Vec<u8> {
    key(Table::Link, &[&bucket.0.to_be_bytes()])
}

pub fn link(bucket: BucketId, id: &[u8; 32]) -> Vec<u8> {
    key(Table::Link, &[&bucket.0.to_be_bytes(), id])
}

pub fn bucket_name(name: &str) -> Vec<u8> {
    key(Table::BucketName, &[name.as_bytes()])
}

pub fn bucket(id: BucketId) -> Vec<u8> {
    key(Table::Bucket, &[&id.0.to_be_bytes()])
}

pub fn bucket_usage(id: BucketId) -> Vec<u8> {
    key(Table::BucketUsage, &[&id.0.to_be_bytes()])
}

/// A directory's entries share this prefix. A component that is itself a directory ends in `/`, so that a walk in key
/// order visits objects in the byte order of their whole keys.
pub fn dir(tree: Tree, bucket: BucketId, parent: NodeId) -> Vec<u8> {
    key(tree.table(), &[&bucket.0.to_be_bytes(), &parent.0.to_be_bytes()])
}

/// All names of a bucket that are there.
pub fn dirs_of(bucket: BucketId) -> Vec<u8> {
    key(Table::DirEntry, &[&bucket.0.to_be_bytes()])
}

pub const DIR_PREFIX_LEN: usize = 3 + 8 + 8;

pub fn dir_entry(tree: Tree, bucket: BucketId, parent: NodeId, component: &[u8]) -> Vec<u8> {
    key(tree.table(), &[&bucket.0.to_be_bytes(), &parent.0.to_be_bytes(), component])
}

/// Newest first within a node.
pub fn version(bucket: BucketId, node: NodeId, version: VersionId) -> Vec<u8> {
    key(Table::Version, &[&bucket.0.to_be_bytes(), &node.0.to_be_bytes(), &(!version.0).to_be_bytes()])
}

pub fn inline(bucket: BucketId, node: NodeId, version: VersionId) -> Vec<u8> {
    key(Table::Inline, &[&bucket.0.to_be_bytes(), &node.0.to_be_bytes(), &(!version.0).to_be_bytes()])
}

/// All versions of a node.
pub fn versions_of(bucket: BucketId, node: NodeId) -> Vec<u8> {
    key(Table::Version, &[&bucket.0.to_be_bytes(), &node.0.to_be_bytes()])
}

pub fn extra(bucket: BucketId, node: NodeId, version: VersionId) -> Vec<u8> {
    key(Table::Extra, &[&bucket.0.to_be_bytes(), &node.0.to_be_bytes(), &(!version.0).to_be_bytes()])
}

pub fn null_version(bucket: BucketId, node: NodeId) -> Vec<u8> {
    key(Table::NullVersion, &[&bucket.0.to_be_bytes(), &node.0.to_be_bytes()])
}

pub fn bucket_config(bucket: BucketId) -> Vec<u8> {
    key(Table::BucketConfig, &[&bucket.0.to_be_bytes()])
}

pub fn upload_extra(id: UploadId) -> Vec<u8> {
    key(Table::UploadExtra, &[&id.0])
}

pub fn identity(name: &str) -> Vec<u8> {
    key(Table::Identity, &[name.as_bytes()])
}

pub fn identity_number() -> Vec<u8> {
    table(Table::IdentityNumber)
}

pub fn journal(bucket: BucketId, number: u64) -> Vec<u8> {
    key(Table::Journal, &[&bucket.0.to_be_bytes(), &number.to_be_bytes()])
}

pub fn cursor(bucket: BucketId, name: &str) -> Vec<u8> {
    key(Table::Cursor, &[&bucket.0.to_be_bytes(), name.as_bytes()])
}

pub fn cursors_of(bucket: BucketId) -> Vec<u8> {
    key(Table::Cursor, &[&bucket.0.to_be_bytes()])
}

pub fn uploads_of(bucket: BucketId) -> Vec<u8> {
    key(Table::Upload, &[&bucket.0.to_be_bytes()])
}

/// Uploads sort by object key, then by id. The key is escaped (`00` as `00 ff`) and ended by `00 01`, which keeps byte
/// order where one key is the beginning of another.
pub fn upload(bucket: BucketId, object: &[u8], id: UploadId) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(object.len() + 2);
    for &byte in object {
        escaped.push(byte);
        if byte == 0 {
            escaped.push(0xff);
        }
    }
    escaped.extend_from_slice(&[0, 1]);
    key(Table::Upload, &[&bucket.0.to_be_bytes(), &escaped, id.as_bytes()])
}

/// The object key and id of a key of [`upload`].
pub fn parse_upload(key: &[u8]) -> Option<(Vec<u8>, UploadId)> {
    let body = key.get(3 + 8..)?;
    let id_at = body.len().checked_sub(UploadId::LEN)?;
    let id = UploadId::from_slice(&body[id_at..])?;
    let escaped = body[..id_at].strip_suffix(&[0, 1])?;
    let mut object = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(&byte) = bytes.next() {
        object.push(byte);
        if byte == 0 {
            bytes.next();
        }
    }
    Some((object, id))
}

pub fn parts_of(upload: UploadId) -> Vec<u8> {
    key(Table::Part, &[upload.as_bytes()])
}

pub fn part(upload: UploadId, number: u16) -> Vec<u8> {
    key(Table::Part, &[upload.as_bytes(), &number.to_be_bytes()])
}

pub fn chunk(domain: DomainId, id: ChunkId) -> Vec<u8> {
    key(Table::Chunk, &[&domain.0.to_be_bytes(), id.as_bytes()])
}

pub fn segment(id: SegmentId) -> Vec<u8> {
    key(Table::Segment, &[id.as_bytes()])
}

pub fn segment_use(id: SegmentId) -> Vec<u8> {
    key(Table::SegmentUse, &[id.as_bytes()])
}

pub fn pack(id: PackId) -> Vec<u8> {
    key(Table::Pack, &[id.as_bytes()])
}

pub fn device(id: DeviceId) -> Vec<u8> {
    key(Table::Device, &[&id.0.to_be_bytes()])
}

pub fn host(id: HostId) -> Vec<u8> {
    key(Table::Host, &[&id.0.to_be_bytes()])
}

pub fn token(hash: &[u8; 32]) -> Vec<u8> {
    key(Table::Token, &[hash])
}

pub fn used_token(hash: &[u8; 32]) -> Vec<u8> {
    key(Table::UsedToken, &[hash])
}

pub fn authority() -> Vec<u8> {
    table(Table::Authority)
}

pub fn keyring() -> Vec<u8> {
    table(Table::Keyring)
}

pub fn archive() -> Vec<u8> {
    table(Table::Archive)
}

pub fn settings() -> Vec<u8> {
    table(Table::Settings)
}

pub fn admin_token(hash: &[u8; 32]) -> Vec<u8> {
    key(Table::AdminToken, &[hash])
}

pub fn access_key(access: &str) -> Vec<u8> {
    key(Table::AccessKey, &[access.as_bytes()])
}

/// The packs of a placement group: their names begin with its number.
pub fn packs_of(pg: PgId) -> Vec<u8> {
    key(Table::Pack, &[&pg.0.to_be_bytes()])
}

pub fn pg(id: PgId) -> Vec<u8> {
    key(Table::Pg, &[&id.0.to_be_bytes()])
}

pub fn pool() -> Vec<u8> {
    table(Table::Pool)
}

/// A pool beside the first one.
pub fn class_pool(id: PoolId) -> Vec<u8> {
    key(Table::ClassPool, &[&[id.0]])
}

/// The class of a device that has one.
pub fn device_class(id: DeviceId) -> Vec<u8> {
    key(Table::DeviceClass, &[&id.0.to_be_bytes()])
}

pub fn lease(id: LeaseId) -> Vec<u8> {
    key(Table::Lease, &[id.as_bytes()])
}

pub fn request(id: RequestId) -> Vec<u8> {
    key(Table::Request, &[id.as_bytes()])
}

/// The end of the requests made before `unix_ms`.
pub fn requests_before(unix_ms: u64) -> Vec<u8> {
    key(Table::Request, &[&unix_ms.to_be_bytes()])
}

/// What nothing references.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreferenced {
    Segment(SegmentId),
    Chunk(DomainId, ChunkId),
}

pub fn zero(since_ms: u64, what: Unreferenced) -> Vec<u8> {
    let since = since_ms.to_be_bytes();
    match what {
        Unreferenced::Segment(id) => key(Table::Zero, &[&since, &[0], id.as_bytes()]),
        Unreferenced::Chunk(domain, id) => {
            key(Table::Zero, &[&since, &[1], &domain.0.to_be_bytes(), id.as_bytes()])
        }
    }
}

/// The end of what has been unreferenced since before `ms`.
pub fn zero_before(ms: u64) -> Vec<u8> {
    key(Table::Zero, &[&ms.to_be_bytes()])
}

pub fn parse_zero(key: &[u8]) -> Option<Unreferenced> {
    match key.get(11..)? {
        [0, id @ ..] => SegmentId::from_slice(id).map(Unreferenced::Segment),
        [1, rest @ ..] if rest.len() == 40 => {
            let domain = DomainId(u64::from_be_bytes(rest[..8].try_into().ok()?));
            ChunkId::from_slice(&rest[8..]).map(|id| Unreferenced::Chunk(domain, id))
        }
        _ => None,
    }
}

pub fn release(since_ms: u64, number: u64, segment: SegmentId) -> Vec<u8> {
    key(Table::Release, &[&since_ms.to_be_bytes(), &number.to_be_bytes(), segment.as_bytes()])
}

/// The end of the releases made before `ms`.
pub fn release_before(ms: u64) -> Vec<u8> {
    key(Table::Release, &[&ms.to_be_bytes()])
}

pub fn parse_release(key: &[u8]) -> Option<SegmentId> {
    SegmentId::from_slice(key.get(3 + 16..)?)
}

pub fn degraded(spare: u8, pack: PackId) -> Vec<u8> {
    key(Table::Degraded, &[&[spare], pack.as_bytes()])
}

pub fn reclaim(level: u8, pack: PackId) -> Vec<u8> {
    key(Table::Reclaim, &[&[level], pack.as_bytes()])
}

/// The pack of a key of [`degraded`] or [`reclaim`].
pub fn parse_ranked_pack(key: &[u8]) -> Option<PackId> {
    PackId::from_slice(key.get(4..)?)
}

pub fn tombstone(pack: PackId) -> Vec<u8> {
    key(Table::Tombstone, &[pack.as_bytes()])
}

pub fn tombstone_time(since_ms: u64, pack: PackId) -> Vec<u8> {
    key(Table::TombstoneTime, &[&since_ms.to_be_bytes(), pack.as_bytes()])
}

/// The end of the tombstones since before `ms`.
pub fn tombstones_before(ms: u64) -> Vec<u8> {
    key(Table::TombstoneTime, &[&ms.to_be_bytes()])
}

pub fn dead_journal(bucket: BucketId) -> Vec<u8> {
    key(Table::DeadJournal, &[&bucket.0.to_be_bytes()])
}

pub fn journal_of(bucket: BucketId) -> Vec<u8> {
    key(Table::Journal, &[&bucket.0.to_be_bytes()])
}

/// The last `N` bytes of a key as an id's bytes.
pub fn tail<const N: usize>(key: &[u8]) -> Option<[u8; N]> {
    key.get(key.len().checked_sub(N)?..)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn uploads_sort_by_object_key(a: Vec<u8>, b: Vec<u8>, x: [u8; 16], y: [u8; 16]) {
            let (low, high) = (upload(BucketId(1), &a, UploadId(x)), upload(BucketId(1), &b, UploadId(y)));
            prop_assert_eq!(low.cmp(&high), a.cmp(&b).then(x.cmp(&y)));
            prop_assert_eq!(parse_upload(&low), Some((a, UploadId(x))));
        }
    }

    #[test]
    fn queue_keys_can_be_read_back() {
        let (segment, chunk) = (SegmentId([3; 16]), ChunkId([9; 32]));
        let what = Unreferenced::Chunk(DomainId(7), chunk);
        assert_eq!(parse_zero(&zero(5, what)), Some(what));
        assert_eq!(
            parse_zero(&zero(5, Unreferenced::Segment(segment))),
            Some(Unreferenced::Segment(segment))
        );
        assert_eq!(parse_release(&release(5, 6, segment)), Some(segment));
        assert_eq!(parse_ranked_pack(&reclaim(1, PackId([4; 16]))), Some(PackId([4; 16])));
        assert_eq!(parse_zero(b"t"), None);
    }
}
