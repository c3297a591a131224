//! Temporary credentials. Nothing of them is kept: the access key names the version of the system's session key from which its secret
//! follows, and the token says, sealed with the same key, whose they are and until when.

use crate::{
    identity::{
        Identities, OWNER_ACCOUNT, Read, Who,
        change::{ID_LETTERS, random_text},
        read_policy,
    },
    keyring::{Keyring, KeyringError, SESSION_KEY},
    seal::Seal,
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// With which access keys of sessions begin, as in AWS. No other key may.
pub const PREFIX: &str = "ASIA";

/// Whose a session is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Holder {
    /// The system's owner.
    Owner,
    /// An account's principal or a user's, by the name that keys have of it, and its id: names are used again.
    Principal {
        name: String,
        id: String,
    },
    Role {
        account: String,
        role: String,
        id: String,
        session: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Token {
    access: String,
    expires_ms: u64,
    holder: Holder,
    /// Beyond which the session may do nothing.
    limit: Option<String>,
}

/// Credentials for a while.
pub struct Temporary {
    pub access: String,
    pub secret: String,
    pub token: String,
    pub expires_ms: u64,
}

/// Why a token is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadToken {
    Invalid,
    Expired,
}

/// A secret that only who has the key can know.
fn secret(seal: &Seal, access: &str) -> String {
    let mut secret = BASE64_URL_SAFE_NO_PAD
        .encode(blake3::hash(&seal.seal(format!("secret of {access}").as_bytes())).as_bytes());
    secret.truncate(40);
    secret
}

/// The version of the session key that an access key names.
fn version_of(access: &str) -> Option<u32> {
    let digits = access.strip_prefix(PREFIX)?.get(..4)?;
    u32::from_str_radix(digits, 16).ok()
}

/// Makes credentials for `holder`.
///
/// # Errors
/// Where the session key cannot be had.
pub async fn make(
    keyring: &Keyring,
    holder: Holder,
    limit: Option<String>,
    expires_ms: u64,
) -> Result<Temporary, KeyringError> {
    let (version, seal) = keyring.newest(SESSION_KEY).await?;
    let access = format!("{PREFIX}{version:04X}{}", random_text(ID_LETTERS, 12));
    let token = Token { access: access.clone(), expires_ms, holder, limit };
    let text = serde_json::to_vec(&token).map_err(|error| KeyringError::Service(error.to_string()))?;
    let secret = secret(&seal, &access);
    Ok(Temporary { secret, token: BASE64_URL_SAFE_NO_PAD.encode(seal.seal(&text)), access, expires_ms })
}

/// The secret of a session's access key; `None` where it names no version that there is.
pub async fn secret_of(keyring: &Keyring, access: &str) -> Option<String> {
    let seal = keyring.version(SESSION_KEY, version_of(access)?).await.ok()?;
    Some(secret(&seal, access))
}

/// Whose a session is, by its token.
///
/// # Errors
/// Where the token is not the access key's, is over, or its holder is gone.
pub async fn resolve(
    keyring: &Keyring,
    identities: &Identities,
    access: &str,
    token: &str,
    now_ms: u64,
) -> Result<Who, BadToken> {
    let version = version_of(access).ok_or(BadToken::Invalid)?;
    let seal = keyring.version(SESSION_KEY, version).await.map_err(|_| BadToken::Invalid)?;
    let sealed = BASE64_URL_SAFE_NO_PAD.decode(token).map_err(|_| BadToken::Invalid)?;
    let text = seal.open(Bytes::from(sealed)).map_err(|_| BadToken::Invalid)?;
    let token: Token = serde_json::from_slice(&text).map_err(|_| BadToken::Invalid)?;
    if token.access != access {
        return Err(BadToken::Invalid);
    }
    if token.expires_ms <= now_ms {
        return Err(BadToken::Expired);
    }
    let limit: Option<Read> = token.limit.as_deref().map(read_policy);
    match token.holder {
        Holder::Owner if limit.is_none() => Ok(Who::Owner),
        Holder::Owner => Err(BadToken::Invalid),
        Holder::Principal { name, id } => {
            let found = identities.principal(&name).filter(|principal| principal.id == id);
            let principal = found.ok_or(BadToken::Invalid)?;
            let mut principal = (*principal).clone();
            principal.limits.extend(limit);
            Ok(Who::User(Arc::new(principal)))
        }
        Holder::Role { account, role, id, session } => {
            let found = identities.accounts.get(&account).ok_or(BadToken::Invalid)?;
            let role = found.roles.get(&role).filter(|role| role.entity.id == id).ok_or(BadToken::Invalid)?;
            if account != OWNER_ACCOUNT && !identities.is_enabled(&found.canonical) {
                return Err(BadToken::Invalid);
            }
            Ok(Who::User(Arc::new(role.session(&found.canonical, &account, &session, limit))))
        }
    }
}
