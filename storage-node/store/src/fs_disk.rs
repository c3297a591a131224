//! Segment files in a directory of a file system.
//!
//! Shards are written past the page cache (direct I/O) where the file system and the buffers allow it, and read through
//! it: a hot object stays in memory, and scrubbing reads the medium itself.

use crate::disk::{Disk, SegmentId, Space};
use aligned_vec::{AVec, ConstAlign};
use lru::LruCache;
use rustix::fs::{FallocateFlags, OFlags, fallocate, statvfs};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, IoSlice},
    num::NonZeroUsize,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

const PAGE: usize = 4096;

/// Open segment files of a device. Each is two descriptors; a device with more segments opens them again.
const OPEN_SEGMENTS: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// A segment's descriptors.
#[derive(Debug)]
struct Handles {
    /// Through the page cache.
    cached: File,
    /// Past it; none where the file system has no direct I/O.
    direct: Option<File>,
}

/// Segments as files in one directory.
#[derive(Debug)]
pub struct FsDisk {
    dir: PathBuf,
    open: Mutex<LruCache<SegmentId, Arc<Handles>>>,
}

impl FsDisk {
    /// Segments in `dir`, which is made where it does not exist.
    ///
    /// # Errors
    /// Where it cannot be.
    pub fn open(dir: &Path) -> io::Result<Self> {
        holdfast_kv::durable::create_dir(dir)?;
        Ok(Self { dir: dir.to_owned(), open: Mutex::new(LruCache::new(OPEN_SEGMENTS)) })
    }

    fn path(&self, segment: SegmentId) -> PathBuf {
        self.dir.join(format!("segment-{segment}"))
    }

    fn handles(&self, segment: SegmentId) -> io::Result<Arc<Handles>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handles) = open.get(&segment) {
            return Ok(handles.clone());
        }
        let path = self.path(segment);
        let cached = OpenOptions::new().read(true).write(true).open(&path)?;
        let flags = OFlags::DIRECT.bits() as i32;
        let direct = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path).ok();
        let handles = Arc::new(Handles { cached, direct });
        open.put(segment, handles.clone());
        Ok(handles)
    }

    fn forget(&self, segment: SegmentId) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).pop(&segment);
    }
}

fn is_aligned(part: &[u8]) -> bool {
    part.as_ptr().addr().is_multiple_of(PAGE) && part.len().is_multiple_of(PAGE)
}

fn write_all(file: &File, mut offset: u64, parts: &[&[u8]]) -> io::Result<()> {
    let total: usize = parts.iter().map(|part| part.len()).sum();
    let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let written = rustix::io::pwritev(file, &slices, offset)?;
    if written == total {
        return Ok(());
    }
    // A short write: the rest part by part.
    let mut skip = written;
    offset += written as u64;
    for part in parts {
        let rest = part.get(skip.min(part.len())..).unwrap_or_default();
        skip = skip.saturating_sub(part.len());
        file.write_all_at(rest, offset)?;
        offset += rest.len() as u64;
    }
    Ok(())
}

/// Fills `into`, with zeros beyond the end of the file.
fn read_whole(file: &File, offset: u64, into: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], offset + done as u64) {
            Ok(0) => {
                into[done..].fill(0);
                break;
            }
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl FsDisk {
    /// The bytes that the store can have: those that its segments occupy, and the free ones.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn capacity(&self) -> io::Result<u64> {
        let occupied = |segment| Ok(fs::metadata(self.path(segment))?.blocks() * 512);
        let own = self.segments()?.into_iter().map(occupied).sum::<io::Result<u64>>()?;
        Ok(own + self.space()?.free)
    }
}

impl Disk for FsDisk {
    fn segments(&self) -> io::Result<Vec<SegmentId>> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("segment-"));
            segments.extend(number.and_then(|number| u32::from_str_radix(number, 16).ok()).map(SegmentId));
        }
        segments.sort();
        Ok(segments)
    }

    fn reserve(&self, segment: SegmentId, from: u64, to: u64) -> io::Result<()> {
        let path = self.path(segment);
        if !path.exists() {
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            holdfast_kv::durable::sync_dir(&self.dir)?;
        }
        let handles = self.handles(segment)?;
        match fallocate(&handles.cached, FallocateFlags::empty(), from, to - from) {
            // Without it the write itself finds out whether there is room.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn write(&self, segment: SegmentId, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let handles = self.handles(segment)?;
        let Some(direct) = &handles.direct else { return write_all(&handles.cached, offset, parts) };
        if parts.iter().all(|part| is_aligned(part)) {
            return write_all(direct, offset, parts);
        }
        let mut copy: AVec<u8, ConstAlign<PAGE>> = AVec::new(PAGE);
        parts.iter().for_each(|part| copy.extend_from_slice(part));
        copy.resize(copy.len().next_multiple_of(PAGE), 0);
        write_all(direct, offset, &[&copy])
    }

    fn sync(&self, segment: SegmentId) -> io::Result<()> {
        self.handles(segment)?.cached.sync_data()
    }

    fn read(&self, segment: SegmentId, offset: u64, into: &mut [u8]) -> io::Result<()> {
        read_whole(&self.handles(segment)?.cached, offset, into)
    }

    fn read_medium(&self, segment: SegmentId, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let handles = self.handles(segment)?;
        let Some(direct) = &handles.direct else { return read_whole(&handles.cached, offset, into) };
        let start = offset / PAGE as u64 * PAGE as u64;
        let skip = (offset - start) as usize;
        let mut copy: AVec<u8, ConstAlign<PAGE>> = AVec::new(PAGE);
        copy.resize((skip + into.len()).next_multiple_of(PAGE), 0);
        read_whole(direct, start, &mut copy)?;
        into.copy_from_slice(&copy[skip..skip + into.len()]);
        Ok(())
    }

    fn punch(&self, segment: SegmentId, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.handles(segment)?.cached, flags, offset, len) {
            // The space comes back with the whole segment then.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn truncate(&self, segment: SegmentId, len: u64) -> io::Result<()> {
        self.handles(segment)?.cached.set_len(len)
    }

    fn remove(&self, segment: SegmentId) -> io::Result<()> {
        let removed = fs::remove_file(self.path(segment));
        // Afterwards: a reader in between would keep the old file open under a number that is used again.
        self.forget(segment);
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn space(&self) -> io::Result<Space> {
        let stat = statvfs(&self.dir)?;
        Ok(Space { total: stat.f_blocks * stat.f_frsize, free: stat.f_bavail * stat.f_frsize })
    }
}
