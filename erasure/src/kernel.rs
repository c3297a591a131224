//! How products of a coefficient matrix with long byte vectors are computed.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod gfni;
mod portable;

use crate::matrix::Matrix;

/// Output shards that one pass computes: their accumulators and the coefficients stay in registers.
const OUTPUTS: usize = 4;

/// An implementation of the inner product. All give the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Table look-ups, on any processor.
    Portable,
    /// Nibble shuffles in 32-byte registers (Plank et al., "Screaming Fast Galois Field Arithmetic", FAST 2013).
    Avx2,
    /// Bit-matrix products in 64-byte registers.
    Gfni,
}

impl Kernel {
    /// All kernels that this processor can run, the slowest first.
    pub fn available() -> Vec<Self> {
        let mut kernels = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                kernels.push(Self::Avx2);
            }
            if is_x86_feature_detected!("gfni") && is_x86_feature_detected!("avx512f") {
                kernels.push(Self::Gfni);
            }
        }
        kernels
    }

    /// The fastest kernel of this processor.
    pub fn detect() -> Self {
        Self::available().last().copied().unwrap_or(Self::Portable)
    }

    /// `out[r] = sum over c of rows[r][c] * inputs[c]`. All vectors have one length, which the caller has checked.
    pub(crate) fn multiply(self, rows: &Matrix, inputs: &[&[u8]], out: &mut [&mut [u8]]) {
        for (group, outputs) in out.chunks_mut(OUTPUTS).enumerate() {
            let first = group * OUTPUTS;
            let coefficients: Vec<&[u8]> = (first..first + outputs.len()).map(|r| rows.row(r)).collect();
            let done = self.vectors(&coefficients, inputs, outputs);
            portable::multiply(&coefficients, inputs, outputs, done);
        }
    }

    /// Computes as many leading bytes as the kernel's vectors cover; their number.
    #[allow(unsafe_code)]
    fn vectors(self, rows: &[&[u8]], inputs: &[&[u8]], out: &mut [&mut [u8]]) -> usize {
        match self {
            Self::Portable => 0,
            // SAFETY: `available` gives out these kernels only where the processor has their features.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::multiply(rows, inputs, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Gfni => unsafe { gfni::multiply(rows, inputs, out) },
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Gfni => 0,
        }
    }
}
