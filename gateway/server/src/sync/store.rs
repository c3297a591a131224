//! Chunks that devices send, and commits that lean on them.
//!
//! A device is asked for what it has not sent itself and what is in no version that it named and may read: a hash is no key to
//! anybody's bytes. What is there already is not stored again, and nobody learns of it.

use super::{Answer, At, Refused, Session, Signed, names::describe, refuse, say};
use crate::{
    engine::{EngineError, MIB, Shared, new_segment_id},
    upload::LeaseKeeper,
};
use bytes::Bytes;
use holdfast_client_link::{LinkError, Stream};
use holdfast_core::{
    ids::{ChunkId, DomainId, NodeId, PoolId, SegmentId, VersionId},
    limits::{OBJECT_BYTES_MAX, PACK_BYTES, SEGMENT_CHUNKS_MAX},
    manifest::content_of,
};
use holdfast_meta_raft_machine::{
    ask::{Deduplicates, SegmentOf, VersionsOf},
    command::{Command, NewContent, NewObject, Outcome, Rejection, Request, TreeChange},
    names::described,
    records::{Attributes, ChunkRef, Content, ENCRYPTION, Etag, SegmentRef},
};
use holdfast_proto::sync::{
    Chunk, Commit, Committed, Done, Had, Have, NameChange, Outcome as Told, Upload, VersionOf, failure::Code,
    name_change, reply::Reply,
};
use std::{
    collections::HashSet,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::task::JoinSet;

/// Chunks in one question.
const ASKED_MAX: usize = 4096;

/// Versions named in one question.
const VERSIONS_MAX: usize = 64;

/// Changes in one commit, and chunks that they name: it is one raft entry.
const CHANGES_MAX: usize = 512;
const CHUNKS_MAX: usize = 40_000_000;

/// Devices of which it is remembered what they sent, and chunks of one.
const DEVICES: NonZeroUsize = NonZeroUsize::new(256).expect("it is not zero");
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(64 << 10).expect("it is not zero");

/// Packs of one upload that are written at once.
const WRITING_MAX: usize = 3;

/// Times that a commit is tried whose packs' registration is late: a change of leaders may have let it pass them.
const COMMIT_TRIES: u32 = 4;

/// What devices have sent lately, or may read: they may lean on it, with lengths.
pub(super) struct Sent(Mutex<lru::LruCache<String, Arc<SentBy>>>);

impl Default for Sent {
    fn default() -> Self {
        Self(Mutex::new(lru::LruCache::new(DEVICES)))
    }
}

/// The same of one device, in each domain.
struct SentBy {
    chunks: Mutex<lru::LruCache<(DomainId, ChunkId), u32>>,
    /// Keeps what it sent from being collected before it is committed.
    lease: tokio::sync::Mutex<Option<LeaseKeeper>>,
}

impl Sent {
    fn by(&self, device: &Signed) -> Arc<SentBy> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || {
            let chunks = Mutex::new(lru::LruCache::new(REMEMBERED));
            Arc::new(SentBy { chunks, lease: tokio::sync::Mutex::default() })
        };
        known.get_or_insert(device.device.clone(), fresh).clone()
    }
}

impl SentBy {
    fn note(&self, domain: DomainId, chunks: impl IntoIterator<Item = (ChunkId, u32)>) {
        let mut known = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, bytes) in chunks {
            known.put((domain, id), bytes);
        }
    }

    fn length(&self, domain: DomainId, id: ChunkId) -> Option<u32> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner).get(&(domain, id)).copied()
    }

    async fn keep(&self, shared: &Arc<Shared>) -> Result<(), EngineError> {
        let mut lease = self.lease.lock().await;
        match lease.as_mut() {
            Some(lease) => lease.keep(shared).await,
            None => {
                *lease = Some(LeaseKeeper::start(shared).await?);
                Ok(())
            }
        }
    }
}

fn chunk_id(bytes: &[u8]) -> Result<ChunkId, Refused> {
    let malformed = || Refused(holdfast_client_link::failure(Code::Malformed, "a chunk's id has 32 bytes"));
    ChunkId::from_slice(bytes).ok_or_else(malformed)
}

/// Where the chunks of a space are.
fn domain_of(_at: &At) -> DomainId {
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
        let unknown: HashSet<ChunkId> =
            wanted.iter().copied().filter(|id| sent.length(domain, *id).is_none()).collect();
        // Of versions, only what is asked for is remembered.
        if !unknown.is_empty() && !asked.versions.is_empty() && at.may("s3:GetObject", Some(b"*")) {
            for chunk in self.chunks_of(&at, &asked.versions).await? {
                if unknown.contains(&chunk.id) {
                    sent.note(domain, [(chunk.id, chunk.plain)]);
                }
            }
        }
        let alive = shared.meta.ask(Deduplicates { domain, ids: wanted.clone() }).await?;
        let known = wanted.iter().zip(alive).map(|(id, alive)| alive && sent.length(domain, *id).is_some());
        say(stream, Reply::Had(Had { known: known.collect() })).await
    }

    /// The chunks of versions in a space.
    async fn chunks_of(&self, at: &At, versions: &[VersionOf]) -> Result<Vec<ChunkRef>, Refused> {
        let meta = self.door.meta();
        let wanted = versions.iter().map(|of| (NodeId(of.node), VersionId(of.version))).collect();
        let mut chunks = Vec::new();
        for found in meta.ask(VersionsOf { bucket: at.bucket.bucket.id, wanted }).await? {
            let Some((version, extra)) = found else { continue };
            let Content::Segments(segments) = version.content else { continue };
            if extra.documents.contains_key(ENCRYPTION) {
                continue;
            }
            for segment in segments {
                let record = meta.ask(SegmentOf { id: segment.id }).await?;
                // Of another domain they are not what a commit here can lean on.
                let here = record.filter(|record| record.domain == domain_of(at));
                chunks.extend(here.into_iter().flat_map(|record| record.chunks));
            }
        }
        Ok(chunks)
    }

    pub(super) async fn upload(&self, stream: &mut Stream, asked: Upload) -> Answer {
        let at = self.at(&asked.space).await?;
        at.demand("s3:PutObject", Some(b"*"))?;
        let (engine, domain) = (&self.door.s3.engine, domain_of(&at));
        let sent = self.door.sent.by(&at.who);
        sent.keep(&engine.shared).await?;
        let mut writing = JoinSet::new();
        let mut batch: Vec<(ChunkId, Bytes)> = Vec::new();
        let (mut bytes, mut more) = (0, true);
        while more {
            // Memory for what arrives, and for the pack that it fills: past the budget, devices wait.
            let memory = engine.shared.upload_memory.clone();
            let memory = memory.acquire_many_owned((2 * PACK_BYTES / MIB) as u32).await;
            let memory = memory.map_err(|_| EngineError::ShuttingDown)?;
            while bytes < PACK_BYTES {
                let Some(chunk) = stream.receive::<Chunk>().await? else {
                    more = false;
                    break;
                };
                let id = chunk_id(&chunk.id)?;
                let fits = !chunk.data.is_empty() && chunk.data.len() <= at.bucket.bucket.chunker.max();
                if !fits || ChunkId::of(&chunk.data) != id {
                    refuse(Code::Malformed, "a chunk is not what its id says")?;
                }
                bytes += chunk.data.len();
                batch.push((id, chunk.data));
            }
            if writing.len() >= WRITING_MAX {
                stored(writing.join_next().await)?;
            }
            let (engine, sent) = (engine.clone(), sent.clone());
            let chunks = std::mem::take(&mut batch);
            bytes = 0;
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
                sent.note(domain, lengths);
                Ok(())
            });
        }
        while let Some(written) = writing.join_next().await {
            stored(Some(written))?;
        }
        say(stream, Reply::Done(Done {})).await
    }

    pub(super) async fn commit(&self, stream: &mut Stream, asked: Commit) -> Answer {
        let at = self.at(&asked.space).await?;
        if asked.changes.is_empty() || asked.changes.len() > CHANGES_MAX {
            refuse(Code::Malformed, format!("a commit has 1 to {CHANGES_MAX} changes"))?;
        }
        let mut segments = Vec::new();
        let mut changes = Vec::with_capacity(asked.changes.len());
        for (number, change) in asked.changes.into_iter().enumerate() {
            changes.push(self.change(&at, change, number as u32, &mut segments)?);
        }
        let engine = &self.door.s3.engine;
        let owner = at.scene.writer();
        let domain = domain_of(&at);
        let mut tries = 0;
        let outcome = loop {
            let register = |(id, chunks): &(SegmentId, Vec<ChunkRef>)| {
                Request::idempotent(Command::RegisterSegment { id: *id, domain, chunks: chunks.clone() })
            };
            let mut requests: Vec<Request> = segments.iter().map(register).collect();
            let command = Command::ChangeTree {
                bucket: at.bucket.bucket.id,
                owner: owner.clone(),
                changes: changes.clone(),
            };
            requests.push(Request { id: Some(engine.new_request_id().await?), command });
            let outcome = engine.meta().submit(requests).await?.pop().unwrap_or(Outcome::Done);
            match outcome.accepted() {
                Err(Rejection::SegmentGone | Rejection::ChunkGone(_)) if tries < COMMIT_TRIES => {
                    tokio::time::sleep(std::time::Duration::from_millis(50) * tries).await;
                    tries += 1;
                }
                other => break other?,
            }
        };
        let Outcome::Changed(changed) = outcome else {
            return Ok(refuse(Code::Internal, "the metadata answered something else")?);
        };
        let told = changed
            .iter()
            .map(|change| Told { node: change.node.0, version: change.version.map(|version| version.0) });
        say(stream, Reply::Committed(Committed { outcomes: told.collect() })).await
    }

    /// A change as the metadata takes it, if the caller may make it; what it leans on is added to `segments`.
    fn change(
        &self,
        at: &At,
        change: NameChange,
        number: u32,
        segments: &mut Vec<(SegmentId, Vec<ChunkRef>)>,
    ) -> Result<TreeChange, Refused> {
        let malformed = || Refused(holdfast_client_link::failure(Code::Malformed, "a change that is none"));
        let on = |of: VersionOf| (NodeId(of.node), VersionId(of.version));
        Ok(match change.change.ok_or_else(malformed)? {
            name_change::Change::MakeDirectory(make) => {
                at.demand("s3:PutObject", Some(&make.path))?;
                TreeChange::MakeDirectory { path: make.path }
            }
            name_change::Change::Put(put) => {
                at.demand("s3:PutObject", Some(&put.path))?;
                let text = describe(&put.properties.unwrap_or_default());
                let mut chunks = Vec::with_capacity(put.chunks.len());
                for chunk in put.chunks {
                    chunks.push(ChunkRef { id: chunk_id(&chunk.id)?, plain: chunk.bytes });
                }
                let object = Box::new(self.object(at, chunks, number, segments)?);
                TreeChange::Put { path: put.path, on: put.on.map(on), object, extra: described(text) }
            }
            name_change::Change::Move(moved) => {
                at.demand("s3:DeleteObject", Some(&moved.from))?;
                at.demand("s3:PutObject", Some(&moved.to))?;
                TreeChange::Move { node: NodeId(moved.node), from: moved.from, to: moved.to }
            }
            name_change::Change::Describe(wanted) => {
                at.demand("s3:PutObject", Some(&wanted.path))?;
                let text = describe(&wanted.properties.unwrap_or_default());
                let name = holdfast_meta_raft_machine::records::FILE.to_owned();
                let of = on(wanted.on.ok_or_else(malformed)?);
                TreeChange::Describe { path: wanted.path, on: of, name, text }
            }
            name_change::Change::RemoveFile(remove) => {
                at.demand("s3:DeleteObject", Some(&remove.path))?;
                TreeChange::RemoveFile { path: remove.path, on: on(remove.on.ok_or_else(malformed)?) }
            }
            name_change::Change::RemoveDirectory(remove) => {
                at.demand("s3:DeleteObject", Some(&remove.path))?;
                TreeChange::RemoveDirectory { node: NodeId(remove.node), path: remove.path }
            }
        })
    }

    /// An object of chunks that the device may lean on.
    fn object(
        &self,
        at: &At,
        chunks: Vec<ChunkRef>,
        number: u32,
        segments: &mut Vec<(SegmentId, Vec<ChunkRef>)>,
    ) -> Result<NewObject, Refused> {
        let (sent, domain) = (self.door.sent.by(&at.who), domain_of(at));
        let bytes: u64 = chunks.iter().map(|chunk| u64::from(chunk.plain)).sum();
        if chunks.len() > CHUNKS_MAX || bytes > OBJECT_BYTES_MAX {
            return refuse(Code::Invalid, "the file is larger than a file may be");
        }
        if chunks.iter().any(|chunk| sent.length(domain, chunk.id) != Some(chunk.plain)) {
            let text = "chunks that it leans on were not sent";
            let failure = holdfast_client_link::failure(Code::ChunksGone, text);
            return Err(Refused(holdfast_proto::sync::Failure { at: number, ..failure }));
        }
        let content = content_of(chunks.iter().map(|chunk| (chunk.id, chunk.plain)));
        let mut refs = Vec::new();
        for some in chunks.chunks(SEGMENT_CHUNKS_MAX) {
            let id = new_segment_id();
            refs.push(SegmentRef { id, bytes: some.iter().map(|chunk| u64::from(chunk.plain)).sum() });
            segments.push((id, some.to_vec()));
        }
        let mut tag = [0; 16];
        tag.copy_from_slice(&content[..16]);
        Ok(NewObject {
            bytes,
            // No MD5 of its bytes, which nobody here has seen together: S3's clients know such tags by their number.
            etag: Etag::Multipart { md5: tag, parts: chunks.len().clamp(1, 10_000) as u16 },
            content: NewContent::Segments(refs),
            attributes: Attributes::default(),
            checksum: None,
            parts: Vec::new(),
        })
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
