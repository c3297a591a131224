//! Objects: put, get, head, delete.

use super::{
    S3Door,
    access::{Scene, scene},
    attributes::{
        attribute_fields, attributes, checksum_type, etag, expires, given_checksum, metadata, set_checksum,
        timestamp,
    },
    classes,
    conditions::{ReadConditions, if_range, write_condition},
    digest::Expected,
    encryption::{Encryption, set_encryption},
    error,
    extras::{extra_of, show_mode},
    forms::{self, FormFields},
    lifecycle::{expiration, expiration_of},
    notification::MADE,
    replication,
    versions::{parse_version, shown_version, written_version},
};
use crate::{engine::EngineError, upload::Incoming};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use holdfast_core::{
    ids::BucketId,
    limits::{KEY_BYTES_MAX, PUT_BYTES_MAX},
};
use holdfast_meta_raft_machine::{
    command::{Command, Condition, NewObject, Outcome},
    records::{ChecksumAlgorithm, Content, Etag, Extra, Version},
};
use hyper::{HeaderMap, Uri, header::HeaderValue};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        self, GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, PutObjectInput,
        PutObjectOutput, StreamingBlob,
    },
    s3_error,
    stream::{ByteStream, RemainingLength},
};
use std::{
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
};

pub async fn put_object(
    door: &S3Door,
    request: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let mut scene = scene(&request)?;
    let S3Request { mut input, mut headers, trailing_headers, uri, extensions, .. } = request;
    if scene.form {
        let fields = extensions.get::<FormFields>().cloned().unwrap_or_default();
        (scene, headers) = forms::admit(&scene, &fields, &input)?;
    }
    let bucket = scene.bucket()?;
    check_key(&input.key)?;
    refuse_unknown(&uri, &headers)?;
    let mut extra = extra_of(door, &scene, &headers, bucket, &input.key)?;
    classes::note_of(door, bucket, &extra).await?;
    if bucket.notifies && scene.form {
        extra.documents.insert(MADE.to_owned(), "Post".to_owned());
    }
    let encryption = Encryption::of_write(door, &scene, &headers, bucket).await?;
    encryption.iter().try_for_each(|encryption| encryption.keep(&mut extra))?;
    replication::mark(&scene, &headers, bucket, &input.key, encryption.as_ref(), &mut extra)?;
    let condition = write_condition(input.if_match.as_ref(), input.if_none_match.as_ref())?;
    let attributes = attributes(attribute_fields!(input))?;
    let given = given_checksum!(input);
    let default = Some(ChecksumAlgorithm::Crc64Nvme);
    let expected = Expected::new(&headers, input.content_md5.as_deref(), given, default, trailing_headers)?;
    let body = input.body.take().unwrap_or_else(empty_body);
    let length = declared_length(input.content_length, &body)?;

    let mut digest = expected.digest(&door.engine, length);
    let incoming = Incoming {
        body,
        length,
        limit: length.unwrap_or(PUT_BYTES_MAX).min(PUT_BYTES_MAX),
        digest: &mut digest,
        seal: encryption.as_ref().map(|encryption| &encryption.seal),
        pool: door.engine.pool_for(classes::class_of(&extra)),
    };
    let ingested = door.engine.ingest(incoming, true).await.map_err(error::engine)?;
    check_length(length, ingested.bytes)?;
    door.engine.metrics().body_bytes_in.inc_by(ingested.bytes);
    let (md5, checksum) = expected.verify(digest).await?;
    let (etag_of, key, bytes) = (Etag::Md5(md5), input.key.clone().into_bytes(), ingested.bytes);
    let command = |content| {
        let object = NewObject {
            bytes,
            etag: etag_of,
            content,
            attributes: attributes.clone(),
            checksum: checksum.clone(),
            parts: Vec::new(),
        };
        put_command(bucket.bucket.id, key.clone(), condition, object, extra.clone())
    };
    let outcome = door.engine.commit(ingested, command).await.map_err(error::engine)?;
    let mut output = PutObjectOutput { e_tag: Some(etag(&etag_of)), ..Default::default() };
    output.version_id = written_version(bucket.config.versioning, &outcome);
    if let Outcome::Committed(committed) = &outcome {
        output.expiration = expiration(bucket, &input.key, bytes, &extra.tags, committed.modified_ms);
    }
    set_encryption!(output, &encryption);
    output.checksum_type = checksum.as_ref().map(|_| checksum_type(false));
    set_checksum!(output, &checksum);
    Ok(S3Response::new(output))
}

/// A write of a plain object, or one with extras.
pub fn put_command(
    bucket: BucketId,
    key: Vec<u8>,
    condition: Condition,
    object: NewObject,
    extra: Extra,
) -> Command {
    // What earlier versions know is said as they understand it.
    match extra == Extra::default() {
        true => Command::PutObject { bucket, key, condition, object },
        false => Command::PutVersion { bucket, key, condition, object, extra },
    }
}

/// Headers that demand what this version cannot do. To ignore them would be to promise it.
const UNKNOWN_HEADERS: [&str; 1] = ["x-amz-write-offset-bytes"];

/// # Errors
/// Where a write asks for what is not implemented, in a header, or as a subresource that s3s does not know.
pub fn refuse_unknown(uri: &Uri, headers: &HeaderMap) -> S3Result<()> {
    let unknown = |name: &str| UNKNOWN_HEADERS.iter().any(|unknown| name.starts_with(unknown));
    if let Some(name) = headers.keys().find(|name| unknown(name.as_str())) {
        return Err(s3_error!(
            NotImplemented,
            "A header you provided implies functionality that is not implemented: {name}"
        ));
    }
    let known = [
        "x-id",
        "location",
        "versionid",
        "signature",
        "awsaccesskeyid",
        "expires",
        "uploads",
        "uploadid",
        "partnumber",
    ];
    let names = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split('=').next());
    let strange = |name: &&str| {
        let name = name.to_ascii_lowercase();
        !name.is_empty()
            && !name.starts_with("x-amz-")
            && !name.contains('%')
            && !known.contains(&name.as_str())
    };
    match names.into_iter().find(strange) {
        Some(name) => Err(s3_error!(NotImplemented, "The subresource {name} is not implemented")),
        None => Ok(()),
    }
}

pub fn empty_body() -> StreamingBlob {
    StreamingBlob::from(s3s::Body::empty())
}

/// The body's length as the client declares it, without the framing of signed chunks.
///
/// # Errors
/// Where it is more than an upload may have.
pub fn declared_length(content_length: Option<i64>, body: &StreamingBlob) -> S3Result<Option<u64>> {
    let declared = content_length.map(|length| length.max(0) as u64);
    let length = declared.or_else(|| body.remaining_length().exact().map(|length| length as u64));
    if length.is_some_and(|length| length > PUT_BYTES_MAX) {
        return Err(s3_error!(EntityTooLarge, "Your proposed upload exceeds the maximum allowed size"));
    }
    Ok(length)
}

/// # Errors
/// Where fewer bytes came than were declared.
pub fn check_length(declared: Option<u64>, came: u64) -> S3Result<()> {
    if declared.is_some_and(|declared| declared != came) {
        return Err(s3_error!(
            IncompleteBody,
            "You did not provide the number of bytes specified by the Content-Length HTTP header"
        ));
    }
    Ok(())
}

/// # Errors
/// Where the key is empty or longer than S3's.
pub fn check_key(key: &str) -> S3Result<()> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(s3_error!(KeyTooLongError, "Your key is too long"));
    }
    Ok(())
}

/// The bytes that a read asks for: all, a range, or a part; and whether it is not all.
fn wanted(version: &Version, range: Option<&dto::Range>, part: Option<i32>) -> S3Result<(Range<u64>, bool)> {
    match (range, part) {
        (Some(_), Some(_)) => {
            Err(s3_error!(InvalidRequest, "Cannot specify both Range header and partNumber query parameter"))
        }
        (Some(range), None) => Ok((range.check(version.bytes)?, true)),
        (None, Some(number)) => part_range(version, number).map(|range| (range, true)),
        (None, None) => Ok((0..version.bytes, false)),
    }
}

fn part_range(version: &Version, number: i32) -> S3Result<Range<u64>> {
    if version.parts.is_empty() && number == 1 {
        return Ok(0..version.bytes);
    }
    let mut start = 0;
    for (i, part) in version.parts.iter().enumerate() {
        if i as i64 + 1 == i64::from(number) {
            return Ok(start..start + part.bytes);
        }
        start += part.bytes;
    }
    let status = hyper::StatusCode::RANGE_NOT_SATISFIABLE;
    Err(error::custom("InvalidPartNumber", status, "The requested partnumber is not satisfiable"))
}

/// Fills the fields that GET and HEAD share.
macro_rules! describe {
    ($output:expr, $object:expr, $versioning:expr, $range:expr, $partial:expr, $input:expr) => {{
        let (version, extra, range) = (&$object.version, &$object.extra, &$range);
        $output.accept_ranges = Some("bytes".to_owned());
        $output.content_length = Some((range.end - range.start) as i64);
        if $partial && version.bytes > 0 {
            $output.content_range =
                Some(format!("bytes {}-{}/{}", range.start, range.end - 1, version.bytes));
        }
        $output.e_tag = Some(etag(&version.etag));
        $output.last_modified = Some(timestamp(version.modified_ms));
        $output.cache_control = version.attributes.cache_control.clone();
        $output.content_disposition = version.attributes.content_disposition.clone();
        $output.content_encoding = version.attributes.content_encoding.clone();
        $output.content_language = version.attributes.content_language.clone();
        let octets = || "binary/octet-stream".to_owned();
        $output.content_type = Some(version.attributes.content_type.clone().unwrap_or_else(octets));
        $output.expires = expires(&version.attributes);
        $output.metadata = metadata(&version.attributes);
        if $input.part_number.is_some() && !version.parts.is_empty() {
            $output.parts_count = Some(version.parts.len() as i32);
        }
        $output.version_id = shown_version($versioning, $object);
        $output.website_redirect_location = extra.documents.get("redirect").cloned();
        $output.storage_class = $crate::s3::class_of(extra).map(|class| class.to_owned().into());
        $output.replication_status = replication::status_of(extra);
        $output.object_lock_mode = extra.retention.map(|kept| show_mode(kept.mode).to_owned().into());
        $output.object_lock_retain_until_date = extra.retention.map(|kept| timestamp(kept.until_ms));
        $output.object_lock_legal_hold_status =
            extra.legal_hold.then(|| dto::ObjectLockLegalHoldStatus::from_static("ON"));
        if let Some(value) = &$input.response_cache_control {
            $output.cache_control = Some(value.clone());
        }
        if let Some(value) = &$input.response_content_disposition {
            $output.content_disposition = Some(value.clone());
        }
        if let Some(value) = &$input.response_content_encoding {
            $output.content_encoding = Some(value.clone());
        }
        if let Some(value) = &$input.response_content_language {
            $output.content_language = Some(value.clone());
        }
        if let Some(value) = &$input.response_content_type {
            $output.content_type = Some(value.clone());
        }
        if let Some(value) = &$input.response_expires {
            $output.expires = Some(value.clone());
        }
        let enabled = $input.checksum_mode.as_ref().is_some_and(|mode| mode.as_str() == "ENABLED");
        let number = $input.part_number.and_then(|number| usize::try_from(number).ok()).unwrap_or(0);
        if let Some(part) = number.checked_sub(1).and_then(|at| version.parts.get(at)).filter(|_| enabled) {
            set_checksum!($output, &part.checksum);
            $output.checksum_type =
                version.checksum.as_ref().map(|checksum| checksum_type(checksum.composite_parts.is_some()));
        }
        if enabled && (!$partial || (number == 1 && version.parts.is_empty())) {
            set_checksum!($output, &version.checksum);
            $output.checksum_type =
                version.checksum.as_ref().map(|checksum| checksum_type(checksum.composite_parts.is_some()));
        }
    }};
}

/// The conditions of a read's input.
macro_rules! read_conditions {
    ($input:expr) => {
        ReadConditions {
            if_match: $input.if_match.as_ref(),
            if_none_match: $input.if_none_match.as_ref(),
            if_modified_since: $input.if_modified_since.as_ref(),
            if_unmodified_since: $input.if_unmodified_since.as_ref(),
        }
    };
}

pub async fn get_object(
    door: &S3Door,
    request: S3Request<GetObjectInput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    let scene = scene(&request)?;
    let bucket = scene.bucket()?;
    let input = request.input;
    let name = input.version_id.as_deref().map(parse_version).transpose()?;
    let mut again: Option<Scene> = None;
    // An object that is replaced between being resolved and being opened is resolved again.
    for _ in 0..8 {
        let current = again.as_ref().unwrap_or(&*scene);
        let object = current.found(name.is_some())?;
        let version = &object.version;
        read_conditions!(input).check(&version.etag, version.modified_ms)?;
        let range = input.range.as_ref().filter(|_| if_range(&request.headers, version));
        let (range, partial) = wanted(version, range, input.part_number)?;
        let encryption = Encryption::of_read(door, current, &request.headers, &object.extra).await?;
        let seal = encryption.as_ref().map(|encryption| encryption.seal.clone());
        let content = match door.engine.content(bucket.bucket.id, version, range.clone(), seal).await {
            Err(EngineError::Gone) => {
                let key = Some((input.key.clone().into_bytes(), name));
                let (view, found) = door.look(&input.bucket, key).await?;
                // What is there now is another object, and judged like any.
                let next = scene.about(view.unwrap_or_else(|| bucket.clone()), found);
                next.may_read(&input.key, name.is_some())?;
                again = Some(next);
                continue;
            }
            other => other.map_err(error::engine)?,
        };
        let mut output = GetObjectOutput::default();
        describe!(output, object, bucket.config.versioning, range, partial, input);
        set_encryption!(output, &encryption);
        output.expiration = expiration_of(bucket, &input.key, object);
        let tags = &object.extra.tags;
        output.tag_count = (!tags.is_empty()).then_some(tags.len() as i32);
        door.engine.metrics().body_bytes_out.inc_by(range.end - range.start);
        let length = range.end - range.start;
        output.body = Some(match version.content {
            Content::Inline => StreamingBlob::from(s3s::Body::from(one_piece(content).await?)),
            Content::Segments(_) => StreamingBlob::new(Sized { inner: Box::pin(content), left: length }),
        });
        return Ok(S3Response::new(output));
    }
    Err(s3_error!(SlowDown, "The object is being replaced too quickly"))
}

async fn one_piece(content: impl Stream<Item = Result<Bytes, EngineError>>) -> S3Result<Bytes> {
    let mut content = std::pin::pin!(content);
    content.next().await.transpose().map_err(error::engine).map(Option::unwrap_or_default)
}

/// A body that knows how much of it is left.
struct Sized<S> {
    inner: Pin<Box<S>>,
    left: u64,
}

impl<S: Stream<Item = Result<Bytes, EngineError>>> Stream for Sized<S> {
    type Item = Result<Bytes, Box<dyn std::error::Error + Send + Sync>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.as_mut().poll_next(context).map(|next| {
            next.map(|piece| match piece {
                Ok(piece) => {
                    self.left = self.left.saturating_sub(piece.len() as u64);
                    Ok(piece)
                }
                Err(error) => {
                    tracing::error!(%error, "a download ended early");
                    Err(error.into())
                }
            })
        })
    }
}

impl<S: Stream<Item = Result<Bytes, EngineError>>> ByteStream for Sized<S> {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(self.left as usize)
    }
}

pub async fn head_object(
    door: &S3Door,
    request: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let scene = scene(&request)?;
    let input = request.input;
    let object = scene.found(input.version_id.is_some())?;
    let version = &object.version;
    let encryption = Encryption::of_read(door, &scene, &request.headers, &object.extra).await?;
    read_conditions!(input).check(&version.etag, version.modified_ms)?;
    let (range, partial) = wanted(version, input.range.as_ref(), input.part_number)?;
    let mut output = HeadObjectOutput::default();
    describe!(output, object, scene.bucket()?.config.versioning, range, partial, input);
    set_encryption!(output, &encryption);
    output.expiration = expiration_of(scene.bucket()?, &input.key, object);
    let mut response = S3Response::new(output);
    if !object.extra.tags.is_empty() {
        // s3s knows it of GET only.
        response.headers.insert("x-amz-tagging-count", HeaderValue::from(object.extra.tags.len()));
    }
    if let Some(Ok(source)) = replication::source_of(&object.extra).map(HeaderValue::from_str) {
        response.headers.insert(replication::SOURCE_HEADER, source);
    }
    if partial && version.bytes > 0 {
        response.extensions.insert(crate::http::Status(hyper::StatusCode::PARTIAL_CONTENT));
    }
    Ok(response)
}
