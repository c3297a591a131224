//! Storage classes: which there are, and which a version has.
//!
//! A version's class is a document of its own, which listings do not read unless the bucket says that it has some.

use super::{S3Door, documents::set, error, settings::BucketView};
use holdfast_meta_raft_machine::{
    ask::DocumentsOf,
    records::{Extra, VersionName},
};
use holdfast_meta_raft_server::MetaError;
use s3s::S3Result;

/// Storage classes that clients may name. What is of one that has no pool of its own is kept as all else is.
pub const STORAGE_CLASSES: [&str; 10] = [
    STANDARD,
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER",
    "DEEP_ARCHIVE",
    "GLACIER_IR",
    "OUTPOSTS",
    "EXPRESS_ONEZONE",
];

/// The class of what names none.
pub const STANDARD: &str = "STANDARD";

/// The document that names a version's storage class, where it is another one.
pub const STORAGE_CLASS: &str = "storage-class";

/// The bucket's document that says that some of its versions have one.
const HAS_CLASSES: &str = "classes";

/// A version's storage class, where it is not [`STANDARD`].
pub fn class_of(extra: &Extra) -> Option<&str> {
    extra.documents.get(STORAGE_CLASS).map(String::as_str)
}

/// Has the bucket say that some of its versions have classes, from before the first one on.
///
/// # Errors
/// Where the metadata refuses it.
pub async fn note(door: &S3Door, bucket: &BucketView) -> S3Result<()> {
    if bucket.config.documents.contains_key(HAS_CLASSES) {
        return Ok(());
    }
    set(door, bucket, HAS_CLASSES, Some("some".to_owned())).await
}

/// [`note`], where a version that is about to be written has a class.
///
/// # Errors
/// As there.
pub async fn note_of(door: &S3Door, bucket: &BucketView, extra: &Extra) -> S3Result<()> {
    if class_of(extra).is_some() { note(door, bucket).await } else { Ok(()) }
}

/// The classes of versions in the order asked, by key, and by name where it is not the current one.
///
/// # Errors
/// Where the metadata cannot be read.
pub async fn classes_of(
    door: &S3Door,
    bucket: &BucketView,
    versions: impl Iterator<Item = (Vec<u8>, Option<VersionName>)>,
) -> S3Result<Classes> {
    let mut classes = Vec::new();
    if bucket.config.documents.contains_key(HAS_CLASSES) {
        let question = DocumentsOf {
            bucket: bucket.bucket.id,
            wanted: versions.collect(),
            name: STORAGE_CLASS.to_owned(),
        };
        classes = match door.engine.meta().ask(question).await {
            // A member of the version before knew of no pools, and showed no classes.
            Err(MetaError::Refused(_)) => Vec::new(),
            Err(failed) => return Err(error::engine(failed.into())),
            Ok(classes) => classes,
        };
    }
    Ok(Classes(classes.into_iter()))
}

/// Classes of versions, one after another.
pub struct Classes(std::vec::IntoIter<Option<String>>);

impl Classes {
    /// The next version's.
    pub fn take(&mut self) -> String {
        self.0.next().flatten().unwrap_or_else(|| STANDARD.to_owned())
    }
}
