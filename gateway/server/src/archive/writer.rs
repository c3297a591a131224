//! Writing pieces of the archive: a pack each, and an object that keeps the pack alive.

use crate::engine::{Engine, EngineError, new_segment_id};
use holdfast_core::{
    chunker::ChunkerProfile,
    ids::{BucketId, ChunkId},
};
use holdfast_meta_raft_archive::{ATTEMPTS, ArchiveKey, BUCKET, DOMAIN, Piece, StreamId};
use holdfast_meta_raft_machine::{
    ask::{BucketNamed, CurrentVersion, Listing, PackOf, TopologyNow},
    command::{Command, Condition, NewContent, NewObject, Outcome, Rejection, Request},
    list::ListRequest,
    records::{Archive, ArchivedState, Attributes, ChunkRef, Etag, SegmentRef},
};
use holdfast_meta_raft_server::MetaHandle;

/// Plain bytes of records in one piece, roughly. With one more record it is below a pack's size, whatever does not compress.
const PAGE_BYTES: usize = 2 << 20;

/// Pages of a state that wait for the devices.
const PAGES: usize = 2;

/// Keys that are looked at together.
const KEYS: usize = 1000;

/// Writes pieces for a leader. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    meta: MetaHandle,
    engine: Engine,
    key: ArchiveKey,
    groups: u32,
    /// The archive's own.
    pub bucket: BucketId,
}

/// The object that keeps a piece: its stream, then its number, in hexadecimal.
fn key_of(stream: &StreamId, number: u64) -> Vec<u8> {
    format!("{}/{number:016x}", hex::encode(stream)).into_bytes()
}

/// Stream and number of a piece's object.
fn parse_key(key: &[u8]) -> Option<(StreamId, u64)> {
    let (stream, number) = std::str::from_utf8(key).ok()?.split_once('/')?;
    let mut bytes = [0; 16];
    hex::decode_to_slice(stream, &mut bytes).ok()?;
    Some((bytes, u64::from_str_radix(number, 16).ok()?))
}

impl Writer {
    pub async fn new(meta: MetaHandle, engine: Engine, key: ArchiveKey) -> Result<Self, EngineError> {
        let topology = meta.ask(TopologyNow {}).await?;
        let pool = topology.pool.ok_or(EngineError::Archive("there is no pool yet"))?;
        let named = BucketNamed { name: BUCKET.to_owned() };
        let bucket = match meta.ask(named).await? {
            Some(bucket) => bucket.id,
            None => {
                let chunker = ChunkerProfile::V1;
                let create = Command::CreateBucket { name: BUCKET.to_owned(), domain: DOMAIN, chunker };
                let made = meta.request(Request::idempotent(create)).await?.accepted()?;
                let Outcome::Bucket(id) = made else {
                    return Err(EngineError::Archive("its bucket cannot be made"));
                };
                id
            }
        };
        Ok(Self { meta, engine, key, groups: pool.pg_count, bucket })
    }

    /// Has the metadata take commands, all of them.
    pub async fn commit(&self, commands: Vec<Command>) -> Result<(), EngineError> {
        let requests = commands.into_iter().map(Request::idempotent).collect();
        for outcome in self.meta.submit(requests).await? {
            outcome.accepted()?;
        }
        Ok(())
    }

    /// Writes a piece under one of its names; durable and known to the metadata when this returns, and then `note` too.
    pub async fn write(
        &self,
        stream: &StreamId,
        number: u64,
        piece: &Piece,
        note: Option<Command>,
    ) -> Result<(), EngineError> {
        let sealed = piece.seal(&self.key, stream, number, rand::random());
        let sealed = sealed.map_err(|_| EngineError::Archive("a piece cannot be sealed"))?;
        let chunk = ChunkRef { id: ChunkId::of(&sealed), plain: sealed.len() as u32 };
        // Groups that are whole first, then any that take it. A name is never used for anything else.
        for attempt in 0..ATTEMPTS {
            let id = self.key.name(stream, number, attempt, self.groups);
            let whole = attempt < ATTEMPTS / 2;
            let Some(pack) = self.engine.shared.write_named(id, DOMAIN, &sealed, whole).await? else {
                continue;
            };
            let segment = new_segment_id();
            let content = vec![SegmentRef { id: segment, bytes: sealed.len() as u64 }];
            let commands = vec![
                Command::RegisterPack(pack),
                Command::RegisterSegment { id: segment, domain: DOMAIN, chunks: vec![chunk] },
                Command::PutObject {
                    bucket: self.bucket,
                    key: key_of(stream, number),
                    condition: Condition::Always,
                    object: NewObject {
                        bytes: sealed.len() as u64,
                        etag: Etag::Md5([0; 16]),
                        content: NewContent::Segments(content),
                        attributes: Attributes::default(),
                        checksum: None,
                        parts: Vec::new(),
                    },
                },
            ];
            match self.commit(commands).await {
                Ok(()) => {}
                // Its group has moved meanwhile: under another name it is in another.
                Err(EngineError::Rejected(Rejection::StaleEpoch { .. })) => {
                    self.engine.shared.placement.refresh().await?;
                    continue;
                }
                Err(error) => return Err(error),
            }
            // Only what is there is noted: commands of one submission do not share a fate.
            return match note {
                Some(note) => self.commit(vec![note]).await,
                None => Ok(()),
            };
        }
        Err(EngineError::Archive("no placement group takes its pieces"))
    }

    /// Archives the whole state as it is now: where it is, and how many bytes it was.
    pub async fn write_state(self, stream: StreamId) -> Result<(ArchivedState, u64), EngineError> {
        let (send, mut pages) = tokio::sync::mpsc::channel(PAGES);
        let meta = self.meta.clone();
        let export = tokio::task::spawn_blocking(move || {
            meta.export(PAGE_BYTES, |page| send.blocking_send(page).is_ok())
        });
        let (mut pieces, mut bytes) = (0, 0);
        while let Some(page) = pages.recv().await {
            bytes +=
                page.iter().map(|(key, value): &(Vec<u8>, Vec<u8>)| key.len() + value.len()).sum::<usize>();
            self.write(&stream, pieces, &Piece::State(page), None).await?;
            pieces += 1;
        }
        let index = export.await.map_err(|_| EngineError::ShuttingDown)??;
        Ok((ArchivedState { stream, pieces, index }, bytes as u64))
    }

    /// Whether an archive's state is there, written with this key.
    pub async fn has(&self, archive: &Archive) -> Result<bool, EngineError> {
        let Some(state) = archive.state else { return Ok(false) };
        let first = CurrentVersion { bucket: self.bucket, key: key_of(&state.stream, 0) };
        if self.meta.ask(first).await?.is_none() {
            return Ok(false);
        }
        for attempt in 0..ATTEMPTS {
            let id = self.key.name(&state.stream, 0, attempt, self.groups);
            if self.meta.ask(PackOf { id }).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Deletes pieces that `archive` does not need, and that are not of the state that is being written.
    pub async fn clean(&self, archive: &Archive, writing: Option<StreamId>) -> Result<(), EngineError> {
        let needed = |stream: &StreamId, number: u64| {
            writing.is_some_and(|writing| writing == *stream)
                || archive.state.is_some_and(|state| state.stream == *stream)
                || archive.logs.iter().any(|log| log.stream == *stream && number >= log.piece)
        };
        let mut after = Vec::new();
        loop {
            let wanted = ListRequest { after: after.clone(), max: KEYS, ..ListRequest::default() };
            let page = self.meta.ask(Listing { bucket: self.bucket, wanted }).await?;
            let keys: Vec<Vec<u8>> = page.items.iter().map(|item| item.name().to_vec()).collect();
            let stale = keys
                .iter()
                .filter(|key| parse_key(key).is_some_and(|(stream, number)| !needed(&stream, number)));
            let delete = |key: &Vec<u8>| Command::DeleteObject {
                bucket: self.bucket,
                key: key.clone(),
                condition: Condition::Always,
            };
            let requests: Vec<_> = stale.map(delete).map(Request::idempotent).collect();
            if !requests.is_empty() {
                for outcome in self.meta.submit(requests).await? {
                    match outcome.accepted() {
                        Ok(_) | Err(Rejection::NoSuchKey) => {}
                        Err(rejection) => return Err(rejection.into()),
                    }
                }
            }
            match keys.last() {
                Some(last) if page.truncated => after = last.clone(),
                Some(_) | None => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_found_by_their_keys() {
        let stream = [0xa5; 16];
        assert_eq!(parse_key(&key_of(&stream, 77)), Some((stream, 77)));
        assert!(key_of(&stream, 9) < key_of(&stream, 10));
        assert_eq!(parse_key(b"else"), None);
    }
}
