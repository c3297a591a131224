//! The raft log in a key-value store.
//!
//! | key | value |
//! |---|---|
//! | `e` index (8 bytes, big-endian) | the entry, as raft-rs encodes it |
//! | `h` | the hard state: term, vote, commit |
//! | `m` | the members |
//! | `n` | the entry that made them the members, where one did (8 bytes, big-endian) |
//! | `t` | index and term of the last entry that was compacted away |
//! | `c` | a cut that the log has not grown beyond: its last entry before and after |
//!
//! An append removes what follows it in the same batch, so that a log has no holes and no stale tail.

use crate::pump::{MemberId, SnapshotSource};
use holdfast_core::kv::{Batch, Durability, KvError, Store, View, prefix_end};
use prost::Message as _;
use raft::{
    GetEntriesContext, RaftState, Storage, StorageError,
    eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot},
};
use std::{collections::VecDeque, ops::ControlFlow};
use thiserror::Error;

/// Where every group's log begins. A new member has an empty log and must take a snapshot to get here, and so learns
/// the members.
const ORIGIN: (u64, u64) = (1, 1);

/// Encoded entries that stay in memory for followers and for applying, beside those not yet applied.
const CACHE_BYTES: usize = 4 << 20;

/// The log cannot be used. A member with such a log must not vote.
#[derive(Debug, Error)]
pub enum LogError {
    #[error(transparent)]
    Store(#[from] KvError),
    #[error("the raft log is damaged: {0}")]
    Damaged(String),
    #[error(
        "the raft log ends at entry {last}, but entry {watermark} was acknowledged: its end was lost. Do not start this \
         member on it: what it acknowledged would be forgotten. Restore the metadata directory from a backup, or remove \
         this member and let it join again with an empty one"
    )]
    LostTail { last: u64, watermark: u64 },
}

/// The last entry that is known to be durable, kept apart from the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Watermark(pub u64);

fn entry_key(index: u64) -> Vec<u8> {
    [b"e".as_slice(), &index.to_be_bytes()].concat()
}

fn decode<M: prost::Message + Default>(what: &str, bytes: &[u8]) -> Result<M, LogError> {
    M::decode(bytes).map_err(|error| LogError::Damaged(format!("{what}: {error}")))
}

/// A raft log. `S` holds it, and `N` makes the snapshots for those who are too far behind it.
pub struct RaftLog<S, N> {
    store: S,
    snapshots: N,
    hard_state: HardState,
    members: ConfState,
    /// Index and term of the entry before the first.
    truncated: (u64, u64),
    last: u64,
    /// The entry that made the members what they are.
    members_since: u64,
    /// The log ended at the first number, and was cut to end at the second: a leader had other entries. A watermark up to
    /// the first is explained by that.
    cut: Option<(u64, u64)>,
    /// The newest entries, contiguous up to `last`.
    cache: VecDeque<Entry>,
    cache_bytes: usize,
}

impl<S: Store, N: SnapshotSource> RaftLog<S, N> {
    /// Opens the log in `store`; a fresh one has the members `bootstrap`, or none if it is to join a group.
    ///
    /// # Errors
    /// Where it is damaged, or ends below `watermark`.
    pub fn open(
        store: S,
        snapshots: N,
        bootstrap: &[MemberId],
        watermark: Watermark,
    ) -> Result<Self, LogError> {
        let mut log = Self {
            store,
            snapshots,
            hard_state: HardState::default(),
            members: ConfState::default(),
            truncated: (0, 0),
            last: 0,
            members_since: 0,
            cut: None,
            cache: VecDeque::new(),
            cache_bytes: 0,
        };
        let found = log.store.get(b"t")?;
        match found {
            Some(bytes) => log.load(&bytes)?,
            None if watermark == Watermark::default() => log.initialise(bootstrap)?,
            None => {}
        }
        let explained = log.cut.is_some_and(|(from, to)| watermark.0 <= from && log.last >= to);
        if log.last < watermark.0 && !explained {
            return Err(LogError::LostTail { last: log.last, watermark: watermark.0 });
        }
        Ok(log)
    }

    fn initialise(&mut self, members: &[MemberId]) -> Result<(), LogError> {
        if members.is_empty() {
            return Ok(());
        }
        self.truncated = ORIGIN;
        self.last = ORIGIN.0;
        self.members.voters = members.iter().map(|member| member.0).collect();
        self.hard_state = HardState { term: ORIGIN.1, vote: 0, commit: ORIGIN.0 };
        let mut batch = Batch::default();
        self.put_frame(&mut batch);
        Ok(self.store.write(&batch, Durability::Synced)?)
    }

    fn load(&mut self, truncated: &[u8]) -> Result<(), LogError> {
        let pair: [u8; 16] = truncated.try_into().map_err(|_| LogError::Damaged("its start".to_owned()))?;
        let (index, term) = pair.split_at(8);
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        self.truncated = (number(index), number(term));
        let hard_state =
            self.store.get(b"h")?.ok_or_else(|| LogError::Damaged("it has no hard state".to_owned()))?;
        self.hard_state = decode("the hard state", &hard_state)?;
        let members =
            self.store.get(b"m")?.ok_or_else(|| LogError::Damaged("it has no members".to_owned()))?;
        self.members = decode("the members", &members)?;
        let numbers = |bytes: Vec<u8>| -> Vec<u64> { bytes.chunks(8).map(number).collect() };
        self.members_since = self.store.get(b"n")?.map_or(0, |bytes| number(&bytes));
        self.cut = match self.store.get(b"c")?.map(numbers).as_deref() {
            Some(&[from, to]) => Some((from, to)),
            Some(_) | None => None,
        };
        self.last = self.truncated.0;
        let mut entries = Vec::new();
        self.store.scan(&entry_key(self.last + 1), &prefix_end(b"e"), &mut |_, value| {
            entries.push(value.to_vec());
            ControlFlow::Continue(())
        })?;
        for bytes in entries {
            let entry: Entry = decode("an entry", &bytes)?;
            if entry.index != self.last + 1 {
                return Err(LogError::Damaged(format!("entry {} follows entry {}", entry.index, self.last)));
            }
            self.last = entry.index;
            self.remember(entry);
        }
        if self.hard_state.commit > self.last || self.hard_state.commit < self.truncated.0 {
            let commit = self.hard_state.commit;
            return Err(LogError::Damaged(format!(
                "entry {commit} was committed, and the log ends at {}",
                self.last
            )));
        }
        Ok(())
    }

    fn put_frame(&self, batch: &mut Batch) {
        let (index, term) = self.truncated;
        batch.put(b"t".to_vec(), [index.to_be_bytes(), term.to_be_bytes()].concat());
        batch.put(b"m".to_vec(), self.members.encode_to_vec());
        batch.put(b"n".to_vec(), self.members_since.to_be_bytes().to_vec());
        batch.put(b"h".to_vec(), self.hard_state.encode_to_vec());
    }

    fn remember(&mut self, entry: Entry) {
        self.cache_bytes += entry.data.len();
        self.cache.push_back(entry);
        while self.cache_bytes > CACHE_BYTES && self.cache.len() > 1 {
            self.cache_bytes -= self.cache.pop_front().map_or(0, |entry| entry.data.len());
        }
    }

    /// Appends durably, replacing what conflicts. `sync` may be false where only the commit index moved.
    ///
    /// # Errors
    /// After an error nothing may be acknowledged, and the process must stop.
    pub(crate) fn append(
        &mut self,
        entries: Vec<Entry>,
        hard_state: Option<&HardState>,
        sync: bool,
    ) -> Result<(), LogError> {
        let mut batch = Batch::default();
        if let Some(hard_state) = hard_state {
            let commit = self.hard_state.commit.max(hard_state.commit);
            self.hard_state = HardState { commit, ..hard_state.clone() };
        }
        if hard_state.is_some() || !entries.is_empty() {
            batch.put(b"h".to_vec(), self.hard_state.encode_to_vec());
        }
        if let Some(first) = entries.first() {
            assert!(first.index > self.truncated.0 && first.index <= self.last + 1, "the log has no holes");
            if first.index <= self.last {
                let (from, to) = self.cut.unwrap_or((self.last, first.index));
                let cut = (from.max(self.last), to.min(first.index));
                self.cut = Some(cut);
                batch.put(b"c".to_vec(), [cut.0.to_be_bytes(), cut.1.to_be_bytes()].concat());
            }
            for stale in first.index + entries.len() as u64..=self.last {
                batch.delete(entry_key(stale));
            }
            while self.cache.back().is_some_and(|cached| cached.index >= first.index) {
                self.cache_bytes -= self.cache.pop_back().map_or(0, |entry| entry.data.len());
            }
            self.last = first.index - 1;
        }
        for entry in entries {
            batch.put(entry_key(entry.index), entry.encode_to_vec());
            self.last = entry.index;
            self.remember(entry);
        }
        if self.cut.is_some_and(|(from, _)| self.last > from) {
            self.cut = None;
            batch.delete(b"c".to_vec());
        }
        let durability = if sync { Durability::Synced } else { Durability::Buffered };
        if !batch.is_empty() {
            self.store.write(&batch, durability)?;
        }
        Ok(())
    }

    /// Replaces the whole log by the snapshot that stands for it.
    ///
    /// # Errors
    /// As [`RaftLog::append`].
    pub(crate) fn restart_at(
        &mut self,
        snapshot: &Snapshot,
        hard_state: Option<&HardState>,
    ) -> Result<(), LogError> {
        let metadata = snapshot.get_metadata();
        let mut batch = Batch::default();
        for index in self.truncated.0 + 1..=self.last {
            batch.delete(entry_key(index));
        }
        if let Some(hard_state) = hard_state {
            self.hard_state = hard_state.clone();
        }
        self.hard_state.commit = self.hard_state.commit.max(metadata.index);
        self.members = metadata.conf_state.clone().unwrap_or_default();
        self.members_since = metadata.index;
        self.truncated = (metadata.index, metadata.term);
        self.last = metadata.index;
        self.cache.clear();
        self.cache_bytes = 0;
        self.put_frame(&mut batch);
        Ok(self.store.write(&batch, Durability::Synced)?)
    }

    /// Forgets entries up to `index`, whose effects are durable in the state.
    ///
    /// # Errors
    /// As [`RaftLog::append`].
    pub(crate) fn compact(&mut self, index: u64) -> Result<(), LogError> {
        if index <= self.truncated.0 {
            return Ok(());
        }
        assert!(index <= self.last, "only what exists is compacted");
        let term = self.term(index).map_err(|error| LogError::Damaged(error.to_string()))?;
        let mut batch = Batch::default();
        for gone in self.truncated.0 + 1..=index {
            batch.delete(entry_key(gone));
        }
        self.truncated = (index, term);
        self.put_frame(&mut batch);
        while self.cache.front().is_some_and(|entry| entry.index <= index) {
            self.cache_bytes -= self.cache.pop_front().map_or(0, |entry| entry.data.len());
        }
        Ok(self.store.write(&batch, Durability::Buffered)?)
    }

    /// The last entry, durable or about to be.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The last entry that was compacted away.
    pub fn compacted(&self) -> u64 {
        self.truncated.0
    }

    /// Knows that the group has committed up to `index`. Written with the next append: after a crash the group, or what
    /// the state holds, tells it again.
    pub(crate) fn raise_commit(&mut self, index: u64) {
        self.hard_state.commit = self.hard_state.commit.max(index.min(self.last));
    }

    /// The members that vote.
    pub fn voters(&self) -> &[u64] {
        &self.members.voters
    }

    /// Whether nobody else has a vote, not even in a configuration that is being left.
    pub fn is_only_voter(&self, member: MemberId) -> bool {
        self.members.voters == [member.0] && self.members.voters_outgoing.is_empty()
    }

    /// The members that follow without a vote.
    pub fn learners(&self) -> &[u64] {
        &self.members.learners
    }

    /// The entry that made the members what they are.
    pub(crate) fn members_since(&self) -> u64 {
        self.members_since
    }

    /// The group has agreed on other members, with the entry at `index`.
    ///
    /// # Errors
    /// As [`RaftLog::append`].
    pub(crate) fn set_members(&mut self, members: ConfState, index: u64) -> Result<(), LogError> {
        self.members = members;
        self.members_since = index;
        let mut batch = Batch::default();
        self.put_frame(&mut batch);
        Ok(self.store.write(&batch, Durability::Synced)?)
    }

    fn cached(&self, index: u64) -> Option<&Entry> {
        let first = self.cache.front()?.index;
        self.cache.get(usize::try_from(index.checked_sub(first)?).ok()?)
    }

    fn entry(&self, index: u64) -> raft::Result<Entry> {
        if let Some(entry) = self.cached(index) {
            return Ok(entry.clone());
        }
        let other = |error: String| raft::Error::Store(StorageError::Other(error.into()));
        let bytes = self.store.get(&entry_key(index)).map_err(|error| other(error.to_string()))?;
        let bytes = bytes.ok_or(raft::Error::Store(StorageError::Unavailable))?;
        Entry::decode(&bytes[..]).map_err(|error| other(error.to_string()))
    }
}

/// A committed entry as it is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedEntry {
    pub index: u64,
    pub term: u64,
    /// Empty where it changes only who is a member, or who leads.
    pub data: Vec<u8>,
}

/// Entries from `from` up to `upto`, which are committed, until their data are more than `bytes`, straight from the
/// store of a running log. `None` where they were compacted away.
///
/// # Errors
/// Where the store fails or is damaged.
pub fn read_entries(
    store: &impl View,
    from: u64,
    upto: u64,
    bytes: usize,
) -> Result<Option<Vec<LoggedEntry>>, LogError> {
    let (mut found, mut read) = (Vec::new(), 0);
    let mut failure = None;
    store.scan(&entry_key(from), &entry_key(upto + 1), &mut |_, value| {
        match decode::<Entry>("an entry", value) {
            Ok(entry) => {
                let normal = entry.entry_type() == EntryType::EntryNormal;
                let data = if normal { entry.data } else { Vec::new() };
                read += data.len();
                found.push(LoggedEntry { index: entry.index, term: entry.term, data });
            }
            Err(error) => failure = Some(error),
        }
        if failure.is_some() || read > bytes { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    // The log may be compacted while it is read: what is there has no holes.
    let whole = found.first().is_none_or(|entry| entry.index == from)
        && found.is_sorted_by(|a, b| a.index + 1 == b.index);
    Ok((whole && (from > upto || !found.is_empty())).then_some(found))
}

/// Makes a log that begins behind entry `index` of `term`, whose effects are in a state already, with one member.
///
/// # Errors
/// Where the store fails, or has a log.
pub fn begin_at(store: &impl Store, index: u64, term: u64, member: MemberId) -> Result<(), LogError> {
    if store.get(b"t")?.is_some() {
        return Err(LogError::Damaged("there is a log already".to_owned()));
    }
    let members = ConfState { voters: vec![member.0], ..ConfState::default() };
    let hard_state = HardState { term, vote: 0, commit: index };
    let mut batch = Batch::default();
    batch.put(b"t".to_vec(), [index.to_be_bytes(), term.to_be_bytes()].concat());
    batch.put(b"m".to_vec(), members.encode_to_vec());
    batch.put(b"n".to_vec(), index.to_be_bytes().to_vec());
    batch.put(b"h".to_vec(), hard_state.encode_to_vec());
    Ok(store.write(&batch, Durability::Synced)?)
}

/// Makes `member` the only one of the group of a log, whatever the group agreed on. What it has of the log is what there is:
/// changes of members behind the committed entries are taken out.
///
/// # Errors
/// Where the store fails, or has no log.
pub fn survive_alone(store: &impl Store, member: MemberId, skip_terms: u64) -> Result<(), LogError> {
    let hard_state = store.get(b"h")?.ok_or_else(|| LogError::Damaged("there is no log".to_owned()))?;
    let mut hard_state: HardState = decode("the hard state", &hard_state)?;
    let members = ConfState { voters: vec![member.0], ..ConfState::default() };
    let mut batch = Batch::default();
    let mut failure = None;
    store.scan(&entry_key(0), &prefix_end(b"e"), &mut |key, value| {
        match decode::<Entry>("an entry", value) {
            Ok(entry) if entry.entry_type() != EntryType::EntryNormal => {
                let plain = Entry { index: entry.index, term: entry.term, ..Entry::default() };
                batch.put(key.to_vec(), plain.encode_to_vec());
            }
            Ok(_) => {}
            Err(error) => failure = Some(error),
        }
        if failure.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    // A term that no other member of the old group had.
    hard_state.term += skip_terms;
    hard_state.vote = 0;
    batch.put(b"m".to_vec(), members.encode_to_vec());
    batch.put(b"h".to_vec(), hard_state.encode_to_vec());
    Ok(store.write(&batch, Durability::Synced)?)
}

impl<S: Store, N: SnapshotSource> Storage for RaftLog<S, N> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state: self.members.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.truncated.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > self.last + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let limit = max_size.into().unwrap_or(u64::MAX);
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in low..high {
            let entry = self.entry(index)?;
            bytes += entry.encoded_len() as u64;
            if bytes > limit && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.truncated.0 {
            return Ok(self.truncated.1);
        }
        if index < self.truncated.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if index > self.last {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        Ok(self.entry(index)?.term)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.truncated.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let unavailable = raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable);
        // The members go along as they are now: whoever takes over an older state would change them a second time.
        let from = request_index.max(self.members_since).max(self.truncated.0).max(1);
        let Some(taken) = self.snapshots.take(from).filter(|taken| taken.index >= from) else {
            return Err(unavailable);
        };
        let mut snapshot = Snapshot { data: taken.data, ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        metadata.index = taken.index;
        metadata.term = self.term(taken.index)?;
        metadata.conf_state = Some(self.members.clone());
        Ok(snapshot)
    }
}
