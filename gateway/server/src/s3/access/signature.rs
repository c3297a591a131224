//! What a signature must cover. s3s checks that it is right; what it does not demand is demanded here.

use super::facts::Query;
use s3s::{S3Result, access::S3AccessContext, s3_error};

/// The longest life of a presigned URL, as in S3.
const PRESIGNED_SECONDS_MAX: u64 = 7 * 24 * 60 * 60;

/// Refuses requests that are signed in a way that leaves out what matters.
///
/// # Errors
/// Why.
pub fn check(context: &S3AccessContext<'_>) -> S3Result<()> {
    let query = Query::parse(context.uri().query().unwrap_or_default());
    let header =
        context.headers().get("authorization").map(|value| String::from_utf8_lossy(value.as_bytes()));
    let presigned = query.get("X-Amz-Signature").is_some();
    // Version 2 signs neither the body nor most headers.
    let version_2 =
        query.get("Signature").is_some() || header.as_ref().is_some_and(|h| h.starts_with("AWS "));
    if version_2 {
        return Err(s3_error!(InvalidRequest, "Signature version 2 is not supported: use AWS4-HMAC-SHA256"));
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
        // A form carries its signature in its fields, and nobody's request has none.
        (None, false) if context.credentials().is_none() || context.s3_op().name() == "PostObject" => {
            return Ok(());
        }
        (None, false) => None,
    };
    // Whatever says that it is signed, and was not recognized as such, is nobody's request least of all.
    let signed = signed.filter(|_| context.credentials().is_some());
    let signed = signed.ok_or_else(|| s3_error!(AccessDenied, "Access Denied"))?;
    check_signed_headers(context, &signed, &query)
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
fn check_signed_headers(context: &S3AccessContext<'_>, signed: &str, query: &Query) -> S3Result<()> {
    let signed: Vec<&str> = signed.split(';').collect();
    let matters =
        |name: &str| name == "host" || (name.starts_with("x-amz-") && name != "x-amz-content-sha256");
    // What the signed query says too, in the same words, was not added.
    let in_query = |name: &str| {
        let said = query.pairs().find(|(other, _)| other.eq_ignore_ascii_case(name));
        let mut values = context.headers().get_all(name).iter();
        said.is_some_and(|(_, said)| values.all(|value| value.as_bytes() == said.as_bytes()))
    };
    let unsigned = context
        .headers()
        .keys()
        .map(|name| name.as_str())
        .any(|name| matters(name) && !signed.contains(&name) && !in_query(name));
    if unsigned {
        return Err(s3_error!(
            AccessDenied,
            "There were headers present in the request which were not signed"
        ));
    }
    Ok(())
}
