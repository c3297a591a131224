use super::*;
use proptest::prelude::*;
use reed_solomon_erasure::galois_8::ReedSolomon;

fn profile(k: usize, m: usize) -> Profile {
    Profile::new(k, m).expect("a valid profile")
}

fn shards(seed: u64, count: usize, len: usize) -> Vec<Vec<u8>> {
    let mut state = seed | 1;
    (0..count)
        .map(|_| {
            (0..len)
                .map(|_| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 56) as u8
                })
                .collect()
        })
        .collect()
}

fn encoded(code: &ErasureCode, data: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut parity = vec![vec![0xee; data[0].len()]; code.profile().parity()];
    let inputs: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
    code.encode(&inputs, &mut outputs).expect("shards of one length");
    parity
}

proptest! {
    #[test]
    fn every_kernel_gives_the_reference_crates_bytes(
        k in 1usize..18, m in 1usize..8, len in 1usize..700, seed: u64,
    ) {
        let data = shards(seed, k, len);
        let mut reference = data.clone();
        reference.resize(k + m, vec![0; len]);
        ReedSolomon::new(k, m).expect("the reference").encode(&mut reference).expect("the reference encodes");
        for kernel in Kernel::available() {
            let parity = encoded(&ErasureCode::with_kernel(profile(k, m), kernel), &data);
            prop_assert_eq!(&parity[..], &reference[k..], "{:?}", kernel);
        }
    }

    #[test]
    fn any_k_shards_give_back_all(k in 1usize..12, m in 1usize..6, len in 1usize..400, seed: u64) {
        let data = shards(seed, k, len);
        for kernel in Kernel::available() {
            let code = ErasureCode::with_kernel(profile(k, m), kernel);
            let mut all = data.clone();
            all.extend(encoded(&code, &data));
            // A selection of k that depends on the seed.
            let mut order: Vec<usize> = (0..k + m).collect();
            order.sort_by_key(|i| seed.rotate_left(*i as u32 * 7) ^ (*i as u64));
            let present: Vec<(usize, &[u8])> = order[..k].iter().map(|&i| (i, &all[i][..])).collect();
            let wanted = &order[k..];
            let mut out = vec![vec![0x55; len]; wanted.len()];
            let mut slices: Vec<&mut [u8]> = out.iter_mut().map(Vec::as_mut_slice).collect();
            code.reconstruct(&present, wanted, &mut slices).expect("k shards are enough");
            for (&index, shard) in wanted.iter().zip(&out) {
                prop_assert_eq!(shard, &all[index], "{:?} shard {}", kernel, index);
            }
        }
    }
}

#[test]
fn what_cannot_be_decoded_is_an_error() {
    let code = ErasureCode::new(profile(4, 2));
    let shard = [0u8; 64];
    let mut out = [0u8; 64];
    let three: Vec<(usize, &[u8])> = (0..3).map(|i| (i, &shard[..])).collect();
    let error = code.reconstruct(&three, &[5], &mut [&mut out]);
    assert_eq!(error, Err(ErasureError::TooFew { have: 3, need: 4 }));
    let twice: Vec<(usize, &[u8])> = [0, 1, 2, 2].map(|i| (i, &shard[..])).to_vec();
    assert_eq!(code.reconstruct(&twice, &[5], &mut [&mut out]), Err(ErasureError::Index));
    let short: Vec<(usize, &[u8])> = [0, 1, 2, 3].map(|i| (i, &shard[..60])).to_vec();
    assert_eq!(code.reconstruct(&short, &[5], &mut [&mut out]), Err(ErasureError::Lengths));
    assert_eq!(code.encode(&[&shard], &mut [&mut out]), Err(ErasureError::Index));
}
