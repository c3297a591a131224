//! Changing a table: who takes over from devices that leave, and what moves to those that came.
//!
//! Slots of leaving devices go to whoever is furthest below its share. Then slots move, one by one, from the device
//! furthest above its share to one below, as long as that brings both nearer. Nothing else moves, so that adding or
//! losing a device moves its share and hardly more.

use crate::{score, shares::shares};
use holdfast_core::{
    ids::{DeviceId, PgId},
    profile::Profile,
    topology::FailureDomain,
};
use holdfast_meta_raft_machine::{
    ask::{PoolShown, Topology},
    records::{Device, Duty, Pg},
};
use std::collections::BTreeMap;

/// What is to be done, and what cannot be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Groups that get other devices, with why.
    pub changes: Vec<Change>,
    /// What no device can take over, in words for the operator.
    pub stuck: Vec<String>,
}

/// New devices for one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub pg: PgId,
    pub devices: Vec<DeviceId>,
    pub reason: String,
}

/// Plans the next changes of all pools.
pub fn plan(topology: &Topology) -> Plan {
    let of_pool = |of: PoolShown<'_>| change(of.pool.profile, of.pool.domain, &of.devices, of.groups);
    topology.pools().map(of_pool).fold(Plan::default(), |mut all, plan| {
        all.changes.extend(plan.changes);
        all.stuck.extend(plan.stuck);
        all
    })
}

/// Plans the next changes of `table`. Groups that move already are counted where they move to, and left alone unless what
/// they move to is gone.
pub fn change(
    profile: Profile,
    domain: FailureDomain,
    devices: &BTreeMap<DeviceId, Device>,
    table: &[(PgId, Pg)],
) -> Plan {
    let mut work = Work::new(profile, domain, devices, table);
    let mut plan = Plan::default();
    for (at, (_, pg)) in table.iter().enumerate() {
        work.replace_leaving(at, pg.previous.is_some(), &mut plan);
    }
    work.balance();
    for (at, (pg, before)) in table.iter().enumerate() {
        let after = &work.table[at];
        if *after == before.devices {
            continue;
        }
        let moved = before.devices.iter().zip(after).filter(|(old, new)| old != new);
        let moves: Vec<String> =
            moved.map(|(old, new)| format!("{old} -> {new} ({})", work.why(*old))).collect();
        plan.changes.push(Change { pg: *pg, devices: after.clone(), reason: moves.join(", ") });
    }
    plan
}

struct Work<'a> {
    profile: Profile,
    domain: FailureDomain,
    devices: &'a BTreeMap<DeviceId, Device>,
    /// Slots that each device should have.
    share: BTreeMap<DeviceId, f64>,
    load: BTreeMap<DeviceId, usize>,
    table: Vec<Vec<DeviceId>>,
    ids: Vec<PgId>,
    moving: Vec<bool>,
}

impl<'a> Work<'a> {
    fn new(
        profile: Profile,
        domain: FailureDomain,
        devices: &'a BTreeMap<DeviceId, Device>,
        table: &[(PgId, Pg)],
    ) -> Self {
        let mut load = BTreeMap::new();
        for device in table.iter().flat_map(|(_, pg)| &pg.devices) {
            *load.entry(*device).or_default() += 1;
        }
        Self {
            profile,
            domain,
            devices,
            share: shares(profile, domain, devices, table.len()),
            load,
            table: table.iter().map(|(_, pg)| pg.devices.clone()).collect(),
            ids: table.iter().map(|(id, _)| *id).collect(),
            moving: table.iter().map(|(_, pg)| pg.previous.is_some()).collect(),
        }
    }

    fn serves(&self, id: DeviceId) -> bool {
        self.share.contains_key(&id)
    }

    fn why(&self, old: DeviceId) -> &'static str {
        match self.devices.get(&old).map(|device| device.duty) {
            None => "it is not the pool's",
            Some(Duty::Out) => "it is out",
            Some(Duty::Removed) => "it was removed",
            Some(Duty::Draining) => "it is draining",
            Some(Duty::Serving) => "it holds more than its share",
        }
    }

    /// How far a device is above its share, with `more` slots.
    fn excess(&self, id: DeviceId, more: f64) -> f64 {
        let load = self.load.get(&id).copied().unwrap_or(0) as f64;
        load + more - self.share.get(&id).copied().unwrap_or(0.0)
    }

    fn domain_of(&self, id: DeviceId) -> Option<String> {
        self.devices.get(&id).map(|device| self.domain.of(&device.place, id))
    }

    /// Whether slot `slot` of group `at` may go to `to`.
    fn allowed(&self, at: usize, slot: usize, to: DeviceId) -> bool {
        let target = self.domain_of(to);
        let others = self.table[at].iter().enumerate().filter(|(other, _)| *other != slot);
        let mut together = 0;
        for (_, other) in others {
            if *other == to {
                return false;
            }
            together += usize::from(self.domain_of(*other) == target);
        }
        together < self.profile.parity()
    }

    fn give(&mut self, at: usize, slot: usize, to: DeviceId) {
        let from = std::mem::replace(&mut self.table[at][slot], to);
        if let Some(load) = self.load.get_mut(&from) {
            *load -= 1;
        }
        *self.load.entry(to).or_default() += 1;
    }

    /// Gives slots of leaving devices to others; of a group that moves, only those of devices that are gone.
    fn replace_leaving(&mut self, at: usize, moving: bool, plan: &mut Plan) {
        for slot in 0..self.table[at].len() {
            let old = self.table[at][slot];
            // Also what is of another pool now still serves what it has.
            let waits = self.devices.get(&old).is_none_or(|device| device.duty == Duty::Draining);
            if self.serves(old) || (moving && waits) {
                continue;
            }
            let candidates = self.share.keys().copied().filter(|id| self.allowed(at, slot, *id));
            let best = candidates.min_by(|a, b| {
                let fill = |id: DeviceId| self.excess(id, 1.0) / self.share[&id].max(1.0);
                // Among equals the one that the group hashes to: spreads who shares groups with whom.
                let weight = |id: DeviceId| score(self.ids[at], id, 1);
                fill(*a).total_cmp(&fill(*b)).then(weight(*b).total_cmp(&weight(*a)))
            });
            match best {
                Some(to) => self.give(at, slot, to),
                None => plan.stuck.push(format!(
                    "group {}: no device may take over from device {old} ({}): add one in another {}",
                    self.ids[at],
                    self.why(old),
                    self.domain
                )),
            }
        }
    }

    /// Moves slots until no move brings two devices nearer to their shares.
    fn balance(&mut self) {
        while let Some((at, slot, to)) = self.best_move() {
            self.give(at, slot, to);
        }
    }

    fn best_move(&self) -> Option<(usize, usize, DeviceId)> {
        let mut full: Vec<DeviceId> =
            self.share.keys().copied().filter(|id| self.excess(*id, 0.0) > 0.0).collect();
        full.sort_by(|a, b| self.excess(*b, 0.0).total_cmp(&self.excess(*a, 0.0)));
        let mut empty: Vec<DeviceId> =
            self.share.keys().copied().filter(|id| self.excess(*id, 0.0) < 0.0).collect();
        empty.sort_by(|a, b| self.excess(*a, 0.0).total_cmp(&self.excess(*b, 0.0)));
        for from in &full {
            for to in &empty {
                // Both come nearer only where they are more than one slot apart.
                if self.excess(*from, 0.0) - self.excess(*to, 0.0) <= 1.0 + 1e-9 {
                    break;
                }
                let found = (0..self.table.len()).filter(|at| !self.moving[*at]).find_map(|at| {
                    let slot = self.table[at].iter().position(|id| id == from)?;
                    self.allowed(at, slot, *to).then_some((at, slot, *to))
                });
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }
}
