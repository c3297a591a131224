//! A disk in memory that behaves as badly as disks do: what was not synced may be there, gone, torn or garbage after a
//! crash, and bytes rot.

use crate::disk::{Disk, SegmentId, Space};
use std::{cell::RefCell, collections::BTreeMap, io, rc::Rc};

const SECTOR: usize = 512;

/// A simulated disk. Clones are the same disk: one is kept to harm it, another is given to the store.
#[derive(Debug, Clone)]
pub struct SimDisk {
    inner: Rc<RefCell<Inner>>,
}

#[derive(Debug)]
struct Inner {
    files: BTreeMap<SegmentId, File>,
    capacity: u64,
    /// SplitMix64.
    random: u64,
    /// Operations that fail from now on, and whether they do.
    broken: bool,
    /// A planted bug: syncs do nothing.
    lying: bool,
}

#[derive(Debug, Default, Clone)]
struct File {
    visible: Vec<u8>,
    durable: Vec<u8>,
    /// Visible, and not yet durable: offset and bytes, in order.
    pending: Vec<(usize, Vec<u8>)>,
    reserved: u64,
}

fn patch(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    if bytes.len() < offset + written.len() {
        bytes.resize(offset + written.len(), 0);
    }
    bytes[offset..offset + written.len()].copy_from_slice(written);
}

impl Inner {
    fn draw(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }

    fn used(&self) -> u64 {
        self.files.values().map(|file| file.reserved).sum()
    }

    fn check(&self) -> io::Result<()> {
        if self.broken { Err(io::Error::other("the simulated disk is broken")) } else { Ok(()) }
    }
}

impl SimDisk {
    /// An empty disk of `capacity` bytes whose misfortunes `seed` decides.
    pub fn new(capacity: u64, seed: u64) -> Self {
        let inner = Inner { files: BTreeMap::new(), capacity, random: seed, broken: false, lying: false };
        Self { inner: Rc::new(RefCell::new(inner)) }
    }

    /// Loses power: each sector that was not synced is kept, lost, or turned into garbage.
    pub fn crash(&self) {
        let mut inner = self.inner.borrow_mut();
        let mut files = std::mem::take(&mut inner.files);
        for file in files.values_mut() {
            for (offset, written) in std::mem::take(&mut file.pending) {
                for (i, sector) in written.chunks(SECTOR).enumerate() {
                    let at = offset + i * SECTOR;
                    match inner.draw(4) {
                        0 | 1 => patch(&mut file.durable, at, sector),
                        2 => {}
                        _ => patch(&mut file.durable, at, &vec![0xdb; sector.len()]),
                    }
                }
            }
            file.visible.clone_from(&file.durable);
        }
        inner.files = files;
        inner.broken = false;
    }

    /// Flips a bit somewhere in a segment that exists; false where there is none.
    pub fn rot(&self) -> bool {
        let mut inner = self.inner.borrow_mut();
        let lens: Vec<(SegmentId, usize)> = inner
            .files
            .iter()
            .map(|(id, file)| (*id, file.durable.len()))
            .filter(|(_, len)| *len > 0)
            .collect();
        if lens.is_empty() {
            return false;
        }
        let (segment, len) = lens[inner.draw(lens.len() as u64) as usize];
        let at = inner.draw(len as u64) as usize;
        let bit = 1 << inner.draw(8);
        inner.files.get_mut(&segment).is_some_and(|file| {
            file.durable[at] ^= bit;
            if let Some(byte) = file.visible.get_mut(at) {
                *byte ^= bit;
            }
            true
        })
    }

    /// All operations fail until the next crash.
    pub fn break_down(&self) {
        self.inner.borrow_mut().broken = true;
    }

    /// Plants a bug: from now on syncs do nothing and say that they did.
    pub fn lie_about_syncs(&self) {
        self.inner.borrow_mut().lying = true;
    }

    /// Loses everything: another disk is in the slot.
    pub fn wipe(&self) {
        self.inner.borrow_mut().files.clear();
    }
}

impl Disk for SimDisk {
    fn segments(&self) -> io::Result<Vec<SegmentId>> {
        Ok(self.inner.borrow().files.keys().copied().collect())
    }

    fn reserve(&self, segment: SegmentId, from: u64, to: u64) -> io::Result<()> {
        let mut inner = self.inner.borrow_mut();
        inner.check()?;
        let before = inner.files.get(&segment).map_or(0, |file| file.reserved);
        assert!(from <= to, "ranges go forward");
        if inner.used() - before + to.max(before) > inner.capacity {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let file = inner.files.entry(segment).or_default();
        file.reserved = file.reserved.max(to);
        Ok(())
    }

    fn write(&self, segment: SegmentId, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let mut inner = self.inner.borrow_mut();
        inner.check()?;
        let bytes = parts.concat();
        let file = inner.files.get_mut(&segment).ok_or(io::ErrorKind::NotFound)?;
        assert!(offset + bytes.len() as u64 <= file.reserved, "writes go where room was reserved");
        patch(&mut file.visible, offset as usize, &bytes);
        file.pending.push((offset as usize, bytes));
        Ok(())
    }

    fn sync(&self, segment: SegmentId) -> io::Result<()> {
        let mut inner = self.inner.borrow_mut();
        inner.check()?;
        if inner.lying {
            return Ok(());
        }
        let file = inner.files.get_mut(&segment).ok_or(io::ErrorKind::NotFound)?;
        for (offset, written) in std::mem::take(&mut file.pending) {
            patch(&mut file.durable, offset, &written);
        }
        Ok(())
    }

    fn read(&self, segment: SegmentId, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let inner = self.inner.borrow();
        inner.check()?;
        let bytes = &inner.files.get(&segment).ok_or(io::ErrorKind::NotFound)?.visible;
        into.fill(0);
        let from = (offset as usize).min(bytes.len());
        let to = (offset as usize + into.len()).min(bytes.len());
        into[..to - from].copy_from_slice(&bytes[from..to]);
        Ok(())
    }

    fn read_medium(&self, segment: SegmentId, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.read(segment, offset, into)
    }

    fn punch(&self, segment: SegmentId, offset: u64, len: u64) -> io::Result<()> {
        let mut inner = self.inner.borrow_mut();
        inner.check()?;
        let file = inner.files.get_mut(&segment).ok_or(io::ErrorKind::NotFound)?;
        for bytes in [&mut file.durable, &mut file.visible] {
            let end = bytes.len().min((offset + len) as usize);
            if let Some(hole) = bytes.get_mut(offset as usize..end) {
                hole.fill(0);
            }
        }
        Ok(())
    }

    fn truncate(&self, segment: SegmentId, len: u64) -> io::Result<()> {
        let mut inner = self.inner.borrow_mut();
        inner.check()?;
        let file = inner.files.get_mut(&segment).ok_or(io::ErrorKind::NotFound)?;
        file.reserved = file.reserved.min(len);
        file.durable.truncate(len as usize);
        file.visible.truncate(len as usize);
        Ok(())
    }

    fn remove(&self, segment: SegmentId) -> io::Result<()> {
        let mut inner = self.inner.borrow_mut();
        inner.check()?;
        inner.files.remove(&segment);
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        let inner = self.inner.borrow();
        Ok(Space { total: inner.capacity, free: inner.capacity - inner.used() })
    }
}
