//! Access policies in AWS's language: parsed once, evaluated for every request.
//!
//! One engine for all doors. It answers what one policy says of a request, [`Effect`] or nothing; whoever asks combines the
//! answers: an explicit denial anywhere is final, and what nobody allows is denied.
//!
//! The language is that of "IAM JSON policy elements reference" (AWS Identity and Access Management user guide).

mod condition;
mod parse;
mod pattern;

pub use parse::PolicyError;

use condition::Test;
use pattern::Pattern;
use std::net::IpAddr;

/// What a statement does where it applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Allow,
    Deny,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller<'a> {
    Anonymous,
    User {
        /// The account's twelve digits.
        account: &'a str,
        /// `arn:aws:iam::ACCOUNT:user/NAME`, or `:root` of an account itself.
        arn: &'a str,
        /// The account's canonical id.
        canonical: &'a str,
        /// The role's ARN, of whoever has assumed one.
        role: Option<&'a str>,
    },
    /// Whoever an identity provider vouches for: the provider's ARN.
    Federated(&'a str),
}

/// A request, as policies see it.
pub trait Request {
    fn caller(&self) -> Caller<'_>;
    /// `s3:GetObject`.
    fn action(&self) -> &str;
    /// `arn:aws:s3:::bucket/key`.
    fn resource(&self) -> &str;
    /// The values of a condition key, its name in lower case; none where the request does not have it.
    fn values(&self, key: &str, visit: &mut dyn FnMut(&str));
    fn source_ip(&self) -> Option<IpAddr>;
}

/// A parsed policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    statements: Vec<Statement>,
}

#[derive(Debug, Clone, PartialEq)]
struct Statement {
    effect: Effect,
    /// `None` in policies of identities, which are about whoever has them.
    principals: Option<Listed<Principal>>,
    actions: Listed<Pattern>,
    resources: Listed<Pattern>,
    conditions: Vec<Test>,
}

/// A list, or all but what is in it (`NotAction` and the like).
#[derive(Debug, Clone, PartialEq)]
struct Listed<T> {
    negated: bool,
    items: Vec<T>,
}

impl<T> Listed<T> {
    fn has(&self, mut is: impl FnMut(&T) -> bool) -> bool {
        self.items.iter().any(&mut is) != self.negated
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Principal {
    Anyone,
    /// An account by its twelve digits: all of its users.
    Account(String),
    /// A user by its ARN, with an account or without.
    Arn(String),
    Canonical(String),
    /// Whoever an identity provider vouches for.
    Federated(String),
    /// Of a kind that nobody here is.
    Nobody,
}

impl Principal {
    fn is(&self, caller: Caller<'_>) -> bool {
        match (self, caller) {
            (Self::Anyone, _) => true,
            (Self::Federated(wanted), Caller::Federated(provider)) => wanted == provider,
            (_, Caller::Anonymous | Caller::Federated(_)) | (Self::Nobody | Self::Federated(_), _) => false,
            (Self::Account(wanted), Caller::User { account, .. }) => wanted == account,
            (Self::Canonical(wanted), Caller::User { canonical, .. }) => wanted == canonical,
            (Self::Arn(wanted), Caller::User { account, arn, canonical, role }) => {
                // An account that is called as a user, and without its number, as other stores do.
                let as_user = || {
                    let rest = wanted.strip_prefix("arn:aws:iam::")?;
                    rest.strip_prefix(account).unwrap_or(rest).strip_prefix(":user/")
                };
                let is_account = arn.ends_with(":root");
                wanted == arn
                    || role.is_some_and(|role| wanted == role)
                    || (is_account && as_user().is_some_and(|name| name == canonical))
            }
        }
    }
}

impl Policy {
    /// Reads a policy of a resource, which says who may do something with it. `resource` is the ARN that every statement must
    /// lie in, such as `arn:aws:s3:::bucket`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_resource(text: &str, resource: &str) -> Result<Self, PolicyError> {
        parse::policy(text, parse::Of::Resource(resource))
    }

    /// Reads a policy of a user, a group or a role.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_identity(text: &str) -> Result<Self, PolicyError> {
        parse::policy(text, parse::Of::Identity)
    }

    /// Reads a policy that says who may assume a role.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_trust(text: &str) -> Result<Self, PolicyError> {
        parse::policy(text, parse::Of::Trust)
    }

    /// What the policy says of a request; `None` where no statement applies. Denial is final, whatever comes after it.
    pub fn effect(&self, request: &impl Request) -> Option<Effect> {
        let mut allowed = None;
        for statement in &self.statements {
            match statement.effect {
                Effect::Allow if allowed.is_some() => {}
                Effect::Allow if statement.applies(request) => allowed = Some(Effect::Allow),
                Effect::Deny if statement.applies(request) => return Some(Effect::Deny),
                Effect::Allow | Effect::Deny => {}
            }
        }
        allowed
    }

    /// Whether any statement about the caller and one of some actions is about a part of the resources whose names begin
    /// with `prefix`, or might be: then what is true of one of them is not known to be true of the others.
    pub fn tells_apart(&self, request: &impl Request, actions: &[&str], prefix: &str) -> bool {
        self.statements.iter().any(|statement| {
            let about =
                |pattern: &Pattern| actions.iter().any(|action| pattern.matches_ignoring_case(action));
            let of_caller = statement
                .principals
                .as_ref()
                .is_none_or(|listed| listed.has(|principal| principal.is(request.caller())));
            // All actions but some are most of them.
            let about = statement.actions.negated || statement.actions.items.iter().any(about);
            let of_objects = |test: &Test| test.key.starts_with("s3:existingobjecttag");
            let apart = statement.resources.items.iter().any(|pattern| pattern.tells_apart(prefix))
                || statement.conditions.iter().any(of_objects);
            of_caller && about && apart
        })
    }

    /// Whether it allows something to everybody without a condition that pins down who that is ("The meaning of public",
    /// Amazon S3 user guide).
    pub fn is_public(&self) -> bool {
        self.statements.iter().any(|statement| {
            let anyone = statement
                .principals
                .as_ref()
                .is_some_and(|listed| listed.negated || listed.items.contains(&Principal::Anyone));
            statement.effect == Effect::Allow && anyone && !statement.conditions.iter().any(Test::pins_caller)
        })
    }
}

impl Statement {
    fn applies(&self, request: &impl Request) -> bool {
        let action = |pattern: &Pattern| pattern.matches_ignoring_case(request.action());
        let resource = |pattern: &Pattern| pattern.matches(request.resource(), request);
        self.actions.has(action)
            && self.resources.has(resource)
            && self
                .principals
                .as_ref()
                .is_none_or(|listed| listed.has(|principal| principal.is(request.caller())))
            && self.conditions.iter().all(|test| test.holds(request))
    }
}

#[cfg(test)]
mod tests;
