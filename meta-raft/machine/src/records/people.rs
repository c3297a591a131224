//! What people may have, and what they let others have.

use super::Record;
use holdfast_core::{codec, kv::KvError};
use serde::{Deserialize, Serialize};

/// What an owner of buckets stores, where that is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Account {
    /// Bytes of all versions, and of parts of uploads, in all buckets that it owns.
    pub used: u64,
    pub quota: u64,
}
record!(Account, "an account");

/// A directory of a bucket that somebody else may see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Ends in `/`; empty for the whole bucket.
    pub path: Vec<u8>,
    /// Whether what is in it may be changed, too.
    pub writes: bool,
}

/// What of a bucket is shared with one user.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Shares(pub Vec<Share>);
record!(Shares, "shares");

/// A link by which whoever has it reads a file, or what is in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// A directory's ends in `/`; empty for the whole bucket.
    pub path: Vec<u8>,
    /// Who made it: it is good as long as that user may read what it leads to.
    pub creator: String,
    pub created_ms: u64,
    /// The hash of a password that is asked for.
    pub password: Option<String>,
    /// When it ends, on the metadata's clock.
    pub until_ms: Option<u64>,
    /// How many downloads are left.
    pub downloads: Option<u64>,
}
record!(Link, "a link");
