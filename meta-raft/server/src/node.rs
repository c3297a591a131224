//! A member as the rest of its process sees it.

use crate::{
    MetaConfig, MetaError, MetaMetrics,
    driver::{Driver, GroupStatus, Input, Peers},
    gate::Gated,
    heads::Heads,
    proposals::Submission,
    reads::Reads,
    snapshots::{END, Snapshots},
    store::{MetaStore, State},
    watermark,
};
use crossbeam_channel::{Sender, TrySendError, bounded};
use holdfast_core::{ids::HostId, kv::View};
use holdfast_kv::{Database, Family, durable};
use holdfast_meta_raft_machine::{
    ask::{Ask, Question},
    command::{Outcome, Request},
    query,
};
use holdfast_meta_raft_pump::{
    LogError, LoggedEntry, MemberChange, MemberId, Pump, PumpConfig, RaftLog, read_entries,
};
use std::{
    collections::VecDeque,
    ops::ControlFlow,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};
use tokio::sync::oneshot;

/// Inputs that wait for the thread; more are refused, and their clients told to slow down.
const QUEUE: usize = 65_536;

/// Table files up to this size are verified before serving; larger ones are verified by the auditor while serving.
const VERIFY_AT_START_BYTES: u64 = 256 << 20;

/// Ticks without a leader before an election: 0.6 to 1.2 s.
const ELECTION_TICKS: usize = 12;
const HEARTBEAT_TICKS: usize = 2;

/// A running member.
pub struct MetaNode {
    handle: MetaHandle,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// How others in the process use the metadata. Cheap to clone.
#[derive(Clone)]
pub struct MetaHandle {
    state: State,
    database: Database,
    inputs: Sender<Input>,
    status: Arc<RwLock<GroupStatus>>,
    snapshots: Snapshots,
    metrics: MetaMetrics,
    log: Family,
    archived: Arc<AtomicU64>,
    archived_until: Arc<AtomicU64>,
    cluster_version: Arc<AtomicU32>,
}

impl MetaNode {
    /// Opens the store in `config.dir`, checks it, and starts the member. The only member of a group leads when this
    /// returns.
    ///
    /// # Errors
    /// Where the store is damaged or incomplete. Nothing has been changed then.
    pub fn start(
        config: &MetaConfig,
        peers: Arc<dyn Peers>,
        metrics: MetaMetrics,
    ) -> Result<Self, MetaError> {
        let io = |source| MetaError::Io { path: config.dir.clone(), source };
        durable::create_dir(&config.dir).map_err(io)?;
        let mark_path = config.dir.join("watermark");
        let mark = watermark::read(&mark_path)
            .map_err(|source| MetaError::Io { path: mark_path.clone(), source })?;
        let mut store = MetaStore::open(&config.dir.join("db"), &config.tuning)?;
        if store.database.table_bytes() <= VERIFY_AT_START_BYTES {
            store.database.verify()?;
        }
        let me = config.member;
        let snapshots = Snapshots::new(me, config.boot, store.state.clone());
        let first = [me];
        let bootstrap: &[MemberId] = if config.founds { &first } else { &[] };
        let log = RaftLog::open(store.log.clone(), snapshots.clone(), bootstrap, mark)?;
        store.install(log.compacted())?;
        let version = {
            let state = store.state.read().unwrap_or_else(PoisonError::into_inner);
            query::header(&*state)?.map_or(0, |header| header.cluster_version)
        };
        let applied = match store.applied()? {
            Some(applied) => applied,
            // Nothing was ever applied: so it must begin where every log begins.
            None if log.compacted() <= 1 => log.compacted(),
            None => {
                let text = format!("it begins behind entry {}, and there is no state", log.compacted());
                return Err(LogError::Damaged(text).into());
            }
        };
        let pump_config = PumpConfig {
            id: me,
            election_ticks: ELECTION_TICKS,
            heartbeat_ticks: HEARTBEAT_TICKS,
            // Members differ, so that they do not stand for election at once for ever.
            seed: me.0.wrapping_mul(5),
            applied,
        };
        let pump = Pump::new(&pump_config, log)?;
        let keeper = watermark::Keeper::start(&mark_path, mark).map_err(io)?;

        let (sender, receiver) = bounded(QUEUE);
        let status = Arc::new(RwLock::new(GroupStatus::default()));
        let handle = MetaHandle {
            state: store.state.clone(),
            database: store.database.clone(),
            inputs: sender.clone(),
            status: status.clone(),
            snapshots,
            metrics: metrics.clone(),
            log: store.log.clone(),
            archived: Arc::new(AtomicU64::new(u64::MAX)),
            archived_until: Arc::default(),
            cluster_version: Arc::new(AtomicU32::new(version)),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let mut driver = Driver {
            me,
            term: pump.term(),
            pump,
            store,
            inputs: receiver,
            back: sender,
            peers,
            runtime: tokio::runtime::Handle::try_current().ok(),
            status,
            snapshots: handle.snapshots.clone(),
            keeper,
            stop: stop.clone(),
            metrics,
            boot: config.boot,
            pending: VecDeque::new(),
            marks: 0,
            reads: Reads::default(),
            appended_bytes: 0,
            held_bytes: 0,
            applied,
            last_entry: Instant::now(),
            heads: Heads::default(),
            gathering: false,
            archived: handle.archived.clone(),
            cluster_version: handle.cluster_version.clone(),
        };
        driver.drain()?;
        driver.publish();
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
    fn send(&self, input: Input) -> Result<(), MetaError> {
        self.inputs.try_send(input).map_err(|error| match error {
            TrySendError::Full(_) => MetaError::Busy,
            TrySendError::Disconnected(_) => MetaError::Stopped,
        })
    }

    /// Has the group agree on `requests` and apply them; durable when the future ends. They are queued, in order and
    /// behind what was queued before, when this returns: whoever submits next is behind them.
    ///
    /// # Errors
    /// The future's: [`MetaError::NotLeader`] and [`MetaError::Busy`] where they were not proposed; otherwise it is
    /// unknown whether they are applied.
    pub fn submit(
        &self,
        requests: Vec<Request>,
    ) -> impl Future<Output = Result<Vec<Outcome>, MetaError>> + Send + use<> {
        let (answer, outcome) = oneshot::channel();
        let mut gated = Gated::new(requests, self.cluster_version());
        let requests = std::mem::take(&mut gated.allowed);
        let queued = match requests.is_empty() {
            true => Ok(false),
            false => self.send(Input::Submit(Submission { requests, answer })).map(|()| true),
        };
        async move {
            let outcomes = if queued? { outcome.await.map_err(|_| MetaError::Stopped)?? } else { Vec::new() };
            Ok(gated.merge(outcomes))
        }
    }

    /// Submits one request; see [`MetaHandle::submit`].
    ///
    /// # Errors
    /// As [`MetaHandle::submit`].
    pub async fn request(&self, request: Request) -> Result<Outcome, MetaError> {
        self.submit(vec![request]).await?.pop().ok_or(MetaError::Stopped)
    }

    /// The version that all members understand, as far as this one has applied; 0 before anything is.
    pub fn cluster_version(&self) -> u32 {
        self.cluster_version.load(Ordering::Acquire)
    }

    /// Waits until this member's state is as new as any that was acknowledged before the call.
    async fn catch_up(&self) -> Result<(), MetaError> {
        // Nobody else can have led since, and what was acknowledged is applied.
        if self.status.read().unwrap_or_else(PoisonError::into_inner).alone {
            return Ok(());
        }
        let (reader, ready) = oneshot::channel();
        self.send(Input::Read(reader))?;
        ready.await.map_err(|_| MetaError::Stopped)
    }

    /// The linearizable answer to a question.
    ///
    /// # Errors
    /// Where the state cannot be read, or the member stops.
    pub async fn ask<Q: Question>(&self, question: Q) -> Result<Q::Answer, MetaError> {
        self.catch_up().await?;
        self.read(Q::SINGLE, |view| question.answer(view))
    }

    /// As [`MetaHandle::ask`], encoded.
    ///
    /// # Errors
    /// As [`MetaHandle::ask`].
    pub async fn ask_any(&self, ask: &Ask) -> Result<Vec<u8>, MetaError> {
        self.catch_up().await?;
        self.read(ask.is_single(), |view| ask.answer(view))
    }

    /// What this member knows, which may be old.
    ///
    /// # Errors
    /// Where the state cannot be read.
    pub fn glance<Q: Question>(&self, question: &Q) -> Result<Q::Answer, MetaError> {
        self.read(Q::SINGLE, |view| question.answer(view))
    }

    fn read<T>(
        &self,
        single: bool,
        read: impl FnOnce(&dyn View) -> Result<T, holdfast_core::kv::KvError>,
    ) -> Result<T, MetaError> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        // A single read is consistent by itself.
        Ok(if single { read(&*state)? } else { read(&state.snapshot())? })
    }

    /// What the group looks like from here.
    pub fn status(&self) -> GroupStatus {
        self.status.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a host belongs to the group, with a vote or without.
    pub fn is_member(&self, host: HostId) -> bool {
        let status = self.status.read().unwrap_or_else(PoisonError::into_inner);
        status.voters.contains(&host.0) || status.learners.contains(&host.0)
    }

    pub fn leads(&self) -> bool {
        self.status.read().unwrap_or_else(PoisonError::into_inner).leads
    }

    /// Takes a message of another member.
    ///
    /// # Errors
    /// Where too much waits, or the member stopped: the message is lost, as on a network.
    pub fn receive(&self, message: Vec<u8>) -> Result<(), MetaError> {
        self.send(Input::Raft(message))
    }

    /// A page of a snapshot that is held for another member.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn snapshot_page(&self, snapshot: u64, after: &[u8]) -> Result<Option<Vec<u8>>, MetaError> {
        self.snapshots.page(snapshot, after)
    }

    /// Proposes a change of members.
    ///
    /// # Errors
    /// Where this member does not lead, or another change is under way.
    pub async fn change(&self, change: MemberChange) -> Result<(), MetaError> {
        let (answer, result) = oneshot::channel();
        self.send(Input::Change(change, answer))?;
        result.await.map_err(|_| MetaError::Stopped)?
    }

    /// Hands leadership to another voter.
    ///
    /// # Errors
    /// Where the member stopped.
    pub fn transfer_leader(&self, to: MemberId) -> Result<(), MetaError> {
        self.send(Input::TransferLeader(to))
    }

    /// Committed entries behind `after`, up to some `bytes` of them; `None` where they were compacted away.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub fn entries(&self, after: u64, bytes: usize) -> Result<Option<Vec<LoggedEntry>>, MetaError> {
        let applied = self.status.read().unwrap_or_else(PoisonError::into_inner).applied;
        Ok(read_entries(&self.log, after + 1, applied, bytes)?)
    }

    /// Tells the log how far the archive is: what is behind that is not compacted away.
    pub fn archived(&self, upto: u64) {
        self.archived.store(upto, Ordering::Release);
    }

    /// Takes note that everything committed before a time, in milliseconds since 1970, is in the archive; 0 where this member
    /// does not know.
    pub fn archived_until(&self, unix_ms: u64) {
        self.metrics.archived_until.set((unix_ms / 1000) as i64);
        self.archived_until.store(unix_ms, Ordering::Release);
    }

    pub(crate) fn known_archived_until(&self) -> u64 {
        self.archived_until.load(Ordering::Acquire)
    }

    /// Gives the state as it is now, in pages of up to some `bytes` and in key order, to `take` until that answers false.
    /// Blocks. Returns the last entry in the state.
    ///
    /// # Errors
    /// Where the state cannot be read.
    pub fn export(
        &self,
        bytes: usize,
        mut take: impl FnMut(Vec<(Vec<u8>, Vec<u8>)>) -> bool,
    ) -> Result<u64, MetaError> {
        let state = self.state();
        let view = state.snapshot();
        let index = query::header(&view)?.map_or(0, |header| header.applied_index);
        let (mut page, mut size, mut wanted) = (Vec::new(), 0, true);
        view.scan(&[], &END, &mut |key, value| {
            size += key.len() + value.len();
            page.push((key.to_vec(), value.to_vec()));
            if size >= bytes {
                size = 0;
                wanted = take(std::mem::take(&mut page));
            }
            if wanted { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        if wanted && !page.is_empty() {
            take(page);
        }
        Ok(index)
    }

    /// The state as it is here now.
    pub(crate) fn state(&self) -> Family {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    pub(crate) fn metrics(&self) -> &MetaMetrics {
        &self.metrics
    }
}
