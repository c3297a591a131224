//! Listing a bucket in the byte order of its keys.
//!
//! The tree is walked in that order, so that a page costs what it shows: a prefix is reached without reading what sorts
//! before it, and a delimiter of `/` skips whole directories.

use crate::{
    apply::{components, leaf},
    keys::{self, Tree},
    query,
    records::{DirEntry, Record, Summary},
};
use holdfast_core::{
    ids::{BucketId, NodeId},
    kv::{KvError, View, prefix_end},
};
mod versions;

pub use versions::{VersionItem, VersionPage, VersionShown, list_versions};

use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// What to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRequest {
    pub prefix: Vec<u8>,
    /// Keys that share what lies between the prefix and the next delimiter are shown as one.
    pub delimiter: Vec<u8>,
    /// Only what sorts above it. Where it is a common prefix, that prefix is not shown again.
    pub after: Vec<u8>,
    /// Keys and common prefixes together.
    pub max: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Item {
    Object { key: Vec<u8>, summary: Summary },
    CommonPrefix(Vec<u8>),
}

impl Item {
    /// What the next page continues after.
    pub fn name(&self) -> &[u8] {
        match self {
            Self::Object { key, .. } => key,
            Self::CommonPrefix(prefix) => prefix,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Page {
    pub items: Vec<Item>,
    /// More follows.
    pub truncated: bool,
}

/// One page of the keys of `bucket`.
///
/// # Errors
/// Where the state cannot be read.
pub fn list<V: View + ?Sized>(view: &V, bucket: BucketId, request: &ListRequest) -> Result<Page, KvError> {
    let Names { names, truncated } = list_tree(view, Tree::Live, bucket, request)?;
    let item = |name| match name {
        Name::File { key, summary, .. } => Item::Object { key, summary },
        Name::CommonPrefix(prefix) => Item::CommonPrefix(prefix),
    };
    Ok(Page { items: names.into_iter().map(item).collect(), truncated })
}

/// A name that is shown, with its node.
enum Name {
    File { key: Vec<u8>, node: NodeId, summary: Summary },
    CommonPrefix(Vec<u8>),
}

impl Name {
    fn text(&self) -> &[u8] {
        match self {
            Self::File { key, .. } => key,
            Self::CommonPrefix(prefix) => prefix,
        }
    }
}

#[derive(Default)]
struct Names {
    names: Vec<Name>,
    truncated: bool,
}

fn list_tree<V: View + ?Sized>(
    view: &V,
    tree: Tree,
    bucket: BucketId,
    request: &ListRequest,
) -> Result<Names, KvError> {
    let mut walk = Walk { view, tree, bucket, request, page: Names::default(), skip: None, open: Vec::new() };
    if request.max == 0 {
        return Ok(walk.page);
    }
    // The directory that the prefix names, as far as it names one.
    let (path, _) = leaf(&request.prefix);
    let Some(directory) = query::directory(view, tree, bucket, path)? else { return Ok(walk.page) };
    walk.enter(directory, path.to_vec());
    walk.all()?;
    Ok(walk.page)
}

struct Walk<'a, V: ?Sized> {
    view: &'a V,
    tree: Tree,
    bucket: BucketId,
    request: &'a ListRequest,
    page: Names,
    /// The common prefix that was shown last: what begins with it is skipped.
    skip: Option<Vec<u8>>,
    /// The directories that are being walked through, the outermost first: there may be more of them than a stack holds.
    open: Vec<Open>,
}

/// A directory whose keys begin with `path`, and how far it was walked through.
struct Open {
    path: Vec<u8>,
    base: Vec<u8>,
    start: Vec<u8>,
    end: Vec<u8>,
}

/// What a visited name means for the scan of its directory.
enum Found {
    Nothing,
    Descend(NodeId, Vec<u8>),
    /// All names below this one are part of a prefix that was shown.
    Jump(Vec<u8>),
    Full,
}

impl<V: View + ?Sized> Walk<'_, V> {
    fn enter(&mut self, node: NodeId, path: Vec<u8>) {
        let base = keys::dir(self.tree, self.bucket, node);
        let (start, end) = ([base.clone(), self.first_name(&path)].concat(), prefix_end(&base));
        self.open.push(Open { path, base, start, end });
    }

    /// Walks through the directories that are open, until the page is full.
    fn all(&mut self) -> Result<(), KvError> {
        while let Some(mut open) = self.open.pop() {
            let mut found = Found::Nothing;
            let mut failure = None;
            self.view.scan(&open.start, &open.end, &mut |key, value| {
                let name = &key[keys::DIR_PREFIX_LEN..];
                match DirEntry::from_bytes(value) {
                    Ok(entry) => found = self.visit(&open.path, name, entry),
                    Err(error) => failure = Some(error),
                }
                let go_on = matches!(found, Found::Nothing) && failure.is_none();
                if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            if let Some(error) = failure {
                return Err(error);
            }
            match found {
                Found::Nothing => {}
                Found::Full => return Ok(()),
                Found::Jump(name) => {
                    open.start = [open.base.clone(), name].concat();
                    self.open.push(open);
                }
                Found::Descend(child, name) => {
                    let below = [open.path.as_slice(), &name].concat();
                    // The least name above the directory's.
                    open.start = [open.base.clone(), name, vec![0]].concat();
                    self.open.push(open);
                    self.enter(child, below);
                }
            }
        }
        Ok(())
    }

    /// The least name in the directory at `path` that may lead to a wanted key.
    fn first_name(&self, path: &[u8]) -> Vec<u8> {
        let below = |key: &[u8]| match key.strip_prefix(path) {
            Some(rest) => components(rest).next().unwrap_or_default().to_vec(),
            None => Vec::new(),
        };
        below(&self.request.prefix).max(below(&self.request.after))
    }

    fn visit(&mut self, path: &[u8], name: &[u8], entry: DirEntry) -> Found {
        let key = [path, name].concat();
        let ListRequest { prefix, delimiter, after, max } = self.request;
        let is_directory = !matches!(entry, DirEntry::File { .. });
        let leads_to_prefix = is_directory && prefix.starts_with(&key);
        if !key.starts_with(prefix) && !leads_to_prefix {
            // Names are in order: past the prefix there is nothing, before it there may be more.
            return if key > *prefix { Found::Full } else { Found::Nothing };
        }
        if let Some(skip) = self.skip.as_ref().filter(|skip| key.starts_with(skip)) {
            return match after_prefix(path, skip) {
                Some(next) => Found::Jump(next),
                None => Found::Nothing,
            };
        }
        if !leads_to_prefix && let Some(common) = common_prefix(&key, prefix, delimiter) {
            self.skip = Some(common.clone());
            let shown_before = common <= *after;
            if !shown_before && self.push(Name::CommonPrefix(common), *max) {
                return Found::Full;
            }
            return Found::Nothing;
        }
        match entry {
            DirEntry::Directory { node, .. } | DirEntry::Kept { node, .. } => {
                let all_before = key <= *after && !after.starts_with(&key);
                if all_before { Found::Nothing } else { Found::Descend(node, name.to_vec()) }
            }
            DirEntry::File { node, current } => {
                if key > *after && self.push(Name::File { key, node, summary: current }, *max) {
                    return Found::Full;
                }
                Found::Nothing
            }
        }
    }

    /// Adds an item, unless the page is full: then it is known that more follows.
    fn push(&mut self, name: Name, max: usize) -> bool {
        if self.page.names.len() == max {
            self.page.truncated = true;
            return true;
        }
        self.page.names.push(name);
        false
    }
}

/// The part of `key` up to the first delimiter behind the prefix.
fn common_prefix(key: &[u8], prefix: &[u8], delimiter: &[u8]) -> Option<Vec<u8>> {
    if delimiter.is_empty() {
        return None;
    }
    let rest = &key[prefix.len()..];
    let at = rest.windows(delimiter.len()).position(|window| window == delimiter)?;
    Some(key[..prefix.len() + at + delimiter.len()].to_vec())
}

/// The least name in the directory at `path` above all keys that start with `skip`, where `skip` is inside it.
fn after_prefix(path: &[u8], skip: &[u8]) -> Option<Vec<u8>> {
    let name = skip.strip_prefix(path)?;
    let next = prefix_end(name);
    (!name.is_empty() && !next.is_empty()).then_some(next)
}

#[cfg(test)]
mod tests;
