//! A synced directory on the disk. Nothing outside is ever touched: every way down follows no link.

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat as RawStat, Timespec, Timestamps, fchmod,
        fsync, futimens, mkdirat, openat, readlinkat, renameat_with, statat, symlinkat, unlinkat,
    },
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// What `hf` keeps in a synced directory for itself: no client syncs it.
pub const INTERNAL: &[u8] = b".holdfast";

/// Names from the synced directory down.
pub type Names = Vec<Vec<u8>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Directory,
    File,
    Link,
    /// A FIFO, a socket, a device.
    Other,
}

/// What the system says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub class: Class,
    pub inode: u64,
    pub device: u64,
    pub size: u64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub executable: bool,
}

impl Stat {
    fn of(raw: &RawStat) -> Self {
        let ns = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        let class = match FileType::from_raw_mode(raw.st_mode) {
            FileType::Directory => Class::Directory,
            FileType::RegularFile => Class::File,
            FileType::Symlink => Class::Link,
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => Class::Other,
        };
        Self {
            class,
            inode: raw.st_ino,
            device: raw.st_dev,
            size: raw.st_size as u64,
            mtime_ns: ns(raw.st_mtime, raw.st_mtime_nsec as i64),
            ctime_ns: ns(raw.st_ctime, raw.st_ctime_nsec as i64),
            executable: class == Class::File && raw.st_mode & 0o100 != 0,
        }
    }
}

/// A file that was written aside, to be taken to its place.
pub struct Temporary {
    name: Vec<u8>,
    /// As it was written.
    pub stat: Stat,
}

/// A synced directory.
pub struct Disk {
    root: OwnedFd,
    path: PathBuf,
    next: AtomicU64,
}

const DIRECTORY: OFlags =
    OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::RDONLY).union(OFlags::CLOEXEC);

impl Disk {
    /// # Errors
    /// Where it is not there.
    pub fn open(path: &Path) -> io::Result<Self> {
        let root = rustix::fs::open(path, DIRECTORY, Mode::empty())?;
        Ok(Self { root, path: path.to_owned(), next: AtomicU64::new(0) })
    }

    /// Makes what `hf` keeps here for itself, with a mark by which the directory is known again.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn prepare(&self, mark: &str) -> io::Result<()> {
        for dir in [&b".holdfast"[..], b".holdfast/tmp", b".holdfast/aside", b".holdfast/trash"] {
            match mkdirat(&self.root, dir, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.root, &b".holdfast/mark"[..], flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(file);
        file.write_all(mark.as_bytes())?;
        file.sync_all()
    }

    /// Whether it is the directory that was marked so, and still has its name: an unmounted disk leaves an empty one behind.
    pub fn is_marked(&self, mark: &str) -> bool {
        let found = rustix::fs::stat(&self.path);
        let same = found.and_then(|found| Ok((found, rustix::fs::fstat(&self.root)?)));
        let same = same.is_ok_and(|(a, b)| (a.st_ino, a.st_dev) == (b.st_ino, b.st_dev));
        same && std::fs::read_to_string(self.path.join(".holdfast/mark")).is_ok_and(|text| text == mark)
    }

    fn directory(&self, names: &[Vec<u8>]) -> io::Result<OwnedFd> {
        let mut at = openat(&self.root, &b"."[..], DIRECTORY, Mode::empty())?;
        for name in names {
            at = openat(&at, name.as_slice(), DIRECTORY, Mode::empty())?;
        }
        Ok(at)
    }

    /// The directory that something is in, and its name there.
    fn parent<'a>(&self, names: &'a [Vec<u8>]) -> io::Result<(OwnedFd, &'a [u8])> {
        let (name, above) = names.split_last().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.directory(above)?, name))
    }

    /// What is in a directory, but for what is internal.
    ///
    /// # Errors
    /// Where it cannot be read, in whole: what is not seen must not count as deleted.
    pub fn list(&self, names: &[Vec<u8>]) -> io::Result<Vec<(Vec<u8>, Stat)>> {
        let directory = self.directory(names)?;
        let mut found = Vec::new();
        for entry in Dir::read_from(&directory)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name == b"." || name == b".." || (names.is_empty() && name == INTERNAL) {
                continue;
            }
            match statat(&directory, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(raw) => found.push((name, Stat::of(&raw))),
                // It went meanwhile.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }

    /// What is at a place.
    ///
    /// # Errors
    /// Where that cannot be said.
    pub fn stat(&self, names: &[Vec<u8>]) -> io::Result<Option<Stat>> {
        let found = self
            .parent(names)
            .and_then(|(parent, name)| Ok(Stat::of(&statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?)));
        match found {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A file, to be read, and what it is.
    ///
    /// # Errors
    /// Where it is none, or cannot be read.
    pub fn read(&self, names: &[Vec<u8>]) -> io::Result<(File, Stat)> {
        let (parent, name) = self.parent(names)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&parent, name, flags, Mode::empty())?;
        let stat = Stat::of(&rustix::fs::fstat(&file)?);
        if stat.class == Class::File {
            Ok((file.into(), stat))
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }

    /// Where a link leads.
    ///
    /// # Errors
    /// Where it is none.
    pub fn read_link(&self, names: &[Vec<u8>]) -> io::Result<Vec<u8>> {
        let (parent, name) = self.parent(names)?;
        Ok(readlinkat(&parent, name, Vec::new())?.into_bytes())
    }

    fn internal(&self, which: &[u8]) -> io::Result<OwnedFd> {
        self.directory(&[INTERNAL.to_vec(), which.to_vec()])
    }

    fn unique(&self, name: &[u8]) -> Vec<u8> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let tail = &name[name.len().saturating_sub(150)..];
        [format!("{}-{number}-", std::process::id()).as_bytes(), tail].concat()
    }

    /// Writes a file aside, durably, before it is anywhere to be seen.
    ///
    /// # Errors
    /// Where that fails: nothing is left then.
    pub fn write_aside(
        &self,
        write: impl FnOnce(&mut File) -> io::Result<()>,
        mtime_ns: i64,
        executable: bool,
    ) -> io::Result<Temporary> {
        let (tmp, name) = (self.internal(b"tmp")?, self.unique(b"file"));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&tmp, name.as_slice(), flags, Mode::from_raw_mode(0o666))?);
        let written = write(&mut file).and_then(|()| {
            if executable {
                mark(&file, true)?;
            }
            let time = Timespec {
                tv_sec: mtime_ns.div_euclid(1_000_000_000),
                tv_nsec: mtime_ns.rem_euclid(1_000_000_000) as _,
            };
            futimens(&file, &Timestamps { last_access: time, last_modification: time })?;
            fsync(&file)?;
            Ok(Stat::of(&rustix::fs::fstat(&file)?))
        });
        match written {
            Ok(stat) => Ok(Temporary { name, stat }),
            Err(error) => {
                let _left = unlinkat(&tmp, name.as_slice(), AtFlags::empty());
                Err(error)
            }
        }
    }

    /// Makes a link aside.
    ///
    /// # Errors
    /// Where that fails.
    pub fn link_aside(&self, target: &[u8]) -> io::Result<Temporary> {
        let (tmp, name) = (self.internal(b"tmp")?, self.unique(b"link"));
        symlinkat(target, &tmp, name.as_slice())?;
        let stat = Stat::of(&statat(&tmp, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?);
        Ok(Temporary { name, stat })
    }

    /// Removes what was written aside and is not needed.
    pub fn discard(&self, temporary: &Temporary) {
        let removed = self
            .internal(b"tmp")
            .and_then(|tmp| Ok(unlinkat(&tmp, temporary.name.as_slice(), AtFlags::empty())?));
        if let Err(error) = removed {
            tracing::debug!(%error, "a temporary file is left");
        }
    }

    /// Takes what was written aside to a place where nothing is. What it is then.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] where something is there by now.
    pub fn place(&self, temporary: &Temporary, names: &[Vec<u8>]) -> io::Result<Stat> {
        let (tmp, (parent, name)) = (self.internal(b"tmp")?, self.parent(names)?);
        renameat_with(&tmp, temporary.name.as_slice(), &parent, name, RenameFlags::NOREPLACE)?;
        fsync(&parent)?;
        Ok(Stat::of(&statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    /// Takes what was written aside to the place of what is there, if that is still what `expected` says: looked at after
    /// it was taken away, so that nothing comes in between. What is there then; `None` where it was something else.
    ///
    /// # Errors
    /// Where the file system fails.
    pub fn replace(
        &self,
        temporary: &Temporary,
        names: &[Vec<u8>],
        day: &str,
        expected: impl Fn(&Stat) -> bool,
    ) -> io::Result<Option<Stat>> {
        let (tmp, (parent, name)) = (self.internal(b"tmp")?, self.parent(names)?);
        // What was there comes to where nobody clears it: who is stopped in between loses nothing.
        let (today, held) = (self.trash_of(day)?, self.unique(name));
        let held = held.as_slice();
        renameat_with(&tmp, temporary.name.as_slice(), &today, held, RenameFlags::NOREPLACE)?;
        let exchange = || renameat_with(&today, held, &parent, name, RenameFlags::EXCHANGE);
        let back = || renameat_with(&today, held, &tmp, temporary.name.as_slice(), RenameFlags::NOREPLACE);
        if let Err(error) = exchange() {
            back()?;
            return Err(error.into());
        }
        let old = Stat::of(&statat(&today, held, AtFlags::SYMLINK_NOFOLLOW)?);
        if !expected(&old) {
            exchange()?;
            back()?;
            return Ok(None);
        }
        fsync(&parent)?;
        unlinkat(&today, held, AtFlags::empty())?;
        Ok(Some(Stat::of(&statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?)))
    }

    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] where something is there by now.
    pub fn make_directory(&self, names: &[Vec<u8>]) -> io::Result<Stat> {
        let (parent, name) = self.parent(names)?;
        mkdirat(&parent, name, Mode::from_raw_mode(0o777))?;
        fsync(&parent)?;
        Ok(Stat::of(&statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    /// Moves something to a place where nothing is. What is there then: nothing, if somebody took it away at once.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] where something is there by now. It was not moved, then.
    pub fn relocate(&self, from: &[Vec<u8>], to: &[Vec<u8>]) -> io::Result<Option<Stat>> {
        let ((source, old), (parent, name)) = (self.parent(from)?, self.parent(to)?);
        renameat_with(&source, old, &parent, name, RenameFlags::NOREPLACE)?;
        fsync(&parent)?;
        fsync(&source)?;
        match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(raw) => Ok(Some(Stat::of(&raw))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes a file to the local trash, if it is what `expected` says, as [`Disk::replace`]. Whether it was.
    ///
    /// # Errors
    /// Where the file system fails.
    pub fn trash(&self, names: &[Vec<u8>], day: &str, expected: impl Fn(&Stat) -> bool) -> io::Result<bool> {
        Ok(self.take_to_trash(names, day, expected)?.is_some())
    }

    /// Removes a file, if it is what `expected` says, as [`Disk::replace`]. Whether it was.
    ///
    /// # Errors
    /// Where the file system fails.
    pub fn remove_file(
        &self,
        names: &[Vec<u8>],
        day: &str,
        expected: impl Fn(&Stat) -> bool,
    ) -> io::Result<bool> {
        let Some((today, kept)) = self.take_to_trash(names, day, expected)? else { return Ok(false) };
        unlinkat(&today, kept.as_slice(), AtFlags::empty())?;
        Ok(true)
    }

    /// Takes a file to the local trash, and back where it was not what `expected` says; `None` then.
    fn take_to_trash(
        &self,
        names: &[Vec<u8>],
        day: &str,
        expected: impl Fn(&Stat) -> bool,
    ) -> io::Result<Option<(OwnedFd, Vec<u8>)>> {
        let (today, (parent, name)) = (self.trash_of(day)?, self.parent(names)?);
        let kept = self.unique(name);
        renameat_with(&parent, name, &today, kept.as_slice(), RenameFlags::NOREPLACE)?;
        if !expected(&Stat::of(&statat(&today, kept.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?)) {
            renameat_with(&today, kept.as_slice(), &parent, name, RenameFlags::NOREPLACE)?;
            return Ok(None);
        }
        fsync(&parent)?;
        Ok(Some((today, kept)))
    }

    /// Copies a file, durably, to a place where nothing is.
    ///
    /// # Errors
    /// Where it cannot be read, or something is there by now.
    pub fn copy(&self, from: &[Vec<u8>], to: &[Vec<u8>]) -> io::Result<Stat> {
        let temporary = self.copy_aside(from)?;
        let placed = self.place(&temporary, to);
        if placed.is_err() {
            self.discard(&temporary);
        }
        placed
    }

    /// Copies a file, durably, to the local trash.
    ///
    /// # Errors
    /// Where it cannot be read, or written.
    pub fn copy_to_trash(&self, names: &[Vec<u8>], day: &str) -> io::Result<()> {
        let name = names.last().ok_or(io::ErrorKind::InvalidInput)?;
        let temporary = self.copy_aside(names)?;
        let (tmp, today) = (self.internal(b"tmp")?, self.trash_of(day)?);
        let kept = self.unique(name);
        renameat_with(&tmp, temporary.name.as_slice(), &today, kept.as_slice(), RenameFlags::NOREPLACE)?;
        Ok(fsync(&today)?)
    }

    fn copy_aside(&self, names: &[Vec<u8>]) -> io::Result<Temporary> {
        if self.stat(names)?.is_some_and(|stat| stat.class == Class::Link) {
            return self.link_aside(&self.read_link(names)?);
        }
        let (mut file, stat) = self.read(names)?;
        let write = |out: &mut File| io::copy(&mut file, out).map(drop);
        self.write_aside(write, stat.mtime_ns, stat.executable)
    }

    /// The local trash of a day.
    fn trash_of(&self, day: &str) -> io::Result<OwnedFd> {
        let trash = self.internal(b"trash")?;
        match mkdirat(&trash, day, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(openat(&trash, day, DIRECTORY, Mode::empty())?)
    }

    /// Removes a directory that nothing is in.
    ///
    /// # Errors
    /// [`io::ErrorKind::DirectoryNotEmpty`] where something is.
    pub fn remove_directory(&self, names: &[Vec<u8>]) -> io::Result<()> {
        let (parent, name) = self.parent(names)?;
        unlinkat(&parent, name, AtFlags::REMOVEDIR)?;
        Ok(fsync(&parent)?)
    }

    /// Has a file be one that may be run, or not.
    ///
    /// # Errors
    /// Where it is none.
    pub fn mark(&self, names: &[Vec<u8>], executable: bool) -> io::Result<Stat> {
        let (file, _) = self.read(names)?;
        mark(&file, executable)?;
        Ok(Stat::of(&rustix::fs::fstat(&file)?))
    }

    /// Clears the local trash of days before `day`, as YYYY-MM-DD.
    pub fn empty_trash(&self, day: &str) {
        let Ok(trash) = self.internal(b"trash") else { return };
        for entry in Dir::read_from(&trash).into_iter().flatten().flatten() {
            let name = entry.file_name().to_bytes();
            let is_day =
                name.len() == day.len() && name.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-');
            if !is_day || name >= day.as_bytes() {
                continue;
            }
            let emptied = self.trash_of(&String::from_utf8_lossy(name)).and_then(|old| {
                for file in Dir::read_from(&old)?.flatten() {
                    if ![&b"."[..], b".."].contains(&file.file_name().to_bytes()) {
                        unlinkat(&old, file.file_name(), AtFlags::empty())?;
                    }
                }
                Ok(unlinkat(&trash, name, AtFlags::REMOVEDIR)?)
            });
            if let Err(error) = emptied {
                tracing::warn!(%error, "old files stay in the local trash");
            }
        }
    }

    /// Clears what somebody who was stopped left in the internal directory for temporary files.
    pub fn tidy(&self) {
        let Ok(tmp) = self.internal(b"tmp") else { return };
        for entry in Dir::read_from(&tmp).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_bytes() != b"." && name.to_bytes() != b".." {
                let _left = unlinkat(&tmp, name, AtFlags::empty());
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Whoever may read a file may run it, or nobody.
fn mark(file: &impl AsFd, executable: bool) -> io::Result<()> {
    let mode = rustix::fs::fstat(file)?.st_mode & 0o7777;
    let mode = if executable { mode | (mode & 0o444) >> 2 } else { mode & !0o111 };
    Ok(fchmod(file, Mode::from_raw_mode(mode))?)
}
