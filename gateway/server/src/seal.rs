//! Chunks that are encrypted before they are named.
//!
//! A chunk is sealed with AES-256-GCM-SIV (RFC 8452) under the key of its domain and always the same nonce: that is
//! deterministic authenticated encryption, of which nothing shows but that two chunks of one domain are alike. Sealed chunks
//! are named by the hash of their sealed bytes, so that equal chunks of one key are stored once, and chunks of two keys never
//! are the same; nobody needs a key to verify, move or repair them. docs/adr/0007 has the reasons.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use bytes::Bytes;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Bytes that a sealed chunk has more than what is in it.
pub const SEAL_BYTES: u32 = 16;

const NONCE: [u8; NONCE_LEN] = [0; NONCE_LEN];

/// What bytes are sealed for: keys for one purpose are of no use for another.
#[derive(Debug, Clone, Copy)]
pub enum Purpose {
    /// A key that the system keeps.
    Kept,
    /// A key that clients bring with each request.
    Brought,
}

impl Purpose {
    fn context(self) -> &'static str {
        match self {
            Self::Kept => "holdfast 2026-11-23 chunks under a key of the keyring",
            Self::Brought => "holdfast 2026-11-23 chunks under a key that clients bring",
        }
    }
}

/// The key of a domain of encrypted chunks. Cheap to clone.
#[derive(Clone)]
pub struct Seal {
    key: Arc<LessSafeKey>,
    /// Tells keys apart, and tells nothing of them.
    id: [u8; 32],
}

impl PartialEq for Seal {
    fn eq(&self, other: &Self) -> bool {
        self.id.ct_eq(&other.id).into()
    }
}

/// The bytes were not sealed with this key, or were changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotSealedSo;

impl Seal {
    /// The key that follows from 32 secret bytes.
    ///
    /// # Panics
    /// Never: the key has the cipher's length.
    pub fn new(purpose: Purpose, secret: &[u8; 32]) -> Self {
        let key = blake3::derive_key(purpose.context(), secret);
        let id = blake3::derive_key("holdfast 2026-11-23 the name of a chunk key", &key);
        let key = UnboundKey::new(&AES_256_GCM_SIV, &key).expect("the key has the cipher's length");
        Self { key: Arc::new(LessSafeKey::new(key)), id }
    }

    /// The sealed form of `plain`, [`SEAL_BYTES`] longer.
    ///
    /// # Panics
    /// Never: a chunk is far shorter than what the cipher takes.
    pub fn seal(&self, plain: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(plain.len() + SEAL_BYTES as usize);
        sealed.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(NONCE);
        let done = self.key.seal_in_place_append_tag(nonce, Aad::empty(), &mut sealed);
        done.expect("a chunk is shorter than the cipher's limit");
        sealed
    }

    /// What was sealed.
    ///
    /// # Errors
    /// Where it was not sealed with this key.
    pub fn open(&self, sealed: Bytes) -> Result<Bytes, NotSealedSo> {
        let mut bytes = Vec::from(sealed);
        let nonce = Nonce::assume_unique_for_key(NONCE);
        let plain = self.key.open_in_place(nonce, Aad::empty(), &mut bytes).map_err(|_| NotSealedSo)?.len();
        bytes.truncate(plain);
        Ok(Bytes::from(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_sealed_opens_with_its_key_alone(plain: Vec<u8>, one: [u8; 32], other: [u8; 32], flip: usize) {
            prop_assume!(one != other);
            let seal = Seal::new(Purpose::Kept, &one);
            let sealed = seal.seal(&plain);
            prop_assert_eq!(sealed.len(), plain.len() + SEAL_BYTES as usize);
            // Equal chunks are sealed alike, and so stored once; with another key, or for another purpose, they are not.
            prop_assert_eq!(&seal.seal(&plain), &sealed);
            for stranger in [Seal::new(Purpose::Kept, &other), Seal::new(Purpose::Brought, &one)] {
                prop_assert!(stranger != seal && stranger.seal(&plain) != sealed);
                prop_assert_eq!(stranger.open(Bytes::from(sealed.clone())), Err(NotSealedSo));
            }
            prop_assert_eq!(seal.open(Bytes::from(sealed.clone())), Ok(Bytes::from(plain)));
            let mut damaged = sealed;
            let at = flip % damaged.len();
            damaged[at] ^= 1;
            prop_assert_eq!(seal.open(Bytes::from(damaged)), Err(NotSealedSo));
        }
    }

    #[test]
    fn the_plain_bytes_are_not_in_the_sealed_ones() {
        let plain = b"attack at dawn ".repeat(100);
        let sealed = Seal::new(Purpose::Brought, &[7; 32]).seal(&plain);
        assert!(!sealed.windows(15).any(|window| window == b"attack at dawn "));
        assert_eq!(Seal::new(Purpose::Brought, &[7; 32]).open(Bytes::new()), Err(NotSealedSo));
    }

    /// Kept: what was sealed must open for ever.
    #[test]
    fn sealed_bytes_stay_as_they_are() {
        let sealed = Seal::new(Purpose::Kept, &[1; 32]).seal(b"kept");
        assert_eq!(hex::encode(sealed), "dd340651fbafa45a5ce62741110c72bcae0ff21d");
    }
}
