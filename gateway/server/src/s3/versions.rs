//! Versions: their names, their listing, and whether a bucket keeps them.

use super::{
    S3Door,
    access::scene,
    attributes::{algorithm_name, checksum_type, etag, timestamp},
    classes::classes_of,
    error,
    listing::{Encoding, page_size},
};
use holdfast_core::ids::VersionId;
use holdfast_meta_raft_machine::{
    ask::{Object, VersionListing},
    command::{Command, ConfigChange, Outcome, Rejection},
    list::{ListRequest, VersionItem},
    records::{Extra, VersionName, Versioning},
};
use hyper::{HeaderMap, StatusCode, header};
use s3s::{
    S3Error, S3Request, S3Response, S3Result,
    dto::{
        BucketVersioningStatus, CommonPrefix, DeleteMarkerEntry, GetBucketVersioningInput,
        GetBucketVersioningOutput, ListObjectVersionsInput, ListObjectVersionsOutput, ObjectVersion,
        PutBucketVersioningInput, PutBucketVersioningOutput, TimestampFormat,
    },
    s3_error,
};

/// A version's name as clients see it.
pub fn show(name: VersionName) -> String {
    match name {
        VersionName::Null => "null".to_owned(),
        VersionName::Id(id) => format!("{:016x}", id.0),
    }
}

/// A version's id as clients have it.
pub fn version_id(id: VersionId) -> String {
    show(VersionName::Id(id))
}

/// The name of a version by which it is known to clients.
pub fn name_of(id: VersionId, extra: &Extra) -> VersionName {
    if extra.named { VersionName::Id(id) } else { VersionName::Null }
}

/// # Errors
/// Where it cannot be one of ours.
pub fn parse_version(text: &str) -> S3Result<VersionName> {
    if text == "null" {
        return Ok(VersionName::Null);
    }
    let ours = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let id = u64::from_str_radix(text, 16).ok().filter(|_| ours);
    id.map(|id| VersionName::Id(VersionId(id)))
        .ok_or_else(|| s3_error!(InvalidArgument, "Invalid version id specified"))
}

/// The version that was read, as a response names it: not where versions were never kept.
pub fn shown_version(versioning: Versioning, object: &Object) -> Option<String> {
    (versioning != Versioning::Off).then(|| show(name_of(object.version.id, &object.extra)))
}

/// The version that a write made, as its response names it.
pub fn written_version(versioning: Versioning, outcome: &Outcome) -> Option<String> {
    match (versioning, outcome) {
        (Versioning::Enabled, Outcome::Committed(committed)) => {
            Some(show(VersionName::Id(committed.version)))
        }
        _ => None,
    }
}

/// A delete marker has nothing to read.
pub fn marker_error(object: &Object, names_version: bool) -> S3Error {
    let mut headers = HeaderMap::new();
    let mut add = |name: &'static str, value: String| {
        if let Ok(value) = value.parse() {
            headers.insert(name, value);
        }
    };
    add("x-amz-delete-marker", "true".to_owned());
    add("x-amz-version-id", show(name_of(object.version.id, &object.extra)));
    let mut error = if names_version {
        add("allow", "DELETE".to_owned());
        let mut text = Vec::new();
        if timestamp(object.version.modified_ms).format(TimestampFormat::HttpDate, &mut text).is_ok() {
            add(header::LAST_MODIFIED.as_str(), String::from_utf8_lossy(&text).into_owned());
        }
        error::custom(
            "MethodNotAllowed",
            StatusCode::METHOD_NOT_ALLOWED,
            "The specified method is not allowed against this resource.",
        )
    } else {
        super::access::no_such_key()
    };
    error.set_headers(headers);
    error
}

pub fn get_bucket_versioning(
    _door: &S3Door,
    request: S3Request<GetBucketVersioningInput>,
) -> S3Result<S3Response<GetBucketVersioningOutput>> {
    let status = match scene(&request)?.bucket()?.config.versioning {
        Versioning::Off => None,
        Versioning::Enabled => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED)),
        Versioning::Suspended => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::SUSPENDED)),
    };
    Ok(S3Response::new(GetBucketVersioningOutput { status, ..Default::default() }))
}

pub async fn put_bucket_versioning(
    door: &S3Door,
    request: S3Request<PutBucketVersioningInput>,
) -> S3Result<S3Response<PutBucketVersioningOutput>> {
    let scene = scene(&request)?;
    let bucket = scene.bucket()?;
    let wanted = request.input.versioning_configuration;
    if wanted.mfa_delete.as_ref().is_some_and(|mfa| mfa.as_str() == "Enabled") || request.input.mfa.is_some()
    {
        return Err(s3_error!(NotImplemented, "MFA delete is not supported"));
    }
    let versioning = match wanted.status.as_ref().map(BucketVersioningStatus::as_str) {
        Some(BucketVersioningStatus::ENABLED) => Versioning::Enabled,
        Some(BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
        _ => {
            return Err(s3_error!(
                IllegalVersioningConfigurationException,
                "The Versioning element must be specified"
            ));
        }
    };
    if versioning != Versioning::Enabled && !bucket.replication.is_empty() {
        return Err(s3_error!(
            InvalidBucketState,
            "A replication configuration is present on this bucket, so the versioning state cannot be changed."
        ));
    }
    let change = ConfigChange::Versioning(versioning);
    let configured = door.engine.run(Command::ConfigureBucket { bucket: bucket.bucket.id, change }).await;
    let refused = s3_error!(
        InvalidBucketState,
        "An Object Lock configuration is present on this bucket, so the versioning state cannot be changed."
    );
    configured.map_err(error::expecting(&Rejection::BucketState, refused))?;
    Ok(S3Response::new(PutBucketVersioningOutput::default()))
}

pub async fn list_object_versions(
    door: &S3Door,
    request: S3Request<ListObjectVersionsInput>,
) -> S3Result<S3Response<ListObjectVersionsOutput>> {
    let scene = scene(&request)?;
    let bucket = scene.bucket()?;
    let input = request.input;
    let encoding = Encoding::new(input.encoding_type.as_ref())?;
    let max = page_size(input.max_keys)?;
    let delimiter = input.delimiter.filter(|delimiter| !delimiter.is_empty());
    let key_marker = input.key_marker.filter(|marker| !marker.is_empty());
    let version_marker = input.version_id_marker.filter(|marker| !marker.is_empty());
    if version_marker.is_some() && key_marker.is_none() {
        return Err(s3_error!(
            InvalidArgument,
            "A version-id marker cannot be specified without a key marker."
        ));
    }
    let wanted = ListRequest {
        prefix: input.prefix.clone().unwrap_or_default().into_bytes(),
        delimiter: delimiter.clone().unwrap_or_default().into_bytes(),
        after: key_marker.clone().unwrap_or_default().into_bytes(),
        max,
    };
    let after = version_marker.as_deref().map(parse_version).transpose()?;
    let page = door.ask(VersionListing { bucket: bucket.bucket.id, wanted, after }).await?;
    let shown = page.items.iter().filter_map(|item| match item {
        VersionItem::Version(shown) => Some((shown.key.clone(), Some(shown.name))),
        VersionItem::CommonPrefix(_) => None,
    });
    let mut classes = classes_of(door, bucket, shown).await?;
    let (mut versions, mut markers, mut prefixes) = (Vec::new(), Vec::new(), Vec::new());
    let mut next = (None, None);
    for item in page.items {
        match item {
            VersionItem::CommonPrefix(prefix) => {
                next = (Some(encoding.bytes(&prefix)), None);
                prefixes.push(CommonPrefix { prefix: Some(encoding.bytes(&prefix)) });
            }
            VersionItem::Version(version) => {
                next = (Some(encoding.bytes(&version.key)), Some(show(version.name)));
                let owner = Some(door.shown_owner(&version.owner));
                let class = classes.take();
                if version.marker {
                    markers.push(DeleteMarkerEntry {
                        is_latest: Some(version.latest),
                        key: Some(encoding.bytes(&version.key)),
                        last_modified: Some(timestamp(version.modified_ms)),
                        owner,
                        version_id: Some(show(version.name)),
                    });
                    continue;
                }
                versions.push(ObjectVersion {
                    checksum_algorithm: version
                        .checksum
                        .map(|(algorithm, _)| vec![algorithm_name(algorithm)]),
                    checksum_type: version.checksum.map(|(_, composite)| checksum_type(composite)),
                    e_tag: Some(etag(&version.etag)),
                    is_latest: Some(version.latest),
                    key: Some(encoding.bytes(&version.key)),
                    last_modified: Some(timestamp(version.modified_ms)),
                    owner,
                    size: Some(version.bytes as i64),
                    storage_class: Some(class.into()),
                    version_id: Some(show(version.name)),
                    ..Default::default()
                });
            }
        }
    }
    let (next_key, next_version) = if page.truncated { next } else { (None, None) };
    Ok(S3Response::new(ListObjectVersionsOutput {
        name: Some(input.bucket),
        prefix: Some(encoding.text(input.prefix.as_deref().unwrap_or_default())),
        delimiter: encoding.option(delimiter.as_ref()),
        key_marker: Some(encoding.text(key_marker.as_deref().unwrap_or_default())),
        version_id_marker: Some(version_marker.unwrap_or_default()),
        max_keys: Some(max as i32),
        is_truncated: Some(page.truncated),
        next_key_marker: next_key,
        next_version_id_marker: next_version,
        versions: Some(versions),
        delete_markers: Some(markers),
        common_prefixes: Some(prefixes),
        encoding_type: input.encoding_type,
        ..Default::default()
    }))
}
