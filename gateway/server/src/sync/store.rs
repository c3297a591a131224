//! Chunks that devices send.
//!
//! A device is asked for what it has not sent itself and what is in no version that it named and may read: a hash is no key to
//! anybody's bytes. What is there already is not stored again, and nobody learns of it.

use super::{Answer, At, Refused, Session, refuse, say, sent::SentBy};
use crate::engine::{Engine, EngineError, MIB};
use bytes::Bytes;
use holdfast_client_link::{LinkError, Stream};
use holdfast_core::{
    ids::{ChunkId, DomainId, PoolId},
    limits::{PACK_BYTES, PACK_CHUNKS_MAX},
};
use holdfast_meta_raft_machine::{
    ask::{AccountOf, Deduplicates, SegmentOf},
    command::Rejection,
    records::{Content, ENCRYPTION, Extra, Version},
};
use holdfast_proto::sync::{Chunk, Done, Had, Have, Upload, failure::Code, reply::Reply};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::{sync::OwnedSemaphorePermit, task::JoinSet, time::timeout};

/// Chunks in one question.
const ASKED_MAX: usize = 4096;

/// Versions named in one question.
const VERSIONS_MAX: usize = 64;

/// Segments of named versions that are read for one answer.
const SEGMENTS_MAX: usize = 4096;

/// How long a device may be quiet until memory that was given to it goes to others.
const QUIET_AFTER: Duration = Duration::from_secs(1);

/// Bytes of one device that no commit leans on: more than the largest file has.
const UNCOMMITTED_MAX: u64 = 2 << 40;

/// Packs of one upload that are written at once.
const WRITING_MAX: usize = 3;

pub(super) fn chunk_id(bytes: &[u8]) -> Result<ChunkId, Refused> {
    let malformed = || Refused(holdfast_client_link::failure(Code::Malformed, "a chunk's id has 32 bytes"));
    ChunkId::from_slice(bytes).ok_or_else(malformed)
}

/// Where the chunks of a space are.
pub(super) fn domain_of(_at: &At) -> DomainId {
    PoolId::FIRST.domain()
}

impl Session {
    pub(super) async fn have(&self, stream: &mut Stream, asked: Have) -> Answer {
        let at = self.at(&asked.space).await?;
        if asked.chunks.len() > ASKED_MAX || asked.versions.len() > VERSIONS_MAX {
            refuse(Code::Malformed, "too much in one question")?;
        }
        let (shared, domain) = (&self.door.s3.engine.shared, domain_of(&at));
        let sent = self.door.sent.by(&at.who);
        sent.keep(shared).await?;
        let wanted = asked.chunks.iter().map(|id| chunk_id(id)).collect::<Result<Vec<_>, _>>()?;
        let mut unknown: HashSet<ChunkId> =
            wanted.iter().copied().filter(|id| sent.length(domain, *id).is_none()).collect();
        // Of versions, only what is asked for is remembered.
        let mut segments = SEGMENTS_MAX;
        for named in asked.versions {
            if unknown.is_empty() || segments == 0 {
                break;
            }
            let readable = self.version(&at, &named.path, named.of).await;
            let Ok((version, extra)) = readable else { continue };
            self.find(&at, &version, &extra, &sent, &mut unknown, &mut segments).await?;
        }
        // What it has sent itself is there as long as its lease.
        let alive = shared.meta.ask(Deduplicates { domain, ids: wanted.clone() }).await?;
        let known = wanted.iter().zip(alive).map(|(id, alive)| {
            sent.is_uncommitted(domain, *id) || alive && sent.length(domain, *id).is_some()
        });
        say(stream, Reply::Had(Had { known: known.collect() })).await
    }

    /// Finds chunks in a version that the device may read.
    async fn find(
        &self,
        at: &At,
        version: &Version,
        extra: &Extra,
        sent: &SentBy,
        unknown: &mut HashSet<ChunkId>,
        segments: &mut usize,
    ) -> Result<(), Refused> {
        let Content::Segments(parts) = &version.content else { return Ok(()) };
        if extra.documents.contains_key(ENCRYPTION) {
            return Ok(());
        }
        for part in parts.iter().take(*segments) {
            *segments -= 1;
            let record = self.door.meta().ask(SegmentOf { id: part.id }).await?;
            // Of another domain they are not what a commit here can lean on.
            let here = record.filter(|record| record.domain == domain_of(at));
            for chunk in here.into_iter().flat_map(|record| record.chunks) {
                if unknown.remove(&chunk.id) {
                    sent.may_read(domain_of(at), [(chunk.id, chunk.plain)]);
                }
            }
            if unknown.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Refuses chunks for a space whose owner may not store them; what is sent and never committed counts, too.
    async fn check_room(&self, at: &At, sent: &SentBy) -> Result<(), Refused> {
        let waiting = sent.uncommitted_bytes();
        let owner = at.bucket.config.owner.clone();
        let account = self.door.meta().ask(AccountOf { owner }).await?;
        if account.is_some_and(|account| account.used.saturating_add(waiting) > account.quota) {
            return Err(Rejection::OverQuota.into());
        }
        match waiting > UNCOMMITTED_MAX {
            true => refuse(Code::Quota, "too much was sent that no commit leans on"),
            false => Ok(()),
        }
    }

    pub(super) async fn upload(&self, stream: &mut Stream, asked: Upload) -> Answer {
        let mut at = self.at(&asked.space).await?;
        at.demand("s3:PutObject", Some(&at.full(b"*")))?;
        let engine = self.door.s3.engine.clone();
        let sent = self.door.sent.by(&at.who);
        self.check_room(&at, &sent).await?;
        let mut writing = JoinSet::new();
        let mut batch = Batch::default();
        loop {
            // While nothing comes, nothing is kept from others.
            let next = {
                let mut next = std::pin::pin!(stream.receive::<Chunk>());
                match timeout(QUIET_AFTER, &mut next).await {
                    Ok(next) => next?,
                    Err(_quiet) => {
                        batch.store(&engine, domain_of(&at), &sent, &mut writing);
                        next.await?
                    }
                }
            };
            let Some(chunk) = next else { break };
            let id = chunk_id(&chunk.id)?;
            if batch.memory.is_none() {
                // Memory for what arrives, and for the pack that it fills: past the budget, devices wait.
                let memory = engine.shared.upload_memory.clone();
                let memory = memory.acquire_many_owned((2 * PACK_BYTES / MIB) as u32).await;
                batch.memory = Some(memory.map_err(|_| EngineError::ShuttingDown)?);
            }
            let data = match chunk.base {
                Some(base) => self.patched(&at, chunk.data, base).await?,
                None => chunk.data,
            };
            let fits = !data.is_empty() && data.len() <= at.bucket.bucket.chunker.max();
            if !fits || ChunkId::of(&data) != id {
                refuse(Code::Malformed, "a chunk is not what its id says")?;
            }
            batch.bytes += data.len();
            batch.chunks.push((id, data));
            if batch.bytes >= PACK_BYTES || batch.chunks.len() >= PACK_CHUNKS_MAX {
                sent.keep(&engine.shared).await?;
                // Whoever lost the right to write meanwhile does not go on.
                at = self.at(&asked.space).await?;
                at.demand("s3:PutObject", Some(&at.full(b"*")))?;
                self.check_room(&at, &sent).await?;
                if writing.len() >= WRITING_MAX {
                    stored(writing.join_next().await)?;
                }
                batch.store(&engine, domain_of(&at), &sent, &mut writing);
            }
        }
        sent.keep(&engine.shared).await?;
        batch.store(&engine, domain_of(&at), &sent, &mut writing);
        while let Some(written) = writing.join_next().await {
            stored(Some(written))?;
        }
        say(stream, Reply::Done(Done {})).await
    }
}

/// Chunks that have arrived, with the memory that they are in.
#[derive(Default)]
struct Batch {
    chunks: Vec<(ChunkId, Bytes)>,
    bytes: usize,
    memory: Option<OwnedSemaphorePermit>,
}

impl Batch {
    /// Has what has arrived be written, and begins anew.
    fn store(
        &mut self,
        engine: &Engine,
        domain: DomainId,
        sent: &Arc<SentBy>,
        writing: &mut JoinSet<Result<(), EngineError>>,
    ) {
        let Self { chunks, memory, .. } = std::mem::take(self);
        if chunks.is_empty() {
            return;
        }
        let (engine, sent) = (engine.clone(), sent.clone());
        writing.spawn(async move {
            let _memory = memory;
            let lengths: Vec<(ChunkId, u32)> =
                chunks.iter().map(|(id, data)| (*id, data.len() as u32)).collect();
            let ids = lengths.iter().map(|(id, _)| *id).collect();
            let known = engine.shared.meta.ask(Deduplicates { domain, ids }).await?;
            let fresh = chunks.into_iter().zip(known).filter(|(_, known)| !known).map(|(chunk, _)| chunk);
            let fresh: Vec<_> = fresh.collect();
            if !fresh.is_empty() {
                engine.packer.store(domain, fresh).await.map_err(crate::upload::unshare)?;
            }
            sent.has_sent(domain, lengths);
            Ok(())
        });
    }
}

type Written = Option<Result<Result<(), EngineError>, tokio::task::JoinError>>;

fn stored(written: Written) -> Result<(), super::Ended> {
    match written {
        Some(Ok(result)) => Ok(result?),
        Some(Err(_)) => Err(LinkError::Io(std::io::Error::other("a task ended")).into()),
        None => Ok(()),
    }
}
