//! What there is to know of an object, without its bytes.

use super::{
    S3Door,
    access::scene,
    attributes::{checksum_type, etag, set_checksum, timestamp},
    classes::class_of,
    encryption::Encryption,
    listing::page_size,
    versions::shown_version,
};
use holdfast_meta_raft_machine::records::{PartSummary, Version};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        Checksum, GetObjectAttributesInput, GetObjectAttributesOutput, GetObjectAttributesParts,
        ObjectAttributes, ObjectPart, StorageClass,
    },
};

/// The parts of an object, a page of them.
fn parts_of(version: &Version, after: i32, max: usize) -> GetObjectAttributesParts {
    let mut wanted = version.parts.iter().filter(|part| i32::from(part.number) > after).peekable();
    let page: Vec<&PartSummary> = wanted.by_ref().take(max).collect();
    let truncated = wanted.peek().is_some();
    let show = |part: &&PartSummary| {
        let mut shown = ObjectPart {
            part_number: Some(i32::from(part.number)),
            size: Some(part.bytes as i64),
            ..Default::default()
        };
        set_checksum!(shown, &part.checksum);
        shown
    };
    GetObjectAttributesParts {
        is_truncated: Some(truncated),
        max_parts: Some(max as i32),
        next_part_number_marker: page.last().map(|part| i32::from(part.number)),
        part_number_marker: Some(after),
        parts: Some(page.iter().map(show).collect()),
        total_parts_count: Some(version.parts.len() as i32),
    }
}

pub async fn get_object_attributes(
    door: &S3Door,
    request: S3Request<GetObjectAttributesInput>,
) -> S3Result<S3Response<GetObjectAttributesOutput>> {
    let scene = scene(&request)?;
    let input = request.input;
    let object = scene.found(input.version_id.is_some())?;
    let version = &object.version;
    // Who cannot read it shall not know its checksums.
    Encryption::of_read(door, &scene, &request.headers, &object.extra).await?;
    // They come as a list in one header or in several.
    let names = || input.object_attributes.iter().flat_map(|list| list.as_str().split(',')).map(str::trim);
    let wants = |name: &str| names().any(|wanted| wanted == name);
    let mut output = GetObjectAttributesOutput {
        last_modified: Some(timestamp(version.modified_ms)),
        version_id: shown_version(scene.bucket()?.config.versioning, object),
        ..Default::default()
    };
    if wants(ObjectAttributes::ETAG) {
        output.e_tag = Some(etag(&version.etag));
    }
    if wants(ObjectAttributes::OBJECT_SIZE) {
        output.object_size = Some(version.bytes as i64);
    }
    if wants(ObjectAttributes::STORAGE_CLASS) {
        let class = class_of(&object.extra).map(str::to_owned);
        output.storage_class = Some(class.unwrap_or_else(|| StorageClass::STANDARD.to_owned()).into());
    }
    if wants(ObjectAttributes::CHECKSUM) && version.checksum.is_some() {
        let mut shown = Checksum::default();
        set_checksum!(shown, &version.checksum);
        shown.checksum_type =
            version.checksum.as_ref().map(|sum| checksum_type(sum.composite_parts.is_some()));
        output.checksum = Some(shown);
    }
    if wants(ObjectAttributes::OBJECT_PARTS) && !version.parts.is_empty() {
        let after = input.part_number_marker.unwrap_or(0);
        output.object_parts = Some(parts_of(version, after, page_size(input.max_parts)?));
    }
    Ok(S3Response::new(output))
}
