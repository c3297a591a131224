//! Lifecycle rules of buckets: kept, checked, and told with each object.

use super::{
    S3Door,
    access::scene,
    classes,
    documents::{kept, malformed, set, to_xml},
    error,
    settings::{BucketView, from_xml},
};
use crate::lifecycle::rules::{COLDER, Day, Rule, expiry};
use holdfast_meta_raft_machine::{ask::Object, records::BucketConfig};
use hyper::StatusCode;
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        BucketLifecycleConfiguration, DeleteBucketLifecycleInput, DeleteBucketLifecycleOutput,
        ExpirationStatus, GetBucketLifecycleConfigurationInput, GetBucketLifecycleConfigurationOutput,
        LifecycleRule, PutBucketLifecycleConfigurationInput, PutBucketLifecycleConfigurationOutput,
        Timestamp, TimestampFormat,
    },
    s3_error,
};
use std::collections::BTreeSet;

/// Rules that a bucket may have, as in S3.
const RULES_MAX: usize = 1000;

const ID_BYTES_MAX: usize = 255;

/// The rules of a bucket that are enabled. Rules that cannot be read remove nothing.
pub fn lifecycle_of(config: &BucketConfig) -> Vec<Rule> {
    let text = config.documents.get("lifecycle");
    let parsed = text.and_then(|text| from_xml::<BucketLifecycleConfiguration>(text));
    parsed.map(|config| Rule::all(&config)).unwrap_or_default()
}

/// What S3 says of when an object goes that was written at `written_ms`: the date, in real days, and the rule.
pub fn expiration(
    bucket: &BucketView,
    key: &str,
    bytes: u64,
    tags: &[(String, String)],
    written_ms: u64,
) -> Option<String> {
    let (at, id) = expiry(&bucket.lifecycle, key.as_bytes(), bytes, tags, written_ms, Day::REAL)?;
    let mut date = Vec::new();
    super::attributes::timestamp(at).format(TimestampFormat::HttpDate, &mut date).ok()?;
    Some(format!("expiry-date=\"{}\", rule-id=\"{id}\"", String::from_utf8_lossy(&date)))
}

/// The same of an object that is there: the past does not expire by this rule.
pub fn expiration_of(bucket: &BucketView, key: &str, object: &Object) -> Option<String> {
    let version = &object.version;
    let told = || expiration(bucket, key, version.bytes, &object.extra.tags, version.modified_ms);
    if object.latest { told() } else { None }
}

pub fn get_bucket_lifecycle_configuration(
    _door: &S3Door,
    request: S3Request<GetBucketLifecycleConfigurationInput>,
) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
    let scene = scene(&request)?;
    let absent = || {
        let text = "The lifecycle configuration does not exist";
        error::custom("NoSuchLifecycleConfiguration", StatusCode::NOT_FOUND, text)
    };
    let text = kept(scene.bucket()?, "lifecycle", absent)?;
    let rules = from_xml::<BucketLifecycleConfiguration>(text).map(|config| config.rules);
    Ok(S3Response::new(GetBucketLifecycleConfigurationOutput { rules, ..Default::default() }))
}

fn positive(days: Option<i32>, what: &str) -> S3Result<()> {
    match days {
        Some(..=0) => Err(s3_error!(InvalidArgument, "'{what}' must be a positive integer")),
        Some(_) | None => Ok(()),
    }
}

fn is_midnight(at: &Timestamp) -> bool {
    super::attributes::unix_ms_of(at).is_multiple_of(24 * 60 * 60 * 1000)
}

/// Whether a rule moves objects to other storage classes.
fn moves(rule: &LifecycleRule) -> bool {
    rule.transitions.as_ref().is_some_and(|list| !list.is_empty())
        || rule.noncurrent_version_transitions.as_ref().is_some_and(|list| !list.is_empty())
}

fn check_transitions(rule: &LifecycleRule) -> S3Result<()> {
    let mut classes = BTreeSet::new();
    let (mut days, mut dates) = (0, 0);
    for wanted in rule.transitions.iter().flatten() {
        let class = wanted.storage_class.as_ref().map(|class| class.as_str()).ok_or_else(malformed)?;
        if !COLDER.contains(&class) || wanted.days.is_some() == wanted.date.is_some() {
            return Err(malformed());
        }
        if wanted.days.is_some_and(|days| days < 0) {
            return Err(s3_error!(InvalidArgument, "'Days' for Transition action must be nonnegative"));
        }
        if wanted.date.as_ref().is_some_and(|at| !is_midnight(at)) {
            return Err(s3_error!(InvalidArgument, "'Date' must be at midnight GMT"));
        }
        days += i32::from(wanted.days.is_some());
        dates += i32::from(wanted.date.is_some());
        if !classes.insert(class) {
            return Err(s3_error!(
                InvalidRequest,
                "'StorageClass' must be different for 'Transition' actions in same 'Rule'"
            ));
        }
        let expires = rule.expiration.as_ref().and_then(|expiration| expiration.days);
        if expires.zip(wanted.days).is_some_and(|(expires, moves)| expires <= moves) {
            return Err(s3_error!(
                InvalidArgument,
                "'Days' in the Expiration action for filter must be greater than 'Days' in the Transition action"
            ));
        }
    }
    if days > 0 && dates > 0 {
        return Err(s3_error!(
            InvalidRequest,
            "Found mixed 'Date' and 'Days' based Transition actions in lifecycle rule"
        ));
    }
    for wanted in rule.noncurrent_version_transitions.iter().flatten() {
        let class = wanted.storage_class.as_ref().map(|class| class.as_str()).ok_or_else(malformed)?;
        if !COLDER.contains(&class) || wanted.noncurrent_days.is_none_or(|days| days < 0) {
            return Err(malformed());
        }
        positive(wanted.newer_noncurrent_versions, "NewerNoncurrentVersions")?;
    }
    Ok(())
}

fn check(rule: &LifecycleRule) -> S3Result<()> {
    if ![ExpirationStatus::ENABLED, ExpirationStatus::DISABLED].contains(&rule.status.as_str()) {
        return Err(malformed());
    }
    if rule.id.as_ref().is_some_and(|id| id.len() > ID_BYTES_MAX) {
        return Err(s3_error!(InvalidArgument, "ID length should not exceed allowed limit of 255"));
    }
    if rule.filter.is_none() == rule.prefix.is_none() {
        return Err(malformed());
    }
    if let Some(filter) = &rule.filter {
        let and = filter.and.as_ref();
        let sizes = [filter.object_size_greater_than, filter.object_size_less_than];
        let more =
            [and.and_then(|and| and.object_size_greater_than), and.and_then(|and| and.object_size_less_than)];
        let single = [
            filter.prefix.is_some(),
            filter.tag.is_some(),
            sizes[0].is_some(),
            sizes[1].is_some(),
            and.is_some(),
        ];
        let tags = filter.tag.iter().chain(and.and_then(|and| and.tags.as_ref()).into_iter().flatten());
        let nameless = tags.into_iter().any(|tag| tag.key.as_ref().is_none_or(String::is_empty));
        // What cannot be meant must not mean more than was meant.
        let negative = sizes.into_iter().chain(more).flatten().any(|size| size < 0);
        if negative || nameless || single.into_iter().filter(|one| *one).count() > 1 {
            return Err(malformed());
        }
    }
    check_transitions(rule)?;
    if let Some(wanted) = &rule.expiration {
        positive(wanted.days, "Days for Expiration action")?;
        let ways =
            [wanted.days.is_some(), wanted.date.is_some(), wanted.expired_object_delete_marker.is_some()];
        if ways.into_iter().filter(|way| *way).count() != 1 {
            return Err(malformed());
        }
        if wanted.date.as_ref().is_some_and(|at| !is_midnight(at)) {
            return Err(s3_error!(InvalidArgument, "'Date' must be at midnight GMT"));
        }
    }
    if let Some(wanted) = &rule.noncurrent_version_expiration {
        positive(wanted.noncurrent_days, "NoncurrentDays for NoncurrentVersionExpiration action")?;
        positive(wanted.newer_noncurrent_versions, "NewerNoncurrentVersions")?;
        if wanted.noncurrent_days.is_none() {
            return Err(malformed());
        }
    }
    if let Some(wanted) = &rule.abort_incomplete_multipart_upload {
        positive(
            wanted.days_after_initiation,
            "DaysAfterInitiation for AbortIncompleteMultipartUpload action",
        )?;
    }
    let nothing = rule.expiration.is_none()
        && rule.noncurrent_version_expiration.is_none()
        && !moves(rule)
        && rule.abort_incomplete_multipart_upload.is_none();
    if nothing {
        return Err(s3_error!(InvalidRequest, "At least one action needs to be specified in a rule"));
    }
    Ok(())
}

pub async fn put_bucket_lifecycle_configuration(
    door: &S3Door,
    request: S3Request<PutBucketLifecycleConfigurationInput>,
) -> S3Result<S3Response<PutBucketLifecycleConfigurationOutput>> {
    let scene = scene(&request)?;
    let mut config = request.input.lifecycle_configuration.ok_or_else(malformed)?;
    if config.rules.is_empty() || config.rules.len() > RULES_MAX {
        return Err(malformed());
    }
    config.rules.iter().try_for_each(check)?;
    for rule in &mut config.rules {
        rule.id.get_or_insert_with(|| format!("{:032x}", rand::random::<u128>()));
    }
    let ids: BTreeSet<_> = config.rules.iter().map(|rule| &rule.id).collect();
    if ids.len() != config.rules.len() {
        return Err(s3_error!(
            InvalidArgument,
            "Rule ID must be unique. Found same ID for more than one rule"
        ));
    }
    if config.rules.iter().any(moves) {
        classes::note(door, scene.bucket()?).await?;
    }
    set(door, scene.bucket()?, "lifecycle", Some(to_xml(&config)?)).await?;
    Ok(S3Response::new(PutBucketLifecycleConfigurationOutput::default()))
}

pub async fn delete_bucket_lifecycle(
    door: &S3Door,
    request: S3Request<DeleteBucketLifecycleInput>,
) -> S3Result<S3Response<DeleteBucketLifecycleOutput>> {
    let scene = scene(&request)?;
    set(door, scene.bucket()?, "lifecycle", None).await?;
    Ok(S3Response::new(DeleteBucketLifecycleOutput::default()))
}
