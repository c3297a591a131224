//! Managed policies, with their versions.

use super::{Call, Outcome, Records, add, all, check_policy, entities::encoded, new_id, read, write};
use crate::{
    clock::rfc3339_s,
    iam::answer::{Refusal, Xml},
    identity::iam::{Entity, Kind, Managed, arn, built_in},
};
use std::collections::BTreeMap;

/// What is done to a policy by its ARN.
pub const WITH_POLICY: [&str; 11] = [
    "GetPolicy",
    "DeletePolicy",
    "ListPolicyVersions",
    "GetPolicyVersion",
    "CreatePolicyVersion",
    "SetDefaultPolicyVersion",
    "DeletePolicyVersion",
    "TagPolicy",
    "UntagPolicy",
    "ListPolicyTags",
    "ListEntitiesForPolicy",
];

/// Versions of one policy, as in AWS.
const VERSIONS_MAX: usize = 5;

/// An account's own policy by its ARN.
///
/// # Errors
/// Where there is none.
pub fn find(call: &Call<'_>, records: &Records, named: &str) -> Result<Managed, Refusal> {
    let missing = || Refusal::missing(format!("Policy {named} was not found."));
    let name = named.rsplit('/').next().unwrap_or_default();
    let found = read::<Managed>(records, &call.key("policy", name))?;
    found
        .filter(|policy| arn(call.account, "policy", &policy.path, &policy.name) == named)
        .ok_or_else(missing)
}

fn entities_with(call: &Call<'_>, records: &Records, named: &str) -> Vec<(Kind, Entity)> {
    let of = |kind: Kind| {
        all::<Entity>(records, &call.key(kind, "")).into_iter().map(move |entity| (kind, entity))
    };
    let has = |entity: &Entity| entity.attached.contains(named) || entity.boundary.as_deref() == Some(named);
    Kind::ALL.into_iter().flat_map(of).filter(|(_, entity)| has(entity)).collect()
}

fn show(call: &Call<'_>, records: &Records, policy: &Managed, xml: &mut Xml) {
    let own = arn(call.account, "policy", &policy.path, &policy.name);
    xml.text("PolicyName", &policy.name)
        .text("PolicyId", &policy.id)
        .text("Arn", &own)
        .text("Path", &policy.path)
        .text("DefaultVersionId", format!("v{}", policy.default))
        .text("AttachmentCount", entities_with(call, records, &own).len().to_string())
        .text("PermissionsBoundaryUsageCount", "0")
        .text("IsAttachable", "true")
        .text("Description", &policy.description)
        .text("CreateDate", rfc3339_s(policy.created_ms))
        .text("UpdateDate", rfc3339_s(policy.updated_ms));
    if !policy.tags.is_empty() {
        xml.members("Tags", &policy.tags, |xml, (key, value)| {
            xml.text("Key", key).text("Value", value);
        });
    }
}

fn show_built_in(arn: &str, xml: &mut Xml) {
    let name = arn.rsplit('/').next().unwrap_or_default();
    xml.text("PolicyName", name)
        .text("PolicyId", format!("ANPA{name}"))
        .text("Arn", arn)
        .text("Path", "/")
        .text("DefaultVersionId", "v1")
        .text("AttachmentCount", "0")
        .text("IsAttachable", "true")
        .text("CreateDate", rfc3339_s(0))
        .text("UpdateDate", rfc3339_s(0));
}

fn create(call: &Call<'_>, records: &mut Records) -> Outcome {
    let (name, document) = (call.name("PolicyName")?, call.need("PolicyDocument")?);
    check_policy(document)?;
    let policy = Managed {
        name: name.to_owned(),
        path: call.path()?,
        id: new_id("ANPA"),
        description: call.maybe("Description").unwrap_or_default().to_owned(),
        created_ms: call.now_ms,
        updated_ms: call.now_ms,
        versions: BTreeMap::from([(1, (document.to_owned(), call.now_ms))]),
        default: 1,
        tags: call.tags(),
    };
    add(records, call, "policy", name, &policy)?;
    let mut answer = Xml::default();
    answer.node("Policy", |xml| show(call, records, &policy, xml));
    Ok(answer)
}

fn show_version(policy: &Managed, number: u32, with_document: bool, xml: &mut Xml) {
    let Some((document, created_ms)) = policy.versions.get(&number) else { return };
    if with_document {
        xml.text("Document", encoded(document));
    }
    xml.text("VersionId", format!("v{number}"))
        .text("IsDefaultVersion", (number == policy.default).to_string())
        .text("CreateDate", rfc3339_s(*created_ms));
}

fn version_named(call: &Call<'_>, policy: &Managed) -> Result<u32, Refusal> {
    let named = call.need("VersionId")?;
    let number = named.strip_prefix('v').and_then(|number| number.parse().ok());
    let known = number.filter(|number| policy.versions.contains_key(number));
    known.ok_or_else(|| Refusal::missing(format!("Policy version {named} was not found.")))
}

/// What AWS's own policies answer; they do not change.
fn of_built_in(call: &Call<'_>, named: &str, document: &str) -> Outcome {
    let mut answer = Xml::default();
    match call.action {
        "GetPolicy" => answer.node("Policy", |xml| show_built_in(named, xml)),
        "GetPolicyVersion" => answer.node("PolicyVersion", |xml| {
            xml.text("Document", encoded(document)).text("VersionId", "v1").text("IsDefaultVersion", "true");
        }),
        "ListPolicyVersions" => answer
            .members("Versions", [()], |xml, ()| {
                xml.text("VersionId", "v1").text("IsDefaultVersion", "true");
            })
            .all(),
        _ => return Err(Refusal::denied("The policy is everybody's, and does not change.")),
    };
    Ok(answer)
}

fn with_policy(call: &Call<'_>, records: &mut Records) -> Outcome {
    let named = call.need("PolicyArn")?;
    if let Some((_, document)) = built_in().find(|(arn, _)| arn == named) {
        return of_built_in(call, named, document);
    }
    let mut policy = find(call, records, named)?;
    let key = call.key("policy", &policy.name);
    let mut answer = Xml::default();
    match call.action {
        "GetPolicy" => {
            answer.node("Policy", |xml| show(call, records, &policy, xml));
        }
        "DeletePolicy" => {
            if !entities_with(call, records, named).is_empty() {
                return Err(Refusal::conflict("Cannot delete a policy attached to entities."));
            }
            records.remove(&key);
        }
        "ListPolicyVersions" => {
            answer.members("Versions", policy.versions.keys().rev(), |xml, number| {
                show_version(&policy, *number, false, xml);
            });
            answer.all();
        }
        "GetPolicyVersion" => {
            let number = version_named(call, &policy)?;
            answer.node("PolicyVersion", |xml| show_version(&policy, number, true, xml));
        }
        "CreatePolicyVersion" => {
            let document = call.need("PolicyDocument")?;
            check_policy(document)?;
            if policy.versions.len() >= VERSIONS_MAX {
                return Err(Refusal::limit("A managed policy can have up to 5 versions."));
            }
            let number = policy.versions.keys().next_back().map_or(1, |last| last + 1);
            policy.versions.insert(number, (document.to_owned(), call.now_ms));
            policy.updated_ms = call.now_ms;
            if call.maybe("SetAsDefault") == Some("true") {
                policy.default = number;
            }
            write(records, key, &policy)?;
            answer.node("PolicyVersion", |xml| show_version(&policy, number, false, xml));
        }
        "SetDefaultPolicyVersion" => {
            policy.default = version_named(call, &policy)?;
            policy.updated_ms = call.now_ms;
            write(records, key, &policy)?;
        }
        "DeletePolicyVersion" => {
            let number = version_named(call, &policy)?;
            if number == policy.default {
                return Err(Refusal::conflict("Cannot delete the default version of a policy."));
            }
            policy.versions.remove(&number);
            write(records, key, &policy)?;
        }
        "TagPolicy" | "UntagPolicy" => {
            policy.tags.extend(call.tags());
            call.list("TagKeys").into_iter().for_each(|key| drop(policy.tags.remove(&key)));
            write(records, key, &policy)?;
        }
        "ListPolicyTags" => {
            answer.members("Tags", &policy.tags, |xml, (key, value)| {
                xml.text("Key", key).text("Value", value);
            });
            answer.all();
        }
        _ => {
            let with = entities_with(call, records, named);
            for kind in Kind::ALL {
                let title = kind.title();
                let of_kind = with.iter().filter(|(other, _)| *other == kind);
                answer.members(&format!("Policy{title}s"), of_kind, |xml, (_, entity)| {
                    xml.text(&format!("{title}Name"), &entity.name).text(&format!("{title}Id"), &entity.id);
                });
            }
            answer.all();
        }
    }
    Ok(answer)
}

fn list(call: &Call<'_>, records: &Records) -> Xml {
    let scope = call.maybe("Scope").unwrap_or("All");
    let prefix = call.maybe("PathPrefix").unwrap_or("/");
    let attached_only = call.maybe("OnlyAttached") == Some("true");
    let mut answer = Xml::default();
    answer.node("Policies", |list| {
        for policy in all::<Managed>(records, &call.key("policy", "")) {
            let own = arn(call.account, "policy", &policy.path, &policy.name);
            let attached = !attached_only || !entities_with(call, records, &own).is_empty();
            if scope != "AWS" && policy.path.starts_with(prefix) && attached {
                list.node("member", |xml| show(call, records, &policy, xml));
            }
        }
        for (arn, _) in built_in().filter(|_| scope != "Local" && prefix == "/") {
            if !attached_only || !entities_with(call, records, &arn).is_empty() {
                list.node("member", |xml| show_built_in(&arn, xml));
            }
        }
    });
    std::mem::take(answer.all())
}

pub fn run(call: &Call<'_>, records: &mut Records) -> Option<Outcome> {
    match call.action {
        "CreatePolicy" => Some(create(call, records)),
        "ListPolicies" => Some(Ok(list(call, records))),
        action if WITH_POLICY.contains(&action) => Some(with_policy(call, records)),
        _ => None,
    }
}
