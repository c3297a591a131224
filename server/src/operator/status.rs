//! The cluster's health in one screen.

use super::{
    Operator, durability,
    show::{bytes, device_rows, is_host_up, is_up, say, table},
};
use crate::system::SystemError;
use holdfast_core::ids::{DeviceId, HostId};
use holdfast_meta_raft_machine::{
    ask::{DegradedPacks, HeaderNow, Topology},
    records::{Duty, Pg},
};
use holdfast_meta_raft_planner::change;
use holdfast_proto::HealthNow;
use serde_json::json;
use std::collections::BTreeMap;

/// Degraded packs that are counted; more are "at least".
const COUNTED: u32 = 100_000;

/// How placement groups are.
#[derive(Debug, Default)]
struct Groups {
    clean: usize,
    /// Packs are on their way to other devices.
    moving: usize,
    /// A device is down or out, and the data can lose another.
    degraded: usize,
    /// Not one more device may be lost.
    at_risk: usize,
    /// Fewer shards can be reached than reading needs.
    unreadable: usize,
}

impl Operator {
    pub async fn status(&self) -> Result<(), SystemError> {
        let (topology, health) = (&self.topology, self.health().await?);
        let header = self.meta.ask(HeaderNow {}).await?.unwrap_or_default();
        let degraded = self.meta.ask(DegradedPacks { after: None, limit: COUNTED }).await?;
        let groups = groups(topology, &health);
        let worst = degraded.first().map(|(spare, _)| *spare);
        let devices = device_rows(topology, &health);
        let down =
            devices.iter().filter(|device| device["duty"] == "serving" && device["up"] == false).count();
        let members_down = health.voters.iter().filter(|id| !is_host_up(&health, HostId(**id))).count();
        let stuck = stuck(topology);
        let problems = problems(topology, &groups, degraded.len(), down, members_down, &stuck);
        let sum = |field: &str| devices.iter().filter_map(|device| device[field].as_u64()).sum::<u64>();
        if self.json {
            say(format!(
                "{:#}",
                json!({
                    "cluster": self.identity.cluster,
                    "healthy": problems.is_empty(),
                    "problems": problems,
                    "leader": health.leader,
                    "voters": health.voters,
                    "learners": health.learners,
                    "members_down": members_down,
                    "profile": topology.pool.as_ref().map(|pool| pool.profile.to_string()),
                    "domain": topology.pool.as_ref().map(|pool| pool.domain.to_string()),
                    "groups": {
                        "clean": groups.clean,
                        "moving": groups.moving,
                        "degraded": groups.degraded,
                        "at_risk": groups.at_risk,
                        "unreadable": groups.unreadable,
                    },
                    "degraded_packs": degraded.len(),
                    "worst_spare": worst,
                    "devices": devices,
                    "live": sum("live"),
                    "free": sum("free"),
                    "archived_until_ms": health.archived_until_ms,
                    "collection_stopped": header.collection_stopped,
                    "cluster_version": header.cluster_version,
                })
            ));
            return Ok(());
        }
        say(format!("cluster   {}", self.identity.cluster));
        match problems.as_slice() {
            [] => say("health    well"),
            problems => problems.iter().for_each(|problem| say(format!("health    {problem}"))),
        }
        let name =
            |id: u64| topology.host(HostId(id)).map_or_else(|| id.to_string(), |host| host.name.clone());
        say(format!(
            "members   {} voters, {} up, leader {}{}",
            health.voters.len(),
            health.voters.len() - members_down,
            name(health.leader),
            if health.learners.is_empty() {
                String::new()
            } else {
                format!(", {} learning", health.learners.len())
            }
        ));
        match &topology.pool {
            Some(pool) => say(format!(
                "pool      {} over {}s: survives any {} devices and any one {}",
                pool.profile,
                pool.domain,
                pool.profile.parity(),
                pool.domain
            )),
            None => say("pool      none yet: make one with \"holdfast pool create\""),
        }
        say(format!(
            "groups    {} clean, {} moving, {} degraded, {} at risk, {} unreadable",
            groups.clean, groups.moving, groups.degraded, groups.at_risk, groups.unreadable
        ));
        match worst {
            None => say("packs     all whole"),
            Some(spare) => {
                say(format!("packs     {} lack shards; the worst can lose {spare} more", degraded.len()))
            }
        }
        say(format!("capacity  {} stored, {} free", bytes(sum("live")), bytes(sum("free"))));
        if let Some(line) = durability::line(topology, &health) {
            say(format!("durable   {line}"));
        }
        let lag = now_ms().saturating_sub(health.archived_until_ms);
        say(match health.archived_until_ms {
            0 => "archive   the metadata is not archived yet".to_owned(),
            _ => format!("archive   the metadata is archived up to {:.1} s ago", lag as f64 / 1000.0),
        });
        if let Some(reason) = &header.collection_stopped {
            say(format!("garbage   collection is stopped: {reason}"));
        }
        say("");
        let mut rows = devices;
        for row in &mut rows {
            for field in ["live", "free"] {
                if let Some(number) = row[field].as_u64() {
                    row[field] = bytes(number).into();
                }
            }
        }
        table(&["place", "device", "host", "duty", "up", "groups", "leaving", "live", "free"], &rows);
        Ok(())
    }

    /// What the planner would change now, and why.
    pub fn plan(&self) -> Result<(), SystemError> {
        let topology = &self.topology;
        let Some(pool) = &topology.pool else {
            return Err(SystemError::Cluster("there is no pool yet".to_owned()));
        };
        let devices = topology.devices.iter().cloned().collect();
        let plan = change(pool.profile, pool.domain, &devices, &topology.pgs);
        if self.json {
            let changes: Vec<_> = plan
                .changes
                .iter()
                .map(|change| {
                    let devices: Vec<u32> = change.devices.iter().map(|id| id.0).collect();
                    json!({ "group": change.pg.0, "devices": devices, "reason": change.reason })
                })
                .collect();
            say(format!("{:#}", json!({ "changes": changes, "stuck": plan.stuck })));
            return Ok(());
        }
        if plan.changes.is_empty() && plan.stuck.is_empty() {
            say("every placement group is where it should be");
        }
        plan.changes.iter().for_each(|change| say(format!("group {}: {}", change.pg, change.reason)));
        plan.stuck.iter().for_each(say);
        Ok(())
    }
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

fn stuck(topology: &Topology) -> Vec<String> {
    let Some(pool) = &topology.pool else { return Vec::new() };
    let devices = topology.devices.iter().cloned().collect();
    change(pool.profile, pool.domain, &devices, &topology.pgs).stuck
}

/// How each group is: by the devices that its shards are on now, or in the worst case.
fn groups(topology: &Topology, health: &HealthNow) -> Groups {
    let mut groups = Groups::default();
    let Some(pool) = &topology.pool else { return groups };
    let duty: BTreeMap<DeviceId, Duty> =
        topology.devices.iter().map(|(id, device)| (*id, device.duty)).collect();
    let gone = |id: &DeviceId| !is_up(health, *id) || duty.get(id).is_none_or(|duty| duty.is_gone());
    for (_, pg) in &topology.pgs {
        let Pg { devices, previous, .. } = pg;
        let lost = |devices: &[DeviceId]| devices.iter().filter(|id| gone(id)).count();
        let lost = lost(devices).max(previous.as_ref().map_or(0, |previous| lost(&previous.devices)));
        let spare = pool.profile.parity();
        match (lost, previous) {
            (0, None) => groups.clean += 1,
            (0, Some(_)) => groups.moving += 1,
            (lost, _) if lost > spare => groups.unreadable += 1,
            (lost, _) if lost == spare => groups.at_risk += 1,
            (_, _) => groups.degraded += 1,
        }
    }
    groups
}

fn problems(
    topology: &Topology,
    groups: &Groups,
    degraded: usize,
    down: usize,
    members_down: usize,
    stuck: &[String],
) -> Vec<String> {
    let mut problems = Vec::new();
    let mut say = |count: usize, text: &str| {
        if count > 0 {
            problems.push(format!("{count} {text}"));
        }
    };
    say(members_down, "metadata members are down");
    say(down, "devices are down");
    say(groups.unreadable, "placement groups cannot be read");
    say(groups.at_risk, "placement groups can lose no further device");
    say(groups.degraded, "placement groups miss devices");
    say(groups.moving, "placement groups are moving");
    say(degraded, "packs lack shards");
    problems.extend(stuck.first().cloned());
    if topology.pool.is_none() {
        problems.push("there is no pool".to_owned());
    }
    problems
}
