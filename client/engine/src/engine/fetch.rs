//! Versions of files, put together of chunks that are on the disk already and of others that come from the server. Every chunk
//! is held against its name, and all of them against the file's.
//!
//! What was received of a large file stays on the disk when the connection breaks or the daemon is killed: the next attempt
//! asks for the rest.

use super::{Engine, Means};
use crate::{
    chunks,
    disk::{Disk, Temporary},
    error::{Error, Result, at},
    partial::{self, Partial},
    state::{RemoteFile, disk_names, key_of, names_of},
    system::{File, Names, Reading, blocking},
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use holdfast_client_link::LinkError;
use holdfast_client_sync::{Content, Id, Kind, Step, Tree};
use holdfast_core::{
    ids::{ChunkId, NodeId},
    manifest::content_of,
};
use holdfast_proto::sync::{Range, VersionOf, failure::Code};
use std::{
    collections::{BTreeMap, HashMap},
    io,
};

/// Files that are fetched at once.
const FETCHED_AT_ONCE: usize = 16;

/// Ranges that are asked for together.
const RANGES: usize = 1024;

/// Bytes of a file that are held in memory while they come; of more, they are written to the disk.
const HELD: u64 = 1 << 20;

/// A file to be fetched.
struct Wanted {
    id: Id,
    key: Vec<u8>,
    node: u64,
    file: RemoteFile,
    content: Content,
    /// The local file that it replaces, some of whose chunks it may have.
    old: Option<Names>,
}

impl Wanted {
    /// Whether what comes of it may be more than is held.
    fn is_large(&self) -> bool {
        self.file.bytes > HELD
    }
}

impl Engine {
    /// Fetches the files that steps need, as far as the connection goes: what has come is answered, and what broke it.
    pub(super) async fn fetch_all(
        &mut self,
        steps: &[Step],
        server: &Tree,
    ) -> (BTreeMap<Id, Temporary>, Option<Error>) {
        let means = self.means.clone();
        let fetch = |wanted: Wanted| {
            let means = means.clone();
            async move { (means.fetch(&wanted).await, wanted) }.boxed()
        };
        let fetches: Vec<BoxFuture<'_, _>> = self.wanted(steps, server).into_iter().map(fetch).collect();
        let mut fetched = stream::iter(fetches).buffer_unordered(FETCHED_AT_ONCE);
        let mut ready = BTreeMap::new();
        while let Some((result, wanted)) = fetched.next().await {
            match result {
                Ok(temporary) => drop(ready.insert(wanted.id, temporary)),
                Err(error) if error.is_passing() => return (ready, Some(error)),
                // It has another version by now, or is gone: the journal says so.
                Err(error) if error.code() == Some(Code::NotFound) => {}
                Err(error) => {
                    let names: Names = wanted.key.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect();
                    self.note(wanted.id, &names, &error);
                }
            }
        }
        (ready, None)
    }

    fn wanted(&self, steps: &[Step], server: &Tree) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for step in steps {
            let (id, kind) = match step {
                Step::Create { id, node } => (*id, &node.kind),
                Step::Edit { id, kind } => (*id, kind),
                Step::Move { .. } | Step::Mark { .. } | Step::Remove { .. } => continue,
            };
            let (Kind::File { content } | Kind::Link { content }) = kind else { continue };
            let (Id::Known(NodeId(node)), Some(file)) = (id, self.state.file(id)) else { continue };
            // As long as nobody knows whether the old one is what it was, nothing is put in its place.
            if self.state.infos.get(&id).is_some_and(|info| info.racy) {
                continue;
            }
            // It may be called otherwise by now than when the pass began.
            let tree = if self.state.trees.remote.contains(id) { &self.state.trees.remote } else { server };
            let key = key_of(&names_of(tree, id), false);
            let local = &self.state.trees.local;
            let old = local.contains(id).then(|| disk_names(local, id));
            wanted.push(Wanted { id, key, node, file, content: *content, old });
        }
        wanted
    }
}

impl Means {
    /// Writes a version of a file aside.
    async fn fetch(&self, wanted: &Wanted) -> Result<Temporary> {
        let fetched = self.try_fetch(wanted).await;
        // What broke off goes on from there. Anything else would break at the same place again.
        if wanted.is_large() && !fetched.as_ref().is_err_and(Error::is_passing) {
            partial::remove_all(&self.disk, wanted.node);
        }
        fetched
    }

    async fn try_fetch(&self, wanted: &Wanted) -> Result<Temporary> {
        let path = String::from_utf8_lossy(&wanted.key).into_owned();
        let of = VersionOf { node: wanted.node, version: wanted.file.version };
        let listed = self.api.manifest(&self.space, &wanted.key, Some(of)).await?;
        if Content(content_of(listed.chunks.iter().copied())) != wanted.content {
            return Err(Error::Damaged(format!("the server's list of the chunks of {path}")));
        }
        let mut found = blocking(|| self.found_here(wanted));
        let (ranges, missing) = found.lacks(&listed.chunks);
        let mut received = Received::new(wanted.node, &missing);
        for some in ranges.chunks(RANGES) {
            let mut receiving = self.api.fetch(&self.space, &wanted.key, of, some.to_vec()).await?;
            let mut left: u64 = some.iter().map(|range| range.end - range.start).sum();
            while let Some(data) = receiving.next().await? {
                left = left.saturating_sub(data.len() as u64);
                received.take(&self.disk, &data).map_err(at(&path))?;
            }
            // Who drops a stream ends it as if that were all: what is too short broke off.
            if left > 0 {
                return Err(LinkError::Io(io::ErrorKind::UnexpectedEof.into()).into());
            }
        }
        received.end(&mut found);
        let written = blocking(|| assemble(&self.disk, &listed.chunks, &found, wanted.file));
        let damaged = [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof];
        written.map_err(|error| match damaged.contains(&error.kind()) {
            true => Error::Damaged(format!("what was received of {path}")),
            false => Error::File(path, error),
        })
    }

    /// What is on the disk already: in the file that is replaced, and of what came before the connection broke.
    fn found_here(&self, wanted: &Wanted) -> Found {
        let mut found = Found::default();
        let old = || {
            let (file, stat) = self.disk.read(wanted.old.as_ref()?).ok()?;
            let cut = chunks::cut(Reading::new(&*file), stat.size).ok()?;
            Some((file, cut.chunks))
        };
        if let Some((file, chunks)) = old() {
            found.add(file, 0, &chunks);
        }
        if wanted.is_large() {
            for (file, chunks) in partial::left(&self.disk, wanted.node) {
                found.add(file, partial::HEAD, &chunks);
            }
        }
        found
    }
}

/// Where chunks are that a file is put together of.
#[derive(Default)]
struct Found {
    files: Vec<Box<dyn File>>,
    held: Bytes,
    at: HashMap<ChunkId, At>,
}

#[derive(Clone, Copy)]
enum At {
    /// In a file, from an offset.
    File(usize, u64),
    Held(usize),
}

impl Found {
    /// Adds a file of chunks, with `head` bytes before each.
    fn add(&mut self, file: Box<dyn File>, head: u64, chunks: &[(ChunkId, u32)]) {
        let mut offset = 0;
        for (id, bytes) in chunks {
            offset += head;
            self.at.entry(*id).or_insert(At::File(self.files.len(), offset));
            offset += u64::from(*bytes);
        }
        self.files.push(file);
    }

    /// The chunks that are nowhere, in order, and the ranges of the file that they are.
    fn lacks(&self, chunks: &[(ChunkId, u32)]) -> (Vec<Range>, Vec<(ChunkId, u32)>) {
        let (mut ranges, mut missing, mut start) = (Vec::<Range>::new(), Vec::new(), 0u64);
        for (id, bytes) in chunks {
            let end = start + u64::from(*bytes);
            if !self.at.contains_key(id) {
                missing.push((*id, *bytes));
                match ranges.last_mut() {
                    Some(Range { end: last, .. }) if *last == start => *last = end,
                    _ => ranges.push(Range { start, end }),
                }
            }
            start = end;
        }
        (ranges, missing)
    }

    /// A chunk, which is what its name says.
    fn read(&self, chunk @ (id, bytes): (ChunkId, u32)) -> io::Result<Bytes> {
        match self.at.get(&id) {
            Some(At::File(file, offset)) => chunks::read(&*self.files[*file], *offset, chunk),
            Some(At::Held(start)) => match start + bytes as usize {
                end if end <= self.held.len() => chunks::checked(id, self.held.slice(*start..end)),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            },
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// What comes from the server.
struct Received<'a> {
    node: u64,
    missing: &'a [(ChunkId, u32)],
    held: Vec<u8>,
    /// Where more comes than is held.
    partial: Option<Partial<'a>>,
    is_large: bool,
}

impl<'a> Received<'a> {
    fn new(node: u64, missing: &'a [(ChunkId, u32)]) -> Self {
        let bytes: u64 = missing.iter().map(|(_, bytes)| u64::from(*bytes)).sum();
        Self { node, missing, held: Vec::new(), partial: None, is_large: bytes > HELD }
    }

    fn take(&mut self, disk: &Disk, data: &[u8]) -> io::Result<()> {
        if !self.is_large {
            // More than was asked for is not held.
            let room = (HELD as usize).saturating_sub(self.held.len());
            self.held.extend_from_slice(&data[..data.len().min(room)]);
            return Ok(());
        }
        let partial = match &mut self.partial {
            Some(partial) => partial,
            None => self.partial.insert(Partial::create(disk, self.node, self.missing)?),
        };
        partial.append(data)
    }

    fn end(self, found: &mut Found) {
        if let Some(partial) = self.partial {
            found.add(partial.into_file(), partial::HEAD, self.missing);
        }
        if !self.is_large {
            let mut start = 0;
            for (id, bytes) in self.missing {
                found.at.insert(*id, At::Held(start));
                start += *bytes as usize;
            }
            found.held = self.held.into();
        }
    }
}

/// Puts a file together.
fn assemble(
    disk: &Disk,
    chunks: &[(ChunkId, u32)],
    found: &Found,
    file: RemoteFile,
) -> io::Result<Temporary> {
    if file.link {
        let mut target = Vec::new();
        for chunk in chunks {
            target.extend_from_slice(&found.read(*chunk)?);
        }
        return disk.link_aside(&target);
    }
    let write = |out: &dyn File| chunks.iter().try_for_each(|chunk| out.append(&found.read(*chunk)?));
    disk.write_aside(write, file.mtime_ns, file.executable)
}
