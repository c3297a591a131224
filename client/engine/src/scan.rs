//! Looking at what is on the disk: which local node each file is, and which have been made, moved, changed or deleted.
//!
//! A node is known by its place and its inode. What cannot be read is not deleted: it stays as it was known. Files are not
//! read here, only looked at.

use crate::{
    disk::{Disk, INTERNAL},
    error::{Error, Result},
    state::{Info, Local, shown},
    store::Store,
    system::{Class, Names, Reading, Stat},
};
use holdfast_client_sync::{Id, Place};
use ignore::gitignore::Gitignore;
use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    io,
    os::unix::ffi::OsStrExt,
    path::Path,
};

/// What editors and systems leave lying about.
const LITTER: [&str; 8] =
    [".DS_Store", "Thumbs.db", "desktop.ini", "~$*", ".~lock.*#", "*.swp", "*.part", "*.crdownload"];

/// What is behind the name of what was made where a directory is not selected, before its closing bracket; and how many
/// such names are tried.
const UNSELECTED: &str = " (made here, not the one that is not selected";
const ASIDE_NAMES: u32 = 1000;

/// The file with patterns of what is not synced, in gitignore's syntax.
pub const IGNORE_FILE: &str = ".hfignore";

/// What is not synced of a directory.
pub struct Ignored(Gitignore);

impl Ignored {
    /// Reads the patterns of a directory. Those that are none are left out.
    pub fn read(disk: &Disk) -> Self {
        let mut builder = ignore::gitignore::GitignoreBuilder::new("/");
        for pattern in LITTER {
            let _is_one = builder.add_line(None, pattern).is_ok();
        }
        let read = disk.read(&[IGNORE_FILE.as_bytes().to_vec()]);
        let text = read.and_then(|(file, _)| io::read_to_string(Reading::new(&*file))).unwrap_or_default();
        for line in text.lines() {
            if let Err(error) = builder.add_line(None, line) {
                tracing::warn!(line, %error, "a pattern is none");
            }
        }
        Self(builder.build().unwrap_or_else(|_| Gitignore::empty()))
    }

    fn has(&self, names: &[Vec<u8>], is_directory: bool) -> bool {
        let path = names.join(&b'/');
        let path = Path::new(std::ffi::OsStr::from_bytes(&path));
        self.0.matched_path_or_any_parents(Path::new("/").join(path), is_directory).is_ignore()
    }
}

/// What has to be looked at.
enum Look {
    /// What has a name in a directory.
    Name(Place),
    /// All that is in a directory; where it is deep, in all directories below, too.
    Directory { id: Id, deep: bool },
}

/// Something on the disk whose name another node had.
struct Contested {
    place: Place,
    stat: Stat,
}

struct Scan<'a> {
    disk: &'a Disk,
    ignored: &'a Ignored,
    store: &'a Store,
    queue: VecDeque<Look>,
    listed: HashSet<(Id, bool)>,
    looked: HashSet<Place>,
    contested: Vec<Contested>,
    /// Nodes that are not where they were.
    missing: BTreeSet<Id>,
}

/// Looks at the whole directory.
///
/// # Errors
/// Where the root cannot be read, or the store.
pub fn scan(disk: &Disk, ignored: &Ignored, store: &Store) -> Result<()> {
    let mut scan = Scan::new(disk, ignored, store);
    scan.queue.push_back(Look::Directory { id: Id::Root, deep: true });
    scan.run()
}

/// Looks at what has these names, and at what is in `directories`.
///
/// # Errors
/// As [`scan`].
pub fn scan_some(
    disk: &Disk,
    ignored: &Ignored,
    store: &Store,
    names: &BTreeSet<Names>,
    directories: &BTreeSet<Names>,
) -> Result<()> {
    let mut scan = Scan::new(disk, ignored, store);
    for names in names {
        let look = scan.nearest(names)?;
        scan.queue.extend(look);
    }
    for names in directories {
        let look = scan.directory(names)?;
        scan.queue.push_back(look);
    }
    scan.run()
}

impl<'a> Scan<'a> {
    fn new(disk: &'a Disk, ignored: &'a Ignored, store: &'a Store) -> Self {
        Self {
            disk,
            ignored,
            store,
            queue: VecDeque::new(),
            listed: HashSet::new(),
            looked: HashSet::new(),
            contested: Vec::new(),
            missing: BTreeSet::new(),
        }
    }

    /// What of a path is to be looked at: all that is in the directory, or else the first place on the way to it where no
    /// directory is known.
    fn directory(&self, names: &[Vec<u8>]) -> Result<Look> {
        let mut at = Id::Root;
        for name in names {
            let place = Place { parent: at, name: name.clone() };
            match self.store.local_at(&place)? {
                Some((id, local)) if local.class == Class::Directory => at = id,
                Some(_) | None => return Ok(Look::Name(place)),
            }
        }
        Ok(Look::Directory { id: at, deep: false })
    }

    /// The same of what has a name, whatever it is; `None` of the root.
    fn nearest(&self, names: &[Vec<u8>]) -> Result<Option<Look>> {
        let Some((name, above)) = names.split_last() else { return Ok(None) };
        Ok(Some(match self.directory(above)? {
            Look::Directory { id, .. } => Look::Name(Place { parent: id, name: name.clone() }),
            missing @ Look::Name(_) => missing,
        }))
    }

    fn run(mut self) -> Result<()> {
        // Nobody says when something changes that is aside, and somebody may have done something in it on its way there.
        for (id, local) in self.store.aside()? {
            if local.class == Class::Directory {
                self.queue.push_back(Look::Directory { id, deep: true });
            }
            self.queue.push_back(Look::Name(local.place));
        }
        loop {
            while let Some(look) = self.queue.pop_front() {
                match look {
                    Look::Name(place) => self.name(place)?,
                    Look::Directory { id, deep } => self.list(id, deep)?,
                }
            }
            if !self.contested.is_empty() {
                self.settle()?;
            } else if !self.bury()? {
                return Ok(());
            }
        }
    }

    /// Looks at what has a name.
    fn name(&mut self, place: Place) -> Result<()> {
        if !self.looked.insert(place.clone()) || (place.parent == Id::Root && place.name == INTERNAL) {
            return Ok(());
        }
        let path = self.store.path(&place)?;
        match self.disk.stat(&path) {
            // Of a directory that came, nobody was told what happened in it until it was watched.
            Ok(Some(stat)) => self.found(place, &path, stat, true),
            Ok(None) => {
                self.store.unskip(&place)?;
                self.missing.extend(self.store.local_at(&place)?.map(|(id, _)| id));
                Ok(())
            }
            Err(error) => self.store.skip(&place, &format!("it cannot be looked at: {error}")),
        }
    }

    fn list(&mut self, directory: Id, deep: bool) -> Result<()> {
        if !self.listed.insert((directory, deep)) {
            return Ok(());
        }
        let names = self.store.disk_names(directory)?;
        let place = self.store.local(directory)?.map(|local| local.place);
        let entries = match (self.disk.list(&names), place) {
            (Ok(entries), place) => {
                place.map_or(Ok(()), |place| self.store.unskip(&place))?;
                entries
            }
            (Err(error), None) => return Err(Error::File(self.disk.path().display().to_string(), error)),
            (Err(error), Some(place)) => {
                if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) {
                    // It is gone, or another.
                    self.queue.push_back(Look::Name(place));
                    return Ok(());
                }
                return self.store.skip(&place, &format!("it cannot be read: {error}"));
            }
        };
        self.store.unskip_all(directory)?;
        let mut known = self.store.local_inside(directory)?;
        for (name, stat) in entries {
            let before = known.remove(&name);
            let place = Place { parent: directory, name };
            let path = [names.as_slice(), std::slice::from_ref(&place.name)].concat();
            match before {
                // Most of them, for which this is all.
                Some((id, local)) if is_as_known(&local, &stat) => {
                    if deep && stat.class == Class::Directory && !self.ignored.has(&path, true) {
                        self.queue.push_back(Look::Directory { id, deep });
                    }
                }
                Some(_) | None => self.found(place, &path, stat, deep)?,
            }
        }
        // What is aside is elsewhere on the disk, and looked at each time.
        let gone = known.into_values().filter(|(_, local)| !local.place.is_aside());
        self.missing.extend(gone.map(|(id, _)| id));
        Ok(())
    }

    /// Gives another name to what was made where the server has a directory that is not selected here. Whether it was.
    fn steps_aside(&mut self, place: &Place, path: &[Vec<u8>]) -> Result<bool> {
        let is_known = self.store.local_at(place)?.is_some() || self.store.is_hidden(place.parent)?;
        if is_known || self.store.hidden_at(place)?.is_none() {
            return Ok(false);
        }
        for number in 1..ASIDE_NAMES {
            let again = if number > 1 { format!(" {number}") } else { String::new() };
            let room = 255 - UNSELECTED.len() - again.len() - 1;
            let stem = &place.name[..place.name.len().min(room)];
            let name = [stem, UNSELECTED.as_bytes(), again.as_bytes(), b")"].concat();
            let goal: Names = path[..path.len() - 1].iter().cloned().chain([name.clone()]).collect();
            match self.disk.relocate(path, &goal) {
                Ok(_) => {
                    self.queue.push_back(Look::Name(Place { parent: place.parent, name }));
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    let why = format!(
                        "a directory that is not selected has its name, and it cannot be renamed: {error}"
                    );
                    self.store.skip(place, &why)?;
                    return Ok(true);
                }
            }
        }
        self.store.skip(place, "a directory that is not selected has its name")?;
        Ok(true)
    }

    /// Takes note of what is at a place.
    fn found(&mut self, place: Place, path: &[Vec<u8>], stat: Stat, deep: bool) -> Result<()> {
        if stat.class == Class::Other {
            // What was synced before is not deleted by that.
            return self.store.skip(&place, "it is no file, directory or link");
        }
        self.store.unskip(&place)?;
        if self.ignored.has(path, stat.class == Class::Directory) {
            return Ok(());
        }
        if self.steps_aside(&place, path)? {
            return Ok(());
        }
        let Some((id, local)) = self.store.local_at(&place)? else {
            return match self.owner(&stat)? {
                Some((id, local)) => self.moved(id, local, place, &stat),
                None => self.made(place, &stat),
            };
        };
        if !is_same(&local, &stat) {
            self.contested.push(Contested { place, stat });
            return Ok(());
        }
        if stat.class == Class::Directory {
            if deep {
                self.queue.push_back(Look::Directory { id, deep });
            }
            return Ok(());
        }
        self.touched(id, local, &stat)
    }

    /// Takes note of what a file looks like now.
    fn touched(&self, id: Id, local: Local, stat: &Stat) -> Result<()> {
        if is_as_known(&local, stat) {
            return Ok(());
        }
        let unread = local.unread || !local.info.is(stat);
        let now = Local { info: Info::of(stat), executable: stat.executable, unread, ..local };
        self.store.put_local(id, &now)?;
        self.store.mark(id)
    }

    /// The node that was moved to where this is, it seems: it has the same inode, looks the same, and is not where it was.
    fn owner(&self, stat: &Stat) -> Result<Option<(Id, Local)>> {
        for (id, local) in self.store.by_inode(stat.inode, stat.device)? {
            // An inode is used again, soon perhaps: only a file that looks the same was moved.
            let same = local.class == stat.class
                && (stat.class == Class::Directory || local.info.is_but_moved(stat));
            if !same {
                continue;
            }
            let there = self.disk.stat(&self.store.disk_names(id)?).ok().flatten();
            if there.is_none_or(|there| (there.inode, there.device) != (stat.inode, stat.device)) {
                return Ok(Some((id, local)));
            }
        }
        Ok(None)
    }

    fn moved(&mut self, id: Id, local: Local, place: Place, stat: &Stat) -> Result<()> {
        if self.store.is_in(place.parent, id)? {
            // What is above it was moved as well, and is found where it is now by and by.
            return self.made(place, stat);
        }
        // That it was moved changes when it was changed, and so does writing to it: the same inode, time and length prove
        // nothing. It is read again, but for what is in a directory that was moved.
        let unread = local.unread || (stat.class != Class::Directory && !local.info.is(stat));
        let info = Info::of(stat);
        self.store.put_local(id, &Local { place, info, executable: stat.executable, unread, ..local })?;
        self.store.mark(id)?;
        if stat.class == Class::Directory {
            // Whatever happened in it while nobody knew where it was.
            self.queue.push_back(Look::Directory { id, deep: true });
        }
        Ok(())
    }

    fn made(&mut self, place: Place, stat: &Stat) -> Result<()> {
        let id = self.store.fresh()?;
        self.store.put_local(id, &Local::found(place, stat))?;
        self.store.mark(id)?;
        if stat.class == Class::Directory {
            self.queue.push_back(Look::Directory { id, deep: true });
        }
        Ok(())
    }

    /// Says of what has the names of other nodes which nodes it is: first those that were moved there, so that names can be
    /// exchanged; what is left was written anew.
    fn settle(&mut self) -> Result<()> {
        let mut rest = Vec::new();
        let mut movers = Vec::new();
        for Contested { place, stat } in std::mem::take(&mut self.contested) {
            match self.owner(&stat)? {
                Some((id, local)) => movers.push((id, local, place, stat)),
                None => rest.push((place, stat)),
            }
        }
        let mut seen = HashSet::new();
        movers.retain(|(id, ..)| seen.insert(*id));
        for (id, ..) in &movers {
            self.store.detach(*id)?;
        }
        for (id, local, place, stat) in movers {
            if let Some((before, _)) = self.store.local_at(&place)? {
                self.store.detach(before)?;
            }
            self.moved(id, local, place, &stat)?;
        }
        for (place, stat) in rest {
            match self.store.local_at(&place)? {
                Some((id, local)) if local.class == stat.class => {
                    // Editors write another file in its place.
                    let unread = stat.class != Class::Directory;
                    let now = Local { info: Info::of(&stat), executable: stat.executable, unread, ..local };
                    self.store.put_local(id, &now)?;
                    self.store.mark(id)?;
                    if stat.class == Class::Directory {
                        self.queue.push_back(Look::Directory { id, deep: true });
                    }
                }
                Some((before, _)) => {
                    self.store.detach(before)?;
                    self.made(place, &stat)?;
                }
                None => self.made(place, &stat)?,
            }
        }
        Ok(())
    }

    /// Forgets what is gone, after one more look. Whether that look has found anything.
    fn bury(&mut self) -> Result<bool> {
        for id in std::mem::take(&mut self.missing) {
            let Some(local) = self.store.local(id)? else { continue };
            let names = self.store.disk_names(id)?;
            match self.disk.stat(&names) {
                Ok(None) => {
                    tracing::debug!(path = shown(&names), "gone");
                    self.store.prune_local(id)?;
                }
                // It is somewhere else by now, or came back.
                Ok(Some(_)) => {
                    self.looked.remove(&local.place);
                    self.queue.push_back(Look::Name(local.place));
                }
                Err(error) => self.store.skip(&local.place, &format!("it cannot be looked at: {error}"))?,
            }
        }
        if self.queue.is_empty() {
            for id in self.store.detached()? {
                self.store.prune_local(id)?;
            }
        }
        Ok(!self.queue.is_empty())
    }
}

/// Whether it is the file that was looked at last, changed perhaps.
fn is_same(local: &Local, stat: &Stat) -> bool {
    (local.info.inode, local.info.device) == (stat.inode, stat.device) && local.class == stat.class
}

/// Whether a node is what it was when it was looked at last.
fn is_as_known(local: &Local, stat: &Stat) -> bool {
    is_same(local, stat)
        && (stat.class == Class::Directory
            || (local.executable == stat.executable
                && (local.info.is(stat) || (local.unread && Info::of(stat) == local.info))))
}
