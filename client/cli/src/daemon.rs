//! The daemon: watches directories and spaces, and has the engines work when something changes.

use crate::{
    api::Api,
    database::{Database, Root},
    home::Home,
    watching::{Heard, Watching},
};
use holdfast_client_engine::{
    engine::{Dirty, Engine, Keep, Passed},
    error::{Result, at, plain},
    linux::Linux,
    system::Names,
};
use holdfast_client_link::traffic;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Notify, oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// How long a directory must be quiet before it is looked at, and how long it is waited for at most.
const SETTLE: Duration = Duration::from_millis(40);
const SETTLE_MAX: Duration = Duration::from_millis(400);

/// How long the server is asked to wait for a change.
const LISTEN: Duration = Duration::from_secs(25);

/// Pauses after what failed.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Passes without a pause that find that something changed meanwhile.
const AGAIN_MAX: u32 = 8;

/// How often a directory is looked at in whole, whatever was heard of it.
const WHOLE: Duration = Duration::from_secs(10 * 60);

/// What a directory is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    pub space: String,
    pub directory: String,
    /// synced, syncing, paused, offline, stopped
    pub state: String,
    /// Why it is not synced.
    pub reason: Option<String>,
    /// Files that are not synced, and why; of very many, some.
    pub problems: BTreeMap<String, String>,
    pub files: usize,
    /// Bytes that the daemon has sent and received since it was started, for all directories.
    pub sent: u64,
    pub received: u64,
    /// Directories of the space that are not kept here.
    pub unselected: Vec<String>,
    /// Where that was asked for: files that both sides changed and somebody decides about, and conflicted copies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<String>,
    /// How often somebody asked for a look, and up to which of these it is answered.
    pub asked: u64,
    pub answered: u64,
}

/// What is asked of a daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    Status,
    /// Directories were added, removed, paused.
    Reload,
    /// Looks at everything now.
    Look,
    /// So much may be deleted.
    Confirm,
    /// [`Shown`] with conflicts.
    Conflicts,
    /// Decides about a file that both sides changed.
    Resolve {
        directory: PathBuf,
        path: Names,
        keep: Keep,
    },
    /// Has a directory of the space be kept here, or not.
    Select {
        directory: PathBuf,
        path: Names,
        selected: bool,
    },
}

/// What the daemon says to an order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Said {
    Shown(Vec<Shown>),
    Refused(String),
}

/// What an engine is asked between two passes, and whom it tells what came of it.
struct Task {
    work: Work,
    done: oneshot::Sender<std::result::Result<Found, String>>,
}

enum Work {
    Conflicts,
    Resolve(Names, Keep),
    Select(Names, bool),
}

/// What an engine finds.
#[derive(Default)]
struct Found {
    conflicts: Vec<String>,
    copies: Vec<String>,
}

impl Work {
    fn run(self, engine: &mut Engine) -> Result<Found> {
        match self {
            Self::Conflicts => Ok(Found { conflicts: engine.conflicts()?, copies: engine.copies()? }),
            Self::Resolve(names, keep) => engine.resolve(&names, keep).map(|()| Found::default()),
            Self::Select(names, selected) => engine.select(&names, selected).map(|()| Found::default()),
        }
    }
}

/// A directory at work, as the daemon holds it.
struct Worker {
    shown: watch::Receiver<Shown>,
    hub: Arc<Hub>,
    task: JoinHandle<()>,
    paused: bool,
}

/// What a directory's worker is told.
#[derive(Default)]
struct Hub {
    dirty: Mutex<Dirty>,
    confirmed: AtomicBool,
    asked: AtomicU64,
    tasks: Mutex<Vec<Task>>,
    wake: Notify,
}

impl Hub {
    fn touch(&self, names: Names) {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner).add(names);
        self.wake.notify_one();
    }

    /// Somebody waits until all that is there now is synced.
    fn ask(&self) {
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        *dirty = Dirty::All;
        self.asked.fetch_add(1, Ordering::AcqRel);
        self.wake.notify_one();
    }

    /// Has the engine do something between two passes.
    async fn have(&self, work: Work) -> std::result::Result<Found, String> {
        let (done, answer) = oneshot::channel();
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(Task { work, done });
        self.wake.notify_one();
        answer.await.unwrap_or_else(|_| Err("the directory is not synced any more".to_owned()))
    }

    fn tasks(&self) -> Vec<Task> {
        std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn all(&self) {
        *self.dirty.lock().unwrap_or_else(PoisonError::into_inner) = Dirty::All;
        self.wake.notify_one();
    }

    /// What is dirty, and the last question that is answered when it has been looked at.
    fn take(&self) -> (Dirty, u64) {
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut *dirty), self.asked.load(Ordering::Acquire))
    }
}

/// Runs until the process is told to stop.
///
/// # Errors
/// Where another daemon runs, or there is no account.
pub async fn run(home: &Home) -> Result<()> {
    let lock = std::fs::File::create(home.lock()).map_err(at(home.lock()))?;
    if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        return plain("another daemon runs already");
    }
    let api = Api::new(home.account()?);
    let database = Database::open(home)?;
    // What is left of a daemon that was killed.
    let _none = std::fs::remove_file(home.socket());
    let listener = UnixListener::bind(home.socket()).map_err(at(home.socket()))?;
    let mut workers: HashMap<PathBuf, Worker> = HashMap::new();
    reload(&mut workers, &api, &database)?;
    println!("ready");
    let mut terminate =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(at("signals"))?;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if let Err(error) = answer(stream, &mut workers, &api, &database).await {
                        tracing::debug!(%error, "an order was not answered");
                    }
                }
                Err(error) => tracing::warn!(%error, "an order was not taken"),
            },
            _ = terminate.recv() => break,
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    // A pass that is under way is as if it were killed, which it survives.
    workers.values().for_each(|worker| worker.task.abort());
    let _gone = std::fs::remove_file(home.socket());
    drop(lock);
    Ok(())
}

/// Starts what is new, and stops what is gone or paused.
fn reload(workers: &mut HashMap<PathBuf, Worker>, api: &Api, database: &Database) -> Result<()> {
    api.limits().set(&database.limits()?);
    let roots = database.roots()?;
    workers.retain(|directory, worker| {
        let stays = roots.iter().any(|root| root.directory == *directory && root.paused == worker.paused);
        if !stays {
            worker.task.abort();
        }
        stays
    });
    for root in roots {
        workers.entry(root.directory.clone()).or_insert_with(|| start(root, api.clone()));
    }
    Ok(())
}

fn start(root: Root, api: Api) -> Worker {
    let paused = root.paused;
    let shown = Shown {
        space: root.synced.space.clone(),
        directory: root.directory.display().to_string(),
        state: if paused { "paused" } else { "syncing" }.to_owned(),
        ..Shown::default()
    };
    let (show, shown) = watch::channel(shown);
    let hub = Arc::new(Hub::default());
    let task = match paused {
        true => tokio::spawn(async move {
            // Its state is shown as long as it is paused.
            show.closed().await;
        }),
        false => tokio::spawn(work(root, api, hub.clone(), show)),
    };
    Worker { shown, hub, task, paused }
}

async fn work(root: Root, api: Api, hub: Arc<Hub>, show: watch::Sender<Shown>) {
    let mut pause = PAUSE_MIN;
    loop {
        let ended = keep_in_sync(&root, &api, &hub, &show, &mut pause).await;
        let (state, reason) = match &ended {
            Ok(()) => return,
            Err(error) if error.is_passing() => ("offline", error.to_string()),
            Err(error) => ("stopped", error.to_string()),
        };
        tracing::warn!(directory = %root.directory.display(), reason, "not synced for now");
        for task in hub.tasks() {
            let _gone = task.done.send(Err(reason.clone()));
        }
        show.send_modify(|shown| (shown.state, shown.reason) = (state.to_owned(), Some(reason)));
        // Sooner, if somebody says so.
        let _woken = timeout(pause, hub.wake.notified()).await.is_ok();
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Works until something fails that is no single file's matter.
async fn keep_in_sync(
    root: &Root,
    api: &Api,
    hub: &Arc<Hub>,
    show: &watch::Sender<Shown>,
    pause: &mut Duration,
) -> Result<()> {
    let linux = Linux::open(&root.directory).map_err(at(&root.directory))?;
    let mut engine = Engine::open(root.synced.clone(), Arc::new(linux), Arc::new(api.clone()))?;
    let heard = hub.clone();
    let mut watching = Watching::new(engine.path(), move |what| match what {
        Heard::Changed(names) => heard.touch(names),
        Heard::Anything => heard.all(),
    });
    let (cursor, listening) = watch::channel(None);
    let hears = Arc::new(Notify::new());
    let _listener =
        Aborted(tokio::spawn(listen(api.clone(), root.synced.space.clone(), listening, hears.clone())));
    let mut looked = Instant::now();
    let (mut again, mut answered) = (0, 0);
    loop {
        let (dirty, asked) = hub.take();
        if dirty != Dirty::Nothing {
            watching.catch_up();
        }
        // Where a file system cannot be watched, or so much of it, it is looked at again and again.
        let look_every = if watching.is_whole() { WHOLE } else { PAUSE_MAX };
        engine.dirty.join(dirty);
        if asked > answered {
            // Whoever asks wants to know how it is now.
            engine.retry()?;
        }
        for Task { work, done } in hub.tasks() {
            let _gone = done.send(work.run(&mut engine).map_err(|error| error.to_string()));
        }
        engine.confirmed |= hub.confirmed.swap(false, Ordering::AcqRel);
        show.send_if_modified(|shown| {
            let changes = shown.state != "syncing" && engine.dirty != Dirty::Nothing;
            if changes {
                shown.state = "syncing".to_owned();
            }
            changes
        });
        let passed = engine.pass().await?;
        *pause = PAUSE_MIN;
        cursor.send_replace(engine.cursor()?);
        let (count, problems) = engine.problems()?;
        let unselected = engine.unselected()?;
        let done = passed == Passed::Done && engine.dirty == Dirty::Nothing;
        show.send_modify(|shown| {
            shown.files = engine.files();
            shown.unselected = unselected.clone();
            if done {
                (shown.answered, answered) = (asked, asked);
            }
            shown.state = if done && count == 0 { "synced" } else { "syncing" }.to_owned();
            shown.reason = match (done, count) {
                (true, 1) => Some("1 file is not synced".to_owned()),
                (true, 2..) => Some(format!("{count} files are not synced")),
                _ => None,
            };
            if done && count > 0 {
                shown.state = "problems".to_owned();
            }
            shown.problems = problems.clone();
        });
        if !done {
            again += 1;
            if again > AGAIN_MAX {
                sleep(PAUSE_MIN).await;
            }
            continue;
        }
        again = 0;
        let retry = if count == 0 { look_every } else { PAUSE_MAX };
        tokio::select! {
            () = hub.wake.notified() => settle(hub).await,
            () = hears.notified() => {}
            () = tokio::time::sleep_until((looked + look_every).min(Instant::now() + retry)) => engine.retry()?,
        }
        if looked.elapsed() >= look_every {
            engine.dirty = Dirty::All;
            looked = Instant::now();
        }
    }
}

/// Ends a task with whoever started it.
struct Aborted(JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits until nothing more happens for a moment.
async fn settle(hub: &Hub) {
    let until = Instant::now() + SETTLE_MAX;
    while Instant::now() < until && timeout(SETTLE, hub.wake.notified()).await.is_ok() {}
}

/// Says when the space has changed. It is a hint: what has changed is read by whoever hears it.
async fn listen(api: Api, space: String, mut cursor: watch::Receiver<Option<u64>>, hears: Arc<Notify>) {
    loop {
        let Some(known) = *cursor.borrow_and_update() else {
            if cursor.changed().await.is_err() {
                return;
            }
            continue;
        };
        let heard = tokio::select! {
            page = api.changes_within(&space, known, LISTEN) => page,
            moved = cursor.changed() => match moved {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        match heard {
            Ok(page) if page.head == known => {}
            Ok(_) => {
                hears.notify_one();
                // The next question is from where that was read to.
                if timeout(LISTEN, cursor.changed()).await.is_ok_and(|moved| moved.is_err()) {
                    return;
                }
            }
            Err(_) => {
                hears.notify_one();
                sleep(PAUSE_MIN).await;
            }
        }
    }
}

async fn answer(
    stream: UnixStream,
    workers: &mut HashMap<PathBuf, Worker>,
    api: &Api,
    database: &Database,
) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    let read = timeout(Duration::from_secs(1), stream.read_line(&mut line)).await;
    if !matches!(read, Ok(Ok(_))) {
        return plain("nothing was asked");
    }
    let order: Order = serde_json::from_str(&line).or_else(|_| plain("an order that is none"))?;
    let worker = |directory: &Path| {
        workers.get(directory).filter(|worker| !worker.paused).map(|worker| worker.hub.clone())
    };
    // An engine may be busy with a pass for a while: meanwhile others are answered.
    let hubs = match &order {
        Order::Conflicts => {
            let hubs = workers.iter().filter(|(_, worker)| !worker.paused);
            hubs.map(|(directory, worker)| (directory.clone(), worker.hub.clone())).collect()
        }
        Order::Resolve { directory, .. } | Order::Select { directory, .. } => {
            worker(directory).map(|hub| (directory.clone(), hub)).into_iter().collect()
        }
        Order::Status | Order::Reload | Order::Look | Order::Confirm => Vec::new(),
    };
    match order {
        Order::Status => {}
        Order::Reload => reload(workers, api, database)?,
        Order::Look => workers.values().for_each(|worker| worker.hub.ask()),
        Order::Confirm => workers.values().for_each(|worker| {
            worker.hub.confirmed.store(true, Ordering::Release);
            worker.hub.all();
        }),
        order @ (Order::Conflicts | Order::Resolve { .. } | Order::Select { .. }) => {
            tokio::spawn(async move { say(&mut stream, &have(hubs, &order).await).await });
            return Ok(());
        }
    }
    let show = |worker: &Worker| {
        let asked = worker.hub.asked.load(Ordering::Acquire);
        let (sent, received) = traffic();
        Shown { asked, sent, received, ..worker.shown.borrow().clone() }
    };
    let mut shown: Vec<Shown> = workers.values().map(show).collect();
    shown.sort_by(|a, b| a.directory.cmp(&b.directory));
    say(&mut stream, &Said::Shown(shown)).await
}

async fn say(stream: &mut BufReader<UnixStream>, said: &Said) -> Result<()> {
    let text = serde_json::to_string(said).or_else(|error| plain(error.to_string()))?;
    stream.write_all(format!("{text}\n").as_bytes()).await.map_err(at("the daemon's socket"))
}

/// Has engines do what was ordered.
async fn have(hubs: Vec<(PathBuf, Arc<Hub>)>, order: &Order) -> Said {
    if hubs.is_empty() && !matches!(order, Order::Conflicts) {
        return Said::Refused("the directory is not synced, or paused".to_owned());
    }
    let mut shown = Vec::new();
    for (directory, hub) in hubs {
        let work = match order {
            Order::Resolve { path, keep, .. } => Work::Resolve(path.clone(), *keep),
            Order::Select { path, selected, .. } => Work::Select(path.clone(), *selected),
            Order::Conflicts | Order::Status | Order::Reload | Order::Look | Order::Confirm => {
                Work::Conflicts
            }
        };
        let directory = directory.display().to_string();
        match hub.have(work).await {
            Ok(Found { conflicts, copies }) => {
                shown.push(Shown { directory, conflicts, copies, ..Shown::default() });
            }
            Err(why) => return Said::Refused(format!("{directory}: {why}")),
        }
    }
    Said::Shown(shown)
}

/// Gives an order to the daemon; `None` where none runs.
///
/// # Errors
/// Where it does not answer, or refuses.
pub async fn order(home: &Home, order: &Order) -> Result<Option<Vec<Shown>>> {
    let Ok(stream) = UnixStream::connect(home.socket()).await else { return Ok(None) };
    let mut stream = BufReader::new(stream);
    let text = serde_json::to_string(order).or_else(|error| plain(error.to_string()))?;
    stream.write_all(format!("{text}\n").as_bytes()).await.map_err(at("the daemon's socket"))?;
    let mut line = String::new();
    stream.read_line(&mut line).await.map_err(at("the daemon's socket"))?;
    match serde_json::from_str(&line) {
        Ok(Said::Shown(shown)) => Ok(Some(shown)),
        Ok(Said::Refused(why)) => plain(why),
        Err(_) => plain("the daemon's answer is none"),
    }
}
