//! A chunk's stored form: raw, or zstd where it pays.

use bytes::Bytes;
use holdfast_core::{ids::ChunkId, pack::Codec};
use thiserror::Error;

/// The fastest level whose ratio is worth having on text.
const LEVEL: i32 = 1;

/// How much of a chunk is tried first: what does not shrink here will not elsewhere, mostly.
const SAMPLE_BYTES: usize = 16 << 10;

/// Compression must save at least one byte in this many.
const WORTH_ONE_IN: usize = 16;

/// Compresses chunks; keeps its working memory.
#[derive(Default)]
pub(crate) struct Encoder {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    scratch: Vec<u8>,
}

impl Encoder {
    /// Writes the stored form of `plain` to the front of `room`, which is as long; what it is, and its length.
    pub fn encode(&mut self, plain: &[u8], room: &mut [u8]) -> (Codec, usize) {
        let worth = |plain: usize| plain - plain.div_ceil(WORTH_ONE_IN);
        let sample = &plain[..plain.len().min(SAMPLE_BYTES)];
        let promising = sample.len() == plain.len() || self.compress(sample, worth(sample.len())).is_some();
        match promising.then(|| self.compress(plain, worth(plain.len()))).flatten() {
            Some(len) => {
                room[..len].copy_from_slice(&self.scratch[..len]);
                (Codec::Zstd, len)
            }
            None => {
                room.copy_from_slice(plain);
                (Codec::Raw, plain.len())
            }
        }
    }

    /// Compresses into the scratch buffer; `None` where more than `limit` bytes would be needed.
    fn compress(&mut self, plain: &[u8], limit: usize) -> Option<usize> {
        if self.zstd.is_none() {
            self.zstd = zstd::bulk::Compressor::new(LEVEL).ok();
        }
        self.scratch.resize(limit.max(self.scratch.len()), 0);
        // zstd fails where the room is too small: that is the answer here.
        self.zstd.as_mut()?.compress_to_buffer(plain, &mut self.scratch[..limit]).ok()
    }
}

/// Stored bytes that are not the chunk.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("the stored bytes are not those of chunk {0}")]
pub struct ChunkError(pub ChunkId);

/// Decodes a chunk's stored bytes and verifies that they are the chunk.
///
/// # Errors
/// Where they are not.
pub fn open_chunk(id: ChunkId, codec: Codec, stored: Bytes, plain_len: usize) -> Result<Bytes, ChunkError> {
    let plain = match codec {
        Codec::Raw => stored,
        Codec::Zstd => {
            let plain = zstd::bulk::decompress(&stored, plain_len).map_err(|_| ChunkError(id))?;
            Bytes::from(plain)
        }
    };
    if plain.len() == plain_len && ChunkId::of(&plain) == id { Ok(plain) } else { Err(ChunkError(id)) }
}
