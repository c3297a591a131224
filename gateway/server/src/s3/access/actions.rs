//! Which action an operation is, and on what.

/// What an operation is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// No bucket.
    Service,
    /// A bucket that need not exist.
    NewBucket,
    Bucket,
    /// A key, whatever it names.
    Key,
    /// Keys that are known when the body was read: judged then.
    Later,
    /// An object that is looked at.
    Object,
}

/// What a grant of an access control list must allow instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// Only owners and policies allow it.
    None,
    Read,
    Write,
    ReadAcp,
    WriteAcp,
}

/// An operation's action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub action: &'static str,
    /// Where a version is named.
    pub of_version: &'static str,
    pub target: Target,
    pub grant: Grant,
}

impl Rule {
    pub fn action(&self, names_version: bool) -> &'static str {
        if names_version { self.of_version } else { self.action }
    }

    /// What a list must grant: who may write may delete, but nothing for good.
    pub fn grant(&self, names_version: bool) -> Grant {
        if names_version && self.of_version == "s3:DeleteObjectVersion" { Grant::None } else { self.grant }
    }
}

const fn rule(action: &'static str, target: Target, grant: Grant) -> Rule {
    Rule { action, of_version: action, target, grant }
}

const fn versioned(action: &'static str, of_version: &'static str, target: Target, grant: Grant) -> Rule {
    Rule { action, of_version, target, grant }
}

/// The rule of an operation, as s3s names it; `None` for one that nobody may do.
pub fn rule_of(operation: &str) -> Option<Rule> {
    use Grant::{None as Nobody, Read, ReadAcp, Write, WriteAcp};
    use Target::{Bucket, Key, Later, NewBucket, Object, Service};
    Some(match operation {
        "ListBuckets" => rule("s3:ListAllMyBuckets", Service, Nobody),
        "CreateBucket" => rule("s3:CreateBucket", NewBucket, Nobody),
        "DeleteBucket" => rule("s3:DeleteBucket", Bucket, Nobody),
        "HeadBucket" | "ListObjects" | "ListObjectsV2" => rule("s3:ListBucket", Bucket, Read),
        "ListObjectVersions" => rule("s3:ListBucketVersions", Bucket, Read),
        "ListMultipartUploads" => rule("s3:ListBucketMultipartUploads", Bucket, Read),
        "GetBucketLocation" => rule("s3:GetBucketLocation", Bucket, Nobody),
        "GetBucketAcl" => rule("s3:GetBucketAcl", Bucket, ReadAcp),
        "PutBucketAcl" => rule("s3:PutBucketAcl", Bucket, WriteAcp),
        "GetBucketPolicy" => rule("s3:GetBucketPolicy", Bucket, Nobody),
        "PutBucketPolicy" => rule("s3:PutBucketPolicy", Bucket, Nobody),
        "DeleteBucketPolicy" => rule("s3:DeleteBucketPolicy", Bucket, Nobody),
        "GetBucketPolicyStatus" => rule("s3:GetBucketPolicyStatus", Bucket, Nobody),
        "GetBucketVersioning" => rule("s3:GetBucketVersioning", Bucket, Nobody),
        "PutBucketVersioning" => rule("s3:PutBucketVersioning", Bucket, Nobody),
        "GetBucketTagging" => rule("s3:GetBucketTagging", Bucket, Nobody),
        "PutBucketTagging" | "DeleteBucketTagging" => rule("s3:PutBucketTagging", Bucket, Nobody),
        "GetBucketCors" => rule("s3:GetBucketCORS", Bucket, Nobody),
        "PutBucketCors" | "DeleteBucketCors" => rule("s3:PutBucketCORS", Bucket, Nobody),
        "GetBucketLifecycleConfiguration" => rule("s3:GetLifecycleConfiguration", Bucket, Nobody),
        "PutBucketLifecycleConfiguration" | "DeleteBucketLifecycle" => {
            rule("s3:PutLifecycleConfiguration", Bucket, Nobody)
        }
        "GetBucketWebsite" => rule("s3:GetBucketWebsite", Bucket, Nobody),
        "PutBucketWebsite" => rule("s3:PutBucketWebsite", Bucket, Nobody),
        "DeleteBucketWebsite" => rule("s3:DeleteBucketWebsite", Bucket, Nobody),
        "GetBucketEncryption" => rule("s3:GetEncryptionConfiguration", Bucket, Nobody),
        "PutBucketEncryption" | "DeleteBucketEncryption" => {
            rule("s3:PutEncryptionConfiguration", Bucket, Nobody)
        }
        "GetBucketOwnershipControls" => rule("s3:GetBucketOwnershipControls", Bucket, Nobody),
        "PutBucketOwnershipControls" | "DeleteBucketOwnershipControls" => {
            rule("s3:PutBucketOwnershipControls", Bucket, Nobody)
        }
        "GetPublicAccessBlock" => rule("s3:GetBucketPublicAccessBlock", Bucket, Nobody),
        "PutPublicAccessBlock" | "DeletePublicAccessBlock" => {
            rule("s3:PutBucketPublicAccessBlock", Bucket, Nobody)
        }
        "GetObjectLockConfiguration" => rule("s3:GetBucketObjectLockConfiguration", Bucket, Nobody),
        "PutObjectLockConfiguration" => rule("s3:PutBucketObjectLockConfiguration", Bucket, Nobody),
        "GetBucketAnalyticsConfiguration" | "ListBucketAnalyticsConfigurations" => {
            rule("s3:GetAnalyticsConfiguration", Bucket, Nobody)
        }
        "PutBucketAnalyticsConfiguration" | "DeleteBucketAnalyticsConfiguration" => {
            rule("s3:PutAnalyticsConfiguration", Bucket, Nobody)
        }
        "GetBucketIntelligentTieringConfiguration" | "ListBucketIntelligentTieringConfigurations" => {
            rule("s3:GetIntelligentTieringConfiguration", Bucket, Nobody)
        }
        "PutBucketIntelligentTieringConfiguration" | "DeleteBucketIntelligentTieringConfiguration" => {
            rule("s3:PutIntelligentTieringConfiguration", Bucket, Nobody)
        }
        "GetBucketInventoryConfiguration" | "ListBucketInventoryConfigurations" => {
            rule("s3:GetInventoryConfiguration", Bucket, Nobody)
        }
        "PutBucketInventoryConfiguration" | "DeleteBucketInventoryConfiguration" => {
            rule("s3:PutInventoryConfiguration", Bucket, Nobody)
        }
        "GetBucketMetricsConfiguration" | "ListBucketMetricsConfigurations" => {
            rule("s3:GetMetricsConfiguration", Bucket, Nobody)
        }
        "PutBucketMetricsConfiguration" | "DeleteBucketMetricsConfiguration" => {
            rule("s3:PutMetricsConfiguration", Bucket, Nobody)
        }
        "GetBucketLogging" => rule("s3:GetBucketLogging", Bucket, Nobody),
        "PutBucketLogging" => rule("s3:PutBucketLogging", Bucket, Nobody),
        "GetBucketNotificationConfiguration" => rule("s3:GetBucketNotification", Bucket, Nobody),
        "PutBucketNotificationConfiguration" => rule("s3:PutBucketNotification", Bucket, Nobody),
        "GetBucketReplication" => rule("s3:GetReplicationConfiguration", Bucket, Nobody),
        "PutBucketReplication" | "DeleteBucketReplication" => {
            rule("s3:PutReplicationConfiguration", Bucket, Nobody)
        }
        "GetBucketRequestPayment" => rule("s3:GetBucketRequestPayment", Bucket, Nobody),
        "PutBucketRequestPayment" => rule("s3:PutBucketRequestPayment", Bucket, Nobody),
        "GetBucketAccelerateConfiguration" => rule("s3:GetAccelerateConfiguration", Bucket, Nobody),
        "PutBucketAccelerateConfiguration" => rule("s3:PutAccelerateConfiguration", Bucket, Nobody),
        "GetObject" | "HeadObject" => versioned("s3:GetObject", "s3:GetObjectVersion", Object, Read),
        "GetObjectAttributes" => {
            versioned("s3:GetObjectAttributes", "s3:GetObjectVersionAttributes", Object, Read)
        }
        "GetObjectAcl" => versioned("s3:GetObjectAcl", "s3:GetObjectVersionAcl", Object, ReadAcp),
        "PutObjectAcl" => versioned("s3:PutObjectAcl", "s3:PutObjectVersionAcl", Object, WriteAcp),
        "GetObjectTagging" => versioned("s3:GetObjectTagging", "s3:GetObjectVersionTagging", Object, Nobody),
        "PutObjectTagging" => versioned("s3:PutObjectTagging", "s3:PutObjectVersionTagging", Object, Nobody),
        "DeleteObjectTagging" => {
            versioned("s3:DeleteObjectTagging", "s3:DeleteObjectVersionTagging", Object, Nobody)
        }
        "GetObjectRetention" => rule("s3:GetObjectRetention", Object, Nobody),
        "PutObjectRetention" => rule("s3:PutObjectRetention", Object, Nobody),
        "GetObjectLegalHold" => rule("s3:GetObjectLegalHold", Object, Nobody),
        "PutObjectLegalHold" => rule("s3:PutObjectLegalHold", Object, Nobody),
        // The key is in the form.
        "PostObject" => rule("s3:PutObject", Later, Nobody),
        "PutObject"
        | "CopyObject"
        | "CreateMultipartUpload"
        | "UploadPart"
        | "UploadPartCopy"
        | "CompleteMultipartUpload" => rule("s3:PutObject", Key, Write),
        "AbortMultipartUpload" => rule("s3:AbortMultipartUpload", Key, Write),
        "ListParts" => rule("s3:ListMultipartUploadParts", Key, Nobody),
        "DeleteObject" => versioned("s3:DeleteObject", "s3:DeleteObjectVersion", Key, Write),
        // Each key is judged on its own.
        "DeleteObjects" => rule("s3:DeleteObject", Later, Nobody),
        _ => return None,
    })
}
