//! Quotas and shares.

use super::{Step, Tx};
use crate::{
    command::{Outcome, Rejection},
    keys::{self, Table},
    records::{Account, BucketUsage, Part, Record, Share, Shares},
};
use holdfast_core::{
    ids::BucketId,
    kv::{View, scan_prefix},
    limits::PARTS_MAX,
};

/// Users that a bucket is shared with, and what is shared of it with one of them.
const SHARED_WITH_MAX: usize = 1000;
const SHARES_MAX: usize = 100;

impl<V: View + ?Sized> Tx<'_, V> {
    /// Limits what an owner may store, in bytes, or no longer does.
    pub(super) fn set_quota(&mut self, owner: &str, bytes: Option<u64>) -> Step<Outcome> {
        let key = keys::account(owner);
        let Some(quota) = bytes else {
            self.kv.delete(key);
            return Ok(Outcome::Done);
        };
        let used = match self.read::<Account>(&key)? {
            Some(known) => known.used,
            None => self.used_by(owner)?,
        };
        self.write(key, &Account { used, quota });
        Ok(Outcome::Done)
    }

    fn used_by(&self, owner: &str) -> Step<u64> {
        let mut used = 0;
        let prefix = keys::table(Table::BucketUsage);
        for (key, value) in scan_prefix(&self.kv, &prefix, usize::MAX)? {
            let id =
                key[prefix.len()..].try_into().map(u64::from_be_bytes).map_err(|_| Rejection::Malformed)?;
            if self.config(BucketId(id))?.owner == owner {
                used += BucketUsage::from_bytes(&value)?.bytes + self.uploaded(BucketId(id))?;
            }
        }
        Ok(used)
    }

    /// Bytes of parts of uploads that are not completed.
    fn uploaded(&self, bucket: BucketId) -> Step<u64> {
        let mut bytes = 0;
        for (key, _) in scan_prefix(&self.kv, &keys::uploads_of(bucket), usize::MAX)? {
            let Some((_, id)) = keys::parse_upload(&key) else { continue };
            for (_, part) in scan_prefix(&self.kv, &keys::parts_of(id), usize::from(PARTS_MAX))? {
                bytes += Part::from_bytes(&part)?.bytes;
            }
        }
        Ok(bytes)
    }

    /// Counts bytes of a bucket's owner that come in the place of others.
    pub(super) fn charge(&mut self, bucket: BucketId, before: u64, now: u64) -> Step<()> {
        if before != now {
            let key = keys::account(&self.config(bucket)?.owner);
            if let Some(account) = self.read::<Account>(&key)? {
                let used = (account.used + now).saturating_sub(before);
                self.write(key, &Account { used, ..account });
            }
        }
        Ok(())
    }

    /// Writes what a bucket holds, and what its owner does with that.
    pub(super) fn write_usage(&mut self, bucket: BucketId, usage: &BucketUsage) -> Step<()> {
        let before = self.usage(bucket)?.bytes;
        self.charge(bucket, before, usage.bytes)?;
        self.write(keys::bucket_usage(bucket), usage);
        Ok(())
    }

    /// Refuses what makes an owner have more than it may.
    pub(super) fn check_quota(&self, bucket: BucketId) -> Step<()> {
        let account = self.read::<Account>(&keys::account(&self.config(bucket)?.owner))?;
        match account {
            Some(account) if account.used > account.quota => Err(Rejection::OverQuota.into()),
            Some(_) | None => Ok(()),
        }
    }

    /// Lets a user see a directory, and perhaps change what is in it; with `writes` of `None` no longer.
    pub(super) fn share(
        &mut self,
        bucket: BucketId,
        path: Vec<u8>,
        user: &str,
        writes: Option<bool>,
    ) -> Step<Outcome> {
        self.usage(bucket)?;
        if user.is_empty() || !(path.is_empty() || path.ends_with(b"/")) {
            return Err(Rejection::Malformed.into());
        }
        let key = keys::share(bucket, user);
        let known = self.read::<Shares>(&key)?;
        let is_new = known.is_none();
        let Shares(mut shares) = known.unwrap_or_default();
        let before = shares.len();
        shares.retain(|share| share.path != path);
        match writes {
            Some(writes) => {
                if !path.is_empty() {
                    self.keep_directory(bucket, &path)?;
                }
                let with = scan_prefix(&self.kv, &keys::shares_of(bucket), SHARED_WITH_MAX)?.len();
                if shares.len() >= SHARES_MAX || is_new && with == SHARED_WITH_MAX {
                    return Err(Rejection::TooLarge.into());
                }
                shares.push(Share { path, writes });
            }
            // Whoever thinks that it ends something must know that it does not.
            None if shares.len() == before => return Err(Rejection::NoSuchKey.into()),
            None => {}
        }
        match shares.is_empty() {
            true => self.kv.delete(key),
            false => self.write(key, &Shares(shares)),
        }
        Ok(Outcome::Done)
    }

    /// Has what others may read go with its directory to another place; with `to` of `None`, it ends.
    pub(super) fn move_readers(&mut self, bucket: BucketId, from: &[u8], to: Option<&[u8]>) -> Step<()> {
        self.move_shares(bucket, from, to)?;
        self.move_links(bucket, from, to)
    }

    /// Has what is shared go with its directory to another place; with `to` of `None`, it is shared no longer.
    fn move_shares(&mut self, bucket: BucketId, from: &[u8], to: Option<&[u8]>) -> Step<()> {
        for (key, value) in scan_prefix(&self.kv, &keys::shares_of(bucket), usize::MAX)? {
            let Shares(shares) = Shares::from_bytes(&value)?;
            if !shares.iter().any(|share| share.path.starts_with(from)) {
                continue;
            }
            let now = shares.into_iter().filter_map(|share| match (share.path.strip_prefix(from), to) {
                (None, _) => Some(share),
                (Some(rest), Some(to)) => Some(Share { path: [to, rest].concat(), ..share }),
                (Some(_), None) => None,
            });
            let now: Vec<Share> = now.collect();
            match now.is_empty() {
                true => self.kv.delete(key),
                false => self.write(key, &Shares(now)),
            }
        }
        Ok(())
    }

    pub(super) fn forget_shares(&mut self, bucket: BucketId) -> Step<()> {
        for (key, _) in scan_prefix(&self.kv, &keys::shares_of(bucket), usize::MAX)? {
            self.kv.delete(key);
        }
        Ok(())
    }
}
