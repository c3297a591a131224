//! What versions hold.

use super::{Answer, At, Refused, Session, refuse, say};
use crate::engine::MIB;
use bytes::Bytes;
use futures::StreamExt;
use holdfast_client_link::{Stream, failure};
use holdfast_core::ids::{ChunkId, NodeId, VersionId};
use holdfast_meta_raft_machine::{
    ask::{InlineBytes, LookedUp, SegmentOf, VersionsOf},
    names::FileShown,
    records::{Content, ENCRYPTION, Extra, FILE, Version},
};
use holdfast_proto::sync::{
    self, Chunk, ChunkRef, Fetch, Manifest, ReadManifest, failure::Code, reply::Reply,
};

/// References in one frame.
const REFS: usize = 4096;

/// Ranges of one call, and bytes of one frame.
const RANGES_MAX: usize = 4096;
const PIECE: usize = MIB;

/// Bytes that are sent until it is looked again whether they may be.
pub(super) const LOOK_AGAIN: usize = 16 * MIB;

pub(super) fn missing() -> Refused {
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

    pub(super) async fn inline(&self, at: &At, version: &Version) -> Result<Bytes, Refused> {
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
