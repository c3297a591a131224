//! One member of a raft group.

use crate::log::{LogError, RaftLog};
use holdfast_core::kv::Store;
use prost::Message as _;
use raft::{
    RawNode, ReadOnlyOption, Ready, SnapshotStatus, StateRole,
    eraftpb::{
        ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, Entry, EntryType, Message,
        MessageType,
    },
};
use thiserror::Error;

/// A member of the group; a member that lost its log comes back under a new id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

/// A change of who belongs to the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberChange {
    /// Follows the log without a vote.
    AddLearner(MemberId),
    /// Gives a learner its vote.
    Promote(MemberId),
    Remove(MemberId),
}

/// A message of another member, before it is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    pub from: MemberId,
    /// The snapshot that it brings.
    pub snapshot: Option<TakenSnapshot>,
}

impl Envelope {
    /// Reads what a message is about.
    ///
    /// # Errors
    /// Where the bytes are no message.
    pub fn open(bytes: &[u8]) -> Result<Self, PumpError> {
        let message = Message::decode(bytes).map_err(|_| PumpError::Message)?;
        let from = MemberId(message.from);
        let snapshot = (message.msg_type == MessageType::MsgSnapshot as i32)
            .then(|| message.snapshot.unwrap_or_default())
            .map(|snapshot| TakenSnapshot { index: snapshot.get_metadata().index, data: snapshot.data });
        Ok(Self { from, snapshot })
    }
}

/// How a member behaves in time. A tick is whatever the driver makes it.
#[derive(Debug, Clone, Copy)]
pub struct PumpConfig {
    pub id: MemberId,
    /// Ticks without a leader before an election, at least; up to twice as many by `seed`.
    pub election_ticks: usize,
    pub heartbeat_ticks: usize,
    /// Spreads elections.
    pub seed: u64,
    /// The last entry whose effects are in the state.
    pub applied: u64,
}

/// Makes snapshots of the state for members that are behind the log.
pub trait SnapshotSource {
    /// The state and the entry that it is at, which is `from` or later; `None` where none can be made now.
    fn take(&self, from: u64) -> Option<TakenSnapshot>;
}

/// What a [`SnapshotSource`] gives: opaque to raft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenSnapshot {
    pub index: u64,
    pub data: Vec<u8>,
}

#[derive(Debug, Error)]
pub enum PumpError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("raft: {0}")]
    Raft(#[from] raft::Error),
    #[error("a message from another member cannot be decoded")]
    Message,
}

/// A read that may be answered once the state is at `index`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadReady {
    pub context: Vec<u8>,
    pub index: u64,
}

/// What the driver must do next, in the order of the fields. All of it is already durable where it has to be.
#[derive(Debug, Default)]
pub struct Work {
    /// Replace the state durably by this one.
    pub install: Option<TakenSnapshot>,
    /// Messages for other members: (receiver, bytes).
    pub send: Vec<(MemberId, Vec<u8>)>,
    /// Apply these entries, then tell [`Pump::applied`]. Those without data only move the index.
    pub apply: Vec<CommittedEntry>,
    pub reads: Vec<ReadReady>,
}

/// An entry on which the group has agreed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedEntry {
    pub index: u64,
    /// What its proposer marked it with.
    pub context: Vec<u8>,
    pub data: Vec<u8>,
}

/// A raft member over a log in `S`.
pub struct Pump<S: Store, N: SnapshotSource> {
    node: RawNode<RaftLog<S, N>>,
    /// Its early messages are sent; the rest of it is not yet durable.
    half: Option<Ready>,
    snapshots_sent: Vec<u64>,
}

impl<S: Store, N: SnapshotSource> Pump<S, N> {
    /// Starts a member on its log. The only voter of a group leads at once.
    ///
    /// # Errors
    /// Where the log's own facts contradict each other.
    pub fn new(config: &PumpConfig, mut log: RaftLog<S, N>) -> Result<Self, PumpError> {
        let (first, last) = (log.compacted(), log.last());
        if config.applied > last || config.applied < first {
            let text =
                format!("the state is at entry {}, and the log holds {first} to {last}", config.applied);
            return Err(LogError::Damaged(text).into());
        }
        // What was applied was committed, even where the log was not told before a crash.
        log.raise_commit(config.applied);
        let timeout = config.election_ticks + (config.seed % config.election_ticks as u64) as usize;
        let alone = log.is_only_voter(config.id);
        let raft_config = raft::Config {
            id: config.id.0,
            election_tick: config.election_ticks,
            heartbeat_tick: config.heartbeat_ticks,
            // One possible value: raft-rs would draw from the thread's generator otherwise.
            min_election_tick: timeout,
            max_election_tick: timeout + 1,
            applied: config.applied,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 64,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            ..raft::Config::default()
        };
        let mut node = RawNode::new(&raft_config, log, &slog::Logger::root(slog::Discard, slog::o!()))?;
        if alone {
            node.campaign()?;
        }
        Ok(Self { node, half: None, snapshots_sent: Vec::new() })
    }

    /// Lets time pass.
    pub fn tick(&mut self) {
        self.node.tick();
    }

    /// Takes a message of another member.
    ///
    /// # Errors
    /// Where it is no message that raft knows; it is ignored then.
    pub fn step(&mut self, bytes: &[u8]) -> Result<(), PumpError> {
        let message = Message::decode(bytes).map_err(|_| PumpError::Message)?;
        // raft-rs panics on the types that it does not know, and on local ones that come from outside.
        let known = MessageType::from_i32(message.msg_type).is_some();
        if !known || raft::raw_node::is_local_msg(message.get_msg_type()) {
            return Err(PumpError::Message);
        }
        match self.node.step(message) {
            // From a member that was removed, or for a leader that is no more: the sender tries again.
            Ok(()) | Err(raft::Error::StepPeerNotFound | raft::Error::ProposalDropped) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks the group to agree on an entry. `context` comes back with it.
    ///
    /// # Errors
    /// Where this member does not lead; nothing was proposed then.
    pub fn propose(&mut self, context: Vec<u8>, data: Vec<u8>) -> Result<(), PumpError> {
        if !self.leads() {
            return Err(raft::Error::ProposalDropped.into());
        }
        Ok(self.node.propose(context, data)?)
    }

    /// Asks until where the state must be for a linearizable read. `context` is used once, ever.
    pub fn read_index(&mut self, context: Vec<u8>) {
        self.node.read_index(context);
    }

    /// Asks the group to change its members, through a joint configuration. `context` comes back with the entry.
    ///
    /// # Errors
    /// Where this member does not lead, or another change is under way.
    pub fn propose_change(&mut self, context: Vec<u8>, change: MemberChange) -> Result<(), PumpError> {
        if !self.leads() {
            return Err(raft::Error::ProposalDropped.into());
        }
        let (kind, MemberId(id)) = match change {
            MemberChange::AddLearner(id) => (ConfChangeType::AddLearnerNode, id),
            MemberChange::Promote(id) => (ConfChangeType::AddNode, id),
            MemberChange::Remove(id) => (ConfChangeType::RemoveNode, id),
        };
        let single = ConfChangeSingle { change_type: kind as i32, node_id: id };
        let change = ConfChangeV2 {
            transition: ConfChangeTransition::Implicit as i32,
            changes: vec![single],
            ..ConfChangeV2::default()
        };
        Ok(self.node.propose_conf_change(context, change)?)
    }

    /// Hands leadership to another voter, if it keeps up.
    pub fn transfer_leader(&mut self, to: MemberId) {
        self.node.transfer_leader(to.0);
    }

    /// Who leads, as far as this member knows.
    pub fn leader(&self) -> Option<MemberId> {
        Some(self.node.raft.leader_id).filter(|id| *id != raft::INVALID_ID).map(MemberId)
    }

    /// Learners whose log is within `lag` entries of this leader's.
    pub fn learners_within(&self, lag: u64) -> Vec<MemberId> {
        let last = self.node.store().last();
        let learners = self.node.store().learners();
        let matched = |id: &u64| self.node.raft.prs().get(*id).map_or(0, |progress| progress.matched);
        // Who has nothing is not near, however short the log is.
        let near = |id: &&u64| matched(id) > 0 && matched(id) + lag >= last;
        learners.iter().filter(|id| self.leads() && near(id)).map(|id| MemberId(*id)).collect()
    }

    /// Whether this member leads, as far as it knows.
    pub fn leads(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// Whether it is the only voter: then nobody else can have led since, and what it applied is the newest state.
    pub fn leads_alone(&self) -> bool {
        self.leads() && self.node.store().is_only_voter(MemberId(self.node.raft.id))
    }

    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    pub fn log(&self) -> &RaftLog<S, N> {
        self.node.store()
    }

    /// The next work, once everything that it relies on is durable. One fsync covers all that was handled since the last.
    ///
    /// # Errors
    /// Where the log cannot be written; the process must stop.
    pub fn poll(&mut self) -> Result<Option<Work>, PumpError> {
        if let Some(ready) = self.half.take() {
            return self.finish(ready).map(Some);
        }
        if !self.node.has_ready() {
            return Ok(None);
        }
        let mut ready = self.node.ready();
        // A leader's messages leave before its own log is durable: its fsync runs beside its followers'.
        let early = ready.take_messages();
        if early.is_empty() {
            return self.finish(ready).map(Some);
        }
        self.note_snapshots(&early);
        self.half = Some(ready);
        Ok(Some(Work { send: envelopes(early), ..Work::default() }))
    }

    /// Makes what is ready durable, and says what may be done then.
    fn finish(&mut self, mut ready: Ready) -> Result<Work, PumpError> {
        let reads = ready.take_read_states();
        let mut work = Work {
            reads: reads
                .into_iter()
                .map(|read| ReadReady { context: read.request_ctx, index: read.index })
                .collect(),
            ..Work::default()
        };
        let hard_state = ready.hs().cloned();
        if !ready.snapshot().is_empty() {
            let snapshot = ready.snapshot().clone();
            self.node.mut_store().restart_at(&snapshot, hard_state.as_ref())?;
            work.install = Some(TakenSnapshot { index: snapshot.get_metadata().index, data: snapshot.data });
        }
        let (entries, sync) = (ready.take_entries(), ready.must_sync());
        self.node.mut_store().append(entries, hard_state.as_ref(), sync)?;
        let mut committed = ready.take_committed_entries();
        let mut late = ready.take_persisted_messages();
        let mut light = self.node.advance_append(ready);
        if let Some(commit) = light.commit_index() {
            self.node.mut_store().raise_commit(commit);
        }
        late.extend(light.take_messages());
        committed.extend(light.take_committed_entries());
        self.note_snapshots(&late);
        // raft-rs waits for ever to hear of a snapshot that it sent. Whether it arrived shows with the next append: a
        // member that did not get it refuses, and is sent another.
        for to in std::mem::take(&mut self.snapshots_sent) {
            self.node.report_snapshot(to, SnapshotStatus::Finish);
        }
        work.send = envelopes(late);
        for entry in committed {
            work.apply.push(self.commit(entry)?);
        }
        Ok(work)
    }

    /// Takes an entry on which the group has agreed. Changes of members take effect here.
    fn commit(&mut self, entry: Entry) -> Result<CommittedEntry, PumpError> {
        let kind = entry.entry_type();
        let Entry { index, context, data, .. } = entry;
        match kind {
            EntryType::EntryNormal => return Ok(CommittedEntry { index, context, data }),
            EntryType::EntryConfChange => {
                return Err(LogError::Damaged("a change of no known kind".into()).into());
            }
            EntryType::EntryConfChangeV2 => {}
        }
        // After a restart, changes come again that are in force already.
        if index > self.node.store().members_since() {
            let change = ConfChangeV2::decode(&data[..])
                .map_err(|error| LogError::Damaged(format!("a change of members: {error}")))?;
            match self.node.apply_conf_change(&change) {
                Ok(members) => self.node.mut_store().set_members(members, index)?,
                // It makes no sense for these members, to any of them: nothing changes.
                Err(raft::Error::ConfChangeError(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(CommittedEntry { index, context, data: Vec::new() })
    }

    fn note_snapshots(&mut self, messages: &[Message]) {
        let snapshots = messages.iter().filter(|message| message.get_msg_type() == MessageType::MsgSnapshot);
        self.snapshots_sent.extend(snapshots.map(|message| message.to));
    }

    /// Everything up to `index` is in the state.
    pub fn applied(&mut self, index: u64) {
        self.node.advance_apply_to(index);
    }

    /// Forgets log entries up to `index`, which must be applied, and durable in the state whenever this is.
    ///
    /// # Errors
    /// As [`Pump::poll`].
    pub fn compact(&mut self, index: u64) -> Result<(), PumpError> {
        assert!(index <= self.node.raft.raft_log.applied, "only applied entries are compacted");
        Ok(self.node.mut_store().compact(index)?)
    }
}

fn envelopes(messages: Vec<Message>) -> Vec<(MemberId, Vec<u8>)> {
    messages.into_iter().map(|message| (MemberId(message.to), message.encode_to_vec())).collect()
}
