//! Links by which whoever has them reads files.

use super::{Step, Tx};
use crate::{
    command::{Outcome, Rejection},
    keys::{self, Tree},
    records::{Link, Record},
};
use holdfast_core::{
    ids::BucketId,
    kv::{View, scan_prefix},
};

/// Links of one bucket.
const LINKS_MAX: usize = 1000;

impl<V: View + ?Sized> Tx<'_, V> {
    pub(super) fn make_link(&mut self, bucket: BucketId, id: &[u8; 32], link: &Link) -> Step<Outcome> {
        self.usage(bucket)?;
        let walk = self.walk(Tree::Live, bucket, &link.path)?;
        let is_directory = link.path.is_empty() || link.path.ends_with(b"/");
        let exists = if is_directory { walk.is_whole(&link.path) } else { walk.file.is_some() };
        if !exists {
            return Err(Rejection::NoSuchKey.into());
        }
        let mut count = 0;
        for (key, value) in scan_prefix(&self.kv, &keys::links_of(bucket), LINKS_MAX)? {
            match Link::from_bytes(&value)?.until_ms.is_some_and(|until| until <= self.wall_ms) {
                // Nobody can tell one that has ended from one that never was.
                true => self.kv.delete(key),
                false => count += 1,
            }
        }
        if count >= LINKS_MAX {
            return Err(Rejection::TooLarge.into());
        }
        self.write(keys::link(bucket, id), link);
        Ok(Outcome::Done)
    }

    pub(super) fn remove_link(&mut self, bucket: BucketId, id: &[u8; 32]) -> Step<Outcome> {
        let key = keys::link(bucket, id);
        if self.kv.get(&key)?.is_none() {
            return Err(Rejection::NoSuchKey.into());
        }
        self.kv.delete(key);
        Ok(Outcome::Done)
    }

    /// Takes one from the downloads that are left.
    pub(super) fn count_download(&mut self, bucket: BucketId, id: &[u8; 32]) -> Step<Outcome> {
        let key = keys::link(bucket, id);
        let link = self.read::<Link>(&key)?.ok_or(Rejection::NoSuchKey)?;
        if link.until_ms.is_some_and(|until| until <= self.wall_ms) {
            return Err(Rejection::NoSuchKey.into());
        }
        let Some(left) = link.downloads else { return Ok(Outcome::Done) };
        let left = left.checked_sub(1).ok_or(Rejection::PreconditionFailed)?;
        self.write(key, &Link { downloads: Some(left), ..link });
        Ok(Outcome::Done)
    }

    /// Has links go with what they lead to; with `to` of `None`, they end.
    pub(super) fn move_links(&mut self, bucket: BucketId, from: &[u8], to: Option<&[u8]>) -> Step<()> {
        for (key, value) in scan_prefix(&self.kv, &keys::links_of(bucket), usize::MAX)? {
            let link = Link::from_bytes(&value)?;
            let is_it = link.path == from || from.ends_with(b"/") && link.path.starts_with(from);
            let Some(rest) = link.path.strip_prefix(from).filter(|_| is_it) else { continue };
            match to {
                Some(to) => self.write(key, &Link { path: [to, rest].concat(), ..link }),
                None => self.kv.delete(key),
            }
        }
        Ok(())
    }

    pub(super) fn forget_links(&mut self, bucket: BucketId) -> Step<()> {
        for (key, _) in scan_prefix(&self.kv, &keys::links_of(bucket), usize::MAX)? {
            self.kv.delete(key);
        }
        Ok(())
    }
}
