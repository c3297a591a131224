//! Between S3's types and the metadata's.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use holdfast_core::limits::USER_METADATA_BYTES_MAX;
use holdfast_meta_raft_machine::records::{Attributes, Checksum, ChecksumAlgorithm, Etag};
use s3s::{
    S3Result,
    dto::{self, ETag, Metadata, Timestamp, TimestampFormat},
    s3_error,
};
use std::time::{Duration, UNIX_EPOCH};

/// The last moment that dates of S3 can name: the end of the year 9999.
const LAST_MS: u64 = 253_402_300_799_000;

pub fn timestamp(unix_ms: u64) -> Timestamp {
    Timestamp::from(UNIX_EPOCH + Duration::from_millis(unix_ms.min(LAST_MS)))
}

/// Milliseconds since 1970; 0 for what was before.
pub fn unix_ms_of(at: &Timestamp) -> u64 {
    let nanos = time::OffsetDateTime::from(at.clone()).unix_timestamp_nanos();
    u64::try_from(nanos / 1_000_000).unwrap_or(0)
}

pub fn etag(etag: &Etag) -> ETag {
    ETag::Strong(etag.to_string())
}

/// Reads an ETag of ours back; `None` for any other.
pub fn parse_etag(text: &str) -> Option<Etag> {
    let text = text.trim().trim_matches('"');
    let (hex_digits, parts) = match text.split_once('-') {
        Some((digits, parts)) => (digits, Some(parts.parse::<u16>().ok()?)),
        None => (text, None),
    };
    let mut md5 = [0; 16];
    hex::decode_to_slice(hex_digits, &mut md5).ok()?;
    Some(match parts {
        Some(parts) => Etag::Multipart { md5, parts },
        None => Etag::Md5(md5),
    })
}

/// What a request says of the object beside its bytes.
pub struct AttributeFields {
    pub cache_control: Option<String>,
    pub content_disposition: Option<String>,
    pub content_encoding: Option<String>,
    pub content_language: Option<String>,
    pub content_type: Option<String>,
    pub expires: Option<Timestamp>,
    pub metadata: Option<Metadata>,
}

/// Collects the fields that several inputs share.
macro_rules! attribute_fields {
    ($input:expr) => {
        $crate::s3::attributes::AttributeFields {
            cache_control: $input.cache_control.take(),
            content_disposition: $input.content_disposition.take(),
            content_encoding: $input.content_encoding.take(),
            content_language: $input.content_language.take(),
            content_type: $input.content_type.take().map(|value| value.to_string()),
            expires: $input.expires.take(),
            metadata: $input.metadata.take(),
        }
    };
}
pub(crate) use attribute_fields;

/// # Errors
/// Where the user's metadata is larger than S3 allows.
pub fn attributes(fields: AttributeFields) -> S3Result<Attributes> {
    let mut user: Vec<(String, String)> = fields.metadata.unwrap_or_default().into_iter().collect();
    user.sort();
    let bytes: usize = user.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > USER_METADATA_BYTES_MAX {
        return Err(s3_error!(
            MetadataTooLarge,
            "Your metadata headers exceed the maximum allowed metadata size"
        ));
    }
    // How the body was framed is no property of the object.
    let content_encoding = fields.content_encoding.map(|value| {
        let codings = || value.split(',').map(str::trim).filter(|coding| !coding.is_empty());
        match codings().any(|coding| coding == "aws-chunked") {
            true => codings().filter(|coding| *coding != "aws-chunked").collect::<Vec<_>>().join(", "),
            false => value,
        }
    });
    Ok(Attributes {
        content_type: fields.content_type,
        cache_control: fields.cache_control,
        content_disposition: fields.content_disposition,
        content_encoding: content_encoding.filter(|value| !value.is_empty()),
        content_language: fields.content_language,
        expires: fields.expires.and_then(|at| http_date(&at)),
        user,
    })
}

fn http_date(at: &Timestamp) -> Option<String> {
    let mut text = Vec::new();
    at.format(TimestampFormat::HttpDate, &mut text).ok()?;
    String::from_utf8(text).ok()
}

pub fn expires(attributes: &Attributes) -> Option<Timestamp> {
    Timestamp::parse(TimestampFormat::HttpDate, attributes.expires.as_deref()?).ok()
}

pub fn metadata(attributes: &Attributes) -> Option<Metadata> {
    (!attributes.user.is_empty()).then(|| attributes.user.iter().cloned().collect())
}

/// A stored checksum as S3 prints it: base64, and the number of parts where it is one of parts.
pub fn checksum_text(checksum: &Checksum) -> String {
    let value = BASE64_STANDARD.encode(&checksum.value);
    match checksum.composite_parts {
        Some(parts) => format!("{value}-{parts}"),
        None => value,
    }
}

pub fn checksum_type(composite: bool) -> dto::ChecksumType {
    dto::ChecksumType::from_static(if composite {
        dto::ChecksumType::COMPOSITE
    } else {
        dto::ChecksumType::FULL_OBJECT
    })
}

pub fn algorithm_name(algorithm: ChecksumAlgorithm) -> dto::ChecksumAlgorithm {
    dto::ChecksumAlgorithm::from_static(match algorithm {
        ChecksumAlgorithm::Crc32 => dto::ChecksumAlgorithm::CRC32,
        ChecksumAlgorithm::Crc32c => dto::ChecksumAlgorithm::CRC32C,
        ChecksumAlgorithm::Crc64Nvme => dto::ChecksumAlgorithm::CRC64NVME,
        ChecksumAlgorithm::Sha1 => dto::ChecksumAlgorithm::SHA1,
        ChecksumAlgorithm::Sha256 => dto::ChecksumAlgorithm::SHA256,
    })
}

pub fn parse_algorithm(name: &str) -> S3Result<ChecksumAlgorithm> {
    Ok(match name.to_ascii_uppercase().as_str() {
        "CRC32" => ChecksumAlgorithm::Crc32,
        "CRC32C" => ChecksumAlgorithm::Crc32c,
        "CRC64NVME" => ChecksumAlgorithm::Crc64Nvme,
        "SHA1" => ChecksumAlgorithm::Sha1,
        "SHA256" => ChecksumAlgorithm::Sha256,
        _ => {
            return Err(s3_error!(
                InvalidRequest,
                "Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]"
            ));
        }
    })
}

/// Sets the checksum fields that several outputs share.
macro_rules! set_checksum {
    ($output:expr, $checksum:expr) => {
        if let Some(checksum) = $checksum {
            use holdfast_meta_raft_machine::records::ChecksumAlgorithm as Algorithm;
            let text = Some($crate::s3::attributes::checksum_text(checksum));
            match checksum.algorithm {
                Algorithm::Crc32 => $output.checksum_crc32 = text,
                Algorithm::Crc32c => $output.checksum_crc32c = text,
                Algorithm::Crc64Nvme => $output.checksum_crc64nvme = text,
                Algorithm::Sha1 => $output.checksum_sha1 = text,
                Algorithm::Sha256 => $output.checksum_sha256 = text,
            }
        }
    };
}
pub(crate) use set_checksum;

/// The checksum that a request's fields give, if one.
macro_rules! given_checksum {
    ($input:expr) => {{
        use holdfast_meta_raft_machine::records::ChecksumAlgorithm as Algorithm;
        [
            (Algorithm::Crc32, $input.checksum_crc32.take()),
            (Algorithm::Crc32c, $input.checksum_crc32c.take()),
            (Algorithm::Crc64Nvme, $input.checksum_crc64nvme.take()),
            (Algorithm::Sha1, $input.checksum_sha1.take()),
            (Algorithm::Sha256, $input.checksum_sha256.take()),
        ]
        .into_iter()
        .find_map(|(algorithm, value)| value.map(|value| (algorithm, value)))
    }};
}
pub(crate) use given_checksum;
