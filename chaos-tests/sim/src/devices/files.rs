//! A simulated file system, as an engine has it, one step after another. At every step the engine may be killed for good, and
//! people may do something before it goes on.

mod state;

use super::people::{People, Story};
use crate::Rng;
use holdfast_client_engine::system::{Directory, File, Rename, Stat, System};
use state::ROOT;
use std::{
    any::Any,
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use state::{Body, State, Weather};

/// What an engine ends with that is killed.
pub struct Killed;

/// A too long way of links.
fn is_link() -> io::Error {
    io::Error::from_raw_os_error(40)
}

/// A disk, as an engine has it.
#[derive(Clone)]
pub struct Files(Arc<Mutex<State>>);

impl Files {
    pub fn new(name: &'static str, rng: Rng, tick_ns: i64, people: Arc<Mutex<People>>, story: Story) -> Self {
        Self(Arc::new(Mutex::new(State::new(name, rng, tick_ns, people, story))))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What comes before each step.
    pub fn step(&self) {
        let mut state = self.state();
        state.pass_time();
        match &mut state.weather.fuse {
            Some(0) => {
                drop(state);
                std::panic::resume_unwind(Box::new(Killed));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        let visits = state.weather.visits;
        if visits > 0 && state.rng.below(1000) < visits {
            let people = state.people.clone();
            people.lock().unwrap_or_else(PoisonError::into_inner).act(&mut state);
        }
    }

    /// A step that changes something.
    fn change<T>(&self, what: &str, change: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        self.step();
        let mut state = self.state();
        let done = change(&mut state);
        let told = done.as_ref().map(drop).map_err(io::Error::kind);
        state.story.tell(state.name, &format!("{what}: {told:?}"));
        state.changes += u64::from(done.is_ok());
        done
    }
}

impl System for Files {
    fn root(&self) -> Arc<dyn Directory> {
        Arc::new(Opened::new(self.clone(), ROOT))
    }

    fn is_there(&self) -> bool {
        true
    }

    fn path(&self) -> &Path {
        Path::new("/simulated")
    }

    fn sync(&self) -> io::Result<()> {
        self.step();
        self.state().sync_all();
        Ok(())
    }

    fn now_ns(&self) -> i64 {
        self.state().now_ns
    }
}

/// A file or directory that is open: as long as it is, its number is nobody else's.
struct Opened {
    files: Files,
    number: u64,
}

impl Opened {
    fn new(files: Files, number: u64) -> Self {
        if let Ok(inode) = files.state().inode(number) {
            inode.opened += 1;
        }
        Self { files, number }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let mut state = self.files.state();
        if let Ok(inode) = state.inode(self.number) {
            inode.opened -= 1;
        }
        state.free(self.number);
    }
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

impl Directory for Opened {
    fn enter(&self, name: &[u8]) -> io::Result<Arc<dyn Directory>> {
        self.files.step();
        let mut state = self.files.state();
        let number = state.find(self.number, name)?;
        state.entries(number)?;
        drop(state);
        Ok(Arc::new(Self::new(self.files.clone(), number)))
    }

    fn list(&self) -> io::Result<Vec<Vec<u8>>> {
        self.files.step();
        Ok(self.files.state().entries(self.number)?.keys().cloned().collect())
    }

    fn stat(&self, name: &[u8]) -> io::Result<Stat> {
        self.files.step();
        let mut state = self.files.state();
        let number = state.find(self.number, name)?;
        state.stat(number)
    }

    fn open(&self, name: &[u8]) -> io::Result<Box<dyn File>> {
        self.files.step();
        let mut state = self.files.state();
        let number = state.find(self.number, name)?;
        if matches!(state.inode(number)?.body, Body::Link(_)) {
            return Err(is_link());
        }
        drop(state);
        Ok(Box::new(Self::new(self.files.clone(), number)))
    }

    fn create(&self, name: &[u8]) -> io::Result<Box<dyn File>> {
        let make = |state: &mut State| {
            if state.weather.room == Some(0) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.add(self.number, name, Body::File(Vec::new()))
        };
        let number = self.files.change(&format!("create {} {}", self.number, text(name)), make)?;
        Ok(Box::new(Self::new(self.files.clone(), number)))
    }

    fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        self.files.step();
        let mut state = self.files.state();
        let number = state.find(self.number, name)?;
        match &state.inode(number)?.body {
            Body::Link(target) => Ok(target.clone()),
            Body::File(_) | Body::Directory(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn make_link(&self, target: &[u8], name: &[u8]) -> io::Result<()> {
        let what = format!("link {} {}", self.number, text(name));
        self.files.change(&what, |state| state.add(self.number, name, Body::Link(target.to_vec())).map(drop))
    }

    fn make_directory(&self, name: &[u8], _private: bool) -> io::Result<()> {
        let what = format!("mkdir {} {}", self.number, text(name));
        let body = Body::Directory(BTreeMap::new());
        self.files.change(&what, |state| state.add(self.number, name, body).map(drop))
    }

    fn rename(&self, name: &[u8], to: &dyn Directory, goal: &[u8], how: Rename) -> io::Result<()> {
        let to = (to as &dyn Any).downcast_ref::<Self>().ok_or(io::ErrorKind::CrossesDevices)?.number;
        let what = format!("rename {} {} to {to} {} {how:?}", self.number, text(name), text(goal));
        self.files.change(&what, |state| state.rename((self.number, name), (to, goal), how))
    }

    fn remove_file(&self, name: &[u8]) -> io::Result<()> {
        self.files.change(&format!("unlink {} {}", self.number, text(name)), |state| {
            let number = state.find(self.number, name)?;
            match state.entries(number) {
                Ok(_) => Err(io::ErrorKind::IsADirectory.into()),
                Err(_) => state.drop_name(self.number, name),
            }
        })
    }

    fn remove_directory(&self, name: &[u8]) -> io::Result<()> {
        self.files.change(&format!("rmdir {} {}", self.number, text(name)), |state| {
            let number = state.find(self.number, name)?;
            match state.entries(number)?.is_empty() {
                true => state.drop_name(self.number, name),
                false => Err(io::ErrorKind::DirectoryNotEmpty.into()),
            }
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.files.step();
        self.files.state().sync(None);
        Ok(())
    }
}

impl File for Opened {
    fn stat(&self) -> io::Result<Stat> {
        self.files.step();
        self.files.state().stat(self.number)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.files.step();
        let mut state = self.files.state();
        let Body::File(bytes) = &state.inode(self.number)?.body else {
            return Err(io::ErrorKind::IsADirectory.into());
        };
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.files.change(&format!("append {} {}", self.number, bytes.len()), |state| {
            if let Some(room) = &mut state.weather.room {
                match room.checked_sub(bytes.len() as u64) {
                    Some(rest) => *room = rest,
                    None => return Err(io::ErrorKind::StorageFull.into()),
                }
            }
            let now = state.stamp();
            let inode = state.inode(self.number)?;
            let Body::File(there) = &mut inode.body else { return Err(io::ErrorKind::IsADirectory.into()) };
            there.extend_from_slice(bytes);
            (inode.mtime_ns, inode.ctime_ns) = (now, now);
            Ok(())
        })
    }

    fn set_modified(&self, mtime_ns: i64) -> io::Result<()> {
        self.files.change(&format!("modified {}", self.number), |state| {
            let (now, tick) = (state.stamp(), state.tick_ns);
            let inode = state.inode(self.number)?;
            (inode.mtime_ns, inode.ctime_ns) = (mtime_ns - mtime_ns.rem_euclid(tick), now);
            Ok(())
        })
    }

    fn mark(&self, executable: bool) -> io::Result<()> {
        self.files.change(&format!("mark {} {executable}", self.number), |state| {
            let now = state.stamp();
            let inode = state.inode(self.number)?;
            (inode.executable, inode.ctime_ns) = (executable, now);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.files.step();
        self.files.state().sync(Some(self.number));
        Ok(())
    }
}
