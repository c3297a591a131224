//! The leader's housekeeping: who votes, which devices count, where placement groups go.
//!
//! Each round looks at the state and at who was heard of, and takes the next step towards what should be. A round that
//! is lost with its leader is done again by the next one.

use crate::{Beats, MetaError, MetaHandle, NetPeers};
use holdfast_core::ids::{DeviceId, HostId};
use holdfast_meta_raft_machine::{
    CLUSTER_VERSION,
    ask::{HeaderNow, Topology, TopologyNow},
    command::{Command, Request},
    records::{Device, Duty},
};
use holdfast_meta_raft_planner::{Plan, plan};
use holdfast_meta_raft_pump::{MemberChange, MemberId};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::{MissedTickBehavior, interval};

/// How often the leader looks.
const PACE: Duration = Duration::from_millis(500);

/// Groups that move for balance or draining at once; those that lost a device do not wait.
const MOVING_MAX: usize = 4;

/// A host that was heard of within this time is up.
const UP: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy)]
pub struct StewardConfig {
    /// A device that is silent for so long is out: what it held is made anew elsewhere.
    pub out_after: Duration,
}

/// Runs on every member, and works on the leader.
pub struct Steward {
    meta: MetaHandle,
    beats: Beats,
    peers: Arc<NetPeers>,
    config: StewardConfig,
}

impl Steward {
    pub fn new(meta: MetaHandle, beats: Beats, peers: Arc<NetPeers>, config: StewardConfig) -> Self {
        Self { meta, beats, peers, config }
    }

    /// Works until the future is dropped.
    ///
    /// # Errors
    /// Where the metadata store is damaged or the member stops.
    pub async fn run(self) -> Result<(), MetaError> {
        let mut ticks = interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leading_since = None;
        loop {
            ticks.tick().await;
            let topology = self.meta.glance(&TopologyNow {})?;
            self.introduce(&topology);
            if !self.meta.leads() {
                leading_since = None;
                continue;
            }
            let since = *leading_since.get_or_insert_with(Instant::now);
            match self.round(&topology, since).await {
                Ok(()) => {}
                Err(error) if error.is_passing() => tracing::debug!(%error, "housekeeping is tried again"),
                Err(error) => return Err(error),
            }
        }
    }

    /// Members speak with all members, and with hosts that are about to become some.
    fn introduce(&self, topology: &Topology) {
        // A member that just joined knows nobody by itself: it was told from outside.
        if !topology.hosts.is_empty() {
            let status = self.meta.status();
            self.peers.set_from(topology, &[status.voters, status.learners].concat());
        }
    }

    async fn round(&self, topology: &Topology, leading_since: Instant) -> Result<(), MetaError> {
        // A state without hosts is not this cluster's.
        if topology.hosts.is_empty() {
            return Ok(());
        }
        self.raise_version(topology).await?;
        self.members(topology).await?;
        self.devices(topology, leading_since).await?;
        self.placement(topology).await
    }

    async fn command(&self, command: Command) -> Result<(), MetaError> {
        let outcome = self.meta.request(Request::idempotent(command)).await?;
        if let Err(rejection) = outcome.accepted() {
            tracing::debug!(%rejection, "a step of housekeeping came too late");
        }
        Ok(())
    }

    /// When every host understands it: members that do not could not apply what follows, gateways would misread what others
    /// write, and storage nodes look after packs.
    async fn raise_version(&self, topology: &Topology) -> Result<(), MetaError> {
        let version = self.meta.glance(&HeaderNow {})?.map_or(0, |header| header.cluster_version);
        let ready = |id: &HostId| self.beats.version(*id).is_some_and(|known| known >= CLUSTER_VERSION);
        let mut concerned = topology.hosts.iter().filter(|(_, host)| !host.revoked);
        if version < CLUSTER_VERSION && concerned.all(|(id, _)| ready(id)) {
            self.command(Command::RaiseClusterVersion { version: CLUSTER_VERSION }).await?;
        }
        Ok(())
    }

    /// Hosts that should vote and do not become learners, then voters; those that were revoked go.
    async fn members(&self, topology: &Topology) -> Result<(), MetaError> {
        let status = self.meta.status();
        let wanted: BTreeSet<u64> = topology.members().map(|(id, _)| id.0).collect();
        let up = |id: u64| self.beats.host(HostId(id)) < UP;
        let known = |id: &u64| status.voters.contains(id) || status.learners.contains(id);
        if let Some(ready) = status.caught_up.iter().find(|member| wanted.contains(&member.0) && up(member.0))
        {
            tracing::info!(member = ready.0, "a member has caught up, and votes from now on");
            return self.meta.change(MemberChange::Promote(*ready)).await;
        }
        if let Some(gone) = status.voters.iter().chain(&status.learners).find(|id| !wanted.contains(id)) {
            let heir = status.voters.iter().find(|id| wanted.contains(id) && up(**id));
            // The group needs somebody who votes, and somebody else who leads.
            let Some(heir) = heir else {
                tracing::error!(member = gone, "the last member that votes cannot be removed");
                return Ok(());
            };
            if status.leader.is_some_and(|leader| leader.0 == *gone) {
                return self.meta.transfer_leader(MemberId(*heir));
            }
            tracing::info!(member = gone, "a member is removed");
            return self.meta.change(MemberChange::Remove(MemberId(*gone))).await;
        }
        if let Some(fresh) = wanted.iter().find(|id| !known(id) && up(**id)) {
            tracing::info!(member = fresh, "a member joins as a learner");
            return self.meta.change(MemberChange::AddLearner(MemberId(*fresh))).await;
        }
        Ok(())
    }

    /// Devices that are silent for long are out; those that are heard of again serve.
    async fn devices(&self, topology: &Topology, leading_since: Instant) -> Result<(), MetaError> {
        for (id, device) in &topology.devices {
            let (silent, beat) = self.beats.device(*id);
            // What was said to members before this one led, it may not have heard.
            let silent = silent.min(leading_since.elapsed());
            let alive = beat.is_some_and(|beat| beat.incarnation == device.incarnation.as_bytes());
            match device.duty {
                Duty::Serving | Duty::Draining if silent > self.config.out_after => {
                    tracing::warn!(device = %id, ?silent, "a device is out: what it held is made anew elsewhere");
                    self.set_duty(*id, device.duty, Duty::Out).await?;
                }
                // Clearly: what is on the edge would come and go.
                Duty::Out if alive && silent < UP.min(self.config.out_after) / 2 => {
                    tracing::info!(device = %id, "a device that was out is back");
                    self.set_duty(*id, Duty::Out, Duty::Serving).await?;
                }
                Duty::Serving | Duty::Draining | Duty::Out | Duty::Removed => {}
            }
        }
        Ok(())
    }

    async fn set_duty(&self, id: DeviceId, was: Duty, duty: Duty) -> Result<(), MetaError> {
        self.command(match self.meta.cluster_version() {
            0..3 => Command::SetDuty { id, duty },
            _ => Command::ChangeDuty { id, was, duty },
        })
        .await
    }

    async fn placement(&self, topology: &Topology) -> Result<(), MetaError> {
        let devices: BTreeMap<DeviceId, Device> = topology.devices.iter().cloned().collect();
        let Plan { changes, stuck } = plan(topology);
        if let Some(text) = stuck.first() {
            tracing::debug!(%text, "a placement group cannot be whole");
        }
        let mut moving = topology.pgs.iter().filter(|(_, pg)| pg.previous.is_some()).count();
        for change in changes {
            let Some((_, pg)) = topology.pgs.iter().find(|(id, _)| *id == change.pg) else { continue };
            let gone = |id: &DeviceId| devices.get(id).is_none_or(|device| device.duty.is_gone());
            let urgent = pg.devices.iter().any(gone);
            if !urgent && moving >= MOVING_MAX {
                continue;
            }
            moving += 1;
            tracing::info!(pg = %change.pg, moves = change.reason, "a placement group moves");
            let command = Command::ReassignPg { pg: change.pg, epoch: pg.epoch, devices: change.devices };
            self.command(command).await?;
        }
        Ok(())
    }
}
