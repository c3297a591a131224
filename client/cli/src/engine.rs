//! One synced directory: hears the server, looks at the disk, decides, and carries it out on both sides.

use crate::{
    api::Api,
    database::{Database, Root},
    disk::{Disk, Names},
    error::{Error, Result, plain},
    scan::{Ignored, scan},
    state::{Remote, State, disk_names, key_of, names_of, shown},
};
use holdfast_client_sync::{Conflicts, Id, Label, Merged, Step, Tree, merge, steps};
use holdfast_core::ids::NodeId;
use holdfast_proto::sync::{change, failure::Code};
use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

mod local;
mod remote;

/// More deletions than this, and more than this share of all, are asked about before they are carried out.
const BRAKE_FILES: usize = 50;
const BRAKE_SHARE: usize = 2;

/// What of a directory has to be looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Dirty {
    #[default]
    Nothing,
    Directories(BTreeSet<Names>),
    All,
}

impl Dirty {
    pub fn add(&mut self, names: Names) {
        match self {
            Self::Nothing => *self = Self::Directories(BTreeSet::from([names])),
            Self::Directories(some) => drop(some.insert(names)),
            Self::All => {}
        }
    }

    pub fn join(&mut self, other: Self) {
        match other {
            Self::Nothing => {}
            Self::Directories(some) => some.into_iter().for_each(|names| self.add(names)),
            Self::All => *self = Self::All,
        }
    }
}

/// What a pass came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// Both sides are the same, but for what is listed as a problem.
    Done,
    /// Something changed meanwhile: another pass is due at once.
    Again,
}

/// One synced directory at work.
pub struct Engine {
    pub root: Root,
    pub state: State,
    api: Api,
    disk: Arc<Disk>,
    database: Database,
    /// Known to be out of date: set by whoever watches, and by what failed.
    pub dirty: Dirty,
    /// Somebody has said that so much may be deleted.
    pub confirmed: bool,
}

impl Engine {
    /// # Errors
    /// Where the directory or the database cannot be read, or another daemon has the directory.
    pub fn open(root: Root, api: Api, database: Database) -> Result<Self> {
        let missing = |error| Error::File(root.directory.display().to_string(), error);
        let disk = Disk::open(&root.directory).map_err(missing)?;
        if !disk.is_marked(&root.mark) {
            return plain(format!(
                "{} is not the directory that was synced: is its disk mounted? Nothing is deleted",
                root.directory.display()
            ));
        }
        disk.tidy();
        let state = database.load(&root)?;
        bring_back(&disk, &state);
        let disk = Arc::new(disk);
        Ok(Self { root, state, api, disk, database, dirty: Dirty::All, confirmed: false })
    }

    pub fn path(&self) -> &Path {
        self.disk.path()
    }

    /// Hears, looks, decides, carries out.
    ///
    /// # Errors
    /// What keeps anything from being synced. Problems with single files are in the state.
    pub async fn pass(&mut self) -> Result<Passed> {
        if !self.disk.is_marked(&self.root.mark) {
            return plain("the directory is gone, or another: is its disk mounted? Nothing is deleted");
        }
        self.state.problems.clear();
        self.hear().await?;
        self.look()?;
        let merged = self.decide();
        let before = self.state.trees.remote.clone();
        let (there, here) = (
            steps(&self.state.trees.remote, &merged.tree, &merged.held),
            steps(&self.state.trees.local, &merged.tree, &merged.held),
        );
        self.brake(&there, &here)?;
        for id in &merged.held {
            let names = names_of(&merged.tree, *id);
            let text = "both sides changed it: \"hf conflicts resolve\"".to_owned();
            self.state.problems.insert(shown(&names), text);
        }
        let (mut again, made) = self.change_server(there).await?;
        let here = here.into_iter().map(|step| remote::renamed(step, &made)).collect();
        again |= self.change_disk(here, &before).await?;
        self.state.trees.agree();
        self.database.save(&self.root, &self.state)?;
        Ok(if again { Passed::Again } else { Passed::Done })
    }

    /// Takes over what the server has, as far as it changed.
    async fn hear(&mut self) -> Result<()> {
        let epoch = self.api.epoch().await?;
        if self.state.epoch != epoch {
            // Another cluster, or another life of this one: what was agreed with the other says nothing of this one.
            self.forget_agreement();
            self.state.epoch = epoch;
        }
        if self.state.cursor.is_none() {
            return self.read_all_names().await;
        }
        while let Some(cursor) = self.state.cursor {
            let page = self.api.changes(&self.root.space, cursor, Duration::ZERO).await?;
            if page.space != self.state.space || cursor > page.head {
                // Another space of this name, or the server has gone back: nothing is deleted for what it lacks.
                self.forget_agreement();
                return self.read_all_names().await;
            }
            if page.lost {
                return self.read_all_names().await;
            }
            self.state.outgrown |= !page.changes.is_empty();
            for change in page.changes {
                match change.change {
                    Some(change::Change::Is(name)) => {
                        self.state.names.insert(name.node, Remote::of(name));
                    }
                    Some(change::Change::Gone(node)) => drop(self.state.names.remove(&node)),
                    None => {}
                }
            }
            self.state.cursor = Some(page.cursor);
            if page.cursor >= page.head {
                if self.state.outgrown {
                    self.state.grow_remote();
                }
                return Ok(());
            }
        }
        Ok(())
    }

    fn forget_agreement(&mut self) {
        self.state.trees.synced.clear();
        self.state.cursor = None;
    }

    async fn read_all_names(&mut self) -> Result<()> {
        let (mut names, mut after, mut first) = (std::collections::BTreeMap::new(), Vec::new(), None);
        loop {
            let page = self.api.names(&self.root.space, after).await?;
            let (cursor, space) = *first.get_or_insert((page.cursor, page.space));
            names.extend(page.names.into_iter().map(|name| (name.node, Remote::of(name))));
            match page.after {
                Some(next) => after = next,
                None => {
                    // Another bucket of this name is another space.
                    if self.state.space != space {
                        self.state.trees.synced.clear();
                    }
                    (self.state.space, self.state.cursor, self.state.names) = (space, Some(cursor), names);
                    self.state.grow_remote();
                    break;
                }
            }
        }
        // What changed while they were read is in the journal.
        Box::pin(self.hear()).await
    }

    fn look(&mut self) -> Result<()> {
        let ignored = Ignored::read(self.disk.path());
        let dirty = std::mem::take(&mut self.dirty);
        let (directories, deep) = match &dirty {
            Dirty::Nothing => return Ok(()),
            Dirty::All => (vec![Id::Root], true),
            Dirty::Directories(some) => {
                let find = |names: &Names| known(&self.state.trees.local, names);
                (some.iter().map(find).collect::<BTreeSet<_>>().into_iter().collect(), false)
            }
        };
        let disk = self.disk.clone();
        let looked =
            tokio::task::block_in_place(|| scan(&disk, &ignored, &mut self.state, directories, deep));
        if let Err(error) = looked {
            self.dirty = dirty;
            return Err(Error::File(self.disk.path().display().to_string(), error));
        }
        Ok(())
    }

    fn decide(&mut self) -> Merged {
        let day = time::OffsetDateTime::now_utc().date();
        let label = format!("{}, {day}", self.api.account().name);
        let trees = std::mem::take(&mut self.state.trees);
        let before: Vec<(Id, _)> = trees.local.iter().map(|(id, node)| (id, node.place.clone())).collect();
        let mut merged = merge(trees, self.root.conflicts, Label(&label), self.state.next_fresh);
        self.state.next_fresh = merged.next_fresh;
        self.state.trees = std::mem::take(&mut merged.trees);
        // Nodes that have another name by now keep what is known of their files.
        for (old, place) in before {
            if !self.state.trees.local.contains(old) {
                let renumbered = self.state.trees.local.at(&place).or_else(|| self.by_info(old));
                if let Some(new) = renumbered {
                    self.call(old, new);
                }
            }
        }
        merged
    }

    /// A local node that has another name since its directory has one, by its inode.
    fn by_info(&self, old: Id) -> Option<Id> {
        let info = self.state.infos.get(&old)?;
        let candidates = self.state.trees.local.iter().map(|(id, _)| id);
        candidates
            .into_iter()
            .find(|id| !self.state.infos.contains_key(id) && self.inode_at(*id) == Some(info.inode))
    }

    fn inode_at(&self, id: Id) -> Option<u64> {
        self.disk.stat(&disk_names(&self.state.trees.local, id)).ok().flatten().map(|stat| stat.inode)
    }

    fn call(&mut self, old: Id, new: Id) {
        if let Some(info) = self.state.infos.remove(&old) {
            self.state.infos.insert(new, info);
        }
        if let Some(chunks) = self.state.cut.remove(&old) {
            self.state.cut.insert(new, chunks);
        }
    }

    /// Stops where much would be deleted, until somebody has said that it is meant.
    fn brake(&mut self, there: &[Step], here: &[Step]) -> Result<()> {
        let removed =
            |steps: &[Step]| steps.iter().filter(|step| matches!(step, Step::Remove { .. })).count();
        let sides = [
            (removed(there), self.state.trees.remote.len(), "on the server"),
            (removed(here), self.state.trees.local.len(), "in the directory"),
        ];
        for (count, all, place) in sides {
            if count > BRAKE_FILES && count * BRAKE_SHARE > all && !self.confirmed {
                return plain(format!(
                    "{count} of {all} files would be deleted {place}: if that is meant, \"hf sync confirm\""
                ));
            }
        }
        self.confirmed = false;
        Ok(())
    }

    /// Says what is wrong with a file, and has it looked at again where it was changed meanwhile. Whether it was.
    fn note(&mut self, names: &[Vec<u8>], error: &Error) -> bool {
        if matches!(error, Error::Changed(_)) || error.code() == Some(Code::Overtaken) {
            self.dirty.add(names[..names.len().saturating_sub(1)].to_vec());
            return true;
        }
        self.state.problems.insert(shown(names), error.to_string());
        false
    }
}

/// Brings back what somebody who was stopped left aside: to where it was, or else to where it is seen.
fn bring_back(disk: &Disk, state: &State) {
    let aside = [crate::disk::INTERNAL.to_vec(), b"aside".to_vec()];
    let left = match disk.list(&aside) {
        Ok(left) => left,
        Err(error) => {
            tracing::warn!(%error, "what was left aside cannot be looked for");
            return;
        }
    };
    for (name, stat) in left {
        let same = |info: &crate::state::Info| (info.inode, info.device) == (stat.inode, stat.device);
        let owner = state.infos.iter().find(|(_, info)| same(info)).map(|(id, _)| *id);
        let from = [aside[0].clone(), aside[1].clone(), name.clone()];
        let home = owner.map(|id| names_of(&state.trees.local, id)).filter(|names| !names.is_empty());
        let back = home.is_some_and(|home| disk.relocate(&from, &home).is_ok());
        if !back && let Err(error) = disk.relocate(&from, &[[b"recovered", name.as_slice()].concat()]) {
            tracing::error!(%error, "a file is left in .holdfast/aside");
        }
    }
}

/// The nearest directory on a path that is in a tree.
fn known(tree: &Tree, names: &[Vec<u8>]) -> Id {
    let mut at = Id::Root;
    for name in names {
        let place = holdfast_client_sync::Place { parent: at, name: name.clone() };
        match tree.at(&place).filter(|id| tree.is_directory(*id)) {
            Some(next) => at = next,
            None => break,
        }
    }
    at
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
fn node_of(id: Id, made: &std::collections::HashMap<Id, u64>) -> Option<u64> {
    match id {
        Id::Known(NodeId(node)) => Some(node),
        Id::Fresh(_) => made.get(&id).copied(),
        Id::Root => Some(0),
    }
}

/// The key of a node of a tree.
fn key(tree: &Tree, id: Id) -> Vec<u8> {
    key_of(&names_of(tree, id), tree.is_directory(id))
}
