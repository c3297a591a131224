//! Server access logs: who asked what of a bucket, kept as objects of another one ("Amazon S3 server access log format", Amazon S3
//! user guide). As there, delivery is best effort: lines that wait when a process dies are lost.

use super::{
    S3Door,
    access::{Scene, scene},
    documents::{malformed, set, to_xml},
    objects::put_command,
    settings::{BucketView, from_xml},
};
use crate::{digest::BodyDigest, engine::EngineError, upload::Incoming};
use bytes::Bytes;
use holdfast_core::ids::PoolId;
use holdfast_meta_raft_machine::{
    ask::LookedUp,
    command::{Condition, NewObject},
    records::{Attributes, Etag, Extra},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        BucketLoggingStatus, GetBucketLoggingInput, GetBucketLoggingOutput, LoggingEnabled,
        PutBucketLoggingInput, PutBucketLoggingOutput,
    },
    s3_error,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};
use time::{OffsetDateTime, format_description::parse_borrowed};

const DOCUMENT: &str = "logging";

/// How often lines become objects.
pub const FLUSH_EVERY: Duration = Duration::from_secs(5);

/// Bytes of lines that wait, of all targets together: more are dropped, and that is said.
const WAITING_MAX: usize = 16 << 20;

/// Bytes of one of a client's own words in a line.
const WORD_MAX: usize = 2048;

/// What a key keeps as it is.
const KEY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_');

/// What a host keeps as it is.
const HOST: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b':').remove(b'[').remove(b']');

/// Where a bucket's log goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub bucket: String,
    pub prefix: String,
    /// Whose the log is, and the bucket that it goes to must be.
    pub owner: String,
}

/// Where a bucket wants its log.
pub fn target(text: &str, owner: &str) -> Option<Target> {
    let enabled = from_xml::<BucketLoggingStatus>(text)?.logging_enabled?;
    Some(Target { bucket: enabled.target_bucket, prefix: enabled.target_prefix, owner: owner.to_owned() })
}

/// What is learned of a request while it is carried out.
#[derive(Debug, Default)]
pub struct Noted {
    /// Canonical id or ARN; `-` for nobody.
    pub requester: String,
    /// As the log calls it.
    pub key: String,
}

/// Filled by whoever judges a request, read by whoever answers it.
#[derive(Debug, Clone, Default)]
pub struct Note(Arc<OnceLock<Noted>>);

impl Note {
    pub fn take(&self, noted: Noted) {
        // A request is judged once.
        let _first = self.0.set(noted);
    }

    pub fn read(&self) -> Option<&Noted> {
        self.0.get()
    }
}

/// One request, as it is logged.
pub struct Line<'a> {
    pub owner: &'a str,
    pub bucket: &'a str,
    pub address: std::net::IpAddr,
    pub noted: Option<&'a Noted>,
    pub request_id: &'a str,
    pub method: &'a str,
    pub target: &'a str,
    pub version: &'a str,
    pub status: u16,
    pub error: Option<&'a str>,
    pub sent: Option<u64>,
    pub total_ms: u128,
    pub referer: Option<&'a str>,
    pub agent: Option<&'a str>,
    pub host: Option<&'a str>,
    pub signed: Option<&'static str>,
    pub secure: bool,
}

/// The subresources that operations are named after.
const SUBRESOURCES: [&str; 21] = [
    "acl",
    "tagging",
    "policy",
    "versioning",
    "versions",
    "lifecycle",
    "cors",
    "website",
    "logging",
    "notification",
    "encryption",
    "object-lock",
    "retention",
    "legal-hold",
    "uploads",
    "location",
    "replication",
    "publicAccessBlock",
    "ownershipControls",
    "requestPayment",
    "delete",
];

/// A text between quotes, in which nothing ends a line or the quotes.
fn quoted(text: &str) -> String {
    let text: String = text.chars().take(WORD_MAX).collect();
    let plain =
        |c: char| if c == '"' || c.is_control() { format!("%{:02X}", u32::from(c)) } else { c.to_string() };
    format!("\"{}\"", text.chars().map(plain).collect::<String>())
}

fn operation(line: &Line<'_>) -> String {
    let query = line.target.split_once('?').map_or("", |(_, query)| query);
    let names = || query.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    let sub = names().find(|name| SUBRESOURCES.contains(name));
    let has_key = line.noted.is_some_and(|noted| !noted.key.is_empty());
    let part = match sub {
        Some("delete") => "MULTI_OBJECT_DELETE".to_owned(),
        Some(sub) => sub.to_ascii_uppercase().replace('-', "_"),
        None if names().any(|name| name == "partNumber") => "PART".to_owned(),
        None if names().any(|name| name == "uploadId") => "UPLOAD".to_owned(),
        None if has_key => "OBJECT".to_owned(),
        None => "BUCKET".to_owned(),
    };
    format!("REST.{}.{part}", line.method)
}

impl Line<'_> {
    fn text(&self, now: OffsetDateTime) -> String {
        let format = parse_borrowed::<2>("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");
        let time = format.ok().and_then(|format| now.format(&format).ok()).unwrap_or_default();
        let dash = |text: Option<&str>| text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned();
        let quote = |text: Option<&str>| text.map_or_else(|| "\"-\"".to_owned(), quoted);
        // Twice encoded, as there: what a key is cannot be taken for the end of a field.
        let key = self.noted.map(|noted| noted.key.as_str()).filter(|key| !key.is_empty());
        let key = key.map(|key| utf8_percent_encode(key, KEY).to_string());
        let requester = self.noted.map(|noted| noted.requester.as_str());
        let total = self.total_ms.to_string();
        let sent = self.sent.map(|sent| sent.to_string());
        [
            dash(Some(self.owner)),
            self.bucket.to_owned(),
            format!("[{time}]"),
            self.address.to_string(),
            dash(requester),
            self.request_id.to_owned(),
            operation(self),
            dash(key.as_deref()),
            quoted(&format!("{} {} {}", self.method, self.target, self.version)),
            self.status.to_string(),
            dash(self.error),
            dash(sent.as_deref()),
            "-".to_owned(),
            total.clone(),
            total,
            quote(self.referer),
            quote(self.agent),
            "-".to_owned(),
            "-".to_owned(),
            if self.signed.is_some() { "SigV4".to_owned() } else { "-".to_owned() },
            "-".to_owned(),
            dash(self.signed),
            dash(self.host.map(|host| utf8_percent_encode(host, HOST).to_string()).as_deref()),
            if self.secure { "TLSv1.3".to_owned() } else { "-".to_owned() },
            "-".to_owned(),
            "-".to_owned(),
        ]
        .join(" ")
            + "\n"
    }
}

/// Lines on their way into objects.
#[derive(Clone, Default)]
pub struct AccessLog(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    lines: BTreeMap<Target, String>,
    bytes: usize,
}

impl AccessLog {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note(&self, target: &Target, line: &Line<'_>) {
        let text = line.text(OffsetDateTime::now_utc());
        let mut waiting = self.lock();
        if waiting.bytes + text.len() > WAITING_MAX {
            tracing::warn!(bucket = line.bucket, "access logs are late: lines are dropped");
            return;
        }
        waiting.bytes += text.len();
        waiting.lines.entry(target.clone()).or_default().push_str(&text);
    }

    fn take(&self) -> BTreeMap<Target, String> {
        std::mem::take(&mut *self.lock()).lines
    }
}

impl S3Door {
    /// Writes the lines that wait.
    pub async fn flush_log(&self) {
        for (target, lines) in self.log.take() {
            if let Err(error) = self.write_log(&target, lines).await {
                tracing::warn!(bucket = target.bucket, %error, "a part of an access log could not be written");
            }
        }
    }

    async fn write_log(&self, target: &Target, lines: String) -> Result<(), EngineError> {
        let found = self.look(&target.bucket, None).await.ok().and_then(|(bucket, _)| bucket);
        // A bucket of that name may be somebody else's now, or keep for years what is put into it.
        let fits = |bucket: &Arc<BucketView>| bucket.config.owner == target.owner && !locks(bucket);
        let bucket = found.filter(fits).ok_or(EngineError::Gone)?;
        let format = parse_borrowed::<2>("[year]-[month]-[day]-[hour]-[minute]-[second]");
        let now = OffsetDateTime::now_utc();
        let time = format.ok().and_then(|format| now.format(&format).ok()).unwrap_or_default();
        let key = format!("{}{time}-{:016X}", target.prefix, rand::random::<u64>());
        let body = Bytes::from(lines);
        let bytes = body.len() as u64;
        let mut digest = BodyDigest::new(&self.engine.shared.md5, Some(bytes), None);
        let encryption = super::encryption::Encryption::of_log(self, &bucket).await;
        let encryption = encryption.map_err(|refused| EngineError::Body(Box::new(refused)))?;
        let stream = futures::stream::once(std::future::ready(Ok(body)));
        let seal = encryption.as_ref().map(|encryption| &encryption.seal);
        let incoming = Incoming {
            body: stream,
            length: Some(bytes),
            limit: bytes,
            digest: &mut digest,
            seal,
            pool: PoolId::FIRST,
        };
        let ingested = self.engine.ingest(incoming, true).await?;
        let (md5, _) = digest.finish().await.ok_or(EngineError::ShuttingDown)?;
        let mut extra = Extra { owner: bucket.config.owner.clone(), ..Extra::default() };
        if let Some(encryption) = &encryption {
            encryption.keep(&mut extra).map_err(|refused| EngineError::Body(Box::new(refused)))?;
        }
        let attributes = Attributes { content_type: Some("text/plain".to_owned()), ..Attributes::default() };
        let command = |content| {
            let etag = Etag::Md5(md5);
            let (attributes, parts) = (attributes.clone(), Vec::new());
            let object = NewObject { bytes, etag, content, attributes, checksum: None, parts };
            put_command(bucket.bucket.id, key.clone().into_bytes(), Condition::Always, object, extra.clone())
        };
        self.engine.commit(ingested, command).await?;
        Ok(())
    }
}

pub fn get_bucket_logging(
    _door: &S3Door,
    request: S3Request<GetBucketLoggingInput>,
) -> S3Result<S3Response<GetBucketLoggingOutput>> {
    let scene = scene(&request)?;
    let kept = scene.bucket()?.config.documents.get(DOCUMENT);
    let logging_enabled = kept.and_then(|text| from_xml::<BucketLoggingStatus>(text)?.logging_enabled);
    Ok(S3Response::new(GetBucketLoggingOutput { logging_enabled }))
}

/// Whether what is written into a bucket cannot be removed for a while.
fn locks(bucket: &BucketView) -> bool {
    bucket.config.object_lock && bucket.config.default_retention.is_some()
}

/// # Errors
/// Where the log cannot go there.
async fn check(door: &S3Door, scene: &Scene, bucket: &BucketView, wanted: &LoggingEnabled) -> S3Result<()> {
    if wanted.target_grants.as_ref().is_some_and(|grants| !grants.is_empty()) {
        return Err(s3_error!(NotImplemented, "Grants on the objects of a log are not implemented"));
    }
    if wanted.target_prefix.len() > 512 {
        return Err(malformed());
    }
    let (target, _) = door.look(&wanted.target_bucket, None).await?;
    let owned = target.filter(|target| target.config.owner == bucket.config.owner);
    let Some(target) = owned else {
        return Err(super::error::custom(
            "InvalidTargetBucketForLogging",
            hyper::StatusCode::BAD_REQUEST,
            "The target bucket for logging does not exist, is not owned by you, or does not have the appropriate grants for the log-delivery group.",
        ));
    };
    let of_target = scene.about(target.clone(), LookedUp::NotAsked);
    if !of_target.may_write(&wanted.target_prefix) {
        return Err(s3_error!(AccessDenied, "Access Denied"));
    }
    if locks(&target) {
        return Err(s3_error!(InvalidRequest, "A bucket that locks objects cannot be the target of a log"));
    }
    Ok(())
}

pub async fn put_bucket_logging(
    door: &S3Door,
    request: S3Request<PutBucketLoggingInput>,
) -> S3Result<S3Response<PutBucketLoggingOutput>> {
    let scene = scene(&request)?;
    let bucket = scene.bucket()?;
    let status = &request.input.bucket_logging_status;
    let text = match &status.logging_enabled {
        Some(wanted) => {
            check(door, &scene, bucket, wanted).await?;
            Some(to_xml(status)?)
        }
        None => None,
    };
    set(door, bucket, DOCUMENT, text).await?;
    Ok(S3Response::new(PutBucketLoggingOutput::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_fields_of_the_format_and_none_can_be_forged() {
        let noted = Noted { requester: "alice".to_owned(), key: "a b\"\nforged".to_owned() };
        let line = Line {
            owner: "alice",
            bucket: "box",
            address: std::net::IpAddr::from([192, 0, 2, 3]),
            noted: Some(&noted),
            request_id: "00FF",
            method: "GET",
            target: "/box/a%20b?versionId=1",
            version: "HTTP/1.1",
            status: 404,
            error: Some("NoSuchKey"),
            sent: Some(7),
            total_ms: 12,
            referer: None,
            agent: Some("x\" 200 -\nalice"),
            host: Some("localhost"),
            signed: Some("AuthHeader"),
            secure: false,
        };
        let text = line.text(OffsetDateTime::UNIX_EPOCH);
        assert_eq!(
            text,
            "alice box [01/Jan/1970:00:00:00 +0000] 192.0.2.3 alice 00FF REST.GET.OBJECT a%20b%22%0Aforged \
             \"GET /box/a%20b?versionId=1 HTTP/1.1\" 404 NoSuchKey 7 - 12 12 \"-\" \"x%22 200 -%0Aalice\" - - SigV4 - AuthHeader \
             localhost - - -\n"
        );
    }
}
