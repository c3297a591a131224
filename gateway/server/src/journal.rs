//! What follows buckets' journals: every member runs this, and the one that leads does it.
//!
//! A follower reads a bucket's changes in their order, from a cursor that is kept in the metadata and moves once they were
//! taken. What was taken is read again where a member stopped in between: at least once, and in order for each key.

use holdfast_core::ids::BucketId;
use holdfast_meta_raft_machine::{
    ask::{ConfiguredBuckets, CursorOf, HeaderNow, JournalFrom, LookAt, VersionsOf},
    command::{Command, Request},
    records::{Bucket, BucketConfig, Extra, JournalRecord, Version},
};
use holdfast_meta_raft_server::{MetaError, MetaHandle};
use std::{
    collections::{BTreeMap, BTreeSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    time::Duration,
};
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

/// How often a journal is looked at, and how often it is looked for buckets that nobody follows.
const PACE: Duration = Duration::from_millis(200);
const PACE_OF_BUCKETS: Duration = Duration::from_secs(1);

/// Keys that are worked on at the same time; the changes of each go one after another.
const LANES: u64 = 8;

/// The pause after something was not taken, and the longest one after many.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Knows who follows a bucket's journal.
pub trait Follows: Send + Sync {
    /// The followers that the bucket asks for, as it is configured.
    fn followers(&self, bucket: &Bucket, config: &BucketConfig) -> Vec<Box<dyn Follower>>;
}

/// A reader of one bucket's journal. It is of one configuration of the bucket, and ends with it.
#[async_trait::async_trait]
pub trait Follower: Send {
    /// Its cursor's name, which no other follower of the bucket has.
    fn cursor(&self) -> &str;

    /// How many records are read at once.
    fn batch(&self) -> u32;

    /// Does what records ask for.
    ///
    /// # Errors
    /// Where the metadata cannot be asked. The page is read again later, as for what [`Taken`] leaves.
    async fn take(&mut self, page: &Page) -> Result<Taken, MetaError>;
}

/// Records of a journal that were read at once, one at least, each with its version where that is still there.
pub struct Page {
    pub from: u64,
    pub records: Vec<(u64, JournalRecord)>,
    pub versions: Vec<Option<(Version, Extra)>>,
    /// The number of the change of identities when they were read.
    pub identities: u64,
}

/// A record of a journal.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    pub number: u64,
    pub record: &'a JournalRecord,
    pub version: Option<&'a (Version, Extra)>,
}

/// What became of a page.
#[derive(Default)]
pub struct Taken {
    /// The first record that was not taken, where there is one.
    pub refused: Option<u64>,
    /// What is kept of it in the metadata before the cursor moves, and after it.
    pub before: Vec<Request>,
    pub after: Vec<Request>,
}

impl Page {
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.records.iter().zip(&self.versions).map(|((number, record), version)| Entry {
            number: *number,
            record,
            version: version.as_ref(),
        })
    }

    /// Where the cursor is then.
    pub fn position(&self, refused: Option<u64>) -> u64 {
        let behind = || self.records.last().map_or(self.from, |(last, _)| last + 1);
        refused.unwrap_or_else(behind)
    }
}

/// What may be worked on at the same time: each key's items, in order, are in one of these lanes.
pub fn lanes<'a, T>(items: impl IntoIterator<Item = (&'a [u8], T)>) -> Vec<Vec<T>> {
    let mut lanes: Vec<Vec<T>> = (0..LANES).map(|_| Vec::new()).collect();
    for (key, item) in items {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        lanes[(hasher.finish() % LANES) as usize].push(item);
    }
    lanes
}

/// All followers of all buckets, while the member in this process leads.
pub struct Journals {
    meta: MetaHandle,
    kinds: Vec<Box<dyn Follows>>,
}

/// The followers of one bucket, by cursor. They end with what started them.
#[derive(Default)]
struct Running {
    /// The number of the bucket's configuration, once all that it asks for runs.
    complete: Option<u64>,
    followers: BTreeMap<String, JoinHandle<()>>,
}

impl Running {
    /// Forgets followers that have ended: what ended one may need another. Whether any had.
    fn reap(&mut self) -> bool {
        let before = self.followers.len();
        self.followers.retain(|_, follower| !follower.is_finished());
        let ended = self.followers.len() != before;
        if ended {
            self.complete = None;
        }
        ended
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.followers.values().for_each(JoinHandle::abort);
    }
}

impl Journals {
    pub fn new(meta: MetaHandle, kinds: Vec<Box<dyn Follows>>) -> Self {
        Self { meta, kinds }
    }

    /// Works until the future is dropped.
    ///
    /// # Errors
    /// Where the member stops.
    pub async fn run(self) -> Result<(), MetaError> {
        let mut ticks = interval(PACE_OF_BUCKETS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut running: BTreeMap<BucketId, Running> = BTreeMap::new();
        let mut seen = 0;
        loop {
            ticks.tick().await;
            if !self.meta.status().leads {
                running.clear();
                seen = 0;
                continue;
            }
            for of_bucket in running.values_mut() {
                if of_bucket.reap() {
                    seen = 0;
                }
            }
            match self.look(&mut seen, &mut running).await {
                Ok(()) => {}
                Err(MetaError::Stopped) => return Err(MetaError::Stopped),
                Err(error) => tracing::warn!(%error, "journals are followed later"),
            }
        }
    }

    /// Starts the followers that are asked for and do not run.
    async fn look(&self, seen: &mut u64, running: &mut BTreeMap<BucketId, Running>) -> Result<(), MetaError> {
        let index = self.meta.ask(HeaderNow {}).await?.map_or(0, |header| header.applied_index);
        if index == *seen {
            return Ok(());
        }
        let buckets = self.meta.ask(ConfiguredBuckets {}).await?;
        let ids: BTreeSet<BucketId> = buckets.iter().map(|(bucket, _)| bucket.id).collect();
        running.retain(|id, of_bucket| ids.contains(id) || !of_bucket.followers.is_empty());
        for (bucket, config) in buckets {
            let of_bucket = running.entry(bucket.id).or_default();
            if of_bucket.complete == Some(config.number) {
                continue;
            }
            for follower in self.kinds.iter().flat_map(|kind| kind.followers(&bucket, &config)) {
                of_bucket.followers.entry(follower.cursor().to_owned()).or_insert_with(|| {
                    let (meta, bucket) = (self.meta.clone(), bucket.clone());
                    tokio::spawn(Reader { meta, bucket, config: config.number, follower }.run())
                });
            }
            of_bucket.complete = Some(config.number);
        }
        *seen = index;
        Ok(())
    }
}

/// Reads a journal for a follower.
struct Reader {
    meta: MetaHandle,
    bucket: Bucket,
    /// The number of the bucket's configuration that the follower is of.
    config: u64,
    follower: Box<dyn Follower>,
}

/// What became of a look at the journal.
enum Look {
    Taken,
    Nothing,
    /// Something was not taken.
    Refused,
    /// The bucket's configuration is another one now.
    Outdated,
}

impl Reader {
    /// Has all taken that is new, and tries again what is not, until the bucket wants otherwise.
    async fn run(mut self) {
        let mut ticks = interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pause = PAUSE;
        while self.meta.status().leads {
            match self.look().await {
                Ok(Look::Taken) => pause = PAUSE,
                Ok(Look::Nothing) => drop(ticks.tick().await),
                Ok(Look::Outdated) => return,
                // Whoever does not take it is given time.
                Ok(Look::Refused) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(error) => {
                    let (bucket, cursor) = (&self.bucket.name, self.follower.cursor());
                    tracing::warn!(bucket, cursor, %error, "a journal is followed later");
                    return;
                }
            }
        }
    }

    /// Has a few records taken.
    async fn look(&mut self) -> Result<Look, MetaError> {
        let (bucket, name) = (self.bucket.id, self.follower.cursor().to_owned());
        let from = self.meta.ask(CursorOf { bucket, name: name.clone() }).await?.unwrap_or(0);
        let records =
            self.meta.ask(JournalFrom { bucket, from, limit: self.follower.batch() }).await?.records;
        // The bucket may have been configured otherwise meanwhile.
        let seen = Some((bucket, self.config));
        let look = self.meta.ask(LookAt { bucket: self.bucket.name.clone(), seen, key: None }).await?;
        if look.bucket.is_none_or(|found| found.id != bucket) || look.config.is_some() {
            return Ok(Look::Outdated);
        }
        let Some(&(first, _)) = records.first() else { return Ok(Look::Nothing) };
        if first > from {
            let (bucket, lost) = (&self.bucket.name, first - from);
            tracing::error!(
                bucket,
                cursor = name,
                lost,
                "the journal overtook a follower: it never sees these changes"
            );
        }
        let wanted = records.iter().map(|(_, record)| (record.node, record.version)).collect();
        let versions = self.meta.ask(VersionsOf { bucket, wanted }).await?;
        let page = Page { from, records, versions, identities: look.identities };
        let taken = self.follower.take(&page).await?;
        let (position, mut requests) = (page.position(taken.refused), taken.before);
        if position > from {
            requests.push(Request::idempotent(Command::NoteCursor { bucket, name, position }));
        }
        requests.extend(taken.after);
        if !requests.is_empty() {
            // What is kept of versions that are gone meanwhile is refused, and that is well.
            let _outcomes = self.meta.submit(requests).await?;
        }
        Ok(if taken.refused.is_some() { Look::Refused } else { Look::Taken })
    }
}
