//! Multipart uploads.

use super::{
    S3Door,
    access::scene,
    attributes::{
        algorithm_name, attribute_fields, attributes, checksum_type, etag, given_checksum, parse_algorithm,
        parse_etag, set_checksum, timestamp,
    },
    classes,
    conditions::write_condition,
    digest::Expected,
    documents::malformed,
    encryption::{self, Encryption, set_encryption},
    error,
    extras::extra_of,
    listing::{Encoding, page_size},
    objects::{check_key, check_length, declared_length, empty_body, refuse_unknown},
    replication,
    settings::BucketView,
    versions::{shown_version, written_version},
};
use crate::{
    digest::Sum,
    engine::new_upload_id,
    upload::{Incoming, Ingested},
};
use holdfast_core::{
    ids::UploadId,
    limits::{PARTS_MAX, PUT_BYTES_MAX},
};
use holdfast_gateway_md5::Md5;
use holdfast_meta_raft_machine::{
    ask::{LookedUp, OwnedUploadsAfter, PartsOf, UploadOf, UploadWith, UploadsAfter},
    command::{Command, NamedPart, NewContent, Rejection},
    records::{Bucket, Checksum, ChecksumAlgorithm, Etag, Extra, Part, Upload},
};
use holdfast_meta_raft_server::MetaError;
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        self, AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
        CompleteMultipartUploadOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput, ETag,
        Initiator, ListMultipartUploadsInput, ListMultipartUploadsOutput, ListPartsInput, ListPartsOutput,
        MultipartUpload, StorageClass, UploadPartInput, UploadPartOutput,
    },
    s3_error,
};
use std::collections::BTreeMap;

/// # Errors
/// Where it is no id of ours, and so no upload's.
pub fn parse_upload_id(text: &str) -> S3Result<UploadId> {
    UploadId::from_hex(text).ok_or_else(|| error::rejection(&Rejection::NoSuchUpload))
}

/// An upload in progress, with what its version will have.
///
/// # Errors
/// Where there is none.
pub async fn find(
    door: &S3Door,
    bucket: &Bucket,
    key: &str,
    id: &str,
) -> S3Result<(UploadId, Upload, Extra)> {
    let id = parse_upload_id(id)?;
    let key = key.as_bytes().to_vec();
    let found = match door.engine.meta().ask(UploadWith { bucket: bucket.id, key: key.clone(), id }).await {
        // A member of a version before, where nothing is encrypted and all is the system's owner's. What is refused for
        // another reason must not become a plain part of an encrypted upload.
        Err(MetaError::Refused(_)) if door.is_before(5).await? => {
            let upload = door.ask(UploadOf { bucket: bucket.id, key, id }).await?;
            upload.map(|upload| (upload, Extra::default()))
        }
        other => other.map_err(|failed| error::engine(failed.into()))?,
    };
    let found = found.map(|(upload, extra)| (id, upload, extra));
    found.ok_or_else(|| error::rejection(&Rejection::NoSuchUpload))
}

/// The checksum that an upload is asked for, and whether the object's is one of its parts'.
fn checksum_of(input: &CreateMultipartUploadInput) -> S3Result<Option<(ChecksumAlgorithm, bool)>> {
    let Some(algorithm) = &input.checksum_algorithm else { return Ok(None) };
    let algorithm = parse_algorithm(algorithm.as_str())?;
    let full = input.checksum_type.as_ref().map(|kind| kind.as_str() == dto::ChecksumType::FULL_OBJECT);
    let composite = match (algorithm, full) {
        (ChecksumAlgorithm::Crc64Nvme, Some(false))
        | (ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256, Some(true)) => {
            return Err(s3_error!(
                InvalidRequest,
                "The checksum type is not supported with the checksum algorithm"
            ));
        }
        (ChecksumAlgorithm::Crc64Nvme, _) => false,
        (_, full) => full != Some(true),
    };
    Ok(Some((algorithm, composite)))
}

pub async fn create_multipart_upload(
    door: &S3Door,
    request: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    refuse_unknown(&request.uri, &request.headers)?;
    let scene = scene(&request)?;
    let bucket = scene.bucket()?;
    let mut input = request.input;
    check_key(&input.key)?;
    let mut extra = extra_of(door, &scene, &request.headers, bucket, &input.key)?;
    classes::note_of(door, bucket, &extra).await?;
    let encryption = Encryption::of_write(door, &scene, &request.headers, bucket).await?;
    encryption.iter().try_for_each(|encryption| encryption.keep(&mut extra))?;
    replication::mark(&scene, &request.headers, bucket, &input.key, encryption.as_ref(), &mut extra)?;
    let checksum = checksum_of(&input)?;
    let attributes = attributes(attribute_fields!(input))?;
    let id = new_upload_id();
    let key = input.key.clone().into_bytes();
    let bucket = bucket.bucket.id;
    // What earlier versions know is said as they understand it.
    door.run(match extra == Extra::default() {
        true => Command::CreateUpload { bucket, key, id, attributes, checksum },
        false => Command::StartUpload { bucket, key, id, attributes, checksum, extra },
    })
    .await?;
    let mut output = CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(id.to_string()),
        checksum_algorithm: checksum.map(|(algorithm, _)| algorithm_name(algorithm)),
        checksum_type: checksum.map(|(_, composite)| checksum_type(composite)),
        ..Default::default()
    };
    set_encryption!(output, &encryption);
    Ok(S3Response::new(output))
}

/// # Errors
/// Where it is none of S3's.
pub fn part_number(number: i32) -> S3Result<u16> {
    u16::try_from(number).ok().filter(|number| (1..=PARTS_MAX).contains(number)).ok_or_else(|| {
        s3_error!(InvalidArgument, "Part number must be an integer between 1 and {PARTS_MAX}, inclusive")
    })
}

pub async fn upload_part(
    door: &S3Door,
    request: S3Request<UploadPartInput>,
) -> S3Result<S3Response<UploadPartOutput>> {
    let scene = scene(&request)?;
    let bucket = &scene.bucket()?.bucket;
    let S3Request { mut input, headers, trailing_headers, .. } = request;
    part_number(input.part_number)?;
    let (id, upload, extra) = find(door, bucket, &input.key, &input.upload_id).await?;
    let encryption = Encryption::of_part(door, &scene, &headers, &extra).await?;
    let given = given_checksum!(input);
    let default = upload.checksum.map(|(algorithm, _)| algorithm);
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
    let ingested = door.engine.ingest(incoming, false).await.map_err(error::engine)?;
    check_length(length, ingested.bytes)?;
    door.engine.metrics().body_bytes_in.inc_by(ingested.bytes);
    let (md5, checksum) = expected.verify(digest).await?;
    put_part(door, bucket, input.key.as_bytes(), id, input.part_number, ingested, md5, checksum.clone())
        .await?;
    let mut output = UploadPartOutput { e_tag: Some(ETag::Strong(hex::encode(md5))), ..Default::default() };
    set_encryption!(output, &encryption);
    set_checksum!(output, &checksum);
    Ok(S3Response::new(output))
}

/// Commits a part.
#[expect(clippy::too_many_arguments, reason = "the part's own fields")]
pub async fn put_part(
    door: &S3Door,
    bucket: &Bucket,
    key: &[u8],
    id: UploadId,
    number: i32,
    ingested: Ingested,
    md5: [u8; 16],
    checksum: Option<Checksum>,
) -> S3Result<()> {
    let number = part_number(number)?;
    let bytes = ingested.bytes;
    let command = |content| Command::PutPart {
        bucket: bucket.id,
        key: key.to_vec(),
        id,
        number,
        bytes,
        md5,
        checksum: checksum.clone(),
        segments: match content {
            NewContent::Segments(segments) => segments,
            NewContent::Inline(_) => Vec::new(),
        },
    };
    door.engine.commit(ingested, command).await.map_err(error::engine)?;
    Ok(())
}

pub async fn list_parts(
    door: &S3Door,
    request: S3Request<ListPartsInput>,
) -> S3Result<S3Response<ListPartsOutput>> {
    let scene = scene(&request)?;
    let bucket = &scene.bucket()?.bucket;
    let input = request.input;
    let (id, upload, Extra { owner, .. }) = find(door, bucket, &input.key, &input.upload_id).await?;
    let max = page_size(input.max_parts)?;
    let after = input.part_number_marker.unwrap_or(0);
    let parts = door.ask(PartsOf { id }).await?;
    let mut wanted = parts.into_iter().filter(|(number, _)| i32::from(*number) > after).peekable();
    let page: Vec<(u16, Part)> = wanted.by_ref().take(max).collect();
    let truncated = wanted.peek().is_some();
    let part = |(number, part): &(u16, Part)| {
        let mut output = dto::Part {
            e_tag: Some(ETag::Strong(hex::encode(part.md5))),
            last_modified: Some(timestamp(part.modified_ms)),
            part_number: Some(i32::from(*number)),
            size: Some(part.bytes as i64),
            ..Default::default()
        };
        set_checksum!(output, &part.checksum);
        output
    };
    Ok(S3Response::new(ListPartsOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        checksum_algorithm: upload.checksum.map(|(algorithm, _)| algorithm_name(algorithm)),
        checksum_type: upload.checksum.map(|(_, composite)| checksum_type(composite)),
        is_truncated: Some(truncated),
        max_parts: Some(max as i32),
        part_number_marker: Some(after),
        next_part_number_marker: page.last().map(|(number, _)| i32::from(*number)),
        parts: Some(page.iter().map(part).collect()),
        initiator: Some(initiator(door, &owner)),
        owner: Some(door.shown_owner(&owner)),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        ..Default::default()
    }))
}

/// An upload, and whose its object will be.
type Owned = (Vec<u8>, UploadId, Upload, String);

async fn uploads_page(
    door: &S3Door,
    bucket: &Bucket,
    after: Option<(Vec<u8>, UploadId)>,
) -> S3Result<Vec<Owned>> {
    let question = OwnedUploadsAfter { bucket: bucket.id, after: after.clone(), limit: 1000 };
    match door.engine.meta().ask(question).await {
        // A member of the version before, where all are the system's owner's.
        Err(MetaError::Refused(_)) => {
            let plain = |(key, id, upload)| (key, id, upload, String::new());
            let page = door.ask(UploadsAfter { bucket: bucket.id, after, limit: 1000 }).await?;
            Ok(page.into_iter().map(plain).collect())
        }
        other => other.map_err(|failed| error::engine(failed.into())),
    }
}

fn initiator(door: &S3Door, canonical: &str) -> Initiator {
    let dto::Owner { display_name, id } = door.shown_owner(canonical);
    Initiator { display_name, id }
}

pub async fn list_multipart_uploads(
    door: &S3Door,
    request: S3Request<ListMultipartUploadsInput>,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let scene = scene(&request)?;
    let bucket = &scene.bucket()?.bucket;
    let input = request.input;
    let encoding = Encoding::new(input.encoding_type.as_ref())?;
    let max = page_size(input.max_uploads)?;
    let prefix = input.prefix.clone().unwrap_or_default().into_bytes();
    let delimiter = input.delimiter.clone().filter(|delimiter| !delimiter.is_empty());
    let key_marker = input.key_marker.clone().unwrap_or_default();
    // Without an upload's id, the whole key has been seen.
    let id_marker =
        input.upload_id_marker.as_deref().and_then(UploadId::from_hex).unwrap_or(UploadId([0xff; 16]));
    let after = (!key_marker.is_empty()).then_some((key_marker.as_bytes(), id_marker));
    let (mut uploads, mut prefixes) = (Vec::new(), Vec::<String>::new());
    let mut cursor: Option<(Vec<u8>, UploadId)> = after.map(|(key, id)| (key.to_vec(), id));
    let mut last: Option<(Vec<u8>, UploadId)> = None;
    let mut truncated = false;
    'pages: loop {
        let page = uploads_page(door, bucket, cursor.take()).await?;
        let Some((key, id, ..)) = page.last() else { break };
        cursor = Some((key.clone(), *id));
        for (key, id, upload, owner) in page.into_iter().filter(|(key, ..)| key.starts_with(&prefix)) {
            let common = delimiter.as_ref().and_then(|delimiter| {
                let rest = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
                let at = rest.find(delimiter.as_str())?;
                Some(String::from_utf8_lossy(&prefix).into_owned() + &rest[..at + delimiter.len()])
            });
            if common.as_ref().is_some_and(|common| prefixes.last() == Some(common) || *common <= key_marker)
            {
                last = Some((key, id));
                continue;
            }
            if uploads.len() + prefixes.len() == max {
                truncated = max > 0;
                break 'pages;
            }
            match common {
                Some(common) => prefixes.push(common),
                None => uploads.push(MultipartUpload {
                    checksum_algorithm: upload.checksum.map(|(algorithm, _)| algorithm_name(algorithm)),
                    checksum_type: upload.checksum.map(|(_, composite)| checksum_type(composite)),
                    initiated: Some(timestamp(upload.created_ms)),
                    key: Some(encoding.bytes(&key)),
                    initiator: Some(initiator(door, &owner)),
                    owner: Some(door.shown_owner(&owner)),
                    storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
                    upload_id: Some(id.to_string()),
                }),
            }
            last = Some((key, id));
        }
    }
    let next = last.filter(|_| truncated);
    let common_prefixes =
        prefixes.iter().map(|prefix| dto::CommonPrefix { prefix: Some(encoding.text(prefix)) });
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        key_marker: Some(encoding.text(&key_marker)),
        upload_id_marker: input.upload_id_marker,
        next_key_marker: next.as_ref().map(|(key, _)| encoding.bytes(key)),
        next_upload_id_marker: next.as_ref().map(|(_, id)| id.to_string()),
        delimiter: encoding.option(delimiter.as_ref()),
        prefix: encoding.option(input.prefix.as_ref()),
        encoding_type: input.encoding_type,
        max_uploads: Some(max as i32),
        is_truncated: Some(truncated),
        common_prefixes: Some(common_prefixes.collect()),
        uploads: Some(uploads),
        ..Default::default()
    }))
}

/// The object's checksum from those of its parts.
fn object_checksum(
    wanted: Option<(ChecksumAlgorithm, bool)>,
    parts: &[(u64, Option<&Checksum>)],
) -> Option<Checksum> {
    let (algorithm, composite) = wanted?;
    let values: Option<Vec<&Vec<u8>>> = parts
        .iter()
        .map(|(_, sum)| sum.filter(|sum| sum.algorithm == algorithm).map(|sum| &sum.value))
        .collect();
    let values = values?;
    if composite {
        let mut sum = Sum::new(algorithm);
        values.iter().for_each(|value| sum.update(value));
        return Some(Checksum { algorithm, value: sum.finish(), composite_parts: Some(parts.len() as u16) });
    }
    let kind = match algorithm {
        ChecksumAlgorithm::Crc32 => crc_fast::CrcAlgorithm::Crc32IsoHdlc,
        ChecksumAlgorithm::Crc32c => crc_fast::CrcAlgorithm::Crc32Iscsi,
        ChecksumAlgorithm::Crc64Nvme => crc_fast::CrcAlgorithm::Crc64Nvme,
        ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => return None,
    };
    let number = |value: &[u8]| value.iter().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
    let mut lengths = parts.iter().map(|(bytes, _)| *bytes);
    let mut sums = values.iter().map(|value| number(value));
    let (_, first) = (lengths.next()?, sums.next()?);
    let whole = lengths
        .zip(sums)
        .fold(first, |whole, (bytes, sum)| crc_fast::checksum_combine(kind, whole, sum, bytes));
    let width = values[0].len();
    Some(Checksum { algorithm, value: whole.to_be_bytes()[8 - width..].to_vec(), composite_parts: None })
}

/// The parts that a client names, with what they say of them.
fn named_parts(input: &CompleteMultipartUploadInput) -> S3Result<Vec<NamedPart>> {
    let parts =
        input.multipart_upload.as_ref().and_then(|upload| upload.parts.as_deref()).unwrap_or_default();
    if parts.is_empty() || parts.len() > usize::from(PARTS_MAX) {
        return Err(malformed());
    }
    parts
        .iter()
        .map(|part| {
            let number = part_number(part.part_number.ok_or_else(malformed)?)?;
            match part.e_tag.as_ref().and_then(|etag| parse_etag(etag.value())) {
                Some(Etag::Md5(md5)) => Ok(NamedPart { number, md5 }),
                _ => Err(error::rejection(&Rejection::InvalidPart(number))),
            }
        })
        .collect()
}

pub async fn complete_multipart_upload(
    door: &S3Door,
    request: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let scene = scene(&request)?;
    let view = scene.bucket()?;
    let bucket = &view.bucket;
    let mut input = request.input;
    if UploadId::from_hex(&input.upload_id).is_none() {
        return Err(error::rejection(&Rejection::NoSuchUpload));
    }
    let named = named_parts(&input)?;
    let condition = write_condition(input.if_match.as_ref(), input.if_none_match.as_ref())?;
    let mut all_md5 = Md5::default();
    named.iter().for_each(|part| all_md5.update(&part.md5));
    let whole = Etag::Multipart { md5: all_md5.finish(), parts: named.len() as u16 };

    let (id, upload, extra) = match find(door, bucket, &input.key, &input.upload_id).await {
        Ok(found) => found,
        Err(missing) => return repeated(door, view, &input, &whole).await.ok_or(missing),
    };
    Encryption::check_completion(door, &scene, &extra, upload.checksum.is_some()).await?;
    let stored: BTreeMap<u16, Part> = door.ask(PartsOf { id }).await?.into_iter().collect();
    let parts: Vec<(u64, Option<&Checksum>)> = named
        .iter()
        .filter_map(|part| stored.get(&part.number))
        .map(|part| (part.bytes, part.checksum.as_ref()))
        .collect();
    let size: u64 = parts.iter().map(|(bytes, _)| bytes).sum();
    if input.mpu_object_size.is_some_and(|expected| expected as u64 != size) {
        return Err(s3_error!(
            InvalidRequest,
            "The provided 'x-amz-mp-object-size' header does not match what was computed."
        ));
    }
    let complete = parts.len() == named.len();
    let checksum = object_checksum(upload.checksum, &parts).filter(|_| complete);
    if let (Some((algorithm, given)), Some(sum)) = (given_checksum!(input), &checksum)
        && (algorithm != sum.algorithm
            || given.split('-').next() != super::attributes::checksum_text(sum).split('-').next())
    {
        return Err(s3_error!(
            BadDigest,
            "The checksum you specified did not match the calculated checksum."
        ));
    }
    let command = Command::CompleteUpload {
        bucket: bucket.id,
        key: input.key.clone().into_bytes(),
        id,
        condition,
        parts: named,
        etag: whole,
        checksum: checksum.clone(),
    };
    match door.run(command).await {
        Ok(outcome) => {
            let mut output = completed(&input, &whole, checksum.as_ref());
            output.version_id = written_version(view.config.versioning, &outcome);
            (output.server_side_encryption, output.ssekms_key_id) = encryption::shown(&extra);
            Ok(S3Response::new(output))
        }
        // Another completion of the same upload was first.
        Err(failed) => repeated(door, view, &input, &whole).await.ok_or(failed),
    }
}

fn completed(
    input: &CompleteMultipartUploadInput,
    whole: &Etag,
    checksum: Option<&Checksum>,
) -> CompleteMultipartUploadOutput {
    let mut output = CompleteMultipartUploadOutput {
        bucket: Some(input.bucket.clone()),
        key: Some(input.key.clone()),
        e_tag: Some(etag(whole)),
        location: Some(format!("/{}/{}", input.bucket, input.key)),
        ..Default::default()
    };
    set_checksum!(output, checksum);
    output.checksum_type = checksum.map(|sum| checksum_type(sum.composite_parts.is_some()));
    output
}

/// The answer to a completion that was carried out before.
async fn repeated(
    door: &S3Door,
    bucket: &BucketView,
    input: &CompleteMultipartUploadInput,
    whole: &Etag,
) -> Option<S3Response<CompleteMultipartUploadOutput>> {
    let id = UploadId::from_hex(&input.upload_id)?;
    let (_, found) = door.look(&input.bucket, Some((input.key.as_bytes().to_vec(), None))).await.ok()?;
    let LookedUp::Found(object) = found else { return None };
    let version = &object.version;
    let same = version.upload == Some(id) && version.etag == *whole;
    same.then(|| {
        let mut output = completed(input, whole, version.checksum.as_ref());
        output.version_id = shown_version(bucket.config.versioning, &object);
        S3Response::new(output)
    })
}

pub async fn abort_multipart_upload(
    door: &S3Door,
    request: S3Request<AbortMultipartUploadInput>,
) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
    let scene = scene(&request)?;
    let bucket = &scene.bucket()?.bucket;
    let input = request.input;
    let id = parse_upload_id(&input.upload_id)?;
    door.run(Command::AbortUpload { bucket: bucket.id, key: input.key.into_bytes(), id }).await?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}
