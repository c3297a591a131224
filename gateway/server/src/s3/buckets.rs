//! Buckets.

use super::{REGION, S3Door, attributes::timestamp, is_hidden, objects::refuse_unknown};
use crate::engine::DOMAIN;
use holdfast_core::chunker::ChunkerProfile;
use holdfast_meta_raft_machine::{ask::AllBuckets, command::Command};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        Bucket, BucketLocationConstraint, CreateBucketInput, CreateBucketOutput, DeleteBucketInput,
        DeleteBucketOutput, GetBucketLocationInput, GetBucketLocationOutput, GetBucketVersioningInput,
        GetBucketVersioningOutput, HeadBucketInput, HeadBucketOutput, ListBucketsInput, ListBucketsOutput,
        Owner,
    },
    s3_error,
    validation::NameValidation,
};

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

pub fn owner() -> Owner {
    Owner { display_name: Some("holdfast".to_owned()), id: Some("holdfast".to_owned()) }
}

pub async fn create_bucket(
    door: &S3Door,
    request: S3Request<CreateBucketInput>,
) -> S3Result<S3Response<CreateBucketOutput>> {
    // s3s takes a PUT of a subresource that it does not know for this.
    refuse_unknown(&request.uri, &request.headers)?;
    let input = request.input;
    let name = input.bucket.clone();
    if input.object_lock_enabled_for_bucket == Some(true) {
        return Err(s3_error!(NotImplemented, "Object Lock is not implemented"));
    }
    door.run(Command::CreateBucket { name: name.clone(), domain: DOMAIN, chunker: ChunkerProfile::V1 })
        .await?;
    Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{name}")) }))
}

pub async fn delete_bucket(
    door: &S3Door,
    request: S3Request<DeleteBucketInput>,
) -> S3Result<S3Response<DeleteBucketOutput>> {
    refuse_unknown(&request.uri, &request.headers)?;
    door.run(Command::DeleteBucket { name: request.input.bucket }).await?;
    Ok(S3Response::new(DeleteBucketOutput::default()))
}

pub async fn head_bucket(
    door: &S3Door,
    request: S3Request<HeadBucketInput>,
) -> S3Result<S3Response<HeadBucketOutput>> {
    door.bucket(&request.input.bucket).await?;
    Ok(S3Response::new(HeadBucketOutput { bucket_region: Some(REGION.to_owned()), ..Default::default() }))
}

pub async fn list_buckets(
    door: &S3Door,
    request: S3Request<ListBucketsInput>,
) -> S3Result<S3Response<ListBucketsOutput>> {
    let ListBucketsInput { prefix, continuation_token, max_buckets, .. } = request.input;
    let limit = max_buckets.map_or(usize::MAX, |max| max.max(1) as usize);
    let all = door.ask(AllBuckets {}).await?;
    let mut wanted = all
        .into_iter()
        .filter(|bucket| !is_hidden(&bucket.name))
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
        owner: Some(owner()),
        continuation_token,
        prefix,
    }))
}

pub async fn get_bucket_location(
    door: &S3Door,
    request: S3Request<GetBucketLocationInput>,
) -> S3Result<S3Response<GetBucketLocationOutput>> {
    door.bucket(&request.input.bucket).await?;
    // S3 writes its first region as no region.
    let location_constraint = None::<BucketLocationConstraint>;
    Ok(S3Response::new(GetBucketLocationOutput { location_constraint }))
}

pub async fn get_bucket_versioning(
    door: &S3Door,
    request: S3Request<GetBucketVersioningInput>,
) -> S3Result<S3Response<GetBucketVersioningOutput>> {
    door.bucket(&request.input.bucket).await?;
    Ok(S3Response::new(GetBucketVersioningOutput::default()))
}
