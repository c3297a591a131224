//! A bucket's names as sync clients see them: nodes with their parents, all of them or those that changed.
//!
//! What a client is told of a change is what is so now. Once it has read its journal to the end that it was told, all that
//! it knows is of one moment, whatever happened meanwhile.

use crate::{
    apply::{components, split},
    keys::{self, Tree},
    query,
    records::{
        Change, Content, DirEntry, ENCRYPTION, Extra, FILE, JournalLine, JournalRecord, Record, Summary,
        Version,
    },
};
use holdfast_core::{
    ids::{BucketId, ChunkId, NodeId, VersionId},
    kv::{KvError, View, prefix_end},
    manifest::{ContentHasher, content_of},
};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// A name and what has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub node: NodeId,
    pub parent: NodeId,
    /// Without a `/` at its end.
    pub name: Vec<u8>,
    /// `None` for a directory.
    pub file: Option<FileShown>,
}

/// A file's newest version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileShown {
    pub version: VersionId,
    pub bytes: u64,
    pub modified_ms: u64,
    /// [`content_of`] its chunks; `None` where they are encrypted, and mean nothing without the key.
    pub content: Option<[u8; 32]>,
    /// Its document [`FILE`].
    pub described: Option<String>,
}

/// A part of all names of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NamesPage {
    pub names: Vec<Named>,
    /// The path that the next page continues after; `None` at the end.
    pub after: Option<Vec<u8>>,
    /// The number of the journal's next record.
    pub journal: u64,
    /// The directory whose names these are; `None` where there is none of its path.
    pub base: Option<NodeId>,
}

/// What is so now of a name that changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NameChange {
    Is(Named),
    Gone(NodeId),
    /// A directory is somewhere else, with all that is in it: whoever was reading all names may have seen none of it.
    Moved(Named),
    /// The same of one that is somewhere else again since.
    Passed(NodeId),
    /// A directory is outside of the one that is followed: whoever knew it knows of too much.
    Left(NodeId),
}

/// What has changed since a place in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChangesPage {
    pub changes: Vec<NameChange>,
    /// Where to read on.
    pub next: u64,
    /// The number of the journal's next record: there is more as long as `next` is less.
    pub head: u64,
    /// The journal no longer goes back so far, or never came so far, or the directory is elsewhere: all names must be read
    /// again.
    pub lost: bool,
    /// As in [`NamesPage`].
    pub base: Option<NodeId>,
}

/// Names in the directory `base` in the order of their paths, behind `after`, at most `limit`.
///
/// # Errors
/// Where the state cannot be read.
pub fn names<V: View + ?Sized>(
    view: &V,
    bucket: BucketId,
    base: &[u8],
    after: &[u8],
    limit: usize,
) -> Result<NamesPage, KvError> {
    let Some(directory) = query::directory(view, Tree::Live, bucket, base)? else {
        return Ok(NamesPage::default());
    };
    let journal = query::usage(view, bucket)?.unwrap_or_default().journal_next;
    let mut walk = Walk {
        view,
        bucket,
        after,
        limit: limit.max(1),
        names: Vec::new(),
        last: Vec::new(),
        segments: 0,
        open: Vec::new(),
    };
    walk.enter(directory, base.to_vec());
    let more = walk.all()?.is_break();
    Ok(NamesPage { after: more.then_some(walk.last), names: walk.names, journal, base: Some(directory) })
}

/// Segments whose chunks a page reads to name its files' bytes, until it ends: their number has no other bound.
const SEGMENTS_MAX: usize = 4096;

struct Walk<'a, V: ?Sized> {
    view: &'a V,
    bucket: BucketId,
    after: &'a [u8],
    limit: usize,
    names: Vec<Named>,
    /// The path that was shown last.
    last: Vec<u8>,
    segments: usize,
    /// The directories that are being walked through, the outermost first: there may be more of them than a stack holds.
    open: Vec<Open>,
}

/// A directory, and how far it was walked through.
struct Open {
    node: NodeId,
    path: Vec<u8>,
    start: Vec<u8>,
    end: Vec<u8>,
}

impl<V: View + ?Sized> Walk<'_, V> {
    fn enter(&mut self, node: NodeId, path: Vec<u8>) {
        let base = keys::dir(Tree::Live, self.bucket, node);
        let end = prefix_end(&base);
        let rest = self.after.strip_prefix(path.as_slice());
        let first = rest.and_then(|rest| components(rest).next()).unwrap_or_default();
        self.open.push(Open { node, path, start: [base, first.to_vec()].concat(), end });
    }

    fn all(&mut self) -> Result<ControlFlow<()>, KvError> {
        while let Some(open) = self.open.last_mut() {
            let mut found = None;
            self.view.scan(&open.start, &open.end, &mut |key, value| {
                let name = &key[keys::DIR_PREFIX_LEN..];
                found = Some((name.to_vec(), DirEntry::from_bytes(value)));
                ControlFlow::Break(())
            })?;
            let Some((name, entry)) = found else {
                self.open.pop();
                continue;
            };
            let (parent, key) = (open.node, [open.path.as_slice(), &name].concat());
            open.start = [keys::dir(Tree::Live, self.bucket, parent), name.clone(), vec![0]].concat();
            let entry = entry?;
            if key.as_slice() > self.after && !name.is_empty() {
                if self.names.len() == self.limit || self.segments > SEGMENTS_MAX {
                    return Ok(ControlFlow::Break(()));
                }
                self.names.push(show(self.view, self.bucket, parent, &name, &entry, &mut self.segments)?);
                self.last.clone_from(&key);
            }
            if let DirEntry::Directory { node, .. } | DirEntry::Kept { node, .. } = entry
                && (key.as_slice() > self.after || self.after.starts_with(&key))
            {
                self.enter(node, key);
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

fn show<V: View + ?Sized>(
    view: &V,
    bucket: BucketId,
    parent: NodeId,
    component: &[u8],
    entry: &DirEntry,
    segments: &mut usize,
) -> Result<Named, KvError> {
    let file = match entry {
        DirEntry::File { node, current } => Some(file(view, bucket, *node, current, segments)?),
        DirEntry::Directory { .. } | DirEntry::Kept { .. } => None,
    };
    let name = component.strip_suffix(b"/").unwrap_or(component).to_vec();
    Ok(Named { node: entry.node(), parent, name, file })
}

fn file<V: View + ?Sized>(
    view: &V,
    bucket: BucketId,
    node: NodeId,
    current: &Summary,
    segments: &mut usize,
) -> Result<FileShown, KvError> {
    let mut extra = query::extra(view, bucket, node, current.version)?;
    let content = match extra.documents.contains_key(ENCRYPTION) {
        true => None,
        false => content(view, bucket, node, current.version, segments)?,
    };
    Ok(FileShown {
        version: current.version,
        bytes: current.bytes,
        modified_ms: current.modified_ms,
        content,
        described: extra.documents.remove(FILE),
    })
}

/// The name of a version's bytes, by its chunks.
fn content<V: View + ?Sized>(
    view: &V,
    bucket: BucketId,
    node: NodeId,
    id: VersionId,
    read: &mut usize,
) -> Result<Option<[u8; 32]>, KvError> {
    let bytes = view.get(&keys::version(bucket, node, id))?;
    let Some(version) = bytes.map(|bytes| Version::from_bytes(&bytes)).transpose()? else { return Ok(None) };
    let mut hasher = ContentHasher::default();
    match version.content {
        Content::Inline => {
            let bytes = query::inline(view, bucket, node, id)?.unwrap_or_default();
            let chunk = (!bytes.is_empty()).then(|| (ChunkId::of(&bytes), bytes.len() as u32));
            return Ok(Some(content_of(chunk)));
        }
        Content::Segments(segments) => {
            *read += segments.len();
            for segment in segments {
                let Some(record) = query::segment(view, segment.id)? else { return Ok(None) };
                record.chunks.iter().for_each(|chunk| hasher.update(chunk.id, chunk.plain));
            }
        }
    }
    Ok(Some(hasher.finish()))
}

/// What has changed in the directory `base` from `from` on, of at most `limit` records.
///
/// # Errors
/// Where the state cannot be read.
pub fn changes<V: View + ?Sized>(
    view: &V,
    bucket: BucketId,
    base: &[u8],
    from: u64,
    limit: usize,
) -> Result<ChangesPage, KvError> {
    let directory = query::directory(view, Tree::Live, bucket, base)?;
    let head = query::usage(view, bucket)?.unwrap_or_default().journal_next;
    let lines = query::lines::<JournalLine>(view, bucket, from, limit.max(1))?;
    let lost = ChangesPage { next: from, head, lost: true, base: directory, ..ChangesPage::default() };
    if directory.is_none() {
        return Ok(lost);
    }
    if lines.first().map_or(from != head, |(number, _)| *number != from) {
        return Ok(lost);
    }
    let (mut next, mut changes, mut segments) = (from, Vec::new(), 0);
    for (number, JournalLine { record, parent }) in lines {
        if segments > SEGMENTS_MAX {
            break;
        }
        next = number + 1;
        // What was written before journals told of directories says too little.
        let Some(parent) = parent else { return Ok(lost) };
        let moved = record.change == Change::Move && record.key.ends_with(b"/");
        if moved && base.starts_with(&record.key) {
            // What was before in the journal was in another place.
            return Ok(lost);
        }
        if !record.key.starts_with(base) || record.key == base {
            changes.extend(moved.then_some(NameChange::Left(record.node)));
            continue;
        }
        match record.change {
            Change::Vanish | Change::Delete => changes.push(NameChange::Gone(record.node)),
            Change::Put | Change::Move | Change::Make | Change::Describe => {
                let named = name_of(view, bucket, parent, &record, &mut segments)?;
                // Its directory may be outside by now: nobody is told of what is there.
                let above = || query::directory(view, Tree::Live, bucket, split(&record.key).0);
                if !base.is_empty() && named.is_some() && above()? != Some(parent) {
                    return Ok(lost);
                }
                changes.extend(match named {
                    Some(named) if moved => Some(NameChange::Moved(named)),
                    Some(named) => Some(NameChange::Is(named)),
                    None => moved.then_some(NameChange::Passed(record.node)),
                });
            }
        }
    }
    Ok(ChangesPage { changes, next, head, lost: false, base: directory })
}

/// The name that a line of the journal tells of, if its node has it still.
fn name_of<V: View + ?Sized>(
    view: &V,
    bucket: BucketId,
    parent: NodeId,
    record: &JournalRecord,
    segments: &mut usize,
) -> Result<Option<Named>, KvError> {
    // What S3 clients call a directory's object is no file in it.
    if record.key.ends_with(b"/") && ![Change::Move, Change::Make].contains(&record.change) {
        return Ok(None);
    }
    let (_, component) = split(&record.key);
    let bytes = view.get(&keys::dir_entry(Tree::Live, bucket, parent, component))?;
    let entry = bytes.map(|bytes| DirEntry::from_bytes(&bytes)).transpose()?;
    let still = entry.filter(|entry| entry.node() == record.node);
    still.map(|entry| show(view, bucket, parent, component, &entry, segments)).transpose()
}

/// The documents that make a file of these properties; see [`FILE`].
pub fn described(text: Option<String>) -> Extra {
    let documents = text.map(|text| (FILE.to_owned(), text)).into_iter().collect();
    Extra { documents, ..Extra::default() }
}
