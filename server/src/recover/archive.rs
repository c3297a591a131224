//! Finding the archive on devices, and putting the metadata together from it.

use crate::{cluster::identity::HostIdentity, system::SystemError};
use bytes::Bytes;
use holdfast_core::{
    buffer::BufferPool,
    ids::{DeviceId, HostId, Incarnation},
    roles::{Role, Roles},
};
use holdfast_gateway_server::LooseDevices;
use holdfast_meta_raft_archive::{
    ATTEMPTS, ArchiveKey, Contents, Piece, RecoveryKey, Root, RootVersion, StreamId,
};
use holdfast_meta_raft_server::{MetaConfig, Restore};
use holdfast_net::{Remote, Target, Tls, authority, transport};
use holdfast_proto::{self as proto, call::Method};
use holdfast_storage_node_server::{
    Device, DeviceAccess, DeviceError, DeviceSeries, RemoteDevice, Superblock,
};
use prometheus::Registry;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

/// Pieces that are looked for behind one that is not there.
const LOOKED_AHEAD: u64 = 3;

/// How long a storage node may take to say what it has.
const PATIENCE: Duration = Duration::from_secs(20);

/// What can be read: directories of devices that are not in use, and storage nodes that run.
pub struct Sources {
    local: BTreeMap<DeviceId, Device>,
    storage: Vec<String>,
    operator: Option<HostIdentity>,
}

/// An archive, and the devices that it is on.
pub struct Found {
    pub cluster: String,
    pub contents: Contents,
    pub devices: LooseDevices,
    key: ArchiveKey,
    version: RootVersion,
}

impl Sources {
    pub async fn open(
        dirs: &[PathBuf],
        storage: &[String],
        operator: Option<HostIdentity>,
    ) -> Result<Self, SystemError> {
        let mut known = BTreeMap::new();
        for dir in dirs {
            match Superblock::read(dir).map_err(DeviceError::from)? {
                Some(superblock) => drop(known.insert(superblock.slot, (superblock, dir.clone()))),
                None => tracing::warn!(dir = %dir.display(), "the directory is empty: it is left out"),
            }
        }
        let series = DeviceSeries::new(&Registry::new())?;
        let mut local = BTreeMap::new();
        for (slot, (superblock, dir)) in known {
            let metrics = series.of(slot);
            let open =
                move || Device::open(&dir, &superblock.cluster, slot, Incarnation(rand::random()), metrics);
            let opened = tokio::task::spawn_blocking(open).await;
            match opened.map_err(|error| SystemError::Cluster(error.to_string()))? {
                Ok((device, _)) => drop(local.insert(slot, device)),
                Err(error @ DeviceError::InUse(_)) => return Err(error.into()),
                Err(error) => tracing::warn!(device = %slot, %error, "the device is left out"),
            }
        }
        Ok(Self { local, storage: storage.to_vec(), operator })
    }

    /// The newest root on the devices, opened.
    pub async fn find(self, key: &RecoveryKey) -> Result<Found, SystemError> {
        let mut roots: Vec<Root> = Vec::new();
        let mut take = |bytes: Bytes, from: &str| match Root::from_bytes(&bytes) {
            Ok(root) => roots.push(root),
            Err(error) => tracing::warn!(%from, %error, "a root is left out"),
        };
        self.local.values().filter_map(Device::root).for_each(|(_, bytes)| take(bytes, "a device"));
        for address in &self.storage {
            let Some(operator) = &self.operator else {
                return Err(SystemError::Cluster(
                    "asking storage nodes needs the operator's identity: name it with --operator".to_owned(),
                ));
            };
            let target = Target::Any(Role::Storage);
            let node = Remote::new(operator.tls()?, target, address.clone(), BufferPool::new(0));
            match node.call(Method::ReadRoot(proto::ReadRoot {}), Bytes::new(), PATIENCE).await {
                Ok((_, bytes)) => take(bytes, address),
                Err(error) => tracing::warn!(%address, %error, "a storage node has no root to give"),
            }
        }
        let mut best = newest(roots, key)?;
        // The hosts that it names may know a newer one.
        let mut newer = Vec::new();
        for (_, remote) in self.hosts(&best.2)? {
            if let Ok((_, bytes)) =
                remote.call(Method::ReadRoot(proto::ReadRoot {}), Bytes::new(), PATIENCE).await
            {
                newer.extend(Root::from_bytes(&bytes).ok().filter(|root| root.version > best.0.version));
            }
        }
        if let Ok(found) = newest(newer, key) {
            best = found;
        }
        let (root, key, contents) = best;
        let devices = self.reach(&root.cluster, &contents)?;
        let mut devices = LooseDevices::new(devices);
        for (device, error) in devices.leave_out_absent().await {
            tracing::warn!(%device, %error, "a device is left out: its shards are neither read nor missed");
        }
        let found = Found { cluster: root.cluster, contents, devices, key, version: root.version };
        found.announce();
        Ok(found)
    }

    /// A certificate of the cluster's own authority, for as long as this takes.
    fn member_tls(
        &self,
        signer: &holdfast_meta_raft_machine::records::Authority,
    ) -> Result<Tls, SystemError> {
        let (key, request) = authority::request()?;
        let signed = authority::Signed { certificate: signer.certificate.clone(), key: signer.key.clone() };
        let roles = Roles::NONE.with(Role::Meta);
        // A number that no host has.
        let nobody = HostId(u64::MAX);
        let day = Duration::from_secs(24 * 60 * 60);
        let certificate = authority::sign(&signed, &request, nobody, roles, day)?;
        let transport = self.operator.as_ref().map_or("tcp", |operator| operator.transport.as_str());
        let transport = transport::named(transport).map_err(SystemError::Cluster)?;
        Ok(Tls::new(&key, &certificate, &signer.certificate)?.over(transport))
    }

    /// The ways to the hosts that keep devices.
    fn hosts(&self, contents: &Contents) -> Result<BTreeMap<HostId, Remote>, SystemError> {
        let Some(signer) = &contents.authority else { return Ok(BTreeMap::new()) };
        let (tls, pool) = (self.member_tls(signer)?, BufferPool::new(0));
        let keeps = |id: &HostId| contents.devices.iter().any(|(_, host)| host == id);
        let hosts = contents.hosts.iter().filter(|(id, record)| keeps(id) && !record.revoked);
        let remote = |(id, record): &(HostId, holdfast_meta_raft_machine::records::Host)| {
            (*id, Remote::new(tls.clone(), Target::Host(*id), record.address.clone(), pool.clone()))
        };
        Ok(hosts.map(remote).collect())
    }

    /// The devices that the root names: those that are here, and those of storage nodes.
    fn reach(
        self,
        cluster: &str,
        contents: &Contents,
    ) -> Result<BTreeMap<DeviceId, DeviceAccess>, SystemError> {
        let hosts = self.hosts(contents)?;
        let mut devices = BTreeMap::new();
        for (id, host) in &contents.devices {
            if let Some(device) = self.local.get(id) {
                devices.insert(*id, DeviceAccess::Local(Arc::new(device.clone())));
                continue;
            }
            if let Some(remote) = hosts.get(host) {
                devices.insert(*id, DeviceAccess::Remote(RemoteDevice::new(*id, remote.clone())));
            } else {
                tracing::warn!(device = %id, %cluster, "a device is not there");
            }
        }
        Ok(devices)
    }
}

impl Found {
    /// A piece of the archive, if it was ever written.
    async fn piece(&self, stream: &StreamId, number: u64) -> Result<Option<Piece>, SystemError> {
        let mut there = false;
        for attempt in 0..ATTEMPTS {
            let id = self.key.name(stream, number, attempt, self.contents.pool.pg_count);
            let pack = self.devices.find(id).await;
            let pack =
                pack.map_err(|error| SystemError::Cluster(format!("a device cannot be asked: {error}")))?;
            there |= !pack.shards.is_empty();
            let Some((bytes, contents)) = self.devices.read(&pack, self.contents.pool.profile).await else {
                continue;
            };
            let Some(entry) = contents.entries.first() else { continue };
            let sealed = bytes.slice(entry.offset as usize..(entry.offset + entry.stored) as usize);
            let plain = entry.plain as usize;
            let sealed = holdfast_gateway_server::open_chunk(entry.chunk, entry.codec, sealed, plain);
            match sealed.ok().and_then(|sealed| Piece::open(&self.key, stream, number, &sealed).ok()) {
                Some(piece) => return Ok(Some(piece)),
                None => tracing::warn!(pack = %id, "a piece of the archive cannot be opened"),
            }
        }
        // The end of a stream is where nothing is, and not where too little is.
        match there {
            true => Err(SystemError::Cluster(format!(
                "piece {number} of the archived metadata is there and cannot be read: bring back more devices, and try again"
            ))),
            false => Ok(None),
        }
    }

    /// Whether anything is behind a piece that is not there: then it is lost, and not the end.
    async fn goes_on(&self, stream: &StreamId, number: u64) -> Result<bool, SystemError> {
        for later in number + 1..=number + LOOKED_AHEAD {
            if self.piece(stream, later).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The newest root that the key opens: one that is damaged must not hide the others.
fn newest(mut roots: Vec<Root>, key: &RecoveryKey) -> Result<(Root, ArchiveKey, Contents), SystemError> {
    roots.sort_by_key(|root| std::cmp::Reverse(root.version));
    let mut refused = None;
    for root in roots {
        match root.open(key) {
            Ok((archive, contents)) => return Ok((root, archive, contents)),
            Err(error) => refused = Some(error.to_string()),
        }
    }
    let text = "no device has a root of the metadata's archive: name devices with --device DIR, or storage nodes that run with \
                --storage HOST:PORT";
    Err(SystemError::Cluster(refused.unwrap_or_else(|| text.to_owned())))
}

/// Puts the metadata together: the whole state, then the log behind it as far as it goes without a gap.
///
/// # Errors
/// Where a piece of the state cannot be read: nothing is made of it then.
pub async fn restore(found: &Found, config: &MetaConfig) -> Result<Restore, SystemError> {
    let archive = &found.contents.archive;
    let state = archive.state.ok_or_else(|| SystemError::Cluster("the root names no state".to_owned()))?;
    let missing =
        |text: String| SystemError::Cluster(format!("{text}: bring back more devices, and try again"));
    let mut restore = Restore::begin(config)?;
    for number in 0..state.pieces {
        match found.piece(&state.stream, number).await? {
            Some(Piece::State(records)) => restore.records(records)?,
            Some(Piece::Log(_)) | None => {
                return Err(missing(format!(
                    "piece {number} of {} of the archived state cannot be read",
                    state.pieces
                )));
            }
        }
    }
    let began = restore.settle()?;
    restore.saw_term(found.version.0);
    let mut last_ms = 0;
    for (at, log) in archive.logs.iter().enumerate() {
        let mut number = log.piece;
        while let Some(Piece::Log(entries)) = found.piece(&log.stream, number).await? {
            for entry in entries {
                if !restore.entry(entry.index, entry.term, &entry.data)? {
                    return Err(missing(format!(
                        "the archived log has a gap behind entry {}",
                        restore.applied()
                    )));
                }
                last_ms = stamp(&entry.data).unwrap_or(last_ms);
            }
            number += 1;
        }
        if found.goes_on(&log.stream, number).await? {
            return Err(missing(format!(
                "the archived log cannot be read behind entry {}",
                restore.applied()
            )));
        }
        // A later stream begins where this one ended: what is missing between them was there.
        if let Some(next) = archive.logs.get(at + 1)
            && restore.applied() + 1 < next.index
        {
            return Err(missing(format!(
                "the archived log cannot be read behind entry {}",
                restore.applied()
            )));
        }
    }
    println!(
        "restored the metadata up to entry {} ({began} in the state, the rest from the log)",
        restore.applied()
    );
    if last_ms != 0 {
        let last = std::time::UNIX_EPOCH + Duration::from_millis(last_ms);
        println!("the last archived change is of {}", humantime::format_rfc3339_millis(last));
    }
    Ok(restore)
}

/// When an entry was proposed, in milliseconds since 1970.
fn stamp(data: &[u8]) -> Option<u64> {
    holdfast_meta_raft_machine::command::LogEntry::from_bytes(data).ok().map(|entry| entry.stamp_ms)
}
