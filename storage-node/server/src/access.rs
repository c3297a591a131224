//! A device as its users see it: in this process or behind the network.

use crate::{Device, RemoteDevice};
use bytes::Bytes;
use holdfast_storage_node_store::{Inventory, PutShard, ShardError, ShardId};
use std::{io, sync::Arc};

/// A device in service.
#[derive(Clone)]
pub enum DeviceAccess {
    Local(Arc<Device>),
    Remote(RemoteDevice),
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ShardError> + Send + 'static,
) -> Result<T, ShardError> {
    let result = tokio::task::spawn_blocking(work).await;
    result.unwrap_or_else(|error| Err(ShardError::Disk(io::Error::other(error))))
}

impl DeviceAccess {
    /// Stores a shard; durable when this returns.
    ///
    /// # Errors
    /// As the shard store's, and where the device cannot be reached.
    pub async fn put(&self, shard: PutShard) -> Result<(), ShardError> {
        match self {
            Self::Local(device) => device.put(shard).await,
            Self::Remote(device) => device.put(shard).await,
        }
    }

    /// Reads and verifies a range of a shard.
    ///
    /// # Errors
    /// As the shard store's, and where the device cannot be reached.
    pub async fn read(&self, id: ShardId, offset: u32, len: u32) -> Result<Bytes, ShardError> {
        match self {
            Self::Local(device) => {
                let device = device.clone();
                blocking(move || device.read(id, offset, len)).await
            }
            Self::Remote(device) => device.read(id, offset, len).await,
        }
    }

    /// Deletes shards, those that are there.
    ///
    /// # Errors
    /// As the shard store's, and where the device cannot be reached.
    pub async fn delete(&self, shards: Vec<ShardId>) -> Result<(), ShardError> {
        match self {
            Self::Local(device) => {
                let device = device.clone();
                blocking(move || device.delete(&shards)).await
            }
            Self::Remote(device) => device.delete(shards).await,
        }
    }

    /// Up to `limit` shards behind one, in the order of packs.
    ///
    /// # Errors
    /// As the shard store's, and where the device cannot be reached.
    pub async fn inventory(&self, after: Option<ShardId>, limit: u32) -> Result<Vec<Inventory>, ShardError> {
        match self {
            Self::Local(device) => {
                let device = device.clone();
                blocking(move || device.inventory(after, limit as usize)).await
            }
            Self::Remote(device) => device.inventory(after, limit).await,
        }
    }

    /// Keeps a root of the metadata's archive, if it is newer than the device's; durable when this returns.
    ///
    /// # Errors
    /// Where the device cannot write it, or cannot be reached.
    pub async fn write_root(&self, version: (u64, u64), root: Bytes) -> Result<(), ShardError> {
        match self {
            Self::Local(device) => {
                let device = device.clone();
                blocking(move || device.write_root(version, &root)).await
            }
            Self::Remote(device) => device.write_root(version, root).await,
        }
    }

    /// Whether new data would be refused for want of room.
    pub fn nearly_full(&self) -> bool {
        match self {
            Self::Local(device) => device.nearly_full(),
            Self::Remote(device) => device.nearly_full(),
        }
    }

    /// Whether so much waits for the disk that more would be refused.
    pub fn is_backed_up(&self) -> bool {
        match self {
            Self::Local(device) => device.is_backed_up(),
            Self::Remote(device) => device.is_backed_up(),
        }
    }
}
