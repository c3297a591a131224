//! Sixteen streams, one in each 32-bit lane.
#![allow(unsafe_code)]

use crate::{BLOCK, K, LANES, Lane};
use std::arch::x86_64::*;

/// `x ^ (y & (z ^ x))` and its kin as truth tables of the ternary instruction, for operands (b, c, d).
const CHOOSE: i32 = 0xca;
const CHOOSE_BY_LAST: i32 = 0xe4;
const PARITY: i32 = 0x96;
const LAST: i32 = 0x39;

/// Turns 16 blocks of 16 words each into 16 vectors, of which vector `i` holds word `i` of every block.
#[target_feature(enable = "avx512f")]
fn transpose(rows: &mut [__m512i; 16]) {
    // Words within pairs of rows, then pairs within quadruples, then 128-bit quarters across all.
    let mut pairs = [_mm512_setzero_si512(); 16];
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    let mut quads = [_mm512_setzero_si512(); 16];
    for i in 0..4 {
        quads[4 * i] = _mm512_unpacklo_epi64(pairs[4 * i], pairs[4 * i + 2]);
        quads[4 * i + 1] = _mm512_unpackhi_epi64(pairs[4 * i], pairs[4 * i + 2]);
        quads[4 * i + 2] = _mm512_unpacklo_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
        quads[4 * i + 3] = _mm512_unpackhi_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
    }
    for i in 0..4 {
        let low = _mm512_shuffle_i32x4::<0x88>(quads[i], quads[4 + i]);
        let high = _mm512_shuffle_i32x4::<0xdd>(quads[i], quads[4 + i]);
        let low_2 = _mm512_shuffle_i32x4::<0x88>(quads[8 + i], quads[12 + i]);
        let high_2 = _mm512_shuffle_i32x4::<0xdd>(quads[8 + i], quads[12 + i]);
        rows[i] = _mm512_shuffle_i32x4::<0x88>(low, low_2);
        rows[8 + i] = _mm512_shuffle_i32x4::<0xdd>(low, low_2);
        rows[4 + i] = _mm512_shuffle_i32x4::<0x88>(high, high_2);
        rows[12 + i] = _mm512_shuffle_i32x4::<0xdd>(high, high_2);
    }
}

/// Four steps of a round, whose function is the truth table `F` and whose rotations are the others.
macro_rules! round {
    ($table:expr, [$r0:literal, $r1:literal, $r2:literal, $r3:literal], $from:literal, $word:expr, $a:ident, $b:ident, $c:ident, $d:ident, $words:ident) => {
        for four in 0..4 {
            let i = $from + 4 * four;
            step!($table, $r0, i, $word, $a, $b, $c, $d, $words);
            step!($table, $r1, i + 1, $word, $d, $a, $b, $c, $words);
            step!($table, $r2, i + 2, $word, $c, $d, $a, $b, $words);
            step!($table, $r3, i + 3, $word, $b, $c, $d, $a, $words);
        }
    };
}

macro_rules! step {
    ($table:expr, $rotation:literal, $i:expr, $word:expr, $a:ident, $b:ident, $c:ident, $d:ident, $words:ident) => {
        let mixed = _mm512_ternarylogic_epi32::<{ $table }>($b, $c, $d);
        let constant = _mm512_set1_epi32(K[$i] as i32);
        let sum =
            _mm512_add_epi32(_mm512_add_epi32($a, constant), _mm512_add_epi32(mixed, $words[$word($i) % 16]));
        $a = _mm512_add_epi32($b, _mm512_rol_epi32::<$rotation>(sum));
    };
}

/// Advances all lanes over `len` bytes each.
#[target_feature(enable = "avx512f")]
pub fn advance(lanes: &mut [Lane<'_>], len: usize) {
    assert!(lanes.len() <= LANES && lanes.iter().all(|lane| lane.blocks.len() >= len), "the caller checked");
    let mut words = [[0u32; LANES]; 4];
    for (l, lane) in lanes.iter().enumerate() {
        (0..4).for_each(|i| words[i][l] = lane.state[i]);
    }
    // SAFETY: each array is 64 bytes, and unaligned loads are allowed anywhere.
    let load = |array: &[u32; LANES]| unsafe { _mm512_loadu_si512(array.as_ptr().cast()) };
    let (mut a, mut b, mut c, mut d) = (load(&words[0]), load(&words[1]), load(&words[2]), load(&words[3]));
    for at in (0..len).step_by(BLOCK) {
        let mut block = [_mm512_setzero_si512(); 16];
        for (row, lane) in block.iter_mut().zip(lanes.iter()) {
            // SAFETY: `at + BLOCK <= len`, and every lane has at least `len` bytes.
            *row = unsafe { _mm512_loadu_si512(lane.blocks.as_ptr().add(at).cast()) };
        }
        transpose(&mut block);
        let before = (a, b, c, d);
        round!(CHOOSE, [7, 12, 17, 22], 0, |i: usize| i, a, b, c, d, block);
        round!(CHOOSE_BY_LAST, [5, 9, 14, 20], 16, |i: usize| 5 * i + 1, a, b, c, d, block);
        round!(PARITY, [4, 11, 16, 23], 32, |i: usize| 3 * i + 5, a, b, c, d, block);
        round!(LAST, [6, 10, 15, 21], 48, |i: usize| 7 * i, a, b, c, d, block);
        a = _mm512_add_epi32(a, before.0);
        b = _mm512_add_epi32(b, before.1);
        c = _mm512_add_epi32(c, before.2);
        d = _mm512_add_epi32(d, before.3);
    }
    for (array, vector) in words.iter_mut().zip([a, b, c, d]) {
        // SAFETY: the array is 64 bytes, and unaligned stores are allowed anywhere.
        unsafe { _mm512_storeu_si512(array.as_mut_ptr().cast(), vector) };
    }
    for (l, lane) in lanes.iter_mut().enumerate() {
        (0..4).for_each(|i| lane.state[i] = words[i][l]);
    }
}
