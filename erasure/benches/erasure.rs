//! Encoding and reconstruction of a 4 MiB pack by each kernel, beside the library that the kernels replace.
//!
//! Figures are GB of data shards a second on one thread; the best of several rounds, since other work on the machine
//! only ever slows a round down.

#![expect(clippy::disallowed_methods, reason = "a bench measures time")]

use holdfast_core::profile::Profile;
use holdfast_erasure::{ErasureCode, Kernel};
use reed_solomon_erasure::galois_8::ReedSolomon;
use std::{hint::black_box, time::Instant};

const SHARD: usize = 1 << 20;
const ROUNDS: usize = 9;

fn gb_per_s(bytes: usize, mut work: impl FnMut()) -> f64 {
    work();
    (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            work();
            bytes as f64 / start.elapsed().as_secs_f64() / 1e9
        })
        .fold(0.0, f64::max)
}

fn main() {
    println!("{:<10} {:<24} {:>12} {:>16}", "profile", "kernel", "encode GB/s", "reconstruct GB/s");
    for (k, m) in [(4, 2), (8, 4), (17, 3)] {
        let data: Vec<Vec<u8>> =
            (0..k).map(|i| (0..SHARD).map(|j| (i * 7 + j * 13) as u8).collect()).collect();
        let inputs: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let mut parity = vec![vec![0; SHARD]; m];

        let reference = ReedSolomon::new(k, m).expect("the library takes the profile");
        let mut all: Vec<Vec<u8>> = data.clone();
        all.resize(k + m, vec![0; SHARD]);
        let encode = gb_per_s(k * SHARD, || reference.encode(black_box(&mut all)).expect("it encodes"));
        let mut lost: Vec<Option<Vec<u8>>> = all.iter().cloned().map(Some).collect();
        let rebuild = gb_per_s(k * SHARD, || {
            lost[..m].fill(None);
            reference.reconstruct(black_box(&mut lost)).expect("it reconstructs");
        });
        println!("{:<10} {:<24} {encode:>12.1} {rebuild:>16.1}", format!("{k}+{m}"), "reed-solomon-erasure");

        for kernel in Kernel::available() {
            let code = ErasureCode::with_kernel(Profile::new(k, m).expect("a profile"), kernel);
            let encode = gb_per_s(k * SHARD, || {
                let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
                code.encode(black_box(&inputs), &mut outputs).expect("it encodes");
            });
            let present: Vec<(usize, &[u8])> = (m..k + m).map(|i| (i, all[i].as_slice())).collect();
            let wanted: Vec<usize> = (0..m).collect();
            let rebuild = gb_per_s(k * SHARD, || {
                let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
                code.reconstruct(black_box(&present), &wanted, &mut outputs).expect("it reconstructs");
            });
            println!("{:<10} {:<24} {encode:>12.1} {rebuild:>16.1}", "", format!("{kernel:?}"));
        }
    }
}
