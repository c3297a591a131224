//! Temporary credentials for who may have them.

use super::{
    Iam,
    actions::Params,
    answer::{Refusal, Xml},
    oidc::{Claims, claimed_issuer},
    session::{self, Holder, Temporary},
};
use crate::clock::rfc3339_s;
use crate::http::Peer;
use crate::identity::{
    Global, Identities, OWNER_ACCOUNT, Principal, PrincipalKind, Who, iam::Role, read_policy,
};
use holdfast_gateway_policy::{Caller, Effect, Policy, Request};
use hyper::StatusCode;
use std::net::IpAddr;

/// How long credentials last, in seconds: at least, and of sessions without a role unless they say so, as in AWS.
const LIFE_MIN_S: u64 = 900;
const LIFE_S: u64 = 3600;
const LIFE_OF_TOKENS_S: u64 = 12 * 3600;
const LIFE_OF_TOKENS_MAX_S: u64 = 36 * 3600;

/// Bytes of a session's policy, as in AWS.
const POLICY_BYTES_MAX: usize = 2048;

/// A wish to assume a role, as its trust policy sees it.
struct Assumption<'a> {
    action: &'a str,
    role_arn: &'a str,
    caller: Caller<'a>,
    params: &'a Params,
    claims: Option<(&'a str, &'a Claims)>,
    global: Global<'a>,
}

impl Request for Assumption<'_> {
    fn caller(&self) -> Caller<'_> {
        self.caller
    }

    fn action(&self) -> &str {
        self.action
    }

    fn resource(&self) -> &str {
        self.role_arn
    }

    fn values(&self, key: &str, visit: &mut dyn FnMut(&str)) {
        if self.global.values(key, visit) {
            return;
        }
        let param = |name: &str| self.params.get(name).map(String::as_str);
        let mut some = |value: Option<&str>| value.into_iter().for_each(&mut *visit);
        match key {
            "sts:externalid" => some(param("ExternalId")),
            "sts:rolesessionname" => some(param("RoleSessionName")),
            _ => {
                let Some((provider, claims)) = self.claims else { return };
                let field =
                    key.strip_prefix(&provider.to_ascii_lowercase()).and_then(|rest| rest.strip_prefix(':'));
                match field {
                    Some("sub") => some(Some(&claims.sub)),
                    // The client that the token was made for, where it says so.
                    Some("aud") => match &claims.azp {
                        Some(azp) => some(Some(azp)),
                        None => claims.aud.iter().for_each(|aud| visit(aud)),
                    },
                    Some("oaud") => claims.aud.iter().for_each(|aud| visit(aud)),
                    Some("email") => some(claims.email.as_deref()),
                    Some("amr") => claims.amr.iter().for_each(|amr| visit(amr)),
                    Some(_) | None => {}
                }
            }
        }
    }

    fn source_ip(&self) -> Option<IpAddr> {
        self.global.peer.map(|peer| peer.address.ip())
    }
}

fn need<'a>(params: &'a Params, name: &str) -> Result<&'a str, Refusal> {
    let value = params.get(name).map(String::as_str).filter(|value| !value.is_empty());
    value.ok_or_else(|| Refusal::invalid(format!("The request must contain the parameter {name}")))
}

fn life_s(params: &Params, default: u64, max: u64) -> Result<u64, Refusal> {
    let Some(text) = params.get("DurationSeconds") else { return Ok(default.min(max)) };
    let seconds = text.parse().ok().filter(|seconds| (LIFE_MIN_S..=max).contains(seconds));
    seconds.ok_or_else(|| {
        Refusal::invalid(format!(
            "The requested DurationSeconds must be {LIFE_MIN_S} at least and {max}, the MaxSessionDuration set for this role, at most."
        ))
    })
}

fn session_policy(params: &Params) -> Result<Option<String>, Refusal> {
    if params.keys().any(|name| name.starts_with("PolicyArns.")) {
        // To leave them out would be to allow more than was meant.
        return Err(Refusal::invalid(
            "Managed session policies are not supported: give the policy as Policy",
        ));
    }
    let Some(text) = params.get("Policy") else { return Ok(None) };
    if text.len() > POLICY_BYTES_MAX {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "PackedPolicyTooLarge", "The policy is too large"));
    }
    match read_policy(text) {
        Some(_) => Ok(Some(text.clone())),
        None => Err(Refusal::malformed_policy("The session policy is malformed")),
    }
}

fn session_name(params: &Params) -> Result<&str, Refusal> {
    let name = need(params, "RoleSessionName")?;
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte);
    match (2..=64).contains(&name.len()) && name.bytes().all(known) {
        true => Ok(name),
        false => {
            Err(Refusal::invalid("RoleSessionName has 2 to 64 letters, digits or characters of +=,.@_-"))
        }
    }
}

fn show(xml: &mut Xml, made: &Temporary) {
    xml.node("Credentials", |xml| {
        xml.text("AccessKeyId", &made.access)
            .text("SecretAccessKey", &made.secret)
            .text("SessionToken", &made.token)
            .text("Expiration", rfc3339_s(made.expires_ms));
    });
}

/// The role that an ARN names, with its account's canonical id and digits.
fn role_named<'a>(identities: &'a Identities, arn: &'a str) -> Option<(&'a Role, &'a str, &'a str)> {
    let rest = arn.strip_prefix("arn:aws:iam::")?;
    let (account, path) = rest.split_once(":role/")?;
    let found = identities.accounts.get(account)?;
    let role = found.roles.get(path.rsplit('/').next()?).filter(|role| role.arn == arn)?;
    let enabled = account == OWNER_ACCOUNT || identities.is_enabled(&found.canonical);
    enabled.then_some((role, found.canonical.as_str(), account))
}

fn may_not(who: &str, action: &str, arn: &str) -> Refusal {
    Refusal::denied(format!("User: {who} is not authorized to perform: {action} on resource: {arn}"))
}

/// A session that may be had.
struct Granted {
    holder: Holder,
    principal: Principal,
    limit: Option<String>,
    life_s: u64,
}

/// The session of a role for whoever `asked`, if its trust policy lets them.
fn granted(
    identities: &Identities,
    asked: &Assumption<'_>,
    who: &str,
    trusted: impl FnOnce(Effect, &str) -> bool,
) -> Result<Granted, Refusal> {
    let refuse = || may_not(who, asked.action, asked.role_arn);
    let (role, canonical, account) = role_named(identities, asked.role_arn).ok_or_else(refuse)?;
    let trust =
        role.entity.trust.as_deref().and_then(|text| Policy::of_trust(text).ok()).ok_or_else(refuse)?;
    let effect = trust.effect(asked).ok_or_else(refuse)?;
    if effect == Effect::Deny || !trusted(effect, account) {
        return Err(refuse());
    }
    let session = session_name(asked.params)?;
    let holder = Holder::Role {
        account: account.to_owned(),
        role: role.entity.name.clone(),
        id: role.entity.id.clone(),
        session: session.to_owned(),
    };
    Ok(Granted {
        holder,
        principal: role.session(canonical, account, session, None),
        limit: session_policy(asked.params)?,
        life_s: life_s(asked.params, LIFE_S, role.entity.session_max_s)?,
    })
}

impl Iam {
    /// Carries out an action of STS.
    ///
    /// # Errors
    /// Why it was not.
    pub(super) async fn sts(
        &self,
        who: &Who,
        holder: Option<String>,
        params: &Params,
        peer: Peer,
        now_ms: u64,
    ) -> Result<Xml, Refusal> {
        let action = params.get("Action").map(String::as_str).unwrap_or_default();
        if action == "AssumeRoleWithWebIdentity" {
            return self.assume_with_token(params, peer, now_ms).await;
        }
        let caller = match who.caller() {
            Caller::Anonymous | Caller::Federated(_) => {
                return Err(Refusal::new(
                    StatusCode::FORBIDDEN,
                    "MissingAuthenticationToken",
                    "Request is missing Authentication Token",
                ));
            }
            caller @ Caller::User { .. } => caller,
        };
        let Caller::User { account, arn, .. } = caller else { return Err(Refusal::denied("Access denied")) };
        match action {
            "GetCallerIdentity" => {
                let id = match who {
                    Who::User(principal) => &principal.id,
                    Who::Owner | Who::Anonymous => account,
                };
                let mut answer = Xml::default();
                answer.text("Arn", arn).text("UserId", id).text("Account", account);
                Ok(answer)
            }
            "GetSessionToken" => {
                // Who has a session already does not get another by it.
                let holder = match (who, holder) {
                    (Who::Owner, Some(_)) => Holder::Owner,
                    (Who::User(principal), Some(holder)) if principal.kind != PrincipalKind::AssumedRole => {
                        Holder::Principal { name: holder, id: principal.id.clone() }
                    }
                    _ => return Err(Refusal::denied("Cannot call GetSessionToken with session credentials")),
                };
                let life = life_s(params, LIFE_OF_TOKENS_S, LIFE_OF_TOKENS_MAX_S)?;
                let made = self.temporary(holder, None, now_ms + life * 1000).await?;
                let mut answer = Xml::default();
                show(&mut answer, &made);
                Ok(answer)
            }
            "AssumeRole" => {
                let role_arn = need(params, "RoleArn")?;
                let global = Global { who, peer: Some(peer), now_ms };
                let asked =
                    Assumption { action: "sts:AssumeRole", role_arn, caller, params, claims: None, global };
                let own = match who {
                    Who::User(principal) => principal.effect(&asked),
                    Who::Owner | Who::Anonymous => None,
                };
                let restricted = matches!(who, Who::User(principal) if principal.is_restricted());
                let identities = self.door.directory.now();
                let granted = granted(&identities, &asked, arn, |_, of_role| {
                    let by_own = match own {
                        Some(Effect::Deny) => false,
                        Some(Effect::Allow) => true,
                        None => !restricted,
                    };
                    // Within an account a trust policy that names the caller is enough.
                    let named =
                        || of_role == account && own != Some(Effect::Deny) && names(&identities, &asked);
                    by_own || named()
                })?;
                // Who has a role takes another for an hour at most.
                let chained =
                    matches!(who, Who::User(principal) if principal.kind == PrincipalKind::AssumedRole);
                if chained && granted.life_s > LIFE_S {
                    let text = "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining";
                    return Err(Refusal::invalid(text));
                }
                self.assumed(granted, None, now_ms).await
            }
            other => Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "InvalidAction",
                format!("Could not find operation {other} for version 2011-06-15"),
            )),
        }
    }

    async fn assume_with_token(&self, params: &Params, peer: Peer, now_ms: u64) -> Result<Xml, Refusal> {
        let bad = |text: String| Refusal::new(StatusCode::BAD_REQUEST, "InvalidIdentityToken", text);
        let (role_arn, token) = (need(params, "RoleArn")?, need(params, "WebIdentityToken")?);
        let issuer = claimed_issuer(token).ok_or_else(|| bad("The token is no JSON Web Token".to_owned()))?;
        let issuer = issuer.trim_end_matches('/');
        let account = role_arn.split(':').nth(4).unwrap_or_default();
        let found = self.provider(account, issuer).await?;
        let (account, provider) =
            found.ok_or_else(|| bad(format!("No OpenIDConnect provider found for {issuer}")))?;
        // What gateways ask without encryption, the system's owner answers for.
        if account != OWNER_ACCOUNT && !provider.url.starts_with("https://") {
            return Err(bad("The provider is not asked: its URL does not begin with https://".to_owned()));
        }
        let trusted = account == OWNER_ACCOUNT;
        let claims = self.providers.check(&provider, token, trusted).await.map_err(|wrong| bad(wrong.0))?;
        let arn = super::actions::provider_arn(&account, &provider.url);
        let asked = Assumption {
            action: "sts:AssumeRoleWithWebIdentity",
            role_arn,
            caller: Caller::Federated(&arn),
            params,
            claims: Some((super::actions::provider_name(&provider.url), &claims)),
            global: Global { who: &Who::Anonymous, peer: Some(peer), now_ms },
        };
        let granted = granted(&self.door.directory.now(), &asked, &claims.sub, |_, _| true)?;
        self.assumed(granted, Some((&claims, &arn)), now_ms).await
    }

    async fn assumed(
        &self,
        granted: Granted,
        federated: Option<(&Claims, &str)>,
        now_ms: u64,
    ) -> Result<Xml, Refusal> {
        let Granted { holder, principal, limit, life_s } = granted;
        let made = self.temporary(holder, limit, now_ms + life_s * 1000).await?;
        let mut answer = Xml::default();
        show(&mut answer, &made);
        answer.node("AssumedRoleUser", |xml| {
            xml.text("Arn", &principal.arn).text("AssumedRoleId", &principal.id);
        });
        if let Some((claims, provider)) = federated {
            answer
                .text("SubjectFromWebIdentityToken", &claims.sub)
                .maybe("Audience", claims.aud.first())
                .text("Provider", provider);
        }
        Ok(answer)
    }

    async fn temporary(
        &self,
        holder: Holder,
        limit: Option<String>,
        expires_ms: u64,
    ) -> Result<Temporary, Refusal> {
        session::make(&self.door.keyring, holder, limit, expires_ms).await.map_err(|error| {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", error.to_string())
        })
    }
}

/// Whether a role's trust policy names the caller, and not only its account.
fn names(identities: &Identities, asked: &Assumption<'_>) -> bool {
    let Caller::User { arn, role, .. } = asked.caller else { return false };
    let caller = Caller::User { account: "", arn, canonical: "", role };
    let by_name = Assumption { caller, ..*asked };
    let trust = role_named(identities, asked.role_arn).and_then(|(role, ..)| role.entity.trust.as_deref());
    let trust = trust.and_then(|text| Policy::of_trust(text).ok());
    trust.is_some_and(|trust| trust.effect(&by_name) == Some(Effect::Allow))
}
