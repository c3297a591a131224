//! A device of another process.

use bytes::Bytes;
use holdfast_core::{
    ids::{DeviceId, Epoch, PackId},
    kv::KvError,
};
use holdfast_net::{NetError, Remote};
use holdfast_proto::{self as proto, Failure, call::Method, failure::Code};
use holdfast_storage_node_store::{Inventory, PutShard, ShardError, ShardId, WriteClass};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

/// How long a device may take over a call.
const PATIENCE: Duration = Duration::from_secs(30);

const UP: u8 = 1;
const NEARLY_FULL: u8 = 2;
const BACKED_UP: u8 = 4;

/// A device of another process. Cheap to clone.
#[derive(Clone)]
pub struct RemoteDevice {
    id: DeviceId,
    host: Remote,
    /// What the metadata last heard of it.
    condition: Arc<AtomicU8>,
}

impl RemoteDevice {
    /// A device that is believed to be up.
    pub fn new(id: DeviceId, host: Remote) -> Self {
        Self { id, host, condition: Arc::new(AtomicU8::new(UP)) }
    }

    /// Whether it is reached through `address`.
    pub fn is_at(&self, address: &str) -> bool {
        self.host.address() == address
    }

    /// Takes note of what the metadata heard of it.
    pub fn set_condition(&self, up: bool, nearly_full: bool, backed_up: bool) {
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        let condition = flag(up, UP) | flag(nearly_full, NEARLY_FULL) | flag(backed_up, BACKED_UP);
        self.condition.store(condition, Ordering::Relaxed);
    }

    fn is(&self, flag: u8) -> bool {
        self.condition.load(Ordering::Relaxed) & flag != 0
    }

    /// Whether it is worth asking.
    pub fn is_up(&self) -> bool {
        self.is(UP) && !self.host.is_down()
    }

    pub fn nearly_full(&self) -> bool {
        self.is(NEARLY_FULL)
    }

    pub fn is_backed_up(&self) -> bool {
        self.is(BACKED_UP)
    }

    /// As [`crate::Device::put`].
    ///
    /// # Errors
    /// As [`crate::Device::put`], and where it cannot be reached.
    pub async fn put(&self, shard: PutShard) -> Result<(), ShardError> {
        let put = proto::PutShard {
            device: self.id.0,
            pack: shard.id.pack.as_bytes().to_vec(),
            index: u32::from(shard.id.index),
            epoch: shard.epoch.0,
            maintenance: shard.class == WriteClass::Maintenance,
            now_ms: shard.now_ms,
        };
        self.call(Method::PutShard(put), shard.payload).await.map(|_| ())
    }

    /// As [`crate::Device::read`].
    ///
    /// # Errors
    /// As [`crate::Device::read`], and where it cannot be reached.
    pub async fn read(&self, id: ShardId, offset: u32, len: u32) -> Result<Bytes, ShardError> {
        let read = proto::ReadShard {
            device: self.id.0,
            pack: id.pack.as_bytes().to_vec(),
            index: u32::from(id.index),
            offset,
            len,
        };
        let bytes = self.call(Method::ReadShard(read), Bytes::new()).await?;
        if bytes.len() != len as usize {
            return Err(ShardError::Disk(io::Error::other("another length was sent than was asked for")));
        }
        Ok(bytes)
    }

    /// As [`crate::Device::delete`].
    ///
    /// # Errors
    /// As [`crate::Device::delete`], and where it cannot be reached.
    pub async fn delete(&self, ids: Vec<ShardId>) -> Result<(), ShardError> {
        let delete = proto::DeleteShards { device: self.id.0, shards: ids.iter().map(name_of).collect() };
        self.call(Method::DeleteShards(delete), Bytes::new()).await.map(|_| ())
    }

    /// As [`crate::Device::inventory`].
    ///
    /// # Errors
    /// As [`crate::Device::inventory`], and where it cannot be reached.
    pub async fn inventory(&self, after: Option<ShardId>, limit: u32) -> Result<Vec<Inventory>, ShardError> {
        let list = proto::ListShards {
            device: self.id.0,
            after: after.map_or_else(Vec::new, |id| name_of(&id)),
            limit,
        };
        let page = self.call(Method::ListShards(list), Bytes::new()).await?;
        decode_page(&page).ok_or_else(|| ShardError::Unreachable("a malformed inventory was sent".to_owned()))
    }

    /// As [`crate::Device::write_root`].
    ///
    /// # Errors
    /// As [`crate::Device::write_root`], and where it cannot be reached.
    pub async fn write_root(&self, (term, counter): (u64, u64), root: Bytes) -> Result<(), ShardError> {
        let write = proto::WriteRoot { device: self.id.0, term, counter };
        self.call(Method::WriteRoot(write), root).await.map(|_| ())
    }

    async fn call(&self, method: Method, payload: Bytes) -> Result<Bytes, ShardError> {
        match self.host.call(method, payload, PATIENCE).await {
            Ok((_, payload)) => Ok(payload),
            Err(NetError::Failed(failure)) => Err(error_of(failure)),
            Err(error) => Err(ShardError::Unreachable(error.to_string())),
        }
    }
}

/// A shard's name as it is sent.
fn name_of(id: &ShardId) -> Vec<u8> {
    [id.pack.as_bytes().as_slice(), &[id.index]].concat()
}

/// A shard's name as it was before it was sent.
pub(crate) fn parse_name(bytes: &[u8]) -> Option<ShardId> {
    let (index, pack) = bytes.split_last()?;
    Some(ShardId { pack: PackId::from_slice(pack)?, index: *index })
}

/// Bytes of a line of an inventory as it is sent: a name, a length, a time.
const LINE: usize = PackId::LEN + 1 + 4 + 8;

/// An inventory as it is sent.
pub(crate) fn encode_page(page: &[Inventory]) -> Vec<u8> {
    page.iter()
        .flat_map(|line| {
            [&name_of(&line.id)[..], &line.len.to_be_bytes(), &line.written_ms.to_be_bytes()].concat()
        })
        .collect()
}

fn decode_page(bytes: &[u8]) -> Option<Vec<Inventory>> {
    let (lines, []) = bytes.as_chunks::<LINE>() else { return None };
    let line = |line: &[u8; LINE]| {
        let (name, rest) = line.split_at(PackId::LEN + 1);
        let (len, written_ms) = rest.split_at(4);
        Some(Inventory {
            id: parse_name(name)?,
            len: u32::from_be_bytes(len.try_into().ok()?),
            written_ms: u64::from_be_bytes(written_ms.try_into().ok()?),
        })
    };
    lines.iter().map(line).collect()
}

/// A device's refusal as it was before it was sent.
fn error_of(failure: Failure) -> ShardError {
    match failure.code() {
        Code::NotFound => ShardError::NotFound,
        Code::Damaged => ShardError::Damaged,
        Code::StaleEpoch => {
            ShardError::StaleEpoch { given: Epoch(failure.given), seen: Epoch(failure.other) }
        }
        Code::Full => ShardError::Full { free: failure.given, reserved: failure.other },
        Code::Range => ShardError::Range,
        Code::Another => ShardError::Another,
        Code::Disk => ShardError::Disk(io::Error::other(failure.message)),
        Code::Index => ShardError::Index(KvError::Storage(failure.message)),
        Code::Unknown
        | Code::Unimplemented
        | Code::Denied
        | Code::BadRequest
        | Code::Busy
        | Code::Stopping
        | Code::Deadline
        | Code::NotLeader
        | Code::Internal
        | Code::NoDevice => ShardError::Unreachable(failure.message),
    }
}

/// A device's refusal as it is sent.
pub(crate) fn failure_of(error: &ShardError) -> Failure {
    let (code, given, other) = match error {
        ShardError::NotFound => (Code::NotFound, 0, 0),
        ShardError::Damaged => (Code::Damaged, 0, 0),
        ShardError::StaleEpoch { given, seen } => (Code::StaleEpoch, given.0, seen.0),
        ShardError::Full { free, reserved } => (Code::Full, *free, *reserved),
        ShardError::Range => (Code::Range, 0, 0),
        ShardError::Another => (Code::Another, 0, 0),
        ShardError::Disk(_) => (Code::Disk, 0, 0),
        ShardError::Index(_) => (Code::Index, 0, 0),
        ShardError::Unreachable(_) => (Code::NoDevice, 0, 0),
    };
    Failure { given, other, ..Failure::new(code, error.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inventories_survive_the_wire() {
        let line =
            |index| Inventory { id: ShardId { pack: PackId([7; 16]), index }, len: 9, written_ms: 1 << 40 };
        let page = vec![line(0), line(255)];
        assert_eq!(decode_page(&encode_page(&page)), Some(page));
        assert_eq!(decode_page(&[0; LINE + 1]), None);
    }

    #[test]
    fn refusals_mean_the_same_on_both_sides() {
        let all = [
            ShardError::NotFound,
            ShardError::Damaged,
            ShardError::StaleEpoch { given: Epoch(1), seen: Epoch(2) },
            ShardError::Full { free: 1, reserved: 2 },
            ShardError::Range,
            ShardError::Another,
            ShardError::Disk(io::Error::other("x")),
        ];
        for error in all {
            let there = error_of(failure_of(&error));
            assert_eq!(std::mem::discriminant(&there), std::mem::discriminant(&error));
            assert!(there.to_string().contains(&error.to_string()));
        }
    }
}
