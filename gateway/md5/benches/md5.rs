//! GB a second over all streams on one thread, beside the library that the lanes replace.

use holdfast_gateway_md5::{Kernel, Lane, Md5, advance};
use md5::Digest as _;
use std::{hint::black_box, time::Instant};

const BYTES: usize = 1 << 20;

fn gb_per_s(bytes: usize, mut work: impl FnMut()) -> f64 {
    work();
    (0..9)
        .map(|_| {
            let start = Instant::now();
            work();
            bytes as f64 / start.elapsed().as_secs_f64() / 1e9
        })
        .fold(0.0, f64::max)
}

fn main() {
    let streams: Vec<Vec<u8>> = (0..16).map(|s| (0..BYTES).map(|i| (i * 31 + s) as u8).collect()).collect();
    let library = gb_per_s(BYTES, || {
        black_box(md5::Md5::digest(black_box(&streams[0])));
    });
    println!("{:<24} {library:>6.2} GB/s", "md-5, 1 stream");
    for count in [1, 2, 4, 8, 16] {
        let rate = gb_per_s(count * BYTES, || {
            let mut md5s = vec![Md5::default(); count];
            let mut lanes: Vec<Lane<'_>> = md5s
                .iter_mut()
                .zip(&streams)
                .map(|(md5, bytes)| Lane { state: md5.lend(BYTES / 64), blocks: bytes })
                .collect();
            advance(Kernel::detect(), black_box(&mut lanes));
        });
        println!("{:<24} {rate:>6.2} GB/s", format!("{:?}, {count} streams", Kernel::detect()));
    }
}
