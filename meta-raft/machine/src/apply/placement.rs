//! Devices, placement groups, and which shards are where they should be.

use super::{Step, Tx, chunks::spare};
use crate::{
    command::{Outcome, Rejection},
    keys::{self, Table},
    records::{Device, Pack, Pg, Pool, Record},
};
use holdfast_core::{
    ids::{DeviceId, Epoch, Incarnation, PackId, PgId},
    kv::{View, scan_prefix},
};

impl<V: View + ?Sized> Tx<'_, V> {
    pub(super) fn create_pool(&mut self, pool: &Pool, pgs: &[(PgId, Pg)]) -> Step<Outcome> {
        if let Some(existing) = self.read::<Pool>(&keys::pool())? {
            let same = existing == *pool;
            return if same { Ok(Outcome::Done) } else { Err(Rejection::PoolExists.into()) };
        }
        if pgs.len() != pool.pg_count as usize
            || pgs.iter().any(|(_, pg)| pg.devices.len() != pool.profile.total())
        {
            return Err(Rejection::Malformed.into());
        }
        self.write(keys::pool(), pool);
        for (id, pg) in pgs {
            self.write(keys::pg(*id), pg);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn replace_device(&mut self, id: DeviceId, incarnation: Incarnation) -> Step<Outcome> {
        let key = keys::device(id);
        let mut device: Device = self.read(&key)?.ok_or(Rejection::NoSuchDevice)?;
        if device.incarnation == incarnation {
            return Ok(Outcome::Done);
        }
        device.incarnation = incarnation;
        self.write(key, &device);
        for (key, value) in scan_prefix(&self.kv, &keys::table(Table::Pg), usize::MAX)? {
            let mut pg = Pg::from_bytes(&value)?;
            if pg.devices.contains(&id) {
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
