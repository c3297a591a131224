//! `holdfast user`, `key`, `policy` and `kms`: the admin API's routes, reached through a local system's socket, through the API's
//! listener, or with the operator's identity.

use super::show::{say, show_rows};
use crate::{
    admin::{
        events::WebhookOrder,
        kms::{KmsKeyChange, KmsKeyOrder},
        local,
        remotes::RemoteOrder,
        users::{KeyOrder, UserChange, UserOrder},
    },
    args::{
        At, KeyCommand, KmsCommand, KmsKeyCommand, PolicyCommand, RemoteCommand, UserCommand, UsersCommand,
        Way, WebhookCommand,
    },
    cluster::identity::HostIdentity,
    system::{SystemError, io_at, refuse},
};
use axum::body::Body;
use holdfast_core::buffer::BufferPool;
use holdfast_meta_raft_server::{Meta, RemoteMeta};
use holdfast_net::https;
use http_body_util::{BodyExt, Limited};
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tokio::io::{AsyncRead, AsyncWrite};
use tower::ServiceExt;

/// The largest answer that is taken.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How the API is reached.
enum Reach {
    Local(PathBuf),
    Https { url: String, token: String, authority: Option<String> },
    Operator(RemoteMeta),
}

impl Reach {
    fn find(way: Way, operator: &Path) -> Result<Self, SystemError> {
        if let Some(data) = way.data {
            return Ok(Self::Local(data));
        }
        if let Some(url) = way.admin {
            let Some(token) = way.token else {
                return refuse("--admin needs a token: see \"holdfast admin create\"");
            };
            let read = |path: PathBuf| std::fs::read_to_string(&path).map_err(io_at(&path));
            return Ok(Self::Https { url, token, authority: way.ca.map(read).transpose()? });
        }
        if let Some(identity) = HostIdentity::read(operator)? {
            return Ok(Self::Operator(RemoteMeta::start(
                identity.tls()?,
                &identity.members,
                BufferPool::new(0),
            )));
        }
        refuse("name the system: --data DIR of one on this host, --admin URL, or --operator DIR of a cluster")
    }

    async fn send(&self, method: Method, path: &str, body: &impl Serialize) -> Result<Value, SystemError> {
        let body = serde_json::to_vec(body).map_err(|error| SystemError::Cluster(error.to_string()))?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "holdfast")
            .header(header::CONTENT_TYPE, "application/json");
        if let Self::Https { token, .. } = self {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request =
            request.body(Body::from(body)).map_err(|error| SystemError::Cluster(error.to_string()))?;
        let response = match self {
            Self::Local(data) => {
                let stream = local::connect(data).await.map_err(|error| {
                    SystemError::Cluster(format!("no system runs with {}: {error}", data.display()))
                })?;
                over(stream, request).await?
            }
            Self::Https { url, authority, .. } => {
                let stream = https::connect(url, authority.as_deref()).await;
                over(stream.map_err(SystemError::Cluster)?, request).await?
            }
            Self::Operator(meta) => {
                // The routes answer here, and ask the cluster themselves.
                meta.refresh().await?;
                let router = local::router(Meta::Remote(meta.clone()));
                let response = router.oneshot(request).await;
                let Ok(response) = response;
                read(response.map(BodyExt::boxed_unsync)).await?
            }
        };
        let (status, text) = response;
        let value: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if status.is_success() {
            return Ok(value);
        }
        refuse(value["error"].as_str().map_or_else(|| format!("{status}: {text}"), str::to_owned))
    }
}

/// A name as a part of a path or a query.
fn encoded(name: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(name, NON_ALPHANUMERIC)
}

type Answered = (hyper::StatusCode, String);

async fn read<B>(response: Response<B>) -> Result<Answered, SystemError>
where
    B: hyper::body::Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let bytes = body.map_err(|error| SystemError::Cluster(error.to_string()))?.to_bytes();
    Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
}

/// One request on a connection of its own.
async fn over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Body>,
) -> Result<Answered, SystemError> {
    let failed = |error: hyper::Error| SystemError::Cluster(format!("the admin API: {error}"));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let driven = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(failed)?;
    let answer = read(response).await;
    driven.abort();
    answer
}

/// What a command's answer looks like to people.
const USER_COLUMNS: [&str; 7] =
    ["name", "account", "display_name", "email", "disabled", "policies", "attached"];

/// Carries out a command about users.
///
/// # Errors
/// Where the system cannot be reached or refuses.
pub async fn run(operator: &Path, json: bool, command: UsersCommand) -> Result<(), SystemError> {
    let reach = |way| Reach::find(way, operator);
    match command {
        UsersCommand::User(At { way, command }) => user(&reach(way)?, json, command).await,
        UsersCommand::Key(At { way, command }) => key(&reach(way)?, json, command).await,
        UsersCommand::Policy(At { way, command }) => policy(&reach(way)?, json, command).await,
        UsersCommand::Kms(At { way, command: KmsCommand::Key(command) }) => {
            kms(&reach(way)?, json, command).await
        }
        UsersCommand::Remote(At { way, command }) => remote(&reach(way)?, json, command).await,
        UsersCommand::Webhook(At { way, command }) => webhook(&reach(way)?, json, command).await,
    }
}

fn show(json: bool, columns: &[&str], answer: Value) {
    match (json, answer) {
        (true, answer) => say(answer),
        (false, Value::Array(rows)) => show_rows(columns, &rows),
        (false, Value::Null) => say("done"),
        (false, one) => show_rows(columns, &[one]),
    }
}

/// A password from the first line of standard input.
fn password() -> Result<String, SystemError> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(io_at("standard input"))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

async fn user(reach: &Reach, json: bool, command: UserCommand) -> Result<(), SystemError> {
    let change = async |name: &str, change: UserChange| {
        reach.send(Method::PATCH, &format!("/v1/users/{}", encoded(name)), &change).await
    };
    let answer = match command {
        UserCommand::Create { name, display_name, email, password_stdin } => {
            let password = if password_stdin { Some(password()?) } else { None };
            let order = UserOrder { name, display_name, email, password };
            reach.send(Method::POST, "/v1/users", &order).await?
        }
        UserCommand::Password { name, password_stdin: _ } => {
            change(&name, UserChange { password: Some(password()?), ..UserChange::default() }).await?
        }
        UserCommand::Quota { name, bytes: crate::args::Quota(quota) } => {
            let wanted = UserChange { quota, no_quota: quota.is_none(), ..UserChange::default() };
            change(&name, wanted).await?
        }
        UserCommand::Code { name } => {
            reach.send(Method::POST, &format!("/v1/users/{}/code", encoded(&name)), &()).await?
        }
        UserCommand::List => reach.send(Method::GET, "/v1/users", &()).await?,
        UserCommand::Delete { name } => {
            reach.send(Method::DELETE, &format!("/v1/users/{}", encoded(&name)), &()).await?
        }
        UserCommand::Disable { name } => {
            change(&name, UserChange { disabled: Some(true), ..UserChange::default() }).await?
        }
        UserCommand::Enable { name } => {
            change(&name, UserChange { disabled: Some(false), ..UserChange::default() }).await?
        }
    };
    show(json, &USER_COLUMNS, answer);
    Ok(())
}

async fn key(reach: &Reach, json: bool, command: KeyCommand) -> Result<(), SystemError> {
    let answer = match command {
        KeyCommand::Create { user, access_key, secret_key } => {
            reach.send(Method::POST, "/v1/keys", &KeyOrder { user, access_key, secret_key }).await?
        }
        KeyCommand::List { user } => {
            let query = user.map(|user| format!("?user={}", encoded(&user))).unwrap_or_default();
            reach.send(Method::GET, &format!("/v1/keys{query}"), &()).await?
        }
        KeyCommand::Delete { access_key } => {
            reach.send(Method::DELETE, &format!("/v1/keys/{}", encoded(&access_key)), &()).await?
        }
    };
    let columns: &[&str] = match answer["secret_key"].is_string() {
        true => &["user", "access_key", "secret_key"],
        false => &["user", "access_key", "created_ms"],
    };
    show(json, columns, answer);
    Ok(())
}

async fn policy(reach: &Reach, json: bool, command: PolicyCommand) -> Result<(), SystemError> {
    let text = |path: &Path| std::fs::read_to_string(path).map_err(io_at(path));
    let answer = match command {
        PolicyCommand::Put { name, file, user: None } => {
            reach.send(Method::POST, "/v1/policies", &json!({"name": name, "document": text(&file)?})).await?
        }
        PolicyCommand::Put { name, file, user: Some(user) } => {
            let change = UserChange { put_policy: Some((name, text(&file)?)), ..UserChange::default() };
            reach.send(Method::PATCH, &format!("/v1/users/{}", encoded(&user)), &change).await?
        }
        PolicyCommand::List => reach.send(Method::GET, "/v1/policies", &()).await?,
        PolicyCommand::Delete { name, user: None } => {
            reach.send(Method::DELETE, &format!("/v1/policies/{}", encoded(&name)), &()).await?
        }
        PolicyCommand::Delete { name, user: Some(user) } => {
            let change = UserChange { delete_policy: Some(name), ..UserChange::default() };
            reach.send(Method::PATCH, &format!("/v1/users/{}", encoded(&user)), &change).await?
        }
        PolicyCommand::Attach { name, user } => {
            let change = UserChange { attach: Some(name), ..UserChange::default() };
            reach.send(Method::PATCH, &format!("/v1/users/{}", encoded(&user)), &change).await?
        }
        PolicyCommand::Detach { name, user } => {
            let change = UserChange { detach: Some(name), ..UserChange::default() };
            reach.send(Method::PATCH, &format!("/v1/users/{}", encoded(&user)), &change).await?
        }
    };
    let columns: &[&str] = if answer["attached"].is_array() { &USER_COLUMNS } else { &["name", "document"] };
    show(json, columns, answer);
    Ok(())
}

async fn kms(reach: &Reach, json: bool, command: KmsKeyCommand) -> Result<(), SystemError> {
    let change = async |id: &str, change: KmsKeyChange| {
        reach.send(Method::PATCH, &format!("/v1/kms-keys/{}", encoded(id)), &change).await
    };
    let answer = match command {
        KmsKeyCommand::Create { id, description } => {
            reach.send(Method::POST, "/v1/kms-keys", &KmsKeyOrder { id, description }).await?
        }
        KmsKeyCommand::List => reach.send(Method::GET, "/v1/kms-keys", &()).await?,
        KmsKeyCommand::Rotate { id } => change(&id, KmsKeyChange { rotate: true, enabled: None }).await?,
        KmsKeyCommand::Disable { id } => {
            change(&id, KmsKeyChange { rotate: false, enabled: Some(false) }).await?
        }
        KmsKeyCommand::Enable { id } => {
            change(&id, KmsKeyChange { rotate: false, enabled: Some(true) }).await?
        }
    };
    show(json, &["id", "enabled", "versions", "created_ms", "rotated_ms", "description"], answer);
    Ok(())
}

async fn remote(reach: &Reach, json: bool, command: RemoteCommand) -> Result<(), SystemError> {
    let answer = match command {
        RemoteCommand::Create { name, url, access_key, secret_key, region, users } => {
            let order = RemoteOrder { name, url, region, access_key, secret_key, users };
            reach.send(Method::POST, "/v1/remotes", &order).await?
        }
        RemoteCommand::List => reach.send(Method::GET, "/v1/remotes", &()).await?,
        RemoteCommand::Delete { name } => {
            reach.send(Method::DELETE, &format!("/v1/remotes/{}", encoded(&name)), &()).await?
        }
    };
    show(json, &["name", "url", "access_key", "users", "destination"], answer);
    Ok(())
}

async fn webhook(reach: &Reach, json: bool, command: WebhookCommand) -> Result<(), SystemError> {
    let answer = match command {
        WebhookCommand::Create { name, url, secret } => {
            reach.send(Method::POST, "/v1/webhooks", &WebhookOrder { name, url, token: secret }).await?
        }
        WebhookCommand::List => reach.send(Method::GET, "/v1/webhooks", &()).await?,
        WebhookCommand::Delete { name } => {
            reach.send(Method::DELETE, &format!("/v1/webhooks/{}", encoded(&name)), &()).await?
        }
        WebhookCommand::Changes { bucket, from, wait } => {
            let path = format!("/v1/buckets/{}/changes?from={from}&wait={wait}", encoded(&bucket));
            let mut answer = reach.send(Method::GET, &path, &()).await?;
            if !json {
                show(json, &["number", "change", "key", "version"], answer["changes"].take());
                return Ok(());
            }
            answer
        }
    };
    show(json, &["name", "url", "arn", "has_token"], answer);
    Ok(())
}
