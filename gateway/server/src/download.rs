//! Versions back to bytes.
//!
//! A version's segments are resolved one at a time, and their chunks to runs that lie together in packs. Runs are read
//! ahead, within a budget of memory; every chunk is verified before a byte of it is sent.

use crate::engine::{Engine, EngineError, MIB, Shared};
use crate::pack_io::Located;
use crate::seal::{SEAL_BYTES, Seal};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use holdfast_core::{
    ids::{BucketId, DomainId, NodeId, PackId, VersionId},
    pack::Entry,
};
use holdfast_meta_raft_machine::{
    ask::{ChunksOf, Found, InlineBytes, Locate, SegmentOf, VersionsOf},
    records::{ChunkRef, Content, SegmentRef, Version},
};
use std::{ops::Range, sync::Arc};
use tokio::sync::OwnedSemaphorePermit;

/// Runs that are read at once for one client.
const READ_AHEAD: usize = 4;

/// Bytes of one run at most, plain or as stored: a shard's, so that a client's buffers are bounded and its runs are read from
/// several devices at once.
const RUN_BYTES: u32 = MIB as u32;

/// Times that a chunk is looked for again which was moved while it was read.
const MOVED_RETRIES: usize = 4;

/// A segment of a version, by where it stands in it: the version may be moved to another pool, and has other segments then.
#[derive(Clone, Copy)]
struct Origin {
    bucket: BucketId,
    node: NodeId,
    version: VersionId,
    at: usize,
}

/// Chunks to be read together, and the part of their plain bytes that is wanted.
struct Run {
    origin: Origin,
    domain: DomainId,
    chunks: Vec<ChunkRef>,
    wanted: Range<u64>,
}

/// How chunks become an object's bytes.
#[derive(Clone)]
struct Opener(Option<Seal>);

impl Opener {
    /// The object's bytes in a chunk.
    fn bytes(&self, chunk: ChunkRef) -> u64 {
        u64::from(chunk.plain.saturating_sub(if self.0.is_some() { SEAL_BYTES } else { 0 }))
    }

    fn open(&self, chunk: Bytes) -> Result<Bytes, EngineError> {
        match &self.0 {
            Some(seal) => seal.open(chunk).map_err(|_| EngineError::OtherKey),
            None => Ok(chunk),
        }
    }
}

impl Engine {
    /// The bytes `range` of a version, verified, as they are read; of one that is encrypted, opened with `seal`.
    ///
    /// # Errors
    /// Where the metadata cannot be read. Errors of the bytes come in the stream, which ends then.
    pub async fn content(
        &self,
        bucket: BucketId,
        version: &Version,
        range: Range<u64>,
        seal: Option<Seal>,
    ) -> Result<impl Stream<Item = Result<Bytes, EngineError>> + Send + use<>, EngineError> {
        let opener = Opener(seal);
        let segments = match &version.content {
            Content::Inline => {
                let question = InlineBytes { bucket, node: version.node, version: version.id };
                let bytes = self.shared.meta.ask(question).await?.ok_or(EngineError::Gone)?;
                let bytes = match bytes.is_empty() {
                    true => Bytes::new(),
                    false => opener.open(Bytes::from(bytes))?,
                };
                let wanted = bytes.slice(range.start as usize..range.end as usize);
                return Ok(stream::once(std::future::ready(Ok(wanted))).left_stream());
            }
            Content::Segments(segments) => wanted_segments(segments, &range),
        };
        let (node, version) = (version.node, version.id);
        let shared = self.shared.clone();
        let resolve = shared.clone();
        let of_runs = opener.clone();
        let runs = stream::iter(segments).then(move |(at, segment, wanted)| {
            let (shared, opener) = (resolve.clone(), of_runs.clone());
            async move {
                let origin = Origin { bucket, node, version, at };
                let mut runs = runs_of(&shared, origin, segment, wanted.clone(), &opener).await;
                if matches!(runs, Err(EngineError::Gone))
                    && let Some(moved) = segment_now(&shared, origin).await
                {
                    runs = runs_of(&shared, origin, moved, wanted, &opener).await;
                }
                match runs {
                    Ok(runs) => stream::iter(runs.into_iter().map(Ok).collect::<Vec<_>>()),
                    Err(error) => stream::iter(vec![Err(error)]),
                }
            }
        });
        let runs = Box::pin(runs).flatten();
        let read = runs.map(move |run| {
            let (shared, opener) = (shared.clone(), opener.clone());
            async move { shared.read_run(run?, &opener).await }
        });
        Ok(read.buffered(READ_AHEAD).flat_map(|read| stream::iter(Pieces::new(read))).right_stream())
    }
}

/// A run's pieces on their way to the client, which hold their memory until the last has been taken.
struct Pieces {
    pieces: std::vec::IntoIter<Result<Bytes, EngineError>>,
    _memory: Option<OwnedSemaphorePermit>,
}

impl Pieces {
    fn new(read: Result<(Vec<Bytes>, OwnedSemaphorePermit), EngineError>) -> Self {
        match read {
            Ok((pieces, memory)) => {
                let pieces: Vec<_> = pieces.into_iter().map(Ok).collect();
                Self { pieces: pieces.into_iter(), _memory: Some(memory) }
            }
            Err(error) => Self { pieces: vec![Err(error)].into_iter(), _memory: None },
        }
    }
}

impl Iterator for Pieces {
    type Item = Result<Bytes, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.pieces.next()
    }
}

/// A segment of a version as it is now: the version was moved to another pool, if it is still there.
async fn segment_now(shared: &Shared, origin: Origin) -> Option<SegmentRef> {
    let Origin { bucket, node, version, at } = origin;
    let found = shared.meta.ask(VersionsOf { bucket, wanted: vec![(node, version)] }).await.ok()?;
    let (version, _) = found.into_iter().next()??;
    match version.content {
        Content::Segments(segments) => segments.get(at).copied(),
        Content::Inline => None,
    }
}

/// The segments that a range touches, each with its number and the part of it.
fn wanted_segments(segments: &[SegmentRef], range: &Range<u64>) -> Vec<(usize, SegmentRef, Range<u64>)> {
    let mut start = 0;
    let mut wanted = Vec::new();
    for (at, segment) in segments.iter().enumerate() {
        let end = start + segment.bytes;
        let (from, to) = (range.start.max(start), range.end.min(end));
        if from < to {
            wanted.push((at, *segment, from - start..to - start));
        }
        start = end;
    }
    wanted
}

/// The runs of a segment's part: chunks that lie one behind another in one pack.
async fn runs_of(
    shared: &Shared,
    origin: Origin,
    segment: SegmentRef,
    wanted: Range<u64>,
    opener: &Opener,
) -> Result<Vec<Run>, EngineError> {
    let record = shared.meta.ask(SegmentOf { id: segment.id }).await?.ok_or(EngineError::Gone)?;
    let domain = record.domain;
    let mut start = 0;
    let mut chunks = Vec::new();
    for chunk in record.chunks {
        let end = start + opener.bytes(chunk);
        if start < wanted.end && end > wanted.start {
            chunks.push((chunk, start));
        }
        start = end;
    }
    let ids = chunks.iter().map(|(chunk, _)| chunk.id).collect();
    let found = shared.meta.ask(ChunksOf { domain, ids }).await?;
    let mut runs: Vec<Run> = Vec::new();
    // Where the last run ends: its pack, the offset behind it, and its stored bytes.
    let mut tail: Option<(PackId, u32, u32)> = None;
    for ((chunk, start), place) in chunks.into_iter().zip(found) {
        let place = place.ok_or(EngineError::Gone)?;
        let follows = tail.is_some_and(|(pack, end, stored)| {
            pack == place.pack
                && end == place.offset
                && stored.saturating_add(place.plain.max(place.stored)) <= RUN_BYTES
        });
        let clip =
            |start: u64| wanted.start.max(start) - start..wanted.end.min(start + opener.bytes(chunk)) - start;
        match runs.last_mut() {
            Some(run) if follows => {
                let before: u64 = run.chunks.iter().map(|chunk| opener.bytes(*chunk)).sum();
                run.wanted.end = before + clip(start).end;
                run.chunks.push(chunk);
            }
            Some(_) | None => runs.push(Run { origin, domain, chunks: vec![chunk], wanted: clip(start) }),
        }
        let stored =
            if follows { tail.map_or(0, |(_, _, stored)| stored) } else { 0 } + place.plain.max(place.stored);
        tail = Some((place.pack, place.offset + place.stored, stored));
    }
    Ok(runs)
}

impl Shared {
    async fn read_run(
        self: &Arc<Self>,
        run: Run,
        opener: &Opener,
    ) -> Result<(Vec<Bytes>, OwnedSemaphorePermit), EngineError> {
        let plain: u64 = run.chunks.iter().map(|chunk| u64::from(chunk.plain)).sum();
        let permits = (plain as usize).div_ceil(MIB).max(1).min(self.config.download_budget_mib) as u32;
        let memory = self.download_memory.clone().acquire_many_owned(permits).await;
        let memory = memory.map_err(|_| EngineError::ShuttingDown)?;
        let mut chunks = self.read_wherever(run.domain, &run.chunks).await;
        // Read so slowly that the version was moved meanwhile, and what was there collected.
        if matches!(chunks, Err(EngineError::Gone | EngineError::Unreadable(_)))
            && let Some(domain) = self.domain_now(run.origin).await
            && domain != run.domain
        {
            chunks = self.read_wherever(domain, &run.chunks).await;
        }
        let chunks = chunks?;
        let opened = chunks.into_iter().map(|chunk| opener.open(chunk)).collect::<Result<_, _>>()?;
        Ok((clip(opened, &run.wanted), memory))
    }

    /// The domain that a segment of a version is in by now.
    async fn domain_now(&self, origin: Origin) -> Option<DomainId> {
        let segment = segment_now(self, origin).await?;
        Some(self.meta.ask(SegmentOf { id: segment.id }).await.ok()??.domain)
    }

    /// Reads chunks, wherever they are moved meanwhile.
    pub async fn read_wherever(
        self: &Arc<Self>,
        domain: DomainId,
        chunks: &[ChunkRef],
    ) -> Result<Vec<Bytes>, EngineError> {
        let mut attempt = 0;
        loop {
            match self.read_where_it_is(domain, chunks).await {
                Err(EngineError::Gone | EngineError::Unreadable(_)) if attempt < MOVED_RETRIES => {
                    attempt += 1
                }
                other => return other,
            }
        }
    }

    /// Reads chunks from where the index finds them now.
    async fn read_where_it_is(
        self: &Arc<Self>,
        domain: DomainId,
        chunks: &[ChunkRef],
    ) -> Result<Vec<Bytes>, EngineError> {
        let located = self.locate(domain, chunks).await?;
        let mut read = Vec::with_capacity(chunks.len());
        // One run, unless chunks were moved since it was made.
        for run in
            located.chunk_by(|a, b| a.pack == b.pack && a.entry.offset + a.entry.stored == b.entry.offset)
        {
            read.extend(self.read_chunks(run).await?);
        }
        Ok(read)
    }

    async fn locate(&self, domain: DomainId, chunks: &[ChunkRef]) -> Result<Vec<Located>, EngineError> {
        let ids = chunks.iter().map(|chunk| chunk.id).collect();
        let found = self.meta.ask(Locate { domain, ids }).await?;
        let mut located = Vec::with_capacity(chunks.len());
        for (chunk, found) in chunks.iter().zip(found) {
            let Found { chunk: place, pack } = found.ok_or(EngineError::Gone)?;
            let entry = Entry {
                chunk: chunk.id,
                offset: place.offset,
                stored: place.stored,
                plain: place.plain,
                codec: place.codec,
            };
            located.push(Located {
                entry,
                pack: place.pack,
                epoch: pack.epoch,
                shard_len: pack.shard_len,
                missing: pack.missing,
            });
        }
        Ok(located)
    }
}

/// The wanted part of chunks, as a run's plain bytes.
fn clip(chunks: Vec<Bytes>, wanted: &Range<u64>) -> Vec<Bytes> {
    let mut start = 0;
    let mut clipped = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        let end = start + chunk.len() as u64;
        let (from, to) = (wanted.start.max(start), wanted.end.min(end));
        if from < to {
            clipped.push(chunk.slice((from - start) as usize..(to - start) as usize));
        }
        start = end;
    }
    clipped
}
