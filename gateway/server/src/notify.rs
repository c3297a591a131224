//! Events of buckets, told to webhooks: every member runs this, and the one that leads does it.
//!
//! Events are read off a bucket's journal, in its order, from a cursor that is kept in the metadata and moves once they were
//! taken. What was taken is told again where a member stopped in between: at least once, and in order for each key.

use crate::{
    clock::unix_ms,
    outbound,
    s3::{NOTIFICATION_CURSOR as CURSOR, NOTIFICATION_MADE as MADE, Subscription, subscriptions},
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
    collections::{BTreeMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    time::Duration,
};
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

/// Why no requests can be sent.
pub type ClientError = reqwest::Error;

/// How often the journals are looked at.
const PACE: Duration = Duration::from_millis(200);

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

/// A reader of one bucket's journal.
#[derive(Clone)]
struct Teller {
    meta: MetaHandle,
    client: reqwest::Client,
    bucket: Bucket,
    config: BucketConfig,
}

/// What happened to a key, as S3 calls it.
struct Event<'a> {
    number: u64,
    record: &'a JournalRecord,
    name: &'static str,
    version: Option<&'a (Version, Extra)>,
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
        (Change::Delete, Some((_, extra))) if extra.marker => "ObjectRemoved:DeleteMarkerCreated",
        (Change::Delete, _) => "ObjectRemoved:Delete",
    }
}

fn time_of(unix_ms: u64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000).ok();
    at.and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok()).unwrap_or_default()
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
    if event.version.is_some_and(|(_, extra)| extra.named) {
        object["versionId"] = event.record.version.0.to_string().into();
    }
    json!({"Records": [{
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": crate::s3::REGION,
        "eventTime": time_of(version.map_or_else(unix_ms, |version| version.modified_ms)),
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
        let mut ticks = interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // One bucket's webhook that does not answer holds up no other's.
        let mut tellers: BTreeMap<u64, JoinHandle<()>> = BTreeMap::new();
        let mut seen = 0;
        loop {
            ticks.tick().await;
            if !self.meta.status().leads {
                tellers.values().for_each(JoinHandle::abort);
                tellers.clear();
                seen = 0;
                continue;
            }
            tellers.retain(|_, teller| !teller.is_finished());
            match self.look(&mut seen, &mut tellers).await {
                Ok(()) => {}
                Err(MetaError::Stopped) => return Err(MetaError::Stopped),
                Err(error) => tracing::warn!(%error, "notifications are sent later"),
            }
        }
    }

    /// Starts a teller for each bucket with news, unless one is at work.
    async fn look(
        &self,
        seen: &mut u64,
        tellers: &mut BTreeMap<u64, JoinHandle<()>>,
    ) -> Result<(), MetaError> {
        let index = self.meta.ask(HeaderNow {}).await?.map_or(0, |header| header.applied_index);
        if index == *seen {
            return Ok(());
        }
        for (bucket, config) in self.meta.ask(ConfiguredBuckets {}).await? {
            if subscriptions(&config).is_empty() || tellers.contains_key(&bucket.id.0) {
                continue;
            }
            let (meta, client, id) = (self.meta.clone(), self.client.clone(), bucket.id.0);
            tellers.insert(id, tokio::spawn(Teller { meta, client, bucket, config }.run()));
        }
        *seen = index;
        Ok(())
    }
}

impl Teller {
    /// Tells all that is new, and tries again as long as it is not taken.
    async fn run(self) {
        let mut pause = PAUSE;
        while self.meta.status().leads {
            match self.batch().await {
                Ok(Some(true)) => pause = PAUSE,
                Ok(Some(false)) => return,
                // Whoever does not take it is given time.
                Ok(None) => {
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

    /// Tells a few events: whether there were any, and `None` where one was not taken.
    async fn batch(&self) -> Result<Option<bool>, MetaError> {
        let bucket = self.bucket.id;
        let from = self.meta.ask(CursorOf { bucket, name: CURSOR.to_owned() }).await?;
        let from = from.unwrap_or(0);
        // With the record before, which tells what came later from what came to light again.
        let before = u64::from(from > 0);
        let page = self.meta.ask(JournalFrom { bucket, from: from - before, limit: BATCH }).await?;
        if page.records.first().is_some_and(|(number, _)| *number > from) {
            tracing::error!(bucket = self.bucket.name, "notifications were lost: the journal was overtaken");
        }
        let Some(&(last, _)) = page.records.last().filter(|(number, _)| *number >= from) else {
            return Ok(Some(false));
        };
        // The bucket may have been told to tell others meanwhile.
        let seen = Some((bucket, self.config.number));
        let look = self.meta.ask(LookAt { bucket: self.bucket.name.clone(), seen, key: None }).await?;
        if look.bucket.is_none_or(|found| found.id != bucket) || look.config.is_some() {
            return Ok(Some(false));
        }
        let wanted = page.records.iter().map(|(_, record)| (record.node, record.version)).collect();
        let versions = self.meta.ask(VersionsOf { bucket, wanted }).await?;
        let (_, identities) = self.meta.ask(IdentitiesNow {}).await?;
        let subscriptions = subscriptions(&self.config);
        let mut newest = 0;
        let mut lanes: Vec<Vec<Event<'_>>> = (0..LANES).map(|_| Vec::new()).collect();
        for ((number, record), version) in page.records.iter().zip(&versions) {
            let is_new = record.version.0 > newest;
            newest = newest.max(record.version.0);
            if *number >= from {
                let version = version.as_ref();
                let event =
                    Event { number: *number, record, name: name_of(record, version, is_new), version };
                let mut hasher = DefaultHasher::new();
                record.key.hash(&mut hasher);
                lanes[(hasher.finish() % LANES) as usize].push(event);
            }
        }
        let mut telling = Vec::new();
        for lane in lanes {
            telling.push(self.tell(lane, &subscriptions, &identities));
        }
        let told: Vec<Option<u64>> = join_all(telling).await;
        let refused = told.into_iter().flatten().min();
        let position = refused.unwrap_or(last + 1);
        if position > from {
            let note = Command::NoteCursor { bucket, name: CURSOR.to_owned(), position };
            self.meta.submit(vec![Request::idempotent(note)]).await?;
        }
        Ok(refused.is_none().then_some(true))
    }

    /// Tells events in order; the number of the first that was not taken.
    async fn tell(
        &self,
        lane: Vec<Event<'_>>,
        subscriptions: &[Subscription],
        identities: &[(String, String)],
    ) -> Option<u64> {
        for event in lane {
            let key = String::from_utf8_lossy(&event.record.key);
            for subscription in subscriptions.iter().filter(|wanted| wanted.wants(event.name, &key)) {
                let path = Webhook::path(&subscription.target);
                let kept = identities.iter().find(|(name, _)| *name == path);
                let webhook = kept.and_then(|(_, text)| serde_json::from_str::<Webhook>(text).ok());
                let by_address = subscription.target.contains("://") && self.config.owner.is_empty();
                let (url, token) = match webhook {
                    Some(webhook) => (webhook.url, webhook.token),
                    None if by_address => (subscription.target.clone(), None),
                    None => {
                        tracing::warn!(
                            bucket = self.bucket.name,
                            target = subscription.target,
                            "there is no such webhook"
                        );
                        return Some(event.number);
                    }
                };
                let body = message(&self.bucket, &self.config, &event, &subscription.id);
                let mut request = self.client.post(&url).header("content-type", "application/json");
                if let Some(token) = token {
                    request = request.bearer_auth(token);
                }
                match request.body(body.to_string()).send().await {
                    Ok(answer) if answer.status().is_success() => {}
                    Ok(answer) => {
                        tracing::warn!(bucket = self.bucket.name, status = %answer.status(), "a webhook refused an event");
                        return Some(event.number);
                    }
                    Err(error) => {
                        tracing::warn!(bucket = self.bucket.name, error = %error.without_url(), "a webhook did not take an event");
                        return Some(event.number);
                    }
                }
            }
        }
        None
    }
}
