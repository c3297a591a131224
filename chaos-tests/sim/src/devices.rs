//! Several sync clients, each the production engine over a simulated disk, and the production metadata machine behind them.
//!
//! People work on all devices at once, also between any two steps of an engine. Engines are killed at any step, the gateway
//! is, questions and answers get lost, notifications too, clocks differ. When that ends, all devices and the server come to
//! hold the same, another look changes nothing, and every content that nobody took away is in a version, on a device or in a
//! local trash.

mod cluster;
mod files;
pub mod mysteries;
mod people;

use crate::Rng;
use cluster::{Cluster, Door};
use files::{Body, Files, Killed};
use futures::{FutureExt, future::LocalBoxFuture, task::noop_waker};
use holdfast_client_engine::{
    Dirty, Engine, Passed, Root,
    disk::{Disk, INTERNAL},
    error::{Error, Result},
    strategy,
    system::Names,
};
use people::{People, Story};
use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

const DEVICES: [&str; 3] = ["laptop", "desk", "phone"];

/// What happens in a run, and turns that each device may need at most to settle.
const EVENTS: u64 = 4000;
const ROUNDS_MAX: usize = 60;
const TURNS_MAX: usize = 20_000;

const MARK: &str = "mark";

/// A bug that a run plants, to see that the oracles would find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    Nothing,
    /// The server says of some commits that they were made, and makes them not.
    AcknowledgedUnmade,
    /// Some changes are left out of what is heard of the journal.
    UnheardChanges,
    /// Disks never say that a file was changed.
    TimesThatStand,
}

/// What a run saw: equal for equal seeds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    pub trace: String,
    pub deeds: usize,
    pub commits: usize,
    pub steps: u64,
    pub kills: usize,
    pub restarts: usize,
    pub lost_answers: usize,
    pub cuts: usize,
    /// How often a disk had no room.
    pub full: usize,
    /// The first oracle that was violated.
    pub violation: Option<String>,
}

type Pass = LocalBoxFuture<'static, (Engine, Result<Passed>)>;

struct Device {
    files: Files,
    door: Door,
    root: Root,
    engine: Option<Engine>,
    pass: Option<Pass>,
    is_up: bool,
    /// Somebody has said that so much may be deleted.
    confirmed: bool,
    /// The database as it was some time ago, in files: it is not synced each time that something is written down.
    older: Vec<(PathBuf, Vec<u8>)>,
}

/// How a turn of a device ended.
enum Turn {
    Goes,
    Passed(Result<Passed>),
    Killed,
}

impl Device {
    /// Does some work.
    fn turn(&mut self) -> Turn {
        let worked = catch_unwind(AssertUnwindSafe(|| self.work()));
        match worked {
            Ok(turn) => turn,
            Err(payload) if payload.is::<Killed>() => {
                self.kill();
                Turn::Killed
            }
            Err(payload) => resume_unwind(payload),
        }
    }

    fn work(&mut self) -> Turn {
        if self.pass.is_none() {
            let mut engine = match self.engine.take() {
                Some(engine) => engine,
                None => match Engine::open(
                    self.root.clone(),
                    Arc::new(self.files.clone()),
                    Arc::new(self.door.clone()),
                ) {
                    Ok(engine) => engine,
                    Err(error) => return Turn::Passed(Err(error)),
                },
            };
            engine.confirmed |= std::mem::take(&mut self.confirmed);
            self.pass = Some(
                async move {
                    let passed = engine.pass().await;
                    (engine, passed)
                }
                .boxed_local(),
            );
        }
        let waker = noop_waker();
        let mut context = Context::from_waker(&waker);
        let Some(pass) = &mut self.pass else { return Turn::Goes };
        match pass.as_mut().poll(&mut context) {
            Poll::Pending => Turn::Goes,
            Poll::Ready((engine, passed)) => {
                self.pass = None;
                // Whoever fails begins anew, as the daemon does.
                self.engine = passed.is_ok().then_some(engine);
                let brakes = |error: &Error| error.to_string().contains("hf sync confirm");
                match passed {
                    Err(error) if brakes(&error) => {
                        self.confirmed = true;
                        Turn::Goes
                    }
                    passed => Turn::Passed(passed),
                }
            }
        }
    }

    /// Tells the engine what was touched, where it is between two passes.
    fn notify(&mut self, dirty: Dirty) {
        if let Some(engine) = &mut self.engine {
            engine.dirty.join(dirty);
        }
    }

    fn kill(&mut self) {
        // Whatever it drops must not stop at the same fuse.
        self.files.state().weather.fuse = None;
        (self.pass, self.engine, self.is_up) = (None, None, false);
    }

    /// The files of the database.
    fn database(&self) -> [PathBuf; 2] {
        [self.root.trees.clone(), self.root.trees.with_extension("db-wal")]
    }

    /// Remembers the database as it is now, between two passes.
    fn remember(&mut self) {
        let read = |path: PathBuf| std::fs::read(&path).ok().map(|bytes| (path, bytes));
        self.older = self.database().into_iter().filter_map(read).collect();
    }

    /// The machine loses power, and comes back perhaps with an older database.
    fn cut_power(&mut self, older: bool) {
        self.kill();
        self.files.state().cut_power();
        if older && !self.older.is_empty() {
            for path in self.database() {
                let _absent = std::fs::remove_file(path);
            }
            let _absent = std::fs::remove_file(self.root.trees.with_extension("db-shm"));
            for (path, bytes) in &self.older {
                std::fs::write(path, bytes).expect("it is written");
            }
        }
    }

    /// What people see: directories, files, links.
    fn tree(&self) -> Vec<String> {
        let mut state = self.files.state();
        let mut lines = Vec::new();
        for (names, body) in state.below(&[]) {
            let path = String::from_utf8_lossy(&names.join(&b'/')).into_owned();
            if names[0] == INTERNAL {
                continue;
            }
            lines.push(match body {
                Body::Directory(_) => format!("{path}/"),
                Body::Link(target) => format!("{path}>{}", String::from_utf8_lossy(&target)),
                Body::File(bytes) => {
                    let run = if state.is_executable(&names) { "*" } else { "" };
                    format!("{path}={}{run}", String::from_utf8_lossy(&bytes))
                }
            });
        }
        lines.sort();
        lines
    }
}

struct World {
    rng: Rng,
    people: Arc<Mutex<People>>,
    cluster: Arc<Mutex<Cluster>>,
    devices: Vec<Device>,
    /// Power is cut now and then.
    powerless: bool,
    story: Story,
    report: Report,
    _databases: tempfile::TempDir,
}

impl World {
    fn new(seed: u64, conflicts: &str) -> Self {
        let (mut rng, story) = (Rng::new(seed), Story::default());
        let people = Arc::new(Mutex::new(People::new(rng.fork(), story.clone())));
        let cluster = Arc::new(Mutex::new(Cluster::new(rng.fork(), story.clone())));
        // In memory, where there is such a directory: a disk would take most of the time.
        let databases = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let databases = databases.expect("a directory for databases");
        // Times as on ext4, on network file systems, on memory cards.
        let tick_ns = [4_000_000, 1, 1_000_000_000, 2_000_000_000][rng.below(4) as usize];
        let mut devices = Vec::new();
        for name in DEVICES {
            let skew_ns = (rng.below(7_200_000_000_000) as i64) - 3_600_000_000_000;
            let files = Files::new(name, rng.fork(), tick_ns, people.clone(), story.clone());
            files.state().sleep(skew_ns);
            Disk::new(Arc::new(files.clone())).prepare(MARK).expect("a disk");
            let root = Root {
                space: "docs".to_owned(),
                mark: MARK.to_owned(),
                conflicts: strategy(conflicts).expect("a strategy"),
                trees: databases.path().join(format!("{name}.db")),
            };
            let door = Door { cluster: cluster.clone(), device: name.to_owned(), files: files.clone() };
            devices.push(Device {
                files,
                door,
                root,
                engine: None,
                pass: None,
                is_up: true,
                confirmed: false,
                older: Vec::new(),
            });
        }
        Self {
            rng,
            people,
            cluster,
            devices,
            powerless: false,
            story,
            report: Report::default(),
            _databases: databases,
        }
    }

    fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn people(&self) -> MutexGuard<'_, People> {
        self.people.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pick(&mut self) -> usize {
        self.rng.below(self.devices.len() as u64) as usize
    }

    fn violate(&mut self, what: String) {
        self.report.violation.get_or_insert(what);
    }

    /// What the watcher of a device's file system says of what happened there: not all of it, and sometimes that it lost
    /// count.
    fn deliver(&mut self, at: usize) {
        let device = &mut self.devices[at];
        if device.engine.is_none() || self.rng.chance(40) {
            return;
        }
        let touched: Vec<Names> = std::mem::take(&mut device.files.state().touched).into_iter().collect();
        let mut dirty = if self.rng.chance(5) { Dirty::All } else { Dirty::Nothing };
        for names in touched {
            if !self.rng.chance(5) {
                dirty.add(names);
            }
        }
        device.notify(dirty);
    }

    fn turn(&mut self, at: usize) {
        match self.devices[at].turn() {
            Turn::Goes => {}
            Turn::Killed => {
                self.story.tell(DEVICES[at], "is killed");
                self.report.kills += 1;
            }
            Turn::Passed(passed) => {
                if let Err(error) = passed
                    && !error.is_passing()
                {
                    self.violate(format!("{} stopped: {error}", DEVICES[at]));
                }
            }
        }
    }

    /// Something happens.
    fn event(&mut self) {
        let at = self.pick();
        match self.rng.below(100) {
            0..=14 => {
                let mut state = self.devices[at].files.state();
                self.people().act(&mut state);
            }
            15 => {
                self.cluster().restart();
                self.report.restarts += 1;
            }
            16 => {
                let nap = self.rng.below(3_000_000_000) as i64;
                self.devices.iter().for_each(|device| device.files.state().sleep(nap));
            }
            17 if self.devices[at].is_up => {
                self.devices[at].files.state().weather.fuse = Some(self.rng.below(400));
            }
            18 if self.devices[at].is_up => {
                self.devices[at].kill();
                self.report.kills += 1;
            }
            19 if self.powerless => {
                let older = self.rng.chance(50);
                self.devices[at].cut_power(older);
                self.report.cuts += 1;
            }
            20 if self.devices[at].engine.is_some() => self.devices[at].remember(),
            21 => {
                let room = self.rng.chance(30).then(|| self.rng.below(200));
                self.devices[at].files.state().weather.room = room;
                self.report.full += usize::from(room.is_some());
            }
            22..=25 => self.devices[at].is_up = true,
            26..=30 => self.deliver(at),
            _ if self.devices[at].is_up => self.turn(at),
            _ => {}
        }
    }

    /// No more faults, nobody works: all engines look until nothing changes any more.
    fn settle(&mut self) {
        self.cluster().loss = 0;
        for device in &mut self.devices {
            device.files.state().weather = files::Weather::default();
            device.is_up = true;
        }
        for _ in 0..ROUNDS_MAX {
            let before = self.moved();
            for at in 0..self.devices.len() {
                if !self.look(at) {
                    return;
                }
            }
            if self.moved() == before {
                return;
            }
        }
        self.violate("it never ends".to_owned());
    }

    /// How much was changed anywhere.
    fn moved(&self) -> (u64, u64) {
        let steps = self.devices.iter().map(|device| device.files.state().changes).sum();
        (steps, self.cluster().head())
    }

    /// Has a device look at everything, until it has done what it can.
    fn look(&mut self, at: usize) -> bool {
        let device = &mut self.devices[at];
        device.files.state().sleep(5_000_000_000);
        let mut asked = false;
        for _ in 0..TURNS_MAX {
            match device.turn() {
                Turn::Goes => {}
                Turn::Killed => return true,
                Turn::Passed(Err(error)) if error.is_passing() => {}
                Turn::Passed(Err(error)) => {
                    self.violate(format!("{} stopped: {error}", DEVICES[at]));
                    return false;
                }
                Turn::Passed(Ok(passed)) => {
                    let quiet = device.engine.as_ref().is_some_and(|engine| engine.dirty == Dirty::Nothing);
                    if asked && quiet && passed == Passed::Done {
                        return true;
                    }
                    if !asked {
                        asked = true;
                        if let Some(engine) = &mut device.engine {
                            engine.dirty = Dirty::All;
                            engine.retry().expect("the database");
                        }
                    }
                }
            }
        }
        self.violate(format!("{} is never done", DEVICES[at]));
        false
    }

    /// Everything that must be so in the end.
    fn check(&mut self) {
        let server = self.cluster().tree();
        for (at, name) in DEVICES.iter().enumerate() {
            let tree = self.devices[at].tree();
            if tree != server {
                let lacks: Vec<_> = server.iter().filter(|line| !tree.contains(line)).collect();
                let more: Vec<_> = tree.iter().filter(|line| !server.contains(line)).collect();
                self.violate(format!("{name} lacks {lacks:?} and has {more:?}"));
            }
            let problems =
                self.devices[at].engine.as_ref().map(|engine| engine.problems().expect("the database"));
            match problems {
                Some((0, _)) => {}
                problems => self.violate(format!("{name} has problems: {problems:?}")),
            }
            let state = self.devices[at].files.state();
            let left: Vec<String> = [&b"aside"[..], b"tmp"]
                .iter()
                .flat_map(|dir| state.below(&[INTERNAL.to_vec(), dir.to_vec()]))
                .map(|(names, body)| format!("{}: {body:?}", String::from_utf8_lossy(&names.join(&b'/'))))
                .collect();
            drop(state);
            if !left.is_empty() {
                self.violate(format!("{name} has left something aside or half-written: {left:?}"));
            }
        }
        // Power cuts bring old bytes back by themselves, and people who have two files change places.
        let again = std::mem::take(&mut self.cluster().again);
        let shifted = self.people().shifted.clone();
        let again = again.into_iter().find(|(bytes, _)| !self.powerless && !shifted.contains(bytes));
        if let Some((bytes, node)) = again {
            self.violate(format!("{node:?} has {} again", String::from_utf8_lossy(&bytes)));
        }
        let mut found = self.cluster().contents.clone();
        for device in &self.devices {
            for (_, body) in device.files.state().below(&[]) {
                if let Body::File(bytes) = body {
                    found.insert(bytes);
                }
            }
        }
        let owed = self.people().owed.clone();
        if let Some(lost) = owed.difference(&found).next() {
            self.violate(format!("lost: {}", String::from_utf8_lossy(lost)));
        }
    }

    fn report(mut self) -> Report {
        let (commits, lost_answers) = {
            let cluster = self.cluster();
            (cluster.commits, cluster.lost_answers)
        };
        let deeds = self.people().deeds;
        self.report = Report { commits, lost_answers, deeds, ..self.report };
        self.report.trace = self.story.text();
        self.report.steps = self.devices.iter().map(|device| device.files.state().changes).sum();
        self.report
    }
}

/// Runs one seed.
pub fn run(seed: u64, planted: Planted) -> Report {
    let conflicts = if seed.is_multiple_of(4) { "last-writer" } else { "copy" };
    let mut world = World::new(seed, conflicts);
    world.cluster().planted = planted;
    for device in &world.devices {
        device.files.state().times_stand = planted == Planted::TimesThatStand;
    }
    if seed % 3 == 1 {
        world.powerless = true;
        world.devices.iter().for_each(|device| device.files.state().power_may_be_cut());
    }
    for _ in 0..3 {
        let stormy = world.rng.chance(80);
        world.cluster().loss = if stormy { 2 } else { 0 };
        let visits = if stormy { 2 + world.rng.below(20) } else { 0 };
        world.devices.iter().for_each(|device| device.files.state().weather.visits = visits);
        for _ in 0..EVENTS / 3 {
            world.event();
            if world.report.violation.is_some() {
                return world.report();
            }
        }
        world.settle();
        if world.report.violation.is_none() {
            world.check();
        }
        if world.report.violation.is_some() {
            break;
        }
    }
    world.report()
}
