//! Who may do what: in this version the owner of the system's one key pair may do everything, and nobody else anything.

use s3s::{
    S3Result,
    access::{S3Access, S3AccessContext},
    auth::{S3Auth, SecretKey},
    s3_error,
};

/// The longest life of a presigned URL, as in S3.
const PRESIGNED_SECONDS_MAX: u64 = 7 * 24 * 60 * 60;

/// The key pair that opens the door.
#[derive(Clone)]
pub struct Credentials {
    access_key: String,
    secret_key: SecretKey,
}

impl Credentials {
    pub fn new(access_key: String, secret_key: String) -> Self {
        Self { access_key, secret_key: SecretKey::from(secret_key) }
    }
}

#[async_trait::async_trait]
impl S3Auth for Credentials {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == self.access_key {
            Ok(self.secret_key.clone())
        } else {
            Err(s3_error!(
                InvalidAccessKeyId,
                "The AWS access key Id you provided does not exist in our records"
            ))
        }
    }
}

/// Denies whoever has not signed, and signatures that are too old a kind.
pub struct OwnerOnly;

#[async_trait::async_trait]
impl S3Access for OwnerOnly {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        if context.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        }
        // Version 2 signs neither the body nor most headers.
        let authorization = context.headers().get("authorization");
        let query = context.uri().query().unwrap_or_default();
        let presigned = query.split('&').any(|pair| pair.starts_with("X-Amz-Signature="));
        let version_2 = match authorization {
            Some(value) => value.as_bytes().starts_with(b"AWS "),
            None => !presigned,
        };
        if version_2 && !context.headers().contains_key("content-type") {
            return Err(s3_error!(
                InvalidRequest,
                "Signature version 2 is not supported: use AWS4-HMAC-SHA256"
            ));
        }
        if version_2 && authorization.is_some() {
            return Err(s3_error!(
                InvalidRequest,
                "Signature version 2 is not supported: use AWS4-HMAC-SHA256"
            ));
        }
        let expires = query.split('&').find_map(|pair| pair.strip_prefix("X-Amz-Expires="));
        if presigned
            && !expires
                .is_some_and(|seconds| seconds.parse::<u64>().is_ok_and(|s| s <= PRESIGNED_SECONDS_MAX))
        {
            return Err(s3_error!(
                AuthorizationQueryParametersError,
                "X-Amz-Expires must be less than a week (in seconds) that is 604800"
            ));
        }
        check_signed_headers(context)
    }
}

/// Every `x-amz-*` header must be signed: an unsigned one may have been added by anybody on the way.
fn check_signed_headers(context: &S3AccessContext<'_>) -> S3Result<()> {
    let header = context.headers().get("authorization").and_then(|value| value.to_str().ok());
    let query = context.uri().query().unwrap_or_default();
    let from_header = header.and_then(|value| {
        let at = value.find("SignedHeaders=")?;
        value[at + 14..].split(',').next().map(str::trim)
    });
    let from_query = query.split('&').find_map(|pair| pair.strip_prefix("X-Amz-SignedHeaders="));
    // A form that is posted signs its fields, not its headers.
    let Some(signed) = from_header.or(from_query) else { return Ok(()) };
    let signed = signed.replace("%3B", ";").replace("%3b", ";");
    let signed: Vec<&str> = signed.split(';').collect();
    let unsigned = context.headers().keys().find(|name| {
        let name = name.as_str();
        let matters = name.starts_with("x-amz-") && name != "x-amz-content-sha256" || name == "host";
        matters && !signed.contains(&name)
    });
    match unsigned {
        Some(_) => {
            Err(s3_error!(AccessDenied, "There were headers present in the request which were not signed"))
        }
        None => Ok(()),
    }
}
