//! The server, as this device calls it: one connection that is made again where it ends.

use crate::{home::Account, limits::Limits};
use async_trait::async_trait;
use bytes::Bytes;
use holdfast_client_engine::{
    error::{Error, Result, plain},
    server::{Life, Listed, Receiving, Sending, Server},
};
use holdfast_client_link::{Connection, Fingerprint, LinkError, PATIENCE, Stream, Transport};
use holdfast_core::ids::ChunkId;
use holdfast_proto::sync::{
    Call, Changes, Chunk, ChunkRef, Commit, CommitChunks, Device, Fetch, Have, Link, ListDevices, ListLinks,
    ListNames, ListShares, ListSpaces, ListTrash, ListVersions, MadeLink, MakeCode, MakeLink, MakeSpace,
    Manifest, NameChange, NameVersion, NamedVersion, Names, Outcome, Pair, Paired, PairingCode, Piece, Range,
    ReadChanges, ReadManifest, ReadSignatures, RemoveLink, Restore, RestoreTo, Restored, RevokeDevice, Share,
    ShareFolder, SignIn, Spaces, Trash, Upload, Version, VersionOf, call::Call as Asked, name_change,
    reply::Reply,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::Mutex;

/// Names and changes in one answer.
const PAGE: u32 = 1000;

/// Chunks in one question.
const ASKED: usize = 4096;

/// Chunks that a commit names in its first frame, and in those that follow.
const CHUNKS_IN_FRAME: usize = 50_000;

/// Takes from changes the chunks that their frame has no room for, with the number of the change.
fn take_rest(changes: &mut [NameChange]) -> Vec<(u32, Vec<ChunkRef>)> {
    let (mut room, mut rest) = (CHUNKS_IN_FRAME, Vec::new());
    for (at, change) in changes.iter_mut().enumerate() {
        let Some(name_change::Change::Put(put)) = &mut change.change else { continue };
        if put.chunks.len() > room {
            rest.push((at as u32, put.chunks.split_off(room)));
        }
        room -= put.chunks.len();
    }
    rest
}

#[derive(Clone)]
pub struct Api {
    account: Arc<Account>,
    open: Arc<Mutex<Option<(Connection, Life)>>>,
    limits: Arc<Limits>,
}

fn unexpected<T>() -> Result<T> {
    Err(LinkError::Malformed("an answer to another question").into())
}

async fn ask(connection: &Connection, asked: Asked, patience: Duration) -> Result<Reply> {
    let mut stream = connection.stream().await?;
    stream.send(&Call { call: Some(asked) }).await?;
    stream.finish().await?;
    stream.reply(patience).await?.ok_or(LinkError::Malformed("no answer").into())
}

/// How somebody is known whose device is to be paired.
pub enum Secret {
    Password(String),
    /// Of another device, or an operator.
    Code(String),
}

/// What everything goes over, where somebody says so: `HF_TRANSPORT`.
fn transport() -> Result<Option<Transport>> {
    let set = std::env::var("HF_TRANSPORT").ok().filter(|set| !set.is_empty());
    Ok(set.map(|set| set.parse()).transpose()?)
}

/// Makes this device one of a user's.
///
/// # Errors
/// Where the server does not know the user or its password.
pub async fn pair(
    server: &str,
    user: &str,
    secret: Secret,
    name: &str,
    known: Option<Fingerprint>,
) -> Result<Account> {
    let connection = Connection::open(server, known, transport()?).await?;
    let (password, code) = match secret {
        Secret::Password(password) => (password, String::new()),
        Secret::Code(code) => (String::new(), code),
    };
    let pair = Pair { user: user.to_owned(), password, device: name.to_owned(), code };
    let Reply::Paired(Paired { device, secret }) = ask(&connection, Asked::Pair(pair), PATIENCE).await?
    else {
        return unexpected();
    };
    connection.close();
    Ok(Account::new(server, user, name, device, &secret, connection.fingerprint))
}

impl Api {
    pub fn new(account: Account) -> Self {
        Self { account: Arc::new(account), open: Arc::default(), limits: Arc::default() }
    }

    /// How fast bytes of files go.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The connection, signed in, and which life of which cluster is behind it.
    async fn connection(&self) -> Result<(Connection, Life)> {
        let mut open = self.open.lock().await;
        if let Some((connection, life)) = open.as_ref() {
            return Ok((connection.clone(), life.clone()));
        }
        let known = Some(self.account.fingerprint()?);
        let connection = Connection::open(&self.account.server, known, transport()?).await?;
        tracing::info!(transport = ?connection.transport(), "connected");
        let sign_in = SignIn {
            user: self.account.user.clone(),
            device: self.account.device.clone(),
            secret: self.account.secret()?,
        };
        let signing_in = Asked::SignIn(sign_in);
        let Reply::SignedIn(signed) = ask(&connection, signing_in.clone(), PATIENCE).await? else {
            return unexpected();
        };
        connection.greet(Call { call: Some(signing_in) });
        let life = Life::new(signed.epoch, signed.lives);
        *open = Some((connection.clone(), life.clone()));
        Ok((connection, life))
    }

    async fn forget(&self) {
        *self.open.lock().await = None;
    }

    /// A stream on which `asked` was said.
    async fn say(&self, asked: Asked) -> Result<Stream> {
        let (connection, _) = self.connection().await?;
        let call = Call { call: Some(asked) };
        let begun = async {
            let mut stream = connection.stream().await?;
            stream.send(&call).await?;
            Ok::<_, LinkError>(stream)
        };
        match begun.await {
            Ok(stream) => Ok(stream),
            Err(error) => {
                self.forget().await;
                Err(error.into())
            }
        }
    }

    /// The next reply. Where the connection has failed, another is made for the next call.
    async fn next(&self, stream: &mut Stream, patience: Duration) -> Result<Option<Reply>> {
        match stream.reply(patience).await {
            Ok(reply) => Ok(reply),
            Err(error) => {
                if !matches!(error, LinkError::Refused(_)) {
                    self.forget().await;
                }
                Err(error.into())
            }
        }
    }

    async fn call_within(&self, asked: Asked, patience: Duration) -> Result<Reply> {
        let mut stream = self.say(asked).await?;
        stream.finish().await?;
        self.next(&mut stream, patience).await?.ok_or(LinkError::Malformed("no answer").into())
    }

    async fn call(&self, asked: Asked) -> Result<Reply> {
        self.call_within(asked, PATIENCE).await
    }

    pub async fn spaces(&self) -> Result<Spaces> {
        let Reply::Spaces(spaces) = self.call(Asked::ListSpaces(ListSpaces {})).await? else {
            return unexpected();
        };
        Ok(spaces)
    }

    pub async fn make_space(&self, make: MakeSpace) -> Result<()> {
        self.call(Asked::MakeSpace(make)).await.map(drop)
    }

    /// What has changed since `cursor`; waits for it so long at most.
    pub async fn changes_within(&self, space: &str, cursor: u64, wait: Duration) -> Result<Changes> {
        let wait_ms = wait.as_millis() as u32;
        let read = ReadChanges { space: space.to_owned(), cursor, limit: PAGE, wait_ms };
        let answer = self.call_within(Asked::ReadChanges(read), PATIENCE + wait).await?;
        let Reply::Changes(changes) = answer else { return unexpected() };
        Ok(changes)
    }

    pub async fn versions(&self, space: &str, path: &[u8]) -> Result<Vec<Version>> {
        let list = ListVersions { space: space.to_owned(), path: path.to_vec() };
        let Reply::Versions(versions) = self.call(Asked::ListVersions(list)).await? else {
            return unexpected();
        };
        Ok(versions.versions)
    }

    pub async fn restore(&self, space: &str, path: &[u8], version: Option<u64>) -> Result<()> {
        let restore = Restore { space: space.to_owned(), path: path.to_vec(), version };
        self.call(Asked::Restore(restore)).await.map(drop)
    }

    /// Calls a version something, so that it is kept; nothing, where the name is empty.
    pub async fn name_version(&self, space: &str, path: &[u8], version: u64, name: &str) -> Result<()> {
        let (space, path, name) = (space.to_owned(), path.to_vec(), name.to_owned());
        self.call(Asked::NameVersion(NameVersion { space, path, version, name })).await.map(drop)
    }

    /// Makes some of what is below a path what it was at a moment: how many files, and where to go on.
    pub async fn restore_to(&self, space: &str, path: &[u8], at_ms: u64, after: Vec<u8>) -> Result<Restored> {
        let (space, path) = (space.to_owned(), path.to_vec());
        let asked = Asked::RestoreTo(RestoreTo { space, path, at_ms, after });
        let Reply::Restored(restored) = self.call(asked).await? else { return unexpected() };
        Ok(restored)
    }

    pub async fn trash(&self, space: &str, after: Vec<u8>) -> Result<Trash> {
        let list = ListTrash { space: space.to_owned(), after };
        let Reply::Trash(trash) = self.call(Asked::ListTrash(list)).await? else { return unexpected() };
        Ok(trash)
    }

    /// Shares a directory of a space with a user, or no longer, where `role` is empty.
    pub async fn share(&self, space: &str, path: &str, user: &str, role: &str) -> Result<()> {
        let share = ShareFolder {
            space: space.to_owned(),
            path: path.as_bytes().to_vec(),
            user: user.to_owned(),
            role: role.to_owned(),
        };
        self.call(Asked::ShareFolder(share)).await.map(drop)
    }

    pub async fn shares(&self, space: &str) -> Result<Vec<Share>> {
        let list = ListShares { space: space.to_owned() };
        let Reply::Shares(shares) = self.call(Asked::ListShares(list)).await? else { return unexpected() };
        Ok(shares.shares)
    }

    pub async fn devices(&self) -> Result<Vec<Device>> {
        let Reply::Devices(devices) = self.call(Asked::ListDevices(ListDevices {})).await? else {
            return unexpected();
        };
        Ok(devices.devices)
    }

    pub async fn make_link(&self, make: MakeLink) -> Result<MadeLink> {
        let Reply::MadeLink(made) = self.call(Asked::MakeLink(make)).await? else { return unexpected() };
        Ok(made)
    }

    pub async fn links(&self, space: &str) -> Result<Vec<Link>> {
        let list = ListLinks { space: space.to_owned() };
        let Reply::Links(links) = self.call(Asked::ListLinks(list)).await? else { return unexpected() };
        Ok(links.links)
    }

    pub async fn remove_link(&self, space: &str, name: &str) -> Result<()> {
        let remove = RemoveLink { space: space.to_owned(), name: name.to_owned() };
        self.call(Asked::RemoveLink(remove)).await.map(drop)
    }

    pub async fn make_code(&self) -> Result<PairingCode> {
        let Reply::Code(made) = self.call(Asked::MakeCode(MakeCode {})).await? else { return unexpected() };
        Ok(made)
    }

    pub async fn revoke(&self, id: &str) -> Result<()> {
        self.call(Asked::RevokeDevice(RevokeDevice { id: id.to_owned() })).await.map(drop)
    }
}

#[async_trait]
impl Server for Api {
    fn device_name(&self) -> &str {
        &self.account.name
    }

    async fn life(&self) -> Result<Life> {
        Ok(self.connection().await?.1)
    }

    async fn names(&self, space: &str, after: Vec<u8>) -> Result<Names> {
        let list = ListNames { space: space.to_owned(), after, limit: PAGE };
        let Reply::Names(names) = self.call(Asked::ListNames(list)).await? else { return unexpected() };
        Ok(names)
    }

    async fn changes(&self, space: &str, cursor: u64) -> Result<Changes> {
        self.changes_within(space, cursor, Duration::ZERO).await
    }

    async fn have(&self, space: &str, chunks: &[ChunkId], versions: &[NamedVersion]) -> Result<Vec<bool>> {
        let mut known = Vec::with_capacity(chunks.len());
        for some in chunks.chunks(ASKED) {
            let have = Have {
                space: space.to_owned(),
                chunks: some.iter().map(|id| id.as_bytes().to_vec()).collect(),
                versions: versions.to_vec(),
            };
            let Reply::Had(had) = self.call(Asked::Have(have)).await? else { return unexpected() };
            if had.known.len() != some.len() {
                return unexpected();
            }
            known.extend(had.known);
        }
        Ok(known)
    }

    async fn upload(&self, space: &str) -> Result<Box<dyn Sending + '_>> {
        let stream = self.say(Asked::Upload(Upload { space: space.to_owned() })).await?;
        Ok(Box::new(Upward { api: self, stream }))
    }

    async fn commit(&self, space: &str, mut changes: Vec<NameChange>) -> Result<Vec<Outcome>> {
        let count = changes.len();
        let rest = take_rest(&mut changes);
        let commit = Commit { space: space.to_owned(), changes, more: !rest.is_empty() };
        let mut stream = self.say(Asked::Commit(commit)).await?;
        for (at, chunks) in &rest {
            for chunks in chunks.chunks(CHUNKS_IN_FRAME) {
                let sent = stream.send(&CommitChunks { at: *at, chunks: chunks.to_vec() }).await;
                if let Err(error) = sent {
                    // Whoever refuses says why.
                    self.next(&mut stream, Duration::from_secs(1)).await?;
                    return Err(error.into());
                }
            }
        }
        stream.finish().await?;
        let Some(Reply::Committed(done)) = self.next(&mut stream, PATIENCE).await? else {
            return unexpected();
        };
        if done.outcomes.len() == count { Ok(done.outcomes) } else { unexpected() }
    }

    async fn manifest(&self, space: &str, path: &[u8], of: Option<VersionOf>) -> Result<Listed> {
        let read = ReadManifest { space: space.to_owned(), path: path.to_vec(), of };
        let mut stream = self.say(Asked::ReadManifest(read)).await?;
        stream.finish().await?;
        let (mut chunks, mut first) = (Vec::new(), None);
        while let Some(reply) = self.next(&mut stream, PATIENCE).await? {
            let Reply::Manifest(Manifest { chunks: some, file, node }) = reply else { return unexpected() };
            first = first.or(file.zip(node));
            for chunk in some {
                let id = ChunkId::from_slice(&chunk.id).ok_or(LinkError::Malformed("a chunk's id"))?;
                chunks.push((id, chunk.bytes));
            }
        }
        let (file, node) = first.ok_or(LinkError::Malformed("a manifest of no file"))?;
        Ok(Listed { node, file, chunks })
    }

    async fn fetch(
        &self,
        space: &str,
        path: &[u8],
        of: VersionOf,
        ranges: Vec<Range>,
    ) -> Result<Box<dyn Receiving + '_>> {
        let fetch = Fetch { space: space.to_owned(), path: path.to_vec(), of: Some(of), ranges };
        let mut stream = self.say(Asked::Fetch(fetch)).await?;
        stream.finish().await?;
        Ok(Box::new(Downward { api: self, stream }))
    }

    async fn signatures(
        &self,
        space: &str,
        path: &[u8],
        of: VersionOf,
        ranges: Vec<Range>,
    ) -> Result<Vec<Bytes>> {
        let read = ReadSignatures { space: space.to_owned(), path: path.to_vec(), of: Some(of), ranges };
        let mut stream = self.say(Asked::ReadSignatures(read)).await?;
        stream.finish().await?;
        let mut signatures = Vec::new();
        while let Some(reply) = self.next(&mut stream, PATIENCE).await? {
            let Reply::Chunk(chunk) = reply else { return unexpected() };
            signatures.push(chunk.data);
        }
        Ok(signatures)
    }
}

/// Chunks on their way to the server.
struct Upward<'a> {
    api: &'a Api,
    stream: Stream,
}

impl Upward<'_> {
    async fn send(&mut self, chunk: Chunk) -> Result<()> {
        self.api.limits.up(chunk.data.len()).await;
        if let Err(error) = self.stream.send(&chunk).await {
            // Whoever refuses says why.
            self.api.next(&mut self.stream, Duration::from_secs(1)).await?;
            return Err(error.into());
        }
        Ok(())
    }
}

#[async_trait]
impl Sending for Upward<'_> {
    async fn chunk(&mut self, id: ChunkId, data: Bytes) -> Result<()> {
        self.send(Chunk { id: id.as_bytes().to_vec(), data, base: None }).await
    }

    async fn delta(&mut self, id: ChunkId, delta: Bytes, base: Piece) -> Result<()> {
        self.send(Chunk { id: id.as_bytes().to_vec(), data: delta, base: Some(base) }).await
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        self.stream.finish().await?;
        match self.api.next(&mut self.stream, PATIENCE).await? {
            Some(Reply::Done(_)) => Ok(()),
            Some(_) | None => plain("the server did not take what was sent"),
        }
    }
}

/// Bytes on their way from the server.
struct Downward<'a> {
    api: &'a Api,
    stream: Stream,
}

#[async_trait]
impl Receiving for Downward<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        match self.api.next(&mut self.stream, PATIENCE).await? {
            None => Ok(None),
            Some(Reply::Chunk(chunk)) => {
                // What is not taken does not come: the connection holds a few MiB.
                self.api.limits.down(chunk.data.len()).await;
                Ok(Some(chunk.data))
            }
            Some(_) => Err(Error::Link(LinkError::Malformed("an answer to another question"))),
        }
    }
}
