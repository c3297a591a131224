//! What has come of files so far, in `.holdfast/tmp/partial-NODE-…`: chunks as they came, each as its id (32 bytes), its length
//! (4 bytes, little-endian) and its bytes. Nothing of it is synced, and nothing of it is believed: who goes on from it holds
//! each chunk against its id, and leaves what is behind the first that is not what it says.

use crate::{
    chunks,
    disk::{Disk, PARTIAL},
    system::{File, read_exact_at},
};
use holdfast_core::{chunker::ChunkerProfile, ids::ChunkId};
use std::io;

/// Bytes before each chunk.
pub const HEAD: u64 = 36;

/// A file's chunks on their way to the disk.
pub struct Partial<'a> {
    file: Box<dyn File>,
    /// What is still to come, and how much of the first is.
    chunks: &'a [(ChunkId, u32)],
    left: usize,
}

impl<'a> Partial<'a> {
    /// For chunks of the file of a node that will come in this order.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn create(disk: &Disk, node: u64, chunks: &'a [(ChunkId, u32)]) -> io::Result<Self> {
        Ok(Self { file: disk.create_temporary(&prefix(node))?, chunks, left: 0 })
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// Where they cannot be written, or are more than all chunks.
    pub fn append(&mut self, mut data: &[u8]) -> io::Result<()> {
        let mut out = Vec::with_capacity(data.len() + 8 * HEAD as usize);
        while !data.is_empty() {
            if self.left == 0 {
                let ((id, bytes), rest) = self.chunks.split_first().ok_or(io::ErrorKind::InvalidData)?;
                out.extend_from_slice(id.as_bytes());
                out.extend_from_slice(&bytes.to_le_bytes());
                (self.chunks, self.left) = (rest, *bytes as usize);
            }
            let (now, later) = data.split_at(self.left.min(data.len()));
            out.extend_from_slice(now);
            self.left -= now.len();
            data = later;
        }
        self.file.append(&out)
    }

    pub fn into_file(self) -> Box<dyn File> {
        self.file
    }
}

/// A file, and the chunks that are in it, whole, from its beginning.
pub type Left = (Box<dyn File>, Vec<(ChunkId, u32)>);

/// What was left of the file of a node.
pub fn left(disk: &Disk, node: u64) -> Vec<Left> {
    let files = disk.temporaries(&prefix(node)).unwrap_or_default();
    let whole = |file: Box<dyn File>| {
        let chunks = whole_chunks(&*file);
        (file, chunks)
    };
    files.into_iter().map(whole).collect()
}

fn whole_chunks(file: &dyn File) -> Vec<(ChunkId, u32)> {
    let (mut found, mut offset) = (Vec::new(), 0);
    let next = |offset: u64| {
        let mut head = [0; HEAD as usize];
        read_exact_at(file, &mut head, offset).ok()?;
        let (id, bytes) = head.split_at(32);
        let chunk = (ChunkId::from_slice(id)?, u32::from_le_bytes(bytes.try_into().ok()?));
        let is_sane = (1..=ChunkerProfile::V1.max() as u32).contains(&chunk.1);
        (is_sane && chunks::read(file, offset + HEAD, chunk).is_ok()).then_some(chunk)
    };
    while let Some(chunk) = next(offset) {
        found.push(chunk);
        offset += HEAD + u64::from(chunk.1);
    }
    found
}

/// Removes what was left of the file of a node.
pub fn remove_all(disk: &Disk, node: u64) {
    if let Err(error) = disk.remove_temporaries(&prefix(node)) {
        tracing::debug!(%error, "what was received of a file is left");
    }
}

fn prefix(node: u64) -> Vec<u8> {
    [PARTIAL, format!("{node}-").as_bytes()].concat()
}
