//! Three metadata members: real raft-rs, the production pump and machine, over disks that lose what was not synced and a
//! network that loses, delays, repeats and reorders messages.
//!
//! Clients increment registers by compare-and-swap and note each answer. Whatever crashes: an acknowledged write is in the
//! state of every member that has caught up, no write is applied twice, and members at the same index have the same state.

use crate::Rng;
use holdfast_core::{
    chunker::ChunkerProfile,
    ids::{BucketId, DomainId, RequestId},
    kv::{Batch, Durability, MemStore, Store},
};
use holdfast_meta_raft_machine::{
    apply,
    audit::audit,
    command::{Command, Condition, LogEntry, NewContent, NewObject, Outcome, Request},
    query,
    records::{Attributes, Etag, Header},
};
use holdfast_meta_raft_pump::{
    MemberId, Pump, PumpConfig, RaftLog, SnapshotSource, TakenSnapshot, Watermark, Work,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

const MEMBERS: [MemberId; 3] = [MemberId(1), MemberId(2), MemberId(3)];
const BUCKET: BucketId = BucketId(1);
const REGISTERS: u64 = 4;

/// A bug that a run plants, to see that the oracles would find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    Nothing,
    /// Log writes return before they are durable.
    SkippedSync,
    /// A write is acknowledged when it is proposed.
    EarlyAcknowledgement,
    /// A member applies an entry twice.
    AppliedTwice,
}

/// What a run saw: equal for equal seeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub trace: String,
    pub acknowledged: usize,
    pub crashes: usize,
    pub elections: usize,
    pub snapshots: usize,
    /// The first oracle that was violated.
    pub violation: Option<String>,
}

/// The log's store: as [`MemStore`], unless a bug is planted.
#[derive(Clone)]
struct LogStore {
    store: MemStore,
    skip_sync: bool,
}

impl holdfast_core::kv::View for LogStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, holdfast_core::kv::KvError> {
        self.store.get(key)
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        visit: holdfast_core::kv::Visit<'_>,
    ) -> Result<(), holdfast_core::kv::KvError> {
        self.store.scan(start, end, visit)
    }
}

impl Store for LogStore {
    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), holdfast_core::kv::KvError> {
        let skip = self.skip_sync && durability == Durability::Synced;
        self.store.write(batch, if skip { Durability::Buffered } else { durability })
    }
}

/// Snapshots are the whole state.
struct WholeState(MemStore);

impl SnapshotSource for WholeState {
    fn take(&self, _: u64) -> Option<TakenSnapshot> {
        let index = query::header(&self.0).ok()??.applied_index;
        let data = holdfast_core::codec::encode(&self.0.dump());
        Some(TakenSnapshot { index, data })
    }
}

struct Member {
    id: MemberId,
    log: LogStore,
    state: MemStore,
    /// None while it is down.
    pump: Option<Pump<LogStore, WholeState>>,
    boots: u64,
}

impl Member {
    fn new(id: MemberId, planted: Planted) -> Self {
        let log = LogStore { store: MemStore::default(), skip_sync: planted == Planted::SkippedSync };
        Self { id, log, state: MemStore::default(), pump: None, boots: 0 }
    }

    fn header(&self) -> Header {
        query::header(&self.state).expect("memory reads").unwrap_or_default()
    }

    fn start(&mut self, rng: &mut Rng) {
        self.boots += 1;
        let source = WholeState(self.state.clone());
        let log = RaftLog::open(self.log.clone(), source, &MEMBERS, Watermark(0))
            .expect("the log opens after any crash");
        let applied = self.header().applied_index.max(log.compacted());
        let config =
            PumpConfig { id: self.id, election_ticks: 10, heartbeat_ticks: 2, seed: rng.bits(), applied };
        self.pump = Some(Pump::new(&config, log).expect("a member starts after any crash"));
    }

    /// Loses power: of the writes that were not synced, a prefix stays. The state's writes follow the log's.
    fn crash(&mut self, rng: &mut Rng) {
        self.pump = None;
        let keep = rng.below(self.log.store.buffered() as u64 + 1) as usize;
        self.log.store.crash(keep);
        let keep = rng.below(self.state.buffered() as u64 + 1) as usize;
        self.state.crash(keep);
    }
}

struct Message {
    due: u64,
    to: MemberId,
    bytes: Vec<u8>,
}

/// A write that a client waits for.
#[derive(Debug, Clone)]
struct Pending {
    register: u64,
    value: u64,
    id: RequestId,
}

/// The simulated group.
struct Group {
    rng: Rng,
    members: Vec<Member>,
    network: Vec<Message>,
    now: u64,
    /// Percent of messages that are lost.
    loss: u64,
    /// Members that cannot be reached.
    cut: BTreeSet<MemberId>,
    planted: Planted,
    pending: Vec<Pending>,
    /// The highest acknowledged value of each register.
    acknowledged: BTreeMap<u64, u64>,
    /// All acknowledged values.
    written: BTreeSet<u64>,
    next_value: u64,
    hashes: BTreeMap<u64, [u8; 32]>,
    report: Report,
}

/// Runs one seed.
pub fn run(seed: u64, planted: Planted) -> Report {
    let mut rng = Rng::new(seed);
    let members = MEMBERS.iter().map(|id| Member::new(*id, planted)).collect();
    let report = Report {
        trace: String::new(),
        acknowledged: 0,
        crashes: 0,
        elections: 0,
        snapshots: 0,
        violation: None,
    };
    let mut group = Group {
        loss: if rng.chance(50) { rng.below(30) } else { 0 },
        rng,
        members,
        network: Vec::new(),
        now: 0,
        cut: BTreeSet::new(),
        planted,
        pending: Vec::new(),
        acknowledged: BTreeMap::new(),
        written: BTreeSet::new(),
        next_value: 1,
        hashes: BTreeMap::new(),
        report,
    };
    group.live();
    group.report
}

impl Group {
    fn live(&mut self) {
        for i in 0..self.members.len() {
            let mut rng = self.rng.fork();
            self.members[i].start(&mut rng);
        }
        // Safety: anything may fail.
        for _ in 0..1200 {
            self.step(true, true);
            if self.report.violation.is_some() {
                return;
            }
        }
        // Liveness: all faults end, and the group must come to agree on everything that was acknowledged.
        self.cut.clear();
        self.loss = 0;
        for i in 0..self.members.len() {
            if self.members[i].pump.is_none() {
                let mut rng = self.rng.fork();
                self.members[i].start(&mut rng);
            }
        }
        for step in 0..600 {
            self.step(false, step < 400);
        }
        self.check_convergence();
    }

    fn step(&mut self, faults: bool, clients: bool) {
        self.now += 1;
        if faults {
            self.fault();
        }
        for i in 0..self.members.len() {
            if let Some(pump) = &mut self.members[i].pump {
                pump.tick();
            }
        }
        if clients && self.rng.chance(30) {
            self.propose();
        }
        self.deliver();
        for i in 0..self.members.len() {
            self.pump(i);
        }
    }

    fn fault(&mut self) {
        let victim = self.rng.below(self.members.len() as u64) as usize;
        match self.rng.below(120) {
            0 if self.members[victim].pump.is_some() => {
                self.note(&format!("crash {}", victim + 1));
                self.report.crashes += 1;
                let mut rng = self.rng.fork();
                self.members[victim].crash(&mut rng);
            }
            1..=4 if self.members[victim].pump.is_none() => {
                self.note(&format!("start {}", victim + 1));
                let mut rng = self.rng.fork();
                self.members[victim].start(&mut rng);
            }
            5 => {
                self.note(&format!("cut {}", victim + 1));
                self.cut.insert(self.members[victim].id);
            }
            6..=8 => self.cut.clear(),
            9 => self.compact(victim),
            _ => {}
        }
    }

    fn compact(&mut self, i: usize) {
        let member = &mut self.members[i];
        let applied = member.header().applied_index;
        if let Some(pump) = &mut member.pump
            && pump.log().compacted() + 20 < applied
        {
            // The state is durable up to here before the log forgets it.
            member.state.write(&Batch::default(), Durability::Synced).expect("memory writes");
            pump.compact(applied).expect("memory writes");
        }
    }

    fn note(&mut self, text: &str) {
        let _infallible = writeln!(self.report.trace, "{} {text}", self.now);
    }

    /// A client writes a new value to a register through whoever leads.
    fn propose(&mut self) {
        let leader =
            (0..self.members.len()).find(|&i| self.members[i].pump.as_ref().is_some_and(Pump::leads));
        let Some(leader) = leader else { return };
        let (register, value) = (self.rng.below(REGISTERS), self.next_value);
        self.next_value += 1;
        let id = RequestId::new(1_000_000 + self.now, self.rng.bits());
        // A key of its own beside the register: each acknowledged write can be looked for.
        let mut requests = vec![
            Request::idempotent(put(&format!("w/{value}"), value)),
            Request { id: Some(id), command: put(&format!("r/{register}"), value) },
        ];
        // The first command that is applied makes the bucket; later ones are refused.
        let create =
            Command::CreateBucket { name: "sim".into(), domain: DomainId(1), chunker: ChunkerProfile::V1 };
        requests.insert(0, Request::idempotent(create));
        let entry = LogEntry { stamp_ms: 1_000_000 + self.now, elapsed_ms: 1, requests };
        let pump = self.members[leader].pump.as_mut().expect("a leader is up");
        if pump.propose(id.as_bytes().to_vec(), entry.to_bytes()).is_ok() {
            let pending = Pending { register, value, id };
            if self.planted == Planted::EarlyAcknowledgement {
                self.acknowledge(&pending);
            }
            self.pending.push(pending);
        }
    }

    fn acknowledge(&mut self, pending: &Pending) {
        self.report.acknowledged += 1;
        self.written.insert(pending.value);
        let newest = self.acknowledged.entry(pending.register).or_default();
        *newest = pending.value.max(*newest);
        self.note(&format!("acknowledged {}={}", pending.register, pending.value));
    }

    fn deliver(&mut self) {
        let now = self.now;
        let (due, later): (Vec<_>, Vec<_>) = self.network.drain(..).partition(|message| message.due <= now);
        self.network = later;
        for message in due {
            let member = self.members.iter_mut().find(|member| member.id == message.to);
            if let Some(pump) = member.and_then(|member| member.pump.as_mut()) {
                pump.step(&message.bytes).expect("members send what members understand");
            }
        }
    }

    fn pump(&mut self, i: usize) {
        loop {
            let Some(pump) = &mut self.members[i].pump else { return };
            let Some(work) = pump.poll().expect("memory takes the log") else { return };
            self.carry_out(i, work);
        }
    }

    fn carry_out(&mut self, i: usize, work: Work) {
        let from = self.members[i].id;
        if let Some(snapshot) = work.install {
            self.report.snapshots += 1;
            let records =
                holdfast_core::codec::decode("a snapshot", &snapshot.data).expect("a member's own snapshot");
            self.members[i].state.restore(records);
            if let Some(pump) = &mut self.members[i].pump {
                pump.applied(snapshot.index);
            }
        }
        for (to, bytes) in work.send {
            let unreachable =
                self.cut.contains(&from) || self.cut.contains(&to) || self.rng.chance(self.loss);
            if !unreachable {
                let copies = 1 + u64::from(self.rng.chance(self.loss / 3));
                for _ in 0..copies {
                    let due = self.now + 1 + self.rng.below(3);
                    self.network.push(Message { due, to, bytes: bytes.clone() });
                }
            }
        }
        for entry in work.apply {
            self.apply(i, entry.index, &entry.context, &entry.data);
            if let Some(pump) = &mut self.members[i].pump {
                pump.applied(entry.index);
            }
        }
    }

    fn apply(&mut self, i: usize, index: u64, context: &[u8], data: &[u8]) {
        let state = self.members[i].state.clone();
        if index <= self.members[i].header().applied_index {
            return;
        }
        let entry =
            (!data.is_empty()).then(|| LogEntry::from_bytes(data).expect("entries are what was proposed"));
        if entry.is_none() {
            self.report.elections += 1;
        }
        let again = entry.clone();
        let applied = apply(&state, index, entry).expect("memory reads");
        state.write(&applied.batch, Durability::Buffered).expect("memory writes");
        if self.planted == Planted::AppliedTwice && index.is_multiple_of(17) && i == 0 {
            let mut twice = again;
            twice.iter_mut().flat_map(|entry| &mut entry.requests).for_each(|request| request.id = None);
            let applied = apply(&state, index + 1_000_000, twice).expect("memory reads");
            state.write(&applied.batch, Durability::Buffered).expect("memory writes");
        }
        let hash = self.members[i].header().state_hash;
        let known = *self.hashes.entry(index).or_insert(hash);
        if known != hash {
            self.violate(format!("member {} differs from others at entry {index}", i + 1));
        }
        // The member that the client asked answers it; any member that applies stands for it here.
        let leads = self.members[i].pump.as_ref().is_some_and(Pump::leads);
        if let Some(at) = self.pending.iter().position(|pending| pending.id.as_bytes() == context)
            && leads
            && self.planted != Planted::EarlyAcknowledgement
            && matches!(applied.outcomes.last(), Some(Outcome::Committed(_)))
        {
            let pending = self.pending.swap_remove(at);
            self.acknowledge(&pending);
        }
    }

    fn violate(&mut self, text: String) {
        self.note(&format!("VIOLATION {text}"));
        self.report.violation.get_or_insert(text);
    }

    /// All members are equal, hold every acknowledged write, and their counters count what is there.
    fn check_convergence(&mut self) {
        if self.report.violation.is_some() {
            return;
        }
        let dumps: Vec<_> = self.members.iter().map(|member| member.state.dump()).collect();
        if dumps.iter().any(|dump| *dump != dumps[0]) {
            let applied: Vec<u64> = self.members.iter().map(|member| member.header().applied_index).collect();
            return self.violate(format!("members differ after all faults ended, at entries {applied:?}"));
        }
        for (register, value) in self.acknowledged.clone() {
            match read(&self.members[0].state, &format!("r/{register}")) {
                // A later write whose answer was lost may have replaced it.
                Some(found) if found >= value => {}
                found => {
                    self.violate(format!("register {register} was acknowledged as {value} and is {found:?}"))
                }
            }
        }
        for value in self.written.clone() {
            if read(&self.members[0].state, &format!("w/{value}")) != Some(value) {
                self.violate(format!("write {value} was acknowledged and is lost"));
            }
        }
        if let Err(mismatch) = audit(&self.members[0].state, 3).expect("memory reads") {
            self.violate(mismatch.0);
        }
    }
}

fn put(key: &str, value: u64) -> Command {
    let object = NewObject {
        bytes: 8,
        etag: Etag::Md5([0; 16]),
        content: NewContent::Inline(value.to_be_bytes().to_vec()),
        attributes: Attributes::default(),
        checksum: None,
        parts: Vec::new(),
    };
    Command::PutObject { bucket: BUCKET, key: key.as_bytes().to_vec(), condition: Condition::Always, object }
}

fn read(state: &MemStore, key: &str) -> Option<u64> {
    let version = query::object(state, BUCKET, key.as_bytes()).ok()??;
    let bytes = query::inline(state, BUCKET, version.node, version.id).ok()??;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}
