//! What a client says the digests of a body must be.

use super::{attributes::parse_algorithm, error};
use crate::{
    digest::{BodyDigest, BodyMd5, Sum},
    engine::Engine,
    http::RawBody,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use holdfast_gateway_md5::Md5;
use holdfast_meta_raft_machine::records::{Checksum, ChecksumAlgorithm};
use hyper::{HeaderMap, StatusCode};
use s3s::{S3Request, S3Result, TrailingHeaders, s3_error};

/// What a client says a body's digests are.
pub struct Expected {
    md5: Option<Vec<u8>>,
    checksum: Option<(ChecksumAlgorithm, Option<String>)>,
    trailers: Option<TrailingHeaders>,
    /// The request says that the checksum follows the body.
    awaits_trailer: bool,
}

/// The names under which checksums come, as headers and trailers.
const HEADERS: [(&str, ChecksumAlgorithm); 5] = [
    ("x-amz-checksum-crc32", ChecksumAlgorithm::Crc32),
    ("x-amz-checksum-crc32c", ChecksumAlgorithm::Crc32c),
    ("x-amz-checksum-crc64nvme", ChecksumAlgorithm::Crc64Nvme),
    ("x-amz-checksum-sha1", ChecksumAlgorithm::Sha1),
    ("x-amz-checksum-sha256", ChecksumAlgorithm::Sha256),
];

impl Expected {
    /// Reads what a request declares. `given` is a checksum that came in a header; `default` one to compute in any case.
    ///
    /// # Errors
    /// Where a header cannot be what it says.
    pub fn new(
        headers: &HeaderMap,
        content_md5: Option<&str>,
        given: Option<(ChecksumAlgorithm, String)>,
        default: Option<ChecksumAlgorithm>,
        trailers: Option<TrailingHeaders>,
    ) -> S3Result<Self> {
        let invalid = || s3_error!(InvalidDigest, "The Content-MD5 you specified was invalid.");
        let md5 = content_md5.map(|text| BASE64_STANDARD.decode(text).map_err(|_| invalid())).transpose()?;
        if md5.as_ref().is_some_and(|md5| md5.len() != 16) {
            return Err(invalid());
        }
        let named = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let in_trailer = named("x-amz-trailer").and_then(|trailer| {
            let trailer = trailer.to_ascii_lowercase();
            HEADERS
                .iter()
                .find(|(name, _)| trailer.split(',').any(|one| one.trim() == *name))
                .map(|(_, sum)| *sum)
        });
        let sdk = named("x-amz-sdk-checksum-algorithm").map(parse_algorithm).transpose()?;
        let checksum = match given {
            Some((algorithm, value)) => Some((algorithm, Some(value))),
            None => in_trailer.or(sdk).or(default).map(|algorithm| (algorithm, None)),
        };
        Ok(Self { md5, checksum, trailers, awaits_trailer: in_trailer.is_some() })
    }

    /// A digest of everything that is asked for, of a body of `length` bytes, if that is known.
    pub fn digest(&self, engine: &Engine, length: Option<u64>) -> BodyDigest {
        let algorithm = self.checksum.as_ref().map(|(algorithm, _)| *algorithm);
        BodyDigest::new(&engine.shared.md5, length, algorithm)
    }

    /// Holds what was computed against what was declared.
    ///
    /// # Errors
    /// Where they differ: the body was damaged on its way.
    pub async fn verify(self, digest: BodyDigest) -> S3Result<(BodyMd5, Option<Checksum>)> {
        let stopping = || s3_error!(ServiceUnavailable, "The server is shutting down. Please try again.");
        let (md5, sum) = digest.finish().await.ok_or_else(stopping)?;
        if self.md5.is_some_and(|expected| expected != md5) {
            return Err(s3_error!(
                BadDigest,
                "The Content-MD5 you specified did not match what we received."
            ));
        }
        let (Some((algorithm, header)), Some(sum)) = (self.checksum, sum) else {
            return Ok((md5, None));
        };
        let trailer = self.trailers.and_then(|trailers| {
            let name = HEADERS.iter().find(|(_, one)| *one == algorithm).map(|(name, _)| *name)?;
            trailers.read(|headers| headers.get(name)?.to_str().ok().map(str::to_owned)).flatten()
        });
        if self.awaits_trailer && trailer.is_none() {
            return Err(error::custom(
                "MalformedTrailerError",
                StatusCode::BAD_REQUEST,
                "The checksum that the trailer promised did not come.",
            ));
        }
        let value = sum;
        for text in [header, trailer].into_iter().flatten() {
            let expected = BASE64_STANDARD.decode(text.trim());
            let expected = expected.ok().filter(|expected| expected.len() == value.len());
            let expected =
                expected.ok_or_else(|| s3_error!(BadDigest, "Value for a checksum header is invalid."))?;
            if expected != value {
                return Err(s3_error!(
                    BadDigest,
                    "The checksum you specified did not match the calculated checksum."
                ));
            }
        }
        Ok((md5, Some(Checksum { algorithm, value, composite_parts: None })))
    }
}

/// Holds the body of a request, which was read whole, against the digests in its head.
///
/// # Errors
/// Where they differ.
pub fn verify_body<T>(request: &S3Request<T>) -> S3Result<()> {
    let Some(raw) = request.extensions.get::<RawBody>() else { return Ok(()) };
    let value = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
    let pieces = raw.pieces();
    let differs = |text: &str, digest: &[u8]| BASE64_STANDARD.decode(text).ok().as_deref() != Some(digest);
    if let Some(text) = value("content-md5") {
        let mut md5 = Md5::default();
        pieces.iter().for_each(|piece| md5.update(piece));
        if differs(text, &md5.finish()) {
            return Err(s3_error!(
                BadDigest,
                "The Content-MD5 you specified did not match what we received."
            ));
        }
    }
    for (name, algorithm) in HEADERS {
        let Some(text) = value(name) else { continue };
        let mut sum = Sum::new(algorithm);
        pieces.iter().for_each(|piece| sum.update(piece));
        if differs(text, &sum.finish()) {
            return Err(s3_error!(
                BadDigest,
                "The checksum you specified did not match the calculated checksum."
            ));
        }
    }
    Ok(())
}
