//! The metadata's archive: what it looks like in the pool.
//!
//! The archive is a whole state, cut into pieces, and the raft entries behind it, in pieces too. Each piece is one pack of
//! the pool, so that it is as durable as the data, and is looked after by the same repair, scrub and rebalancing. A
//! piece's pack has a name that follows from the archive's key, its stream and its number ([`ArchiveKey::name`]): whoever has
//! the key finds all pieces on the devices without the metadata. Where to begin stands in the [`Root`], a file on every
//! device.
//!
//! Everything is sealed with AES-256-GCM under the archive's key. The key itself is sealed under the operators' recovery key,
//! which the cluster does not have: devices that are stolen say nothing.
//!
//! This crate decides nothing about time, and draws no random numbers: nonces and names of streams come from outside.

mod key;
mod piece;
mod root;

pub use key::{ArchiveKey, Nonce, RecoveryKey, SealError, StreamId};
pub use piece::{ATTEMPTS, LoggedEntry, Piece, is_worth_archiving};
pub use root::{Contents, Root, RootVersion};

use holdfast_core::ids::DomainId;

/// The bucket that holds the archive's pieces. Its name is none that S3 allows.
pub const BUCKET: &str = ".archive";

/// What the archive's pieces are deduplicated with: nothing else.
pub const DOMAIN: DomainId = DomainId(0);
