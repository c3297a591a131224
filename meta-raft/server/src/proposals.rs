//! Submissions on their way through the log: many share an entry, and each gets its own outcomes.

use crate::MetaError;
use holdfast_core::limits::{KEY_BYTES_MAX, RAFT_ENTRY_BYTES_MAX};
use holdfast_meta_raft_machine::{
    command::{Command, ConfigChange, NewContent, Outcome, Request, TreeChange, VersionChange},
    records::{Attributes, Extra},
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};
use tokio::sync::oneshot;

/// What a submission comes to.
pub type Submitted = Result<Vec<Outcome>, MetaError>;

/// Requests that are answered together, in order.
pub struct Submission {
    pub requests: Vec<Request>,
    pub answer: oneshot::Sender<Submitted>,
}

/// One entry's requests belong to these submissions.
pub struct Proposed {
    /// What the entry was marked with.
    pub mark: u64,
    pub at: Instant,
    answers: Vec<Answer>,
}

/// A submission's outcomes so far; `sender` is there in its last entry.
struct Answer {
    outcomes: usize,
    done: Arc<Mutex<Vec<Outcome>>>,
    sender: Option<oneshot::Sender<Submitted>>,
}

/// Requests that will share an entry.
#[derive(Default)]
pub struct EntryBuilder {
    pub requests: Vec<Request>,
    answers: Vec<Answer>,
    bytes: usize,
}

/// Packs submissions into entries of bounded size, in order.
pub fn pack(submissions: impl IntoIterator<Item = Submission>) -> Vec<EntryBuilder> {
    let mut entries = Vec::new();
    let mut entry = EntryBuilder::default();
    for submission in submissions {
        let done = Arc::new(Mutex::new(Vec::with_capacity(submission.requests.len())));
        let mut outcomes = 0;
        for request in submission.requests {
            let bytes = size_of(&request.command);
            if entry.bytes + bytes > RAFT_ENTRY_BYTES_MAX && !entry.requests.is_empty() {
                entry.answers.push(Answer { outcomes, done: done.clone(), sender: None });
                outcomes = 0;
                entries.push(std::mem::take(&mut entry));
            }
            entry.bytes += bytes;
            entry.requests.push(request);
            outcomes += 1;
        }
        entry.answers.push(Answer { outcomes, done, sender: Some(submission.answer) });
    }
    entries.push(entry);
    entries
}

impl EntryBuilder {
    /// The entry as it waits for agreement.
    pub fn proposed(self, mark: u64) -> Proposed {
        Proposed { mark, at: Instant::now(), answers: self.answers }
    }
}

impl Proposed {
    /// Gives each submission its share of the entry's outcomes.
    pub fn answer(self, outcomes: Vec<Outcome>) {
        let mut outcomes = outcomes.into_iter();
        for Answer { outcomes: count, done, sender } in self.answers {
            let mut so_far = done.lock().unwrap_or_else(PoisonError::into_inner);
            so_far.extend(outcomes.by_ref().take(count));
            if let Some(sender) = sender {
                // Nobody may be waiting any more: the request was cancelled, and is applied all the same.
                let _unheard = sender.send(Ok(std::mem::take(&mut so_far)));
            }
        }
    }

    /// Tells those who wait why there will be no answer.
    pub fn fail(self, error: impl Fn() -> MetaError) {
        for sender in self.answers.into_iter().filter_map(|answer| answer.sender) {
            let _unheard = sender.send(Err(error()));
        }
    }
}

/// An upper estimate of the encoded bytes of a change of a name.
fn change_size(change: &TreeChange) -> usize {
    64 + match change {
        TreeChange::Put { path, object, extra, .. } => {
            let content = match &object.content {
                NewContent::Inline(bytes) => bytes.len(),
                NewContent::Segments(segments) => segments.len() * 32,
            };
            path.len() + content + attributes_size(&object.attributes) + extra_size(extra)
        }
        TreeChange::Move { from, to, .. } => from.len() + to.len(),
        TreeChange::Describe { path, name, text, .. } => {
            path.len() + name.len() + text.as_ref().map_or(0, String::len)
        }
        TreeChange::MakeDirectory { path }
        | TreeChange::RemoveFile { path, .. }
        | TreeChange::RemoveDirectory { path, .. } => path.len(),
    }
}

/// An upper estimate of a command's encoded bytes.
fn size_of(command: &Command) -> usize {
    const FRAME: usize = 512;
    let variable = match command {
        Command::PutObject { key, object, .. } => {
            let content = match &object.content {
                NewContent::Inline(bytes) => bytes.len(),
                NewContent::Segments(segments) => segments.len() * 32,
            };
            key.len() + content + attributes_size(&object.attributes) + object.parts.len() * 64
        }
        Command::PutVersion { key, object, extra, .. } => {
            let content = match &object.content {
                NewContent::Inline(bytes) => bytes.len(),
                NewContent::Segments(segments) => segments.len() * 32,
            };
            let described = attributes_size(&object.attributes) + extra_size(extra);
            key.len() + content + described + object.parts.len() * 64
        }
        Command::StartUpload { key, attributes, extra, .. } => {
            key.len() + attributes_size(attributes) + extra_size(extra)
        }
        Command::MakeBucket { config, .. } => {
            config.documents.iter().map(|(name, text)| name.len() + text.len()).sum()
        }
        Command::ConfigureBucket { change, .. } => match change {
            ConfigChange::Document(name, text) => name.len() + text.as_ref().map_or(0, String::len),
            ConfigChange::Versioning(_) | ConfigChange::ObjectLock | ConfigChange::DefaultRetention(_) => 0,
        },
        Command::DeleteVersion { key, owner, .. } => key.len() + owner.len(),
        Command::ChangeVersion { key, change, .. } => {
            let changed = match change {
                VersionChange::Tags(tags) => {
                    tags.iter().map(|(name, value)| 4 + name.len() + value.len()).sum()
                }
                VersionChange::Document(name, text) => name.len() + text.as_ref().map_or(0, String::len),
                VersionChange::Retention { .. } | VersionChange::LegalHold(_) => 0,
            };
            key.len() + changed
        }
        Command::ChangeIdentities { changes, .. } => {
            changes.iter().map(|(name, text)| 8 + name.len() + text.as_ref().map_or(0, String::len)).sum()
        }
        Command::NoteCursor { name, .. } => name.len(),
        Command::RegisterPack(pack) => pack.chunks.len() * 72,
        Command::RegisterSegment { chunks, .. } => chunks.len() * 40,
        Command::CreateUpload { key, attributes, .. } => key.len() + attributes_size(attributes),
        Command::PutPart { key, segments, .. } => key.len() + segments.len() * 32,
        Command::CompleteUpload { key, parts, .. } => key.len() + parts.len() * 24,
        Command::ReportShards { shards } => shards.len() * 24,
        Command::ReportMissing { shards } => shards.len() * 32,
        Command::DeletePacks { packs } | Command::TombstonePacks { packs } => packs.len() * 20,
        Command::MoveContent { key, segments, .. } => key.len() + segments.len() * 32,
        Command::ChangeTree { owner, changes, .. } => {
            changes.iter().map(|of| owner.len() + change_size(&of.change)).sum()
        }
        Command::SetQuota { owner, .. } => owner.len(),
        Command::Share { path, user, .. } => path.len() + user.len(),
        Command::MakeLink { link, .. } => link.path.len() + link.creator.len() + KEY_BYTES_MAX,
        Command::SetDeviceClass { class, .. } => class.as_ref().map_or(0, String::len),
        Command::CreatePool { pgs, .. }
        | Command::FoundPool { pgs, .. }
        | Command::FoundClassPool { pgs, .. } => pgs.iter().map(|(_, pg)| 16 + pg.devices.len() * 5).sum(),
        Command::FoundCluster { authority, .. } => 2 * KEY_BYTES_MAX + authority.certificate.len(),
        Command::ReassignPg { devices, .. } => devices.len() * 5,
        Command::AdmitHost { host, .. }
        | Command::LetHostIn { host, .. }
        | Command::TakeOver { host, .. } => host.name.len() + host.address.len() + KEY_BYTES_MAX,
        Command::MoveHost { address, place, .. } => address.len() + place.to_string().len(),
        Command::AddDevice { device, .. } => device.place.to_string().len() + 64,
        Command::StopCollection { reason } => reason.len(),
        Command::SetKeyring { keyring } => KEY_BYTES_MAX + keyring.wrapped.len(),
        Command::NoteArchive { archive } => KEY_BYTES_MAX + archive.logs.len() * 40,
        Command::MakeAdminToken { name, .. } => KEY_BYTES_MAX + name.len(),
        Command::CreateBucket { .. }
        | Command::DeleteBucket { .. }
        | Command::RemoveBucket { .. }
        | Command::DeleteObject { .. }
        | Command::AbortUpload { .. }
        | Command::RemoveLink { .. }
        | Command::CountDownload { .. }
        | Command::HoldLease { .. }
        | Command::DropLease { .. }
        | Command::Collect { .. }
        | Command::RepairShards { .. }
        | Command::PutDevice { .. }
        | Command::ReplaceDevice { .. }
        | Command::ResumeCollection
        | Command::RaiseClusterVersion { .. }
        | Command::MakeToken { .. }
        | Command::RevokeHost { .. }
        | Command::SetDuty { .. }
        | Command::Reweigh { .. }
        | Command::AllowReplacement { .. }
        | Command::PlacePack { .. }
        | Command::SettlePg { .. }
        | Command::RestoreShards { .. }
        | Command::ChangeDuty { .. }
        | Command::SetSettings { .. }
        | Command::DropAdminToken { .. }
        | Command::ChangeRoles { .. } => KEY_BYTES_MAX,
    };
    FRAME + variable
}

fn extra_size(extra: &Extra) -> usize {
    let pairs = extra.tags.iter().map(|(name, value)| name.len() + value.len());
    let documents = extra.documents.iter().map(|(name, text)| name.len() + text.len());
    extra.owner.len() + pairs.chain(documents).map(|bytes| bytes + 8).sum::<usize>()
}

fn attributes_size(attributes: &Attributes) -> usize {
    let fixed = [
        &attributes.content_type,
        &attributes.cache_control,
        &attributes.content_disposition,
        &attributes.content_encoding,
        &attributes.content_language,
        &attributes.expires,
    ];
    let fixed: usize = fixed.into_iter().flatten().map(String::len).sum();
    fixed + attributes.user.iter().map(|(name, value)| name.len() + value.len() + 8).sum::<usize>()
}
