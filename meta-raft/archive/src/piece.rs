//! Pieces: what one pack of the archive holds.

use crate::{
    ArchiveKey, DOMAIN, Nonce, SealError, StreamId,
    key::{open, seal},
};
use holdfast_core::{codec, ids::BucketId};
use holdfast_meta_raft_machine::command::{Command, LogEntry};
use serde::{Deserialize, Serialize};

/// Names that are tried for a piece before its stream is given up.
pub const ATTEMPTS: u32 = 16;

/// Plain bytes of a piece, at most: far more than is ever written into one.
const PLAIN_MAX: usize = 64 << 20;

const WHAT: &str = "archived piece";

/// A committed entry of the raft log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedEntry {
    pub index: u64,
    pub term: u64,
    /// Empty where it changes nothing in the state.
    pub data: Vec<u8>,
}

/// What a pack of the archive holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Piece {
    /// Records of a state, in key order.
    State(Vec<(Vec<u8>, Vec<u8>)>),
    /// Entries that follow one another.
    Log(Vec<LoggedEntry>),
}

fn place(stream: &StreamId, number: u64) -> Vec<u8> {
    [&stream[..], &number.to_le_bytes()].concat()
}

impl Piece {
    /// The piece as it is stored: compressed, then sealed for its place.
    ///
    /// # Errors
    /// Where it cannot be compressed.
    pub fn seal(
        &self,
        key: &ArchiveKey,
        stream: &StreamId,
        number: u64,
        nonce: Nonce,
    ) -> Result<Vec<u8>, SealError> {
        let packed = zstd::bulk::compress(&codec::encode(self), 3);
        let packed = packed.map_err(|_| SealError::Malformed(WHAT))?;
        Ok(seal(&key.contents(), nonce, &place(stream, number), &packed))
    }

    /// The piece that was [sealed](Self::seal) for this place.
    ///
    /// # Errors
    /// Where it was sealed for another one, with another key, or is damaged.
    pub fn open(key: &ArchiveKey, stream: &StreamId, number: u64, sealed: &[u8]) -> Result<Self, SealError> {
        let packed = open(WHAT, &key.contents(), &place(stream, number), sealed)?;
        let malformed = || SealError::Malformed(WHAT);
        let plain = zstd::bulk::decompress(&packed, PLAIN_MAX).map_err(|_| malformed())?;
        codec::decode(WHAT, &plain).map_err(|_| malformed())
    }
}

/// Whether an entry says anything that the archive's own writing did not cause: what it writes is in the log too, and must
/// not be a reason to write again. `bucket` is the archive's.
pub fn is_worth_archiving(entry: &LogEntry, bucket: BucketId) -> bool {
    entry.requests.iter().any(|request| !is_own(&request.command, bucket))
}

/// Whether the archive's own writing causes a command, or it does again what was not kept: collection and leases.
fn is_own(command: &Command, bucket: BucketId) -> bool {
    let again = matches!(
        command,
        Command::NoteArchive { .. }
            | Command::Collect { .. }
            | Command::HoldLease { .. }
            | Command::DropLease { .. }
    );
    let pack = matches!(command, Command::RegisterPack(pack) if pack.domain == DOMAIN);
    let segment = matches!(command, Command::RegisterSegment { domain, .. } if *domain == DOMAIN);
    let object = matches!(
        command,
        Command::PutObject { bucket: written, .. } | Command::DeleteObject { bucket: written, .. }
            if *written == bucket
    );
    again || pack || segment || object
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_meta_raft_machine::command::Request;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_open_in_their_place_only(
            records in prop::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 0..20),
            number: u64,
            flip: prop::sample::Index,
        ) {
            let (key, stream) = (ArchiveKey::new([1; 32]), [2; 16]);
            let piece = Piece::State(records);
            let sealed = piece.seal(&key, &stream, number, [3; 12]).expect("it is compressed");
            prop_assert_eq!(Piece::open(&key, &stream, number, &sealed), Ok(piece));
            prop_assert!(Piece::open(&key, &stream, number ^ 1, &sealed).is_err());
            prop_assert!(Piece::open(&key, &[9; 16], number, &sealed).is_err());
            prop_assert!(Piece::open(&ArchiveKey::new([9; 32]), &stream, number, &sealed).is_err());
            let mut bad = sealed;
            let at = flip.index(bad.len());
            bad[at] ^= 1;
            prop_assert!(Piece::open(&key, &stream, number, &bad).is_err());
        }
    }

    #[test]
    fn the_archives_own_entries_are_no_reason_to_archive() {
        let entry =
            |command| LogEntry { stamp_ms: 0, elapsed_ms: 0, requests: vec![Request::idempotent(command)] };
        let delete = |bucket| Command::DeleteObject {
            bucket: BucketId(bucket),
            key: vec![1],
            condition: Default::default(),
        };
        assert!(!is_worth_archiving(&entry(delete(7)), BucketId(7)));
        assert!(is_worth_archiving(&entry(delete(8)), BucketId(7)));
        assert!(!is_worth_archiving(&entry(Command::Collect { grace_ms: 1, steps: 1 }), BucketId(7)));
        assert!(is_worth_archiving(&entry(Command::ResumeCollection), BucketId(7)));
    }
}
