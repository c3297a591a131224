//! The cluster's own work: moving, repairing, compacting, collecting, comparing. The steps are those of the gateway's
//! maintenance, cut where it waits.

use super::{GRACE_MS, Planted, TENANT, Task, WORKER, World};
use bytes::Bytes;
use holdfast_core::{
    ids::{ChunkId, DeviceId, Epoch, PackId, PgId},
    pack,
};
use holdfast_gateway_object::open_chunk;
use holdfast_meta_raft_machine::{
    command::{Command, Outcome},
    query,
    records::{Pack, Pg},
};
use holdfast_storage_node_store::{PutShard, ShardId, WriteClass};
use std::collections::BTreeSet;

impl World {
    pub(super) fn carry_out(&mut self, task: Task) {
        match task {
            Task::Commit { key, pack, chunks } => self.commit(key, pack, chunks),
            Task::Place { pack, was, epoch, missing } => {
                let placed = self.command(Command::PlacePack { pack, was, epoch, missing });
                self.report.moved += usize::from(placed == Outcome::Done);
            }
            Task::Restore { pack, was, epoch, mask } => {
                let mut command = Command::RestoreShards { pack, was, epoch, mask };
                if self.planted == Planted::RepairedBlindly {
                    // As if nothing could have happened since.
                    let Some(now) = self.pack(pack) else { return };
                    let pg = query::pg(&self.state, pack.pg()).expect("memory reads");
                    let epoch = pg.map_or(epoch, |pg| pg.epoch);
                    command = Command::RestoreShards { pack, was: (now.epoch, now.missing), epoch, mask };
                }
                let done = self.command(command) == Outcome::Done;
                self.report.rebuilt += if done { mask.count_ones() as usize } else { 0 };
            }
            Task::Compacted { target, old } => self.finish_compaction(target, old),
            Task::Sweep { device, group, seen, shards } => {
                let unmoved =
                    query::pg(&self.state, group).expect("memory reads").is_some_and(|now| now == seen);
                if unmoved || self.planted == Planted::SweptWhileMoving {
                    self.report.swept += shards.len();
                    self.delete_shards(device, &shards);
                }
            }
        }
    }

    fn delete_shards(&self, device: DeviceId, shards: &[ShardId]) {
        if let Some(store) = self.store(device) {
            store.delete(shards).expect("memory writes");
        }
    }

    fn packs_of(&self, group: Option<PgId>) -> Vec<(PackId, Pack)> {
        query::packs(&self.state, group, None, usize::MAX).expect("memory reads")
    }

    /// Writes a shard where it belongs; whether it is durable there.
    fn rewrite(&self, device: DeviceId, id: ShardId, epoch: Epoch, payload: Bytes) -> bool {
        let class = WriteClass::Maintenance;
        let put = PutShard { id, epoch, class, now_ms: self.now_ms, payload };
        let store = self.store(device);
        store.is_some_and(|store| matches!(store.put(&[put]).as_deref(), Ok([Ok(())])))
    }

    /// A whole pack, verified by its own table.
    fn read_pack(&self, id: PackId, record: &Pack) -> Option<(Bytes, pack::Contents)> {
        let len = record.shard_len * record.profile.data() as u32;
        let whole = self.read_range(id, record, 0, len)?;
        let tail = pack::table_bytes(&whole[whole.len() - pack::FOOTER_BYTES..]).ok()?;
        let contents = pack::contents(&whole[whole.len().checked_sub(tail)?..], whole.len()).ok()?;
        let right = |entry: &pack::Entry| {
            let stored = whole.slice(entry.offset as usize..(entry.offset + entry.stored) as usize);
            open_chunk(entry.chunk, entry.codec, stored, entry.plain as usize).is_ok()
        };
        (contents.pack == id && contents.entries.iter().all(right)).then_some((whole, contents))
    }

    /// A shard as it should be, made from others.
    fn remake(&self, id: PackId, record: &Pack, index: usize) -> Option<Bytes> {
        if self.planted == Planted::RepairedFromAnything {
            return Some(vec![0x5a; record.shard_len as usize].into());
        }
        let (whole, _) = self.read_pack(id, record)?;
        let len = record.shard_len as usize;
        if let Some(row) = index.checked_sub(record.profile.data()) {
            let inputs: Vec<&[u8]> = whole.chunks_exact(len).collect();
            let mut parity = vec![vec![0; len]; record.profile.parity()];
            let mut out: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
            self.code.encode(&inputs, &mut out).expect("the shards are the profile's");
            return Some(parity.swap_remove(row).into());
        }
        Some(whole.slice(index * len..(index + 1) * len))
    }

    pub(super) fn relocate_some(&mut self) {
        let moving: Vec<(PgId, Pg)> =
            self.tables[WORKER].iter().filter(|(_, pg)| pg.previous.is_some()).cloned().collect();
        let at = self.rng.below(moving.len().max(1) as u64) as usize;
        if let Some((id, pg)) = moving.get(at) {
            self.relocate(*id, pg);
        }
    }

    pub(super) fn relocate_all(&mut self) {
        for (id, pg) in self.tables[WORKER].clone() {
            self.relocate(id, &pg);
        }
    }

    /// Copies the packs of a group that moves, and settles it when none is left behind.
    fn relocate(&mut self, id: PgId, pg: &Pg) {
        if pg.previous.is_none() {
            return;
        }
        let behind: Vec<(PackId, Pack)> =
            self.packs_of(Some(id)).into_iter().filter(|(_, pack)| pg.is_behind(pack.epoch)).collect();
        if behind.is_empty() {
            self.command(Command::SettlePg { pg: id, epoch: pg.epoch, after: None, steps: 1000 });
            return;
        }
        for (pack_id, pack) in behind {
            let old = pg.devices_at(pack.epoch).to_vec();
            let (mut missing, mut unwritten) = (pack.missing, 0u32);
            for (index, (from, to)) in
                old.iter().zip(&pg.devices).enumerate().filter(|(_, (from, to))| from != to)
            {
                let shard = ShardId { pack: pack_id, index: index as u8 };
                let copied = self
                    .store(*from)
                    .filter(|_| missing >> index & 1 == 0)
                    .and_then(|store| store.read(shard, 0, pack.shard_len).ok())
                    .or_else(|| self.remake(pack_id, &pack, index));
                let skip = self.planted == Planted::PlacedBeforeCopied;
                let written = skip || copied.is_some_and(|bytes| self.rewrite(*to, shard, pg.epoch, bytes));
                if written {
                    missing &= !(1 << index);
                } else {
                    unwritten |= 1 << index;
                }
            }
            // What is not in its new place yet still counts in the old one.
            if unwritten & !pack.missing == 0 {
                let was = (pack.epoch, pack.missing);
                self.later(Task::Place { pack: pack_id, was, epoch: pg.epoch, missing: missing | unwritten });
            }
        }
    }

    pub(super) fn repair_some(&mut self) {
        for (_, id) in query::degraded(&self.state, None, 1000).expect("memory reads") {
            let Some(pack) = self.pack(id) else { continue };
            let pg = self.group(WORKER, id.pg());
            let old = pg.devices_at(pack.epoch).to_vec();
            let mut mask = 0;
            for index in (0..pack.profile.total()).filter(|index| pack.missing >> index & 1 == 1) {
                let shard = ShardId { pack: id, index: index as u8 };
                if old[index] == pg.devices[index]
                    && let Some(bytes) = self.remake(id, &pack, index)
                    && self.rewrite(pg.devices[index], shard, pg.epoch, bytes)
                {
                    mask |= 1 << index;
                }
            }
            if mask != 0 {
                let was = (pack.epoch, pack.missing);
                self.later(Task::Restore { pack: id, was, epoch: pg.epoch, mask });
            }
        }
    }

    /// Writes what is alive in a pack into a new one.
    pub(super) fn compact_some(&mut self) {
        for old in query::reclaimable(&self.state, 3).expect("memory reads") {
            let Some(pack) = self.pack(old) else { continue };
            let Some((whole, contents)) = self.read_pack(old, &pack) else { continue };
            let ids = contents.entries.iter().map(|entry| entry.chunk);
            let places = query::chunks(&self.state, TENANT, ids).expect("memory reads");
            let alive: Vec<(ChunkId, Bytes)> = contents
                .entries
                .iter()
                .zip(places)
                .filter(|(entry, place)| {
                    place.is_some_and(|place| place.pack == old && place.offset == entry.offset)
                })
                .filter_map(|(entry, _)| {
                    let stored = whole.slice(entry.offset as usize..(entry.offset + entry.stored) as usize);
                    Some((
                        entry.chunk,
                        open_chunk(entry.chunk, entry.codec, stored, entry.plain as usize).ok()?,
                    ))
                })
                .collect();
            if alive.is_empty() {
                self.delete_pack(old, &pack);
                continue;
            }
            let Some(mut target) = self.write_pack(old.pg(), WORKER, WriteClass::Maintenance, &alive) else {
                continue;
            };
            target.chunks.iter_mut().for_each(|chunk| chunk.moved_from = Some(old));
            self.later(Task::Compacted { target, old });
        }
    }

    fn finish_compaction(&mut self, target: holdfast_meta_raft_machine::command::NewPack, old: PackId) {
        let registered = self.command(Command::RegisterPack(target));
        if !matches!(registered, Outcome::Registered { .. }) && self.planted != Planted::DeletedThoughRefused
        {
            return;
        }
        self.report.compacted += 1;
        if let Some(pack) = self.pack(old) {
            self.delete_pack(old, &pack);
        }
    }

    fn delete_pack(&mut self, id: PackId, pack: &Pack) {
        let deleted = self.command(Command::DeletePacks { packs: vec![id] }) == Outcome::Done;
        if !deleted && self.planted != Planted::DeletedThoughRefused {
            return;
        }
        let Some(pg) = query::pg(&self.state, id.pg()).expect("memory reads") else { return };
        for (index, device) in pg.devices_at(pack.epoch).iter().enumerate() {
            self.delete_shards(*device, &[ShardId { pack: id, index: index as u8 }]);
        }
    }

    pub(super) fn collect(&mut self) {
        self.command(Command::Collect { grace_ms: GRACE_MS, steps: 1000 });
    }

    /// Tells the metadata what a device lacks.
    pub(super) fn report_lacking(&mut self, device: DeviceId) {
        let Some(store) = self.store(device) else { return };
        let found: BTreeSet<ShardId> = store
            .inventory(None, usize::MAX)
            .expect("memory reads")
            .into_iter()
            .map(|line| line.id)
            .collect();
        let mut missing = Vec::new();
        for (id, pg) in query::pgs(&self.state).expect("memory reads") {
            for (pack_id, pack) in self.packs_of(Some(id)) {
                let mine = pg.devices_at(pack.epoch).iter().enumerate().filter(|(_, slot)| **slot == device);
                missing.extend(
                    mine.map(|(index, _)| (index, ShardId { pack: pack_id, index: index as u8 }))
                        .filter(|(index, shard)| !found.contains(shard) && pack.missing >> index & 1 == 0)
                        .map(|(index, _)| (pack_id, pack.epoch, 1 << index)),
                );
            }
        }
        if !missing.is_empty() {
            self.command(Command::ReportMissing { shards: missing });
        }
    }

    pub(super) fn reconcile_one(&mut self) {
        let at = self.rng.below(self.devices.len() as u64) as usize;
        if let Some(id) = self.devices.keys().nth(at).copied() {
            self.reconcile(id);
        }
    }

    /// Compares a device with the metadata: reports what it lacks, and has swept what belongs to nobody.
    pub(super) fn reconcile(&mut self, device: DeviceId) {
        if self.planted != Planted::ReplacementUnnoticed {
            self.report_lacking(device);
        }
        for (id, pg) in self.tables[WORKER].clone() {
            let moving = pg.previous.is_some() && self.planted != Planted::SweptWhileMoving;
            let Some(store) = self.store(device).filter(|_| !moving) else { continue };
            let at_once = matches!(self.planted, Planted::SweptWhileMoving | Planted::OrphansSweptAtOnce);
            let old = |written: u64| at_once || written + GRACE_MS < self.now_ms;
            let lines = store.inventory(None, usize::MAX).expect("memory reads");
            let lines = lines.into_iter().filter(|line| line.id.pack.pg() == id && old(line.written_ms));
            let (mut stray, mut orphans) = (Vec::new(), Vec::new());
            for line in lines {
                let index = usize::from(line.id.index);
                match self.pack(line.id.pack) {
                    None => orphans.push(line.id),
                    Some(pack) if pack.epoch > pg.epoch || pg.devices_at(pack.epoch)[index] == device => {}
                    // Its right place must have it.
                    Some(pack) if pack.missing >> index & 1 == 0 => stray.push(line.id),
                    Some(_) => {}
                }
            }
            if !stray.is_empty() {
                self.later(Task::Sweep { device, group: id, seen: pg, shards: stray });
            }
            for shard in orphans {
                let barred = self.planted == Planted::OrphansSweptAtOnce
                    || self.command(Command::TombstonePacks { packs: vec![shard.pack] }) == Outcome::Done;
                if barred {
                    self.report.swept += 1;
                    self.delete_shards(device, &[shard]);
                }
            }
        }
    }
}
