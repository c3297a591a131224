//! Objects: put, get, head, delete.

use super::{
    S3Door,
    attributes::{
        attribute_fields, attributes, checksum_type, etag, expires, given_checksum, metadata, set_checksum,
        timestamp,
    },
    conditions::{ReadConditions, if_range, write_condition},
    digest::{self, Expected},
    error,
};
use crate::{engine::EngineError, upload::Incoming};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use holdfast_core::limits::{KEY_BYTES_MAX, LIST_KEYS_MAX, PUT_BYTES_MAX};
use holdfast_meta_raft_machine::{
    ask::CurrentVersion,
    command::{Command, Condition, NewObject, Rejection, Request},
    records::{Bucket, ChecksumAlgorithm, Content, Etag, Version},
};
use hyper::{HeaderMap, Uri};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        self, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject,
        GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, PutObjectInput, PutObjectOutput,
        StreamingBlob,
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
    let S3Request { mut input, headers, trailing_headers, uri, .. } = request;
    let bucket = door.bucket(&input.bucket).await?;
    check_key(&input.key)?;
    refuse_unknown(&uri, &headers)?;
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
    };
    let ingested = door.engine.ingest(incoming, true).await.map_err(error::engine)?;
    check_length(length, ingested.bytes)?;
    door.engine.metrics().body_bytes_in.inc_by(ingested.bytes);
    let (md5, checksum) = expected.verify(digest).await?;
    let (etag_of, key, bytes) = (Etag::Md5(md5), input.key.into_bytes(), ingested.bytes);
    let command = |content| Command::PutObject {
        bucket: bucket.id,
        key: key.clone(),
        condition,
        object: NewObject {
            bytes,
            etag: etag_of,
            content,
            attributes: attributes.clone(),
            checksum: checksum.clone(),
            parts: Vec::new(),
        },
    };
    door.engine.commit(ingested, command).await.map_err(error::engine)?;
    let mut output = PutObjectOutput { e_tag: Some(etag(&etag_of)), ..Default::default() };
    output.checksum_type = checksum.as_ref().map(|_| checksum_type(false));
    set_checksum!(output, &checksum);
    Ok(S3Response::new(output))
}

/// Headers that demand what this version cannot do. To ignore them would be to promise it.
const UNKNOWN_HEADERS: [&str; 4] =
    ["x-amz-object-lock", "x-amz-server-side-encryption", "x-amz-write-offset-bytes", "x-amz-tagging"];

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

/// The current version of a key.
///
/// # Errors
/// 404.
pub async fn current(door: &S3Door, bucket: &Bucket, key: &str) -> S3Result<Version> {
    let version = door.ask(CurrentVersion { bucket: bucket.id, key: key.as_bytes().to_vec() }).await?;
    version.ok_or_else(|| s3_error!(NoSuchKey, "The specified key does not exist."))
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
    ($output:expr, $version:expr, $range:expr, $partial:expr, $input:expr) => {{
        let (version, range) = (&$version, &$range);
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
        let enabled = $input.checksum_mode.as_ref().is_some_and(|mode| mode.as_str() == "ENABLED");
        if enabled && !$partial {
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
    let input = request.input;
    let bucket = door.bucket(&input.bucket).await?;
    refuse_version(input.version_id.as_deref())?;
    // An object that is replaced between being resolved and being opened is resolved again.
    for _ in 0..8 {
        let version = current(door, &bucket, &input.key).await?;
        read_conditions!(input).check(&version.etag, version.modified_ms)?;
        let range = input.range.as_ref().filter(|_| if_range(&request.headers, &version));
        let (range, partial) = wanted(&version, range, input.part_number)?;
        let content = match door.engine.content(bucket.id, &version, range.clone()).await {
            Err(EngineError::Gone) => continue,
            other => other.map_err(error::engine)?,
        };
        let mut output = GetObjectOutput::default();
        describe!(output, version, range, partial, input);
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
    let input = request.input;
    let bucket = door.bucket(&input.bucket).await?;
    refuse_version(input.version_id.as_deref())?;
    let version = current(door, &bucket, &input.key).await?;
    read_conditions!(input).check(&version.etag, version.modified_ms)?;
    let (range, partial) = wanted(&version, input.range.as_ref(), input.part_number)?;
    let mut output = HeadObjectOutput::default();
    describe!(output, version, range, partial, input);
    let mut response = S3Response::new(output);
    if partial && version.bytes > 0 {
        response.extensions.insert(crate::http::Status(hyper::StatusCode::PARTIAL_CONTENT));
    }
    Ok(response)
}

/// Only the null version exists in a bucket without versioning.
fn refuse_version(version: Option<&str>) -> S3Result<()> {
    match version {
        None | Some("null") => Ok(()),
        Some(_) => Err(s3_error!(NoSuchVersion, "The specified version does not exist.")),
    }
}

pub async fn delete_object(
    door: &S3Door,
    request: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    refuse_unknown(&request.uri, &request.headers)?;
    let input = request.input;
    let bucket = door.bucket(&input.bucket).await?;
    check_key(&input.key)?;
    refuse_version(input.version_id.as_deref())?;
    let condition = write_condition(input.if_match.as_ref(), None)?;
    let command = Command::DeleteObject { bucket: bucket.id, key: input.key.into_bytes(), condition };
    door.run(command).await?;
    Ok(S3Response::new(DeleteObjectOutput::default()))
}

pub async fn delete_objects(
    door: &S3Door,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    digest::verify_body(&request)?;
    let input = request.input;
    let bucket = door.bucket(&input.bucket).await?;
    let (objects, quiet) = (input.delete.objects, input.delete.quiet == Some(true));
    if objects.is_empty() || objects.len() > LIST_KEYS_MAX {
        return Err(s3_error!(
            MalformedXML,
            "The XML you provided was not well-formed or did not validate against our published schema"
        ));
    }
    let mut requests = Vec::with_capacity(objects.len());
    let known = |object: &dto::ObjectIdentifier| refuse_version(object.version_id.as_deref()).is_ok();
    let (objects, strangers): (Vec<_>, Vec<_>) = objects.into_iter().partition(known);
    for object in &objects {
        let condition = match &object.e_tag {
            Some(etag) => write_condition(Some(&dto::ETagCondition::ETag(etag.clone())), None)?,
            None => Condition::Always,
        };
        let command =
            Command::DeleteObject { bucket: bucket.id, key: object.key.clone().into_bytes(), condition };
        let id = door.engine.new_request_id().await.map_err(error::engine)?;
        requests.push(Request { id: Some(id), command });
    }
    let outcomes = door.engine.meta().submit(requests).await.map_err(|e| error::engine(e.into()))?;
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    errors.extend(strangers.into_iter().map(|object| dto::Error {
        code: Some("NoSuchVersion".to_owned()),
        key: Some(object.key),
        message: Some("The specified version does not exist.".to_owned()),
        version_id: object.version_id,
    }));
    for (object, outcome) in objects.into_iter().zip(outcomes) {
        match outcome.accepted() {
            // A key that cannot exist is as absent as any other.
            Err(rejection) if !matches!(rejection, Rejection::BadKey) => {
                let error = error::rejection(&rejection);
                errors.push(dto::Error {
                    code: Some(error.code().as_str().to_owned()),
                    key: Some(object.key),
                    message: error.message().map(str::to_owned),
                    version_id: object.version_id,
                });
            }
            Ok(_) | Err(_) if quiet => {}
            Ok(_) | Err(_) => deleted.push(DeletedObject { key: Some(object.key), ..Default::default() }),
        }
    }
    let output = DeleteObjectsOutput {
        deleted: Some(deleted),
        errors: (!errors.is_empty()).then_some(errors),
        ..Default::default()
    };
    Ok(S3Response::new(output))
}
