//! Looking at what is on the disk: which local node each file is, and which have been made, moved, edited or deleted.
//!
//! A node is known by its place and its inode. What cannot be read is not deleted: it stays as it was known.

use crate::{
    chunks::cut,
    disk::{Class, Disk, Names, Stat},
    state::{Info, State, disk_names, shown},
};
use holdfast_client_sync::{Content, Id, Kind, Node, Place, Tree};
use holdfast_core::{ids::ChunkId, manifest::content_of};
use ignore::gitignore::Gitignore;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    os::unix::ffi::OsStrExt,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// A file that was changed so lately may change again and look the same.
const TICK_NS: i64 = 50_000_000;

/// What editors and systems leave lying about.
const LITTER: [&str; 8] =
    [".DS_Store", "Thumbs.db", "desktop.ini", "~$*", ".~lock.*#", "*.swp", "*.part", "*.crdownload"];

/// The file with patterns of what is not synced, in gitignore's syntax.
pub const IGNORE_FILE: &str = ".hfignore";

/// What is not synced of a directory.
pub struct Ignored(Gitignore);

impl Ignored {
    /// Reads the patterns of a directory. Those that are none are left out.
    pub fn read(root: &Path) -> Self {
        let mut builder = ignore::gitignore::GitignoreBuilder::new("/");
        for pattern in LITTER {
            let _is_one = builder.add_line(None, pattern).is_ok();
        }
        let text = std::fs::read_to_string(root.join(IGNORE_FILE)).unwrap_or_default();
        for line in text.lines() {
            if let Err(error) = builder.add_line(None, line) {
                tracing::warn!(line, %error, "a pattern is none");
            }
        }
        Self(builder.build().unwrap_or_else(|_| Gitignore::empty()))
    }

    fn has(&self, names: &[Vec<u8>], is_directory: bool) -> bool {
        let path = names.join(&b'/');
        let path = Path::new(std::ffi::OsStr::from_bytes(&path));
        self.0.matched_path_or_any_parents(Path::new("/").join(path), is_directory).is_ignore()
    }
}

/// Something on the disk of which it is not said yet which node it is.
struct Unknown {
    parent: Id,
    name: Vec<u8>,
    stat: Stat,
}

struct Scan<'a> {
    disk: &'a Disk,
    ignored: &'a Ignored,
    state: &'a mut State,
    /// All directories below those that are looked at, too.
    deep: bool,
    inodes: HashMap<(u64, u64), Id>,
    queue: Vec<Id>,
    listed: HashSet<Id>,
    /// Nodes that are where they were, or were found elsewhere, with what they are now.
    found: BTreeMap<Id, (Place, Stat)>,
    unknown: Vec<Unknown>,
    /// Directories that were not known, and where they are.
    made: BTreeMap<Id, Place>,
}

/// Looks at directories of the local tree; at all that is in them where it is `deep`. Whether anything has changed.
///
/// # Errors
/// Where the root cannot be read.
pub fn scan(
    disk: &Disk,
    ignored: &Ignored,
    state: &mut State,
    directories: impl IntoIterator<Item = Id>,
    deep: bool,
) -> io::Result<bool> {
    let inodes = state.infos.iter().map(|(id, info)| ((info.device, info.inode), *id)).collect();
    let queue = directories.into_iter().collect();
    let mut scan = Scan {
        disk,
        ignored,
        state,
        deep,
        inodes,
        queue,
        listed: HashSet::new(),
        found: BTreeMap::new(),
        unknown: Vec::new(),
        made: BTreeMap::new(),
    };
    while let Some(directory) = scan.queue.pop() {
        scan.list(directory)?;
        if scan.queue.is_empty() {
            scan.recognise();
        }
    }
    Ok(scan.settle())
}

impl Scan<'_> {
    fn names(&self, id: Id) -> Names {
        match self.made.get(&id) {
            Some(place) => {
                let mut names = self.names(place.parent);
                names.push(place.name.clone());
                names
            }
            None if id == Id::Root => Vec::new(),
            None => match self.found.get(&id) {
                Some((place, _)) => {
                    let mut names = self.names(place.parent);
                    names.push(place.name.clone());
                    names
                }
                None => disk_names(&self.state.trees.local, id),
            },
        }
    }

    fn list(&mut self, directory: Id) -> io::Result<()> {
        if !self.listed.insert(directory) {
            return Ok(());
        }
        let names = self.names(directory);
        let entries = match self.disk.list(&names) {
            Ok(entries) => entries,
            Err(error) if directory == Id::Root => return Err(error),
            Err(error) => {
                self.listed.remove(&directory);
                if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) {
                    // It is gone, or another: the one above it knows.
                    let above = self.state.trees.local.get(directory).map(|node| node.place.parent);
                    self.queue.extend(above.filter(|above| !self.listed.contains(above)));
                } else {
                    self.state.problems.insert(shown(&names), format!("it cannot be read: {error}"));
                    self.keep(directory);
                }
                return Ok(());
            }
        };
        for (name, stat) in entries {
            let place = Place { parent: directory, name };
            let current = self.state.trees.local.at(&place).filter(|_| !self.made.contains_key(&directory));
            let mut path = names.clone();
            path.push(place.name.clone());
            let skipped = match stat.class {
                Class::Other => Some("it is no file, directory or link"),
                Class::Directory | Class::File | Class::Link => None,
            };
            if let Some(why) = skipped {
                self.state.problems.insert(shown(&path), why.to_owned());
            }
            if skipped.is_some() || self.ignored.has(&path, stat.class == Class::Directory) {
                // What was synced before is not deleted by that.
                current.into_iter().for_each(|id| self.keep(id));
                continue;
            }
            let info = current.and_then(|id| self.state.infos.get(&id));
            let exact = info.is_some_and(|info| (info.inode, info.device) == (stat.inode, stat.device));
            match current.filter(|id| exact && self.is_class(*id, stat.class)) {
                Some(id) => {
                    if self.deep && stat.class == Class::Directory {
                        self.queue.push(id);
                    }
                    self.found.insert(id, (place, stat));
                }
                None => {
                    if let Some(owner) = self.inodes.get(&(stat.device, stat.inode)) {
                        // It was moved here, perhaps: where it was has changed, too.
                        let above = self.state.trees.local.get(*owner).map(|node| node.place.parent);
                        self.queue.extend(above.filter(|above| !self.listed.contains(above)));
                    }
                    self.unknown.push(Unknown { parent: place.parent, name: place.name, stat });
                }
            }
        }
        Ok(())
    }

    fn is_class(&self, id: Id, class: Class) -> bool {
        self.state.trees.local.get(id).is_some_and(|node| match node.kind {
            Kind::Directory => class == Class::Directory,
            Kind::File { .. } => class == Class::File,
            Kind::Link { .. } => class == Class::Link,
        })
    }

    /// Has a node stay as it is known, with all that is in it.
    fn keep(&mut self, id: Id) {
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            let (Some(node), Some(info)) = (self.state.trees.local.get(id), self.state.infos.get(&id)) else {
                continue;
            };
            let class = match node.kind {
                Kind::Directory => Class::Directory,
                Kind::File { .. } => Class::File,
                Kind::Link { .. } => Class::Link,
            };
            let stat = Stat {
                class,
                inode: info.inode,
                device: info.device,
                size: info.size,
                mtime_ns: info.mtime_ns,
                ctime_ns: info.ctime_ns,
                executable: node.executable,
            };
            self.found.insert(id, (node.place.clone(), stat));
            open.extend(self.state.trees.local.children(id).map(|(_, id)| id));
        }
    }

    /// Says of what was found which nodes it is. Directories that are new are looked into.
    fn recognise(&mut self) {
        let (mut taken, mut rest): (BTreeSet<Id>, Vec<Unknown>) = (BTreeSet::new(), Vec::new());
        for unknown in std::mem::take(&mut self.unknown) {
            let owner = self.inodes.get(&(unknown.stat.device, unknown.stat.inode)).copied();
            let owner = owner.filter(|id| {
                let same = self.state.infos.get(id).is_some_and(|info| {
                    unknown.stat.class != Class::File || info.is_but_moved(&unknown.stat)
                });
                // An inode is used again, soon perhaps: only a file that looks the same was moved.
                same && self.is_class(*id, unknown.stat.class)
                    && !self.found.contains_key(id)
                    && !taken.contains(id)
            });
            match owner {
                Some(id) => {
                    taken.insert(id);
                    self.found
                        .insert(id, (Place { parent: unknown.parent, name: unknown.name }, unknown.stat));
                }
                None => rest.push(unknown),
            }
        }
        for Unknown { parent, name, stat } in rest {
            let place = Place { parent, name };
            let current = self.state.trees.local.at(&place);
            let current = current.filter(|id| self.is_class(*id, stat.class) && !self.found.contains_key(id));
            let id = current.unwrap_or_else(|| self.state.fresh());
            if stat.class == Class::Directory {
                if current.is_none() {
                    self.made.insert(id, place.clone());
                }
                self.queue.push(id);
            }
            self.found.insert(id, (place, stat));
        }
    }

    /// Writes what was found into the local tree. Whether anything has changed.
    fn settle(mut self) -> bool {
        let mut nodes: BTreeMap<Id, Node> =
            self.state.trees.local.iter().map(|(id, node)| (id, node.clone())).collect();
        let mut changed = false;
        // What was in a directory that was looked at, and is not found, is gone.
        let listed: Vec<Id> = self.listed.iter().copied().collect();
        for directory in listed {
            let inside: Vec<Id> = self.state.trees.local.children(directory).map(|(_, id)| id).collect();
            // What is aside is where nobody looks.
            let aside = |id: &Id| nodes.get(id).is_some_and(|node| node.place.is_aside());
            let gone: Vec<Id> =
                inside.into_iter().filter(|id| !self.found.contains_key(id) && !aside(id)).collect();
            for id in gone {
                nodes.remove(&id);
                changed = true;
            }
        }
        for (id, (place, stat)) in std::mem::take(&mut self.found) {
            let Some((kind, executable)) = self.look(id, &place, &stat) else { continue };
            let node = Node { place, kind, executable };
            if nodes.get(&id) != Some(&node) {
                nodes.insert(id, node);
                changed = true;
            }
        }
        if changed {
            self.state.trees.local = grow(nodes);
            let State { trees, infos, cut, .. } = &mut *self.state;
            infos.retain(|id, _| trees.local.contains(*id));
            cut.retain(|id, _| trees.local.contains(*id));
        }
        changed
    }

    /// What a file is now. `None` where it cannot be read, and is not known.
    fn look(&mut self, id: Id, place: &Place, stat: &Stat) -> Option<(Kind, bool)> {
        let known = self.state.trees.local.get(id).map(|node| node.kind.clone());
        let same = self.state.infos.get(&id).is_some_and(|info| info.is(stat));
        if let Some(kind) = known.clone().filter(|_| same || stat.class == Class::Directory) {
            self.state.infos.insert(id, Info::of(stat));
            return Some((kind, stat.executable));
        }
        let mut names = self.names(place.parent);
        names.push(place.name.clone());
        match read(self.disk, &names, stat) {
            Ok((kind, info, chunks)) => {
                if let Some(chunks) = chunks {
                    self.state.cut.insert(id, chunks);
                }
                self.state.infos.insert(id, info);
                Some((kind, stat.executable))
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.state.problems.insert(shown(&names), format!("it cannot be read: {error}"));
                }
                known.map(|kind| (kind, stat.executable))
            }
        }
    }
}

type Chunks = Vec<(ChunkId, u32)>;

/// What is at a place: it must be the same before and after it was read.
fn read(disk: &Disk, names: &[Vec<u8>], stat: &Stat) -> io::Result<(Kind, Info, Option<Chunks>)> {
    match stat.class {
        Class::Directory | Class::Other => Ok((Kind::Directory, Info::of(stat), None)),
        Class::Link => {
            let target = disk.read_link(names)?;
            let chunks = vec![(ChunkId::of(&target), target.len() as u32)];
            let content = Content(content_of(chunks.iter().copied()));
            Ok((Kind::Link { content }, Info::of(stat), Some(chunks)))
        }
        Class::File => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
            let (mut file, before) = disk.read(names)?;
            let cut = cut(&mut file, before.size)?;
            let after = disk.stat(names)?.ok_or(io::ErrorKind::NotFound)?;
            if Info::of(&before) != Info::of(&after) || cut.bytes != after.size {
                return Err(io::Error::other("it is being written"));
            }
            let racy = now.saturating_sub(after.ctime_ns) < TICK_NS;
            let info = Info { racy, ..Info::of(&after) };
            Ok((Kind::File { content: cut.content }, info, Some(cut.chunks)))
        }
    }
}

/// A tree of nodes; those whose directory is gone are gone.
fn grow(nodes: BTreeMap<Id, Node>) -> Tree {
    let mut inside: HashMap<Id, Vec<(Id, Node)>> = HashMap::new();
    for (id, node) in nodes {
        inside.entry(node.place.parent).or_default().push((id, node));
    }
    let (mut tree, mut open) = (Tree::default(), vec![Id::Root]);
    while let Some(parent) = open.pop() {
        for (id, node) in inside.remove(&parent).unwrap_or_default() {
            match tree.insert(id, node) {
                Ok(()) => open.push(id),
                Err(error) => tracing::error!(%error, ?id, "a local node is left out until the next look"),
            }
        }
    }
    tree
}
