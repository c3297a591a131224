use super::*;
use crate::{PackBuilder, SealedPack, open_chunk};
use holdfast_core::{
    buffer::BufferPool,
    ids::{ChunkId, DomainId, PackId},
    profile::Profile,
};
use proptest::prelude::*;

fn code() -> ErasureCode {
    ErasureCode::new(Profile::new(4, 2).expect("a profile"))
}

/// A pack of compressible and incompressible chunks.
fn sealed(code: &ErasureCode, seed: u8) -> (SealedPack, Vec<Vec<u8>>) {
    let mut builder = PackBuilder::new(BufferPool::new(1).take());
    let chunks: Vec<Vec<u8>> = (0..6u8)
        .map(|n| {
            let mut state = u32::from(seed) << 8 | u32::from(n);
            (0..20_000 + 3_000 * usize::from(n))
                .map(|i| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    if n % 2 == 0 { (state >> 24) as u8 } else { (i / 100) as u8 }
                })
                .collect()
        })
        .collect();
    for chunk in &chunks {
        builder.add(ChunkId::of(chunk), chunk);
    }
    (builder.seal(PackId([1; 16]), DomainId(1), code), chunks)
}

/// Answers fetches from `pack`, of which `broken` shards fail and `slow` ones never answer.
fn drive(
    session: &mut ReadSession<'_>,
    pack: &SealedPack,
    broken: u32,
    slow: u32,
) -> Option<Result<Vec<u8>, ReadError>> {
    let mut hedged = false;
    loop {
        while let Some(fetch) = session.poll_fetch() {
            if slow >> fetch.shard & 1 == 1 {
                continue;
            }
            let bytes =
                pack.shards[fetch.shard].slice(fetch.offset as usize..(fetch.offset + fetch.len) as usize);
            session.handle_fetched(fetch, (broken >> fetch.shard & 1 == 0).then_some(bytes));
        }
        if let Some(result) = session.poll_result() {
            return Some(result.map(|pieces| pieces.concat()));
        }
        if std::mem::replace(&mut hedged, true) {
            return None;
        }
        session.handle_late();
    }
}

proptest! {
    #[test]
    fn any_two_shards_may_be_broken_or_slow(
        seed: u8, broken in 0u32..64, slow in 0u32..64, avoid in 0u32..64, from in 0.0..1.0f64, len in 1u32..60_000,
    ) {
        let code = code();
        let (pack, _) = sealed(&code, seed);
        let data = pack.shards[..4].concat();
        let offset = (from * (data.len() - 1) as f64) as u32;
        let len = len.min(data.len() as u32 - offset);
        let mut session = ReadSession::new(&code, pack.shard_len, offset, len, avoid);
        let result = drive(&mut session, &pack, broken, slow & !broken);
        let lost = (broken | slow | avoid).count_ones();
        let wanted = &data[offset as usize..(offset + len) as usize];
        match result {
            Some(Ok(bytes)) => prop_assert_eq!(bytes, wanted),
            Some(Err(_)) | None => prop_assert!(lost > 2, "{} shards are lost", lost),
        }
        prop_assert_eq!(session.failed() & !broken, 0);
    }
}

#[test]
fn a_healthy_read_touches_only_the_shards_it_needs() {
    let code = code();
    let (pack, _) = sealed(&code, 1);
    let mut session = ReadSession::new(&code, pack.shard_len, pack.shard_len + 10, 100, 0);
    assert_eq!(session.poll_fetch(), Some(Fetch { shard: 1, offset: 10, len: 100 }));
    assert_eq!(session.poll_fetch(), None);
}

#[test]
fn chunks_open_to_what_was_added_and_never_to_anything_else() {
    let code = code();
    let (pack, chunks) = sealed(&code, 2);
    let data = pack.shards[..4].concat();
    let compressed = pack.entries.iter().filter(|entry| entry.stored < entry.plain).count();
    assert_eq!(compressed, 3);
    for (entry, plain) in pack.entries.iter().zip(&chunks) {
        let stored =
            Bytes::copy_from_slice(&data[entry.offset as usize..(entry.offset + entry.stored) as usize]);
        let opened = open_chunk(entry.chunk, entry.codec, stored.clone(), entry.plain as usize);
        assert_eq!(opened.expect("the chunk"), plain);
        let mut wrong = stored.to_vec();
        wrong[10] ^= 1;
        assert!(open_chunk(entry.chunk, entry.codec, wrong.into(), entry.plain as usize).is_err());
    }
}

#[test]
fn a_liar_is_found_by_leaving_it_out() {
    let code = code();
    let (mut pack, chunks) = sealed(&code, 3);
    let mut lie = pack.shards[0].to_vec();
    lie[100] ^= 0xff;
    pack.shards[0] = lie.into();
    let entry = pack.entries[0];
    let read = |avoid| {
        let mut session = ReadSession::new(&code, pack.shard_len, entry.offset, entry.stored, avoid);
        let bytes = drive(&mut session, &pack, 0, 0).expect("an answer").expect("enough shards");
        (open_chunk(entry.chunk, entry.codec, bytes.into(), entry.plain as usize), session.used())
    };
    let (first, used) = read(0);
    assert!(first.is_err());
    let honest = suspects(used, 2).into_iter().find_map(|avoid| read(avoid).0.ok());
    assert_eq!(honest.expect("the chunk"), chunks[0]);
}

#[test]
fn suspects_are_the_smallest_sets_first() {
    assert_eq!(suspects(0b1011, 2), [0b1, 0b10, 0b1000, 0b11, 0b1001, 0b1010]);
}
