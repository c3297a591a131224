//! Object sessions over simulated disks: the production pack builder, write and read sessions and shard stores.
//!
//! Six devices lose power, lose their disks and let bytes rot, within the budget that the profile promises to survive: at
//! any time no more than two of a pack's shards are at risk. Every acknowledged chunk must be read as it was written.

use crate::Rng;
use bytes::Bytes;
use holdfast_core::{
    buffer::BufferPool,
    ids::{ChunkId, DomainId, Epoch, Incarnation, PackId, PgId},
    kv::MemStore,
    pack::Entry,
    profile::Profile,
};
use holdfast_erasure::ErasureCode;
use holdfast_gateway_object::{PackBuilder, ReadSession, WriteOutcome, WriteSession, open_chunk};
use holdfast_storage_node_store::{PutShard, ShardId, ShardStore, SimDisk, StoreConfig, WriteClass};
use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

const DEVICES: usize = 6;
const CONFIG: StoreConfig = StoreConfig { reserve_user: 0, reserve_maintenance: 0 };

/// A bug that a run plants, to see that the oracles would find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    Nothing,
    /// Disks acknowledge syncs that they did not do.
    LyingDisks,
    /// Packs are acknowledged with fewer shards than the quorum.
    NoQuorum,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub trace: String,
    pub acknowledged: usize,
    pub reads: usize,
    pub rebuilt: usize,
    pub crashes: usize,
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
        let incarnation = Incarnation([self.life; 16]);
        let opened = ShardStore::open(self.disk.clone(), self.index.clone(), incarnation, CONFIG);
        self.store = Some(opened.expect("a device recovers from any power cut").0);
    }
}

/// A pack that was acknowledged: what reading it needs.
struct Written {
    shard_len: u32,
    entries: Vec<(Entry, Bytes)>,
    missing: u32,
}

struct World {
    rng: Rng,
    code: ErasureCode,
    devices: Vec<Device>,
    packs: BTreeMap<PackId, Written>,
    buffers: BufferPool,
    planted: Planted,
    report: Report,
}

/// Runs one seed.
pub fn run(seed: u64, planted: Planted) -> Report {
    let mut rng = Rng::new(seed);
    let devices = (0..DEVICES)
        .map(|_| {
            let disk = SimDisk::new(1 << 40, rng.bits());
            if planted == Planted::LyingDisks {
                disk.lie_about_syncs();
            }
            let mut device = Device { disk, index: MemStore::default(), store: None, life: 1 };
            device.open();
            device
        })
        .collect();
    let report =
        Report { trace: String::new(), acknowledged: 0, reads: 0, rebuilt: 0, crashes: 0, violation: None };
    let code = ErasureCode::new(Profile::new(4, 2).expect("a profile"));
    let mut world =
        World { rng, code, devices, packs: BTreeMap::new(), buffers: BufferPool::new(4), planted, report };
    for step in 0..60 {
        let _infallible = writeln!(world.report.trace, "step {step}");
        world.step();
        if world.report.violation.is_some() {
            break;
        }
    }
    world.report
}

impl World {
    fn step(&mut self) {
        match self.rng.below(10) {
            0..=4 => self.write_pack(),
            5 => self.power_cut(),
            6 => {
                let device = self.rng.below(DEVICES as u64) as usize;
                let rotten = self.devices[device].disk.rot();
                let _infallible = writeln!(self.report.trace, "rot {device} {rotten}");
                // Found by scrubbing and repaired, before another device has a fault.
                self.read_all();
                self.repair();
            }
            7 => self.replace_disks(2),
            _ => self.read_all(),
        }
    }

    fn write_pack(&mut self) {
        let mut builder = PackBuilder::new(self.buffers.take());
        let mut chunks = Vec::new();
        for _ in 0..1 + self.rng.below(4) {
            let len = 1 + self.rng.below(60_000) as usize;
            let mut noise = self.rng.fork();
            let plain: Bytes = (0..len).map(|_| noise.bits() as u8).collect::<Vec<u8>>().into();
            builder.add(ChunkId::of(&plain), &plain);
            chunks.push(plain);
        }
        let id = PackId::new(PgId(0), self.rng.bytes());
        let sealed = builder.seal(id, DomainId(1), &self.code);
        let second = Duration::from_secs(1);
        let mut session = WriteSession::new(self.code.profile(), 0, Duration::ZERO, second, 3 * second);
        // A device or two may be down while the pack is written.
        let down = if self.rng.chance(30) { 1 << self.rng.below(DEVICES as u64) } else { 0u32 };
        let down = down | if self.rng.chance(10) { 1 << self.rng.below(DEVICES as u64) } else { 0 };
        for (index, payload) in sealed.shards.iter().enumerate() {
            let shard = ShardId { pack: id, index: index as u8 };
            let put = PutShard {
                id: shard,
                epoch: Epoch(1),
                class: WriteClass::User,
                now_ms: 1,
                payload: payload.clone(),
            };
            let store = self.devices[index].store.as_ref().filter(|_| down >> index & 1 == 0);
            let stored = store.is_some_and(|store| matches!(store.put(&[put]).as_deref(), Ok([Ok(())])));
            session.handle_result(index, stored);
        }
        let outcome = match session.poll_outcome(2 * second) {
            Some(WriteOutcome::Failed { .. }) if self.planted == Planted::NoQuorum => {
                Some(WriteOutcome::Durable { missing: down })
            }
            other => other,
        };
        let _infallible = writeln!(self.report.trace, "write {id} {outcome:?}");
        if let Some(WriteOutcome::Durable { missing }) = outcome {
            self.report.acknowledged += 1;
            let entries = sealed.entries.iter().copied().zip(chunks).collect();
            self.packs.insert(id, Written { shard_len: sealed.shard_len, entries, missing });
        }
        // Missing shards are repaired first, as in production. Until then one more fault is survived.
        match self.rng.below(3) {
            0 => self.power_cut(),
            1 => self.replace_disks(1),
            _ => {}
        }
        self.repair();
    }

    /// All devices lose power at once.
    fn power_cut(&mut self) {
        self.report.crashes += 1;
        for device in &mut self.devices {
            device.store = None;
            device.disk.crash();
            let keep = self.rng.below(device.index.buffered() as u64 + 1) as usize;
            device.index.crash(keep);
            device.open();
        }
        let _infallible = writeln!(self.report.trace, "power cut");
        self.read_all();
        self.repair();
    }

    /// Disks are replaced by empty ones.
    fn replace_disks(&mut self, count: usize) {
        let first = self.rng.below(DEVICES as u64) as usize;
        let second = (first + 1 + self.rng.below(4) as usize) % DEVICES;
        for &at in &[first, second][..count] {
            let device = &mut self.devices[at];
            device.store = None;
            device.life += 1;
            device.disk.wipe();
            device.index = MemStore::default();
            device.open();
            let _infallible = writeln!(self.report.trace, "replace {at}");
        }
        self.read_all();
        self.repair();
    }

    fn read_all(&mut self) {
        let ids: Vec<PackId> = self.packs.keys().copied().collect();
        for id in ids {
            for at in 0..self.packs[&id].entries.len() {
                self.report.reads += 1;
                let (entry, plain) = self.packs[&id].entries[at].clone();
                match self.read(id, &entry) {
                    Some(bytes) if bytes == plain => {}
                    Some(_) => self.violate(format!("wrong bytes were read from pack {id}")),
                    None => self.violate(format!("acknowledged pack {id} cannot be read")),
                }
            }
        }
    }

    /// Reads a chunk; shards found bad are noted for repair.
    fn read(&mut self, id: PackId, entry: &Entry) -> Option<Bytes> {
        let written = self.packs.get_mut(&id)?;
        let mut session =
            ReadSession::new(&self.code, written.shard_len, entry.offset, entry.stored, written.missing);
        while let Some(fetch) = session.poll_fetch() {
            let shard = ShardId { pack: id, index: fetch.shard as u8 };
            let store = self.devices[fetch.shard].store.as_ref();
            let read = store.and_then(|store| store.read(shard, fetch.offset, fetch.len).ok());
            session.handle_fetched(fetch, read);
        }
        written.missing |= session.failed();
        let pieces = session.poll_result()?.ok()?;
        open_chunk(entry.chunk, entry.codec, pieces.concat().into(), entry.plain as usize).ok()
    }

    /// Verifies every shard and writes again what is missing or damaged.
    fn repair(&mut self) {
        let (k, total) = (self.code.profile().data(), self.code.profile().total());
        let ids: Vec<PackId> = self.packs.keys().copied().collect();
        for id in ids {
            let len = self.packs[&id].shard_len;
            let shard = |index: usize| ShardId { pack: id, index: index as u8 };
            let whole = |index: usize| {
                let store = self.devices[index].store.as_ref()?;
                store.verify(shard(index)).ok()?;
                store.read(shard(index), 0, len).ok()
            };
            let present: Vec<(usize, Bytes)> = (0..total).filter_map(|i| Some((i, whole(i)?))).collect();
            if present.len() == total {
                continue;
            }
            if present.len() < k {
                self.violate(format!("pack {id} has {} shards", present.len()));
                return;
            }
            let lost: Vec<usize> = (0..total).filter(|i| present.iter().all(|(have, _)| have != i)).collect();
            let sources: Vec<(usize, &[u8])> = present.iter().map(|(i, bytes)| (*i, &bytes[..])).collect();
            let mut out = vec![vec![0; len as usize]; lost.len()];
            let mut slices: Vec<&mut [u8]> = out.iter_mut().map(Vec::as_mut_slice).collect();
            self.code.reconstruct(&sources, &lost, &mut slices).expect("k shards are enough");
            for (index, bytes) in lost.into_iter().zip(out) {
                let class = WriteClass::Maintenance;
                let put =
                    PutShard { id: shard(index), epoch: Epoch(1), class, now_ms: 1, payload: bytes.into() };
                let store = self.devices[index].store.as_ref().expect("devices are open between steps");
                assert!(matches!(store.put(&[put]).as_deref(), Ok([Ok(())])), "a repaired shard is stored");
                self.report.rebuilt += 1;
            }
            if let Some(written) = self.packs.get_mut(&id) {
                written.missing = 0;
            }
        }
    }

    fn violate(&mut self, text: String) {
        let _infallible = writeln!(self.report.trace, "VIOLATION {text}");
        self.report.violation.get_or_insert(text);
    }
}
