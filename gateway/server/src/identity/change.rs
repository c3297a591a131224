//! Changing identities: each change reads them, and counts only if nobody changed them meanwhile.

use super::{Key, OWNER, OWNER_ACCOUNT, User};
use crate::{notify::Webhook, replicate::Remote};
use holdfast_gateway_policy::Policy;
use holdfast_meta_raft_machine::{
    ask::{AccessKeys, IdentitiesNow},
    command::{Command, Rejection, Request},
};
use holdfast_meta_raft_server::{Meta, MetaError};
use std::collections::BTreeMap;
use thiserror::Error;

/// Times that a change is tried which raced with others.
const TRIES: usize = 20;

/// Identities that there may be, all kinds together.
const IDENTITIES_MAX: usize = 100_000;

/// Bytes of all identities: gateways keep and read them as one.
const ALL_BYTES_MAX: usize = 8 << 20;

/// Bytes of one change, which is one commit.
const CHANGE_BYTES_MAX: usize = 256 << 10;

/// Why nothing was changed.
#[derive(Debug, Error)]
pub enum IdentityError {
    #[error("there is a {0} of this name already")]
    Exists(&'static str),
    #[error("there is no {0} of this name")]
    Unknown(&'static str),
    #[error("{0}")]
    Invalid(String),
    #[error("others change identities all the time: try again")]
    Busy,
    #[error(transparent)]
    Meta(#[from] MetaError),
}

pub(super) type Records = BTreeMap<String, String>;

pub(super) fn invalid<T>(text: impl Into<String>) -> Result<T, IdentityError> {
    Err(IdentityError::Invalid(text.into()))
}

pub(super) fn read<T: serde::de::DeserializeOwned>(
    records: &Records,
    key: &str,
    what: &'static str,
) -> Result<T, IdentityError> {
    let text = records.get(key).ok_or(IdentityError::Unknown(what))?;
    serde_json::from_str(text)
        .map_err(|error| IdentityError::Invalid(format!("its record is damaged: {error}")))
}

pub(super) fn write<T: serde::Serialize>(
    records: &mut Records,
    key: String,
    value: &T,
) -> Result<(), IdentityError> {
    let text = serde_json::to_string(value).map_err(|error| IdentityError::Invalid(error.to_string()))?;
    records.insert(key, text);
    Ok(())
}

pub(super) fn check_name(name: &str) -> Result<(), IdentityError> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte);
    match (1..=64).contains(&name.len()) && name.bytes().all(known) {
        true => Ok(()),
        false => invalid("a name has 1 to 64 letters, digits or characters of +=,.@_-"),
    }
}

/// Reads identities, has `edit` change them, and writes what it changed.
pub(crate) async fn change<T, E: From<IdentityError>>(
    meta: &Meta,
    mut edit: impl FnMut(&mut Records) -> Result<T, E>,
) -> Result<T, E> {
    for _ in 0..TRIES {
        let (number, records) = meta.ask(IdentitiesNow {}).await.map_err(IdentityError::from)?;
        let before: Records = records.into_iter().collect();
        let mut after = before.clone();
        let result = edit(&mut after)?;
        let removed = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key.clone(), None));
        let changed = after.iter().filter(|(key, text)| before.get(*key) != Some(*text));
        let changes: Vec<_> =
            removed.chain(changed.map(|(key, text)| (key.clone(), Some(text.clone())))).collect();
        if changes.is_empty() {
            return Ok(result);
        }
        let size = |(key, text): &(String, Option<String>)| key.len() + text.as_ref().map_or(0, String::len);
        let whole: usize = after.iter().map(|(key, text)| key.len() + text.len()).sum();
        if changes.iter().map(size).sum::<usize>() > CHANGE_BYTES_MAX || whole > ALL_BYTES_MAX {
            let text = "identities and their policies would be larger than they may be";
            return Err(IdentityError::Invalid(text.to_owned()).into());
        }
        let command = Command::ChangeIdentities { number, changes };
        let outcome = meta.request(Request::idempotent(command)).await.map_err(IdentityError::from)?;
        match outcome.accepted() {
            Ok(_) => return Ok(result),
            Err(Rejection::IdentitiesChanged) => {}
            Err(rejection) => return Err(IdentityError::Invalid(rejection.to_string()).into()),
        }
    }
    Err(IdentityError::Busy.into())
}

/// A new user's particulars.
#[derive(Debug, Clone, Default)]
pub struct NewUser {
    pub name: String,
    pub display_name: Option<String>,
    pub email: Option<String>,
    pub created_ms: u64,
    /// The hash of its password.
    pub password: Option<String>,
}

/// Makes a user, which is an account of its own.
///
/// # Errors
/// As all here: where it is refused, or the metadata does not answer.
pub async fn create_user(meta: &Meta, new: &NewUser) -> Result<User, IdentityError> {
    check_name(&new.name)?;
    if new.name == OWNER {
        return Err(IdentityError::Exists("user"));
    }
    change(meta, |records| {
        let key = format!("user/{}", new.name);
        if records.contains_key(&key) {
            return Err(IdentityError::Exists("user"));
        }
        // Buckets and grants name users: who has the name of one that is gone would have what was that one's.
        if records.contains_key(&format!("gone/{}", new.name)) {
            return invalid("a user of this name was deleted: take another name");
        }
        if let Some(email) = &new.email {
            let mark = format!("\"email\":{}", serde_json::Value::from(email.as_str()));
            if records.iter().any(|(key, text)| key.starts_with("user/") && text.contains(&mark)) {
                return invalid("another user has this e-mail address");
            }
        }
        if records.len() >= IDENTITIES_MAX {
            return invalid(format!("there are {IDENTITIES_MAX} identities, which is the most"));
        }
        let taken = |account: &str| {
            let mark = format!("\"account\":\"{account}\"");
            account == OWNER_ACCOUNT || records.values().any(|text| text.contains(&mark))
        };
        let account = loop {
            let account = format!("{:012}", rand::random_range(0..1_000_000_000_000u64));
            if !taken(&account) {
                break account;
            }
        };
        let user = User {
            name: new.name.clone(),
            account,
            display_name: new.display_name.clone().unwrap_or_else(|| new.name.clone()),
            email: new.email.clone(),
            created_ms: new.created_ms,
            disabled: false,
            policies: BTreeMap::new(),
            attached: Default::default(),
            password: new.password.clone(),
        };
        write(records, key, &user)?;
        Ok(user)
    })
    .await
}

/// All users.
///
/// # Errors
/// See [`create_user`].
pub async fn users(meta: &Meta) -> Result<Vec<User>, IdentityError> {
    let (_, records) = meta.ask(IdentitiesNow {}).await?;
    let users = records.iter().filter(|(name, _)| name.starts_with("user/"));
    Ok(users.filter_map(|(_, text)| serde_json::from_str(text).ok()).collect())
}

/// Changes a user.
///
/// # Errors
/// See [`create_user`].
pub async fn change_user(
    meta: &Meta,
    name: &str,
    mut edit: impl FnMut(&mut User) -> Result<(), IdentityError>,
) -> Result<User, IdentityError> {
    change(meta, |records| {
        let key = format!("user/{name}");
        let mut user: User = read(records, &key, "user")?;
        edit(&mut user)?;
        write(records, key, &user)?;
        Ok(user)
    })
    .await
}

/// Removes a user with its keys. What it owns stays, and is the system's owner's to deal with.
///
/// # Errors
/// See [`create_user`].
pub async fn delete_user(meta: &Meta, name: &str) -> Result<(), IdentityError> {
    change(meta, |records| {
        records.remove(&format!("user/{name}")).ok_or(IdentityError::Unknown("user"))?;
        records.insert(format!("gone/{name}"), String::new());
        let theirs = |text: &str| serde_json::from_str::<Key>(text).is_ok_and(|key| key.user == name);
        let devices = format!("device/{name}/");
        records.retain(|key, text| (!key.starts_with("key/") || !theirs(text)) && !key.starts_with(&devices));
        Ok(())
    })
    .await
}

/// An access key and its secret.
#[derive(Clone)]
pub struct Pair {
    pub access: String,
    pub secret: String,
}

/// Letters of ids, as AWS has them.
pub const ID_LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Random characters of an alphabet of which no part is left out for a reason but that shells and URLs take it as it is.
pub fn random_text(alphabet: &[u8], len: usize) -> String {
    (0..len).map(|_| char::from(alphabet[rand::random_range(0..alphabet.len())])).collect()
}

impl Pair {
    pub fn random() -> Self {
        const ALL: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        Self { access: format!("HF{}", random_text(ID_LETTERS, 18)), secret: random_text(ALL, 40) }
    }
}

/// Makes an access key for a user: the one that is given, or a random one.
///
/// # Errors
/// See [`create_user`].
pub async fn create_key(
    meta: &Meta,
    user: &str,
    given: Option<Pair>,
    created_ms: u64,
) -> Result<Pair, IdentityError> {
    if let Some(Pair { access, secret }) = &given {
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if !(3..=128).contains(&access.len())
            || !access.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        {
            return invalid("an access key has 3 to 128 letters, digits or characters of ._-");
        }
        if !(8..=128).contains(&secret.len()) || !plain(secret) {
            return invalid("a secret key has 8 to 128 printable characters");
        }
    }
    let pair = given.unwrap_or_else(Pair::random);
    let owners = meta.ask(AccessKeys {}).await?;
    if owners.iter().any(|key| key.access == pair.access) {
        return Err(IdentityError::Exists("access key"));
    }
    change(meta, |records| {
        let _exists: User = read(records, &format!("user/{user}"), "user")?;
        let key = format!("key/{}", pair.access);
        if records.contains_key(&key) {
            return Err(IdentityError::Exists("access key"));
        }
        let record = Key { user: user.to_owned(), secret: pair.secret.clone(), created_ms, disabled: false };
        write(records, key, &record)
    })
    .await?;
    Ok(pair)
}

/// Removes an access key.
///
/// # Errors
/// See [`create_user`].
pub async fn delete_key(meta: &Meta, access: &str) -> Result<(), IdentityError> {
    change(meta, |records| {
        records.remove(&format!("key/{access}")).map(drop).ok_or(IdentityError::Unknown("access key"))
    })
    .await
}

/// Keeps a policy that users can share.
///
/// # Errors
/// See [`create_user`]; and where the policy is none.
pub async fn put_policy(meta: &Meta, name: &str, text: &str) -> Result<(), IdentityError> {
    check_name(name)?;
    check_policy(text)?;
    change(meta, |records| {
        records.insert(format!("policy/{name}"), text.to_owned());
        Ok(())
    })
    .await
}

/// Whether a text is a policy of an identity.
///
/// # Errors
/// What is wrong with it.
pub fn check_policy(text: &str) -> Result<(), IdentityError> {
    Policy::of_identity(text).map(drop).map_err(|error| IdentityError::Invalid(error.to_string()))
}

/// Policies that users can share, by name.
///
/// # Errors
/// See [`create_user`].
pub async fn policies(meta: &Meta) -> Result<BTreeMap<String, String>, IdentityError> {
    let (_, records) = meta.ask(IdentitiesNow {}).await?;
    let named = |(name, text): (String, String)| Some((name.strip_prefix("policy/")?.to_owned(), text));
    Ok(records.into_iter().filter_map(named).collect())
}

/// Removes a policy that nobody has attached.
///
/// # Errors
/// See [`create_user`].
pub async fn delete_policy(meta: &Meta, name: &str) -> Result<(), IdentityError> {
    change(meta, |records| {
        let attached = |(key, text): (&String, &String)| {
            key.starts_with("user/")
                && serde_json::from_str::<User>(text).is_ok_and(|user| user.attached.contains(name))
        };
        if records.iter().any(attached) {
            return invalid("users have the policy attached: detach it first");
        }
        records.remove(&format!("policy/{name}")).map(drop).ok_or(IdentityError::Unknown("policy"))
    })
    .await
}

/// Attaches a policy to a user, or detaches it.
///
/// # Errors
/// See [`create_user`].
pub async fn attach_policy(
    meta: &Meta,
    user: &str,
    policy: &str,
    attach: bool,
) -> Result<User, IdentityError> {
    change(meta, |records| {
        if attach && !records.contains_key(&format!("policy/{policy}")) {
            return Err(IdentityError::Unknown("policy"));
        }
        let key = format!("user/{user}");
        let mut known: User = read(records, &key, "user")?;
        match attach {
            true => drop(known.attached.insert(policy.to_owned())),
            false if !known.attached.remove(policy) => return Err(IdentityError::Unknown("policy")),
            false => {}
        }
        write(records, key, &known)?;
        Ok(known)
    })
    .await
}

/// Keeps a webhook, or gives one another address.
///
/// # Errors
/// See [`create_user`]; and where its address is none.
pub async fn put_webhook(meta: &Meta, webhook: &Webhook) -> Result<(), IdentityError> {
    check_name(&webhook.name)?;
    let address = reqwest::Url::parse(&webhook.url).ok();
    if !address.is_some_and(|url| ["http", "https"].contains(&url.scheme()) && url.has_host()) {
        return invalid("a webhook's address begins with http:// or https:// and names a host");
    }
    change(meta, |records| write(records, Webhook::path(&webhook.name), webhook)).await
}

/// Makes another cluster known, or changes how it is reached.
///
/// # Errors
/// See [`create_user`]; and where its address is none, or a user is not known.
pub async fn put_remote(meta: &Meta, remote: &Remote) -> Result<(), IdentityError> {
    check_name(&remote.name)?;
    let address = reqwest::Url::parse(&remote.url).ok();
    let is_plain = |url: reqwest::Url| {
        ["http", "https"].contains(&url.scheme())
            && url.has_host()
            && url.path() == "/"
            && url.query().is_none()
    };
    if !address.is_some_and(is_plain) {
        return invalid("a remote's address is http:// or https:// and a host, without a path");
    }
    change(meta, |records| {
        if let Some(user) = remote.users.iter().find(|user| !records.contains_key(&format!("user/{user}"))) {
            return invalid(format!("there is no user {user}"));
        }
        write(records, Remote::path(&remote.name), remote)
    })
    .await
}

/// Forgets another cluster. What is to be copied there waits.
///
/// # Errors
/// See [`create_user`].
pub async fn delete_remote(meta: &Meta, name: &str) -> Result<(), IdentityError> {
    change(meta, |records| {
        records.remove(&Remote::path(name)).map(drop).ok_or(IdentityError::Unknown("remote"))
    })
    .await
}

/// Removes a webhook.
///
/// # Errors
/// See [`create_user`].
pub async fn delete_webhook(meta: &Meta, name: &str) -> Result<(), IdentityError> {
    change(meta, |records| {
        records.remove(&Webhook::path(name)).map(drop).ok_or(IdentityError::Unknown("webhook"))
    })
    .await
}
