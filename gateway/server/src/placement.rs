//! Which devices hold a placement group, and which of them can be used.

use arc_swap::{ArcSwap, ArcSwapOption};
use holdfast_core::{
    ids::{DeviceId, Epoch, PackId, PgId, PoolId},
    profile::Profile,
};
use holdfast_erasure::ErasureCode;
use holdfast_meta_raft_machine::{ask::Topology, records::Pg};
use holdfast_meta_raft_server::{Meta, MetaError};
use holdfast_storage_node_server::{Device, DeviceAccess, RemoteDevice};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

type Slot = Arc<ArcSwapOption<Device>>;

/// The devices that a process can reach. Its own have slots, which are empty while a device is out of service.
#[derive(Clone)]
pub struct DeviceSlots {
    slots: Arc<ArcSwap<BTreeMap<DeviceId, Slot>>>,
    remote: Arc<ArcSwap<BTreeMap<DeviceId, RemoteDevice>>>,
}

impl DeviceSlots {
    pub fn new(slots: impl IntoIterator<Item = (DeviceId, Option<Device>)>) -> Self {
        let slot = |(id, device): (DeviceId, Option<Device>)| {
            (id, Arc::new(ArcSwapOption::from(device.map(Arc::new))))
        };
        let slots: BTreeMap<_, _> = slots.into_iter().map(slot).collect();
        Self { slots: Arc::new(ArcSwap::from_pointee(slots)), remote: Arc::default() }
    }

    /// The device in a slot, if it is worth asking.
    pub fn get(&self, slot: DeviceId) -> Option<DeviceAccess> {
        if self.slots.load().contains_key(&slot) {
            return self.local(slot).map(DeviceAccess::Local);
        }
        self.remote.load().get(&slot).filter(|device| device.is_up()).cloned().map(DeviceAccess::Remote)
    }

    /// The device in a slot of this process, if it is in service.
    pub fn local(&self, slot: DeviceId) -> Option<Arc<Device>> {
        self.slots.load().get(&slot)?.load_full().filter(|device| !device.has_failed())
    }

    /// Puts a device of this process into service, or takes it out. A device that was not there before is a new one.
    pub fn set(&self, slot: DeviceId, device: Option<Device>) {
        let device = device.map(Arc::new);
        match self.slots.load().get(&slot) {
            Some(place) => place.store(device),
            None => drop(self.slots.rcu(|slots| {
                let mut slots = BTreeMap::clone(slots);
                slots.insert(slot, Arc::new(ArcSwapOption::from(device.clone())));
                slots
            })),
        }
    }

    /// The devices of other processes.
    pub fn remote(&self) -> Arc<BTreeMap<DeviceId, RemoteDevice>> {
        self.remote.load_full()
    }

    /// Reaches these devices of other processes from now on.
    pub fn set_remote(&self, devices: BTreeMap<DeviceId, RemoteDevice>) {
        self.remote.store(Arc::new(devices));
    }

    /// The slots of this process.
    pub fn ids(&self) -> Vec<DeviceId> {
        self.slots.load().keys().copied().collect()
    }

    /// All devices of this process that are in service.
    pub fn in_service(&self) -> Vec<Arc<Device>> {
        self.ids().into_iter().filter_map(|slot| self.local(slot)).collect()
    }
}

/// A placement group as a gateway uses it.
#[derive(Debug, Clone)]
pub struct Group {
    pub id: PgId,
    pub epoch: Epoch,
    pub devices: Vec<DeviceId>,
}

/// A pool as a gateway uses it.
#[derive(Debug)]
pub struct PoolInUse {
    pub code: ErasureCode,
    /// The storage class whose objects it is for; the first one takes all others.
    class: Option<String>,
}

impl PoolInUse {
    pub fn profile(&self) -> Profile {
        self.code.profile()
    }
}

/// The placement table, as it was last read, and the devices.
pub struct Placement {
    meta: Meta,
    pub devices: DeviceSlots,
    pools: ArcSwap<BTreeMap<PoolId, Arc<PoolInUse>>>,
    table: ArcSwap<Vec<(PgId, Pg)>>,
    /// Devices of which nothing is expected.
    given_up: ArcSwap<BTreeSet<DeviceId>>,
    /// Held while a topology is taken over: two that are taken at once lose none of each other's pools.
    taking: Mutex<()>,
}

impl Placement {
    /// # Errors
    /// Where the table cannot be read.
    pub async fn new(meta: Meta, devices: DeviceSlots) -> Result<Self, MetaError> {
        let (pools, table, given_up) = (ArcSwap::default(), ArcSwap::default(), ArcSwap::default());
        let taking = Mutex::default();
        let placement = Self { meta, devices, pools, table, given_up, taking };
        placement.refresh().await?;
        Ok(placement)
    }

    /// Reads the table again: an epoch was refused.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub async fn refresh(&self) -> Result<(), MetaError> {
        self.take(&self.meta.topology().await?);
        Ok(())
    }

    /// Takes the table of a topology that was just read.
    pub fn take(&self, topology: &Topology) {
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let given_up = topology.devices.iter().filter(|(_, device)| device.duty.is_gone());
        self.given_up.store(Arc::new(given_up.map(|(id, _)| *id).collect()));
        // A pool is never changed, and its code is costly to make.
        let known = self.pools.load();
        let fresh: Vec<_> = topology.pools().filter(|pool| !known.contains_key(&pool.id)).collect();
        if !fresh.is_empty() {
            let mut pools = BTreeMap::clone(&known);
            for pool in fresh {
                let (code, class) = (ErasureCode::new(pool.pool.profile), pool.class.map(str::to_owned));
                pools.insert(pool.id, Arc::new(PoolInUse { code, class }));
            }
            self.pools.store(Arc::new(pools));
        }
        // Afterwards: no group is to be seen without its pool.
        self.table.store(Arc::new(topology.pgs.clone()));
    }

    /// A pool whose groups are in the table.
    pub fn pool(&self, id: PoolId) -> Option<Arc<PoolInUse>> {
        self.pools.load().get(&id).cloned()
    }

    /// Whether there are pools beside the first one.
    pub fn has_class_pools(&self) -> bool {
        self.pools.load().len() > 1
    }

    /// Where objects of a storage class are written.
    pub fn pool_for(&self, class: &str) -> PoolId {
        let pools = self.pools.load();
        let found = pools.iter().find(|(_, pool)| pool.class.as_deref() == Some(class));
        found.map_or(PoolId::FIRST, |(id, _)| *id)
    }

    /// Whether nothing is expected of a device any more.
    pub fn is_given_up(&self, id: DeviceId) -> bool {
        self.given_up.load().contains(&id)
    }

    /// The record of the group `id`.
    pub fn pg(&self, id: PgId) -> Option<Pg> {
        let table = self.table.load();
        let at = table.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        table.get(at).map(|(_, pg)| pg.clone())
    }

    /// All groups.
    pub fn table(&self) -> Arc<Vec<(PgId, Pg)>> {
        self.table.load_full()
    }

    /// The group `id`, for writing.
    pub fn group(&self, id: PgId) -> Option<Group> {
        self.pg(id).map(|pg| Group { id, epoch: pg.epoch, devices: pg.devices })
    }

    /// Where the shards of a pack of `epoch` are. A table that is older than the pack is read again first.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn devices_of(&self, pack: PackId, epoch: Epoch) -> Result<Option<Vec<DeviceId>>, MetaError> {
        if self.pg(pack.pg()).is_none_or(|pg| pg.epoch < epoch) {
            self.refresh().await?;
        }
        Ok(self.pg(pack.pg()).map(|pg| pg.devices_at(epoch).to_vec()))
    }

    /// Whether this process looks after a group: its first device that is in service is here.
    pub fn is_mine(&self, id: PgId) -> bool {
        let Some(pg) = self.pg(id) else { return false };
        let first = pg.devices.iter().find(|device| self.devices.get(**device).is_some());
        first.is_some_and(|device| self.devices.local(*device).is_some())
    }

    /// The group of a pool with the fewest devices that are out of service or full, by chance among equals; and the mask
    /// of those.
    pub fn choose(&self, pool: PoolId, for_user: bool) -> Option<(Group, u32)> {
        let table = self.table.load();
        let table = groups_of(&table, pool);
        let start = rand::random::<u64>() as usize % table.len().max(1);
        let mut best: Option<(usize, u32)> = None;
        for step in 0..table.len() {
            let at = (start + step) % table.len();
            let unavailable = self.unavailable(&table[at].1.devices, for_user);
            if best.is_none_or(|(_, mask)| unavailable.count_ones() < mask.count_ones()) {
                best = Some((at, unavailable));
            }
            if unavailable == 0 {
                break;
            }
        }
        let (at, unavailable) = best?;
        let (id, pg) = &table[at];
        Some((Group { id: *id, epoch: pg.epoch, devices: pg.devices.clone() }, unavailable))
    }

    /// Whether a pool has devices that take no new data.
    pub fn is_full(&self, pool: PoolId) -> bool {
        let table = self.table.load();
        let mut devices = groups_of(&table, pool).iter().flat_map(|(_, pg)| &pg.devices);
        devices.any(|id| self.devices.get(*id).is_some_and(|device| device.nearly_full()))
    }

    /// Bit `i`: the group's device `i` takes no writes now.
    pub fn unavailable(&self, devices: &[DeviceId], for_user: bool) -> u32 {
        let usable = |slot: &DeviceId| {
            self.devices
                .get(*slot)
                .is_some_and(|device| !device.is_backed_up() && (!for_user || !device.nearly_full()))
        };
        devices.iter().enumerate().fold(0, |mask, (i, slot)| mask | u32::from(!usable(slot)) << i)
    }
}

/// A pool's part of the table.
fn groups_of(table: &[(PgId, Pg)], pool: PoolId) -> &[(PgId, Pg)] {
    let start = table.partition_point(|(id, _)| id.pool() < pool);
    let rest = &table[start..];
    &rest[..rest.partition_point(|(id, _)| id.pool() == pool)]
}
