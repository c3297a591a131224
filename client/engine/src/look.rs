//! Reading files for what they hold, when that has to be known.

use crate::{
    chunks::cut,
    disk::Disk,
    error::{Error, Result},
    state::{Chunks, Info, Local, shown},
    store::Store,
    system::{Class, Names, Reading, Stat},
};
use holdfast_client_sync::{Base, Content, Forest, Id, Node, Place, Side};
use holdfast_core::{ids::ChunkId, manifest::content_of};
use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    io,
};

/// The trees of a directory, whose files are read as soon as somebody asks what they hold.
pub struct Looked<'a> {
    pub store: &'a Store,
    pub disk: &'a Disk,
    /// The chunks of what was read.
    pub cut: RefCell<HashMap<Id, Chunks>>,
    /// What could not be read, and why.
    pub unread: RefCell<BTreeMap<Id, String>>,
}

impl<'a> Looked<'a> {
    pub fn new(store: &'a Store, disk: &'a Disk) -> Self {
        Self { store, disk, cut: RefCell::default(), unread: RefCell::default() }
    }

    fn read(&self, id: Id, local: &mut Local) -> Result<()> {
        if self.unread.borrow().contains_key(&id) {
            return Ok(());
        }
        let names = self.store.disk_names(id)?;
        match read(self.disk, &names, local.class) {
            Ok(Found { content, info, executable, chunks }) => {
                (local.content, local.info, local.unread) = (Some(content), info, false);
                local.executable = executable;
                self.store.put_local(id, local)?;
                self.cut.borrow_mut().insert(id, chunks);
            }
            Err(error) => {
                let why = match error.kind() == io::ErrorKind::NotFound {
                    true => "it was changed while it was looked at".to_owned(),
                    false => format!("it cannot be read: {error}"),
                };
                tracing::debug!(path = shown(&names), why, "not read");
                self.unread.borrow_mut().insert(id, why);
            }
        }
        Ok(())
    }
}

impl Forest for Looked<'_> {
    type Error = Error;

    fn node(&self, side: Side, id: Id) -> Result<Option<Node>> {
        if self.store.is_hidden(id)? {
            return Ok(None);
        }
        match side {
            Side::Remote => Ok(self.store.seen(id)?.unwrap_or_default()),
            Side::Local => {
                let Some(mut local) = self.store.local(id)? else { return Ok(None) };
                if local.unread {
                    self.read(id, &mut local)?;
                }
                Ok(local.node())
            }
        }
    }

    fn base(&self, id: Id) -> Result<Option<Base>> {
        if self.store.is_hidden(id)? { Ok(None) } else { self.store.base(id) }
    }

    fn at(&self, side: Side, place: &Place) -> Result<Option<Id>> {
        let found = match side {
            Side::Local => self.store.local_at(place)?.map(|(id, _)| id),
            Side::Remote => self.store.remote_at(place)?,
        };
        match found {
            Some(id) if self.store.is_hidden(id)? => Ok(None),
            found => Ok(found),
        }
    }

    fn inside(&self, side: Side, parent: Id, prefix: &[u8]) -> Result<Vec<Id>> {
        let mut seen = Vec::new();
        for id in self.store.inside(side, parent, prefix)? {
            if !self.store.is_hidden(id)? {
                seen.push(id);
            }
        }
        Ok(seen)
    }
}

/// What was read of a file or link.
struct Found {
    content: [u8; 32],
    info: Info,
    executable: bool,
    chunks: Chunks,
}

/// What is at a place: it must be the same before and after it was read.
fn read(disk: &Disk, names: &Names, class: Class) -> io::Result<Found> {
    let now = disk.now_ns();
    if class == Class::Link {
        let before = disk.stat(names)?.ok_or(io::ErrorKind::NotFound)?;
        let target = disk.read_link(names)?;
        unchanged(&before, disk.stat(names)?)?;
        let chunks = vec![(ChunkId::of(&target), target.len() as u32)];
        let content = content_of(chunks.iter().copied());
        return Ok(Found { content, info: Info::of_read(&before, now), executable: false, chunks });
    }
    let (file, before) = disk.read(names)?;
    let cut = cut(Reading::new(&*file), before.size)?;
    let after = unchanged(&before, disk.stat(names)?)?;
    if cut.bytes != after.size {
        return Err(io::Error::other("it is being written"));
    }
    let (Content(content), chunks) = (cut.content, cut.chunks);
    Ok(Found { content, info: Info::of_read(&after, now), executable: after.executable, chunks })
}

fn unchanged(before: &Stat, after: Option<Stat>) -> io::Result<Stat> {
    let after = after.ok_or(io::ErrorKind::NotFound)?;
    let same = before.class == after.class && Info::of(before) == Info::of(&after);
    if same { Ok(after) } else { Err(io::Error::other("it is being written")) }
}
