//! File systems as an engine sees them: operations on directories that are open, each of which is done or not.

use std::{
    any::Any,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

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

/// The file system that a synced directory is on.
pub trait System: Send + Sync {
    /// The synced directory, whatever it is called by now.
    fn root(&self) -> Arc<dyn Directory>;

    /// Whether it still has its name: an unmounted disk leaves an empty one behind.
    fn is_there(&self) -> bool;

    /// What it is called.
    fn path(&self) -> &Path;

    /// When this returns, all that is on the file system is durable.
    ///
    /// # Errors
    /// The system's.
    fn sync(&self) -> io::Result<()>;

    /// Nanoseconds since 1970, as far as the clock is right.
    fn now_ns(&self) -> i64;
}

/// A directory that is open. No name has a `/`, and none that is a link is followed.
///
/// Errors are those of the system.
pub trait Directory: Any + Send + Sync {
    fn enter(&self, name: &[u8]) -> io::Result<Arc<dyn Directory>>;

    /// All names but `.` and `..`.
    fn list(&self) -> io::Result<Vec<Vec<u8>>>;

    fn stat(&self, name: &[u8]) -> io::Result<Stat>;

    /// Opens what is there, whatever it is, to be read.
    fn open(&self, name: &[u8]) -> io::Result<Box<dyn File>>;

    /// Makes a file where nothing is, to be written and read.
    fn create(&self, name: &[u8]) -> io::Result<Box<dyn File>>;

    fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>>;

    fn make_link(&self, target: &[u8], name: &[u8]) -> io::Result<()>;

    /// Makes a directory, which nobody else may enter if it is `private`.
    fn make_directory(&self, name: &[u8], private: bool) -> io::Result<()>;

    /// Moves what has a name to another one, of this or another directory: to where nothing is, or in exchange for what is
    /// there.
    fn rename(&self, name: &[u8], to: &dyn Directory, goal: &[u8], how: Rename) -> io::Result<()>;

    fn remove_file(&self, name: &[u8]) -> io::Result<()>;

    fn remove_directory(&self, name: &[u8]) -> io::Result<()>;

    /// When this returns, its names are durable.
    fn sync(&self) -> io::Result<()>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rename {
    /// Fails where something is.
    Alone,
    Exchange,
}

/// A file that is open.
pub trait File: Send + Sync {
    fn stat(&self) -> io::Result<Stat>;

    /// As many bytes as there are and have room; none at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes behind what was written before.
    fn append(&self, bytes: &[u8]) -> io::Result<()>;

    fn set_modified(&self, mtime_ns: i64) -> io::Result<()>;

    /// Has whoever may read it be able to run it, or nobody.
    fn mark(&self, executable: bool) -> io::Result<()>;

    /// When this returns, its bytes are durable.
    fn sync(&self) -> io::Result<()>;
}

/// A file from its beginning.
pub struct Reading<'a> {
    file: &'a dyn File,
    offset: u64,
}

impl<'a> Reading<'a> {
    pub fn new(file: &'a dyn File) -> Self {
        Self { file, offset: 0 }
    }
}

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// Reads as many bytes as there is room for.
///
/// # Errors
/// Where there are fewer.
pub fn read_exact_at(file: &dyn File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    Reading { file, offset }.read_exact(buffer)
}

/// Does what takes long, which other tasks need not wait for where there are threads for them.
pub fn blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        Ok(_) | Err(_) => work(),
    }
}
