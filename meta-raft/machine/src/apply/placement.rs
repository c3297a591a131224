//! Devices, placement groups, and which shards are where they should be.

use super::{Step, Tx, chunks::spare};
use crate::{
    command::{Outcome, Rejection},
    keys::{self, Table},
    query,
    records::{
        ClassPool, Device, DeviceSpec, Duty, Host, Pack, Pg, PgSpec, Pool, PoolSpec, Previous, Record,
    },
};
use holdfast_core::{
    ids::{DeviceId, Epoch, HostId, Incarnation, PackId, PgId, PoolId},
    kv::{View, prefix_end, scan_prefix},
    topology::FailureDomain,
};
use std::{collections::BTreeSet, ops::ControlFlow};

/// Times that a group's targets are replaced while it moves: a bound on its record.
const GENERATIONS_MAX: usize = 8;

impl<V: View + ?Sized> Tx<'_, V> {
    pub(super) fn create_pool(
        &mut self,
        pool: PoolSpec,
        domain: FailureDomain,
        pgs: Vec<(PgId, PgSpec)>,
    ) -> Step<Outcome> {
        let pool = Pool { profile: pool.profile, pg_count: pool.pg_count, domain };
        if let Some(existing) = self.read::<Pool>(&keys::pool())? {
            let same = existing == pool;
            return if same { Ok(Outcome::Done) } else { Err(Rejection::PoolExists.into()) };
        }
        if pgs.len() != pool.pg_count as usize
            || pgs.iter().any(|(_, pg)| pg.devices.len() != pool.profile.total())
        {
            return Err(Rejection::Malformed.into());
        }
        self.write(keys::pool(), &pool);
        self.write_groups(pgs);
        Ok(Outcome::Done)
    }

    /// Makes a pool beside the first one, for a class of storage that has none.
    pub(super) fn create_class_pool(
        &mut self,
        id: PoolId,
        pool: &ClassPool,
        pgs: Vec<(PgId, PgSpec)>,
    ) -> Step<Outcome> {
        let others = query::class_pools(&self.kv)?;
        if let Some((_, existing)) = others.iter().find(|(other, _)| *other == id) {
            return if existing == pool { Ok(Outcome::Done) } else { Err(Rejection::PoolExists.into()) };
        }
        if others.iter().any(|(_, other)| other.class == pool.class) {
            return Err(Rejection::PoolExists.into());
        }
        let whole =
            |(pg, spec): &(PgId, PgSpec)| pg.pool() == id && spec.devices.len() == pool.pool.profile.total();
        let distinct: BTreeSet<PgId> = pgs.iter().map(|(pg, _)| *pg).collect();
        let is_first = id == PoolId::FIRST || self.kv.get(&keys::pool())?.is_none();
        if is_first
            || distinct.len() != pgs.len()
            || pgs.len() != pool.pool.pg_count as usize
            || !pgs.iter().all(whole)
        {
            return Err(Rejection::Malformed.into());
        }
        self.write(keys::class_pool(id), pool);
        self.write_groups(pgs);
        Ok(Outcome::Done)
    }

    pub(super) fn set_device_class(&mut self, id: DeviceId, class: Option<String>) -> Step<Outcome> {
        self.read::<Device>(&keys::device(id))?.ok_or(Rejection::NoSuchDevice)?;
        match class {
            Some(class) => self.kv.put(keys::device_class(id), class.into_bytes()),
            None => self.remove(keys::device_class(id))?,
        }
        Ok(Outcome::Done)
    }

    fn write_groups(&mut self, pgs: Vec<(PgId, PgSpec)>) {
        for (id, pg) in pgs {
            self.write(keys::pg(id), &Pg::from(pg));
        }
    }

    pub(super) fn replace_device(&mut self, id: DeviceId, incarnation: Incarnation) -> Step<Outcome> {
        let key = keys::device(id);
        let mut device: Device = self.read(&key)?.ok_or(Rejection::NoSuchDevice)?;
        if device.incarnation == incarnation {
            return Ok(Outcome::Done);
        }
        // In a cluster an empty disk, or an old one that comes back, takes a slot only by an operator's word.
        if !device.replaceable && self.kv.get(&keys::authority())?.is_some() {
            return Err(Rejection::NotReplaceable.into());
        }
        device.incarnation = incarnation;
        device.replaceable = false;
        self.write(key, &device);
        for (key, value) in scan_prefix(&self.kv, &keys::table(Table::Pg), usize::MAX)? {
            let mut pg = Pg::from_bytes(&value)?;
            if pg.uses(id) {
                pg.epoch = Epoch(pg.epoch.0 + 1);
                self.write(key, &pg);
            }
        }
        Ok(Outcome::Done)
    }

    pub(super) fn report_shards(&mut self, shards: &[(PackId, u32)]) -> Step<Outcome> {
        for &(id, mask) in shards {
            let Some(mut pack) = self.read::<Pack>(&keys::pack(id))? else { continue };
            let known = mask & ((1u64 << pack.profile.total()) - 1) as u32;
            let missing = pack.missing | known;
            self.set_missing(id, &mut pack, missing);
        }
        Ok(Outcome::Done)
    }

    /// What was found where a pack was before it moved says nothing of where it is.
    pub(super) fn report_missing(&mut self, shards: &[(PackId, Epoch, u32)]) -> Step<Outcome> {
        for &(id, epoch, mask) in shards {
            let Some(mut pack) = self.read::<Pack>(&keys::pack(id))? else { continue };
            if pack.epoch == epoch {
                let missing = pack.missing | (mask & pack.profile.mask());
                self.set_missing(id, &mut pack, missing);
            }
        }
        Ok(Outcome::Done)
    }

    pub(super) fn repair_shards(&mut self, id: PackId, epoch: Epoch, mask: u32) -> Step<Outcome> {
        let mut pack: Pack = self.read(&keys::pack(id))?.ok_or(Rejection::NoSuchPack)?;
        let pg: Pg = self.read(&keys::pg(id.pg()))?.ok_or(Rejection::NoSuchPg)?;
        if pg.epoch != epoch {
            return Err(Rejection::StaleEpoch { given: epoch, current: pg.epoch }.into());
        }
        let missing = pack.missing & !mask;
        self.set_missing(id, &mut pack, missing);
        Ok(Outcome::Done)
    }

    /// As [`Tx::repair_shards`], for a pack of which nothing more was found missing meanwhile.
    pub(super) fn restore_shards(
        &mut self,
        id: PackId,
        was: (Epoch, u32),
        epoch: Epoch,
        mask: u32,
    ) -> Step<Outcome> {
        let pack: Pack = self.read(&keys::pack(id))?.ok_or(Rejection::NoSuchPack)?;
        if (pack.epoch, pack.missing) != was {
            return Err(Rejection::PreconditionFailed.into());
        }
        self.repair_shards(id, epoch, mask)
    }

    /// Changes a device's record.
    pub(super) fn change_device(&mut self, id: DeviceId, change: impl FnOnce(&mut Device)) -> Step<Outcome> {
        let key = keys::device(id);
        let mut device: Device = self.read(&key)?.ok_or(Rejection::NoSuchDevice)?;
        change(&mut device);
        self.write(key, &device);
        Ok(Outcome::Done)
    }

    pub(super) fn set_duty(&mut self, id: DeviceId, duty: Duty) -> Step<Outcome> {
        self.change_device(id, |device| device.duty = duty)
    }

    pub(super) fn change_duty(&mut self, id: DeviceId, was: Duty, duty: Duty) -> Step<Outcome> {
        let device: Device = self.read(&keys::device(id))?.ok_or(Rejection::NoSuchDevice)?;
        if device.duty != was {
            return Err(Rejection::PreconditionFailed.into());
        }
        self.set_duty(id, duty)
    }

    /// All groups go on at epochs that nobody has seen.
    pub(super) fn skip_epochs(&mut self, skip: u64) -> Step<()> {
        for (key, value) in scan_prefix(&self.kv, &keys::table(Table::Pg), usize::MAX)? {
            let pg = Pg::from_bytes(&value)?;
            self.write(key, &Pg { epoch: Epoch(pg.epoch.0.saturating_add(skip)), ..pg });
        }
        Ok(())
    }

    pub(super) fn add_device(&mut self, id: DeviceId, host: HostId, device: DeviceSpec) -> Step<Outcome> {
        let device = device.on(host);
        if let Some(known) = self.read::<Device>(&keys::device(id))? {
            let same = known.incarnation == device.incarnation;
            if same && known.host == host {
                return Ok(Outcome::Done);
            }
            // A disk whose host is no more may be another's; version 2 did not know that.
            let orphan = self.read::<Host>(&keys::host(known.host))?.is_none_or(|host| host.revoked);
            if !same || !orphan || self.header.cluster_version < 3 {
                return Err(Rejection::NotYourDevice.into());
            }
            self.write(keys::device(id), &Device { host, ..known });
            return Ok(Outcome::Done);
        }
        self.write(keys::device(id), &device);
        Ok(Outcome::Done)
    }

    pub(super) fn reassign_pg(&mut self, id: PgId, epoch: Epoch, devices: Vec<DeviceId>) -> Step<Outcome> {
        let key = keys::pg(id);
        let mut pg: Pg = self.read(&key)?.ok_or(Rejection::NoSuchPg)?;
        if pg.epoch != epoch {
            return Err(Rejection::StaleEpoch { given: epoch, current: pg.epoch }.into());
        }
        if devices.len() != pg.devices.len() {
            return Err(Rejection::Malformed.into());
        }
        let since = Epoch(epoch.0 + 1);
        if let Some(previous) = pg.previous.clone() {
            // While a group moves, only targets that were given up are replaced.
            for (old, _) in pg.devices.iter().zip(&devices).filter(|(old, new)| old != new) {
                let duty = self.read::<Device>(&keys::device(*old))?.map(|device| device.duty);
                if !matches!(duty, None | Some(Duty::Out | Duty::Removed)) {
                    return Err(Rejection::PgMoving(id).into());
                }
            }
            let before = std::mem::replace(&mut pg.devices, devices);
            // What had arrived there moves on from there. Version 2 forgot it, and found it missing later.
            // So is what is too much to remember.
            if self.header.cluster_version >= 3 && pg.older.len() < GENERATIONS_MAX {
                pg.older.push(previous);
                pg.previous = Some(Previous { since, devices: before });
            }
        } else {
            let before = std::mem::replace(&mut pg.devices, devices);
            pg.previous = Some(Previous { since, devices: before });
        }
        pg.epoch = since;
        self.write(key, &pg);
        Ok(Outcome::Done)
    }

    pub(super) fn place_pack(
        &mut self,
        id: PackId,
        was: (Epoch, u32),
        epoch: Epoch,
        missing: u32,
    ) -> Step<Outcome> {
        let mut pack: Pack = self.read(&keys::pack(id))?.ok_or(Rejection::NoSuchPack)?;
        let pg: Pg = self.read(&keys::pg(id.pg()))?.ok_or(Rejection::NoSuchPg)?;
        if pg.epoch != epoch {
            return Err(Rejection::StaleEpoch { given: epoch, current: pg.epoch }.into());
        }
        // It was placed by another worker, or more of it was found missing since it was looked at.
        if (pack.epoch, pack.missing) != was {
            return Err(Rejection::PreconditionFailed.into());
        }
        let missing = missing & pack.profile.mask();
        let left = pack.profile.total() - missing.count_ones() as usize;
        if left < pack.profile.data() && left < pack.present() {
            return Err(Rejection::BelowQuorum.into());
        }
        pack.epoch = epoch;
        if missing == pack.missing {
            self.write(keys::pack(id), &pack);
        } else {
            self.set_missing(id, &mut pack, missing);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn settle_pg(
        &mut self,
        id: PgId,
        epoch: Epoch,
        after: Option<PackId>,
        steps: u32,
    ) -> Step<Outcome> {
        let key = keys::pg(id);
        let mut pg: Pg = self.read(&key)?.ok_or(Rejection::NoSuchPg)?;
        if pg.epoch != epoch {
            return Err(Rejection::StaleEpoch { given: epoch, current: pg.epoch }.into());
        }
        let Some(previous) = &pg.previous else { return Ok(Outcome::Settling { after: None }) };
        let table = keys::packs_of(id);
        // The least key above the pack where the last look ended.
        let start = after.map_or(table.clone(), |pack| [keys::pack(pack), vec![0]].concat());
        let (mut seen, mut last, mut error) = (0, None, None);
        let mut left_behind = false;
        self.kv.scan(&start, &prefix_end(&table), &mut |key, value| {
            match (keys::tail(key).map(PackId), Pack::from_bytes(value)) {
                (Some(pack), Ok(record)) => {
                    left_behind |= record.epoch < previous.since;
                    last = Some(pack);
                }
                (_, Err(damage)) => error = Some(damage),
                (None, Ok(_)) => {}
            }
            seen += 1;
            if left_behind || error.is_some() || seen >= steps {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        if let Some(error) = error {
            return Err(error.into());
        }
        if left_behind {
            return Err(Rejection::PgMoving(id).into());
        }
        if seen >= steps {
            return Ok(Outcome::Settling { after: last });
        }
        pg.previous = None;
        pg.older.clear();
        self.write(key, &pg);
        Ok(Outcome::Settling { after: None })
    }

    fn set_missing(&mut self, id: PackId, pack: &mut Pack, missing: u32) {
        if missing == pack.missing {
            return;
        }
        if pack.missing != 0 {
            self.kv.delete(keys::degraded(spare(pack), id));
        }
        pack.missing = missing;
        if missing != 0 {
            self.kv.put(keys::degraded(spare(pack), id), Vec::new());
        }
        self.write(keys::pack(id), pack);
    }
}
