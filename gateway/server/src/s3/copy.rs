//! Copies on the server. A whole object's copy names the same segments: no byte moves.

use super::{
    S3Door,
    access::{Scene, scene},
    attributes::{attribute_fields, attributes, checksum_type, etag, set_checksum, timestamp},
    classes::{self, class_of},
    conditions::{ReadConditions, write_condition},
    digest::Expected,
    encryption::{Encryption, set_encryption},
    error,
    extras::extra_of,
    multipart::{find, part_number, put_part},
    notification::MADE,
    objects::{check_key, put_command, refuse_unknown},
    replication,
    settings::BucketView,
    versions::{parse_version, shown_version, written_version},
};
use crate::{engine::EngineError, upload::Incoming};
use futures::StreamExt;
use holdfast_core::limits::PUT_BYTES_MAX;
use holdfast_meta_raft_machine::{
    ask::{InlineBytes, LookedUp, Object},
    command::{Condition, NewContent, NewObject, Rejection},
    records::{Bucket, Content, Version, VersionName},
};
use hyper::HeaderMap;
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopyPartResult, CopySource, ETag, ETagCondition,
        MetadataDirective, TaggingDirective, UploadPartCopyInput, UploadPartCopyOutput,
    },
    s3_error,
};
use std::{ops::Range, sync::Arc};

/// Times that a source is resolved again which was replaced meanwhile.
const RETRIES: usize = 8;

/// A copy's source, which the caller may read.
struct Source {
    bucket: Arc<BucketView>,
    key: String,
    name: Option<VersionName>,
    /// The caller's view of it.
    scene: Scene,
}

impl Source {
    /// The object as it is now.
    ///
    /// # Errors
    /// Where it is not there, or not for the caller.
    async fn find(door: &S3Door, scene: &Scene, copied: &CopySource) -> S3Result<(Self, Object)> {
        let CopySource::Bucket { bucket, key, version_id } = copied else {
            return Err(s3_error!(NotImplemented, "Copies from access points are not implemented"));
        };
        let name = version_id.as_deref().map(parse_version).transpose()?;
        let (view, object) = door.look(bucket, Some((key.as_bytes().to_vec(), name))).await?;
        let view = view.ok_or_else(|| s3_error!(NoSuchBucket, "The specified bucket does not exist"))?;
        let of_source = scene.about(view.clone(), object);
        of_source.may_read(key, name.is_some())?;
        let found = match of_source.found(name.is_some()) {
            Ok(found) => found.clone(),
            // A marker that is named is no source.
            Err(error) if error.code().as_str() == "MethodNotAllowed" => {
                return Err(s3_error!(
                    InvalidRequest,
                    "The source of a copy request may not specifically refer to a delete marker by version id."
                ));
            }
            Err(error) => return Err(error),
        };
        door.check_owner(scene.headers(), "x-amz-source-expected-bucket-owner", &view)?;
        Ok((Self { bucket: view, key: key.to_string(), name, scene: of_source }, found))
    }

    /// # Errors
    /// Where the caller may not read the source's tags, or not write them.
    fn check_tags(&self, scene: &Scene, object: &Object, target: &str) -> S3Result<()> {
        let tags = &object.extra.tags;
        if tags.is_empty() {
            return Ok(());
        }
        let read = if self.name.is_some() { "s3:GetObjectVersionTagging" } else { "s3:GetObjectTagging" };
        let of_source = scene.about(self.bucket.clone(), LookedUp::NotAsked);
        let may = of_source.may_tag(read, &self.key, Some(&object.extra), tags)
            && scene.may_tag("s3:PutObjectTagging", target, None, tags);
        if may { Ok(()) } else { Err(s3_error!(AccessDenied, "Access Denied")) }
    }

    fn shown_version(&self, object: &Object) -> Option<String> {
        shown_version(self.bucket.config.versioning, object)
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
    let scene = scene(&request)?;
    let target = scene.bucket()?;
    let S3Request { mut input, headers, uri, .. } = request;
    check_key(&input.key)?;
    refuse_unknown(&uri, &headers)?;
    let condition = destination_condition(&headers)?;
    let replace = directive(input.metadata_directive.as_ref().map(MetadataDirective::as_str))?;
    let replace_tags = directive(input.tagging_directive.as_ref().map(TaggingDirective::as_str))?;
    if !replace_tags && headers.contains_key("x-amz-tagging") {
        // What a policy allows by these tags must not be done with others.
        return Err(s3_error!(InvalidArgument, "x-amz-tagging needs the tagging directive REPLACE"));
    }
    let replaced = attributes(attribute_fields!(input))?;
    let mut wanted = extra_of(door, &scene, &headers, target, &input.key)?;
    classes::note_of(door, target, &wanted).await?;
    if target.notifies {
        wanted.documents.insert(MADE.to_owned(), "Copy".to_owned());
    }
    let encryption = Encryption::of_write(door, &scene, &headers, target).await?;
    encryption.iter().try_for_each(|encryption| encryption.keep(&mut wanted))?;
    let key = input.key.clone().into_bytes();
    for _ in 0..RETRIES {
        let (source, object) = Source::find(door, &scene, &input.copy_source).await?;
        let version = &object.version;
        let itself =
            source.bucket.bucket.id == target.bucket.id && source.key == input.key && source.name.is_none();
        let changes = replace || CHANGING.iter().any(|name| headers.contains_key(*name));
        if itself && !changes && condition == Condition::Always {
            return Err(s3_error!(
                InvalidRequest,
                "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes."
            ));
        }
        source_conditions!(input).check_source(&version.etag, version.modified_ms)?;
        if version.bytes > PUT_BYTES_MAX {
            return Err(s3_error!(
                InvalidRequest,
                "The specified copy source is larger than the maximum allowable size for a copy source: 5368709120"
            ));
        }
        let opening = Encryption::of_source(door, &source.scene, &headers, &object.extra).await?;
        let new = |content| NewObject {
            bytes: version.bytes,
            etag: version.etag,
            content,
            attributes: if replace { replaced.clone() } else { version.attributes.clone() },
            checksum: version.checksum.clone(),
            parts: version.parts.clone(),
        };
        let mut extra = wanted.clone();
        if !replace_tags {
            extra.tags.clone_from(&object.extra.tags);
            source.check_tags(&scene, &object, &input.key)?;
        }
        replication::mark(&scene, &headers, target, &input.key, encryption.as_ref(), &mut extra)?;
        let command =
            |content| put_command(target.bucket.id, key.clone(), condition, new(content), extra.clone());
        let pool = door.engine.pool_for(class_of(&extra));
        let stays = match door.engine.is_in(&version.content, pool).await {
            Err(EngineError::Gone) => continue,
            stays => stays.map_err(error::engine)?,
        };
        let done = if stays && Encryption::same_domain(opening.as_ref(), encryption.as_ref()) {
            let Some(content) = content_of(door, &source.bucket.bucket, version).await? else { continue };
            door.engine.run(command(content)).await
        } else {
            let (from, bucket) = (opening.map(|opening| opening.seal), source.bucket.bucket.id);
            let to = encryption.as_ref().map(|encryption| &encryption.seal);
            match door.engine.rewritten(bucket, version, from, to, pool).await {
                Ok(ingested) => door.engine.commit(ingested, command).await,
                Err(failed) => Err(failed),
            }
        };
        match done {
            // The source was replaced, and its segments released: what is there now is copied.
            Err(EngineError::Rejected(Rejection::SegmentGone) | EngineError::Gone) => {}
            Err(failed) => return Err(error::engine(failed)),
            Ok(outcome) => {
                let mut output = copied(version);
                set_encryption!(output, &encryption);
                output.copy_source_version_id = source.shown_version(&object);
                output.version_id = written_version(target.config.versioning, &outcome);
                return Ok(S3Response::new(output));
            }
        }
    }
    Err(s3_error!(SlowDown, "The source is being replaced too quickly"))
}

/// Headers that make a copy onto itself a change.
const CHANGING: [&str; 4] = [
    "x-amz-storage-class",
    "x-amz-website-redirect-location",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-customer-algorithm",
];

/// Whether something is replaced, and not copied.
fn directive(text: Option<&str>) -> S3Result<bool> {
    match text {
        None | Some("COPY") => Ok(false),
        Some("REPLACE") => Ok(true),
        Some(_) => Err(s3_error!(InvalidArgument, "Unknown directive.")),
    }
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
    let scene = scene(&request)?;
    let bucket = &scene.bucket()?.bucket;
    let input = request.input;
    part_number(input.part_number)?;
    let (upload_id, upload, extra) = find(door, bucket, &input.key, &input.upload_id).await?;
    let encryption = Encryption::of_part(door, &scene, scene.headers(), &extra).await?;
    let (source, object) = Source::find(door, &scene, &input.copy_source).await?;
    let opening = Encryption::of_source(door, &source.scene, scene.headers(), &object.extra).await?;
    let version = &object.version;
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
    let content =
        door.engine.content(source.bucket.bucket.id, version, range, opening.map(|opening| opening.seal));
    let content = content.await.map_err(error::engine)?;
    let body = Box::pin(content.map(|piece| piece.map_err(|error: EngineError| Box::new(error).into())));
    let expected = Expected::new(&HeaderMap::new(), None, None, upload.checksum.map(|(sum, _)| sum), None)?;
    let mut digest = expected.digest(&door.engine, Some(length));
    let seal = encryption.as_ref().map(|encryption| &encryption.seal);
    let incoming = Incoming {
        body,
        length: Some(length),
        limit: PUT_BYTES_MAX,
        digest: &mut digest,
        seal,
        pool: door.engine.pool_for(class_of(&extra)),
    };
    let ingested = door.engine.ingest(incoming, false).await.map_err(error::engine)?;
    let (md5, checksum) = expected.verify(digest).await?;
    put_part(
        door,
        bucket,
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
    let mut output = UploadPartCopyOutput {
        copy_part_result: Some(result),
        copy_source_version_id: source.shown_version(&object),
        ..Default::default()
    };
    set_encryption!(output, &encryption);
    Ok(S3Response::new(output))
}
