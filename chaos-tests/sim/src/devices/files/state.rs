//! What is on a simulated disk, and what people and time do to it.
//!
//! Numbers of inodes are given out again as soon as they are free, times have a granularity, and there may be no room. When power is cut, names are
//! as they were at the last sync of anything or a moment before the cut, as on file systems with a journal, and of bytes those
//! stay that were synced; others may be gone.

use super::super::people::{People, Story};
use crate::Rng;
use holdfast_client_engine::system::{Class, Names, Rename, Stat};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, PoisonError},
};

pub(super) const ROOT: u64 = 2;

/// How long after it was written a program that sets a file's time back looks at what it was, at least.
const KEEPING_NS: i64 = 25_000_000;

/// What a step takes, at most.
const STEP_NS: u64 = 300_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    Directory(BTreeMap<Vec<u8>, u64>),
    File(Vec<u8>),
    Link(Vec<u8>),
}

#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub(super) body: Body,
    pub(super) mtime_ns: i64,
    pub(super) ctime_ns: i64,
    pub(super) executable: bool,
    pub(super) has_name: bool,
    pub(super) opened: u32,
}

impl Inode {
    /// A file's bytes are again what was synced of them, if anything was.
    fn set_back(&mut self, synced: Option<&Self>) {
        let Body::File(bytes) = &mut self.body else { return };
        match synced.map(|inode| &inode.body) {
            Some(Body::File(synced)) => bytes.clone_from(synced),
            _ => bytes.clear(),
        }
    }
}

/// What strikes an engine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// After so many more steps it is killed.
    pub fuse: Option<u64>,
    /// How often people do something before a step, of a thousand.
    pub visits: u64,
    /// Bytes that can still be written.
    pub room: Option<u64>,
}

/// What is on a disk.
pub struct State {
    inodes: BTreeMap<u64, Inode>,
    /// What is there when power is cut; nothing is kept of that where it never is.
    durable: Option<BTreeMap<u64, Inode>>,
    unused: BTreeSet<u64>,
    next: u64,
    pub(super) now_ns: i64,
    pub(super) tick_ns: i64,
    device: u64,
    /// What the device is called.
    pub name: &'static str,
    pub(super) rng: Rng,
    pub(super) people: Arc<Mutex<People>>,
    pub weather: Weather,
    /// What people did, as far as nobody was told of it.
    pub touched: BTreeSet<Names>,
    /// Steps that changed something, by the engine.
    pub changes: u64,
    /// Times of files stay what they were.
    pub times_stand: bool,
    set_back: Vec<(Names, u64, i64)>,
    pub(super) story: Story,
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn contents(inodes: &BTreeMap<u64, Inode>) -> BTreeSet<Vec<u8>> {
    let file = |inode: &Inode| match &inode.body {
        Body::File(bytes) => Some(bytes.clone()),
        Body::Directory(_) | Body::Link(_) => None,
    };
    inodes.values().filter_map(file).collect()
}

impl State {
    pub(super) fn new(
        name: &'static str,
        rng: Rng,
        tick_ns: i64,
        people: Arc<Mutex<People>>,
        story: Story,
    ) -> Self {
        let root = Inode {
            body: Body::Directory(BTreeMap::new()),
            mtime_ns: 0,
            ctime_ns: 0,
            executable: false,
            has_name: true,
            opened: 1,
        };
        Self {
            inodes: BTreeMap::from([(ROOT, root)]),
            durable: None,
            unused: BTreeSet::new(),
            next: ROOT + 1,
            // In the year 2026.
            now_ns: 1_780_000_000_000_000_000,
            tick_ns,
            device: 1,
            name,
            rng,
            people,
            weather: Weather::default(),
            touched: BTreeSet::new(),
            changes: 0,
            times_stand: false,
            set_back: Vec::new(),
            story,
        }
    }

    pub(super) fn stamp(&self) -> i64 {
        if self.times_stand {
            return 0;
        }
        self.now_ns - self.now_ns.rem_euclid(self.tick_ns)
    }

    pub(super) fn pass_time(&mut self) {
        self.now_ns += self.rng.below(STEP_NS) as i64;
    }

    pub fn sleep(&mut self, ns: i64) {
        self.now_ns += ns;
    }

    fn make(&mut self, body: Body) -> u64 {
        // The lowest that is free, as ext4 does.
        let number = self.unused.pop_first().unwrap_or(self.next);
        self.next = self.next.max(number + 1);
        let now = self.stamp();
        let inode =
            Inode { body, mtime_ns: now, ctime_ns: now, executable: false, has_name: true, opened: 0 };
        self.inodes.insert(number, inode);
        number
    }

    pub(super) fn inode(&mut self, number: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&number).ok_or_else(not_found)
    }

    pub(super) fn entries(&mut self, directory: u64) -> io::Result<&mut BTreeMap<Vec<u8>, u64>> {
        match &mut self.inode(directory)?.body {
            Body::Directory(entries) => Ok(entries),
            Body::File(_) | Body::Link(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    pub(super) fn find(&mut self, directory: u64, name: &[u8]) -> io::Result<u64> {
        self.entries(directory)?.get(name).copied().ok_or_else(not_found)
    }

    fn put(&mut self, directory: u64, name: &[u8], number: u64) -> io::Result<()> {
        if !self.inode(directory)?.has_name {
            return Err(not_found());
        }
        self.entries(directory)?.insert(name.to_vec(), number);
        let now = self.stamp();
        let above = self.inode(directory)?;
        (above.mtime_ns, above.ctime_ns) = (now, now);
        self.inode(number)?.ctime_ns = now;
        Ok(())
    }

    pub(super) fn add(&mut self, directory: u64, name: &[u8], body: Body) -> io::Result<u64> {
        if self.entries(directory)?.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !self.inode(directory)?.has_name {
            return Err(not_found());
        }
        let number = self.make(body);
        self.put(directory, name, number)?;
        Ok(number)
    }

    /// Takes a name from what has it.
    pub(super) fn drop_name(&mut self, directory: u64, name: &[u8]) -> io::Result<()> {
        let number = self.find(directory, name)?;
        self.entries(directory)?.remove(name);
        let now = self.stamp();
        let inode = self.inode(number)?;
        (inode.has_name, inode.ctime_ns) = (false, now);
        self.free(number);
        Ok(())
    }

    pub(super) fn free(&mut self, number: u64) {
        if self.inodes.get(&number).is_some_and(|inode| !inode.has_name && inode.opened == 0) {
            self.inodes.remove(&number);
            self.unused.insert(number);
        }
    }

    fn is_in(&self, number: u64, directory: u64) -> bool {
        match self.inodes.get(&directory).map(|inode| &inode.body) {
            _ if number == directory => true,
            Some(Body::Directory(entries)) => entries.values().any(|inside| self.is_in(number, *inside)),
            _ => false,
        }
    }

    pub(super) fn stat(&self, number: u64) -> io::Result<Stat> {
        let inode = self.inodes.get(&number).ok_or_else(not_found)?;
        let (class, size) = match &inode.body {
            Body::Directory(_) => (Class::Directory, 4096),
            Body::File(bytes) => (Class::File, bytes.len() as u64),
            Body::Link(target) => (Class::Link, target.len() as u64),
        };
        let Inode { mtime_ns, ctime_ns, executable, .. } = *inode;
        Ok(Stat { class, inode: number, device: self.device, size, mtime_ns, ctime_ns, executable })
    }

    pub(super) fn rename(&mut self, from: (u64, &[u8]), to: (u64, &[u8]), how: Rename) -> io::Result<()> {
        let number = self.find(from.0, from.1)?;
        let there = self.find(to.0, to.1);
        if self.is_in(to.0, number) || there.as_ref().is_ok_and(|there| self.is_in(from.0, *there)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match (how, there) {
            (Rename::Alone, Ok(_)) => Err(io::ErrorKind::AlreadyExists.into()),
            (Rename::Exchange, Err(error)) => Err(error),
            (Rename::Alone, Err(_)) => {
                self.put(to.0, to.1, number)?;
                self.entries(from.0)?.remove(from.1);
                Ok(())
            }
            (Rename::Exchange, Ok(there)) => {
                self.put(to.0, to.1, number)?;
                self.put(from.0, from.1, there)
            }
        }
    }

    // What people do. They see nothing of what is internal.

    fn resolve(&mut self, names: &[Vec<u8>]) -> io::Result<u64> {
        names.iter().try_fold(ROOT, |at, name| self.find(at, name))
    }

    fn parent<'a>(&mut self, names: &'a [Vec<u8>]) -> io::Result<(u64, &'a [u8])> {
        let (name, above) = names.split_last().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.resolve(above)?, name))
    }

    fn touch(&mut self, names: &[Vec<u8>]) {
        self.touched.insert(names.to_vec());
        self.now_ns += self.rng.below(STEP_NS / 10) as i64;
    }

    pub fn look(&mut self, names: &[Vec<u8>]) -> Option<Body> {
        let number = self.resolve(names).ok()?;
        Some(self.inodes.get(&number)?.body.clone())
    }

    pub fn is_executable(&mut self, names: &[Vec<u8>]) -> bool {
        self.resolve(names)
            .ok()
            .and_then(|number| self.inodes.get(&number))
            .is_some_and(|inode| inode.executable)
    }

    /// Another file takes the place of what is there.
    pub fn write_over(&mut self, names: &[Vec<u8>], bytes: &[u8]) -> io::Result<()> {
        let (parent, name) = self.parent(names)?;
        let before = self
            .find(parent, name)
            .ok()
            .and_then(|number| self.inodes.get(&number))
            .map(|inode| inode.executable);
        let part = [name, b".part"].concat();
        let number = self.add(parent, &part, Body::File(bytes.to_vec()))?;
        self.inode(number)?.executable = before.unwrap_or_default();
        self.pass_time();
        if self.find(parent, name).is_ok() {
            self.drop_name(parent, name)?;
        }
        self.rename((parent, &part), (parent, name), Rename::Alone)?;
        self.touch(names);
        Ok(())
    }

    /// The same file has other bytes; `keeping` its time, which some programs set back after a while.
    pub fn write_into(&mut self, names: &[Vec<u8>], bytes: &[u8], keeping: bool) -> io::Result<()> {
        let (number, now) = (self.resolve(names)?, self.stamp());
        let inode = self.inode(number)?;
        inode.body = Body::File(bytes.to_vec());
        if keeping {
            let before = inode.mtime_ns;
            self.set_back.push((names.to_vec(), number, before));
        }
        let inode = self.inode(number)?;
        (inode.mtime_ns, inode.ctime_ns) = (now, now);
        self.touch(names);
        Ok(())
    }

    /// Programs set times back of what they have written to.
    pub fn set_times_back(&mut self) {
        for (names, number, mtime_ns) in std::mem::take(&mut self.set_back) {
            if self.resolve(&names).is_ok_and(|there| there == number) {
                self.now_ns += KEEPING_NS;
                let now = self.stamp();
                if let Ok(inode) = self.inode(number) {
                    (inode.mtime_ns, inode.ctime_ns) = (mtime_ns, now);
                }
                self.touch(&names);
            }
        }
    }

    pub fn run_or_not(&mut self, names: &[Vec<u8>]) -> io::Result<()> {
        let (number, now) = (self.resolve(names)?, self.stamp());
        let inode = self.inode(number)?;
        (inode.executable, inode.ctime_ns) = (!inode.executable, now);
        self.touch(names);
        Ok(())
    }

    pub fn add_directory(&mut self, names: &[Vec<u8>]) -> io::Result<()> {
        let (parent, name) = self.parent(names)?;
        self.add(parent, name, Body::Directory(BTreeMap::new()))?;
        self.touch(names);
        Ok(())
    }

    pub fn add_link(&mut self, names: &[Vec<u8>], target: &[u8]) -> io::Result<()> {
        let (parent, name) = self.parent(names)?;
        self.add(parent, name, Body::Link(target.to_vec()))?;
        self.touch(names);
        Ok(())
    }

    /// Removes what is there, with all that is in it.
    pub fn remove(&mut self, names: &[Vec<u8>]) -> io::Result<()> {
        let (parent, name) = self.parent(names)?;
        let number = self.find(parent, name)?;
        if let Ok(entries) = self.entries(number) {
            for inside in entries.clone().into_keys() {
                self.remove(&[names, &[inside]].concat())?;
            }
        }
        self.drop_name(parent, name)?;
        self.touch(names);
        Ok(())
    }

    /// Moves what is there to another place, over a file perhaps.
    pub fn move_over(&mut self, from: &[Vec<u8>], to: &[Vec<u8>]) -> io::Result<()> {
        let (source, target) = (self.parent(from)?, self.parent(to)?);
        let number = self.find(source.0, source.1)?;
        if self.is_in(target.0, number) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if let Ok(there) = self.find(target.0, target.1) {
            let is_directory = |state: &mut Self, number| state.entries(number).is_ok();
            if there == number || is_directory(self, there) || is_directory(self, number) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            self.drop_name(target.0, target.1)?;
        }
        self.rename(source, target, Rename::Alone)?;
        self.touch(from);
        self.touch(to);
        Ok(())
    }

    /// From now on power may be cut: all that is there is durable.
    pub fn power_may_be_cut(&mut self) {
        self.durable = Some(self.inodes.clone());
    }

    /// Names and all that is said of files become durable, and bytes of `file`.
    pub(super) fn sync(&mut self, file: Option<u64>) {
        let Some(before) = self.durable.take() else { return };
        let mut now = self.inodes.clone();
        for (number, inode) in &mut now {
            if file != Some(*number) {
                inode.set_back(before.get(number));
            }
        }
        self.durable = Some(now);
    }

    pub(super) fn sync_all(&mut self) {
        if let Some(durable) = &mut self.durable {
            durable.clone_from(&self.inodes);
        }
    }

    /// Power is cut. What of that which was durable there was, it is there again.
    pub fn cut_power(&mut self) {
        let Some(durable) = self.durable.take() else { return };
        let mut now = durable.clone();
        if self.rng.chance(50) {
            // The journal was written a moment ago.
            now = self.inodes.clone();
            for (number, inode) in &mut now {
                if matches!(inode.body, Body::File(_)) && self.rng.chance(50) {
                    inode.set_back(durable.get(number));
                }
            }
        }
        now.retain(|number, inode| inode.has_name || *number == ROOT);
        now.values_mut().for_each(|inode| inode.opened = 0);
        let before = std::mem::replace(&mut self.inodes, now);
        let kept = contents(&self.inodes);
        // What nobody synced nobody can ask for.
        let synced = contents(&durable);
        let lost =
            contents(&before).into_iter().filter(|bytes| !kept.contains(bytes) && !synced.contains(bytes));
        self.people.lock().unwrap_or_else(PoisonError::into_inner).forget(lost);
        self.unused = (ROOT + 1..self.next).filter(|number| !self.inodes.contains_key(number)).collect();
        self.touched.clear();
        self.set_back.clear();
        self.story.tell(self.name, "power is cut");
        self.durable = Some(self.inodes.clone());
    }

    /// All that is in a directory, deep, each before what is in it.
    pub fn below(&self, names: &[Vec<u8>]) -> Vec<(Names, Body)> {
        let mut found = Vec::new();
        let mut at = Some(ROOT);
        for name in names {
            at = at.and_then(|at| match self.inodes.get(&at).map(|inode| &inode.body) {
                Some(Body::Directory(entries)) => entries.get(name).copied(),
                _ => None,
            });
        }
        let mut open: Vec<(Names, u64)> = at.map(|at| (names.to_vec(), at)).into_iter().collect();
        while let Some((names, number)) = open.pop() {
            let Some(Body::Directory(entries)) = self.inodes.get(&number).map(|inode| &inode.body) else {
                continue;
            };
            for (name, inside) in entries {
                let names: Names = [names.as_slice(), std::slice::from_ref(name)].concat();
                if let Some(inode) = self.inodes.get(inside) {
                    found.push((names.clone(), inode.body.clone()));
                    open.push((names, *inside));
                }
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }
}
