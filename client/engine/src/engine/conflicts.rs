//! Conflicts that wait for somebody to decide.

use super::Engine;
use crate::{
    error::{Error, Result, plain},
    state::shown,
    system::Names,
};
use holdfast_client_sync::{Base, Id, Place, conflicted};
use serde::{Deserialize, Serialize};

/// Why a file is not synced that both sides changed.
pub(super) const HELD: &str = "both sides changed it: \"hf conflicts resolve\"";

/// Names that are tried for a copy.
const NAMES_TRIED: u32 = 1000;

/// Whose bytes a file is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// This device's: the server's become an older version.
    Mine,
    /// The server's: this device's go to the local trash.
    Theirs,
    /// The server's, and beside it this device's as a conflicted copy.
    Both,
}

impl Engine {
    /// Files that both sides changed, and that somebody has to decide about.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn conflicts(&self) -> Result<Vec<String>> {
        let held = self.store.left()?.into_iter().filter(|(_, why)| why == HELD);
        held.map(|(id, _)| self.called(id)).collect()
    }

    /// Conflicted copies, as far as lists go.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn copies(&self) -> Result<Vec<String>> {
        self.store.named_as_copies()?.into_iter().map(|id| self.called(id)).collect()
    }

    /// Decides about a file that both sides changed.
    ///
    /// # Errors
    /// Where there is no such conflict, and where a copy cannot be made.
    pub fn resolve(&mut self, names: &[Vec<u8>], keep: Keep) -> Result<()> {
        let mut at = Id::Root;
        for name in names {
            let place = Place { parent: at, name: name.clone() };
            match self.store.local_at(&place)? {
                Some((id, _)) => at = id,
                None => return plain(format!("there is no {}", shown(names))),
            }
        }
        if !self.store.left()?.iter().any(|(id, why)| *id == at && why == HELD) {
            return plain(format!("nobody has to decide about {}", shown(names)));
        }
        let (here, there) = (self.store.local(at)?, self.store.seen(at)?.unwrap_or_default());
        let (Some(here), Some(there)) = (here.and_then(|local| local.node()), there) else {
            return plain(format!("{} was changed meanwhile: look again", shown(names)));
        };
        self.set_aside(names, keep)?;
        // What both are said to have had is what the one has that gives way.
        let kind = if keep == Keep::Mine { there.kind } else { here.kind };
        let base = self.store.base(at)?.unwrap_or_default();
        self.store.set_base(at, Some(&Base { kind: Some(kind), ..base }))?;
        self.store.mark(at)?;
        self.store.keep()
    }

    /// Makes a copy of what is about to be replaced.
    fn set_aside(&mut self, names: &[Vec<u8>], keep: Keep) -> Result<()> {
        let failed = |error| Error::File(shown(names), error);
        let Some((name, above)) = names.split_last() else { return Ok(()) };
        match keep {
            Keep::Mine => Ok(()),
            Keep::Theirs => self.means.disk.copy_to_trash(names).map_err(failed),
            Keep::Both => {
                let label = format!("{}, {}", self.means.api.device_name(), self.means.disk.today());
                let place = |number| -> Names {
                    above.iter().cloned().chain([conflicted(name, false, &label, number)]).collect()
                };
                let free =
                    (1..NAMES_TRIED).map(place).find(|place| matches!(self.means.disk.stat(place), Ok(None)));
                let Some(free) = free else { return plain("there are too many copies of it already") };
                self.means.disk.copy(names, &free).map_err(failed)?;
                self.dirty.add(free);
                Ok(())
            }
        }
    }
}
