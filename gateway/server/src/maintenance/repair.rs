//! Writing missing shards again, the most endangered packs first.

use super::Maintenance;
use crate::{clock::unix_ms, engine::EngineError};
use bytes::Bytes;
use holdfast_core::ids::PackId;
use holdfast_meta_raft_machine::{
    command::{Command, Request},
    query,
};
use holdfast_storage_node_server::Device;
use holdfast_storage_node_store::{PutShard, ShardError, ShardId, WriteClass};
use std::sync::Arc;
use tokio::time::timeout;

/// Packs that are looked at together.
const PAGE: usize = 1000;

impl Maintenance {
    pub(super) async fn repair_some(self) -> Result<(), EngineError> {
        let mut after = None;
        loop {
            let degraded = query::degraded(&self.engine.meta().view(), after, PAGE)?;
            if after.is_none() {
                self.engine.metrics().degraded_packs.set(degraded.len() as i64);
            }
            for (_, pack) in &degraded {
                match self.repair(*pack).await {
                    Ok(_) => {}
                    Err(error @ (EngineError::Meta(_) | EngineError::Kv(_))) => return Err(error),
                    Err(error) => tracing::warn!(%pack, %error, "a pack could not be repaired yet"),
                }
            }
            match degraded.last() {
                Some(last) if degraded.len() == PAGE => after = Some(*last),
                Some(_) | None => return Ok(()),
            }
        }
    }

    /// Rebuilds what a pack misses on the devices that are in service; whether anything was.
    async fn repair(&self, id: PackId) -> Result<bool, EngineError> {
        let shared = &self.engine.shared;
        let Some(pack) = query::pack(shared.meta.latest(), id)? else { return Ok(false) };
        let Some(group) = shared.placement.group(id.pg()) else { return Ok(false) };
        let in_service = |index: &usize| shared.placement.devices.get(group.devices[*index]).is_some();
        let wanted: Vec<usize> = (0..pack.profile.total())
            .filter(|index| pack.missing >> index & 1 == 1)
            .filter(in_service)
            .collect();
        if wanted.is_empty() {
            return Ok(false);
        }
        let (data, _) = shared.read_pack(id, &pack).await?;
        let shard_len = pack.shard_len as usize;
        let mut parity = vec![vec![0; shard_len]; pack.profile.parity()];
        let inputs: Vec<&[u8]> = data.chunks_exact(shard_len).collect();
        let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        shared.code.encode(&inputs, &mut outputs).map_err(|_| EngineError::Unreadable(id))?;
        let mut mask = 0;
        for index in wanted {
            let Some(device) = shared.placement.devices.get(group.devices[index]) else { continue };
            let k = pack.profile.data();
            let payload = match index.checked_sub(k) {
                None => data.slice(index * shard_len..(index + 1) * shard_len),
                Some(row) => Bytes::from(std::mem::take(&mut parity[row])),
            };
            let id = ShardId { pack: id, index: index as u8 };
            let put = PutShard {
                id,
                epoch: group.epoch,
                class: WriteClass::Maintenance,
                now_ms: unix_ms(),
                payload,
            };
            match timeout(shared.config.write_timeout, rewrite(device, put)).await {
                Ok(Ok(())) => mask |= 1 << index,
                Ok(Err(error)) => {
                    tracing::warn!(pack = %id.pack, index, %error, "a shard could not be written again yet");
                }
                Err(_) => {
                    tracing::warn!(pack = %id.pack, index, "a device takes too long to write a shard again")
                }
            }
        }
        if mask == 0 {
            return Ok(false);
        }
        let command = Command::RepairShards { pack: id, epoch: group.epoch, mask };
        if let Err(rejection) = shared.meta.request(Request::idempotent(command)).await?.accepted() {
            tracing::debug!(pack = %id, %rejection, "a repair came too late");
            shared.placement.refresh()?;
            return Ok(false);
        }
        self.engine.metrics().repaired_shards.inc_by(u64::from(mask.count_ones()));
        Ok(true)
    }
}

/// Writes a shard, also where the device has another content for it whose checksums are right.
async fn rewrite(device: Arc<Device>, put: PutShard) -> Result<(), ShardError> {
    let (reader, id, expected) = (device.clone(), put.id, put.payload.clone());
    let remove_lie = move || match reader.read(id, 0, expected.len() as u32) {
        Ok(there) if there != expected => reader.delete(&[id]),
        Ok(_) | Err(_) => Ok(()),
    };
    tokio::task::spawn_blocking(remove_lie)
        .await
        .map_err(|error| ShardError::Disk(std::io::Error::other(error)))??;
    device.put(put).await
}
