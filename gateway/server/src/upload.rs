//! Bodies to durable chunks.
//!
//! Three ways, by size: tiny bodies go inline into the commit, small ones share packs through the
//! [`Packer`](crate::packer::Packer), large ones fill packs of their own while they arrive. Memory is taken from budgets
//! before bytes are read: past them, clients wait.

mod lease;
mod stream;

use crate::digest::BodyDigest;
use crate::engine::{Engine, EngineError, MIB, new_segment_id};
use crate::seal::Seal;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use holdfast_core::{
    chunker::ChunkerProfile,
    ids::{BucketId, ChunkId, DomainId, PoolId, SegmentId},
    limits::SEGMENT_CHUNKS_MAX,
};
use holdfast_meta_raft_machine::{
    ask::Deduplicates,
    command::{Command, NewContent, Outcome, Rejection, Request},
    records::{ChunkRef, SegmentRef, Version},
};
pub use lease::{Lease, LeaseKeeper};
use std::time::Duration;
use stream::StreamIngest;
use tokio::sync::OwnedSemaphorePermit;

/// Bodies of known length up to this are taken whole and share packs; larger ones stream.
const SMALL_MAX: usize = MIB;

/// A body that sends nothing for so long has been given up by its client.
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// The pause before the second try of a large body, and more before each later one.
const COMMIT_PAUSE: Duration = Duration::from_millis(100);

/// Times that a commit is tried whose chunks are not there: a small body's are written again meanwhile.
const COMMIT_RETRIES: u32 = 4;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body on its way in; `digest` sees each piece once, in order.
pub struct Incoming<'a, S> {
    pub body: S,
    /// The length that the client declared.
    pub length: Option<u64>,
    /// More is an error.
    pub limit: u64,
    pub digest: &'a mut BodyDigest,
    /// Its bytes are to be encrypted with this.
    pub seal: Option<&'a Seal>,
    /// Where its chunks are to be.
    pub pool: PoolId,
}

/// A body whose chunks are durable, and may be committed.
pub struct Ingested {
    pub bytes: u64,
    domain: DomainId,
    content: NewContent,
    /// Segments that the commit registers.
    segments: Vec<(SegmentId, Vec<ChunkRef>)>,
    /// The chunks of a small body, to be written again if they are collected before the commit.
    small: Vec<(ChunkId, Bytes)>,
    lease: Option<Lease>,
    /// Memory that is held until the commit.
    _memory: Option<OwnedSemaphorePermit>,
}

/// The next piece of a body that must not stall for ever.
async fn next_piece<S>(body: &mut S) -> Result<Option<Bytes>, EngineError>
where
    S: Stream<Item = Result<Bytes, BoxError>> + Unpin,
{
    match tokio::time::timeout(STALLED_AFTER, body.next()).await {
        Ok(None) => Ok(None),
        Ok(Some(piece)) => piece.map(Some).map_err(EngineError::Body),
        Err(_) => Err(EngineError::Stalled),
    }
}

impl Engine {
    /// Makes a body durable, except for its commit.
    ///
    /// # Errors
    /// Where the body ends early or is too large, or its chunks cannot be made durable.
    pub async fn ingest<S>(&self, incoming: Incoming<'_, S>, inline: bool) -> Result<Ingested, EngineError>
    where
        S: Stream<Item = Result<Bytes, BoxError>> + Send + Unpin,
    {
        match incoming.length.and_then(|length| usize::try_from(length).ok()) {
            Some(length) if length <= SMALL_MAX => self.ingest_small(incoming, length, inline).await,
            Some(_) | None => StreamIngest::start(self, &incoming).await?.run(incoming).await,
        }
    }

    async fn ingest_small<S>(
        &self,
        incoming: Incoming<'_, S>,
        length: usize,
        inline: bool,
    ) -> Result<Ingested, EngineError>
    where
        S: Stream<Item = Result<Bytes, BoxError>> + Send + Unpin,
    {
        let memory = self.shared.upload_memory.clone();
        // The body, perhaps its sealed form, and its copy in a pack, at least a piece of what the network gives.
        let copies = if incoming.seal.is_some() { 3 } else { 2 };
        let permits = (copies * length).div_ceil(MIB).max(1) as u32;
        let memory = memory.acquire_many_owned(permits).await.map_err(|_| EngineError::ShuttingDown)?;
        let Incoming { mut body, digest, limit, seal, pool, .. } = incoming;
        // One piece is kept as it is; more are joined.
        let mut first: Option<Bytes> = None;
        let mut joined = BytesMut::new();
        while let Some(piece) = next_piece(&mut body).await? {
            digest.update(&piece).await;
            let so_far = first.as_ref().map_or(0, Bytes::len) + joined.len() + piece.len();
            if so_far > length || so_far as u64 > limit {
                return Err(EngineError::TooLarge);
            }
            match first.take() {
                None if joined.is_empty() => first = Some(piece),
                None => joined.extend_from_slice(&piece),
                Some(before) => {
                    joined.reserve(length);
                    joined.extend_from_slice(&before);
                    joined.extend_from_slice(&piece);
                }
            }
        }
        let whole = first.unwrap_or_else(|| joined.freeze());
        let mut ingested = self.ingest_bytes(whole, inline, seal, pool.domain()).await?;
        ingested._memory = Some(memory);
        Ok(ingested)
    }

    /// Makes a small body durable that is in memory.
    async fn ingest_bytes(
        &self,
        whole: Bytes,
        inline: bool,
        seal: Option<&Seal>,
        domain: DomainId,
    ) -> Result<Ingested, EngineError> {
        let bytes = whole.len() as u64;
        let ready = |content| Ingested {
            bytes,
            domain,
            content,
            segments: Vec::new(),
            small: Vec::new(),
            lease: None,
            _memory: None,
        };
        if whole.is_empty() || (inline && whole.len() <= self.shared.config.inline_max) {
            return Ok(ready(match (inline, seal) {
                (false, _) => NewContent::Segments(Vec::new()),
                (true, Some(seal)) => NewContent::Inline(seal.seal(&whole)),
                (true, None) => NewContent::Inline(whole.to_vec()),
            }));
        }
        let mut chunks = Vec::new();
        let mut rest = whole;
        while !rest.is_empty() {
            let cut = ChunkerProfile::V1.cut(&rest, true).unwrap_or(rest.len());
            let chunk = rest.split_to(cut);
            let chunk = seal.map_or(chunk.clone(), |seal| seal.seal(&chunk).into());
            chunks.push((ChunkId::of(&chunk), chunk));
        }
        self.shared.metrics.chunk_bytes.inc_by(bytes);
        let ids = chunks.iter().map(|(id, _)| *id).collect();
        let known = self.shared.meta.ask(Deduplicates { domain, ids }).await?;
        let mut fresh = Vec::new();
        for ((id, plain), known) in chunks.iter().zip(known) {
            if known {
                self.shared.metrics.dedup_bytes.inc_by(plain.len() as u64);
            } else {
                fresh.push((*id, plain.clone()));
            }
        }
        if !fresh.is_empty() {
            self.packer.store(domain, fresh).await.map_err(unshare)?;
        }
        let id = new_segment_id();
        let refs: Vec<_> =
            chunks.iter().map(|(id, plain)| ChunkRef { id: *id, plain: plain.len() as u32 }).collect();
        assert!(refs.len() <= SEGMENT_CHUNKS_MAX, "a small body has few chunks");
        let mut ingested = ready(NewContent::Segments(vec![SegmentRef { id, bytes }]));
        ingested.segments = vec![(id, refs)];
        ingested.small = chunks;
        Ok(ingested)
    }

    /// Writes a version's bytes again, opened with one key and sealed with another, or in another pool.
    ///
    /// # Errors
    /// Where they cannot be read or made durable.
    pub async fn rewritten(
        &self,
        bucket: BucketId,
        version: &Version,
        from: Option<Seal>,
        to: Option<&Seal>,
        pool: PoolId,
    ) -> Result<Ingested, EngineError> {
        let content = self.content(bucket, version, 0..version.bytes, from).await?;
        let body = Box::pin(content.map(|piece| piece.map_err(|error| Box::new(error).into())));
        let mut digest = BodyDigest::new(&self.shared.md5, Some(version.bytes), None);
        let length = Some(version.bytes);
        let incoming = Incoming { body, length, limit: version.bytes, digest: &mut digest, seal: to, pool };
        let ingested = self.ingest(incoming, true).await.map_err(EngineError::of_body)?;
        if ingested.bytes == version.bytes { Ok(ingested) } else { Err(EngineError::Gone) }
    }

    /// Commits a body as `command` says, and answers its outcome.
    ///
    /// # Errors
    /// The command's rejection, and what keeps it from being applied.
    pub async fn commit(
        &self,
        mut ingested: Ingested,
        command: impl Fn(NewContent) -> Command,
    ) -> Result<Outcome, EngineError> {
        for attempt in 0..COMMIT_RETRIES {
            let register = |(id, chunks): &(SegmentId, Vec<ChunkRef>)| {
                Request::idempotent(Command::RegisterSegment {
                    id: *id,
                    domain: ingested.domain,
                    chunks: chunks.clone(),
                })
            };
            let mut requests: Vec<Request> = ingested.segments.iter().map(register).collect();
            // A name of its own for each attempt: the rejection of the one before is remembered under its name.
            let command = command(ingested.content.clone());
            requests.push(Request { id: Some(self.new_request_id().await?), command });
            requests.extend(ingested.lease.take().map(Lease::release));
            let mut outcomes = self.shared.meta.submit(requests).await?;
            outcomes.truncate(ingested.segments.len() + 1);
            let outcome = outcomes.pop().unwrap_or(Outcome::Done);
            let lost =
                outcomes.iter().any(|outcome| matches!(outcome, Outcome::Rejected(Rejection::ChunkGone(_))));
            if !lost {
                return Ok(outcome.accepted()?);
            }
            // Chunks that this upload leaned on were collected, or their pack was refused.
            if ingested.small.is_empty() {
                // Or its packs' registration is late: a change of leaders may have let this one pass it.
                tokio::time::sleep(COMMIT_PAUSE * attempt).await;
                continue;
            }
            self.packer.store(ingested.domain, ingested.small.clone()).await.map_err(unshare)?;
        }
        Err(EngineError::Gone)
    }
}

/// An error that several uploads share, as one of them tells it.
pub(crate) fn unshare(error: std::sync::Arc<EngineError>) -> EngineError {
    if let EngineError::BelowQuorum { durable, quorum } = &*error {
        EngineError::BelowQuorum { durable: *durable, quorum: *quorum }
    } else if matches!(&*error, EngineError::Full) {
        EngineError::Full
    } else {
        EngineError::ShuttingDown
    }
}
