//! The S3 door: the protocol is s3s's, what it means is here.
//!
//! s3s parses and authenticates a request once; authorization and execution read its one result. Each operation is a
//! function of the modules below; the trait's methods only name them.

mod attributes;
mod auth;
mod buckets;
mod conditions;
mod copy;
mod digest;
mod error;
mod listing;
mod multipart;
mod objects;

pub use auth::Credentials;

use crate::engine::Engine;
use holdfast_meta_raft_machine::{
    ask::{BucketNamed, Question},
    command::{Command, Outcome},
    records::Bucket,
};
use s3s::{
    S3, S3Request, S3Response, S3Result, dto, s3_error,
    service::{S3Service, S3ServiceBuilder},
};

/// The region that every bucket is in.
pub const REGION: &str = "us-east-1";

/// The S3 door of one gateway.
#[derive(Clone)]
pub struct S3Door {
    engine: Engine,
}

impl S3Door {
    pub fn new(engine: Engine) -> Self {
        Self { engine }
    }

    /// The door behind signature checks.
    pub fn into_service(self, credentials: Credentials) -> S3Service {
        let mut builder = S3ServiceBuilder::new(self);
        builder.set_auth(credentials);
        builder.set_access(auth::OwnerOnly);
        builder.set_validation(buckets::BucketNames);
        builder.build()
    }

    async fn run(&self, command: Command) -> S3Result<Outcome> {
        self.engine.run(command).await.map_err(error::engine)
    }

    /// The answer of the metadata to a question.
    async fn ask<Q: Question>(&self, question: Q) -> S3Result<Q::Answer> {
        self.engine.meta().ask(question).await.map_err(|failed| error::engine(failed.into()))
    }

    async fn bucket(&self, name: &str) -> S3Result<Bucket> {
        // What the system keeps for itself has names that no bucket can have.
        let bucket = match is_hidden(name) {
            true => None,
            false => self.ask(BucketNamed { name: name.to_owned() }).await?,
        };
        bucket.ok_or_else(|| s3_error!(NoSuchBucket, "The specified bucket does not exist"))
    }
}

/// Whether a bucket is the system's own.
fn is_hidden(name: &str) -> bool {
    name.starts_with('.')
}

/// Trait methods that are functions of the same name elsewhere.
macro_rules! operations {
    ($($module:ident :: $name:ident: $input:ident => $output:ident;)*) => {
        #[async_trait::async_trait]
        impl S3 for S3Door {
            $(
                async fn $name(&self, request: S3Request<dto::$input>) -> S3Result<S3Response<dto::$output>> {
                    $module::$name(self, request).await
                }
            )*
        }
    };
}

operations! {
    buckets::create_bucket: CreateBucketInput => CreateBucketOutput;
    buckets::delete_bucket: DeleteBucketInput => DeleteBucketOutput;
    buckets::head_bucket: HeadBucketInput => HeadBucketOutput;
    buckets::list_buckets: ListBucketsInput => ListBucketsOutput;
    buckets::get_bucket_location: GetBucketLocationInput => GetBucketLocationOutput;
    buckets::get_bucket_versioning: GetBucketVersioningInput => GetBucketVersioningOutput;
    objects::put_object: PutObjectInput => PutObjectOutput;
    objects::get_object: GetObjectInput => GetObjectOutput;
    objects::head_object: HeadObjectInput => HeadObjectOutput;
    objects::delete_object: DeleteObjectInput => DeleteObjectOutput;
    objects::delete_objects: DeleteObjectsInput => DeleteObjectsOutput;
    copy::copy_object: CopyObjectInput => CopyObjectOutput;
    copy::upload_part_copy: UploadPartCopyInput => UploadPartCopyOutput;
    listing::list_objects: ListObjectsInput => ListObjectsOutput;
    listing::list_objects_v2: ListObjectsV2Input => ListObjectsV2Output;
    multipart::create_multipart_upload: CreateMultipartUploadInput => CreateMultipartUploadOutput;
    multipart::upload_part: UploadPartInput => UploadPartOutput;
    multipart::list_parts: ListPartsInput => ListPartsOutput;
    multipart::list_multipart_uploads: ListMultipartUploadsInput => ListMultipartUploadsOutput;
    multipart::complete_multipart_upload: CompleteMultipartUploadInput => CompleteMultipartUploadOutput;
    multipart::abort_multipart_upload: AbortMultipartUploadInput => AbortMultipartUploadOutput;
}
