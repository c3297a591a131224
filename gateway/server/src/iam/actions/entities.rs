//! Users, groups and roles, which have most of their actions alike.

use super::{Call, Outcome, Records, add, all, check_policy, entity, new_id, write};
use crate::{
    clock::rfc3339_s,
    iam::answer::{Refusal, Xml},
    identity::{
        Key,
        iam::{Entity, Kind, arn, built_in},
    },
};
use holdfast_gateway_policy::Policy;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::collections::{BTreeMap, BTreeSet};

/// How long a role's sessions may last at most that says nothing, in seconds, as in AWS.
const SESSION_S: u64 = 3600;

/// What a role may set that to.
const SESSION_S_RANGE: std::ops::RangeInclusive<u64> = 3600..=43_200;

fn show(call: &Call<'_>, kind: Kind, entity: &Entity, xml: &mut Xml) {
    let title = kind.title();
    xml.text("Path", &entity.path)
        .text(&format!("{title}Name"), &entity.name)
        .text(&format!("{title}Id"), &entity.id)
        .text("Arn", arn(call.account, kind, &entity.path, &entity.name))
        .text("CreateDate", rfc3339_s(entity.created_ms));
    if let Some(trust) = &entity.trust {
        xml.text("AssumeRolePolicyDocument", encoded(trust))
            .text("Description", &entity.description)
            .text("MaxSessionDuration", entity.session_max_s.to_string());
    }
    if let Some(boundary) = &entity.boundary {
        xml.node("PermissionsBoundary", |xml| {
            xml.text("PermissionsBoundaryType", "Policy").text("PermissionsBoundaryArn", boundary);
        });
    }
    if !entity.tags.is_empty() {
        show_tags(&entity.tags, xml);
    }
}

fn show_tags(tags: &BTreeMap<String, String>, xml: &mut Xml) {
    xml.members("Tags", tags, |xml, (key, value)| {
        xml.text("Key", key).text("Value", value);
    });
}

/// A document as these interfaces show it.
pub fn encoded(document: &str) -> String {
    utf8_percent_encode(document, NON_ALPHANUMERIC).to_string()
}

fn one(call: &Call<'_>, kind: Kind, entity: &Entity) -> Xml {
    let mut answer = Xml::default();
    answer.node(kind.title(), |xml| show(call, kind, entity, xml));
    answer
}

fn check_trust(text: &str) -> Result<(), Refusal> {
    Policy::of_trust(text).map(drop).map_err(|wrong| Refusal::malformed_policy(wrong.to_string()))
}

/// A managed policy that there is.
fn check_managed(call: &Call<'_>, records: &Records, named: &str) -> Result<(), Refusal> {
    let own = super::managed::find(call, records, named).is_ok();
    match own || built_in().any(|(arn, _)| arn == named) {
        true => Ok(()),
        false => Err(Refusal::missing(format!("Policy {named} does not exist or is not attachable."))),
    }
}

fn session_s(call: &Call<'_>) -> Result<Option<u64>, Refusal> {
    let Some(text) = call.maybe("MaxSessionDuration") else { return Ok(None) };
    let seconds = text.parse().ok().filter(|seconds| SESSION_S_RANGE.contains(seconds));
    seconds.map(Some).ok_or_else(|| Refusal::invalid("MaxSessionDuration is 3600 to 43200 seconds"))
}

fn create(call: &Call<'_>, kind: Kind, records: &mut Records) -> Outcome {
    let name = call.name(&format!("{}Name", kind.title()))?;
    let trust = match kind {
        Kind::Role => Some(call.need("AssumeRolePolicyDocument")?),
        Kind::User | Kind::Group => None,
    };
    trust.map_or(Ok(()), check_trust)?;
    let boundary = call.maybe("PermissionsBoundary").filter(|_| kind != Kind::Group);
    boundary.map_or(Ok(()), |arn| check_managed(call, records, arn))?;
    let made = Entity {
        name: name.to_owned(),
        path: call.path()?,
        id: new_id(kind.id_prefix()),
        created_ms: call.now_ms,
        policies: BTreeMap::new(),
        attached: BTreeSet::new(),
        tags: call.tags(),
        members: BTreeSet::new(),
        trust: trust.map(str::to_owned),
        description: call.maybe("Description").unwrap_or_default().to_owned(),
        session_max_s: session_s(call)?.unwrap_or(SESSION_S),
        boundary: boundary.map(str::to_owned),
    };
    add(records, call, kind, name, &made)?;
    Ok(one(call, kind, &made))
}

/// The name that keys have of a user.
fn holder(call: &Call<'_>, name: &str) -> String {
    format!("{}:{name}", call.account)
}

fn has_keys(records: &Records, holder: &str) -> bool {
    all::<Key>(records, "key/").iter().any(|key| key.user == holder)
}

fn groups_of(call: &Call<'_>, records: &Records, user: &str) -> Vec<Entity> {
    let mut groups = all::<Entity>(records, &call.key(Kind::Group, ""));
    groups.retain(|group| group.members.contains(user));
    groups
}

fn delete(call: &Call<'_>, kind: Kind, records: &mut Records, known: &Entity) -> Outcome {
    let conflict = |what: &str| Err(Refusal::conflict(format!("Cannot delete entity, {what}.")));
    if !known.policies.is_empty() || !known.attached.is_empty() {
        return conflict("must delete or detach its policies first");
    }
    if !known.members.is_empty() {
        return conflict("must remove users from group first");
    }
    if kind == Kind::User {
        if has_keys(records, &holder(call, &known.name)) {
            return conflict("must delete access keys first");
        }
        if !groups_of(call, records, &known.name).is_empty() {
            return conflict("must remove users from group first");
        }
    }
    records.remove(&call.key(kind, &known.name));
    Ok(Xml::default())
}

fn list(call: &Call<'_>, kind: Kind, records: &Records) -> Xml {
    let prefix = call.maybe("PathPrefix").unwrap_or("/");
    let found = all::<Entity>(records, &call.key(kind, ""));
    let mut answer = Xml::default();
    let wanted = found.iter().filter(|entity| entity.path.starts_with(prefix));
    answer.members(&format!("{}s", kind.title()), wanted, |xml, entity| show(call, kind, entity, xml)).all();
    answer
}

/// Renames a user or a group, and all that names it.
fn rename(call: &Call<'_>, kind: Kind, records: &mut Records, mut known: Entity) -> Outcome {
    let new = match call.maybe(&format!("New{}Name", kind.title())) {
        Some(_) => call.name(&format!("New{}Name", kind.title()))?,
        None => &known.name.clone(),
    };
    let old = std::mem::replace(&mut known.name, new.to_owned());
    if let Some(path) = call.maybe("NewPath") {
        let params = super::Params::from([("Path".to_owned(), path.to_owned())]);
        known.path = Call { params: &params, ..*call }.path()?;
    }
    let before = records.remove(&call.key(kind, &old));
    if let Err(refused) = add(records, call, kind, new, &known) {
        records.extend(before.map(|text| (call.key(kind, &old), text)));
        return Err(refused);
    }
    if kind == Kind::User && old != new {
        for mut group in groups_of(call, records, &old) {
            group.members.remove(&old);
            group.members.insert(new.to_owned());
            write(records, call.key(Kind::Group, &group.name), &group)?;
        }
        let keys: Vec<String> = records.keys().filter(|key| key.starts_with("key/")).cloned().collect();
        for path in keys {
            let Some(mut key) = super::read::<Key>(records, &path)? else { continue };
            if key.user == holder(call, &old) {
                key.user = holder(call, new);
                write(records, path, &key)?;
            }
        }
    }
    Ok(Xml::default())
}

/// The part of an action's name around its kind: `("Put", "Policy")` of `PutUserPolicy`.
fn around<'a>(action: &'a str, title: &str) -> Option<(&'a str, &'a str)> {
    action.split_once(title).filter(|(verb, _)| verb.chars().all(|c| c.is_ascii_alphabetic()))
}

fn own_policies(call: &Call<'_>, title: &str, verb: &str, known: &mut Entity) -> Outcome {
    let mut answer = Xml::default();
    if verb == "List" {
        answer.members("PolicyNames", known.policies.keys(), |xml, name| {
            xml.content(name);
        });
        return Ok(std::mem::take(answer.all()));
    }
    let name = call.name("PolicyName")?;
    let missing = || Refusal::missing(format!("The policy with name {name} cannot be found."));
    match verb {
        "Put" => {
            let document = call.need("PolicyDocument")?;
            check_policy(document)?;
            known.policies.insert(name.to_owned(), document.to_owned());
        }
        "Get" => {
            let document = known.policies.get(name).ok_or_else(missing)?;
            answer.text(&format!("{title}Name"), &known.name);
            answer.text("PolicyName", name).text("PolicyDocument", encoded(document));
        }
        _ => {
            known.policies.remove(name).ok_or_else(missing)?;
        }
    }
    Ok(answer)
}

fn attached_policies(call: &Call<'_>, records: &Records, verb: &str, known: &mut Entity) -> Outcome {
    let mut answer = Xml::default();
    if verb == "ListAttached" {
        let name = |arn: &str| arn.rsplit('/').next().unwrap_or_default().to_owned();
        answer.members("AttachedPolicies", &known.attached, |xml, arn| {
            xml.text("PolicyName", name(arn)).text("PolicyArn", arn);
        });
        return Ok(std::mem::take(answer.all()));
    }
    let arn = call.need("PolicyArn")?;
    match verb {
        "Attach" => {
            check_managed(call, records, arn)?;
            known.attached.insert(arn.to_owned());
        }
        _ if !known.attached.remove(arn) => {
            return Err(Refusal::missing(format!("Policy {arn} was not found.")));
        }
        _ => {}
    }
    Ok(answer)
}

fn members(call: &Call<'_>, records: &mut Records, adds: bool) -> Outcome {
    let (group, user) = (call.need("GroupName")?, call.need("UserName")?);
    let mut group = entity(records, call, Kind::Group, group)?;
    let user = entity(records, call, Kind::User, user)?.name;
    match adds {
        true => drop(group.members.insert(user.clone())),
        false if !group.members.remove(&user) => {
            return Err(Refusal::missing(format!("User {user} is not in the group.")));
        }
        false => {}
    }
    write(records, call.key(Kind::Group, &group.name), &group)?;
    Ok(Xml::default())
}

/// What the system's own accounts answer of themselves.
fn root(call: &Call<'_>) -> Xml {
    let mut answer = Xml::default();
    answer.node("User", |xml| {
        xml.text("Path", "/")
            .maybe("UserName", call.holder)
            .text("UserId", call.account)
            .text("Arn", format!("arn:aws:iam::{}:root", call.account))
            .text("CreateDate", rfc3339_s(0));
    });
    answer
}

/// Of which kind of entity an action is about one.
pub fn kind_of(action: &str) -> Option<Kind> {
    match action {
        "AddUserToGroup" | "RemoveUserFromGroup" => Some(Kind::Group),
        "ListGroupsForUser" | "GetLoginProfile" => Some(Kind::User),
        "ListInstanceProfilesForRole" => Some(Kind::Role),
        _ => Kind::ALL.into_iter().find(|kind| around(action, kind.title()).is_some()),
    }
}

/// The name of the entity that the action is about, as the form has it; none of those that are about all.
pub fn named<'a>(call: &Call<'a>, kind: Kind) -> Option<&'a str> {
    if around(call.action, kind.title()) == Some(("List", "s")) {
        return None;
    }
    call.maybe(&format!("{}Name", kind.title())).or(call.me.filter(|_| kind == Kind::User))
}

/// Carries out what is about entities of `kind`; `None` where the action is not known.
pub fn run(call: &Call<'_>, kind: Kind, records: &mut Records) -> Option<Outcome> {
    let title = kind.title();
    let (verb, rest) = match call.action {
        "AddUserToGroup" => return Some(members(call, records, true)),
        "RemoveUserFromGroup" => return Some(members(call, records, false)),
        "UpdateAssumeRolePolicy" => ("UpdateTrust", ""),
        "ListGroupsForUser" | "GetLoginProfile" | "ListInstanceProfilesForRole" => (call.action, ""),
        action => around(action, title)?,
    };
    match (verb, rest) {
        ("Create", "") => return Some(create(call, kind, records)),
        ("List", "s") => return Some(Ok(list(call, kind, records))),
        _ => {}
    }
    let named = named(call, kind);
    if named.is_none() && (kind, verb, rest) == (Kind::User, "Get", "") {
        return Some(Ok(root(call)));
    }
    let of = |records: &Records| match named {
        Some(name) => entity(records, call, kind, name),
        None => call.need(&format!("{title}Name")).and_then(|name| entity(records, call, kind, name)),
    };
    let known = || of(records);
    Some(match (kind, verb, rest) {
        (Kind::Group, "Get", "") => known().map(|known| {
            let mut answer = one(call, kind, &known);
            let users = known.members.iter().filter_map(|name| entity(records, call, Kind::User, name).ok());
            std::mem::take(
                answer.members("Users", users, |xml, user| show(call, Kind::User, &user, xml)).all(),
            )
        }),
        (_, "Get", "") => known().map(|known| one(call, kind, &known)),
        (_, "Delete", "") => known().and_then(|known| delete(call, kind, records, &known)),
        (Kind::User | Kind::Group, "Update", "") => {
            known().and_then(|known| rename(call, kind, records, known))
        }
        (Kind::User, "ListGroupsForUser", _) => known().map(|known| {
            let mut answer = Xml::default();
            let groups = groups_of(call, records, &known.name);
            std::mem::take(
                answer.members("Groups", &groups, |xml, group| show(call, Kind::Group, group, xml)).all(),
            )
        }),
        (Kind::Role, "ListInstanceProfilesForRole", _) => known()
            .map(|_| std::mem::take(Xml::default().members("InstanceProfiles", [""; 0], |_, _| {}).all())),
        (Kind::User, "GetLoginProfile", _) => known().and_then(|known| {
            Err(Refusal::missing(format!("Login Profile for User {} cannot be found.", known.name)))
        }),
        _ => {
            let mut known = match known() {
                Ok(known) => known,
                Err(refused) => return Some(Err(refused)),
            };
            let before = known.clone();
            let done = edit(call, kind, records, (verb, rest), &mut known)?;
            if done.is_ok()
                && known != before
                && let Err(refused) = write(records, call.key(kind, &known.name), &known)
            {
                return Some(Err(refused));
            }
            done
        }
    })
}

/// Actions that change nothing but the entity.
fn edit(
    call: &Call<'_>,
    kind: Kind,
    records: &Records,
    action: (&str, &str),
    known: &mut Entity,
) -> Option<Outcome> {
    Some(match (kind, action.0, action.1) {
        (_, verb @ ("Put" | "Get" | "Delete"), "Policy") | (_, verb @ "List", "Policies") => {
            own_policies(call, kind.title(), verb, known)
        }
        (_, verb @ ("Attach" | "Detach"), "Policy") | (_, verb @ "ListAttached", "Policies") => {
            attached_policies(call, records, verb, known)
        }
        (Kind::User | Kind::Role, "Tag", "") => {
            known.tags.extend(call.tags());
            Ok(Xml::default())
        }
        (Kind::User | Kind::Role, "Untag", "") => {
            call.list("TagKeys").into_iter().for_each(|key| drop(known.tags.remove(&key)));
            Ok(Xml::default())
        }
        (Kind::User | Kind::Role, "List", "Tags") => {
            let mut answer = Xml::default();
            show_tags(&known.tags, &mut answer);
            Ok(std::mem::take(answer.all()))
        }
        (Kind::User | Kind::Role, "Put", "PermissionsBoundary") => {
            call.need("PermissionsBoundary").and_then(|arn| {
                check_managed(call, records, arn)?;
                known.boundary = Some(arn.to_owned());
                Ok(Xml::default())
            })
        }
        (Kind::User | Kind::Role, "Delete", "PermissionsBoundary") => {
            known.boundary = None;
            Ok(Xml::default())
        }
        (Kind::Role, "UpdateTrust", _) => call.need("PolicyDocument").and_then(|document| {
            check_trust(document)?;
            known.trust = Some(document.to_owned());
            Ok(Xml::default())
        }),
        (Kind::Role, "Update", "" | "Description") => session_s(call).map(|seconds| {
            if let Some(description) = call.params.get("Description") {
                known.description.clone_from(description);
            }
            known.session_max_s = seconds.unwrap_or(known.session_max_s);
            if action.1.is_empty() { Xml::default() } else { one(call, kind, known) }
        }),
        _ => return None,
    })
}
