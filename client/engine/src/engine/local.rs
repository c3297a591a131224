//! Changes of the directory: each is made only if what it changes is still what was seen.

use super::{Engine, Means};
use crate::{
    chunks,
    disk::{Disk, Expected, Temporary},
    error::{Error, Result, at},
    state::{Info, RemoteFile, aside_names, disk_names, key_of, names_of, shown},
    system::{Class, File, Names, Reading, Stat, blocking},
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use holdfast_client_sync::{Content, Id, Kind, Node, Place, Step, Tree};
use holdfast_core::{
    ids::{ChunkId, NodeId},
    manifest::content_of,
};
use holdfast_proto::sync::{Range, VersionOf};
use std::{
    collections::{BTreeMap, HashMap},
    io,
};

/// Files that are fetched at once, and steps that are prepared together.
const FETCHED_AT_ONCE: usize = 16;
const WINDOW: usize = 512;

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

impl Engine {
    /// `server` is the server's tree as its versions are fetched from.
    pub(super) async fn change_disk(&mut self, steps: Vec<Step>, server: &Tree) -> Result<()> {
        for window in steps.chunks(WINDOW) {
            let mut ready = self.fetch_all(window, server).await?;
            for step in window {
                let id = super::remote::id_of(step);
                match blocking(|| self.carry_out(step, id, ready.remove(&id))) {
                    Ok(()) => {}
                    Err((names, error)) => self.note(id, &names, &error),
                }
            }
            for (_, left) in ready {
                self.means.disk.discard(&left);
            }
        }
        Ok(())
    }

    /// Fetches the files that steps need.
    async fn fetch_all(&mut self, steps: &[Step], server: &Tree) -> Result<BTreeMap<Id, Temporary>> {
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
        let means = self.means.clone();
        let fetch = |wanted: Wanted| {
            let means = means.clone();
            async move { (means.fetch(&wanted).await, wanted) }.boxed()
        };
        let fetches: Vec<BoxFuture<'_, _>> = wanted.into_iter().map(fetch).collect();
        let fetched: Vec<_> = stream::iter(fetches).buffer_unordered(FETCHED_AT_ONCE).collect().await;
        let mut ready = BTreeMap::new();
        for (result, wanted) in fetched {
            match result {
                Ok(temporary) => drop(ready.insert(wanted.id, temporary)),
                Err(error) if error.is_passing() => return Err(error),
                // It has another version by now, or is gone: the journal says so.
                Err(error) if error.code() == Some(holdfast_proto::sync::failure::Code::NotFound) => {}
                Err(error) => {
                    let names: Names = wanted.key.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect();
                    self.note(wanted.id, &names, &error);
                }
            }
        }
        Ok(ready)
    }
}

impl Means {
    /// Writes a version of a file aside: from what is on the disk already, and else from the server. Every chunk is held
    /// against its name, and all of them against the file's.
    async fn fetch(&self, wanted: &Wanted) -> Result<Temporary> {
        let path = String::from_utf8_lossy(&wanted.key).into_owned();
        let of = VersionOf { node: wanted.node, version: wanted.file.version };
        let space = &self.space;
        let listed = self.api.manifest(space, &wanted.key, Some(of)).await?;
        if Content(content_of(listed.chunks.iter().copied())) != wanted.content {
            return Err(Error::Damaged(format!("the server's list of the chunks of {path}")));
        }
        let have = wanted.old.as_ref().map(|names| self.chunks_at(names)).unwrap_or_default();
        let (mut ranges, mut missing, mut start) = (Vec::new(), Vec::new(), 0u64);
        for (id, bytes) in &listed.chunks {
            let end = start + u64::from(*bytes);
            if !have.1.contains_key(id) {
                missing.push((*id, *bytes));
                match ranges.last_mut() {
                    Some(Range { end: last, .. }) if *last == start => *last = end,
                    _ => ranges.push(Range { start, end }),
                }
            }
            start = end;
        }
        let spool = self.disk.scratch().map_err(at(&path))?;
        for some in ranges.chunks(1024) {
            let mut receiving = self.api.fetch(space, &wanted.key, of, some.to_vec()).await?;
            while let Some(data) = receiving.next().await? {
                spool.append(&data).map_err(at(&path))?;
            }
        }
        let disk = self.disk.clone();
        let (file, link) = (wanted.file, wanted.file.link);
        let written = blocking(|| assemble(&disk, &listed.chunks, &have, (&*spool, &missing), file, link));
        let damaged = [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof];
        written.map_err(|error| match damaged.contains(&error.kind()) {
            true => Error::Damaged(format!("what was received of {path}")),
            false => Error::File(path, error),
        })
    }

    /// The chunks of a local file, and where each is in it.
    fn chunks_at(&self, names: &[Vec<u8>]) -> (Option<Box<dyn File>>, HashMap<ChunkId, u64>) {
        let cut = || {
            let (file, stat) = self.disk.read(names)?;
            let cut = blocking(|| chunks::cut(Reading::new(&*file), stat.size))?;
            Ok::<_, io::Error>((file, cut))
        };
        let Ok((file, cut)) = cut() else { return (None, HashMap::new()) };
        let mut offset = 0;
        let mut found = HashMap::new();
        for (id, bytes) in cut.chunks {
            found.insert(id, offset);
            offset += u64::from(bytes);
        }
        (Some(file), found)
    }
}

impl Engine {
    /// Where a place of the local tree is on the disk.
    fn names(&self, place: &Place) -> Names {
        if place.is_aside() {
            return aside_names(place);
        }
        let mut names = disk_names(&self.state.trees.local, place.parent);
        names.push(place.name.clone());
        names
    }

    fn carry_out(
        &mut self,
        step: &Step,
        id: Id,
        mut ready: Option<Temporary>,
    ) -> std::result::Result<(), (Names, Error)> {
        let local = &self.state.trees.local;
        let here = local.contains(id).then(|| disk_names(local, id));
        let goal = match step {
            Step::Create { node, .. } => Some(self.names(&node.place)),
            Step::Move { to, .. } => Some(self.names(to)),
            Step::Edit { .. } | Step::Mark { .. } | Step::Remove { .. } => None,
        };
        let about = goal.clone().or(here.clone()).unwrap_or_default();
        // What has the place was to leave it, and did not, or went elsewhere by itself: that is found out first.
        let taken = match step {
            Step::Create { node: Node { place, .. }, .. } | Step::Move { to: place, .. } => local.at(place),
            Step::Edit { .. } | Step::Mark { .. } | Step::Remove { .. } => None,
        };
        let done = match taken.is_some_and(|other| other != id) {
            true => Err(Error::Changed(shown(&about))),
            false => self.on_disk(step, id, here, goal, &mut ready),
        };
        tracing::debug!(at = shown(&about), ?step, done = ?done.as_ref().map(drop), "a step on the disk");
        if let Some(left) = ready {
            self.means.disk.discard(&left);
        }
        match done {
            Ok(Some(info)) => {
                if step.carry_out(&mut self.state.trees.local).is_ok() {
                    self.state.infos.insert(id, info);
                }
                Ok(())
            }
            Ok(None) => {
                if step.carry_out(&mut self.state.trees.local).is_ok() {
                    self.state.infos.remove(&id);
                }
                Ok(())
            }
            Err(error) => Err((about, error)),
        }
    }

    /// Makes a change on the disk, and answers what the file is then; `None` where it is gone. What is `ready` is taken.
    fn on_disk(
        &self,
        step: &Step,
        id: Id,
        here: Option<Names>,
        goal: Option<Names>,
        ready: &mut Option<Temporary>,
    ) -> Result<Option<Info>> {
        let about = goal.clone().or(here.clone()).unwrap_or_default();
        // Somebody else was there meanwhile.
        let overtaken =
            [io::ErrorKind::AlreadyExists, io::ErrorKind::NotFound, io::ErrorKind::DirectoryNotEmpty];
        let failed = |error: io::Error| match overtaken.contains(&error.kind()) {
            true => Error::Changed(shown(&about)),
            false => Error::File(shown(&about), error),
        };
        let changed = || Error::Changed(shown(&about));
        let not_fetched = || Error::Changed(shown(&about));
        let info = self.state.infos.get(&id).copied();
        let expected = Expected {
            before: &|stat| info.is_some_and(|info| info.is(stat)),
            moved: &|stat| info.is_some_and(|info| info.is_but_moved(stat)),
        };
        // What is moved or marked is another by that: it is looked at just before.
        let known = |names: &Names| match self.means.disk.stat(names) {
            Ok(Some(now)) => info.filter(|info| info.is(&now)),
            Ok(None) | Err(_) => None,
        };
        match (step, here, goal) {
            (Step::Create { node, .. }, None, Some(goal)) if node.kind.is_directory() => {
                self.means.disk.make_directory(&goal).map(|made| Some(Info::of(&made))).map_err(failed)
            }
            (Step::Create { .. }, None, Some(goal)) => {
                let temporary = ready.as_ref().ok_or_else(not_fetched)?;
                let placed = self.means.disk.place(temporary, &goal).map_err(failed)?;
                let written = temporary.stat;
                *ready = None;
                Ok(Some(as_written(&written, &placed, self.means.disk.now_ns())))
            }
            (Step::Move { .. }, Some(here), Some(goal)) => {
                let known = known(&here);
                let moved = self.means.disk.relocate(&here, &goal).map_err(failed)?;
                Ok(Some(
                    moved.map_or(Info::gone(info), |moved| as_known(known, &moved, self.means.disk.now_ns())),
                ))
            }
            (Step::Edit { .. }, Some(here), _) => {
                let temporary = ready.as_ref().ok_or_else(not_fetched)?;
                let placed = self.means.disk.replace(temporary, &here, &expected).map_err(failed)?;
                let placed = placed.ok_or_else(changed)?;
                let written = temporary.stat;
                *ready = None;
                Ok(Some(as_written(&written, &placed, self.means.disk.now_ns())))
            }
            (Step::Mark { executable, .. }, Some(here), _) => {
                let known = known(&here);
                let marked = self.means.disk.mark(&here, *executable).map_err(failed)?;
                Ok(Some(as_known(known, &marked, self.means.disk.now_ns())))
            }
            (Step::Remove { .. }, Some(here), _) => {
                if self.state.trees.local.is_directory(id) {
                    self.means.disk.remove_directory(&here).map_err(failed)?;
                    return Ok(None);
                }
                match self.means.disk.trash(&here, &expected).map_err(failed)? {
                    true => Ok(None),
                    false => Err(changed()),
                }
            }
            // What it leans on was not done.
            _ => Err(changed()),
        }
    }
}

/// What a file is at its place. Somebody may have written to it since it was written aside.
fn as_written(written: &Stat, placed: &Stat, now_ns: i64) -> Info {
    let written = Info::of(written);
    if written.is_but_moved(placed) { Info::of_placed(placed, now_ns) } else { Info::unknown(placed) }
}

/// What something is that was moved or marked, where it was what is known just before. Somebody may have written to it since,
/// or put another in its place: what is there then is not what is known.
fn as_known(info: Option<Info>, now: &Stat, now_ns: i64) -> Info {
    match info {
        _ if now.class == Class::Directory => Info::of(now),
        Some(info) if info.is_but_moved(now) => Info::of_placed(now, now_ns),
        Some(_) | None => Info::unknown(now),
    }
}

type Have = (Option<Box<dyn File>>, HashMap<ChunkId, u64>);

/// Puts a file together of chunks that are on the disk and chunks that were received, each held against its name.
fn assemble(
    disk: &Disk,
    chunks: &[(ChunkId, u32)],
    have: &Have,
    (spool, missing): (&dyn File, &[(ChunkId, u32)]),
    file: RemoteFile,
    link: bool,
) -> io::Result<Temporary> {
    let mut received = HashMap::new();
    let mut offset = 0;
    for (id, bytes) in missing {
        received.insert(*id, offset);
        offset += u64::from(*bytes);
    }
    let piece = |(id, bytes): (ChunkId, u32)| match (received.get(&id), have.1.get(&id), &have.0) {
        (Some(at), _, _) => chunks::read(spool, *at, (id, bytes)),
        (None, Some(at), Some(old)) => chunks::read(&**old, *at, (id, bytes)),
        (None, _, _) => Err(io::ErrorKind::UnexpectedEof.into()),
    };
    if link {
        let mut target = Vec::new();
        for chunk in chunks {
            target.extend_from_slice(&piece(*chunk)?);
        }
        return disk.link_aside(&target);
    }
    let write = |out: &dyn File| chunks.iter().try_for_each(|chunk| out.append(&piece(*chunk)?));
    disk.write_aside(write, file.mtime_ns, file.executable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_to_behind_our_back_is_not_what_is_known() {
        let stat = Stat {
            class: Class::File,
            inode: 1,
            device: 2,
            size: 3,
            mtime_ns: 4,
            ctime_ns: 5,
            executable: false,
        };
        let moved = Stat { ctime_ns: 6, ..stat };
        let known = Info::of(&stat);
        assert_eq!(as_known(Some(known), &moved, 7), Info::of(&moved));
        assert_eq!(as_written(&stat, &moved, 7), Info::of(&moved));
        let others = [
            Stat { inode: 9, ..moved },
            Stat { size: 9, ..moved },
            Stat { mtime_ns: 9, ..moved },
            Stat { device: 9, ..moved },
        ];
        for other in others {
            for info in
                [as_known(Some(known), &other, 7), as_known(None, &other, 7), as_written(&stat, &other, 7)]
            {
                assert!(info.is_unknown() && !info.is(&other), "{other:?}");
            }
        }
    }
}
