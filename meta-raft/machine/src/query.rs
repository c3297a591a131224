//! Questions about the state, asked by gateways and background work on a consistent view.

use crate::{
    apply::{components, leaf},
    ask::{Backlog, Found, JournalPage, LookedUp, Object},
    keys::{self, Table, Tree},
    records::{
        AccessKey, AdminToken, Archive, Authority, Bucket, BucketConfig, BucketUsage, Chunk, ClassPool,
        Device, DirEntry, Extra, Header, Host, Keyring, Lease, Pack, Part, Pg, Pool, Record, Segment,
        Settings, Summary, Token, Tombstone, Upload, Version, VersionName,
    },
};
use holdfast_core::{
    ids::{
        BucketId, ChunkId, DeviceId, DomainId, HostId, NodeId, PackId, PgId, PoolId, SegmentId, UploadId,
        VersionId,
    },
    kv::{KvError, View, prefix_end, scan_prefix},
    limits::PARTS_MAX,
    profile::Profile,
};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::ControlFlow,
};

fn read<R: Record>(view: &(impl View + ?Sized), key: &[u8]) -> Result<Option<R>, KvError> {
    view.get(key)?.map(|bytes| R::from_bytes(&bytes)).transpose()
}

/// The id that a key of `table` ends in.
fn id_of<const N: usize>(key: &[u8], what: &str) -> Result<[u8; N], KvError> {
    keys::tail(key).ok_or_else(|| KvError::Storage(format!("a key of {what} is too short")))
}

/// # Errors
/// As all here: where the state cannot be read.
pub fn header(view: &(impl View + ?Sized)) -> Result<Option<Header>, KvError> {
    read(view, &keys::header())
}

pub fn bucket(view: &(impl View + ?Sized), name: &str) -> Result<Option<Bucket>, KvError> {
    read(view, &keys::bucket_name(name))
}

/// The directory of a path, which is empty or ends in `/`.
pub fn directory(
    view: &(impl View + ?Sized),
    tree: Tree,
    bucket: BucketId,
    path: &[u8],
) -> Result<Option<NodeId>, KvError> {
    let mut node = NodeId::ROOT;
    for component in components(path).filter(|component| !component.is_empty()) {
        match read(view, &keys::dir_entry(tree, bucket, node, component))? {
            Some(DirEntry::Directory { node: next, .. } | DirEntry::Kept { node: next, .. }) => node = next,
            Some(DirEntry::File { .. }) | None => return Ok(None),
        }
    }
    Ok(Some(node))
}

pub fn usage(view: &(impl View + ?Sized), bucket: BucketId) -> Result<Option<BucketUsage>, KvError> {
    read(view, &keys::bucket_usage(bucket))
}

/// All buckets by name.
pub fn buckets(view: &(impl View + ?Sized)) -> Result<Vec<Bucket>, KvError> {
    scan_prefix(view, &keys::table(Table::BucketName), usize::MAX)?
        .iter()
        .map(|(_, value)| Bucket::from_bytes(value))
        .collect()
}

/// What `key` names now.
pub fn entry(
    view: &(impl View + ?Sized),
    bucket: BucketId,
    key: &[u8],
) -> Result<Option<(NodeId, Summary)>, KvError> {
    entry_in(view, Tree::Live, bucket, key)
}

fn entry_in(
    view: &(impl View + ?Sized),
    tree: Tree,
    bucket: BucketId,
    key: &[u8],
) -> Result<Option<(NodeId, Summary)>, KvError> {
    let (path, name) = leaf(key);
    let Some(parent) = directory(view, tree, bucket, path)? else { return Ok(None) };
    match read(view, &keys::dir_entry(tree, bucket, parent, name))? {
        Some(DirEntry::File { node, current }) => Ok(Some((node, current))),
        Some(DirEntry::Directory { .. } | DirEntry::Kept { .. }) | None => Ok(None),
    }
}

/// The current version of `key`.
pub fn object(view: &(impl View + ?Sized), bucket: BucketId, key: &[u8]) -> Result<Option<Version>, KvError> {
    let Some((node, current)) = entry(view, bucket, key)? else { return Ok(None) };
    let version = read(view, &keys::version(bucket, node, current.version))?;
    version.map(Some).ok_or_else(|| KvError::Storage(format!("version {} does not exist", current.version)))
}

pub fn bucket_config(view: &(impl View + ?Sized), bucket: BucketId) -> Result<BucketConfig, KvError> {
    Ok(read(view, &keys::bucket_config(bucket))?.unwrap_or_default())
}

/// The node of a key, and its newest version, be it there or hidden.
pub(crate) fn newest(
    view: &(impl View + ?Sized),
    bucket: BucketId,
    key: &[u8],
) -> Result<Option<(NodeId, VersionId)>, KvError> {
    let found = match entry(view, bucket, key)? {
        Some(found) => Some(found),
        None => entry_in(view, Tree::Hidden, bucket, key)?,
    };
    Ok(found.map(|(node, current)| (node, current.version)))
}

pub fn extra(
    view: &(impl View + ?Sized),
    bucket: BucketId,
    node: NodeId,
    version: VersionId,
) -> Result<Extra, KvError> {
    Ok(read(view, &keys::extra(bucket, node, version))?.unwrap_or_default())
}

/// What an upload's version will have beyond a plain object.
pub fn upload_extra(view: &(impl View + ?Sized), id: UploadId) -> Result<Extra, KvError> {
    Ok(read(view, &keys::upload_extra(id))?.unwrap_or_default())
}

/// A version of a key by its name, or the newest, which may be a delete marker.
pub fn look_up(
    view: &(impl View + ?Sized),
    bucket: BucketId,
    key: &[u8],
    name: Option<VersionName>,
) -> Result<LookedUp, KvError> {
    let Some((node, newest)) = newest(view, bucket, key)? else { return Ok(LookedUp::NoKey) };
    let id = match name {
        None => newest,
        Some(VersionName::Id(id)) => id,
        Some(VersionName::Null) => match view.get(&keys::null_version(bucket, node))? {
            Some(bytes) => VersionId(u64::from_be_bytes(bytes.try_into().unwrap_or_default())),
            None => newest,
        },
    };
    let Some(version) = read::<Version>(view, &keys::version(bucket, node, id))? else {
        return Ok(LookedUp::NoVersion);
    };
    let extra = extra(view, bucket, node, id)?;
    let other = name.is_some_and(|name| extra.named != (name != VersionName::Null));
    Ok(match other {
        true => LookedUp::NoVersion,
        false => LookedUp::Found(Box::new(Object { version, extra, latest: id == newest })),
    })
}

/// Which change of identities was the last; 0 where there was none.
pub fn identity_number(view: &(impl View + ?Sized)) -> Result<u64, KvError> {
    let bytes = view.get(&keys::identity_number())?;
    Ok(bytes.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap_or_default())))
}

/// Users, groups, roles, policies and keys, by name.
pub fn identities(view: &(impl View + ?Sized)) -> Result<Vec<(String, String)>, KvError> {
    let table = keys::table(Table::Identity);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let all = scan_prefix(view, &table, usize::MAX)?;
    Ok(all.iter().map(|(key, value)| (text(&key[table.len()..]), text(value))).collect())
}

/// A bucket's journal from a number on, in order.
pub fn journal(
    view: &(impl View + ?Sized),
    bucket: BucketId,
    from: u64,
    limit: usize,
) -> Result<JournalPage, KvError> {
    let records = lines(view, bucket, from, limit)?;
    let next = usage(view, bucket)?.unwrap_or_default().journal_next;
    Ok(JournalPage { records, next })
}

/// The lines of a bucket's journal from a number on, in order, with their numbers.
pub(crate) fn lines<R: Record>(
    view: &(impl View + ?Sized),
    bucket: BucketId,
    from: u64,
    limit: usize,
) -> Result<Vec<(u64, R)>, KvError> {
    let mut records = Vec::new();
    let mut failed = None;
    if limit == 0 {
        return Ok(records);
    }
    let end = prefix_end(&keys::journal_of(bucket));
    view.scan(&keys::journal(bucket, from), &end, &mut |key, value| {
        let number = keys::tail(key).map_or(0, u64::from_be_bytes);
        match R::from_bytes(value) {
            Ok(record) => records.push((number, record)),
            Err(error) => failed = Some(error),
        }
        match records.len() < limit && failed.is_none() {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    })?;
    failed.map_or(Ok(records), Err)
}

pub fn cursor(view: &(impl View + ?Sized), bucket: BucketId, name: &str) -> Result<Option<u64>, KvError> {
    let kept = view.get(&keys::cursor(bucket, name))?;
    Ok(kept.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes))
}

/// A version with its extras.
pub fn version(
    view: &(impl View + ?Sized),
    bucket: BucketId,
    node: NodeId,
    id: VersionId,
) -> Result<Option<(Version, Extra)>, KvError> {
    let Some(version) = read::<Version>(view, &keys::version(bucket, node, id))? else { return Ok(None) };
    Ok(Some((version, read(view, &keys::extra(bucket, node, id))?.unwrap_or_default())))
}

/// The bytes of a version whose content is inline.
pub fn inline(
    view: &(impl View + ?Sized),
    bucket: BucketId,
    node: NodeId,
    version: VersionId,
) -> Result<Option<Vec<u8>>, KvError> {
    view.get(&keys::inline(bucket, node, version))
}

pub fn segment(view: &(impl View + ?Sized), id: SegmentId) -> Result<Option<Segment>, KvError> {
    read(view, &keys::segment(id))
}

/// Where chunks are, in the order asked.
pub fn chunks(
    view: &(impl View + ?Sized),
    domain: DomainId,
    ids: impl IntoIterator<Item = ChunkId>,
) -> Result<Vec<Option<Chunk>>, KvError> {
    let wanted: Vec<_> = ids.into_iter().map(|id| keys::chunk(domain, id)).collect();
    let found = view.get_many(&wanted)?;
    found.iter().map(|bytes| bytes.as_deref().map(Chunk::from_bytes).transpose()).collect()
}

/// Which chunks an upload need not bring, in the order asked: those that something references, so that they are not
/// collected under it, and that can be read.
pub fn deduplicates(
    view: &(impl View + ?Sized),
    domain: DomainId,
    ids: impl IntoIterator<Item = ChunkId>,
) -> Result<Vec<bool>, KvError> {
    // Chunks that were written together are asked for together.
    let mut last: Option<(PackId, bool)> = None;
    let mut answers = Vec::new();
    for chunk in chunks(view, domain, ids)? {
        let Some(chunk) = chunk.filter(|chunk| chunk.refs > 0) else {
            answers.push(false);
            continue;
        };
        let readable = match last {
            Some((id, readable)) if id == chunk.pack => readable,
            _ => pack(view, chunk.pack)?.is_some_and(|pack| !pack.is_lost()),
        };
        last = Some((chunk.pack, readable));
        answers.push(readable);
    }
    Ok(answers)
}

pub fn pack(view: &(impl View + ?Sized), id: PackId) -> Result<Option<Pack>, KvError> {
    read(view, &keys::pack(id))
}

/// Chunks in the order asked, each with the pack it is in.
pub fn locate(
    view: &(impl View + ?Sized),
    domain: DomainId,
    ids: &[ChunkId],
) -> Result<Vec<Option<Found>>, KvError> {
    let mut packs: BTreeMap<PackId, Option<Pack>> = BTreeMap::new();
    let mut found = Vec::with_capacity(ids.len());
    for chunk in chunks(view, domain, ids.iter().copied())? {
        let Some(chunk) = chunk else {
            found.push(None);
            continue;
        };
        let known = match packs.entry(chunk.pack) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(pack(view, chunk.pack)?),
        };
        found.push(known.clone().map(|pack| Found { chunk, pack }));
    }
    Ok(found)
}

/// Up to `limit` packs above `after`, in id order, of placement group `pg` or of all.
pub fn packs(
    view: &(impl View + ?Sized),
    pg: Option<PgId>,
    after: Option<PackId>,
    limit: usize,
) -> Result<Vec<(PackId, Pack)>, KvError> {
    let table = pg.map_or_else(|| keys::table(Table::Pack), keys::packs_of);
    let start = match after {
        // The least key above it.
        Some(id) => [keys::pack(id), vec![0]].concat(),
        None => table.clone(),
    };
    let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    view.scan(&start, &holdfast_core::kv::prefix_end(&table), &mut |key, value| {
        found.push((key.to_vec(), value.to_vec()));
        if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    found.iter().map(|(key, value)| Ok((PackId(id_of(key, "packs")?), Pack::from_bytes(value)?))).collect()
}

/// Up to `limit` packs with missing shards behind `after`, the most endangered first; each with how many more shards it
/// can lose.
pub fn degraded(
    view: &(impl View + ?Sized),
    after: Option<(u8, PackId)>,
    limit: usize,
) -> Result<Vec<(u8, PackId)>, KvError> {
    let table = keys::table(Table::Degraded);
    let start = after.map_or(table.clone(), |(spare, id)| [keys::degraded(spare, id), vec![0]].concat());
    let mut found = Vec::new();
    view.scan(&start, &holdfast_core::kv::prefix_end(&table), &mut |key, _| {
        found.extend(key.get(3).copied().zip(keys::parse_ranked_pack(key)));
        if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(found)
}

/// Up to `limit` packs worth compacting, the emptiest first.
pub fn reclaimable(view: &(impl View + ?Sized), limit: usize) -> Result<Vec<PackId>, KvError> {
    scan_prefix(view, &keys::table(Table::Reclaim), limit)?
        .iter()
        .map(|(key, _)| {
            keys::parse_ranked_pack(key).ok_or_else(|| KvError::Storage("a queue names no pack".to_owned()))
        })
        .collect()
}

/// What jobs have before them; at most `limit` packs of each are looked at.
pub fn backlog(view: &(impl View + ?Sized), limit: usize) -> Result<Backlog, KvError> {
    let mut backlog = Backlog::default();
    for (_, id) in degraded(view, None, limit)? {
        let Some(found) = pack(view, id)? else { continue };
        backlog.degraded_packs += 1;
        backlog.degraded_bytes += u64::from(found.missing.count_ones()) * u64::from(found.shard_len);
    }
    let mut looked = 0;
    for (id, pg) in pgs(view)? {
        if pg.previous.is_none() {
            continue;
        }
        for (_, found) in packs(view, Some(id), None, limit.saturating_sub(looked))? {
            looked += 1;
            if pg.is_behind(found.epoch) {
                let places = pg.devices_at(found.epoch).iter().zip(&pg.devices);
                let changed = places.filter(|(old, new)| old != new).count() as u64;
                backlog.moving_packs += 1;
                backlog.moving_bytes += changed * u64::from(found.shard_len);
            }
        }
    }
    backlog.reclaimable_packs = reclaimable(view, limit)?.len() as u64;
    backlog.truncated =
        looked >= limit || backlog.degraded_packs.max(backlog.reclaimable_packs) >= limit as u64;
    Ok(backlog)
}

pub fn tombstone(view: &(impl View + ?Sized), id: PackId) -> Result<Option<Tombstone>, KvError> {
    read(view, &keys::tombstone(id))
}

pub fn pool(view: &(impl View + ?Sized)) -> Result<Option<Pool>, KvError> {
    read(view, &keys::pool())
}

/// The erasure profile of a pool.
pub fn profile_of(view: &(impl View + ?Sized), id: PoolId) -> Result<Option<Profile>, KvError> {
    if id == PoolId::FIRST {
        return Ok(pool(view)?.map(|pool| pool.profile));
    }
    Ok(read::<ClassPool>(view, &keys::class_pool(id))?.map(|of| of.pool.profile))
}

/// All records of a table, by the number that their keys end in.
fn numbered<const N: usize, Id, R: Record>(
    view: &(impl View + ?Sized),
    table: Table,
    what: &str,
    id: impl Fn([u8; N]) -> Id,
) -> Result<Vec<(Id, R)>, KvError> {
    let record = |(key, value): &(Vec<u8>, Vec<u8>)| Ok((id(id_of(key, what)?), R::from_bytes(value)?));
    scan_prefix(view, &keys::table(table), usize::MAX)?.iter().map(record).collect()
}

/// The pools beside the first one.
pub fn class_pools(view: &(impl View + ?Sized)) -> Result<Vec<(PoolId, ClassPool)>, KvError> {
    numbered(view, Table::ClassPool, "pools", |id| PoolId(u8::from_be_bytes(id)))
}

/// The classes of devices that have one.
pub fn device_classes(view: &(impl View + ?Sized)) -> Result<Vec<(DeviceId, String)>, KvError> {
    scan_prefix(view, &keys::table(Table::DeviceClass), usize::MAX)?
        .iter()
        .map(|(key, value)| {
            let class = String::from_utf8_lossy(value).into_owned();
            Ok((DeviceId(u32::from_be_bytes(id_of(key, "device classes")?)), class))
        })
        .collect()
}

pub fn pg(view: &(impl View + ?Sized), id: PgId) -> Result<Option<Pg>, KvError> {
    read(view, &keys::pg(id))
}

pub fn pgs(view: &(impl View + ?Sized)) -> Result<Vec<(PgId, Pg)>, KvError> {
    numbered(view, Table::Pg, "placement groups", |id| PgId(u32::from_be_bytes(id)))
}

pub fn devices(view: &(impl View + ?Sized)) -> Result<Vec<(DeviceId, Device)>, KvError> {
    numbered(view, Table::Device, "devices", |id| DeviceId(u32::from_be_bytes(id)))
}

pub fn hosts(view: &(impl View + ?Sized)) -> Result<Vec<(HostId, Host)>, KvError> {
    numbered(view, Table::Host, "hosts", |id| HostId(u64::from_be_bytes(id)))
}

pub fn host(view: &(impl View + ?Sized), id: HostId) -> Result<Option<Host>, KvError> {
    read(view, &keys::host(id))
}

pub fn authority(view: &(impl View + ?Sized)) -> Result<Option<Authority>, KvError> {
    read(view, &keys::authority())
}

pub fn token(view: &(impl View + ?Sized), hash: &[u8; 32]) -> Result<Option<Token>, KvError> {
    read(view, &keys::token(hash))
}

/// Whether a token lets somebody in, or has let somebody in who may ask again.
pub fn is_token(view: &(impl View + ?Sized), hash: &[u8; 32]) -> Result<bool, KvError> {
    Ok(view.get(&keys::token(hash))?.is_some() || view.get(&keys::used_token(hash))?.is_some())
}

pub fn keyring(view: &(impl View + ?Sized)) -> Result<Option<Keyring>, KvError> {
    read(view, &keys::keyring())
}

/// How far the archive is; nothing at first.
pub fn archive(view: &(impl View + ?Sized)) -> Result<Archive, KvError> {
    Ok(read(view, &keys::archive())?.unwrap_or_default())
}

pub fn settings(view: &(impl View + ?Sized)) -> Result<Settings, KvError> {
    Ok(read(view, &keys::settings())?.unwrap_or_default())
}

pub fn admin_token(view: &(impl View + ?Sized), hash: &[u8; 32]) -> Result<Option<AdminToken>, KvError> {
    read(view, &keys::admin_token(hash))
}

/// Admin tokens with the hashes of their secrets.
pub fn admin_tokens(view: &(impl View + ?Sized)) -> Result<Vec<([u8; 32], AdminToken)>, KvError> {
    scan_prefix(view, &keys::table(Table::AdminToken), usize::MAX)?
        .iter()
        .map(|(key, value)| Ok((id_of(key, "admin tokens")?, AdminToken::from_bytes(value)?)))
        .collect()
}

pub fn access_keys(view: &(impl View + ?Sized)) -> Result<Vec<AccessKey>, KvError> {
    let found = scan_prefix(view, &keys::table(Table::AccessKey), usize::MAX)?;
    found.iter().map(|(_, value)| AccessKey::from_bytes(value)).collect()
}

pub fn leases(view: &(impl View + ?Sized)) -> Result<Vec<Lease>, KvError> {
    let found = scan_prefix(view, &keys::table(Table::Lease), usize::MAX)?;
    found.iter().map(|(_, value)| Lease::from_bytes(value)).collect()
}

pub fn upload(
    view: &(impl View + ?Sized),
    bucket: BucketId,
    key: &[u8],
    id: UploadId,
) -> Result<Option<Upload>, KvError> {
    read(view, &keys::upload(bucket, key, id))
}

/// Up to `limit` uploads of `bucket` in the order of their keys, then ids, after the given one.
pub fn uploads(
    view: &(impl View + ?Sized),
    bucket: BucketId,
    after: Option<(&[u8], UploadId)>,
    limit: usize,
) -> Result<Vec<(Vec<u8>, UploadId, Upload)>, KvError> {
    let prefix = keys::uploads_of(bucket);
    let start = after.map_or(prefix.clone(), |(key, id)| [keys::upload(bucket, key, id), vec![0]].concat());
    let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    view.scan(&start, &holdfast_core::kv::prefix_end(&prefix), &mut |key, value| {
        found.push((key.to_vec(), value.to_vec()));
        if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    found
        .iter()
        .map(|(key, value)| {
            let (object, id) =
                keys::parse_upload(key).ok_or_else(|| KvError::Storage("an upload has no id".to_owned()))?;
            Ok((object, id, Upload::from_bytes(value)?))
        })
        .collect()
}

/// Parts of an upload by number.
pub fn parts(view: &(impl View + ?Sized), id: UploadId) -> Result<Vec<(u16, Part)>, KvError> {
    scan_prefix(view, &keys::parts_of(id), usize::from(PARTS_MAX))?
        .iter()
        .map(|(key, value)| Ok((u16::from_be_bytes(id_of(key, "parts")?), Part::from_bytes(value)?)))
        .collect()
}
