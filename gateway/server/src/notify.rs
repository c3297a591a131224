//! Events of buckets, told to webhooks as they are read off a bucket's journal: at least once, and in order for each key.

use crate::{
    clock::{rfc3339, unix_ms},
    journal::{Entry, Follower, Follows, Page, Taken, lanes},
    outbound,
    s3::{NOTIFICATION_MADE as MADE, Subscription, cursors, subscriptions, version_id},
};
use futures::future::join_all;
use holdfast_meta_raft_machine::{
    ask::{CursorOf, IdentitiesNow},
    command::{Command, Request},
    records::{Bucket, BucketConfig, Change, Extra, JournalRecord, Version},
};
use holdfast_meta_raft_server::{MetaError, MetaHandle};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Why no requests can be sent.
pub type ClientError = reqwest::Error;

/// Records that are read at once.
const BATCH: u32 = 256;

/// How long a webhook may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

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

/// Tells webhooks what happens in buckets.
pub struct Notifier {
    meta: MetaHandle,
    client: reqwest::Client,
}

/// Tells of one bucket's changes for one subscription: nobody waits for a webhook of somebody else.
struct Teller {
    meta: MetaHandle,
    client: reqwest::Client,
    bucket: Bucket,
    config: BucketConfig,
    subscription: Subscription,
    cursor: String,
    /// The cursor that says which versions are new.
    fresh: String,
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

/// What S3 calls a line of the journal, where it is about an object.
fn name_of(record: &JournalRecord, version: Option<&(Version, Extra)>, is_new: bool) -> Option<&'static str> {
    Some(match (record.change, version) {
        (Change::Make | Change::Vanish | Change::Describe, _) => return None,
        (Change::Move, _) if record.key.ends_with(b"/") => return None,
        // S3 has no name for it: what it comes to is a copy, and a deletion, which is told of before.
        (Change::Move, _) => "ObjectCreated:Copy",
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
    })
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
}

impl Follows for Notifier {
    fn followers(&self, bucket: &Bucket, config: &BucketConfig) -> Vec<Box<dyn Follower>> {
        let follower = |subscription: Subscription| {
            let (cursor, fresh) = cursors(&subscription.id);
            let (bucket, config) = (bucket.clone(), config.clone());
            let (meta, client) = (self.meta.clone(), self.client.clone());
            let (taken, webhook) = (BTreeSet::new(), None);
            Teller { meta, client, bucket, config, subscription, cursor, fresh, taken, webhook }
        };
        let boxed = |subscription| Box::new(follower(subscription)) as Box<dyn Follower>;
        subscriptions(config).into_iter().map(boxed).collect()
    }
}

#[async_trait::async_trait]
impl Follower for Teller {
    fn cursor(&self) -> &str {
        &self.cursor
    }

    fn batch(&self) -> u32 {
        BATCH
    }

    /// Tells a few events.
    async fn take(&mut self, page: &Page) -> Result<Taken, MetaError> {
        let (bucket, name) = (self.bucket.id, self.fresh.clone());
        let fresh_from = self.meta.ask(CursorOf { bucket, name: name.clone() }).await?.unwrap_or(0);
        let webhook = self.webhook(page.identities).await?;
        let (events, made) = events(page, fresh_from);
        let events = events.into_iter().map(|event| (event.record.key.as_slice(), event));
        let mut telling = Vec::new();
        for lane in lanes(events) {
            telling.push(self.tell(lane, webhook.as_ref()));
        }
        let told = join_all(telling).await;
        let refused = told.iter().filter_map(|(_, refused)| *refused).min();
        let position = page.position(refused);
        self.taken.extend(told.into_iter().flat_map(|(taken, _)| taken));
        self.taken = self.taken.split_off(&position);
        // Versions are new from here on that are made later than all that was read.
        let newest = made.range(..position).next_back().map_or(0, |(_, newest)| newest + 1);
        let note = Command::NoteCursor { bucket, name, position: newest };
        let after = (newest > fresh_from).then(|| Request::idempotent(note)).into_iter().collect();
        Ok(Taken { refused, after, ..Taken::default() })
    }
}

impl Teller {
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

/// What records tell of, and which of it is new.
fn events(page: &Page, fresh_from: u64) -> (Vec<Event<'_>>, Made) {
    let (mut made, mut newest) = (Made::new(), fresh_from);
    let events = page.entries().filter_map(|Entry { number, record, version }| {
        if record.change == Change::Move {
            let name = name_of(record, version, true)?;
            return Some(Event { number, record, name, version, is_new: true });
        }
        let is_new = record.version.0 >= newest;
        if is_new {
            newest = record.version.0 + 1;
            made.insert(number, record.version.0);
        }
        let name = name_of(record, version, is_new)?;
        Some(Event { number, record, name, version, is_new })
    });
    (events.collect(), made)
}
