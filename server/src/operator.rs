//! The operator's command line: one connection to the metadata, and tables for people or JSON for programs.

pub mod durability;
mod show;
pub mod users;

use crate::{
    admin::{Cluster, model::DeviceOrder, model::DutyOrder},
    args::{
        AdminCommand, ClusterCommand, DeviceCommand, JobCommand, MetaCommand, NodeCommand, OperatorCommand,
        PgCommand, PoolCommand, RepairCommand, ScrubCommand, TokenArgs,
    },
    cluster::identity::{HostIdentity, members_of},
    credentials,
    system::{SystemError, io_at},
};
use bytes::Bytes;
use holdfast_core::{buffer::BufferPool, roles::Role};
use holdfast_meta_raft_machine::{ask::AdminTokens, command::Command};
use holdfast_meta_raft_server::RemoteMeta;
use holdfast_net::{Remote, Secret, Target};
use holdfast_proto::{self as proto, HealthNow, call::Method, reply};
use serde_json::json;
use show::say;
use std::{path::Path, time::Duration};

/// How long a host may take over formatting a disk.
const ADD_PATIENCE: Duration = Duration::from_secs(60);

/// How long a token for a new metadata member is good.
const MEMBER_TOKEN: Duration = Duration::from_secs(60 * 60);

/// An operator's way to a cluster.
pub struct Operator {
    identity: HostIdentity,
    cluster: Cluster,
    json: bool,
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
    let cluster = Cluster::look(meta, identity.cluster.clone()).await?;
    let operator = Operator { identity, cluster, json };
    operator.keep_members(dir)?;
    operator.carry_out(dir, command).await
}

impl Operator {
    async fn carry_out(&self, dir: &Path, command: OperatorCommand) -> Result<(), SystemError> {
        let cluster = &self.cluster;
        match command {
            OperatorCommand::Status => self.status().await,
            OperatorCommand::Cluster(ClusterCommand::Token(token)) => self.make_token(&token).await,
            OperatorCommand::Cluster(ClusterCommand::RecoveryKey) => self.make_recovery_key(dir).await,
            OperatorCommand::Device(DeviceCommand::List) => self.devices().await,
            OperatorCommand::Device(order) => self.order_device(order).await,
            OperatorCommand::Node(NodeCommand::List) => self.nodes().await,
            OperatorCommand::Node(NodeCommand::Drain { node }) => self.said(cluster.drain_node(&node).await?),
            OperatorCommand::Node(NodeCommand::Remove { node, force }) => {
                self.said(cluster.remove_node(&node, force).await?)
            }
            OperatorCommand::Pool(PoolCommand::List) => self.pools(),
            OperatorCommand::Pool(PoolCommand::Create(wanted)) => {
                self.said(cluster.create_pool(&wanted).await?)
            }
            OperatorCommand::Pg(PgCommand::List) => self.groups().await,
            OperatorCommand::Pg(PgCommand::Show { group }) => self.group(group).await,
            OperatorCommand::Job(JobCommand::List) => self.jobs().await,
            OperatorCommand::Job(JobCommand::Pause { job }) => self.said(cluster.pause_job(job, true).await?),
            OperatorCommand::Job(JobCommand::Resume { job }) => {
                self.said(cluster.pause_job(job, false).await?)
            }
            OperatorCommand::Job(JobCommand::Limit { megabytes_per_s }) => {
                self.said(cluster.limit_jobs(megabytes_per_s.saturating_mul(1_000_000)).await?)
            }
            OperatorCommand::Scrub(ScrubCommand::Start) => self.said(cluster.start_scrub().await?),
            OperatorCommand::Meta(MetaCommand::Members) => self.members().await,
            OperatorCommand::Meta(MetaCommand::Add) => self.add_member().await,
            OperatorCommand::Meta(MetaCommand::Remove { host }) => {
                self.said(cluster.remove_member(&host).await?)
            }
            OperatorCommand::Meta(MetaCommand::TransferLeader { host }) => {
                self.said(cluster.transfer_leader(&host).await?)
            }
            OperatorCommand::Repair(RepairCommand::Plan { .. }) => self.plan(),
            OperatorCommand::Durability { what_if } => self.durability(&what_if).await,
            OperatorCommand::Admin(order) => self.admin(order).await,
        }
    }

    /// The members that are known now are asked the next time.
    fn keep_members(&self, dir: &Path) -> Result<(), SystemError> {
        let members = members_of(&self.cluster.topology);
        if !members.is_empty() && members != self.identity.members {
            let mut identity = self.identity.clone();
            identity.members = members;
            identity.write(dir)?;
        }
        Ok(())
    }

    async fn health(&self) -> Result<HealthNow, SystemError> {
        self.cluster.health().await
    }

    /// Prints what an order came to.
    fn said(&self, message: String) -> Result<(), SystemError> {
        match self.json {
            true => say(json!({ "message": message })),
            false => say(message),
        }
        Ok(())
    }

    async fn make_token(&self, wanted: &TokenArgs) -> Result<(), SystemError> {
        let roles = wanted.role.iter().copied().collect();
        let secret = self.cluster.make_token(roles, wanted.ttl).await?;
        let token = Secret::new(&self.identity.authority()?, secret).to_string();
        match self.json {
            true => say(json!({ "token": token })),
            false => say(token),
        }
        Ok(())
    }

    /// A member joins with its own disk and its own number: what an operator can do is let it in.
    async fn add_member(&self) -> Result<(), SystemError> {
        let roles = [Role::Meta].into_iter().collect();
        let secret = self.cluster.make_token(roles, MEMBER_TOKEN).await?;
        let token = Secret::new(&self.identity.authority()?, secret);
        let seed = self.identity.members.first().cloned().unwrap_or_default();
        self.said(format!(
            "on the new member, with roles = [\"meta\"] in its configuration:\n  holdfast server --config FILE --join {seed} \
             --token {token}\nIt follows as a learner until it has caught up, and votes from then on."
        ))
    }

    /// Makes another recovery key; the archive is begun anew under it.
    async fn make_recovery_key(&self, dir: &Path) -> Result<(), SystemError> {
        let path = dir.join(credentials::RECOVERY_FILE);
        // The old one goes when the new one counts, and is kept until the archive is written anew.
        let fresh = dir.join(format!("{}.new", credentials::RECOVERY_FILE));
        let keyring = credentials::make_recovery(&fresh).map_err(io_at(&fresh))?;
        self.cluster.order(Command::SetKeyring { keyring }).await?;
        if path.exists() {
            let old = |number: u32| dir.join(format!("{}.old-{number}", credentials::RECOVERY_FILE));
            let free = (1..).map(old).find(|old| !old.exists()).unwrap_or_else(|| old(0));
            std::fs::rename(&path, &free).map_err(io_at(&path))?;
        }
        std::fs::rename(&fresh, &path).map_err(io_at(&path))?;
        self.said(format!(
            "the recovery key is {}: keep copies of it elsewhere. The key before is good until \"holdfast status\" says that \
             the metadata is archived again",
            path.display()
        ))
    }

    async fn order_device(&self, order: DeviceCommand) -> Result<(), SystemError> {
        let nothing = DeviceOrder { duty: None, weight: None, class: None, replaceable: false, force: false };
        let duty = |duty| DeviceOrder { duty: Some(duty), ..nothing.clone() };
        let (device, order) = match order {
            DeviceCommand::List => return self.devices().await,
            DeviceCommand::Add { node, dir } => {
                return self.add_device(&node, &dir).await;
            }
            DeviceCommand::Drain { device } => (device, duty(DutyOrder::Draining)),
            DeviceCommand::Serve { device } => (device, duty(DutyOrder::Serving)),
            DeviceCommand::Remove { device, force } => {
                (device, DeviceOrder { force, ..duty(DutyOrder::Removed) })
            }
            DeviceCommand::Replace { device } => (device, DeviceOrder { replaceable: true, ..nothing }),
            DeviceCommand::Class { device, class } => {
                (device, DeviceOrder { class: Some(class.unwrap_or_default()), ..nothing })
            }
            DeviceCommand::Reweigh { device, weight } => {
                (device, DeviceOrder { weight: Some(weight), ..nothing })
            }
        };
        self.said(self.cluster.order_device(device, &order).await?)
    }

    /// Has a host take another disk: the host alone knows its directories.
    async fn add_device(&self, node: &str, dir: &str) -> Result<(), SystemError> {
        let (id, host) = self.cluster.host_named(node)?;
        let remote =
            Remote::new(self.identity.tls()?, Target::Host(id), host.address.clone(), BufferPool::new(0));
        let add = Method::AddDisk(proto::AddDisk { dir: dir.to_owned() });
        match remote.call(add, Bytes::new(), ADD_PATIENCE).await {
            Ok((reply::Result::Devices(added), _)) => {
                let id = added.devices.first().copied().unwrap_or_default();
                self.said(format!("{dir} is device {id} of {node}: groups move there by themselves"))
            }
            Ok(_) => Err(SystemError::Cluster(format!("{node} answered with something else"))),
            Err(error) => Err(SystemError::Cluster(format!("{node} did not take the disk: {error}"))),
        }
    }

    async fn admin(&self, order: AdminCommand) -> Result<(), SystemError> {
        match order {
            AdminCommand::Create { name, read_only, ttl } => {
                let secret = format!("hfa1.{}", hex::encode(rand::random::<[u8; 32]>()));
                let hash = *blake3::hash(secret.as_bytes()).as_bytes();
                let ttl_ms = ttl.as_millis() as u64;
                self.cluster.order(Command::MakeAdminToken { hash, name, read_only, ttl_ms }).await?;
                match self.json {
                    true => say(json!({ "token": secret })),
                    false => say(secret),
                }
                Ok(())
            }
            AdminCommand::List => {
                let tokens = self.cluster.meta.ask(AdminTokens {}).await?;
                let rows = tokens.into_iter().map(|(hash, token)| {
                    let life = Duration::from_millis(token.expires_ms);
                    let expires = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + life).to_string();
                    json!({
                        "id": hex::encode(&hash[..8]),
                        "name": token.name,
                        "may": if token.read_only { "look" } else { "look and order" },
                        "expires": expires,
                    })
                });
                self.print(&["id", "name", "may", "expires"], rows.collect());
                Ok(())
            }
            AdminCommand::Revoke { id } => {
                let tokens = self.cluster.meta.ask(AdminTokens {}).await?;
                let found = tokens.iter().find(|(hash, _)| hex::encode(&hash[..8]) == id);
                let Some((hash, _)) = found else {
                    return Err(SystemError::Cluster(format!("there is no admin token {id}")));
                };
                self.cluster.order(Command::DropAdminToken { hash: *hash }).await?;
                self.said(format!("the admin token {id} is of no use any more"))
            }
        }
    }
}
