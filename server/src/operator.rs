//! What operators ask and order: one connection to the metadata, and tables for people or JSON for programs.

mod durability;
mod orders;
mod show;
mod status;

use crate::{
    args::{
        ClusterCommand, DeviceCommand, MetaCommand, NodeCommand, OperatorCommand, PgCommand, PoolCommand,
        RepairCommand,
    },
    cluster::identity::{HostIdentity, members_of},
    system::SystemError,
};
use holdfast_core::buffer::BufferPool;
use holdfast_meta_raft_machine::{
    ask::Topology,
    command::{Command, Request},
};
use holdfast_meta_raft_server::RemoteMeta;
use holdfast_proto::HealthNow;
use std::path::Path;

/// An operator's way to a cluster.
pub struct Operator {
    identity: HostIdentity,
    meta: RemoteMeta,
    json: bool,
    /// As it was when the command began.
    topology: Topology,
}

/// Carries out an operator's command.
///
/// # Errors
/// Where the cluster cannot be reached or refuses.
pub async fn run(dir: &Path, json: bool, command: OperatorCommand) -> Result<(), SystemError> {
    let identity = HostIdentity::read(dir)?.ok_or_else(|| {
        SystemError::Cluster(format!(
            "{} holds no operator's identity: name it with --operator",
            dir.display()
        ))
    })?;
    let meta = RemoteMeta::start(identity.tls()?, &identity.members, BufferPool::new(0));
    // Whoever leads is found among all members, and not only those that were known before.
    let topology = meta.refresh().await?;
    let operator = Operator { identity, meta, json, topology };
    operator.keep_members(dir)?;
    match command {
        OperatorCommand::Status => operator.status().await,
        OperatorCommand::Cluster(ClusterCommand::Token(token)) => operator.make_token(&token).await,
        OperatorCommand::Device(DeviceCommand::List) => operator.devices().await,
        OperatorCommand::Device(order) => operator.order_device(order).await,
        OperatorCommand::Node(NodeCommand::List) => operator.nodes().await,
        OperatorCommand::Node(order) => operator.order_node(order).await,
        OperatorCommand::Pool(PoolCommand::List) => operator.pools(),
        OperatorCommand::Pool(PoolCommand::Create(wanted)) => operator.create_pool(&wanted).await,
        OperatorCommand::Pg(PgCommand::List) => operator.pgs().await,
        OperatorCommand::Meta(MetaCommand::Members) => operator.members().await,
        OperatorCommand::Meta(MetaCommand::TransferLeader { host }) => operator.transfer_leader(&host).await,
        OperatorCommand::Repair(RepairCommand::Plan { .. }) => operator.plan(),
        OperatorCommand::Durability { what_if } => operator.durability(&what_if).await,
    }
}

impl Operator {
    /// The members that are known now are asked the next time.
    fn keep_members(&self, dir: &Path) -> Result<(), SystemError> {
        let members = members_of(&self.topology);
        if !members.is_empty() && members != self.identity.members {
            let mut identity = self.identity.clone();
            identity.members = members;
            identity.write(dir)?;
        }
        Ok(())
    }

    async fn health(&self) -> Result<HealthNow, SystemError> {
        Ok(self.meta.health().await?)
    }

    async fn order(&self, command: Command) -> Result<(), SystemError> {
        for outcome in self.meta.submit(vec![Request::idempotent(command)]).await? {
            outcome.accepted().map_err(|rejection| SystemError::Cluster(rejection.to_string()))?;
        }
        Ok(())
    }
}
