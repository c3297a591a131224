//! The member's database: a log, and a state that is replaced as a whole when a snapshot is installed.
//!
//! There are two families for the state. A snapshot is gathered in the one that is not in use while the other serves.
//! When it is whole, that is noted durably, and only then is raft told of the snapshot. From the instant at which raft has
//! moved its log there, the gathered family is the state: whoever starts after a crash sees from the log which it is.

use crate::MetaError;
use holdfast_core::kv::{Batch, Durability, Store, View};
use holdfast_kv::{Database, Family, Tuning};
use holdfast_meta_raft_machine::query;
use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};

const STATES: [&str; 2] = ["state", "state-2"];
const LOG: &str = "log";

/// In the log's family, beside raft's own keys: which state is in use, and which snapshot is gathered in the other.
const CURRENT: &[u8] = b"x";
const GATHERED: &[u8] = b"y";

/// The state in use. Readers hold it while they read, so that it is never cleared under them.
pub type State = Arc<RwLock<Family>>;

pub struct MetaStore {
    pub database: Database,
    pub log: Family,
    pub state: State,
    current: usize,
}

impl MetaStore {
    /// # Errors
    /// Where the database is damaged or cannot be read.
    pub fn open(path: &Path, tuning: &Tuning) -> Result<Self, MetaError> {
        let database = Database::open(path, tuning, &[STATES[0], STATES[1], LOG])?;
        let log = database.family(LOG);
        let current = usize::from(log.get(CURRENT)?.is_some_and(|name| name == [1]));
        let state = Arc::new(RwLock::new(database.family(STATES[current])));
        Ok(Self { database, log, state, current })
    }

    fn other(&self) -> Family {
        self.database.family(STATES[1 - self.current])
    }

    /// The last entry in the state.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn applied(&self) -> Result<Option<u64>, MetaError> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        Ok(query::header(&*state)?.map(|header| header.applied_index))
    }

    /// An empty family to gather a snapshot in.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn begin_gathering(&self) -> Result<Family, MetaError> {
        let mut batch = Batch::default();
        batch.delete(GATHERED.to_vec());
        self.log.write(&batch, Durability::Synced)?;
        let other = self.other();
        other.clear()?;
        Ok(other)
    }

    /// The snapshot of entry `index` is whole in the other family, durably.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn gathered(&self, index: u64) -> Result<(), MetaError> {
        let mut batch = Batch::default();
        batch.put(GATHERED.to_vec(), index.to_be_bytes().to_vec());
        Ok(self.log.write(&batch, Durability::Synced)?)
    }

    /// Takes the gathered snapshot for the state, if the log begins there: `compacted` is the last entry before it.
    ///
    /// # Errors
    /// Where the disk fails, or the log begins behind the state and nothing was gathered for it.
    pub fn install(&mut self, compacted: u64) -> Result<bool, MetaError> {
        let gathered =
            self.log.get(GATHERED)?.and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?)));
        let applied = self.applied()?.unwrap_or(0);
        let Some(index) = gathered.filter(|index| *index > applied && *index <= compacted) else {
            return Ok(false);
        };
        self.current = 1 - self.current;
        let mut batch = Batch::default();
        batch.put(CURRENT.to_vec(), vec![self.current as u8]);
        batch.delete(GATHERED.to_vec());
        self.log.write(&batch, Durability::Synced)?;
        *self.state.write().unwrap_or_else(PoisonError::into_inner) =
            self.database.family(STATES[self.current]);
        tracing::info!(index, "the metadata was taken over from another member");
        Ok(true)
    }
}
