//! Files in spaces, without a synced directory.

use crate::{api::Api, progress};
use holdfast_client_engine::{
    chunks,
    error::{Result, at, plain},
    server::{Server, reference},
    state::Remote,
};
use holdfast_proto::sync::{
    Move, NameChange, NamedVersion, Properties, Put, Range, RemoveDirectory, RemoveFile, VersionOf,
    failure::Code, name_change::Change,
};
use indicatif::ProgressBar;
use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// A place as SPACE/PATH, or as SPACE:PATH, where the space may be a directory of another's.
///
/// # Errors
/// Where there is no path.
pub fn place(text: &str) -> Result<(&str, &str)> {
    match space_and_path(text) {
        (space, path) if !space.is_empty() && !path.is_empty() => Ok((space, path)),
        _ => plain(format!("{text} is no place: write SPACE/PATH")),
    }
}

/// The same of what may be a whole space.
pub fn space_and_path(text: &str) -> (&str, &str) {
    let (space, path) = text.split_once(':').or_else(|| text.split_once('/')).unwrap_or((text, ""));
    (space.trim_end_matches('/'), path.trim_end_matches('/'))
}

/// All names of a space by their paths.
async fn names(api: &Api, space: &str) -> Result<BTreeMap<Vec<u8>, (u64, Remote)>> {
    let (mut all, mut after) = (BTreeMap::new(), Vec::new());
    loop {
        let page = api.names(space, after).await?;
        all.extend(page.names.into_iter().map(|name| (name.node, Remote::of(name))));
        match page.after {
            Some(next) => after = next,
            None => break,
        }
    }
    let mut paths = BTreeMap::new();
    for (node, remote) in &all {
        let (mut path, mut at) = (vec![remote.name.clone()], remote.parent);
        while let Some(above) = all.get(&at) {
            path.push(above.name.clone());
            at = above.parent;
        }
        path.reverse();
        paths.insert(path.join(&b'/'), (*node, remote.clone()));
    }
    Ok(paths)
}

pub async fn list(api: &Api, text: &str) -> Result<()> {
    let (space, path) = space_and_path(text);
    let path = path.as_bytes();
    let mut any = path.is_empty();
    for (name, (_, remote)) in names(api, space).await? {
        let rest = match path.is_empty() {
            true => Some(name.as_slice()),
            false if name == path => Some(&name[name.len() - remote.name.len()..]),
            false => name.strip_prefix(path).and_then(|rest| rest.strip_prefix(b"/")),
        };
        let Some(rest) = rest else { continue };
        any = true;
        let shown = String::from_utf8_lossy(rest);
        match remote.file {
            None if name == path => {}
            None if rest.contains(&b'/') => {}
            None => println!("{:>14}  {shown}/", "-"),
            Some(_) if rest.contains(&b'/') => {}
            Some(file) => println!("{:>14}  {shown}", file.bytes),
        }
    }
    if any { Ok(()) } else { plain(format!("there is no {text}")) }
}

async fn write_to(api: &Api, text: &str, sink: &mut impl Write, shown: bool) -> Result<()> {
    let (space, path) = place(text)?;
    let listed = api.manifest(space, path.as_bytes(), None).await?;
    let bytes: u64 = listed.chunks.iter().map(|(_, bytes)| u64::from(*bytes)).sum();
    if bytes == 0 {
        return Ok(());
    }
    let of = VersionOf { node: listed.node, version: listed.file.version };
    let mut receiving = api.fetch(space, path.as_bytes(), of, vec![Range { start: 0, end: bytes }]).await?;
    let bar = if shown { progress::bytes(bytes, text) } else { ProgressBar::hidden() };
    let (mut chunks, mut held) = (listed.chunks.into_iter().peekable(), bytes::BytesMut::new());
    while let Some(data) = receiving.next().await? {
        held.extend_from_slice(&data);
        while let Some((id, length)) =
            chunks.peek().copied().filter(|(_, length)| held.len() >= *length as usize)
        {
            let chunk = held.split_to(length as usize);
            if holdfast_core::ids::ChunkId::of(&chunk) != id {
                return plain(format!("what was received of {text} is damaged"));
            }
            sink.write_all(&chunk).map_err(at(text))?;
            bar.inc(chunk.len() as u64);
            chunks.next();
        }
    }
    if chunks.next().is_some() { plain(format!("{text} ended early")) } else { Ok(()) }
}

pub async fn cat(api: &Api, text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    write_to(api, text, &mut out, false).await?;
    out.flush().map_err(at("standard output"))
}

pub async fn copy(api: &Api, from: &str, to: &str) -> Result<()> {
    match (from.contains(':'), to.contains(':')) {
        (false, true) => upload(api, Path::new(from), to).await,
        (true, false) => {
            let name = from.rsplit(['/', ':']).next().unwrap_or_default();
            let to = if Path::new(to).is_dir() { Path::new(to).join(name) } else { to.into() };
            let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let mut file = tempfile::NamedTempFile::new_in(dir).map_err(at(dir))?;
            write_to(api, from, &mut file, true).await?;
            file.as_file().sync_all().map_err(at(&to))?;
            file.persist(&to).map_err(|error| at(&to)(error.error))?;
            Ok(())
        }
        _ => plain("one side is in a space, as SPACE:PATH, and the other is a file here"),
    }
}

async fn upload(api: &Api, from: &Path, to: &str) -> Result<()> {
    let (space, path) = place(to)?;
    let mut file = File::open(from).map_err(at(from))?;
    let metadata = file.metadata().map_err(at(from))?;
    if !metadata.is_file() {
        return plain(format!("{} is no file", from.display()));
    }
    let cut = tokio::task::block_in_place(|| chunks::cut(&mut file, metadata.len())).map_err(at(from))?;
    let on = match api.manifest(space, path.as_bytes(), None).await {
        Ok(listed) => Some(VersionOf { node: listed.node, version: listed.file.version }),
        Err(error) if error.code() == Some(Code::NotFound) => None,
        Err(error) => return Err(error),
    };
    let ids: Vec<_> = cut.chunks.iter().map(|(id, _)| *id).collect();
    let path_bytes = path.as_bytes().to_vec();
    let versions: Vec<_> = on.map(|of| NamedVersion { path: path_bytes, of: Some(of) }).into_iter().collect();
    let known = api.have(space, &ids, &versions).await?;
    if known.iter().any(|known| !known) {
        let bar = progress::bytes(metadata.len(), to);
        let (mut sending, mut offset, mut sent) = (api.upload(space).await?, 0, HashSet::new());
        for (chunk, known) in cut.chunks.iter().zip(known) {
            if !known && sent.insert(chunk.0) {
                sending.chunk(chunk.0, chunks::read(&file, offset, *chunk).map_err(at(from))?).await?;
            }
            offset += u64::from(chunk.1);
            bar.set_position(offset);
        }
        sending.finish().await?;
    }
    let properties = Properties {
        mtime_ns: Some(metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())),
        executable: metadata.permissions().mode() & 0o100 != 0,
        link: false,
    };
    let chunks = cut.chunks.iter().map(reference).collect();
    let (path, properties, runs) = (path.as_bytes().to_vec(), Some(properties), Vec::new());
    let put = Put { path, on, chunks, properties, runs };
    commit(api, space, Change::Put(put)).await
}

async fn commit(api: &Api, space: &str, change: Change) -> Result<()> {
    api.commit(space, vec![NameChange { change: Some(change), within: None }]).await.map(drop)
}

/// A path's node, and its newest version where it is a file.
async fn find(api: &Api, space: &str, path: &str) -> Result<(u64, Option<u64>)> {
    match api.manifest(space, path.as_bytes(), None).await {
        Ok(listed) => return Ok((listed.node, Some(listed.file.version))),
        Err(error) if error.code() == Some(Code::NotFound) => {}
        Err(error) => return Err(error),
    }
    match names(api, space).await?.remove(path.as_bytes()) {
        Some((node, remote)) => Ok((node, remote.file.map(|file| file.version))),
        None => plain(format!("there is no {space}/{path}")),
    }
}

pub async fn rename(api: &Api, from: &str, to: &str) -> Result<()> {
    let ((space, old), (other, new)) = (place(from)?, place(to)?);
    if space != other {
        return plain("a file stays in its space: copy it, and remove the old one");
    }
    let (node, version) = find(api, space, old).await?;
    let slash = if version.is_none() { "/" } else { "" };
    let key = |path: &str| format!("{path}{slash}").into_bytes();
    commit(api, space, Change::Move(Move { node, from: key(old), to: key(new) })).await
}

pub async fn remove(api: &Api, text: &str) -> Result<()> {
    let (space, path) = place(text)?;
    let change = match find(api, space, path).await? {
        (node, Some(version)) => Change::RemoveFile(RemoveFile {
            path: path.as_bytes().to_vec(),
            on: Some(VersionOf { node, version }),
        }),
        (node, None) => {
            Change::RemoveDirectory(RemoveDirectory { node, path: format!("{path}/").into_bytes() })
        }
    };
    commit(api, space, change).await
}

pub fn moment(unix_ms: u64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp((unix_ms / 1000) as i64);
    at.map_or_else(
        |_| unix_ms.to_string(),
        |at| format!("{} {:02}:{:02}:{:02}", at.date(), at.hour(), at.minute(), at.second()),
    )
}

pub async fn versions(api: &Api, text: &str) -> Result<()> {
    let (space, path) = place(text)?;
    for version in api.versions(space, path.as_bytes()).await? {
        let what = if version.deleted { "deleted".to_owned() } else { format!("{} bytes", version.bytes) };
        let now = if version.latest { "  (now)" } else { "" };
        let name = if version.name.is_empty() { String::new() } else { format!("  \"{}\"", version.name) };
        println!("{:>12}  {}  {what}{now}{name}", version.version, moment(version.modified_ms));
    }
    Ok(())
}

/// A moment, in milliseconds since 1970: as it is, or as how long ago it was.
fn moment_of(text: &str) -> Result<u64> {
    let ago = humantime::parse_duration(text).ok().and_then(|ago| SystemTime::now().checked_sub(ago));
    let at = ago.or_else(|| humantime::parse_rfc3339_weak(text).ok());
    let since = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    match since {
        Some(since) => Ok(since.as_millis() as u64),
        None => plain(format!("{text} is no moment: write 2026-11-23T10:00:00Z, or how long ago, as 90m")),
    }
}

/// Makes all that is below a place what it was.
pub async fn restore_to(api: &Api, text: &str, at: &str) -> Result<()> {
    let (space, path) = space_and_path(text);
    let at_ms = moment_of(at)?;
    let (mut after, mut files) = (Vec::new(), 0);
    loop {
        let done = api.restore_to(space, path.as_bytes(), at_ms, after).await?;
        files += done.files;
        match done.after {
            Some(next) => after = next,
            None => break,
        }
    }
    println!("{files} files are as they were at {}", moment(at_ms));
    Ok(())
}

pub async fn trash(api: &Api, space: &str) -> Result<()> {
    let mut after = Vec::new();
    loop {
        let page = api.trash(space, after).await?;
        for deleted in page.deleted {
            println!("{}  {}", moment(deleted.deleted_ms), String::from_utf8_lossy(&deleted.path));
        }
        match page.after {
            Some(next) => after = next,
            None => return Ok(()),
        }
    }
}
