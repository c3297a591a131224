//! What the IAM interface can do, over the records of one account: pure, so that a change that raced with others is made anew.

mod entities;
mod keys;
mod managed;
mod providers;

use super::answer::{Refusal, Xml};
use crate::identity::{
    change::{ID_LETTERS, random_text},
    iam::{Entity, Kind, arn},
};
use holdfast_gateway_policy::Policy;
use hyper::StatusCode;
use std::collections::BTreeMap;

/// All identities, as the metadata keeps them.
pub type Records = BTreeMap<String, String>;

/// The form of a request.
pub type Params = BTreeMap<String, String>;

/// Entities and policies of one kind that an account may have.
const OF_A_KIND_MAX: usize = 5000;

/// Bytes of a policy, as in AWS.
const POLICY_BYTES_MAX: usize = 10_240;

/// One action.
pub struct Call<'a> {
    pub action: &'a str,
    pub params: &'a Params,
    /// The caller's account.
    pub account: &'a str,
    /// The caller's name in it, where it is a user.
    pub me: Option<&'a str>,
    /// Under which name keys have the caller.
    pub holder: Option<&'a str>,
    pub now_ms: u64,
}

type Outcome = Result<Xml, Refusal>;

impl<'a> Call<'a> {
    fn maybe(&self, name: &str) -> Option<&'a str> {
        self.params.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn need(&self, name: &str) -> Result<&'a str, Refusal> {
        self.maybe(name)
            .ok_or_else(|| Refusal::invalid(format!("The request must contain the parameter {name}")))
    }

    /// A new entity's name.
    fn name(&self, field: &str) -> Result<&'a str, Refusal> {
        let name = self.need(field)?;
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte);
        match name.len() <= 128 && name.bytes().all(known) {
            true => Ok(name),
            false => Err(Refusal::invalid(format!(
                "The specified value for {field} is invalid. It must contain only alphanumeric characters and/or the following: +=,.@_-"
            ))),
        }
    }

    /// A path, `/` where none is given.
    fn path(&self) -> Result<String, Refusal> {
        let path = self.maybe("Path").unwrap_or("/");
        let good = path.starts_with('/') && path.ends_with('/') && path.len() <= 512;
        let plain = path.bytes().all(|byte| (0x21..0x7f).contains(&byte));
        match good && plain && !path.contains("//") {
            true => Ok(path.to_owned()),
            false => Err(Refusal::invalid(
                "The specified value for path is invalid. It must begin and end with / and contain only alphanumeric characters and/or / characters.",
            )),
        }
    }

    /// The members of a list: `NAME.member.1` and so on.
    fn list(&self, name: &str) -> Vec<String> {
        (1..=100).map_while(|number| self.params.get(&format!("{name}.member.{number}")).cloned()).collect()
    }

    fn tags(&self) -> BTreeMap<String, String> {
        let field = |number: usize, name: &str| self.params.get(&format!("Tags.member.{number}.{name}"));
        (1..=50)
            .map_while(|number| {
                Some((field(number, "Key")?.clone(), field(number, "Value").cloned().unwrap_or_default()))
            })
            .collect()
    }

    /// Where the record of a name is: names are told apart by their letters alone, not by their case.
    fn key(&self, kind: impl std::fmt::Display, name: &str) -> String {
        format!("iam/{}/{kind}/{}", self.account, name.to_ascii_lowercase())
    }
}

/// A random id as AWS has them.
fn new_id(prefix: &str) -> String {
    format!("{prefix}{}", random_text(ID_LETTERS, 17))
}

fn damaged(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "ServiceFailure", error.to_string())
}

fn read<T: serde::de::DeserializeOwned>(records: &Records, key: &str) -> Result<Option<T>, Refusal> {
    records.get(key).map(|text| serde_json::from_str(text).map_err(damaged)).transpose()
}

fn write<T: serde::Serialize>(records: &mut Records, key: String, value: &T) -> Result<(), Refusal> {
    records.insert(key, serde_json::to_string(value).map_err(damaged)?);
    Ok(())
}

/// All records whose keys begin with `prefix`.
fn all<T: serde::de::DeserializeOwned>(records: &Records, prefix: &str) -> Vec<T> {
    let from = records.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
    from.filter_map(|(_, text)| serde_json::from_str(text).ok()).collect()
}

/// A new record, where there is none and there may be more.
fn add<T: serde::Serialize>(
    records: &mut Records,
    call: &Call<'_>,
    kind: impl std::fmt::Display,
    name: &str,
    value: &T,
) -> Result<(), Refusal> {
    let (key, prefix) = (call.key(&kind, name), call.key(&kind, ""));
    if records.contains_key(&key) {
        return Err(Refusal::exists(format!("{kind} with name {name} already exists.")));
    }
    let count = records.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix)).count();
    if count >= OF_A_KIND_MAX {
        return Err(Refusal::limit(format!("Cannot exceed quota of {OF_A_KIND_MAX} for {kind}.")));
    }
    write(records, key, value)
}

fn entity(records: &Records, call: &Call<'_>, kind: Kind, name: &str) -> Result<Entity, Refusal> {
    read(records, &call.key(kind, name))?
        .ok_or_else(|| Refusal::missing(format!("The {kind} with name {name} cannot be found.")))
}

fn check_policy(text: &str) -> Result<(), Refusal> {
    if text.len() > POLICY_BYTES_MAX {
        return Err(Refusal::limit(format!("A policy has {POLICY_BYTES_MAX} bytes at most")));
    }
    Policy::of_identity(text).map(drop).map_err(|wrong| Refusal::malformed_policy(wrong.to_string()))
}

/// What the action is about, as policies name it: what it reads to be carried out, and nothing else that the form says.
pub fn resources(call: &Call<'_>, records: &Records) -> Vec<String> {
    let everything = || vec!["*".to_owned()];
    if let Some(kind) = entities::kind_of(call.action) {
        let Some(name) = entities::named(call, kind) else { return everything() };
        let known = read::<Entity>(records, &call.key(kind, name)).ok().flatten();
        let (name, path) = match known {
            Some(known) => (known.name, known.path),
            None => (name.to_owned(), call.path().unwrap_or_else(|_| "/".to_owned())),
        };
        let own = arn(call.account, kind, &path, &name);
        // What it is to become must be the caller's too.
        let new = ["UpdateUser", "UpdateGroup"].contains(&call.action).then(|| {
            let name = call.maybe(&format!("New{}Name", kind.title())).unwrap_or(&name);
            arn(call.account, kind, call.maybe("NewPath").unwrap_or(&path), name)
        });
        return [own].into_iter().chain(new).collect();
    }
    if keys::ACTIONS.contains(&call.action) {
        let Some(name) = call.maybe("UserName").or(call.me) else {
            return vec![format!("arn:aws:iam::{}:root", call.account)];
        };
        let known = read::<Entity>(records, &call.key(Kind::User, name)).ok().flatten();
        let (name, path) = known.map_or((name.to_owned(), "/".to_owned()), |known| (known.name, known.path));
        return vec![arn(call.account, Kind::User, &path, &name)];
    }
    match call.action {
        "CreatePolicy" => {
            let path = call.path().unwrap_or_else(|_| "/".to_owned());
            vec![arn(call.account, "policy", &path, call.maybe("PolicyName").unwrap_or_default())]
        }
        action if managed::WITH_POLICY.contains(&action) => {
            vec![call.maybe("PolicyArn").unwrap_or("*").to_owned()]
        }
        "CreateOpenIDConnectProvider" => {
            vec![providers::arn_of(call.account, call.maybe("Url").unwrap_or_default())]
        }
        action if action.contains("OpenIDConnectProvider") => {
            vec![call.maybe("OpenIDConnectProviderArn").unwrap_or("*").to_owned()]
        }
        _ => everything(),
    }
}

/// The managed policy that the action is about, and the boundary that it sets, or that is set already.
pub fn about<'a>(call: &Call<'a>, records: &Records) -> (Option<&'a str>, Option<String>) {
    // What the action does not read, the form may say as it likes.
    const SET_BOUNDARY: [&str; 4] =
        ["CreateUser", "CreateRole", "PutUserPermissionsBoundary", "PutRolePermissionsBoundary"];
    let Some(kind) = entities::kind_of(call.action) else {
        let of_policy = managed::WITH_POLICY.contains(&call.action);
        return (call.maybe("PolicyArn").filter(|_| of_policy), None);
    };
    let attaches = ["Attach", "Detach"].iter().any(|verb| call.action.starts_with(verb));
    let boundary = match SET_BOUNDARY.contains(&call.action) {
        true => call.maybe("PermissionsBoundary").map(str::to_owned),
        false => entities::named(call, kind)
            .and_then(|name| entity(records, call, kind, name).ok())
            .and_then(|known| known.boundary),
    };
    (call.maybe("PolicyArn").filter(|_| attaches), boundary)
}

/// Bytes of what one account may have here, and of all accounts together: the rest is for accounts and keys themselves.
const ACCOUNT_BYTES_MAX: usize = 1 << 20;
const ACCOUNTS_BYTES_MAX: usize = 6 << 20;

/// # Errors
/// Where the account, or all of them, would have more than there is room for.
pub fn check_room(call: &Call<'_>, records: &Records) -> Result<(), Refusal> {
    let below = |prefix: &str| -> usize {
        let from = records.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        from.map(|(key, text)| key.len() + text.len()).sum()
    };
    let own = below(&format!("iam/{}/", call.account));
    match own <= ACCOUNT_BYTES_MAX && below("iam/") <= ACCOUNTS_BYTES_MAX {
        true => Ok(()),
        false => Err(Refusal::limit("The identities and policies of the account would be too large")),
    }
}

/// Carries out an action.
///
/// # Errors
/// Why it was not.
pub fn run(call: &Call<'_>, records: &mut Records) -> Outcome {
    if let Some(done) = entities::kind_of(call.action).and_then(|kind| entities::run(call, kind, records)) {
        return done;
    }
    let done = keys::run(call, records)
        .or_else(|| managed::run(call, records))
        .or_else(|| providers::run(call, records));
    done.unwrap_or_else(|| match call.action {
        "ListAccountAliases" => {
            Ok(std::mem::take(Xml::default().members("AccountAliases", [""; 0], |_, _| {}).all()))
        }
        "GetAccountSummary" => {
            let count = |kind: Kind| all::<Entity>(records, &call.key(kind, "")).len();
            let mut answer = Xml::default();
            answer.node("SummaryMap", |map| {
                let mut entry = |name: String, value: usize| {
                    map.node("entry", |entry| {
                        entry.text("key", name).text("value", value.to_string());
                    });
                };
                for kind in Kind::ALL {
                    entry(format!("{}s", kind.title()), count(kind));
                    entry(format!("{}sQuota", kind.title()), OF_A_KIND_MAX);
                }
                entry("AccessKeysPerUserQuota".to_owned(), keys::KEYS_MAX);
            });
            Ok(answer)
        }
        other => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "InvalidAction",
            format!("Could not find operation {other} for version 2010-05-08"),
        )),
    })
}

pub use providers::{arn_of as provider_arn, name_of as provider_name};

#[cfg(test)]
mod tests;
