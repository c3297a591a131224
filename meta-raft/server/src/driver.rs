//! The thread that owns a member: it collects requests, lets the pump make them durable, applies them and answers.

use crate::{MetaConfig, MetaError, MetaMetrics, watermark};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use holdfast_core::{
    kv::{Durability, Store},
    limits::RAFT_ENTRY_BYTES_MAX,
};
use holdfast_kv::{Database, Family, Snapshot, durable, fail_stop};
use holdfast_meta_raft_machine::{
    apply,
    command::{Command, LogEntry, NewContent, Outcome, Request},
    query,
};
use holdfast_meta_raft_pump::{
    CommittedEntry, MemberId, Pump, PumpConfig, RaftLog, SnapshotSource, TakenSnapshot,
};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::oneshot;

/// Submissions that wait for the thread; more are refused, and their clients told to slow down.
const QUEUE: usize = 65_536;

/// Submissions that are looked at for one turn of the thread.
const TURN: usize = 4096;

/// How long a tick of raft is. A group of one needs none; the thread wakes for them all the same, so that the code is one.
const TICK: Duration = Duration::from_millis(100);

/// The log is compacted when so many bytes were appended since the last time: what goes soon enough is never written
/// to a table file.
const COMPACT_EVERY_BYTES: u64 = 4 << 20;

/// Table files up to this size are verified before serving; larger ones are verified by the auditor while serving.
const VERIFY_AT_START_BYTES: u64 = 256 << 20;

const STATE: &str = "state";
const LOG: &str = "log";

/// Requests that are answered together, in order.
struct Submission {
    requests: Vec<Request>,
    answer: oneshot::Sender<Vec<Outcome>>,
}

/// A running member.
pub struct MetaNode {
    handle: MetaHandle,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// How others in the process use the metadata. Cheap to clone.
#[derive(Clone)]
pub struct MetaHandle {
    state: Family,
    database: Database,
    queue: Option<Sender<Submission>>,
    metrics: MetaMetrics,
}

impl MetaNode {
    /// Opens the store in `config.dir`, checks it, and starts the member, which leads when this returns.
    ///
    /// # Errors
    /// Where the store is damaged or incomplete. Nothing has been changed then.
    pub fn start(config: &MetaConfig, metrics: MetaMetrics) -> Result<Self, MetaError> {
        let io = |source| MetaError::Io { path: config.dir.clone(), source };
        durable::create_dir(&config.dir).map_err(io)?;
        let mark_path = config.dir.join("watermark");
        let mark = watermark::read(&mark_path)
            .map_err(|source| MetaError::Io { path: mark_path.clone(), source })?;
        let database = Database::open(&config.dir.join("db"), &config.tuning, &[STATE, LOG])?;
        if database.table_bytes() <= VERIFY_AT_START_BYTES {
            database.verify()?;
        }
        let state = database.family(STATE);
        let me = MemberId(1);
        let log = RaftLog::open(database.family(LOG), NoSnapshots, &[me], mark)?;
        let applied = query::header(&state)?.map_or(log.compacted(), |header| header.applied_index);
        let pump_config = PumpConfig {
            id: me,
            election_ticks: 10,
            heartbeat_ticks: 3,
            seed: u64::from(std::process::id()),
            applied,
        };
        let pump = Pump::new(&pump_config, log)?;
        let keeper = watermark::Keeper::start(&mark_path, mark).map_err(io)?;

        let (sender, receiver) = bounded(QUEUE);
        let handle =
            MetaHandle { state: state.clone(), database, queue: Some(sender), metrics: metrics.clone() };
        let stop = Arc::new(AtomicBool::new(false));
        let mut driver = Driver {
            pump,
            state,
            queue: receiver,
            pending: VecDeque::new(),
            keeper,
            appended_bytes: 0,
            applied,
            last_proposal: Instant::now(),
            stop: stop.clone(),
            metrics,
        };
        driver.drain()?;
        let thread =
            thread::Builder::new().name("raft".to_owned()).spawn(move || driver.run()).map_err(io)?;
        Ok(Self { handle, stop, thread: Some(thread) })
    }

    pub fn handle(&self) -> MetaHandle {
        self.handle.clone()
    }
}

impl Drop for MetaNode {
    /// Stops the thread, whoever still holds a handle: what they submit is refused from then on.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the metadata thread panicked");
        }
    }
}

impl MetaHandle {
    /// Has the group agree on `requests` and apply them; durable when the future ends. They are queued, in order and
    /// behind what was queued before, when this returns: whoever submits next is behind them.
    ///
    /// # Errors
    /// The future's: [`MetaError::Busy`] where too much is queued, and [`MetaError::Stopped`] where the member stopped,
    /// when it is unknown whether they were applied.
    pub fn submit(
        &self,
        requests: Vec<Request>,
    ) -> impl Future<Output = Result<Vec<Outcome>, MetaError>> + Send + use<> {
        let (answer, outcome) = oneshot::channel();
        let queued = match &self.queue {
            None => Err(MetaError::Stopped),
            Some(queue) => queue.try_send(Submission { requests, answer }).map_err(|error| match error {
                TrySendError::Full(_) => MetaError::Busy,
                TrySendError::Disconnected(_) => MetaError::Stopped,
            }),
        };
        async move {
            queued?;
            outcome.await.map_err(|_| MetaError::Stopped)
        }
    }

    /// Submits one request; see [`MetaHandle::submit`].
    ///
    /// # Errors
    /// As [`MetaHandle::submit`].
    pub async fn request(&self, request: Request) -> Result<Outcome, MetaError> {
        self.submit(vec![request]).await?.pop().ok_or(MetaError::Stopped)
    }

    /// The newest state, unmoved by later writes. Linearizable: this member is the only voter, and what it has applied
    /// includes all that was ever acknowledged.
    pub fn view(&self) -> Snapshot<'_> {
        self.state.snapshot()
    }

    /// The newest state, of which each read may be newer than the one before.
    pub fn latest(&self) -> &Family {
        &self.state
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    pub(crate) fn metrics(&self) -> &MetaMetrics {
        &self.metrics
    }
}

/// A group of one has nobody to send snapshots to.
struct NoSnapshots;

impl SnapshotSource for NoSnapshots {
    fn take(&self) -> Option<TakenSnapshot> {
        None
    }
}

struct Driver {
    pump: Pump<Family, NoSnapshots>,
    state: Family,
    queue: Receiver<Submission>,
    /// What was proposed and is not applied yet, in log order.
    pending: VecDeque<Proposed>,
    keeper: watermark::Keeper,
    /// Since the log was compacted.
    appended_bytes: u64,
    applied: u64,
    last_proposal: Instant,
    stop: Arc<AtomicBool>,
    metrics: MetaMetrics,
}

/// One entry's requests belong to these submissions.
struct Proposed {
    at: Instant,
    answers: Vec<Answer>,
}

/// A submission's outcomes so far; `sender` is there in its last entry.
struct Answer {
    outcomes: usize,
    done: Arc<std::sync::Mutex<Vec<Outcome>>>,
    sender: Option<oneshot::Sender<Vec<Outcome>>>,
}

impl Driver {
    fn run(mut self) {
        while !self.stop.load(Ordering::Acquire) {
            match self.queue.recv_timeout(TICK) {
                Ok(first) => self.propose(first),
                Err(RecvTimeoutError::Timeout) => self.pump.tick(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if let Err(error) = self.drain() {
                fail_stop("the metadata log or state", &error);
            }
        }
    }

    /// Proposes `first` and everything that waits behind it, in entries of bounded size.
    fn propose(&mut self, first: Submission) {
        let mut entry = EntryBuilder::default();
        let waiting = std::iter::once(first).chain(self.queue.try_iter().take(TURN)).collect::<Vec<_>>();
        for submission in waiting {
            let done = Arc::new(std::sync::Mutex::new(Vec::with_capacity(submission.requests.len())));
            let mut outcomes = 0;
            for request in submission.requests {
                let bytes = size_of(&request.command);
                if entry.bytes + bytes > RAFT_ENTRY_BYTES_MAX && !entry.requests.is_empty() {
                    entry.answers.push(Answer { outcomes, done: done.clone(), sender: None });
                    outcomes = 0;
                    self.propose_entry(std::mem::take(&mut entry));
                }
                entry.bytes += bytes;
                entry.requests.push(request);
                outcomes += 1;
            }
            entry.answers.push(Answer { outcomes, done, sender: Some(submission.answer) });
        }
        self.propose_entry(entry);
    }

    fn propose_entry(&mut self, entry: EntryBuilder) {
        let stamp_ms =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let elapsed_ms = self.last_proposal.elapsed().as_millis() as u64;
        // What is less than a millisecond is counted with the next entry.
        self.last_proposal += Duration::from_millis(elapsed_ms);
        let data = LogEntry { stamp_ms, elapsed_ms, requests: entry.requests }.to_bytes();
        self.appended_bytes += data.len() as u64;
        match self.pump.propose(Vec::new(), data) {
            Ok(()) => self.pending.push_back(Proposed { at: Instant::now(), answers: entry.answers }),
            // The senders are dropped, and their submitters told that the service stopped.
            Err(error) => tracing::error!(%error, "an entry could not be proposed"),
        }
    }

    fn drain(&mut self) -> Result<(), MetaError> {
        while let Some(work) = self.pump.poll()? {
            self.keeper.raise(self.pump.log().last());
            for entry in work.apply {
                let index = entry.index;
                self.apply(entry)?;
                self.pump.applied(index);
            }
        }
        let log = self.pump.log();
        let applied = self.applied;
        self.metrics.log_entries.set((log.last() - log.compacted()) as i64);
        if self.appended_bytes >= COMPACT_EVERY_BYTES {
            self.appended_bytes = 0;
            self.pump.compact(applied)?;
        }
        Ok(())
    }

    fn apply(&mut self, committed: CommittedEntry) -> Result<(), MetaError> {
        let entry = match committed.data.as_slice() {
            // A new leader's first entry.
            [] => None,
            data => Some(LogEntry::from_bytes(data).map_err(holdfast_core::kv::KvError::from)?),
        };
        let proposed = entry.is_some().then(|| self.pending.pop_front()).flatten();
        if let Some(proposed) = &proposed {
            self.metrics.commit_seconds.observe(proposed.at.elapsed().as_secs_f64());
        }
        let start = Instant::now();
        let applied = apply(&self.state, committed.index, entry)?;
        self.state.write(&applied.batch, Durability::Buffered)?;
        self.metrics.apply_seconds.observe(start.elapsed().as_secs_f64());
        self.metrics.entries.inc();
        self.metrics.requests.inc_by(applied.outcomes.len() as u64);
        let rejected =
            applied.outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Rejected(_))).count();
        self.metrics.rejections.inc_by(rejected as u64);
        self.applied = committed.index;
        self.metrics.applied_index.set(committed.index as i64);
        self.metrics.collection_stopped.set(i64::from(applied.header.collection_stopped.is_some()));
        if let Some(proposed) = proposed {
            answer(proposed.answers, applied.outcomes);
        }
        Ok(())
    }
}

/// Gives each submission its share of the entry's outcomes.
fn answer(answers: Vec<Answer>, outcomes: Vec<Outcome>) {
    let mut outcomes = outcomes.into_iter();
    for Answer { outcomes: count, done, sender } in answers {
        let mut so_far = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        so_far.extend(outcomes.by_ref().take(count));
        if let Some(sender) = sender {
            // Nobody may be waiting any more: the request was cancelled, and is applied all the same.
            let _unheard = sender.send(std::mem::take(&mut so_far));
        }
    }
}

#[derive(Default)]
struct EntryBuilder {
    requests: Vec<Request>,
    answers: Vec<Answer>,
    bytes: usize,
}

/// An upper estimate of a command's encoded bytes.
fn size_of(command: &Command) -> usize {
    const FRAME: usize = 512;
    let variable = match command {
        Command::PutObject { key, object, .. } => {
            let content = match &object.content {
                NewContent::Inline(bytes) => bytes.len(),
                NewContent::Segments(segments) => segments.len() * 32,
            };
            key.len() + content + attributes_size(&object.attributes) + object.parts.len() * 64
        }
        Command::RegisterPack(pack) => pack.chunks.len() * 72,
        Command::RegisterSegment { chunks, .. } => chunks.len() * 40,
        Command::CreateUpload { key, attributes, .. } => key.len() + attributes_size(attributes),
        Command::PutPart { key, segments, .. } => key.len() + segments.len() * 32,
        Command::CompleteUpload { key, parts, .. } => key.len() + parts.len() * 24,
        Command::ReportShards { shards } => shards.len() * 24,
        Command::DeletePacks { packs } | Command::TombstonePacks { packs } => packs.len() * 20,
        Command::CreatePool { pgs, .. } => pgs.iter().map(|(_, pg)| 16 + pg.devices.len() * 5).sum(),
        Command::CreateBucket { .. }
        | Command::DeleteBucket { .. }
        | Command::DeleteObject { .. }
        | Command::AbortUpload { .. }
        | Command::HoldLease { .. }
        | Command::DropLease { .. }
        | Command::Collect { .. }
        | Command::RepairShards { .. }
        | Command::PutDevice { .. }
        | Command::ReplaceDevice { .. }
        | Command::StopCollection { .. }
        | Command::ResumeCollection
        | Command::RaiseClusterVersion { .. } => holdfast_core::limits::KEY_BYTES_MAX,
    };
    FRAME + variable
}

fn attributes_size(attributes: &holdfast_meta_raft_machine::records::Attributes) -> usize {
    let fixed = [
        &attributes.content_type,
        &attributes.cache_control,
        &attributes.content_disposition,
        &attributes.content_encoding,
        &attributes.content_language,
        &attributes.expires,
    ];
    let fixed: usize = fixed.into_iter().flatten().map(String::len).sum();
    fixed + attributes.user.iter().map(|(name, value)| name.len() + value.len() + 8).sum::<usize>()
}
