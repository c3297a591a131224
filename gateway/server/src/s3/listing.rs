//! Listing objects, in both of S3's dialects.

use super::{
    S3Door,
    access::scene,
    attributes::{algorithm_name, checksum_type, etag, timestamp},
    classes::classes_of,
    settings::BucketView,
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use holdfast_core::limits::LIST_KEYS_MAX;
use holdfast_meta_raft_machine::{
    ask::Listing,
    list::{Item, ListRequest, Page},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        CommonPrefix, EncodingType, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
        ListObjectsV2Output, Object, Owner,
    },
    s3_error,
};

/// What S3 leaves as it is when it is asked to encode keys.
const KEPT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/').remove(b'*');

/// How names are written into the answer.
#[derive(Clone, Copy)]
pub struct Encoding {
    url: bool,
}

impl Encoding {
    /// # Errors
    /// Where it is asked for an encoding that S3 does not have.
    pub fn new(encoding: Option<&EncodingType>) -> S3Result<Self> {
        match encoding.map(EncodingType::as_str) {
            None => Ok(Self { url: false }),
            Some("url") => Ok(Self { url: true }),
            Some(_) => Err(s3_error!(InvalidArgument, "Invalid Encoding Method specified in Request")),
        }
    }

    pub fn text(self, name: &str) -> String {
        if self.url { utf8_percent_encode(name, KEPT).to_string() } else { name.to_owned() }
    }

    pub fn bytes(self, name: &[u8]) -> String {
        self.text(&String::from_utf8_lossy(name))
    }

    pub fn option(self, name: Option<&String>) -> Option<String> {
        name.map(|name| self.text(name))
    }
}

/// # Errors
/// Where it is negative.
pub fn page_size(max: Option<i32>) -> S3Result<usize> {
    match max.unwrap_or(LIST_KEYS_MAX as i32) {
        negative @ ..0 => {
            Err(s3_error!(InvalidArgument, "max-keys must not be negative, and was {negative}"))
        }
        max => Ok((max as usize).min(LIST_KEYS_MAX)),
    }
}

async fn objects(
    door: &S3Door,
    bucket: &BucketView,
    page: &Page,
    encoding: Encoding,
    owner: Option<&Owner>,
) -> S3Result<(Vec<Object>, Vec<CommonPrefix>)> {
    let keys = page.items.iter().filter_map(|item| match item {
        Item::Object { key, .. } => Some((key.clone(), None)),
        Item::CommonPrefix(_) => None,
    });
    let mut classes = classes_of(door, bucket, keys).await?;
    let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
    for item in &page.items {
        match item {
            Item::Object { key, summary } => objects.push(Object {
                checksum_algorithm: summary.checksum.map(|(algorithm, _)| vec![algorithm_name(algorithm)]),
                checksum_type: summary.checksum.map(|(_, composite)| checksum_type(composite)),
                e_tag: Some(etag(&summary.etag)),
                key: Some(encoding.bytes(key)),
                last_modified: Some(timestamp(summary.modified_ms)),
                owner: owner.cloned(),
                size: Some(summary.bytes as i64),
                storage_class: Some(classes.take().into()),
                ..Default::default()
            }),
            Item::CommonPrefix(prefix) => {
                prefixes.push(CommonPrefix { prefix: Some(encoding.bytes(prefix)) })
            }
        }
    }
    Ok((objects, prefixes))
}

pub async fn list_objects(
    door: &S3Door,
    request: S3Request<ListObjectsInput>,
) -> S3Result<S3Response<ListObjectsOutput>> {
    let scene = scene(&request)?;
    let bucket = scene.bucket()?;
    let owner = door.shown_owner(&bucket.config.owner);
    let input = request.input;
    let encoding = Encoding::new(input.encoding_type.as_ref())?;
    let max = page_size(input.max_keys)?;
    let delimiter = input.delimiter.filter(|delimiter| !delimiter.is_empty());
    let wanted = ListRequest {
        prefix: input.prefix.clone().unwrap_or_default().into_bytes(),
        delimiter: delimiter.clone().unwrap_or_default().into_bytes(),
        after: input.marker.clone().unwrap_or_default().into_bytes(),
        max,
    };
    let page = door.ask(Listing { bucket: bucket.bucket.id, wanted }).await?;
    let (contents, common_prefixes) = objects(door, bucket, &page, encoding, Some(&owner)).await?;
    // Without a delimiter, clients continue after the last key.
    let next = page.items.last().filter(|_| page.truncated && delimiter.is_some());
    Ok(S3Response::new(ListObjectsOutput {
        name: Some(input.bucket),
        prefix: Some(encoding.text(input.prefix.as_deref().unwrap_or_default())),
        marker: Some(encoding.text(input.marker.as_deref().unwrap_or_default())),
        delimiter: encoding.option(delimiter.as_ref()),
        next_marker: next.map(|item| encoding.bytes(item.name())),
        max_keys: Some(max as i32),
        is_truncated: Some(page.truncated),
        contents: Some(contents),
        common_prefixes: Some(common_prefixes),
        encoding_type: input.encoding_type,
        ..Default::default()
    }))
}

pub async fn list_objects_v2(
    door: &S3Door,
    request: S3Request<ListObjectsV2Input>,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let scene = scene(&request)?;
    let bucket = scene.bucket()?;
    let owner = door.shown_owner(&bucket.config.owner);
    let input = request.input;
    let encoding = Encoding::new(input.encoding_type.as_ref())?;
    let max = page_size(input.max_keys)?;
    let delimiter = input.delimiter.filter(|delimiter| !delimiter.is_empty());
    let bad_token = || s3_error!(InvalidArgument, "The continuation token provided is incorrect");
    let after = match &input.continuation_token {
        Some(token) => BASE64_URL_SAFE_NO_PAD.decode(token).map_err(|_| bad_token())?,
        None => input.start_after.clone().unwrap_or_default().into_bytes(),
    };
    let wanted = ListRequest {
        prefix: input.prefix.clone().unwrap_or_default().into_bytes(),
        delimiter: delimiter.clone().unwrap_or_default().into_bytes(),
        after,
        max,
    };
    let page = door.ask(Listing { bucket: bucket.bucket.id, wanted }).await?;
    let owner = Some(&owner).filter(|_| input.fetch_owner == Some(true));
    let (contents, common_prefixes) = objects(door, bucket, &page, encoding, owner).await?;
    let next = page.items.last().filter(|_| page.truncated);
    Ok(S3Response::new(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(encoding.text(input.prefix.as_deref().unwrap_or_default())),
        delimiter: encoding.option(delimiter.as_ref()),
        start_after: encoding.option(input.start_after.as_ref()),
        continuation_token: input.continuation_token,
        next_continuation_token: next.map(|item| BASE64_URL_SAFE_NO_PAD.encode(item.name())),
        max_keys: Some(max as i32),
        key_count: Some(page.items.len() as i32),
        is_truncated: Some(page.truncated),
        contents: Some(contents),
        common_prefixes: Some(common_prefixes),
        encoding_type: input.encoding_type,
        ..Default::default()
    }))
}
