//! MD5 (RFC 1321) of many streams at once.
//!
//! S3's ETag is an MD5, whose steps wait for one another: one stream cannot be made faster. Sixteen can share the steps, one
//! in each lane of a 512-bit register, which the processor runs as fast as one. [`advance`] takes what streams there are.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

/// Bytes of a block.
pub const BLOCK: usize = 64;

/// Streams that one call can advance together.
pub const LANES: usize = 16;

/// Fewer streams are faster one after another: a lane is slower than the scalar unit.
const LANES_WORTH: usize = 3;

/// The four words of a running MD5.
pub type State = [u32; 4];

/// Additive constants: the integer parts of `2^32 * |sin(i + 1)|`.
const K: [u32; 64] = [
    0xd76a_a478,
    0xe8c7_b756,
    0x2420_70db,
    0xc1bd_ceee,
    0xf57c_0faf,
    0x4787_c62a,
    0xa830_4613,
    0xfd46_9501,
    0x6980_98d8,
    0x8b44_f7af,
    0xffff_5bb1,
    0x895c_d7be,
    0x6b90_1122,
    0xfd98_7193,
    0xa679_438e,
    0x49b4_0821,
    0xf61e_2562,
    0xc040_b340,
    0x265e_5a51,
    0xe9b6_c7aa,
    0xd62f_105d,
    0x0244_1453,
    0xd8a1_e681,
    0xe7d3_fbc8,
    0x21e1_cde6,
    0xc337_07d6,
    0xf4d5_0d87,
    0x455a_14ed,
    0xa9e3_e905,
    0xfcef_a3f8,
    0x676f_02d9,
    0x8d2a_4c8a,
    0xfffa_3942,
    0x8771_f681,
    0x6d9d_6122,
    0xfde5_380c,
    0xa4be_ea44,
    0x4bde_cfa9,
    0xf6bb_4b60,
    0xbebf_bc70,
    0x289b_7ec6,
    0xeaa1_27fa,
    0xd4ef_3085,
    0x0488_1d05,
    0xd9d4_d039,
    0xe6db_99e5,
    0x1fa2_7cf8,
    0xc4ac_5665,
    0xf429_2244,
    0x432a_ff97,
    0xab94_23a7,
    0xfc93_a039,
    0x655b_59c3,
    0x8f0c_cc92,
    0xffef_f47d,
    0x8584_5dd1,
    0x6fa8_7e4f,
    0xfe2c_e6e0,
    0xa301_4314,
    0x4e08_11a1,
    0xf753_7e82,
    0xbd3a_f235,
    0x2ad7_d2bb,
    0xeb86_d391,
];

/// A stream's next blocks.
pub struct Lane<'a> {
    pub state: &'a mut State,
    /// A whole number of blocks.
    pub blocks: &'a [u8],
}

/// How blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// One stream after another, on any processor.
    Scalar,
    /// Sixteen at once.
    Avx512,
}

impl Kernel {
    /// The widest kernel of this processor.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            return Self::Avx512;
        }
        Self::Scalar
    }
}

/// Advances up to [`LANES`] streams by equally many blocks.
///
/// # Panics
/// Where there are more lanes, or their blocks are not equally long, or not whole.
#[allow(unsafe_code)]
pub fn advance(kernel: Kernel, lanes: &mut [Lane<'_>]) {
    let len = lanes.first().map_or(0, |lane| lane.blocks.len());
    assert!(lanes.len() <= LANES && len.is_multiple_of(BLOCK), "lanes hold whole blocks");
    assert!(lanes.iter().all(|lane| lane.blocks.len() == len), "lanes advance together");
    match kernel {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `detect` gives out this kernel only where the processor has its features.
        Kernel::Avx512 if lanes.len() >= LANES_WORTH => unsafe { avx512::advance(lanes, len) },
        Kernel::Scalar | Kernel::Avx512 => {
            for lane in lanes {
                lane.blocks.chunks_exact(BLOCK).for_each(|block| scalar::compress(lane.state, block));
            }
        }
    }
}

/// One stream's MD5 on its way: a state, and the bytes of a block that has begun.
#[derive(Debug, Clone)]
pub struct Md5 {
    state: State,
    begun: [u8; BLOCK],
    /// Bytes so far.
    len: u64,
}

impl Default for Md5 {
    fn default() -> Self {
        Self { state: [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476], begun: [0; BLOCK], len: 0 }
    }
}

impl Md5 {
    /// Takes what completes the block that has begun; the rest of `bytes`.
    pub fn align<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let begun = (self.len % BLOCK as u64) as usize;
        if begun == 0 {
            return bytes;
        }
        let (head, rest) = bytes.split_at(bytes.len().min(BLOCK - begun));
        self.begun[begun..begun + head.len()].copy_from_slice(head);
        self.len += head.len() as u64;
        if begun + head.len() == BLOCK {
            scalar::compress(&mut self.state, &self.begun);
        }
        rest
    }

    /// The state, to be advanced by `blocks` whole blocks; the stream is aligned.
    pub fn lend(&mut self, blocks: usize) -> &mut State {
        debug_assert!(self.len.is_multiple_of(BLOCK as u64), "lanes advance aligned streams");
        self.len += (blocks * BLOCK) as u64;
        &mut self.state
    }

    /// Takes bytes by itself.
    pub fn update(&mut self, bytes: &[u8]) {
        let rest = self.align(bytes);
        let (blocks, tail) = rest.as_chunks::<BLOCK>();
        let state = self.lend_if_aligned(blocks.len());
        if let Some(state) = state {
            blocks.iter().for_each(|block| scalar::compress(state, block));
            self.begun[..tail.len()].copy_from_slice(tail);
            self.len += tail.len() as u64;
        }
    }

    fn lend_if_aligned(&mut self, blocks: usize) -> Option<&mut State> {
        // Where the bytes did not complete the block that has begun, nothing is left of them.
        if self.len.is_multiple_of(BLOCK as u64) { Some(self.lend(blocks)) } else { None }
    }

    /// The digest.
    pub fn finish(mut self) -> [u8; 16] {
        let bits = self.len.wrapping_mul(8).to_le_bytes();
        let mut padding = vec![0x80];
        padding.resize(1 + (119 - (self.len % 64) as usize) % 64, 0);
        padding.extend_from_slice(&bits);
        self.update(&padding);
        let mut digest = [0; 16];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        digest
    }
}

#[cfg(test)]
mod tests;
