//! Small files beside the shards: where the metadata's archive begins, how far the scrub is. Replaced as a whole, and none
//! where they are damaged.

use bytes::Bytes;
use holdfast_core::ids::PackId;
use holdfast_kv::durable;
use serde::{Deserialize, Serialize};
use std::{io, path::Path};

/// The version of a root, of which the newest counts: raft's term, and a counter within it.
pub type Version = (u64, u64);

pub const ROOT: &str = "root";
pub const SCRUB: &str = "scrub";

/// Where a device's scrub is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ScrubProgress {
    /// The last shard that was read in this round.
    pub cursor: Option<(PackId, u8)>,
    /// When the round began, in milliseconds since 1970.
    pub began_ms: u64,
    /// When the round before ended; 0 where none did.
    pub finished_ms: u64,
    /// The last round that an operator asked for, by the time of asking on the metadata's clock.
    pub asked_ms: u64,
    /// This round was asked for, and does not wait for the period.
    pub asked: bool,
    /// Shards read in this round.
    pub done: u64,
    /// Shards when the round began.
    pub total: u64,
}

/// Version and checksum: two numbers of 8 bytes, and the CRC-32C of all but itself, 4.
const HEAD: usize = 20;

fn check(head: &[u8], note: &[u8]) -> [u8; 4] {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(head);
    digest.update(note);
    (digest.finalize() as u32).to_be_bytes()
}

/// Replaces a note, durably.
pub fn write(dir: &Path, name: &str, (term, counter): Version, note: &[u8]) -> io::Result<()> {
    let head = [term.to_be_bytes(), counter.to_be_bytes()].concat();
    let bytes = [&head[..], &check(&head, note), note].concat();
    durable::replace(&dir.join(name), &bytes, 0o600)
}

/// A note, where there is one that is whole.
pub fn read(dir: &Path, name: &str) -> Option<(Version, Bytes)> {
    let bytes = Bytes::from(std::fs::read(dir.join(name)).ok()?);
    let (head, note) = bytes.split_at_checked(HEAD)?;
    let (version, sum) = head.split_at(16);
    if check(version, note) != sum {
        tracing::warn!(dir = %dir.display(), name, "a note is damaged here, and made anew");
        return None;
    }
    let (term, counter) = version.split_at(8);
    let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
    Some(((number(term), number(counter)), bytes.slice(HEAD..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_note_is_none() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(read(dir.path(), ROOT), None);
        write(dir.path(), ROOT, (3, 4), b"where it begins").expect("a write");
        assert_eq!(read(dir.path(), ROOT), Some(((3, 4), Bytes::from_static(b"where it begins"))));
        let path = dir.path().join(ROOT);
        let whole = std::fs::read(&path).expect("a file");
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, &bad).expect("a write");
            assert_eq!(read(dir.path(), ROOT), None);
            std::fs::write(&path, &whole[..at]).expect("a write");
            assert_eq!(read(dir.path(), ROOT), None);
        }
    }
}
