//! The thread that drives raft: the only one that touches its log and writes its state.

use crate::{
    MetaError, MetaMetrics,
    heads::Heads,
    proposals::{Proposed, Submission, pack},
    reads::{Reader, Reads},
    snapshots::{Page, Snapshots, Ticket},
    store::MetaStore,
    watermark,
};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use futures::future::BoxFuture;
use holdfast_core::kv::{Durability, KvError, Store};
use holdfast_kv::{Family, fail_stop};
use holdfast_meta_raft_machine::{
    apply,
    command::{LogEntry, Outcome, Request},
    query,
};
use holdfast_meta_raft_pump::{CommittedEntry, Envelope, MemberChange, MemberId, Pump, Work};
use std::{
    collections::VecDeque,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{runtime::Handle, sync::oneshot};

/// How long a tick of raft is.
pub const TICK: Duration = Duration::from_millis(50);

/// Inputs that are looked at for one turn of the thread.
const TURN: usize = 4096;

/// The log is compacted when so many bytes were appended since the last time: what goes soon enough is never written
/// to a table file.
const COMPACT_EVERY_BYTES: u64 = 4 << 20;

/// Entries that stay behind a compaction for followers: those a little behind need no snapshot.
const KEEP_FOR_FOLLOWERS: u64 = 20_000;

/// Entries, and bytes of them, that are kept for the archive.
const UNARCHIVED_MAX: u64 = 100_000;
const UNARCHIVED_BYTES_MAX: u64 = 256 << 20;

/// How other members are reached.
pub trait Peers: Send + Sync + 'static {
    /// Sends a message of raft, which may be lost.
    fn tell(&self, to: MemberId, message: Vec<u8>);

    /// Fetches a page of a snapshot that `from` holds, behind a key.
    fn page(
        &self,
        from: MemberId,
        snapshot: u64,
        after: Vec<u8>,
    ) -> BoxFuture<'static, Result<Vec<u8>, String>>;
}

/// A group of one has no others.
pub struct NoPeers;

impl Peers for NoPeers {
    fn tell(&self, _: MemberId, _: Vec<u8>) {}

    fn page(&self, _: MemberId, _: u64, _: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        Box::pin(std::future::ready(Err("there is no other member".to_owned())))
    }
}

/// What the thread is asked.
pub enum Input {
    Submit(Submission),
    Read(Reader),
    Raft(Vec<u8>),
    Change(MemberChange, oneshot::Sender<Result<(), MetaError>>),
    TransferLeader(MemberId),
    /// The snapshot that a message brought was gathered, or could not be.
    Gathered(Vec<u8>, Result<u64, MetaError>),
}

/// What a member knows of its group.
#[derive(Debug, Clone, Default)]
pub struct GroupStatus {
    pub leader: Option<MemberId>,
    pub leads: bool,
    pub alone: bool,
    pub term: u64,
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
    /// Learners that have nearly all of the log.
    pub caught_up: Vec<MemberId>,
    pub applied: u64,
}

pub struct Driver {
    pub me: MemberId,
    pub pump: Pump<Family, Snapshots>,
    pub store: MetaStore,
    pub inputs: Receiver<Input>,
    pub back: Sender<Input>,
    pub peers: Arc<dyn Peers>,
    pub runtime: Option<Handle>,
    pub status: Arc<RwLock<GroupStatus>>,
    pub snapshots: Snapshots,
    pub keeper: watermark::Keeper,
    pub stop: Arc<AtomicBool>,
    pub metrics: MetaMetrics,
    /// Names this life of the process in read questions, which are never asked twice under one name.
    pub boot: [u8; 16],
    /// What was proposed and is not applied yet, in log order.
    pub pending: VecDeque<Proposed>,
    pub marks: u64,
    pub reads: Reads,
    /// Since the log was compacted, or that was tried.
    pub appended_bytes: u64,
    /// In the log since it was compacted.
    pub held_bytes: u64,
    pub applied: u64,
    /// Where the state's queues begin.
    pub heads: Heads,
    /// When an entry was last proposed here, or seen from another leader.
    pub last_entry: Instant,
    pub gathering: bool,
    /// The last entry in the archive, as far as this member knows.
    pub archived: Arc<AtomicU64>,
    /// The version that all members understand.
    pub cluster_version: Arc<AtomicU32>,
    /// In which the pending entries were proposed.
    pub term: u64,
}

impl Driver {
    pub fn run(mut self) {
        let mut next_tick = Instant::now() + TICK;
        while !self.stop.load(Ordering::Acquire) {
            match self.inputs.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
                Ok(first) => self.take(first),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = Instant::now();
            if now >= next_tick {
                self.pump.tick();
                next_tick = now + TICK;
            }
            if let Err(error) = self.drain() {
                fail_stop("the metadata log or state", &error);
            }
            self.publish();
        }
    }

    /// Takes `first` and what waits behind it; submissions among them share entries.
    fn take(&mut self, first: Input) {
        let mut submissions = Vec::new();
        let waiting: Vec<Input> = std::iter::once(first).chain(self.inputs.try_iter().take(TURN)).collect();
        for input in waiting {
            match input {
                Input::Submit(submission) => submissions.push(submission),
                Input::Read(reader) => self.reads.add(reader),
                Input::Raft(message) => self.receive(message),
                Input::Change(change, answer) => {
                    let result = self.pump.propose_change(Vec::new(), change);
                    let _unheard = answer.send(result.map_err(|_| self.not_leader()));
                }
                Input::TransferLeader(to) => self.pump.transfer_leader(to),
                Input::Gathered(message, result) => self.gathered(message, result),
            }
        }
        if submissions.is_empty() {
            return;
        }
        for mut entry in pack(submissions) {
            self.marks += 1;
            let requests = std::mem::take(&mut entry.requests);
            self.propose(entry.proposed(self.marks), requests);
        }
    }

    fn not_leader(&self) -> MetaError {
        MetaError::NotLeader(self.pump.leader().filter(|leader| *leader != self.me))
    }

    fn propose(&mut self, entry: Proposed, requests: Vec<Request>) {
        let stamp_ms =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let elapsed_ms = self.last_entry.elapsed().as_millis() as u64;
        let data = LogEntry { stamp_ms, elapsed_ms, requests }.to_bytes();
        let bytes = data.len() as u64;
        let mark = [self.boot.as_slice(), &entry.mark.to_be_bytes()].concat();
        match self.pump.propose(mark, data) {
            Ok(()) => {
                // What is less than a millisecond is counted with the next entry.
                self.last_entry += Duration::from_millis(elapsed_ms);
                self.appended_bytes += bytes;
                self.term = self.pump.term();
                self.pending.push_back(entry);
            }
            Err(_) => entry.fail(|| self.not_leader()),
        }
    }

    fn receive(&mut self, message: Vec<u8>) {
        match Envelope::open(&message) {
            Ok(Envelope { snapshot: Some(snapshot), .. }) => {
                self.gather(message, &snapshot.data, snapshot.index)
            }
            Ok(Envelope { snapshot: None, .. }) => self.step(&message),
            Err(error) => tracing::warn!(%error, "a message of another member is ignored"),
        }
    }

    fn step(&mut self, message: &[u8]) {
        if let Err(error) = self.pump.step(message) {
            tracing::warn!(%error, "a message of another member is ignored");
        }
    }

    /// Fetches a snapshot in the background. Raft hears of it when it is whole.
    fn gather(&mut self, message: Vec<u8>, ticket: &[u8], index: u64) {
        let Some(runtime) = self.runtime.clone().filter(|_| !self.gathering && index > self.applied) else {
            return;
        };
        let begun = Ticket::from_bytes(ticket).and_then(|ticket| Ok((ticket, self.store.begin_gathering()?)));
        let (ticket, family) = match begun {
            Ok(begun) => begun,
            Err(error) => fail_stop("the metadata store, to take over a snapshot", &error),
        };
        self.gathering = true;
        tracing::info!(index, from = ticket.member, "taking over the metadata from another member");
        let (peers, back) = (self.peers.clone(), self.back.clone());
        runtime.spawn(async move {
            let result = fetch(&*peers, ticket, &family, index).await.map(|()| index);
            // The thread may have stopped.
            let _stopped = back.send(Input::Gathered(message, result));
        });
    }

    fn gathered(&mut self, message: Vec<u8>, result: Result<u64, MetaError>) {
        match result.and_then(|index| self.store.gathered(index)) {
            Ok(()) => {
                self.step(&message);
                // Installed before another message can begin to gather anew.
                if let Err(error) = self.drain() {
                    fail_stop("the metadata log or state", &error);
                }
            }
            // The leader sends it again.
            Err(error) => tracing::warn!(%error, "the metadata could not be taken over yet"),
        }
        self.gathering = false;
    }

    pub fn drain(&mut self) -> Result<(), MetaError> {
        self.ask_for_reads();
        while let Some(work) = self.pump.poll()? {
            self.carry_out(work)?;
            self.ask_for_reads();
        }
        if self.pump.leads_alone() {
            self.reads.release_all();
        }
        // What was proposed by a leader that is none any more may or may not be agreed on, by others.
        if !self.pump.leads() || self.pump.term() != self.term {
            for entry in std::mem::take(&mut self.pending) {
                entry.fail(|| MetaError::LostLeadership);
            }
        }
        let log = self.pump.log();
        self.metrics.log_entries.set((log.last() - log.compacted()) as i64);
        if self.appended_bytes >= COMPACT_EVERY_BYTES {
            self.appended_bytes = 0;
            let alone = self.pump.leads_alone() && log.learners().is_empty();
            let keep = if alone { 0 } else { KEEP_FOR_FOLLOWERS };
            // Who fetches a snapshot goes on from there.
            let needed = self.snapshots.needed().unwrap_or(u64::MAX);
            let upto = self.applied.saturating_sub(keep).min(needed).min(self.archived());
            if upto > log.compacted() {
                self.pump.compact(upto)?;
                self.held_bytes = 0;
            }
        }
        Ok(())
    }

    /// What is not in the archive yet stays, as long as that is not too much: then the archive begins anew.
    fn archived(&self) -> u64 {
        let archived = self.archived.load(Ordering::Acquire);
        let behind = self.applied.saturating_sub(archived);
        let too_much = behind > UNARCHIVED_MAX || self.held_bytes > UNARCHIVED_BYTES_MAX;
        if too_much { u64::MAX } else { archived }
    }

    fn ask_for_reads(&mut self) {
        if !self.pump.leads_alone()
            && let Some(context) = self.reads.poll_question(&self.boot, Instant::now())
        {
            self.pump.read_index(context);
        }
    }

    fn carry_out(&mut self, work: Work) -> Result<(), MetaError> {
        if let Some(snapshot) = work.install {
            let installed = self.store.install(self.pump.log().compacted())?;
            assert!(installed, "raft hears only of snapshots that were gathered");
            let state = self.store.state.read().unwrap_or_else(PoisonError::into_inner);
            let version = query::header(&*state)?.map_or(0, |header| header.cluster_version);
            drop(state);
            self.cluster_version.store(version, Ordering::Release);
            self.applied = snapshot.index;
            self.pump.applied(snapshot.index);
            self.last_entry = Instant::now();
        }
        self.keeper.raise(self.pump.log().last());
        for (to, message) in work.send {
            self.peers.tell(to, message);
        }
        for read in work.reads {
            self.reads.answered(&read.context, read.index);
        }
        for entry in work.apply {
            let index = entry.index;
            self.apply(entry)?;
            self.pump.applied(index);
        }
        self.reads.applied(self.applied);
        Ok(())
    }

    fn apply(&mut self, committed: CommittedEntry) -> Result<(), MetaError> {
        let entry = match committed.data.as_slice() {
            // A new leader's first entry, or a change of members.
            [] => None,
            data => Some(LogEntry::from_bytes(data).map_err(KvError::from)?),
        };
        self.held_bytes += committed.data.len() as u64;
        let proposed = self.proposed(&committed.context);
        if proposed.is_none() {
            self.last_entry = Instant::now();
            self.appended_bytes += committed.data.len() as u64;
        }
        if let Some(proposed) = &proposed {
            self.metrics.commit_seconds.observe(proposed.at.elapsed().as_secs_f64());
        }
        let start = Instant::now();
        let applied = {
            let state = self.store.state.read().unwrap_or_else(PoisonError::into_inner);
            let applied = apply(&self.heads.over(&*state, committed.index), committed.index, entry)?;
            state.write(&applied.batch, Durability::Buffered)?;
            self.heads.wrote(&applied.batch, committed.index);
            applied
        };
        self.metrics.apply_seconds.observe(start.elapsed().as_secs_f64());
        self.metrics.entries.inc();
        self.metrics.requests.inc_by(applied.outcomes.len() as u64);
        let rejected =
            applied.outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Rejected(_))).count();
        self.metrics.rejections.inc_by(rejected as u64);
        self.applied = committed.index;
        self.cluster_version.store(applied.header.cluster_version, Ordering::Release);
        self.metrics.applied_index.set(committed.index as i64);
        self.metrics.collection_stopped.set(i64::from(applied.header.collection_stopped.is_some()));
        if let Some(proposed) = proposed {
            proposed.answer(applied.outcomes);
        }
        Ok(())
    }

    /// The pending proposal that an entry was marked with, if it was made here, in this life.
    fn proposed(&mut self, context: &[u8]) -> Option<Proposed> {
        let mark = context.strip_prefix(self.boot.as_slice())?;
        let mark = u64::from_be_bytes(mark.try_into().ok()?);
        // Those before it were dropped with an earlier term.
        while self.pending.front().is_some_and(|entry| entry.mark < mark) {
            if let Some(lost) = self.pending.pop_front() {
                lost.fail(|| MetaError::LostLeadership);
            }
        }
        self.pending.pop_front_if(|entry| entry.mark == mark)
    }

    pub fn publish(&self) {
        let log = self.pump.log();
        let mut status = self.status.write().unwrap_or_else(PoisonError::into_inner);
        status.leader = self.pump.leader();
        status.leads = self.pump.leads();
        status.alone = self.pump.leads_alone();
        status.term = self.pump.term();
        status.applied = self.applied;
        if status.voters != log.voters() || status.learners != log.learners() {
            status.voters = log.voters().to_vec();
            status.learners = log.learners().to_vec();
        }
        status.caught_up.clear();
        if !status.learners.is_empty() {
            status.caught_up = self.pump.learners_within(100);
        }
    }
}

async fn fetch(peers: &dyn Peers, ticket: Ticket, family: &Family, index: u64) -> Result<(), MetaError> {
    let mut after = Vec::new();
    loop {
        let bytes = peers.page(MemberId(ticket.member), ticket.snapshot, after).await;
        let page = Page::from_bytes(&bytes.map_err(MetaError::Snapshot)?)?;
        page.store(family)?;
        match page.records.last() {
            Some((key, _)) if !page.last => after = key.clone(),
            Some(_) | None => break,
        }
    }
    let found = query::header(family)?.map(|header| header.applied_index);
    if found == Some(index) {
        return Ok(());
    }
    Err(MetaError::Snapshot(format!("it is of entry {found:?}, and entry {index} was promised")))
}
