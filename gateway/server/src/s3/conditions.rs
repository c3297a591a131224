//! Conditional requests: on reads as RFC 9110 orders them, on writes as the metadata checks them.

use super::attributes::{parse_etag, timestamp};
use holdfast_meta_raft_machine::{
    command::Condition,
    records::{Etag, Version},
};
use hyper::{HeaderMap, header};
use s3s::{
    S3Error, S3Result,
    dto::{ETag, ETagCondition, Timestamp, TimestampFormat},
    s3_error,
};

/// The conditions of a read.
pub struct ReadConditions<'a> {
    pub if_match: Option<&'a ETagCondition>,
    pub if_none_match: Option<&'a ETagCondition>,
    pub if_modified_since: Option<&'a Timestamp>,
    pub if_unmodified_since: Option<&'a Timestamp>,
}

fn seconds(at: &Timestamp) -> i64 {
    time::OffsetDateTime::from(at.clone()).unix_timestamp()
}

fn names(condition: &ETagCondition, etag: &Etag) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(ETag::Strong(value) | ETag::Weak(value)) => {
            // A list comes as one value: `a", "b`.
            let current = etag.to_string();
            value.split(',').any(|one| one.trim().trim_matches('"') == current)
        }
    }
}

impl ReadConditions<'_> {
    /// Holds the conditions against an object.
    ///
    /// # Errors
    /// 304 or 412, with the headers that belong to it.
    pub fn check(&self, etag: &Etag, modified_ms: u64) -> S3Result<()> {
        let modified = (modified_ms / 1000) as i64;
        let failed =
            || s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold");
        match (self.if_match, self.if_unmodified_since) {
            (Some(condition), _) if !names(condition, etag) => return Err(failed()),
            (None, Some(since)) if modified > seconds(since) => return Err(failed()),
            _ => {}
        }
        let unmodified = match (self.if_none_match, self.if_modified_since) {
            (Some(condition), _) => names(condition, etag),
            (None, Some(since)) => modified <= seconds(since),
            (None, None) => false,
        };
        if unmodified { Err(not_modified(etag, modified_ms)) } else { Ok(()) }
    }

    /// The same for a copy's source, where S3 answers 412 to all.
    ///
    /// # Errors
    /// 412.
    pub fn check_source(&self, etag: &Etag, modified_ms: u64) -> S3Result<()> {
        self.check(etag, modified_ms).map_err(|_| {
            s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold")
        })
    }
}

/// Whether a `Range` counts (RFC 9110, 13.1.5): an `If-Range` that names another version asks for all of this one.
pub fn if_range(headers: &HeaderMap, version: &Version) -> bool {
    let Some(value) = headers.get(header::IF_RANGE) else { return true };
    let Ok(text) = value.to_str() else { return false };
    if text.starts_with('"') {
        return text.trim_matches('"') == version.etag.to_string();
    }
    // Only a strong comparison of dates, so that they must be equal; a weak tag never compares.
    Timestamp::parse(TimestampFormat::HttpDate, text)
        .is_ok_and(|at| seconds(&at) == (version.modified_ms / 1000) as i64)
}

fn not_modified(etag: &Etag, modified_ms: u64) -> S3Error {
    let mut headers = HeaderMap::new();
    if let Ok(value) = format!("\"{etag}\"").parse() {
        headers.insert(header::ETAG, value);
    }
    let mut text = Vec::new();
    if timestamp(modified_ms).format(TimestampFormat::HttpDate, &mut text).is_ok()
        && let Ok(value) = header::HeaderValue::from_bytes(&text)
    {
        headers.insert(header::LAST_MODIFIED, value);
    }
    let mut error = s3_error!(NotModified, "Not Modified");
    error.set_headers(headers);
    error
}

/// The condition of a write.
///
/// # Errors
/// Where both headers are given, or one that S3 does not take.
pub fn write_condition(
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<Condition> {
    let unknown =
        || s3_error!(NotImplemented, "A header you provided implies functionality that is not implemented");
    match (if_match, if_none_match) {
        (None, None) => Ok(Condition::Always),
        (Some(ETagCondition::Any), None) => Ok(Condition::Present),
        // An ETag that cannot be one of ours matches nothing.
        (Some(ETagCondition::ETag(etag)), None) => Ok(parse_etag(etag.value())
            .map_or(Condition::Matches(Etag::Multipart { md5: [0; 16], parts: 0 }), Condition::Matches)),
        (None, Some(ETagCondition::Any)) => Ok(Condition::Absent),
        (None, Some(ETagCondition::ETag(etag))) => {
            Ok(parse_etag(etag.value()).map_or(Condition::Always, Condition::Differs))
        }
        (Some(_), Some(_)) => Err(unknown()),
    }
}
