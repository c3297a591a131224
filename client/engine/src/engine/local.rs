//! Changes of the directory: each is made only if what it changes is still what was seen.

use super::Engine;
use crate::{
    disk::{Expected, Temporary},
    error::{Error, Result},
    state::{Info, aside_names, disk_names, shown},
    system::{Class, Names, Stat, blocking},
};
use holdfast_client_sync::{Id, Node, Place, Step, Tree};
use std::io;

/// Steps that are prepared together.
const WINDOW: usize = 512;

impl Engine {
    /// `server` is the server's tree as its versions are fetched from.
    pub(super) async fn change_disk(&mut self, steps: Vec<Step>, server: &Tree) -> Result<()> {
        for window in steps.chunks(WINDOW) {
            let (mut ready, broken) = self.fetch_all(window, server).await;
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
            // What came before has its place.
            if let Some(error) = broken {
                return Err(error);
            }
        }
        Ok(())
    }

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
