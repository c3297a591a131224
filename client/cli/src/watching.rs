//! Hearing of what changes in a directory.

use holdfast_client_engine::{
    disk::INTERNAL,
    system::{Names, blocking},
};
use notify::{Config, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::{
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// What is heard of a directory.
pub enum Heard {
    Changed(Names),
    /// Something has, and nobody knows what.
    Anything,
}

/// Watches a directory, as far as the system lets it be watched.
pub struct Watching {
    watcher: Option<RecommendedWatcher>,
    /// Some of it is not watched.
    is_blind: Arc<AtomicBool>,
}

impl Watching {
    /// Has `tell` be called with all that happens in a directory from now on.
    pub fn new(directory: &Path, tell: impl Fn(Heard) + Send + 'static) -> Self {
        let is_blind = Arc::new(AtomicBool::new(false));
        let (root, blind) = (directory.to_owned(), is_blind.clone());
        let handler = move |event: notify::Result<Event>| match event {
            Ok(event) if event.need_rescan() => tell(Heard::Anything),
            Ok(event) => hear(&root, &event, &tell),
            // There are too many directories for the system, perhaps.
            Err(error) => {
                tracing::warn!(%error, "not all of the directory is watched");
                blind.store(true, Ordering::Release);
                tell(Heard::Anything);
            }
        };
        let watcher = notify::recommended_watcher(handler).and_then(|mut watcher| {
            watcher.watch(directory, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        let watcher = watcher.inspect_err(|error| tracing::warn!(%error, "the directory cannot be watched"));
        Self { watcher: watcher.ok(), is_blind }
    }

    /// Whether all that happens is heard.
    pub fn is_whole(&self) -> bool {
        self.watcher.is_some() && !self.is_blind.load(Ordering::Acquire)
    }

    /// When this returns, directories are watched, too, whose making was heard of before: who looks at them then sees what
    /// happened in them before, and hears of the rest.
    pub fn catch_up(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        // It answers when it has done what it was at. Nothing is changed by that.
        if let Err(error) = blocking(|| watcher.configure(Config::default())) {
            tracing::warn!(%error, "the directory is not watched any more");
            self.watcher = None;
        }
    }
}

fn hear(root: &Path, event: &Event, tell: &impl Fn(Heard)) {
    if matches!(event.kind, EventKind::Access(_)) {
        return;
    }
    for path in &event.paths {
        let Ok(inside) = path.strip_prefix(root) else { continue };
        let names: Names = inside.iter().map(|name| name.as_bytes().to_vec()).collect();
        match names.first() {
            None => tell(Heard::Anything),
            Some(first) if first == INTERNAL => {}
            Some(_) => tell(Heard::Changed(names)),
        }
    }
}
