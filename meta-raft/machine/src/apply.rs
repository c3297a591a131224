//! Applying raft entries: the clock, repeated requests, the version gate and the state hash. What each command does is in
//! the modules below.
//!
//! Commands of one entry run one after another over an [`Overlay`], each seeing those before it. A rejected command is
//! rolled back alone: a batch of writes shares an fsync, never a fate.

mod chunks;
mod collect;
mod hosts;
mod links;
mod names;
mod namespace;
mod people;
mod placement;
mod tree;
pub(crate) use tree::{components, leaf, split};
mod uploads;
mod versions;

#[cfg(test)]
mod tests;

use crate::{
    command::{Command, LogEntry, Outcome, Precondition, Rejection, Request},
    keys, query,
    records::{AdminToken, Extra, Header, Record, Remembered, Settings, Token},
};
use holdfast_core::{
    ids::{HostId, RequestId},
    kv::{Batch, KvError, Overlay, View},
    limits::{CLOCK_STEP_MAX_MS, REQUEST_WINDOW_MS},
    topology::FailureDomain,
};

/// The newest cluster version that this binary can apply.
pub const CLUSTER_VERSION: u32 = 7;

/// What applying an entry gives: writes, which the caller makes durable in log order, and one outcome a request.
#[derive(Debug)]
pub struct Applied {
    pub batch: Batch,
    pub outcomes: Vec<Outcome>,
    pub header: Header,
}

/// Why a command stops.
enum Stop {
    /// The others do not notice.
    Rejected(Rejection),
    /// The counters contradict each other. Nothing is deleted any more until a person has looked; all else goes on.
    Inconsistent(String),
    /// The store failed, which ends everything.
    Failed(KvError),
}

impl From<KvError> for Stop {
    fn from(error: KvError) -> Self {
        Self::Failed(error)
    }
}

impl From<Rejection> for Stop {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

type Step<T> = Result<T, Stop>;

/// The state under one entry's commands.
struct Tx<'a, V: ?Sized> {
    kv: Overlay<'a, V>,
    header: Header,
    /// The leader's wall clock, for what people see. Grace periods use the header's clock.
    wall_ms: u64,
    index: u64,
}

/// Applies the entry at `index` to `view`. An entry without commands only moves the index.
///
/// # Errors
/// Where the state cannot be read. Nothing may be written then, and the process must not go on.
///
/// # Panics
/// Where `index` does not follow the applied one: the log would be applied with a gap.
pub fn apply<V: View + ?Sized>(view: &V, index: u64, entry: Option<LogEntry>) -> Result<Applied, KvError> {
    let mut tx = Tx::begin(view, index, entry.as_ref())?;
    let mut outcomes = Vec::new();
    for request in entry.into_iter().flat_map(|entry| entry.requests) {
        outcomes.push(tx.request(request)?);
    }
    let Tx { mut kv, mut header, .. } = tx;
    header.state_hash = chain(&header.state_hash, &kv);
    kv.put(keys::header(), header.to_bytes());
    Ok(Applied { batch: kv.into_batch(), outcomes, header })
}

/// The hash of the state after one more entry's writes.
fn chain<V: View + ?Sized>(before: &[u8; 32], writes: &Overlay<'_, V>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before);
    for (key, value) in writes.writes() {
        hasher.update(&(key.len() as u64).to_le_bytes()).update(key);
        match value {
            Some(value) => hasher.update(&(value.len() as u64 + 1).to_le_bytes()).update(value),
            None => hasher.update(&0u64.to_le_bytes()),
        };
    }
    *hasher.finalize().as_bytes()
}

impl<'a, V: View + ?Sized> Tx<'a, V> {
    fn begin(view: &'a V, index: u64, entry: Option<&LogEntry>) -> Result<Self, KvError> {
        let kv = Overlay::new(view);
        let fresh = || Header {
            cluster_version: 1,
            next_node: 1,
            next_version: 1,
            next_bucket: 1,
            ..Header::default()
        };
        let mut header = read::<Header>(&kv, &keys::header())?.unwrap_or_else(fresh);
        assert!(index > header.applied_index, "entries are applied once, in order");
        header.applied_index = index;
        let wall_ms = entry.map_or(header.clock_ms, |entry| entry.stamp_ms);
        // The wall clock may jump. Grace periods follow time that has passed, from wherever the first entry set them.
        header.clock_ms = match header.clock_ms {
            0 => wall_ms,
            clock_ms => clock_ms + entry.map_or(0, |entry| entry.elapsed_ms.min(CLOCK_STEP_MAX_MS)),
        };
        Ok(Self { kv, header, wall_ms, index })
    }

    /// One command, whose writes stay only if it is not rejected.
    fn request(&mut self, request: Request) -> Result<Outcome, KvError> {
        if let Some(id) = request.id {
            if let Some(remembered) = read::<Remembered>(&self.kv, &keys::request(id))? {
                return Ok(remembered.outcome);
            }
            if id.unix_ms() < self.header.clock_ms.saturating_sub(REQUEST_WINDOW_MS) {
                return Ok(Outcome::Rejected(Rejection::RequestExpired));
            }
        }
        self.kv.mark();
        let header = self.header.clone();
        let outcome = match self.command(request.command) {
            Ok(outcome) => outcome,
            Err(Stop::Rejected(rejection)) => {
                self.kv.rollback();
                self.header = header;
                Outcome::Rejected(rejection)
            }
            Err(Stop::Inconsistent(reason)) => {
                self.kv.rollback();
                self.header = Header { collection_stopped: Some(reason.clone()), ..header };
                Outcome::Rejected(Rejection::CollectionStopped(reason))
            }
            Err(Stop::Failed(error)) => return Err(error),
        };
        self.remember(request.id, &outcome);
        Ok(outcome)
    }

    fn remember(&mut self, id: Option<RequestId>, outcome: &Outcome) {
        if let Some(id) = id {
            let remembered = Remembered { outcome: outcome.clone() };
            self.kv.put(keys::request(id), remembered.to_bytes());
        }
    }

    fn command(&mut self, command: Command) -> Step<Outcome> {
        if command.since_version() > self.header.cluster_version {
            return Err(Rejection::NeedsClusterVersion(command.since_version()).into());
        }
        match command {
            Command::CreateBucket { name, domain, chunker } => {
                self.create_bucket(name, domain, chunker, None)
            }
            Command::DeleteBucket { name } => self.delete_bucket(&name),
            Command::RegisterPack(pack) => self.register_pack(pack),
            Command::RegisterSegment { id, domain, chunks } => self.register_segment(id, domain, chunks),
            Command::PutObject { bucket, key, condition, object } => {
                self.put_object(bucket, &key, condition, object, Extra::default())
            }
            Command::DeleteObject { bucket, key, condition } => {
                let precondition = Precondition { condition, ..Precondition::default() };
                let removed = self.delete_object(bucket, &key, precondition, String::new())?;
                Ok(Outcome::Deleted { existed: removed.existed })
            }
            Command::CreateUpload { bucket, key, id, attributes, checksum } => {
                self.create_upload(bucket, &key, id, attributes, checksum, &Extra::default())
            }
            Command::PutPart { bucket, key, id, number, bytes, md5, checksum, segments } => {
                let modified_ms = self.wall_ms;
                let part = crate::records::Part { bytes, md5, checksum, modified_ms, segments };
                self.put_part(bucket, &key, id, number, part)
            }
            Command::CompleteUpload { bucket, key, id, condition, parts, etag, checksum } => {
                self.complete_upload(bucket, &key, id, condition, &parts, etag, checksum)
            }
            Command::AbortUpload { bucket, key, id } => self.abort_upload(bucket, &key, id),
            Command::HoldLease { id, since_ms, ttl_ms } => self.hold_lease(id, since_ms, ttl_ms),
            Command::DropLease { id } => {
                self.kv.delete(keys::lease(id));
                Ok(Outcome::Done)
            }
            Command::Collect { grace_ms, steps } => self.collect(grace_ms, steps),
            Command::DeletePacks { packs } => self.delete_packs(&packs),
            Command::TombstonePacks { packs } => self.tombstone_packs(&packs),
            Command::ReportShards { shards } => self.report_shards(&shards),
            Command::RepairShards { pack, epoch, mask } => self.repair_shards(pack, epoch, mask),
            Command::PutDevice { id, device } => {
                self.write(keys::device(id), &device.on(HostId::LOCAL));
                Ok(Outcome::Done)
            }
            Command::ReplaceDevice { id, incarnation } => self.replace_device(id, incarnation),
            Command::CreatePool { pool, pgs } => self.create_pool(pool, FailureDomain::Device, pgs),
            Command::StopCollection { reason } => {
                self.header.collection_stopped = Some(reason);
                Ok(Outcome::Done)
            }
            Command::ResumeCollection => {
                self.header.collection_stopped = None;
                Ok(Outcome::Done)
            }
            Command::RaiseClusterVersion { version } => {
                let known = version <= CLUSTER_VERSION;
                assert!(
                    known,
                    "the cluster was raised to version {version}, which this binary does not know: upgrade it"
                );
                self.header.cluster_version = self.header.cluster_version.max(version);
                Ok(Outcome::Done)
            }
            Command::FoundCluster { authority, host, key } => self.found_cluster(&authority, &host, &key),
            Command::MakeToken { hash, roles, ttl_ms } => {
                let expires_ms = self.now().saturating_add(ttl_ms);
                self.write(keys::token(&hash), &Token { roles, expires_ms });
                Ok(Outcome::Done)
            }
            Command::AdmitHost { token, host } => self.admit_host(&token, &host),
            Command::MoveHost { id, address, place } => self.move_host(id, address, place),
            Command::RevokeHost { id } => self.revoke_host(id),
            Command::AddDevice { id, host, device } => self.add_device(id, host, device),
            Command::SetDuty { id, duty } => self.set_duty(id, duty),
            Command::Reweigh { id, weight } => self.change_device(id, |device| device.weight = weight),
            Command::AllowReplacement { id } => self.change_device(id, |device| device.replaceable = true),
            Command::FoundPool { pool, domain, pgs } => self.create_pool(pool, domain, pgs),
            Command::ReassignPg { pg, epoch, devices } => self.reassign_pg(pg, epoch, devices),
            Command::PlacePack { pack, was, epoch, missing } => self.place_pack(pack, was, epoch, missing),
            Command::ReportMissing { shards } => self.report_missing(&shards),
            Command::SettlePg { pg, epoch, after, steps } => self.settle_pg(pg, epoch, after, steps),
            Command::SetKeyring { keyring } => {
                self.write(keys::keyring(), &keyring);
                Ok(Outcome::Done)
            }
            Command::NoteArchive { archive } => {
                self.write(keys::archive(), &archive);
                Ok(Outcome::Done)
            }
            Command::TakeOver { id, host, skip_epochs } => self.take_over(id, &host, skip_epochs),
            Command::RestoreShards { pack, was, epoch, mask } => self.restore_shards(pack, was, epoch, mask),
            Command::ChangeDuty { id, was, duty } => self.change_duty(id, was, duty),
            Command::SetSettings { was, settings } => self.set_settings(&was, &settings),
            Command::MakeAdminToken { hash, name, read_only, ttl_ms } => {
                let expires_ms = self.now().saturating_add(ttl_ms);
                self.write(keys::admin_token(&hash), &AdminToken { name, read_only, expires_ms });
                Ok(Outcome::Done)
            }
            Command::DropAdminToken { hash } => {
                self.kv.delete(keys::admin_token(&hash));
                Ok(Outcome::Done)
            }
            Command::LetHostIn { token, request, host } => self.let_host_in(&token, &request, &host),
            Command::ChangeRoles { id, roles } => self.change_roles(id, roles),
            Command::MakeBucket { name, domain, chunker, config } => {
                self.create_bucket(name, domain, chunker, Some(config))
            }
            Command::RemoveBucket { bucket } => self.remove_bucket(bucket),
            Command::ConfigureBucket { bucket, change } => self.configure_bucket(bucket, change),
            Command::PutVersion { bucket, key, condition, object, extra } => {
                self.put_object(bucket, &key, condition, object, extra)
            }
            Command::DeleteVersion { bucket, key, version, precondition, bypass, owner, demand } => {
                let removed = match version {
                    None => self.delete_object(bucket, &key, precondition, owner)?,
                    Some(name) => self.delete_version(bucket, &key, name, precondition, bypass, demand)?,
                };
                Ok(Outcome::Removed(removed))
            }
            Command::ChangeVersion { bucket, key, version, judged, change } => {
                self.change_version(bucket, &key, version, judged, change)
            }
            Command::StartUpload { bucket, key, id, attributes, checksum, extra } => {
                self.create_upload(bucket, &key, id, attributes, checksum, &extra)
            }
            Command::ChangeIdentities { number, changes } => self.change_identities(number, changes),
            Command::NoteCursor { bucket, name, position } => self.note_cursor(bucket, &name, position),
            Command::FoundClassPool { id, pool, pgs } => self.create_class_pool(id, &pool, pgs),
            Command::SetDeviceClass { id, class } => self.set_device_class(id, class),
            Command::MoveContent { bucket, key, version, judged, segments, document, from, to } => {
                self.move_content(bucket, &key, (version, judged), segments, document, (from, to))
            }
            Command::ChangeTree { bucket, owner, changes } => self.change_tree(bucket, &owner, changes),
            Command::SetQuota { owner, bytes } => self.set_quota(&owner, bytes),
            Command::Share { bucket, path, user, writes } => self.share(bucket, path, &user, writes),
            Command::MakeLink { bucket, id, link } => self.make_link(bucket, &id, &link),
            Command::RemoveLink { bucket, id } => self.remove_link(bucket, &id),
            Command::CountDownload { bucket, id } => self.count_download(bucket, &id),
        }
    }

    fn change_identities(&mut self, number: u64, changes: Vec<(String, Option<String>)>) -> Step<Outcome> {
        if query::identity_number(&self.kv)? != number {
            return Err(Rejection::IdentitiesChanged.into());
        }
        for (name, text) in changes {
            match text {
                Some(text) => self.kv.put(keys::identity(&name), text.into_bytes()),
                None => self.kv.delete(keys::identity(&name)),
            }
        }
        // Two changes in one entry are two.
        let next = self.index.max(number + 1);
        self.kv.put(keys::identity_number(), next.to_be_bytes().to_vec());
        Ok(Outcome::Done)
    }

    fn set_settings(&mut self, was: &Settings, settings: &Settings) -> Step<Outcome> {
        if self.read::<Settings>(&keys::settings())?.unwrap_or_default() != *was {
            return Err(Rejection::PreconditionFailed.into());
        }
        self.write(keys::settings(), settings);
        Ok(Outcome::Done)
    }

    fn read<R: Record>(&self, key: &[u8]) -> Result<Option<R>, KvError> {
        read(&self.kv, key)
    }

    fn write<R: Record>(&mut self, key: Vec<u8>, record: &R) {
        self.kv.put(key, record.to_bytes());
    }

    /// Deletes a record that may not be there. Earlier versions did not know of it, and the state's hash counts every write:
    /// where there is nothing to delete, nothing is written.
    fn remove(&mut self, key: Vec<u8>) -> Result<(), KvError> {
        if self.kv.get(&key)?.is_some() {
            self.kv.delete(key);
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        self.header.clock_ms
    }
}

/// Reads and decodes a record.
fn read<R: Record>(view: &(impl View + ?Sized), key: &[u8]) -> Result<Option<R>, KvError> {
    view.get(key)?.map(|bytes| R::from_bytes(&bytes)).transpose()
}
