//! Packs as devices have them, read without any metadata.

use crate::pack_io::whole_pack;
use bytes::Bytes;
use holdfast_core::{
    ids::{DeviceId, PackId},
    pack::Contents,
    profile::Profile,
};
use holdfast_erasure::ErasureCode;
use holdfast_storage_node_server::DeviceAccess;
use holdfast_storage_node_store::{Inventory, ShardError, ShardId};
use std::collections::{BTreeMap, VecDeque};

/// Lines of an inventory that are read at a time.
const PAGE: u32 = 8192;

/// Bytes of a shard, at most: those of a whole pack of one data shard.
const SHARD_MAX: u32 = 2 * holdfast_core::limits::PACK_BYTES as u32;

/// A shard on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LooseShard {
    pub device: DeviceId,
    pub index: u8,
    pub len: u32,
}

/// A pack, and what there is of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoosePack {
    pub id: PackId,
    pub shards: Vec<LooseShard>,
}

/// Devices that can be read.
pub struct LooseDevices {
    devices: BTreeMap<DeviceId, DeviceAccess>,
}

impl LooseDevices {
    pub fn new(devices: BTreeMap<DeviceId, DeviceAccess>) -> Self {
        Self { devices }
    }

    /// Leaves out the devices that cannot be asked now, and says which.
    pub async fn leave_out_absent(&mut self) -> Vec<(DeviceId, ShardError)> {
        let ask =
            self.devices.iter().map(async |(device, access)| (*device, access.inventory(None, 1).await));
        let answers = futures::future::join_all(ask).await;
        let absent = answers.into_iter().filter_map(|(device, answer)| Some((device, answer.err()?)));
        let absent: Vec<_> = absent.collect();
        absent.iter().for_each(|(device, _)| drop(self.devices.remove(device)));
        absent
    }

    /// What the devices have of a pack.
    ///
    /// # Errors
    /// Where one cannot be asked: what it has is not known then.
    pub async fn find(&self, id: PackId) -> Result<LoosePack, ShardError> {
        let after = id.before().map(|pack| ShardId { pack, index: u8::MAX });
        let limit = holdfast_core::limits::SHARDS_MAX as u32;
        let ask = self.devices.iter().map(async |(device, access)| {
            let lines = access.inventory(after, limit).await?;
            let mine = lines.into_iter().filter(|line| line.id.pack == id);
            Ok::<_, ShardError>(mine.map(|line| shard_of(*device, &line)).collect::<Vec<_>>())
        });
        Ok(LoosePack { id, shards: futures::future::try_join_all(ask).await?.concat() })
    }

    /// The bytes and the table of a pack with this profile, verified; `None` where too little of it can be read.
    pub async fn read(&self, pack: &LoosePack, profile: Profile) -> Option<(Bytes, Contents)> {
        let k = profile.data();
        // A shard of another length is of another life of the name, or damaged.
        let mut by_len: BTreeMap<u32, Vec<&LooseShard>> = BTreeMap::new();
        pack.shards.iter().for_each(|shard| by_len.entry(shard.len).or_default().push(shard));
        by_len.retain(|len, _| (1..=SHARD_MAX).contains(len));
        let (len, mut shards) = by_len.into_iter().max_by_key(|(_, shards)| shards.len())?;
        shards.sort_by_key(|shard| shard.index);
        let mut present: Vec<(usize, Bytes)> = Vec::new();
        for shard in shards {
            if present.len() == k || present.iter().any(|(index, _)| *index == usize::from(shard.index)) {
                continue;
            }
            let access = self.devices.get(&shard.device)?;
            let name = ShardId { pack: pack.id, index: shard.index };
            match access.read(name, 0, len).await {
                Ok(bytes) => present.push((usize::from(shard.index), bytes)),
                Err(error) => {
                    tracing::warn!(pack = %pack.id, index = shard.index, %error, "a shard cannot be read")
                }
            }
        }
        let inputs: Vec<(usize, &[u8])> = present.iter().map(|(index, bytes)| (*index, &bytes[..])).collect();
        let wanted: Vec<usize> = (0..k).collect();
        let mut whole = vec![0; k * len as usize];
        let mut out: Vec<&mut [u8]> = whole.chunks_exact_mut(len as usize).collect();
        ErasureCode::new(profile).reconstruct(&inputs, &wanted, &mut out).ok()?;
        whole_pack(pack.id, vec![Bytes::from(whole)])
    }

    /// All packs of all devices, in the order of their names.
    pub fn walk(&self) -> Walk<'_> {
        let inventory =
            |(device, access)| (device, Pages { access, lines: VecDeque::new(), after: None, ended: false });
        Walk { inventories: self.devices.iter().map(inventory).collect() }
    }

    pub fn ids(&self) -> impl Iterator<Item = DeviceId> {
        self.devices.keys().copied()
    }
}

fn shard_of(device: DeviceId, line: &Inventory) -> LooseShard {
    LooseShard { device, index: line.id.index, len: line.len }
}

/// A device's inventory, page by page.
struct Pages<'a> {
    access: &'a DeviceAccess,
    lines: VecDeque<Inventory>,
    after: Option<ShardId>,
    ended: bool,
}

impl Pages<'_> {
    async fn head(&mut self) -> Result<Option<PackId>, ShardError> {
        if self.lines.is_empty() && !self.ended {
            let page = self.access.inventory(self.after, PAGE).await?;
            self.ended = page.len() < PAGE as usize;
            self.after = page.last().map(|line| line.id);
            self.lines = page.into();
        }
        Ok(self.lines.front().map(|line| line.id.pack))
    }
}

/// A walk over all packs; see [`LooseDevices::walk`].
pub struct Walk<'a> {
    inventories: Vec<(&'a DeviceId, Pages<'a>)>,
}

impl Walk<'_> {
    /// The next pack.
    ///
    /// # Errors
    /// Where a device's inventory cannot be read: nothing can be said of what is missing then.
    pub async fn next(&mut self) -> Result<Option<LoosePack>, ShardError> {
        let mut least: Option<PackId> = None;
        for (_, pages) in &mut self.inventories {
            if let Some(head) = pages.head().await? {
                least = Some(least.map_or(head, |least| least.min(head)));
            }
        }
        let Some(id) = least else { return Ok(None) };
        let mut shards = Vec::new();
        for (device, pages) in &mut self.inventories {
            while pages.head().await? == Some(id) {
                shards.extend(pages.lines.pop_front().map(|line| shard_of(**device, &line)));
            }
        }
        Ok(Some(LoosePack { id, shards }))
    }
}
