//! A device in service: its directory, its shard store, and the thread that writes.
//!
//! Writes from all gateways meet in one queue, and what waits there shares a sync. Reads go straight to the store. A
//! failed sync ends the process; a device that cannot be opened is left out, and the others serve.

mod access;
mod foreground;
mod metrics;
mod notes;
mod remote;
mod service;
mod superblock;

pub use access::DeviceAccess;
pub use remote::RemoteDevice;
pub use service::{DeviceSet, Revoked, ShardService};

pub use foreground::Foreground;
pub use metrics::{DeviceMetrics, DeviceSeries};
pub use notes::ScrubProgress;
pub use superblock::{Superblock, SuperblockError};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use holdfast_core::ids::{DeviceId, Incarnation};
use holdfast_core::kv::KvError;
use holdfast_kv::{Database, Family, Tuning, durable::DirLock, fail_stop};
use holdfast_storage_node_store::{
    FsDisk, Inventory, PutShard, Recovered, ShardError, ShardId, ShardStore, Space, StoreConfig, Usage,
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};
use thiserror::Error;
use tokio::sync::oneshot;

/// Shards that wait for the writing thread; more are refused. Each keeps its pack's buffer in memory, so that a disk that
/// hangs must not gather many.
const QUEUE: usize = 64;

/// Shards, and bytes of them, that share a sync at most: a bound on how long the first one waits.
const BATCH_SHARDS: usize = 64;
const BATCH_BYTES: usize = 32 << 20;

const INDEX: &str = "index";

/// Memory and files of a device's index. Records are small, and lookups few beside the shards' own I/O.
const INDEX_TUNING: Tuning =
    Tuning { block_cache_bytes: 8 << 20, memtable_bytes: 2 << 20, open_files: 64, background_jobs: 1 };

/// A device that cannot serve.
#[derive(Debug, Error)]
pub enum DeviceError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{0} is in use")]
    InUse(PathBuf),
    #[error(transparent)]
    Superblock(#[from] SuperblockError),
    #[error("the device's index is damaged: {0}")]
    Index(#[from] KvError),
    #[error("the device's shards cannot be opened: {0}")]
    Store(#[from] ShardError),
    #[error(
        "{path} is empty, and device {slot} should be there. Mount its disk; or, if the disk was replaced, say so with \
             \"holdfast device replace {slot}\""
    )]
    Empty { path: PathBuf, slot: DeviceId },
    #[error(
        "{path} holds an earlier disk of device {slot}: it is left out. To use it in that place, say so with \
             \"holdfast device replace {slot}\""
    )]
    Another { path: PathBuf, slot: DeviceId },
}

type FsStore = ShardStore<FsDisk, Family>;

struct Put {
    shard: PutShard,
    answer: oneshot::Sender<Result<(), ShardError>>,
}

/// A device in service. Cheap to clone; the thread ends when the last clone is dropped.
#[derive(Clone)]
pub struct Device {
    dir: PathBuf,
    slot: DeviceId,
    incarnation: Incarnation,
    store: Arc<FsStore>,
    metrics: DeviceMetrics,
    writer: Arc<Writer>,
    /// The index failed: nothing is asked of it until it has been read again.
    failed: Arc<AtomicBool>,
    /// Held while the root is replaced.
    rooting: Arc<Mutex<()>>,
    scrub: Arc<Mutex<ScrubProgress>>,
    _lock: Arc<DirLock>,
}

/// The writing thread, joined when nobody can send to it any more.
struct Writer {
    queue: Option<Sender<Put>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a device's thread panicked");
        }
    }
}

impl Device {
    /// Opens the device in `dir` for `slot` of `cluster`, formatting an empty directory with the incarnation `fresh`.
    ///
    /// # Errors
    /// Where it belongs elsewhere, is damaged, or its disk fails.
    pub fn open(
        dir: &Path,
        cluster: &str,
        slot: DeviceId,
        fresh: Incarnation,
        metrics: DeviceMetrics,
    ) -> Result<(Self, Recovered), DeviceError> {
        let io = |source| DeviceError::Io { path: dir.to_owned(), source };
        holdfast_kv::durable::create_dir(dir).map_err(io)?;
        // A device that was taken out of service may still be in use by what began before.
        let lock = DirLock::acquire(dir).map_err(io)?.ok_or_else(|| DeviceError::InUse(dir.to_owned()))?;
        let superblock = Superblock::open_or_format(dir, cluster, slot, fresh)?;
        let incarnation = superblock.incarnation;
        let (store, recovered) = open_store(dir, incarnation)?;
        let store = Arc::new(store);
        let (sender, receiver) = bounded(QUEUE);
        let failed = Arc::new(AtomicBool::new(false));
        let (writing, written, failing) = (store.clone(), metrics.clone(), failed.clone());
        let thread = thread::Builder::new()
            .name(format!("device-{slot}"))
            .spawn(move || write_batches(&writing, &receiver, &written, &failing))
            .map_err(io)?;
        let writer = Arc::new(Writer { queue: Some(sender), thread: Some(thread) });
        Ok((
            Self {
                dir: dir.to_owned(),
                slot,
                incarnation,
                store,
                metrics,
                writer,
                failed,
                rooting: Arc::default(),
                scrub: Arc::default(),
                _lock: Arc::new(lock),
            },
            recovered,
        ))
    }

    pub fn slot(&self) -> DeviceId {
        self.slot
    }

    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Stores a shard; durable when this returns.
    ///
    /// # Errors
    /// As [`ShardStore::put`]'s inner ones.
    pub async fn put(&self, shard: PutShard) -> Result<(), ShardError> {
        let stopped = || ShardError::Disk(io::Error::other("the device has stopped"));
        let (answer, outcome) = oneshot::channel();
        let queue = self.writer.queue.as_ref().ok_or_else(stopped)?;
        queue.try_send(Put { shard, answer }).map_err(|_| stopped())?;
        outcome.await.map_err(|_| stopped())?
    }

    /// Whether the directory still is the device that was opened: it may have been emptied, or another disk mounted.
    pub fn is_in_place(&self) -> bool {
        match Superblock::read(&self.dir) {
            Ok(found) => found.is_some_and(|found| found.incarnation == self.incarnation),
            // Damaged or unreadable: the shards may be whole, and say themselves where they are not.
            Err(_) => true,
        }
    }

    /// Whether the device must be opened again before it can be used.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Reads and verifies a range of a shard. Blocks on the disk.
    ///
    /// # Errors
    /// As [`ShardStore::read`].
    pub fn read(&self, id: ShardId, offset: u32, len: u32) -> Result<Bytes, ShardError> {
        let result = self.store.read(id, offset, len);
        match &result {
            Ok(bytes) => self.metrics.read_bytes.inc_by(bytes.len() as u64),
            Err(ShardError::Index(error)) => {
                self.metrics.read_errors.inc();
                tracing::error!(device = %self.slot, %error, "the device's index cannot be read: it is taken out of service");
                self.failed.store(true, Ordering::Release);
            }
            Err(_) => self.metrics.read_errors.inc(),
        }
        result
    }

    /// As [`ShardStore::delete`].
    ///
    /// # Errors
    /// Where the index fails.
    pub fn delete(&self, ids: &[ShardId]) -> Result<(), ShardError> {
        self.store.delete(ids)
    }

    /// As [`ShardStore::inventory`].
    ///
    /// # Errors
    /// Where the index fails.
    pub fn inventory(&self, after: Option<ShardId>, limit: usize) -> Result<Vec<Inventory>, ShardError> {
        self.store.inventory(after, limit)
    }

    /// Keeps a root of the metadata's archive; durable when this returns.
    ///
    /// # Errors
    /// [`ShardError::Another`] where a newer one is there, and where it cannot be written.
    pub fn write_root(&self, version: notes::Version, bytes: &[u8]) -> Result<(), ShardError> {
        let _alone = self.rooting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.root().is_some_and(|(known, _)| known > version) {
            return Err(ShardError::Another);
        }
        Ok(notes::write(&self.dir, notes::ROOT, version, bytes)?)
    }

    /// The root of the metadata's archive, if there is one that is whole.
    pub fn root(&self) -> Option<(notes::Version, Bytes)> {
        notes::read(&self.dir, notes::ROOT)
    }

    /// Keeps where the scrub is, for after a restart.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn keep_scrub(&self, progress: &[u8]) -> Result<(), ShardError> {
        Ok(notes::write(&self.dir, notes::SCRUB, (0, 0), progress)?)
    }

    /// What was last [kept](Self::keep_scrub).
    pub fn kept_scrub(&self) -> Option<Bytes> {
        notes::read(&self.dir, notes::SCRUB).map(|(_, bytes)| bytes)
    }

    /// Lets others see where the scrub is.
    pub fn show_scrub(&self, progress: ScrubProgress) {
        *self.scrub.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    /// Where the scrub is.
    pub fn scrub(&self) -> ScrubProgress {
        self.scrub.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// As [`ShardStore::verify`].
    ///
    /// # Errors
    /// As [`ShardStore::read`].
    pub fn verify(&self, id: ShardId) -> Result<(), ShardError> {
        self.store.verify(id)
    }

    /// As [`ShardStore::maintain`]; also brings the device's figures up to date.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn maintain(&self) -> Result<(), ShardError> {
        self.store.maintain()?;
        let usage = self.store.usage();
        self.metrics.live_bytes.set(usage.live as i64);
        self.metrics.shards.set(usage.shards as i64);
        self.metrics.free_bytes.set(self.store.space()?.free as i64);
        Ok(())
    }

    /// Whether so much waits for the disk that more would be refused.
    pub fn is_backed_up(&self) -> bool {
        self.writer.queue.as_ref().is_none_or(|queue| queue.len() >= QUEUE / 2)
    }

    /// Whether new data would be refused for want of room.
    pub fn nearly_full(&self) -> bool {
        self.store.nearly_full().unwrap_or(true)
    }

    pub fn usage(&self) -> Usage {
        self.store.usage()
    }

    /// The file system's room.
    ///
    /// # Errors
    /// Where the disk does not tell.
    pub fn space(&self) -> io::Result<Space> {
        self.store.space()
    }
}

/// Opens index and segments; an index that is damaged is made anew from the segments.
fn open_store(dir: &Path, incarnation: Incarnation) -> Result<(FsStore, Recovered), DeviceError> {
    let io = |source| DeviceError::Io { path: dir.to_owned(), source };
    let disk = || FsDisk::open(&dir.join("segments")).map_err(io);
    let config = StoreConfig::for_capacity(disk()?.capacity().map_err(io)?);
    let index_dir = dir.join("index");
    let open = |path: &Path| -> Result<Family, KvError> {
        let database = Database::open(path, &INDEX_TUNING, &[INDEX])?;
        database.verify()?;
        Ok(database.family(INDEX))
    };
    let opened =
        open(&index_dir).and_then(|index| Ok((ShardStore::<FsDisk, Family>::is_built(&index)?, index)));
    let damage = match opened {
        Ok((false, index)) => return Ok(ShardStore::rebuild(disk()?, index, incarnation, config)?),
        Ok((true, index)) => match ShardStore::open(disk()?, index, incarnation, config) {
            Err(ShardError::Index(error @ (KvError::Damaged(_) | KvError::Decode(_)))) => error,
            other => return Ok(other?),
        },
        Err(error @ KvError::Damaged(_)) => error,
        Err(error) => return Err(error.into()),
    };
    tracing::error!(dir = %dir.display(), error = %damage, "the device's index is damaged: making it anew from the segments");
    // Kept for whoever wants to know what happened: it also holds the small shards, which are rebuilt from others.
    let mut aside =
        (1..).map(|number| dir.join(format!("index.damaged-{number}"))).find(|path| !path.exists());
    let aside = aside.take().ok_or_else(|| io(io::Error::other("no name is free for the damaged index")))?;
    std::fs::rename(&index_dir, &aside).and_then(|()| holdfast_kv::durable::sync_dir(dir)).map_err(io)?;
    Ok(ShardStore::rebuild(disk()?, open(&index_dir)?, incarnation, config)?)
}

/// Writes what waits, a batch a sync, until all senders are gone.
fn write_batches(store: &FsStore, queue: &Receiver<Put>, metrics: &DeviceMetrics, failed: &AtomicBool) {
    while let Ok(first) = queue.recv() {
        let mut bytes = first.shard.payload.len();
        let mut shards = vec![first.shard];
        let mut answers = vec![first.answer];
        while shards.len() < BATCH_SHARDS && bytes < BATCH_BYTES {
            let Ok(next) = queue.try_recv() else { break };
            bytes += next.shard.payload.len();
            shards.push(next.shard);
            answers.push(next.answer);
        }
        let start = Instant::now();
        match store.put(&shards) {
            Ok(results) => {
                metrics.put_seconds.observe(start.elapsed().as_secs_f64());
                metrics.put_bytes.inc_by(bytes as u64);
                metrics.put_batches.inc();
                for (answer, result) in answers.into_iter().zip(results) {
                    if result.is_err() {
                        metrics.put_errors.inc();
                    }
                    // Nobody may be waiting any more: the pack was acknowledged without this shard.
                    let _unheard = answer.send(result);
                }
            }
            // Nothing was acknowledged, and the index is not written to again before it has been opened anew.
            Err(ShardError::Index(error)) => {
                tracing::error!(%error, "a device's index cannot be written: the device is taken out of service");
                failed.store(true, Ordering::Release);
                return;
            }
            Err(error) => fail_stop("a device could not make shards durable", &error),
        }
    }
}
