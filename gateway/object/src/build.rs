//! Filling a pack with chunks and coding it into shards.

use crate::chunk::Encoder;
use bytes::Bytes;
use holdfast_core::{
    buffer::Buffer,
    ids::{ChunkId, DomainId, PackId},
    limits::{PACK_BYTES, PACK_CHUNKS_MAX},
    pack::{self, Entry},
};
use holdfast_erasure::ErasureCode;

/// A pack that is being filled.
pub struct PackBuilder {
    buffer: Buffer,
    entries: Vec<Entry>,
    end: usize,
    plain: usize,
    encoder: Encoder,
}

/// A coded pack: its shards share one buffer.
#[derive(Debug, Clone)]
pub struct SealedPack {
    pub id: PackId,
    pub domain: DomainId,
    pub entries: Vec<Entry>,
    pub shard_len: u32,
    /// `k + m` shards of `shard_len` bytes.
    pub shards: Vec<Bytes>,
}

impl PackBuilder {
    pub fn new(buffer: Buffer) -> Self {
        Self { buffer, entries: Vec::new(), end: 0, plain: 0, encoder: Encoder::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes stored so far.
    pub fn stored(&self) -> usize {
        self.end
    }

    /// Plain bytes of the chunks so far.
    pub fn plain(&self) -> usize {
        self.plain
    }

    /// Whether a chunk of `plain` bytes still fits.
    pub fn fits(&self, plain: usize) -> bool {
        self.end + plain <= PACK_BYTES && self.entries.len() < PACK_CHUNKS_MAX
    }

    /// Adds a chunk, compressed where that pays.
    ///
    /// # Panics
    /// Where it does not fit.
    pub fn add(&mut self, chunk: ChunkId, plain: &[u8]) {
        assert!(self.fits(plain.len()), "the caller asked whether the chunk fits");
        self.buffer.grow(self.end + plain.len());
        let room = &mut self.buffer.as_mut_slice()[self.end..self.end + plain.len()];
        let (codec, stored) = self.encoder.encode(plain, room);
        self.push(Entry { chunk, offset: 0, stored: stored as u32, plain: plain.len() as u32, codec });
    }

    /// Adds a chunk as it was stored in another pack.
    ///
    /// # Panics
    /// Where it does not fit.
    pub fn add_stored(&mut self, entry: &Entry, stored: &[u8]) {
        assert!(self.fits(stored.len()), "the caller asked whether the chunk fits");
        self.buffer.grow(self.end + stored.len());
        self.buffer.as_mut_slice()[self.end..self.end + stored.len()].copy_from_slice(stored);
        self.push(*entry);
    }

    fn push(&mut self, entry: Entry) {
        let offset = self.end as u32;
        self.end += entry.stored as usize;
        self.plain += entry.plain as usize;
        self.entries.push(Entry { offset, ..entry });
    }

    /// Closes the pack and codes it.
    pub fn seal(mut self, id: PackId, domain: DomainId, code: &ErasureCode) -> SealedPack {
        let (k, total) = (code.profile().data(), code.profile().total());
        let shard_len = pack::shard_len(self.end, self.entries.len(), k);
        self.buffer.grow(shard_len * total);
        let bytes = &mut self.buffer.as_mut_slice()[..shard_len * total];
        let (data, parity) = bytes.split_at_mut(shard_len * k);
        pack::seal(data, id, domain, &self.entries);
        let data: Vec<&[u8]> = data.chunks_exact(shard_len).collect();
        let mut parity: Vec<&mut [u8]> = parity.chunks_exact_mut(shard_len).collect();
        code.encode(&data, &mut parity).expect("the shards are the profile's, of one length");
        let whole = Bytes::from_owner(self.buffer);
        let shards = (0..total).map(|i| whole.slice(i * shard_len..(i + 1) * shard_len)).collect();
        SealedPack { id, domain, entries: self.entries, shard_len: shard_len as u32, shards }
    }
}
