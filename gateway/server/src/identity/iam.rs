//! Users, groups and roles in accounts, as the metadata keeps them and as requests are judged by them.

use super::principal::{OWNER_ACCOUNT, Principal, PrincipalKind, Read, read_policy};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

/// What has policies in an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    User,
    Group,
    Role,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::User, Self::Group, Self::Role];

    /// As names of actions have it.
    pub fn title(self) -> &'static str {
        match self {
            Self::User => "User",
            Self::Group => "Group",
            Self::Role => "Role",
        }
    }

    /// With which ids of the kind begin, as in AWS.
    pub fn id_prefix(self) -> &'static str {
        match self {
            Self::User => "AIDA",
            Self::Group => "AGPA",
            Self::Role => "AROA",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Group => "group",
            Self::Role => "role",
        })
    }
}

/// A user, a group or a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entity {
    pub name: String,
    pub path: String,
    pub id: String,
    pub created_ms: u64,
    /// Its own policies, by name.
    #[serde(default)]
    pub policies: BTreeMap<String, String>,
    /// The ARNs of managed policies.
    #[serde(default)]
    pub attached: BTreeSet<String>,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// A group's users.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub members: BTreeSet<String>,
    /// Who may assume a role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// How long a role's sessions may last, in seconds.
    #[serde(default)]
    pub session_max_s: u64,
    /// The ARN of a managed policy beyond which nothing is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boundary: Option<String>,
}

/// A policy that several entities share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Managed {
    pub name: String,
    pub path: String,
    pub id: String,
    pub description: String,
    pub created_ms: u64,
    pub updated_ms: u64,
    /// By number: document, and when it was made.
    pub versions: BTreeMap<u32, (String, u64)>,
    pub default: u32,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

impl Managed {
    pub fn document(&self) -> &str {
        self.versions.get(&self.default).map_or("", |(document, _)| document)
    }
}

/// An OpenID Connect provider, whose tokens roles may trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// With its scheme.
    pub url: String,
    pub client_ids: BTreeSet<String>,
    pub thumbprints: Vec<String>,
    pub created_ms: u64,
}

/// Policies that every account has, as in AWS.
const BUILT_IN: [(&str, &str); 5] = [
    (
        "AdministratorAccess",
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#,
    ),
    (
        "AmazonS3FullAccess",
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:*","s3-object-lambda:*"],"Resource":"*"}]}"#,
    ),
    (
        "AmazonS3ReadOnlyAccess",
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:Get*","s3:List*","s3:Describe*"],"Resource":"*"}]}"#,
    ),
    (
        "IAMFullAccess",
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iam:*","Resource":"*"}]}"#,
    ),
    (
        "IAMReadOnlyAccess",
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["iam:Get*","iam:List*"],"Resource":"*"}]}"#,
    ),
];

/// Policies that every account has: ARN and document.
pub fn built_in() -> impl Iterator<Item = (String, &'static str)> {
    BUILT_IN.iter().map(|(name, document)| (format!("arn:aws:iam::aws:policy/{name}"), *document))
}

pub fn arn(account: &str, kind: impl fmt::Display, path: &str, name: &str) -> String {
    format!("arn:aws:iam::{account}:{kind}{path}{name}")
}

/// A role and what it may do.
pub struct Role {
    pub entity: Entity,
    pub arn: String,
    policies: Vec<Read>,
    limits: Vec<Read>,
}

impl Role {
    /// The principal of a session of the role.
    pub fn session(&self, canonical: &str, account: &str, name: &str, limit: Option<Read>) -> Principal {
        Principal {
            kind: PrincipalKind::AssumedRole,
            name: name.to_owned(),
            canonical: canonical.to_owned(),
            account: account.to_owned(),
            arn: format!("arn:aws:sts::{account}:assumed-role/{}/{name}", self.entity.name),
            role: Some(self.arn.clone()),
            id: format!("{}:{name}", self.entity.id),
            policies: self.policies.clone(),
            limits: self.limits.iter().cloned().chain(limit).collect(),
        }
    }
}

/// What is in one account.
#[derive(Default)]
pub struct Account {
    pub canonical: String,
    pub users: BTreeMap<String, Arc<Principal>>,
    pub roles: BTreeMap<String, Role>,
}

/// The identity providers of all accounts. What cannot be read is nobody's.
pub fn providers(records: &[(String, String)]) -> Vec<(String, Provider)> {
    let of = |(key, text): &(String, String)| {
        let (account, _, _) = parts(key).filter(|(_, kind, _)| *kind == "oidc-provider")?;
        Some((account.to_owned(), serde_json::from_str(text).ok()?))
    };
    records.iter().filter_map(of).collect()
}

/// A record of an account: `iam/ACCOUNT/KIND/NAME`.
fn parts(key: &str) -> Option<(&str, &str, &str)> {
    let mut parts = key.strip_prefix("iam/")?.splitn(3, '/');
    Some((parts.next()?, parts.next()?, parts.next()?))
}

/// Reads what is in accounts; `owners` are canonical ids by account. What cannot be read is left out, and said.
pub fn read(records: &[(String, String)], owners: &BTreeMap<String, String>) -> BTreeMap<String, Account> {
    let mut managed: BTreeMap<String, Read> =
        built_in().map(|(arn, document)| (arn, read_policy(document))).collect();
    let mut entities: BTreeMap<(&str, String), Vec<Entity>> = BTreeMap::new();
    for (key, text) in records {
        let Some((account, kind, name)) = parts(key) else { continue };
        if kind == "policy" {
            if let Ok(policy) = serde_json::from_str::<Managed>(text) {
                let arn = arn(account, "policy", &policy.path, &policy.name);
                managed.insert(arn, read_policy(policy.document()));
            }
        } else if Kind::ALL.iter().any(|known| known.to_string() == kind) {
            match serde_json::from_str(text) {
                Ok(entity) => entities.entry((account, kind.to_owned())).or_default().push(entity),
                Err(error) => tracing::error!(account, name, %error, "an identity's record cannot be read"),
            }
        }
    }
    let policies_of = |entity: &Entity| -> Vec<Read> {
        let own = entity.policies.values().map(|text| read_policy(text));
        let attached = entity.attached.iter().map(|arn| managed.get(arn).cloned().flatten());
        own.chain(attached).collect()
    };
    let limits_of = |entity: &Entity| -> Vec<Read> {
        entity.boundary.iter().map(|arn| managed.get(arn).cloned().flatten()).collect()
    };
    let mut accounts: BTreeMap<String, Account> = BTreeMap::new();
    for ((account, kind), found) in &entities {
        let owner =
            if *account == OWNER_ACCOUNT { Some("") } else { owners.get(*account).map(String::as_str) };
        let Some(canonical) = owner else { continue };
        let groups =
            entities.get(&(*account, Kind::Group.to_string())).map(Vec::as_slice).unwrap_or_default();
        let into = accounts.entry((*account).to_owned()).or_default();
        canonical.clone_into(&mut into.canonical);
        for entity in found {
            let own_arn = arn(account, kind, &entity.path, &entity.name);
            if *kind == Kind::User.to_string() {
                let shared = groups.iter().filter(|group| group.members.contains(&entity.name));
                let principal = Principal {
                    kind: PrincipalKind::User,
                    name: entity.name.clone(),
                    canonical: canonical.to_owned(),
                    account: (*account).to_owned(),
                    arn: own_arn,
                    role: None,
                    id: entity.id.clone(),
                    policies: policies_of(entity).into_iter().chain(shared.flat_map(policies_of)).collect(),
                    limits: limits_of(entity),
                };
                into.users.insert(entity.name.clone(), Arc::new(principal));
            } else if *kind == Kind::Role.to_string() {
                let role = Role {
                    arn: own_arn,
                    policies: policies_of(entity),
                    limits: limits_of(entity),
                    entity: entity.clone(),
                };
                into.roles.insert(entity.name.clone(), role);
            }
        }
    }
    accounts
}
