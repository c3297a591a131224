//! OpenID Connect providers. Gateways ask them for their keys.

use super::{Call, Outcome, Records, add, all, read, write};
use crate::{
    clock::rfc3339_s,
    iam::answer::{Refusal, Xml},
    identity::iam::Provider,
};

/// A provider's name: its URL without the scheme.
pub fn name_of(url: &str) -> &str {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or(url);
    rest.trim_end_matches('/')
}

pub fn arn_of(account: &str, url: &str) -> String {
    format!("arn:aws:iam::{account}:oidc-provider/{}", name_of(url))
}

fn create(call: &Call<'_>, records: &mut Records) -> Outcome {
    let url = call.need("Url")?;
    let scheme = url.starts_with("https://") || url.starts_with("http://");
    if !scheme || url.len() > 255 || url.contains(['?', '#', '@']) || name_of(url).is_empty() {
        return Err(Refusal::invalid("Invalid Open ID Connect Provider URL"));
    }
    let provider = Provider {
        url: url.trim_end_matches('/').to_owned(),
        client_ids: call.list("ClientIDList").into_iter().collect(),
        thumbprints: call.list("ThumbprintList"),
        created_ms: call.now_ms,
    };
    add(records, call, "oidc-provider", name_of(url), &provider)?;
    let mut answer = Xml::default();
    answer.text("OpenIDConnectProviderArn", arn_of(call.account, url));
    Ok(answer)
}

fn with_provider(call: &Call<'_>, records: &mut Records) -> Outcome {
    let arn = call.need("OpenIDConnectProviderArn")?;
    let missing = || Refusal::missing(format!("OpenIDConnect Provider not found for arn {arn}"));
    let name = arn.split_once(":oidc-provider/").map(|(_, name)| name).ok_or_else(missing)?;
    let key = call.key("oidc-provider", name);
    let mut provider: Provider = read(records, &key)?.ok_or_else(missing)?;
    let mut answer = Xml::default();
    match call.action {
        "DeleteOpenIDConnectProvider" => {
            records.remove(&key);
            return Ok(answer);
        }
        "GetOpenIDConnectProvider" => {
            answer.text("Url", name_of(&provider.url)).text("CreateDate", rfc3339_s(provider.created_ms));
            for (name, list) in [
                ("ClientIDList", provider.client_ids.iter().collect()),
                ("ThumbprintList", provider.thumbprints.iter().collect::<Vec<_>>()),
            ] {
                answer.members(name, list, |xml, text| {
                    xml.content(text);
                });
            }
            return Ok(answer);
        }
        "AddClientIDToOpenIDConnectProvider" => {
            provider.client_ids.insert(call.need("ClientID")?.to_owned());
        }
        "RemoveClientIDFromOpenIDConnectProvider" => {
            provider.client_ids.remove(call.need("ClientID")?);
        }
        _ => provider.thumbprints = call.list("ThumbprintList"),
    }
    write(records, key, &provider)?;
    Ok(answer)
}

pub fn run(call: &Call<'_>, records: &mut Records) -> Option<Outcome> {
    if !call.action.contains("OpenIDConnectProvider") {
        return None;
    }
    Some(match call.action {
        "CreateOpenIDConnectProvider" => create(call, records),
        "ListOpenIDConnectProviders" => {
            let providers = all::<Provider>(records, &call.key("oidc-provider", ""));
            let mut answer = Xml::default();
            answer.members("OpenIDConnectProviderList", providers, |xml, provider| {
                xml.text("Arn", arn_of(call.account, &provider.url));
            });
            Ok(answer)
        }
        "GetOpenIDConnectProvider"
        | "DeleteOpenIDConnectProvider"
        | "AddClientIDToOpenIDConnectProvider"
        | "RemoveClientIDFromOpenIDConnectProvider"
        | "UpdateOpenIDConnectProviderThumbprint" => with_provider(call, records),
        _ => return None,
    })
}
