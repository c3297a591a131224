//! The S3 door: the protocol is s3s's, what it means is here.
//!
//! s3s parses and authenticates a request once; authorization and execution read its one result. Each operation is a
//! function of the modules below; the trait's methods only name them.

mod access;
mod acl;
mod attributes;
mod buckets;
mod catalogue;
mod classes;
mod conditions;
mod copy;
mod cors;
mod deletes;
mod digest;
mod documents;
mod encryption;
mod error;
mod extras;
mod forms;
mod grants;
mod inspect;
mod lifecycle;
mod listing;
mod locks;
pub mod logging;
mod multipart;
mod notification;
mod objects;
pub mod replication;
mod settings;
mod tagging;
mod versions;
mod website;

pub use access::{Query, Scene};
pub use attributes::checksum_text;
pub(crate) use attributes::unix_ms_of;
pub use buckets::BucketNames;
pub use classes::{STANDARD, STORAGE_CLASS, STORAGE_CLASSES, class_of};
pub use encryption::Encryption;
pub use extras::show_mode;
pub use forms::{FORM_BYTES_MAX, FormFields};
pub use lifecycle::lifecycle_of;
pub use notification::{MADE as NOTIFICATION_MADE, Subscription, cursors, subscriptions};
pub use settings::BucketView;
pub use versions::{name_of, show, version_id};

use crate::{
    addressing::{Domains, Hosts},
    engine::Engine,
    identity::{Credentials, Directory},
    keyring::{Keyring, LocalKeys},
    metrics::GatewayMetrics,
};
use access::Guard;
use holdfast_meta_raft_machine::{
    ask::{HeaderNow, Question},
    command::{Command, Outcome},
};
use holdfast_meta_raft_server::Meta;
use logging::AccessLog;
use s3s::{
    S3, S3Request, S3Response, S3Result,
    config::{S3Config, StaticConfigProvider},
    dto,
    service::{S3Service, S3ServiceBuilder},
};
use settings::Buckets;
use std::sync::Arc;

/// The largest body that is read as XML: a completion of ten thousand parts has two MiB.
pub const XML_BYTES_MAX: usize = 4 << 20;

/// The region that every bucket is in.
pub const REGION: &str = "us-east-1";

/// The S3 door of one gateway.
#[derive(Clone)]
pub struct S3Door {
    pub(crate) engine: Engine,
    pub(crate) directory: Arc<Directory>,
    pub(crate) buckets: Arc<Buckets>,
    pub(crate) keyring: Arc<Keyring>,
    /// Lines of access logs that wait to be written.
    pub(crate) log: AccessLog,
}

impl S3Door {
    /// The door to `engine`, whose owner has `credentials`.
    pub fn new(engine: Engine, credentials: Credentials) -> Self {
        let directory = Arc::new(Directory::new(engine.meta().clone(), credentials));
        let keyring = Keyring::new(engine.meta().clone(), directory.clone(), Arc::new(LocalKeys));
        Self {
            engine,
            directory,
            buckets: Arc::default(),
            keyring: Arc::new(keyring),
            log: AccessLog::default(),
        }
    }

    /// The protocol in front of the door.
    pub fn service(&self, domains: Domains) -> S3Service {
        let guard = Guard(self.clone());
        let mut builder = S3ServiceBuilder::new(self.clone());
        builder.set_host(Hosts(domains));
        builder.set_auth(guard.clone());
        builder.set_access(guard);
        builder.set_validation(buckets::BucketNames);
        let mut config = S3Config::default();
        config.xml_max_body_size = XML_BYTES_MAX;
        config.post_object_max_file_size = forms::FILE_BYTES_MAX;
        // A file may come without a name, as any field; the whole form was bounded when it was read.
        config.form_max_field_size = FORM_BYTES_MAX;
        config.form_max_fields_size = FORM_BYTES_MAX;
        config.form_max_parts = 100;
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
        builder.build()
    }

    /// A bucket as it was seen last.
    pub fn seen(&self, bucket: &str) -> Option<Arc<BucketView>> {
        self.buckets.get(bucket)
    }

    pub fn meta(&self) -> &Meta {
        self.engine.meta()
    }

    pub fn metrics(&self) -> &GatewayMetrics {
        self.engine.metrics()
    }

    /// Whether the cluster is not yet of `version`.
    async fn is_before(&self, version: u32) -> S3Result<bool> {
        Ok(self.ask(HeaderNow {}).await?.is_some_and(|header| header.cluster_version < version))
    }

    async fn run(&self, command: Command) -> S3Result<Outcome> {
        self.engine.run(command).await.map_err(error::engine)
    }

    /// The answer of the metadata to a question.
    async fn ask<Q: Question>(&self, question: Q) -> S3Result<Q::Answer> {
        self.engine.meta().ask(question).await.map_err(|failed| error::engine(failed.into()))
    }
}

/// Whether a bucket is the system's own.
fn is_hidden(name: &str) -> bool {
    name.starts_with('.')
}

/// Trait methods that are functions of the same name elsewhere.
macro_rules! operations {
    (
        $($module:ident :: $name:ident: $input:ident => $output:ident;)*
        ; at once
        $($module_now:ident :: $name_now:ident: $input_now:ident => $output_now:ident;)*
    ) => {
        #[async_trait::async_trait]
        impl S3 for S3Door {
            $(
                async fn $name(&self, request: S3Request<dto::$input>) -> S3Result<S3Response<dto::$output>> {
                    $module::$name(self, request).await
                }
            )*
            $(
                async fn $name_now(
                    &self,
                    request: S3Request<dto::$input_now>,
                ) -> S3Result<S3Response<dto::$output_now>> {
                    $module_now::$name_now(self, request)
                }
            )*
        }
    };
}

operations! {
    buckets::create_bucket: CreateBucketInput => CreateBucketOutput;
    buckets::delete_bucket: DeleteBucketInput => DeleteBucketOutput;
    buckets::list_buckets: ListBucketsInput => ListBucketsOutput;
    versions::put_bucket_versioning: PutBucketVersioningInput => PutBucketVersioningOutput;
    versions::list_object_versions: ListObjectVersionsInput => ListObjectVersionsOutput;
    documents::put_bucket_policy: PutBucketPolicyInput => PutBucketPolicyOutput;
    documents::delete_bucket_policy: DeleteBucketPolicyInput => DeleteBucketPolicyOutput;
    lifecycle::put_bucket_lifecycle_configuration: PutBucketLifecycleConfigurationInput => PutBucketLifecycleConfigurationOutput;
    lifecycle::delete_bucket_lifecycle: DeleteBucketLifecycleInput => DeleteBucketLifecycleOutput;
    documents::put_bucket_cors: PutBucketCorsInput => PutBucketCorsOutput;
    documents::delete_bucket_cors: DeleteBucketCorsInput => DeleteBucketCorsOutput;
    website::put_bucket_website: PutBucketWebsiteInput => PutBucketWebsiteOutput;
    documents::delete_bucket_website: DeleteBucketWebsiteInput => DeleteBucketWebsiteOutput;
    notification::put_bucket_notification_configuration: PutBucketNotificationConfigurationInput => PutBucketNotificationConfigurationOutput;
    catalogue::put_bucket_analytics_configuration: PutBucketAnalyticsConfigurationInput => PutBucketAnalyticsConfigurationOutput;
    catalogue::delete_bucket_analytics_configuration: DeleteBucketAnalyticsConfigurationInput => DeleteBucketAnalyticsConfigurationOutput;
    catalogue::put_bucket_intelligent_tiering_configuration: PutBucketIntelligentTieringConfigurationInput => PutBucketIntelligentTieringConfigurationOutput;
    catalogue::delete_bucket_intelligent_tiering_configuration: DeleteBucketIntelligentTieringConfigurationInput => DeleteBucketIntelligentTieringConfigurationOutput;
    catalogue::put_bucket_inventory_configuration: PutBucketInventoryConfigurationInput => PutBucketInventoryConfigurationOutput;
    catalogue::delete_bucket_inventory_configuration: DeleteBucketInventoryConfigurationInput => DeleteBucketInventoryConfigurationOutput;
    catalogue::put_bucket_metrics_configuration: PutBucketMetricsConfigurationInput => PutBucketMetricsConfigurationOutput;
    catalogue::delete_bucket_metrics_configuration: DeleteBucketMetricsConfigurationInput => DeleteBucketMetricsConfigurationOutput;
    catalogue::put_bucket_accelerate_configuration: PutBucketAccelerateConfigurationInput => PutBucketAccelerateConfigurationOutput;
    logging::put_bucket_logging: PutBucketLoggingInput => PutBucketLoggingOutput;
    replication::put_bucket_replication: PutBucketReplicationInput => PutBucketReplicationOutput;
    replication::delete_bucket_replication: DeleteBucketReplicationInput => DeleteBucketReplicationOutput;
    encryption::put_bucket_encryption: PutBucketEncryptionInput => PutBucketEncryptionOutput;
    documents::delete_bucket_encryption: DeleteBucketEncryptionInput => DeleteBucketEncryptionOutput;
    documents::put_public_access_block: PutPublicAccessBlockInput => PutPublicAccessBlockOutput;
    documents::delete_public_access_block: DeletePublicAccessBlockInput => DeletePublicAccessBlockOutput;
    documents::put_bucket_ownership_controls: PutBucketOwnershipControlsInput => PutBucketOwnershipControlsOutput;
    documents::delete_bucket_ownership_controls: DeleteBucketOwnershipControlsInput => DeleteBucketOwnershipControlsOutput;
    documents::put_bucket_request_payment: PutBucketRequestPaymentInput => PutBucketRequestPaymentOutput;
    tagging::put_bucket_tagging: PutBucketTaggingInput => PutBucketTaggingOutput;
    tagging::delete_bucket_tagging: DeleteBucketTaggingInput => DeleteBucketTaggingOutput;
    tagging::put_object_tagging: PutObjectTaggingInput => PutObjectTaggingOutput;
    tagging::delete_object_tagging: DeleteObjectTaggingInput => DeleteObjectTaggingOutput;
    grants::put_bucket_acl: PutBucketAclInput => PutBucketAclOutput;
    grants::put_object_acl: PutObjectAclInput => PutObjectAclOutput;
    locks::put_object_lock_configuration: PutObjectLockConfigurationInput => PutObjectLockConfigurationOutput;
    locks::put_object_retention: PutObjectRetentionInput => PutObjectRetentionOutput;
    locks::put_object_legal_hold: PutObjectLegalHoldInput => PutObjectLegalHoldOutput;
    objects::put_object: PutObjectInput => PutObjectOutput;
    objects::get_object: GetObjectInput => GetObjectOutput;
    objects::head_object: HeadObjectInput => HeadObjectOutput;
    inspect::get_object_attributes: GetObjectAttributesInput => GetObjectAttributesOutput;
    deletes::delete_object: DeleteObjectInput => DeleteObjectOutput;
    deletes::delete_objects: DeleteObjectsInput => DeleteObjectsOutput;
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
    // What the request's scene answers alone.
    ; at once
    lifecycle::get_bucket_lifecycle_configuration: GetBucketLifecycleConfigurationInput => GetBucketLifecycleConfigurationOutput;
    grants::get_object_acl: GetObjectAclInput => GetObjectAclOutput;
    grants::get_bucket_acl: GetBucketAclInput => GetBucketAclOutput;
    buckets::head_bucket: HeadBucketInput => HeadBucketOutput;
    buckets::get_bucket_location: GetBucketLocationInput => GetBucketLocationOutput;
    versions::get_bucket_versioning: GetBucketVersioningInput => GetBucketVersioningOutput;
    documents::get_bucket_policy: GetBucketPolicyInput => GetBucketPolicyOutput;
    documents::get_bucket_policy_status: GetBucketPolicyStatusInput => GetBucketPolicyStatusOutput;
    documents::get_bucket_cors: GetBucketCorsInput => GetBucketCorsOutput;
    website::get_bucket_website: GetBucketWebsiteInput => GetBucketWebsiteOutput;
    notification::get_bucket_notification_configuration: GetBucketNotificationConfigurationInput => GetBucketNotificationConfigurationOutput;
    catalogue::get_bucket_analytics_configuration: GetBucketAnalyticsConfigurationInput => GetBucketAnalyticsConfigurationOutput;
    catalogue::list_bucket_analytics_configurations: ListBucketAnalyticsConfigurationsInput => ListBucketAnalyticsConfigurationsOutput;
    catalogue::get_bucket_intelligent_tiering_configuration: GetBucketIntelligentTieringConfigurationInput => GetBucketIntelligentTieringConfigurationOutput;
    catalogue::list_bucket_intelligent_tiering_configurations: ListBucketIntelligentTieringConfigurationsInput => ListBucketIntelligentTieringConfigurationsOutput;
    catalogue::get_bucket_inventory_configuration: GetBucketInventoryConfigurationInput => GetBucketInventoryConfigurationOutput;
    catalogue::list_bucket_inventory_configurations: ListBucketInventoryConfigurationsInput => ListBucketInventoryConfigurationsOutput;
    catalogue::get_bucket_metrics_configuration: GetBucketMetricsConfigurationInput => GetBucketMetricsConfigurationOutput;
    catalogue::list_bucket_metrics_configurations: ListBucketMetricsConfigurationsInput => ListBucketMetricsConfigurationsOutput;
    logging::get_bucket_logging: GetBucketLoggingInput => GetBucketLoggingOutput;
    encryption::get_bucket_encryption: GetBucketEncryptionInput => GetBucketEncryptionOutput;
    replication::get_bucket_replication: GetBucketReplicationInput => GetBucketReplicationOutput;
    documents::get_public_access_block: GetPublicAccessBlockInput => GetPublicAccessBlockOutput;
    documents::get_bucket_ownership_controls: GetBucketOwnershipControlsInput => GetBucketOwnershipControlsOutput;
    documents::get_bucket_request_payment: GetBucketRequestPaymentInput => GetBucketRequestPaymentOutput;
    catalogue::get_bucket_accelerate_configuration: GetBucketAccelerateConfigurationInput => GetBucketAccelerateConfigurationOutput;
    tagging::get_bucket_tagging: GetBucketTaggingInput => GetBucketTaggingOutput;
    tagging::get_object_tagging: GetObjectTaggingInput => GetObjectTaggingOutput;
    locks::get_object_lock_configuration: GetObjectLockConfigurationInput => GetObjectLockConfigurationOutput;
    locks::get_object_retention: GetObjectRetentionInput => GetObjectRetentionOutput;
    locks::get_object_legal_hold: GetObjectLegalHoldInput => GetObjectLegalHoldOutput;
}
