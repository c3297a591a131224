//! Deleting: one key or many, what is there or one version for good.

use super::{
    S3Door,
    access::{Scene, scene},
    attributes::unix_ms_of,
    conditions::write_condition,
    digest,
    documents::malformed,
    error,
    objects::{check_key, refuse_unknown},
    settings::BucketView,
    versions::{parse_version, show},
};
use crate::engine::EngineError;
use holdfast_core::limits::LIST_KEYS_MAX;
use holdfast_meta_raft_machine::{
    command::{Command, Demand, Outcome, Precondition, Rejection, Removed, Request},
    records::{VersionName, Versioning},
};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        self, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject,
        ETagCondition, Timestamp,
    },
    s3_error,
};

/// What a delete demands of what it deletes.
fn precondition(
    etag: Option<&ETagCondition>,
    size: Option<i64>,
    modified: Option<&Timestamp>,
) -> S3Result<Precondition> {
    let size = size.map(u64::try_from).transpose();
    Ok(Precondition {
        condition: write_condition(etag, None)?,
        size: size.map_err(|_| s3_error!(InvalidArgument, "A size must not be negative"))?,
        modified_s: modified.map(|at| unix_ms_of(at) / 1000),
    })
}

fn command(
    scene: &Scene,
    bucket: &BucketView,
    key: &str,
    version: Option<VersionName>,
    precondition: Precondition,
    bypass: bool,
) -> Command {
    let (bucket_id, key) = (bucket.bucket.id, key.as_bytes().to_vec());
    let Precondition { condition, size, modified_s } = precondition;
    let null = version.is_none_or(|name| name == VersionName::Null);
    let plain = bucket.config.versioning == Versioning::Off && null && size.is_none() && modified_s.is_none();
    if plain {
        // What earlier versions know is said as they understand it.
        return Command::DeleteObject { bucket: bucket_id, key, condition };
    }
    let (owner, demand) = (scene.writer(), Demand::None);
    Command::DeleteVersion { bucket: bucket_id, key, version, precondition, bypass, owner, demand }
}

/// What was removed, as answers tell it: the version, and whether it is a delete marker.
fn told(outcome: &Outcome) -> (Option<String>, Option<bool>) {
    match outcome {
        Outcome::Removed(Removed { version, marker, .. }) => (version.map(show), marker.then_some(true)),
        Outcome::Done
        | Outcome::Bucket(_)
        | Outcome::Committed(_)
        | Outcome::Deleted { .. }
        | Outcome::Registered { .. }
        | Outcome::Collected(_)
        | Outcome::Rejected(_)
        | Outcome::Host(_)
        | Outcome::Settling { .. }
        | Outcome::Changed(_) => (None, None),
    }
}

pub async fn delete_object(
    door: &S3Door,
    request: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let scene = scene(&request)?;
    let bucket = scene.bucket()?;
    refuse_unknown(&request.uri, &request.headers)?;
    let input = request.input;
    check_key(&input.key)?;
    let version = input.version_id.as_deref().map(parse_version).transpose()?;
    let modified = input.if_match_last_modified_time.as_ref();
    let precondition = precondition(input.if_match.as_ref(), input.if_match_size, modified)?;
    let bypass = scene.bypasses(input.bypass_governance_retention == Some(true), &input.key);
    let deleted = door.engine.run(command(&scene, bucket, &input.key, version, precondition, bypass)).await;
    let outcome = match deleted {
        // What is not there is deleted, whatever was demanded of it.
        Err(EngineError::Rejected(Rejection::NoSuchKey)) => Outcome::Done,
        other => other.map_err(error::engine)?,
    };
    let (version_id, delete_marker) = told(&outcome);
    Ok(S3Response::new(DeleteObjectOutput { version_id, delete_marker, ..Default::default() }))
}

/// Why one of many keys was not deleted.
fn failure(object: dto::ObjectIdentifier, failed: &s3s::S3Error) -> dto::Error {
    dto::Error {
        code: Some(failed.code().as_str().to_owned()),
        key: Some(object.key),
        message: failed.message().map(str::to_owned),
        version_id: object.version_id,
    }
}

fn one(
    scene: &Scene,
    bucket: &BucketView,
    object: &dto::ObjectIdentifier,
    bypass: bool,
) -> S3Result<Command> {
    let version = object.version_id.as_deref().filter(|version| !version.is_empty());
    if !scene.may_delete(&object.key, version.is_some()) {
        return Err(s3_error!(AccessDenied, "Access Denied"));
    }
    let version = version.map(parse_version).transpose();
    let version = version.map_err(|_| s3_error!(NoSuchVersion, "The specified version does not exist."))?;
    let etag = object.e_tag.clone().map(ETagCondition::ETag);
    let wanted = precondition(etag.as_ref(), object.size, object.last_modified_time.as_ref())?;
    Ok(command(scene, bucket, &object.key, version, wanted, scene.bypasses(bypass, &object.key)))
}

pub async fn delete_objects(
    door: &S3Door,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let scene = scene(&request)?;
    let bucket = scene.bucket()?;
    digest::verify_body(&request)?;
    let input = request.input;
    let (objects, quiet) = (input.delete.objects, input.delete.quiet == Some(true));
    if objects.is_empty() || objects.len() > LIST_KEYS_MAX {
        return Err(malformed());
    }
    let bypass = input.bypass_governance_retention == Some(true);
    let (mut requests, mut asked) = (Vec::with_capacity(objects.len()), Vec::with_capacity(objects.len()));
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    for object in objects {
        match one(&scene, bucket, &object, bypass) {
            Ok(command) => {
                let id = door.engine.new_request_id().await.map_err(error::engine)?;
                requests.push(Request { id: Some(id), command });
                asked.push(object);
            }
            Err(failed) => errors.push(failure(object, &failed)),
        }
    }
    let outcomes = door.engine.meta().submit(requests).await.map_err(|e| error::engine(e.into()))?;
    for (object, outcome) in asked.into_iter().zip(outcomes) {
        match outcome.accepted() {
            // A key that cannot exist is as absent as any other.
            Err(Rejection::BadKey | Rejection::NoSuchKey) => {
                deleted.push(DeletedObject { key: Some(object.key), ..Default::default() })
            }
            Err(rejection) => errors.push(failure(object, &error::rejection(&rejection))),
            Ok(outcome) => {
                let (version, marker) = told(&outcome);
                deleted.push(DeletedObject {
                    key: Some(object.key),
                    version_id: object.version_id,
                    delete_marker: marker,
                    delete_marker_version_id: version.filter(|_| marker == Some(true)),
                });
            }
        }
    }
    let output = DeleteObjectsOutput {
        deleted: (!quiet).then_some(deleted),
        errors: (!errors.is_empty()).then_some(errors),
        ..Default::default()
    };
    Ok(S3Response::new(output))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_meta_raft_machine::command::Condition;

    #[test]
    fn a_delete_without_conditions_demands_nothing() {
        let wanted = precondition(None, None, None).expect("nothing is wrong with nothing");
        assert_eq!(wanted, Precondition { condition: Condition::Always, size: None, modified_s: None });
        assert!(precondition(None, Some(-1), None).is_err());
    }
}
