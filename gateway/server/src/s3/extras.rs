//! What a write says beside bytes and metadata: tags, grants, locks, redirects, storage class.

use super::{
    S3Door,
    access::Scene,
    acl::{Acl, Of},
    attributes::unix_ms_of,
    classes::{STANDARD, STORAGE_CLASS, STORAGE_CLASSES},
    error,
    settings::{BucketView, Ownership},
};
use crate::{clock::unix_ms, identity::Who};
use holdfast_meta_raft_machine::records::{Extra, LockMode, Retention};
use hyper::{HeaderMap, StatusCode};
use percent_encoding::percent_decode_str;
use s3s::{
    S3Error, S3Result,
    dto::{DefaultRetention, ObjectLockRetentionMode, Tag, Timestamp, TimestampFormat},
    s3_error,
};
use std::collections::BTreeSet;

/// Tags of an object, as in S3.
const OBJECT_TAGS_MAX: usize = 10;

/// Tags of a bucket, as in S3.
pub const BUCKET_TAGS_MAX: usize = 50;

const TAG_NAME_MAX: usize = 128;
const TAG_VALUE_MAX: usize = 256;

/// A hundred years, as in S3.
const RETENTION_DAYS_MAX: u64 = 36_500;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A header's text.
///
/// # Errors
/// Where it is none.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> S3Result<Option<&'a str>> {
    let value = headers.get(name).map(|value| value.to_str());
    value.transpose().map_err(|_| s3_error!(InvalidArgument, "{name} is malformed"))
}

/// Pairs of names and values, in the order of their names.
///
/// # Errors
/// Where they break S3's rules for tags.
pub fn tags(mut pairs: Vec<(String, String)>, max: usize) -> S3Result<Vec<(String, String)>> {
    if pairs.len() > max {
        return Err(s3_error!(InvalidTag, "There cannot be more than {max} tags"));
    }
    let names: BTreeSet<&String> = pairs.iter().map(|(name, _)| name).collect();
    if names.len() != pairs.len() {
        return Err(s3_error!(InvalidTag, "Cannot provide multiple Tags with the same key"));
    }
    for (name, value) in &pairs {
        if name.is_empty() || name.chars().count() > TAG_NAME_MAX {
            return Err(s3_error!(InvalidTag, "The TagKey you have provided is invalid"));
        }
        if value.chars().count() > TAG_VALUE_MAX {
            return Err(s3_error!(InvalidTag, "The TagValue you have provided is invalid"));
        }
    }
    pairs.sort_unstable();
    Ok(pairs)
}

/// The tags of a request's body.
///
/// # Errors
/// See [`tags`].
pub fn tags_of(set: Vec<Tag>, max: usize) -> S3Result<Vec<(String, String)>> {
    tags(
        set.into_iter().map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default())).collect(),
        max,
    )
}

pub fn tag_set(tags: &[(String, String)]) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag { key: Some(key.clone()), value: Some(value.clone()) }).collect()
}

/// `a=1&b=2`, each part encoded.
fn tags_in_header(text: &str) -> S3Result<Vec<(String, String)>> {
    let decode = |text: &str| {
        let plain = text.replace('+', " ");
        let decoded = percent_decode_str(&plain).decode_utf8().map(|text| text.into_owned());
        decoded.map_err(|_| s3_error!(InvalidArgument, "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name duplicates."))
    };
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decode(name)?, decode(value)?))
    };
    let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(pair).collect::<S3Result<_>>()?;
    tags(pairs, OBJECT_TAGS_MAX)
}

/// The tags of an object.
///
/// # Errors
/// See [`tags`].
pub fn object_tags(set: Vec<Tag>) -> S3Result<Vec<(String, String)>> {
    tags_of(set, OBJECT_TAGS_MAX)
}

pub fn lists_unsupported() -> S3Error {
    error::custom("AccessControlListNotSupported", StatusCode::BAD_REQUEST, "The bucket does not allow ACLs")
}

/// The grants that a write of an object asks for, and who owns it then.
fn grants(
    door: &S3Door,
    scene: &Scene,
    headers: &HeaderMap,
    bucket: &BucketView,
) -> S3Result<(String, Option<Acl>)> {
    let (writer, owner) = (scene.writer(), &bucket.config.owner);
    let canned = header(headers, "x-amz-acl")?;
    let acl = Acl::from_headers(headers, &writer, Of::ObjectIn(owner), &door.directory.now())?;
    let full_control = canned == Some("bucket-owner-full-control");
    match bucket.ownership {
        // What it asks for is what is so.
        Ownership::BucketOwnerEnforced if acl.is_none() || full_control => Ok((writer, None)),
        Ownership::BucketOwnerEnforced => Err(lists_unsupported()),
        Ownership::BucketOwnerPreferred if full_control => Ok((owner.clone(), None)),
        Ownership::BucketOwnerPreferred | Ownership::ObjectWriter => {
            if bucket.block.block_public_acls && acl.as_ref().is_some_and(Acl::is_public) {
                return Err(s3_error!(AccessDenied, "Access Denied"));
            }
            Ok((writer, acl))
        }
    }
}

/// # Errors
/// Where it is no mode.
pub fn lock_mode(text: &str) -> S3Result<LockMode> {
    match text {
        ObjectLockRetentionMode::GOVERNANCE => Ok(LockMode::Governance),
        ObjectLockRetentionMode::COMPLIANCE => Ok(LockMode::Compliance),
        _ => Err(s3_error!(MalformedXML, "Unknown wormMode directive")),
    }
}

pub fn show_mode(mode: LockMode) -> &'static str {
    match mode {
        LockMode::Governance => ObjectLockRetentionMode::GOVERNANCE,
        LockMode::Compliance => ObjectLockRetentionMode::COMPLIANCE,
    }
}

fn missing_lock() -> S3Error {
    s3_error!(InvalidRequest, "Bucket is missing Object Lock Configuration")
}

/// How long a bucket's default retention lasts, in milliseconds; `None` where it is malformed.
pub fn default_retention(wanted: &DefaultRetention) -> Option<(LockMode, u64)> {
    let mode = lock_mode(wanted.mode.as_ref()?.as_str()).ok()?;
    let days = match (wanted.days, wanted.years) {
        (Some(days), None) => u64::try_from(days).ok()?,
        (None, Some(years)) => u64::try_from(years).ok()?.checked_mul(365)?,
        _ => return None,
    };
    (1..=RETENTION_DAYS_MAX).contains(&days).then(|| days.checked_mul(DAY_MS).map(|ms| (mode, ms)))?
}

fn retention(headers: &HeaderMap, bucket: &BucketView) -> S3Result<Option<Retention>> {
    let mode = header(headers, "x-amz-object-lock-mode")?;
    let until = header(headers, "x-amz-object-lock-retain-until-date")?;
    if (mode.is_some() || until.is_some()) && !bucket.config.object_lock {
        return Err(missing_lock());
    }
    match (mode, until) {
        (Some(mode), Some(until)) => {
            let mode =
                lock_mode(mode).map_err(|_| s3_error!(InvalidArgument, "Unknown wormMode directive."))?;
            let until = Timestamp::parse(TimestampFormat::DateTime, until)
                .map_err(|_| s3_error!(InvalidArgument, "The retain until date is malformed"))?;
            let until_ms = unix_ms_of(&until);
            if until_ms <= unix_ms() {
                return Err(s3_error!(InvalidArgument, "The retain until date must be in the future!"));
            }
            Ok(Some(Retention { mode, until_ms }))
        }
        // The bucket's default is the metadata's business: it counts from the commit.
        (None, None) => Ok(None),
        _ => Err(s3_error!(
            InvalidArgument,
            "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied"
        )),
    }
}

fn legal_hold(headers: &HeaderMap, bucket: &BucketView) -> S3Result<bool> {
    match header(headers, "x-amz-object-lock-legal-hold")? {
        None => Ok(false),
        Some(_) if !bucket.config.object_lock => Err(missing_lock()),
        Some("ON") => Ok(true),
        Some("OFF") => Ok(false),
        Some(_) => Err(s3_error!(InvalidArgument, "Legal Hold must be either of 'ON' or 'OFF'")),
    }
}

/// All that a write's headers say of the version that it makes.
///
/// # Errors
/// Where they are malformed, or ask for what the bucket or its policy does not allow.
pub fn extra_of(
    door: &S3Door,
    scene: &Scene,
    headers: &HeaderMap,
    bucket: &BucketView,
    key: &str,
) -> S3Result<Extra> {
    let (owner, acl) = grants(door, scene, headers, bucket)?;
    let mut extra = Extra {
        owner,
        tags: header(headers, "x-amz-tagging")?.map(tags_in_header).transpose()?.unwrap_or_default(),
        retention: retention(headers, bucket)?,
        legal_hold: legal_hold(headers, bucket)?,
        ..Extra::default()
    };
    if let Some(acl) = acl.filter(|acl| *acl != Acl::private(&extra.owner)) {
        extra.documents.insert("acl".to_owned(), acl.to_text()?);
    }
    if let Some(location) = header(headers, "x-amz-website-redirect-location")? {
        if !["/", "http://", "https://"].iter().any(|start| location.starts_with(start)) {
            return Err(error::custom(
                "InvalidRedirectLocation",
                StatusCode::BAD_REQUEST,
                "The website redirect location must have a prefix of 'http://' or 'https://' or '/'.",
            ));
        }
        extra.documents.insert("redirect".to_owned(), location.to_owned());
    }
    if let Some(class) = header(headers, "x-amz-storage-class")? {
        if !STORAGE_CLASSES.contains(&class) {
            return Err(s3_error!(InvalidStorageClass, "The storage class you specified is not valid"));
        }
        if class != STANDARD {
            extra.documents.insert(STORAGE_CLASS.to_owned(), class.to_owned());
        }
    }
    let demands = [
        (!extra.tags.is_empty(), "s3:PutObjectTagging"),
        (extra.documents.contains_key("acl"), "s3:PutObjectAcl"),
        (headers.contains_key("x-amz-object-lock-mode"), "s3:PutObjectRetention"),
        (headers.contains_key("x-amz-object-lock-legal-hold"), "s3:PutObjectLegalHold"),
    ];
    for (_, action) in demands.into_iter().filter(|(demanded, _)| *demanded) {
        // What nobody writes is nobody's to grant otherwise: it only must not be denied.
        let nobody = action == "s3:PutObjectAcl" && matches!(scene.who, Who::Anonymous);
        let may = if nobody { !scene.is_denied(action, key) } else { scene.may_own(action, key, &extra) };
        if !may {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        }
    }
    Ok(extra)
}
