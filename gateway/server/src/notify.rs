//! Events of buckets, told to webhooks: every member runs this, and the one that leads does it.
//!
//! Events are read off a bucket's journal, in its order, from a cursor that is kept in the metadata and moves once they were
//! taken. What was taken is told again where a member stopped in between: at least once, and in order for each key.

use crate::{
    clock::{rfc3339, unix_ms},
    outbound,
    s3::{NOTIFICATION_MADE as MADE, Subscription, cursors, subscriptions, version_id},
};
use futures::future::join_all;
use holdfast_meta_raft_machine::{
    ask::{ConfiguredBuckets, CursorOf, HeaderNow, IdentitiesNow, JournalFrom, LookAt, VersionsOf},
    command::{Command, Request},
    records::{Bucket, BucketConfig, Change, Extra, JournalRecord, Version},
};
use holdfast_meta_raft_server::{MetaError, MetaHandle};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    time::Duration,
};
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

/// Why no requests can be sent.
pub type ClientError = reqwest::Error;

/// How often a journal is looked at, and how often it is looked for subscriptions that nobody serves.
const PACE: Duration = Duration::from_millis(200);
const PACE_OF_BUCKETS: Duration = Duration::from_secs(1);

/// Records that are read at once.
const BATCH: u32 = 256;

/// Keys whose events are told at the same time; the events of each go one after another.
const LANES: u64 = 8;

/// How long a webhook may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The pause after a webhook did not take an event, and the longest one after many.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What an event's key keeps as it is.
const KEY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'*');

/// A webhook of operators', as the metadata keeps it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    pub name: String,
    pub url: String,
    /// Sent as a bearer's, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl Webhook {
    /// Where its record is among the identities.
    pub fn path(name: &str) -> String {
        format!("webhook/{name}")
    }
}

/// Tells webhooks what happens in buckets, while the member in this process leads.
pub struct Notifier {
    meta: MetaHandle,
    client: reqwest::Client,
}

/// A reader of one bucket's journal for one subscription: nobody waits for a webhook of somebody else.
struct Teller {
    meta: MetaHandle,
    client: reqwest::Client,
    bucket: Bucket,
    config: BucketConfig,
    subscription: Subscription,
    /// Records behind the cursor that were taken, while one before them was not.
    taken: BTreeSet<u64>,
    /// The webhook as it was at this change of identities.
    webhook: Option<(u64, Option<Webhook>)>,
}

/// What happened to a key, as S3 calls it.
struct Event<'a> {
    number: u64,
    record: &'a JournalRecord,
    name: &'static str,
    version: Option<&'a (Version, Extra)>,
    /// The record is of the version's own making, and not of one above it that went.
    is_new: bool,
}

/// What became of a batch.
enum Told {
    All,
    Nothing,
    /// The webhook did not take something.
    Refused,
    /// The bucket's configuration is another one now.
    Outdated,
}

fn name_of(record: &JournalRecord, version: Option<&(Version, Extra)>, is_new: bool) -> &'static str {
    match (record.change, version) {
        (Change::Put, _) if !is_new => "ObjectRemoved:Delete",
        (Change::Put, Some((version, _))) if version.upload.is_some() => {
            "ObjectCreated:CompleteMultipartUpload"
        }
        (Change::Put, Some((_, extra))) => match extra.documents.get(MADE).map(String::as_str) {
            Some("Copy") => "ObjectCreated:Copy",
            Some("Post") => "ObjectCreated:Post",
            Some(_) | None => "ObjectCreated:Put",
        },
        (Change::Put, None) => "ObjectCreated:Put",
        (Change::Delete, Some((_, extra))) if extra.marker && is_new => "ObjectRemoved:DeleteMarkerCreated",
        (Change::Delete, _) => "ObjectRemoved:Delete",
    }
}

/// An event as S3 writes it ("Event message structure", Amazon S3 user guide).
fn message(bucket: &Bucket, config: &BucketConfig, event: &Event<'_>, subscription: &str) -> Value {
    let key = String::from_utf8_lossy(&event.record.key).into_owned();
    let version = event.version.map(|(version, _)| version);
    let owner = |canonical: &str| crate::identity::shown(canonical).to_owned();
    let mut object = json!({
        "key": utf8_percent_encode(&key, KEY).to_string().replace("%20", "+").replace("%2F", "/"),
        "sequencer": format!("{:016X}", event.number),
    });
    if let (Some(version), true) = (version, event.name.starts_with("ObjectCreated")) {
        object["size"] = version.bytes.into();
        object["eTag"] = version.etag.to_string().into();
    }
    // Of what a delete uncovers, the version is not the one that went.
    if event.is_new && event.version.is_some_and(|(_, extra)| extra.named) {
        object["versionId"] = version_id(event.record.version).into();
    }
    json!({"Records": [{
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": crate::s3::REGION,
        "eventTime": rfc3339(version.map_or_else(unix_ms, |version| version.modified_ms)),
        "eventName": event.name,
        "userIdentity": {"principalId": owner(event.version.map_or("", |(_, extra)| &extra.owner))},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": subscription,
            "bucket": {
                "name": bucket.name,
                "ownerIdentity": {"principalId": owner(&config.owner)},
                "arn": format!("arn:aws:s3:::{}", bucket.name),
            },
            "object": object,
        },
    }]})
}

impl Notifier {
    /// # Errors
    /// Where the host's certificates cannot be read.
    pub fn new(meta: MetaHandle) -> Result<Self, reqwest::Error> {
        Ok(Self { meta, client: outbound::client(PATIENCE)? })
    }

    /// Works until the future is dropped.
    ///
    /// # Errors
    /// Where the member stops.
    pub async fn run(self) -> Result<(), MetaError> {
        let mut ticks = interval(PACE_OF_BUCKETS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tellers: Tellers = BTreeMap::new();
        let mut seen = 0;
        loop {
            ticks.tick().await;
            if !self.meta.status().leads {
                tellers.values().for_each(JoinHandle::abort);
                tellers.clear();
                seen = 0;
                continue;
            }
            let before = tellers.len();
            tellers.retain(|_, teller| !teller.is_finished());
            if tellers.len() != before {
                // What ended one may need another.
                seen = 0;
            }
            match self.look(&mut seen, &mut tellers).await {
                Ok(()) => {}
                Err(MetaError::Stopped) => return Err(MetaError::Stopped),
                Err(error) => tracing::warn!(%error, "notifications are sent later"),
            }
        }
    }

    /// Starts a teller for each subscription that has none.
    async fn look(&self, seen: &mut u64, tellers: &mut Tellers) -> Result<(), MetaError> {
        let index = self.meta.ask(HeaderNow {}).await?.map_or(0, |header| header.applied_index);
        if index == *seen {
            return Ok(());
        }
        for (bucket, config) in self.meta.ask(ConfiguredBuckets {}).await? {
            for subscription in subscriptions(&config) {
                let name = (bucket.id.0, subscription.id.clone());
                if tellers.contains_key(&name) {
                    continue;
                }
                let teller = Teller {
                    meta: self.meta.clone(),
                    client: self.client.clone(),
                    bucket: bucket.clone(),
                    config: config.clone(),
                    subscription,
                    taken: BTreeSet::new(),
                    webhook: None,
                };
                tellers.insert(name, tokio::spawn(teller.run()));
            }
        }
        *seen = index;
        Ok(())
    }
}

/// By bucket and subscription.
type Tellers = BTreeMap<(u64, String), JoinHandle<()>>;

impl Teller {
    /// Tells all that is new, and tries again as long as it is not taken, until the bucket wants otherwise.
    async fn run(mut self) {
        let mut ticks = interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pause = PAUSE;
        while self.meta.status().leads {
            match self.batch().await {
                Ok(Told::All) => pause = PAUSE,
                Ok(Told::Nothing) => drop(ticks.tick().await),
                Ok(Told::Outdated) => return,
                // Whoever does not take it is given time.
                Ok(Told::Refused) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(error) => {
                    tracing::warn!(bucket = self.bucket.name, %error, "notifications are sent later");
                    return;
                }
            }
        }
    }

    /// Tells a few events.
    async fn batch(&mut self) -> Result<Told, MetaError> {
        let bucket = self.bucket.id;
        let (cursor, fresh) = cursors(&self.subscription.id);
        let from = self.meta.ask(CursorOf { bucket, name: cursor.clone() }).await?.unwrap_or(0);
        let page = self.meta.ask(JournalFrom { bucket, from, limit: BATCH }).await?;
        // The bucket may have been told to tell others meanwhile.
        let seen = Some((bucket, self.config.number));
        let look = self.meta.ask(LookAt { bucket: self.bucket.name.clone(), seen, key: None }).await?;
        if look.bucket.is_none_or(|found| found.id != bucket) || look.config.is_some() {
            return Ok(Told::Outdated);
        }
        let (Some(&(first, _)), Some(&(last, _))) = (page.records.first(), page.records.last()) else {
            return Ok(Told::Nothing);
        };
        if first > from {
            tracing::error!(
                bucket = self.bucket.name,
                lost = first - from,
                "the journal overtook a webhook that takes nothing"
            );
        }
        let fresh_from = self.meta.ask(CursorOf { bucket, name: fresh.clone() }).await?.unwrap_or(0);
        let wanted = page.records.iter().map(|(_, record)| (record.node, record.version)).collect();
        let versions = self.meta.ask(VersionsOf { bucket, wanted }).await?;
        let webhook = self.webhook(look.identities).await?;
        let (lanes, made) = lanes(&page.records, &versions, fresh_from);
        let mut telling = Vec::new();
        for lane in lanes {
            telling.push(self.tell(lane, webhook.as_ref()));
        }
        let told = join_all(telling).await;
        let refused = told.iter().filter_map(|(_, refused)| *refused).min();
        let position = refused.unwrap_or(last + 1);
        self.taken.extend(told.into_iter().flat_map(|(taken, _)| taken));
        self.taken = self.taken.split_off(&position);
        if position > from {
            // Versions are new from here on that are made later than all that was read.
            let newest = made.range(..position).next_back().map_or(0, |(_, newest)| newest + 1);
            let notes = [(cursor, position), (fresh, newest.max(fresh_from))];
            let note = |(name, position)| Request::idempotent(Command::NoteCursor { bucket, name, position });
            self.meta.submit(notes.map(note).to_vec()).await?;
        }
        Ok(if refused.is_some() { Told::Refused } else { Told::All })
    }

    /// Where events go, as operators say it now.
    async fn webhook(&mut self, identities: u64) -> Result<Option<Webhook>, MetaError> {
        if let Some((number, known)) = &self.webhook
            && *number == identities
        {
            return Ok(known.clone());
        }
        let target = &self.subscription.target;
        let (number, records) = self.meta.ask(IdentitiesNow {}).await?;
        let path = Webhook::path(target);
        let kept = records.iter().find(|(name, _)| *name == path);
        let webhook = kept.and_then(|(_, text)| serde_json::from_str::<Webhook>(text).ok());
        // Addresses of their own choice are for those whose host this is.
        let by_address = target.contains("://") && self.config.owner.is_empty();
        let address = || Webhook { name: String::new(), url: target.clone(), token: None };
        let webhook = webhook.or_else(|| by_address.then(address));
        if webhook.is_none() {
            tracing::warn!(bucket = self.bucket.name, target, "there is no such webhook: its events wait");
        }
        self.webhook = Some((number, webhook.clone()));
        Ok(webhook)
    }

    /// Tells events in order: those that were taken, and the first that was not.
    async fn tell(&self, lane: Vec<Event<'_>>, webhook: Option<&Webhook>) -> (Vec<u64>, Option<u64>) {
        let mut taken = Vec::new();
        for event in lane {
            let key = String::from_utf8_lossy(&event.record.key);
            // How a version came to be that is gone again nobody knows any more.
            let unknown = event.version.is_none() && event.name.starts_with("ObjectCreated");
            let wants = match unknown {
                true => self.subscription.wants_created(&key),
                false => self.subscription.wants(event.name, &key),
            };
            if wants && !self.taken.contains(&event.number) {
                let Some(webhook) = webhook else { return (taken, Some(event.number)) };
                if !self.post(webhook, &event).await {
                    return (taken, Some(event.number));
                }
            }
            taken.push(event.number);
        }
        (taken, None)
    }

    /// Whether the webhook took the event.
    async fn post(&self, webhook: &Webhook, event: &Event<'_>) -> bool {
        let body = message(&self.bucket, &self.config, event, &self.subscription.id);
        let mut request = self.client.post(&webhook.url).header("content-type", "application/json");
        if let Some(token) = &webhook.token {
            request = request.bearer_auth(token);
        }
        let bucket = &self.bucket.name;
        match request.body(body.to_string()).send().await {
            Ok(answer) if answer.status().is_success() => true,
            Ok(answer) => {
                tracing::warn!(bucket, status = %answer.status(), "a webhook refused an event");
                false
            }
            Err(error) => {
                tracing::warn!(bucket, error = %error.without_url(), "a webhook did not take an event");
                false
            }
        }
    }
}

/// The newest version of which each record tells that it is new, by the record's number.
type Made = BTreeMap<u64, u64>;

/// Events by lanes, each key's in one.
fn lanes<'a>(
    records: &'a [(u64, JournalRecord)],
    versions: &'a [Option<(Version, Extra)>],
    fresh_from: u64,
) -> (Vec<Vec<Event<'a>>>, Made) {
    let mut lanes: Vec<Vec<Event<'_>>> = (0..LANES).map(|_| Vec::new()).collect();
    let (mut made, mut newest) = (Made::new(), fresh_from);
    for ((number, record), version) in records.iter().zip(versions) {
        let (number, version) = (*number, version.as_ref());
        let is_new = record.version.0 >= newest;
        if is_new {
            newest = record.version.0 + 1;
            made.insert(number, record.version.0);
        }
        let name = name_of(record, version, is_new);
        let mut hasher = DefaultHasher::new();
        record.key.hash(&mut hasher);
        lanes[(hasher.finish() % LANES) as usize].push(Event { number, record, name, version, is_new });
    }
    (lanes, made)
}
