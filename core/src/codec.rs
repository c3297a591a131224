//! How records are written: postcard, under an enum that names the record's version.
//!
//! A record type is never changed in place. A new shape is a new variant of its enum, the old ones stay readable,
//! and a fixture of each is kept beside the tests.

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// A record's bytes do not have the shape that their place promises: damage, or a newer version's data.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("{what} cannot be decoded ({len} bytes)")]
pub struct DecodeError {
    pub what: &'static str,
    pub len: usize,
}

/// Encodes a record.
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    postcard::to_stdvec(record).expect("postcard writes any of our records into memory")
}

/// Decodes a record named `what` for the error.
///
/// # Errors
/// Where the bytes are not such a record, or something is left behind it.
pub fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes(bytes) {
        Ok((record, [])) => Ok(record),
        Ok(_) | Err(_) => Err(DecodeError { what, len: bytes.len() }),
    }
}
