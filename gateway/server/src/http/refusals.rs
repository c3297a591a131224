//! What is refused before s3s has read it, as S3 says it, and answers of ours that are changed on their way out.

use super::READ_BUFFER;
use crate::s3::REGION;
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{Response, StatusCode, header};

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

pub fn refuse_region() -> Response<s3s::Body> {
    let text = format!(
        "<Error><Code>AuthorizationHeaderMalformed</Code><Message>The authorization header is malformed; the region is \
         wrong; expecting '{REGION}'</Message><Region>{REGION}</Region></Error>"
    );
    refusal(StatusCode::BAD_REQUEST, text)
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
