//! The devices of a storage node: which directory is which device, and what an empty one may become.

use super::config::HostConfig;
use crate::system::{SystemError, io_at};
use arc_swap::ArcSwap;
use holdfast_core::ids::{DeviceId, HostId, Incarnation};
use holdfast_gateway_server::DeviceSlots;
use holdfast_kv::durable;
use holdfast_meta_raft_machine::{
    ask::Topology,
    command::{Command, Request},
    records::{DeviceSpec, Duty},
};
use holdfast_meta_raft_server::RemoteMeta;
use holdfast_storage_node_server::{Device, DeviceError, DeviceSeries, DeviceSet, Superblock};
use prometheus::Registry;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

/// Devices that a host may have: its share of the numbers of devices.
const DEVICES_MAX: u32 = 256;

/// The numbers of a host's devices.
fn numbers_of(host: HostId) -> impl Iterator<Item = DeviceId> {
    let base = (host.0 as u32).saturating_mul(DEVICES_MAX);
    (base..base + DEVICES_MAX).map(DeviceId)
}

/// The topology as it was last read.
pub type Seen = Arc<ArcSwap<Topology>>;

/// Which directory holds which device. What has a superblock says it itself; an empty directory takes the place of a
/// device whose disk is gone, if there is one, and is a new device otherwise.
fn assign(
    dirs: &[PathBuf],
    host: HostId,
    topology: &Topology,
) -> Result<BTreeMap<DeviceId, PathBuf>, SystemError> {
    let mut assigned = BTreeMap::new();
    let mut empty = Vec::new();
    for dir in dirs {
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
        slots.extend(numbers_of(host).filter(|id| !known.contains(id) && !assigned.contains_key(id)));
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
    disks: OnceLock<Arc<Disks>>,
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
        let series = DeviceSeries::new(&Registry::new())?;
        for dir in &dirs_of(config)? {
            let found = Superblock::read(dir).ok().flatten();
            let Some(found) = found.filter(|found| found.cluster == cluster) else { continue };
            let metrics = series.of(found.slot);
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
    pub fn serve(&self, slots: DeviceSlots, disks: Arc<Disks>) {
        let _served_before = self.slots.set(slots);
        let _set_before = self.disks.set(disks);
    }

    /// See [`Disks::add`].
    ///
    /// # Errors
    /// As that, and where the host is not that far yet.
    pub async fn add_disk(&self, dir: &Path) -> Result<DeviceId, SystemError> {
        let (Some(disks), Some(slots)) = (self.disks.get().cloned(), self.slots.get().cloned()) else {
            return Err(SystemError::Cluster("the host is starting: try again".to_owned()));
        };
        // To its end, whether or not the operator waits for it.
        let dir = dir.to_owned();
        let added = tokio::spawn(async move { disks.add(&dir, &slots).await }).await;
        added.map_err(|error| SystemError::Cluster(error.to_string()))?
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

/// The disks of a host: which directory is which device.
pub struct Disks {
    config: Arc<HostConfig>,
    cluster: String,
    host: HostId,
    meta: RemoteMeta,
    seen: Seen,
    series: DeviceSeries,
    dirs: Mutex<BTreeMap<DeviceId, PathBuf>>,
    /// Held while a disk is added.
    adding: tokio::sync::Mutex<()>,
}

/// Directories that operators added while the host ran, in its data directory.
const ADDED: &str = "devices.toml";

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Added {
    dirs: Vec<PathBuf>,
}

impl Added {
    fn read(data: &Path) -> Result<Self, SystemError> {
        let path = data.join(ADDED);
        match std::fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text)
                .map_err(|error| SystemError::Cluster(format!("{}: {}", path.display(), error.message()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(io_at(&path)(error)),
        }
    }

    fn write(&self, data: &Path) -> Result<(), SystemError> {
        let path = data.join(ADDED);
        let text = toml::to_string(self).map_err(|error| io_at(&path)(io::Error::other(error)))?;
        durable::replace(&path, text.as_bytes(), 0o600).map_err(io_at(&path))
    }
}

/// All directories of a host's devices.
fn dirs_of(config: &HostConfig) -> Result<Vec<PathBuf>, SystemError> {
    let added = Added::read(&config.data)?.dirs;
    let added = added.into_iter().filter(|dir| !config.devices.contains(dir));
    Ok(config.devices.iter().cloned().chain(added).collect())
}

impl Disks {
    /// Finds out which directory is which device.
    ///
    /// # Errors
    /// Where a directory cannot be read, or two say that they are one device.
    pub fn new(
        config: Arc<HostConfig>,
        cluster: String,
        host: HostId,
        meta: RemoteMeta,
        seen: Seen,
        registry: &Registry,
    ) -> Result<Self, SystemError> {
        let dirs = Mutex::new(assign(&dirs_of(&config)?, host, &seen.load())?);
        let series = DeviceSeries::new(registry)?;
        Ok(Self { config, cluster, host, meta, seen, series, dirs, adding: tokio::sync::Mutex::default() })
    }

    fn dirs(&self) -> MutexGuard<'_, BTreeMap<DeviceId, PathBuf>> {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the device of a slot, if the disk there is the one that is known.
    ///
    /// # Errors
    /// Where it is another, or cannot be opened.
    pub fn open(&self, slot: DeviceId) -> Result<Device, DeviceError> {
        let dir = self.dirs().get(&slot).cloned().unwrap_or_default();
        let topology = self.seen.load();
        let record = topology.devices.iter().find(|(id, _)| *id == slot).map(|(_, device)| device);
        // An empty directory in the place of a known device may be a disk that is not mounted.
        if record.is_some_and(|record| !record.replaceable) && Superblock::read(&dir)?.is_none() {
            return Err(DeviceError::Empty { path: dir, slot });
        }
        let fresh = Incarnation(rand::random());
        // A disk that was replaced, and comes back, is not the one that is known.
        if let (Some(record), Some(found)) = (record, Superblock::read(&dir)?)
            && record.incarnation != found.incarnation
            && !record.replaceable
        {
            return Err(DeviceError::Another { path: dir, slot });
        }
        let (device, recovered) = Device::open(&dir, &self.cluster, slot, fresh, self.series.of(slot))?;
        tracing::info!(device = %slot, shards = recovered.shards, reindexed = recovered.reindexed, "device opened");
        Ok(device)
    }

    /// Opens all devices, and tells the metadata of new ones.
    ///
    /// # Errors
    /// Where the metadata refuses.
    pub async fn open_all(self: &Arc<Self>) -> Result<DeviceSlots, SystemError> {
        // A host that lost who it was has a new number, and keeps its disks.
        let seen = self.seen.load_full();
        let mine = seen.devices.iter().filter(|(_, device)| device.host == self.host);
        let known: BTreeSet<DeviceId> = mine.map(|(id, _)| *id).collect();
        let ids: Vec<DeviceId> = self.dirs().keys().copied().collect();
        let mut slots = Vec::new();
        for slot in ids {
            let opened = self.open_blocking(slot).await?;
            if let Err(error) = &opened {
                tracing::error!(device = %slot, %error, "the device is out of service");
            }
            let device = opened.ok();
            if let Some(device) = device.as_ref().filter(|_| !known.contains(&slot)) {
                self.introduce(device).await?;
            }
            slots.push((slot, device));
        }
        Ok(DeviceSlots::new(slots))
    }

    async fn open_blocking(
        self: &Arc<Self>,
        slot: DeviceId,
    ) -> Result<Result<Device, DeviceError>, SystemError> {
        let this = self.clone();
        let opened = tokio::task::spawn_blocking(move || this.open(slot)).await;
        opened.map_err(|error| SystemError::Cluster(error.to_string()))
    }

    /// Takes an empty directory for another device, and remembers it.
    ///
    /// # Errors
    /// Where it is not empty, is a device already, or cannot be used.
    pub async fn add(self: &Arc<Self>, dir: &Path, slots: &DeviceSlots) -> Result<DeviceId, SystemError> {
        let _alone = self.adding.lock().await;
        let refuse = |text: String| Err(SystemError::Cluster(text));
        let shown = dir.display();
        if !dir.is_absolute() || !dir.is_dir() {
            return refuse(format!("{shown} is no directory of this host: name it with its whole path"));
        }
        let known = self.seen.load().devices.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>();
        // What an earlier try has formatted, and the metadata was not told of, is gone on with.
        let begun = Superblock::read(dir).map_err(DeviceError::from)?;
        let ours = |found: &Superblock| found.cluster == self.cluster && !known.contains(&found.slot);
        if begun.as_ref().is_some_and(|found| !ours(found)) {
            return refuse(format!("{shown} is a device already"));
        }
        let mut taken = known.clone();
        for other in dirs_of(&self.config)?.iter().filter(|other| other.as_path() != dir) {
            taken.extend(Superblock::read(other).ok().flatten().map(|found| found.slot));
        }
        let slot = {
            let mut dirs = self.dirs();
            if dirs.values().any(|other| other == dir) {
                return refuse(format!("{shown} is in the host's configuration already"));
            }
            let free = || numbers_of(self.host).find(|id| !taken.contains(id) && !dirs.contains_key(id));
            let slot = begun.map(|found| found.slot).or_else(free);
            let Some(slot) = slot else {
                return refuse("the host has as many devices as it can have".to_owned());
            };
            dirs.insert(slot, dir.to_owned());
            slot
        };
        let added = async {
            let device = self.open_blocking(slot).await??;
            let mut added = Added::read(&self.config.data)?;
            if !added.dirs.iter().any(|other| other == dir) {
                added.dirs.push(dir.to_owned());
            }
            added.write(&self.config.data)?;
            self.introduce(&device).await?;
            Ok(device)
        };
        match added.await {
            Ok(device) => {
                slots.set(slot, Some(device));
                Ok(slot)
            }
            Err(error) => {
                self.dirs().remove(&slot);
                Err(error)
            }
        }
    }

    /// Tells the metadata of a new device.
    async fn introduce(&self, device: &Device) -> Result<(), SystemError> {
        let space = device.space().map_err(io_at("a device"))?;
        let spec = DeviceSpec {
            incarnation: device.incarnation(),
            place: self.config.place.clone(),
            // In GiB: a few bytes more or less move nothing.
            weight: (space.total >> 30).max(1),
        };
        let command = Command::AddDevice { id: device.slot(), host: self.host, device: spec };
        let outcomes = self.meta.submit(vec![Request::idempotent(command)]).await?;
        for outcome in outcomes {
            outcome.accepted().map_err(|rejection| SystemError::Cluster(rejection.to_string()))?;
        }
        tracing::info!(device = %device.slot(), "a new device belongs to the cluster");
        Ok(())
    }
}
