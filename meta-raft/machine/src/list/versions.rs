//! Listing all versions of a bucket's keys: what is there and what is hidden, merged, each key with its history.

use super::{ListRequest, Name, list_tree};
use crate::{
    keys::{self, Tree},
    query,
    records::{ChecksumAlgorithm, Etag, Record, Version, VersionName},
};
use holdfast_core::{
    ids::{BucketId, NodeId, VersionId},
    kv::{KvError, View, prefix_end},
};
use serde::{Deserialize, Serialize};
use std::{iter::Peekable, ops::ControlFlow, vec::IntoIter};

/// What listings show of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionShown {
    pub key: Vec<u8>,
    pub id: VersionId,
    pub name: VersionName,
    pub latest: bool,
    pub marker: bool,
    pub modified_ms: u64,
    pub bytes: u64,
    pub etag: Etag,
    pub checksum: Option<(ChecksumAlgorithm, bool)>,
    pub owner: String,
    pub tags: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VersionItem {
    Version(VersionShown),
    CommonPrefix(Vec<u8>),
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VersionPage {
    pub items: Vec<VersionItem>,
    /// More follows.
    pub truncated: bool,
}

/// One page of versions: keys in byte order, the versions of each from the newest to the oldest. With `after`, it begins
/// behind that version of the key that the request continues after.
///
/// # Errors
/// Where the state cannot be read.
pub fn list_versions<V: View + ?Sized>(
    view: &V,
    bucket: BucketId,
    request: &ListRequest,
    after: Option<VersionName>,
) -> Result<VersionPage, KvError> {
    let mut page = VersionPage::default();
    if request.max == 0 {
        return Ok(page);
    }
    let shown_alone = request.after.starts_with(&request.prefix)
        && super::common_prefix(&request.after, &request.prefix, &request.delimiter).is_none();
    if let Some(name) = after.filter(|_| shown_alone)
        && let Some((node, _)) = query::newest(view, bucket, &request.after)?
        && expand(view, bucket, &request.after, node, Some(name), request.max, &mut page)?
    {
        return Ok(page);
    }
    let in_tree = |tree| list_tree(view, tree, bucket, request);
    let (live, hidden) = (in_tree(Tree::Live)?, in_tree(Tree::Hidden)?);
    let more = live.truncated || hidden.truncated;
    // Where a page ends, names of the other one beyond it may not be all.
    let bound = [&live, &hidden]
        .iter()
        .filter(|names| names.truncated)
        .filter_map(|names| names.names.last().map(|name| name.text().to_vec()))
        .min();
    let (mut live, mut hidden) = (live.names.into_iter().peekable(), hidden.names.into_iter().peekable());
    while let Some(name) = next(&mut live, &mut hidden) {
        if bound.as_ref().is_some_and(|bound| name.text() > bound.as_slice()) {
            break;
        }
        match name {
            Name::CommonPrefix(prefix) => {
                if page.items.len() == request.max {
                    page.truncated = true;
                    return Ok(page);
                }
                page.items.push(VersionItem::CommonPrefix(prefix));
            }
            Name::File { key, node, .. } => {
                if expand(view, bucket, &key, node, None, request.max, &mut page)? {
                    return Ok(page);
                }
            }
        }
    }
    page.truncated = more;
    Ok(page)
}

/// The lesser of two names; a prefix that both show is one.
fn next(live: &mut Peekable<IntoIter<Name>>, hidden: &mut Peekable<IntoIter<Name>>) -> Option<Name> {
    match (live.peek(), hidden.peek()) {
        (Some(a), Some(b)) if a.text() == b.text() => {
            hidden.next();
            live.next()
        }
        (Some(a), Some(b)) if a.text() > b.text() => hidden.next(),
        (Some(_), _) => live.next(),
        (None, _) => hidden.next(),
    }
}

/// Adds a node's versions, those after `after` where it is given; whether the page was full before all were added.
fn expand<V: View + ?Sized>(
    view: &V,
    bucket: BucketId,
    key: &[u8],
    node: NodeId,
    after: Option<VersionName>,
    max: usize,
    page: &mut VersionPage,
) -> Result<bool, KvError> {
    let all = keys::versions_of(bucket, node);
    let start = match after {
        None => all.clone(),
        Some(VersionName::Id(id)) => after_key(bucket, node, id),
        Some(VersionName::Null) => match query::look_up(view, bucket, key, after)? {
            crate::ask::LookedUp::Found(found) => after_key(bucket, node, found.version.id),
            crate::ask::LookedUp::NotAsked
            | crate::ask::LookedUp::NoKey
            | crate::ask::LookedUp::NoVersion => prefix_end(&all),
        },
    };
    let mut found: Vec<Version> = Vec::new();
    let mut failure = None;
    view.scan(&start, &prefix_end(&all), &mut |_, value| {
        match Version::from_bytes(value) {
            Ok(version) => found.push(version),
            Err(error) => failure = Some(error),
        }
        // One more than fit says that more follows.
        let enough = page.items.len() + found.len() > max || failure.is_some();
        if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    let mut latest = after.is_none();
    for version in found {
        if page.items.len() == max {
            page.truncated = true;
            return Ok(true);
        }
        let extra = query::extra(view, bucket, node, version.id)?;
        page.items.push(VersionItem::Version(VersionShown {
            key: key.to_vec(),
            id: version.id,
            name: if extra.named { VersionName::Id(version.id) } else { VersionName::Null },
            latest: std::mem::take(&mut latest),
            marker: extra.marker,
            modified_ms: version.modified_ms,
            bytes: version.bytes,
            etag: version.etag,
            checksum: version.checksum.as_ref().map(|sum| (sum.algorithm, sum.composite_parts.is_some())),
            owner: extra.owner,
            tags: extra.tags,
        }));
    }
    Ok(false)
}

fn after_key(bucket: BucketId, node: NodeId, id: VersionId) -> Vec<u8> {
    let mut key = keys::version(bucket, node, id);
    key.push(0);
    key
}
