//! What people may have, and what they let others have, as it is asked for.

use crate::{
    keys::{self, Table},
    records::{Account, Link, Record, Shares},
};
use holdfast_core::{
    ids::BucketId,
    kv::{KvError, View, scan_prefix},
};

/// What an owner of buckets stores; `None` where that is not limited.
///
/// # Errors
/// Where the state cannot be read.
pub fn account<V: View + ?Sized>(view: &V, owner: &str) -> Result<Option<Account>, KvError> {
    view.get(&keys::account(owner))?.map(|bytes| Account::from_bytes(&bytes)).transpose()
}

/// What of a bucket is shared with a user.
///
/// # Errors
/// Where the state cannot be read.
pub fn shares_for<V: View + ?Sized>(view: &V, bucket: BucketId, user: &str) -> Result<Shares, KvError> {
    let bytes = view.get(&keys::share(bucket, user))?;
    Ok(bytes.map(|bytes| Shares::from_bytes(&bytes)).transpose()?.unwrap_or_default())
}

/// Shares of a bucket, or of all; with a user, or with all.
///
/// # Errors
/// Where the state cannot be read.
pub fn shares<V: View + ?Sized>(
    view: &V,
    bucket: Option<BucketId>,
    user: Option<&str>,
) -> Result<Vec<(BucketId, String, Shares)>, KvError> {
    let all = keys::table(Table::Share);
    let prefix = bucket.map_or_else(|| all.clone(), keys::shares_of);
    let mut found = Vec::new();
    for (key, value) in scan_prefix(view, &prefix, usize::MAX)? {
        let (id, with) = key[all.len()..].split_at(size_of::<u64>().min(key.len() - all.len()));
        let Ok(id) = id.try_into().map(u64::from_be_bytes) else { continue };
        let with = String::from_utf8_lossy(with).into_owned();
        if user.is_none_or(|user| user == with) {
            found.push((BucketId(id), with, Shares::from_bytes(&value)?));
        }
    }
    Ok(found)
}

/// A link to what is in a bucket, by the hash of its secret.
///
/// # Errors
/// Where the state cannot be read.
pub fn link<V: View + ?Sized>(view: &V, bucket: BucketId, id: &[u8; 32]) -> Result<Option<Link>, KvError> {
    view.get(&keys::link(bucket, id))?.map(|bytes| Link::from_bytes(&bytes)).transpose()
}

/// All links to what is in a bucket.
///
/// # Errors
/// Where the state cannot be read.
pub fn links<V: View + ?Sized>(view: &V, bucket: BucketId) -> Result<Vec<([u8; 32], Link)>, KvError> {
    let found = scan_prefix(view, &keys::links_of(bucket), usize::MAX)?;
    let links = found.into_iter().filter_map(|(key, value)| Some((keys::tail(&key)?, value)));
    links.map(|(id, value)| Ok((id, Link::from_bytes(&value)?))).collect()
}
