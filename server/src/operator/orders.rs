//! What operators order.

use super::{Operator, show::say};
use crate::{
    args::{DeviceCommand, NodeCommand, PoolArgs, TokenArgs},
    system::SystemError,
};
use bytes::Bytes;
use holdfast_core::{
    ids::{DeviceId, HostId},
    profile::Profile,
    roles::Roles,
    topology::FailureDomain,
};
use holdfast_meta_raft_machine::{
    ask::Topology,
    command::Command,
    records::{Device, Duty, PoolSpec},
};
use holdfast_meta_raft_planner::{first_table, lint};
use holdfast_net::Secret;
use holdfast_proto::{self as proto, call::Method};
use std::collections::BTreeMap;

/// Slots of placement groups that a device should have: enough to share its load evenly, few enough that few sets of
/// devices can lose data together.
const SLOTS_A_DEVICE: usize = 64;

/// The profiles to choose from where none is asked for, the most durable first.
const PROFILES: [(usize, usize); 6] = [(8, 4), (6, 3), (4, 2), (2, 2), (2, 1), (1, 1)];

fn refuse<T>(text: impl Into<String>) -> Result<T, SystemError> {
    Err(SystemError::Cluster(text.into()))
}

impl Operator {
    pub async fn make_token(&self, wanted: &TokenArgs) -> Result<(), SystemError> {
        let secret: [u8; 32] = rand::random();
        let roles: Roles = wanted.role.iter().copied().collect();
        let ttl_ms = wanted.ttl.as_millis() as u64;
        self.order(Command::MakeToken { hash: *blake3::hash(&secret).as_bytes(), roles, ttl_ms }).await?;
        say(format!("{}", Secret::new(&self.identity.authority()?, secret)));
        Ok(())
    }

    pub async fn order_device(&self, order: DeviceCommand) -> Result<(), SystemError> {
        let topology = &self.topology;
        let known = |id: u32| topology.devices.iter().find(|(known, _)| known.0 == id);
        let device = |id: u32| {
            known(id)
                .map(|(id, device)| (*id, device))
                .ok_or_else(|| SystemError::Cluster(format!("there is no device {id}")))
        };
        match order {
            DeviceCommand::List => Ok(()),
            DeviceCommand::Drain { device: id } => self.set_duty(device(id)?.0, Duty::Draining).await,
            DeviceCommand::Serve { device: id } => self.set_duty(device(id)?.0, Duty::Serving).await,
            DeviceCommand::Remove { device: id, force } => {
                let (id, _) = device(id)?;
                if !force && uses(topology, id) {
                    return refuse(format!(
                        "shards are on device {id}: drain it first, or give it up with --force, and have them made anew"
                    ));
                }
                self.set_duty(id, Duty::Removed).await
            }
            DeviceCommand::Replace { device: id } => {
                let (id, _) = device(id)?;
                self.order(Command::AllowReplacement { id }).await?;
                say(format!("an empty disk may take the place of device {id}"));
                Ok(())
            }
            DeviceCommand::Reweigh { device: id, weight } => {
                let (id, _) = device(id)?;
                self.order(Command::Reweigh { id, weight }).await
            }
        }
    }

    async fn set_duty(&self, id: DeviceId, duty: Duty) -> Result<(), SystemError> {
        self.order(Command::SetDuty { id, duty }).await
    }

    pub async fn order_node(&self, order: NodeCommand) -> Result<(), SystemError> {
        let topology = &self.topology;
        match order {
            NodeCommand::List => Ok(()),
            NodeCommand::Drain { node } => {
                let host = host_named(topology, &node)?;
                let devices = devices_of(topology, host);
                for id in &devices {
                    self.set_duty(*id, Duty::Draining).await?;
                }
                say(format!(
                    "{} devices of {node} are draining: \"holdfast device list\" shows when they are empty",
                    devices.len()
                ));
                Ok(())
            }
            NodeCommand::Remove { node, force } => {
                let host = host_named(topology, &node)?;
                let devices = devices_of(topology, host);
                if !force && devices.iter().any(|id| uses(topology, *id)) {
                    return refuse(format!(
                        "shards are on devices of {node}: drain it first, or give it up with --force"
                    ));
                }
                if !topology.members().any(|(id, _)| id != host) {
                    return refuse(format!(
                        "{node} is the last metadata member: the cluster would be without metadata"
                    ));
                }
                for id in devices {
                    self.set_duty(id, Duty::Removed).await?;
                }
                self.order(Command::RevokeHost { id: host }).await?;
                say(format!("{node} does not belong to the cluster any more, and may be unplugged"));
                Ok(())
            }
        }
    }

    pub async fn create_pool(&self, wanted: &PoolArgs) -> Result<(), SystemError> {
        let topology = &self.topology;
        if topology.pool.is_some() {
            return refuse("there is a pool already: this version has one");
        }
        let devices: BTreeMap<DeviceId, Device> = topology.devices.iter().cloned().collect();
        let (profile, domain) = choose(&devices, wanted.profile, wanted.domain)?;
        let slots = devices.len() * SLOTS_A_DEVICE;
        let count = wanted.groups.unwrap_or((slots / profile.total()).next_power_of_two() as u32);
        let table = first_table(profile, domain, &devices, count);
        let table = table.map_err(|error| SystemError::Plan(error.to_string()))?;
        let breaches = lint(profile, domain, &devices, &table);
        if !breaches.is_empty() {
            return Err(SystemError::Plan(breaches.join("; ")));
        }
        let pgs = table.into_iter().map(|(id, pg)| (id, pg.spec())).collect();
        let pool = PoolSpec { profile, pg_count: count };
        self.order(Command::FoundPool { pool, domain, pgs }).await?;
        say(format!("made a pool of {profile} over {domain}s, with {count} placement groups"));
        Ok(())
    }

    pub async fn transfer_leader(&self, host: &str) -> Result<(), SystemError> {
        let host = host_named(&self.topology, host)?;
        let call = Method::TransferLeader(proto::TransferLeader { host: host.0 });
        self.meta.call(call, Bytes::new()).await?;
        Ok(())
    }
}

/// Whether any placement group has shards on a device.
fn uses(topology: &Topology, id: DeviceId) -> bool {
    topology.pgs.iter().any(|(_, pg)| {
        pg.devices.contains(&id)
            || pg.previous.as_ref().is_some_and(|previous| previous.devices.contains(&id))
    })
}

fn host_named(topology: &Topology, name: &str) -> Result<HostId, SystemError> {
    let found = topology.hosts.iter().find(|(_, host)| host.name == name && !host.revoked);
    found.map(|(id, _)| *id).ok_or_else(|| SystemError::Cluster(format!("there is no host {name}")))
}

fn devices_of(topology: &Topology, host: HostId) -> Vec<DeviceId> {
    let mine =
        topology.devices.iter().filter(|(_, device)| device.host == host && device.duty != Duty::Removed);
    mine.map(|(id, _)| *id).collect()
}

/// The profile and failure domain that were asked for, or the best that the devices carry.
fn choose(
    devices: &BTreeMap<DeviceId, Device>,
    profile: Option<Profile>,
    domain: Option<FailureDomain>,
) -> Result<(Profile, FailureDomain), SystemError> {
    let domains = match domain {
        Some(domain) => vec![domain],
        None => vec![FailureDomain::Rack, FailureDomain::Node, FailureDomain::Device],
    };
    let profiles: Vec<Profile> = match profile {
        Some(profile) => vec![profile],
        None => PROFILES.iter().filter_map(|(k, m)| Profile::new(*k, *m).ok()).collect(),
    };
    let mut refused = None;
    for profile in profiles {
        for domain in &domains {
            match first_table(profile, *domain, devices, 1) {
                Ok(_) => return Ok((profile, *domain)),
                Err(error) => refused = Some(error.to_string()),
            }
        }
    }
    refuse(refused.unwrap_or_else(|| "there are no devices".to_owned()))
}
