//! Systematic Reed-Solomon codes over GF(2^8) (Reed and Solomon, "Polynomial Codes over Certain Finite Fields", 1960),
//! byte for byte those of the crate `reed-solomon-erasure`: a Vandermonde matrix made systematic, polynomial `0x11d`.
//!
//! The arithmetic is one matrix-times-vectors product; [`Kernel`] is how it is carried out, chosen at run time for the
//! processor. Every kernel gives the same bytes, which the tests hold against each other and against that crate.

mod galois;
mod kernel;
mod matrix;

pub use kernel::Kernel;

use holdfast_core::profile::Profile;
use matrix::Matrix;
use thiserror::Error;

/// Shards that cannot be coded together.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum ErasureError {
    #[error("{have} shards are present, and {need} are needed")]
    TooFew { have: usize, need: usize },
    #[error("shards of one pack have different lengths")]
    Lengths,
    #[error("a shard's index is not below the profile's total, or is there twice")]
    Index,
}

/// The code of one profile.
#[derive(Debug, Clone)]
pub struct ErasureCode {
    profile: Profile,
    /// `total` rows of `data` coefficients; the first `data` rows are the identity.
    matrix: Matrix,
    kernel: Kernel,
}

impl ErasureCode {
    /// The code for `profile`, with the fastest kernel of this processor.
    pub fn new(profile: Profile) -> Self {
        Self::with_kernel(profile, Kernel::detect())
    }

    /// The code for `profile` with a kernel of the caller's choice, for benches and tests.
    pub fn with_kernel(profile: Profile, kernel: Kernel) -> Self {
        let vandermonde = Matrix::vandermonde(profile.total(), profile.data());
        let top = vandermonde.rows(0..profile.data());
        let inverse = top.inverse().expect("a square Vandermonde matrix of distinct points is invertible");
        Self { profile, matrix: vandermonde.times(&inverse), kernel }
    }

    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Computes all parity shards from all data shards.
    ///
    /// # Errors
    /// Where their numbers are not the profile's, or their lengths differ.
    pub fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) -> Result<(), ErasureError> {
        if data.len() != self.profile.data() || parity.len() != self.profile.parity() {
            return Err(ErasureError::Index);
        }
        same_length(data.iter().copied().chain(parity.iter().map(|shard| &**shard)))?;
        let rows = self.matrix.rows(self.profile.data()..self.profile.total());
        self.kernel.multiply(&rows, data, parity);
        Ok(())
    }

    /// Computes the shards `wanted` from any `k` of `present`, which are (index, bytes); more are ignored.
    ///
    /// Works on any aligned pieces of the shards too: the code is the same at every offset.
    ///
    /// # Errors
    /// Where fewer than `k` are present, an index is wrong, or lengths differ.
    pub fn reconstruct(
        &self,
        present: &[(usize, &[u8])],
        wanted: &[usize],
        out: &mut [&mut [u8]],
    ) -> Result<(), ErasureError> {
        let k = self.profile.data();
        if present.len() < k {
            return Err(ErasureError::TooFew { have: present.len(), need: k });
        }
        let present = &present[..k];
        let mut seen = [false; holdfast_core::limits::SHARDS_MAX];
        for &(index, _) in present {
            let inside = index < self.profile.total();
            if !inside || std::mem::replace(&mut seen[index], true) {
                return Err(ErasureError::Index);
            }
        }
        if wanted.len() != out.len() || wanted.iter().any(|&index| index >= self.profile.total()) {
            return Err(ErasureError::Index);
        }
        same_length(present.iter().map(|&(_, bytes)| bytes).chain(out.iter().map(|shard| &**shard)))?;

        let have: Vec<usize> = present.iter().map(|&(index, _)| index).collect();
        let decode = self.matrix.pick(&have).inverse().expect("any k rows of the code are independent");
        let rows = self.matrix.pick(wanted).times(&decode);
        let inputs: Vec<&[u8]> = present.iter().map(|&(_, bytes)| bytes).collect();
        self.kernel.multiply(&rows, &inputs, out);
        Ok(())
    }
}

fn same_length<'a>(mut shards: impl Iterator<Item = &'a [u8]>) -> Result<(), ErasureError> {
    let first = shards.next().map_or(0, <[u8]>::len);
    if shards.all(|shard| shard.len() == first) { Ok(()) } else { Err(ErasureError::Lengths) }
}

#[cfg(test)]
mod tests;
