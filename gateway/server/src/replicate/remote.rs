//! Another cluster, spoken to as any client of S3 does.

use crate::outbound;
use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    },
    sign::v4::SigningParams,
};
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{
    Body, Method, Response, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime};
use thiserror::Error;

/// How long a request may take, and how much longer for each of its MiB.
const PATIENCE: Duration = Duration::from_secs(60);
const PATIENCE_PER_MIB: Duration = Duration::from_secs(8);

/// Bytes of an answer that are read.
const ANSWER_MAX: usize = 64 << 10;

const KEY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
const VALUE: &AsciiSet = &KEY.add(b'/');

/// Another cluster, as operators made it known.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    pub name: String,
    /// Where its S3 is.
    pub url: String,
    pub region: String,
    pub access_key: String,
    pub secret_key: String,
    /// The users whose buckets may be copied there, beside the system's owner.
    #[serde(default)]
    pub users: Vec<String>,
}

impl Remote {
    /// Where its record is among the identities.
    pub fn path(name: &str) -> String {
        format!("remote/{name}")
    }

    /// The remote of that name.
    pub fn among(records: &[(String, String)], name: &str) -> Option<Self> {
        let path = Self::path(name);
        let (_, text) = records.iter().find(|(kept, _)| *kept == path)?;
        serde_json::from_str(text).ok()
    }

    /// Whether buckets of this owner may be copied there; the system's owner has no name.
    pub fn serves(&self, owner: &str) -> bool {
        owner.is_empty() || self.users.iter().any(|user| user == owner)
    }
}

/// Why something could not be done there.
#[derive(Debug, Error)]
pub enum Fault {
    #[error("the remote cannot be reached: {0}")]
    Unreachable(String),
    #[error("the remote answered {0} {1}")]
    Refused(u16, String),
    #[error("the remote is set up wrongly: {0}")]
    Setup(String),
    #[error("a key with . or .. between its slashes cannot be in an address")]
    Key,
    #[error("what is known of the object cannot be in headers: {0}")]
    Headers(String),
    /// What was to be sent could not be read here.
    #[error("the object cannot be read now: {0}")]
    Source(String),
}

/// Refusals of an object for what it is: to send it again would change nothing. Whatever else goes wrong (credentials, a
/// missing bucket, damage on the way) is waited for.
const FINAL: [&str; 14] = [
    "EntityTooLarge",
    "InvalidArgument",
    "InvalidDigest",
    "InvalidEncryptionAlgorithmError",
    "InvalidPart",
    "InvalidRedirectLocation",
    "InvalidRequest",
    "InvalidStorageClass",
    "InvalidTag",
    "KeyTooLongError",
    "MalformedXML",
    "MetadataTooLarge",
    "NotImplemented",
    "RequestHeaderSectionTooLarge",
];

impl Fault {
    /// Whether the object itself is not taken, now and for ever.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused(_, code) => FINAL.contains(&code.as_str()),
            Self::Key | Self::Headers(_) => true,
            Self::Unreachable(_) | Self::Setup(_) | Self::Source(_) => false,
        }
    }
}

/// Headers and other pairs of a request.
pub type Pairs = Vec<(String, String)>;

/// A bucket of another cluster.
pub struct RemoteBucket {
    client: reqwest::Client,
    base: Url,
    bucket: String,
    region: String,
    credentials: Credentials,
}

impl RemoteBucket {
    /// # Errors
    /// Where the remote's address is none, or the host's certificates cannot be read.
    pub fn new(remote: &Remote, bucket: &str) -> Result<Self, Fault> {
        let client = outbound::client(PATIENCE).map_err(|error| Fault::Setup(error.to_string()))?;
        let base = Url::parse(&remote.url).map_err(|error| Fault::Setup(error.to_string()))?;
        let credentials =
            Credentials::new(&remote.access_key, &remote.secret_key, None, None, "a remote of Holdfast");
        Ok(Self { client, base, bucket: bucket.to_owned(), region: remote.region.clone(), credentials })
    }

    fn url(&self, key: &str, query: &[(&str, &str)]) -> Result<Url, Fault> {
        let mut url = self.base.clone();
        let path = match key.is_empty() {
            true => format!("/{}", self.bucket),
            false => format!("/{}/{}", self.bucket, utf8_percent_encode(key, KEY)),
        };
        url.set_path(&path);
        if url.path() != path {
            return Err(Fault::Key);
        }
        let pairs: Vec<String> = query
            .iter()
            .map(|(name, value)| {
                format!("{}={}", utf8_percent_encode(name, VALUE), utf8_percent_encode(value, VALUE))
            })
            .collect();
        url.set_query((!pairs.is_empty()).then(|| pairs.join("&")).as_deref());
        Ok(url)
    }

    fn signed(&self, method: &Method, url: &Url, pairs: &Pairs) -> Result<HeaderMap, Fault> {
        let setup = |error: &dyn std::fmt::Display| Fault::Setup(error.to_string());
        let in_headers = |error: &dyn std::fmt::Display| Fault::Headers(error.to_string());
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let identity = self.credentials.clone().into();
        let params = SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("s3")
            .time(SystemTime::now())
            .settings(settings)
            .build()
            .map_err(|error| setup(&error))?
            .into();
        let headers = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        // What is sent has checksums of its own, which are signed.
        let request =
            SignableRequest::new(method.as_str(), url.as_str(), headers, SignableBody::UnsignedPayload);
        let (instructions, _) = sign(request.map_err(|error| in_headers(&error))?, &params)
            .map_err(|error| in_headers(&error))?
            .into_parts();
        let (added, _) = instructions.into_parts();
        let mut headers = HeaderMap::new();
        let mut add = |name: &str, value: &str| {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| in_headers(&error))?;
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|error| in_headers(&error))?;
            headers.insert(name, value);
            Ok::<_, Fault>(())
        };
        pairs.iter().try_for_each(|(name, value)| add(name, value))?;
        added.iter().try_for_each(|header| add(header.name(), header.value()))?;
        Ok(headers)
    }

    /// Sends a request, and waits for its answer's head.
    ///
    /// # Errors
    /// Where there is no answer, or one that is no success.
    pub async fn send(
        &self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        pairs: Pairs,
        body: (Body, u64),
    ) -> Result<Response, Fault> {
        let url = self.url(key, query)?;
        let mut headers = self.signed(&method, &url, &pairs)?;
        let (body, bytes) = body;
        headers.insert("content-length", HeaderValue::from(bytes));
        let patience = PATIENCE + PATIENCE_PER_MIB * u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
        let is_head = method == Method::HEAD;
        let request = self.client.request(method, url).headers(headers).timeout(patience).body(body);
        let answer = request.send().await.map_err(|error| {
            let error = error.without_url();
            Fault::Unreachable(
                std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string),
            )
        })?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status().as_u16();
        let text = if is_head { String::new() } else { text_of(answer).await.unwrap_or_default() };
        Err(Fault::Refused(status, between(&text, "Code").unwrap_or_default().to_owned()))
    }

    /// Whether the bucket keeps versions.
    ///
    /// # Errors
    /// See [`send`](Self::send).
    pub async fn keeps_versions(&self) -> Result<bool, Fault> {
        let nothing = (Body::default(), 0);
        let answer = self.send(Method::GET, "", &[("versioning", "")], Pairs::new(), nothing).await?;
        Ok(between(&text_of(answer).await?, "Status") == Some("Enabled"))
    }

    /// The headers of what a key names there; `None` where it names nothing.
    ///
    /// # Errors
    /// See [`send`](Self::send).
    pub async fn head(&self, key: &str) -> Result<Option<HeaderMap>, Fault> {
        match self.send(Method::HEAD, key, &[], Pairs::new(), (Body::default(), 0)).await {
            Ok(answer) => Ok(Some(answer.headers().clone())),
            Err(Fault::Refused(404, _)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }
}

/// An answer's text.
///
/// # Errors
/// Where it does not come, or is longer than any that is expected.
pub async fn text_of(mut answer: Response) -> Result<String, Fault> {
    let mut bytes: Vec<u8> = Vec::new();
    let unreachable = |error: reqwest::Error| Fault::Unreachable(error.without_url().to_string());
    while let Some(piece) = answer.chunk().await.map_err(unreachable)? {
        let piece: Bytes = piece;
        if bytes.len() + piece.len() > ANSWER_MAX {
            return Err(Fault::Unreachable("it sends too long an answer".to_owned()));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The text of the first element of that name, which has no attributes.
pub fn between<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(found, _)| found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote() -> Remote {
        Remote {
            name: "far".to_owned(),
            url: "http://127.0.0.1:9000".to_owned(),
            region: "us-east-1".to_owned(),
            access_key: "key".to_owned(),
            secret_key: "secret".to_owned(),
            users: vec!["alice".to_owned()],
        }
    }

    #[test]
    fn a_remote_serves_those_it_is_for() {
        assert!(remote().serves("") && remote().serves("alice") && !remote().serves("bob"));
    }

    #[test]
    fn keys_are_encoded_once() {
        let bucket = RemoteBucket::new(&remote(), "box").expect("a remote");
        let url = bucket.url("a b/ü%2F+", &[("uploadId", "x/y=")]).expect("an address");
        assert_eq!(url.as_str(), "http://127.0.0.1:9000/box/a%20b/%C3%BC%252F%2B?uploadId=x%2Fy%3D");
        for key in ["a/../b", "./a", "a/.."] {
            assert!(matches!(bucket.url(key, &[]), Err(Fault::Key)), "{key}");
        }
    }

    #[test]
    fn only_what_concerns_the_object_is_final() {
        assert!(Fault::Refused(400, "InvalidTag".to_owned()).is_final() && Fault::Key.is_final());
        for (status, code) in
            [(400, "BadDigest"), (400, ""), (403, "AccessDenied"), (404, "NoSuchBucket"), (503, "SlowDown")]
        {
            assert!(!Fault::Refused(status, code.to_owned()).is_final(), "{code}");
        }
    }
}
