//! Lifecycle rules, carried out: every member runs this, and the one that leads does it.
//!
//! Each pass walks the buckets that have rules. What it removes or moves, the metadata checks again: a current version goes
//! only if it is still the one that was looked at, and what is locked stays.

pub mod rules;

use crate::{
    clock::unix_ms,
    engine::{Engine, EngineError},
    s3::{STORAGE_CLASS, lifecycle_of, replication},
};
use futures::future::join_all;
use holdfast_core::ids::{PoolId, VersionId};
use holdfast_meta_raft_machine::{
    ask::{ConfiguredBuckets, DocumentsOf, LookAt, LookedUp, UploadsAfter, VersionListing},
    command::{Command, Condition, Demand, Outcome, Precondition, Rejection, Request, VersionChange},
    list::{ListRequest, VersionItem, VersionShown},
    records::{Bucket, BucketConfig, Content},
};
use holdfast_meta_raft_server::{MetaError, MetaHandle};
use rules::{Action, Day, Keeping, Rule, actions, gives_up, moves};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::{MissedTickBehavior, interval};

/// Versions and uploads that are looked at together.
const PAGE: usize = 1000;

/// The longest and the shortest time between two passes.
const PACE_MAX: Duration = Duration::from_secs(60 * 60);
const PACE_MIN: Duration = Duration::from_millis(500);

/// The document of a bucket that says how far apart its versions are, in seconds; and that of a version with a name, which
/// no rule takes.
pub const SPACING: &str = "spacing";
pub const VERSION_NAME: &str = "name";

/// Versions that are moved to another storage class at the same time.
const MOVING_MAX: usize = 4;

/// Carries out the lifecycle rules of all buckets, while the member in this process leads.
pub struct Lifecycle {
    meta: MetaHandle,
    engine: Engine,
    day: Day,
    pace: Duration,
}

impl Lifecycle {
    /// With days of this length; `engine` moves bytes.
    pub fn new(meta: MetaHandle, engine: Engine, day: Duration) -> Self {
        Self { meta, engine, day: Day(day.as_millis() as u64), pace: (day / 10).clamp(PACE_MIN, PACE_MAX) }
    }

    /// Works until the future is dropped.
    ///
    /// # Errors
    /// Where the member stops.
    pub async fn run(self) -> Result<(), MetaError> {
        let mut ticks = interval(self.pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if !self.meta.status().leads {
                continue;
            }
            match self.pass().await {
                Ok(0) => {}
                Ok(done) => tracing::info!(done, "lifecycle rules removed or moved versions and uploads"),
                Err(MetaError::Stopped) => return Err(MetaError::Stopped),
                Err(error) => tracing::warn!(%error, "lifecycle rules are carried out later"),
            }
        }
    }

    async fn pass(&self) -> Result<u64, MetaError> {
        let mut done = 0;
        for (bucket, config) in self.meta.ask(ConfiguredBuckets {}).await? {
            let rules = lifecycle_of(&config);
            if rules.is_empty() {
                continue;
            }
            let result = async {
                if rules.iter().any(Rule::moves) {
                    // A pool that was made a moment ago is where its class goes: a label alone would stay one.
                    self.engine.refresh_placement().await?;
                }
                let versions = self.versions(&bucket, &config, &rules).await?;
                Ok(versions + self.uploads(&bucket, &config, &rules).await?)
            };
            match result.await {
                Ok(removed) => done += removed,
                Err(MetaError::Stopped) => return Err(MetaError::Stopped),
                Err(error) => {
                    tracing::warn!(bucket = bucket.name, %error, "its lifecycle rules wait for the next pass")
                }
            }
        }
        Ok(done)
    }

    /// Whether a bucket's rules are still those that were read, and this member still leads.
    async fn goes_on(&self, bucket: &Bucket, config: &BucketConfig) -> Result<bool, MetaError> {
        let seen = Some((bucket.id, config.number));
        let look = self.meta.ask(LookAt { bucket: bucket.name.clone(), seen, key: None }).await?;
        Ok(self.meta.status().leads && look.bucket.is_some() && look.config.is_none())
    }

    async fn versions(
        &self,
        bucket: &Bucket,
        config: &BucketConfig,
        rules: &[Rule],
    ) -> Result<u64, MetaError> {
        let (mut done, mut after, mut marker) = (0, Vec::new(), None);
        // A key's history may go on on the next page.
        let mut history: Vec<VersionShown> = Vec::new();
        loop {
            let wanted = ListRequest { after: after.clone(), max: PAGE, ..ListRequest::default() };
            let question = VersionListing { bucket: bucket.id, wanted, after: marker };
            let page = self.meta.ask(question).await?;
            let mut whole = Vec::new();
            for item in page.items {
                let VersionItem::Version(shown) = item else { continue };
                (after, marker) = (shown.key.clone(), Some(shown.name));
                if history.first().is_some_and(|first| first.key != shown.key) {
                    whole.push(std::mem::take(&mut history));
                }
                history.push(shown);
            }
            if !page.truncated {
                whole.push(std::mem::take(&mut history));
            }
            let held = self.held(bucket, config, &whole).await?;
            let keeping = self.keeping(bucket, config, &whole).await?;
            let commands =
                whole.iter().flat_map(|history| self.decide(bucket, (rules, &keeping), history, &held));
            let commands = commands.collect();
            if !self.goes_on(bucket, config).await? {
                return Ok(done);
            }
            done += self.order(commands).await?;
            if rules.iter().any(Rule::moves) {
                done += self.move_versions((bucket, config), rules, whole, &held).await?;
            }
            if !page.truncated {
                return Ok(done);
            }
        }
    }

    /// What is kept whatever rules say, and which versions are too many.
    async fn keeping(
        &self,
        bucket: &Bucket,
        config: &BucketConfig,
        histories: &[Vec<VersionShown>],
    ) -> Result<Keeping, MetaError> {
        let spacing = config.documents.get(SPACING).and_then(|text| text.parse::<u64>().ok());
        let names = self.documents(bucket, histories, VERSION_NAME).await?;
        let all = histories.iter().flatten().zip(names);
        Ok(Keeping {
            spacing_ms: spacing.map(|seconds| seconds.saturating_mul(1000)),
            pinned: all.filter_map(|(shown, name)| name.map(|_| shown.id)).collect(),
        })
    }

    /// Versions that are still to be copied to another cluster: no rule touches them before.
    async fn held(
        &self,
        bucket: &Bucket,
        config: &BucketConfig,
        histories: &[Vec<VersionShown>],
    ) -> Result<BTreeSet<VersionId>, MetaError> {
        if !config.documents.contains_key(replication::DOCUMENT) {
            return Ok(BTreeSet::new());
        }
        let statuses = self.documents(bucket, histories, replication::STATUS).await?;
        let all = histories.iter().flatten().zip(statuses);
        let waiting = |status: Option<String>| {
            status
                .is_some_and(|status| [replication::PENDING, replication::FAILED].contains(&status.as_str()))
        };
        Ok(all.filter_map(|(shown, status)| waiting(status).then_some(shown.id)).collect())
    }

    async fn documents(
        &self,
        bucket: &Bucket,
        histories: &[Vec<VersionShown>],
        name: &str,
    ) -> Result<Vec<Option<String>>, MetaError> {
        let of = |shown: &VersionShown| (shown.key.clone(), Some(shown.name));
        let wanted = histories.iter().flatten().map(of).collect();
        self.meta.ask(DocumentsOf { bucket: bucket.id, wanted, name: name.to_owned() }).await
    }

    /// Moves what is due of the histories of keys to other storage classes.
    async fn move_versions(
        &self,
        (bucket, config): (&Bucket, &BucketConfig),
        rules: &[Rule],
        histories: Vec<Vec<VersionShown>>,
        held: &BTreeSet<VersionId>,
    ) -> Result<u64, MetaError> {
        let mut classes = self.documents(bucket, &histories, STORAGE_CLASS).await?.into_iter();
        let mut due = Vec::new();
        for history in &histories {
            let classes: Vec<_> = classes.by_ref().take(history.len()).collect();
            let moves = moves(rules, history, &classes, unix_ms(), self.day);
            let moves = moves.into_iter().filter(|to| !held.contains(&history[to.at].id));
            due.extend(moves.map(|to| (&history[to.at], classes[to.at].clone(), to.class)));
        }
        let mut done = 0;
        for some in due.chunks(MOVING_MAX) {
            if !self.goes_on(bucket, config).await? {
                return Ok(done);
            }
            let mut moving = Vec::new();
            for (shown, from, class) in some {
                moving.push(self.move_version(bucket, shown, from.as_ref(), class));
            }
            for ((shown, _, class), moved) in some.iter().zip(join_all(moving).await) {
                match moved {
                    Ok(moved) => done += u64::from(moved),
                    Err(EngineError::Meta(error)) => return Err(error),
                    Err(error) => {
                        let key = String::from_utf8_lossy(&shown.key);
                        tracing::warn!(bucket = bucket.name, %key, class, %error, "a version is moved later");
                    }
                }
            }
        }
        Ok(done)
    }

    /// Whether the version was moved: another change may have been faster.
    async fn move_version(
        &self,
        bucket: &Bucket,
        shown: &VersionShown,
        from: Option<&String>,
        class: &str,
    ) -> Result<bool, EngineError> {
        let (id, key, name) = (bucket.id, shown.key.clone(), shown.name);
        let question =
            LookAt { bucket: bucket.name.clone(), seen: None, key: Some((key.clone(), Some(name))) };
        let LookedUp::Found(object) = self.meta.ask(question).await?.object else { return Ok(false) };
        let expired = object.latest != shown.latest;
        if object.version.id != shown.id || expired || object.extra.documents.get(STORAGE_CLASS) != from {
            return Ok(false);
        }
        let pool = self.engine.pool_for(Some(class));
        let moved = match &object.version.content {
            // A class without a pool of its own is a name alone: the bytes stay where they are.
            Content::Segments(segments)
                if pool != PoolId::FIRST && !self.engine.is_in(&object.version.content, pool).await? =>
            {
                let command = |segments| Command::MoveContent {
                    bucket: id,
                    key,
                    version: name,
                    judged: shown.id,
                    segments,
                    document: STORAGE_CLASS.to_owned(),
                    from: from.cloned(),
                    to: Some(class.to_owned()),
                };
                self.engine.transfer(segments, pool, command).await
            }
            Content::Segments(_) | Content::Inline => {
                let change = VersionChange::Document(STORAGE_CLASS.to_owned(), Some(class.to_owned()));
                let (version, judged) = (Some(name), shown.id);
                self.engine.run(Command::ChangeVersion { bucket: id, key, version, judged, change }).await
            }
        };
        match moved {
            Ok(_) => Ok(true),
            Err(
                EngineError::Gone
                | EngineError::Rejected(
                    Rejection::PreconditionFailed | Rejection::NoSuchKey | Rejection::NoSuchVersion,
                ),
            ) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What is to be removed of a key's history.
    fn decide(
        &self,
        bucket: &Bucket,
        (rules, keeping): (&[Rule], &Keeping),
        history: &[VersionShown],
        held: &BTreeSet<VersionId>,
    ) -> Vec<Command> {
        let Some(newest) = history.first() else { return Vec::new() };
        let mut commands = Vec::new();
        for action in actions(rules, keeping, history, unix_ms(), self.day) {
            let (version, demand, precondition) = match action {
                Action::Expire if held.contains(&newest.id) => continue,
                Action::Remove(_, id) if held.contains(&id) => continue,
                // Only the one that was looked at.
                Action::Expire => {
                    let precondition = Precondition {
                        condition: Condition::Matches(newest.etag),
                        size: Some(newest.bytes),
                        modified_s: Some(newest.modified_ms / 1000),
                    };
                    (None, Demand::None, precondition)
                }
                Action::Remove(name, id) => (Some(name), Demand::Noncurrent(id), Precondition::default()),
                Action::Uncover(name, id) => (Some(name), Demand::LastMarker(id), Precondition::default()),
            };
            commands.push(Command::DeleteVersion {
                bucket: bucket.id,
                key: newest.key.clone(),
                version,
                precondition,
                bypass: false,
                owner: String::new(),
                demand,
            });
        }
        commands
    }

    async fn uploads(
        &self,
        bucket: &Bucket,
        config: &BucketConfig,
        rules: &[Rule],
    ) -> Result<u64, MetaError> {
        let (mut done, mut after) = (0, None);
        loop {
            let question = UploadsAfter { bucket: bucket.id, after: after.take(), limit: PAGE as u32 };
            let page = self.meta.ask(question).await?;
            let Some((key, id, _)) = page.last() else { return Ok(done) };
            if !self.goes_on(bucket, config).await? {
                return Ok(done);
            }
            after = Some((key.clone(), *id));
            let old = page
                .into_iter()
                .filter(|(key, _, upload)| gives_up(rules, key, upload.created_ms, unix_ms(), self.day));
            let abort = |(key, id, _)| Command::AbortUpload { bucket: bucket.id, key, id };
            done += self.order(old.map(abort).collect()).await?;
        }
    }

    /// How many of the commands did something.
    async fn order(&self, commands: Vec<Command>) -> Result<u64, MetaError> {
        if commands.is_empty() {
            return Ok(0);
        }
        let requests = commands.into_iter().map(Request::idempotent).collect();
        let outcomes = self.meta.submit(requests).await?;
        let mut done = 0;
        for outcome in outcomes {
            match outcome {
                // Somebody was faster, or holds it.
                Outcome::Rejected(
                    Rejection::PreconditionFailed
                    | Rejection::NoSuchKey
                    | Rejection::NoSuchUpload
                    | Rejection::Locked,
                ) => {}
                Outcome::Rejected(rejection) => {
                    tracing::warn!(%rejection, "a lifecycle rule was not carried out")
                }
                Outcome::Done
                | Outcome::Bucket(_)
                | Outcome::Committed(_)
                | Outcome::Deleted { .. }
                | Outcome::Registered { .. }
                | Outcome::Collected(_)
                | Outcome::Host(_)
                | Outcome::Settling { .. }
                | Outcome::Changed(_)
                | Outcome::Removed(_) => done += 1,
            }
        }
        Ok(done)
    }
}
