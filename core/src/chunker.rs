//! Content-defined chunking: FastCDC (Xia et al., "The Design of Fast Content-Defined Chunking for Data
//! Deduplication Based Storage Systems", IEEE TPDS 2020) with a fixed, recorded profile.
//!
//! The same bytes must be cut the same way for ever, or deduplication silently ends. A profile is therefore named by a
//! number that every bucket records, golden cut points are kept in the tests, and the crate is pinned exactly.

use fastcdc::v2020::{FastCDC, Normalization};
use serde::{Deserialize, Serialize};

/// Sizes between which chunks are cut, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkerProfile {
    min: u32,
    average: u32,
    max: u32,
}

impl ChunkerProfile {
    /// Profile 1, the default. An average of 256 KiB keeps a terabyte's metadata under 500 MB; a minimum of half of it
    /// lets the chunker skip that much of every chunk.
    pub const V1: Self = Self { min: 128 << 10, average: 256 << 10, max: 1 << 20 };

    /// No chunk is smaller, but for the last.
    pub fn min(&self) -> usize {
        self.min as usize
    }

    /// No chunk is larger.
    pub fn max(&self) -> usize {
        self.max as usize
    }

    /// Cuts the first chunk off `bytes`: its length, or `None` where more input could move the cut.
    ///
    /// `last` says that nothing follows `bytes`; then an answer is always given (0 for no bytes).
    pub fn cut(&self, bytes: &[u8], last: bool) -> Option<usize> {
        if bytes.len() < self.max() && !last {
            return None;
        }
        let window = &bytes[..bytes.len().min(self.max())];
        let cdc = FastCDC::with_level(
            window,
            self.min as usize,
            self.average as usize,
            self.max(),
            Normalization::Level1,
        );
        Some(cdc.cut(0, window.len()).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// xorshift64*: bytes that every version of this test agrees on.
    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed;
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    fn cuts(bytes: &[u8]) -> Vec<usize> {
        let mut cuts = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            at += ChunkerProfile::V1.cut(&bytes[at..], true).expect("the last bytes are always cut");
            cuts.push(at);
        }
        cuts
    }

    #[test]
    fn golden_cut_points_never_move() {
        assert_eq!(cuts(&noise(1, 3 << 20)), GOLDEN_NOISE);
        assert_eq!(cuts(&vec![0; 3 << 20]), [1 << 20, 2 << 20, 3 << 20]);
        assert_eq!(cuts(&noise(2, 100_000)), [100_000]);
        assert!(cuts(&[]).is_empty());
    }

    const GOLDEN_NOISE: [usize; 7] =
        [362_950, 1_343_600, 1_633_102, 1_995_824, 2_512_415, 2_683_955, 3_145_728];

    #[test]
    fn an_insertion_moves_only_the_cuts_near_it() {
        let before = noise(3, 8 << 20);
        let mut after = vec![42];
        after.extend_from_slice(&before);
        let old: std::collections::BTreeSet<_> = cuts(&before).into_iter().collect();
        let moved = cuts(&after).into_iter().filter(|cut| !old.contains(&(cut - 1))).count();
        assert!(moved <= 2, "{moved} cuts moved");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn cuts_do_not_depend_on_how_the_bytes_arrive(seed in 1u64.., step in 1usize..2_000_000) {
            let bytes = noise(seed, 3 << 20);
            let whole = cuts(&bytes);
            let mut streamed = Vec::new();
            let (mut start, mut end) = (0, 0);
            while start < bytes.len() {
                match ChunkerProfile::V1.cut(&bytes[start..end], end == bytes.len()) {
                    Some(len) if len > 0 => { start += len; streamed.push(start); }
                    _ => end = (end + step).min(bytes.len()),
                }
            }
            prop_assert_eq!(whole, streamed);
        }
    }
}
