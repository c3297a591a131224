//! Snapshots of the metadata for members that are too far behind the log.
//!
//! Raft carries only where a snapshot is held; its records are fetched in pages, while the member goes on.

use crate::{MetaError, store::State};
use holdfast_core::{
    codec,
    kv::{Batch, Durability, KvError, Store, View},
};
use holdfast_kv::{Family, Snapshot};
use holdfast_meta_raft_machine::query;
use holdfast_meta_raft_pump::{MemberId, SnapshotSource, TakenSnapshot};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Bytes of records in a page, roughly.
const PAGE: usize = 1 << 20;

/// A held snapshot that nobody asks for is let go.
const IDLE: Duration = Duration::from_secs(120);

/// A snapshot is given to others too while it is younger.
const FRESH: Duration = Duration::from_secs(30);

/// Above every key of the state.
pub const END: [u8; 64] = [0xff; 64];

self_cell::self_cell!(
    struct Held {
        owner: Family,
        #[covariant]
        dependent: Snapshot,
    }
);

struct Entry {
    held: Arc<Held>,
    index: u64,
    taken: Instant,
    used: Instant,
}

/// What raft carries instead of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    pub member: u64,
    pub snapshot: u64,
}

impl Ticket {
    /// # Errors
    /// Where the bytes are no ticket.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MetaError> {
        Ok(codec::decode("a snapshot's ticket", bytes).map_err(KvError::from)?)
    }
}

/// Records behind one another, and whether there are more.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Page {
    pub records: Vec<(Vec<u8>, Vec<u8>)>,
    pub last: bool,
}

impl Page {
    /// # Errors
    /// Where the bytes are no page.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MetaError> {
        Ok(codec::decode("a page of a snapshot", bytes).map_err(KvError::from)?)
    }

    /// Writes the records; durable with the next synced write.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn store(&self, family: &Family) -> Result<(), MetaError> {
        let mut batch = Batch::default();
        self.records.iter().for_each(|(key, value)| batch.put(key.clone(), value.clone()));
        Ok(family.write(&batch, Durability::Buffered)?)
    }
}

/// The snapshots that this member holds for others.
#[derive(Clone)]
pub struct Snapshots {
    member: MemberId,
    /// Where the numbers of this life's snapshots begin: none is ever used for another.
    first: u64,
    state: State,
    held: Arc<Mutex<BTreeMap<u64, Entry>>>,
    made: Arc<AtomicU64>,
}

impl Snapshots {
    pub fn new(member: MemberId, boot: [u8; 16], state: State) -> Self {
        let [a, b, c, d, ..] = boot;
        let first = u64::from(u32::from_be_bytes([a, b, c, d])) << 32;
        Self { member, first, state, held: Arc::default(), made: Arc::default() }
    }

    /// The oldest entry that somebody who fetches a snapshot will need from the log.
    pub fn needed(&self) -> Option<u64> {
        let all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().filter(|entry| entry.used.elapsed() < IDLE).map(|entry| entry.index).min()
    }

    /// Records of a held snapshot behind `after`; `None` where it is not held any more.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn page(&self, snapshot: u64, after: &[u8]) -> Result<Option<Vec<u8>>, MetaError> {
        let held = {
            let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(entry) = all.get_mut(&snapshot) else { return Ok(None) };
            entry.used = Instant::now();
            entry.held.clone()
        };
        let start = if after.is_empty() { Vec::new() } else { [after, &[0]].concat() };
        let (mut page, mut bytes) = (Page { records: Vec::new(), last: true }, 0);
        held.borrow_dependent().scan(&start, &END, &mut |key, value| {
            if bytes > PAGE {
                page.last = false;
                return ControlFlow::Break(());
            }
            bytes += key.len() + value.len();
            page.records.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })?;
        Ok(Some(codec::encode(&page)))
    }
}

impl SnapshotSource for Snapshots {
    fn take(&self, from: u64) -> Option<TakenSnapshot> {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, entry| entry.used.elapsed() < IDLE);
        let ticket = |snapshot| codec::encode(&Ticket { member: self.member.0, snapshot });
        if let Some((id, entry)) =
            all.last_key_value().filter(|(_, entry)| entry.taken.elapsed() < FRESH && entry.index >= from)
        {
            return Some(TakenSnapshot { index: entry.index, data: ticket(*id) });
        }
        let family = self.state.read().unwrap_or_else(PoisonError::into_inner).clone();
        let held = Held::new(family, Family::snapshot);
        let index = query::header(held.borrow_dependent()).ok()??.applied_index;
        let id = self.first + self.made.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        all.insert(id, Entry { held: Arc::new(held), index, taken: now, used: now });
        tracing::info!(index, "holding a snapshot of the metadata for a member that is behind");
        Some(TakenSnapshot { index, data: ticket(id) })
    }
}
