//! Which objects of a bucket are copied to which bucket of another cluster. Carrying it out is [`crate::replicate`]'s.
//!
//! A destination names the other cluster, which operators make known as a *remote*, where ARNs have the region:
//! `arn:aws:s3:REMOTE::BUCKET`.

use super::{
    S3Door,
    access::{Scene, scene},
    classes::STORAGE_CLASSES,
    documents::{malformed, set, to_xml},
    encryption::Encryption,
    error,
    extras::header,
    settings::{BucketView, Ownership, from_xml},
};
use crate::replicate::{Fault, Remote, RemoteBucket};
use holdfast_meta_raft_machine::{
    ask::{CursorOf, IdentitiesNow, UsageOf},
    command::Command,
    records::{Extra, Versioning},
};
use hyper::{HeaderMap, StatusCode};
use s3s::{
    S3Error, S3Request, S3Response, S3Result,
    dto::{
        DeleteBucketReplicationInput, DeleteBucketReplicationOutput, DeleteMarkerReplicationStatus,
        Destination, ExistingObjectReplicationStatus, GetBucketReplicationInput, GetBucketReplicationOutput,
        PutBucketReplicationInput, PutBucketReplicationOutput, ReplicaModificationsStatus,
        ReplicationConfiguration, ReplicationRule, ReplicationRuleStatus, ReplicationStatus, Tag,
    },
    s3_error,
};
use std::collections::{BTreeMap, BTreeSet};

/// Under this name a bucket keeps its rules.
pub const DOCUMENT: &str = "replication";

/// Under this name a version says whether it is copied, and under this one of which version it is a copy.
pub const STATUS: &str = "replication";
const SOURCE: &str = "replica-of";

/// How far the bucket's journal was read for copying.
pub const CURSOR: &str = "replication";

/// Says of a write that it is a copy, and of a version what becomes of it.
pub const STATUS_HEADER: &str = "x-amz-replication-status";

/// The version that a copy is of, so that one which was sent twice is known.
pub const SOURCE_HEADER: &str = "x-holdfast-replica-of";

pub const PENDING: &str = ReplicationStatus::PENDING;
pub const FAILED: &str = ReplicationStatus::FAILED;
pub const REPLICA: &str = ReplicationStatus::REPLICA;

/// Rules that a bucket may have, as in S3.
const RULES_MAX: usize = 1000;
const ID_MAX: usize = 255;

/// Which objects go where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    priority: i32,
    prefix: String,
    tags: Vec<(String, String)>,
    pub remote: String,
    pub bucket: String,
    pub storage_class: Option<String>,
    /// Delete markers, too.
    pub markers: bool,
    /// Objects under keys of the key service are copied, and encrypted with this one there.
    pub kms_key: Option<String>,
}

impl Rule {
    fn covers(&self, key: &str, tags: &[(String, String)]) -> bool {
        key.starts_with(&self.prefix) && self.tags.iter().all(|tag| tags.contains(tag))
    }
}

/// The rules that an object follows: the one of the highest priority for each destination.
pub fn rules_for<'a>(rules: &'a [Rule], key: &str, tags: &[(String, String)]) -> Vec<&'a Rule> {
    let mut chosen: BTreeMap<(&str, &str), &Rule> = BTreeMap::new();
    for rule in rules.iter().filter(|rule| rule.covers(key, tags)) {
        let best = chosen.entry((&rule.remote, &rule.bucket)).or_insert(rule);
        if rule.priority > best.priority {
            *best = rule;
        }
    }
    chosen.into_values().collect()
}

/// The remote and the bucket that a destination names.
fn target(arn: &str) -> Option<(String, String)> {
    let rest = arn.strip_prefix("arn:aws:s3:")?;
    let (remote, rest) = rest.split_once(':')?;
    let (_account, bucket) = rest.split_once(':')?;
    let is_name = |name: &str| !name.is_empty() && !name.contains([':', '/']);
    (is_name(remote) && is_name(bucket)).then(|| (remote.to_owned(), bucket.to_owned()))
}

/// A rule that is enabled; `None` where it is malformed.
fn read(rule: &ReplicationRule) -> Option<Rule> {
    let pair = |tag: &Tag| Some((tag.key.clone()?, tag.value.clone()?));
    let (prefix, tags) = match (&rule.filter, &rule.prefix) {
        (None, prefix) => (prefix.clone(), Vec::new()),
        (Some(filter), None) => match (&filter.and, &filter.prefix, &filter.tag) {
            (Some(and), None, None) => (and.prefix.clone(), and.tags.clone().unwrap_or_default()),
            (None, prefix, None) => (prefix.clone(), Vec::new()),
            (None, None, Some(tag)) => (None, vec![tag.clone()]),
            _ => return None,
        },
        (Some(_), Some(_)) => return None,
    };
    let (remote, bucket) = target(&rule.destination.bucket)?;
    let enabled =
        |status: &DeleteMarkerReplicationStatus| status.as_str() == DeleteMarkerReplicationStatus::ENABLED;
    let markers = rule.delete_marker_replication.as_ref().and_then(|wanted| wanted.status.as_ref());
    let keys =
        rule.source_selection_criteria.as_ref().and_then(|wanted| wanted.sse_kms_encrypted_objects.as_ref());
    let key = rule
        .destination
        .encryption_configuration
        .as_ref()
        .and_then(|wanted| wanted.replica_kms_key_id.clone());
    Some(Rule {
        priority: rule.priority.unwrap_or(0),
        prefix: prefix.unwrap_or_default(),
        tags: tags.iter().map(pair).collect::<Option<_>>()?,
        remote,
        bucket,
        storage_class: rule.destination.storage_class.as_ref().map(|class| class.as_str().to_owned()),
        // Rules of the older form have no say in it.
        markers: rule.filter.is_none() || markers.is_some_and(enabled),
        kms_key: key.filter(|_| keys.is_some_and(|keys| keys.status.as_str() == "Enabled")),
    })
}

fn is_enabled(rule: &ReplicationRule) -> bool {
    rule.status.as_str() == ReplicationRuleStatus::ENABLED
}

/// The rules of a bucket's document that are enabled.
pub fn rules(text: &str) -> Vec<Rule> {
    let config = from_xml::<ReplicationConfiguration>(text);
    let rules = config.map(|config| config.rules).unwrap_or_default();
    rules.iter().filter(|rule| is_enabled(rule)).filter_map(read).collect()
}

/// Notes with a version that is written whether it is to be copied, or is a copy itself.
///
/// # Errors
/// Where the caller may not write copies.
pub fn mark(
    scene: &Scene,
    headers: &HeaderMap,
    bucket: &BucketView,
    key: &str,
    encryption: Option<&Encryption>,
    extra: &mut Extra,
) -> S3Result<()> {
    if header(headers, STATUS_HEADER)?.is_some_and(|status| status == REPLICA) {
        if !scene.may_replicate(key) {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        }
        extra.documents.insert(STATUS.to_owned(), REPLICA.to_owned());
        if let Some(source) = header(headers, SOURCE_HEADER)? {
            extra.documents.insert(SOURCE.to_owned(), source.to_owned());
        }
        return Ok(());
    }
    let goes = |rule: &&Rule| encryption.is_none_or(|encryption| encryption.may_be_copied(bucket, rule));
    // What somebody else owns is not the bucket owner's to give away.
    let is_owned = extra.owner == bucket.config.owner || bucket.ownership == Ownership::BucketOwnerEnforced;
    if bucket.config.versioning == Versioning::Enabled
        && is_owned
        && rules_for(&bucket.replication, key, &extra.tags).iter().any(goes)
    {
        extra.documents.insert(STATUS.to_owned(), PENDING.to_owned());
    }
    Ok(())
}

/// What is told of a version.
pub fn status_of(extra: &Extra) -> Option<ReplicationStatus> {
    extra.documents.get(STATUS).map(|status| status.clone().into())
}

/// Of which version it is a copy.
pub fn source_of(extra: &Extra) -> Option<&str> {
    extra.documents.get(SOURCE).map(String::as_str)
}

fn invalid(message: &str) -> S3Error {
    s3_error!(InvalidRequest, "{message}")
}

fn check_destination(wanted: &Destination) -> S3Result<()> {
    if target(&wanted.bucket).is_none() {
        return Err(s3_error!(
            InvalidArgument,
            "Destination bucket must be named as arn:aws:s3:REMOTE::BUCKET, with a remote that the operators have made"
        ));
    }
    let timed = wanted.replication_time.as_ref().is_some_and(|time| time.status.as_str() == "Enabled");
    let class = wanted.storage_class.as_ref().map(|class| class.as_str());
    if class.is_some_and(|class| !STORAGE_CLASSES.contains(&class)) {
        return Err(s3_error!(InvalidStorageClass, "The storage class you specified is not valid"));
    }
    if timed || wanted.access_control_translation.is_some() {
        return Err(s3_error!(
            NotImplemented,
            "Replication time control and owner override are not implemented"
        ));
    }
    Ok(())
}

/// # Errors
/// Where S3 would refuse the rules, or they ask for what is not implemented.
fn check_rules(wanted: &[ReplicationRule]) -> S3Result<()> {
    if wanted.is_empty() || wanted.len() > RULES_MAX {
        return Err(malformed());
    }
    let (mut ids, mut priorities) = (BTreeSet::new(), BTreeSet::new());
    for rule in wanted {
        let id = rule.id.as_deref().unwrap_or_default();
        if id.len() > ID_MAX || !ids.insert(id) {
            return Err(s3_error!(
                InvalidArgument,
                "Rule Id must be unique. Found same Id for more than one rule"
            ));
        }
        check_destination(&rule.destination)?;
        let Some(read) = read(rule) else { return Err(malformed()) };
        if rule.filter.is_some() {
            if rule.priority.is_none() || rule.delete_marker_replication.is_none() {
                return Err(invalid("A rule with Filter needs Priority and DeleteMarkerReplication"));
            }
            if read.priority < 0 || !priorities.insert(read.priority) {
                return Err(invalid(
                    "Found duplicate priorities. Priorities must be unique and not negative",
                ));
            }
        }
        if read.markers && !read.tags.is_empty() {
            return Err(invalid("Delete marker replication is not supported if any Tag filter is specified"));
        }
        let criteria = rule.source_selection_criteria.as_ref();
        let replicas = criteria.and_then(|wanted| wanted.replica_modifications.as_ref());
        let existing = rule.existing_object_replication.as_ref();
        if replicas.is_some_and(|wanted| wanted.status.as_str() == ReplicaModificationsStatus::ENABLED)
            || existing
                .is_some_and(|wanted| wanted.status.as_str() == ExistingObjectReplicationStatus::ENABLED)
        {
            return Err(s3_error!(
                NotImplemented,
                "Replication of existing objects and of changes to replicas is not implemented"
            ));
        }
        let keys = criteria.and_then(|wanted| wanted.sse_kms_encrypted_objects.as_ref());
        if keys.is_some_and(|keys| keys.status.as_str() == "Enabled") && read.kms_key.is_none() {
            return Err(invalid("SseKmsEncryptedObjects needs a ReplicaKmsKeyID"));
        }
    }
    Ok(())
}

/// # Errors
/// Where a destination is none of the bucket's owner, cannot be reached, or keeps no versions.
async fn check_targets(door: &S3Door, owner: &str, rules: &[Rule]) -> S3Result<()> {
    let (_, records) = door.ask(IdentitiesNow {}).await?;
    let targets: BTreeSet<(&str, &str)> =
        rules.iter().map(|rule| (rule.remote.as_str(), rule.bucket.as_str())).collect();
    for (remote, bucket) in targets {
        let found = Remote::among(&records, remote).filter(|remote| remote.serves(owner));
        let Some(remote) = found else {
            return Err(s3_error!(
                InvalidArgument,
                "There is no remote {remote} for the owner of this bucket"
            ));
        };
        let target = RemoteBucket::new(&remote, bucket).map_err(|fault| invalid(&fault.to_string()))?;
        match target.keeps_versions().await {
            Ok(true) => {}
            Ok(false) => return Err(invalid("Destination bucket must have versioning enabled.")),
            Err(Fault::Refused(404, _)) => return Err(invalid("Destination bucket must exist.")),
            Err(fault) => return Err(invalid(&format!("The destination bucket cannot be used: {fault}"))),
        }
    }
    Ok(())
}

pub fn get_bucket_replication(
    _door: &S3Door,
    request: S3Request<GetBucketReplicationInput>,
) -> S3Result<S3Response<GetBucketReplicationOutput>> {
    let scene = scene(&request)?;
    let kept = scene.bucket()?.config.documents.get(DOCUMENT);
    let Some(config) = kept.and_then(|text| from_xml::<ReplicationConfiguration>(text)) else {
        return Err(error::custom(
            "ReplicationConfigurationNotFoundError",
            StatusCode::NOT_FOUND,
            "The replication configuration was not found",
        ));
    };
    Ok(S3Response::new(GetBucketReplicationOutput { replication_configuration: Some(config) }))
}

pub async fn put_bucket_replication(
    door: &S3Door,
    request: S3Request<PutBucketReplicationInput>,
) -> S3Result<S3Response<PutBucketReplicationOutput>> {
    let scene = scene(&request)?;
    let bucket = scene.bucket()?;
    let mut config = request.input.replication_configuration;
    for rule in config.rules.iter_mut().filter(|rule| rule.id.is_none()) {
        rule.id = Some(format!("{:032x}", rand::random::<u128>()));
    }
    check_rules(&config.rules)?;
    if bucket.config.versioning != Versioning::Enabled {
        return Err(invalid(
            "Versioning must be 'Enabled' on the bucket to apply a replication configuration",
        ));
    }
    let text = to_xml(&config)?;
    check_targets(door, &bucket.config.owner, &rules(&text)).await?;
    let id = bucket.bucket.id;
    if door.ask(CursorOf { bucket: id, name: CURSOR.to_owned() }).await?.is_none() {
        // What was deleted before there were any rules is not deleted there.
        let usage = door.ask(UsageOf { bucket: id }).await?.unwrap_or_default();
        let name = CURSOR.to_owned();
        door.run(Command::NoteCursor { bucket: id, name, position: usage.journal_next }).await?;
    }
    set(door, bucket, DOCUMENT, Some(text)).await?;
    Ok(S3Response::new(PutBucketReplicationOutput::default()))
}

pub async fn delete_bucket_replication(
    door: &S3Door,
    request: S3Request<DeleteBucketReplicationInput>,
) -> S3Result<S3Response<DeleteBucketReplicationOutput>> {
    set(door, scene(&request)?.bucket()?, DOCUMENT, None).await?;
    Ok(S3Response::new(DeleteBucketReplicationOutput::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(priority: i32, prefix: &str, bucket: &str) -> Rule {
        Rule {
            priority,
            prefix: prefix.to_owned(),
            tags: Vec::new(),
            remote: "far".to_owned(),
            bucket: bucket.to_owned(),
            storage_class: None,
            markers: false,
            kms_key: None,
        }
    }

    #[test]
    fn a_destination_names_a_remote_and_a_bucket() {
        assert_eq!(target("arn:aws:s3:far::box"), Some(("far".to_owned(), "box".to_owned())));
        for arn in
            ["arn:aws:s3:::box", "box", "arn:aws:s3:far::", "arn:aws:s3:far::a/b", "arn:aws:sqs:far::box"]
        {
            assert_eq!(target(arn), None, "{arn}");
        }
    }

    #[test]
    fn the_highest_priority_decides_for_each_destination() {
        let rules = [rule(1, "", "one"), rule(2, "a/", "one"), rule(0, "", "two")];
        let chosen = |key: &str| -> Vec<(i32, &str)> {
            rules_for(&rules, key, &[])
                .into_iter()
                .map(|rule| (rule.priority, rule.bucket.as_str()))
                .collect()
        };
        assert_eq!(chosen("a/b"), [(2, "one"), (0, "two")]);
        assert_eq!(chosen("b"), [(1, "one"), (0, "two")]);
    }

    #[test]
    fn all_tags_of_a_filter_are_needed() {
        let tag = |name: &str| (name.to_owned(), "1".to_owned());
        let wanted = Rule { tags: vec![tag("a"), tag("b")], ..rule(0, "", "one") };
        assert!(wanted.covers("key", &[tag("a"), tag("b"), tag("c")]));
        assert!(!wanted.covers("key", &[tag("a")]));
    }
}
