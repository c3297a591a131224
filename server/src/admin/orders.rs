//! Ordering a cluster. Each order says what it did.

use super::{
    Cluster,
    model::{DeviceOrder, DutyOrder},
};
use crate::{
    args::PoolArgs,
    system::{SystemError, groups_of, refuse},
};
use bytes::Bytes;
use holdfast_core::{
    ids::{DeviceId, HostId, PoolId},
    profile::Profile,
    roles::{Role, Roles},
    topology::FailureDomain,
};
use holdfast_meta_raft_machine::{
    ask::{HeaderNow, SettingsNow},
    command::{Command, Outcome, Rejection, Request},
    records::{ClassPool, Device, Duty, Host, Job, Pool, PoolSpec, Settings},
};
use holdfast_meta_raft_planner::first_table;
use holdfast_proto::{self as proto, call::Method};
use std::{collections::BTreeMap, time::Duration};

/// Slots of placement groups that a device should have: enough to share its load evenly, few enough that few sets of
/// devices can lose data together.
const SLOTS_A_DEVICE: usize = 64;

/// The profiles to choose from where none is asked for, the most durable first.
const PROFILES: [(usize, usize); 6] = [(8, 4), (6, 3), (4, 2), (2, 2), (2, 1), (1, 1)];

type Said = Result<String, SystemError>;

impl Cluster {
    /// A token that lets one host join, once: its secret.
    ///
    /// # Errors
    /// As all here: where the metadata cannot be reached, or refuses.
    pub async fn make_token(&self, roles: Roles, ttl: Duration) -> Result<[u8; 32], SystemError> {
        let secret: [u8; 32] = rand::random();
        let ttl_ms = ttl.as_millis() as u64;
        self.order(Command::MakeToken { hash: *blake3::hash(&secret).as_bytes(), roles, ttl_ms }).await?;
        Ok(secret)
    }

    fn device(&self, id: u32) -> Result<(DeviceId, &Device), SystemError> {
        let known = self.topology.devices.iter().find(|(known, _)| known.0 == id);
        known
            .map(|(id, device)| (*id, device))
            .ok_or_else(|| SystemError::Cluster(format!("there is no device {id}")))
    }

    /// Changes what becomes of a device.
    pub async fn order_device(&self, id: u32, order: &DeviceOrder) -> Said {
        let (id, device) = self.device(id)?;
        let mut said = Vec::new();
        if let Some(weight) = order.weight {
            self.order(Command::Reweigh { id, weight }).await?;
            said.push(format!("device {id} weighs {weight}: groups move by themselves"));
        }
        if let Some(class) = &order.class {
            let letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
            if class.len() > 64 || !class.chars().all(letter) {
                return refuse("a device's class has letters, digits and hyphens, 64 at most");
            }
            let class = Some(class.clone()).filter(|class| !class.is_empty());
            said.push(match &class {
                Some(class) => format!("device {id} serves the pools on {class}: shards of others move away"),
                None => format!("device {id} serves the pools that name no class of devices"),
            });
            self.order(Command::SetDeviceClass { id, class }).await?;
        }
        if order.replaceable {
            self.order(Command::AllowReplacement { id }).await?;
            said.push(format!("an empty disk may take the place of device {id}"));
        }
        if let Some(duty) = order.duty {
            let (duty, text) = match duty {
                DutyOrder::Serving => (Duty::Serving, "serves"),
                DutyOrder::Draining => (
                    Duty::Draining,
                    "drains: \"holdfast device list\" says when it is empty and may be unplugged",
                ),
                DutyOrder::Removed if !order.force && self.uses(id) => {
                    return refuse(format!(
                        "shards are on device {id}: drain it first, or give it up with --force, and have them made anew"
                    ));
                }
                DutyOrder::Removed => (Duty::Removed, "does not belong to the cluster any more"),
            };
            self.set_duty(id, device.duty, duty).await?;
            said.push(format!("device {id} {text}"));
        }
        Ok(said.join("\n"))
    }

    async fn set_duty(&self, id: DeviceId, was: Duty, duty: Duty) -> Result<(), SystemError> {
        let change = Request::idempotent(Command::ChangeDuty { id, was, duty });
        let outcome = self.meta.submit(vec![change]).await?.pop();
        match outcome {
            // Members of the version before take part.
            Some(Outcome::Rejected(Rejection::NeedsClusterVersion(_))) => {
                self.order(Command::SetDuty { id, duty }).await
            }
            Some(Outcome::Rejected(rejection)) => refuse(rejection.to_string()),
            Some(_) | None => Ok(()),
        }
    }

    /// Drains all devices of a host.
    pub async fn drain_node(&self, node: &str) -> Said {
        let (host, _) = self.host_named(node)?;
        let devices = self.devices_of(host);
        for (id, duty) in &devices {
            self.set_duty(*id, *duty, Duty::Draining).await?;
        }
        Ok(format!(
            "{} devices of {node} are draining: \"holdfast device list\" says when they are empty and may be unplugged",
            devices.len()
        ))
    }

    /// Takes a host out of the cluster for good.
    pub async fn remove_node(&self, node: &str, force: bool) -> Said {
        let (host, _) = self.host_named(node)?;
        let devices = self.devices_of(host);
        if !force && devices.iter().any(|(id, _)| self.uses(*id)) {
            return refuse(format!(
                "shards are on devices of {node}: drain it first, or give it up with --force"
            ));
        }
        self.check_last_member(host, node)?;
        for (id, duty) in devices {
            self.set_duty(id, duty, Duty::Removed).await?;
        }
        self.order(Command::RevokeHost { id: host }).await?;
        Ok(format!("{node} does not belong to the cluster any more, and may be unplugged"))
    }

    fn check_last_member(&self, host: HostId, name: &str) -> Result<(), SystemError> {
        if self.topology.members().any(|(id, _)| id != host) {
            return Ok(());
        }
        refuse(format!("{name} is the last metadata member: the cluster would be without metadata"))
    }

    /// Makes a pool: the first one, or one for the objects of a storage class.
    pub async fn create_pool(&self, wanted: &PoolArgs) -> Said {
        let PoolArgs { profile, domain, groups, class, on } = wanted;
        if class.is_none() && self.topology.pool.is_some() {
            return refuse("there is a pool already: others are for a storage class, which --class names");
        }
        if class.is_some() && self.topology.pool.is_none() {
            return refuse("the first pool takes every storage class: make it first, without --class");
        }
        if class.is_none() && on.is_some() {
            return refuse("the first pool is on the devices that have no class");
        }
        let devices = self.topology.devices_of(on.as_deref());
        let (profile, domain) = choose(&devices, *profile, *domain)?;
        let slots = devices.len() * SLOTS_A_DEVICE;
        let count = groups.unwrap_or((slots / profile.total()).next_power_of_two() as u32);
        let pool = Pool { profile, pg_count: count, domain };
        let made = format!("made a pool of {profile} over {domain}s, with {count} placement groups");
        let Some(class) = class else {
            let pgs = groups_of(PoolId::FIRST, &pool, &devices)?;
            let pool = PoolSpec { profile, pg_count: count };
            self.order(Command::FoundPool { pool, domain, pgs }).await?;
            return Ok(made);
        };
        let Some(id) = self.topology.next_pool() else { return refuse("there can be no more pools") };
        let pgs = groups_of(id, &pool, &devices)?;
        let pool = ClassPool { class: class.clone(), pool, devices: on.clone() };
        self.order(Command::FoundClassPool { id, pool, pgs }).await?;
        Ok(format!("{made}, for the storage class {class}"))
    }

    /// Hands leadership of the metadata to a member.
    pub async fn transfer_leader(&self, host: &str) -> Said {
        let (id, _) = self.host_named(host)?;
        let call = Method::TransferLeader(proto::TransferLeader { host: id.0 });
        self.meta.call(call, Bytes::new()).await?;
        Ok(format!("{host} is asked to lead"))
    }

    /// Takes the metadata off a host: it leaves the group, and keeps its other roles.
    pub async fn remove_member(&self, host: &str) -> Said {
        let (id, record) = self.host_named(host)?;
        if !record.roles.has(Role::Meta) {
            return refuse(format!("{host} keeps no metadata"));
        }
        self.check_last_member(id, host)?;
        let roles = record.roles.without(Role::Meta);
        if roles == Roles::NONE {
            self.order(Command::RevokeHost { id }).await?;
            return Ok(format!("{host} leaves the metadata, and the cluster: it had no other role"));
        }
        self.order(Command::ChangeRoles { id, roles }).await?;
        Ok(format!("{host} leaves the metadata: take the role meta out of its configuration"))
    }

    async fn change_settings(&self, change: impl Fn(&mut Settings)) -> Result<(), SystemError> {
        let was = self.meta.ask(SettingsNow {}).await?;
        let mut settings = was.clone();
        change(&mut settings);
        self.order(Command::SetSettings { was, settings }).await
    }

    /// Pauses a job, or lets it go on.
    pub async fn pause_job(&self, job: Job, paused: bool) -> Said {
        self.change_settings(|settings| settings.set_paused(job, paused)).await?;
        Ok(format!("{job} {}", if paused { "is paused" } else { "goes on" }))
    }

    /// Limits what the cluster's own work takes of each node; 0 is the default.
    pub async fn limit_jobs(&self, bytes_per_s: u64) -> Said {
        self.change_settings(|settings| settings.upkeep_bytes_per_s = bytes_per_s).await?;
        Ok(match bytes_per_s {
            0 => "jobs take the default rate again".to_owned(),
            rate => format!("jobs read and write {rate} bytes a second on each node at most"),
        })
    }

    /// Has every device scrubbed now.
    pub async fn start_scrub(&self) -> Said {
        let now = self.meta.ask(HeaderNow {}).await?.map_or(0, |header| header.clock_ms);
        self.change_settings(|settings| settings.scrub_asked_ms = now.max(settings.scrub_asked_ms + 1))
            .await?;
        Ok("every device reads all its shards now: \"holdfast job list\" shows how far that is".to_owned())
    }

    /// Whether any placement group has shards on a device.
    fn uses(&self, id: DeviceId) -> bool {
        self.topology.pgs.iter().any(|(_, pg)| pg.uses(id))
    }

    /// The host that people call so.
    ///
    /// # Errors
    /// Where there is none.
    pub fn host_named(&self, name: &str) -> Result<(HostId, &Host), SystemError> {
        let found = self.topology.hosts.iter().find(|(_, host)| host.name == name && !host.revoked);
        let found = found.map(|(id, host)| (*id, host));
        found.ok_or_else(|| SystemError::Cluster(format!("there is no host {name}")))
    }

    fn devices_of(&self, host: HostId) -> Vec<(DeviceId, Duty)> {
        let devices = self.topology.devices.iter();
        let mine = devices.filter(|(_, device)| device.host == host && device.duty != Duty::Removed);
        mine.map(|(id, device)| (*id, device.duty)).collect()
    }
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
