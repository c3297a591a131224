//! Digests of a body while it passes, and what the client says they must be.

use super::{attributes::parse_algorithm, error};
use crate::{engine::Engine, md5_lanes::Md5Stream};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use holdfast_gateway_md5::Md5;
use holdfast_meta_raft_machine::records::{Checksum, ChecksumAlgorithm};
use hyper::{HeaderMap, StatusCode};
use s3s::{S3Result, TrailingHeaders, s3_error};
use sha1::Digest as _;

/// One running checksum.
pub enum Sum {
    Crc(ChecksumAlgorithm, crc_fast::Digest),
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
}

impl Sum {
    pub fn new(algorithm: ChecksumAlgorithm) -> Self {
        let crc = |kind| Self::Crc(algorithm, crc_fast::Digest::new(kind));
        match algorithm {
            ChecksumAlgorithm::Crc32 => crc(crc_fast::CrcAlgorithm::Crc32IsoHdlc),
            ChecksumAlgorithm::Crc32c => crc(crc_fast::CrcAlgorithm::Crc32Iscsi),
            ChecksumAlgorithm::Crc64Nvme => crc(crc_fast::CrcAlgorithm::Crc64Nvme),
            ChecksumAlgorithm::Sha1 => Self::Sha1(sha1::Sha1::new()),
            ChecksumAlgorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc(_, digest) => digest.update(bytes),
            Self::Sha1(digest) => digest.update(bytes),
            Self::Sha256(digest) => digest.update(bytes),
        }
    }

    pub fn finish(self) -> Vec<u8> {
        match self {
            Self::Crc(ChecksumAlgorithm::Crc64Nvme, digest) => digest.finalize().to_be_bytes().to_vec(),
            Self::Crc(_, digest) => (digest.finalize() as u32).to_be_bytes().to_vec(),
            Self::Sha1(digest) => digest.finalize().to_vec(),
            Self::Sha256(digest) => digest.finalize().to_vec(),
        }
    }
}

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
        let small = length.is_some_and(|length| length <= INLINE_MD5_MAX);
        let md5 =
            if small { Md5Of::Inline(Md5::default()) } else { Md5Of::Lanes(engine.shared.md5.stream()) };
        BodyDigest { md5, sum: self.checksum.as_ref().map(|(algorithm, _)| Sum::new(*algorithm)) }
    }

    /// Holds what was computed against what was declared.
    ///
    /// # Errors
    /// Where they differ: the body was damaged on its way.
    pub async fn verify(self, digest: BodyDigest) -> S3Result<(BodyMd5, Option<Checksum>)> {
        let stopping = || s3_error!(ServiceUnavailable, "The server is shutting down. Please try again.");
        let md5: BodyMd5 = digest.md5.finish().await.ok_or_else(stopping)?;
        if self.md5.is_some_and(|expected| expected != md5) {
            return Err(s3_error!(
                BadDigest,
                "The Content-MD5 you specified did not match what we received."
            ));
        }
        let (Some((algorithm, header)), Some(sum)) = (self.checksum, digest.sum) else {
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
        let value = sum.finish();
        for text in [header, trailer].into_iter().flatten() {
            let expected = BASE64_STANDARD.decode(text.trim());
            let expected = expected.ok().filter(|expected| expected.len() == value.len());
            let expected = expected
                .ok_or_else(|| s3_error!(InvalidRequest, "Value for a checksum header is invalid."))?;
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

pub type BodyMd5 = [u8; 16];

/// Bodies up to this are digested where they are: the way to another thread costs more.
const INLINE_MD5_MAX: u64 = 128 << 10;

enum Md5Of {
    Inline(Md5),
    Lanes(Md5Stream),
}

impl Md5Of {
    async fn finish(self) -> Option<BodyMd5> {
        match self {
            Self::Inline(md5) => Some(md5.finish()),
            Self::Lanes(stream) => stream.finish().await,
        }
    }
}

/// Digests that see each piece of a body once.
pub struct BodyDigest {
    md5: Md5Of,
    sum: Option<Sum>,
}

impl BodyDigest {
    pub async fn update(&mut self, piece: &Bytes) {
        match &mut self.md5 {
            Md5Of::Inline(md5) => md5.update(piece),
            Md5Of::Lanes(stream) => stream.update(piece.clone()).await,
        }
        if let Some(sum) = &mut self.sum {
            sum.update(piece);
        }
    }
}
