//! One version on its way to another cluster.

use super::remote::{Fault, Pairs, RemoteBucket, between, text_of};
use crate::{
    clock::{rfc3339, unix_ms},
    s3::{
        S3Door, checksum_text, class_of,
        replication::{REPLICA, SOURCE_HEADER, STATUS_HEADER},
        show_mode,
    },
    seal::Seal,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use holdfast_core::limits::PUT_BYTES_MAX;
use holdfast_meta_raft_machine::records::{
    Bucket, Checksum, ChecksumAlgorithm, Etag, Extra, Retention, Version,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Body, Method};
use std::{borrow::Cow, fmt::Write as _, ops::Range};

/// A retention that ends so soon is not asked for: there it may have ended already.
const RETENTION_MARGIN_MS: u64 = 60_000;

/// Metadata as a header may hold it: an encoded word (RFC 2047) where it is not plain text.
fn in_header(value: &str) -> Cow<'_, str> {
    let is_plain = value.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        && value.trim() == value
        && !value.contains("  ")
        && !value.contains("=?");
    match is_plain {
        true => Cow::Borrowed(value),
        false => Cow::Owned(format!("=?UTF-8?B?{}?=", BASE64_STANDARD.encode(value))),
    }
}

/// A version, and how its bytes are read.
pub struct Outgoing<'a> {
    pub door: &'a S3Door,
    pub bucket: &'a Bucket,
    pub key: &'a str,
    pub version: &'a Version,
    pub extra: &'a Extra,
    pub seal: Option<Seal>,
    /// The version as the other cluster knows it: this cluster's name of it.
    pub source: String,
    /// What the rule says of the copy.
    pub storage_class: Option<&'a str>,
    /// `x-amz-server-side-encryption` and its key.
    pub encryption: Option<(&'a str, Option<&'a str>)>,
}

fn algorithm(checksum: &Checksum) -> &'static str {
    match checksum.algorithm {
        ChecksumAlgorithm::Crc32 => "crc32",
        ChecksumAlgorithm::Crc32c => "crc32c",
        ChecksumAlgorithm::Crc64Nvme => "crc64nvme",
        ChecksumAlgorithm::Sha1 => "sha1",
        ChecksumAlgorithm::Sha256 => "sha256",
    }
}

/// The header that holds a checksum.
fn checksum_header(checksum: &Checksum) -> (String, String) {
    (format!("x-amz-checksum-{}", algorithm(checksum)), checksum_text(checksum))
}

/// The element of a completed part that holds a checksum.
fn checksum_element(checksum: &Checksum) -> String {
    let name = algorithm(checksum).to_ascii_uppercase();
    format!("<Checksum{name}>{}</Checksum{name}>", checksum_text(checksum))
}

impl Outgoing<'_> {
    /// Sends the version: with the parts that it was made of, so that it has the same entity tag there.
    ///
    /// # Errors
    /// Where it is not taken.
    pub async fn send(&self, target: &RemoteBucket) -> Result<(), Fault> {
        let is_whole = self.version.parts.is_empty() && self.version.bytes <= PUT_BYTES_MAX;
        if is_whole { self.put(target).await } else { self.put_parts(target).await }
    }

    /// What is said of the copy.
    fn described(&self) -> Pairs {
        let mut pairs = Pairs::new();
        let mut add = |name: &str, value: &str| pairs.push((name.to_owned(), value.to_owned()));
        let attributes = &self.version.attributes;
        let known = [
            ("content-type", &attributes.content_type),
            ("cache-control", &attributes.cache_control),
            ("content-disposition", &attributes.content_disposition),
            ("content-encoding", &attributes.content_encoding),
            ("content-language", &attributes.content_language),
            ("expires", &attributes.expires),
        ];
        for (name, value) in known {
            value.iter().for_each(|value| add(name, value));
        }
        for (name, value) in &attributes.user {
            add(&format!("x-amz-meta-{name}"), &in_header(value));
        }
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let tags =
            self.extra.tags.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value)));
        let tags: Vec<String> = tags.collect();
        if !tags.is_empty() {
            add("x-amz-tagging", &tags.join("&"));
        }
        let class = class_of(self.extra);
        self.storage_class.or(class).into_iter().for_each(|class| add("x-amz-storage-class", class));
        let redirect = self.extra.documents.get("redirect");
        redirect.iter().for_each(|to| add("x-amz-website-redirect-location", to));
        let lasts = |kept: &Retention| kept.until_ms > unix_ms() + RETENTION_MARGIN_MS;
        if let Some(kept) = self.extra.retention.filter(lasts) {
            add("x-amz-object-lock-mode", show_mode(kept.mode));
            add("x-amz-object-lock-retain-until-date", &rfc3339(kept.until_ms));
        }
        if self.extra.legal_hold {
            add("x-amz-object-lock-legal-hold", "ON");
        }
        if let Some((method, key)) = self.encryption {
            add("x-amz-server-side-encryption", method);
            key.into_iter().for_each(|key| add("x-amz-server-side-encryption-aws-kms-key-id", key));
        }
        add(STATUS_HEADER, REPLICA);
        add(SOURCE_HEADER, &self.source);
        pairs
    }

    async fn bytes(&self, range: Range<u64>) -> Result<Body, Fault> {
        let content = self.door.engine.content(self.bucket.id, self.version, range, self.seal.clone()).await;
        let content = content.map_err(|error| Fault::Source(error.to_string()))?;
        Ok(Body::wrap_stream(content))
    }

    async fn put(&self, target: &RemoteBucket) -> Result<(), Fault> {
        let mut pairs = self.described();
        let whole = self.version.checksum.as_ref().filter(|checksum| checksum.composite_parts.is_none());
        match (whole, &self.version.etag) {
            (Some(checksum), _) => pairs.push(checksum_header(checksum)),
            (None, Etag::Md5(md5)) => {
                pairs.push(("content-md5".to_owned(), BASE64_STANDARD.encode(md5)));
            }
            (None, Etag::Multipart { .. }) => {}
        }
        let body = self.bytes(0..self.version.bytes).await?;
        target.send(Method::PUT, self.key, &[], pairs, (body, self.version.bytes)).await.map(drop)
    }

    async fn put_parts(&self, target: &RemoteBucket) -> Result<(), Fault> {
        let mut pairs = self.described();
        let checksum = self.version.checksum.as_ref();
        let kind = |checksum: &Checksum| match checksum.composite_parts {
            Some(_) => "COMPOSITE",
            None => "FULL_OBJECT",
        };
        if let Some(checksum) = checksum {
            pairs.push(("x-amz-checksum-algorithm".to_owned(), algorithm(checksum).to_ascii_uppercase()));
            pairs.push(("x-amz-checksum-type".to_owned(), kind(checksum).to_owned()));
        }
        let begun =
            target.send(Method::POST, self.key, &[("uploads", "")], pairs, (Body::default(), 0)).await?;
        let text = text_of(begun).await?;
        let id = between(&text, "UploadId");
        let id = id.ok_or_else(|| Fault::Unreachable("it answered with no upload's id".to_owned()))?;
        let sent = self.parts(target, id).await;
        if sent.is_err() {
            // What was sent in vain takes space there.
            let _later = target
                .send(Method::DELETE, self.key, &[("uploadId", id)], Pairs::new(), (Body::default(), 0))
                .await;
        }
        sent
    }

    async fn parts(&self, target: &RemoteBucket, id: &str) -> Result<(), Fault> {
        let (mut start, mut list) = (0, String::new());
        for (number, (bytes, checksum)) in (1..).zip(self.lengths()) {
            let body = self.bytes(start..start + bytes).await?;
            start += bytes;
            let number = u32::to_string(&number);
            let query = [("partNumber", number.as_str()), ("uploadId", id)];
            let pairs = checksum.into_iter().map(checksum_header).collect();
            let answer = target.send(Method::PUT, self.key, &query, pairs, (body, bytes)).await?;
            let tag = answer.headers().get("etag").and_then(|tag| tag.to_str().ok()).unwrap_or_default();
            let checksum = checksum.map(checksum_element).unwrap_or_default();
            let tag = tag.replace('"', "&quot;");
            let _infallible =
                write!(list, "<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag>{checksum}</Part>");
        }
        let list = format!(
            "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{list}</CompleteMultipartUpload>"
        );
        let mut pairs = Pairs::new();
        if let Some(checksum) = self.version.checksum.as_ref().filter(|sum| sum.composite_parts.is_none()) {
            pairs.push(checksum_header(checksum));
            pairs.push(("x-amz-checksum-type".to_owned(), "FULL_OBJECT".to_owned()));
        }
        let bytes = list.len() as u64;
        let answer =
            target.send(Method::POST, self.key, &[("uploadId", id)], pairs, (list.into(), bytes)).await?;
        let text = text_of(answer).await?;
        // S3 may begin to answer before it knows.
        if let Some(code) = between(&text, "Code") {
            return Err(Fault::Unreachable(code.to_owned()));
        }
        // Parts need not have checksums of their own: the whole has this one, unless it is under a key there.
        let tag =
            between(&text, "ETag").map(|tag| tag.replace("&quot;", "").replace("&#34;", "").replace('"', ""));
        let is_plain = self.encryption.is_none_or(|(method, _)| method == "AES256");
        let wanted = self.version.etag.to_string().replace('"', "");
        match tag.filter(|tag| is_plain && !self.version.parts.is_empty() && *tag != wanted) {
            Some(tag) => {
                Err(Fault::Unreachable(format!("the copy has the entity tag {tag}, and not {wanted}")))
            }
            None => Ok(()),
        }
    }

    /// The parts' lengths, with their checksums.
    fn lengths(&self) -> Vec<(u64, Option<&Checksum>)> {
        if self.version.parts.is_empty() {
            // A part copied whole from an object of several parts has none of its own.
            let full = self.version.bytes / PUT_BYTES_MAX;
            let rest = self.version.bytes % PUT_BYTES_MAX;
            let lengths = (0..full).map(|_| PUT_BYTES_MAX).chain((rest > 0).then_some(rest));
            return lengths.map(|bytes| (bytes, None)).collect();
        }
        self.version.parts.iter().map(|part| (part.bytes, part.checksum.as_ref())).collect()
    }
}
