//! What of a request is kept for the access log of the bucket that it is about.

use super::Peer;
use crate::s3::{
    BucketView, S3Door,
    logging::{Line, Note, Target},
};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri, Version,
    body::Incoming,
    header::{self, HeaderValue},
};
use std::time::Duration;

/// A request's own words. Nothing of them is copied before it is known that they are wanted.
pub struct Heard {
    method: Method,
    uri: Uri,
    version: Version,
    referer: Option<HeaderValue>,
    agent: Option<HeaderValue>,
    host: Option<HeaderValue>,
    by_header: bool,
    note: Note,
}

/// How it was answered.
pub struct Answered<'a> {
    pub status: StatusCode,
    pub id: &'a str,
    /// S3's name of the error, where it is one.
    pub code: Option<&'a str>,
    pub took: Duration,
    pub sent: &'a Response<s3s::Body>,
}

fn text(value: Option<&HeaderValue>) -> Option<&str> {
    value.and_then(|value| value.to_str().ok())
}

/// A URL without what is as good as a key for as long as it lasts.
fn without_signature(url: &str) -> String {
    let Some((path, query)) = url.split_once('?') else { return url.to_owned() };
    let hide = |pair: &str| match pair.split_once('=') {
        Some((name @ ("X-Amz-Signature" | "X-Amz-Security-Token"), _)) => format!("{name}=-"),
        Some(_) | None => pair.to_owned(),
    };
    format!("{path}?{}", query.split('&').map(hide).collect::<Vec<_>>().join("&"))
}

impl Heard {
    pub fn of(request: &mut Request<Incoming>) -> Self {
        let note = Note::default();
        request.extensions_mut().insert(note.clone());
        let get = |headers: &HeaderMap, name: header::HeaderName| headers.get(name).cloned();
        let headers = request.headers();
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            referer: get(headers, header::REFERER),
            agent: get(headers, header::USER_AGENT),
            host: get(headers, header::HOST),
            by_header: headers.contains_key(header::AUTHORIZATION),
            note,
        }
    }

    pub fn log(
        &self,
        door: &S3Door,
        bucket: &BucketView,
        target: &Target,
        peer: Peer,
        answered: &Answered<'_>,
    ) {
        let length = answered.sent.headers().get(header::CONTENT_LENGTH);
        let target_text = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let is_presigned = target_text.contains("X-Amz-Signature=");
        let (shown, referer) =
            (without_signature(target_text), text(self.referer.as_ref()).map(without_signature));
        let line = Line {
            owner: crate::identity::shown(&bucket.config.owner),
            bucket: &bucket.bucket.name,
            address: peer.address.ip(),
            noted: self.note.read(),
            request_id: answered.id,
            method: self.method.as_str(),
            target: &shown,
            version: if self.version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" },
            status: answered.status.as_u16(),
            error: answered.code,
            sent: text(length).and_then(|length| length.parse().ok()).filter(|_| self.method != Method::HEAD),
            total_ms: answered.took.as_millis(),
            referer: referer.as_deref(),
            agent: text(self.agent.as_ref()),
            host: text(self.host.as_ref()),
            signed: match (self.by_header, is_presigned) {
                (true, _) => Some("AuthHeader"),
                (false, true) => Some("QueryString"),
                (false, false) => None,
            },
            secure: peer.secure,
        };
        door.log.note(target, &line);
    }
}
