//! A cluster's data over time: the production metadata machine, planner, object sessions and shard stores, while devices
//! lose power, rot, are wiped, drained, given up, added and brought back.
//!
//! Gateways and workers see tables that may be old, and their work is cut into steps between which anything may happen:
//! shards are written in one step and committed in a later one, packs are copied, made anew and compacted so too. At any
//! time one device's shards are at risk at most, so that every acknowledged object must be readable at every step. When the
//! faults end, everything must become whole by itself: every shard in its place, and nothing else anywhere.

use crate::Rng;
use bytes::Bytes;
use holdfast_core::{
    buffer::BufferPool,
    chunker::ChunkerProfile,
    ids::{BucketId, ChunkId, DeviceId, DomainId, Epoch, HostId, Incarnation, PackId, PgId, SegmentId},
    kv::{Durability, MemStore, Store},
    profile::Profile,
    topology::{FailureDomain, Place},
};
use holdfast_erasure::ErasureCode;
use holdfast_gateway_object::{PackBuilder, ReadSession, WriteOutcome, WriteSession, open_chunk};
use holdfast_meta_raft_machine::{
    CLUSTER_VERSION, apply,
    ask::{Backlog, Found},
    audit::audit,
    command::{
        Command, Condition, LogEntry, NewContent, NewObject, NewPack, Outcome, PackChunk, Rejection, Request,
    },
    query,
    records::{Attributes, ChunkRef, Content, DeviceSpec, Duty, Etag, Pack, Pg, PoolSpec, SegmentRef},
};
use holdfast_meta_raft_planner::{change, first_table, lint};
use holdfast_storage_node_store::{PutShard, ShardId, ShardStore, SimDisk, StoreConfig, WriteClass};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::Duration,
};

mod upkeep;

const BUCKET: BucketId = BucketId(1);
const TENANT: DomainId = DomainId(1);
const GROUPS: u32 = 4;
const GRACE_MS: u64 = 400;
/// How long a gateway may take between its first shard and its commit: far less than the grace period.
const STEP_MS: u64 = 10;
const CONFIG: StoreConfig = StoreConfig { reserve_user: 0, reserve_maintenance: 0 };

/// A bug that a run plants, to see that the oracles would find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    Nothing,
    /// A commit names the epoch that is current then, and not the one under which its shards were written.
    EpochAtCommit,
    /// A refused registration is taken for an accepted one.
    RefusalIgnored,
    /// A move says that it succeeded before it has copied anything.
    PlacedBeforeCopied,
    /// What lies where nobody expects it is swept at once, though it may be on its way.
    SweptWhileMoving,
    /// What a repair wrote counts, whatever has become of the device meanwhile.
    RepairedBlindly,
    /// Compaction deletes a pack's shards though the metadata refused to delete the pack.
    DeletedThoughRefused,
    /// Shards without a pack are deleted at once, and their name is not barred: the pack may be about to be registered.
    OrphansSweptAtOnce,
    /// A disk that was replaced is not reported: its shards are believed to be there.
    ReplacementUnnoticed,
    /// A shard is made anew from whatever is at hand, and not from verified others.
    RepairedFromAnything,
}

/// What a run saw: equal for equal seeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub trace: String,
    pub acknowledged: usize,
    pub refused: usize,
    pub reads: usize,
    pub moved: usize,
    pub rebuilt: usize,
    pub compacted: usize,
    pub swept: usize,
    pub wiped: usize,
    pub crashes: usize,
    pub healed: usize,
    pub violation: Option<String>,
}

struct Device {
    disk: SimDisk,
    index: MemStore,
    store: Option<ShardStore<SimDisk, MemStore>>,
    life: u8,
}

impl Device {
    fn open(&mut self) {
        let opened =
            ShardStore::open(self.disk.clone(), self.index.clone(), Incarnation([self.life; 16]), CONFIG);
        self.store = Some(opened.expect("a device recovers from any power cut").0);
    }
}

/// What a gateway or worker does in a later step.
enum Task {
    Commit { key: u64, pack: Option<NewPack>, chunks: Vec<(ChunkId, Bytes)> },
    Place { pack: PackId, was: (Epoch, u32), epoch: Epoch, missing: u32 },
    Restore { pack: PackId, was: (Epoch, u32), epoch: Epoch, mask: u32 },
    Compacted { target: NewPack, old: PackId },
    Sweep { device: DeviceId, group: PgId, seen: Pg, shards: Vec<ShardId> },
}

struct World {
    rng: Rng,
    planted: Planted,
    code: ErasureCode,
    buffers: BufferPool,
    state: MemStore,
    index: u64,
    now_ms: u64,
    /// By device; those that are down do not answer.
    devices: BTreeMap<DeviceId, Device>,
    down: BTreeSet<DeviceId>,
    /// The device that was wiped last.
    wiped: Option<DeviceId>,
    /// The tables of a gateway and of a worker, which may be old.
    tables: [Vec<(PgId, Pg)>; 2],
    tasks: Vec<(u64, Task)>,
    objects: BTreeMap<u64, Vec<Bytes>>,
    next_key: u64,
    pool: Vec<Bytes>,
    report: Report,
}

const GATEWAY: usize = 0;
const WORKER: usize = 1;

/// Runs one seed.
pub fn run(seed: u64, planted: Planted) -> Report {
    let mut world = World::new(seed, planted);
    for step in 0..220 {
        world.now_ms += STEP_MS;
        let _infallible = writeln!(world.report.trace, "step {step}");
        world.step();
        if world.report.violation.is_some() {
            return world.report;
        }
    }
    world.converge();
    world.report
}

impl World {
    fn new(seed: u64, planted: Planted) -> Self {
        let report = Report {
            trace: String::new(),
            acknowledged: 0,
            refused: 0,
            reads: 0,
            moved: 0,
            rebuilt: 0,
            compacted: 0,
            swept: 0,
            wiped: 0,
            crashes: 0,
            healed: 0,
            violation: None,
        };
        let profile = Profile::new(4, 2).expect("a profile");
        let mut world = Self {
            rng: Rng::new(seed),
            planted,
            code: ErasureCode::new(profile),
            buffers: BufferPool::new(4),
            state: MemStore::default(),
            index: 0,
            now_ms: 1_000_000,
            devices: BTreeMap::new(),
            down: BTreeSet::new(),
            wiped: None,
            tables: [Vec::new(), Vec::new()],
            tasks: Vec::new(),
            objects: BTreeMap::new(),
            next_key: 0,
            pool: Vec::new(),
            report,
        };
        world.command(Command::RaiseClusterVersion { version: CLUSTER_VERSION });
        world.command(Command::CreateBucket {
            name: "sim".into(),
            domain: TENANT,
            chunker: ChunkerProfile::V1,
        });
        for _ in 0..8 {
            world.add_device();
        }
        let devices = query::devices(&world.state).expect("memory reads").into_iter().collect();
        let table =
            first_table(profile, FailureDomain::Node, &devices, GROUPS).expect("eight nodes carry 4+2");
        let pgs = table.into_iter().map(|(id, pg)| (id, pg.spec())).collect();
        let pool = PoolSpec { profile, pg_count: GROUPS };
        world.command(Command::FoundPool { pool, domain: FailureDomain::Node, pgs });
        world.refresh(GATEWAY);
        world.refresh(WORKER);
        world
    }

    fn add_device(&mut self) {
        let id = DeviceId(self.devices.len() as u32);
        let mut device = Device {
            disk: SimDisk::new(1 << 40, self.rng.bits()),
            index: MemStore::default(),
            store: None,
            life: 1,
        };
        device.open();
        self.devices.insert(id, device);
        let place = Place { zone: "z".into(), rack: "r".into(), node: format!("n{id}") };
        let spec = DeviceSpec { incarnation: Incarnation([1; 16]), place, weight: 10 };
        self.command(Command::AddDevice { id, host: HostId(u64::from(id.0) + 1), device: spec });
    }

    /// Has the metadata apply commands as one entry.
    fn commands(&mut self, commands: Vec<Command>) -> Vec<Outcome> {
        self.index += 1;
        let requests = commands.into_iter().map(Request::idempotent).collect();
        let entry = LogEntry { stamp_ms: self.now_ms, elapsed_ms: 0, requests };
        let clock =
            query::header(&self.state).expect("memory reads").map_or(self.now_ms, |header| header.clock_ms);
        let entry = LogEntry { elapsed_ms: self.now_ms.saturating_sub(clock), ..entry };
        let applied = apply(&self.state, self.index, Some(entry)).expect("memory reads");
        self.state.write(&applied.batch, Durability::Synced).expect("memory writes");
        applied.outcomes
    }

    fn command(&mut self, command: Command) -> Outcome {
        self.commands(vec![command]).pop().expect("an outcome")
    }

    fn note(&mut self, text: &str) {
        let _infallible = writeln!(self.report.trace, "{text}");
    }

    fn violate(&mut self, text: String) {
        self.note(&format!("VIOLATION {text}"));
        self.report.violation.get_or_insert(text);
    }

    fn refresh(&mut self, who: usize) {
        self.tables[who] = query::pgs(&self.state).expect("memory reads");
    }

    fn group(&self, who: usize, id: PgId) -> Pg {
        let found = self.tables[who].iter().find(|(known, _)| *known == id);
        found.map(|(_, pg)| pg.clone()).expect("every group is in the table")
    }

    fn pack(&self, id: PackId) -> Option<Pack> {
        query::pack(&self.state, id).expect("memory reads")
    }

    /// A device that answers.
    fn store(&self, id: DeviceId) -> Option<&ShardStore<SimDisk, MemStore>> {
        self.devices.get(&id).filter(|_| !self.down.contains(&id))?.store.as_ref()
    }

    fn step(&mut self) {
        match self.rng.below(24) {
            0..=5 => self.write(),
            6..=7 => self.delete(),
            8 => self.refresh(GATEWAY),
            9 | 10 => self.refresh(WORKER),
            11 | 12 => self.plan(),
            13 => self.relocate_some(),
            14 | 15 => self.repair_some(),
            16 => self.compact_some(),
            17 => self.collect(),
            18 => self.reconcile_one(),
            19 => self.operator(),
            20 => self.power_cut(),
            21 | 22 => self.harm(),
            _ => self.now_ms += 60,
        }
        self.due_tasks(false);
        if self.is_whole() {
            self.check_accounting();
        }
        let read =
            self.objects.keys().nth(self.rng.below(self.objects.len().max(1) as u64) as usize).copied();
        if let Some(key) = read {
            self.check_object(key);
        }
    }

    fn later(&mut self, task: Task) {
        let at = self.now_ms + self.rng.below(12) * STEP_MS;
        self.tasks.push((at, task));
    }

    fn due_tasks(&mut self, all: bool) {
        let now = self.now_ms;
        let (due, later): (Vec<_>, Vec<_>) = self.tasks.drain(..).partition(|(at, _)| all || *at <= now);
        self.tasks = later;
        for (_, task) in due {
            self.carry_out(task);
        }
    }

    /// The first half of a PUT: the shards.
    fn write(&mut self) {
        let key = if self.rng.chance(30) { self.rng.below(self.next_key + 1) } else { self.next_key };
        self.next_key = self.next_key.max(key + 1);
        let mut chunks = Vec::new();
        for _ in 0..1 + self.rng.below(3) {
            let again = self.rng.below(self.pool.len().max(1) as u64) as usize;
            let plain = match self.pool.get(again) {
                Some(plain) if self.rng.chance(35) => plain.clone(),
                _ => {
                    let (len, mut noise) = (1 + self.rng.below(9000), self.rng.fork());
                    let plain: Bytes = (0..len).map(|_| noise.bits() as u8).collect::<Vec<u8>>().into();
                    self.pool.push(plain.clone());
                    plain
                }
            };
            chunks.push((ChunkId::of(&plain), plain));
        }
        let ids = chunks.iter().map(|(id, _)| *id);
        let known = query::deduplicates(&self.state, TENANT, ids).expect("memory reads");
        let fresh: Vec<_> =
            chunks.iter().zip(known).filter(|(_, known)| !known).map(|(one, _)| one.clone()).collect();
        let mut pack = None;
        if !fresh.is_empty() {
            let group = PgId(self.rng.below(u64::from(GROUPS)) as u32);
            pack = self.write_pack(group, GATEWAY, WriteClass::User, &fresh);
            if pack.is_none() {
                self.report.refused += 1;
                return;
            }
        }
        self.later(Task::Commit { key, pack, chunks });
    }

    /// Writes a pack's shards where `who` believes that they belong; what is to be registered.
    fn write_pack(
        &mut self,
        group: PgId,
        who: usize,
        class: WriteClass,
        chunks: &[(ChunkId, Bytes)],
    ) -> Option<NewPack> {
        let pg = self.group(who, group);
        let mut builder = PackBuilder::new(self.buffers.take());
        let mut seen = BTreeSet::new();
        chunks.iter().filter(|(id, _)| seen.insert(*id)).for_each(|(id, plain)| builder.add(*id, plain));
        let sealed = builder.seal(PackId::new(group, self.rng.bytes()), TENANT, &self.code);
        let second = Duration::from_secs(1);
        let mut session = WriteSession::new(self.code.profile(), 0, Duration::ZERO, second, 3 * second);
        let mut missing = 0;
        for (index, payload) in sealed.shards.iter().enumerate() {
            let id = ShardId { pack: sealed.id, index: index as u8 };
            let put = PutShard { id, epoch: pg.epoch, class, now_ms: self.now_ms, payload: payload.clone() };
            let store = self.store(pg.devices[index]);
            let stored = store.is_some_and(|store| matches!(store.put(&[put]).as_deref(), Ok([Ok(())])));
            missing |= u32::from(!stored) << index;
            session.handle_result(index, stored);
        }
        match session.poll_outcome(2 * second) {
            Some(WriteOutcome::Durable { .. }) => {}
            _ => return None,
        }
        let chunk = |entry: &_| PackChunk { entry: *entry, moved_from: None };
        Some(NewPack {
            id: sealed.id,
            domain: TENANT,
            profile: self.code.profile(),
            epoch: pg.epoch,
            shard_len: sealed.shard_len,
            missing,
            chunks: sealed.entries.iter().map(chunk).collect(),
        })
    }

    /// The second half of a PUT.
    fn commit(&mut self, key: u64, pack: Option<NewPack>, chunks: Vec<(ChunkId, Bytes)>) {
        let segment = SegmentId(self.rng.bytes());
        let refs: Vec<ChunkRef> =
            chunks.iter().map(|(id, plain)| ChunkRef { id: *id, plain: plain.len() as u32 }).collect();
        let bytes = chunks.iter().map(|(_, plain)| plain.len() as u64).sum();
        let mut commands = Vec::new();
        if let Some(mut pack) = pack {
            if self.planted == Planted::EpochAtCommit {
                self.refresh(GATEWAY);
                pack.epoch = self.group(GATEWAY, pack.id.pg()).epoch;
            }
            commands.push(Command::RegisterPack(pack));
        }
        commands.push(Command::RegisterSegment { id: segment, domain: TENANT, chunks: refs });
        commands.push(Command::PutObject {
            bucket: BUCKET,
            key: format!("{key}").into_bytes(),
            condition: Condition::Always,
            object: NewObject {
                bytes,
                etag: Etag::Md5([0; 16]),
                content: NewContent::Segments(vec![SegmentRef { id: segment, bytes }]),
                attributes: Attributes::default(),
                checksum: None,
                parts: Vec::new(),
            },
        });
        let outcomes = self.commands(commands);
        let done = matches!(outcomes.last(), Some(Outcome::Committed(_)));
        if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Rejected(Rejection::StaleEpoch { .. }))) {
            self.refresh(GATEWAY);
        }
        let acknowledged = done || self.planted == Planted::RefusalIgnored;
        self.note(&format!("commit {key}: {acknowledged}"));
        if acknowledged {
            self.report.acknowledged += 1;
            self.objects.insert(key, chunks.into_iter().map(|(_, plain)| plain).collect());
        } else {
            self.report.refused += 1;
        }
    }

    fn delete(&mut self) {
        let Some(key) =
            self.objects.keys().nth(self.rng.below(self.objects.len().max(1) as u64) as usize).copied()
        else {
            return;
        };
        let name = format!("{key}").into_bytes();
        self.command(Command::DeleteObject { bucket: BUCKET, key: name, condition: Condition::Always });
        self.objects.remove(&key);
        self.note(&format!("delete {key}"));
    }

    /// An acknowledged object must be there, as it was written.
    fn check_object(&mut self, key: u64) {
        self.report.reads += 1;
        match self.read_object(key) {
            Ok(found) if found == self.objects[&key] => {}
            Ok(_) => self.violate(format!("object {key} has other bytes than were written")),
            Err(why) => self.violate(format!("object {key} was acknowledged and cannot be read: {why}")),
        }
    }

    fn read_object(&self, key: u64) -> Result<Vec<Bytes>, String> {
        let version = query::object(&self.state, BUCKET, format!("{key}").as_bytes()).expect("memory reads");
        let version = version.ok_or("it is not there")?;
        let Content::Segments(segments) = version.content else { return Err("it is inline".to_owned()) };
        let mut found = Vec::new();
        for segment in segments {
            let segment =
                query::segment(&self.state, segment.id).expect("memory reads").ok_or("a segment is gone")?;
            let ids: Vec<ChunkId> = segment.chunks.iter().map(|chunk| chunk.id).collect();
            for located in query::locate(&self.state, TENANT, &ids).expect("memory reads") {
                let Found { chunk, pack } = located.ok_or("a chunk is gone")?;
                let at = found.len();
                let entry = holdfast_core::pack::Entry {
                    chunk: ids[at.min(ids.len() - 1)],
                    offset: chunk.offset,
                    stored: chunk.stored,
                    plain: chunk.plain,
                    codec: chunk.codec,
                };
                found.push(self.read_chunk(chunk.pack, &pack, &entry).ok_or_else(|| {
                    format!("pack {} at epoch {} lacks {:b}", chunk.pack, pack.epoch, pack.missing)
                })?);
            }
        }
        Ok(found)
    }

    fn read_chunk(&self, id: PackId, pack: &Pack, entry: &holdfast_core::pack::Entry) -> Option<Bytes> {
        let pieces = self.read_range(id, pack, entry.offset, entry.stored)?;
        open_chunk(entry.chunk, entry.codec, pieces, entry.plain as usize).ok()
    }

    /// Bytes of a pack, from where the metadata says that it is.
    fn read_range(&self, id: PackId, pack: &Pack, offset: u32, len: u32) -> Option<Bytes> {
        let pg = query::pg(&self.state, id.pg()).expect("memory reads")?;
        let devices = pg.devices_at(pack.epoch);
        let mut session = ReadSession::new(&self.code, pack.shard_len, offset, len, pack.missing);
        while let Some(fetch) = session.poll_fetch() {
            let shard = ShardId { pack: id, index: fetch.shard as u8 };
            let store = self.store(devices[fetch.shard]);
            let read = store.and_then(|store| store.read(shard, fetch.offset, fetch.len).ok());
            session.handle_fetched(fetch, read);
        }
        Some(session.poll_result()?.ok()?.concat().into())
    }

    fn backlog(&self) -> Backlog {
        query::backlog(&self.state, usize::MAX).expect("memory reads")
    }

    /// Nothing is at risk: one more device may be harmed.
    fn is_whole(&self) -> bool {
        let backlog = self.backlog();
        backlog.degraded_packs == 0
            && backlog.moving_packs == 0
            && self.down.is_empty()
            && self.tasks.is_empty()
    }

    /// All devices lose power.
    fn power_cut(&mut self) {
        self.report.crashes += 1;
        for device in self.devices.values_mut() {
            device.store = None;
            device.disk.crash();
            let keep = self.rng.below(device.index.buffered() as u64 + 1) as usize;
            device.index.crash(keep);
            device.open();
        }
        self.note("power cut");
    }

    /// A device is wiped, or goes down for a while, where the promise holds for it; one that is down comes back.
    fn harm(&mut self) {
        if let Some(id) = self.down.pop_first() {
            self.command(Command::SetDuty { id, duty: Duty::Serving });
            self.note(&format!("device {id} is back"));
            return;
        }
        let id = DeviceId(self.rng.below(self.devices.len() as u64) as u32);
        if self.rng.chance(50) {
            // Written with one shard less, and nothing lost: that may happen at any time.
            if self.backlog().degraded_packs == 0 {
                self.down.insert(id);
                if self.rng.chance(50) {
                    self.command(Command::SetDuty { id, duty: Duty::Out });
                }
                self.note(&format!("device {id} is down"));
            }
            return;
        }
        // The disk that was replaced last may fail again at once: its shards are at risk already.
        let id = match self.wiped {
            Some(again) if self.rng.chance(50) => again,
            _ if self.is_whole() => id,
            _ => return,
        };
        self.wiped = Some(id);
        self.report.wiped += 1;
        self.note(&format!("device {id} is wiped"));
        if let Some(device) = self.devices.get_mut(&id) {
            device.store = None;
            device.life += 1;
            device.disk.wipe();
            device.index = MemStore::default();
            device.open();
            let incarnation = Incarnation([device.life; 16]);
            self.command(Command::ReplaceDevice { id, incarnation });
        }
        if self.planted != Planted::ReplacementUnnoticed {
            self.report_lacking(id);
        }
    }

    /// What the metadata believes to be whole is whole: nobody looks for what it does not miss.
    fn check_accounting(&mut self) {
        for (id, pack) in query::packs(&self.state, None, None, usize::MAX).expect("memory reads") {
            let pg = query::pg(&self.state, id.pg()).expect("memory reads").expect("its group is there");
            for (index, device) in pg.devices_at(pack.epoch).iter().enumerate() {
                let shard = ShardId { pack: id, index: index as u8 };
                let there = self.store(*device).is_some_and(|store| store.read(shard, 0, 1).is_ok());
                if !there {
                    return self.violate(format!("device {device} lacks {shard:?}, and nobody knows"));
                }
            }
        }
    }

    /// Orders that need no fault.
    fn operator(&mut self) {
        let id = DeviceId(self.rng.below(self.devices.len() as u64) as u32);
        match self.rng.below(4) {
            0 if self.devices.len() < 11 => self.add_device(),
            1 => {
                let draining = query::devices(&self.state).expect("memory reads");
                let draining = draining.iter().filter(|(_, device)| device.duty == Duty::Draining).count();
                let duty = if draining == 0 { Duty::Draining } else { Duty::Serving };
                self.command(Command::SetDuty { id, duty });
            }
            2 => drop(self.command(Command::SetDuty { id, duty: Duty::Serving })),
            _ => {
                let weight = 5 + self.rng.below(10);
                self.command(Command::Reweigh { id, weight });
            }
        }
    }

    /// The planner's next changes, as the leader makes them.
    fn plan(&mut self) {
        let devices = query::devices(&self.state).expect("memory reads").into_iter().collect();
        let table = query::pgs(&self.state).expect("memory reads");
        for one in change(self.code.profile(), FailureDomain::Node, &devices, &table).changes {
            let Some((_, pg)) = table.iter().find(|(id, _)| *id == one.pg) else { continue };
            self.note(&format!("group {}: {}", one.pg, one.reason));
            self.command(Command::ReassignPg { pg: one.pg, epoch: pg.epoch, devices: one.devices });
        }
    }

    /// Faults have ended: everything becomes whole by itself.
    fn converge(&mut self) {
        self.note("faults end");
        self.down.clear();
        for (id, device) in query::devices(&self.state).expect("memory reads") {
            if device.duty == Duty::Out {
                self.command(Command::SetDuty { id, duty: Duty::Serving });
            }
        }
        for _ in 0..40 {
            self.now_ms += 2 * GRACE_MS;
            self.plan();
            self.refresh(GATEWAY);
            self.refresh(WORKER);
            self.due_tasks(true);
            self.relocate_all();
            self.due_tasks(true);
            self.repair_some();
            self.due_tasks(true);
            self.collect();
            self.compact_some();
            self.due_tasks(true);
            for id in self.devices.keys().copied().collect::<Vec<_>>() {
                self.reconcile(id);
            }
            self.due_tasks(true);
            if self.report.violation.is_some() {
                return;
            }
        }
        self.check_whole();
    }

    fn check_whole(&mut self) {
        self.report.healed += 1;
        let backlog = self.backlog();
        if backlog.degraded_packs + backlog.moving_packs != 0 {
            return self.violate(format!("it does not become whole: {backlog:?}"));
        }
        let (devices, table) = (
            query::devices(&self.state).expect("memory reads").into_iter().collect(),
            query::pgs(&self.state).expect("memory reads"),
        );
        if let Some(breach) = lint(self.code.profile(), FailureDomain::Node, &devices, &table).pop() {
            return self.violate(breach);
        }
        let mut expected: BTreeSet<(DeviceId, ShardId)> = BTreeSet::new();
        for (id, _) in query::packs(&self.state, None, None, usize::MAX).expect("memory reads") {
            let Some((_, pg)) = table.iter().find(|(group, _)| *group == id.pg()) else { continue };
            let shards = pg.devices.iter().enumerate();
            expected
                .extend(shards.map(|(index, device)| (*device, ShardId { pack: id, index: index as u8 })));
        }
        let mut found = BTreeSet::new();
        let mut damaged = Vec::new();
        for (id, device) in &self.devices {
            let store = device.store.as_ref().expect("devices are up");
            for line in store.inventory(None, usize::MAX).expect("memory reads") {
                found.insert((*id, line.id));
                if store.verify(line.id).is_err() {
                    damaged.push(line.id);
                }
            }
        }
        if !damaged.is_empty() {
            return self.violate(format!("{} shards are damaged at the end", damaged.len()));
        }
        if let Some((device, shard)) = expected.difference(&found).next() {
            return self.violate(format!("device {device} lacks {shard:?}"));
        }
        if let Some((device, shard)) = found.difference(&expected).next() {
            return self.violate(format!("device {device} keeps {shard:?}, which belongs to nobody"));
        }
        for key in self.objects.keys().copied().collect::<Vec<_>>() {
            self.check_object(key);
        }
        if let Err(mismatch) = audit(&self.state, 3).expect("memory reads") {
            self.violate(mismatch.0);
        }
    }
}
