//! The trees of names in a bucket: a key `a/b/c` is the file `c` in the directory `b/` in `a/`.
//!
//! Directories are implicit: they come with their first child and go with their last.

use super::Tx;
use crate::{
    keys::{self, Tree},
    records::{DirEntry, Summary},
};
use holdfast_core::{
    ids::{BucketId, NodeId},
    kv::{KvError, View},
};

/// The components of a key: `a/b` is `a/` and `b`; `a/` is `a/` and an empty name.
pub fn components(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends_open = key.ends_with(b"/");
    key.split_inclusive(|&byte| byte == b'/').chain(ends_open.then_some(&key[..0]))
}

/// A key's place in the tree: the directories on the way that exist, and the file's entry where it does.
pub(super) struct Walk {
    tree: Tree,
    /// (parent, component, node, children) of each existing directory on the path.
    directories: Vec<(NodeId, Vec<u8>, NodeId, u64)>,
    pub file: Option<(NodeId, Summary)>,
}

impl Walk {
    /// The way to a key in an empty tree.
    pub(super) fn nowhere(tree: Tree) -> Self {
        Self { tree, directories: Vec::new(), file: None }
    }
}

impl<V: View + ?Sized> Tx<'_, V> {
    /// Follows `key` as far as it exists.
    pub(super) fn walk(&self, tree: Tree, bucket: BucketId, key: &[u8]) -> Result<Walk, KvError> {
        let mut walk = Walk::nowhere(tree);
        let mut parent = NodeId::ROOT;
        for component in components(key) {
            let found = self.read::<DirEntry>(&keys::dir_entry(tree, bucket, parent, component))?;
            match (found, component.ends_with(b"/")) {
                (Some(DirEntry::Directory { node, children }), true) => {
                    walk.directories.push((parent, component.to_vec(), node, children));
                    parent = node;
                }
                (Some(DirEntry::File { node, current }), false) => walk.file = Some((node, current)),
                _ => break,
            }
        }
        Ok(walk)
    }

    /// Writes the file's entry, and the directories on its way that are not there yet.
    pub(super) fn place(&mut self, bucket: BucketId, key: &[u8], walk: &Walk, file: DirEntry) {
        let mut parts: Vec<&[u8]> = components(key).collect();
        let name = parts.pop().unwrap_or_default();
        let mut parent = walk.directories.last().map_or(NodeId::ROOT, |directory| directory.2);
        if walk.file.is_none()
            && let Some((above, component, node, children)) = walk.directories.last()
        {
            let grown = DirEntry::Directory { node: *node, children: children + 1 };
            self.write(keys::dir_entry(walk.tree, bucket, *above, component), &grown);
        }
        for component in &parts[walk.directories.len()..] {
            let node = self.next_node();
            self.write(
                keys::dir_entry(walk.tree, bucket, parent, component),
                &DirEntry::Directory { node, children: 1 },
            );
            parent = node;
        }
        self.write(keys::dir_entry(walk.tree, bucket, parent, name), &file);
    }

    /// Removes the file's entry, and the directories that it leaves empty.
    pub(super) fn unplace(&mut self, bucket: BucketId, key: &[u8], walk: &Walk) {
        let name = components(key).last().unwrap_or_default();
        let parent = walk.directories.last().map_or(NodeId::ROOT, |directory| directory.2);
        self.kv.delete(keys::dir_entry(walk.tree, bucket, parent, name));
        for (above, component, node, children) in walk.directories.iter().rev() {
            let key = keys::dir_entry(walk.tree, bucket, *above, component);
            if *children > 1 {
                self.write(key, &DirEntry::Directory { node: *node, children: children - 1 });
                break;
            }
            self.kv.delete(key);
        }
    }
}
