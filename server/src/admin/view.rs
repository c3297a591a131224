//! Looking at a cluster.

use super::{
    Cluster,
    model::{
        Device, Group, GroupDetail, GroupShard, Groups, JobStatus, Member, Node, Plan, PlannedChange, Pool,
        Status,
    },
};
use crate::{
    operator::durability,
    system::{SystemError, refuse},
};
use holdfast_core::ids::{DeviceId, HostId, PgId};
use holdfast_meta_raft_machine::{
    ask::{Backlog, BacklogNow, DegradedPacks, HeaderNow, Packs, PoolShown, SettingsNow},
    records::{self, Duty, Job, Pg},
};
use holdfast_meta_raft_planner::plan;
use holdfast_meta_raft_server::MetaError;
use holdfast_proto::{DeviceBeat, DeviceHealth, HealthNow, JobBytes};
use std::time::Duration;

/// Packs that are counted; more are "at least".
const COUNTED: u32 = 100_000;

/// Packs of one group that are looked at.
const GROUP_PACKS: u32 = 10_000;

/// A host or device that was silent for so long is down.
const DOWN: Duration = Duration::from_secs(5);

/// What was last heard of a device.
fn heard(health: &HealthNow, id: DeviceId) -> Option<&DeviceHealth> {
    health.devices.iter().find(|device| device.beat.as_ref().is_some_and(|beat| beat.device == id.0))
}

/// Whether a device was heard of a moment ago.
fn is_up(health: &HealthNow, id: DeviceId) -> bool {
    heard(health, id).is_some_and(|device| !device.stopped && Duration::from_millis(device.silent_ms) < DOWN)
}

/// Whether a host was heard of a moment ago.
fn is_host_up(health: &HealthNow, id: HostId) -> bool {
    let host = health.hosts.iter().find(|host| host.host == id.0);
    host.filter(|host| !host.stopped)
        .and_then(|host| host.silent_ms)
        .is_some_and(|ms| Duration::from_millis(ms) < DOWN)
}

fn duty_name(duty: Duty) -> &'static str {
    match duty {
        Duty::Serving => "serving",
        Duty::Draining => "draining",
        Duty::Out => "out",
        Duty::Removed => "removed",
    }
}

fn numbers(devices: &[DeviceId]) -> Vec<u32> {
    devices.iter().map(|device| device.0).collect()
}

impl Cluster {
    /// How hosts and devices are.
    ///
    /// # Errors
    /// As all here: where the metadata cannot be reached.
    pub async fn health(&self) -> Result<HealthNow, SystemError> {
        Ok(self.meta.health().await?)
    }

    pub async fn status(&self) -> Result<Status, SystemError> {
        let (topology, health) = (&self.topology, self.health().await?);
        let header = self.meta.ask(HeaderNow {}).await?.unwrap_or_default();
        let degraded = self.meta.ask(DegradedPacks { after: None, limit: COUNTED }).await?;
        let mut groups = Groups::default();
        for (id, pg) in &topology.pgs {
            match self.state(*id, pg, &health) {
                "clean" => groups.clean += 1,
                "moving" => groups.moving += 1,
                "degraded" => groups.degraded += 1,
                "at risk" => groups.at_risk += 1,
                _ => groups.unreadable += 1,
            }
        }
        let devices = self.device_rows(&health);
        let members_down = health.voters.iter().filter(|id| !is_host_up(&health, HostId(**id))).count();
        let problems = self.problems(&groups, degraded.len(), &devices, members_down, &header);
        let sum = |field: fn(&Device) -> Option<u64>| devices.iter().filter_map(field).sum::<u64>();
        Ok(Status {
            cluster: self.name.clone(),
            healthy: problems.is_empty(),
            problems,
            leader: health.leader,
            voters: health.voters.clone(),
            learners: health.learners.clone(),
            members_down,
            profile: topology.pool.as_ref().map(|pool| pool.profile.to_string()),
            domain: topology.pool.as_ref().map(|pool| pool.domain.to_string()),
            groups,
            degraded_packs: degraded.len(),
            worst_spare: degraded.first().map(|(spare, _)| *spare),
            durability: durability::line(topology, &health),
            jobs: self.job_rows(&health).await?,
            live: sum(|device| device.live),
            free: sum(|device| device.free),
            devices,
            archived_until_ms: health.archived_until_ms,
            collection_stopped: header.collection_stopped,
            cluster_version: header.cluster_version,
        })
    }

    fn problems(
        &self,
        groups: &Groups,
        degraded: usize,
        devices: &[Device],
        members_down: usize,
        header: &records::Header,
    ) -> Vec<String> {
        let mut problems = Vec::new();
        let mut say = |count: usize, text: &str| {
            if count > 0 {
                problems.push(format!("{count} {text}"));
            }
        };
        let down = |device: &&Device| device.duty == "serving" && !device.up;
        say(members_down, "metadata members are down");
        say(devices.iter().filter(down).count(), "devices are down");
        say(groups.unreadable, "placement groups cannot be read");
        say(groups.at_risk, "placement groups can lose no further device");
        say(groups.degraded, "placement groups miss devices");
        say(groups.moving, "placement groups are moving");
        say(degraded, "packs lack shards");
        problems.extend(self.plan().ok().and_then(|plan| plan.stuck.into_iter().next()));
        if self.topology.pool.is_none() {
            problems.push("there is no pool".to_owned());
        }
        problems.extend(
            header.collection_stopped.as_ref().map(|why| format!("garbage collection is stopped: {why}")),
        );
        problems
    }

    /// How a group is: by the devices that its shards are on now, or in the worst case.
    fn state(&self, id: PgId, pg: &Pg, health: &HealthNow) -> &'static str {
        let duty = |id: &DeviceId| {
            let device = self.topology.devices.iter().find(|(known, _)| known == id);
            device.map(|(_, device)| device.duty)
        };
        let gone = |id: &DeviceId| !is_up(health, *id) || duty(id).is_none_or(Duty::is_gone);
        let lost = |devices: &[DeviceId]| devices.iter().filter(|id| gone(id)).count();
        let Pg { devices, previous, older, .. } = pg;
        let before = older.iter().chain(previous).map(|generation| lost(&generation.devices)).max();
        let lost = lost(devices).max(before.unwrap_or(0));
        let spare = self.topology.profile_of(id.pool()).map_or(0, |profile| profile.parity());
        match (lost, previous) {
            (0, None) => "clean",
            (0, Some(_)) => "moving",
            (lost, _) if lost > spare => "unreadable",
            (lost, _) if lost == spare => "at risk",
            (_, _) => "degraded",
        }
    }

    fn device_rows(&self, health: &HealthNow) -> Vec<Device> {
        let row = |(id, device): &(DeviceId, records::Device)| {
            let beat = heard(health, *id).and_then(|device| device.beat.as_ref());
            let pgs = &self.topology.pgs;
            let groups = pgs.iter().filter(|(_, pg)| pg.devices.contains(id)).count();
            let moving = |pg: &Pg| pg.leaves(*id) && !pg.devices.contains(id);
            let leaving = pgs.iter().filter(|(_, pg)| moving(pg)).count();
            let scrubbed =
                |beat: &DeviceBeat| 100.0 * beat.scrub_done as f64 / beat.scrub_total.max(1) as f64;
            Device {
                device: id.0,
                host: self.topology.host(device.host).map(|host| host.name.clone()),
                place: device.place.to_string(),
                duty: duty_name(device.duty).to_owned(),
                up: is_up(health, *id),
                empty: groups + leaving == 0 && device.duty != Duty::Serving,
                weight: device.weight,
                groups,
                leaving,
                live: beat.map(|beat| beat.live),
                free: beat.map(|beat| beat.free),
                shards: beat.map(|beat| beat.shards),
                scrubbed: beat.map(scrubbed).map(|percent| (percent.min(100.0) * 10.0).round() / 10.0),
            }
        };
        self.topology.devices.iter().map(row).collect()
    }

    pub async fn devices(&self) -> Result<Vec<Device>, SystemError> {
        Ok(self.device_rows(&self.health().await?))
    }

    pub async fn nodes(&self) -> Result<Vec<Node>, SystemError> {
        let health = self.health().await?;
        let node = |(id, host): &(HostId, records::Host)| Node {
            host: id.0,
            name: host.name.clone(),
            roles: host.roles.to_string(),
            address: host.address.clone(),
            place: host.place.to_string(),
            devices: self.topology.devices.iter().filter(|(_, device)| device.host == *id).count(),
            state: match (host.revoked, is_host_up(&health, *id)) {
                (true, _) => "revoked",
                (false, true) => "up",
                (false, false) => "down",
            }
            .to_owned(),
        };
        Ok(self.topology.hosts.iter().map(node).collect())
    }

    pub fn pools(&self) -> Vec<Pool> {
        let pool = |shown: PoolShown<'_>| Pool {
            pool: shown.id.0,
            class: shown.class.unwrap_or("all others").to_owned(),
            on: shown.on.map(str::to_owned),
            devices: shown.devices.len(),
            profile: shown.pool.profile.to_string(),
            domain: shown.pool.domain.to_string(),
            groups: shown.pool.pg_count,
            survives: format!("any {} devices, any one {}", shown.pool.profile.parity(), shown.pool.domain),
        };
        self.topology.pools().map(pool).collect()
    }

    fn group_row(&self, id: PgId, pg: &Pg, health: &HealthNow) -> Group {
        Group {
            group: id.0,
            epoch: pg.epoch.0,
            devices: numbers(&pg.devices),
            from: pg.older.first().or(pg.previous.as_ref()).map(|before| numbers(&before.devices)),
            down: pg.devices.iter().filter(|device| !is_up(health, **device)).count(),
            state: self.state(id, pg, health).to_owned(),
        }
    }

    pub async fn groups(&self) -> Result<Vec<Group>, SystemError> {
        let health = self.health().await?;
        Ok(self.topology.pgs.iter().map(|(id, pg)| self.group_row(*id, pg, &health)).collect())
    }

    pub async fn group(&self, id: u32) -> Result<GroupDetail, SystemError> {
        let health = self.health().await?;
        let found = self.topology.pgs.iter().find(|(known, _)| known.0 == id);
        let Some((id, pg)) = found else { return refuse(format!("there is no placement group {id}")) };
        let packs = self.meta.ask(Packs { pg: Some(*id), after: None, limit: GROUP_PACKS }).await?;
        let shard = |(shard, device): (usize, &DeviceId)| {
            let record = self.topology.devices.iter().find(|(known, _)| known == device);
            GroupShard {
                shard,
                device: device.0,
                place: record.map(|(_, record)| record.place.to_string()),
                duty: record.map(|(_, record)| duty_name(record.duty).to_owned()),
                up: is_up(&health, *device),
            }
        };
        Ok(GroupDetail {
            group: self.group_row(*id, pg, &health),
            shards: pg.devices.iter().enumerate().map(shard).collect(),
            packs: packs.len(),
            left_behind: packs.iter().filter(|(_, pack)| pg.is_behind(pack.epoch)).count(),
            degraded: packs.iter().filter(|(_, pack)| pack.missing != 0).count(),
            live: packs.iter().map(|(_, pack)| pack.live).sum(),
            data: packs.iter().map(|(_, pack)| pack.data).sum(),
        })
    }

    pub async fn members(&self) -> Result<Vec<Member>, SystemError> {
        let health = self.health().await?;
        let voters = health.voters.iter().map(|id| (id, "voter"));
        let members = voters.chain(health.learners.iter().map(|id| (id, "learner")));
        let member = |(id, kind): (&u64, &str)| {
            let host = self.topology.host(HostId(*id));
            Member {
                host: *id,
                name: host.map(|host| host.name.clone()),
                address: host.map(|host| host.address.clone()),
                member: kind.to_owned(),
                leads: *id == health.leader,
                up: is_host_up(&health, HostId(*id)),
            }
        };
        Ok(members.map(member).collect())
    }

    pub async fn jobs(&self) -> Result<Vec<JobStatus>, SystemError> {
        self.job_rows(&self.health().await?).await
    }

    async fn job_rows(&self, health: &HealthNow) -> Result<Vec<JobStatus>, SystemError> {
        // Members of the version before know of no jobs.
        let settings = unless_refused(self.meta.ask(SettingsNow {}).await)?;
        let backlog = unless_refused(self.meta.ask(BacklogNow { limit: COUNTED }).await)?;
        let rates = health.rates.unwrap_or_default();
        let row = |job: Job| job_row(job, settings.is_paused(job), &backlog, &rates, health);
        Ok(Job::ALL.into_iter().map(row).collect())
    }

    pub fn plan(&self) -> Result<Plan, SystemError> {
        if self.topology.pool.is_none() {
            return refuse("there is no pool yet");
        }
        let plan = plan(&self.topology);
        let change = |change: holdfast_meta_raft_planner::Change| PlannedChange {
            group: change.pg.0,
            devices: numbers(&change.devices),
            reason: change.reason,
        };
        Ok(Plan { changes: plan.changes.into_iter().map(change).collect(), stuck: plan.stuck })
    }
}

fn unless_refused<T: Default>(answer: Result<T, MetaError>) -> Result<T, MetaError> {
    match answer {
        Err(MetaError::Refused(_)) => Ok(T::default()),
        other => other,
    }
}

fn job_row(job: Job, paused: bool, backlog: &Backlog, rates: &JobBytes, health: &HealthNow) -> JobStatus {
    let more = if backlog.truncated { "more than " } else { "" };
    let beats = health.devices.iter().filter_map(|device| device.beat.as_ref());
    // Shards of the round that are still to be read, and about how many bytes they are.
    let scrub = beats.fold((0u64, 0u64), |(shards, bytes), beat| {
        let left = beat.scrub_total.saturating_sub(beat.scrub_done);
        (shards + left, bytes + beat.live / beat.shards.max(1) * left)
    });
    let (left, left_bytes, rate) = match job {
        Job::Rebuild => {
            (format!("{more}{} packs", backlog.degraded_packs), Some(backlog.degraded_bytes), rates.rebuild)
        }
        Job::Rebalance => {
            (format!("{more}{} packs", backlog.moving_packs), Some(backlog.moving_bytes), rates.rebalance)
        }
        Job::Scrub => (format!("{} shards of this round", scrub.0), Some(scrub.1), rates.scrub),
        Job::Compaction => (format!("{more}{} packs", backlog.reclaimable_packs), None, rates.compaction),
    };
    let idle = match job {
        Job::Compaction => backlog.reclaimable_packs == 0,
        Job::Rebuild | Job::Rebalance | Job::Scrub => left_bytes == Some(0),
    };
    let state = match (paused, idle) {
        (true, _) => "paused",
        (false, true) => "idle",
        (false, false) => "running",
    };
    let estimate = left_bytes.filter(|_| state == "running" && rate > 0).map(|bytes| bytes.div_ceil(rate));
    JobStatus {
        job: job.to_string(),
        state: state.to_owned(),
        left,
        left_bytes,
        bytes_per_s: rate,
        estimate_s: estimate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_says_what_is_left_and_how_long_it_takes() {
        let backlog = Backlog { degraded_packs: 3, degraded_bytes: 3 << 20, ..Backlog::default() };
        let rates = JobBytes { rebuild: 1 << 20, ..JobBytes::default() };
        let health = HealthNow::default();
        let rebuild = job_row(Job::Rebuild, false, &backlog, &rates, &health);
        assert_eq!((rebuild.state.as_str(), rebuild.estimate_s), ("running", Some(3)));
        let paused = job_row(Job::Rebuild, true, &backlog, &rates, &health);
        assert_eq!((paused.state.as_str(), paused.estimate_s), ("paused", None));
        let idle = job_row(Job::Rebalance, false, &backlog, &rates, &health);
        assert_eq!((idle.state.as_str(), idle.estimate_s), ("idle", None));
    }
}
