//! Versions of objects: what a write keeps of what was there, what a delete hides or removes, and what locks forbid.
//!
//! A key with versions has one node, whose entry is in the tree of what is there, or, where its newest version is a delete
//! marker, in the tree of what is hidden.

use super::{Step, Tx, namespace::check_key, tree::Walk};
use crate::{
    command::{
        Committed, Condition, Demand, NewContent, NewObject, Outcome, Precondition, Rejection, Removed,
        VersionChange,
    },
    keys::{self, Tree},
    records::{
        Attributes, BucketUsage, Change, Checksum, Content, DirEntry, Etag, Extra, LockMode, PartSummary,
        Record, Retention, SegmentRef, Summary, Version, VersionName, Versioning,
    },
};
use holdfast_core::{
    ids::{BucketId, NodeId, UploadId, VersionId},
    kv::{KvError, View, prefix_end, scan_prefix},
};
use std::ops::ControlFlow;

/// A version that is about to be committed, whose segments are referenced already.
pub(super) struct Draft {
    pub bytes: u64,
    pub etag: Etag,
    pub content: Content,
    pub inline: Option<Vec<u8>>,
    pub attributes: Attributes,
    pub checksum: Option<Checksum>,
    pub parts: Vec<PartSummary>,
    pub upload: Option<UploadId>,
    pub extra: Extra,
}

/// A key's place in both trees; it is in one at most.
struct Place {
    live: Walk,
    hidden: Walk,
}

impl Place {
    /// The node, and its newest version.
    fn newest(&self) -> Option<(NodeId, VersionId)> {
        let found = self.live.file.as_ref().or(self.hidden.file.as_ref());
        found.map(|(node, current)| (*node, current.version))
    }
}

impl<V: View + ?Sized> Tx<'_, V> {
    fn find(&self, versioning: Versioning, bucket: BucketId, key: &[u8]) -> Result<Place, KvError> {
        let live = self.walk(Tree::Live, bucket, key)?;
        // Nothing was ever hidden in a bucket that never kept versions.
        let hidden = match versioning {
            Versioning::Off => Walk::nowhere(Tree::Hidden),
            Versioning::Enabled | Versioning::Suspended => self.walk(Tree::Hidden, bucket, key)?,
        };
        Ok(Place { live, hidden })
    }

    pub(super) fn put_object(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        condition: Condition,
        object: NewObject,
        extra: Extra,
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
            extra,
        };
        Ok(Outcome::Committed(self.commit(bucket, key, condition, draft)?))
    }

    /// Makes `draft` the current version of `key`.
    pub(super) fn commit(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        condition: Condition,
        draft: Draft,
    ) -> Step<Committed> {
        check_key(key)?;
        let mut usage = self.usage(bucket)?;
        let config = self.config(bucket)?;
        if (draft.extra.retention.is_some() || draft.extra.legal_hold) && !config.object_lock {
            return Err(Rejection::BucketState.into());
        }
        let place = self.find(config.versioning, bucket, key)?;
        check(condition, place.live.file.as_ref().map(|(_, current)| current))?;
        let node = self.make_room(config.versioning, bucket, &place, &mut usage)?;
        let default = config.default_retention.filter(|_| config.object_lock);
        let default = default.map(|(mode, ms)| Retention { mode, until_ms: self.wall_ms.saturating_add(ms) });
        let extra = Extra {
            named: config.versioning == Versioning::Enabled,
            marker: false,
            retention: draft.extra.retention.or(default),
            ..draft.extra.clone()
        };
        let summary = self.write_version(bucket, node, draft, &extra, &mut usage);
        let (version, modified_ms) = (summary.version, summary.modified_ms);
        self.write_usage(bucket, &usage)?;
        self.check_quota(bucket)?;
        let parent = self.place(bucket, key, &place.live, &DirEntry::File { node, current: summary })?;
        if place.hidden.file.is_some() {
            self.unplace(bucket, key, &place.hidden)?;
        }
        self.journal(bucket, Change::Put, (node, version), parent, key)?;
        Ok(Committed { version, node, modified_ms })
    }

    /// Removes or keeps what the next version of a key stands in for, and says which node it belongs to.
    fn make_room(
        &mut self,
        versioning: Versioning,
        bucket: BucketId,
        place: &Place,
        usage: &mut BucketUsage,
    ) -> Step<NodeId> {
        let Some((node, newest)) = place.newest() else { return Ok(self.next_node()) };
        match versioning {
            Versioning::Off => self.drop_version(bucket, node, newest, usage)?,
            Versioning::Suspended => {
                if let Some(null) = self.null_version(bucket, node, newest)? {
                    self.drop_version(bucket, node, null, usage)?;
                    self.remove(keys::null_version(bucket, node))?;
                }
            }
            Versioning::Enabled => {
                if !self.extra(bucket, node, newest)?.named {
                    self.kv.put(keys::null_version(bucket, node), newest.0.to_be_bytes().to_vec());
                }
            }
        }
        Ok(node)
    }

    fn write_version(
        &mut self,
        bucket: BucketId,
        node: NodeId,
        draft: Draft,
        extra: &Extra,
        usage: &mut BucketUsage,
    ) -> Summary {
        let version = VersionId(self.header.next_version);
        self.header.next_version += 1;
        let summary = Summary {
            version,
            modified_ms: self.wall_ms,
            bytes: draft.bytes,
            etag: draft.etag,
            checksum: draft.checksum.as_ref().map(|sum| (sum.algorithm, sum.composite_parts.is_some())),
        };
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
        if *extra != Extra::default() {
            self.write(keys::extra(bucket, node, version), extra);
        }
        usage.objects += 1;
        usage.bytes += record.bytes;
        summary
    }

    fn extra(&self, bucket: BucketId, node: NodeId, version: VersionId) -> Result<Extra, KvError> {
        Ok(self.read(&keys::extra(bucket, node, version))?.unwrap_or_default())
    }

    /// The node's null version.
    fn null_version(
        &self,
        bucket: BucketId,
        node: NodeId,
        newest: VersionId,
    ) -> Result<Option<VersionId>, KvError> {
        if !self.extra(bucket, node, newest)?.named {
            return Ok(Some(newest));
        }
        let kept = self.kv.get(&keys::null_version(bucket, node))?;
        Ok(kept.and_then(|bytes| bytes.try_into().ok()).map(|bytes| VersionId(u64::from_be_bytes(bytes))))
    }

    /// Deletes what a key names: for good where versions are not kept, and behind a marker where they are.
    pub(super) fn delete_object(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        precondition: Precondition,
        owner: String,
    ) -> Step<Removed> {
        check_key(key)?;
        let mut usage = self.usage(bucket)?;
        let versioning = self.config(bucket)?.versioning;
        let place = self.find(versioning, bucket, key)?;
        check_delete(precondition, place.live.file.as_ref().map(|(_, current)| current))?;
        if versioning == Versioning::Off {
            let Some((node, current)) = &place.live.file else {
                return Ok(Removed { existed: false, version: None, marker: false });
            };
            self.drop_version(bucket, *node, current.version, &mut usage)?;
            self.write_usage(bucket, &usage)?;
            self.journal(bucket, Change::Delete, (*node, current.version), place.live.last(), key)?;
            self.unplace(bucket, key, &place.live)?;
            return Ok(Removed { existed: true, version: None, marker: false });
        }
        let node = self.make_room(versioning, bucket, &place, &mut usage)?;
        let extra =
            Extra { named: versioning == Versioning::Enabled, marker: true, owner, ..Extra::default() };
        let marker = Draft {
            bytes: 0,
            etag: Etag::Md5([0; 16]),
            content: Content::Segments(Vec::new()),
            inline: None,
            attributes: Attributes::default(),
            checksum: None,
            parts: Vec::new(),
            upload: None,
            extra: Extra::default(),
        };
        let summary = self.write_version(bucket, node, marker, &extra, &mut usage);
        let version = summary.version;
        self.write_usage(bucket, &usage)?;
        self.journal(bucket, Change::Delete, (node, version), place.live.last(), key)?;
        if place.live.file.is_some() {
            self.unplace(bucket, key, &place.live)?;
        }
        self.place(bucket, key, &place.hidden, &DirEntry::File { node, current: summary })?;
        let name = if extra.named { VersionName::Id(version) } else { VersionName::Null };
        Ok(Removed { existed: place.live.file.is_some(), version: Some(name), marker: true })
    }

    /// The version of a node that a client names.
    fn named(
        &self,
        bucket: BucketId,
        node: NodeId,
        newest: VersionId,
        name: VersionName,
    ) -> Result<Option<(Version, Extra)>, KvError> {
        let id = match name {
            VersionName::Null => self.null_version(bucket, node, newest)?,
            VersionName::Id(id) => Some(id),
        };
        let Some(id) = id else { return Ok(None) };
        let Some(version) = self.read::<Version>(&keys::version(bucket, node, id))? else { return Ok(None) };
        let extra = self.extra(bucket, node, id)?;
        // A null version has no other name.
        Ok((extra.named == (name != VersionName::Null)).then_some((version, extra)))
    }

    /// Removes one version for good.
    pub(super) fn delete_version(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        name: VersionName,
        precondition: Precondition,
        bypass: bool,
        demand: Demand,
    ) -> Step<Removed> {
        check_key(key)?;
        let mut usage = self.usage(bucket)?;
        let place = self.find(self.config(bucket)?.versioning, bucket, key)?;
        let absent = Removed { existed: false, version: Some(name), marker: false };
        let Some((node, newest)) = place.newest() else {
            check_delete(precondition, None)?;
            return Ok(absent);
        };
        let Some((version, extra)) = self.named(bucket, node, newest, name)? else {
            check_delete(precondition, None)?;
            return Ok(absent);
        };
        check_delete(precondition, (!extra.marker).then(|| summary_of(&version)).as_ref())?;
        let demanded = match demand {
            Demand::None => true,
            Demand::Noncurrent(id) => version.id == id && id != newest,
            Demand::LastMarker(id) => {
                version.id == id && id == newest && extra.marker && self.is_alone(bucket, node)?
            }
        };
        if !demanded {
            return Err(Rejection::PreconditionFailed.into());
        }
        if extra.is_locked(self.wall_ms, bypass) {
            return Err(Rejection::Locked.into());
        }
        self.drop_version(bucket, node, version.id, &mut usage)?;
        if !extra.named {
            self.remove(keys::null_version(bucket, node))?;
        }
        let removed = Removed { existed: true, version: Some(name), marker: extra.marker };
        self.write_usage(bucket, &usage)?;
        if version.id == newest {
            self.uncover(bucket, key, &place, node, version.id)?;
        }
        Ok(removed)
    }

    /// What was under a version that is gone becomes the current one.
    fn uncover(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        place: &Place,
        node: NodeId,
        gone: VersionId,
    ) -> Step<()> {
        let was_live = place.live.file.is_some();
        let Some(next) = self.newest_version(bucket, node)? else {
            self.journal(bucket, Change::Delete, (node, gone), place.live.last(), key)?;
            return self.unplace(bucket, key, if was_live { &place.live } else { &place.hidden });
        };
        let extra = self.extra(bucket, node, next.id)?;
        if !extra.named {
            self.remove(keys::null_version(bucket, node))?;
        }
        let entry = DirEntry::File { node, current: summary_of(&next) };
        let (target, other) =
            if extra.marker { (&place.hidden, &place.live) } else { (&place.live, &place.hidden) };
        let change = if extra.marker { Change::Delete } else { Change::Put };
        if other.file.is_some() {
            self.unplace(bucket, key, other)?;
        }
        let parent = self.place(bucket, key, target, &entry)?;
        self.journal(bucket, change, (node, next.id), parent, key)
    }

    fn newest_version(&self, bucket: BucketId, node: NodeId) -> Result<Option<Version>, KvError> {
        let start = keys::versions_of(bucket, node);
        let mut found = Ok(None);
        self.kv.scan(&start, &prefix_end(&start), &mut |_, value| {
            found = Version::from_bytes(value).map(Some);
            ControlFlow::Break(())
        })?;
        found
    }

    /// Whether a node has one version only.
    fn is_alone(&self, bucket: BucketId, node: NodeId) -> Result<bool, KvError> {
        Ok(scan_prefix(&self.kv, &keys::versions_of(bucket, node), 2)?.len() == 1)
    }

    pub(super) fn change_version(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        name: Option<VersionName>,
        judged: VersionId,
        change: VersionChange,
    ) -> Step<Outcome> {
        check_key(key)?;
        let config = self.config(bucket)?;
        let place = self.find(config.versioning, bucket, key)?;
        let (node, newest) = place.newest().ok_or(Rejection::NoSuchKey)?;
        let (id, mut extra) = match name {
            None if place.live.file.is_none() => return Err(Rejection::NoSuchKey.into()),
            None => (newest, self.extra(bucket, node, newest)?),
            Some(name) => {
                let (version, extra) =
                    self.named(bucket, node, newest, name)?.ok_or(Rejection::NoSuchVersion)?;
                (version.id, extra)
            }
        };
        if id != judged {
            return Err(Rejection::PreconditionFailed.into());
        }
        if extra.marker {
            return Err(Rejection::IsMarker.into());
        }
        match change {
            VersionChange::Tags(tags) => extra.tags = tags,
            VersionChange::Retention { .. } | VersionChange::LegalHold(_) if !config.object_lock => {
                return Err(Rejection::BucketState.into());
            }
            VersionChange::LegalHold(held) => extra.legal_hold = held,
            VersionChange::Retention { retention, bypass } => {
                if !may_retain(extra.retention, retention, self.wall_ms, bypass) {
                    return Err(Rejection::Locked.into());
                }
                extra.retention = retention;
            }
            VersionChange::Document(name, Some(text)) => drop(extra.documents.insert(name, text)),
            VersionChange::Document(name, None) => drop(extra.documents.remove(&name)),
        }
        self.write(keys::extra(bucket, node, id), &extra);
        Ok(Outcome::Done)
    }

    /// Has a version's bytes be those of other segments, which hold the same.
    pub(super) fn move_content(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        (name, judged): (VersionName, VersionId),
        segments: Vec<SegmentRef>,
        document: String,
        (from, to): (Option<String>, Option<String>),
    ) -> Step<Outcome> {
        check_key(key)?;
        let place = self.find(self.config(bucket)?.versioning, bucket, key)?;
        let (node, newest) = place.newest().ok_or(Rejection::NoSuchKey)?;
        let found = self.named(bucket, node, newest, name)?;
        let (mut version, mut extra) = found.ok_or(Rejection::NoSuchVersion)?;
        // One for one, so that whoever reads the old ones goes on with the new.
        let bytes =
            |segments: &[SegmentRef]| -> Vec<u64> { segments.iter().map(|segment| segment.bytes).collect() };
        let Content::Segments(was) = &version.content else {
            return Err(Rejection::PreconditionFailed.into());
        };
        // Whoever moved it meanwhile changed its class.
        let same = version.id == judged && extra.documents.get(&document) == from.as_ref() && from != to;
        if !same || bytes(was) != bytes(&segments) {
            return Err(Rejection::PreconditionFailed.into());
        }
        self.reference(&segments)?;
        self.release_later(was);
        version.content = Content::Segments(segments);
        match to {
            Some(text) => drop(extra.documents.insert(document, text)),
            None => drop(extra.documents.remove(&document)),
        }
        self.write(keys::version(bucket, node, judged), &version);
        self.write(keys::extra(bucket, node, judged), &extra);
        Ok(Outcome::Done)
    }

    /// Forgets a version; its segments are released when readers have had time to finish.
    pub(super) fn drop_version(
        &mut self,
        bucket: BucketId,
        node: NodeId,
        id: VersionId,
        usage: &mut BucketUsage,
    ) -> Step<()> {
        let key = keys::version(bucket, node, id);
        let version: Version = self.read(&key)?.ok_or_else(|| {
            KvError::Storage(format!(
                "version {id} of node {node} is named by its directory and does not exist"
            ))
        })?;
        usage.objects -= 1;
        usage.bytes -= version.bytes;
        match version.content {
            Content::Inline => self.kv.delete(keys::inline(bucket, node, id)),
            Content::Segments(segments) => self.release_later(&segments),
        }
        self.remove(keys::extra(bucket, node, id))?;
        self.kv.delete(key);
        Ok(())
    }
}

fn summary_of(version: &Version) -> Summary {
    Summary {
        version: version.id,
        modified_ms: version.modified_ms,
        bytes: version.bytes,
        etag: version.etag,
        checksum: version.checksum.as_ref().map(|sum| (sum.algorithm, sum.composite_parts.is_some())),
    }
}

/// Whether a retention may be replaced: compliance is only ever made longer; governance too, but for who may bypass it.
fn may_retain(was: Option<Retention>, wanted: Option<Retention>, now_ms: u64, bypass: bool) -> bool {
    let Some(was) = was.filter(|was| was.until_ms > now_ms) else { return true };
    let longer = wanted.is_some_and(|wanted| wanted.mode == was.mode && wanted.until_ms >= was.until_ms);
    longer || (was.mode == LockMode::Governance && bypass)
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

/// Holds a delete's conditions against what would be deleted.
fn check_delete(precondition: Precondition, current: Option<&Summary>) -> Step<()> {
    check(precondition.condition, current)?;
    let Some(current) = current else { return Ok(()) };
    let size = precondition.size.is_none_or(|size| size == current.bytes);
    let modified = precondition.modified_s.is_none_or(|at| at == current.modified_ms / 1000);
    if size && modified { Ok(()) } else { Err(Rejection::PreconditionFailed.into()) }
}
