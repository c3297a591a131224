//! Linux's file systems.

use crate::system::{self, Class, Directory, Rename, Stat, System};
use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat as RawStat, Timespec, Timestamps, fchmod,
        fsync, futimens, mkdirat, openat, readlinkat, renameat_with, statat, symlinkat, syncfs, unlinkat,
    },
    io::Errno,
};
use std::{
    any::Any,
    fs::File,
    io::{self, Write},
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

const DIRECTORY: OFlags =
    OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::RDONLY).union(OFlags::CLOEXEC);

impl From<&RawStat> for Stat {
    fn from(raw: &RawStat) -> Self {
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

/// A synced directory on this machine.
pub struct Linux {
    root: Arc<Opened>,
    path: PathBuf,
}

impl Linux {
    /// # Errors
    /// Where it is not there.
    pub fn open(path: &Path) -> io::Result<Self> {
        let root = rustix::fs::open(path, DIRECTORY, Mode::empty())?;
        Ok(Self { root: Arc::new(Opened(root)), path: path.to_owned() })
    }
}

impl System for Linux {
    fn root(&self) -> Arc<dyn Directory> {
        self.root.clone()
    }

    fn is_there(&self) -> bool {
        let found = rustix::fs::stat(&self.path);
        let same = found.and_then(|found| Ok((found, rustix::fs::fstat(&self.root.0)?)));
        same.is_ok_and(|(a, b)| (a.st_ino, a.st_dev) == (b.st_ino, b.st_dev))
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn sync(&self) -> io::Result<()> {
        Ok(syncfs(&self.root.0)?)
    }

    fn now_ns(&self) -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
    }
}

struct Opened(OwnedFd);

impl Directory for Opened {
    fn enter(&self, name: &[u8]) -> io::Result<Arc<dyn Directory>> {
        Ok(Arc::new(Self(openat(&self.0, name, DIRECTORY, Mode::empty())?)))
    }

    fn list(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        Ok(names)
    }

    fn stat(&self, name: &[u8]) -> io::Result<Stat> {
        Ok(Stat::from(&statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    fn open(&self, name: &[u8]) -> io::Result<Box<dyn system::File>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(Box::new(File::from(openat(&self.0, name, flags, Mode::empty())?)))
    }

    fn create(&self, name: &[u8]) -> io::Result<Box<dyn system::File>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Box::new(File::from(openat(&self.0, name, flags, Mode::from_raw_mode(0o666))?)))
    }

    fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        Ok(readlinkat(&self.0, name, Vec::new())?.into_bytes())
    }

    fn make_link(&self, target: &[u8], name: &[u8]) -> io::Result<()> {
        Ok(symlinkat(target, &self.0, name)?)
    }

    fn make_directory(&self, name: &[u8], private: bool) -> io::Result<()> {
        Ok(mkdirat(&self.0, name, Mode::from_raw_mode(if private { 0o700 } else { 0o777 }))?)
    }

    fn rename(&self, name: &[u8], to: &dyn Directory, goal: &[u8], how: Rename) -> io::Result<()> {
        let to = (to as &dyn Any).downcast_ref::<Self>().ok_or(Errno::XDEV)?;
        let flags = match how {
            Rename::Alone => RenameFlags::NOREPLACE,
            Rename::Exchange => RenameFlags::EXCHANGE,
        };
        Ok(renameat_with(&self.0, name, &to.0, goal, flags)?)
    }

    fn remove_file(&self, name: &[u8]) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, AtFlags::empty())?)
    }

    fn remove_directory(&self, name: &[u8]) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(fsync(&self.0)?)
    }
}

impl system::File for File {
    fn stat(&self) -> io::Result<Stat> {
        Ok(Stat::from(&rustix::fs::fstat(self)?))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        (&*self).write_all(bytes)
    }

    fn set_modified(&self, mtime_ns: i64) -> io::Result<()> {
        let time = Timespec {
            tv_sec: mtime_ns.div_euclid(1_000_000_000),
            tv_nsec: mtime_ns.rem_euclid(1_000_000_000) as _,
        };
        Ok(futimens(self, &Timestamps { last_access: time, last_modification: time })?)
    }

    fn mark(&self, executable: bool) -> io::Result<()> {
        let mode = rustix::fs::fstat(self)?.st_mode & 0o7777;
        let mode = if executable { mode | (mode & 0o444) >> 2 } else { mode & !0o111 };
        Ok(fchmod(self, Mode::from_raw_mode(mode))?)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(fsync(self)?)
    }
}
