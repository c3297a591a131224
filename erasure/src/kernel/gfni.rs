//! A product by a constant is linear over GF(2): one 8x8 bit matrix, which `vgf2p8affineqb` applies to 64 bytes at once
//! whatever the field's polynomial.
#![allow(unsafe_code)]

use super::OUTPUTS;
use crate::galois::multiply as product;
use std::arch::x86_64::*;

const VECTOR: usize = 64;
/// Two vectors a step hide the instruction's latency.
const STEP: usize = 2 * VECTOR;

/// The bit matrix of `x -> coefficient * x` in the instruction's layout: byte `7 - i` selects the input bits that make
/// output bit `i`.
fn bit_matrix(coefficient: u8) -> i64 {
    let mut rows = [0u8; 8];
    for j in 0..8 {
        let column = product(coefficient, 1 << j);
        for (i, row) in rows.iter_mut().rev().enumerate() {
            *row |= (column >> i & 1) << j;
        }
    }
    i64::from_le_bytes(rows)
}

/// Computes whole steps of the outputs; how many bytes that is.
#[target_feature(enable = "gfni,avx512f")]
pub fn multiply(rows: &[&[u8]], inputs: &[&[u8]], out: &mut [&mut [u8]]) -> usize {
    match out.len() {
        1 => multiply_n::<1>(rows, inputs, out),
        2 => multiply_n::<2>(rows, inputs, out),
        3 => multiply_n::<3>(rows, inputs, out),
        _ => multiply_n::<OUTPUTS>(rows, inputs, out),
    }
}

/// [`multiply`] for `N` outputs, so that the sums are registers and the loops unroll.
#[target_feature(enable = "gfni,avx512f")]
fn multiply_n<const N: usize>(rows: &[&[u8]], inputs: &[&[u8]], out: &mut [&mut [u8]]) -> usize {
    let len = out.first().map_or(0, |shard| shard.len()) / STEP * STEP;
    assert!(rows.len() == N && out.len() == N, "the caller groups outputs");
    assert!(inputs.iter().all(|i| i.len() >= len) && out.iter().all(|o| o.len() >= len), "one length");
    let matrices: Vec<[i64; N]> =
        (0..inputs.len()).map(|c| std::array::from_fn(|r| bit_matrix(rows[r][c]))).collect();
    for at in (0..len).step_by(STEP) {
        let mut sums = [[_mm512_setzero_si512(); 2]; N];
        for (input, matrices) in inputs.iter().zip(&matrices) {
            // SAFETY: `at + STEP <= len`, and every input has at least `len` bytes.
            let (first, second) = unsafe {
                let from = input.as_ptr().add(at);
                (_mm512_loadu_si512(from.cast()), _mm512_loadu_si512(from.add(VECTOR).cast()))
            };
            for (sum, &matrix) in sums.iter_mut().zip(matrices) {
                let matrix = _mm512_set1_epi64(matrix);
                sum[0] = _mm512_xor_si512(sum[0], _mm512_gf2p8affine_epi64_epi8::<0>(first, matrix));
                sum[1] = _mm512_xor_si512(sum[1], _mm512_gf2p8affine_epi64_epi8::<0>(second, matrix));
            }
        }
        for (output, sum) in out.iter_mut().zip(sums) {
            // SAFETY: `at + STEP <= len`, and every output has at least `len` bytes.
            unsafe {
                let to = output.as_mut_ptr().add(at);
                _mm512_storeu_si512(to.cast(), sum[0]);
                _mm512_storeu_si512(to.add(VECTOR).cast(), sum[1]);
            }
        }
    }
    len
}
