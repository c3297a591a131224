//! Archiving the metadata into the pool, as it is committed.
//!
//! Runs on every member and works on the leader. A leader's run has a stream of its own, so that two that believe they lead
//! never write under one name. The order is what makes it recoverable: a root that names the stream is on most devices before
//! anything is in the stream, and a whole state is in the archive before a root names it.

mod writer;

use crate::{
    clock::unix_ms,
    engine::{Engine, EngineError},
};
use bytes::Bytes;
use holdfast_core::ids::{DeviceId, Incarnation};
use holdfast_meta_raft_archive::{
    ArchiveKey, Contents, LoggedEntry, Piece, Root, RootVersion, StreamId, is_worth_archiving,
};
use holdfast_meta_raft_machine::{
    ask::{ArchiveNow, AuthorityNow, KeyringNow, TopologyNow},
    command::{Command, LogEntry},
    records::{Archive, ArchivedState, Keyring, LogStream},
};
use holdfast_meta_raft_server::MetaHandle;
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use writer::Writer;

/// How often the log is looked at: what was committed is in the archive so much later, and a pack's writing.
const PACE: Duration = Duration::from_millis(500);

/// The longest pause after failures.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Plain bytes of the log in one piece, roughly.
const PIECE_BYTES: usize = 1 << 20;

/// The log is archived though nothing in it is new but the archive's own, once there are so many entries of it.
const IDLE_ENTRIES: usize = 2000;

/// A whole state is archived again once so much of the log is behind it, at least, and as much as the state itself.
const STATE_AFTER_BYTES: u64 = 4 << 20;

/// Streams behind one state.
const STREAMS_MAX: usize = 16;

/// How often devices without the newest root are looked for, and changes of hosts.
const ROOT_PACE: Duration = Duration::from_secs(10);

/// Archives the metadata of the member in this process while it leads.
pub struct Archivist {
    meta: MetaHandle,
    engine: Engine,
    cluster: String,
    /// Of roots: a later run of the same term must not be taken for an earlier one.
    counter: AtomicU64,
}

/// A whole state that is being written.
struct StateOnItsWay {
    task: JoinHandle<Result<(ArchivedState, u64), EngineError>>,
    stream: StreamId,
    /// What is behind it in the log.
    behind: LogStream,
}

impl Drop for StateOnItsWay {
    /// What nobody will note need not be written.
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One leader's archiving.
struct Run {
    term: u64,
    keyring: Keyring,
    key: ArchiveKey,
    stream: StreamId,
    /// The number of the next piece of the stream.
    piece: u64,
    archive: Archive,
    /// The archive has no gap. As long as it has one, nobody is told of it.
    whole: bool,
    state: Option<StateOnItsWay>,
    /// Bytes of the log since the last whole state, and bytes of that.
    logged: u64,
    state_bytes: u64,
    root: Option<CurrentRoot>,
    writer: Writer,
}

/// The root that devices should have.
struct CurrentRoot {
    version: RootVersion,
    contents: Contents,
    bytes: Bytes,
    /// A disk that was replaced has none.
    on: BTreeSet<(DeviceId, Incarnation)>,
    /// Most devices have it.
    settled: bool,
    looked: Instant,
}

impl Archivist {
    /// An archivist of the cluster that calls itself `cluster`.
    pub fn new(meta: MetaHandle, engine: Engine, cluster: String) -> Self {
        Self { meta, engine, cluster, counter: AtomicU64::new(0) }
    }

    /// Archives until the future is dropped.
    ///
    /// # Errors
    /// Where the metadata store is damaged or the member stops.
    pub async fn run(self) -> Result<(), EngineError> {
        let mut ticks = interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut run: Option<Run> = None;
        let mut complained: Option<Instant> = None;
        let mut pause = Duration::ZERO;
        loop {
            ticks.tick().await;
            tokio::time::sleep(pause).await;
            let status = self.meta.status();
            let Some(keyring) = self.meta.glance(&KeyringNow {})? else { continue };
            if !status.leads {
                run = None;
                self.meta.archived_until(0);
                self.meta.archived(self.meta.glance(&ArchiveNow {})?.upto);
                continue;
            }
            let current = run.take().filter(|run| run.term == status.term && run.keyring == keyring);
            let result = match current {
                Some(mut current) => self.step(&mut current).await.map(|()| current),
                None => self.begin(status.term, keyring).await,
            };
            match result {
                Ok(current) => {
                    self.meta.archived(current.archive.upto);
                    run = Some(current);
                    (complained, pause) = (None, Duration::ZERO);
                }
                Err(EngineError::Kv(error)) => return Err(error.into()),
                Err(EngineError::Meta(error)) if !error.is_passing() => return Err(error.into()),
                // Another run begins where the archive ends, the later the longer this goes on.
                Err(error) => {
                    pause = (pause + PACE).min(PAUSE_MAX);
                    if complained.is_none_or(|at| at.elapsed() > Duration::from_secs(60)) {
                        tracing::warn!(%error, "the metadata cannot be archived now: it is tried again");
                        complained = Some(Instant::now());
                    }
                }
            }
        }
    }

    async fn begin(&self, term: u64, keyring: Keyring) -> Result<Run, EngineError> {
        let key = ArchiveKey::new(keyring.archive);
        let writer = Writer::new(self.meta.clone(), self.engine.clone(), key.clone()).await?;
        let mut archive = self.meta.ask(ArchiveNow {}).await?;
        let stream: StreamId = rand::random();
        // Another key's archive is of no use, and neither is one behind which the log is gone.
        let same_key = archive.state.is_some() && writer.has(&archive).await?;
        let whole = same_key && self.meta.entries(archive.upto, 0)?.is_some();
        if !whole {
            let upto = self.meta.status().applied;
            archive = Archive { state: None, logs: Vec::new(), upto };
        }
        // A stream that has nothing is not needed.
        archive.logs.retain(|log| log.index <= archive.upto);
        archive.logs.push(LogStream { stream, piece: 0, index: archive.upto + 1 });
        let run = Run {
            term,
            keyring,
            key,
            stream,
            piece: 0,
            archive,
            whole,
            state: None,
            logged: 0,
            state_bytes: 0,
            root: None,
            writer,
        };
        if run.whole {
            run.writer.commit(vec![Command::NoteArchive { archive: run.archive.clone() }]).await?;
        }
        tracing::info!(from = run.archive.upto + 1, whole, "archiving the metadata");
        Ok(run)
    }

    async fn step(&self, run: &mut Run) -> Result<(), EngineError> {
        self.finish_state(run).await?;
        if run.whole && !self.keep_root(run).await? {
            // What no root leads to is not archived.
            return Ok(());
        }
        let began = unix_ms();
        while self.archive_log(run).await? {}
        self.meta.archived_until(if run.whole { began } else { 0 });
        let due = run.logged > STATE_AFTER_BYTES.max(run.state_bytes) || run.archive.logs.len() > STREAMS_MAX;
        if run.state.is_none() && (!run.whole || due) {
            let behind = LogStream { stream: run.stream, piece: run.piece, index: run.archive.upto + 1 };
            let (writer, stream) = (run.writer.clone(), rand::random());
            run.state =
                Some(StateOnItsWay { task: tokio::spawn(writer.write_state(stream)), stream, behind });
        }
        Ok(())
    }

    /// Archives some of the log; whether there may be more.
    async fn archive_log(&self, run: &mut Run) -> Result<bool, EngineError> {
        let entries = self.meta.entries(run.archive.upto, PIECE_BYTES)?;
        let Some(entries) = entries else {
            return Err(EngineError::Archive("the log was compacted before it was archived"));
        };
        let Some(last) = entries.last().map(|entry| entry.index) else { return Ok(false) };
        let bytes: usize = entries.iter().map(|entry| entry.data.len()).sum();
        let worth = |data: &[u8]| {
            LogEntry::from_bytes(data).is_ok_and(|entry| is_worth_archiving(&entry, run.writer.bucket))
        };
        let full = bytes >= PIECE_BYTES || entries.len() >= IDLE_ENTRIES;
        if !full && !entries.iter().any(|entry| worth(&entry.data)) {
            return Ok(false);
        }
        let logged = |entry: holdfast_meta_raft_server::LoggedEntry| LoggedEntry {
            index: entry.index,
            term: entry.term,
            data: entry.data,
        };
        let piece = Piece::Log(entries.into_iter().map(logged).collect());
        let archive = Archive { upto: last, ..run.archive.clone() };
        let note = run.whole.then(|| Command::NoteArchive { archive: archive.clone() });
        run.writer.write(&run.stream, run.piece, &piece, note).await?;
        run.piece += 1;
        run.archive = archive;
        run.logged += bytes as u64;
        Ok(full)
    }

    /// Takes note of a whole state that has arrived.
    async fn finish_state(&self, run: &mut Run) -> Result<(), EngineError> {
        let Some(mut finished) = run.state.take_if(|state| state.task.is_finished()) else { return Ok(()) };
        let behind = finished.behind;
        let (state, bytes) = (&mut finished.task).await.map_err(|_| EngineError::ShuttingDown)??;
        // It was taken in this run: of the log, what is behind it is in this run's stream.
        run.archive = Archive { state: Some(state), logs: vec![behind], upto: run.archive.upto };
        (run.whole, run.logged, run.state_bytes) = (true, 0, bytes);
        run.writer.commit(vec![Command::NoteArchive { archive: run.archive.clone() }]).await?;
        tracing::info!(
            index = state.index,
            pieces = state.pieces,
            bytes,
            "a whole state of the metadata is archived"
        );
        Ok(())
    }

    /// Brings the newest root to the devices; whether most have it.
    async fn keep_root(&self, run: &mut Run) -> Result<bool, EngineError> {
        if let Some(root) = &run.root
            && root.settled
            && root.contents.archive.state == run.archive.state
            && root.contents.archive.logs == run.archive.logs
            && root.looked.elapsed() < ROOT_PACE
        {
            return Ok(true);
        }
        let topology = self.meta.glance(&TopologyNow {})?;
        let Some(pool) = topology.pool.clone() else { return Ok(false) };
        let authority = self.meta.glance(&AuthorityNow {})?;
        let devices = topology.devices.iter().map(|(id, device)| (*id, device.host)).collect();
        let archive = Archive { upto: 0, ..run.archive.clone() };
        let hosts = topology.hosts.clone();
        let contents = Contents { authority, pool, hosts, devices, archive };
        let changed = run.root.as_ref().is_none_or(|root| root.contents != contents);
        if changed {
            let counter = self.counter.fetch_add(1, Ordering::Relaxed) + 1;
            let wrapped = run.keyring.wrapped.clone();
            let version = (run.term, counter);
            let root = Root::seal(
                self.cluster.clone(),
                version,
                wrapped,
                &run.key,
                rand::random(),
                contents.clone(),
            );
            let (bytes, on) = (root.to_bytes().into(), BTreeSet::new());
            run.root =
                Some(CurrentRoot { version, contents, bytes, on, settled: false, looked: Instant::now() });
        }
        let Some(root) = run.root.as_mut() else { return Ok(false) };
        let wanted: Vec<(DeviceId, Incarnation)> = topology
            .devices
            .iter()
            .filter(|(_, device)| !device.duty.is_gone())
            .map(|(id, device)| (*id, device.incarnation))
            .collect();
        root.on.retain(|known| wanted.contains(known));
        let lacking = wanted.iter().filter(|known| !root.on.contains(known)).filter_map(|known| {
            let device = self.engine.devices().get(known.0)?;
            let (bytes, version) = (root.bytes.clone(), root.version);
            Some(async move { (*known, device.write_root(version, bytes).await) })
        });
        for (known, written) in futures::future::join_all(lacking).await {
            match written {
                Ok(()) => drop(root.on.insert(known)),
                Err(error) => tracing::debug!(device = %known.0, %error, "a device has no new root yet"),
            }
        }
        root.looked = Instant::now();
        let all = wanted.len();
        let settled = 2 * root.on.len() > all;
        tracing::debug!(on = root.on.len(), all, settled, "the root of the metadata's archive");
        if settled && !std::mem::replace(&mut root.settled, settled) {
            // Nothing leads to what was archived before.
            let writing = run.state.as_ref().map(|state| state.stream);
            run.writer.clean(&run.archive, writing).await?;
        }
        Ok(settled)
    }
}
