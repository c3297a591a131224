//! Other clusters, to which buckets may be copied.

use super::http::{Answer, Problem};
use axum::{
    Json,
    extract::{Path, State},
};
use holdfast_gateway_server::{
    identity::change::{self, IdentityError},
    replicate::Remote,
};
use holdfast_meta_raft_machine::ask::IdentitiesNow;
use holdfast_meta_raft_server::Meta;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Another cluster.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RemoteShown {
    pub name: String,
    /// Where its S3 is.
    pub url: String,
    pub region: String,
    /// As whom it is spoken to.
    pub access_key: String,
    /// The users whose buckets may be copied there, beside the system's owner.
    pub users: Vec<String>,
    /// How rules for replication name a bucket there.
    pub destination: String,
}

impl From<Remote> for RemoteShown {
    fn from(remote: Remote) -> Self {
        let Remote { name, url, region, access_key, users, .. } = remote;
        let destination = format!("arn:aws:s3:{name}::BUCKET");
        Self { name, url, region, access_key, users, destination }
    }
}

/// Another cluster to be made known.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct RemoteOrder {
    pub name: String,
    /// `http://` or `https://` and a host.
    pub url: String,
    pub region: String,
    pub access_key: String,
    pub secret_key: String,
    #[serde(default)]
    pub users: Vec<String>,
}

/// The routes, for a state that is the metadata.
pub fn routes() -> OpenApiRouter<Meta> {
    OpenApiRouter::new().routes(routes!(remotes, create_remote)).routes(routes!(delete_remote))
}

/// Other clusters.
#[utoipa::path(get, path = "/v1/remotes", responses((status = 200, body = Vec<RemoteShown>)))]
async fn remotes(State(meta): State<Meta>) -> Answer<Vec<RemoteShown>> {
    let (_, records) = meta.ask(IdentitiesNow {}).await.map_err(IdentityError::from)?;
    let kept = records.iter().filter(|(name, _)| name.starts_with("remote/"));
    let read = |(_, text): &(String, String)| serde_json::from_str::<Remote>(text).ok();
    Ok(Json(kept.filter_map(read).map(RemoteShown::from).collect()))
}

/// Makes another cluster known, or changes how it is reached.
#[utoipa::path(post, path = "/v1/remotes", request_body = RemoteOrder,
    responses((status = 200, body = RemoteShown), (status = 400, body = Problem)))]
async fn create_remote(State(meta): State<Meta>, Json(order): Json<RemoteOrder>) -> Answer<RemoteShown> {
    let RemoteOrder { name, url, region, access_key, secret_key, users } = order;
    let remote = Remote { name, url, region, access_key, secret_key, users };
    change::put_remote(&meta, &remote).await?;
    Ok(Json(remote.into()))
}

/// Forgets another cluster. What is to be copied there waits until there is one of that name again.
#[utoipa::path(delete, path = "/v1/remotes/{name}", params(("name" = String, Path)),
    responses((status = 200), (status = 404, body = Problem)))]
async fn delete_remote(State(meta): State<Meta>, Path(name): Path<String>) -> Answer<()> {
    Ok(Json(change::delete_remote(&meta, &name).await?))
}
