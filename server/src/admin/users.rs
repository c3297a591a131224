//! Users, keys and policies over HTTP: one set of routes behind the admin API, a local socket and the command line.

use super::http::{Answer, Problem, Refused};
use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use holdfast_gateway_server::identity::{
    User,
    change::{self, IdentityError, NewUser, Pair},
    devices,
};
use holdfast_meta_raft_machine::{
    ask::IdentitiesNow,
    command::{Command, Request},
};
use holdfast_meta_raft_server::Meta;
use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl From<IdentityError> for Refused {
    fn from(error: IdentityError) -> Self {
        let status = match &error {
            IdentityError::Exists(_) => StatusCode::CONFLICT,
            IdentityError::Unknown(_) => StatusCode::NOT_FOUND,
            IdentityError::Invalid(_) => StatusCode::BAD_REQUEST,
            IdentityError::Busy | IdentityError::Meta(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self(status, error.to_string())
    }
}

/// A user.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct UserShown {
    /// Its name, which is also its canonical id.
    pub name: String,
    pub id: String,
    /// The account's twelve digits.
    pub account: String,
    pub arn: String,
    pub display_name: String,
    pub email: Option<String>,
    pub disabled: bool,
    /// The names of its own policies.
    pub policies: Vec<String>,
    /// The names of policies that it shares with others.
    pub attached: Vec<String>,
    /// Milliseconds since 1970.
    pub created_ms: u64,
}

impl From<User> for UserShown {
    fn from(user: User) -> Self {
        Self {
            arn: format!("arn:aws:iam::{}:root", user.account),
            id: user.name.clone(),
            policies: user.policies.into_keys().collect(),
            attached: user.attached.into_iter().collect(),
            name: user.name,
            account: user.account,
            display_name: user.display_name,
            email: user.email,
            disabled: user.disabled,
            created_ms: user.created_ms,
        }
    }
}

/// A user to be made.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct UserOrder {
    pub name: String,
    pub display_name: Option<String>,
    pub email: Option<String>,
    /// With which its devices are paired.
    #[serde(default)]
    pub password: Option<String>,
}

/// What of a user is changed.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct UserChange {
    /// None of its keys opens anything.
    pub disabled: Option<bool>,
    /// Gives it a policy of its own, or another one of that name: name and document.
    pub put_policy: Option<(String, String)>,
    pub delete_policy: Option<String>,
    pub attach: Option<String>,
    pub detach: Option<String>,
    #[serde(default)]
    pub password: Option<String>,
    /// Bytes that all versions in its buckets may have.
    #[serde(default)]
    pub quota: Option<u64>,
    /// It may store as much as there is room for.
    #[serde(default)]
    pub no_quota: bool,
}

/// An access key. Its secret is shown when it is made, and never again.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct KeyShown {
    pub user: String,
    pub access_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key: Option<String>,
    /// Milliseconds since 1970.
    pub created_ms: u64,
}

/// A key to be made: a random one, or the one that is given.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct KeyOrder {
    pub user: String,
    pub access_key: Option<String>,
    pub secret_key: Option<String>,
}

/// A policy that users can share.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PolicyShown {
    pub name: String,
    /// In AWS's language, as JSON.
    pub document: String,
}

/// The routes, for a state that is the metadata.
pub fn routes() -> OpenApiRouter<Meta> {
    OpenApiRouter::new()
        .routes(routes!(users, create_user))
        .routes(routes!(change_user, delete_user))
        .routes(routes!(make_code))
        .routes(routes!(keys, create_key))
        .routes(routes!(delete_key))
        .routes(routes!(policies, put_policy))
        .routes(routes!(delete_policy))
}

/// Users.
#[utoipa::path(get, path = "/v1/users", responses((status = 200, body = Vec<UserShown>)))]
async fn users(State(meta): State<Meta>) -> Answer<Vec<UserShown>> {
    Ok(Json(change::users(&meta).await?.into_iter().map(UserShown::from).collect()))
}

/// Makes a user.
#[utoipa::path(post, path = "/v1/users", request_body = UserOrder,
    responses((status = 200, body = UserShown), (status = 409, body = Problem)))]
async fn create_user(State(meta): State<Meta>, Json(order): Json<UserOrder>) -> Answer<UserShown> {
    let UserOrder { name, display_name, email, password } = order;
    let password = hashed(password).await?;
    let new = NewUser { name, display_name, email, created_ms: now_ms(), password };
    let user = change::create_user(&meta, &new).await?;
    Ok(Json(user.into()))
}

/// The hash of a password, which takes a while.
async fn hashed(password: Option<String>) -> Result<Option<String>, IdentityError> {
    let Some(password) = password else { return Ok(None) };
    let hashed = tokio::task::spawn_blocking(move || devices::hash(&password)).await;
    hashed.unwrap_or_else(|error| Err(IdentityError::Invalid(error.to_string()))).map(Some)
}

/// Changes a user.
#[utoipa::path(patch, path = "/v1/users/{user}", params(("user" = String, Path)), request_body = UserChange,
    responses((status = 200, body = UserShown), (status = 404, body = Problem)))]
async fn change_user(
    State(meta): State<Meta>,
    Path(name): Path<String>,
    Json(wanted): Json<UserChange>,
) -> Answer<UserShown> {
    if let Some((_, document)) = &wanted.put_policy {
        change::check_policy(document)?;
    }
    let password = hashed(wanted.password.clone()).await?;
    let mut user = change::change_user(&meta, &name, |user| {
        user.password = password.clone().or(user.password.take());
        user.disabled = wanted.disabled.unwrap_or(user.disabled);
        if let Some((name, document)) = &wanted.put_policy {
            user.policies.insert(name.clone(), document.clone());
        }
        match &wanted.delete_policy {
            Some(name) => user.policies.remove(name).map(drop).ok_or(IdentityError::Unknown("policy")),
            None => Ok(()),
        }
    })
    .await?;
    if wanted.quota.is_some() || wanted.no_quota {
        let order = Command::SetQuota { owner: user.name.clone(), bytes: wanted.quota };
        let outcome = meta.request(Request::idempotent(order)).await.map_err(IdentityError::from)?;
        outcome.accepted().map_err(|rejection| IdentityError::Invalid(rejection.to_string()))?;
    }
    for (policy, attach) in [(&wanted.attach, true), (&wanted.detach, false)] {
        if let Some(policy) = policy {
            user = change::attach_policy(&meta, &name, policy, attach).await?;
        }
    }
    Ok(Json(user.into()))
}

/// Makes a code by which one device of a user's can be paired.
#[utoipa::path(post, path = "/v1/users/{user}/code", params(("user" = String, Path)),
    responses((status = 200, body = CodeShown), (status = 404, body = Problem)))]
async fn make_code(State(meta): State<Meta>, Path(name): Path<String>) -> Answer<CodeShown> {
    let code = devices::make_code(&meta, &name, now_ms()).await?;
    Ok(Json(CodeShown { code, seconds: devices::CODE_SECONDS }))
}

/// Removes a user with its keys.
#[utoipa::path(delete, path = "/v1/users/{user}", params(("user" = String, Path)),
    responses((status = 200), (status = 404, body = Problem)))]
async fn delete_user(State(meta): State<Meta>, Path(name): Path<String>) -> Answer<()> {
    Ok(Json(change::delete_user(&meta, &name).await?))
}

/// A pairing code.
#[derive(Serialize, ToSchema)]
pub struct CodeShown {
    code: String,
    /// How long it is good for.
    seconds: u32,
}

#[derive(Deserialize, IntoParams)]
struct Of {
    /// Only this user's.
    user: Option<String>,
}

/// Access keys, without their secrets.
#[utoipa::path(get, path = "/v1/keys", params(Of), responses((status = 200, body = Vec<KeyShown>)))]
async fn keys(State(meta): State<Meta>, Query(of): Query<Of>) -> Answer<Vec<KeyShown>> {
    let (number, records) = meta.ask(IdentitiesNow {}).await.map_err(IdentityError::from)?;
    let identities = holdfast_gateway_server::identity::Identities::read(number, &records);
    let wanted = |name: &&String| of.user.as_ref().is_none_or(|user| user == *name);
    let shown = |name: &String| {
        let user = name.clone();
        let show = move |(access, created_ms): (&str, u64)| KeyShown {
            user: user.clone(),
            access_key: access.to_owned(),
            secret_key: None,
            created_ms,
        };
        let keys = identities.keys_of(name);
        keys.iter().map(|(access, key)| (*access, key.created_ms)).map(show).collect::<Vec<_>>()
    };
    Ok(Json(identities.users.keys().filter(wanted).flat_map(shown).collect()))
}

/// Makes an access key.
#[utoipa::path(post, path = "/v1/keys", request_body = KeyOrder,
    responses((status = 200, body = KeyShown), (status = 404, body = Problem)))]
async fn create_key(State(meta): State<Meta>, Json(order): Json<KeyOrder>) -> Answer<KeyShown> {
    let given = match (order.access_key, order.secret_key) {
        (Some(access), Some(secret)) => Some(Pair { access, secret }),
        (None, None) => None,
        _ => {
            let text = "an access key is given with its secret key, or neither is";
            return Err(IdentityError::Invalid(text.to_owned()).into());
        }
    };
    let created_ms = now_ms();
    let pair = change::create_key(&meta, &order.user, given, created_ms).await?;
    let (access_key, secret_key) = (pair.access, Some(pair.secret));
    Ok(Json(KeyShown { user: order.user, access_key, secret_key, created_ms }))
}

/// Removes an access key.
#[utoipa::path(delete, path = "/v1/keys/{access_key}", params(("access_key" = String, Path)),
    responses((status = 200), (status = 404, body = Problem)))]
async fn delete_key(State(meta): State<Meta>, Path(access): Path<String>) -> Answer<()> {
    Ok(Json(change::delete_key(&meta, &access).await?))
}

/// Policies that users can share.
#[utoipa::path(get, path = "/v1/policies", responses((status = 200, body = Vec<PolicyShown>)))]
async fn policies(State(meta): State<Meta>) -> Answer<Vec<PolicyShown>> {
    let all = change::policies(&meta).await?;
    Ok(Json(all.into_iter().map(|(name, document)| PolicyShown { name, document }).collect()))
}

/// Keeps a policy that users can share.
#[utoipa::path(post, path = "/v1/policies", request_body = PolicyShown,
    responses((status = 200, body = PolicyShown), (status = 400, body = Problem)))]
async fn put_policy(State(meta): State<Meta>, Json(policy): Json<PolicyShown>) -> Answer<PolicyShown> {
    change::put_policy(&meta, &policy.name, &policy.document).await?;
    Ok(Json(policy))
}

/// Removes a policy that nobody has attached.
#[utoipa::path(delete, path = "/v1/policies/{policy}", params(("policy" = String, Path)),
    responses((status = 200), (status = 404, body = Problem)))]
async fn delete_policy(State(meta): State<Meta>, Path(name): Path<String>) -> Answer<()> {
    Ok(Json(change::delete_policy(&meta, &name).await?))
}
