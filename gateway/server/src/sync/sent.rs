//! What devices have sent lately, or may read: they may lean on it in commits.

use super::Signed;
use crate::{
    engine::{EngineError, Shared},
    upload::LeaseKeeper,
};
use holdfast_core::ids::{ChunkId, DomainId};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Chunks that are remembered of one device, which bounds the files that it can commit; and of all of them.
const REMEMBERED_MAX: usize = 1 << 20;
const REMEMBERED_BY_ALL: usize = 2 << 20;

/// After so long what was sent and not committed is given up: what it keeps from being collected is all that nobody refers
/// to any more.
const AGE_MAX: Duration = Duration::from_secs(12 * 3600);

/// Devices that have sent something lately.
#[derive(Default)]
pub(super) struct Sent {
    devices: Mutex<HashMap<String, Arc<SentBy>>>,
    /// Chunks that are remembered of all.
    total: Arc<AtomicUsize>,
}

/// What one device has sent, or may read.
pub(super) struct SentBy {
    known: Mutex<Known>,
    /// Keeps what it sent from being collected before it is committed.
    lease: tokio::sync::Mutex<Option<(LeaseKeeper, Instant)>>,
    total: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Known {
    chunks: HashMap<(DomainId, ChunkId), Chunk>,
    /// How many of them are uncommitted: a commit must not have to look at all.
    uncommitted: usize,
    /// And how many bytes those are.
    uncommitted_bytes: u64,
    touched: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Chunk {
    bytes: u32,
    /// It came from this device, and no commit has leant on it yet.
    uncommitted: bool,
}

impl Sent {
    pub fn by(&self, device: &Signed) -> Arc<SentBy> {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match devices.get(&device.device) {
            Some(known) => {
                known.known().touched = Some(Instant::now());
                known.clone()
            }
            None => {
                let known = Known { touched: Some(Instant::now()), ..Known::default() };
                let (lease, total) = (tokio::sync::Mutex::default(), self.total.clone());
                let fresh = Arc::new(SentBy { known: Mutex::new(known), lease, total });
                devices.insert(device.device.clone(), fresh.clone());
                fresh
            }
        };
        if self.total.load(Ordering::Relaxed) + devices.len() > REMEMBERED_BY_ALL {
            make_room(&mut devices, &known);
        }
        known
    }
}

/// Forgets devices that were heard of least lately, but for one; whoever is at work goes on with what it has.
fn make_room(devices: &mut HashMap<String, Arc<SentBy>>, but: &Arc<SentBy>) {
    let size = |(name, by): (&String, &Arc<SentBy>)| {
        let known = by.known();
        (known.touched, known.chunks.len() + 1, name.clone())
    };
    let mut sizes: Vec<(Option<Instant>, usize, String)> =
        devices.iter().filter(|(_, by)| !Arc::ptr_eq(by, but)).map(size).collect();
    sizes.sort();
    let mut all = but.known().chunks.len() + sizes.iter().map(|(_, size, _)| size).sum::<usize>();
    for (_, size, name) in sizes {
        if all <= REMEMBERED_BY_ALL / 2 {
            break;
        }
        all -= size;
        devices.remove(&name);
    }
}

impl Drop for SentBy {
    fn drop(&mut self) {
        let chunks = self.known().chunks.len();
        self.total.fetch_sub(chunks, Ordering::Relaxed);
    }
}

impl SentBy {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, domain: DomainId, chunks: impl IntoIterator<Item = (ChunkId, u32)>, uncommitted: bool) {
        let mut known = self.known();
        let before = known.chunks.len();
        for (id, bytes) in chunks {
            if known.chunks.len() >= REMEMBERED_MAX {
                // What was named lately is asked for once more.
                known.chunks.retain(|_, chunk| chunk.uncommitted);
                if known.chunks.len() >= REMEMBERED_MAX {
                    break;
                }
            }
            let chunk = known.chunks.entry((domain, id)).or_insert(Chunk { bytes, uncommitted: false });
            if uncommitted && !chunk.uncommitted {
                chunk.uncommitted = true;
                known.uncommitted += 1;
                known.uncommitted_bytes += u64::from(bytes);
            }
        }
        self.count(before, known.chunks.len());
    }

    /// Takes note of how many chunks are remembered that were `before`.
    fn count(&self, before: usize, now: usize) {
        self.total.fetch_add(now.saturating_sub(before), Ordering::Relaxed);
        self.total.fetch_sub(before.saturating_sub(now), Ordering::Relaxed);
    }

    /// Bytes that it has sent and nothing leans on yet.
    pub fn uncommitted_bytes(&self) -> u64 {
        self.known().uncommitted_bytes
    }

    /// It may read these.
    pub fn may_read(&self, domain: DomainId, chunks: impl IntoIterator<Item = (ChunkId, u32)>) {
        self.add(domain, chunks, false);
    }

    /// It has sent these, which are durable.
    pub fn has_sent(&self, domain: DomainId, chunks: impl IntoIterator<Item = (ChunkId, u32)>) {
        self.add(domain, chunks, true);
    }

    /// The length of a chunk that it may lean on.
    pub fn length(&self, domain: DomainId, id: ChunkId) -> Option<u32> {
        self.known().chunks.get(&(domain, id)).map(|chunk| chunk.bytes)
    }

    /// Whether it has sent a chunk that nothing leans on yet.
    pub fn is_uncommitted(&self, domain: DomainId, id: ChunkId) -> bool {
        self.known().chunks.get(&(domain, id)).is_some_and(|chunk| chunk.uncommitted)
    }

    /// Some of it is gone, nobody knows what: all is to be sent again that no version has.
    pub fn forget(&self) {
        let mut known = self.known();
        self.count(known.chunks.len(), 0);
        known.chunks.clear();
        (known.uncommitted, known.uncommitted_bytes) = (0, 0);
    }

    /// A commit leans on these now. What ends with that is the lease, where nothing else needs it.
    pub async fn committed(
        &self,
        shared: &Arc<Shared>,
        domain: DomainId,
        chunks: Vec<ChunkId>,
    ) -> Result<(), EngineError> {
        let open = {
            let mut known = self.known();
            for id in chunks {
                let chunk = known.chunks.get_mut(&(domain, id));
                let ends = chunk.filter(|chunk| chunk.uncommitted).map(|chunk| {
                    chunk.uncommitted = false;
                    u64::from(chunk.bytes)
                });
                known.uncommitted -= usize::from(ends.is_some());
                known.uncommitted_bytes -= ends.unwrap_or_default();
            }
            known.uncommitted > 0
        };
        if !open {
            self.end_lease(shared).await?;
        }
        Ok(())
    }

    async fn end_lease(&self, shared: &Arc<Shared>) -> Result<(), EngineError> {
        let ended = self.lease.lock().await.take();
        if let Some(lease) = ended.and_then(|(keeper, _)| keeper.finish()) {
            shared.meta.request(lease.release()).await?;
        }
        Ok(())
    }

    /// To be called as a device goes on: what it has sent is kept from being collected.
    pub async fn keep(&self, shared: &Arc<Shared>) -> Result<(), EngineError> {
        let old = self.lease.lock().await.as_ref().is_some_and(|(_, since)| since.elapsed() > AGE_MAX);
        if old {
            self.forget();
            self.end_lease(shared).await?;
        }
        let mut lease = self.lease.lock().await;
        match lease.as_mut() {
            Some((lease, _)) => lease.keep(shared).await,
            None => {
                *lease = Some((LeaseKeeper::start(shared).await?, Instant::now()));
                Ok(())
            }
        }
    }
}
