//! Keys under which objects are encrypted, by name, each with its versions: what is written takes the newest, what was written
//! keeps its own.
//!
//! Key records live with the identities. The material in them is wrapped by a [`KeyService`]: an external one opens it on
//! demand; the local one leaves it as it is, since the metadata lies on other disks than objects, and in its archive on the
//! devices is sealed with the recovery key.

use crate::{
    identity::{
        Directory,
        kms::{self, KmsKey},
    },
    seal::{Purpose, Seal},
};
use holdfast_meta_raft_server::{Meta, MetaError};
use lru::LruCache;
use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};
use thiserror::Error;

/// The key of objects whose writers ask for encryption and name no key of theirs. No client can name it.
pub const SYSTEM_KEY: &str = "holdfast/s3";

/// The key of `aws:kms` where none is named.
pub const DEFAULT_KEY: &str = "aws/s3";

/// The key from which temporary credentials follow.
pub const SESSION_KEY: &str = "holdfast/sessions";

/// Opened keys that are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).expect("it is not zero");

/// Why a key cannot be used.
#[derive(Debug, Error)]
pub enum KeyringError {
    #[error("Key '{0}' does not exist")]
    Unknown(String),
    #[error("Key '{0}' is disabled")]
    Disabled(String),
    #[error("the key service: {0}")]
    Service(String),
    #[error(transparent)]
    Meta(#[from] MetaError),
}

/// What keeps the material of keys closed.
#[async_trait::async_trait]
pub trait KeyService: Send + Sync {
    /// Closes the material of a key's new version.
    ///
    /// # Errors
    /// Where the service does not.
    async fn wrap(&self, key: &str, material: &[u8; 32]) -> Result<Vec<u8>, KeyringError>;

    /// Opens what [`wrap`](Self::wrap) closed.
    ///
    /// # Errors
    /// Where the service does not, or the bytes are not its own.
    async fn unwrap(&self, key: &str, wrapped: &[u8]) -> Result<[u8; 32], KeyringError>;
}

/// Material that is kept as it is.
pub struct LocalKeys;

#[async_trait::async_trait]
impl KeyService for LocalKeys {
    async fn wrap(&self, _key: &str, material: &[u8; 32]) -> Result<Vec<u8>, KeyringError> {
        Ok(material.to_vec())
    }

    async fn unwrap(&self, key: &str, wrapped: &[u8]) -> Result<[u8; 32], KeyringError> {
        wrapped.try_into().map_err(|_| KeyringError::Service(format!("the record of key {key} is damaged")))
    }
}

/// The keys as one gateway uses them.
pub struct Keyring {
    meta: Meta,
    directory: Arc<Directory>,
    service: Arc<dyn KeyService>,
    /// By wrapped material: whatever else of a record changes, that is what makes the key.
    opened: Mutex<LruCache<String, Seal>>,
}

impl Keyring {
    pub fn new(meta: Meta, directory: Arc<Directory>, service: Arc<dyn KeyService>) -> Self {
        Self { meta, directory, service, opened: Mutex::new(LruCache::new(REMEMBERED)) }
    }

    /// The key's newest version, and its number. The system's own keys are made when they are first asked for.
    ///
    /// # Errors
    /// Where there is no such key, or it is disabled.
    pub async fn newest(&self, id: &str) -> Result<(u32, Seal), KeyringError> {
        let ours = [SYSTEM_KEY, DEFAULT_KEY, SESSION_KEY].contains(&id);
        if ours && !self.directory.now().kms.contains_key(id) {
            kms::ensure(&self.meta, &*self.service, id, crate::clock::unix_ms()).await?;
            self.directory.refresh(u64::MAX).await?;
        }
        let key = self.find(id)?;
        let number = key.versions.len().saturating_sub(1) as u32;
        Ok((number, self.open(&key, number).await?))
    }

    /// A version of a key.
    ///
    /// # Errors
    /// Where there is none, or the key is disabled.
    pub async fn version(&self, id: &str, number: u32) -> Result<Seal, KeyringError> {
        let known = |key: &Arc<KmsKey>| key.versions.len() > number as usize;
        if !self.directory.now().kms.get(id).is_some_and(known) {
            // Another gateway may just have made it.
            self.directory.look_again().await?;
        }
        self.open(&*self.find(id)?, number).await
    }

    fn find(&self, id: &str) -> Result<Arc<KmsKey>, KeyringError> {
        let known = self.directory.now();
        let key = known.kms.get(id).ok_or_else(|| KeyringError::Unknown(id.to_owned()))?;
        if key.disabled { Err(KeyringError::Disabled(id.to_owned())) } else { Ok(key.clone()) }
    }

    async fn open(&self, key: &KmsKey, number: u32) -> Result<Seal, KeyringError> {
        let damaged = || KeyringError::Service(format!("key {} has no version {number}", key.id));
        let wrapped = &key.versions.get(number as usize).ok_or_else(damaged)?.wrapped;
        if let Some(seal) = self.opened().get(wrapped) {
            return Ok(seal.clone());
        }
        let bytes = hex::decode(wrapped).map_err(|_| damaged())?;
        let seal = Seal::new(Purpose::Kept, &self.service.unwrap(&key.id, &bytes).await?);
        self.opened().put(wrapped.clone(), seal.clone());
        Ok(seal)
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, LruCache<String, Seal>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
