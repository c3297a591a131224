//! Showing and setting access control lists.

use super::{
    S3Door,
    access::scene,
    acl::{Acl, Of},
    documents::set,
    extras::lists_unsupported,
    settings::{BucketView, Ownership},
};
use holdfast_meta_raft_machine::command::VersionChange;
use hyper::HeaderMap;
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        AccessControlPolicy, GetBucketAclInput, GetBucketAclOutput, GetObjectAclInput, GetObjectAclOutput,
        PutBucketAclInput, PutBucketAclOutput, PutObjectAclInput, PutObjectAclOutput,
    },
    s3_error,
};

pub fn get_bucket_acl(
    door: &S3Door,
    request: S3Request<GetBucketAclInput>,
) -> S3Result<S3Response<GetBucketAclOutput>> {
    let scene = scene(&request)?;
    let bucket = scene.bucket()?;
    let acl = match bucket.ownership {
        Ownership::BucketOwnerEnforced => Acl::private(&bucket.config.owner),
        Ownership::ObjectWriter | Ownership::BucketOwnerPreferred => bucket.acl.clone(),
    };
    let identities = door.directory.now();
    Ok(S3Response::new(GetBucketAclOutput {
        grants: Some(acl.show(&identities)),
        owner: Some(door.shown_owner(&bucket.config.owner)),
    }))
}

/// The list that a request sets: in its headers or in its body.
fn wanted(
    door: &S3Door,
    headers: &HeaderMap,
    body: Option<AccessControlPolicy>,
    owner: &str,
    of: Of<'_>,
) -> S3Result<Acl> {
    let identities = door.directory.now();
    match (Acl::from_headers(headers, owner, of, &identities)?, body) {
        (Some(_), Some(_)) => Err(s3_error!(UnexpectedContent, "This request does not support content")),
        (Some(acl), None) => Ok(acl),
        (None, Some(body)) => Acl::from_body(body, owner, &identities),
        (None, None) => {
            Err(s3_error!(MissingSecurityHeader, "Your request was missing a required header: x-amz-acl"))
        }
    }
}

/// # Errors
/// Where the bucket does not allow such a list.
fn check(bucket: &BucketView, acl: &Acl) -> S3Result<()> {
    if bucket.ownership == Ownership::BucketOwnerEnforced {
        return Err(lists_unsupported());
    }
    if bucket.block.block_public_acls && acl.is_public() {
        return Err(s3_error!(AccessDenied, "Access Denied"));
    }
    Ok(())
}

pub async fn put_bucket_acl(
    door: &S3Door,
    request: S3Request<PutBucketAclInput>,
) -> S3Result<S3Response<PutBucketAclOutput>> {
    let scene = scene(&request)?;
    let bucket = scene.bucket()?;
    let owner = &bucket.config.owner;
    let acl = wanted(door, &request.headers, request.input.access_control_policy, owner, Of::Bucket)?;
    check(bucket, &acl)?;
    set(door, bucket, "acl", Some(acl.to_text()?)).await?;
    Ok(S3Response::new(PutBucketAclOutput::default()))
}

pub fn get_object_acl(
    door: &S3Door,
    request: S3Request<GetObjectAclInput>,
) -> S3Result<S3Response<GetObjectAclOutput>> {
    let scene = scene(&request)?;
    let bucket = scene.bucket()?;
    let object = scene.found(request.input.version_id.is_some())?;
    let (owner, acl) = match bucket.ownership {
        Ownership::BucketOwnerEnforced => (&bucket.config.owner, Acl::private(&bucket.config.owner)),
        Ownership::ObjectWriter | Ownership::BucketOwnerPreferred => {
            (&object.extra.owner, Acl::kept(object.extra.documents.get("acl"), &object.extra.owner))
        }
    };
    Ok(S3Response::new(GetObjectAclOutput {
        grants: Some(acl.show(&door.directory.now())),
        owner: Some(door.shown_owner(owner)),
        ..Default::default()
    }))
}

pub async fn put_object_acl(
    door: &S3Door,
    request: S3Request<PutObjectAclInput>,
) -> S3Result<S3Response<PutObjectAclOutput>> {
    let scene = scene(&request)?;
    let bucket = scene.bucket()?;
    let input = request.input;
    let body = input.access_control_policy;
    let version = input.version_id.as_deref();
    let set = door.change_version(&scene, "PutObjectAcl", &input.key, version, |_, object| {
        let owner = &object.extra.owner;
        let of = Of::ObjectIn(&bucket.config.owner);
        let acl = wanted(door, &request.headers, body.clone(), owner, of)?;
        check(bucket, &acl)?;
        Ok(VersionChange::Document("acl".to_owned(), Some(acl.to_text()?)))
    });
    set.await?;
    Ok(S3Response::new(PutObjectAclOutput::default()))
}
