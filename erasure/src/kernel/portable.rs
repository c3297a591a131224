//! Table look-ups: every processor's kernel, and the tail of the others'.

use crate::galois::PRODUCT;

/// Computes the bytes from `start` on.
pub fn multiply(rows: &[&[u8]], inputs: &[&[u8]], out: &mut [&mut [u8]], start: usize) {
    for (row, output) in rows.iter().zip(out) {
        let output = &mut output[start..];
        output.fill(0);
        for (&coefficient, input) in row.iter().zip(inputs) {
            let products = &PRODUCT[usize::from(coefficient)];
            for (sum, &byte) in output.iter_mut().zip(&input[start..]) {
                *sum ^= products[usize::from(byte)];
            }
        }
    }
}
