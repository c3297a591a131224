//! What a metadata member answers to others: requests and questions, raft, joining, heartbeats.

use crate::{Beats, MetaError, MetaHandle, Peers};
use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::BoxFuture;
use holdfast_core::{
    buffer::BufferPool,
    ids::HostId,
    roles::{Role, Roles},
};
use holdfast_meta_raft_machine::{
    ask::{Ask, AuthorityNow, HostOf, IsToken, Topology, TopologyNow},
    command::{self, Command, Outcome, Rejection, Request},
    records::{Authority, Host},
};
use holdfast_meta_raft_pump::MemberId;
use holdfast_net::{Answer, Caller, Handler, Remote, Target, Tls, at_once, authority};
use holdfast_proto::{
    self as proto, Done, Failure, HealthNow, Joined, Renewed, call::Method, failure::Code, reply,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

/// How long another member may take over a page of a snapshot.
const PAGE_PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of a host's name and address, at most.
const NAME_MAX: usize = 64;
const ADDRESS_MAX: usize = 255;

/// The other members, as their addresses are known.
pub struct NetPeers {
    tls: Tls,
    pool: BufferPool,
    members: ArcSwap<BTreeMap<HostId, Remote>>,
}

impl NetPeers {
    pub fn new(tls: Tls, pool: BufferPool) -> Self {
        Self { tls, pool, members: ArcSwap::default() }
    }

    /// Speaks with the members of a topology from now on.
    pub fn set_from(&self, topology: &Topology, members: &[u64]) {
        let meant = |(id, host): &&(HostId, Host)| {
            host.roles.has(Role::Meta) && (!host.revoked || members.contains(&id.0))
        };
        let members = topology.hosts.iter().filter(meant);
        self.set(&members.map(|(id, host)| (*id, host.address.clone())).collect());
    }

    fn set(&self, addresses: &BTreeMap<HostId, String>) {
        let known = self.members.load();
        let same = addresses.len() == known.len()
            && addresses
                .iter()
                .all(|(id, address)| known.get(id).is_some_and(|one| one.address() == address));
        if same {
            return;
        }
        let remote = |(id, address): (&HostId, &String)| {
            let remote = known.get(id).filter(|remote| remote.address() == address).cloned();
            let remote = remote.unwrap_or_else(|| {
                Remote::new(self.tls.clone(), Target::Host(*id), address.clone(), self.pool.clone())
            });
            (*id, remote)
        };
        self.members.store(Arc::new(addresses.iter().map(remote).collect()));
    }
}

impl Peers for NetPeers {
    fn tell(&self, to: MemberId, message: Vec<u8>) {
        if let Some(remote) = self.members.load().get(&HostId(to.0)) {
            remote.tell(Method::Raft(proto::Raft {}), message.into());
        }
    }

    fn page(
        &self,
        from: MemberId,
        snapshot: u64,
        after: Vec<u8>,
    ) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        let remote = self.members.load().get(&HostId(from.0)).cloned();
        Box::pin(async move {
            let remote = remote.ok_or_else(|| "the member's address is not known yet".to_owned())?;
            let method = Method::SnapshotPage(proto::SnapshotPage { snapshot, after });
            let answer = remote.call(method, Bytes::new(), PAGE_PATIENCE).await;
            answer.map(|(_, page)| page.to_vec()).map_err(|error| error.to_string())
        })
    }
}

/// A member's side of the network. Raft's thread is known once it runs.
#[derive(Clone, Default)]
pub struct MetaService {
    handle: Arc<OnceLock<MetaHandle>>,
    beats: Beats,
}

impl MetaService {
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves from now on.
    pub fn open(&self, handle: MetaHandle) {
        let _opened_before = self.handle.set(handle);
    }

    pub fn beats(&self) -> &Beats {
        &self.beats
    }
}

fn failure(error: MetaError) -> Failure {
    let code = match &error {
        MetaError::NotLeader(leader) => {
            let given = leader.map_or(0, |leader| leader.0);
            return Failure { given, ..Failure::new(Code::NotLeader, error.to_string()) };
        }
        MetaError::Busy => Code::Busy,
        MetaError::Stopped => Code::Stopping,
        MetaError::LostLeadership | MetaError::Snapshot(_) | MetaError::Unreachable(_) => Code::NotLeader,
        MetaError::Refused(_) => Code::Denied,
        MetaError::Store(_) | MetaError::Log(_) | MetaError::Pump(_) | MetaError::Io { .. } => Code::Internal,
    };
    Failure::new(code, error.to_string())
}

fn denied(what: &str) -> Failure {
    Failure::new(Code::Denied, format!("only {what} may do that"))
}

fn done(payload: Vec<u8>) -> Answer {
    Ok((reply::Result::Done(Done {}), payload.into()))
}

/// Who may give a command.
fn permitted(command: &Command, caller: Caller) -> bool {
    let (operator, meta) = (caller.has(Role::Operator), caller.has(Role::Meta));
    let (storage, gateway) = (caller.has(Role::Storage), caller.has(Role::Gateway));
    match command {
        Command::CreateBucket { .. }
        | Command::DeleteBucket { .. }
        | Command::PutObject { .. }
        | Command::DeleteObject { .. }
        | Command::CreateUpload { .. }
        | Command::PutPart { .. }
        | Command::CompleteUpload { .. }
        | Command::AbortUpload { .. }
        | Command::MakeBucket { .. }
        | Command::ConfigureBucket { .. }
        | Command::PutVersion { .. }
        | Command::DeleteVersion { .. }
        | Command::RemoveBucket { .. }
        | Command::ChangeTree { .. }
        | Command::Share { .. }
        | Command::MakeLink { .. }
        | Command::RemoveLink { .. }
        | Command::CountDownload { .. }
        | Command::StartUpload { .. } => gateway,
        Command::ChangeIdentities { .. } | Command::SetQuota { .. } => gateway || operator || meta,
        // Members carry out lifecycle rules, which move objects between pools.
        Command::MoveContent { .. } => meta,
        Command::NoteCursor { .. }
        | Command::ChangeVersion { .. }
        | Command::RegisterSegment { .. }
        | Command::HoldLease { .. }
        | Command::DropLease { .. } => gateway || meta,
        Command::RegisterPack(_) => gateway || storage || meta,
        Command::ReportShards { .. } | Command::ReportMissing { .. } => gateway || storage || meta,
        Command::DeletePacks { .. }
        | Command::TombstonePacks { .. }
        | Command::RepairShards { .. }
        | Command::ReplaceDevice { .. }
        | Command::PlacePack { .. }
        | Command::RestoreShards { .. }
        | Command::SettlePg { .. } => storage,
        // Only of itself.
        Command::MoveHost { id, address, .. } => caller.host() == Some(*id) && address.len() <= ADDRESS_MAX,
        Command::AddDevice { host, .. } => caller.host() == Some(*host),
        Command::MakeToken { .. }
        | Command::RevokeHost { .. }
        | Command::SetDuty { .. }
        | Command::ChangeDuty { .. }
        | Command::SetSettings { .. }
        | Command::MakeAdminToken { .. }
        | Command::DropAdminToken { .. }
        | Command::SetKeyring { .. }
        | Command::ChangeRoles { .. }
        | Command::Reweigh { .. }
        | Command::AllowReplacement { .. }
        | Command::FoundPool { .. }
        | Command::FoundClassPool { .. }
        | Command::SetDeviceClass { .. }
        | Command::StopCollection { .. }
        | Command::ResumeCollection => operator || meta,
        // Members do these themselves, and nobody from outside.
        Command::FoundCluster { .. }
        | Command::AdmitHost { .. }
        | Command::LetHostIn { .. }
        | Command::NoteArchive { .. }
        | Command::TakeOver { .. }
        | Command::ReassignPg { .. }
        | Command::Collect { .. }
        | Command::PutDevice { .. }
        | Command::CreatePool { .. }
        | Command::RaiseClusterVersion { .. } => false,
    }
}

/// Who may know an answer: secrets are for those who need them.
fn may_know(ask: &Ask, caller: Caller) -> bool {
    match ask {
        Ask::AuthorityNow(_) | Ask::TokenOf(_) | Ask::IsToken(_) | Ask::KeyringNow(_) => false,
        Ask::AdminTokenOf(_) => false,
        Ask::AdminTokens(_) => caller.has(Role::Operator),
        Ask::AccessKeys(_) | Ask::IdentitiesNow(_) => {
            [Role::Gateway, Role::Operator, Role::Meta].iter().any(|role| caller.has(*role))
        }
        Ask::HeaderNow(_)
        | Ask::BucketNamed(_)
        | Ask::AllBuckets(_)
        | Ask::CurrentVersion(_)
        | Ask::InlineBytes(_)
        | Ask::SegmentOf(_)
        | Ask::ChunksOf(_)
        | Ask::Locate(_)
        | Ask::Deduplicates(_)
        | Ask::PackOf(_)
        | Ask::Packs(_)
        | Ask::DegradedPacks(_)
        | Ask::ReclaimablePacks(_)
        | Ask::TopologyNow(_)
        | Ask::TopologyBefore3(_)
        | Ask::TopologyBefore6(_)
        | Ask::DocumentsOf(_)
        | Ask::NamesAfter(_)
        | Ask::NamesChanged(_)
        | Ask::AccountOf(_)
        | Ask::SharesFor(_)
        | Ask::SharesOf(_)
        | Ask::LinkOf(_)
        | Ask::LinksOf(_)
        | Ask::UploadOf(_)
        | Ask::UploadsAfter(_)
        | Ask::PartsOf(_)
        | Ask::Listing(_)
        | Ask::ArchiveNow(_)
        | Ask::SettingsNow(_)
        | Ask::TombstoneOf(_)
        | Ask::BacklogNow(_)
        | Ask::HostOf(_)
        | Ask::LookAt(_)
        | Ask::VersionListing(_)
        | Ask::UsageOf(_)
        | Ask::OwnedUploadsAfter(_)
        | Ask::UploadOwner(_)
        | Ask::ConfiguredBuckets(_)
        | Ask::UploadWith(_)
        | Ask::JournalFrom(_)
        | Ask::CursorOf(_)
        | Ask::VersionsOf(_) => true,
    }
}

impl Handler for MetaService {
    fn call(&self, from: Caller, method: Method, payload: Bytes) -> BoxFuture<'static, Answer> {
        let Some(handle) = self.handle.get().cloned() else {
            let starting = Failure::new(Code::Stopping, "the member is starting");
            return at_once(Err(starting));
        };
        // A member that was revoked takes part until the group has agreed to go on without it.
        let raft = matches!(method, Method::Raft(_) | Method::SnapshotPage(_));
        let member = raft && from.host().is_some_and(|host| handle.is_member(host));
        if raft && !member && !may_become_member(&handle, from) {
            return at_once(Err(denied("members")));
        }
        if !member && let Err(refused) = check_caller(&handle, from) {
            return at_once(Err(refused));
        }
        match method {
            Method::Submit(_) => submit(&handle, from, &payload),
            Method::Ask(_) => Box::pin(ask(handle, from, payload)),
            Method::Raft(_) => {
                let known = from.has(Role::Meta);
                let result = if known {
                    handle.receive(payload.to_vec()).map_err(failure)
                } else {
                    Err(denied("members"))
                };
                at_once(result.map(|()| (reply::Result::Done(Done {}), Bytes::new())))
            }
            Method::SnapshotPage(wanted) => Box::pin(async move {
                if !from.has(Role::Meta) {
                    return Err(denied("members"));
                }
                match handle.snapshot_page(wanted.snapshot, &wanted.after).map_err(failure)? {
                    Some(page) => done(page),
                    None => Err(Failure::new(Code::NotFound, "the snapshot is not held any more")),
                }
            }),
            Method::Join(wanted) => Box::pin(join(handle, wanted)),
            Method::Renew(wanted) => Box::pin(renew(handle, from, wanted)),
            Method::Beat(beat) => {
                if let Some(host) = from.host() {
                    self.beats.heard(host, beat);
                }
                at_once(done(Vec::new()))
            }
            Method::Health(_) => {
                let answer = reply::Result::Health(health(&handle, &self.beats));
                at_once(Ok((answer, Bytes::new())))
            }
            Method::TransferLeader(wanted) => Box::pin(async move {
                // Members serve the admin API.
                if !from.has(Role::Operator) && !from.has(Role::Meta) {
                    return Err(denied("operators"));
                }
                if !handle.leads() {
                    return Err(failure(MetaError::NotLeader(handle.status().leader)));
                }
                handle.transfer_leader(MemberId(wanted.host)).map_err(failure)?;
                done(Vec::new())
            }),
            Method::PutShard(_)
            | Method::ReadShard(_)
            | Method::DeleteShards(_)
            | Method::ListDevices(_)
            | Method::ListShards(_)
            | Method::WriteRoot(_)
            | Method::AddDisk(_)
            | Method::ReadRoot(_) => {
                let nothing = Failure::new(Code::Unimplemented, "this process keeps no shards");
                at_once(Err(nothing))
            }
        }
    }
}

/// Whether a host that is no member yet keeps the metadata, as far as this member knows: what its certificate says may be
/// over.
fn may_become_member(handle: &MetaHandle, from: Caller) -> bool {
    let Some(host) = from.host() else { return false };
    let record = handle.glance(&HostOf { id: host }).ok().flatten();
    record.is_none_or(|record| record.roles.has(Role::Meta) && !record.revoked)
}

/// Refuses hosts that were revoked. What this member knows may be a moment old.
fn check_caller(handle: &MetaHandle, from: Caller) -> Result<(), Failure> {
    let Caller::Host { host, .. } = from else { return Ok(()) };
    let record = handle.glance(&HostOf { id: host }).map_err(failure)?;
    match record {
        Some(record) if record.revoked => Err(Failure::new(Code::Denied, format!("host {host} was revoked"))),
        // A member that is behind does not know it yet.
        Some(_) | None => Ok(()),
    }
}

fn submit(handle: &MetaHandle, from: Caller, payload: &[u8]) -> BoxFuture<'static, Answer> {
    let requests = command::decode_requests(payload);
    let requests = match requests {
        Ok(requests) => requests,
        Err(error) => {
            let failure = Failure::new(Code::BadRequest, error.to_string());
            return at_once(Err(failure));
        }
    };
    if let Some(request) = requests.iter().find(|request| !permitted(&request.command, from)) {
        let text = format!("the caller may not do that: {:.40}", format!("{:?}", request.command));
        return at_once(Err(Failure::new(Code::Denied, text)));
    }
    // Queued before this returns, so that calls of one connection keep their order.
    let submitted = handle.submit(requests);
    Box::pin(async move { done(command::encode_outcomes(submitted.await.map_err(failure)?)) })
}

async fn ask(handle: MetaHandle, from: Caller, payload: Bytes) -> Answer {
    let ask = Ask::from_bytes(&payload).map_err(|error| Failure::new(Code::BadRequest, error.to_string()))?;
    if !may_know(&ask, from) {
        return Err(denied("others"));
    }
    done(handle.ask_any(&ask).await.map_err(failure)?)
}

fn health(handle: &MetaHandle, beats: &Beats) -> HealthNow {
    let status = handle.status();
    let (hosts, devices) = beats.report();
    HealthNow {
        leader: status.leader.map_or(0, |leader| leader.0),
        term: status.term,
        voters: status.voters,
        learners: status.learners,
        applied: status.applied,
        hosts,
        devices,
        archived_until_ms: handle.known_archived_until(),
        leads: status.leads,
        rates: Some(beats.rates()),
    }
}

async fn authority_of(handle: &MetaHandle) -> Result<Authority, Failure> {
    let authority = handle.ask(AuthorityNow {}).await.map_err(failure)?;
    authority.ok_or_else(|| Failure::new(Code::Internal, "this system is no cluster"))
}

/// Lets a host in that knows a token's secret.
async fn join(handle: MetaHandle, wanted: proto::Join) -> Answer {
    let bad = |text: String| Failure::new(Code::BadRequest, text);
    if !handle.leads() {
        // Its address goes along: who joins knows no other member yet.
        let topology = handle.glance(&TopologyNow {}).map_err(failure)?;
        let leader = handle.status().leader.and_then(|leader| topology.host(HostId(leader.0)));
        let text = leader.map(|host| host.address.clone()).unwrap_or_default();
        return Err(Failure::new(Code::NotLeader, text));
    }
    let mut secret = [0; 32];
    hex::decode_to_slice(&wanted.secret, &mut secret)
        .map_err(|_| bad("the token is malformed".to_owned()))?;
    let place = wanted.place.parse().map_err(|error| bad(format!("{error}")))?;
    let roles = Roles::from_bits(wanted.roles);
    if wanted.name.is_empty() || wanted.name.len() > NAME_MAX || wanted.address.len() > ADDRESS_MAX {
        return Err(bad("the host's name or address is too long".to_owned()));
    }
    // Asked before anything is proposed: strangers cost no entry of the log.
    let hash = *blake3::hash(&secret).as_bytes();
    if !handle.ask(IsToken { hash }).await.map_err(failure)? {
        return Err(Failure::new(Code::Denied, Rejection::BadToken.to_string()));
    }
    let authority = authority_of(&handle).await?;
    let host = Host { name: wanted.name, roles, address: wanted.address, place, revoked: false };
    let request = *blake3::hash(&wanted.request).as_bytes();
    let admit = Command::LetHostIn { token: hash, request, host: host.clone() };
    // No words: who joins takes them for the leader's address.
    let nobody = |error| Failure { message: String::new(), ..failure(error) };
    let mut outcome = handle.request(Request::idempotent(admit)).await.map_err(nobody)?;
    if matches!(outcome, Outcome::Rejected(Rejection::NeedsClusterVersion(_))) {
        // Members of the version before take part.
        let admit = Command::AdmitHost { token: hash, host };
        outcome = handle.request(Request::idempotent(admit)).await.map_err(nobody)?;
    }
    let outcome =
        outcome.accepted().map_err(|rejection| Failure::new(Code::Denied, rejection.to_string()))?;
    let Outcome::Host(host) = outcome else {
        return Err(Failure::new(Code::Internal, "the host was let in without a number"));
    };
    let certificate = certify(&authority, &wanted.request, host, roles).map_err(bad)?;
    tracing::info!(%host, %roles, "a host joined");
    let joined =
        Joined { host: host.0, certificate, authority: authority.certificate, cluster: authority.cluster };
    Ok((reply::Result::Joined(joined), Bytes::new()))
}

fn certify(authority: &Authority, request: &[u8], host: HostId, roles: Roles) -> Result<Vec<u8>, String> {
    let signer = authority::Signed { certificate: authority.certificate.clone(), key: authority.key.clone() };
    authority::sign(&signer, request, host, roles, authority::HOST_LIFE).map_err(|error| error.to_string())
}

/// Gives a host a new certificate, in the roles that it has.
async fn renew(handle: MetaHandle, from: Caller, wanted: proto::Renew) -> Answer {
    let Caller::Host { host, roles } = from else { return Err(denied("hosts")) };
    let authority = authority_of(&handle).await?;
    // The roles that it has now, which may be others than its certificate says.
    let record = handle.ask(HostOf { id: host }).await.map_err(failure)?;
    let roles = record.map_or(roles, |record| record.roles);
    let certificate = certify(&authority, &wanted.request, host, roles);
    let certificate = certificate.map_err(|text| Failure::new(Code::BadRequest, text))?;
    Ok((reply::Result::Renewed(Renewed { certificate }), Bytes::new()))
}
