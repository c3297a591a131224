//! What a device sends of a file that it has changed: chunks as what they differ in from those before (rsync's algorithm;
//! Tridgell and Mackerras, "The rsync algorithm", 1996), and lists of chunks as runs of those before.

use super::read::LOOK_AGAIN;
use super::{Answer, At, Refused, Session, read::check_plain, refuse, say, store::domain_of};
use crate::engine::EngineError;
use bytes::Bytes;
use fast_rsync::{Signature, SignatureOptions, apply_limited};
use futures::TryStreamExt;
use holdfast_client_link::{Stream, failure};
use holdfast_meta_raft_machine::{
    ask::SegmentOf,
    records::{Content, Version},
};
use holdfast_proto::sync::{
    Chunk, ChunkRef, Failure, Piece, Put, Range, ReadSignatures, failure::Code, reply::Reply,
};

/// How signatures are made: of blocks of so many bytes, each with so many bytes of its MD4, which nobody has to trust: what
/// comes out is held against its name.
const SIGNATURE: SignatureOptions = SignatureOptions { block_size: 2048, crypto_hash_size: 8 };

/// Signatures of one call.
const SIGNATURES_MAX: usize = 1024;

impl Session {
    pub(super) async fn read_signatures(&self, stream: &mut Stream, asked: ReadSignatures) -> Answer {
        let at = self.at(&asked.space).await?;
        let (version, extra) = self.version(&at, &asked.path, asked.of).await?;
        check_plain(&extra)?;
        if asked.ranges.len() > SIGNATURES_MAX {
            refuse(Code::Malformed, "too many ranges")?;
        }
        let lengths = asked.ranges.iter().map(|range| range.end.saturating_sub(range.start));
        let wanted = lengths.fold(0u64, u64::saturating_add);
        if wanted > version.bytes.saturating_mul(2) {
            refuse(Code::Malformed, "more than all of it")?;
        }
        let mut since = 0;
        for range in asked.ranges {
            since += range.end.saturating_sub(range.start);
            if since > LOOK_AGAIN as u64 {
                // Meanwhile it may have been revoked.
                since = 0;
                self.at(&asked.space).await?.demand("s3:GetObject", Some(&at.full(&asked.path)))?;
            }
            let piece = self.piece(&at, &version, range).await?;
            let made = tokio::task::spawn_blocking(move || Signature::calculate(&piece, SIGNATURE));
            let signature = made.await.map_err(|_| EngineError::ShuttingDown)?;
            let data = signature.into_serialized().into();
            say(stream, Reply::Chunk(Chunk { data, ..Chunk::default() })).await?;
        }
        Ok(())
    }

    async fn piece(&self, at: &At, version: &Version, range: Range) -> Result<Vec<u8>, Refused> {
        let Range { start, end } = range;
        let most = at.bucket.bucket.chunker.max() as u64;
        if start >= end || end > version.bytes || end - start > most {
            return refuse(Code::Malformed, "a range that the version does not have, or a large one");
        }
        let engine = &self.door.s3.engine;
        let content = engine.content(at.bucket.bucket.id, version, start..end, None).await?;
        let mut content = std::pin::pin!(content);
        let mut bytes = Vec::with_capacity((end - start) as usize);
        while let Some(some) = content.try_next().await? {
            bytes.extend_from_slice(&some);
        }
        Ok(bytes)
    }

    /// The bytes of a chunk that was sent as a delta.
    pub(super) async fn patched(&self, at: &At, delta: Bytes, base: Piece) -> Result<Bytes, Refused> {
        let (version, extra) = self.version(at, &base.path, base.of).await?;
        check_plain(&extra)?;
        let old = self.piece(at, &version, base.range.unwrap_or_default()).await?;
        let most = at.bucket.bucket.chunker.max();
        let applied = tokio::task::spawn_blocking(move || {
            let mut new = Vec::with_capacity(old.len());
            apply_limited(&old, &delta, &mut new, most).map(|()| new)
        });
        match applied.await.map_err(|_| EngineError::ShuttingDown)? {
            Ok(new) => Ok(new.into()),
            Err(_) => refuse(Code::Malformed, "a delta of something else"),
        }
    }

    /// Writes out the chunks of a file that were told as runs of those of the version that it builds on, which the device
    /// may read: `room` of them at most. How many there are.
    pub(super) async fn write_out(
        &self,
        at: &At,
        put: &mut Put,
        number: u32,
        room: usize,
    ) -> Result<usize, Refused> {
        if put.runs.is_empty() {
            return Ok(put.chunks.len());
        }
        let malformed = || Refused(failure(Code::Malformed, "runs of no file"));
        let of = put.on.ok_or_else(malformed)?;
        let overtaken = |text: &str| Refused(Failure { at: number, ..failure(Code::Overtaken, text) });
        let (version, extra) = match self.version(at, &put.path, Some(of)).await {
            Err(Refused(missing)) if missing.code() == Code::NotFound => {
                return Err(overtaken("the version that it builds on is not there"));
            }
            other => other?,
        };
        check_plain(&extra)?;
        let needed = put.runs.iter().filter_map(|run| Some(run.first? as usize + run.count as usize)).max();
        let old = self.refs(at, &version, needed.unwrap_or_default().min(room)).await?;
        let (mut fresh, mut chunks) = (std::mem::take(&mut put.chunks).into_iter(), Vec::new());
        for run in std::mem::take(&mut put.runs) {
            let count = run.count as usize;
            if chunks.len() + count > room {
                return refuse(Code::Invalid, "the file has more chunks than a commit may have");
            }
            match run.first.map(|first| first as usize) {
                Some(first) => chunks.extend_from_slice(old.get(first..first + count).ok_or_else(malformed)?),
                None => {
                    let before = chunks.len();
                    chunks.extend(fresh.by_ref().take(count));
                    if chunks.len() - before != count {
                        return Err(malformed());
                    }
                }
            }
        }
        put.chunks = chunks;
        // What was read counts as what was told.
        Ok(put.chunks.len().max(old.len()))
    }

    /// The first chunks of a version, so many at least if it has them, which the device may lean on from now on.
    async fn refs(&self, at: &At, version: &Version, needed: usize) -> Result<Vec<ChunkRef>, Refused> {
        let gone =
            || Refused(failure(Code::ChunksGone, "the version before is kept elsewhere: send all of it"));
        let Content::Segments(segments) = &version.content else { return Err(gone()) };
        let (sent, mut refs) = (self.door.sent.by(&at.who), Vec::new());
        for segment in segments {
            let record = self.door.meta().ask(SegmentOf { id: segment.id }).await?;
            let here = record.filter(|record| record.domain == domain_of(at)).ok_or_else(gone)?;
            sent.may_read(domain_of(at), here.chunks.iter().map(|chunk| (chunk.id, chunk.plain)));
            let shown = |chunk: &holdfast_meta_raft_machine::records::ChunkRef| ChunkRef {
                id: chunk.id.as_bytes().to_vec(),
                bytes: chunk.plain,
            };
            refs.extend(here.chunks.iter().map(shown));
            if refs.len() >= needed {
                break;
            }
        }
        Ok(refs)
    }
}
