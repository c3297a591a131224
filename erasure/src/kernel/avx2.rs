//! A product by a constant is the exclusive or of two 16-entry look-ups, one for each nibble: `vpshufb` does 32 at once.
#![allow(unsafe_code)]

use super::OUTPUTS;
use crate::galois::multiply as product;
use std::arch::x86_64::*;

const VECTOR: usize = 32;

/// The products of a coefficient with all low nibbles, and with all high ones.
#[derive(Clone, Copy)]
struct Nibbles {
    low: __m256i,
    high: __m256i,
}

#[target_feature(enable = "avx2")]
fn nibbles(coefficient: u8) -> Nibbles {
    let table = |shift: u32| {
        let mut bytes = [0; VECTOR];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = product(coefficient, ((i % 16) << shift) as u8);
        }
        bytes
    };
    let (low, high) = (table(0), table(4));
    // SAFETY: both arrays are 32 bytes, and unaligned loads are allowed anywhere.
    unsafe {
        Nibbles {
            low: _mm256_loadu_si256(low.as_ptr().cast()),
            high: _mm256_loadu_si256(high.as_ptr().cast()),
        }
    }
}

/// Computes whole vectors of the outputs; how many bytes that is.
#[target_feature(enable = "avx2")]
pub fn multiply(rows: &[&[u8]], inputs: &[&[u8]], out: &mut [&mut [u8]]) -> usize {
    let len = out.first().map_or(0, |shard| shard.len()) / VECTOR * VECTOR;
    assert!(rows.len() == out.len() && out.len() <= OUTPUTS, "the caller groups outputs");
    assert!(inputs.iter().all(|i| i.len() >= len) && out.iter().all(|o| o.len() >= len), "one length");
    let tables: Vec<[Nibbles; OUTPUTS]> = (0..inputs.len())
        .map(|c| std::array::from_fn(|r| nibbles(rows.get(r).map_or(0, |row| row[c]))))
        .collect();
    let mask = _mm256_set1_epi8(0x0f);
    for at in (0..len).step_by(VECTOR) {
        let mut sums = [_mm256_setzero_si256(); OUTPUTS];
        for (input, tables) in inputs.iter().zip(&tables) {
            // SAFETY: `at + VECTOR <= len`, and every input has at least `len` bytes.
            let bytes = unsafe { _mm256_loadu_si256(input.as_ptr().add(at).cast()) };
            let low = _mm256_and_si256(bytes, mask);
            let high = _mm256_and_si256(_mm256_srli_epi64::<4>(bytes), mask);
            for (sum, table) in sums.iter_mut().zip(tables).take(out.len()) {
                let part = _mm256_xor_si256(
                    _mm256_shuffle_epi8(table.low, low),
                    _mm256_shuffle_epi8(table.high, high),
                );
                *sum = _mm256_xor_si256(*sum, part);
            }
        }
        for (output, sum) in out.iter_mut().zip(sums) {
            // SAFETY: `at + VECTOR <= len`, and every output has at least `len` bytes.
            unsafe { _mm256_storeu_si256(output.as_mut_ptr().add(at).cast(), sum) };
        }
    }
    len
}
