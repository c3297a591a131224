//! Static websites: what browsers get of a bucket, as "Hosting a static website using Amazon S3" (Amazon S3 user guide) has it.
//!
//! Pages are objects that everybody may read: each is asked for as nobody would, by the service behind this.

use super::{Front, refusals::small};
use crate::s3::BucketView;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri, header, http::Extensions};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use s3s::dto::{Redirect, RoutingRule, WebsiteConfiguration};

/// What a path keeps as it is.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Headers of a request that are about the page.
const ABOUT_PAGES: [header::HeaderName; 6] = [
    header::RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::IF_RANGE,
];

/// What a browser asks of a website.
pub struct Visit<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    pub host: &'a str,
    pub headers: &'a HeaderMap,
    pub extensions: Extensions,
    pub secure: bool,
}

type Answer = Result<Response<s3s::Body>, s3s::HttpError>;

fn page(status: StatusCode, code: &str, message: &str) -> Response<s3s::Body> {
    let title = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default());
    let text = format!(
        "<html>\n<head><title>{title}</title></head>\n<body>\n<h1>{title}</h1>\n<ul>\n<li>Code: {code}</li>\n<li>Message: {message}</li>\n</ul>\n</body>\n</html>\n"
    );
    let mut response = Response::new(s3s::Body::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

fn moved(status: StatusCode, location: &str) -> Response<s3s::Body> {
    let Ok(location) = header::HeaderValue::from_str(location) else {
        return page(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "A redirect is malformed.");
    };
    let mut response = Response::new(s3s::Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// Whether a rule is about a key that was answered so; before it is asked for there is no answer.
fn applies(rule: &RoutingRule, key: &str, answered: Option<StatusCode>) -> bool {
    let Some(condition) = &rule.condition else { return answered.is_none() };
    let prefix = condition.key_prefix_equals.as_deref().is_none_or(|prefix| key.starts_with(prefix));
    let code = match (&condition.http_error_code_returned_equals, answered) {
        (None, None) => true,
        (Some(code), Some(status)) => code == status.as_str(),
        (None, Some(_)) | (Some(_), None) => false,
    };
    prefix && code
}

impl Visit<'_> {
    fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    fn follow(&self, rule: &RoutingRule, key: &str) -> Response<s3s::Body> {
        let Redirect { host_name, http_redirect_code, protocol, replace_key_prefix_with, replace_key_with } =
            &rule.redirect;
        let prefix = rule.condition.as_ref().and_then(|condition| condition.key_prefix_equals.as_deref());
        let key = match (replace_key_with, replace_key_prefix_with) {
            (Some(other), _) => other.clone(),
            (None, Some(other)) => {
                format!("{other}{}", key.strip_prefix(prefix.unwrap_or_default()).unwrap_or(key))
            }
            (None, None) => key.to_owned(),
        };
        let code = http_redirect_code.as_deref().and_then(|code| code.parse::<u16>().ok());
        let status = code.and_then(|code| StatusCode::from_u16(code).ok()).filter(StatusCode::is_redirection);
        let scheme = protocol.as_ref().map_or(self.scheme(), |protocol| protocol.as_str());
        let host = host_name.as_deref().unwrap_or(self.host);
        moved(
            status.unwrap_or(StatusCode::MOVED_PERMANENTLY),
            &format!("{scheme}://{host}/{}", utf8_percent_encode(&key, PATH)),
        )
    }
}

impl Front {
    /// A page, as nobody in particular gets it.
    async fn fetch(&self, visit: &Visit<'_>, bucket: &str, key: &str, whole: bool) -> Answer {
        let path = format!("/{bucket}/{}", utf8_percent_encode(key, PATH));
        let uri: Uri = path.parse().map_err(|error| s3s::HttpError::new(Box::new(error)))?;
        let mut request = Request::new(s3s::Body::empty());
        *request.method_mut() = visit.method.clone();
        *request.uri_mut() = uri;
        *request.extensions_mut() = visit.extensions.clone();
        for name in ABOUT_PAGES.iter().filter(|_| !whole) {
            if let Some(value) = visit.headers.get(name) {
                request.headers_mut().insert(name, value.clone());
            }
        }
        // A name of the service itself: the path says which bucket.
        request.headers_mut().insert(header::HOST, header::HeaderValue::from_static("localhost"));
        self.service.call(request).await
    }

    /// Answers a browser that visits a bucket's website.
    pub(super) async fn visit(&self, visit: Visit<'_>, bucket: &BucketView) -> Answer {
        let Some(website) = &bucket.website else {
            return Ok(page(
                StatusCode::NOT_FOUND,
                "NoSuchWebsiteConfiguration",
                "The specified bucket does not have a website configuration",
            ));
        };
        if visit.method != Method::GET && visit.method != Method::HEAD {
            let message = "The specified method is not allowed against this resource.";
            return Ok(page(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message));
        }
        let Ok(key) = percent_decode_str(visit.path.trim_start_matches('/')).decode_utf8() else {
            return Ok(page(StatusCode::BAD_REQUEST, "InvalidURI", "The address is malformed."));
        };
        if let Some(other) = &website.redirect_all_requests_to {
            let scheme = other.protocol.as_ref().map_or(visit.scheme(), |protocol| protocol.as_str());
            let path = utf8_percent_encode(&key, PATH);
            let location = format!("{scheme}://{}/{path}", other.host_name);
            return Ok(moved(StatusCode::MOVED_PERMANENTLY, &location));
        }
        let rules = website.routing_rules.iter().flatten();
        if let Some(rule) = rules.clone().find(|rule| applies(rule, &key, None)) {
            return Ok(visit.follow(rule, &key));
        }
        let suffix = website.index_document.as_ref().map_or("index.html", |index| index.suffix.as_str());
        let is_directory = key.is_empty() || key.ends_with('/');
        let wanted = if is_directory { format!("{key}{suffix}") } else { key.clone().into_owned() };
        let name = &bucket.bucket.name;
        let mut answer = self.fetch(&visit, name, &wanted, false).await?;
        let missing = answer.status() == StatusCode::NOT_FOUND || answer.status() == StatusCode::FORBIDDEN;
        if missing && !is_directory {
            // A directory that was named without its slash.
            let index = format!("{key}/{suffix}");
            if self.fetch(&visit, name, &index, true).await?.status().is_success() {
                return Ok(moved(StatusCode::FOUND, &format!("/{}/", utf8_percent_encode(&key, PATH))));
            }
        }
        if let Some(location) = answer.headers_mut().remove("x-amz-website-redirect-location") {
            return Ok(moved(StatusCode::MOVED_PERMANENTLY, location.to_str().unwrap_or("/")));
        }
        if !answer.status().is_client_error() && !answer.status().is_server_error() {
            return Ok(answer);
        }
        let status = answer.status();
        if let Some(rule) = rules.clone().find(|rule| applies(rule, &key, Some(status))) {
            return Ok(visit.follow(rule, &key));
        }
        self.apologize(&visit, name, website, answer).await
    }

    /// The website's own page about an error, or a plain one.
    async fn apologize(
        &self,
        visit: &Visit<'_>,
        bucket: &str,
        website: &WebsiteConfiguration,
        answer: Response<s3s::Body>,
    ) -> Answer {
        let status = answer.status();
        if let Some(document) = website.error_document.as_ref().filter(|_| status.is_client_error()) {
            let mut page = self.fetch(visit, bucket, &document.key, true).await?;
            if page.status().is_success() {
                *page.status_mut() = status;
                return Ok(page);
            }
        }
        let text = small(answer.into_body()).await;
        let text = String::from_utf8_lossy(&text);
        let part = |name: &str| {
            let rest = text.split_once(&format!("<{name}>")).map(|(_, rest)| rest);
            rest.and_then(|rest| rest.split_once('<')).map(|(part, _)| part)
        };
        let code = part("Code").unwrap_or(status.canonical_reason().unwrap_or_default());
        Ok(page(status, code, part("Message").unwrap_or_default()))
    }
}
