//! What a file holds, by its chunks: two files that are cut alike have one name for their bytes.

use crate::ids::ChunkId;

/// Separates these hashes from all others.
const CONTEXT: &str = "holdfast 2026-11 content of a file by its chunks";

/// The name of a file's bytes: BLAKE3 over the ids and lengths of its chunks, in order.
#[derive(Debug, Clone, Default)]
pub struct ContentHasher(Option<blake3::Hasher>);

impl ContentHasher {
    pub fn update(&mut self, chunk: ChunkId, bytes: u32) {
        let hasher = self.0.get_or_insert_with(|| blake3::Hasher::new_derive_key(CONTEXT));
        hasher.update(chunk.as_bytes()).update(&bytes.to_le_bytes());
    }

    /// All zeros for a file without bytes.
    pub fn finish(&self) -> [u8; 32] {
        self.0.as_ref().map_or([0; 32], |hasher| *hasher.finalize().as_bytes())
    }
}

/// The name of the bytes that these chunks are.
pub fn content_of(chunks: impl IntoIterator<Item = (ChunkId, u32)>) -> [u8; 32] {
    let mut hasher = ContentHasher::default();
    chunks.into_iter().for_each(|(chunk, bytes)| hasher.update(chunk, bytes));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kept: clients remember these names.
    #[test]
    fn names_of_content_never_change() {
        assert_eq!(content_of([]), [0; 32]);
        let one = content_of([(ChunkId::of(b"a"), 1)]);
        assert_eq!(hex::encode(one), "2eebf7439ed7efce67384251ded4c38a798bbba82d2b8a5f225114129d19847c");
        assert_ne!(content_of([(ChunkId::of(b"a"), 1), (ChunkId::of(b"b"), 1)]), one);
        assert_ne!(content_of([(ChunkId::of(b"a"), 2)]), one);
    }
}
