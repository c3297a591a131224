//! Files as chunks.

use crate::system::{File, read_exact_at};
use bytes::Bytes;
use holdfast_client_sync::Content;
use holdfast_core::{chunker::ChunkerProfile, ids::ChunkId, manifest::ContentHasher};
use std::io::{self, Read};

/// Bytes that are read at once.
const BUFFER: usize = 4 << 20;

/// A file's chunks in order, and the name of all its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    pub chunks: Vec<(ChunkId, u32)>,
    pub content: Content,
    pub bytes: u64,
}

/// Cuts what a reader gives.
///
/// # Errors
/// Where it cannot be read.
pub fn cut(mut reader: impl Read, expected: u64) -> io::Result<Cut> {
    let profile = ChunkerProfile::V1;
    let mut buffer = Vec::with_capacity((expected as usize + 1).min(BUFFER));
    let (mut chunks, mut hasher, mut bytes, mut last) = (Vec::new(), ContentHasher::default(), 0, false);
    loop {
        let mut start = 0;
        while let Some(length) = profile.cut(&buffer[start..], last).filter(|length| *length > 0) {
            let id = ChunkId::of(&buffer[start..start + length]);
            hasher.update(id, length as u32);
            chunks.push((id, length as u32));
            start += length;
            bytes += length as u64;
        }
        buffer.drain(..start);
        if last {
            return Ok(Cut { chunks, content: Content(hasher.finish()), bytes });
        }
        let room = BUFFER - buffer.len();
        last = (&mut reader).take(room as u64).read_to_end(&mut buffer)? < room;
    }
}

/// A chunk of a file that was cut before.
///
/// # Errors
/// Where the file does not hold it any more.
pub fn read(file: &dyn File, offset: u64, (id, length): (ChunkId, u32)) -> io::Result<Bytes> {
    let mut bytes = vec![0; length as usize];
    read_exact_at(file, &mut bytes, offset)?;
    checked(id, bytes.into())
}

/// Bytes that are a chunk.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] where they are another.
pub fn checked(id: ChunkId, bytes: Bytes) -> io::Result<Bytes> {
    if ChunkId::of(&bytes) == id { Ok(bytes) } else { Err(io::ErrorKind::InvalidData.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::manifest::content_of;

    #[test]
    fn files_are_cut_as_the_server_cuts_them() {
        let text: Vec<u8> =
            (0..9_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let whole = cut(&text[..], text.len() as u64).expect("memory reads");
        assert_eq!(whole.bytes, text.len() as u64);
        let (mut at, mut again) = (0, Vec::new());
        while at < text.len() {
            let length = ChunkerProfile::V1.cut(&text[at..], true).expect("the end is there");
            again.push((ChunkId::of(&text[at..at + length]), length as u32));
            at += length;
        }
        assert_eq!(whole.chunks, again);
        assert_eq!(whole.content, Content(content_of(again)));
        assert_eq!(cut(&[][..], 0).expect("memory reads").content, Content([0; 32]));
        assert_eq!(cut(&b"small"[..], 5).expect("memory reads").chunks.len(), 1);
    }
}
