//! What devices have sent lately, or may read: they may lean on it in commits.

use super::Signed;
use crate::{
    engine::{EngineError, Shared},
    upload::LeaseKeeper,
};
use holdfast_core::ids::{ChunkId, DomainId};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
pub(super) struct Sent(Mutex<HashMap<String, Arc<SentBy>>>);

/// What one device has sent, or may read.
pub(super) struct SentBy {
    known: Mutex<Known>,
    /// Keeps what it sent from being collected before it is committed.
    lease: tokio::sync::Mutex<Option<(LeaseKeeper, Instant)>>,
}

#[derive(Default)]
struct Known {
    chunks: HashMap<(DomainId, ChunkId), Chunk>,
    /// How many of them are uncommitted: a commit must not have to look at all.
    uncommitted: usize,
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
        let mut devices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = devices.get(&device.device) {
            let known = known.clone();
            known.known().touched = Some(Instant::now());
            return known;
        }
        // The ones that were heard of least lately make room; whoever is at work goes on with what it has.
        let mut sizes: Vec<(Option<Instant>, usize, String)> = devices
            .iter()
            .map(|(name, by)| {
                let known = by.known();
                (known.touched, known.chunks.len() + 1, name.clone())
            })
            .collect();
        sizes.sort();
        let mut all: usize = sizes.iter().map(|(_, size, _)| size).sum();
        for (_, size, name) in sizes {
            if all <= REMEMBERED_BY_ALL {
                break;
            }
            all -= size;
            devices.remove(&name);
        }
        let known = Known { touched: Some(Instant::now()), ..Known::default() };
        let fresh = Arc::new(SentBy { known: Mutex::new(known), lease: tokio::sync::Mutex::default() });
        devices.insert(device.device.clone(), fresh.clone());
        fresh
    }
}

impl SentBy {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, domain: DomainId, chunks: impl IntoIterator<Item = (ChunkId, u32)>, uncommitted: bool) {
        let mut known = self.known();
        for (id, bytes) in chunks {
            if known.chunks.len() >= REMEMBERED_MAX {
                // What was named lately is asked for once more.
                known.chunks.retain(|_, chunk| chunk.uncommitted);
                if known.chunks.len() >= REMEMBERED_MAX {
                    return;
                }
            }
            let chunk = known.chunks.entry((domain, id)).or_insert(Chunk { bytes, uncommitted: false });
            let begins = uncommitted && !chunk.uncommitted;
            chunk.uncommitted |= uncommitted;
            known.uncommitted += usize::from(begins);
        }
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
        known.chunks.clear();
        known.uncommitted = 0;
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
                let ends = chunk.is_some_and(|chunk| std::mem::take(&mut chunk.uncommitted));
                known.uncommitted -= usize::from(ends);
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
