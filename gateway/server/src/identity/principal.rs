//! Whoever sends requests: accounts, users and roles in them, and who has assumed a role.

use holdfast_gateway_policy::{Caller, Policy, Request};
use std::sync::Arc;

/// The account of the system's owner.
pub const OWNER_ACCOUNT: &str = "000000000000";

/// A policy as it was read. One that cannot be read denies everything.
pub type Read = Option<Arc<Policy>>;

/// Reads a policy of an identity.
pub fn read_policy(text: &str) -> Read {
    Policy::of_identity(text).ok().map(Arc::new)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrincipalKind {
    /// It may do everything with what is its own, unless it has policies.
    Account,
    /// A user in an account: it may do what its policies allow.
    User,
    /// Somebody who has assumed a role.
    AssumedRole,
}

/// A principal with its policies read.
#[derive(Debug, Clone)]
pub struct Principal {
    pub kind: PrincipalKind,
    /// A user's name; a session's, of whoever has assumed a role.
    pub name: String,
    /// The account's canonical id, which owns what the principal writes; empty for the system's owner.
    pub canonical: String,
    /// Twelve digits.
    pub account: String,
    pub arn: String,
    /// The ARN of the role that was assumed.
    pub role: Option<String>,
    /// What policies call `aws:userid`.
    pub id: String,
    pub policies: Vec<Read>,
    /// Each of these must allow what is done, too.
    pub limits: Vec<Read>,
}

impl Principal {
    /// The principal of a whole account.
    pub fn account(canonical: &str, account: &str, policies: Vec<Read>) -> Self {
        Self {
            kind: PrincipalKind::Account,
            name: canonical.to_owned(),
            canonical: canonical.to_owned(),
            account: account.to_owned(),
            arn: format!("arn:aws:iam::{account}:root"),
            role: None,
            id: account.to_owned(),
            policies,
            limits: Vec::new(),
        }
    }

    /// Whether it may do only what its policies allow.
    pub fn is_restricted(&self) -> bool {
        self.kind != PrincipalKind::Account || !self.policies.is_empty() || !self.limits.is_empty()
    }

    /// Whether it is the account itself, and no session with limits.
    pub fn is_whole_account(&self) -> bool {
        self.kind == PrincipalKind::Account && self.limits.is_empty()
    }

    /// What its own policies say of a request.
    pub fn effect(&self, request: &impl Request) -> Option<holdfast_gateway_policy::Effect> {
        use holdfast_gateway_policy::Effect;
        let mut allowed = None;
        for policy in &self.policies {
            match policy.as_ref().map_or(Some(Effect::Deny), |policy| policy.effect(request)) {
                Some(Effect::Deny) => return Some(Effect::Deny),
                Some(Effect::Allow) => allowed = Some(Effect::Allow),
                None => {}
            }
        }
        let within =
            |limit: &Read| limit.as_ref().is_some_and(|limit| limit.effect(request) == Some(Effect::Allow));
        // What is beyond a limit is as denied, whoever else allows it.
        if !self.limits.iter().all(within) {
            return Some(Effect::Deny);
        }
        // An account without policies of its own needs nobody's leave, and its sessions have no more than their limits.
        if allowed.is_none()
            && self.kind == PrincipalKind::Account
            && self.policies.is_empty()
            && !self.limits.is_empty()
        {
            return Some(Effect::Allow);
        }
        allowed
    }

    /// As [`Policy::tells_apart`], of its own policies and limits. Of one that cannot be read nobody knows.
    pub fn tells_apart(&self, request: &impl Request, actions: &[&str], prefix: &str) -> bool {
        let apart =
            |read: &Read| read.as_ref().is_none_or(|policy| policy.tells_apart(request, actions, prefix));
        self.policies.iter().chain(&self.limits).any(apart)
    }

    pub fn caller(&self) -> Caller<'_> {
        Caller::User {
            account: &self.account,
            arn: &self.arn,
            canonical: super::shown(&self.canonical),
            role: self.role.as_deref(),
        }
    }
}

/// Whoever sends a request.
#[derive(Debug, Clone)]
pub enum Who {
    Anonymous,
    /// The system's owner.
    Owner,
    User(Arc<Principal>),
}

impl Who {
    /// The account's canonical id; empty for the system's owner, and `None` for nobody.
    pub fn canonical(&self) -> Option<&str> {
        match self {
            Self::Anonymous => None,
            Self::Owner => Some(""),
            Self::User(principal) => Some(&principal.canonical),
        }
    }

    pub fn caller(&self) -> Caller<'_> {
        match self {
            Self::Anonymous => Caller::Anonymous,
            Self::Owner => Caller::User {
                account: OWNER_ACCOUNT,
                arn: "arn:aws:iam::000000000000:root",
                canonical: super::OWNER,
                role: None,
            },
            Self::User(principal) => principal.caller(),
        }
    }
}
