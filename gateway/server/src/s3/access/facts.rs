//! What a request says of itself, as policies may ask for it.

use super::Scene;
use crate::{
    clock::unix_ms,
    http::Peer,
    identity::{Global, Who},
};
use holdfast_gateway_policy::{Caller, Request};
use holdfast_meta_raft_machine::records::Extra;
use hyper::HeaderMap;
use percent_encoding::percent_decode_str;
use s3s::access::S3AccessContext;
use std::net::IpAddr;

/// A request's query with names and values decoded once, as s3s reads them.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Self {
        let decode =
            |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        };
        Self(text.split('&').filter(|pair| !pair.is_empty()).map(pair).collect())
    }

    /// The query of a listing.
    pub fn of_prefix(prefix: &str) -> Self {
        Self(vec![("prefix".to_owned(), prefix.to_owned())])
    }

    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Clone)]
pub struct Facts {
    pub query: Query,
    pub headers: HeaderMap,
    /// The tags that a request brings in its body.
    pub new_tags: Option<Vec<(String, String)>>,
    pub peer: Option<Peer>,
    pub now_ms: u64,
}

impl Facts {
    pub fn of(context: &mut S3AccessContext<'_>) -> Self {
        Self {
            query: Query::parse(context.uri().query().unwrap_or_default()),
            headers: context.headers().clone(),
            new_tags: None,
            peer: context.extensions_mut().get::<Peer>().copied(),
            now_ms: unix_ms(),
        }
    }

    /// Of a caller that says nothing in headers.
    pub fn of_peer(peer: Peer) -> Self {
        let (query, headers) = (Query::default(), HeaderMap::new());
        Self { query, headers, new_tags: None, peer: Some(peer), now_ms: unix_ms() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The tags that a write brings.
    fn new_tags(&self) -> Vec<(String, String)> {
        let in_header = || Query::parse(self.header("x-amz-tagging").unwrap_or_default()).0;
        self.new_tags.clone().unwrap_or_else(in_header)
    }

    /// A copy's source as `bucket/key`, however it was written.
    fn copy_source(&self) -> Option<String> {
        let source = self.header("x-amz-copy-source")?;
        let path = source.split('?').next().unwrap_or_default();
        Some(percent_decode_str(path.trim_start_matches('/')).decode_utf8_lossy().into_owned())
    }

    /// Milliseconds since the request was signed.
    fn signature_age(&self) -> Option<u64> {
        let date = self.query.get("X-Amz-Date").or_else(|| self.header("x-amz-date"))?;
        let format =
            time::format_description::parse_borrowed::<2>("[year][month][day]T[hour][minute][second]Z")
                .ok()?;
        let signed = time::PrimitiveDateTime::parse(date, &format).ok()?.assume_utc().unix_timestamp();
        Some(self.now_ms.saturating_sub(u64::try_from(signed).ok()? * 1000))
    }
}

/// One question to policies.
pub struct Asked<'a> {
    pub scene: &'a Scene,
    pub action: &'a str,
    pub resource: &'a str,
    pub object: Option<&'a Extra>,
    /// What is said of a whole account is not said of who is in it.
    by_name: bool,
}

impl<'a> Asked<'a> {
    pub fn new(scene: &'a Scene, action: &'a str, resource: &'a str, object: Option<&'a Extra>) -> Self {
        Self { scene, action, resource, object, by_name: false }
    }

    /// The same, of which only is heard what names the caller, or everybody.
    pub fn by_name(&self) -> Self {
        Self { by_name: true, ..*self }
    }
}

impl Request for Asked<'_> {
    fn caller(&self) -> Caller<'_> {
        match self.scene.who.caller() {
            // No account is called so.
            Caller::User { arn, role, .. } if self.by_name && !arn.ends_with(":root") => {
                Caller::User { account: "", arn, canonical: "", role }
            }
            caller @ Caller::Anonymous | caller @ Caller::User { .. } | caller @ Caller::Federated(_) => {
                caller
            }
        }
    }

    fn action(&self) -> &str {
        self.action
    }

    fn resource(&self) -> &str {
        self.resource
    }

    fn values(&self, key: &str, visit: &mut dyn FnMut(&str)) {
        let facts = &self.scene.facts;
        let global = Global { who: &self.scene.who, peer: facts.peer, now_ms: facts.now_ms };
        if global.values(key, visit) {
            return;
        }
        let mut some = |value: Option<&str>| value.into_iter().for_each(&mut *visit);
        match key {
            "aws:useragent" => some(facts.header("user-agent")),
            "aws:referer" => some(facts.header("referer")),
            "s3:prefix" | "s3:delimiter" | "s3:max-keys" => some(facts.query.get(&key[3..])),
            "s3:versionid" => some(facts.query.get("versionId")),
            "s3:signatureversion" if !matches!(self.scene.who, Who::Anonymous) => {
                some(Some("AWS4-HMAC-SHA256"))
            }
            "s3:signatureage" => some(facts.signature_age().map(|ms| ms.to_string()).as_deref()),
            "s3:authtype" if facts.query.get("X-Amz-Signature").is_some() => some(Some("REST-QUERY-STRING")),
            "s3:authtype" if self.scene.form => some(Some("POST")),
            "s3:authtype" if facts.headers.contains_key("authorization") => some(Some("REST-HEADER")),
            "s3:x-amz-copy-source" => some(facts.copy_source().as_deref()),
            "s3:if-match" | "s3:if-none-match" => some(facts.header(&key[3..])),
            "s3:object-lock-mode" => some(facts.header("x-amz-object-lock-mode")),
            "s3:object-lock-legal-hold" => some(facts.header("x-amz-object-lock-legal-hold")),
            "s3:object-lock-retain-until-date" => some(facts.header("x-amz-object-lock-retain-until-date")),
            "s3:requestobjecttagkeys" => facts.new_tags().iter().for_each(|(name, _)| visit(name)),
            _ => {
                if let Some(wanted) = key.strip_prefix("s3:existingobjecttag/") {
                    let tags = self.object.into_iter().flat_map(|extra| &extra.tags);
                    tags.filter(|(name, _)| name.eq_ignore_ascii_case(wanted))
                        .for_each(|(_, value)| visit(value));
                } else if let Some(wanted) = key.strip_prefix("s3:requestobjecttag/") {
                    let tags = facts.new_tags();
                    let mine = tags.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
                    mine.for_each(|(_, value)| visit(value));
                } else if let Some(header) = key.strip_prefix("s3:").filter(|name| name.starts_with("x-amz-"))
                {
                    some(facts.header(header));
                }
            }
        }
    }

    fn source_ip(&self) -> Option<IpAddr> {
        self.scene.facts.peer.map(|peer| peer.address.ip())
    }
}
