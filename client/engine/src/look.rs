//! Reading files for what they hold, when that has to be known.

use crate::{
    chunks::cut,
    disk::Disk,
    error::{Error, Result, at},
    state::{Chunks, Info, Local, shown},
    store::Store,
    system::{Class, Names, Reading, Stat},
};
use holdfast_client_sync::{Base, Content, Forest, Id, Node, Place, Side};
use holdfast_core::{ids::ChunkId, manifest::content_of};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    io,
};

/// So many files that were read are made durable one by one; more of them all at once, with all else that is on their file
/// system.
const ALONE: usize = 16;

/// The trees of a directory, whose files are read as soon as somebody asks what they hold.
pub struct Looked<'a> {
    pub store: &'a Store,
    pub disk: &'a Disk,
    /// The chunks of what was read.
    pub cut: RefCell<HashMap<Id, Chunks>>,
    /// How many files were read.
    read: Cell<usize>,
    /// What could not be read, and why.
    pub unread: RefCell<BTreeMap<Id, String>>,
}

impl<'a> Looked<'a> {
    pub fn new(store: &'a Store, disk: &'a Disk) -> Self {
        Self { store, disk, cut: RefCell::default(), read: Cell::default(), unread: RefCell::default() }
    }

    /// Has all that was read be durable here before anybody is told of it: after a power cut, what is gone would count as
    /// deleted, and what is old as the newest.
    ///
    /// # Errors
    /// Where the file system fails.
    pub fn settle(&self) -> Result<()> {
        match self.read.get() > ALONE {
            true => self.disk.sync().map_err(at(self.disk.path())),
            false => Ok(()),
        }
    }

    fn read(&self, id: Id, local: &mut Local) -> Result<()> {
        if self.unread.borrow().contains_key(&id) {
            return Ok(());
        }
        let names = self.store.disk_names(id)?;
        self.read.set(self.read.get() + 1);
        match read(self.disk, &names, local.class, self.read.get() <= ALONE) {
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

/// What is at a place: it must be the same before and after it was read, and is durable then where it `syncs`.
fn read(disk: &Disk, names: &Names, class: Class, syncs: bool) -> io::Result<Found> {
    let now = disk.now_ns();
    if class == Class::Link {
        let before = disk.stat(names)?.ok_or(io::ErrorKind::NotFound)?;
        let target = disk.read_link(names)?;
        if syncs {
            disk.sync_names(names)?;
        }
        unchanged(&before, disk.stat(names)?)?;
        let chunks = vec![(ChunkId::of(&target), target.len() as u32)];
        let content = content_of(chunks.iter().copied());
        return Ok(Found { content, info: Info::of_read(&before, now), executable: false, chunks });
    }
    let (file, before) = disk.read(names)?;
    let cut = cut(Reading::new(&*file), before.size)?;
    if syncs {
        file.sync()?;
    }
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
