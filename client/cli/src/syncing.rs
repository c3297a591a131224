//! `hf sync`: which directories are synced, and how that stands.

use crate::{
    api::Api,
    args::SyncCommand,
    daemon::{Order, Shown, order},
    database::Database,
    home::Home,
    limits::{Rate, Rates},
    progress,
};
use holdfast_client_engine::{
    disk::Disk,
    error::{Result, at, plain},
    linux::Linux,
    store::Store,
    system::Names,
};
use std::{
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// How often a daemon is asked that is waited for.
const ASK_EVERY: Duration = Duration::from_millis(20);

pub async fn run(home: &Home, command: SyncCommand) -> Result<()> {
    match command {
        SyncCommand::Add { space, directory, conflicts, without } => {
            let space = lasting(home, space).await?;
            add(home, &space, &directory, &conflicts, &without)?;
            tell(home, &Order::Reload).await
        }
        SyncCommand::Remove { directory } => {
            // It may be gone.
            let directory = directory.canonicalize().or_else(|_| std::path::absolute(&directory));
            let directory = directory.map_err(at("the directory"))?;
            Database::open(home)?.remove(&directory)?;
            tell(home, &Order::Reload).await
        }
        SyncCommand::Status { json } => status(home, json).await,
        SyncCommand::Wait { timeout } => wait(home, Duration::from_secs(timeout)).await,
        SyncCommand::Unselect { folder } => select(home, &folder, false).await,
        SyncCommand::Select { folder } => select(home, &folder, true).await,
        SyncCommand::Limit { up, down } => limit(home, up, down).await,
        SyncCommand::Pause => pause(home, true).await,
        SyncCommand::Resume => pause(home, false).await,
        SyncCommand::Confirm => tell(home, &Order::Confirm).await,
    }
}

/// A space as it is called whatever becomes of its name: a directory that somebody else shares may be moved.
async fn lasting(home: &Home, space: String) -> Result<String> {
    if !space.contains('/') {
        return Ok(space);
    }
    let spaces = Api::new(home.account()?).spaces().await?.spaces;
    match spaces.into_iter().find(|known| known.name == space) {
        Some(known) => Ok(format!("{space}@{}", known.id)),
        None => plain(format!("{space} is not shared with you: see \"hf spaces\"")),
    }
}

fn add(home: &Home, space: &str, directory: &Path, conflicts: &str, without: &[String]) -> Result<()> {
    home.account()?;
    std::fs::create_dir_all(directory).map_err(at(directory))?;
    let directory = directory.canonicalize().map_err(at(directory))?;
    let random = std::fs::read("/proc/sys/kernel/random/uuid").map_err(at("/proc/sys/kernel/random/uuid"))?;
    let mark = String::from_utf8_lossy(&random).trim().to_owned();
    let disk = Disk::new(Arc::new(Linux::open(&directory).map_err(at(&directory))?));
    let root = Database::open(home)?.add(space, &directory, &mark, conflicts)?;
    let store = Store::open(&root)?;
    for folder in without {
        store.unselect_path(folder.trim_matches('/').as_bytes())?;
    }
    disk.prepare(&mark).map_err(at(&directory))
}

/// The synced directory that something is in, which need not be there, and its names from there.
pub fn inside(home: &Home, path: &Path) -> Result<(PathBuf, Names)> {
    let path = std::path::absolute(path).map_err(at(path))?;
    let (mut known, mut rest) = (path.as_path(), Names::new());
    let real = loop {
        match known.canonicalize() {
            Ok(real) => break real,
            Err(error) => match (known.parent(), known.file_name()) {
                (Some(above), Some(name)) => {
                    rest.insert(0, name.as_bytes().to_vec());
                    known = above;
                }
                _ => return Err(at(&path)(error)),
            },
        }
    };
    for root in Database::open(home)?.roots()? {
        let Ok(below) = real.strip_prefix(&root.directory) else { continue };
        let mut names: Names = below.iter().map(|name| name.as_bytes().to_vec()).collect();
        names.extend(rest);
        return Ok((root.directory, names));
    }
    plain(format!("{} is in no synced directory", path.display()))
}

async fn select(home: &Home, folder: &Path, selected: bool) -> Result<()> {
    let (directory, path) = inside(home, folder)?;
    match order(home, &Order::Select { directory, path, selected }).await? {
        Some(_) => Ok(()),
        None => plain("no daemon runs: start it with \"hf daemon\""),
    }
}

async fn limit(home: &Home, up: Option<Rate>, down: Option<Rate>) -> Result<()> {
    let database = Database::open(home)?;
    if up.is_none() && down.is_none() {
        let Rates { up, down } = database.limits()?;
        println!("up {up}, down {down}");
        return Ok(());
    }
    up.map_or(Ok(()), |rate| database.limit("up", rate))?;
    down.map_or(Ok(()), |rate| database.limit("down", rate))?;
    tell(home, &Order::Reload).await
}

async fn tell(home: &Home, wanted: &Order) -> Result<()> {
    if order(home, wanted).await?.is_none() {
        println!("No daemon runs: start it with \"hf daemon\"");
    }
    Ok(())
}

async fn pause(home: &Home, paused: bool) -> Result<()> {
    Database::open(home)?.pause(paused)?;
    tell(home, &Order::Reload).await
}

/// What the daemon shows, or the database, where none runs.
async fn shown(home: &Home) -> Result<Vec<Shown>> {
    if let Some(shown) = order(home, &Order::Status).await? {
        return Ok(shown);
    }
    let stopped = |root: crate::database::Root| Shown {
        space: root.synced.space,
        directory: root.directory.display().to_string(),
        state: "stopped".to_owned(),
        reason: Some("no daemon runs: start it with \"hf daemon\"".to_owned()),
        ..Shown::default()
    };
    Ok(Database::open(home)?.roots()?.into_iter().map(stopped).collect())
}

async fn status(home: &Home, json: bool) -> Result<()> {
    let shown = shown(home).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&shown).or_else(|error| plain(error.to_string()))?);
        return Ok(());
    }
    for root in shown {
        let reason = root.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        println!("{} -> {} {}{reason}", root.directory, root.space, root.state);
        for folder in root.unselected {
            println!("    {folder}/: not selected");
        }
        for (path, why) in root.problems {
            println!("    {path}: {why}");
        }
    }
    Ok(())
}

/// Waits until everything is synced that is there now.
async fn wait(home: &Home, patience: Duration) -> Result<()> {
    let until = Instant::now() + patience;
    let Some(asked) = order(home, &Order::Look).await? else {
        return plain("no daemon runs: start it with \"hf daemon\"");
    };
    let wanted = |shown: &Shown| {
        let before = asked.iter().find(|root| root.directory == shown.directory);
        before.map_or(1, |root| root.asked)
    };
    let shown_to_whoever_waits = progress::waiting();
    loop {
        let now = order(home, &Order::Status).await?.unwrap_or_default();
        shown_to_whoever_waits.set_message(progress::line(&now));
        shown_to_whoever_waits.tick();
        let answered = |shown: &&Shown| shown.answered >= wanted(shown);
        let is_final = |shown: &Shown| ["synced", "problems"].contains(&shown.state.as_str());
        if now.iter().all(|shown| answered(&shown) && is_final(shown)) {
            return match now.iter().find(|shown| shown.state == "problems") {
                Some(root) => {
                    plain(format!("{}: {}", root.directory, root.reason.clone().unwrap_or_default()))
                }
                None => Ok(()),
            };
        }
        if Instant::now() > until {
            let open = now.iter().find(|shown| !answered(shown) || !is_final(shown));
            let text = open.map(|root| {
                format!("{} is {}: {}", root.directory, root.state, root.reason.clone().unwrap_or_default())
            });
            return plain(format!("not synced in time: {}", text.unwrap_or_default()));
        }
        sleep(ASK_EVERY).await;
    }
}
