//! What is refused before s3s has read it, as S3 says it, and answers of ours that are changed on their way out.

use super::READ_BUFFER;
use crate::s3::{Query, REGION, XML_BYTES_MAX};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, header};
use percent_encoding::percent_decode_str;

/// A path as XML may hold it.
pub fn escaped(path: &str) -> String {
    path.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The bytes of an answer of ours that is known to be small.
pub async fn small(body: s3s::Body) -> Bytes {
    let all = Limited::new(body, READ_BUFFER).collect().await;
    all.map_or_else(|_| Bytes::new(), |all| all.to_bytes())
}

/// A small answer with another text.
pub async fn rewritten(
    answer: Response<s3s::Body>,
    edit: impl FnOnce(&str) -> String,
) -> Response<s3s::Body> {
    let (mut head, body) = answer.into_parts();
    let bytes = small(body).await;
    let text = edit(&String::from_utf8_lossy(&bytes));
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, s3s::Body::from(text))
}

/// Whoever asks is to come again later; when, is said where all answers go out.
pub fn slow_down() -> Response<s3s::Body> {
    refuse(StatusCode::SERVICE_UNAVAILABLE, "SlowDown", "Please reduce your request rate")
}

/// A form that breaks its policy's conditions is denied; s3s calls its policy invalid.
pub async fn as_s3_refuses(answer: Response<s3s::Body>) -> Response<s3s::Body> {
    if answer.status() != StatusCode::BAD_REQUEST {
        return answer;
    }
    let (head, body) = answer.into_parts();
    let bytes = small(body).await;
    let text = String::from_utf8_lossy(&bytes);
    let broken = ["<Message>Policy condition ", "<Message>Bucket in form field "]
        .iter()
        .any(|part| text.contains(part));
    if broken {
        return refuse(
            StatusCode::FORBIDDEN,
            "AccessDenied",
            "Invalid according to Policy: Policy Condition failed",
        );
    }
    Response::from_parts(head, s3s::Body::from(bytes))
}

/// What a signature is for must be S3, in a region: s3cmd begins with `US`, and signs anew once it is told the region.
fn refused_scope(headers: &HeaderMap, query: &Query) -> Option<Response<s3s::Body>> {
    let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let by_header = header.and_then(|header| header.split("Credential=").nth(1)?.split([',', ' ']).next());
    let mut scope = by_header.or_else(|| query.get("X-Amz-Credential"))?.split('/').skip(2);
    let named = |region: &str| {
        region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    let malformed = |what: &str| {
        let text = format!(
            "<Error><Code>AuthorizationHeaderMalformed</Code><Message>The authorization header is malformed; \
             {what}</Message><Region>{REGION}</Region></Error>"
        );
        Some(refusal(StatusCode::BAD_REQUEST, text))
    };
    match (scope.next(), scope.next()) {
        (Some(region), _) if !named(region) => {
            malformed(&format!("the region is wrong; expecting '{REGION}'"))
        }
        (_, Some(service)) if service != "s3" => {
            malformed("incorrect service. This endpoint belongs to 's3'.")
        }
        _ => None,
    }
}

/// A body that is a document, and not an object's bytes.
fn brings_document(method: &Method, query: &Query, of_object: bool) -> bool {
    const OF_OBJECTS: [&str; 4] = ["acl", "tagging", "retention", "legal-hold"];
    !of_object || method == Method::POST || OF_OBJECTS.iter().any(|name| query.get(name).is_some())
}

/// What is refused before anybody looks closer.
pub fn refused_at_once<B>(
    request: &Request<B>,
    query: &Query,
    of_object: bool,
) -> Option<Response<s3s::Body>> {
    let headers = request.headers();
    if let Some(refused) = refused_scope(headers, query) {
        return Some(refused);
    }
    let is_empty = |name: &str| headers.get(name).is_some_and(|value| value.is_empty());
    let bad = |code: &str, message: &str| Some(refuse(StatusCode::BAD_REQUEST, code, message));
    if is_empty("authorization") {
        return Some(refuse(StatusCode::FORBIDDEN, "AccessDenied", "Access Denied"));
    }
    if is_empty("content-md5") {
        return bad("InvalidDigest", "The Content-MD5 you specified was invalid.");
    }
    if percent_decode_str(request.uri().path()).decode_utf8().is_err() {
        return bad("InvalidURI", "Couldn't parse the specified URI.");
    }
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > XML_BYTES_MAX)
        && brings_document(request.method(), query, of_object)
    {
        return bad("MaxMessageLengthExceeded", "Your request was too big.");
    }
    None
}

/// An error of ours where s3s does not speak for us.
pub fn refusal_of(refused: &s3s::S3Error) -> Response<s3s::Body> {
    let (code, message) = (refused.code().as_str(), refused.message().unwrap_or_default());
    let status = refused.status_code().unwrap_or(StatusCode::BAD_REQUEST);
    refuse(status, code, message)
}

/// A refusal as S3 says it.
pub fn refuse(status: StatusCode, code: &str, message: &str) -> Response<s3s::Body> {
    refusal(status, format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>"))
}

/// An answer to a request whose body is not read.
pub fn refusal(status: StatusCode, text: String) -> Response<s3s::Body> {
    let mut response = Response::new(s3s::Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/xml"));
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    response
}

/// Where a form leads its sender to, an entity tag is told with its quotes.
pub fn quote_etag(mut answer: Response<s3s::Body>) -> Response<s3s::Body> {
    let location = answer.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
    let parts = location.and_then(|location| location.rsplit_once("&etag="));
    if let Some((before, etag)) = parts.filter(|(_, etag)| etag.bytes().all(|byte| byte.is_ascii_hexdigit()))
        && let Ok(quoted) = header::HeaderValue::from_str(&format!("{before}&etag=%22{etag}%22"))
    {
        answer.headers_mut().insert(header::LOCATION, quoted);
    }
    answer
}
