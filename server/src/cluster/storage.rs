//! The devices of a storage node: which directory is which device, and what an empty one may become.

use super::config::HostConfig;
use crate::system::SystemError;
use arc_swap::ArcSwap;
use holdfast_core::ids::{DeviceId, HostId, Incarnation};
use holdfast_gateway_server::{DeviceSlots, OpenDevice};
use holdfast_meta_raft_machine::{
    ask::Topology,
    command::{Command, Request},
    records::{DeviceSpec, Duty},
};
use holdfast_meta_raft_server::RemoteMeta;
use holdfast_storage_node_server::{Device, DeviceError, DeviceMetrics, DeviceSet, Superblock};
use prometheus::Registry;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

/// Devices that a host may have: its share of the numbers of devices.
const DEVICES_MAX: u32 = 256;

/// The topology as it was last read.
pub type Seen = Arc<ArcSwap<Topology>>;

/// Which directory holds which device. What has a superblock says it itself; an empty directory takes the place of a
/// device whose disk is gone, if there is one, and is a new device otherwise.
fn assign(
    config: &HostConfig,
    host: HostId,
    topology: &Topology,
) -> Result<BTreeMap<DeviceId, PathBuf>, SystemError> {
    let mut assigned = BTreeMap::new();
    let mut empty = Vec::new();
    for dir in &config.devices {
        match Superblock::read(dir).map_err(DeviceError::from)? {
            Some(found) => {
                if let Some(other) = assigned.insert(found.slot, dir.clone()) {
                    let (a, b) = (other.display(), dir.display());
                    return Err(SystemError::Cluster(format!("{a} and {b} say that they are one device")));
                }
            }
            None => empty.push(dir.clone()),
        }
    }
    let mine = topology.devices.iter().filter(|(_, device)| device.host == host);
    let known: BTreeSet<DeviceId> = mine.clone().map(|(id, _)| *id).collect();
    let lost = mine.filter(|(id, device)| device.duty != Duty::Removed && !assigned.contains_key(id));
    let mut slots: Vec<DeviceId> = lost.map(|(id, _)| *id).collect();
    if slots.is_empty() {
        let base = (host.0 as u32).saturating_mul(DEVICES_MAX);
        let fresh = (base..base + DEVICES_MAX).map(DeviceId);
        slots.extend(fresh.filter(|id| !known.contains(id) && !assigned.contains_key(id)));
    } else if empty.len() > slots.len() {
        // Which of them is new, and which the mount point of a disk that is not there, cannot be known.
        tracing::error!(
            "empty directories are left out until every known disk of this host is there, or removed"
        );
    }
    assigned.extend(slots.into_iter().zip(empty));
    Ok(assigned)
}

/// The host's devices as others reach them.
#[derive(Default)]
pub struct Shelf {
    slots: OnceLock<DeviceSlots>,
    /// Opened before the metadata could say which disks are known: for recovery alone.
    early: Mutex<BTreeMap<DeviceId, Device>>,
}

impl Shelf {
    fn early(&self) -> MutexGuard<'_, BTreeMap<DeviceId, Device>> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The devices in service, once there are some.
    pub fn slots(&self) -> Option<&DeviceSlots> {
        self.slots.get()
    }

    /// Opens the devices that say themselves which they are.
    ///
    /// # Errors
    /// Where a directory cannot be read.
    pub fn open_early(&self, config: &HostConfig, cluster: &str) -> Result<(), SystemError> {
        for dir in &config.devices {
            let found = Superblock::read(dir).ok().flatten();
            let Some(found) = found.filter(|found| found.cluster == cluster) else { continue };
            let metrics = DeviceMetrics::new(&Registry::new(), &[found.slot])?;
            let Some(metrics) = metrics.into_iter().next() else { continue };
            match Device::open(dir, cluster, found.slot, found.incarnation, metrics) {
                Ok((device, _)) => drop(self.early().insert(found.slot, device)),
                Err(error) => tracing::error!(device = %found.slot, %error, "the device cannot be opened"),
            }
        }
        Ok(())
    }

    /// Closes what was opened early, so that it can be opened for good.
    pub fn close_early(&self) {
        self.early().clear();
    }

    /// From now on these are in service.
    pub fn serve(&self, slots: DeviceSlots) {
        let _served_before = self.slots.set(slots);
    }
}

impl DeviceSet for Shelf {
    fn find(&self, id: DeviceId, for_member: bool) -> Option<Arc<Device>> {
        match self.slots.get() {
            Some(slots) => slots.local(id),
            None if for_member => self.early().get(&id).cloned().map(Arc::new),
            None => None,
        }
    }

    fn all(&self) -> Vec<Arc<Device>> {
        match self.slots.get() {
            Some(slots) => slots.in_service(),
            None => self.early().values().cloned().map(Arc::new).collect(),
        }
    }
}

/// Opens the host's devices, and tells the metadata of new ones.
///
/// # Errors
/// Where a directory cannot be read, or the metadata refuses.
pub async fn open(
    config: &HostConfig,
    cluster: &str,
    host: HostId,
    meta: &RemoteMeta,
    seen: &Seen,
    registry: &Registry,
) -> Result<(DeviceSlots, OpenDevice), SystemError> {
    let topology = seen.load_full();
    let dirs = assign(config, host, &topology)?;
    let ids: Vec<DeviceId> = dirs.keys().copied().collect();
    let metrics: BTreeMap<DeviceId, DeviceMetrics> =
        ids.iter().copied().zip(DeviceMetrics::new(registry, &ids)?).collect();
    let (cluster, seen) = (cluster.to_owned(), seen.clone());
    let open: OpenDevice = Arc::new(move |slot: DeviceId| {
        let dir = &dirs[&slot];
        let topology = seen.load();
        let record = topology.devices.iter().find(|(id, _)| *id == slot).map(|(_, device)| device);
        // An empty directory in the place of a known device may be a disk that is not mounted.
        if record.is_some_and(|record| !record.replaceable) && Superblock::read(dir)?.is_none() {
            return Err(DeviceError::Empty { path: dir.clone(), slot });
        }
        let fresh = Incarnation(rand::random());
        // A disk that was replaced, and comes back, is not the one that is known.
        if let (Some(record), Some(found)) = (record, Superblock::read(dir)?)
            && record.incarnation != found.incarnation
            && !record.replaceable
        {
            return Err(DeviceError::Another { path: dir.clone(), slot });
        }
        let (device, recovered) = Device::open(dir, &cluster, slot, fresh, metrics[&slot].clone())?;
        tracing::info!(device = %slot, shards = recovered.shards, reindexed = recovered.reindexed, "device opened");
        Ok(device)
    });
    let mut slots = Vec::new();
    for slot in ids {
        let opener = open.clone();
        let opened = tokio::task::spawn_blocking(move || opener(slot)).await;
        let opened = opened.map_err(|error| SystemError::Cluster(error.to_string()))?;
        match opened {
            Ok(device) => {
                if !topology.devices.iter().any(|(id, _)| *id == slot) {
                    add(config, host, meta, &device).await?;
                }
                slots.push((slot, Some(device)));
            }
            Err(error) => {
                tracing::error!(device = %slot, %error, "the device is out of service");
                slots.push((slot, None));
            }
        }
    }
    Ok((DeviceSlots::new(slots), open))
}

async fn add(
    config: &HostConfig,
    host: HostId,
    meta: &RemoteMeta,
    device: &Device,
) -> Result<(), SystemError> {
    let space = device.space().map_err(crate::system::io_at("a device"))?;
    let spec = DeviceSpec {
        incarnation: device.incarnation(),
        place: config.place.clone(),
        // In GiB: a few bytes more or less move nothing.
        weight: (space.total >> 30).max(1),
    };
    let command = Command::AddDevice { id: device.slot(), host, device: spec };
    let outcomes = meta.submit(vec![Request::idempotent(command)]).await?;
    for outcome in outcomes {
        outcome.accepted().map_err(|rejection| SystemError::Cluster(rejection.to_string()))?;
    }
    tracing::info!(device = %device.slot(), "a new device belongs to the cluster");
    Ok(())
}
