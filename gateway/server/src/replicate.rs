//! Buckets copied to other clusters.
//!
//! What was written, and says of itself that it is to be copied, is sent as the bucket's journal tells of it, and told as
//! copied. Where a member stops in between, what it sent last is sent again, but for what the other cluster has already: a
//! copy names the version that it is of. The versions of a key go one after another.

mod copy;
mod remote;

pub use remote::{Fault, Remote, RemoteBucket};

use crate::{
    journal::{Entry, Follower, Follows, Page, Taken, lanes},
    s3::{
        BucketView, Encryption, S3Door, name_of,
        replication::{
            CURSOR, DOCUMENT, FAILED, PENDING, REPLICA, Rule, SOURCE_HEADER, STATUS, STATUS_HEADER,
            rules_for, source_of,
        },
        show,
    },
};
use copy::Outgoing;
use futures::future::join_all;
use holdfast_meta_raft_machine::{
    ask::{IdentitiesNow, VersionListing, VersionsOf},
    command::{Command, Request, VersionChange},
    list::{ListRequest, VersionItem},
    records::{Bucket, BucketConfig, Change, Extra, JournalRecord, Version},
};
use holdfast_meta_raft_server::{MetaError, MetaHandle};
use reqwest::{Body, Method};
use std::{collections::BTreeMap, sync::Arc};

/// Records that are read at once.
const BATCH: u32 = 64;

/// So often an object is tried that is not taken though all else is well.
const TRIES_MAX: u32 = 10;

const COMPLETED: &str = "COMPLETED";

/// Copies buckets to other clusters.
pub struct Replicator {
    meta: MetaHandle,
    door: S3Door,
    cluster: String,
}

/// Copies what one bucket's journal tells of.
struct Copier {
    meta: MetaHandle,
    door: S3Door,
    bucket: BucketView,
    /// The buckets that are copied to, as the remotes were at this change of identities.
    targets: (u64, Targets),
    /// Something may have been sent of which nobody knows.
    unsure: bool,
    /// How often records were tried in vain.
    tries: BTreeMap<u64, u32>,
    cluster: String,
}

/// By remote and bucket; `None` where there is no such remote for the bucket's owner.
type Targets = BTreeMap<(String, String), Option<Arc<RemoteBucket>>>;

/// What a record of the journal asks for.
struct Task<'a> {
    number: u64,
    record: &'a JournalRecord,
    version: &'a Version,
    extra: &'a Extra,
}

impl Task<'_> {
    /// Whether a key has nothing any more, there as here.
    fn goes_away(&self) -> bool {
        self.record.change == Change::Delete
    }
}

/// Where a task was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copied {
    /// It is not about anything that is copied.
    Never,
    /// No rule asks for it any more.
    Nowhere,
    Everywhere,
}

/// What became of the tasks of some keys.
#[derive(Default)]
struct LaneDone {
    /// What is told of versions from now on.
    told: Vec<Request>,
    /// The first record that has to wait.
    refused: Option<u64>,
}

impl Replicator {
    /// `door` reads what is copied; copies say that they are of this `cluster`.
    pub fn new(meta: MetaHandle, door: S3Door, cluster: String) -> Self {
        Self { meta, door, cluster }
    }
}

impl Follows for Replicator {
    fn followers(&self, bucket: &Bucket, config: &BucketConfig) -> Vec<Box<dyn Follower>> {
        if !config.documents.contains_key(DOCUMENT) {
            return Vec::new();
        }
        vec![Box::new(Copier {
            meta: self.meta.clone(),
            door: self.door.clone(),
            bucket: BucketView::new(bucket.clone(), config.clone()),
            targets: (0, Targets::new()),
            unsure: true,
            tries: BTreeMap::new(),
            cluster: self.cluster.clone(),
        })]
    }
}

#[async_trait::async_trait]
impl Follower for Copier {
    fn cursor(&self) -> &str {
        CURSOR
    }

    fn batch(&self) -> u32 {
        BATCH
    }

    /// Copies what a few records tell of.
    async fn take(&mut self, page: &Page) -> Result<Taken, MetaError> {
        self.refresh_targets(page.identities).await?;
        let tasks = page.entries().filter_map(|Entry { number, record, version }| {
            let (version, extra) = version.as_ref()?;
            Some((record.key.as_slice(), Task { number, record, version, extra }))
        });
        let lanes = lanes(tasks);
        let done = join_all(lanes.iter().map(|lane| self.work(lane))).await;
        let refused = done.iter().filter_map(|lane| lane.refused).min();
        for number in done.iter().filter_map(|lane| lane.refused) {
            *self.tries.entry(number).or_default() += 1;
        }
        self.tries = self.tries.split_off(&page.position(refused));
        self.unsure = refused.is_some();
        let before = done.into_iter().flat_map(|lane| lane.told).collect();
        Ok(Taken { refused, before, ..Taken::default() })
    }
}

impl Copier {
    /// Reads the remotes again, where identities have changed.
    async fn refresh_targets(&mut self, identities: u64) -> Result<(), MetaError> {
        if self.targets.0 == identities {
            return Ok(());
        }
        let (number, records) = self.meta.ask(IdentitiesNow {}).await?;
        let owner = &self.bucket.config.owner;
        let find = |rule: &Rule| {
            let remote = Remote::among(&records, &rule.remote).filter(|remote| remote.serves(owner))?;
            let target = RemoteBucket::new(&remote, &rule.bucket);
            target
                .inspect_err(|fault| tracing::warn!(remote = rule.remote, %fault, "a remote is no use"))
                .ok()
        };
        let name = |rule: &Rule| (rule.remote.clone(), rule.bucket.clone());
        let found = self.bucket.replication.iter().map(|rule| (name(rule), find(rule).map(Arc::new)));
        self.targets = (number, found.collect());
        Ok(())
    }

    /// Does tasks in order, up to the first that has to wait.
    async fn work(&self, lane: &[Task<'_>]) -> LaneDone {
        let mut done = LaneDone::default();
        for task in lane {
            let status = match self.copy(task).await {
                Ok(Copied::Never) => continue,
                Ok(Copied::Nowhere) => None,
                Ok(Copied::Everywhere) => Some(COMPLETED),
                Err(fault) => {
                    let (bucket, key) = (&self.bucket.bucket.name, String::from_utf8_lossy(&task.record.key));
                    tracing::warn!(bucket, %key, %fault, "an object was not copied");
                    if !fault.is_final() && !self.is_hopeless(task).await {
                        done.refused = Some(task.number);
                        return done;
                    }
                    Some(FAILED)
                }
            };
            done.told.extend(self.tell(task, status));
        }
        done
    }

    /// It was tried often enough, and nothing else is wrong with where it goes.
    async fn is_hopeless(&self, task: &Task<'_>) -> bool {
        if self.tries.get(&task.number).is_none_or(|tries| *tries < TRIES_MAX) {
            return false;
        }
        let targets = self.targets.1.values();
        let well = join_all(targets.map(async |target| match target {
            Some(target) => target.keeps_versions().await.is_ok_and(|keeps| keeps),
            None => false,
        }));
        well.await.into_iter().all(|is_well| is_well)
    }

    /// What is told of a version from now on; of what goes away there is nothing.
    fn tell(&self, task: &Task<'_>, status: Option<&str>) -> Option<Request> {
        let version = Some(name_of(task.version.id, task.extra));
        let change = VersionChange::Document(STATUS.to_owned(), status.map(str::to_owned));
        (!task.goes_away()).then(|| {
            Request::idempotent(Command::ChangeVersion {
                bucket: self.bucket.bucket.id,
                key: task.record.key.clone(),
                version,
                judged: task.version.id,
                change,
            })
        })
    }

    /// Copies what a task asks for to all that want it. One that does not take it keeps no other from having it.
    async fn copy(&self, task: &Task<'_>) -> Result<Copied, Fault> {
        // Keys that are no text came by another door, and S3 could not name them.
        let Ok(key) = std::str::from_utf8(&task.record.key) else { return Ok(Copied::Never) };
        let is_marker = task.extra.marker;
        let status = task.extra.documents.get(STATUS).map(String::as_str);
        let wanted = match task.record.change {
            Change::Put => status == Some(PENDING) && !is_marker,
            // One that was deleted for good is not there any more: a version that is has got another key.
            Change::Delete => is_marker || status != Some(REPLICA),
            Change::Move => !is_marker && status != Some(REPLICA),
            // Directories are no objects, and what a file is beside its bytes is for those who sync it.
            Change::Make | Change::Vanish | Change::Describe => false,
        };
        if !wanted {
            return Ok(Copied::Never);
        }
        let goes_away = task.goes_away();
        let opening = match goes_away {
            true => None,
            false => Encryption::of_copy(&self.door, task.extra)
                .await
                .map_err(|error| Fault::Source(error.to_string()))?,
        };
        let goes = |rule: &&Rule| match goes_away {
            true => rule.markers,
            false => opening.as_ref().is_none_or(|encryption| encryption.may_be_copied(&self.bucket, rule)),
        };
        let (mut copied, mut fault): (_, Option<Fault>) = (Copied::Nowhere, None);
        for rule in rules_for(&self.bucket.replication, key, &task.extra.tags).into_iter().filter(goes) {
            let target = self.targets.1.get(&(rule.remote.clone(), rule.bucket.clone()));
            let sent = match target.and_then(Option::as_ref) {
                None => {
                    Err(Fault::Setup(format!("there is no remote {} for this bucket's owner", rule.remote)))
                }
                Some(target) if goes_away => self.delete(task, key, rule, target).await,
                Some(target) => self.put(task, key, rule, target, opening.as_ref()).await,
            };
            match sent {
                Ok(()) => copied = Copied::Everywhere,
                // What can be waited for counts more than what is final.
                Err(new) if fault.as_ref().is_none_or(Fault::is_final) => fault = Some(new),
                Err(_) => {}
            }
        }
        fault.map_or(Ok(copied), Err)
    }

    /// What copies of this bucket's versions say of themselves, before the version.
    fn origin(&self) -> String {
        format!("{}/{}/", self.cluster, self.bucket.bucket.name)
    }

    /// Deletes a key there, if what it names is a copy of an older version of it, or what the deleted version here was a
    /// copy of. Everything else was written later, or there: two clusters that copy each other must not hide it.
    async fn delete(
        &self,
        task: &Task<'_>,
        key: &str,
        rule: &Rule,
        target: &RemoteBucket,
    ) -> Result<(), Fault> {
        let Some(there) = target.head(key).await? else {
            // A bucket that is missing looks the same.
            return target.keeps_versions().await.map(drop);
        };
        let text = |name: &str| there.get(name).and_then(|value| value.to_str().ok());
        let (origin, marker) = (self.origin(), show(name_of(task.version.id, task.extra)));
        let copied = text(SOURCE_HEADER).and_then(|source| source.strip_prefix(&origin));
        // It is the same where it has another key here now.
        let is_older = copied.is_some_and(|version| version <= marker.as_str());
        let source = match is_older {
            true => None,
            false => self.hidden_source(task).await.map_err(|error| Fault::Source(error.to_string()))?,
        };
        let is_source = text("x-amz-version-id")
            .zip(source)
            .is_some_and(|(version, source)| source.ends_with(&format!("/{}/{version}", rule.bucket)));
        if !is_older && !is_source {
            return Ok(());
        }
        let pairs = vec![(STATUS_HEADER.to_owned(), REPLICA.to_owned())];
        target.send(Method::DELETE, key, &[], pairs, (Body::default(), 0)).await.map(drop)
    }

    /// What the version below a delete marker is a copy of.
    async fn hidden_source(&self, task: &Task<'_>) -> Result<Option<String>, MetaError> {
        let (bucket, key) = (self.bucket.bucket.id, &task.record.key);
        let wanted =
            ListRequest { prefix: key.clone(), after: key.clone(), max: 1, ..ListRequest::default() };
        let after = Some(name_of(task.version.id, task.extra));
        let page = self.meta.ask(VersionListing { bucket, wanted, after }).await?;
        let Some(VersionItem::Version(below)) = page.items.first().filter(|item| match item {
            VersionItem::Version(shown) => shown.key == *key && !shown.marker,
            VersionItem::CommonPrefix(_) => false,
        }) else {
            return Ok(None);
        };
        let wanted = vec![(task.record.node, below.id)];
        let found = self.meta.ask(VersionsOf { bucket, wanted }).await?.into_iter().next().flatten();
        Ok(found.and_then(|(_, extra)| source_of(&extra).map(str::to_owned)))
    }

    async fn put(
        &self,
        task: &Task<'_>,
        key: &str,
        rule: &Rule,
        target: &RemoteBucket,
        opening: Option<&Encryption>,
    ) -> Result<(), Fault> {
        let Task { version, extra, .. } = *task;
        let (origin, name) = (self.origin(), show(name_of(version.id, extra)));
        if self.unsure {
            let known = match target.head(key).await {
                // Who may not look sends it again.
                Err(Fault::Refused(403, _)) => None,
                other => other?,
            };
            let source = known.as_ref().and_then(|headers| headers.get(SOURCE_HEADER)?.to_str().ok());
            // Versions go in order: a later one there has this one below it.
            if source
                .and_then(|source| source.strip_prefix(&origin))
                .is_some_and(|there| there >= name.as_str())
            {
                return Ok(());
            }
        }
        let outgoing = Outgoing {
            door: &self.door,
            bucket: &self.bucket.bucket,
            key,
            version,
            extra,
            seal: opening.map(|encryption| encryption.seal.clone()),
            source: origin + &name,
            storage_class: rule.storage_class.as_deref(),
            encryption: opening.and_then(|encryption| encryption.asked_of(rule.kms_key.as_deref())),
        };
        outgoing.send(target).await
    }
}
