//! Changes of sync clients: each leans on the nodes that the client saw, and a command's changes are made all or none.

use super::{
    Step, Tx,
    namespace::check_key,
    tree::{Walk, split},
};
use crate::{
    command::{Changed, Condition, Guarded, Outcome, Precondition, Rejection, TreeChange, Within},
    keys::{self, Tree},
    records::{Change, DirEntry, Extra, Record, Versioning},
};
use holdfast_core::{
    ids::{BucketId, NodeId, VersionId},
    kv::{View, prefix_end},
    limits::KEY_BYTES_MAX,
};
use std::ops::ControlFlow;

/// Components of all paths of a command: each may be a directory that is made.
const COMPONENTS_MAX: usize = 20_000;

/// Names below directories that are looked at when a command moves them.
const BELOW_MAX: usize = 200_000;

impl<V: View + ?Sized> Tx<'_, V> {
    pub(super) fn change_tree(
        &mut self,
        bucket: BucketId,
        owner: &str,
        changes: Vec<Guarded>,
    ) -> Step<Outcome> {
        let slashes = |path: &[u8]| path.iter().filter(|byte| **byte == b'/').count() + 1;
        let components = |change: &TreeChange| match change {
            TreeChange::Move { from, to, .. } => slashes(from) + slashes(to),
            other @ TreeChange::MakeDirectory { .. }
            | other @ TreeChange::Put { .. }
            | other @ TreeChange::Describe { .. }
            | other @ TreeChange::RemoveFile { .. }
            | other @ TreeChange::RemoveDirectory { .. } => slashes(other.path()),
        };
        if changes.iter().map(|guarded| components(&guarded.change)).sum::<usize>() > COMPONENTS_MAX {
            return Err(Rejection::TooLarge.into());
        }
        let mut done = Vec::with_capacity(changes.len());
        let mut looks = BELOW_MAX;
        for (at, Guarded { change, within }) in changes.into_iter().enumerate() {
            if let Some(within) = within {
                self.check_within(bucket, change.path(), within, at as u32)?;
            }
            done.push(self.change_name(bucket, owner, change, at as u32, &mut looks)?);
        }
        Ok(Outcome::Changed(done))
    }

    /// Refuses to make a name where its directory is not there, or is another by now.
    fn check_within(&self, bucket: BucketId, path: &[u8], within: Within, at: u32) -> Step<()> {
        let (parent, _) = split(path);
        let found = self.walk(Tree::Live, bucket, parent)?.directory(parent);
        let is_so = match (found, within) {
            (Some(_), Within::There) => true,
            (Some((node, _)), Within::Node(wanted)) => node == wanted,
            (None, _) => false,
        };
        if is_so { Ok(()) } else { Err(Rejection::Overtaken { at }.into()) }
    }

    /// Has the directory stay that a name is taken from: on devices it is there until somebody removes it.
    fn keep_above(&mut self, bucket: BucketId, path: &[u8]) -> Step<()> {
        let (parent, _) = split(path);
        let walk = self.walk(Tree::Live, bucket, parent)?;
        if walk.is_implicit(parent) { self.keep_directory(bucket, parent) } else { Ok(()) }
    }

    fn change_name(
        &mut self,
        bucket: BucketId,
        owner: &str,
        change: TreeChange,
        at: u32,
        looks: &mut usize,
    ) -> Step<Changed> {
        let overtaken = Rejection::Overtaken { at };
        check_name(change.path())?;
        match change {
            TreeChange::MakeDirectory { path } => {
                if !path.ends_with(b"/") || self.is_taken(bucket, &path)? || self.is_barred(bucket, &path)? {
                    return Err(overtaken.into());
                }
                // What was deleted here was in another directory.
                self.clear_hidden(bucket, &path)?;
                let node = self.next_node();
                let entry = DirEntry::Kept { node, children: 0 };
                let parent = self.attach(bucket, Tree::Live, &path, &entry)?;
                self.journal(bucket, Change::Make, (node, VersionId(0)), parent, &path)?;
                Ok(Changed { node, version: None })
            }
            TreeChange::Put { path, on, object, extra } => {
                let walk = self.walk(Tree::Live, bucket, &path)?;
                let seen = walk.file.as_ref().map(|(node, current)| (*node, current.version));
                let is_new = on.is_none();
                let taken = is_new && (self.is_taken(bucket, &path)? || self.is_barred(bucket, &path)?);
                if path.ends_with(b"/") || seen != on || taken {
                    return Err(overtaken.into());
                }
                let extra = Extra { owner: owner.to_owned(), ..extra };
                let Outcome::Committed(done) =
                    self.put_object(bucket, &path, Condition::Always, *object, extra)?
                else {
                    return Err(Rejection::Malformed.into());
                };
                Ok(Changed { node: done.node, version: Some(done.version) })
            }
            TreeChange::Move { node, from, to } => {
                let moved = self.move_name(bucket, node, (&from, &to), looks)?;
                moved.ok_or_else(|| overtaken.into())
            }
            TreeChange::Describe { path, on, name, text } => {
                let walk = self.walk(Tree::Live, bucket, &path)?;
                self.check_on(&walk, on, overtaken)?;
                let key = keys::extra(bucket, on.0, on.1);
                let mut extra = self.read::<Extra>(&key)?.unwrap_or_default();
                match text {
                    Some(text) => drop(extra.documents.insert(name, text)),
                    None => drop(extra.documents.remove(&name)),
                }
                self.write(key, &extra);
                self.journal(bucket, Change::Describe, on, walk.last(), &path)?;
                Ok(Changed { node: on.0, version: Some(on.1) })
            }
            TreeChange::RemoveFile { path, on } => {
                let walk = self.walk(Tree::Live, bucket, &path)?;
                self.check_on(&walk, on, overtaken)?;
                self.keep_above(bucket, &path)?;
                self.delete_object(bucket, &path, Precondition::default(), owner.to_owned())?;
                Ok(Changed { node: on.0, version: None })
            }
            TreeChange::RemoveDirectory { node, path } => {
                self.remove_directory(bucket, node, &path, overtaken)?;
                Ok(Changed { node, version: None })
            }
        }
    }

    fn check_on(&self, walk: &Walk, on: (NodeId, VersionId), overtaken: Rejection) -> Step<()> {
        let seen = walk.file.as_ref().map(|(node, current)| (*node, current.version));
        if seen == Some(on) { Ok(()) } else { Err(overtaken.into()) }
    }

    /// Whether a file or a directory has the name.
    fn is_taken(&self, bucket: BucketId, path: &[u8]) -> Step<bool> {
        let bare = path.strip_suffix(b"/").unwrap_or(path);
        let file = self.walk(Tree::Live, bucket, bare)?.file.is_some();
        let directory = self.walk(Tree::Live, bucket, &[bare, b"/"].concat())?;
        Ok(file || directory.is_whole(&[bare, b"/"].concat()))
    }

    /// Whether a file has the name of a directory that would have to be made on the way: no directory of a device can hold
    /// both.
    fn is_barred(&self, bucket: BucketId, path: &[u8]) -> Step<bool> {
        let (parent, _) = split(path);
        let walk = self.walk(Tree::Live, bucket, parent)?;
        let mut missing = parent.split_inclusive(|byte| *byte == b'/').skip(walk.depth());
        let Some(name) = missing.next() else { return Ok(false) };
        let bare = name.strip_suffix(b"/").unwrap_or(name);
        let entry = self.read::<DirEntry>(&keys::dir_entry(Tree::Live, bucket, walk.last(), bare))?;
        Ok(matches!(entry, Some(DirEntry::File { .. })))
    }

    fn remove_directory(
        &mut self,
        bucket: BucketId,
        node: NodeId,
        path: &[u8],
        overtaken: Rejection,
    ) -> Step<()> {
        let walk = self.walk(Tree::Live, bucket, path)?;
        let Some((_, children)) = walk.directory(path).filter(|(found, _)| *found == node) else {
            return Err(overtaken.into());
        };
        if children != u64::from(walk.file.is_some()) {
            return Err(overtaken.into());
        }
        // An S3 client's marker is no file of anybody's: it goes with the directory, which may go with it.
        if walk.file.is_some() {
            self.delete_object(bucket, path, Precondition::default(), String::new())?;
        }
        let Some((name, _)) = self.entry_in(Tree::Live, bucket, path)? else { return Ok(()) };
        self.detach(bucket, Tree::Live, path, &name)?;
        self.move_readers(bucket, path, None)?;
        self.journal(bucket, Change::Vanish, (node, VersionId(0)), NodeId::ROOT, path)
    }

    /// Gives a name to what has another; `None` where it has not, or the name is taken.
    fn move_name(
        &mut self,
        bucket: BucketId,
        node: NodeId,
        (from, to): (&[u8], &[u8]),
        looks: &mut usize,
    ) -> Step<Option<Changed>> {
        let is_directory = from.ends_with(b"/");
        let inside = is_directory && to.starts_with(from);
        let taken = self.is_taken(bucket, to)? || self.is_barred(bucket, to)?;
        if to.ends_with(b"/") != is_directory || inside || taken {
            return Ok(None);
        }
        // What is locked stays where it is known.
        if self.config(bucket)?.object_lock {
            return Err(Rejection::BucketState.into());
        }
        self.clear_hidden(bucket, to)?;
        let found = self.entry_in(Tree::Live, bucket, from)?;
        let Some((name, entry)) = found.filter(|(_, entry)| entry.node() == node) else { return Ok(None) };
        if is_directory && to.len() > from.len() {
            self.check_below(bucket, node, to.len(), looks)?;
        }
        self.keep_above(bucket, from)?;
        self.detach(bucket, Tree::Live, from, &name)?;
        let parent = self.attach(bucket, Tree::Live, to, &entry)?;
        let version = match &entry {
            DirEntry::File { current, .. } => {
                // Whoever looks at keys sees one go and another come.
                self.journal(bucket, Change::Delete, (node, current.version), parent, from)?;
                self.journal(bucket, Change::Move, (node, current.version), parent, to)?;
                self.move_links(bucket, from, Some(to))?;
                Some(current.version)
            }
            DirEntry::Directory { .. } | DirEntry::Kept { .. } => {
                self.move_hidden(bucket, from, to)?;
                self.move_readers(bucket, from, Some(to))?;
                self.journal(bucket, Change::Move, (node, VersionId(0)), parent, to)?;
                None
            }
        };
        Ok(Some(Changed { node, version }))
    }

    /// Has what was deleted from a directory go with it.
    fn move_hidden(&mut self, bucket: BucketId, from: &[u8], to: &[u8]) -> Step<()> {
        if self.config(bucket)?.versioning == Versioning::Off {
            return Ok(());
        }
        let Some((name, entry)) = self.entry_in(Tree::Hidden, bucket, from)? else { return Ok(()) };
        self.detach(bucket, Tree::Hidden, from, &name)?;
        self.attach(bucket, Tree::Hidden, to, &entry).map(drop)
    }

    /// Refuses to have a directory at a path of `length` bytes where keys in it would be too long. Of very large ones only
    /// a part is looked at: a rename must not take longer than others can wait, and nor must many of one command, which
    /// share what is left of `looks`.
    fn check_below(&self, bucket: BucketId, directory: NodeId, length: usize, looks: &mut usize) -> Step<()> {
        if *looks == 0 {
            return Err(Rejection::TooLarge.into());
        }
        let mut open = vec![(directory, length)];
        while let Some((node, above)) = open.pop() {
            let base = keys::dir(Tree::Live, bucket, node);
            let (end, mut too_long, mut failed) = (prefix_end(&base), false, None);
            self.kv.scan(&base, &end, &mut |key, value| {
                *looks -= 1;
                let length = above + key.len() - keys::DIR_PREFIX_LEN;
                too_long |= length > KEY_BYTES_MAX;
                match DirEntry::from_bytes(value) {
                    Ok(DirEntry::Directory { node, .. } | DirEntry::Kept { node, .. }) => {
                        open.push((node, length))
                    }
                    Ok(DirEntry::File { .. }) => {}
                    Err(error) => failed = Some(error),
                }
                let go_on = !too_long && failed.is_none() && *looks > 0;
                if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            if let Some(error) = failed {
                return Err(error.into());
            }
            if too_long {
                return Err(Rejection::BadKey.into());
            }
            if *looks == 0 {
                break;
            }
        }
        Ok(())
    }

    /// The last component of a path, and the entry that is there.
    fn entry_in(&self, tree: Tree, bucket: BucketId, path: &[u8]) -> Step<Option<(Vec<u8>, DirEntry)>> {
        let (parent, name) = split(path);
        let walk = self.walk(tree, bucket, parent)?;
        let Some((above, _)) = walk.directory(parent) else { return Ok(None) };
        let entry = self.read::<DirEntry>(&keys::dir_entry(tree, bucket, above, name))?;
        Ok(entry.map(|entry| (name.to_vec(), entry)))
    }

    /// Takes a name from its directory, and removes the directories that this leaves empty.
    fn detach(&mut self, bucket: BucketId, tree: Tree, path: &[u8], name: &[u8]) -> Step<()> {
        let (parent, _) = split(path);
        let walk = self.walk(tree, bucket, parent)?;
        let Some((above, _)) = walk.directory(parent) else { return Ok(()) };
        self.kv.delete(keys::dir_entry(tree, bucket, above, name));
        self.shrink(bucket, &walk)
    }

    /// Puts an entry where no name is, and makes the directories that lead there.
    fn attach(&mut self, bucket: BucketId, tree: Tree, path: &[u8], entry: &DirEntry) -> Step<NodeId> {
        let (parent, name) = split(path);
        let walk = self.walk(tree, bucket, parent)?;
        let above = self.grow(bucket, parent, &walk)?;
        self.write(keys::dir_entry(tree, bucket, above, name), entry);
        Ok(above)
    }

    /// Moves the histories of deleted names out of the way of what gets the name now: to a name that says so.
    fn clear_hidden(&mut self, bucket: BucketId, path: &[u8]) -> Step<()> {
        if self.config(bucket)?.versioning == Versioning::Off {
            return Ok(());
        }
        let Some((name, entry)) = self.entry_in(Tree::Hidden, bucket, path)? else { return Ok(()) };
        let (parent, bare) = split(path);
        let bare = bare.strip_suffix(b"/").unwrap_or(bare);
        let slash: &[u8] = if path.ends_with(b"/") { b"/" } else { b"" };
        let aside = loop {
            let number = self.header.next_version;
            self.header.next_version += 1;
            let mark = format!(" (deleted {number})").into_bytes();
            let room = KEY_BYTES_MAX.saturating_sub(parent.len() + mark.len() + slash.len());
            let aside = [parent, &bare[..bare.len().min(room)], &mark, slash].concat();
            // Somebody may have called something so.
            let hidden = self.entry_in(Tree::Hidden, bucket, &aside)?;
            if hidden.is_none() && self.entry_in(Tree::Live, bucket, &aside)?.is_none() {
                break aside;
            }
        };
        self.detach(bucket, Tree::Hidden, path, &name)?;
        self.attach(bucket, Tree::Hidden, &aside, &entry).map(drop)
    }
}

/// Names of sync clients are those of file systems.
fn check_name(path: &[u8]) -> Step<()> {
    check_key(path)?;
    let bare = path.strip_suffix(b"/").unwrap_or(path);
    let odd = |name: &[u8]| name.is_empty() || name == b"." || name == b".." || name.contains(&0);
    if bare.split(|byte| *byte == b'/').any(odd) { Err(Rejection::BadKey.into()) } else { Ok(()) }
}
