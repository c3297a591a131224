//! The records of encryption keys: made, given new versions, disabled, and never removed, since what was written with a key can
//! be read with nothing else.

use super::change::{IdentityError, change, check_name, invalid, read, write};
use crate::keyring::{KeyService, KeyringError};
use holdfast_meta_raft_machine::ask::IdentitiesNow;
use holdfast_meta_raft_server::Meta;
use serde::{Deserialize, Serialize};

/// Versions that a key may have.
const VERSIONS_MAX: usize = 1000;

/// A key as the metadata keeps it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KmsKey {
    pub id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    pub created_ms: u64,
    /// Nothing is encrypted with it, and nothing opened.
    #[serde(default)]
    pub disabled: bool,
    pub versions: Vec<KeyVersion>,
}

/// The material of one version, wrapped and in hexadecimal.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyVersion {
    pub created_ms: u64,
    pub wrapped: String,
}

impl From<KeyringError> for IdentityError {
    fn from(error: KeyringError) -> Self {
        match error {
            KeyringError::Meta(error) => Self::Meta(error),
            KeyringError::Unknown(_) => Self::Unknown("key"),
            KeyringError::Disabled(_) | KeyringError::Service(_) => Self::Invalid(error.to_string()),
        }
    }
}

impl From<IdentityError> for KeyringError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Meta(error) => Self::Meta(error),
            IdentityError::Exists(_)
            | IdentityError::Unknown(_)
            | IdentityError::Invalid(_)
            | IdentityError::Busy => Self::Service(error.to_string()),
        }
    }
}

impl KmsKey {
    /// A key with its first version.
    fn new(id: &str, description: &str, first: KeyVersion) -> Self {
        Self {
            id: id.to_owned(),
            description: description.to_owned(),
            created_ms: first.created_ms,
            disabled: false,
            versions: vec![first],
        }
    }
}

fn path(id: &str) -> String {
    format!("kms/{id}")
}

async fn new_version(
    service: &dyn KeyService,
    id: &str,
    created_ms: u64,
) -> Result<KeyVersion, IdentityError> {
    let material: [u8; 32] = rand::random();
    Ok(KeyVersion { created_ms, wrapped: hex::encode(service.wrap(id, &material).await?) })
}

/// Makes a key.
///
/// # Errors
/// As all here: where it is refused, or the metadata or the key service does not answer.
pub async fn create(
    meta: &Meta,
    service: &dyn KeyService,
    id: &str,
    description: &str,
    created_ms: u64,
) -> Result<KmsKey, IdentityError> {
    check_name(id)?;
    if description.len() > 1024 {
        return invalid("a description has 1024 bytes at most");
    }
    let version = new_version(service, id, created_ms).await?;
    change(meta, |records| {
        if records.contains_key(&path(id)) {
            return Err(IdentityError::Exists("key"));
        }
        let key = KmsKey::new(id, description, version.clone());
        write(records, path(id), &key)?;
        Ok(key)
    })
    .await
}

/// Makes a key of the system's own, unless there is one.
///
/// # Errors
/// See [`create`].
pub async fn ensure(
    meta: &Meta,
    service: &dyn KeyService,
    id: &str,
    created_ms: u64,
) -> Result<(), IdentityError> {
    let version = new_version(service, id, created_ms).await?;
    change(meta, |records| {
        if records.contains_key(&path(id)) {
            return Ok(());
        }
        let key = KmsKey::new(id, "", version.clone());
        write(records, path(id), &key)
    })
    .await
}

/// Gives a key a new version: what is written from now on takes it.
///
/// # Errors
/// See [`create`].
pub async fn rotate(
    meta: &Meta,
    service: &dyn KeyService,
    id: &str,
    now_ms: u64,
) -> Result<KmsKey, IdentityError> {
    let version = new_version(service, id, now_ms).await?;
    change(meta, |records| {
        let mut key: KmsKey = read(records, &path(id), "key")?;
        if key.versions.len() >= VERSIONS_MAX {
            return invalid(format!("the key has {VERSIONS_MAX} versions, which is the most: make another"));
        }
        key.versions.push(version.clone());
        write(records, path(id), &key)?;
        Ok(key)
    })
    .await
}

/// Disables a key, or enables it again.
///
/// # Errors
/// See [`create`].
pub async fn disable(meta: &Meta, id: &str, disabled: bool) -> Result<KmsKey, IdentityError> {
    change(meta, |records| {
        let mut key: KmsKey = read(records, &path(id), "key")?;
        key.disabled = disabled;
        write(records, path(id), &key)?;
        Ok(key)
    })
    .await
}

/// All keys.
///
/// # Errors
/// See [`create`].
pub async fn keys(meta: &Meta) -> Result<Vec<KmsKey>, IdentityError> {
    let (_, records) = meta.ask(IdentitiesNow {}).await?;
    let keys = records.iter().filter(|(name, _)| name.starts_with("kms/"));
    Ok(keys.filter_map(|(_, text)| serde_json::from_str(text).ok()).collect())
}
