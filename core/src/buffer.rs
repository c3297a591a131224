//! Buffers for packs and shards: large, aligned for direct I/O, and used again, since fresh pages cost as much as a copy.

use crate::limits::SHARD_ALIGN;
use aligned_vec::{AVec, ConstAlign};
use std::sync::{Arc, Mutex, PoisonError};

type Aligned = AVec<u8, ConstAlign<SHARD_ALIGN>>;

/// Buffers that wait to be used again.
#[derive(Debug, Clone)]
pub struct BufferPool {
    idle: Arc<Mutex<Vec<Aligned>>>,
    /// More are freed.
    idle_max: usize,
}

/// A growing, aligned run of bytes that goes back to its pool when dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Aligned,
    pool: BufferPool,
}

impl BufferPool {
    pub fn new(idle_max: usize) -> Self {
        Self { idle: Arc::new(Mutex::new(Vec::new())), idle_max }
    }

    /// A buffer of unspecified content and length.
    pub fn take(&self) -> Buffer {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Buffer { bytes: idle.unwrap_or_else(|| AVec::new(SHARD_ALIGN)), pool: self.clone() }
    }

    /// Frees what waits, for times without load.
    pub fn trim(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Buffer {
    /// Makes the buffer at least `len` bytes long.
    pub fn grow(&mut self, len: usize) {
        if self.bytes.len() < len {
            self.bytes.resize(len, 0);
        }
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::replace(&mut self.bytes, AVec::new(SHARD_ALIGN));
        let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.pool.idle_max && bytes.capacity() > 0 {
            idle.push(bytes);
        }
    }
}
