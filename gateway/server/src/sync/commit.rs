//! Commits: names changed all or none, which lean on chunks that are there.

use super::{
    Answer, At, Ended, Refused, Session,
    names::describe,
    refuse, say,
    store::{chunk_id, domain_of},
};
use crate::{engine::new_segment_id, s3::replication};
use holdfast_client_link::Stream;
use holdfast_core::{
    ids::{NodeId, SegmentId, VersionId},
    limits::{KEY_BYTES_MAX, OBJECT_BYTES_MAX, SEGMENT_CHUNKS_MAX},
    manifest::content_of,
};
use holdfast_meta_raft_machine::{
    command::{Command, Guarded, NewContent, NewObject, Outcome, Rejection, Request, TreeChange, Within},
    names::described,
    records::{Attributes, ChunkRef, Etag, Extra, SegmentRef},
};
use holdfast_proto::sync::{
    self, Commit, CommitChunks, Committed, Move, NameChange, Outcome as Told, VersionOf, failure::Code,
    name_change, reply::Reply,
};
use hyper::HeaderMap;
use std::time::Duration;
use tokio::time::timeout;

/// Changes in one commit, and chunks that they name: it is one raft entry.
const CHANGES_MAX: usize = 512;
const CHUNKS_MAX: usize = 1 << 20;

/// Chunks in a frame, which has room for fewer whose ids are whole.
const CHUNKS_OF_FRAME: usize = 128 << 10;

/// How long the chunks of one commit may take to be named.
const MORE_WITHIN: Duration = Duration::from_secs(120);

/// Times that a commit is tried whose packs' registration is late: a change of leaders may have let it pass them.
const COMMIT_TRIES: u32 = 4;

/// Reads the chunks of files that have more than one frame holds.
async fn more_chunks(stream: &mut Stream, changes: &mut [NameChange]) -> Result<(), Ended> {
    let mut count = count_chunks(changes);
    while let Some(CommitChunks { at, chunks }) = stream.receive().await? {
        count += chunks.len();
        let change = changes.get_mut(at as usize).and_then(|change| change.change.as_mut());
        let Some(name_change::Change::Put(put)) = change.filter(|_| count <= CHUNKS_MAX) else {
            return Ok(refuse(Code::Malformed, "chunks of no file, or too many")?);
        };
        put.chunks.extend(chunks);
    }
    Ok(())
}

fn count_chunks(changes: &[NameChange]) -> usize {
    let count = |change: &NameChange| match &change.change {
        Some(name_change::Change::Put(put)) => put.chunks.len(),
        _ => 0,
    };
    changes.iter().map(count).sum()
}

/// Which directory a name must come to. A directory that the caller calls its space is the root to it, by its path.
fn guard(at: &At, within: sync::Within) -> Within {
    match within.node {
        Some(0) if !at.base.is_empty() => Within::There,
        Some(node) => Within::Node(NodeId(node)),
        None => Within::There,
    }
}

/// The paths that a change is about.
fn paths_of(change: &mut name_change::Change) -> Vec<&mut Vec<u8>> {
    match change {
        name_change::Change::MakeDirectory(make) => vec![&mut make.path],
        name_change::Change::Put(put) => vec![&mut put.path],
        name_change::Change::Move(moved) => vec![&mut moved.from, &mut moved.to],
        name_change::Change::Describe(wanted) => vec![&mut wanted.path],
        name_change::Change::RemoveFile(remove) => vec![&mut remove.path],
        name_change::Change::RemoveDirectory(remove) => vec![&mut remove.path],
    }
}

impl Session {
    pub(super) async fn commit(&self, stream: &mut Stream, asked: Commit) -> Answer {
        let mut at = self.at(&asked.space).await?;
        if asked.changes.is_empty() || asked.changes.len() > CHANGES_MAX {
            refuse(Code::Malformed, format!("a commit has 1 to {CHANGES_MAX} changes"))?;
        }
        let mut asked = asked;
        if count_chunks(&asked.changes) > CHUNKS_OF_FRAME {
            refuse(Code::Malformed, "too many chunks in one frame")?;
        }
        if asked.more {
            at.demand("s3:PutObject", Some(&at.full(b"*")))?;
            let _one = self.large.acquire().await;
            let read = timeout(MORE_WITHIN, more_chunks(stream, &mut asked.changes)).await;
            read.map_err(|_| Refused(holdfast_client_link::failure(Code::Malformed, "too slow")))??;
            // Meanwhile it may have been revoked, or the directory moved.
            at = self.at(&asked.space).await?;
        }
        let mut room = CHUNKS_MAX;
        let told_as_runs = |change: &NameChange| matches!(&change.change, Some(name_change::Change::Put(put)) if !put.runs.is_empty());
        let _written_out = match asked.changes.iter().any(told_as_runs) {
            true => Some(self.door.expanding.acquire().await),
            false => None,
        };
        for (number, change) in asked.changes.iter_mut().enumerate() {
            if let Some(name_change::Change::Put(put)) = &mut change.change {
                at.demand("s3:PutObject", Some(&at.full(&put.path)))?;
                let count = self.write_out(&at, put, number as u32, room).await?;
                room = room.saturating_sub(count);
            }
        }
        let mut segments = Vec::new();
        let mut changes = Vec::with_capacity(asked.changes.len());
        for (number, change) in asked.changes.into_iter().enumerate() {
            let within = change.within.map(|within| guard(&at, within));
            let change = self.change(&at, change, number as u32, &mut segments).await?;
            changes.push(Guarded { change, within });
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
                    tokio::time::sleep(Duration::from_millis(50) * tries).await;
                    tries += 1;
                }
                Err(gone @ (Rejection::SegmentGone | Rejection::ChunkGone(_))) => {
                    self.door.sent.by(&at.who).forget();
                    return Err(gone.into());
                }
                other => break other?,
            }
        };
        let leant_on = segments.iter().flat_map(|(_, chunks)| chunks.iter().map(|chunk| chunk.id)).collect();
        self.door.sent.by(&at.who).committed(&engine.shared, domain, leant_on).await?;
        let Outcome::Changed(changed) = outcome else {
            return Ok(refuse(Code::Internal, "the metadata answered something else")?);
        };
        let told = changed
            .iter()
            .map(|change| Told { node: change.node.0, version: change.version.map(|version| version.0) });
        say(stream, Reply::Committed(Committed { outcomes: told.collect() })).await
    }

    /// A change as the metadata takes it, if the caller may make it; what it leans on is added to `segments`.
    async fn change(
        &self,
        at: &At,
        change: NameChange,
        number: u32,
        segments: &mut Vec<(SegmentId, Vec<ChunkRef>)>,
    ) -> Result<TreeChange, Refused> {
        let malformed = || Refused(holdfast_client_link::failure(Code::Malformed, "a change that is none"));
        let on = |of: VersionOf| (NodeId(of.node), VersionId(of.version));
        let mut change = change.change.ok_or_else(malformed)?;
        for path in paths_of(&mut change) {
            *path = at.full(path);
            if path.len() > KEY_BYTES_MAX {
                return refuse(Code::Invalid, format!("a path has {KEY_BYTES_MAX} bytes at most"));
            }
        }
        Ok(match change {
            name_change::Change::MakeDirectory(make) => {
                at.demand("s3:PutObject", Some(&make.path))?;
                TreeChange::MakeDirectory { path: make.path }
            }
            name_change::Change::Put(put) => {
                at.demand("s3:PutObject", Some(&put.path))?;
                if at.bucket.encryption.is_some() {
                    // This door has no keys: what is to be encrypted must not be stored as it is.
                    return refuse(
                        Code::Invalid,
                        "the space encrypts what is written to it, which only S3 can do",
                    );
                }
                let text = describe(&put.properties.unwrap_or_default());
                let mut chunks = Vec::with_capacity(put.chunks.len());
                for chunk in put.chunks {
                    chunks.push(ChunkRef { id: chunk_id(&chunk.id)?, plain: chunk.bytes });
                }
                let object = Box::new(self.object(at, chunks, number, segments)?);
                let mut extra = Extra { owner: at.scene.writer(), ..described(text) };
                let key = String::from_utf8_lossy(&put.path);
                replication::mark(&at.scene, &HeaderMap::new(), &at.bucket, &key, None, &mut extra)?;
                TreeChange::Put { path: put.path, on: put.on.map(on), object, extra }
            }
            name_change::Change::Move(moved) => {
                self.may_move(at, &moved).await?;
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
                if remove.path == at.base {
                    return refuse(Code::Denied, "a space is not in itself");
                }
                at.demand("s3:DeleteObject", Some(&remove.path))?;
                TreeChange::RemoveDirectory { node: NodeId(remove.node), path: remove.path }
            }
        })
    }

    /// Refuses to move what the caller may not take from where it is and write to where it goes: of a directory, all that
    /// is, or might be, in it.
    async fn may_move(&self, at: &At, moved: &Move) -> Result<(), Refused> {
        at.demand("s3:DeleteObject", Some(&moved.from))?;
        at.demand("s3:PutObject", Some(&moved.to))?;
        // It is read by another name, then.
        at.demand("s3:GetObject", Some(&moved.from))?;
        if at.may("s3:GetObjectVersion", Some(&moved.to)) {
            at.demand("s3:GetObjectVersion", Some(&moved.from))?;
        }
        if !moved.from.ends_with(b"/") {
            return match self.version(at, &at.short(moved.from.clone()), None).await {
                // Another change of the commit brings it there, which was judged as well.
                Err(Refused(missing)) if missing.code() == Code::NotFound => Ok(()),
                other => other.map(drop),
            };
        }
        if [&moved.from, &moved.to].into_iter().any(|path| at.tells_apart(path)) {
            let text = "policies tell names in this directory apart: move what is in it one by one";
            return refuse(Code::Denied, text);
        }
        Ok(())
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
        // Each chunk costs as much to keep track of, however small it is.
        let least = at.bucket.bucket.chunker.min() as u64;
        if chunks.len() as u64 > bytes / least + 1 {
            return refuse(Code::Invalid, "the file is cut into smaller chunks than the space's");
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
