//! What versions hold, and which there are.

use super::{Answer, At, Refused, Session, refuse, say};
use crate::{engine::MIB, s3::replication};
use bytes::Bytes;
use futures::StreamExt;
use holdfast_client_link::{Stream, failure};
use holdfast_core::ids::{ChunkId, NodeId, VersionId};
use holdfast_meta_raft_machine::{
    ask::{InlineBytes, LookedUp, Object, SegmentOf, VersionListing, VersionsOf},
    command::{Command, NewContent, NewObject, Outcome, TreeChange},
    list::{ListRequest, VersionItem, VersionShown},
    names::FileShown,
    records::{Content, ENCRYPTION, Extra, FILE, Version, VersionName},
};
use holdfast_proto::sync::{
    self, Chunk, ChunkRef, Committed, Deleted, Fetch, ListTrash, ListVersions, Manifest, ReadManifest,
    Restore, Trash, Versions, failure::Code, reply::Reply,
};
use hyper::HeaderMap;

/// References in one frame.
const REFS: usize = 4096;

/// Ranges of one call, and bytes of one frame.
const RANGES_MAX: usize = 4096;
const PIECE: usize = MIB;

/// Bytes that are sent until it is looked again whether they may be.
const LOOK_AGAIN: usize = 16 * MIB;

/// Names, or versions, that are looked at for one answer.
const PAGE: usize = 1000;

fn missing() -> Refused {
    Refused(failure(Code::NotFound, "there is no such file, or no such version of it"))
}

impl Session {
    /// The version of a path's file that is named, or the newest.
    pub(super) async fn version(
        &self,
        at: &At,
        path: &[u8],
        of: Option<sync::VersionOf>,
    ) -> Result<(Version, Extra), Refused> {
        let path = &at.full(path);
        at.demand("s3:GetObject", Some(path))?;
        let name = &at.bucket.bucket.name;
        let (_, newest) = self.door.s3.look(name, Some((path.clone(), None))).await?;
        let LookedUp::Found(newest) = newest else { return Err(missing()) };
        let Some(of) = of.filter(|of| (of.node, of.version) != (newest.version.node.0, newest.version.id.0))
        else {
            // It was deleted.
            if newest.extra.marker {
                return Err(missing());
            }
            at.demand_object("s3:GetObject", path, &newest.extra)?;
            return Ok((newest.version, newest.extra));
        };
        // A path is what the caller may read: versions of other files are not found by it.
        if newest.version.node.0 != of.node {
            return Err(missing());
        }
        let wanted = vec![(NodeId(of.node), VersionId(of.version))];
        let found = self.door.meta().ask(VersionsOf { bucket: at.bucket.bucket.id, wanted }).await?;
        let found = found.into_iter().next().flatten();
        let (version, extra) = found.filter(|(_, extra)| !extra.marker).ok_or_else(missing)?;
        at.demand_object("s3:GetObjectVersion", path, &extra)?;
        Ok((version, extra))
    }

    pub(super) async fn read_manifest(&self, stream: &mut Stream, asked: ReadManifest) -> Answer {
        let at = self.at(&asked.space).await?;
        let (version, extra) = self.version(&at, &asked.path, asked.of).await?;
        check_plain(&extra)?;
        let mut refs: Vec<ChunkRef> = Vec::new();
        let file = describe_version(&version, &extra);
        let (mut first, mut node) = (Some(file), Some(version.node.0));
        match &version.content {
            Content::Inline => {
                let bytes = self.inline(&at, &version).await?;
                if !bytes.is_empty() {
                    let id = ChunkId::of(&bytes).as_bytes().to_vec();
                    refs.push(ChunkRef { id, bytes: bytes.len() as u32 });
                }
            }
            Content::Segments(segments) => {
                for segment in segments {
                    let record = self.door.meta().ask(SegmentOf { id: segment.id }).await?;
                    let chunks = record.ok_or_else(missing)?.chunks;
                    let shown = |chunk: &holdfast_meta_raft_machine::records::ChunkRef| ChunkRef {
                        id: chunk.id.as_bytes().to_vec(),
                        bytes: chunk.plain,
                    };
                    refs.extend(chunks.iter().map(shown));
                    if refs.len() >= REFS {
                        let chunks = std::mem::take(&mut refs);
                        let part = Manifest { chunks, file: first.take(), node: node.take() };
                        say(stream, Reply::Manifest(part)).await?;
                    }
                }
            }
        }
        say(stream, Reply::Manifest(Manifest { chunks: refs, file: first, node })).await
    }

    async fn inline(&self, at: &At, version: &Version) -> Result<Bytes, Refused> {
        let question = InlineBytes { bucket: at.bucket.bucket.id, node: version.node, version: version.id };
        Ok(self.door.meta().ask(question).await?.ok_or_else(missing)?.into())
    }

    pub(super) async fn fetch(&self, stream: &mut Stream, asked: Fetch) -> Answer {
        let at = self.at(&asked.space).await?;
        let (version, extra) = self.version(&at, &asked.path, asked.of).await?;
        check_plain(&extra)?;
        if asked.ranges.len() > RANGES_MAX {
            refuse(Code::Malformed, "too many ranges")?;
        }
        // Whoever asks for the same again and again is no sync client.
        let mut lengths = asked.ranges.iter().map(|range| range.end.saturating_sub(range.start));
        let wanted = lengths.try_fold(0u64, |sum, length| sum.checked_add(length));
        if wanted.is_none_or(|wanted| wanted > version.bytes.saturating_mul(2)) {
            refuse(Code::Malformed, "more than all of it")?;
        }
        let mut since = 0;
        for range in asked.ranges {
            if range.start >= range.end || range.end > version.bytes {
                refuse(Code::Malformed, "a range that the version does not have")?;
            }
            let engine = &self.door.s3.engine;
            let content = engine.content(at.bucket.bucket.id, &version, range.start..range.end, None).await?;
            let mut content = std::pin::pin!(content);
            while let Some(piece) = content.next().await {
                let mut piece = piece?;
                since += piece.len();
                if since > LOOK_AGAIN {
                    // Meanwhile it may have been revoked.
                    since = 0;
                    let again = self.at(&asked.space).await?;
                    again.demand("s3:GetObject", Some(&again.full(&asked.path)))?;
                }
                while !piece.is_empty() {
                    let data = piece.split_to(piece.len().min(PIECE));
                    say(stream, Reply::Chunk(Chunk { data, ..Chunk::default() })).await?;
                }
            }
        }
        Ok(())
    }

    /// A page of the versions of a space, behind a key and one of its versions.
    async fn history(
        &self,
        at: &At,
        prefix: &[u8],
        after: Vec<u8>,
        marker: Option<VersionName>,
    ) -> Result<(Vec<VersionShown>, bool), Refused> {
        let wanted = ListRequest { prefix: prefix.to_vec(), after, max: PAGE, ..ListRequest::default() };
        let question = VersionListing { bucket: at.bucket.bucket.id, wanted, after: marker };
        let page = self.door.meta().ask(question).await?;
        let versions = page.items.into_iter().filter_map(|item| match item {
            VersionItem::Version(shown) => Some(shown),
            VersionItem::CommonPrefix(_) => None,
        });
        Ok((versions.collect(), page.truncated))
    }

    pub(super) async fn list_versions(&self, stream: &mut Stream, asked: ListVersions) -> Answer {
        let at = self.at(&asked.space).await?;
        let asked = ListVersions { path: at.full(&asked.path), ..asked };
        at.demand("s3:GetObject", Some(&asked.path))?;
        let (shown, _) = self.history(&at, &asked.path, Vec::new(), None).await?;
        let mine: Vec<_> = shown.into_iter().filter(|shown| shown.key == asked.path).collect();
        if mine.is_empty() {
            return Err(missing().into());
        }
        let name = &at.bucket.bucket.name;
        let (_, newest) = self.door.s3.look(name, Some((asked.path, None))).await.map_err(Refused::from)?;
        let LookedUp::Found(newest) = newest else { return Err(missing().into()) };
        let versions = mine.into_iter().map(|shown| sync::Version {
            version: shown.id.0,
            node: newest.version.node.0,
            bytes: shown.bytes,
            modified_ms: shown.modified_ms,
            deleted: shown.marker,
            latest: shown.latest,
        });
        say(stream, Reply::Versions(Versions { versions: versions.collect() })).await
    }

    /// Writes a version once more, above all others: its bytes are where they are.
    pub(super) async fn restore(&self, stream: &mut Stream, asked: Restore) -> Answer {
        let at = self.at(&asked.space).await?;
        let asked = Restore { path: at.full(&asked.path), ..asked };
        at.demand("s3:GetObject", Some(&asked.path))?;
        at.demand("s3:PutObject", Some(&asked.path))?;
        let name = &at.bucket.bucket.name;
        let (_, newest) =
            self.door.s3.look(name, Some((asked.path.clone(), None))).await.map_err(Refused::from)?;
        let LookedUp::Found(newest) = newest else { return Err(missing().into()) };
        let Object { version: newest, extra: newest_extra, .. } = *newest;
        let (shown, _) = self.history(&at, &asked.path, Vec::new(), None).await?;
        let mine = shown.into_iter().filter(|shown| shown.key == asked.path && !shown.marker);
        let wanted = match asked.version {
            Some(id) => mine.into_iter().find(|shown| shown.id.0 == id),
            None => mine.into_iter().next(),
        };
        let id = wanted.ok_or_else(missing)?.id;
        let question = VersionsOf { bucket: at.bucket.bucket.id, wanted: vec![(newest.node, id)] };
        let found = self.door.meta().ask(question).await?.into_iter().next().flatten();
        let (version, mut extra) = found.ok_or_else(missing)?;
        at.demand_object("s3:GetObjectVersion", &asked.path, &extra)?;
        // What was told of a copy elsewhere is not so of this one.
        extra.documents.retain(|name, _| !name.starts_with("replica"));
        let content = match &version.content {
            Content::Inline => NewContent::Inline(self.inline(&at, &version).await?.to_vec()),
            Content::Segments(segments) => NewContent::Segments(segments.clone()),
        };
        let object = NewObject {
            bytes: version.bytes,
            etag: version.etag,
            content,
            attributes: version.attributes,
            checksum: version.checksum,
            parts: version.parts,
        };
        let on = (!newest_extra.marker).then_some((newest.node, newest.id));
        let owner = at.scene.writer();
        let mut extra =
            Extra { owner: owner.clone(), documents: extra.documents, tags: extra.tags, ..Extra::default() };
        let key = String::from_utf8_lossy(&asked.path);
        replication::mark(&at.scene, &HeaderMap::new(), &at.bucket, &key, None, &mut extra)
            .map_err(Refused::from)?;
        let change = TreeChange::Put { path: asked.path, on, object: Box::new(object), extra };
        let bucket = at.bucket.bucket.id;
        let command = Command::ChangeTree { bucket, owner, changes: vec![change] };
        let Outcome::Changed(done) = self.door.s3.engine.run(command).await? else {
            return Ok(refuse(Code::Internal, "the metadata answered something else")?);
        };
        let outcomes = done
            .iter()
            .map(|done| sync::Outcome { node: done.node.0, version: done.version.map(|id| id.0) })
            .collect();
        say(stream, Reply::Committed(Committed { outcomes })).await
    }

    pub(super) async fn list_trash(&self, stream: &mut Stream, asked: ListTrash) -> Answer {
        let at = self.at(&asked.space).await?;
        // Behind all versions of the key that the page before ended with.
        let marker = (!asked.after.is_empty()).then_some(VersionName::Id(VersionId(0)));
        let (shown, truncated) = self.history(&at, &at.base, asked.after, marker).await?;
        let after = shown.last().filter(|_| truncated).map(|last| last.key.clone());
        let deleted = shown
            .into_iter()
            .filter(|shown| shown.latest && shown.marker)
            .map(|shown| Deleted { path: at.short(shown.key), deleted_ms: shown.modified_ms });
        say(stream, Reply::Trash(Trash { deleted: deleted.collect(), after })).await
    }
}

/// This door has no keys of clients.
pub(super) fn check_plain(extra: &Extra) -> Result<(), Refused> {
    match extra.documents.contains_key(ENCRYPTION) {
        true => refuse(Code::Invalid, "the file is encrypted, and can be read by S3 alone"),
        false => Ok(()),
    }
}

/// A version as a client sees it, but for its content's name, which the chunks say.
fn describe_version(version: &Version, extra: &Extra) -> sync::File {
    super::names::show_file(FileShown {
        version: version.id,
        bytes: version.bytes,
        modified_ms: version.modified_ms,
        content: None,
        described: extra.documents.get(FILE).cloned(),
    })
}
