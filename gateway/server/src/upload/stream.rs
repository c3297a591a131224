//! Large bodies, while they arrive.
//!
//! Bytes gather until chunks can be cut from them; chunks that are new fill a pack; a full pack is written while the next
//! one fills. A stalled body gives its memory back: what is whole is written, and less than one chunk is kept.

use super::{BoxError, Incoming, Ingested, STALLED_AFTER, lease::LeaseKeeper};
use crate::engine::{Engine, EngineError, Shared, new_segment_id};
use crate::seal::Seal;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use holdfast_core::{
    chunker::ChunkerProfile,
    ids::{ChunkId, DomainId},
    limits::SEGMENT_CHUNKS_MAX,
};
use holdfast_gateway_object::PackBuilder;
use holdfast_meta_raft_machine::{
    ask::Deduplicates,
    command::{Command, NewContent, Request},
    records::{ChunkRef, SegmentRef},
};
use std::{borrow::Cow, collections::HashSet, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, SemaphorePermit},
    task::JoinHandle,
};

/// Bytes that gather before chunks are cut: several chunks are looked up at once.
const WINDOW: usize = 2 << 20;

/// MiB that an upload holds while it has bytes in memory: window, pack and parity.
const ACTIVE_MIB: u32 = 10;

/// MiB more where chunks are sealed: those of a window.
const SEALED_MIB: u32 = 3;

/// MiB of a pack that is being written while the next one fills.
const PACK_MIB: u32 = 6;

/// A body that sends nothing for so long gives its memory to others.
const QUIET_AFTER: Duration = Duration::from_secs(1);

pub struct StreamIngest<'a> {
    shared: &'a Arc<Shared>,
    limit: u64,
    seal: Option<&'a Seal>,
    domain: DomainId,
    _slot: SemaphorePermit<'a>,
    memory: Option<OwnedSemaphorePermit>,
    window: Vec<u8>,
    bytes: u64,
    builder: Option<PackBuilder>,
    writing: Option<JoinHandle<Result<(), EngineError>>>,
    /// Chunks since the last segment was registered.
    pending: Vec<ChunkRef>,
    /// Bytes of the body in them.
    pending_bytes: u64,
    /// Those of them that this upload has written.
    written: HashSet<ChunkId>,
    segments: Vec<SegmentRef>,
    lease: LeaseKeeper,
}

impl<'a> StreamIngest<'a> {
    /// Waits until there is room for one more upload.
    pub async fn start<S>(engine: &'a Engine, incoming: &Incoming<'a, S>) -> Result<Self, EngineError> {
        let shared = &engine.shared;
        let slot = shared.upload_slots.acquire().await.map_err(|_| EngineError::ShuttingDown)?;
        Ok(Self {
            shared,
            limit: incoming.limit,
            seal: incoming.seal,
            domain: incoming.pool.domain(),
            _slot: slot,
            memory: None,
            window: Vec::new(),
            bytes: 0,
            builder: None,
            writing: None,
            pending: Vec::new(),
            pending_bytes: 0,
            written: HashSet::new(),
            segments: Vec::new(),
            lease: LeaseKeeper::start(shared).await?,
        })
    }

    pub async fn run<S>(mut self, incoming: Incoming<'a, S>) -> Result<Ingested, EngineError>
    where
        S: Stream<Item = Result<Bytes, BoxError>> + Send + Unpin,
    {
        let Incoming { mut body, digest, .. } = incoming;
        loop {
            let piece = self.next(&mut body).await?;
            let Some(piece) = piece else { break };
            self.bytes += piece.len() as u64;
            if self.bytes > self.limit {
                return Err(EngineError::TooLarge);
            }
            digest.update(&piece).await;
            self.take(&piece).await?;
        }
        self.finish().await
    }

    /// The next piece. While the body is quiet, its memory goes to others and its lease is renewed.
    async fn next<S>(&mut self, body: &mut S) -> Result<Option<Bytes>, EngineError>
    where
        S: Stream<Item = Result<Bytes, BoxError>> + Send + Unpin,
    {
        let quiet_max = STALLED_AFTER.as_secs() / QUIET_AFTER.as_secs();
        for _ in 0..quiet_max {
            match tokio::time::timeout(QUIET_AFTER, body.next()).await {
                Ok(piece) => return piece.transpose().map_err(EngineError::Body),
                Err(_) => self.give_way().await?,
            }
        }
        Err(EngineError::Stalled)
    }

    /// Memory for bytes that are about to be kept.
    async fn activate(&mut self) -> Result<(), EngineError> {
        if self.memory.is_none() {
            let mib = ACTIVE_MIB + if self.seal.is_some() { SEALED_MIB } else { 0 };
            let memory = self.shared.upload_memory.clone().acquire_many_owned(mib).await;
            self.memory = Some(memory.map_err(|_| EngineError::ShuttingDown)?);
        }
        Ok(())
    }

    async fn take(&mut self, piece: &[u8]) -> Result<(), EngineError> {
        self.activate().await?;
        self.window.reserve_exact((WINDOW + piece.len()).saturating_sub(self.window.len()));
        self.window.extend_from_slice(piece);
        if self.window.len() >= WINDOW { self.cut(false).await } else { Ok(()) }
    }

    /// The body is quiet: everything but the beginning of a chunk goes to the disks, and memory to others.
    async fn give_way(&mut self) -> Result<(), EngineError> {
        if self.memory.is_some() {
            self.cut(false).await?;
            self.flush().await?;
            self.settle().await?;
            self.window.shrink_to_fit();
            self.memory = None;
        }
        self.lease.keep(self.shared).await
    }

    /// Cuts what can be cut off the window; all of it where it is the `last`.
    async fn cut(&mut self, last: bool) -> Result<(), EngineError> {
        self.lease.keep(self.shared).await?;
        let window = std::mem::take(&mut self.window);
        let mut chunks: Vec<(ChunkId, Cow<'_, [u8]>, u64)> = Vec::new();
        let mut at = 0;
        while at < window.len()
            && let Some(len) = ChunkerProfile::V1.cut(&window[at..], last)
        {
            let plain = &window[at..at + len];
            let bytes = self.seal.map_or(Cow::Borrowed(plain), |seal| Cow::Owned(seal.seal(plain)));
            chunks.push((ChunkId::of(&bytes), bytes, len as u64));
            at += len;
        }
        self.shared.metrics.chunk_bytes.inc_by(at as u64);
        let ids = chunks.iter().map(|(id, ..)| *id).collect();
        let known = self.shared.meta.ask(Deduplicates { domain: self.domain, ids }).await?;
        for ((id, bytes, plain), known) in chunks.into_iter().zip(known) {
            if known || self.written.contains(&id) {
                self.shared.metrics.dedup_bytes.inc_by(plain);
            } else {
                self.add(id, &bytes).await?;
            }
            self.pending.push(ChunkRef { id, plain: bytes.len() as u32 });
            self.pending_bytes += plain;
            if self.pending.len() == SEGMENT_CHUNKS_MAX {
                self.register_segment().await?;
            }
        }
        self.window = window;
        self.window.drain(..at);
        Ok(())
    }

    /// Adds a new chunk to the pack; a full one is written first.
    async fn add(&mut self, id: ChunkId, plain: &[u8]) -> Result<(), EngineError> {
        if self.builder.as_ref().is_some_and(|builder| !builder.fits(plain.len())) {
            self.flush().await?;
        }
        let buffers = &self.shared.buffers;
        self.builder.get_or_insert_with(|| PackBuilder::new(buffers.take())).add(id, plain);
        self.written.insert(id);
        Ok(())
    }

    /// Begins to write the pack; waits for the one before, and where memory is short for this one too.
    async fn flush(&mut self) -> Result<(), EngineError> {
        let Some(builder) = self.builder.take() else { return Ok(()) };
        self.settle().await?;
        let (shared, domain) = (self.shared.clone(), self.domain);
        match self.shared.upload_memory.clone().try_acquire_many_owned(PACK_MIB) {
            Ok(memory) => {
                self.writing = Some(tokio::spawn(async move {
                    let result = shared.store_pack(builder, domain).await;
                    drop(memory);
                    result
                }));
                Ok(())
            }
            Err(_) => {
                self.shared.store_pack(builder, domain).await?;
                // Others have waited in order; this upload now waits behind them.
                self.memory = None;
                self.activate().await
            }
        }
    }

    /// Waits until the pack that is being written is durable and its registration queued.
    async fn settle(&mut self) -> Result<(), EngineError> {
        match self.writing.take() {
            Some(writing) => writing.await.map_err(|_| EngineError::ShuttingDown)?,
            None => Ok(()),
        }
    }

    /// Registers the pending chunks as a segment, whose references keep them from then on.
    async fn register_segment(&mut self) -> Result<(), EngineError> {
        self.flush().await?;
        self.settle().await?;
        let segment = self.next_segment();
        let request = Request::idempotent(Command::RegisterSegment {
            id: segment.id,
            domain: self.domain,
            chunks: std::mem::take(&mut self.pending),
        });
        self.shared.meta.request(request).await?.accepted()?;
        Ok(())
    }

    fn next_segment(&mut self) -> SegmentRef {
        let segment = SegmentRef { id: new_segment_id(), bytes: std::mem::take(&mut self.pending_bytes) };
        self.segments.push(segment);
        self.written.clear();
        segment
    }

    async fn finish(mut self) -> Result<Ingested, EngineError> {
        self.cut(true).await?;
        self.flush().await?;
        self.settle().await?;
        let mut segments = Vec::new();
        if !self.pending.is_empty() {
            let segment = self.next_segment();
            segments.push((segment.id, std::mem::take(&mut self.pending)));
        }
        Ok(Ingested {
            bytes: self.bytes,
            domain: self.domain,
            content: NewContent::Segments(self.segments),
            segments,
            small: Vec::new(),
            lease: self.lease.finish(),
            _memory: None,
        })
    }
}
