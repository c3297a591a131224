//! Comparing the metadata that was restored with what the devices have: it is a moment older than they are.

use super::archive::Found;
use crate::system::SystemError;
use holdfast_core::{
    ids::{DeviceId, PackId, PgId},
    profile::Profile,
};
use holdfast_gateway_server::LoosePack;
use holdfast_meta_raft_machine::{
    ask::{Packs, TombstoneOf, TopologyNow},
    command::{Command, NewPack, Outcome, PackChunk, Request},
    records::{Pack, Pg},
};
use holdfast_meta_raft_server::MetaHandle;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Packs that are looked at, or reported, together.
const PAGE: u32 = 1000;

/// Has the metadata take requests, all of them.
///
/// # Errors
/// With the first rejection.
pub async fn submit(meta: &MetaHandle, requests: Vec<Request>) -> Result<(), SystemError> {
    for outcome in meta.submit(requests).await? {
        outcome.accepted().map_err(|rejection| SystemError::Cluster(rejection.to_string()))?;
    }
    Ok(())
}

/// The packs of the metadata, in the order of their names.
struct Known<'a> {
    meta: &'a MetaHandle,
    page: VecDeque<(PackId, Pack)>,
    after: Option<PackId>,
    ended: bool,
}

impl Known<'_> {
    async fn peek(&mut self) -> Result<Option<&(PackId, Pack)>, SystemError> {
        if self.page.is_empty() && !self.ended {
            let page = self.meta.ask(Packs { pg: None, after: self.after, limit: PAGE }).await?;
            self.ended = page.len() < PAGE as usize;
            self.after = page.last().map(|(id, _)| *id);
            self.page = page.into();
        }
        Ok(self.page.front())
    }
}

/// What the comparison found.
#[derive(Default)]
struct Tally {
    whole: u64,
    lacking: u64,
    lost: u64,
    adopted: u64,
}

/// Reports what the devices lack, then takes up packs that the restored metadata does not know: compaction may have moved
/// there what the metadata believes elsewhere.
///
/// # Errors
/// Where devices or metadata fail.
pub async fn compare(meta: &MetaHandle, found: &Found) -> Result<(), SystemError> {
    let topology = meta.ask(TopologyNow {}).await?;
    let groups: BTreeMap<PgId, Pg> = topology.pgs.iter().cloned().collect();
    let reached: BTreeSet<DeviceId> = found.devices.ids().collect();
    let device = |error| SystemError::Cluster(format!("a device's inventory cannot be read: {error}"));
    let mut known = Known { meta, page: VecDeque::new(), after: None, ended: false };
    let mut walk = found.devices.walk();
    let mut unknown = Vec::new();
    let mut lacking = Vec::new();
    let mut tally = Tally::default();
    let mut next = walk.next().await.map_err(device)?;
    loop {
        // Packs of which no device has anything come before the next one that is there.
        while let Some((id, pack)) = known.peek().await?.cloned() {
            let here = next.as_ref().filter(|loose| loose.id == id);
            if here.is_none() && next.as_ref().is_some_and(|loose| loose.id < id) {
                break;
            }
            let missing = groups.get(&id.pg()).map_or(0, |pg| lacks(&pack, pg, here, &reached));
            tally.whole += u64::from(missing | pack.missing == 0);
            if missing & !pack.missing != 0 {
                tally.lacking += 1;
                let left = Pack { missing: missing | pack.missing, ..pack.clone() };
                tally.lost += u64::from(left.is_lost());
                lacking.push((id, pack.epoch, missing));
            }
            known.page.pop_front();
            if here.is_some() {
                next = walk.next().await.map_err(device)?;
            }
        }
        let Some(loose) = next.take() else { break };
        let there = loose.shards.iter().map(|shard| shard.index).collect::<BTreeSet<_>>().len();
        if let Some(profile) =
            topology.profile_of(loose.id.pg().pool()).filter(|profile| there >= profile.data())
        {
            unknown.push((loose, profile));
        }
        next = walk.next().await.map_err(device)?;
    }
    let report =
        |shards: &[(PackId, _, u32)]| Request::idempotent(Command::ReportMissing { shards: shards.to_vec() });
    for some in lacking.chunks(PAGE as usize) {
        submit(meta, vec![report(some)]).await?;
    }
    for (loose, profile) in unknown {
        tally.adopted += u64::from(adopt(meta, found, &groups, &loose, profile).await?);
    }
    println!(
        "compared the metadata with the devices: {} packs whole, {} lack shards (they are rebuilt), {} of these cannot be read \
         now, {} taken up that the metadata did not know",
        tally.whole, tally.lacking, tally.lost, tally.adopted
    );
    Ok(())
}

/// Which shards are not where they should be, of those on devices that can be asked.
fn lacks(pack: &Pack, pg: &Pg, loose: Option<&LoosePack>, reached: &BTreeSet<DeviceId>) -> u32 {
    let has = |index: usize, device: &DeviceId| {
        loose.is_some_and(|loose| {
            loose.shards.iter().any(|shard| usize::from(shard.index) == index && shard.device == *device)
        })
    };
    let devices = pg.devices_at(pack.epoch).iter().enumerate();
    devices
        .filter(|(index, device)| reached.contains(device) && !has(*index, device))
        .fold(0, |mask, (index, _)| mask | 1 << index)
}

/// Registers a pack of which the metadata knows nothing; whether it could be.
async fn adopt(
    meta: &MetaHandle,
    found: &Found,
    groups: &BTreeMap<PgId, Pg>,
    loose: &LoosePack,
    profile: Profile,
) -> Result<bool, SystemError> {
    let Some(pg) = groups.get(&loose.id.pg()) else { return Ok(false) };
    if meta.ask(TombstoneOf { id: loose.id }).await?.is_some() {
        return Ok(false);
    }
    let Some((bytes, contents)) = found.devices.read(loose, profile).await else { return Ok(false) };
    // Pieces of the archive too: until another is written, this one must not be swept.
    let there = |index: usize| {
        let device = pg.devices[index];
        loose.shards.iter().any(|shard| usize::from(shard.index) == index && shard.device == device)
    };
    let missing =
        (0..profile.total()).filter(|index| !there(*index)).fold(0, |mask, index| mask | 1 << index);
    let pack = NewPack {
        id: loose.id,
        domain: contents.domain,
        profile,
        epoch: pg.epoch,
        shard_len: (bytes.len() / profile.data()) as u32,
        missing,
        chunks: contents.entries.iter().map(|entry| PackChunk { entry: *entry, moved_from: None }).collect(),
    };
    let register = Request::idempotent(Command::RegisterPack(pack));
    let outcome = meta.request(register).await?;
    if let Outcome::Rejected(rejection) = &outcome {
        tracing::warn!(pack = %loose.id, %rejection, "a pack that the metadata does not know cannot be taken up");
    }
    Ok(matches!(outcome, Outcome::Registered { adopted } if adopted > 0))
}
