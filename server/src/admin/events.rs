//! Webhooks, and the journal of a bucket as a feed of its changes.

use super::http::{Answer, Problem, Refused};
use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use holdfast_gateway_server::{
    identity::change::{self, IdentityError},
    notify::Webhook,
    s3::version_id,
};
use holdfast_meta_raft_machine::{
    ask::{BucketNamed, IdentitiesNow, JournalFrom},
    records::{Change, JournalRecord},
};
use holdfast_meta_raft_server::Meta;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Changes on one page, at most.
const PAGE_MAX: u32 = 1000;

/// The longest that a reader may wait for news, in seconds.
const WAIT_MAX_S: u64 = 60;

/// How often the journal is looked at for a reader who waits.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A webhook, to which buckets send their events.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct WebhookShown {
    pub name: String,
    /// As buckets' configurations name it.
    pub arn: String,
    pub url: String,
    /// Whether it is sent a token.
    pub has_token: bool,
}

impl From<Webhook> for WebhookShown {
    fn from(webhook: Webhook) -> Self {
        Self {
            arn: format!("arn:aws:sqs:us-east-1:000000000000:{}", webhook.name),
            has_token: webhook.token.is_some(),
            name: webhook.name,
            url: webhook.url,
        }
    }
}

/// A webhook to be made.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct WebhookOrder {
    pub name: String,
    /// Where events are posted.
    pub url: String,
    /// Sent with each, as a bearer's.
    pub token: Option<String>,
}

/// A change of a bucket.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ChangeShown {
    /// Its place in the journal, which also has lines on directories that are not shown.
    pub number: u64,
    /// `put`, `delete`, or `move`: to the key, from the one that was deleted before; or of a directory, whose key ends in `/`, with all
    /// that is in it.
    pub change: String,
    pub key: String,
    pub version: String,
    /// The raft entry that made it.
    pub index: u64,
}

/// A line of the journal, if it is about an object, or moves some.
fn show((number, record): &(u64, JournalRecord)) -> Option<ChangeShown> {
    let change = match record.change {
        Change::Put => "put",
        Change::Delete => "delete",
        Change::Move => "move",
        Change::Make | Change::Vanish | Change::Describe => return None,
    };
    Some(ChangeShown {
        number: *number,
        change: change.to_owned(),
        key: String::from_utf8_lossy(&record.key).into_owned(),
        version: version_id(record.version),
        index: record.index,
    })
}

/// A page of a bucket's journal.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Changes {
    pub changes: Vec<ChangeShown>,
    /// From where to ask next.
    pub next: u64,
    /// Records in between are gone: the reader must compare what it has with a listing.
    pub gap: bool,
}

/// The routes, for a state that is the metadata.
pub fn routes() -> OpenApiRouter<Meta> {
    OpenApiRouter::new()
        .routes(routes!(webhooks, create_webhook))
        .routes(routes!(delete_webhook))
        .routes(routes!(changes))
}

/// Webhooks.
#[utoipa::path(get, path = "/v1/webhooks", responses((status = 200, body = Vec<WebhookShown>)))]
async fn webhooks(State(meta): State<Meta>) -> Answer<Vec<WebhookShown>> {
    let (_, records) = meta.ask(IdentitiesNow {}).await.map_err(IdentityError::from)?;
    let kept = records.iter().filter(|(name, _)| name.starts_with("webhook/"));
    let read = |(_, text): &(String, String)| serde_json::from_str::<Webhook>(text).ok();
    Ok(Json(kept.filter_map(read).map(WebhookShown::from).collect()))
}

/// Makes a webhook, or gives one another address.
#[utoipa::path(post, path = "/v1/webhooks", request_body = WebhookOrder,
    responses((status = 200, body = WebhookShown), (status = 400, body = Problem)))]
async fn create_webhook(State(meta): State<Meta>, Json(order): Json<WebhookOrder>) -> Answer<WebhookShown> {
    let WebhookOrder { name, url, token } = order;
    let webhook = Webhook { name, url, token };
    change::put_webhook(&meta, &webhook).await?;
    Ok(Json(webhook.into()))
}

/// Removes a webhook. Events of buckets that name it wait until there is one again.
#[utoipa::path(delete, path = "/v1/webhooks/{name}", params(("name" = String, Path)),
    responses((status = 200), (status = 404, body = Problem)))]
async fn delete_webhook(State(meta): State<Meta>, Path(name): Path<String>) -> Answer<()> {
    Ok(Json(change::delete_webhook(&meta, &name).await?))
}

#[derive(Deserialize, IntoParams)]
struct From_ {
    /// The number of the first change that is wanted; 0 for the oldest that is kept.
    #[serde(default)]
    from: u64,
    /// Changes on the page, at most 1000.
    limit: Option<u32>,
    /// How many seconds to wait for news where there are none, at most 60.
    #[serde(default)]
    wait: u64,
}

/// The changes of a bucket, in the order in which they were committed.
#[utoipa::path(get, path = "/v1/buckets/{bucket}/changes", params(("bucket" = String, Path), From_),
    responses((status = 200, body = Changes), (status = 404, body = Problem)))]
async fn changes(
    State(meta): State<Meta>,
    Path(name): Path<String>,
    Query(wanted): Query<From_>,
) -> Answer<Changes> {
    let bucket = meta.ask(BucketNamed { name }).await.map_err(IdentityError::from)?;
    let missing = || Refused(StatusCode::NOT_FOUND, "there is no such bucket".to_owned());
    let bucket = bucket.ok_or_else(missing)?.id;
    let limit = wanted.limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
    let until = Instant::now() + Duration::from_secs(wanted.wait.min(WAIT_MAX_S));
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    let page = loop {
        ticks.tick().await;
        let page = meta.ask(JournalFrom { bucket, from: wanted.from, limit }).await;
        let page = page.map_err(IdentityError::from)?;
        if !page.records.is_empty() || Instant::now() >= until {
            break page;
        }
    };
    let first = page.records.first().map_or(page.next, |(number, _)| *number);
    Ok(Json(Changes {
        changes: page.records.iter().filter_map(show).collect(),
        next: page.records.last().map_or(page.next, |(number, _)| number + 1),
        // Or the bucket is another one of that name.
        gap: first > wanted.from || wanted.from > page.next,
    }))
}
