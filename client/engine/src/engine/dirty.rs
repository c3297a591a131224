//! What of a directory has to be looked at.

use crate::system::Names;
use std::collections::BTreeSet;

/// More names than this are looked at as the directories that they are in.
const NAMES_MAX: usize = 10_000;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Dirty {
    #[default]
    Nothing,
    Some {
        /// Each by itself.
        names: BTreeSet<Names>,
        /// All that is in them.
        directories: BTreeSet<Names>,
    },
    All,
}

impl Dirty {
    fn some(&mut self) -> Option<(&mut BTreeSet<Names>, &mut BTreeSet<Names>)> {
        if *self == Self::Nothing {
            *self = Self::Some { names: BTreeSet::new(), directories: BTreeSet::new() };
        }
        match self {
            Self::Some { names, directories } => Some((names, directories)),
            Self::Nothing | Self::All => None,
        }
    }

    /// What has a name has changed.
    pub fn add(&mut self, name: Names) {
        let Some((names, directories)) = self.some() else { return };
        names.insert(name);
        if names.len() > NAMES_MAX {
            let above = |name: Names| name.split_last().map(|(_, above)| above.to_vec()).unwrap_or_default();
            directories.extend(std::mem::take(names).into_iter().map(above));
            if directories.len() > NAMES_MAX {
                *self = Self::All;
            }
        }
    }

    /// Something has changed in a directory.
    pub fn list(&mut self, directory: Names) {
        if let Some((_, directories)) = self.some() {
            directories.insert(directory);
        }
    }

    pub fn join(&mut self, other: Self) {
        match other {
            Self::Nothing => {}
            Self::Some { names, directories } => {
                names.into_iter().for_each(|name| self.add(name));
                directories.into_iter().for_each(|directory| self.list(directory));
            }
            Self::All => *self = Self::All,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_become_their_directories_and_many_of_those_become_all() {
        let mut dirty = Dirty::default();
        for n in 0..=NAMES_MAX {
            dirty.add(vec![b"big".to_vec(), n.to_string().into_bytes()]);
        }
        let big = BTreeSet::from([vec![b"big".to_vec()]]);
        assert_eq!(dirty, Dirty::Some { names: BTreeSet::new(), directories: big });
        for n in 0..=NAMES_MAX {
            dirty.add(vec![n.to_string().into_bytes(), b"inside".to_vec()]);
        }
        assert_eq!(dirty, Dirty::All);
        dirty.add(vec![b"more".to_vec()]);
        assert_eq!(dirty, Dirty::All);
    }
}
