//! The trees of names in a bucket: a key `a/b/c` is the file `c` in the directory `b/` in `a/`.
//!
//! Directories come with their first child and go with their last, but for those that somebody made.

use super::{Step, Tx, namespace::TELLS_OF_DIRECTORIES};
use crate::{
    command::Rejection,
    keys::{self, Tree},
    records::{Change, DirEntry, Summary},
};
use holdfast_core::{
    ids::{BucketId, NodeId, VersionId},
    kv::{KvError, View},
};

/// The directory that a key's file is in, and its name there: `a/` is the nameless file in `a/`.
pub fn leaf(key: &[u8]) -> (&[u8], &[u8]) {
    key.split_at(key.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1))
}

/// The directory that a path is in, and its name there, which may be a directory's.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let (above, _) = leaf(path.strip_suffix(b"/").unwrap_or(path));
    path.split_at(above.len())
}

/// The components of a key: `a/b` is `a/` and `b`; `a/` is `a/` and an empty name.
pub fn components(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends_open = key.ends_with(b"/");
    key.split_inclusive(|&byte| byte == b'/').chain(ends_open.then_some(&key[..0]))
}

/// A directory on the way to a key.
pub(super) struct Above {
    parent: NodeId,
    component: Vec<u8>,
    node: NodeId,
    children: u64,
    kept: bool,
}

impl Above {
    fn entry(&self, children: u64) -> DirEntry {
        match self.kept {
            true => DirEntry::Kept { node: self.node, children },
            false => DirEntry::Directory { node: self.node, children },
        }
    }
}

/// A key's place in the tree: the directories on the way that exist, and the file's entry where it does.
pub(super) struct Walk {
    tree: Tree,
    directories: Vec<Above>,
    pub file: Option<(NodeId, Summary)>,
}

impl Walk {
    /// The way to a key in an empty tree.
    pub(super) fn nowhere(tree: Tree) -> Self {
        Self { tree, directories: Vec::new(), file: None }
    }

    /// The last directory on the way that exists.
    pub(super) fn last(&self) -> NodeId {
        self.directories.last().map_or(NodeId::ROOT, |above| above.node)
    }

    /// How many directories on the way exist.
    pub(super) fn depth(&self) -> usize {
        self.directories.len()
    }

    /// Whether all directories on the way to `key` exist.
    pub(super) fn is_whole(&self, key: &[u8]) -> bool {
        self.directories.len() == key.iter().filter(|byte| **byte == b'/').count()
    }

    /// Whether `path` is a directory that goes when nothing is in it any more.
    pub(super) fn is_implicit(&self, path: &[u8]) -> bool {
        self.is_whole(path) && self.directories.last().is_some_and(|last| !last.kept)
    }

    /// The directory that `path` names, which ends in `/` or is empty, and how many names are in it.
    pub(super) fn directory(&self, path: &[u8]) -> Option<(NodeId, u64)> {
        let last = self.directories.last().map_or((NodeId::ROOT, 0), |above| (above.node, above.children));
        Some(last).filter(|_| self.is_whole(path))
    }
}

impl<V: View + ?Sized> Tx<'_, V> {
    /// Follows `key` as far as it exists.
    pub(super) fn walk(&self, tree: Tree, bucket: BucketId, key: &[u8]) -> Result<Walk, KvError> {
        let mut walk = Walk::nowhere(tree);
        let mut parent = NodeId::ROOT;
        for component in components(key) {
            let found = self.read::<DirEntry>(&keys::dir_entry(tree, bucket, parent, component))?;
            let kept = matches!(found, Some(DirEntry::Kept { .. }));
            match (found, component.ends_with(b"/")) {
                (Some(DirEntry::Directory { node, children } | DirEntry::Kept { node, children }), true) => {
                    let component = component.to_vec();
                    walk.directories.push(Above { parent, component, node, children, kept });
                    parent = node;
                }
                (Some(DirEntry::File { node, current }), false) => walk.file = Some((node, current)),
                _ => break,
            }
        }
        Ok(walk)
    }

    /// Writes the file's entry, and the directories on its way that are not there yet. Answers its directory.
    pub(super) fn place(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        walk: &Walk,
        file: &DirEntry,
    ) -> Step<NodeId> {
        let name = components(key).last().unwrap_or_default();
        let parent = match walk.file {
            Some(_) => walk.last(),
            None => self.grow(bucket, key, walk)?,
        };
        self.write(keys::dir_entry(walk.tree, bucket, parent, name), file);
        Ok(parent)
    }

    /// Adds a line on a directory to the journal, where it is one that is there.
    fn tell(
        &mut self,
        walk: &Walk,
        bucket: BucketId,
        change: Change,
        of: (NodeId, NodeId),
        path: &[u8],
    ) -> Step<()> {
        if walk.tree == Tree::Hidden || self.header.cluster_version < TELLS_OF_DIRECTORIES {
            return Ok(());
        }
        self.journal(bucket, change, (of.1, VersionId(0)), of.0, path)
    }

    /// Makes room for a new name at the end of a walk: the directories that are not there yet. Answers its directory.
    pub(super) fn grow(&mut self, bucket: BucketId, path: &[u8], walk: &Walk) -> Step<NodeId> {
        if let Some(above) = walk.directories.last() {
            let grown = above.entry(above.children + 1);
            self.write(keys::dir_entry(walk.tree, bucket, above.parent, &above.component), &grown);
        }
        let on_the_way = components(path).filter(|component| component.ends_with(b"/"));
        let (mut parent, mut end) = (walk.last(), 0);
        for (at, component) in on_the_way.enumerate() {
            end += component.len();
            if at < walk.directories.len() {
                continue;
            }
            let node = self.next_node();
            let entry = DirEntry::Directory { node, children: 1 };
            self.write(keys::dir_entry(walk.tree, bucket, parent, component), &entry);
            self.tell(walk, bucket, Change::Make, (parent, node), &path[..end])?;
            parent = node;
        }
        Ok(parent)
    }

    /// Removes the file's entry, and the directories that it leaves empty.
    pub(super) fn unplace(&mut self, bucket: BucketId, key: &[u8], walk: &Walk) -> Step<()> {
        let name = components(key).last().unwrap_or_default();
        self.kv.delete(keys::dir_entry(walk.tree, bucket, walk.last(), name));
        self.shrink(bucket, walk)
    }

    /// Has a directory be there, whatever is deleted from it.
    pub(super) fn keep_directory(&mut self, bucket: BucketId, path: &[u8]) -> Step<()> {
        let walk = self.walk(Tree::Live, bucket, path)?;
        let last = walk.directories.last().filter(|_| walk.is_whole(path)).ok_or(Rejection::NoSuchKey)?;
        let (node, children) = (last.node, last.children);
        let key = keys::dir_entry(Tree::Live, bucket, last.parent, &last.component);
        self.write(key, &DirEntry::Kept { node, children });
        Ok(())
    }

    /// Takes note that a name at the end of a walk is gone: the directories that this leaves empty go, too.
    pub(super) fn shrink(&mut self, bucket: BucketId, walk: &Walk) -> Step<()> {
        for (at, above) in walk.directories.iter().enumerate().rev() {
            let key = keys::dir_entry(walk.tree, bucket, above.parent, &above.component);
            if above.children > 1 || above.kept {
                self.write(key, &above.entry(above.children - 1));
                break;
            }
            self.kv.delete(key);
            let path: Vec<u8> =
                walk.directories[..=at].iter().flat_map(|above| above.component.clone()).collect();
            self.tell(walk, bucket, Change::Vanish, (above.parent, above.node), &path)?;
        }
        Ok(())
    }
}
