//! The pack format: chunks, zero padding, a table of contents and a footer, over exactly `k` shards.
//!
//! ```text
//! | chunk 0 | chunk 1 | ... | zeros | entry 0 | entry 1 | ... | footer |
//! |<--------------------------- k * shard_len ----------------------->|
//! ```
//!
//! Everything that is needed to read a pack is in it: the footer is at the end of the last data shard, and data can be
//! exported from devices without the metadata. Numbers are little-endian. docs/formats describes each field.

use crate::{
    ids::{ChunkId, DomainId, PackId},
    limits::{PACK_CHUNKS_MAX, SHARD_ALIGN, SHARDS_MAX, SMALL_SHARD_ALIGN, SMALL_SHARD_BYTES},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The first bytes of the footer; the digits are the format's version.
const MAGIC: [u8; 8] = *b"HFPACK01";
/// Bytes of the footer.
pub const FOOTER_BYTES: usize = 64;
/// Bytes of an entry of the table of contents.
pub const ENTRY_BYTES: usize = 48;
/// How much of the table's BLAKE3 hash the footer keeps.
const HASH_BYTES: usize = 24;

/// How a chunk's bytes stand in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Codec {
    Raw,
    Zstd,
}

impl Codec {
    fn to_byte(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// A chunk's place in its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub chunk: ChunkId,
    /// Where its stored bytes begin.
    pub offset: u32,
    /// How many bytes are stored.
    pub stored: u32,
    /// How many bytes they decode to.
    pub plain: u32,
    pub codec: Codec,
}

/// A pack's footer or table is not what this module writes.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum PackError {
    #[error("the pack has no footer")]
    NoFooter,
    #[error("the pack's table of contents does not have the hash that its footer names")]
    Hash,
    #[error("the pack's table of contents points outside the pack")]
    Bounds,
    #[error("the pack names a codec that this version does not know")]
    Codec,
}

/// The bytes of one shard of a pack with `data` stored bytes in `chunks` chunks over `k` data shards.
///
/// Large shards are padded for direct I/O; small ones, which live in the device's RocksDB, hardly at all.
pub fn shard_len(data: usize, chunks: usize, k: usize) -> usize {
    assert!((1..=SHARDS_MAX).contains(&k) && chunks <= PACK_CHUNKS_MAX, "limits hold for every pack");
    let whole = data + chunks * ENTRY_BYTES + FOOTER_BYTES;
    let least = whole.div_ceil(k).next_multiple_of(SMALL_SHARD_ALIGN);
    if least <= SMALL_SHARD_BYTES { least } else { least.next_multiple_of(SHARD_ALIGN) }
}

/// Writes table and footer behind the chunks in `pack`, which spans the data shards, and zeroes what lies between.
///
/// # Panics
/// Where the entries do not fit: [`shard_len`] was not asked.
pub fn seal(pack: &mut [u8], id: PackId, domain: DomainId, entries: &[Entry]) {
    let data = entries.iter().map(|e| (e.offset + e.stored) as usize).max().unwrap_or(0);
    let table_at = pack.len() - FOOTER_BYTES - entries.len() * ENTRY_BYTES;
    assert!(data <= table_at, "the shard length leaves room for the table");
    pack[data..table_at].fill(0);
    let (table, footer) = pack[table_at..].split_at_mut(entries.len() * ENTRY_BYTES);
    for (slot, entry) in table.chunks_exact_mut(ENTRY_BYTES).zip(entries) {
        slot[..32].copy_from_slice(entry.chunk.as_bytes());
        slot[32..36].copy_from_slice(&entry.offset.to_le_bytes());
        slot[36..40].copy_from_slice(&entry.stored.to_le_bytes());
        slot[40..44].copy_from_slice(&entry.plain.to_le_bytes());
        slot[44..].copy_from_slice(&[entry.codec.to_byte(), 0, 0, 0]);
    }
    footer[..8].copy_from_slice(&MAGIC);
    footer[8..24].copy_from_slice(id.as_bytes());
    footer[24..32].copy_from_slice(&domain.0.to_le_bytes());
    footer[32..36].copy_from_slice(&(entries.len() as u32).to_le_bytes());
    footer[36..40].fill(0);
    let hash = table_hash(table, &footer[..40]);
    footer[40..].copy_from_slice(&hash);
}

fn table_hash(table: &[u8], head: &[u8]) -> [u8; HASH_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(table).update(head);
    let mut hash = [0; HASH_BYTES];
    hash.copy_from_slice(&hasher.finalize().as_bytes()[..HASH_BYTES]);
    hash
}

/// What a sealed pack says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    pub pack: PackId,
    pub domain: DomainId,
    pub entries: Vec<Entry>,
}

/// The number of bytes at the end of a pack that hold table and footer, from the last [`FOOTER_BYTES`] alone.
///
/// # Errors
/// Where that is no footer of this format, or names more than a pack may hold.
pub fn table_bytes(footer: &[u8]) -> Result<usize, PackError> {
    if footer.len() != FOOTER_BYTES || footer[..8] != MAGIC {
        return Err(PackError::NoFooter);
    }
    let count = u32_at(footer, 32) as usize;
    if count > PACK_CHUNKS_MAX {
        return Err(PackError::Bounds);
    }
    Ok(count * ENTRY_BYTES + FOOTER_BYTES)
}

/// Reads the table of a pack of `pack_len` bytes from its last [`table_bytes`] bytes.
///
/// # Errors
/// Where it is damaged, or was not written by [`seal`].
pub fn contents(tail: &[u8], pack_len: usize) -> Result<Contents, PackError> {
    let footer_at = tail.len().checked_sub(FOOTER_BYTES).ok_or(PackError::NoFooter)?;
    let footer = &tail[footer_at..];
    let expected = table_bytes(footer)?;
    let table_at = tail.len().checked_sub(expected).ok_or(PackError::Bounds)?;
    let table = &tail[table_at..footer_at];
    if table_hash(table, &footer[..40]) != footer[40..] {
        return Err(PackError::Hash);
    }
    let limit = pack_len.checked_sub(expected).ok_or(PackError::Bounds)? as u64;
    let entries = table
        .chunks_exact(ENTRY_BYTES)
        .map(|slot| {
            let entry = Entry {
                chunk: ChunkId::from_slice(&slot[..32]).ok_or(PackError::Bounds)?,
                offset: u32_at(slot, 32),
                stored: u32_at(slot, 36),
                plain: u32_at(slot, 40),
                codec: Codec::from_byte(slot[44]).ok_or(PackError::Codec)?,
            };
            let inside = u64::from(entry.offset) + u64::from(entry.stored) <= limit;
            if inside { Ok(entry) } else { Err(PackError::Bounds) }
        })
        .collect::<Result<_, _>>()?;
    let domain = DomainId(u64::from(u32_at(footer, 24)) | u64::from(u32_at(footer, 28)) << 32);
    Ok(Contents { pack: PackId::from_slice(&footer[8..24]).ok_or(PackError::NoFooter)?, domain, entries })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sealed(lens: &[u32], k: usize) -> (Vec<u8>, Contents) {
        let mut entries = Vec::new();
        let mut offset = 0;
        for (i, &len) in lens.iter().enumerate() {
            let chunk = ChunkId::of(&(i as u32).to_le_bytes());
            entries.push(Entry { chunk, offset, stored: len, plain: len * 2, codec: Codec::Zstd });
            offset += len;
        }
        let len = shard_len(offset as usize, lens.len(), k) * k;
        let mut pack = vec![0xaa; len];
        let (id, domain) = (PackId([7; 16]), DomainId(u64::MAX - 5));
        seal(&mut pack, id, domain, &entries);
        (pack, Contents { pack: id, domain, entries })
    }

    proptest! {
        #[test]
        fn a_sealed_pack_tells_its_contents(
            lens in proptest::collection::vec(0u32..9000, 0..40),
            k in 1usize..20,
        ) {
            let (pack, expected) = sealed(&lens, k);
            let tail = table_bytes(&pack[pack.len() - FOOTER_BYTES..]).expect("a footer");
            prop_assert_eq!(contents(&pack[pack.len() - tail..], pack.len()), Ok(expected));
        }

        #[test]
        fn any_flipped_bit_of_table_or_footer_is_noticed(bit in 0usize..(2 * ENTRY_BYTES + FOOTER_BYTES) * 8) {
            let (mut pack, _) = sealed(&[100, 200], 4);
            let tail = pack.len() - (2 * ENTRY_BYTES + FOOTER_BYTES);
            pack[tail + bit / 8] ^= 1 << (bit % 8);
            prop_assert!(contents(&pack[tail..], pack.len()).is_err());
        }

        #[test]
        fn bytes_from_outside_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = contents(&bytes, bytes.len());
            let _ = table_bytes(&bytes);
        }
    }

    /// The bytes of a pack of version 1, by their hash: what is on disks must be readable for ever.
    #[test]
    fn a_kept_pack_of_version_1_never_changes() {
        let (pack, expected) = sealed(&[1000, 5000, 70], 4);
        let hash = blake3::hash(&pack[6070..]).to_hex().to_string();
        assert_eq!((pack.len(), hash.as_str()), KEPT_PACK);
        let tail = table_bytes(&pack[pack.len() - FOOTER_BYTES..]).expect("a footer");
        assert_eq!(contents(&pack[pack.len() - tail..], pack.len()), Ok(expected));
    }

    const KEPT_PACK: (usize, &str) =
        (6400, "a747305d4c704a9acfae95f630dbf85c126e6c4f0e7746babfeb4758ce170a1c");

    #[test]
    fn shards_are_padded_for_where_they_live() {
        assert_eq!(shard_len(5000, 1, 4), 1280);
        assert_eq!(shard_len(100_000, 1, 4) % SHARD_ALIGN, 0);
        assert_eq!(shard_len(SMALL_SHARD_BYTES * 4 - ENTRY_BYTES - FOOTER_BYTES, 1, 4), SMALL_SHARD_BYTES);
    }
}
