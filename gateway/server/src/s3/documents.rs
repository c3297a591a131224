//! Settings of buckets that are kept as documents: policies, rules for browsers, public access, ownership.

use super::{
    S3Door,
    access::scene,
    error,
    settings::{BucketView, from_xml},
};
use holdfast_gateway_policy::Policy;
use holdfast_meta_raft_machine::command::{Command, ConfigChange};
use hyper::StatusCode;
use s3s::{
    S3Error, S3ErrorCode, S3Request, S3Response, S3Result,
    dto::{
        CORSConfiguration, CORSRule, DeleteBucketCorsInput, DeleteBucketCorsOutput,
        DeleteBucketEncryptionInput, DeleteBucketEncryptionOutput, DeleteBucketOwnershipControlsInput,
        DeleteBucketOwnershipControlsOutput, DeleteBucketPolicyInput, DeleteBucketPolicyOutput,
        DeleteBucketWebsiteInput, DeleteBucketWebsiteOutput, DeletePublicAccessBlockInput,
        DeletePublicAccessBlockOutput, GetBucketCorsInput, GetBucketCorsOutput,
        GetBucketOwnershipControlsInput, GetBucketOwnershipControlsOutput, GetBucketPolicyInput,
        GetBucketPolicyOutput, GetBucketPolicyStatusInput, GetBucketPolicyStatusOutput,
        GetBucketRequestPaymentInput, GetBucketRequestPaymentOutput, GetPublicAccessBlockInput,
        GetPublicAccessBlockOutput, ObjectOwnership, OwnershipControls, Payer, PolicyStatus,
        PublicAccessBlockConfiguration, PutBucketCorsInput, PutBucketCorsOutput,
        PutBucketOwnershipControlsInput, PutBucketOwnershipControlsOutput, PutBucketPolicyInput,
        PutBucketPolicyOutput, PutBucketRequestPaymentInput, PutBucketRequestPaymentOutput,
        PutPublicAccessBlockInput, PutPublicAccessBlockOutput,
    },
    s3_error,
    xml::{Serialize, Serializer},
};

/// A document as XML.
///
/// # Errors
/// Where it cannot be written.
pub fn to_xml<T: Serialize>(value: &T) -> S3Result<String> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::new(&mut bytes)).map_err(|error| s3_error!(error, InternalError))?;
    String::from_utf8(bytes).map_err(|error| s3_error!(error, InternalError))
}

/// Bytes of one document of a bucket, and of all: they are one record, which is read with the bucket.
const DOCUMENT_BYTES_MAX: usize = 512 << 10;
const DOCUMENTS_BYTES_MAX: usize = 2 << 20;

/// Keeps a document with a bucket, or removes it.
///
/// # Errors
/// Where the metadata refuses.
pub async fn set(door: &S3Door, bucket: &BucketView, name: &str, text: Option<String>) -> S3Result<()> {
    let others = bucket.config.documents.iter().filter(|(other, _)| *other != name);
    let size = text.as_ref().map_or(0, String::len);
    let whole = others.map(|(_, text)| text.len()).sum::<usize>() + size;
    if text.is_some() && (size > DOCUMENT_BYTES_MAX || whole > DOCUMENTS_BYTES_MAX) {
        return Err(s3_error!(EntityTooLarge, "The bucket's configuration would be too large"));
    }
    let change = ConfigChange::Document(name.to_owned(), text);
    door.run(Command::ConfigureBucket { bucket: bucket.bucket.id, change }).await?;
    Ok(())
}

pub fn malformed() -> S3Error {
    s3_error!(
        MalformedXML,
        "The XML you provided was not well-formed or did not validate against our published schema"
    )
}

fn absent(code: &'static str, message: &'static str) -> S3Error {
    error::custom(code, StatusCode::NOT_FOUND, message)
}

/// A bucket's document; `absent` where it has none.
///
/// # Errors
/// 404.
pub fn kept<'a>(
    bucket: &'a BucketView,
    name: &str,
    absent: impl FnOnce() -> S3Error,
) -> S3Result<&'a String> {
    bucket.config.documents.get(name).ok_or_else(absent)
}

fn no_policy() -> S3Error {
    absent("NoSuchBucketPolicy", "The bucket policy does not exist")
}

pub fn get_bucket_policy(
    _door: &S3Door,
    request: S3Request<GetBucketPolicyInput>,
) -> S3Result<S3Response<GetBucketPolicyOutput>> {
    let scene = scene(&request)?;
    let policy = kept(scene.bucket()?, "policy", no_policy)?.clone();
    Ok(S3Response::new(GetBucketPolicyOutput { policy: Some(policy) }))
}

pub async fn put_bucket_policy(
    door: &S3Door,
    request: S3Request<PutBucketPolicyInput>,
) -> S3Result<S3Response<PutBucketPolicyOutput>> {
    let scene = scene(&request)?;
    let bucket = scene.bucket()?;
    let text = request.input.policy;
    let parsed = Policy::of_resource(&text, &bucket.resource(None));
    let parsed = parsed.map_err(|wrong| {
        let mut refused = S3Error::with_message(S3ErrorCode::MalformedPolicy, wrong.to_string());
        refused.set_status_code(StatusCode::BAD_REQUEST);
        refused
    })?;
    if bucket.block.block_public_policy && parsed.is_public() {
        return Err(s3_error!(AccessDenied, "Access Denied"));
    }
    set(door, bucket, "policy", Some(text)).await?;
    let mut response = S3Response::new(PutBucketPolicyOutput::default());
    response.status = Some(StatusCode::NO_CONTENT);
    Ok(response)
}

pub fn get_bucket_policy_status(
    _door: &S3Door,
    request: S3Request<GetBucketPolicyStatusInput>,
) -> S3Result<S3Response<GetBucketPolicyStatusOutput>> {
    let scene = scene(&request)?;
    let bucket = scene.bucket()?;
    let by_list = bucket.acl.is_public() && !bucket.block.ignore_public_acls;
    let status = PolicyStatus { is_public: Some(bucket.policy_is_public() || by_list) };
    Ok(S3Response::new(GetBucketPolicyStatusOutput { policy_status: Some(status) }))
}

/// Operations that remove a document.
macro_rules! deletions {
    ($($name:ident: $input:ident => $output:ident, $document:literal;)*) => {
        $(
            pub async fn $name(door: &S3Door, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                let scene = scene(&request)?;
                let bucket = scene.bucket()?;
                if bucket.config.documents.contains_key($document) {
                    set(door, bucket, $document, None).await?;
                }
                Ok(S3Response::new($output::default()))
            }
        )*
    };
}

deletions! {
    delete_bucket_encryption: DeleteBucketEncryptionInput => DeleteBucketEncryptionOutput, "encryption";
    delete_bucket_website: DeleteBucketWebsiteInput => DeleteBucketWebsiteOutput, "website";
    delete_bucket_policy: DeleteBucketPolicyInput => DeleteBucketPolicyOutput, "policy";
    delete_bucket_cors: DeleteBucketCorsInput => DeleteBucketCorsOutput, "cors";
    delete_public_access_block: DeletePublicAccessBlockInput => DeletePublicAccessBlockOutput, "public-access-block";
    delete_bucket_ownership_controls: DeleteBucketOwnershipControlsInput => DeleteBucketOwnershipControlsOutput, "ownership";
}

/// Rules for browsers that a bucket may have, as in S3.
const CORS_RULES_MAX: usize = 100;

fn check_cors(rule: &CORSRule) -> S3Result<()> {
    const METHODS: [&str; 5] = ["GET", "PUT", "HEAD", "POST", "DELETE"];
    if rule.allowed_origins.is_empty() || rule.allowed_methods.is_empty() {
        return Err(malformed());
    }
    if let Some(method) = rule.allowed_methods.iter().find(|method| !METHODS.contains(&method.as_str())) {
        return Err(s3_error!(
            InvalidRequest,
            "Found unsupported HTTP method in CORS config. Unsupported method is {method}"
        ));
    }
    let headers = rule.allowed_headers.iter().flatten();
    if let Some(text) = rule.allowed_origins.iter().chain(headers).find(|text| text.matches('*').count() > 1)
    {
        return Err(s3_error!(InvalidRequest, "\"{text}\" can not have more than one wildcard."));
    }
    Ok(())
}

pub fn get_bucket_cors(
    _door: &S3Door,
    request: S3Request<GetBucketCorsInput>,
) -> S3Result<S3Response<GetBucketCorsOutput>> {
    let scene = scene(&request)?;
    let absent = || absent("NoSuchCORSConfiguration", "The CORS configuration does not exist");
    let text = kept(scene.bucket()?, "cors", absent)?;
    let rules = from_xml::<CORSConfiguration>(text).map(|config| config.cors_rules);
    Ok(S3Response::new(GetBucketCorsOutput { cors_rules: rules }))
}

pub async fn put_bucket_cors(
    door: &S3Door,
    request: S3Request<PutBucketCorsInput>,
) -> S3Result<S3Response<PutBucketCorsOutput>> {
    let scene = scene(&request)?;
    let rules = &request.input.cors_configuration.cors_rules;
    if rules.is_empty() || rules.len() > CORS_RULES_MAX {
        return Err(malformed());
    }
    rules.iter().try_for_each(check_cors)?;
    let text = to_xml(&request.input.cors_configuration)?;
    set(door, scene.bucket()?, "cors", Some(text)).await?;
    Ok(S3Response::new(PutBucketCorsOutput::default()))
}

pub fn get_public_access_block(
    _door: &S3Door,
    request: S3Request<GetPublicAccessBlockInput>,
) -> S3Result<S3Response<GetPublicAccessBlockOutput>> {
    let scene = scene(&request)?;
    let absent = || {
        absent("NoSuchPublicAccessBlockConfiguration", "The public access block configuration was not found")
    };
    let bucket = scene.bucket()?;
    kept(bucket, "public-access-block", absent)?;
    let public_access_block_configuration = Some(PublicAccessBlockConfiguration {
        block_public_acls: Some(bucket.block.block_public_acls),
        block_public_policy: Some(bucket.block.block_public_policy),
        ignore_public_acls: Some(bucket.block.ignore_public_acls),
        restrict_public_buckets: Some(bucket.block.restrict_public_buckets),
    });
    Ok(S3Response::new(GetPublicAccessBlockOutput { public_access_block_configuration }))
}

pub async fn put_public_access_block(
    door: &S3Door,
    request: S3Request<PutPublicAccessBlockInput>,
) -> S3Result<S3Response<PutPublicAccessBlockOutput>> {
    let scene = scene(&request)?;
    let text = to_xml(&request.input.public_access_block_configuration)?;
    set(door, scene.bucket()?, "public-access-block", Some(text)).await?;
    Ok(S3Response::new(PutPublicAccessBlockOutput::default()))
}

pub fn get_bucket_ownership_controls(
    _door: &S3Door,
    request: S3Request<GetBucketOwnershipControlsInput>,
) -> S3Result<S3Response<GetBucketOwnershipControlsOutput>> {
    let scene = scene(&request)?;
    let absent = || absent("OwnershipControlsNotFoundError", "The bucket ownership controls were not found");
    let text = kept(scene.bucket()?, "ownership", absent)?;
    Ok(S3Response::new(GetBucketOwnershipControlsOutput { ownership_controls: from_xml(text) }))
}

/// An ownership rule as it is kept.
///
/// # Errors
/// Where there is no such ownership.
pub fn ownership_text(controls: &OwnershipControls) -> S3Result<String> {
    const KNOWN: [&str; 3] = [
        ObjectOwnership::OBJECT_WRITER,
        ObjectOwnership::BUCKET_OWNER_PREFERRED,
        ObjectOwnership::BUCKET_OWNER_ENFORCED,
    ];
    match controls.rules.as_slice() {
        [rule] if KNOWN.contains(&rule.object_ownership.as_str()) => to_xml(controls),
        _ => Err(malformed()),
    }
}

pub async fn put_bucket_ownership_controls(
    door: &S3Door,
    request: S3Request<PutBucketOwnershipControlsInput>,
) -> S3Result<S3Response<PutBucketOwnershipControlsOutput>> {
    let scene = scene(&request)?;
    let bucket = scene.bucket()?;
    let controls = &request.input.ownership_controls;
    let text = ownership_text(controls)?;
    let enforced = controls.rules[0].object_ownership.as_str() == ObjectOwnership::BUCKET_OWNER_ENFORCED;
    if enforced && bucket.acl != super::acl::Acl::private(&bucket.config.owner) {
        return Err(error::custom(
            "InvalidBucketAclWithObjectOwnership",
            StatusCode::BAD_REQUEST,
            "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting",
        ));
    }
    set(door, bucket, "ownership", Some(text)).await?;
    Ok(S3Response::new(PutBucketOwnershipControlsOutput::default()))
}

pub fn get_bucket_request_payment(
    _door: &S3Door,
    request: S3Request<GetBucketRequestPaymentInput>,
) -> S3Result<S3Response<GetBucketRequestPaymentOutput>> {
    let scene = scene(&request)?;
    let payer = match scene.bucket()?.config.documents.contains_key("requester-pays") {
        true => Payer::REQUESTER,
        false => Payer::BUCKET_OWNER,
    };
    Ok(S3Response::new(GetBucketRequestPaymentOutput { payer: Some(Payer::from_static(payer)) }))
}

pub async fn put_bucket_request_payment(
    door: &S3Door,
    request: S3Request<PutBucketRequestPaymentInput>,
) -> S3Result<S3Response<PutBucketRequestPaymentOutput>> {
    let scene = scene(&request)?;
    let text = match request.input.request_payment_configuration.payer.as_str() {
        Payer::REQUESTER => Some(Payer::REQUESTER.to_owned()),
        Payer::BUCKET_OWNER => None,
        _ => return Err(malformed()),
    };
    set(door, scene.bucket()?, "requester-pays", text).await?;
    Ok(S3Response::new(PutBucketRequestPaymentOutput::default()))
}
