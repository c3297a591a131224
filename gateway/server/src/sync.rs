//! The sync door: people's devices, over QUIC. See docs/formats/sync-protocol.md.
//!
//! A connection is a device's; each of its streams carries one call. Who may do what is judged as at the S3 door, by the same
//! policies and on the metadata's newest state, so that whoever is revoked is so at once.

mod account;
mod commit;
mod delta;
mod link;
mod names;
mod read;
mod restore;
mod sent;
mod share;
mod store;

use crate::{
    engine::EngineError,
    identity::{IdentityError, Who},
    s3::{BucketView, S3Door, Scene},
    seats::{Seat, Seats, address_of},
};
use arc_swap::ArcSwapOption;
use holdfast_client_link::{
    FRAME_BYTES_MAX, Identity, LinkError, Listener, PATIENCE, Peer, Stream, decode, failure,
};
use holdfast_meta_raft_machine::{
    ask::SharesFor,
    command::Rejection,
    records::{Extra, Share},
};
use holdfast_meta_raft_server::{Meta, MetaError};
use holdfast_proto::sync::{Call, Failure, Reply, call::Call as Asked, failure::Code, reply};
use names::Heads;
use s3s::S3Error;
use sent::Sent;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, timeout_at},
};

pub use account::{Known, found, renew_epoch};

/// Connections of one gateway: ten thousand idle devices, and some more.
const CONNECTIONS_MAX: usize = 20_000;
const CONNECTIONS_OF_DEVICE: usize = 256;

/// Commits at once that are told as runs: each is written out in memory.
const EXPANDING: usize = 4;

/// Passwords that are checked at once: each takes memory, and guessing is to be slow. And how many wait for that.
const PASSWORDS_AT_ONCE: usize = 2;
const PASSWORDS_WAITING: usize = 64;
const PASSWORDS_OF_ONE: usize = 8;

/// Strangers at once, who have so long to say who they are, in frames of so many bytes, one call at a time.
const STRANGERS_MAX: usize = 1000;
const STRANGERS_OF_ONE: usize = 200;
const STRANGE_FOR: Duration = Duration::from_secs(60);
const STRANGE_BYTES: usize = 4 << 10;

/// Calls of more bytes than this are charged for: what is made of them takes many times as much.
const LARGE_CALL: usize = 64 << 10;
const LARGE_CALLS: usize = FRAME_BYTES_MAX / LARGE_CALL;
const LARGE_OF_ONE: usize = 4;

/// The sync door of one gateway.
#[derive(Clone)]
pub struct SyncDoor {
    s3: S3Door,
    /// Of this cluster's data; see `SignedIn` in the protocol.
    epoch: String,
    /// See [`Known`].
    lives: Arc<[String]>,
    /// What addresses of links begin with.
    url: String,
    passwords: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    seats: Seats<IpAddr>,
    pairing: Seats<IpAddr>,
    of_device: Seats<String>,
    expanding: Arc<Semaphore>,
    large: Arc<Semaphore>,
    heads: Arc<Heads>,
    sent: Arc<Sent>,
}

/// Why a call is refused.
struct Refused(Failure);

type Answer = Result<(), Ended>;

/// How a call ends that does not end well.
enum Ended {
    /// The device is told why.
    Refused(Refused),
    /// There is nobody to tell.
    Gone,
}

impl From<LinkError> for Ended {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Malformed(what) => Self::Refused(Refused(failure(Code::Malformed, what))),
            LinkError::Io(_)
            | LinkError::OtherServer(_)
            | LinkError::Refused(_)
            | LinkError::BadAddress(_)
            | LinkError::Tls(_) => Self::Gone,
        }
    }
}

impl<E: Into<Refused>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

fn refuse<T>(code: Code, message: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(failure(code, message)))
}

impl From<MetaError> for Refused {
    fn from(error: MetaError) -> Self {
        EngineError::from(error).into()
    }
}

impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Self {
        let code = match &rejection {
            Rejection::Overtaken { at } => {
                return Self(Failure { at: *at, ..failure(Code::Overtaken, rejection.to_string()) });
            }
            Rejection::ChunkGone(_) | Rejection::SegmentGone => Code::ChunksGone,
            Rejection::NoSuchBucket | Rejection::NoSuchKey | Rejection::NoSuchVersion => Code::NotFound,
            Rejection::BucketExists => Code::Exists,
            Rejection::RequestExpired => Code::Busy,
            Rejection::OverQuota => Code::Quota,
            Rejection::BucketNotEmpty
            | Rejection::BadKey
            | Rejection::PreconditionFailed
            | Rejection::NoSuchUpload
            | Rejection::InvalidPart(_)
            | Rejection::InvalidPartOrder
            | Rejection::PartTooSmall(_)
            | Rejection::TooLarge
            | Rejection::StaleEpoch { .. }
            | Rejection::NoSuchPg
            | Rejection::BelowQuorum
            | Rejection::Tombstoned
            | Rejection::NoSuchPack
            | Rejection::PackInUse
            | Rejection::NoSuchDevice
            | Rejection::PoolExists
            | Rejection::CollectionStopped(_)
            | Rejection::NeedsClusterVersion(_)
            | Rejection::Malformed
            | Rejection::ClusterExists
            | Rejection::BadToken
            | Rejection::TokenExpired
            | Rejection::RolesNotAllowed
            | Rejection::NameTaken
            | Rejection::NoSuchHost
            | Rejection::PgMoving(_)
            | Rejection::NotYourDevice
            | Rejection::NotReplaceable
            | Rejection::IsMarker
            | Rejection::Locked
            | Rejection::BucketState
            | Rejection::IdentitiesChanged => Code::Invalid,
        };
        Self(failure(code, rejection.to_string()))
    }
}

impl From<EngineError> for Refused {
    fn from(error: EngineError) -> Self {
        let code = match &error {
            EngineError::Rejected(rejection) => return rejection.clone().into(),
            EngineError::Full => Code::Full,
            EngineError::Gone => Code::NotFound,
            EngineError::Meta(MetaError::Store(_) | MetaError::Io { .. }) => Code::Internal,
            EngineError::Meta(_) | EngineError::BelowQuorum { .. } | EngineError::ShuttingDown => Code::Busy,
            EngineError::OtherKey => Code::Invalid,
            EngineError::Body(_)
            | EngineError::Stalled
            | EngineError::TooLarge
            | EngineError::Unreadable(_)
            | EngineError::Archive(_)
            | EngineError::Kv(_)
            | EngineError::Thread(_) => Code::Internal,
        };
        if code == Code::Internal {
            tracing::error!(%error, "a sync call failed");
        }
        Self(failure(code, error.to_string()))
    }
}

impl From<IdentityError> for Refused {
    fn from(error: IdentityError) -> Self {
        let code = match &error {
            IdentityError::Exists(_) => Code::Exists,
            IdentityError::Unknown(_) => Code::NotFound,
            IdentityError::Invalid(_) => Code::Invalid,
            IdentityError::Busy | IdentityError::Meta(_) => Code::Busy,
        };
        Self(failure(code, error.to_string()))
    }
}

impl From<S3Error> for Refused {
    fn from(error: S3Error) -> Self {
        let busy = error.status_code().is_some_and(|status| status.as_u16() == 503);
        let text = error.message().unwrap_or("the request failed").to_owned();
        Self(failure(if busy { Code::Busy } else { Code::Internal }, text))
    }
}

/// A device whose user is signed in.
struct Signed {
    user: String,
    device: String,
}

/// One connection.
struct Session {
    door: SyncDoor,
    address: SocketAddr,
    signed: ArcSwapOption<Signed>,
    /// Large calls that are read at once.
    large: Semaphore,
}

/// A caller at a space.
struct At {
    who: Arc<Signed>,
    bucket: Arc<BucketView>,
    scene: Scene,
    /// The directory that the caller calls its space; empty for a whole bucket.
    base: Vec<u8>,
    /// What is shared with the caller, whatever policies say.
    shares: Vec<Share>,
}

impl At {
    fn may(&self, action: &str, path: Option<&[u8]>) -> bool {
        self.may_of(action, path, None)
    }

    /// The same of an object that was found: policies may ask its tags, and it may be somebody else's.
    fn may_of(&self, action: &str, path: Option<&[u8]>, object: Option<&Extra>) -> bool {
        let key = path.map(String::from_utf8_lossy);
        self.scene.may_sync(action, key.as_deref(), object, self.is_shared(action, path))
    }

    /// Whether it is shared with the caller.
    fn is_shared(&self, action: &str, path: Option<&[u8]>) -> bool {
        let path = path.unwrap_or(&self.base);
        let reads = ["s3:ListBucket", "s3:GetObject", "s3:GetObjectVersion"].contains(&action);
        let writes = ["s3:PutObject", "s3:DeleteObject"].contains(&action);
        let lets = |share: &Share| path.starts_with(&share.path) && (reads || writes && share.writes);
        self.shares.iter().any(lets)
    }

    /// A path of the caller's as the bucket has it.
    fn full(&self, path: &[u8]) -> Vec<u8> {
        [self.base.as_slice(), path].concat()
    }

    /// A path of the bucket as the caller calls it.
    fn short(&self, path: Vec<u8>) -> Vec<u8> {
        path.strip_prefix(self.base.as_slice()).map_or_else(Vec::new, <[u8]>::to_vec)
    }

    /// Whether policies tell apart what is in a directory.
    fn tells_apart(&self, directory: &[u8]) -> bool {
        let actions = ["s3:GetObject", "s3:GetObjectVersion", "s3:PutObject", "s3:DeleteObject"];
        self.scene.tells_apart(&actions, &String::from_utf8_lossy(directory))
    }

    /// [`At::demand`] of an object that was found.
    fn demand_object(&self, action: &str, path: &[u8], extra: &Extra) -> Result<(), Refused> {
        if self.may_of(action, Some(path), Some(extra)) {
            Ok(())
        } else {
            refuse(Code::Denied, "you may not read that")
        }
    }

    fn demand(&self, action: &str, path: Option<&[u8]>) -> Result<(), Refused> {
        if self.may(action, path) { Ok(()) } else { refuse(Code::Denied, "you may not do that here") }
    }
}

impl SyncDoor {
    /// The door to what `s3` serves, at `url`.
    ///
    /// # Errors
    /// Where the metadata does not say which cluster this is.
    pub async fn new(s3: S3Door, url: String) -> Result<(Self, Identity), IdentityError> {
        let Known { epoch, lives, identity } = found(s3.meta()).await?;
        let door = Self {
            epoch,
            lives: lives.into(),
            url,
            passwords: Arc::new(Semaphore::new(PASSWORDS_AT_ONCE)),
            waiting: Arc::new(Semaphore::new(PASSWORDS_WAITING)),
            strangers: Arc::new(Semaphore::new(STRANGERS_MAX)),
            seats: Seats::new(STRANGERS_OF_ONE),
            pairing: Seats::new(PASSWORDS_OF_ONE),
            of_device: Seats::new(CONNECTIONS_OF_DEVICE),
            expanding: Arc::new(Semaphore::new(EXPANDING)),
            large: Arc::new(Semaphore::new(LARGE_CALLS)),
            heads: Arc::new(Heads::new(s3.meta().clone())),
            sent: Arc::default(),
            s3,
        };
        Ok((door, identity))
    }

    fn meta(&self) -> &Meta {
        self.s3.meta()
    }

    /// Serves devices until `stop`.
    pub async fn serve(self, listener: Listener, stop: impl Future<Output = ()>) {
        let mut connections = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            while connections.try_join_next().is_some() {}
            tokio::select! {
                arriving = listener.accept() => {
                    let Some(arriving) = arriving else { break };
                    // One whose address may be another's shows first that it is there, where many come.
                    let crowded = self.strangers.available_permits() < STRANGERS_MAX / 2;
                    let Some(arriving) = arriving.unless_unseen(crowded) else { continue };
                    let stranger = self.strangers.clone().try_acquire_owned();
                    let seat = self.seats.take(address_of(arriving.address()));
                    let free = connections.len() < CONNECTIONS_MAX;
                    let (Ok(stranger), Some(seat), true) = (stranger, seat, free) else {
                        arriving.refuse();
                        continue;
                    };
                    let door = self.clone();
                    connections.spawn(async move {
                        match arriving.shake().await {
                            Ok(peer) => door.connection(peer, (stranger, seat)).await,
                            Err(error) => tracing::debug!(%error, "a device did not come through"),
                        }
                    });
                }
                () = &mut stop => break,
            }
        }
        listener.close();
    }

    async fn connection(self, peer: Peer, stranger: (OwnedSemaphorePermit, Seat<IpAddr>)) {
        let session = Arc::new(Session {
            door: self,
            address: peer.address(),
            signed: ArcSwapOption::empty(),
            large: Semaphore::new(LARGE_OF_ONE),
        });
        // One after another, and soon: who does not say who it is goes.
        let until = Instant::now() + STRANGE_FOR;
        while session.signed.load().is_none() {
            let Ok(Some(stream)) = timeout_at(until, peer.stream()).await else { return };
            if timeout_at(until, session.clone().stream(stream)).await.is_err() {
                return;
            }
        }
        drop(stranger);
        let device = session.signed.load().as_ref().map(|signed| signed.device.clone()).unwrap_or_default();
        let Some(_seat) = session.door.of_device.take(device) else { return };
        peer.trust();
        // Calls end with their connection.
        let mut calls = JoinSet::new();
        while let Some(stream) = peer.stream().await {
            while calls.try_join_next().is_some() {}
            calls.spawn(session.clone().stream(stream));
        }
    }
}

impl Session {
    async fn stream(self: Arc<Self>, mut stream: Stream) {
        let ended = self.call(&mut stream).await;
        if let Err(Ended::Refused(Refused(failure))) = ended {
            let _unheard = stream.send(&Reply { reply: Some(reply::Reply::Failure(failure)) }).await;
        }
        let _gone = stream.finish().await;
    }

    async fn call(&self, stream: &mut Stream) -> Answer {
        let Some(asked) = self.asked(stream).await? else {
            return Err(Ended::Refused(Refused(failure(Code::Malformed, "a stream without a call"))));
        };
        match asked {
            Asked::Pair(pair) => self.pair(stream, pair).await,
            Asked::SignIn(sign_in) => self.sign_in(stream, sign_in).await,
            Asked::ListSpaces(_) => self.list_spaces(stream).await,
            Asked::MakeSpace(make) => self.make_space(stream, make).await,
            Asked::ListDevices(_) => self.list_devices(stream).await,
            Asked::RevokeDevice(revoke) => self.revoke_device(stream, revoke).await,
            Asked::ListNames(list) => self.list_names(stream, list).await,
            Asked::ReadChanges(read) => self.read_changes(stream, read).await,
            Asked::Have(have) => self.have(stream, have).await,
            Asked::Upload(upload) => self.upload(stream, upload).await,
            Asked::Commit(commit) => self.commit(stream, commit).await,
            Asked::ReadManifest(read) => self.read_manifest(stream, read).await,
            Asked::Fetch(fetch) => self.fetch(stream, fetch).await,
            Asked::ListVersions(list) => self.list_versions(stream, list).await,
            Asked::Restore(restore) => self.restore(stream, restore).await,
            Asked::ListTrash(list) => self.list_trash(stream, list).await,
            Asked::ShareFolder(share) => self.share_folder(stream, share).await,
            Asked::NameVersion(name) => self.name_version(stream, name).await,
            Asked::RestoreTo(restore) => self.restore_to(stream, restore).await,
            Asked::ReadSignatures(read) => self.read_signatures(stream, read).await,
            Asked::MakeLink(make) => self.make_link(stream, make).await,
            Asked::ListLinks(list) => self.list_links(stream, list).await,
            Asked::RemoveLink(remove) => self.remove_link(stream, remove).await,
            Asked::MakeCode(_) => self.make_code(stream).await,
            Asked::ListShares(list) => self.list_shares(stream, list).await,
        }
    }

    /// What is asked.
    async fn asked(&self, stream: &mut Stream) -> Result<Option<Asked>, Ended> {
        let max = if self.signed.load().is_some() { FRAME_BYTES_MAX } else { STRANGE_BYTES };
        let Some(length) = stream.length(PATIENCE, max).await? else { return Ok(None) };
        if length < LARGE_CALL {
            return Ok(stream.body::<Call>(length).await?.call);
        }
        // Whoever is slow keeps nobody waiting but itself.
        let _own = self.large.acquire().await;
        let body = stream.bytes(length).await?;
        let _all = self.door.large.acquire_many(length.div_ceil(LARGE_CALL) as u32).await;
        Ok(decode::<Call>(body)?.call)
    }

    /// The device of this connection, if it is still its user's, and the user may do anything.
    fn signed(&self) -> Result<(Arc<Signed>, Who), Refused> {
        let not = || Refused(failure(Code::NotSignedIn, "sign in first: \"hf login\""));
        let signed = self.signed.load_full().ok_or_else(not)?;
        let identities = self.door.s3.directory.now();
        let known = identities.devices.get(&signed.device);
        let gone = || Refused(failure(Code::NotSignedIn, "this device was revoked, or its user disabled"));
        known.filter(|(user, _)| *user == signed.user).ok_or_else(gone)?;
        let principal = identities.principal(&signed.user).ok_or_else(gone)?;
        Ok((signed, Who::User(principal)))
    }

    /// As [`Session::signed`], of the newest identities.
    async fn caller(&self) -> Result<(Arc<Signed>, Who), Refused> {
        // No bucket has this name: what is asked for is the number of the identities.
        self.door.s3.look("", None).await?;
        self.signed()
    }

    /// The caller at a space that it may see: as things are now, so that whoever goes on for long asks again.
    async fn at(&self, space: &str) -> Result<At, Refused> {
        let (name, base) = space.split_once('/').map_or((space, None), |(name, base)| (name, Some(base)));
        let (bucket, _) = self.door.s3.look(name, None).await?;
        let (who, principal) = self.signed()?;
        let missing =
            || Refused(failure(Code::NotFound, format!("there is no space {space}, or it is not yours")));
        let bucket = bucket.ok_or_else(missing)?;
        let mut shares = Vec::new();
        if principal.canonical() != Some(&bucket.config.owner) {
            let question = SharesFor { bucket: bucket.bucket.id, user: who.user.clone() };
            shares = self.door.meta().ask(question).await?.0;
        }
        let base = match base {
            None => Vec::new(),
            Some(base) => match self.shared_directory(bucket.bucket.id, base, &shares).await? {
                Some(path) => path,
                None => format!("{}/", base.trim_end_matches('/')).into_bytes(),
            },
        };
        let scene = Scene::of_device(principal, bucket.clone(), self.address);
        let at = At { scene, who, bucket, base, shares };
        // Whoever may not see it does not learn that it is there.
        if at.may("s3:ListBucket", None) { Ok(at) } else { Err(missing()) }
    }
}

/// Sends a reply.
async fn say(stream: &mut Stream, reply: reply::Reply) -> Answer {
    Ok(stream.send(&Reply { reply: Some(reply) }).await?)
}
