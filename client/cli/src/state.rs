//! What is known of a synced directory: three trees, and what is beside them.

use crate::disk::{INTERNAL, Names, Stat};
use holdfast_client_sync::{Content, Id, Kind, Node, Place, Tree, Trees};
use holdfast_core::ids::{ChunkId, NodeId};
use holdfast_proto::sync::Name;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// What a local file was when it was looked at: as long as it is the same, so are its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

/// A name as the server has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    pub parent: u64,
    pub name: Vec<u8>,
    /// `None` for a directory.
    pub file: Option<RemoteFile>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

    fn node(&self) -> Result<Node, &'static str> {
        let name = self.name.as_slice();
        if name.is_empty() || name == b"." || name == b".." || name.contains(&0) || name.len() > 255 {
            return Err("no file system can hold its name");
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
        let parent = if self.parent == 0 { Id::Root } else { Id::Known(NodeId(self.parent)) };
        Ok(Node { place: Place { parent, name: self.name.clone() }, kind, executable })
    }
}

/// What is known of one synced directory.
#[derive(Default)]
pub struct State {
    pub trees: Trees,
    pub infos: HashMap<Id, Info>,
    /// All names of the space, also those that cannot be synced.
    pub names: BTreeMap<u64, Remote>,
    /// Where the space's journal was read to; `None` before its names were read.
    pub cursor: Option<u64>,
    /// The remote tree is not yet what the names say.
    pub outgrown: bool,
    /// Which bucket has the space's name.
    pub space: u64,
    /// Which life of which cluster.
    pub epoch: String,
    pub next_fresh: u64,
    /// The chunks of local files that the server may not have yet.
    pub cut: HashMap<Id, Vec<(ChunkId, u32)>>,
    /// What is not synced, and why.
    pub problems: BTreeMap<String, String>,
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

impl State {
    /// Makes the remote tree anew from the names. What a directory cannot hold is left out, and said.
    pub fn grow_remote(&mut self) {
        let mut inside: HashMap<u64, Vec<u64>> = HashMap::new();
        for (node, remote) in &self.names {
            inside.entry(remote.parent).or_default().push(*node);
        }
        let mut tree = Tree::default();
        let mut open = vec![0];
        while let Some(parent) = open.pop() {
            for node in inside.remove(&parent).unwrap_or_default() {
                let Some(remote) = self.names.get(&node) else { continue };
                let made = remote.node().and_then(|made| {
                    let taken = "another file or directory has its name";
                    tree.insert(Id::Known(NodeId(node)), made).map_err(|_| taken)
                });
                match made {
                    Ok(()) if remote.file.is_none() => open.push(node),
                    Ok(()) => {}
                    Err(why) => {
                        let name = String::from_utf8_lossy(&remote.name).into_owned();
                        self.problems.insert(name, why.to_owned());
                    }
                }
            }
        }
        self.trees.remote = tree;
        self.outgrown = false;
    }

    /// The server's version of a node.
    pub fn file(&self, id: Id) -> Option<RemoteFile> {
        let Id::Known(NodeId(node)) = id else { return None };
        self.names.get(&node)?.file
    }

    pub fn fresh(&mut self) -> Id {
        self.next_fresh += 1;
        Id::Fresh(self.next_fresh - 1)
    }
}
