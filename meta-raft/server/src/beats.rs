//! Who was heard of, and when: kept in memory by every member, and believed by the leader.

use holdfast_core::ids::{DeviceId, HostId};
use holdfast_proto::{DeviceBeat, DeviceHealth, HostHealth};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

#[derive(Default)]
struct Table {
    hosts: BTreeMap<HostId, (Instant, u32)>,
    devices: BTreeMap<DeviceId, (DeviceBeat, HostId, Instant)>,
}

/// The table. Cheap to clone.
#[derive(Clone)]
pub struct Beats {
    table: Arc<Mutex<Table>>,
    /// Nobody can have been heard of before.
    since: Instant,
}

impl Default for Beats {
    fn default() -> Self {
        Self { table: Arc::default(), since: Instant::now() }
    }
}

impl Beats {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host says that it and its devices are alive.
    pub fn heard(&self, host: HostId, version: u32, devices: Vec<DeviceBeat>) {
        let now = Instant::now();
        let mut table = self.table();
        table.hosts.insert(host, (now, version));
        for beat in devices {
            table.devices.insert(DeviceId(beat.device), (beat, host, now));
        }
    }

    /// How long a device has been silent, as far as this member can know, and what it said last.
    pub fn device(&self, id: DeviceId) -> (Duration, Option<DeviceBeat>) {
        match self.table().devices.get(&id) {
            Some((beat, _, at)) => (at.elapsed(), Some(beat.clone())),
            None => (self.since.elapsed(), None),
        }
    }

    /// How long a host has been silent.
    pub fn host(&self, id: HostId) -> Duration {
        self.table().hosts.get(&id).map_or_else(|| self.since.elapsed(), |(at, _)| at.elapsed())
    }

    /// The newest cluster version that a host said it understands.
    pub fn version(&self, id: HostId) -> Option<u32> {
        self.table().hosts.get(&id).map(|(_, version)| *version)
    }

    /// All of it, for others.
    pub fn report(&self) -> (Vec<HostHealth>, Vec<DeviceHealth>) {
        let ms = |at: &Instant| at.elapsed().as_millis() as u64;
        let table = self.table();
        let hosts =
            table.hosts.iter().map(|(id, (at, _))| HostHealth { host: id.0, silent_ms: Some(ms(at)) });
        let devices = table.devices.values();
        let devices =
            devices.map(|(beat, _, at)| DeviceHealth { beat: Some(beat.clone()), silent_ms: ms(at) });
        (hosts.collect(), devices.collect())
    }
}
