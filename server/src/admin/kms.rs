//! Encryption keys over HTTP. Their material is never shown.

use super::{
    http::{Answer, Problem, Refused},
    users::now_ms,
};
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use holdfast_gateway_server::{
    identity::kms::{self, KmsKey},
    keyring::LocalKeys,
};
use holdfast_meta_raft_server::Meta;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// A key that objects are encrypted with.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct KmsKeyShown {
    pub id: String,
    pub arn: String,
    pub description: String,
    pub enabled: bool,
    /// What is written takes the newest of them.
    pub versions: usize,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// When it was given its newest version, in milliseconds since 1970.
    pub rotated_ms: u64,
}

impl From<KmsKey> for KmsKeyShown {
    fn from(key: KmsKey) -> Self {
        Self {
            arn: format!("arn:aws:kms:us-east-1:000000000000:key/{}", key.id),
            description: key.description,
            enabled: !key.disabled,
            versions: key.versions.len(),
            created_ms: key.created_ms,
            rotated_ms: key.versions.last().map_or(key.created_ms, |version| version.created_ms),
            id: key.id,
        }
    }
}

/// A key to be made.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct KmsKeyOrder {
    pub id: String,
    #[serde(default)]
    pub description: String,
}

/// What of a key is changed.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct KmsKeyChange {
    /// It gets a new version.
    #[serde(default)]
    pub rotate: bool,
    pub enabled: Option<bool>,
}

/// The routes, for a state that is the metadata.
pub fn routes() -> OpenApiRouter<Meta> {
    OpenApiRouter::new().routes(routes!(keys, create_key)).routes(routes!(change_key))
}

/// Encryption keys.
#[utoipa::path(get, path = "/v1/kms-keys", responses((status = 200, body = Vec<KmsKeyShown>)))]
async fn keys(State(meta): State<Meta>) -> Answer<Vec<KmsKeyShown>> {
    Ok(Json(kms::keys(&meta).await?.into_iter().map(KmsKeyShown::from).collect()))
}

/// Makes an encryption key.
#[utoipa::path(post, path = "/v1/kms-keys", request_body = KmsKeyOrder,
    responses((status = 200, body = KmsKeyShown), (status = 409, body = Problem)))]
async fn create_key(State(meta): State<Meta>, Json(order): Json<KmsKeyOrder>) -> Answer<KmsKeyShown> {
    let made = kms::create(&meta, &LocalKeys, &order.id, &order.description, now_ms()).await?;
    Ok(Json(made.into()))
}

/// Gives an encryption key a new version, disables it, or enables it again.
#[utoipa::path(patch, path = "/v1/kms-keys/{id}", params(("id" = String, Path)), request_body = KmsKeyChange,
    responses((status = 200, body = KmsKeyShown), (status = 404, body = Problem)))]
async fn change_key(
    State(meta): State<Meta>,
    Path(id): Path<String>,
    Json(wanted): Json<KmsKeyChange>,
) -> Answer<KmsKeyShown> {
    let mut key = match wanted.enabled {
        Some(enabled) => Some(kms::disable(&meta, &id, !enabled).await?),
        None => None,
    };
    if wanted.rotate {
        key = Some(kms::rotate(&meta, &LocalKeys, &id, now_ms()).await?);
    }
    let key = key.ok_or_else(|| Refused(StatusCode::BAD_REQUEST, "nothing was to be changed".to_owned()))?;
    Ok(Json(key.into()))
}
