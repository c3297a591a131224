//! The durable watermark: the last raft entry known to be on the disk, kept apart from the log.
//!
//! RocksDB replays its write-ahead log up to the first record that it cannot read. After a power cut that is right; after
//! damage in the middle it would silently forget acknowledged entries. The watermark tells the two apart. It follows the
//! log by some milliseconds and so costs no write its latency: only damage to the last of those before a crash is hidden.
//!
//! The file has two slots of 16 bytes, written in turn: index, then the CRC-32C of it. A torn slot leaves the other.

use holdfast_kv::{durable, fail_stop};
use holdfast_meta_raft_pump::Watermark;
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

const SLOT: usize = 16;

/// The least time between two writes of the file: bounds its flushes, and what it may lag.
const PACE: Duration = Duration::from_millis(20);

fn checksum(index: [u8; 8]) -> [u8; 8] {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &index).to_le_bytes()
}

fn slot(index: u64) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[..8].copy_from_slice(&index.to_le_bytes());
    slot[8..].copy_from_slice(&checksum(index.to_le_bytes()));
    slot
}

fn parse(slot: &[u8]) -> Option<u64> {
    let (index, sum) = slot.split_first_chunk::<8>()?;
    (sum == checksum(*index)).then(|| u64::from_le_bytes(*index))
}

/// Reads the watermark; none yet where there is no file.
///
/// # Errors
/// Where the file cannot be read, or neither slot is whole.
pub fn read(path: &Path) -> io::Result<Watermark> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Watermark::default()),
        other => other?,
    };
    let newest = bytes.chunks_exact(SLOT).filter_map(parse).max();
    newest
        .map(Watermark)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the watermark is damaged"))
}

/// Writes the file behind the log, on a thread of its own.
pub struct Keeper {
    durable: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts at `current`.
    ///
    /// # Errors
    /// Where the file cannot be made.
    pub fn start(path: &Path, current: Watermark) -> io::Result<Self> {
        if !path.exists() {
            durable::replace(path, &[slot(current.0), slot(current.0)].concat(), 0o600)?;
        }
        let file = OpenOptions::new().write(true).open(path)?;
        let durable = Arc::new(AtomicU64::new(current.0));
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, stopping) = (durable.clone(), stop.clone());
        let thread = thread::Builder::new()
            .name("watermark".to_owned())
            .spawn(move || keep(&file, current.0, &seen, &stopping))?;
        Ok(Self { durable, stop, thread: Some(thread) })
    }

    /// Entries up to `index` are on the disk.
    pub fn raise(&self, index: u64) {
        if self.durable.swap(index, Ordering::Release) != index
            && let Some(thread) = &self.thread
        {
            thread.thread().unpark();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the watermark's thread panicked");
            }
        }
    }
}

fn keep(file: &File, mut written: u64, durable: &AtomicU64, stop: &AtomicBool) {
    let mut turn = 0u64;
    loop {
        let stopping = stop.load(Ordering::Acquire);
        let index = durable.load(Ordering::Acquire);
        if index != written {
            let at = (turn % 2) * SLOT as u64;
            if let Err(error) = file.write_all_at(&slot(index), at).and_then(|()| file.sync_data()) {
                fail_stop("writing the watermark of the metadata log", &error);
            }
            turn += 1;
            written = index;
            if !stopping {
                thread::park_timeout(PACE);
            }
        } else if stopping {
            return;
        } else {
            thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_survives_a_torn_slot() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("watermark");
        assert_eq!(read(&path).expect("no file"), Watermark(0));
        let keeper = Keeper::start(&path, Watermark(0)).expect("a keeper");
        keeper.raise(41);
        drop(keeper);
        assert_eq!(read(&path).expect("a file"), Watermark(41));
        let mut bytes = std::fs::read(&path).expect("a file");
        bytes[SLOT + 3] ^= 1;
        std::fs::write(&path, &bytes).expect("a write");
        assert_eq!(read(&path).expect("one slot is whole"), Watermark(41));
        bytes[3] ^= 1;
        std::fs::write(&path, &bytes).expect("a write");
        assert!(read(&path).is_err());
    }
}
