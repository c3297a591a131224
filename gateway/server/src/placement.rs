//! Which devices hold a placement group, and which of them can be used.

use arc_swap::{ArcSwap, ArcSwapOption};
use holdfast_core::{
    ids::{DeviceId, Epoch, PgId},
    kv::KvError,
};
use holdfast_meta_raft_machine::{query, records::Pg};
use holdfast_meta_raft_server::MetaHandle;
use holdfast_storage_node_server::Device;
use std::{collections::BTreeMap, sync::Arc};

/// The devices of this process, by slot: a slot is empty while its device is out of service.
#[derive(Clone)]
pub struct DeviceSlots {
    slots: Arc<BTreeMap<DeviceId, ArcSwapOption<Device>>>,
}

impl DeviceSlots {
    pub fn new(slots: impl IntoIterator<Item = (DeviceId, Option<Device>)>) -> Self {
        let slot = |(id, device): (DeviceId, Option<Device>)| (id, ArcSwapOption::from(device.map(Arc::new)));
        Self { slots: Arc::new(slots.into_iter().map(slot).collect()) }
    }

    /// The device in a slot, if it is in service.
    pub fn get(&self, slot: DeviceId) -> Option<Arc<Device>> {
        self.slots.get(&slot)?.load_full().filter(|device| !device.has_failed())
    }

    /// Puts a device into service, or takes it out.
    pub fn set(&self, slot: DeviceId, device: Option<Device>) {
        if let Some(place) = self.slots.get(&slot) {
            place.store(device.map(Arc::new));
        }
    }

    pub fn ids(&self) -> impl Iterator<Item = DeviceId> {
        self.slots.keys().copied()
    }

    /// All devices in service.
    pub fn in_service(&self) -> Vec<Arc<Device>> {
        self.slots.keys().filter_map(|slot| self.get(*slot)).collect()
    }
}

/// A placement group as a gateway uses it.
#[derive(Debug, Clone)]
pub struct Group {
    pub id: PgId,
    pub epoch: Epoch,
    pub devices: Vec<DeviceId>,
}

/// The placement table, as it was last read, and the devices.
pub struct Placement {
    meta: MetaHandle,
    pub devices: DeviceSlots,
    table: ArcSwap<Vec<(PgId, Pg)>>,
}

impl Placement {
    /// # Errors
    /// Where the table cannot be read.
    pub fn new(meta: MetaHandle, devices: DeviceSlots) -> Result<Self, KvError> {
        let table = query::pgs(&meta.view())?;
        Ok(Self { meta, devices, table: ArcSwap::from_pointee(table) })
    }

    /// Reads the table again: an epoch was refused.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn refresh(&self) -> Result<(), KvError> {
        self.table.store(Arc::new(query::pgs(&self.meta.view())?));
        Ok(())
    }

    /// The group `id`.
    pub fn group(&self, id: PgId) -> Option<Group> {
        let table = self.table.load();
        let at = table.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        let (id, pg) = table.get(at)?;
        Some(Group { id: *id, epoch: pg.epoch, devices: pg.devices.clone() })
    }

    /// The group with the fewest devices that are out of service or full, by chance among equals; and the mask of those.
    pub fn choose(&self, for_user: bool) -> Option<(Group, u32)> {
        let table = self.table.load();
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

    /// Bit `i`: the group's device `i` takes no writes now.
    fn unavailable(&self, devices: &[DeviceId], for_user: bool) -> u32 {
        let usable = |slot: &DeviceId| {
            self.devices
                .get(*slot)
                .is_some_and(|device| !device.is_backed_up() && (!for_user || !device.nearly_full()))
        };
        devices.iter().enumerate().fold(0, |mask, (i, slot)| mask | u32::from(!usable(slot)) << i)
    }
}
