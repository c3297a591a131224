//! Buckets and the tree of names in each: a key `a/b/c` is the file `c` in the directory `b/` in `a/`.
//!
//! Directories are implicit: they come with their first child and go with their last.

use super::{Step, Tx};
use crate::{
    command::{Committed, Condition, NewContent, NewObject, Outcome, Rejection},
    keys,
    records::{
        Bucket, BucketUsage, Change, Content, DirEntry, Etag, JournalRecord, SegmentRef, Summary, Version,
    },
};
use holdfast_core::{
    chunker::ChunkerProfile,
    ids::{BucketId, DomainId, NodeId, UploadId, VersionId},
    kv::{KvError, View},
    limits::{JOURNAL_RECORDS_MAX, KEY_BYTES_MAX},
};

/// The components of a key: `a/b` is `a/` and `b`; `a/` is `a/` and an empty name.
pub fn components(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends_open = key.ends_with(b"/");
    key.split_inclusive(|&byte| byte == b'/').chain(ends_open.then_some(&key[..0]))
}

/// A file that is about to be committed.
pub(super) struct Draft {
    pub bytes: u64,
    pub etag: Etag,
    pub content: Content,
    pub inline: Option<Vec<u8>>,
    pub attributes: crate::records::Attributes,
    pub checksum: Option<crate::records::Checksum>,
    pub parts: Vec<crate::records::PartSummary>,
    pub upload: Option<UploadId>,
}

/// A key's place in the tree: the directories on the way that exist, and the file's entry where it does.
struct Walk {
    /// (parent, component, node, children) of each existing directory on the path.
    directories: Vec<(NodeId, Vec<u8>, NodeId, u64)>,
    file: Option<(NodeId, Summary)>,
}

impl<V: View + ?Sized> Tx<'_, V> {
    pub(super) fn create_bucket(
        &mut self,
        name: String,
        domain: DomainId,
        chunker: ChunkerProfile,
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
        Ok(Outcome::Bucket(id))
    }

    pub(super) fn delete_bucket(&mut self, name: &str) -> Step<Outcome> {
        let bucket: Bucket = self.read(&keys::bucket_name(name))?.ok_or(Rejection::NoSuchBucket)?;
        let usage = self.usage(bucket.id)?;
        if usage.objects > 0 || usage.uploads > 0 {
            return Err(Rejection::BucketNotEmpty.into());
        }
        self.kv.delete(keys::bucket_name(name));
        self.kv.delete(keys::bucket(bucket.id));
        self.kv.delete(keys::bucket_usage(bucket.id));
        self.kv.put(keys::dead_journal(bucket.id), Vec::new());
        Ok(Outcome::Done)
    }

    pub(super) fn usage(&self, bucket: BucketId) -> Step<BucketUsage> {
        Ok(self.read(&keys::bucket_usage(bucket))?.ok_or(Rejection::NoSuchBucket)?)
    }

    pub(super) fn put_object(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        condition: Condition,
        object: NewObject,
    ) -> Step<Outcome> {
        let (content, inline) = match object.content {
            NewContent::Inline(bytes) => (Content::Inline, Some(bytes)),
            NewContent::Segments(segments) => (Content::Segments(segments), None),
        };
        if let Content::Segments(segments) = &content {
            self.reference(segments)?;
        }
        let draft = Draft {
            bytes: object.bytes,
            etag: object.etag,
            content,
            inline,
            attributes: object.attributes,
            checksum: object.checksum,
            parts: object.parts,
            upload: None,
        };
        Ok(Outcome::Committed(self.commit(bucket, key, condition, draft)?))
    }

    /// Makes `draft` the current version of `key`, whose segments are referenced already.
    pub(super) fn commit(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        condition: Condition,
        draft: Draft,
    ) -> Step<Committed> {
        check_key(key)?;
        let mut usage = self.usage(bucket)?;
        let walk = self.walk(bucket, key)?;
        check(condition, walk.file.as_ref().map(|(_, current)| current))?;

        let node = match &walk.file {
            Some((node, current)) => {
                usage.objects -= 1;
                usage.bytes -= current.bytes;
                self.drop_version(bucket, *node, current.version)?;
                *node
            }
            None => self.next_node(),
        };
        let version = VersionId(self.header.next_version);
        self.header.next_version += 1;
        let summary = Summary {
            version,
            modified_ms: self.wall_ms,
            bytes: draft.bytes,
            etag: draft.etag,
            checksum: draft.checksum.as_ref().map(|sum| (sum.algorithm, sum.composite_parts.is_some())),
        };
        self.place(bucket, key, &walk, DirEntry::File { node, current: summary });
        if let Some(bytes) = draft.inline {
            self.kv.put(keys::inline(bucket, node, version), bytes);
        }
        let record = Version {
            id: version,
            node,
            modified_ms: self.wall_ms,
            bytes: draft.bytes,
            etag: draft.etag,
            content: draft.content,
            attributes: draft.attributes,
            checksum: draft.checksum,
            parts: draft.parts,
            upload: draft.upload,
        };
        self.write(keys::version(bucket, node, version), &record);
        usage.objects += 1;
        usage.bytes += record.bytes;
        self.journal(bucket, usage, Change::Put, node, version, key);
        Ok(Committed { version, node, modified_ms: self.wall_ms })
    }

    pub(super) fn delete_object(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        condition: Condition,
    ) -> Step<Outcome> {
        check_key(key)?;
        let mut usage = self.usage(bucket)?;
        let walk = self.walk(bucket, key)?;
        check(condition, walk.file.as_ref().map(|(_, current)| current))?;
        let Some((node, current)) = &walk.file else {
            return Ok(Outcome::Deleted { existed: false });
        };
        self.drop_version(bucket, *node, current.version)?;
        self.unplace(bucket, key, &walk);
        usage.objects -= 1;
        usage.bytes -= current.bytes;
        self.journal(bucket, usage, Change::Delete, *node, current.version, key);
        Ok(Outcome::Deleted { existed: true })
    }

    fn next_node(&mut self) -> NodeId {
        let node = NodeId(self.header.next_node);
        self.header.next_node += 1;
        node
    }

    /// Follows `key` as far as it exists.
    fn walk(&self, bucket: BucketId, key: &[u8]) -> Result<Walk, KvError> {
        let mut walk = Walk { directories: Vec::new(), file: None };
        let mut parent = NodeId::ROOT;
        for component in components(key) {
            let found = self.read::<DirEntry>(&keys::dir_entry(bucket, parent, component))?;
            match (found, component.ends_with(b"/")) {
                (Some(DirEntry::Directory { node, children }), true) => {
                    walk.directories.push((parent, component.to_vec(), node, children));
                    parent = node;
                }
                (Some(DirEntry::File { node, current }), false) => walk.file = Some((node, current)),
                _ => break,
            }
        }
        Ok(walk)
    }

    /// Writes the file's entry, and the directories on its way that are not there yet.
    fn place(&mut self, bucket: BucketId, key: &[u8], walk: &Walk, file: DirEntry) {
        let mut parts: Vec<&[u8]> = components(key).collect();
        let name = parts.pop().unwrap_or_default();
        let mut parent = walk.directories.last().map_or(NodeId::ROOT, |directory| directory.2);
        if walk.file.is_none()
            && let Some((above, component, node, children)) = walk.directories.last()
        {
            let grown = DirEntry::Directory { node: *node, children: children + 1 };
            self.write(keys::dir_entry(bucket, *above, component), &grown);
        }
        for component in &parts[walk.directories.len()..] {
            let node = self.next_node();
            self.write(
                keys::dir_entry(bucket, parent, component),
                &DirEntry::Directory { node, children: 1 },
            );
            parent = node;
        }
        self.write(keys::dir_entry(bucket, parent, name), &file);
    }

    /// Removes the file's entry, and the directories that it leaves empty.
    fn unplace(&mut self, bucket: BucketId, key: &[u8], walk: &Walk) {
        let name = components(key).last().unwrap_or_default();
        let parent = walk.directories.last().map_or(NodeId::ROOT, |directory| directory.2);
        self.kv.delete(keys::dir_entry(bucket, parent, name));
        for (above, component, node, children) in walk.directories.iter().rev() {
            let key = keys::dir_entry(bucket, *above, component);
            if *children > 1 {
                self.write(key, &DirEntry::Directory { node: *node, children: children - 1 });
                break;
            }
            self.kv.delete(key);
        }
    }

    /// Forgets a version; its segments are released when readers have had time to finish.
    fn drop_version(&mut self, bucket: BucketId, node: NodeId, id: VersionId) -> Step<()> {
        let key = keys::version(bucket, node, id);
        let version: Version = self.read(&key)?.ok_or_else(|| {
            KvError::Storage(format!(
                "version {id} of node {node} is named by its directory and does not exist"
            ))
        })?;
        match version.content {
            Content::Inline => self.kv.delete(keys::inline(bucket, node, id)),
            Content::Segments(segments) => self.release_later(&segments),
        }
        self.kv.delete(key);
        Ok(())
    }

    /// Gives up references at the end of the readers' grace.
    pub(super) fn release_later(&mut self, segments: &[SegmentRef]) {
        for segment in segments {
            let key = keys::release(self.now(), self.header.next_release, segment.id);
            self.header.next_release += 1;
            self.kv.put(key, Vec::new());
        }
    }

    fn journal(
        &mut self,
        bucket: BucketId,
        mut usage: BucketUsage,
        change: Change,
        node: NodeId,
        version: VersionId,
        key: &[u8],
    ) {
        let number = usage.journal_next;
        usage.journal_next += 1;
        let record = JournalRecord { change, node, version, key: key.to_vec(), index: self.index };
        self.write(keys::journal(bucket, number), &record);
        if let Some(oldest) = number.checked_sub(JOURNAL_RECORDS_MAX) {
            self.kv.delete(keys::journal(bucket, oldest));
        }
        self.write(keys::bucket_usage(bucket), &usage);
    }
}

pub(super) fn check_key(key: &[u8]) -> Step<()> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX { Err(Rejection::BadKey.into()) } else { Ok(()) }
}

/// Holds a condition against what the key names now.
fn check(condition: Condition, current: Option<&Summary>) -> Step<()> {
    let holds = match (condition, current) {
        (Condition::Always, _) | (Condition::Absent, None) | (Condition::Present, Some(_)) => true,
        (Condition::Absent, Some(_)) => false,
        (Condition::Matches(etag), Some(current)) => current.etag == etag,
        (Condition::Differs(etag), current) => current.is_none_or(|current| current.etag != etag),
        // S3 answers 404, not 412, where there is nothing to match.
        (Condition::Present | Condition::Matches(_), None) => return Err(Rejection::NoSuchKey.into()),
    };
    if holds { Ok(()) } else { Err(Rejection::PreconditionFailed.into()) }
}
