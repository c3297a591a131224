//! What is known of nodes of a synced directory, and how they are called.

use crate::disk::INTERNAL;
use crate::system::{Class, Names, Stat};
use holdfast_client_sync::{Content, Id, Kind, Node, Place, Tree, Trees};
use holdfast_core::ids::{ChunkId, NodeId};
use holdfast_proto::sync::Name;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// When no file has been changed.
const NEVER: i64 = i64::MIN;

/// Within this time of its last change a file may be changed again and look the same: most systems count time in steps of up
/// to ten milliseconds, some in steps of two seconds (FAT), and those have whole seconds only.
const TICK_NS: i64 = 20_000_000;
const SECOND_NS: i64 = 1_000_000_000;
const COARSE_TICK_NS: i64 = 2 * SECOND_NS + TICK_NS;

/// Whether times come in whole seconds, it seems.
fn is_coarse(stat: &Stat) -> bool {
    stat.ctime_ns % SECOND_NS == 0
}

/// What a local file was when it was looked at: as long as it is the same, so are its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Info {
    pub inode: u64,
    pub device: u64,
    pub size: u64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    /// It was looked at within a tick of its last change: another one may have looked the same.
    pub racy: bool,
}

impl Info {
    pub fn of(stat: &Stat) -> Self {
        let Stat { inode, device, size, mtime_ns, ctime_ns, .. } = *stat;
        Self { inode, device, size, mtime_ns, ctime_ns, racy: false }
    }

    /// Of a file that was read, when it was `now_ns`.
    pub fn of_read(stat: &Stat, now_ns: i64) -> Self {
        let tick = if is_coarse(stat) { COARSE_TICK_NS } else { TICK_NS };
        Self { racy: now_ns.saturating_sub(stat.ctime_ns) < tick, ..Self::of(stat) }
    }

    /// Of a file that was put to its place, when it was `now_ns` or later. Whoever writes to it changes the time that it has
    /// from elsewhere; to set that back takes longer than a fine tick.
    pub fn of_placed(stat: &Stat, now_ns: i64) -> Self {
        Self {
            racy: is_coarse(stat) && now_ns.saturating_sub(stat.ctime_ns) < COARSE_TICK_NS,
            ..Self::of(stat)
        }
    }

    /// What is somewhere that nobody has looked at yet: no file that there is looks so.
    pub fn unknown(stat: &Stat) -> Self {
        Self { ctime_ns: NEVER, ..Self::of(stat) }
    }

    /// What went from where it was put before anybody looked. Its inode may be found elsewhere.
    pub fn gone(before: Option<Self>) -> Self {
        Self { ctime_ns: NEVER, ..before.unwrap_or_default() }
    }

    pub fn is_unknown(&self) -> bool {
        self.ctime_ns == NEVER
    }

    /// Whether a file has not been written since.
    pub fn is(&self, stat: &Stat) -> bool {
        !self.racy && Self::of(stat) == *self
    }

    /// The same of a file that was moved since, which changes when it was changed.
    pub fn is_but_moved(&self, stat: &Stat) -> bool {
        let moved = Self { ctime_ns: stat.ctime_ns, racy: false, ..*self };
        Self::of(stat) == moved
    }
}

/// A local node: what it is, and what the system said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    pub place: Place,
    /// A directory, a file or a link.
    pub class: Class,
    /// Of a file or link: what was read of it last, if it ever was.
    pub content: Option<[u8; 32]>,
    pub executable: bool,
    pub info: Info,
    /// It was changed since it was read.
    pub unread: bool,
}

impl Local {
    /// What stands at a place, and has not been read.
    pub fn found(place: Place, stat: &Stat) -> Self {
        let unread = stat.class != Class::Directory;
        let (class, executable, info) = (stat.class, stat.executable, Info::of(stat));
        Self { place, class, content: None, executable, info, unread }
    }

    /// As trees have it; `None` where nobody knows its bytes.
    pub fn node(&self) -> Option<Node> {
        let kind = match (self.class, self.content.map(Content)) {
            (Class::Directory, _) => Kind::Directory,
            (Class::File, Some(content)) => Kind::File { content },
            (Class::Link, Some(content)) => Kind::Link { content },
            (Class::File | Class::Link, None) | (Class::Other, _) => return None,
        };
        Some(Node { place: self.place.clone(), kind, executable: self.executable })
    }

    pub fn of(node: &Node, info: Info, unread: bool) -> Self {
        let (class, content) = match node.kind {
            Kind::Directory => (Class::Directory, None),
            Kind::File { content } => (Class::File, Some(content.0)),
            Kind::Link { content } => (Class::Link, Some(content.0)),
        };
        Self { place: node.place.clone(), class, content, executable: node.executable, info, unread }
    }
}

/// A name as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    pub parent: u64,
    pub name: Vec<u8>,
    /// `None` for a directory.
    pub file: Option<RemoteFile>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteFile {
    pub version: u64,
    pub bytes: u64,
    pub mtime_ns: i64,
    /// `None` where it is encrypted with a key that only S3 has.
    pub content: Option<[u8; 32]>,
    pub executable: bool,
    pub link: bool,
}

impl Remote {
    pub fn of(name: Name) -> Self {
        let file = name.file.map(|file| RemoteFile {
            version: file.version,
            bytes: file.bytes,
            mtime_ns: file.mtime_ns.unwrap_or_else(|| (file.modified_ms as i64).saturating_mul(1_000_000)),
            content: file.content.and_then(|content| content.try_into().ok()),
            executable: file.executable,
            link: file.link,
        });
        Self { parent: name.parent, name: name.name, file }
    }

    pub fn place(&self) -> Place {
        let parent = if self.parent == 0 { Id::Root } else { Id::Known(NodeId(self.parent)) };
        Place { parent, name: self.name.clone() }
    }

    /// As trees have it.
    ///
    /// # Errors
    /// Why no directory can hold it.
    pub fn node(&self) -> Result<Node, &'static str> {
        let name = self.name.as_slice();
        if name.is_empty() || name == b"." || name == b".." || name.contains(&0) || name.len() > 255 {
            return Err("no file system can hold its name");
        }
        if self.parent == 0 && name == INTERNAL {
            return Err("hf keeps what it needs under this name");
        }
        let (kind, executable) = match self.file {
            None => (Kind::Directory, false),
            Some(RemoteFile { content: None, .. }) => return Err("it is encrypted: only S3 can read it"),
            Some(RemoteFile { content: Some(content), link: true, .. }) => {
                (Kind::Link { content: Content(content) }, false)
            }
            Some(RemoteFile { content: Some(content), executable, .. }) => {
                (Kind::File { content: Content(content) }, executable)
            }
        };
        Ok(Node { place: self.place(), kind, executable })
    }
}

/// The chunks of a file, in order.
pub type Chunks = Vec<(ChunkId, u32)>;

/// The part of what is known of a directory that is being worked on.
#[derive(Default)]
pub struct State {
    pub trees: Trees,
    /// Of local nodes.
    pub infos: HashMap<Id, Info>,
    /// Local files that could not be read as they are now: nothing is done to them.
    pub unread: BTreeSet<Id>,
    /// Of the server's nodes.
    pub names: BTreeMap<u64, Remote>,
    /// The chunks of local files that the server may not have yet.
    pub cut: HashMap<Id, Chunks>,
    /// What is not synced, and why.
    pub problems: BTreeMap<Id, String>,
    /// What was changed by somebody else meanwhile.
    pub tried: BTreeSet<Id>,
    /// Nodes of the server's that were made anew while the old ones stand here, and what they are here.
    pub reused: Vec<Id>,
}

impl State {
    /// The server's version of a node.
    pub fn file(&self, id: Id) -> Option<RemoteFile> {
        let Id::Known(NodeId(node)) = id else { return None };
        self.names.get(&node)?.file
    }

    /// Has all that is known of a local node be known by another name.
    pub fn call(&mut self, old: Id, new: Id) {
        if let Some(info) = self.infos.remove(&old) {
            self.infos.insert(new, info);
        }
        if let Some(chunks) = self.cut.remove(&old) {
            self.cut.insert(new, chunks);
        }
        if self.unread.remove(&old) {
            self.unread.insert(new);
        }
        if let Some(why) = self.problems.remove(&old) {
            self.problems.insert(new, why);
        }
        if self.tried.remove(&old) {
            self.tried.insert(new);
        }
    }
}

/// The names from the root down to a node, which last are those of its tree.
pub fn names_of(tree: &Tree, id: Id) -> Names {
    let name = |id: Id| tree.get(id).map(|node| node.place.name.clone());
    let mut names: Names = name(id).into_iter().chain(tree.above(id).filter_map(name)).collect();
    names.reverse();
    names
}

/// Where a node of the local tree is on the disk, which may be aside.
pub fn disk_names(tree: &Tree, id: Id) -> Names {
    let mut names = Names::new();
    for id in std::iter::once(id).chain(tree.above(id)) {
        let Some(node) = tree.get(id) else { break };
        if node.place.is_aside() {
            names.extend(aside_names(&node.place).into_iter().rev());
            break;
        }
        names.push(node.place.name.clone());
    }
    names.reverse();
    names
}

/// Where a place aside is on the disk.
pub fn aside_names(place: &Place) -> Names {
    let name: Vec<u8> = place.name.iter().map(|byte| if *byte == 0 { b'-' } else { *byte }).collect();
    let tail = name[name.len().saturating_sub(200)..].to_vec();
    vec![INTERNAL.to_vec(), b"aside".to_vec(), tail]
}

/// A path as people read it.
pub fn shown(names: &[Vec<u8>]) -> String {
    names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect::<Vec<_>>().join("/")
}

/// A path as a key; a directory's ends in `/`.
pub fn key_of(names: &[Vec<u8>], is_directory: bool) -> Vec<u8> {
    let mut key = names.join(&b'/');
    if is_directory {
        key.push(b'/');
    }
    key
}
