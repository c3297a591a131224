//! Access keys.

use super::{Call, Outcome, Records, entity, read, write};
use crate::{
    clock::rfc3339_s,
    iam::answer::{Refusal, Xml},
    identity::{Key, change::Pair, iam::Kind},
};

/// Access keys of one user, as in AWS.
pub const KEYS_MAX: usize = 2;

/// Whose keys the action is about: their name in keys, and the user's own.
fn whose(call: &Call<'_>, records: &Records) -> Result<(String, String), Refusal> {
    match call.maybe("UserName").or(call.me) {
        Some(name) => {
            let user = entity(records, call, Kind::User, name)?;
            Ok((format!("{}:{}", call.account, user.name), user.name))
        }
        None => match call.holder {
            Some(holder) => Ok((holder.to_owned(), holder.to_owned())),
            None => Err(Refusal::denied("The system's owner has no keys of this kind: name a user")),
        },
    }
}

fn keys_of(records: &Records, holder: &str) -> Vec<(String, Key)> {
    let keys = records.range("key/".to_owned()..).take_while(|(key, _)| key.starts_with("key/"));
    let read = |(key, text): (&String, &String)| {
        let found: Key = serde_json::from_str(text).ok()?;
        (found.user == holder).then(|| (key["key/".len()..].to_owned(), found))
    };
    keys.filter_map(read).collect()
}

fn status(key: &Key) -> &'static str {
    if key.disabled { "Inactive" } else { "Active" }
}

fn create(call: &Call<'_>, records: &mut Records) -> Outcome {
    let (holder, name) = whose(call, records)?;
    if keys_of(records, &holder).len() >= KEYS_MAX {
        return Err(Refusal::limit(format!("Cannot exceed quota for AccessKeysPerUser: {KEYS_MAX}")));
    }
    let Pair { access, secret } = Pair::random();
    let key = Key { user: holder, secret: secret.clone(), created_ms: call.now_ms, disabled: false };
    write(records, format!("key/{access}"), &key)?;
    let mut answer = Xml::default();
    answer.node("AccessKey", |xml| {
        xml.text("UserName", name)
            .text("AccessKeyId", access)
            .text("Status", status(&key))
            .text("SecretAccessKey", secret)
            .text("CreateDate", rfc3339_s(key.created_ms));
    });
    Ok(answer)
}

fn change(call: &Call<'_>, records: &mut Records) -> Outcome {
    let (holder, _) = whose(call, records)?;
    let access = call.need("AccessKeyId")?;
    let path = format!("key/{access}");
    let found = read::<Key>(records, &path)?.filter(|key| key.user == holder);
    let mut key =
        found.ok_or_else(|| Refusal::missing(format!("The Access Key with id {access} cannot be found.")))?;
    if call.action == "DeleteAccessKey" {
        records.remove(&path);
        return Ok(Xml::default());
    }
    key.disabled = match call.need("Status")? {
        "Active" => false,
        "Inactive" => true,
        _ => return Err(Refusal::invalid("Status is Active or Inactive")),
    };
    write(records, path, &key)?;
    Ok(Xml::default())
}

/// What is done to keys.
pub const ACTIONS: [&str; 4] = ["CreateAccessKey", "UpdateAccessKey", "DeleteAccessKey", "ListAccessKeys"];

pub fn run(call: &Call<'_>, records: &mut Records) -> Option<Outcome> {
    Some(match call.action {
        "CreateAccessKey" => create(call, records),
        "UpdateAccessKey" | "DeleteAccessKey" => change(call, records),
        "ListAccessKeys" => whose(call, records).map(|(holder, name)| {
            let mut answer = Xml::default();
            answer.members("AccessKeyMetadata", keys_of(records, &holder), |xml, (access, key)| {
                xml.text("UserName", &name)
                    .text("AccessKeyId", access)
                    .text("Status", status(&key))
                    .text("CreateDate", rfc3339_s(key.created_ms));
            });
            std::mem::take(answer.all())
        }),
        _ => return None,
    })
}
