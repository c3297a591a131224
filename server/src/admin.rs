//! The cluster as operators see and order it: one model, for the command line and for the HTTP API.

pub mod events;
pub mod http;
pub mod kms;
pub mod local;
pub mod model;
mod orders;
pub mod remotes;
pub mod users;
mod view;

use crate::system::SystemError;
use holdfast_meta_raft_machine::{
    ask::Topology,
    command::{Command, Request},
};
use holdfast_meta_raft_server::RemoteMeta;

/// A cluster, as it was when it was looked at.
pub struct Cluster {
    pub meta: RemoteMeta,
    /// What it calls itself.
    pub name: String,
    pub topology: Topology,
}

impl Cluster {
    /// Looks at the cluster.
    ///
    /// # Errors
    /// Where its metadata cannot be reached.
    pub async fn look(meta: RemoteMeta, name: String) -> Result<Self, SystemError> {
        let topology = meta.refresh().await?;
        Ok(Self { meta, name, topology })
    }

    pub(crate) async fn order(&self, command: Command) -> Result<(), SystemError> {
        for outcome in self.meta.submit(vec![Request::idempotent(command)]).await? {
            outcome.accepted().map_err(|rejection| SystemError::Cluster(rejection.to_string()))?;
        }
        Ok(())
    }
}
