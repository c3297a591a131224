//! Pages of other origins: what browsers ask before they send, and what they are told with each answer.

use super::{S3Door, settings::BucketView};
use crate::s3::error;
use hyper::{
    HeaderMap, Method, Response, StatusCode,
    header::{self, HeaderName, HeaderValue},
};
use s3s::{
    S3Result,
    dto::{CORSRule, CORSRules},
};

/// Whether a text matches a pattern with at most one `*`.
fn like(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, end)) => {
            text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end)
        }
    }
}

/// The first rule that lets an origin use a method with these headers.
fn find<'a>(rules: &'a CORSRules, origin: &str, method: &str, headers: &[String]) -> Option<&'a CORSRule> {
    rules.iter().find(|rule| {
        let allowed = |header: &String| {
            let patterns = rule.allowed_headers.iter().flatten();
            let mut lower = patterns.map(|pattern| pattern.to_ascii_lowercase());
            lower.any(|pattern| like(&pattern, header))
        };
        rule.allowed_origins.iter().any(|pattern| like(pattern, origin))
            && rule.allowed_methods.iter().any(|allowed| allowed.as_str() == method)
            && headers.iter().all(allowed)
    })
}

/// What a browser is told of a rule.
fn describe(rule: &CORSRule, origin: &str, headers: &mut HeaderMap) {
    let mut add = |name: HeaderName, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    };
    let everybody = rule.allowed_origins.iter().any(|pattern| pattern == "*");
    add(header::ACCESS_CONTROL_ALLOW_ORIGIN, if everybody { "*".to_owned() } else { origin.to_owned() });
    let methods: Vec<&str> = rule.allowed_methods.iter().map(|method| method.as_str()).collect();
    add(header::ACCESS_CONTROL_ALLOW_METHODS, methods.join(", "));
    if let Some(exposed) = rule.expose_headers.as_ref().filter(|exposed| !exposed.is_empty()) {
        add(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed.join(", "));
    }
    if let Some(seconds) = rule.max_age_seconds {
        add(header::ACCESS_CONTROL_MAX_AGE, seconds.to_string());
    }
    if !everybody {
        add(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true".to_owned());
    }
    add(header::VARY, "Origin, Access-Control-Request-Headers, Access-Control-Request-Method".to_owned());
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn rules(view: &BucketView) -> Option<&CORSRules> {
    view.cors.as_ref().map(|config| &config.cors_rules)
}

impl S3Door {
    /// Answers what a browser asks before it sends a request.
    ///
    /// # Errors
    /// Where the bucket's rules do not allow the request.
    pub async fn preflight(&self, bucket: &str, headers: &HeaderMap) -> S3Result<Response<s3s::Body>> {
        let refuse = |code, status, message| error::custom(code, status, message);
        let origin = text(headers, &header::ORIGIN).ok_or_else(|| {
            let message = "Insufficient information. Origin request header needed.";
            refuse("BadRequest", StatusCode::BAD_REQUEST, message)
        })?;
        let method = text(headers, &header::ACCESS_CONTROL_REQUEST_METHOD);
        let method = method.filter(|method| method.parse::<Method>().is_ok()).ok_or_else(|| {
            let message = "Invalid Access-Control-Request-Method";
            refuse("BadRequest", StatusCode::BAD_REQUEST, message)
        })?;
        let wanted = text(headers, &header::ACCESS_CONTROL_REQUEST_HEADERS).unwrap_or_default();
        let names: Vec<String> = wanted
            .split(',')
            .map(|name| name.trim().to_ascii_lowercase())
            .filter(|name| !name.is_empty())
            .collect();
        let (view, _) = self.look(bucket, None).await?;
        let forbidden = |message| refuse("AccessForbidden", StatusCode::FORBIDDEN, message);
        let view = view.ok_or_else(|| {
            refuse("NoSuchBucket", StatusCode::NOT_FOUND, "The specified bucket does not exist")
        })?;
        let rules =
            rules(&view).ok_or_else(|| forbidden("CORSResponse: CORS is not enabled for this bucket."))?;
        let rule = find(rules, origin, method, &names).ok_or_else(|| {
            forbidden(
                "CORSResponse: This CORS request is not allowed. This is usually because the evalution of Origin, request method / Access-Control-Request-Method or Access-Control-Request-Headers are not whitelisted by the resource's CORS spec.",
            )
        })?;
        let mut response = Response::new(s3s::Body::empty());
        describe(rule, origin, response.headers_mut());
        if !names.is_empty()
            && let Ok(value) = HeaderValue::from_str(&names.join(", "))
        {
            response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_HEADERS, value);
        }
        Ok(response)
    }

    /// Tells a browser whether a page of `origin` may see an answer. The bucket was looked at for the request itself.
    pub fn tell_origin(&self, bucket: &str, method: &Method, origin: &str, headers: &mut HeaderMap) {
        let Some(view) = self.buckets.get(bucket) else { return };
        let rule = rules(&view).and_then(|rules| find(rules, origin, method.as_str(), &[]));
        if let Some(rule) = rule {
            describe(rule, origin, headers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use s3s::dto::AllowedMethod;

    fn rule(origins: &[&str], methods: &[&'static str], headers: &[&str]) -> CORSRule {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        CORSRule {
            allowed_origins: owned(origins),
            allowed_methods: methods.iter().map(|&method| AllowedMethod::from(method.to_owned())).collect(),
            allowed_headers: Some(owned(headers)),
            expose_headers: None,
            id: None,
            max_age_seconds: None,
        }
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let rules = vec![
            rule(&["https://*.example.org"], &["GET"], &[]),
            rule(&["*"], &["GET", "PUT"], &["x-amz-*", "Content-Type"]),
        ];
        let at = |origin, method, headers: &[&str]| {
            let headers: Vec<String> = headers.iter().map(|&name| name.to_owned()).collect();
            find(&rules, origin, method, &headers).map(|found| rules.iter().position(|rule| rule == found))
        };
        assert_eq!(at("https://a.example.org", "GET", &[]), Some(Some(0)));
        assert_eq!(at("https://a.example.org", "PUT", &["content-type", "x-amz-acl"]), Some(Some(1)));
        assert_eq!(at("https://a.example.org", "GET", &["x-other"]), None);
        assert_eq!(at("https://elsewhere", "DELETE", &[]), None);
    }

    proptest! {
        #[test]
        fn a_star_stands_for_any_text(start in "[a-c]{0,3}", middle in "[a-c]{0,3}", end in "[a-c]{0,3}") {
            let pattern = format!("{start}*{end}");
            let whole = format!("{start}{middle}{end}");
            prop_assert!(like(&pattern, &whole));
            prop_assert_eq!(like(&pattern, &format!("{whole}z")), end.is_empty(), "another end");
            prop_assert!(like(&whole, &whole), "and without one");
        }
    }
}
