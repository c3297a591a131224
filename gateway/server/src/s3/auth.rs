//! Who may do what: in this version the owner of the system's one key pair may do everything, and nobody else anything.

use percent_encoding::percent_decode_str;
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

/// Denies whoever has not signed all that matters, with a signature of the current kind.
pub struct OwnerOnly;

/// A request's query with names and values decoded once, as s3s reads them.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        };
        Self(text.split('&').map(pair).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

#[async_trait::async_trait]
impl S3Access for OwnerOnly {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        if context.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        }
        let query = Query::parse(context.uri().query().unwrap_or_default());
        let header =
            context.headers().get("authorization").map(|value| String::from_utf8_lossy(value.as_bytes()));
        let presigned = query.get("X-Amz-Signature").is_some();
        // Version 2 signs neither the body nor most headers.
        let version_2 =
            query.get("Signature").is_some() || header.as_ref().is_some_and(|h| h.starts_with("AWS "));
        if version_2 {
            return Err(s3_error!(
                InvalidRequest,
                "Signature version 2 is not supported: use AWS4-HMAC-SHA256"
            ));
        }
        let signed = match (&header, presigned) {
            (Some(_), true) => {
                return Err(s3_error!(InvalidArgument, "Only one auth mechanism allowed"));
            }
            (None, true) => {
                check_expiry(&query)?;
                query.get("X-Amz-SignedHeaders").map(str::to_owned)
            }
            (Some(header), false) => {
                let list = header.split("SignedHeaders=").nth(1);
                list.and_then(|list| list.split([',', ' ']).next()).map(str::to_owned)
            }
            (None, false) => None,
        };
        // Whatever else s3s lets in has not said what it signed.
        let signed = signed.ok_or_else(|| s3_error!(AccessDenied, "Access Denied"))?;
        check_signed_headers(context, &signed)
    }
}

fn check_expiry(query: &Query) -> S3Result<()> {
    let seconds = query.get("X-Amz-Expires").and_then(|seconds| seconds.parse::<u64>().ok());
    if seconds.is_some_and(|seconds| seconds <= PRESIGNED_SECONDS_MAX) {
        return Ok(());
    }
    let text = "X-Amz-Expires must be less than a week (in seconds) that is 604800";
    Err(s3_error!(AuthorizationQueryParametersError, "{text}"))
}

/// Every `x-amz-*` header must be signed: an unsigned one may have been added by anybody on the way.
fn check_signed_headers(context: &S3AccessContext<'_>, signed: &str) -> S3Result<()> {
    let signed: Vec<&str> = signed.split(';').collect();
    let matters =
        |name: &str| name == "host" || (name.starts_with("x-amz-") && name != "x-amz-content-sha256");
    let unsigned = context
        .headers()
        .keys()
        .map(|name| name.as_str())
        .any(|name| matters(name) && !signed.contains(&name));
    if unsigned {
        return Err(s3_error!(
            AccessDenied,
            "There were headers present in the request which were not signed"
        ));
    }
    Ok(())
}
