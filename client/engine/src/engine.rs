//! One synced directory: hears the server, looks at the disk, decides, and carries it out on both sides.
//!
//! What has changed is marked as open; open nodes are merged some at a time, each with what it depends on, so that a change
//! costs what it touches, and memory holds no whole tree.

use crate::{
    disk::Disk,
    error::{Error, Result, plain},
    look::Looked,
    scan::{IGNORE_FILE, Ignored, scan, scan_some},
    server::Server,
    state::{Local, Remote, State, key_of, shown},
    store::{Life, Store},
    system::{Names, System, blocking},
};
use holdfast_client_sync::{Conflicts, Id, Label, Part, Place, Side, Tree, merge_part, steps};
use holdfast_core::ids::NodeId;
use holdfast_proto::sync::{Change, change, failure::Code};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

mod conflicts;
mod dirty;
mod fetch;
mod local;
mod remote;
mod selection;
mod send;

pub use conflicts::Keep;
pub use dirty::Dirty;

/// More deletions than this, and more than this share of all, are asked about before they are carried out.
const BRAKE_FILES: i64 = 50;
const BRAKE_SHARE: i64 = 2;

/// How long the local trash keeps what was deleted elsewhere.
const TRASH_DAYS: i64 = 30;

/// Names that are tried for what was left aside.
const RECOVERED_MAX: u32 = 1000;

/// Open nodes that are merged together.
const PART: usize = 2000;

/// What a pass came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// Both sides are the same, but for what is listed as a problem.
    Done,
    /// Something changed meanwhile: another pass is due at once.
    Again,
}

/// What steps are carried out with, by several at once.
#[derive(Clone)]
struct Means {
    api: Arc<dyn Server>,
    disk: Arc<Disk>,
    space: String,
}

/// A directory that is synced with a space.
#[derive(Debug, Clone)]
pub struct Root {
    pub space: String,
    /// By which the directory is known again.
    pub mark: String,
    pub conflicts: Conflicts,
    /// The database of what is known of it.
    pub trees: PathBuf,
}

/// One synced directory at work.
pub struct Engine {
    root: Root,
    store: Store,
    /// What is being worked on.
    state: State,
    means: Means,
    /// Where the journal ended when all names were read last.
    listed_to: u64,
    /// Known to be out of date: set by whoever watches, and by what failed.
    pub dirty: Dirty,
    /// Somebody has said that so much may be deleted.
    pub confirmed: bool,
    /// What files build on cannot be leant on: all is told of them.
    whole: bool,
}

impl Engine {
    /// # Errors
    /// Where the directory or the database cannot be read, or another daemon has the directory.
    pub fn open(root: Root, system: Arc<dyn System>, api: Arc<dyn Server>) -> Result<Self> {
        let disk = Disk::new(system);
        if !disk.is_marked(&root.mark) {
            return plain(format!(
                "{} is not the directory that was synced: is its disk mounted? Nothing is deleted",
                disk.path().display()
            ));
        }
        disk.tidy();
        if let Some(day) = disk.today().checked_sub(time::Duration::days(TRASH_DAYS)) {
            disk.empty_trash(day);
        }
        let store = Store::open(&root.trees)?;
        bring_back(&disk, &store)?;
        store.retry()?;
        let means = Means { api, disk: Arc::new(disk), space: root.space.clone() };
        Ok(Self {
            root,
            store,
            state: State::default(),
            means,
            listed_to: 0,
            dirty: Dirty::All,
            confirmed: false,
            whole: false,
        })
    }

    pub fn path(&self) -> &Path {
        self.means.disk.path()
    }

    /// Where the space's journal was read to.
    ///
    /// # Errors
    /// Where the database cannot be read, here and below.
    pub fn cursor(&self) -> Result<Option<u64>> {
        Ok(self.store.life()?.cursor)
    }

    /// How many files, directories and links there are.
    pub fn files(&self) -> usize {
        self.store.files()
    }

    /// What is not synced and why, by path, as far as lists go; and how much it is in all.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn problems(&self) -> Result<(usize, BTreeMap<String, String>)> {
        let count = self.store.problems()?;
        let mut problems = BTreeMap::new();
        if count > 0 {
            for (place, why) in self.store.skipped()? {
                problems.insert(shown(&self.store.path(&place)?), why);
            }
            for (id, why) in self.store.left()? {
                problems.insert(self.called(id)?, why);
            }
        }
        Ok((count, problems))
    }

    /// What a node is called, on whichever side it is.
    fn called(&self, id: Id) -> Result<String> {
        if self.store.local(id)?.is_some() {
            return Ok(shown(&self.store.disk_names(id)?));
        }
        let (mut names, mut at, mut above) = (Names::new(), id, BTreeSet::new());
        while let Some(remote) = self.store.remote(at)?
            && above.insert(at)
        {
            at = remote.place().parent;
            names.push(remote.name);
        }
        names.reverse();
        Ok(shown(&names))
    }

    /// Has what could not be synced be tried again.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn retry(&mut self) -> Result<()> {
        for (place, _) in self.store.skipped()? {
            let names = self.store.path(&place)?;
            self.dirty.list(names.clone());
            self.dirty.add(names);
        }
        self.store.retry()
    }

    /// Hears, looks, decides, carries out.
    ///
    /// # Errors
    /// What keeps anything from being synced. Problems with single files are in the store.
    pub async fn pass(&mut self) -> Result<Passed> {
        if !self.means.disk.is_marked(&self.root.mark) {
            return plain("the directory is gone, or another: is its disk mounted? Nothing is deleted");
        }
        self.hear().await?;
        self.look()?;
        self.withdraw()?;
        self.brake()?;
        let mut life = self.store.life()?;
        life.pass += 1;
        self.store.set_life(&life)?;
        loop {
            let due = self.store.due(life.pass, PART)?;
            if due.is_empty() {
                break;
            }
            self.settle(due, life.pass).await?;
        }
        self.confirmed = false;
        self.store.keep()?;
        if self.store.is_open()? {
            return Ok(Passed::Again);
        }
        self.whole = false;
        Ok(Passed::Done)
    }

    /// Has both sides agree about some nodes, as far as that goes.
    async fn settle(&mut self, due: Vec<Id>, pass: i64) -> Result<()> {
        let mut seeds = Vec::new();
        for id in due {
            match self.store.is_hidden(id)? {
                // Found while others were worked on: it is looked at in the next pass.
                true => self.store.leave(id, pass, false, None)?,
                false => seeds.push(id),
            }
        }
        let part = self.decide(seeds)?;
        let Part { before, mut ids, merged } = part;
        let server = before.remote;
        let unread = |id: &Id| self.state.unread.contains(id);
        let mut there = steps(&self.state.trees.remote, &merged.tree, &merged.held);
        let mut here = steps(&self.state.trees.local, &merged.tree, &merged.held);
        for some in [&mut there, &mut here] {
            some.retain(|step| !unread(&remote::id_of(step)));
        }
        for id in &merged.held {
            self.state.problems.insert(*id, conflicts::HELD.to_owned());
        }
        let done = match self.change_server(there).await {
            Ok(made) => {
                let here = here.into_iter().map(|step| remote::renamed(step, &made)).collect();
                self.change_disk(here, &server).await
            }
            Err(error) => Err(error),
        };
        let State { trees, .. } = &self.state;
        ids.extend(trees.local.iter().chain(trees.remote.iter()).map(|(id, _)| id));
        if done.is_ok() {
            ids.iter().try_for_each(|id| self.store.answered(*id))?;
        }
        self.take_note(ids, pass)?;
        done
    }

    /// Merges the part of the trees that some nodes belong to, and takes it up.
    fn decide(&mut self, due: Vec<Id>) -> Result<Part> {
        let label = format!("{}, {}", self.means.api.device_name(), self.means.disk.today());
        let looked = Looked::new(&self.store, &self.means.disk);
        let life = self.store.life()?;
        let mut part = blocking(|| {
            let part = merge_part(&looked, due, self.root.conflicts, Label(&label), life.next_fresh)?;
            looked.settle().map(|()| part)
        })?;
        let Looked { cut, unread, .. } = looked;
        let trees = std::mem::take(&mut part.merged.trees);
        let mut state = State { cut: cut.into_inner(), trees, ..State::default() };
        for (id, why) in unread.into_inner() {
            state.unread.insert(id);
            state.problems.insert(id, why);
        }
        for id in &part.ids {
            if let Some(local) = self.store.local(*id)? {
                state.infos.insert(*id, local.info);
            }
            if let (Id::Known(NodeId(node)), Some(remote)) = (*id, self.store.remote(*id)?) {
                state.names.insert(node, remote);
            }
        }
        self.store.set_life(&Life { next_fresh: part.merged.next_fresh, ..life })?;
        for (from, to) in &part.merged.renumbered {
            self.store.call(*from, *to)?;
            state.call(*from, *to);
        }
        self.state = state;
        Ok(part)
    }

    /// Writes down what nodes are by now on both sides, and whether that is the same.
    fn take_note(&mut self, ids: BTreeSet<Id>, pass: i64) -> Result<()> {
        let mut state = std::mem::take(&mut self.state);
        state.trees.agree();
        let State { trees, infos, unread, names, problems, tried, reused, .. } = state;
        let mut unsure = Vec::new();
        // What could not be read is as it was found.
        let local: Vec<Id> = ids.iter().copied().filter(|id| !unread.contains(id)).collect();
        for id in &local {
            match (trees.local.get(*id), self.store.local(*id)?) {
                (None, _) => self.store.remove_local(*id)?,
                // So that names can be exchanged.
                (Some(node), Some(before)) if before.place != node.place => self.store.detach(*id)?,
                (Some(_), _) => {}
            }
        }
        for id in local {
            let Some(node) = trees.local.get(id) else { continue };
            let info = infos.get(&id).copied();
            // What is aside and was tried in vain is not what it was, perhaps: it is read again.
            let strange =
                node.place.is_aside() && tried.contains(&id) || info.is_none_or(|info| info.is_unknown());
            let unread = strange && !node.kind.is_directory();
            if let Some((other, _)) = self.store.local_at(&node.place)?.filter(|(other, _)| *other != id) {
                // It could not be read, as it was gone by then: the place was free.
                self.store.detach(other)?;
                self.dirty.add(self.store.path(&node.place)?);
            }
            self.store.put_local(id, &Local::of(node, info.unwrap_or_default(), unread))?;
            if unread {
                unsure.push(id);
            }
        }
        for id in &ids {
            if let Id::Known(NodeId(node)) = id {
                self.store.hear(*node, names.get(node))?;
            }
        }
        for id in ids {
            let base = trees.synced.get(&id);
            self.store.set_base(id, base)?;
            let (here, there) = (trees.local.get(id), trees.remote.get(id));
            let seen = self.store.seen(id)?;
            let why = problems.get(&id).map(String::as_str).or(seen.as_ref().err().copied());
            // What was to be seen of the server may be another by what was just heard.
            let is_new = !self.store.is_hidden(id)? && seen.is_ok_and(|seen| seen.as_ref() != there);
            match why {
                None if here == there && !is_new => self.store.close(id)?,
                why => self.store.leave(id, pass, tried.contains(&id), why)?,
            }
        }
        for id in reused {
            self.store.mark(id)?;
        }
        // Whether both sides are the same is known when they have been read.
        for id in unsure {
            self.store.leave(id, pass, true, None)?;
        }
        self.store.keep()
    }

    /// Takes over what the server has, as far as it changed.
    async fn hear(&mut self) -> Result<()> {
        let served = self.means.api.life().await?;
        let life = self.store.life()?;
        if !served.follows(&life.epoch) {
            // Another cluster, or one that was set back: what was agreed with the other says nothing of this one.
            self.begin_anew()?;
        }
        if life.epoch != served.text() {
            self.store.set_life(&Life { epoch: served.text(), ..self.store.life()? })?;
        }
        while let Some(cursor) = self.store.life()?.cursor {
            let page = self.means.api.changes(&self.root.space, cursor).await?;
            let life = self.store.life()?;
            if page.space != life.space || cursor > page.head {
                // Another space of this name, or the server has gone back: nothing is deleted for what it lacks.
                self.begin_anew()?;
                return Box::pin(self.read_all_names()).await;
            }
            if page.lost {
                return Box::pin(self.read_all_names()).await;
            }
            let mut strange = false;
            for change in page.changes {
                strange |= self.hear_of(change, cursor)?;
            }
            if strange {
                return Box::pin(self.read_all_names()).await;
            }
            self.store.set_life(&Life { cursor: Some(page.cursor), ..life })?;
            if page.cursor >= page.head {
                return self.store.keep();
            }
        }
        Box::pin(self.read_all_names()).await
    }

    /// Takes a change over that was in the journal behind `cursor`. Whether there is more to it than it says.
    fn hear_of(&self, change: Change, cursor: u64) -> Result<bool> {
        // A directory that was moved while all names were read may have come, with what is in it, to where the list had been
        // read already.
        let while_listed = cursor < self.listed_to;
        let knows = |node: u64| Ok::<_, Error>(self.store.remote(Id::Known(NodeId(node)))?.is_some());
        match change.change {
            Some(change::Change::Is(name)) => {
                self.store.hear(name.node, Some(&Remote::of(name)))?;
                Ok(false)
            }
            Some(change::Change::Moved(name)) => {
                // Into a directory that is followed by itself they come from where nothing is known.
                let unknown = self.root.space.contains('/') && !knows(name.node)?;
                self.store.hear(name.node, Some(&Remote::of(name)))?;
                Ok(while_listed || unknown)
            }
            Some(change::Change::Passed(_)) => Ok(while_listed),
            Some(change::Change::Left(node)) => knows(node),
            Some(change::Change::Gone(node)) => {
                self.store.hear(node, None)?;
                Ok(false)
            }
            None => Ok(false),
        }
    }

    fn begin_anew(&mut self) -> Result<()> {
        self.dirty = Dirty::All;
        self.store.forget()
    }

    async fn read_all_names(&mut self) -> Result<()> {
        let (mut after, mut first) = (Vec::new(), None);
        // It is kept when it is known to be of one moment.
        self.store.begin_listing()?;
        loop {
            let page = self.means.api.names(&self.root.space, after).await?;
            let (cursor, space) = *first.get_or_insert((page.cursor, page.space));
            let life = self.store.life()?;
            if life.space != space {
                // Another bucket of this name is another space.
                self.begin_anew()?;
                self.store.set_life(&Life { space, ..self.store.life()? })?;
            }
            for name in page.names {
                self.store.hear(name.node, Some(&Remote::of(name)))?;
            }
            match page.after {
                Some(next) => after = next,
                None => {
                    self.store.end_listing()?;
                    self.store.find_unselected()?;
                    self.store.set_life(&Life { cursor: Some(cursor), ..self.store.life()? })?;
                    self.listed_to = page.cursor;
                    break;
                }
            }
        }
        // What changed while they were read is in the journal.
        self.hear().await
    }

    fn look(&mut self) -> Result<()> {
        let dirty = std::mem::take(&mut self.dirty);
        let (disk, store) = (&self.means.disk, &self.store);
        let looked = blocking(|| {
            let (ignored, none) = (Ignored::read(disk), BTreeSet::new());
            match &dirty {
                Dirty::Nothing => scan_some(disk, &ignored, store, &none, &none),
                // What is ignored is another by now, perhaps.
                Dirty::Some { names, .. } if names.contains(&vec![IGNORE_FILE.as_bytes().to_vec()]) => {
                    scan(disk, &ignored, store)
                }
                Dirty::Some { names, directories } => scan_some(disk, &ignored, store, names, directories),
                Dirty::All => scan(disk, &ignored, store),
            }
        });
        if looked.is_err() {
            self.dirty = dirty;
        }
        looked?;
        self.store.keep()
    }

    /// Stops where much would be deleted, until somebody has said that it is meant.
    fn brake(&self) -> Result<()> {
        let (there, here) = self.store.deletions()?;
        let sides = [(there, Side::Remote, "on the server"), (here, Side::Local, "in the directory")];
        for (count, side, place) in sides {
            let all = self.store.count(side)?;
            if count > BRAKE_FILES && count * BRAKE_SHARE > all && !self.confirmed {
                return plain(format!(
                    "{count} of {all} files would be deleted {place}: if that is meant, \"hf sync confirm\""
                ));
            }
        }
        Ok(())
    }

    /// Says what is wrong with a file, or has it looked at again where it was changed meanwhile.
    fn note(&mut self, id: Id, names: &[Vec<u8>], error: &Error) {
        if matches!(error, Error::Changed(_)) || error.code() == Some(Code::Overtaken) {
            self.state.tried.insert(id);
            self.dirty.add(names.to_vec());
        } else {
            self.state.problems.insert(id, error.to_string());
        }
    }
}

/// Brings back what somebody who was stopped left aside: to where it was, or else to where it is seen.
fn bring_back(disk: &Disk, store: &Store) -> Result<()> {
    let aside = [crate::disk::INTERNAL.to_vec(), b"aside".to_vec()];
    let left = match disk.list(&aside) {
        Ok(left) => left,
        Err(error) => {
            tracing::warn!(%error, "what was left aside cannot be looked for");
            return Ok(());
        }
    };
    for (name, stat) in left {
        let owner = store.by_inode(stat.inode, stat.device)?.into_iter().next();
        let from = [aside[0].clone(), aside[1].clone(), name.clone()];
        let home = match owner {
            Some((id, local)) if !local.place.is_aside() => Some(store.disk_names(id)?),
            Some(_) | None => None,
        };
        let back = home.is_some_and(|home| disk.relocate(&from, &home).is_ok());
        if !back && let Err(error) = recover(disk, &from, &name) {
            tracing::error!(%error, "a file is left in .holdfast/aside");
        }
    }
    Ok(())
}

/// Takes what was left aside to where it is seen.
fn recover(disk: &Disk, from: &[Vec<u8>], name: &[u8]) -> std::io::Result<()> {
    let mut number = 1;
    loop {
        let again = if number > 1 { format!(" {number}") } else { String::new() };
        match disk.relocate(from, &[[b"recovered", name, again.as_bytes()].concat()]) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && number < RECOVERED_MAX => {
                number += 1;
            }
            done => return done.map(drop),
        }
    }
}

/// A strategy by its name.
///
/// # Errors
/// Where there is none of that name.
pub fn strategy(name: &str) -> Result<Conflicts> {
    match name {
        "copy" => Ok(Conflicts::Copy),
        "last-writer" => Ok(Conflicts::LastWriter),
        "manual" => Ok(Conflicts::Manual),
        _ => plain("conflicts are dealt with by copy, last-writer or manual"),
    }
}

/// What the server calls a node.
fn node_of(id: Id, made: &BTreeMap<Id, u64>) -> Option<u64> {
    match id {
        Id::Known(NodeId(node)) => Some(node),
        Id::Fresh(_) => made.get(&id).copied(),
        Id::Root => Some(0),
    }
}

/// What a name is called between two moves of one commit; nobody ever sees it.
const ASIDE: &str = ".holdfast-aside-";

/// What the server calls the last name of a place, which may be aside.
fn server_name(place: &Place) -> Vec<u8> {
    match place.is_aside() {
        true => format!("{ASIDE}{}", String::from_utf8_lossy(&place.name).replace('\0', "-")).into_bytes(),
        false => place.name.clone(),
    }
}

/// The names from the root down to a node, as the server has them in the middle of a commit.
fn server_names(tree: &Tree, id: Id) -> Names {
    let name = |id: Id| tree.get(id).map(|node| server_name(&node.place));
    let mut names: Names = name(id).into_iter().chain(tree.above(id).filter_map(name)).collect();
    names.reverse();
    names
}

/// The key of a node of a tree.
fn key(tree: &Tree, id: Id) -> Vec<u8> {
    key_of(&server_names(tree, id), tree.is_directory(id))
}
