//! Questions as values, so that they can be asked of a metadata member in another process.
//!
//! A question is evaluated where the state is, on one consistent view. The variants of [`Ask`] and the shapes of their
//! answers are a wire format: a changed question is a new variant behind the others.

use crate::{
    list::{self, ListRequest, Page, VersionPage},
    names::{self, ChangesPage, NamesPage},
    people, query,
    records::{
        AccessKey, Account, AdminToken, Archive, Authority, Bucket, BucketConfig, BucketUsage, Chunk,
        ClassPool, Device, Extra, Header, Host, JournalRecord, Keyring, Link, Pack, Part, Pg, PgBefore3,
        Pool, Segment, Settings, Shares, Token, Tombstone, Upload, Version, VersionName,
    },
};
use holdfast_core::{
    codec::{self, DecodeError},
    ids::{
        BucketId, ChunkId, DeviceId, DomainId, HostId, NodeId, PackId, PgId, PoolId, SegmentId, UploadId,
        VersionId,
    },
    kv::{KvError, View},
    profile::Profile,
    roles::Role,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;

/// A question with an answer of one type.
pub trait Question: Into<Ask> + Send + Sync {
    type Answer: Serialize + DeserializeOwned + Send;

    /// One lookup, or several at once, which need no snapshot to be consistent.
    const SINGLE: bool;

    /// # Errors
    /// Where the state cannot be read.
    fn answer(&self, view: &dyn View) -> Result<Self::Answer, KvError>;
}

macro_rules! questions {
    ($($(#[$doc:meta])* $single:literal $name:ident { $($field:ident: $type:ty),* } => $answer:ty: |$question:ident, $view:ident| $body:expr;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
            pub struct $name { $(pub $field: $type),* }

            impl Question for $name {
                type Answer = $answer;
                const SINGLE: bool = $single;

                fn answer(&self, $view: &dyn View) -> Result<$answer, KvError> {
                    let $question = self;
                    $body
                }
            }

            impl From<$name> for Ask {
                fn from(question: $name) -> Self {
                    Self::$name(question)
                }
            }
        )*

        /// Any question.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Ask { $($name($name)),* }

        impl Ask {
            /// See [`Question::SINGLE`].
            pub fn is_single(&self) -> bool {
                match self { $(Self::$name(_) => $single,)* }
            }

            /// The encoded answer.
            ///
            /// # Errors
            /// Where the state cannot be read.
            pub fn answer(&self, view: &dyn View) -> Result<Vec<u8>, KvError> {
                match self { $(Self::$name(question) => Ok(codec::encode(&question.answer(view)?)),)* }
            }
        }
    };
}

impl Ask {
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// # Errors
    /// Where the bytes are no question that this binary knows.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode("a question", bytes)
    }
}

/// What gateways and devices need to know of each other.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Topology {
    pub pool: Option<Pool>,
    pub pgs: Vec<(PgId, Pg)>,
    pub devices: Vec<(DeviceId, Device)>,
    pub hosts: Vec<(HostId, Host)>,
    /// Pools beside the first one.
    pub class_pools: Vec<(PoolId, ClassPool)>,
    /// The classes of devices that have one.
    pub device_classes: Vec<(DeviceId, String)>,
}

/// A [`Topology`] as version 5 sent it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TopologyV5 {
    pub pool: Option<Pool>,
    pub pgs: Vec<(PgId, Pg)>,
    pub devices: Vec<(DeviceId, Device)>,
    pub hosts: Vec<(HostId, Host)>,
}

impl From<TopologyV5> for Topology {
    fn from(TopologyV5 { pool, pgs, devices, hosts }: TopologyV5) -> Self {
        Self { pool, pgs, devices, hosts, ..Self::default() }
    }
}

/// A [`Topology`] as version 2 sent it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TopologyV2 {
    pub pool: Option<Pool>,
    pub pgs: Vec<(PgId, PgBefore3)>,
    pub devices: Vec<(DeviceId, Device)>,
    pub hosts: Vec<(HostId, Host)>,
}

impl From<TopologyV2> for Topology {
    fn from(TopologyV2 { pool, pgs, devices, hosts }: TopologyV2) -> Self {
        let pgs = pgs.into_iter().map(|(id, pg)| (id, pg.into())).collect();
        Self { pool, pgs, devices, hosts, ..Self::default() }
    }
}

/// A pool, and what belongs to it.
#[derive(Debug)]
pub struct PoolShown<'a> {
    pub id: PoolId,
    pub pool: &'a Pool,
    /// The storage class that it is for, but for the first one.
    pub class: Option<&'a str>,
    /// The class of devices that it is on; `None` for those that have none.
    pub on: Option<&'a str>,
    pub devices: BTreeMap<DeviceId, Device>,
    pub groups: &'a [(PgId, Pg)],
}

impl Topology {
    /// All pools. Devices of a class serve the pools that name it, and the others those that name none.
    pub fn pools(&self) -> impl Iterator<Item = PoolShown<'_>> {
        let first = self.pool.iter().map(|pool| (PoolId::FIRST, pool, None, None));
        let others = self.class_pools.iter();
        let others = others.map(|(id, of)| (*id, &of.pool, Some(of.class.as_str()), of.devices.as_deref()));
        first.chain(others).map(|(id, pool, class, on)| {
            let start = self.pgs.partition_point(|(pg, _)| pg.pool() < id);
            let end = self.pgs.partition_point(|(pg, _)| pg.pool() <= id);
            PoolShown { id, pool, class, on, devices: self.devices_of(on), groups: &self.pgs[start..end] }
        })
    }

    /// The number that the next pool beside the first one has; `None` where there are as many as there can be.
    pub fn next_pool(&self) -> Option<PoolId> {
        let last = self.class_pools.iter().map(|(id, _)| id.0).max().unwrap_or(PoolId::FIRST.0);
        last.checked_add(1).map(PoolId)
    }

    /// The erasure profile of a pool.
    pub fn profile_of(&self, id: PoolId) -> Option<Profile> {
        if id == PoolId::FIRST {
            return self.pool.as_ref().map(|pool| pool.profile);
        }
        self.class_pools.iter().find(|(known, _)| *known == id).map(|(_, of)| of.pool.profile)
    }

    /// The devices of a class, or those that have none.
    pub fn devices_of(&self, class: Option<&str>) -> BTreeMap<DeviceId, Device> {
        let class_of = |id: &DeviceId| {
            let found = self.device_classes.iter().find(|(device, _)| device == id);
            found.map(|(_, class)| class.as_str())
        };
        self.devices.iter().filter(|(id, _)| class_of(id) == class).cloned().collect()
    }

    /// The hosts that keep the metadata, or are about to.
    pub fn members(&self) -> impl Iterator<Item = (HostId, &Host)> {
        let meant = |host: &Host| host.roles.has(Role::Meta) && !host.revoked;
        self.hosts.iter().filter(move |(_, host)| meant(host)).map(|(id, host)| (*id, host))
    }

    pub fn host(&self, id: HostId) -> Option<&Host> {
        self.hosts.iter().find(|(known, _)| *known == id).map(|(_, host)| host)
    }
}

/// What the cluster's own work has before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Backlog {
    /// Packs that lack shards, and bytes of these shards.
    pub degraded_packs: u64,
    pub degraded_bytes: u64,
    /// Packs that are not where they belong, and bytes of the shards that move.
    pub moving_packs: u64,
    pub moving_bytes: u64,
    /// Packs worth compacting.
    pub reclaimable_packs: u64,
    /// There is more than was looked at.
    pub truncated: bool,
}

/// A chunk, and the pack it is in, of one view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub chunk: Chunk,
    pub pack: Pack,
}

/// A version with all that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    pub version: Version,
    pub extra: Extra,
    /// It is the key's newest version.
    pub latest: bool,
}

/// A part of a bucket's journal.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct JournalPage {
    /// With their numbers, in order.
    pub records: Vec<(u64, JournalRecord)>,
    /// The number of the record that comes next.
    pub next: u64,
}

/// What a key and a version's name lead to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum LookedUp {
    #[default]
    NotAsked,
    NoKey,
    NoVersion,
    Found(Box<Object>),
}

/// All that a request needs to be judged, of one view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    pub bucket: Option<Bucket>,
    /// `None` where the bucket's configuration is as it was seen.
    pub config: Option<BucketConfig>,
    /// Of the last change of identities.
    pub identities: u64,
    pub object: LookedUp,
}

fn look(view: &dyn View, question: &LookAt) -> Result<Look, KvError> {
    let identities = query::identity_number(view)?;
    let Some(bucket) = query::bucket(view, &question.bucket)? else {
        return Ok(Look { bucket: None, config: None, identities, object: LookedUp::NotAsked });
    };
    let config = query::bucket_config(view, bucket.id)?;
    let config = Some(config).filter(|config| question.seen != Some((bucket.id, config.number)));
    let object = match &question.key {
        Some((key, name)) => query::look_up(view, bucket.id, key, *name)?,
        None => LookedUp::NotAsked,
    };
    Ok(Look { bucket: Some(bucket), config, identities, object })
}

// Whether it is a single lookup, its name, its fields, its answer.
questions! {
    true HeaderNow {} => Option<Header>: |_question, view| query::header(view);
    true BucketNamed { name: String } => Option<Bucket>: |question, view| query::bucket(view, &question.name);
    false AllBuckets {} => Vec<Bucket>: |_question, view| query::buckets(view);
    /// The current version of a key.
    false CurrentVersion { bucket: BucketId, key: Vec<u8> } => Option<Version>:
        |question, view| query::object(view, question.bucket, &question.key);
    true InlineBytes { bucket: BucketId, node: NodeId, version: VersionId } => Option<Vec<u8>>:
        |question, view| query::inline(view, question.bucket, question.node, question.version);
    true SegmentOf { id: SegmentId } => Option<Segment>: |question, view| query::segment(view, question.id);
    /// In the order asked.
    true ChunksOf { domain: DomainId, ids: Vec<ChunkId> } => Vec<Option<Chunk>>:
        |question, view| query::chunks(view, question.domain, question.ids.iter().copied());
    /// Chunks with their packs, in the order asked.
    false Locate { domain: DomainId, ids: Vec<ChunkId> } => Vec<Option<Found>>:
        |question, view| query::locate(view, question.domain, &question.ids);
    /// See [`query::deduplicates`].
    true Deduplicates { domain: DomainId, ids: Vec<ChunkId> } => Vec<bool>:
        |question, view| query::deduplicates(view, question.domain, question.ids.iter().copied());
    true PackOf { id: PackId } => Option<Pack>: |question, view| query::pack(view, question.id);
    /// Packs above `after` in id order, of one placement group or all.
    false Packs { pg: Option<PgId>, after: Option<PackId>, limit: u32 } => Vec<(PackId, Pack)>:
        |question, view| query::packs(view, question.pg, question.after, question.limit as usize);
    false DegradedPacks { after: Option<(u8, PackId)>, limit: u32 } => Vec<(u8, PackId)>:
        |question, view| query::degraded(view, question.after, question.limit as usize);
    false ReclaimablePacks { limit: u32 } => Vec<PackId>:
        |question, view| query::reclaimable(view, question.limit as usize);
    /// [`TopologyNow`] as hosts of version 2 understand it.
    false TopologyBefore3 {} => TopologyV2: |_question, view| Ok(TopologyV2 {
        pool: query::pool(view)?,
        pgs: query::pgs(view)?.into_iter().map(|(id, pg)| (id, pg.into())).collect(),
        devices: query::devices(view)?,
        hosts: query::hosts(view)?,
    });
    true UploadOf { bucket: BucketId, key: Vec<u8>, id: UploadId } => Option<Upload>:
        |question, view| query::upload(view, question.bucket, &question.key, question.id);
    false UploadsAfter { bucket: BucketId, after: Option<(Vec<u8>, UploadId)>, limit: u32 } => Vec<(Vec<u8>, UploadId, Upload)>:
        |question, view| {
            let after = question.after.as_ref().map(|(key, id)| (key.as_slice(), *id));
            query::uploads(view, question.bucket, after, question.limit as usize)
        };
    false PartsOf { id: UploadId } => Vec<(u16, Part)>: |question, view| query::parts(view, question.id);
    false Listing { bucket: BucketId, wanted: ListRequest } => Page:
        |question, view| list::list(view, question.bucket, &question.wanted);
    true AuthorityNow {} => Option<Authority>: |_question, view| query::authority(view);
    true TokenOf { hash: [u8; 32] } => Option<Token>: |question, view| query::token(view, &question.hash);
    true HostOf { id: HostId } => Option<Host>: |question, view| query::host(view, question.id);
    false AccessKeys {} => Vec<AccessKey>: |_question, view| query::access_keys(view);
    true IsToken { hash: [u8; 32] } => bool: |question, view| query::is_token(view, &question.hash);
    true KeyringNow {} => Option<Keyring>: |_question, view| query::keyring(view);
    true ArchiveNow {} => Archive: |_question, view| query::archive(view);
    true SettingsNow {} => Settings: |_question, view| query::settings(view);
    false AdminTokens {} => Vec<([u8; 32], AdminToken)>: |_question, view| query::admin_tokens(view);
    /// What jobs have before them; at most so many packs are looked at.
    false BacklogNow { limit: u32 } => Backlog: |question, view| query::backlog(view, question.limit as usize);
    /// [`TopologyNow`] as hosts of versions 3 to 5 understand it.
    false TopologyBefore6 {} => TopologyV5: |_question, view| Ok(TopologyV5 {
        pool: query::pool(view)?,
        pgs: query::pgs(view)?,
        devices: query::devices(view)?,
        hosts: query::hosts(view)?,
    });
    true AdminTokenOf { hash: [u8; 32] } => Option<AdminToken>: |question, view| query::admin_token(view, &question.hash);
    true TombstoneOf { id: PackId } => Option<Tombstone>: |question, view| query::tombstone(view, question.id);
    /// A bucket, its configuration where it is not the one that was `seen`, and perhaps an object.
    false LookAt { bucket: String, seen: Option<(BucketId, u64)>, key: Option<(Vec<u8>, Option<VersionName>)> } => Look:
        |question, view| look(view, question);
    false VersionListing { bucket: BucketId, wanted: ListRequest, after: Option<VersionName> } => VersionPage:
        |question, view| list::list_versions(view, question.bucket, &question.wanted, question.after);
    true UsageOf { bucket: BucketId } => Option<BucketUsage>: |question, view| query::usage(view, question.bucket);
    /// The number of their last change, and all identities.
    false IdentitiesNow {} => (u64, Vec<(String, String)>):
        |_question, view| Ok((query::identity_number(view)?, query::identities(view)?));
    /// [`UploadsAfter`], each with whose its object will be.
    false OwnedUploadsAfter { bucket: BucketId, after: Option<(Vec<u8>, UploadId)>, limit: u32 } => Vec<(Vec<u8>, UploadId, Upload, String)>:
        |question, view| {
            let after = question.after.as_ref().map(|(key, id)| (key.as_slice(), *id));
            let uploads = query::uploads(view, question.bucket, after, question.limit as usize)?;
            let owned = |(key, id, upload)| Ok((key, id, upload, query::upload_extra(view, id)?.owner));
            uploads.into_iter().map(owned).collect()
        };
    /// Whose an upload's object will be.
    true UploadOwner { id: UploadId } => String:
        |question, view| Ok(query::upload_extra(view, question.id)?.owner);
    /// All buckets with their configurations.
    false ConfiguredBuckets {} => Vec<(Bucket, BucketConfig)>: |_question, view| {
        let with_config = |bucket: Bucket| query::bucket_config(view, bucket.id).map(|config| (bucket, config));
        query::buckets(view)?.into_iter().map(with_config).collect()
    };
    /// [`UploadOf`] with what its version will have.
    true UploadWith { bucket: BucketId, key: Vec<u8>, id: UploadId } => Option<(Upload, Extra)>:
        |question, view| match query::upload(view, question.bucket, &question.key, question.id)? {
            Some(upload) => Ok(Some((upload, query::upload_extra(view, question.id)?))),
            None => Ok(None),
        };
    /// A bucket's journal from a number on.
    false JournalFrom { bucket: BucketId, from: u64, limit: u32 } => JournalPage:
        |question, view| query::journal(view, question.bucket, question.from, question.limit as usize);
    /// How far a reader of a bucket's journal is.
    true CursorOf { bucket: BucketId, name: String } => Option<u64>:
        |question, view| query::cursor(view, question.bucket, &question.name);
    /// Versions that may be gone, in the order asked.
    false VersionsOf { bucket: BucketId, wanted: Vec<(NodeId, VersionId)> } => Vec<Option<(Version, Extra)>>: |question, view| {
        let find = |(node, version): &(NodeId, VersionId)| query::version(view, question.bucket, *node, *version);
        question.wanted.iter().map(find).collect()
    };
    false TopologyNow {} => Topology: |_question, view| Ok(Topology {
        pool: query::pool(view)?,
        pgs: query::pgs(view)?,
        devices: query::devices(view)?,
        hosts: query::hosts(view)?,
        class_pools: query::class_pools(view)?,
        device_classes: query::device_classes(view)?,
    });
    /// A document of versions that may be gone, by key, in the order asked.
    false DocumentsOf { bucket: BucketId, wanted: Vec<(Vec<u8>, Option<VersionName>)>, name: String } => Vec<Option<String>>:
        |question, view| {
            let find = |(key, version): &(Vec<u8>, Option<VersionName>)| {
                Ok(match query::look_up(view, question.bucket, key, *version)? {
                    LookedUp::Found(mut object) => object.extra.documents.remove(&question.name),
                    LookedUp::NotAsked | LookedUp::NoKey | LookedUp::NoVersion => None,
                })
            };
            question.wanted.iter().map(find).collect()
        };
    /// See [`names::names`].
    false NamesAfter { bucket: BucketId, base: Vec<u8>, after: Vec<u8>, limit: u32 } => NamesPage:
        |question, view| {
            names::names(view, question.bucket, &question.base, &question.after, question.limit as usize)
        };
    /// See [`names::changes`].
    false NamesChanged { bucket: BucketId, base: Vec<u8>, from: u64, limit: u32 } => ChangesPage:
        |question, view| {
            names::changes(view, question.bucket, &question.base, question.from, question.limit as usize)
        };
    /// What an owner of buckets stores; `None` where that is not limited.
    true AccountOf { owner: String } => Option<Account>: |question, view| people::account(view, &question.owner);
    /// What of a bucket is shared with a user.
    true SharesFor { bucket: BucketId, user: String } => Shares:
        |question, view| people::shares_for(view, question.bucket, &question.user);
    /// All shares of a bucket, or all shares with a user.
    false SharesOf { bucket: Option<BucketId>, user: Option<String> } => Vec<(BucketId, String, Shares)>:
        |question, view| people::shares(view, question.bucket, question.user.as_deref());
    true LinkOf { bucket: BucketId, id: [u8; 32] } => Option<Link>:
        |question, view| people::link(view, question.bucket, &question.id);
    false LinksOf { bucket: BucketId } => Vec<([u8; 32], Link)>: |question, view| people::links(view, question.bucket);
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::kv::MemStore;

    #[test]
    fn questions_and_answers_survive_the_wire() {
        let ask = Ask::from(Listing { bucket: BucketId(1), wanted: ListRequest::default() });
        assert_eq!(Ask::from_bytes(&ask.to_bytes()), Ok(ask.clone()));
        let answer = ask.answer(&MemStore::default()).expect("memory reads");
        assert_eq!(codec::decode::<Page>("a page", &answer), Ok(Page::default()));
        assert!(Ask::from_bytes(&[0xff; 9]).is_err());
    }

    /// Kept: the numbers under which members of other versions know these questions.
    #[test]
    fn questions_keep_their_numbers() {
        assert_eq!(Ask::from(HeaderNow {}).to_bytes(), [0]);
        assert_eq!(Ask::from(TopologyBefore3 {}).to_bytes(), [13]);
        assert_eq!(Ask::from(AccessKeys {}).to_bytes(), [21]);
        assert_eq!(Ask::from(IdentitiesNow {}).to_bytes(), [34]);
        assert_eq!(Ask::from(ConfiguredBuckets {}).to_bytes(), [37]);
        assert_eq!(Ask::from(TopologyNow {}).to_bytes(), [42]);
    }
}
