//! What buckets are set to, read once for each change.

use super::{acl::Acl, encryption, logging, replication};
use crate::lifecycle::rules::Rule;
use holdfast_gateway_policy::Policy;
use holdfast_meta_raft_machine::records::{Bucket, BucketConfig, ENCRYPTION};
use s3s::{
    dto::{
        CORSConfiguration, ObjectOwnership, OwnershipControls, PublicAccessBlockConfiguration,
        WebsiteConfiguration,
    },
    xml::{Deserialize, Deserializer},
};
use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Buckets that are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).expect("it is not zero");

/// Who owns what is written into a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Whoever wrote it; what buckets have that say nothing.
    ObjectWriter,
    /// The bucket's owner, where the writer grants it full control.
    BucketOwnerPreferred,
    /// The bucket's owner; lists of grants are not used.
    BucketOwnerEnforced,
}

/// What of a bucket may not be public, whatever its policy and lists say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Block {
    pub block_public_acls: bool,
    pub ignore_public_acls: bool,
    pub block_public_policy: bool,
    pub restrict_public_buckets: bool,
}

/// A bucket with its configuration read.
pub struct BucketView {
    pub bucket: Bucket,
    pub config: BucketConfig,
    /// One that cannot be read denies everything.
    pub policy: Option<Result<Policy, ()>>,
    pub acl: Acl,
    pub block: Block,
    pub ownership: Ownership,
    pub cors: Option<CORSConfiguration>,
    pub lifecycle: Vec<Rule>,
    pub website: Option<WebsiteConfiguration>,
    /// Where its access log goes.
    pub logging: Option<logging::Target>,
    pub replication: Vec<replication::Rule>,
    /// Whether somebody is told of what happens in it.
    pub notifies: bool,
    /// What is encrypted of which nobody says how. One that cannot be read lets nothing be written.
    pub encryption: Option<Result<encryption::Default, ()>>,
}

/// Reads a document that is kept as XML.
pub fn from_xml<T: for<'xml> Deserialize<'xml>>(text: &str) -> Option<T> {
    let mut reader = Deserializer::new(text.as_bytes());
    T::deserialize(&mut reader).ok()
}

fn ownership(text: &str) -> Ownership {
    let rules = from_xml::<OwnershipControls>(text).map(|controls| controls.rules).unwrap_or_default();
    match rules.first().map(|rule| rule.object_ownership.as_str()) {
        Some(ObjectOwnership::OBJECT_WRITER) => Ownership::ObjectWriter,
        Some(ObjectOwnership::BUCKET_OWNER_PREFERRED) => Ownership::BucketOwnerPreferred,
        // The strictest, where it cannot be read.
        _ => Ownership::BucketOwnerEnforced,
    }
}

fn block(text: &str) -> Block {
    let all = Block {
        block_public_acls: true,
        ignore_public_acls: true,
        block_public_policy: true,
        restrict_public_buckets: true,
    };
    from_xml::<PublicAccessBlockConfiguration>(text).map_or(all, |wanted| Block {
        block_public_acls: wanted.block_public_acls == Some(true),
        ignore_public_acls: wanted.ignore_public_acls == Some(true),
        block_public_policy: wanted.block_public_policy == Some(true),
        restrict_public_buckets: wanted.restrict_public_buckets == Some(true),
    })
}

impl BucketView {
    pub fn new(bucket: Bucket, config: BucketConfig) -> Self {
        let document = |name: &str| config.documents.get(name);
        let resource = format!("arn:aws:s3:::{}", bucket.name);
        let policy = document("policy").map(|text| {
            Policy::of_resource(text, &resource).map_err(|error| {
                tracing::error!(bucket = bucket.name, %error, "a policy cannot be read: everything is denied");
            })
        });
        Self {
            policy,
            acl: Acl::kept(document("acl"), &config.owner),
            block: document("public-access-block").map_or(Block::default(), |text| block(text)),
            ownership: document("ownership").map_or(Ownership::ObjectWriter, |text| ownership(text)),
            cors: document("cors").and_then(|text| from_xml(text)),
            lifecycle: super::lifecycle::lifecycle_of(&config),
            logging: document("logging").and_then(|text| logging::target(text, &config.owner)),
            notifies: document("notification").is_some(),
            website: document("website").and_then(|text| from_xml(text)),
            replication: document(replication::DOCUMENT)
                .map(|text| replication::rules(text))
                .unwrap_or_default(),
            encryption: document(ENCRYPTION).map(|text| encryption::Default::read(text)),
            bucket,
            config,
        }
    }

    /// What policies call it, or a key in it.
    pub fn resource(&self, key: Option<&str>) -> String {
        match key {
            Some(key) => format!("arn:aws:s3:::{}/{key}", self.bucket.name),
            None => format!("arn:aws:s3:::{}", self.bucket.name),
        }
    }

    pub fn policy_is_public(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.as_ref().is_ok_and(Policy::is_public))
    }
}

/// Buckets as they were seen last. Each answer of the metadata says whether they still are so.
pub struct Buckets(Mutex<lru::LruCache<String, Arc<BucketView>>>);

impl Default for Buckets {
    fn default() -> Self {
        Self(Mutex::new(lru::LruCache::new(REMEMBERED)))
    }
}

impl Buckets {
    fn lock(&self) -> MutexGuard<'_, lru::LruCache<String, Arc<BucketView>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, name: &str) -> Option<Arc<BucketView>> {
        self.lock().get(name).cloned()
    }

    /// Remembers a bucket, unless a later one is remembered already.
    pub fn keep(&self, view: BucketView) -> Arc<BucketView> {
        let view = Arc::new(view);
        let mut buckets = self.lock();
        let age = |view: &BucketView| (view.bucket.id.0, view.config.number);
        if buckets.peek(&view.bucket.name).is_none_or(|known| age(known) <= age(&view)) {
            buckets.put(view.bucket.name.clone(), view.clone());
        }
        view
    }

    pub fn forget(&self, name: &str) {
        self.lock().pop(name);
    }
}
