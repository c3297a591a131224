//! The HTTP admin API: what operators see and order, for programs. Its description is made from this code.
//!
//! It has an authentication of its own: bearer tokens, which "holdfast admin create" makes. Of a token the cluster keeps
//! the hash. It is served over TLS with the host's certificate of the cluster's authority.

use super::{
    Cluster,
    model::{
        Device, DeviceOrder, Group, GroupDetail, JobStatus, Member, Node, Plan, Pool, PoolOrder, Said, Status,
    },
};
use crate::{
    args::{PoolArgs, storage_class},
    system::SystemError,
};
use axum::{
    Json, Router,
    extract::{Path, Query, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use holdfast_meta_raft_machine::{
    ask::{AdminTokenOf, HeaderNow},
    records::{AdminToken, Job},
};
use holdfast_meta_raft_server::{Meta, MetaHandle, RemoteMeta};
use holdfast_net::{Tls, accept_anybody};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde::{Deserialize, Serialize};
use std::{io, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore};
use utoipa::{
    IntoParams, Modify, OpenApi, ToSchema,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// What the API needs: the metadata as others use it, and this member, who knows the tokens.
#[derive(Clone)]
pub struct Api {
    pub meta: RemoteMeta,
    pub member: MetaHandle,
    pub cluster: String,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Holdfast admin API", description = "Seeing and ordering a Holdfast cluster."),
    modifiers(&Bearer),
    security(("token" = []))
)]
struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        openapi.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

/// Why something was not done.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    pub error: String,
}

pub struct Refused(pub StatusCode, pub String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(Problem { error: self.1 })).into_response()
    }
}

impl From<SystemError> for Refused {
    fn from(error: SystemError) -> Self {
        let passing = matches!(&error, SystemError::Meta(error) if error.is_passing());
        let refused = matches!(&error, SystemError::Cluster(_) | SystemError::Plan(_));
        let status = match (passing, refused) {
            (true, _) => StatusCode::SERVICE_UNAVAILABLE,
            (false, true) => StatusCode::CONFLICT,
            (false, false) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, error.to_string())
    }
}

pub type Answer<T> = Result<Json<T>, Refused>;

impl Api {
    async fn look(&self) -> Result<Cluster, SystemError> {
        Cluster::look(self.meta.clone(), self.cluster.clone()).await
    }

    /// The token that a request carries, if it is good.
    async fn token_of(&self, given: Option<String>) -> Result<AdminToken, Refused> {
        let refused = || {
            let text = "an admin token is needed: see \"holdfast admin create\"";
            Refused(StatusCode::UNAUTHORIZED, text.to_owned())
        };
        let given = given.as_deref().and_then(|text| text.strip_prefix("Bearer ")).ok_or_else(refused)?;
        // Tokens are found by their hash, so that the time of looking says nothing of them.
        let hash = *blake3::hash(given.trim().as_bytes()).as_bytes();
        let read = async {
            let found = self.member.ask(AdminTokenOf { hash }).await?;
            let now = self.member.ask(HeaderNow {}).await?.map_or(0, |header| header.clock_ms);
            Ok::<_, holdfast_meta_raft_server::MetaError>((found, now))
        };
        let (found, now) = read.await.map_err(SystemError::from)?;
        found.filter(|token| token.expires_ms > now).ok_or_else(refused)
    }
}

/// Without a leader nothing is answered: whoever asks is told so.
async fn in_time(request: Request, next: Next) -> Response {
    let late = || {
        let text = "the metadata does not answer: is there a leader?";
        Refused(StatusCode::SERVICE_UNAVAILABLE, text.to_owned()).into_response()
    };
    tokio::time::timeout(PATIENCE, next.run(request)).await.unwrap_or_else(|_| late())
}

async fn authenticate(State(api): State<Api>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION);
    let given = given.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let token = match api.token_of(given).await {
        Ok(token) => token,
        Err(refused) => return refused.into_response(),
    };
    if token.read_only && request.method() != axum::http::Method::GET {
        return Refused(StatusCode::FORBIDDEN, "this token may look and not touch".to_owned())
            .into_response();
    }
    next.run(request).await
}

/// Connections that are served at once.
const CONNECTIONS_MAX: usize = 64;

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a client may take over a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves the API over TLS until the future is dropped.
///
/// # Errors
/// Where the listener fails.
pub async fn serve(listener: TcpListener, tls: Tls, api: Api) -> io::Result<()> {
    let router = router(api);
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return Ok(()) };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            // Out of descriptors: it passes, and must not be tried in a circle.
            Err(error) => {
                tracing::warn!(%error, "a connection to the admin API could not be taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (tls, service) = (tls.clone(), TowerToHyperService::new(router.clone()));
        tokio::spawn(async move {
            let Ok(stream) = accept_anybody(stream, &tls).await else { return };
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "a connection to the admin API ended");
            }
            drop(permit);
        });
    }
}

/// The API's routes. Its description is for everybody, the rest is for who has a token.
fn router(api: Api) -> Router {
    let users = super::users::routes()
        .merge(super::kms::routes())
        .merge(super::events::routes())
        .merge(super::remotes::routes())
        .with_state(Meta::Remote(api.meta.clone()));
    let (router, description) = OpenApiRouter::with_openapi(Description::openapi())
        .merge(users)
        .routes(routes!(status))
        .routes(routes!(devices))
        .routes(routes!(order_device))
        .routes(routes!(nodes))
        .routes(routes!(drain_node))
        .routes(routes!(remove_node))
        .routes(routes!(pools, create_pool))
        .routes(routes!(groups))
        .routes(routes!(group))
        .routes(routes!(jobs))
        .routes(routes!(pause_job))
        .routes(routes!(resume_job))
        .routes(routes!(start_scrub))
        .routes(routes!(members))
        .routes(routes!(remove_member))
        .routes(routes!(transfer_leader))
        .routes(routes!(plan))
        .split_for_parts();
    router
        .layer(middleware::from_fn_with_state(api.clone(), authenticate))
        .layer(middleware::from_fn(in_time))
        .route("/v1/openapi.json", axum::routing::get(move || std::future::ready(Json(description.clone()))))
        .with_state(api)
}

/// The cluster's health.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status)))]
async fn status(State(api): State<Api>) -> Answer<Status> {
    Ok(Json(api.look().await?.status().await?))
}

/// Devices with their load.
#[utoipa::path(get, path = "/v1/devices", responses((status = 200, body = Vec<Device>)))]
async fn devices(State(api): State<Api>) -> Answer<Vec<Device>> {
    Ok(Json(api.look().await?.devices().await?))
}

/// Changes what becomes of a device.
#[utoipa::path(patch, path = "/v1/devices/{device}", params(("device" = u32, Path)), request_body = DeviceOrder,
    responses((status = 200, body = Said), (status = 409, body = Problem)))]
async fn order_device(
    State(api): State<Api>,
    Path(device): Path<u32>,
    Json(order): Json<DeviceOrder>,
) -> Answer<Said> {
    let message = api.look().await?.order_device(device, &order).await?;
    Ok(Json(Said { message }))
}

/// Hosts.
#[utoipa::path(get, path = "/v1/nodes", responses((status = 200, body = Vec<Node>)))]
async fn nodes(State(api): State<Api>) -> Answer<Vec<Node>> {
    Ok(Json(api.look().await?.nodes().await?))
}

/// Drains all devices of a host.
#[utoipa::path(post, path = "/v1/nodes/{node}/drain", params(("node" = String, Path)),
    responses((status = 200, body = Said), (status = 409, body = Problem)))]
async fn drain_node(State(api): State<Api>, Path(node): Path<String>) -> Answer<Said> {
    let message = api.look().await?.drain_node(&node).await?;
    Ok(Json(Said { message }))
}

#[derive(Deserialize, IntoParams)]
struct Force {
    /// Though shards are on its devices.
    #[serde(default)]
    force: bool,
}

/// Takes a host out of the cluster for good.
#[utoipa::path(delete, path = "/v1/nodes/{node}", params(("node" = String, Path), Force),
    responses((status = 200, body = Said), (status = 409, body = Problem)))]
async fn remove_node(
    State(api): State<Api>,
    Path(node): Path<String>,
    Query(how): Query<Force>,
) -> Answer<Said> {
    let message = api.look().await?.remove_node(&node, how.force).await?;
    Ok(Json(Said { message }))
}

/// Pools.
#[utoipa::path(get, path = "/v1/pools", responses((status = 200, body = Vec<Pool>)))]
async fn pools(State(api): State<Api>) -> Answer<Vec<Pool>> {
    Ok(Json(api.look().await?.pools()))
}

/// Makes a pool.
#[utoipa::path(post, path = "/v1/pools", request_body = PoolOrder,
    responses((status = 200, body = Said), (status = 409, body = Problem)))]
async fn create_pool(State(api): State<Api>, Json(wanted): Json<PoolOrder>) -> Answer<Said> {
    let bad = |error: String| Refused(StatusCode::BAD_REQUEST, error);
    let profile = wanted.profile.map(|text| text.parse()).transpose();
    let profile = profile.map_err(|error| bad(format!("{error}")))?;
    let domain = wanted.domain.map(|text| text.parse()).transpose();
    let domain = domain.map_err(|error| bad(format!("{error}")))?;
    let class = wanted.class.as_deref().map(storage_class).transpose().map_err(bad)?;
    let wanted = PoolArgs { profile, domain, groups: wanted.groups, class, on: wanted.on };
    let message = api.look().await?.create_pool(&wanted).await?;
    Ok(Json(Said { message }))
}

/// Placement groups.
#[utoipa::path(get, path = "/v1/groups", responses((status = 200, body = Vec<Group>)))]
async fn groups(State(api): State<Api>) -> Answer<Vec<Group>> {
    Ok(Json(api.look().await?.groups().await?))
}

/// A placement group with its packs.
#[utoipa::path(get, path = "/v1/groups/{group}", params(("group" = u32, Path)),
    responses((status = 200, body = GroupDetail), (status = 409, body = Problem)))]
async fn group(State(api): State<Api>, Path(group): Path<u32>) -> Answer<GroupDetail> {
    Ok(Json(api.look().await?.group(group).await?))
}

/// Long work of the cluster itself.
#[utoipa::path(get, path = "/v1/jobs", responses((status = 200, body = Vec<JobStatus>)))]
async fn jobs(State(api): State<Api>) -> Answer<Vec<JobStatus>> {
    Ok(Json(api.look().await?.jobs().await?))
}

async fn set_paused(api: &Api, job: &str, paused: bool) -> Answer<Said> {
    let job: Job = job.parse().map_err(|error| Refused(StatusCode::NOT_FOUND, error))?;
    let message = api.look().await?.pause_job(job, paused).await?;
    Ok(Json(Said { message }))
}

/// Pauses a job.
#[utoipa::path(post, path = "/v1/jobs/{job}/pause", params(("job" = String, Path)),
    responses((status = 200, body = Said), (status = 404, body = Problem)))]
async fn pause_job(State(api): State<Api>, Path(job): Path<String>) -> Answer<Said> {
    set_paused(&api, &job, true).await
}

/// Lets a job go on.
#[utoipa::path(post, path = "/v1/jobs/{job}/resume", params(("job" = String, Path)),
    responses((status = 200, body = Said), (status = 404, body = Problem)))]
async fn resume_job(State(api): State<Api>, Path(job): Path<String>) -> Answer<Said> {
    set_paused(&api, &job, false).await
}

/// Has every device scrubbed now.
#[utoipa::path(post, path = "/v1/scrub", responses((status = 200, body = Said)))]
async fn start_scrub(State(api): State<Api>) -> Answer<Said> {
    let message = api.look().await?.start_scrub().await?;
    Ok(Json(Said { message }))
}

/// Metadata members.
#[utoipa::path(get, path = "/v1/members", responses((status = 200, body = Vec<Member>)))]
async fn members(State(api): State<Api>) -> Answer<Vec<Member>> {
    Ok(Json(api.look().await?.members().await?))
}

/// Takes the metadata off a host.
#[utoipa::path(delete, path = "/v1/members/{host}", params(("host" = String, Path)),
    responses((status = 200, body = Said), (status = 409, body = Problem)))]
async fn remove_member(State(api): State<Api>, Path(host): Path<String>) -> Answer<Said> {
    let message = api.look().await?.remove_member(&host).await?;
    Ok(Json(Said { message }))
}

/// Hands leadership of the metadata to a member.
#[utoipa::path(post, path = "/v1/members/{host}/lead", params(("host" = String, Path)),
    responses((status = 200, body = Said), (status = 409, body = Problem)))]
async fn transfer_leader(State(api): State<Api>, Path(host): Path<String>) -> Answer<Said> {
    let message = api.look().await?.transfer_leader(&host).await?;
    Ok(Json(Said { message }))
}

/// What the placement planner would change now.
#[utoipa::path(get, path = "/v1/plan", responses((status = 200, body = Plan), (status = 409, body = Problem)))]
async fn plan(State(api): State<Api>) -> Answer<Plan> {
    Ok(Json(api.look().await?.plan()?))
}
