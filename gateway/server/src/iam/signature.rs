//! Signatures of requests to the query interfaces: version 4, in the header, over the whole body.
//!
//! The algorithm is "Create a signed AWS API request" (AWS Identity and Access Management user guide).

use super::answer::Refusal;
use hmac::{Hmac, KeyInit, Mac};
use hyper::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use time::{PrimitiveDateTime, format_description::parse_borrowed};

/// How far a request's clock may be from this one's, in seconds, as in AWS.
const SKEW_MAX_S: u64 = 15 * 60;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

fn incomplete() -> Refusal {
    let message = "The request signature does not conform to AWS standards.";
    Refusal::new(StatusCode::FORBIDDEN, "IncompleteSignature", message)
}

fn wrong(message: &str) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "SignatureDoesNotMatch", message)
}

/// What a request's header says of its signature.
pub struct Signed<'a> {
    pub access_key: &'a str,
    /// `DATE/REGION/SERVICE/aws4_request`.
    scope: &'a str,
    pub service: &'a str,
    headers: Vec<&'a str>,
    signature: &'a str,
    date: &'a str,
    pub token: Option<&'a str>,
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("keys of any length are good");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    // What is said twice can be read in two ways.
    if values.next().is_some() { None } else { Some(value) }
}

impl<'a> Signed<'a> {
    /// Reads the header; `None` where there is none.
    ///
    /// # Errors
    /// Where it is malformed.
    pub fn read(headers: &'a HeaderMap) -> Result<Option<Self>, Refusal> {
        if !headers.contains_key("authorization") {
            return Ok(None);
        }
        let rest = header(headers, "authorization").and_then(|text| text.strip_prefix(ALGORITHM));
        let rest = rest.ok_or_else(incomplete)?;
        let field = |name: &str| {
            rest.split(',')
                .find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
                .ok_or_else(incomplete)
        };
        let (access_key, scope) = field("Credential")?.split_once('/').ok_or_else(incomplete)?;
        let [_, _, service, "aws4_request"] = scope.split('/').collect::<Vec<_>>()[..] else {
            return Err(incomplete());
        };
        Ok(Some(Self {
            access_key,
            scope,
            service,
            headers: field("SignedHeaders")?.split(';').collect(),
            signature: field("Signature")?,
            date: header(headers, "x-amz-date").ok_or_else(incomplete)?,
            token: header(headers, "x-amz-security-token"),
        }))
    }

    /// Whether the signature is right for a POST of `body` to `path`, now.
    ///
    /// # Errors
    /// Where it is not.
    pub fn check(
        &self,
        secret: &str,
        headers: &HeaderMap,
        path: &str,
        body: &[u8],
        now_s: u64,
    ) -> Result<(), Refusal> {
        let format =
            parse_borrowed::<2>("[year][month][day]T[hour][minute][second]Z").map_err(|_| incomplete())?;
        let signed_at = PrimitiveDateTime::parse(self.date, &format).map_err(|_| incomplete())?;
        let signed_at = u64::try_from(signed_at.assume_utc().unix_timestamp()).map_err(|_| incomplete())?;
        let day = self.date.get(..8).ok_or_else(incomplete)?;
        if signed_at.abs_diff(now_s) > SKEW_MAX_S || !self.scope.starts_with(&format!("{day}/")) {
            return Err(wrong("Signature expired or not yet current"));
        }
        let matters = |name: &str| name == "host" || name.starts_with("x-amz-");
        let covers = |name: &str| self.headers.contains(&name);
        if !covers("host") || headers.keys().any(|name| matters(name.as_str()) && !covers(name.as_str())) {
            return Err(wrong("A header that must be signed is not"));
        }
        let mut lines = String::new();
        for name in &self.headers {
            let value = header(headers, name).ok_or_else(incomplete)?;
            let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
            lines.push_str(&format!("{name}:{value}\n"));
        }
        let (names, body) = (self.headers.join(";"), hex::encode(Sha256::digest(body)));
        let canonical = format!("POST\n{path}\n\n{lines}\n{names}\n{body}");
        let hash = hex::encode(Sha256::digest(canonical.as_bytes()));
        let to_sign = format!("{ALGORITHM}\n{}\n{}\n{hash}", self.date, self.scope);
        let first = format!("AWS4{secret}").into_bytes();
        let key = self.scope.split('/').fold(first, |key, part| hmac(&key, part));
        let expected = hex::encode(hmac(&key, &to_sign));
        match bool::from(expected.as_bytes().ct_eq(self.signature.as_bytes())) {
            true => Ok(()),
            false => Err(wrong(
                "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method.",
            )),
        }
    }
}
