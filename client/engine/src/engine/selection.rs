//! Directories that are not selected: what is in them is taken off the disk, and put back when they are selected again.

use super::Engine;
use crate::{
    disk::Expected,
    error::{Error, Result},
    state::{Local, shown},
    system::{Class, Names, Stat},
};
use holdfast_client_sync::Id;
use std::io;

/// Why something stays that is where nothing is selected.
const UNSYNCED: &str =
    "it was changed, and is in a directory that is not selected here: select that, or move it elsewhere";

impl Engine {
    /// Has a directory of the space be kept here, or not.
    ///
    /// # Errors
    /// Where the space has no such directory, and where there is something in it that the server does not have yet.
    pub fn select(&mut self, names: &[Vec<u8>], selected: bool) -> Result<()> {
        self.store.select(names, selected)
    }

    /// What is not selected, as people read it.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn unselected(&self) -> Result<Vec<String>> {
        Ok(self.store.unselected()?.iter().map(|names| shown(names)).collect())
    }

    /// Takes what is not selected off the disk, as far as it is what the server has. The rest stays, and is listed.
    pub(super) fn withdraw(&mut self) -> Result<()> {
        let hidden = self.store.hidden()?;
        if hidden.is_empty() {
            return Ok(());
        }
        let mut directories = Vec::new();
        for id in hidden {
            match self.store.local(id)? {
                Some(local) if local.class == Class::Directory => {
                    directories.push((self.store.disk_names(id)?, id))
                }
                Some(local) => self.withdraw_file(id, &local)?,
                None => self.forget(id)?,
            }
        }
        // What is deeper goes first.
        directories.sort_by_key(|(names, _)| std::cmp::Reverse(names.len()));
        for (names, id) in directories {
            let goes = self.store.unselected_above(id)?.0 && self.store.local_inside(id)?.is_empty();
            let removed = if goes { self.means.disk.remove_directory(&names) } else { Ok(()) };
            match removed {
                Ok(()) if goes => self.withdrawn(id)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.withdrawn(id)?,
                // It goes when what is in it has gone.
                Ok(()) | Err(_) => self.store.close(id)?,
            }
        }
        self.store.keep()
    }

    fn withdraw_file(&mut self, id: Id, local: &Local) -> Result<()> {
        let names = self.store.disk_names(id)?;
        let server = self.store.remote(id)?.and_then(|remote| remote.file);
        let same = server.is_some_and(|file| file.content.is_some() && file.content == local.content);
        let there = self.store.unselected_above(id)?.0;
        if !there || !same || local.unread {
            return self.store.leave(id, self.store.life()?.pass, false, Some(UNSYNCED));
        }
        match self.take_off(&names, local) {
            Ok(true) => self.withdrawn(id),
            // It is looked at again, and then it is known what it is.
            Ok(false) => {
                self.dirty.add(names);
                self.store.leave(id, self.store.life()?.pass, false, Some(UNSYNCED))
            }
            Err(error) => {
                let why = Error::File(shown(&names), error).to_string();
                self.store.leave(id, self.store.life()?.pass, false, Some(&why))
            }
        }
    }

    /// Removes a file if it is what it was. Whether it was.
    fn take_off(&self, names: &Names, local: &Local) -> io::Result<bool> {
        let disk = &self.means.disk;
        if disk.stat(names)?.is_none() {
            return Ok(true);
        }
        let (before, moved) =
            (|stat: &Stat| local.info.is(stat), |stat: &Stat| local.info.is_but_moved(stat));
        disk.remove_file(names, &Expected { before: &before, moved: &moved })
    }

    /// Takes note that something is off the disk, and of the directory above it, where that was all.
    fn withdrawn(&self, id: Id) -> Result<()> {
        let above = self.store.local(id)?.map(|local| local.place.parent);
        self.forget(id)?;
        let Some(above) = above.filter(|above| *above != Id::Root) else { return Ok(()) };
        let goes = self.store.unselected_above(above)?.0 && self.store.local_inside(above)?.is_empty();
        if goes && self.means.disk.remove_directory(&self.store.disk_names(above)?).is_ok() {
            return self.withdrawn(above);
        }
        Ok(())
    }

    /// What is not on the disk is not deleted by that: nothing is known of it.
    fn forget(&self, id: Id) -> Result<()> {
        self.store.remove_local(id)?;
        self.store.set_base(id, None)?;
        self.store.answered(id)?;
        self.store.close(id)
    }
}
