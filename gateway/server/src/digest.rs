//! Digests of a body while it passes.

use crate::md5_lanes::{Md5Lanes, Md5Stream};
use bytes::Bytes;
use holdfast_gateway_md5::Md5;
use holdfast_meta_raft_machine::records::ChecksumAlgorithm;
use sha1::Digest as _;

pub type BodyMd5 = [u8; 16];

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
    /// The MD5, and a checksum where one is asked for, of a body of `length` bytes, if that is known.
    pub fn new(lanes: &Md5Lanes, length: Option<u64>, algorithm: Option<ChecksumAlgorithm>) -> Self {
        let small = length.is_some_and(|length| length <= INLINE_MD5_MAX);
        let md5 = if small { Md5Of::Inline(Md5::default()) } else { Md5Of::Lanes(lanes.stream()) };
        Self { md5, sum: algorithm.map(Sum::new) }
    }

    /// The MD5 and the checksum; `None` where the process is ending.
    pub async fn finish(self) -> Option<(BodyMd5, Option<Vec<u8>>)> {
        Some((self.md5.finish().await?, self.sum.map(Sum::finish)))
    }

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
