//! The admin API of a system in one process: a socket in its data directory, which is for whoever may read that.

use super::{events, kms, remotes, users};
use axum::Router;
use holdfast_meta_raft_server::Meta;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use std::{
    fs::{File, Permissions},
    io,
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::net::{UnixListener, UnixStream};

const NAME: &str = "admin.sock";

/// The routes over a system's metadata.
pub fn router(meta: Meta) -> Router {
    users::routes()
        .merge(kms::routes())
        .merge(events::routes())
        .merge(remotes::routes())
        .split_for_parts()
        .0
        .with_state(meta)
}

/// A socket's path through an open directory: sockets have short names only.
fn path_through(dir: &File) -> PathBuf {
    Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(NAME)
}

/// Makes the socket. One that another process left is replaced: the data directory is locked.
///
/// # Errors
/// Where it cannot be made.
pub fn bind(data: &Path) -> io::Result<UnixListener> {
    let dir = File::open(data)?;
    match std::fs::remove_file(data.join(NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path_through(&dir))?;
    std::fs::set_permissions(data.join(NAME), Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Reaches the system that has a data directory.
///
/// # Errors
/// Where none runs there.
pub async fn connect(data: &Path) -> io::Result<UnixStream> {
    let dir = File::open(data)?;
    UnixStream::connect(path_through(&dir)).await
}

/// How long it waits for descriptors to come free before it looks again.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until the future is dropped.
pub async fn serve(listener: UnixListener, router: Router) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection to the admin socket could not be taken");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "a connection to the admin socket ended");
            }
        });
    }
}
