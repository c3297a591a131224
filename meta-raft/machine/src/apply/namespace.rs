//! Buckets: what they are set to, what they hold, and the journal of their changes.

use super::{Step, Tx};
use crate::{
    command::{ConfigChange, Outcome, Rejection},
    keys,
    records::{
        Bucket, BucketConfig, BucketUsage, Change, JournalLine, JournalRecord, SegmentRef, Versioning,
    },
};
use holdfast_core::{
    chunker::ChunkerProfile,
    ids::{BucketId, DomainId, NodeId, VersionId},
    kv::{View, scan_prefix},
    limits::{CURSOR_NAME_MAX, JOURNAL_RECORDS_MAX, KEY_BYTES_MAX},
};

/// The first cluster version whose journals tell of directories.
pub(super) const TELLS_OF_DIRECTORIES: u32 = 7;

/// Empty directories that go with their bucket. Somebody who made more removes them first.
const EMPTY_DIRECTORIES_MAX: usize = 1000;

impl<V: View + ?Sized> Tx<'_, V> {
    pub(super) fn create_bucket(
        &mut self,
        name: String,
        domain: DomainId,
        chunker: ChunkerProfile,
        config: Option<BucketConfig>,
    ) -> Step<Outcome> {
        let name_key = keys::bucket_name(&name);
        if self.kv.get(&name_key)?.is_some() {
            return Err(Rejection::BucketExists.into());
        }
        let id = BucketId(self.header.next_bucket);
        self.header.next_bucket += 1;
        let bucket = Bucket { id, name, created_ms: self.wall_ms, domain, chunker };
        self.write(name_key, &bucket);
        self.kv.put(keys::bucket(id), bucket.name.clone().into_bytes());
        self.write(keys::bucket_usage(id), &BucketUsage::default());
        if let Some(config) = config {
            self.write(keys::bucket_config(id), &BucketConfig { number: self.index, ..config });
        }
        Ok(Outcome::Bucket(id))
    }

    pub(super) fn delete_bucket(&mut self, name: &str) -> Step<Outcome> {
        let bucket: Bucket = self.read(&keys::bucket_name(name))?.ok_or(Rejection::NoSuchBucket)?;
        let usage = self.usage(bucket.id)?;
        let directories = scan_prefix(&self.kv, &keys::dirs_of(bucket.id), EMPTY_DIRECTORIES_MAX + 1)?;
        if usage.objects > 0 || usage.uploads > 0 || directories.len() > EMPTY_DIRECTORIES_MAX {
            return Err(Rejection::BucketNotEmpty.into());
        }
        // Nothing is in any of them.
        directories.into_iter().for_each(|(key, _)| self.kv.delete(key));
        self.kv.delete(keys::bucket_name(name));
        self.kv.delete(keys::bucket(bucket.id));
        self.kv.delete(keys::bucket_usage(bucket.id));
        self.remove(keys::bucket_config(bucket.id))?;
        self.forget_shares(bucket.id)?;
        self.forget_links(bucket.id)?;
        for (key, _) in scan_prefix(&self.kv, &keys::cursors_of(bucket.id), usize::MAX)? {
            self.kv.delete(key);
        }
        self.kv.put(keys::dead_journal(bucket.id), Vec::new());
        Ok(Outcome::Done)
    }

    pub(super) fn remove_bucket(&mut self, bucket: BucketId) -> Step<Outcome> {
        let name = self.kv.get(&keys::bucket(bucket))?.ok_or(Rejection::NoSuchBucket)?;
        self.delete_bucket(&String::from_utf8_lossy(&name))
    }

    pub(super) fn config(&self, bucket: BucketId) -> Step<BucketConfig> {
        Ok(self.read(&keys::bucket_config(bucket))?.unwrap_or_default())
    }

    pub(super) fn configure_bucket(&mut self, bucket: BucketId, change: ConfigChange) -> Step<Outcome> {
        self.usage(bucket)?;
        let mut config = self.config(bucket)?;
        match change {
            // Locked versions must not be overwritten, nor can a history be taken back.
            ConfigChange::Versioning(versioning) => {
                let backwards = versioning == Versioning::Off && config.versioning != Versioning::Off;
                if backwards || (config.object_lock && versioning != Versioning::Enabled) {
                    return Err(Rejection::BucketState.into());
                }
                config.versioning = versioning;
            }
            ConfigChange::ObjectLock => {
                if config.versioning != Versioning::Enabled {
                    return Err(Rejection::BucketState.into());
                }
                config.object_lock = true;
            }
            ConfigChange::DefaultRetention(_) if !config.object_lock => {
                return Err(Rejection::BucketState.into());
            }
            ConfigChange::DefaultRetention(retention) => config.default_retention = retention,
            ConfigChange::Document(name, Some(text)) => drop(config.documents.insert(name, text)),
            ConfigChange::Document(name, None) => drop(config.documents.remove(&name)),
        }
        config.number = self.index;
        self.write(keys::bucket_config(bucket), &config);
        Ok(Outcome::Done)
    }

    pub(super) fn note_cursor(&mut self, bucket: BucketId, name: &str, position: u64) -> Step<Outcome> {
        self.usage(bucket)?;
        let key = keys::cursor(bucket, name);
        let known = self.kv.get(&key)?.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
        if name.is_empty() || name.len() > CURSOR_NAME_MAX {
            return Err(Rejection::Malformed.into());
        }
        if known.is_none_or(|known| known < position) {
            self.kv.put(key, position.to_be_bytes().to_vec());
        }
        Ok(Outcome::Done)
    }

    pub(super) fn usage(&self, bucket: BucketId) -> Step<BucketUsage> {
        Ok(self.read(&keys::bucket_usage(bucket))?.ok_or(Rejection::NoSuchBucket)?)
    }

    pub(super) fn next_node(&mut self) -> NodeId {
        let node = NodeId(self.header.next_node);
        self.header.next_node += 1;
        node
    }

    /// Gives up references at the end of the readers' grace.
    pub(super) fn release_later(&mut self, segments: &[SegmentRef]) {
        for segment in segments {
            let key = keys::release(self.now(), self.header.next_release, segment.id);
            self.header.next_release += 1;
            self.kv.put(key, Vec::new());
        }
    }

    /// Adds a line to a bucket's journal, of a name in the directory `parent`.
    pub(super) fn journal(
        &mut self,
        bucket: BucketId,
        change: Change,
        (node, version): (NodeId, VersionId),
        parent: NodeId,
        key: &[u8],
    ) -> Step<()> {
        let mut usage = self.usage(bucket)?;
        let number = usage.journal_next;
        usage.journal_next += 1;
        let record = JournalRecord { change, node, version, key: key.to_vec(), index: self.index };
        if self.header.cluster_version >= TELLS_OF_DIRECTORIES {
            self.write(keys::journal(bucket, number), &JournalLine { record, parent: Some(parent) });
        } else {
            self.write(keys::journal(bucket, number), &record);
        }
        if let Some(oldest) = number.checked_sub(JOURNAL_RECORDS_MAX) {
            self.kv.delete(keys::journal(bucket, oldest));
        }
        self.write(keys::bucket_usage(bucket), &usage);
        Ok(())
    }
}

pub(super) fn check_key(key: &[u8]) -> Step<()> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX { Err(Rejection::BadKey.into()) } else { Ok(()) }
}
