//! Tags of buckets and objects.

use super::{
    S3Door,
    access::{Scene, scene},
    documents::{kept, set, to_xml},
    error,
    extras::{BUCKET_TAGS_MAX, object_tags, tag_set, tags_of},
    settings::from_xml,
    versions::shown_version,
};
use holdfast_meta_raft_machine::command::VersionChange;
use hyper::StatusCode;
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        DeleteBucketTaggingInput, DeleteBucketTaggingOutput, DeleteObjectTaggingInput,
        DeleteObjectTaggingOutput, GetBucketTaggingInput, GetBucketTaggingOutput, GetObjectTaggingInput,
        GetObjectTaggingOutput, PutBucketTaggingInput, PutBucketTaggingOutput, PutObjectTaggingInput,
        PutObjectTaggingOutput, Tagging,
    },
    s3_error,
};

pub fn get_bucket_tagging(
    _door: &S3Door,
    request: S3Request<GetBucketTaggingInput>,
) -> S3Result<S3Response<GetBucketTaggingOutput>> {
    let scene = scene(&request)?;
    let absent = || error::custom("NoSuchTagSet", StatusCode::NOT_FOUND, "The TagSet does not exist");
    let text = kept(scene.bucket()?, "tagging", absent)?;
    let tag_set = from_xml::<Tagging>(text).map(|tagging| tagging.tag_set).unwrap_or_default();
    Ok(S3Response::new(GetBucketTaggingOutput { tag_set }))
}

pub async fn put_bucket_tagging(
    door: &S3Door,
    request: S3Request<PutBucketTaggingInput>,
) -> S3Result<S3Response<PutBucketTaggingOutput>> {
    let scene = scene(&request)?;
    let tags = tags_of(request.input.tagging.tag_set, BUCKET_TAGS_MAX)?;
    let text = to_xml(&Tagging { tag_set: tag_set(&tags) })?;
    set(door, scene.bucket()?, "tagging", Some(text)).await?;
    let mut response = S3Response::new(PutBucketTaggingOutput::default());
    response.status = Some(StatusCode::NO_CONTENT);
    Ok(response)
}

pub async fn delete_bucket_tagging(
    door: &S3Door,
    request: S3Request<DeleteBucketTaggingInput>,
) -> S3Result<S3Response<DeleteBucketTaggingOutput>> {
    let scene = scene(&request)?;
    set(door, scene.bucket()?, "tagging", None).await?;
    Ok(S3Response::new(DeleteBucketTaggingOutput::default()))
}

pub fn get_object_tagging(
    _door: &S3Door,
    request: S3Request<GetObjectTaggingInput>,
) -> S3Result<S3Response<GetObjectTaggingOutput>> {
    let scene = scene(&request)?;
    let object = scene.found(request.input.version_id.is_some())?;
    let version_id = shown_version(scene.bucket()?.config.versioning, object);
    Ok(S3Response::new(GetObjectTaggingOutput { tag_set: tag_set(&object.extra.tags), version_id }))
}

/// Gives an object other tags; the version that it was.
async fn change(
    door: &S3Door,
    scene: &Scene,
    operation: (&str, &str),
    key: &str,
    version: Option<&str>,
    tags: &[(String, String)],
) -> S3Result<Option<String>> {
    let (operation, action) = operation;
    let changed = door.change_version(scene, operation, key, version, |current, object| {
        // Policies may say which tags there may be.
        match current.may_tag(action, key, Some(&object.extra), tags) {
            true => Ok(VersionChange::Tags(tags.to_vec())),
            false => Err(s3_error!(AccessDenied, "Access Denied")),
        }
    });
    Ok(shown_version(scene.bucket()?.config.versioning, &changed.await?))
}

pub async fn put_object_tagging(
    door: &S3Door,
    request: S3Request<PutObjectTaggingInput>,
) -> S3Result<S3Response<PutObjectTaggingOutput>> {
    let scene = scene(&request)?;
    let input = request.input;
    let tags = object_tags(input.tagging.tag_set)?;
    let (version, action) = match input.version_id.as_deref() {
        Some(version) => (Some(version), "s3:PutObjectVersionTagging"),
        None => (None, "s3:PutObjectTagging"),
    };
    let version_id = change(door, &scene, ("PutObjectTagging", action), &input.key, version, &tags).await?;
    Ok(S3Response::new(PutObjectTaggingOutput { version_id }))
}

pub async fn delete_object_tagging(
    door: &S3Door,
    request: S3Request<DeleteObjectTaggingInput>,
) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
    let scene = scene(&request)?;
    let input = request.input;
    let (version, action) = match input.version_id.as_deref() {
        Some(version) => (Some(version), "s3:DeleteObjectVersionTagging"),
        None => (None, "s3:DeleteObjectTagging"),
    };
    let version_id = change(door, &scene, ("DeleteObjectTagging", action), &input.key, version, &[]).await?;
    Ok(S3Response::new(DeleteObjectTaggingOutput { version_id }))
}
