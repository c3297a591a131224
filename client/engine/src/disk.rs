//! What is done on the disk of a synced directory. Nothing outside is ever touched: every way down follows no link.

use crate::system::{Class, Directory, File, Reading, Rename, Stat, System};
use std::{
    io::{self, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// What `hf` keeps in a synced directory for itself: no client syncs it.
pub const INTERNAL: &[u8] = b".holdfast";

/// By what the directory is known again, and where files are that nobody else is to see.
const MARK: &[u8] = b"mark";
const TMP: &[u8] = b"tmp";
const ASIDE: &[u8] = b"aside";
const TRASH: &[u8] = b"trash";

/// How temporary files are called that others may go on from, and how long they may.
pub const PARTIAL: &[u8] = b"partial-";
const PARTIAL_NS: u64 = 7 * 24 * 3600 * 1_000_000_000;

/// Bytes that are copied at once.
const COPIED: usize = 1 << 20;

/// A file that was written aside, to be taken to its place.
pub struct Temporary {
    name: Vec<u8>,
    /// As it was written.
    pub stat: Stat,
}

/// What a file must be that is taken away: as long as it has its place, and when it was moved, which changes when it was
/// changed.
pub struct Expected<'a> {
    pub before: &'a dyn Fn(&Stat) -> bool,
    pub moved: &'a dyn Fn(&Stat) -> bool,
}

/// A file in the local trash.
struct Held {
    trash: Arc<dyn Directory>,
    name: Vec<u8>,
}

/// A synced directory.
pub struct Disk {
    system: Arc<dyn System>,
    next: AtomicU64,
}

/// Makes a directory that may be there.
fn ensure(directory: &dyn Directory, name: &[u8]) -> io::Result<()> {
    match directory.make_directory(name, true) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

impl Disk {
    pub fn new(system: Arc<dyn System>) -> Self {
        // Whoever was there before, perhaps as the same process, has left names in the trash and of partial files.
        let next = AtomicU64::new(system.now_ns() as u64);
        Self { system, next }
    }

    /// Makes what `hf` keeps here for itself, with a mark by which the directory is known again.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn prepare(&self, mark: &str) -> io::Result<()> {
        let root = self.system.root();
        ensure(&*root, INTERNAL)?;
        let internal = root.enter(INTERNAL)?;
        for name in [TMP, ASIDE, TRASH] {
            ensure(&*internal, name)?;
        }
        match internal.remove_file(MARK) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let file = internal.create(MARK)?;
        file.append(mark.as_bytes())?;
        file.sync()?;
        internal.sync()?;
        root.sync()
    }

    /// Whether it is the directory that was marked so, and still has its name.
    pub fn is_marked(&self, mark: &str) -> bool {
        let text = || {
            let file = self.system.root().enter(INTERNAL)?.open(MARK)?;
            io::read_to_string(Reading::new(&*file))
        };
        self.system.is_there() && text().is_ok_and(|text| text == mark)
    }

    /// Today, as far as the clock is right.
    pub fn today(&self) -> time::Date {
        let now = i128::from(self.system.now_ns());
        time::OffsetDateTime::from_unix_timestamp_nanos(now)
            .unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
            .date()
    }

    /// When this returns, all that is in the directory is durable.
    ///
    /// # Errors
    /// Where the file system fails.
    pub fn sync(&self) -> io::Result<()> {
        self.system.sync()
    }

    pub fn now_ns(&self) -> i64 {
        self.system.now_ns()
    }

    fn directory(&self, names: &[Vec<u8>]) -> io::Result<Arc<dyn Directory>> {
        names.iter().try_fold(self.system.root(), |at, name| at.enter(name))
    }

    /// The directory that something is in, and its name there.
    fn parent<'a>(&self, names: &'a [Vec<u8>]) -> io::Result<(Arc<dyn Directory>, &'a [u8])> {
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
        for name in directory.list()? {
            if names.is_empty() && name == INTERNAL {
                continue;
            }
            match directory.stat(&name) {
                Ok(stat) => found.push((name, stat)),
                // It went meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// What is at a place.
    ///
    /// # Errors
    /// Where that cannot be said.
    pub fn stat(&self, names: &[Vec<u8>]) -> io::Result<Option<Stat>> {
        match self.parent(names).and_then(|(parent, name)| parent.stat(name)) {
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
    pub fn read(&self, names: &[Vec<u8>]) -> io::Result<(Box<dyn File>, Stat)> {
        let (parent, name) = self.parent(names)?;
        let file = parent.open(name)?;
        let stat = file.stat()?;
        if stat.class == Class::File { Ok((file, stat)) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// Makes the names of a directory durable that something is in.
    ///
    /// # Errors
    /// Where the file system fails.
    pub fn sync_names(&self, names: &[Vec<u8>]) -> io::Result<()> {
        self.parent(names)?.0.sync()
    }

    /// Where a link leads.
    ///
    /// # Errors
    /// Where it is none.
    pub fn read_link(&self, names: &[Vec<u8>]) -> io::Result<Vec<u8>> {
        let (parent, name) = self.parent(names)?;
        parent.read_link(name)
    }

    fn internal(&self, which: &[u8]) -> io::Result<Arc<dyn Directory>> {
        self.system.root().enter(INTERNAL)?.enter(which)
    }

    fn unique(&self, name: &[u8]) -> Vec<u8> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let tail = &name[name.len().saturating_sub(150)..];
        [format!("{}-{number}-", std::process::id()).as_bytes(), tail].concat()
    }

    /// Makes a temporary file whose name begins so. It is not durable.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn create_temporary(&self, prefix: &[u8]) -> io::Result<Box<dyn File>> {
        self.internal(TMP)?.create(&[prefix, &self.unique(b"")].concat())
    }

    /// The temporary files whose names begin so, to be read.
    ///
    /// # Errors
    /// Where they cannot be looked for.
    pub fn temporaries(&self, prefix: &[u8]) -> io::Result<Vec<Box<dyn File>>> {
        self.each_temporary(prefix, |tmp, name| tmp.open(name))
    }

    /// Removes the temporary files whose names begin so.
    ///
    /// # Errors
    /// Where the file system fails.
    pub fn remove_temporaries(&self, prefix: &[u8]) -> io::Result<()> {
        self.each_temporary(prefix, |tmp, name| tmp.remove_file(name))
    }

    fn each_temporary<T, All: FromIterator<T>>(
        &self,
        prefix: &[u8],
        each: impl Fn(&dyn Directory, &[u8]) -> io::Result<T>,
    ) -> io::Result<All> {
        let tmp = self.internal(TMP)?;
        let names = tmp.list()?.into_iter().filter(|name| name.starts_with(prefix));
        names.map(|name| each(&*tmp, &name)).collect()
    }

    /// Writes a file aside, durably, before it is anywhere to be seen.
    ///
    /// # Errors
    /// Where that fails: nothing is left then.
    pub fn write_aside(
        &self,
        write: impl FnOnce(&dyn File) -> io::Result<()>,
        mtime_ns: i64,
        executable: bool,
    ) -> io::Result<Temporary> {
        let (tmp, name) = (self.internal(TMP)?, self.unique(b"file"));
        let file = tmp.create(&name)?;
        let written = write(&*file).and_then(|()| {
            if executable {
                file.mark(true)?;
            }
            file.set_modified(mtime_ns)?;
            file.sync()?;
            file.stat()
        });
        match written {
            Ok(stat) => Ok(Temporary { name, stat }),
            Err(error) => {
                let _left = tmp.remove_file(&name);
                Err(error)
            }
        }
    }

    /// Makes a link aside.
    ///
    /// # Errors
    /// Where that fails.
    pub fn link_aside(&self, target: &[u8]) -> io::Result<Temporary> {
        let (tmp, name) = (self.internal(TMP)?, self.unique(b"link"));
        tmp.make_link(target, &name)?;
        let stat = tmp.stat(&name)?;
        Ok(Temporary { name, stat })
    }

    /// Removes what was written aside and is not needed.
    pub fn discard(&self, temporary: &Temporary) {
        if let Err(error) = self.internal(TMP).and_then(|tmp| tmp.remove_file(&temporary.name)) {
            tracing::debug!(%error, "a temporary file is left");
        }
    }

    /// Takes what was written aside to a place where nothing is. What it is then.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] where something is there by now.
    pub fn place(&self, temporary: &Temporary, names: &[Vec<u8>]) -> io::Result<Stat> {
        let (tmp, (parent, name)) = (self.internal(TMP)?, self.parent(names)?);
        tmp.rename(&temporary.name, &*parent, name, Rename::Alone)?;
        parent.sync()?;
        parent.stat(name)
    }

    /// Takes what was written aside to the place of what is there, if that is still what `expected` says: looked at right
    /// before it is taken away, and again after that, so that nothing comes in between. What is there then; `None` where it
    /// was something else.
    ///
    /// # Errors
    /// Where the file system fails.
    pub fn replace(
        &self,
        temporary: &Temporary,
        names: &[Vec<u8>],
        expected: &Expected<'_>,
    ) -> io::Result<Option<Stat>> {
        let (tmp, (parent, name)) = (self.internal(TMP)?, self.parent(names)?);
        // What was there comes to where nobody clears it: who is stopped in between loses nothing.
        let (today, held) = (self.trash_of_today()?, self.unique(name));
        tmp.rename(&temporary.name, &*today, &held, Rename::Alone)?;
        let exchange = || today.rename(&held, &*parent, name, Rename::Exchange);
        let back = || today.rename(&held, &*tmp, &temporary.name, Rename::Alone);
        match parent
            .stat(name)
            .and_then(|now| if (expected.before)(&now) { exchange().map(Some) } else { Ok(None) })
        {
            Ok(Some(())) => {}
            Ok(None) => return back().map(|()| None),
            Err(error) => {
                back()?;
                return Err(error);
            }
        }
        if !(expected.moved)(&today.stat(&held)?) {
            exchange()?;
            if today.stat(&held)?.inode == temporary.stat.inode {
                back()?;
            } else {
                // Somebody was there once more: that is what has the name now, and what it replaced stays in the trash.
                exchange()?;
            }
            return Ok(None);
        }
        parent.sync()?;
        today.remove_file(&held)?;
        parent.stat(name).map(Some)
    }

    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] where something is there by now.
    pub fn make_directory(&self, names: &[Vec<u8>]) -> io::Result<Stat> {
        let (parent, name) = self.parent(names)?;
        parent.make_directory(name, false)?;
        parent.sync()?;
        parent.stat(name)
    }

    /// Moves something to a place where nothing is. What is there then: nothing, if somebody took it away at once.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] where something is there by now. It was not moved, then.
    pub fn relocate(&self, from: &[Vec<u8>], to: &[Vec<u8>]) -> io::Result<Option<Stat>> {
        let ((source, old), (parent, name)) = (self.parent(from)?, self.parent(to)?);
        source.rename(old, &*parent, name, Rename::Alone)?;
        parent.sync()?;
        source.sync()?;
        match parent.stat(name) {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes a file to the local trash, if it is what `expected` says, as [`Disk::replace`]. Whether it was.
    ///
    /// # Errors
    /// Where the file system fails.
    pub fn trash(&self, names: &[Vec<u8>], expected: &Expected<'_>) -> io::Result<bool> {
        Ok(self.take_to_trash(names, expected)?.is_some())
    }

    /// Removes a file, if it is what `expected` says, as [`Disk::replace`]. Whether it was.
    ///
    /// # Errors
    /// Where the file system fails.
    pub fn remove_file(&self, names: &[Vec<u8>], expected: &Expected<'_>) -> io::Result<bool> {
        let Some(held) = self.take_to_trash(names, expected)? else { return Ok(false) };
        held.trash.remove_file(&held.name)?;
        Ok(true)
    }

    /// Takes a file to the local trash, and back where it was not what `expected` says; `None` then.
    fn take_to_trash(&self, names: &[Vec<u8>], expected: &Expected<'_>) -> io::Result<Option<Held>> {
        let (today, (parent, name)) = (self.trash_of_today()?, self.parent(names)?);
        let kept = self.unique(name);
        if !(expected.before)(&parent.stat(name)?) {
            return Ok(None);
        }
        parent.rename(name, &*today, &kept, Rename::Alone)?;
        if !(expected.moved)(&today.stat(&kept)?) {
            today.rename(&kept, &*parent, name, Rename::Alone)?;
            return Ok(None);
        }
        parent.sync()?;
        Ok(Some(Held { trash: today, name: kept }))
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
    pub fn copy_to_trash(&self, names: &[Vec<u8>]) -> io::Result<()> {
        let name = names.last().ok_or(io::ErrorKind::InvalidInput)?;
        let temporary = self.copy_aside(names)?;
        let (tmp, today) = (self.internal(TMP)?, self.trash_of_today()?);
        tmp.rename(&temporary.name, &*today, &self.unique(name), Rename::Alone)?;
        today.sync()
    }

    fn copy_aside(&self, from: &[Vec<u8>]) -> io::Result<Temporary> {
        if self.stat(from)?.is_some_and(|stat| stat.class == Class::Link) {
            return self.link_aside(&self.read_link(from)?);
        }
        let (file, stat) = self.read(from)?;
        let copy = |out: &dyn File| {
            let (mut from, mut buffer) = (Reading::new(&*file), vec![0; COPIED]);
            loop {
                match from.read(&mut buffer)? {
                    0 => return Ok(()),
                    count => out.append(&buffer[..count])?,
                }
            }
        };
        self.write_aside(copy, stat.mtime_ns, stat.executable)
    }

    fn trash_of_today(&self) -> io::Result<Arc<dyn Directory>> {
        let (trash, day) = (self.internal(TRASH)?, self.today().to_string());
        ensure(&*trash, day.as_bytes())?;
        trash.enter(day.as_bytes())
    }

    /// Removes a directory that nothing is in.
    ///
    /// # Errors
    /// [`io::ErrorKind::DirectoryNotEmpty`] where something is.
    pub fn remove_directory(&self, names: &[Vec<u8>]) -> io::Result<()> {
        let (parent, name) = self.parent(names)?;
        parent.remove_directory(name)?;
        parent.sync()
    }

    /// Has a file be one that may be run, or not.
    ///
    /// # Errors
    /// Where it is none.
    pub fn mark(&self, names: &[Vec<u8>], executable: bool) -> io::Result<Stat> {
        let (file, _) = self.read(names)?;
        file.mark(executable)?;
        file.stat()
    }

    /// Clears the local trash of days before `day`.
    pub fn empty_trash(&self, day: time::Date) {
        let (Ok(trash), day) = (self.internal(TRASH), day.to_string().into_bytes()) else { return };
        for name in trash.list().unwrap_or_default() {
            let is_day =
                name.len() == day.len() && name.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-');
            if !is_day || name >= day {
                continue;
            }
            let emptied = trash.enter(&name).and_then(|old| {
                for file in old.list()? {
                    old.remove_file(&file)?;
                }
                trash.remove_directory(&name)
            });
            if let Err(error) = emptied {
                tracing::warn!(%error, "old files stay in the local trash");
            }
        }
    }

    /// Clears what somebody who was stopped left in the internal directory for temporary files, but for what others may go
    /// on from.
    pub fn tidy(&self) {
        let Ok(tmp) = self.internal(TMP) else { return };
        let is_old = |stat: Stat| self.now_ns().abs_diff(stat.mtime_ns) > PARTIAL_NS;
        for name in tmp.list().unwrap_or_default() {
            if !name.starts_with(PARTIAL) || tmp.stat(&name).is_ok_and(is_old) {
                let _left = tmp.remove_file(&name);
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.system.path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::Linux;

    #[test]
    fn who_begins_anew_meets_no_name_of_before() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let always = |_: &Stat| true;
        let expected = Expected { before: &always, moved: &always };
        for _ in 0..2 {
            let disk = Disk::new(Arc::new(Linux::open(root.path()).expect("a directory")));
            disk.prepare("mark").expect("it is ours");
            std::fs::write(root.path().join("a"), "text").expect("it is written");
            assert!(disk.trash(&[b"a".to_vec()], &expected).expect("it goes to the trash"));
            disk.create_temporary(PARTIAL).expect("it is made");
        }
        let disk = Disk::new(Arc::new(Linux::open(root.path()).expect("a directory")));
        assert_eq!(disk.temporaries(PARTIAL).expect("they are listed").len(), 2);
    }
}
