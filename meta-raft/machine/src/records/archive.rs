//! The metadata's archive in the pool: under which key, and how far it is.

use super::Record;
use holdfast_core::{codec, kv::KvError};
use serde::{Deserialize, Serialize};

/// The key under which the metadata is archived.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyring {
    pub archive: [u8; 32],
    /// The archive's key, sealed under the operators' recovery key, which the cluster does not have.
    pub wrapped: Vec<u8>,
}
record!(Keyring, "the keyring");

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyring")
    }
}

/// A run of archived pieces, numbered from 0, that one archivist writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStream {
    pub stream: [u8; 16],
    /// Its first piece that is still needed.
    pub piece: u64,
    /// No entry before this one is in it.
    pub index: u64,
}

/// A whole state in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivedState {
    pub stream: [u8; 16],
    pub pieces: u64,
    /// The last entry in it.
    pub index: u64,
}

/// How far the archive is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Archive {
    pub state: Option<ArchivedState>,
    /// The entries behind the state, oldest first.
    pub logs: Vec<LogStream>,
    /// The last entry that is in the archive.
    pub upto: u64,
}
record!(Archive, "the archive's position");
