use super::*;
use md5::Digest as _;
use proptest::prelude::*;

fn reference(bytes: &[u8]) -> [u8; 16] {
    md5::Md5::digest(bytes).into()
}

proptest! {
    #[test]
    fn pieces_give_the_reference_crates_digest(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8)) {
        let mut md5 = Md5::default();
        pieces.iter().for_each(|piece| md5.update(piece));
        prop_assert_eq!(md5.finish(), reference(&pieces.concat()));
    }

    #[test]
    fn every_kernel_advances_every_lane_alike(count in 1usize..=LANES, blocks in 0usize..20, seed: u64) {
        let mut state = seed;
        let streams: Vec<Vec<u8>> = (0..count)
            .map(|_| (0..blocks * BLOCK).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            }).collect())
            .collect();
        for kernel in [Kernel::Scalar, Kernel::detect()] {
            let mut md5s = vec![Md5::default(); count];
            let mut lanes: Vec<Lane<'_>> = md5s
                .iter_mut()
                .zip(&streams)
                .map(|(md5, bytes)| Lane { state: md5.lend(blocks), blocks: bytes })
                .collect();
            advance(kernel, &mut lanes);
            for (md5, bytes) in md5s.into_iter().zip(&streams) {
                prop_assert_eq!(md5.finish(), reference(bytes), "{:?}", kernel);
            }
        }
    }
}

#[test]
fn the_rfcs_own_vectors_hold() {
    let hex = |text: &[u8]| {
        let mut md5 = Md5::default();
        md5.update(text);
        md5.finish().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    assert_eq!(hex(b""), "d41d8cd98f00b204e9800998ecf8427e");
    assert_eq!(hex(b"message digest"), "f96b697d7cb7938d525a2f31aaf161d0");
}
