//! The query interfaces of IAM and STS, on the same address as S3: forms that are posted to `/`.

mod actions;
mod answer;
mod oidc;
pub mod session;
mod signature;
mod sts;

use crate::{
    clock::unix_ms,
    http::Peer,
    identity::{
        Global, OWNER_ACCOUNT, PrincipalKind, Who,
        change::{IdentityError, change},
        iam::Provider,
    },
    s3::S3Door,
};
use actions::{Call, Params, Records};
use answer::{Refusal, Xml};
use bytes::Bytes;
use holdfast_gateway_policy::{Caller, Effect, Request};
use holdfast_meta_raft_machine::ask::IdentitiesNow;
use hyper::{HeaderMap, Response, StatusCode, header};
use signature::Signed;
use std::{net::IpAddr, sync::Arc};

/// The largest form, in bytes.
pub const FORM_BYTES_MAX: usize = 256 << 10;

const IAM: &str = "https://iam.amazonaws.com/doc/2010-05-08/";
const STS: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// The interfaces of one gateway.
#[derive(Clone)]
pub struct Iam {
    door: S3Door,
    providers: Arc<oidc::Providers>,
}

/// A question to policies about an action of IAM.
struct Asked<'a> {
    global: Global<'a>,
    action: &'a str,
    resource: &'a str,
    /// The managed policy that the action is about, and the boundary that it sets or that is set.
    policy: Option<&'a str>,
    boundary: Option<String>,
}

impl Request for Asked<'_> {
    fn caller(&self) -> Caller<'_> {
        self.global.who.caller()
    }

    fn action(&self) -> &str {
        self.action
    }

    fn resource(&self) -> &str {
        self.resource
    }

    fn values(&self, key: &str, visit: &mut dyn FnMut(&str)) {
        match key {
            "iam:policyarn" => self.policy.into_iter().for_each(visit),
            "iam:permissionsboundary" => self.boundary.iter().for_each(|arn| visit(arn)),
            _ => {
                self.global.values(key, visit);
            }
        }
    }

    fn source_ip(&self) -> Option<IpAddr> {
        self.global.peer.map(|peer| peer.address.ip())
    }
}

/// A form's fields.
fn params(body: &[u8]) -> Result<Params, Refusal> {
    let malformed = || Refusal::new(StatusCode::BAD_REQUEST, "MalformedQueryString", "The form is malformed");
    let text = std::str::from_utf8(body).map_err(|_| malformed())?;
    let mut params = Params::new();
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        if params.insert(name.into_owned(), value.into_owned()).is_some() {
            return Err(malformed());
        }
    }
    Ok(params)
}

fn unknown_token() -> Refusal {
    Refusal::new(
        StatusCode::FORBIDDEN,
        "InvalidClientTokenId",
        "The security token included in the request is invalid.",
    )
}

/// What a request is answered: its status and its text.
struct Answered(StatusCode, String);

impl Iam {
    pub fn new(door: S3Door) -> Self {
        Self { door, providers: Arc::default() }
    }

    /// Answers a form.
    pub async fn answer(
        &self,
        headers: &HeaderMap,
        path: &str,
        body: Bytes,
        peer: Peer,
        request_id: &str,
    ) -> Response<s3s::Body> {
        let signed = Signed::read(headers);
        let of_sts =
            matches!(&signed, Ok(signed) if signed.as_ref().is_none_or(|signed| signed.service == "sts"));
        let namespace = if of_sts { STS } else { IAM };
        let Answered(status, text) = match self.carry_out(signed, headers, path, &body, peer).await {
            Ok((action, xml)) => Answered(StatusCode::OK, xml.finish(namespace, &action, request_id)),
            Err(refusal) => Answered(refusal.status, refusal.finish(namespace, request_id)),
        };
        let mut response = Response::new(s3s::Body::from(text));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/xml"));
        response
    }

    async fn carry_out(
        &self,
        signed: Result<Option<Signed<'_>>, Refusal>,
        headers: &HeaderMap,
        path: &str,
        body: &[u8],
        peer: Peer,
    ) -> Result<(String, Xml), Refusal> {
        let params = params(body)?;
        let action = params.get("Action").cloned().unwrap_or_default();
        if !action.bytes().all(|byte| byte.is_ascii_alphanumeric()) || action.is_empty() {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "MissingAction", "The request has no action"));
        }
        let now_ms = unix_ms();
        let signed = signed?;
        let (who, holder) = match &signed {
            Some(signed) => self.identify(signed, headers, path, body, now_ms).await?,
            None => (Who::Anonymous, None),
        };
        let by_token = signed.as_ref().is_some_and(|signed| signed.token.is_some());
        let xml = match signed.as_ref().map(|signed| signed.service) {
            Some("iam") => {
                // A key that was stolen for an hour must not make one that lasts.
                let borrowed = match &who {
                    Who::User(principal) => by_token && principal.kind != PrincipalKind::AssumedRole,
                    Who::Owner | Who::Anonymous => by_token,
                };
                if borrowed {
                    return Err(Refusal::denied("Sessions of GetSessionToken cannot call IAM"));
                }
                let global = Global { who: &who, peer: Some(peer), now_ms };
                self.iam(&action, &params, global, holder).await?
            }
            None | Some("sts") => self.sts(&who, holder, &params, peer, now_ms).await?,
            Some(_) => {
                return Err(Refusal::new(
                    StatusCode::FORBIDDEN,
                    "SignatureDoesNotMatch",
                    "Credential should be scoped to correct service: 'iam' or 'sts'.",
                ));
            }
        };
        tracing::info!(action, "an action of identities was carried out");
        Ok((action, xml))
    }

    /// Who sends a request, and under which name keys have them, unless it is by a session.
    async fn identify(
        &self,
        signed: &Signed<'_>,
        headers: &HeaderMap,
        path: &str,
        body: &[u8],
        now_ms: u64,
    ) -> Result<(Who, Option<String>), Refusal> {
        let unavailable = |error: &dyn std::fmt::Display| {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", error.to_string())
        };
        let secret = self.door.secret_of(signed.access_key).await.map_err(|error| unavailable(&error))?;
        let secret = secret.ok_or_else(unknown_token)?;
        signed.check(secret.expose(), headers, path, body, now_ms / 1000)?;
        // What these interfaces answer is what is; strangers do not have it read.
        self.door.directory.refresh(u64::MAX).await.map_err(|error| unavailable(&error))?;
        let who = self.door.identify(signed.access_key, &secret, signed.token).await;
        let who = who.map_err(|_| unknown_token())?;
        let holder = match (&who, signed.token) {
            (Who::Owner, None) => Some(String::new()),
            (_, None) => self.door.directory.now().holder_of(signed.access_key),
            (_, Some(_)) => None,
        };
        Ok((who, holder))
    }

    async fn iam(
        &self,
        action: &str,
        params: &Params,
        global: Global<'_>,
        holder: Option<String>,
    ) -> Result<Xml, Refusal> {
        let (who, now_ms) = (global.who, global.now_ms);
        let Caller::User { account, arn, .. } = who.caller() else { return Err(unknown_token()) };
        let me = match who {
            Who::User(principal) if principal.kind == PrincipalKind::User => Some(principal.name.as_str()),
            Who::User(_) | Who::Owner | Who::Anonymous => None,
        };
        let holder = holder.as_deref().filter(|holder| !holder.is_empty());
        let call = Call { action, params, account, me, holder, now_ms };
        let meta = self.door.meta();
        let qualified = format!("iam:{action}");
        let may = |records: &Records| {
            for resource in actions::resources(&call, records) {
                let (policy, boundary) = actions::about(&call, records);
                let asked = Asked { global, action: &qualified, resource: &resource, policy, boundary };
                let allowed = match who {
                    Who::Owner => true,
                    Who::Anonymous => false,
                    Who::User(principal) => match principal.effect(&asked) {
                        Some(effect) => effect == Effect::Allow,
                        None => !principal.is_restricted(),
                    },
                };
                if !allowed {
                    return Err(Refusal::denied(format!(
                        "User: {arn} is not authorized to perform: {qualified} on resource: {resource}"
                    )));
                }
            }
            Ok(())
        };
        if ["Get", "List"].iter().any(|verb| action.starts_with(verb)) {
            let (_, records) = meta.ask(IdentitiesNow {}).await.map_err(IdentityError::from)?;
            let mut records: Records = records.into_iter().collect();
            may(&records)?;
            return actions::run(&call, &mut records);
        }
        // Judged and carried out on the same records.
        let done = change(meta, |records| {
            may(records)?;
            let answer = actions::run(&call, records)?;
            actions::check_room(&call, records)?;
            Ok(answer)
        });
        done.await
    }

    /// The provider that an issuer is, of the account or of the system's owner's, and whose it is.
    async fn provider(&self, account: &str, issuer: &str) -> Result<Option<(String, Provider)>, Refusal> {
        let find = || {
            let known = self.door.directory.now();
            let of = |owner: &str| {
                let ours = known.providers.iter().filter(|(of, _)| of == owner);
                ours.map(|(_, provider)| provider).find(|provider| provider.url == issuer).cloned()
            };
            [account, OWNER_ACCOUNT].into_iter().find_map(|owner| Some((owner.to_owned(), of(owner)?)))
        };
        if find().is_none() {
            self.door.directory.look_again().await.map_err(IdentityError::from)?;
        }
        Ok(find())
    }
}

/// Whether a request is for these interfaces.
pub fn is_form(method: &hyper::Method, path: &str, headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(|kind| kind.as_bytes());
    let form = b"application/x-www-form-urlencoded";
    method == hyper::Method::POST && path == "/" && kind.is_some_and(|kind| kind.starts_with(form))
}
