//! Sending what the server does not have of files: chunks, as deltas where that is less, and lists of chunks as runs of those
//! that it has.

use super::{Engine, Means, key, remote::id_of};
use crate::{
    chunks,
    disk::Disk,
    error::{Error, Result},
    runs::runs,
    state::{disk_names, shown},
    system::blocking,
};
use bytes::Bytes;
use fast_rsync::{Signature, diff};
use holdfast_client_sync::{Id, Kind, Step};
use holdfast_core::ids::ChunkId;
use holdfast_proto::sync::{
    ChunkRef, NameChange, NamedVersion, Piece, Put, Range, Run, VersionOf, failure::Code, name_change::Change,
};
use std::collections::{HashMap, HashSet};

/// Files of fewer chunks are told in whole: to ask what the server has would take longer.
const LONG: usize = 32;

/// Signatures that are asked for at once. Of what changed in more places all is sent.
const SIGNATURES_MAX: usize = 256;

/// Versions that are named at once.
const VERSIONS_MAX: usize = 64;

/// A change as the server is told of it.
pub(super) struct Told {
    pub change: NameChange,
    /// The version whose chunks its runs are of.
    base: Option<Base>,
}

struct Base {
    path: Vec<u8>,
    of: VersionOf,
    /// Of new chunks: what of the version each may be like.
    like: HashMap<ChunkId, Range>,
}

/// Where a chunk is on the disk.
#[derive(Clone, Copy)]
struct Place {
    file: Id,
    offset: u64,
    bytes: u32,
}

impl Engine {
    /// Tells of large files that were edited what the server does not know of them.
    pub(super) async fn shorten(&mut self, steps: &[Step], changes: &[NameChange]) -> Result<Vec<Told>> {
        let mut told = Vec::with_capacity(changes.len());
        for (step, change) in steps.iter().zip(changes) {
            let path = key(&self.state.trees.remote, id_of(step));
            told.push(match &change.change {
                // Where it is moved as well, the server knows it by its old path until then.
                Some(Change::Put(put)) if put.chunks.len() >= LONG && put.path == path && !self.whole => {
                    self.shortened(put).await?
                }
                _ => None,
            });
        }
        let whole = |(told, change): (Option<Told>, &NameChange)| {
            told.unwrap_or_else(|| Told { change: change.clone(), base: None })
        };
        Ok(told.into_iter().zip(changes).map(whole).collect())
    }

    async fn shortened(&mut self, put: &Put) -> Result<Option<Told>> {
        let Some(of) = put.on else { return Ok(None) };
        let listed = match self.means.api.manifest(&self.means.space, &put.path, Some(of)).await {
            Ok(listed) => listed,
            // It is another by now: the commit will say so.
            Err(error) if error.code().is_some() => return Ok(None),
            Err(error) => return Err(error),
        };
        let old = listed.chunks;
        let new: Vec<(ChunkId, u32)> = put
            .chunks
            .iter()
            .filter_map(|chunk| Some((ChunkId::from_slice(&chunk.id)?, chunk.bytes)))
            .collect();
        let (found, like) = runs(&old, &new);
        if found.iter().all(|run| run.first.is_none()) {
            return Ok(None);
        }
        let (mut starts, mut start) = (Vec::with_capacity(old.len()), 0u64);
        for (_, bytes) in &old {
            starts.push(start);
            start += u64::from(*bytes);
        }
        let range = |at: usize| Range { start: starts[at], end: starts[at] + u64::from(old[at].1) };
        let like = like.into_iter().map(|(id, at)| (id, range(at))).collect();
        let (mut fresh, mut at) = (Vec::new(), 0);
        for run in &found {
            if run.first.is_none() {
                fresh.extend_from_slice(&put.chunks[at..at + run.count]);
            }
            at += run.count;
        }
        let runs = found
            .iter()
            .map(|run| Run { first: run.first.map(|first| first as u32), count: run.count as u32 });
        let short = Put { chunks: fresh, runs: runs.collect(), ..put.clone() };
        let base = Base { path: put.path.clone(), of, like };
        Ok(Some(Told {
            change: NameChange { change: Some(Change::Put(short)), within: None },
            base: Some(base),
        }))
    }

    /// Where the chunks are that a file's list has and its version before has not.
    fn places(&self, step: &Step, put: &Put) -> Vec<(ChunkId, Place)> {
        let file = id_of(step);
        let fresh: HashSet<&[u8]> = put.chunks.iter().map(|chunk| chunk.id.as_slice()).collect();
        // The list of a file that is told as runs has holes: its places are those of the whole one.
        let whole: Vec<ChunkRef> = match (put.runs.is_empty(), self.state.cut.get(&file)) {
            (false, Some(cut)) => cut.iter().map(crate::server::reference).collect(),
            _ => put.chunks.clone(),
        };
        let (mut found, mut offset) = (Vec::new(), 0);
        for chunk in &whole {
            if let Some(id) = ChunkId::from_slice(&chunk.id).filter(|_| fresh.contains(chunk.id.as_slice())) {
                found.push((id, Place { file, offset, bytes: chunk.bytes }));
            }
            offset += u64::from(chunk.bytes);
        }
        found
    }

    /// Sends the chunks of files that the server does not have.
    pub(super) async fn send(&mut self, steps: &[Step], told: &[Told]) -> Result<()> {
        let (mut wanted, mut places, mut versions) = (Vec::new(), HashMap::new(), Vec::new());
        for (step, Told { change, .. }) in steps.iter().zip(told) {
            let Some(Change::Put(put)) = &change.change else { continue };
            let path = key(&self.state.trees.remote, id_of(step));
            versions.extend(put.on.map(|of| NamedVersion { path, of: Some(of) }));
            for (id, place) in self.places(step, put) {
                if places.insert(id, place).is_none() {
                    wanted.push(id);
                }
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        versions.truncate(VERSIONS_MAX);
        let Means { api, space, .. } = self.means.clone();
        let known = api.have(&space, &wanted, &versions).await?;
        let missing: Vec<ChunkId> =
            wanted.into_iter().zip(known).filter(|(_, known)| !known).map(|(id, _)| id).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let deltas = self.deltas(told, &missing, &places).await?;
        let with_deltas = !deltas.is_empty();
        match self.upload(&missing, &places, deltas).await {
            // What came out of a delta was something else: that can be, and is seen.
            Err(error) if with_deltas && error.code() == Some(Code::Malformed) => {
                self.upload(&missing, &places, HashMap::new()).await
            }
            other => other,
        }
    }

    /// What chunks differ in from those that they are made of, where that is less.
    async fn deltas(
        &mut self,
        told: &[Told],
        missing: &[ChunkId],
        places: &HashMap<ChunkId, Place>,
    ) -> Result<HashMap<ChunkId, (Bytes, Piece)>> {
        let mut deltas = HashMap::new();
        for base in told.iter().filter_map(|told| told.base.as_ref()) {
            let like = missing.iter().filter_map(|id| Some((*id, *base.like.get(id)?)));
            let like: Vec<(ChunkId, Range)> = like.collect();
            if like.is_empty() || like.len() > SIGNATURES_MAX {
                continue;
            }
            let ranges = like.iter().map(|(_, range)| *range).collect();
            let Means { api, space, .. } = &self.means;
            let signatures = match api.signatures(space, &base.path, base.of, ranges).await {
                Ok(signatures) => signatures,
                Err(error) if error.code().is_some() => continue,
                Err(error) => return Err(error),
            };
            for ((id, range), signature) in like.into_iter().zip(signatures) {
                let Some(place) = places.get(&id) else { continue };
                let data = self.read_chunk(id, *place)?;
                let Some(delta) = blocking(|| delta_of(signature, &data)) else {
                    continue;
                };
                let piece = Piece { path: base.path.clone(), of: Some(base.of), range: Some(range) };
                deltas.insert(id, (delta, piece));
            }
        }
        Ok(deltas)
    }

    async fn upload(
        &mut self,
        missing: &[ChunkId],
        places: &HashMap<ChunkId, Place>,
        mut deltas: HashMap<ChunkId, (Bytes, Piece)>,
    ) -> Result<()> {
        let Means { api, space, .. } = &self.means;
        let mut sending = api.upload(space).await?;
        for id in missing {
            match (deltas.remove(id), places.get(id)) {
                (Some((delta, base)), _) => sending.delta(*id, delta, base).await?,
                (None, Some(place)) => {
                    let data = self.read_chunk(*id, *place)?;
                    sending.chunk(*id, data).await?;
                }
                (None, None) => {}
            }
        }
        sending.finish().await
    }

    /// A chunk, as it was when its file was looked at.
    fn read_chunk(&self, id: ChunkId, place: Place) -> Result<Bytes> {
        let local = &self.state.trees.local;
        let names = disk_names(local, place.file);
        let changed = |_: std::io::Error| Error::Changed(shown(&names));
        let disk: &Disk = &self.means.disk;
        if local.get(place.file).is_some_and(|node| matches!(node.kind, Kind::Link { .. })) {
            let target = disk.read_link(&names).map_err(changed)?;
            let same = ChunkId::of(&target) == id;
            return if same { Ok(target.into()) } else { Err(Error::Changed(shown(&names))) };
        }
        let (file, _) = disk.read(&names).map_err(changed)?;
        blocking(|| chunks::read(&*file, place.offset, (id, place.bytes))).map_err(changed)
    }
}

/// A delta, where it is much less than all.
fn delta_of(signature: Bytes, data: &[u8]) -> Option<Bytes> {
    let signature = Signature::deserialize(signature.to_vec()).ok()?;
    let mut delta = Vec::new();
    diff(&signature.index(), data, &mut delta).ok()?;
    (delta.len() < data.len() / 4 * 3).then(|| delta.into())
}
