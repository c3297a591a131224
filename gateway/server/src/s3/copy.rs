//! Copies on the server. A whole object's copy names the same segments: no byte moves.

use super::{
    S3Door,
    attributes::{attribute_fields, attributes, checksum_type, etag, set_checksum, timestamp},
    conditions::{ReadConditions, write_condition},
    digest::Expected,
    error,
    multipart::{parse_upload_id, part_number, put_part},
    objects::{check_key, current},
};
use crate::{engine::EngineError, upload::Incoming};
use futures::StreamExt;
use holdfast_core::limits::PUT_BYTES_MAX;
use holdfast_meta_raft_machine::{
    ask::{InlineBytes, UploadOf},
    command::{Command, Condition, NewContent, NewObject, Rejection},
    records::{Bucket, Content, Version},
};
use hyper::HeaderMap;
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopyPartResult, CopySource, ETag, ETagCondition,
        MetadataDirective, UploadPartCopyInput, UploadPartCopyOutput,
    },
    s3_error,
};
use std::ops::Range;

/// Times that a source is resolved again which was replaced meanwhile.
const RETRIES: usize = 8;

async fn source<'a>(door: &S3Door, copied: &'a CopySource) -> S3Result<(Bucket, &'a str)> {
    match copied {
        CopySource::Bucket { bucket, key, version_id } => {
            if version_id.as_deref().is_some_and(|version| version != "null") {
                return Err(s3_error!(NoSuchVersion, "The specified version does not exist."));
            }
            Ok((door.bucket(bucket).await?, key))
        }
        CopySource::AccessPoint { .. } | CopySource::Outpost { .. } => {
            Err(s3_error!(NotImplemented, "Copies from access points are not implemented"))
        }
    }
}

/// `If-Match` and `If-None-Match` of the destination, which s3s does not read for copies.
fn destination_condition(headers: &HeaderMap) -> S3Result<Condition> {
    let read = |name: &str| -> S3Result<Option<ETagCondition>> {
        let Some(value) = headers.get(name) else { return Ok(None) };
        if value.as_bytes() == b"*" {
            return Ok(Some(ETagCondition::Any));
        }
        let etag = ETag::parse_http_header(value.as_bytes());
        let etag = etag.map_err(|_| s3_error!(InvalidArgument, "An ETag in a condition is malformed"))?;
        Ok(Some(ETagCondition::ETag(etag)))
    };
    write_condition(read("if-match")?.as_ref(), read("if-none-match")?.as_ref())
}

/// The conditions on a copy's source, which two inputs share.
macro_rules! source_conditions {
    ($input:expr) => {
        ReadConditions {
            if_match: $input.copy_source_if_match.as_ref(),
            if_none_match: $input.copy_source_if_none_match.as_ref(),
            if_modified_since: $input.copy_source_if_modified_since.as_ref(),
            if_unmodified_since: $input.copy_source_if_unmodified_since.as_ref(),
        }
    };
}

pub async fn copy_object(
    door: &S3Door,
    request: S3Request<CopyObjectInput>,
) -> S3Result<S3Response<CopyObjectOutput>> {
    let S3Request { mut input, headers, .. } = request;
    let target = door.bucket(&input.bucket).await?;
    check_key(&input.key)?;
    let (from, from_key) = source(door, &input.copy_source).await?;
    let condition = destination_condition(&headers)?;
    let replace = input.metadata_directive.as_ref().is_some_and(|d| d.as_str() == MetadataDirective::REPLACE);
    if !replace && from.id == target.id && from_key == input.key && condition == Condition::Always {
        return Err(s3_error!(
            InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes."
        ));
    }
    let replaced = attributes(attribute_fields!(input))?;
    let key = input.key.clone().into_bytes();
    for _ in 0..RETRIES {
        let version = current(door, &from, from_key).await?;
        source_conditions!(input).check_source(&version.etag, version.modified_ms)?;
        if version.bytes > PUT_BYTES_MAX {
            return Err(s3_error!(
                InvalidRequest,
                "The specified copy source is larger than the maximum allowable size for a copy source: 5368709120"
            ));
        }
        let Some(content) = content_of(door, &from, &version).await? else { continue };
        let object = NewObject {
            bytes: version.bytes,
            etag: version.etag,
            content,
            attributes: if replace { replaced.clone() } else { version.attributes.clone() },
            checksum: version.checksum.clone(),
            parts: version.parts.clone(),
        };
        let command = Command::PutObject { bucket: target.id, key: key.clone(), condition, object };
        match door.engine.run(command).await {
            // The source was replaced, and its segments released: what is there now is copied.
            Err(EngineError::Rejected(Rejection::SegmentGone)) => {}
            Err(failed) => return Err(error::engine(failed)),
            Ok(_) => return Ok(S3Response::new(copied(&version))),
        }
    }
    Err(s3_error!(SlowDown, "The source is being replaced too quickly"))
}

fn copied(version: &Version) -> CopyObjectOutput {
    let mut result = CopyObjectResult {
        e_tag: Some(etag(&version.etag)),
        last_modified: Some(timestamp(crate::clock::unix_ms())),
        ..Default::default()
    };
    set_checksum!(result, &version.checksum);
    result.checksum_type = version.checksum.as_ref().map(|sum| checksum_type(sum.composite_parts.is_some()));
    CopyObjectOutput { copy_object_result: Some(result), ..Default::default() }
}

/// A version's content as a new version may name it; `None` where it was replaced meanwhile.
async fn content_of(door: &S3Door, bucket: &Bucket, version: &Version) -> S3Result<Option<NewContent>> {
    match &version.content {
        Content::Inline => {
            let bytes =
                door.ask(InlineBytes { bucket: bucket.id, node: version.node, version: version.id }).await?;
            Ok(bytes.map(NewContent::Inline))
        }
        Content::Segments(segments) => Ok(Some(NewContent::Segments(segments.clone()))),
    }
}

/// `bytes=first-last`, both of them given.
fn copy_range(text: &str, bytes: u64) -> S3Result<Range<u64>> {
    let invalid = || {
        s3_error!(
            InvalidArgument,
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy"
        )
    };
    let (first, last) =
        text.strip_prefix("bytes=").and_then(|range| range.split_once('-')).ok_or_else(invalid)?;
    let first: u64 = first.parse().map_err(|_| invalid())?;
    let last: u64 = last.parse().map_err(|_| invalid())?;
    if first > last {
        return Err(invalid());
    }
    if last >= bytes {
        return Err(s3_error!(
            InvalidRange,
            "Range specified is not valid for source object of size: {bytes}"
        ));
    }
    Ok(first..last + 1)
}

pub async fn upload_part_copy(
    door: &S3Door,
    request: S3Request<UploadPartCopyInput>,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let input = request.input;
    let bucket = door.bucket(&input.bucket).await?;
    let upload_id = parse_upload_id(&input.upload_id)?;
    part_number(input.part_number)?;
    let upload =
        door.ask(UploadOf { bucket: bucket.id, key: input.key.as_bytes().to_vec(), id: upload_id }).await?;
    let upload = upload.ok_or_else(|| error::rejection(&Rejection::NoSuchUpload))?;
    let (from, from_key) = source(door, &input.copy_source).await?;
    let version = current(door, &from, from_key).await?;
    source_conditions!(input).check_source(&version.etag, version.modified_ms)?;
    let range = match &input.copy_source_range {
        Some(text) => copy_range(text, version.bytes)?,
        None => 0..version.bytes,
    };
    let length = range.end - range.start;
    if length > PUT_BYTES_MAX {
        return Err(s3_error!(
            InvalidRequest,
            "The specified copy source is larger than the maximum allowable size for a copy source: 5368709120"
        ));
    }
    // A range's chunks are found again by their content: nothing but its two ends is stored anew.
    let content = door.engine.content(from.id, &version, range).await.map_err(error::engine)?;
    let body = Box::pin(content.map(|piece| piece.map_err(|error: EngineError| Box::new(error).into())));
    let expected = Expected::new(&HeaderMap::new(), None, None, upload.checksum.map(|(sum, _)| sum), None)?;
    let mut digest = expected.digest(&door.engine, Some(length));
    let incoming = Incoming { body, length: Some(length), limit: PUT_BYTES_MAX, digest: &mut digest };
    let ingested = door.engine.ingest(incoming, false).await.map_err(error::engine)?;
    let (md5, checksum) = expected.verify(digest).await?;
    put_part(
        door,
        &bucket,
        input.key.as_bytes(),
        upload_id,
        input.part_number,
        ingested,
        md5,
        checksum.clone(),
    )
    .await?;
    let mut result = CopyPartResult {
        e_tag: Some(ETag::Strong(hex::encode(md5))),
        last_modified: Some(timestamp(crate::clock::unix_ms())),
        ..Default::default()
    };
    set_checksum!(result, &checksum);
    Ok(S3Response::new(UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() }))
}
