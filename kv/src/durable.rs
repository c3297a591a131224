//! Small files whose content must be whole after a power cut, and locks on directories.
//!
//! A rename is durable only when the directory is synced, and a file's bytes only when the file is: this module is the
//! only place that knows the order.

use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Replaces `path` with `bytes`: after a crash at any instant it has the old content or the new.
///
/// # Errors
/// Where the file system refuses; the old content is still there then.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let parent = path.parent().ok_or_else(|| io::Error::other("a file needs a directory"))?;
    let mut name = path.file_name().ok_or_else(|| io::Error::other("a file needs a name"))?.to_owned();
    name.push(".new");
    let temporary = parent.join(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_dir(parent)
}

/// Makes a directory and those above it, durably.
///
/// # Errors
/// Where the file system refuses.
pub fn create_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_dir(parent)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => sync_dir(parent),
        None => sync_dir(Path::new(".")),
    }
}

/// Makes creations, renames and removals in a directory durable.
///
/// # Errors
/// Where the file system refuses.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// An exclusive hold on a directory, until dropped or until the process ends.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes the lock; `None` where another process has it.
    ///
    /// # Errors
    /// Where the lock file cannot be made.
    pub fn acquire(dir: &Path) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(dir.join("lock"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacing_leaves_the_new_content_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("file");
        replace(&path, b"one", 0o600).expect("a write");
        replace(&path, b"two", 0o600).expect("a write");
        assert_eq!(fs::read(&path).expect("a read"), b"two");
        assert_eq!(fs::read_dir(dir.path()).expect("a listing").count(), 1);
    }

    #[test]
    fn a_directory_is_locked_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let held = DirLock::acquire(dir.path()).expect("a lock file");
        assert!(held.is_some());
        assert!(DirLock::acquire(dir.path()).expect("a lock file").is_none());
        drop(held);
        assert!(DirLock::acquire(dir.path()).expect("a lock file").is_some());
    }
}
