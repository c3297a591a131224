//! The file on every device that says where the metadata's archive begins.

use bytes::Bytes;
use holdfast_kv::durable;
use std::{io, path::Path};

/// The newest counts: raft's term, and a counter within it.
pub type Version = (u64, u64);

const FILE: &str = "root";

/// Version, length's end and checksum: term and counter, 8 bytes each, and the CRC-32C of all but itself, 4.
const HEAD: usize = 20;

fn check(head: &[u8], root: &[u8]) -> [u8; 4] {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(head);
    digest.update(root);
    (digest.finalize() as u32).to_be_bytes()
}

/// Replaces the root, durably.
pub fn write(dir: &Path, (term, counter): Version, root: &[u8]) -> io::Result<()> {
    let head = [term.to_be_bytes(), counter.to_be_bytes()].concat();
    let bytes = [&head[..], &check(&head, root), root].concat();
    durable::replace(&dir.join(FILE), &bytes, 0o600)
}

/// The root, where there is one that is whole.
pub fn read(dir: &Path) -> Option<(Version, Bytes)> {
    let bytes = Bytes::from(std::fs::read(dir.join(FILE)).ok()?);
    let (head, root) = bytes.split_at_checked(HEAD)?;
    let (version, sum) = head.split_at(16);
    if check(version, root) != sum {
        tracing::warn!(dir = %dir.display(), "the root of the metadata's archive is damaged here");
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
    fn a_damaged_root_is_none() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(read(dir.path()), None);
        write(dir.path(), (3, 4), b"where it begins").expect("a write");
        assert_eq!(read(dir.path()), Some(((3, 4), Bytes::from_static(b"where it begins"))));
        let path = dir.path().join(FILE);
        let whole = std::fs::read(&path).expect("a file");
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, &bad).expect("a write");
            assert_eq!(read(dir.path()), None);
            std::fs::write(&path, &whole[..at]).expect("a write");
            assert_eq!(read(dir.path()), None);
        }
    }
}
