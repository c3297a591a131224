//! What a storage node answers to others.

use crate::{Device, remote::failure_of};
use bytes::Bytes;
use futures::future::BoxFuture;
use holdfast_core::{
    ids::{DeviceId, Epoch, HostId, PackId},
    roles::Role,
};
use holdfast_net::{Answer, Caller, Handler, at_once};
use holdfast_proto::{Done, Failure, call::Method, failure::Code, reply};
use holdfast_storage_node_store::{PutShard, ShardId, WriteClass};
use std::{collections::BTreeSet, sync::Arc};

/// Finds the device in a slot, if it is in service.
pub type FindDevice = Arc<dyn Fn(DeviceId) -> Option<Arc<Device>> + Send + Sync>;

/// Whom a storage node does not speak with any more.
pub type Revoked = Arc<arc_swap::ArcSwap<BTreeSet<HostId>>>;

/// A storage node's side of the network.
pub struct ShardService {
    find: FindDevice,
    revoked: Revoked,
}

impl ShardService {
    pub fn new(find: FindDevice, revoked: Revoked) -> Self {
        Self { find, revoked }
    }

    fn device(&self, id: u32) -> Result<Arc<Device>, Failure> {
        let absent = || Failure::new(Code::NoDevice, format!("device {id} is not in service here"));
        (self.find)(DeviceId(id)).ok_or_else(absent)
    }

    fn check(&self, from: Caller) -> Result<(), Failure> {
        if from.host().is_some_and(|host| self.revoked.load().contains(&host)) {
            return Err(Failure::new(Code::Denied, "the caller was revoked"));
        }
        if from.has(Role::Gateway) || from.has(Role::Storage) {
            return Ok(());
        }
        Err(Failure::new(Code::Denied, "only gateways and storage nodes may use shards"))
    }

    fn begin(
        &self,
        from: Caller,
        method: Method,
        payload: Bytes,
    ) -> Result<BoxFuture<'static, Answer>, Failure> {
        self.check(from)?;
        let bad = || Failure::new(Code::BadRequest, "a shard's name is malformed");
        let name = |pack: &[u8], index: u32| {
            let (pack, index) = (PackId::from_slice(pack), u8::try_from(index).ok());
            pack.zip(index).map(|(pack, index)| ShardId { pack, index }).ok_or_else(bad)
        };
        match method {
            Method::PutShard(put) => {
                let device = self.device(put.device)?;
                let class = if put.maintenance { WriteClass::Maintenance } else { WriteClass::User };
                let id = name(&put.pack, put.index)?;
                let shard = PutShard { id, epoch: Epoch(put.epoch), class, now_ms: put.now_ms, payload };
                Ok(Box::pin(async move {
                    device.put(shard).await.map_err(|error| failure_of(&error))?;
                    Ok((reply::Result::Done(Done {}), Bytes::new()))
                }))
            }
            Method::ReadShard(read) => {
                let device = self.device(read.device)?;
                let id = name(&read.pack, read.index)?;
                Ok(Box::pin(blocking(move || device.read(id, read.offset, read.len))))
            }
            Method::DeleteShards(delete) => {
                let device = self.device(delete.device)?;
                let split = |shard: &Vec<u8>| {
                    let (index, pack) = shard.split_last().ok_or_else(bad)?;
                    name(pack, u32::from(*index))
                };
                let shards = delete.shards.iter().map(split).collect::<Result<Vec<_>, _>>()?;
                Ok(Box::pin(blocking(move || device.delete(&shards).map(|()| Bytes::new()))))
            }
            Method::Submit(_)
            | Method::Ask(_)
            | Method::Raft(_)
            | Method::SnapshotPage(_)
            | Method::Join(_)
            | Method::Renew(_)
            | Method::Beat(_)
            | Method::Health(_)
            | Method::TransferLeader(_) => {
                Err(Failure::new(Code::Unimplemented, "this process keeps no metadata"))
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
