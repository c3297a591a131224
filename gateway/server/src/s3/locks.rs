//! Object Lock: retention, legal holds, and a bucket's defaults. What is locked, the metadata itself does not remove.

use super::{
    S3Door,
    access::scene,
    attributes::{timestamp, unix_ms_of},
    documents::{malformed, set, to_xml},
    error,
    extras::{default_retention, lock_mode, show_mode},
    settings::{BucketView, from_xml},
};
use crate::clock::unix_ms;
use holdfast_meta_raft_machine::{
    command::{Command, ConfigChange, Rejection, VersionChange},
    records::Retention,
};
use hyper::StatusCode;
use s3s::{
    S3Error, S3Request, S3Response, S3Result,
    dto::{
        GetObjectLegalHoldInput, GetObjectLegalHoldOutput, GetObjectLockConfigurationInput,
        GetObjectLockConfigurationOutput, GetObjectRetentionInput, GetObjectRetentionOutput,
        ObjectLockConfiguration, ObjectLockEnabled, ObjectLockLegalHold, ObjectLockLegalHoldStatus,
        ObjectLockRetention, ObjectLockRetentionMode, PutObjectLegalHoldInput, PutObjectLegalHoldOutput,
        PutObjectLockConfigurationInput, PutObjectLockConfigurationOutput, PutObjectRetentionInput,
        PutObjectRetentionOutput,
    },
    s3_error,
};

fn no_lock() -> S3Error {
    error::custom(
        "ObjectLockConfigurationNotFoundError",
        StatusCode::NOT_FOUND,
        "Object Lock configuration does not exist for this bucket",
    )
}

fn check_lock(bucket: &BucketView) -> S3Result<()> {
    match bucket.config.object_lock {
        true => Ok(()),
        false => Err(s3_error!(InvalidRequest, "Bucket is missing Object Lock Configuration")),
    }
}

pub fn get_object_lock_configuration(
    _door: &S3Door,
    request: S3Request<GetObjectLockConfigurationInput>,
) -> S3Result<S3Response<GetObjectLockConfigurationOutput>> {
    let scene = scene(&request)?;
    let bucket = scene.bucket()?;
    if !bucket.config.object_lock {
        return Err(no_lock());
    }
    let kept = bucket.config.documents.get("object-lock").and_then(|text| from_xml(text));
    let enabled = || ObjectLockConfiguration {
        object_lock_enabled: Some(ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED)),
        rule: None,
    };
    let object_lock_configuration = Some(kept.unwrap_or_else(enabled));
    Ok(S3Response::new(GetObjectLockConfigurationOutput { object_lock_configuration }))
}

pub async fn put_object_lock_configuration(
    door: &S3Door,
    request: S3Request<PutObjectLockConfigurationInput>,
) -> S3Result<S3Response<PutObjectLockConfigurationOutput>> {
    let scene = scene(&request)?;
    let bucket = scene.bucket()?;
    let config = request.input.object_lock_configuration.ok_or_else(malformed)?;
    let enabled = config.object_lock_enabled.as_ref().map(ObjectLockEnabled::as_str);
    if enabled != Some(ObjectLockEnabled::ENABLED) {
        return Err(malformed());
    }
    if let Some(rule) = &config.rule {
        let wanted = rule.default_retention.as_ref().ok_or_else(malformed)?;
        let mode = wanted.mode.as_ref().ok_or_else(malformed)?;
        lock_mode(mode.as_str()).map_err(|_| malformed())?;
        if wanted.days.is_some() == wanted.years.is_some() {
            return Err(malformed());
        }
        if default_retention(wanted).is_none() {
            return Err(error::custom(
                "InvalidRetentionPeriod",
                StatusCode::BAD_REQUEST,
                "The retention period must be a positive integer value",
            ));
        }
    }
    if !bucket.config.object_lock {
        let lock = Command::ConfigureBucket { bucket: bucket.bucket.id, change: ConfigChange::ObjectLock };
        let refused = s3_error!(
            InvalidBucketState,
            "Versioning must be 'Enabled' on the bucket to apply a Object Lock configuration"
        );
        door.engine.run(lock).await.map_err(error::expecting(&Rejection::BucketState, refused))?;
    }
    let wanted = config.rule.as_ref().and_then(|rule| rule.default_retention.as_ref());
    let default = ConfigChange::DefaultRetention(wanted.and_then(default_retention));
    door.run(Command::ConfigureBucket { bucket: bucket.bucket.id, change: default }).await?;
    set(door, bucket, "object-lock", Some(to_xml(&config)?)).await?;
    Ok(S3Response::new(PutObjectLockConfigurationOutput::default()))
}

pub fn get_object_retention(
    _door: &S3Door,
    request: S3Request<GetObjectRetentionInput>,
) -> S3Result<S3Response<GetObjectRetentionOutput>> {
    let scene = scene(&request)?;
    check_lock(scene.bucket()?)?;
    let object = scene.found(request.input.version_id.is_some())?;
    let retention = object.extra.retention.ok_or_else(|| {
        error::custom(
            "NoSuchObjectLockConfiguration",
            StatusCode::NOT_FOUND,
            "The specified object does not have a ObjectLock configuration",
        )
    })?;
    Ok(S3Response::new(GetObjectRetentionOutput {
        retention: Some(ObjectLockRetention {
            mode: Some(ObjectLockRetentionMode::from_static(show_mode(retention.mode))),
            retain_until_date: Some(timestamp(retention.until_ms)),
        }),
    }))
}

pub async fn put_object_retention(
    door: &S3Door,
    request: S3Request<PutObjectRetentionInput>,
) -> S3Result<S3Response<PutObjectRetentionOutput>> {
    let scene = scene(&request)?;
    check_lock(scene.bucket()?)?;
    let input = request.input;
    let wanted = input.retention.ok_or_else(malformed)?;
    let retention = match (wanted.mode, wanted.retain_until_date) {
        (Some(mode), Some(until)) => {
            let mode = lock_mode(mode.as_str()).map_err(|_| malformed())?;
            let until_ms = unix_ms_of(&until);
            if until_ms <= unix_ms() {
                return Err(s3_error!(InvalidArgument, "The retain until date must be in the future!"));
            }
            Some(Retention { mode, until_ms })
        }
        (None, None) => None,
        _ => return Err(malformed()),
    };
    let bypass = scene.bypasses(input.bypass_governance_retention == Some(true), &input.key);
    let wanted = VersionChange::Retention { retention, bypass };
    let version = input.version_id.as_deref();
    door.change_version(&scene, "PutObjectRetention", &input.key, version, |_, _| Ok(wanted.clone())).await?;
    Ok(S3Response::new(PutObjectRetentionOutput::default()))
}

pub fn get_object_legal_hold(
    _door: &S3Door,
    request: S3Request<GetObjectLegalHoldInput>,
) -> S3Result<S3Response<GetObjectLegalHoldOutput>> {
    let scene = scene(&request)?;
    check_lock(scene.bucket()?)?;
    let object = scene.found(request.input.version_id.is_some())?;
    let status = match object.extra.legal_hold {
        true => ObjectLockLegalHoldStatus::ON,
        false => ObjectLockLegalHoldStatus::OFF,
    };
    let status = Some(ObjectLockLegalHoldStatus::from_static(status));
    Ok(S3Response::new(GetObjectLegalHoldOutput { legal_hold: Some(ObjectLockLegalHold { status }) }))
}

pub async fn put_object_legal_hold(
    door: &S3Door,
    request: S3Request<PutObjectLegalHoldInput>,
) -> S3Result<S3Response<PutObjectLegalHoldOutput>> {
    let scene = scene(&request)?;
    check_lock(scene.bucket()?)?;
    let input = request.input;
    let status = input.legal_hold.and_then(|hold| hold.status).ok_or_else(malformed)?;
    let held = match status.as_str() {
        ObjectLockLegalHoldStatus::ON => true,
        ObjectLockLegalHoldStatus::OFF => false,
        _ => return Err(malformed()),
    };
    let (version, hold) = (input.version_id.as_deref(), VersionChange::LegalHold(held));
    door.change_version(&scene, "PutObjectLegalHold", &input.key, version, |_, _| Ok(hold.clone())).await?;
    Ok(S3Response::new(PutObjectLegalHoldOutput::default()))
}
