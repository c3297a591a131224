//! Access control lists: canned ones, grants in headers and bodies, and what they allow.

use super::S3Door;
use crate::identity::{Identities, OWNER, Who, shown};
use hyper::HeaderMap;
use s3s::{
    S3Result,
    dto::{AccessControlPolicy, Grant as GrantDto, Grantee, Owner, Permission as PermissionDto, Type},
    s3_error,
};
use serde::{Deserialize, Serialize};

const ALL_USERS: &str = "http://acs.amazonaws.com/groups/global/AllUsers";
const AUTHENTICATED: &str = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers";
const LOG_DELIVERY: &str = "http://acs.amazonaws.com/groups/s3/LogDelivery";

/// Grants that a list may have, as in S3.
const GRANTS_MAX: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Permission {
    FullControl,
    Read,
    Write,
    ReadAcp,
    WriteAcp,
}

impl Permission {
    const ALL: [(Self, &'static str, &'static str); 5] = [
        (Self::FullControl, PermissionDto::FULL_CONTROL, "x-amz-grant-full-control"),
        (Self::Read, PermissionDto::READ, "x-amz-grant-read"),
        (Self::Write, PermissionDto::WRITE, "x-amz-grant-write"),
        (Self::ReadAcp, PermissionDto::READ_ACP, "x-amz-grant-read-acp"),
        (Self::WriteAcp, PermissionDto::WRITE_ACP, "x-amz-grant-write-acp"),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(permission, ..)| *permission == self).map_or("", |(_, name, _)| name)
    }
}

/// To whom something is granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum To {
    /// A canonical id; empty for the system's owner.
    User(String),
    Everybody,
    Authenticated,
    LogDelivery,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub to: To,
    pub permission: Permission,
}

/// A list, as it is kept with a bucket or a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Acl {
    pub grants: Vec<Grant>,
}

/// Whether a canned list or grants are for a bucket or an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of<'a> {
    Bucket,
    /// Whose bucket's owner is this.
    ObjectIn(&'a str),
}

impl Acl {
    /// Nobody but the owner.
    pub fn private(owner: &str) -> Self {
        Self { grants: vec![Grant { to: To::User(owner.to_owned()), permission: Permission::FullControl }] }
    }

    /// # Errors
    /// Where there is no such list.
    pub fn canned(name: &str, owner: &str, of: Of<'_>) -> S3Result<Self> {
        let mut acl = Self::private(owner);
        let mut grant = |to: To, permission| acl.grants.push(Grant { to, permission });
        match (name, of) {
            ("private", _) => {}
            ("public-read", _) => grant(To::Everybody, Permission::Read),
            ("public-read-write", _) => {
                grant(To::Everybody, Permission::Read);
                grant(To::Everybody, Permission::Write);
            }
            ("authenticated-read", _) => grant(To::Authenticated, Permission::Read),
            ("log-delivery-write", Of::Bucket) => {
                grant(To::LogDelivery, Permission::Write);
                grant(To::LogDelivery, Permission::ReadAcp);
            }
            ("bucket-owner-read", Of::ObjectIn(bucket_owner)) if bucket_owner != owner => {
                grant(To::User(bucket_owner.to_owned()), Permission::Read);
            }
            ("bucket-owner-full-control", Of::ObjectIn(bucket_owner)) if bucket_owner != owner => {
                grant(To::User(bucket_owner.to_owned()), Permission::FullControl);
            }
            ("bucket-owner-read" | "bucket-owner-full-control" | "aws-exec-read", _) => {}
            _ => return Err(s3_error!(InvalidArgument, "The canned ACL {name} does not exist")),
        }
        Ok(acl)
    }

    /// The list that a request's headers ask for, canned or as grants; `None` where they ask for none.
    ///
    /// # Errors
    /// Where they name nobody, or contradict each other.
    pub fn from_headers(
        headers: &HeaderMap,
        owner: &str,
        of: Of<'_>,
        identities: &Identities,
    ) -> S3Result<Option<Self>> {
        let text = |name: &str| -> S3Result<Option<&str>> {
            let value = headers.get(name).map(|value| value.to_str());
            value.transpose().map_err(|_| s3_error!(InvalidArgument, "{name} is malformed"))
        };
        let canned = text("x-amz-acl")?;
        let mut acl = Self::default();
        for (permission, _, header) in Permission::ALL {
            for one in text(header)?.unwrap_or_default().split(',').filter(|one| !one.trim().is_empty()) {
                let to = grantee_in_header(one, identities)?;
                acl.grants.push(Grant { to, permission });
            }
        }
        match (canned, acl.grants.is_empty()) {
            (None, true) => Ok(None),
            (Some(name), true) => Self::canned(name, owner, of).map(Some),
            (None, false) => Ok(Some(acl)),
            (Some(_), false) => {
                Err(s3_error!(InvalidRequest, "Specifying both Canned ACLs and Header Grants is not allowed"))
            }
        }
    }

    /// # Errors
    /// Where it names nobody, or another owner than the one there is.
    pub fn from_body(policy: AccessControlPolicy, owner: &str, identities: &Identities) -> S3Result<Self> {
        let malformed = || {
            s3_error!(
                MalformedACLError,
                "The XML you provided was not well-formed or did not validate against our published schema"
            )
        };
        let named = policy.owner.and_then(|owner| owner.id).ok_or_else(malformed)?;
        if named != shown(owner) {
            return Err(s3_error!(AccessDenied, "The owner of a list cannot be changed"));
        }
        let grants = policy.grants.unwrap_or_default();
        if grants.len() > GRANTS_MAX {
            return Err(malformed());
        }
        let read = |grant: GrantDto| -> S3Result<Grant> {
            let wanted = grant.permission.ok_or_else(malformed)?;
            let permission = Permission::ALL.iter().find(|(_, name, _)| *name == wanted.as_str());
            let (permission, ..) = permission.ok_or_else(malformed)?;
            Ok(Grant {
                to: grantee(grant.grantee.ok_or_else(malformed)?, identities)?,
                permission: *permission,
            })
        };
        Ok(Self { grants: grants.into_iter().map(read).collect::<S3Result<_>>()? })
    }

    /// Whether it grants a permission to somebody. Where `ignore_public`, grants to groups count for nothing.
    pub fn allows(&self, who: &Who, permission: Permission, ignore_public: bool) -> bool {
        self.grants.iter().any(|grant| {
            let to = match (&grant.to, who) {
                (To::User(id), who) => who.canonical() == Some(id),
                (To::Everybody, _) => !ignore_public,
                (To::Authenticated, Who::Owner | Who::User(_)) => !ignore_public,
                (To::Authenticated, Who::Anonymous) | (To::LogDelivery, _) => false,
            };
            to && (grant.permission == Permission::FullControl || grant.permission == permission)
        })
    }

    /// Whether it grants anything to people who are not named.
    pub fn is_public(&self) -> bool {
        self.grants.iter().any(|grant| matches!(grant.to, To::Everybody | To::Authenticated))
    }

    pub fn to_text(&self) -> S3Result<String> {
        serde_json::to_string(self).map_err(|error| s3_error!(error, InternalError))
    }

    /// The list as it is kept; without one, the owner's alone. One that cannot be read grants nothing.
    pub fn kept(text: Option<&String>, owner: &str) -> Self {
        text.map_or_else(|| Self::private(owner), |text| serde_json::from_str(text).unwrap_or_default())
    }

    /// As S3 shows it.
    pub fn show(&self, identities: &Identities) -> Vec<GrantDto> {
        let group = |uri: &str| Grantee {
            display_name: None,
            email_address: None,
            id: None,
            type_: Type::from_static(Type::GROUP),
            uri: Some(uri.to_owned()),
        };
        let to = |to: &To| match to {
            To::User(id) => {
                let owner = owner(id, identities);
                Grantee {
                    display_name: owner.display_name,
                    email_address: None,
                    id: owner.id,
                    type_: Type::from_static(Type::CANONICAL_USER),
                    uri: None,
                }
            }
            To::Everybody => group(ALL_USERS),
            To::Authenticated => group(AUTHENTICATED),
            To::LogDelivery => group(LOG_DELIVERY),
        };
        let show = |grant: &Grant| GrantDto {
            grantee: Some(to(&grant.to)),
            permission: Some(PermissionDto::from_static(grant.permission.name())),
        };
        // Groups first, as stores of this kind show them; the order means nothing.
        let is_user = |grant: &&Grant| matches!(grant.to, To::User(_));
        let groups = self.grants.iter().filter(|grant| !is_user(grant));
        groups.chain(self.grants.iter().filter(is_user)).map(show).collect()
    }
}

fn kept_id(shown: &str) -> String {
    if shown == OWNER { String::new() } else { shown.to_owned() }
}

/// An owner as S3 shows it.
pub fn owner(canonical: &str, identities: &Identities) -> Owner {
    let known = identities.users.get(canonical);
    let display_name = known.map_or(shown(canonical), |known| &known.user.display_name).to_owned();
    Owner { display_name: Some(display_name), id: Some(shown(canonical).to_owned()) }
}

fn unresolvable() -> s3s::S3Error {
    s3_error!(
        UnresolvableGrantByEmailAddress,
        "The e-mail address you provided does not match any account on record"
    )
}

fn by_id(id: &str, identities: &Identities) -> S3Result<To> {
    match identities.is_user(id) {
        true => Ok(To::User(kept_id(id))),
        false => Err(s3_error!(InvalidArgument, "Invalid id")),
    }
}

fn by_uri(uri: &str) -> S3Result<To> {
    match uri {
        ALL_USERS => Ok(To::Everybody),
        AUTHENTICATED => Ok(To::Authenticated),
        LOG_DELIVERY => Ok(To::LogDelivery),
        _ => Err(s3_error!(InvalidArgument, "Invalid group uri")),
    }
}

fn by_email(email: &str, identities: &Identities) -> S3Result<To> {
    identities.by_email(email).map(|known| To::User(known.user.name.clone())).ok_or_else(unresolvable)
}

fn grantee(grantee: Grantee, identities: &Identities) -> S3Result<To> {
    match (grantee.type_.as_str(), grantee.id, grantee.uri, grantee.email_address) {
        (Type::CANONICAL_USER, Some(id), ..) => by_id(&id, identities),
        (Type::GROUP, _, Some(uri), _) => by_uri(&uri),
        (Type::AMAZON_CUSTOMER_BY_EMAIL, _, _, Some(email)) => by_email(&email, identities),
        _ => Err(s3_error!(MalformedACLError, "A grantee is malformed")),
    }
}

/// `id=...`, `uri=...` or `emailAddress=...`, perhaps in quotes.
fn grantee_in_header(text: &str, identities: &Identities) -> S3Result<To> {
    let (kind, value) =
        text.trim().split_once('=').ok_or_else(|| s3_error!(InvalidArgument, "A grantee is malformed"))?;
    let value = value.trim().trim_matches('"');
    match kind.trim() {
        "id" => by_id(value, identities),
        "uri" => by_uri(value),
        "emailAddress" => by_email(value, identities),
        _ => Err(s3_error!(InvalidArgument, "A grantee is malformed")),
    }
}

impl S3Door {
    /// An owner as S3 shows it.
    pub fn shown_owner(&self, canonical: &str) -> Owner {
        owner(canonical, &self.directory.now())
    }
}
