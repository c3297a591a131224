//! A shard's record in a segment: one page of header, then the payload.
//!
//! The header tells everything about the shard, so that an index can be made from segments alone. Its checksum covers
//! the device, the segment, the segment's generation and the offset: a record of an earlier life of the segment, or of
//! another place, is never taken for one that belongs here. Numbers are little-endian; docs/formats has the table.

use crate::disk::SegmentId;
use holdfast_core::{
    ids::{Epoch, Incarnation, PackId},
    limits::BLOCK_BYTES,
};
use thiserror::Error;

/// Bytes of a header: the page that direct I/O can write.
pub const HEADER_BYTES: usize = 4096;

const MAGIC: [u8; 8] = *b"HFSHRD01";
const FIXED: usize = 96;
const SUM_AT: usize = HEADER_BYTES - 8;

/// Blocks whose checksums fit a header.
pub const BLOCKS_MAX: usize = (SUM_AT - FIXED) / 4;

/// What a record says of its shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub device: Incarnation,
    pub segment: SegmentId,
    pub generation: u64,
    pub offset: u64,
    pub pack: PackId,
    pub shard: u8,
    pub epoch: Epoch,
    /// The writer's wall clock, in milliseconds since 1970.
    pub written_ms: u64,
    pub len: u32,
    /// CRC-32C of each block of the payload.
    pub blocks: Vec<u32>,
}

/// A page that is no header of this place.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("no record begins here")]
pub struct BadHeader;

/// CRC-32C (Castagnoli).
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// The checksums of a payload's blocks.
pub fn block_sums(payload: &[u8]) -> Vec<u32> {
    payload.chunks(BLOCK_BYTES).map(crc32c).collect()
}

fn header_sum(page: &[u8]) -> [u8; 8] {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, page).to_le_bytes()
}

impl Header {
    /// The header's page.
    ///
    /// # Panics
    /// Where the payload has more blocks than a header has room for.
    pub fn to_page(&self) -> Box<Page> {
        assert!(self.blocks.len() <= BLOCKS_MAX, "shards are smaller than that");
        let mut page = Box::new(Page([0; HEADER_BYTES]));
        let bytes = &mut page.0;
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..24].copy_from_slice(self.device.as_bytes());
        bytes[24..28].copy_from_slice(&self.segment.0.to_le_bytes());
        bytes[28..36].copy_from_slice(&self.generation.to_le_bytes());
        bytes[36..44].copy_from_slice(&self.offset.to_le_bytes());
        bytes[44..60].copy_from_slice(self.pack.as_bytes());
        bytes[60..68].copy_from_slice(&self.epoch.0.to_le_bytes());
        bytes[68..76].copy_from_slice(&self.written_ms.to_le_bytes());
        bytes[76..80].copy_from_slice(&self.len.to_le_bytes());
        bytes[80..84].copy_from_slice(&(self.blocks.len() as u32).to_le_bytes());
        bytes[84] = self.shard;
        for (slot, sum) in bytes[FIXED..].chunks_exact_mut(4).zip(&self.blocks) {
            slot.copy_from_slice(&sum.to_le_bytes());
        }
        let sum = header_sum(&bytes[..SUM_AT]);
        bytes[SUM_AT..].copy_from_slice(&sum);
        page
    }

    /// Reads the page at `offset` of a segment's `generation` on `device`.
    ///
    /// # Errors
    /// Where it is anything else than the header that was written there in that generation.
    pub fn from_page(
        page: &[u8],
        device: Incarnation,
        segment: SegmentId,
        generation: u64,
        offset: u64,
    ) -> Result<Self, BadHeader> {
        if page.len() != HEADER_BYTES || page[..8] != MAGIC || page[SUM_AT..] != header_sum(&page[..SUM_AT]) {
            return Err(BadHeader);
        }
        let count = u32_at(page, 80) as usize;
        if count > BLOCKS_MAX {
            return Err(BadHeader);
        }
        let sums = page[FIXED..FIXED + 4 * count].chunks_exact(4);
        let header = Self {
            device: Incarnation::from_slice(&page[8..24]).ok_or(BadHeader)?,
            segment: SegmentId(u32_at(page, 24)),
            generation: u64_at(page, 28),
            offset: u64_at(page, 36),
            pack: PackId::from_slice(&page[44..60]).ok_or(BadHeader)?,
            shard: page[84],
            epoch: Epoch(u64_at(page, 60)),
            written_ms: u64_at(page, 68),
            len: u32_at(page, 76),
            blocks: sums.map(|sum| u32_at(sum, 0)).collect(),
        };
        let here = (header.device, header.segment, header.generation, header.offset)
            == (device, segment, generation, offset);
        let whole = (header.len as usize).div_ceil(BLOCK_BYTES) == count;
        if here && whole { Ok(header) } else { Err(BadHeader) }
    }

    /// The generation of the whole header that `page` is, if it is one of this device, segment and offset.
    pub fn generation_of(page: &[u8], device: Incarnation, segment: SegmentId, offset: u64) -> Option<u64> {
        if page.len() != HEADER_BYTES || page[..8] != MAGIC {
            return None;
        }
        let generation = u64_at(page, 28);
        Self::from_page(page, device, segment, generation, offset).ok().map(|header| header.generation)
    }

    /// Bytes from this record to the next.
    pub fn record_bytes(&self) -> u64 {
        record_bytes(self.len as usize)
    }
}

/// Bytes that a shard of `len` bytes takes in a segment.
pub fn record_bytes(len: usize) -> u64 {
    (HEADER_BYTES + len.next_multiple_of(HEADER_BYTES)) as u64
}

/// A page with the alignment that direct I/O wants.
#[repr(C, align(4096))]
#[derive(Debug, Clone)]
pub struct Page(pub [u8; HEADER_BYTES]);

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(len: u32) -> Header {
        Header {
            device: Incarnation([1; 16]),
            segment: SegmentId(2),
            generation: 3,
            offset: 4096,
            pack: PackId([5; 16]),
            shard: 6,
            epoch: Epoch(7),
            written_ms: 8,
            len,
            blocks: vec![9; (len as usize).div_ceil(BLOCK_BYTES)],
        }
    }

    fn read(page: &[u8], generation: u64, offset: u64) -> Result<Header, BadHeader> {
        Header::from_page(page, Incarnation([1; 16]), SegmentId(2), generation, offset)
    }

    proptest! {
        #[test]
        fn a_header_tells_its_shard_and_any_flipped_bit(len in 0u32..4_000_000, bit in 0usize..HEADER_BYTES * 8) {
            let mut page = header(len).to_page();
            prop_assert_eq!(read(&page.0, 3, 4096), Ok(header(len)));
            page.0[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(read(&page.0, 3, 4096), Err(BadHeader));
        }

        #[test]
        fn bytes_from_the_disk_never_panic(bytes in proptest::collection::vec(any::<u8>(), HEADER_BYTES)) {
            prop_assert_eq!(read(&bytes, 3, 4096), Err(BadHeader));
        }
    }

    /// A header of version 1, by its checksum: what is on disks must be readable for ever.
    #[test]
    fn a_kept_header_of_version_1_never_changes() {
        let page = header(100_000).to_page();
        assert_eq!(crc32c(&page.0), KEPT_HEADER);
    }

    const KEPT_HEADER: u32 = 4_203_828_133;

    #[test]
    fn a_record_of_another_life_or_place_is_none() {
        let page = header(100).to_page();
        assert_eq!(read(&page.0, 2, 4096), Err(BadHeader));
        assert_eq!(read(&page.0, 3, 8192), Err(BadHeader));
        let other = Header::from_page(&page.0, Incarnation([9; 16]), SegmentId(2), 3, 4096);
        assert_eq!(other, Err(BadHeader));
    }
}
