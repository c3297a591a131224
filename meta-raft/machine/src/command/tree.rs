//! What sync clients do to a bucket's names.

use super::NewObject;
use crate::records::Extra;
use holdfast_core::ids::{NodeId, VersionId};
use serde::{Deserialize, Serialize};

/// A change of one name. Paths are keys; a directory's ends in `/`. Each is as the changes before it in the same command
/// have left it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TreeChange {
    /// Makes a directory that stays when nothing is in it, where no name is.
    MakeDirectory { path: Vec<u8> },
    /// Makes a file where no name is, or writes a new version of the one that is there.
    Put {
        path: Vec<u8>,
        /// What it builds on: the file, and its newest version.
        on: Option<(NodeId, VersionId)>,
        object: Box<NewObject>,
        extra: Extra,
    },
    /// Takes a file or a directory, with all that is in it and all its history, to a place where no name is.
    Move { node: NodeId, from: Vec<u8>, to: Vec<u8> },
    /// Changes a document of a file's newest version.
    Describe { path: Vec<u8>, on: (NodeId, VersionId), name: String, text: Option<String> },
    /// Deletes a file, as bucket's versions are kept.
    RemoveFile { path: Vec<u8>, on: (NodeId, VersionId) },
    /// Removes a directory that has nothing in it.
    RemoveDirectory { node: NodeId, path: Vec<u8> },
}

/// A change, and which directory the name that it makes must come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guarded {
    pub change: TreeChange,
    /// Where nothing is said, directories are made that lead there.
    pub within: Option<Within>,
}

/// What a directory must be, as the changes before have left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Within {
    /// One that is there, whichever it is.
    There,
    /// This one.
    Node(NodeId),
}

impl From<TreeChange> for Guarded {
    fn from(change: TreeChange) -> Self {
        Self { change, within: None }
    }
}

impl TreeChange {
    /// The path that it is about; of a move, the one that it leads to.
    pub fn path(&self) -> &[u8] {
        match self {
            Self::MakeDirectory { path }
            | Self::Put { path, .. }
            | Self::Move { to: path, .. }
            | Self::Describe { path, .. }
            | Self::RemoveFile { path, .. }
            | Self::RemoveDirectory { path, .. } => path,
        }
    }
}

/// What a change of a name came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    pub node: NodeId,
    /// The newest version of a file that is there.
    pub version: Option<VersionId>,
}
