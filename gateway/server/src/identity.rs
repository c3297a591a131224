//! Users, their keys and their policies: kept in the metadata, remembered here as long as nothing of them changes.
//!
//! A user that an operator makes is an account of its own: it owns what it creates, may do everything with that, and
//! nothing with what is others' unless they allow it. The keys that the system was founded with are the system's owner's.

use arc_swap::ArcSwap;
pub use change::IdentityError;
use holdfast_meta_raft_machine::ask::IdentitiesNow;
use holdfast_meta_raft_server::{Meta, MetaError};
use kms::KmsKey;
use s3s::auth::SecretKey;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};
use subtle::ConstantTimeEq;

pub mod change;
pub mod devices;
mod global;
pub mod iam;
pub mod kms;
mod principal;

pub use global::Global;
pub use principal::{OWNER_ACCOUNT, Principal, PrincipalKind, Read, Who, read_policy};

/// What the system's owner is called where S3 shows owners.
pub const OWNER: &str = "holdfast";

/// A canonical id as it is shown.
pub fn shown(canonical: &str) -> &str {
    if canonical.is_empty() { OWNER } else { canonical }
}

/// A user as the metadata keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Also the canonical id, under which grants and owners name it.
    pub name: String,
    /// Twelve digits.
    pub account: String,
    pub display_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    pub created_ms: u64,
    /// None of its keys opens anything.
    #[serde(default)]
    pub disabled: bool,
    /// Its own policies, by name.
    #[serde(default)]
    pub policies: BTreeMap<String, String>,
    /// The names of policies that it shares with others.
    #[serde(default)]
    pub attached: BTreeSet<String>,
    /// The hash of the password with which devices are paired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// An access key as the metadata keeps it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// An account's name, or `ACCOUNT:NAME` of a user in one.
    pub user: String,
    pub secret: String,
    pub created_ms: u64,
    #[serde(default)]
    pub disabled: bool,
}

/// A user that is an account, with its policies read.
#[derive(Debug)]
pub struct Known {
    pub user: User,
    pub principal: Arc<Principal>,
}

/// All identities at one moment.
#[derive(Default)]
pub struct Identities {
    /// Of the last change; 0 before the first.
    pub number: u64,
    pub users: BTreeMap<String, Arc<Known>>,
    keys: HashMap<String, Key>,
    /// Devices by their ids, with whose they are.
    pub devices: HashMap<String, (String, devices::Device)>,
    /// Codes by which devices can be paired, by user.
    pub codes: BTreeMap<String, devices::Code>,
    /// Who vouches for whom, with the account that says so.
    pub providers: Vec<(String, iam::Provider)>,
    /// Users and roles in accounts, by the accounts' digits.
    pub accounts: BTreeMap<String, iam::Account>,
    /// Keys that objects are encrypted with.
    pub kms: BTreeMap<String, Arc<KmsKey>>,
}

impl Identities {
    /// Reads what the metadata keeps. What cannot be read is left out, and said.
    pub fn read(number: u64, records: &[(String, String)]) -> Self {
        let mut identities = Self { number, ..Self::default() };
        let of = |kind: &'static str| {
            records.iter().filter_map(move |(name, text)| Some((name.strip_prefix(kind)?, text)))
        };
        let shared: HashMap<&str, Read> =
            of("policy/").map(|(name, text)| (name, read_policy(text))).collect();
        for (name, text) in of("user/") {
            let Ok(user) = serde_json::from_str::<User>(text) else {
                tracing::error!(name, "a user's record cannot be read: it has no access");
                continue;
            };
            let own = user.policies.values().map(|text| read_policy(text));
            let attached = user.attached.iter().map(|name| shared.get(name.as_str()).cloned().flatten());
            let policies = own.chain(attached).collect();
            let principal = Arc::new(Principal::account(&user.name, &user.account, policies));
            identities.users.insert(user.name.clone(), Arc::new(Known { user, principal }));
        }
        let owners =
            identities.users.values().map(|known| (known.user.account.clone(), known.user.name.clone()));
        identities.accounts = iam::read(records, &owners.collect());
        identities.providers = iam::providers(records);
        for (access, text) in of("key/") {
            match serde_json::from_str(text) {
                Ok(key) => drop(identities.keys.insert(access.to_owned(), key)),
                Err(error) => {
                    tracing::error!(%error, "an access key's record cannot be read: it opens nothing")
                }
            }
        }
        for (name, text) in of("device/") {
            let Some((user, id)) = name.rsplit_once('/') else { continue };
            match serde_json::from_str(text) {
                Ok(device) => drop(identities.devices.insert(id.to_owned(), (user.to_owned(), device))),
                Err(error) => {
                    tracing::error!(id, %error, "a device's record cannot be read: it opens nothing")
                }
            }
        }
        for (user, text) in of("code/") {
            match serde_json::from_str(text) {
                Ok(code) => drop(identities.codes.insert(user.to_owned(), code)),
                Err(error) => tracing::error!(user, %error, "a pairing code's record cannot be read"),
            }
        }
        for (id, text) in of("kms/") {
            match serde_json::from_str(text) {
                Ok(key) => drop(identities.kms.insert(id.to_owned(), Arc::new(key))),
                Err(error) => tracing::error!(id, %error, "an encryption key's record cannot be read"),
            }
        }
        identities
    }

    /// A principal by the name that keys have of it: an account's, or `ACCOUNT:NAME` of a user in one.
    pub fn principal(&self, holder: &str) -> Option<Arc<Principal>> {
        let Some((account, name)) = holder.split_once(':') else {
            return self
                .users
                .get(holder)
                .filter(|known| !known.user.disabled)
                .map(|known| known.principal.clone());
        };
        let account = self.accounts.get(account).filter(|account| self.is_enabled(&account.canonical))?;
        account.users.get(name).cloned()
    }

    /// Whether the account with this canonical id may do anything.
    pub fn is_enabled(&self, canonical: &str) -> bool {
        canonical.is_empty() || self.users.get(canonical).is_some_and(|known| !known.user.disabled)
    }

    /// Under which name a key has whoever holds it.
    pub fn holder_of(&self, access: &str) -> Option<String> {
        self.keys.get(access).map(|key| key.user.clone())
    }

    /// The access keys of a user, with when they were made.
    pub fn keys_of(&self, user: &str) -> Vec<(&str, &Key)> {
        let mut keys: Vec<_> = self
            .keys
            .iter()
            .filter(|(_, key)| key.user == user)
            .map(|(access, key)| (access.as_str(), key))
            .collect();
        keys.sort_unstable_by_key(|(access, key)| (key.created_ms, *access));
        keys
    }

    /// Whether a canonical id is anybody's.
    pub fn is_user(&self, canonical: &str) -> bool {
        canonical == OWNER || self.users.contains_key(canonical)
    }

    pub fn by_email(&self, email: &str) -> Option<&Arc<Known>> {
        self.users.values().find(|known| known.user.email.as_deref() == Some(email))
    }
}

/// The key pair that the system was founded with.
#[derive(Clone)]
pub struct Credentials {
    access_key: String,
    secret_key: SecretKey,
}

impl Credentials {
    pub fn new(access_key: String, secret_key: String) -> Self {
        Self { access_key, secret_key: SecretKey::from(secret_key) }
    }
}

/// Keys that are not known are looked up again, so often at most: strangers must not load the metadata.
const REFRESH_PAUSE: Duration = Duration::from_millis(100);

/// What is known of identities. It is asked again when an answer of the metadata shows that they changed.
pub struct Directory {
    meta: Meta,
    owner: Credentials,
    known: ArcSwap<Identities>,
    /// When they were last read for a key that was not known.
    read_at: tokio::sync::Mutex<Option<Instant>>,
}

impl Directory {
    pub fn new(meta: Meta, owner: Credentials) -> Self {
        Self { meta, owner, known: ArcSwap::default(), read_at: tokio::sync::Mutex::default() }
    }

    pub fn now(&self) -> Arc<Identities> {
        self.known.load_full()
    }

    /// Reads them again, unless what is known is of change `number` or later.
    ///
    /// # Errors
    /// Where the metadata does not answer.
    pub async fn refresh(&self, number: u64) -> Result<Arc<Identities>, MetaError> {
        let known = self.known.load_full();
        if known.number >= number {
            return Ok(known);
        }
        let (number, records) = match self.meta.ask(IdentitiesNow {}).await {
            // A member of the version before: there are none yet.
            Err(MetaError::Refused(_)) => (0, Vec::new()),
            other => other?,
        };
        let read = Arc::new(Identities::read(number, &records));
        // Another request may have read later ones meanwhile.
        let newest =
            |now: &Arc<Identities>| if now.number > read.number { now.clone() } else { read.clone() };
        self.known.rcu(newest);
        Ok(self.known.load_full())
    }

    /// Reads them again for a key that is not known. Who asks too soon waits, and many who wait share one reading.
    pub async fn look_again(&self) -> Result<(), MetaError> {
        let asked = Instant::now();
        let mut read_at = self.read_at.lock().await;
        if let Some(at) = *read_at {
            if at > asked {
                return Ok(());
            }
            tokio::time::sleep_until((at + REFRESH_PAUSE).into()).await;
        }
        let begun = Instant::now();
        self.refresh(u64::MAX).await?;
        *read_at = Some(begun);
        Ok(())
    }

    /// The secret of a key that is good.
    ///
    /// # Errors
    /// Where the metadata does not answer.
    pub async fn secret_of(&self, access: &str) -> Result<Option<SecretKey>, MetaError> {
        if access == self.owner.access_key {
            return Ok(Some(self.owner.secret_key.clone()));
        }
        if who_has(&self.known.load(), access).is_none() {
            self.look_again().await?;
        }
        let known = self.known.load();
        let good = known.keys.get(access).filter(|_| who_has(&known, access).is_some());
        Ok(good.map(|key| SecretKey::from(key.secret.clone())))
    }

    /// Whose a key is that has just been checked; `None` where it is no longer good, or another now.
    pub fn holder(&self, access: &str, secret: &SecretKey) -> Option<Who> {
        if access == self.owner.access_key {
            return Some(Who::Owner);
        }
        let known = self.known.load();
        let same = known
            .keys
            .get(access)
            .is_some_and(|key| SecretKey::from(key.secret.clone()).ct_eq(secret).into());
        who_has(&known, access).filter(|_| same).map(Who::User)
    }
}

/// The principal of a key, if both are enabled.
fn who_has(identities: &Identities, access: &str) -> Option<Arc<Principal>> {
    let key = identities.keys.get(access).filter(|key| !key.disabled)?;
    identities.principal(&key.user)
}
