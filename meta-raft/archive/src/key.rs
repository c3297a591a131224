//! The keys of the archive, and sealing with them.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, UnboundKey};
use holdfast_core::ids::{PackId, PgId};
use std::{fmt, str::FromStr};
use thiserror::Error;

/// A number that is used once under a key. Random ones are safe for 2^32 pieces.
pub type Nonce = [u8; NONCE_LEN];

/// Names a run of pieces; random.
pub type StreamId = [u8; 16];

/// What the written form of a recovery key begins with; the digit is its version.
const PREFIX: &str = "hfr1.";

/// Digits of the written form's check.
const CHECK: usize = 8;

const NAMES: &str = "holdfast 2026 names of archived pieces";
const PIECES: &str = "holdfast 2026 contents of archived pieces";

/// Bytes that cannot be opened: another key's, or damaged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SealError {
    #[error("the {0} cannot be opened with this key: it is another cluster's, or damaged")]
    Sealed(&'static str),
    #[error("the {0} is malformed, or of a newer version")]
    Malformed(&'static str),
    #[error("a recovery key is written as {PREFIX} and {} digits", 64 + CHECK)]
    Written,
}

pub(crate) fn seal(key: &[u8; 32], nonce: Nonce, about: &[u8], plain: &[u8]) -> Vec<u8> {
    let key = cipher(key);
    let mut bytes = plain.to_vec();
    let unique = aws_lc_rs::aead::Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(unique, Aad::from(about), &mut bytes)
        .expect("what fits in memory is below the cipher's limit");
    [&nonce[..], &bytes].concat()
}

pub(crate) fn open(
    what: &'static str,
    key: &[u8; 32],
    about: &[u8],
    sealed: &[u8],
) -> Result<Vec<u8>, SealError> {
    let (nonce, bytes) = sealed.split_at_checked(NONCE_LEN).ok_or(SealError::Sealed(what))?;
    let nonce = aws_lc_rs::aead::Nonce::try_assume_unique_for_key(nonce);
    let nonce = nonce.map_err(|_| SealError::Sealed(what))?;
    let mut bytes = bytes.to_vec();
    let opened = cipher(key).open_in_place(nonce, Aad::from(about), &mut bytes);
    let plain = opened.map_err(|_| SealError::Sealed(what))?.len();
    bytes.truncate(plain);
    Ok(bytes)
}

fn cipher(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("the key has the cipher's length"))
}

/// What opens the archive. Operators keep it; the cluster does not have it.
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryKey([u8; 32]);

impl RecoveryKey {
    /// A key of random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    fn check(&self) -> String {
        hex::encode(&blake3::hash(&self.0).as_bytes()[..CHECK / 2])
    }
}

impl fmt::Display for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}{}", hex::encode(self.0), self.check())
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey")
    }
}

impl FromStr for RecoveryKey {
    type Err = SealError;

    fn from_str(text: &str) -> Result<Self, SealError> {
        let digits = text.trim().strip_prefix(PREFIX).ok_or(SealError::Written)?;
        let (key, check) = digits.split_at_checked(64).ok_or(SealError::Written)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(key, &mut bytes).map_err(|_| SealError::Written)?;
        let found = Self(bytes);
        if found.check() == check { Ok(found) } else { Err(SealError::Written) }
    }
}

/// What the archive is sealed with, and its pieces are named by.
#[derive(Clone, PartialEq, Eq)]
pub struct ArchiveKey([u8; 32]);

impl fmt::Debug for ArchiveKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ArchiveKey")
    }
}

impl ArchiveKey {
    /// A key of random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key, sealed under the operators' key.
    pub fn wrap(&self, recovery: &RecoveryKey, nonce: Nonce) -> Vec<u8> {
        seal(&recovery.0, nonce, b"archive key", &self.0)
    }

    /// The key that was [wrapped](Self::wrap).
    ///
    /// # Errors
    /// Where it was wrapped under another key.
    pub fn unwrap(recovery: &RecoveryKey, wrapped: &[u8]) -> Result<Self, SealError> {
        let what = "recovery key's box";
        let bytes = open(what, &recovery.0, b"archive key", wrapped)?;
        Ok(Self(bytes.try_into().map_err(|_| SealError::Malformed(what))?))
    }

    /// The key of the pieces' contents: what seals is not what names.
    pub(crate) fn contents(&self) -> [u8; 32] {
        blake3::derive_key(PIECES, &self.0)
    }

    /// The pack that holds a piece, if the writer succeeded with that attempt. Attempts lie in different placement groups, so
    /// that one that cannot be written holds up nothing.
    pub fn name(&self, stream: &StreamId, number: u64, attempt: u32, groups: u32) -> PackId {
        let mut hasher = blake3::Hasher::new_derive_key(NAMES);
        hasher.update(&self.0).update(stream).update(&number.to_le_bytes()).update(&attempt.to_le_bytes());
        let hash = hasher.finalize();
        let (group, rest) = hash.as_bytes().split_at(8);
        let group = group.iter().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
        let mut random = [0; 12];
        random.copy_from_slice(&rest[..12]);
        PackId::new(PgId((group % u64::from(groups.max(1))) as u32), random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_open_what_they_sealed_and_nothing_else() {
        let (recovery, other) = (RecoveryKey::new([1; 32]), RecoveryKey::new([2; 32]));
        let key = ArchiveKey::new([3; 32]);
        let wrapped = key.wrap(&recovery, [4; 12]);
        assert_eq!(ArchiveKey::unwrap(&recovery, &wrapped), Ok(key));
        assert!(ArchiveKey::unwrap(&other, &wrapped).is_err());
        for bit in 0..wrapped.len() * 8 {
            let mut bad = wrapped.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(ArchiveKey::unwrap(&recovery, &bad).is_err());
        }
        assert!(ArchiveKey::unwrap(&recovery, &wrapped[..5]).is_err());
    }

    #[test]
    fn a_recovery_key_can_be_written_down_and_typed_in() {
        let key = RecoveryKey::new([0xab; 32]);
        let text = key.to_string();
        assert_eq!(text.parse(), Ok(key.clone()));
        assert_eq!(format!(" {text}\n").parse(), Ok(key));
        for (at, digit) in text.char_indices() {
            let wrong: String = text
                .char_indices()
                .map(|(i, c)| if i == at { if digit == '0' { '1' } else { '0' } } else { c })
                .collect();
            assert_eq!(wrong.parse::<RecoveryKey>(), Err(SealError::Written));
        }
    }

    #[test]
    fn names_are_spread_over_the_groups() {
        let key = ArchiveKey::new([5; 32]);
        let groups: std::collections::BTreeSet<_> =
            (0..64).map(|attempt| key.name(&[6; 16], 1, attempt, 32).pg()).collect();
        assert!(groups.len() > 16 && groups.iter().all(|group| group.0 < 32));
        assert_ne!(key.name(&[6; 16], 1, 0, 32), key.name(&[6; 16], 2, 0, 32));
        assert_ne!(key.name(&[6; 16], 1, 0, 32), key.name(&[7; 16], 1, 0, 32));
    }
}
