//! What a storage node answers to others.

use crate::{
    Device, Foreground,
    remote::{encode_page, failure_of, parse_name},
};
use bytes::Bytes;
use futures::future::BoxFuture;
use holdfast_core::{
    ids::{DeviceId, Epoch, HostId, PackId},
    roles::Role,
};
use holdfast_net::{Answer, Caller, Handler, at_once};
use holdfast_proto::{DeviceList, Done, Failure, call::Method, failure::Code, reply};
use holdfast_storage_node_store::{PutShard, ShardId, WriteClass};
use std::{collections::BTreeSet, sync::Arc};

/// Shards that one call lists, at most.
const LIST_MAX: u32 = 16_384;

/// The devices of a host that are in service.
pub trait DeviceSet: Send + Sync {
    /// The device in a slot. A metadata member that recovers the cluster may read what is not in service yet.
    fn find(&self, id: DeviceId, for_member: bool) -> Option<Arc<Device>>;

    /// All devices, with those that are not in service yet.
    fn all(&self) -> Vec<Arc<Device>>;
}

/// Whom a storage node does not speak with any more.
pub type Revoked = Arc<arc_swap::ArcSwap<BTreeSet<HostId>>>;

/// A storage node's side of the network.
pub struct ShardService {
    devices: Arc<dyn DeviceSet>,
    revoked: Revoked,
    foreground: Foreground,
}

impl ShardService {
    /// A service that counts in `foreground` what it does for clients.
    pub fn new(devices: Arc<dyn DeviceSet>, revoked: Revoked, foreground: Foreground) -> Self {
        Self { devices, revoked, foreground }
    }

    fn device(&self, id: u32, from: Caller) -> Result<Arc<Device>, Failure> {
        let absent = || Failure::new(Code::NoDevice, format!("device {id} is not in service here"));
        self.devices.find(DeviceId(id), from.has(Role::Meta)).ok_or_else(absent)
    }

    fn check(&self, from: Caller, method: &Method) -> Result<(), Failure> {
        if from.host().is_some_and(|host| self.revoked.load().contains(&host)) {
            return Err(Failure::new(Code::Denied, "the caller was revoked"));
        }
        let allowed = match method {
            // Members archive the metadata, and find it again.
            Method::PutShard(_) | Method::ReadShard(_) => {
                from.has(Role::Gateway) || from.has(Role::Storage) || from.has(Role::Meta)
            }
            Method::DeleteShards(_) => from.has(Role::Storage),
            Method::WriteRoot(_) | Method::ListShards(_) => from.has(Role::Meta),
            // A root says nothing without the recovery key.
            Method::ReadRoot(_) | Method::ListDevices(_) => from.has(Role::Meta) || from.has(Role::Operator),
            Method::AddDisk(_)
            | Method::Submit(_)
            | Method::Ask(_)
            | Method::Raft(_)
            | Method::SnapshotPage(_)
            | Method::Join(_)
            | Method::Renew(_)
            | Method::Beat(_)
            | Method::Health(_)
            | Method::TransferLeader(_) => true,
        };
        if allowed { Ok(()) } else { Err(Failure::new(Code::Denied, "the caller may not use these shards")) }
    }

    fn begin(
        &self,
        from: Caller,
        method: Method,
        payload: Bytes,
    ) -> Result<BoxFuture<'static, Answer>, Failure> {
        self.check(from, &method)?;
        let bad = || Failure::new(Code::BadRequest, "a shard's name is malformed");
        let name = |pack: &[u8], index: u32| {
            let (pack, index) = (PackId::from_slice(pack), u8::try_from(index).ok());
            pack.zip(index).map(|(pack, index)| ShardId { pack, index }).ok_or_else(bad)
        };
        match method {
            Method::PutShard(put) => {
                let device = self.device(put.device, from)?;
                if !put.maintenance {
                    self.foreground.served();
                }
                let class = if put.maintenance { WriteClass::Maintenance } else { WriteClass::User };
                let id = name(&put.pack, put.index)?;
                let shard = PutShard { id, epoch: Epoch(put.epoch), class, now_ms: put.now_ms, payload };
                Ok(Box::pin(async move {
                    device.put(shard).await.map_err(|error| failure_of(&error))?;
                    Ok((reply::Result::Done(Done {}), Bytes::new()))
                }))
            }
            Method::ReadShard(read) => {
                let device = self.device(read.device, from)?;
                let id = name(&read.pack, read.index)?;
                // A host that keeps shards too reads them for its own work as well.
                if from.has(Role::Gateway) && !from.has(Role::Storage) {
                    self.foreground.served();
                }
                Ok(Box::pin(blocking(move || device.read(id, read.offset, read.len))))
            }
            Method::DeleteShards(delete) => {
                let device = self.device(delete.device, from)?;
                let parse = |shard: &Vec<u8>| parse_name(shard).ok_or_else(bad);
                let shards = delete.shards.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
                Ok(Box::pin(blocking(move || device.delete(&shards).map(|()| Bytes::new()))))
            }
            Method::ListDevices(_) => {
                let devices = self.devices.all().iter().map(|device| device.slot().0).collect();
                let list = reply::Result::Devices(DeviceList { devices });
                Ok(at_once(Ok((list, Bytes::new()))))
            }
            Method::ListShards(list) => {
                let device = self.device(list.device, from)?;
                let after = match list.after.as_slice() {
                    [] => None,
                    name => Some(parse_name(name).ok_or_else(bad)?),
                };
                let limit = list.limit.min(LIST_MAX) as usize;
                Ok(Box::pin(blocking(move || {
                    device.inventory(after, limit).map(|page| encode_page(&page).into())
                })))
            }
            Method::WriteRoot(write) => {
                let device = self.device(write.device, from)?;
                let version = (write.term, write.counter);
                Ok(Box::pin(blocking(move || device.write_root(version, &payload).map(|()| Bytes::new()))))
            }
            Method::ReadRoot(_) => {
                let devices = self.devices.all();
                Ok(Box::pin(async move {
                    let newest = move || devices.iter().filter_map(|device| device.root()).max();
                    let newest = tokio::task::spawn_blocking(newest).await;
                    let newest = newest.map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
                    let (_, root) =
                        newest.ok_or_else(|| Failure::new(Code::NotFound, "there is no root here"))?;
                    Ok((reply::Result::Done(Done {}), root))
                }))
            }
            Method::AddDisk(_)
            | Method::Submit(_)
            | Method::Ask(_)
            | Method::Raft(_)
            | Method::SnapshotPage(_)
            | Method::Join(_)
            | Method::Renew(_)
            | Method::Beat(_)
            | Method::Health(_)
            | Method::TransferLeader(_) => {
                Err(Failure::new(Code::Unimplemented, "this is not what a device does"))
            }
        }
    }
}

async fn blocking(
    work: impl FnOnce() -> Result<Bytes, holdfast_storage_node_store::ShardError> + Send + 'static,
) -> Answer {
    let result = tokio::task::spawn_blocking(work).await;
    let result = result.map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
    let payload = result.map_err(|error| failure_of(&error))?;
    Ok((reply::Result::Done(Done {}), payload))
}

impl Handler for ShardService {
    fn call(&self, from: Caller, method: Method, payload: Bytes) -> BoxFuture<'static, Answer> {
        self.begin(from, method, payload).unwrap_or_else(|failure| at_once(Err(failure)))
    }
}
