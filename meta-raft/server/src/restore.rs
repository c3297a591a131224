//! Making a member's metadata anew: from an archive, or from one member that is left.

use crate::{MetaConfig, MetaError, store::MetaStore};
use holdfast_core::kv::{Batch, Durability, KvError, Store};
use holdfast_kv::{Family, durable};
use holdfast_meta_raft_machine::{apply, command::LogEntry};
use holdfast_meta_raft_pump::{MemberId, begin_at, survive_alone};
use std::sync::PoisonError;

const DATABASE: &str = "db";

/// Terms that are skipped: what the lost members led in is over, however long they went on.
const SKIPPED_TERMS: u64 = 1 << 20;

/// A state that is being put together in an empty directory.
pub struct Restore {
    store: MetaStore,
    state: Family,
    applied: u64,
    term: u64,
}

impl Restore {
    /// Begins in `config.dir`.
    ///
    /// # Errors
    /// Where it holds metadata already, or cannot be written.
    pub fn begin(config: &MetaConfig) -> Result<Self, MetaError> {
        let path = config.dir.join(DATABASE);
        let io = |source| MetaError::Io { path: path.clone(), source };
        durable::create_dir(&config.dir).map_err(io)?;
        if path.exists() {
            return Err(io(std::io::Error::other("there is metadata already")));
        }
        let store = MetaStore::open(&path, &config.tuning)?;
        let state = store.state.read().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Self { store, state, applied: 0, term: 1 })
    }

    /// Takes records of the whole state.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn records(&mut self, records: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), MetaError> {
        let mut batch = Batch::default();
        records.into_iter().for_each(|(key, value)| batch.put(key, value));
        Ok(self.state.write(&batch, Durability::Buffered)?)
    }

    /// All records are there: the last entry in them.
    ///
    /// # Errors
    /// Where they are no state.
    pub fn settle(&mut self) -> Result<u64, MetaError> {
        let applied = self.store.applied()?;
        self.applied =
            applied.ok_or_else(|| KvError::Storage("the archived state has no header".to_owned()))?;
        Ok(self.applied)
    }

    /// Applies an entry behind the state; whether it is the next one, or one that is in the state already.
    ///
    /// # Errors
    /// Where the entry is malformed, or the disk fails.
    pub fn entry(&mut self, index: u64, term: u64, data: &[u8]) -> Result<bool, MetaError> {
        if index <= self.applied {
            self.term = self.term.max(term);
            return Ok(true);
        }
        if index != self.applied + 1 {
            return Ok(false);
        }
        let entry = match data {
            [] => None,
            data => Some(LogEntry::from_bytes(data).map_err(KvError::from)?),
        };
        let applied = apply(&self.state, index, entry)?;
        self.state.write(&applied.batch, Durability::Buffered)?;
        (self.applied, self.term) = (index, self.term.max(term));
        Ok(true)
    }

    /// The last entry in the state.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The state so far.
    pub fn state(&self) -> &Family {
        &self.state
    }

    /// Takes note that a leader of this term was known.
    pub fn saw_term(&mut self, term: u64) {
        self.term = self.term.max(term);
    }

    /// Makes it the metadata of a group of one. Durable when this returns.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn finish(self, member: MemberId) -> Result<(), MetaError> {
        Ok(begin_at(&self.store.log, self.applied, self.term + SKIPPED_TERMS, member)?)
    }
}

/// Makes a member that is left, and does not run, the only one of its group.
///
/// # Errors
/// Where there is no metadata, or it is damaged.
pub fn survive(config: &MetaConfig) -> Result<(), MetaError> {
    let path = config.dir.join(DATABASE);
    if !path.join("CURRENT").exists() {
        let source = std::io::Error::other("there is no metadata here");
        return Err(MetaError::Io { path, source });
    }
    let store = MetaStore::open(&path, &config.tuning)?;
    Ok(survive_alone(&store.log, config.member, SKIPPED_TERMS)?)
}
