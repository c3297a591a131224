//! Buckets.

use super::{
    REGION, S3Door,
    access::{Scene, scene},
    acl::{Acl, Of},
    attributes::timestamp,
    documents::ownership_text,
    error, is_hidden,
    objects::refuse_unknown,
    settings::BucketView,
};
use crate::engine::EngineError;
use holdfast_core::{chunker::ChunkerProfile, ids::PoolId};
use holdfast_meta_raft_machine::{
    ask::{AllBuckets, ConfiguredBuckets, UploadsAfter, UsageOf},
    command::{Command, Rejection, Request},
    records::{BucketConfig, Versioning},
};
use holdfast_meta_raft_server::MetaError;
use hyper::{HeaderMap, StatusCode};
use s3s::{
    S3Error, S3Request, S3Response, S3Result,
    dto::{
        Bucket, BucketLocationConstraint, CreateBucketInput, CreateBucketOutput, DeleteBucketInput,
        DeleteBucketOutput, GetBucketLocationInput, GetBucketLocationOutput, HeadBucketInput,
        HeadBucketOutput, ListBucketsInput, ListBucketsOutput, ObjectOwnership, OwnershipControls,
        OwnershipControlsRule,
    },
    s3_error,
    validation::NameValidation,
};
use std::sync::Arc;

/// The names that S3 gives buckets today.
pub struct BucketNames;

impl NameValidation for BucketNames {
    fn validate_bucket_name(&self, name: &str) -> bool {
        let edges = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = name.as_bytes();
        (3..=63).contains(&name.len())
            && bytes.iter().all(|&byte| edges(byte) || byte == b'-' || byte == b'.')
            && edges(bytes[0])
            && edges(bytes[bytes.len() - 1])
            && !name.contains("..")
            && name.parse::<std::net::Ipv4Addr>().is_err()
    }
}

pub async fn create_bucket(
    door: &S3Door,
    request: S3Request<CreateBucketInput>,
) -> S3Result<S3Response<CreateBucketOutput>> {
    // s3s takes a PUT of a subresource that it does not know for this.
    refuse_unknown(&request.uri, &request.headers)?;
    let scene = scene(&request)?;
    let input = request.input;
    let name = input.bucket.clone();
    let config = config_of(door, &scene, &input, &request.headers)?;
    let demands = [
        (true, "s3:CreateBucket"),
        (config.documents.contains_key("acl"), "s3:PutBucketAcl"),
        (config.documents.contains_key("ownership"), "s3:PutBucketOwnershipControls"),
        (config.object_lock, "s3:PutBucketObjectLockConfiguration"),
        (config.object_lock, "s3:PutBucketVersioning"),
    ];
    let actions: Vec<&str> =
        demands.iter().filter(|(demanded, _)| *demanded).map(|(_, action)| *action).collect();
    if !scene.may_make(&name, &actions) {
        return Err(s3_error!(AccessDenied, "Access Denied"));
    }
    let plain = config == BucketConfig::default();
    let owner = config.owner.clone();
    let plain_request = config == BucketConfig { owner, ..BucketConfig::default() };
    let (domain, chunker) = (PoolId::FIRST.domain(), ChunkerProfile::V1);
    let made = door.engine.run(match plain {
        // What earlier versions know is said as they understand it.
        true => Command::CreateBucket { name: name.clone(), domain, chunker },
        false => Command::MakeBucket { name: name.clone(), domain, chunker, config },
    });
    match made.await {
        Ok(_) => Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{name}")) })),
        Err(EngineError::Rejected(Rejection::BucketExists)) => {
            let (view, _) = door.look(&name, None).await?;
            let mine = view.filter(|view| scene.who.canonical() == Some(&view.config.owner));
            let private = |view: &Arc<BucketView>| view.acl == Acl::private(&view.config.owner);
            // As in S3's first region: who has the bucket has it, where nothing about it would change.
            match mine.as_ref().is_some_and(private) && plain_request {
                true => Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{name}")) })),
                false => Err(taken()),
            }
        }
        Err(failed) => Err(error::engine(failed)),
    }
}

fn taken() -> S3Error {
    s3_error!(
        BucketAlreadyExists,
        "The requested bucket name is not available. The bucket namespace is shared by all users of the system. Please select a different name and try again."
    )
}

/// What a bucket is set to from its first moment.
fn config_of(
    door: &S3Door,
    scene: &Scene,
    input: &CreateBucketInput,
    headers: &HeaderMap,
) -> S3Result<BucketConfig> {
    let owner = scene.who.canonical().unwrap_or_default().to_owned();
    let mut config = BucketConfig { owner, ..BucketConfig::default() };
    if input.object_lock_enabled_for_bucket == Some(true) {
        (config.versioning, config.object_lock) = (Versioning::Enabled, true);
    }
    let mut enforced = false;
    if let Some(wanted) = &input.object_ownership {
        let rule = OwnershipControlsRule { object_ownership: wanted.clone() };
        let text = ownership_text(&OwnershipControls { rules: vec![rule] })?;
        config.documents.insert("ownership".to_owned(), text);
        enforced = wanted.as_str() == ObjectOwnership::BUCKET_OWNER_ENFORCED;
    }
    let acl = Acl::from_headers(headers, &config.owner, Of::Bucket, &door.directory.now())?;
    if let Some(acl) = acl.filter(|acl| *acl != Acl::private(&config.owner)) {
        if enforced {
            return Err(error::custom(
                "InvalidBucketAclWithObjectOwnership",
                StatusCode::BAD_REQUEST,
                "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting",
            ));
        }
        config.documents.insert("acl".to_owned(), acl.to_text()?);
    }
    Ok(config)
}

/// Uploads that are given up at once.
const UPLOADS_A_TIME: u32 = 1000;

pub async fn delete_bucket(
    door: &S3Door,
    request: S3Request<DeleteBucketInput>,
) -> S3Result<S3Response<DeleteBucketOutput>> {
    refuse_unknown(&request.uri, &request.headers)?;
    let scene = scene(&request)?;
    let bucket = scene.bucket()?.bucket.id;
    // Uploads in progress are no objects: they go with the bucket.
    while door.ask(UsageOf { bucket }).await?.is_some_and(|usage| usage.objects == 0 && usage.uploads > 0) {
        let uploads = door.ask(UploadsAfter { bucket, after: None, limit: UPLOADS_A_TIME }).await?;
        let abort = |(key, id, _)| Request::idempotent(Command::AbortUpload { bucket, key, id });
        let aborts: Vec<Request> = uploads.into_iter().map(abort).collect();
        door.engine.meta().submit(aborts).await.map_err(|failed| error::engine(failed.into()))?;
    }
    let config = &scene.bucket()?.config;
    door.run(match config.number == 0 {
        // What earlier versions know is said as they understand it.
        true => Command::DeleteBucket { name: request.input.bucket },
        // The one that was judged, and no other of its name.
        false => Command::RemoveBucket { bucket },
    })
    .await?;
    Ok(S3Response::new(DeleteBucketOutput::default()))
}

pub fn head_bucket(
    _door: &S3Door,
    request: S3Request<HeadBucketInput>,
) -> S3Result<S3Response<HeadBucketOutput>> {
    scene(&request)?;
    Ok(S3Response::new(HeadBucketOutput { bucket_region: Some(REGION.to_owned()), ..Default::default() }))
}

pub async fn list_buckets(
    door: &S3Door,
    request: S3Request<ListBucketsInput>,
) -> S3Result<S3Response<ListBucketsOutput>> {
    let scene = scene(&request)?;
    let ListBucketsInput { prefix, continuation_token, max_buckets, .. } = request.input;
    let limit = max_buckets.map_or(usize::MAX, |max| max.max(1) as usize);
    let mine = scene.who.canonical().unwrap_or_default();
    let all = match door.engine.meta().ask(ConfiguredBuckets {}).await {
        // A member of the version before, where all buckets are the system's owner's.
        Err(MetaError::Refused(_)) => {
            let plain = |bucket| (bucket, BucketConfig::default());
            door.ask(AllBuckets {}).await?.into_iter().map(plain).collect()
        }
        other => other.map_err(|failed| error::engine(failed.into()))?,
    };
    let mut wanted = all
        .into_iter()
        .filter(|(bucket, config)| !is_hidden(&bucket.name) && config.owner == mine)
        .map(|(bucket, _)| bucket)
        .filter(|bucket| prefix.as_ref().is_none_or(|prefix| bucket.name.starts_with(prefix)))
        .filter(|bucket| continuation_token.as_ref().is_none_or(|after| bucket.name > *after))
        .peekable();
    let page: Vec<_> = wanted.by_ref().take(limit).collect();
    let continuation_token = wanted.peek().and_then(|_| page.last().map(|bucket| bucket.name.clone()));
    let buckets = page.into_iter().map(|bucket| Bucket {
        creation_date: Some(timestamp(bucket.created_ms)),
        name: Some(bucket.name),
        ..Default::default()
    });
    Ok(S3Response::new(ListBucketsOutput {
        buckets: Some(buckets.collect()),
        owner: Some(door.shown_owner(mine)),
        continuation_token,
        prefix,
    }))
}

pub fn get_bucket_location(
    _door: &S3Door,
    request: S3Request<GetBucketLocationInput>,
) -> S3Result<S3Response<GetBucketLocationOutput>> {
    scene(&request)?;
    // S3 writes its first region as no region.
    let location_constraint = None::<BucketLocationConstraint>;
    Ok(S3Response::new(GetBucketLocationOutput { location_constraint }))
}
