//! Decides where placement groups live. Pure: it sees the topology and answers a table; another function holds any table
//! against the rules before it is proposed.
//!
//! Devices are chosen by weighted rendezvous hashing (Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit
//! Rates", 1998; weights as in Schindelhauer and Schomaker, 2005): a device's share is its weight's, and adding or losing
//! one moves only that share.

mod change;
pub mod durability;
mod shares;

pub use change::{Change, Plan, change, plan};

use holdfast_core::{
    ids::{DeviceId, Epoch, PgId},
    profile::Profile,
    topology::FailureDomain,
};
use holdfast_meta_raft_machine::records::{Device, Duty, Pg};
use std::collections::BTreeMap;

/// Why no table can be made, in words for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanError {
    /// Fewer devices than shards.
    TooFewDevices { have: usize, need: usize },
    /// A group would have to put more than `m` shards into one failure domain.
    TooFewDomains { domain: FailureDomain, have: usize, need: usize },
}

impl std::fmt::Display for PlanError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooFewDevices { have, need } => {
                write!(
                    f,
                    "the profile needs {need} devices, and there are {have}: add devices or choose a narrower profile"
                )
            }
            Self::TooFewDomains { domain, have, need } => {
                write!(
                    f,
                    "to survive the loss of one {domain:?} the profile needs {need} of them, and there are {have}"
                )
            }
        }
    }
}

impl std::error::Error for PlanError {}

/// Makes the first table: `count` groups of `profile.total()` devices each.
///
/// # Errors
/// Where the devices cannot carry the profile.
pub fn first_table(
    profile: Profile,
    domain: FailureDomain,
    devices: &BTreeMap<DeviceId, Device>,
    count: u32,
) -> Result<Vec<(PgId, Pg)>, PlanError> {
    let need = profile.total();
    let serving = devices.iter().filter(|(_, device)| device.duty == Duty::Serving);
    let serving: BTreeMap<DeviceId, Device> = serving.map(|(id, device)| (*id, device.clone())).collect();
    if serving.len() < need {
        return Err(PlanError::TooFewDevices { have: serving.len(), need });
    }
    let mut table: Vec<(PgId, Pg)> = (0..count)
        .map(|number| {
            let pg = PgId(number);
            let devices = choose(pg, profile, domain, &serving)?;
            Ok((pg, Pg { epoch: Epoch(1), devices, previous: None, older: Vec::new() }))
        })
        .collect::<Result<_, PlanError>>()?;
    // Chance leaves some devices with more than their share of so few groups.
    for Change { pg, devices, .. } in change(profile, domain, &serving, &table).changes {
        if let Ok(at) = table.binary_search_by_key(&pg, |(id, _)| *id) {
            table[at].1.devices = devices;
        }
    }
    Ok(table)
}

/// The devices of one group, the best score first, with at most `m` in a domain.
fn choose(
    pg: PgId,
    profile: Profile,
    domain: FailureDomain,
    devices: &BTreeMap<DeviceId, Device>,
) -> Result<Vec<DeviceId>, PlanError> {
    let mut ranked: Vec<(f64, DeviceId)> =
        devices.iter().map(|(&id, device)| (score(pg, id, device.weight), id)).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    let mut chosen = Vec::with_capacity(profile.total());
    for (_, id) in ranked {
        let in_domain = taken.entry(domain.of(&devices[&id].place, id)).or_default();
        if *in_domain < profile.parity() && chosen.len() < profile.total() {
            *in_domain += 1;
            chosen.push(id);
        }
    }
    if chosen.len() < profile.total() {
        let need = profile.total().div_ceil(profile.parity());
        return Err(PlanError::TooFewDomains { domain, have: taken.len(), need });
    }
    Ok(chosen)
}

/// A device's claim on a group: exponential variates whose rates are the weights, so that the highest are a sample by
/// weight.
fn score(pg: PgId, device: DeviceId, weight: u64) -> f64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"holdfast placement 1").update(&pg.0.to_be_bytes()).update(&device.0.to_be_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    // 53 bits, never 0 and never 1.
    let uniform = ((u64::from_le_bytes(bytes) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    weight.max(1) as f64 / -uniform.ln()
}

/// Holds a table against the rules; every breach in words.
pub fn lint(
    profile: Profile,
    domain: FailureDomain,
    devices: &BTreeMap<DeviceId, Device>,
    table: &[(PgId, Pg)],
) -> Vec<String> {
    let mut breaches = Vec::new();
    for (id, pg) in table {
        let mut domains: BTreeMap<String, usize> = BTreeMap::new();
        let mut seen = std::collections::BTreeSet::new();
        for device in &pg.devices {
            match devices.get(device) {
                Some(record) => *domains.entry(domain.of(&record.place, *device)).or_default() += 1,
                None => breaches.push(format!("group {id} names device {device}, which does not exist")),
            }
            if !seen.insert(device) {
                breaches.push(format!("group {id} names device {device} twice"));
            }
        }
        if pg.devices.len() != profile.total() {
            breaches.push(format!(
                "group {id} has {} devices, the profile {profile} needs {}",
                pg.devices.len(),
                profile.total()
            ));
        }
        for (name, shards) in domains.iter().filter(|(_, shards)| **shards > profile.parity()) {
            breaches
                .push(format!("group {id} has {shards} shards in {name}, whose loss it could not survive"));
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::{
        ids::{HostId, Incarnation},
        topology::Place,
    };
    use holdfast_meta_raft_machine::records::{DeviceSpec, Previous};
    use proptest::prelude::*;

    fn devices(weights: &[u64], racks: usize) -> BTreeMap<DeviceId, Device> {
        let device = |(i, &weight): (usize, &u64)| {
            let place = Place { zone: "z".into(), rack: format!("r{}", i % racks), node: format!("n{i}") };
            let spec = DeviceSpec { incarnation: Incarnation([i as u8; 16]), place, weight };
            (DeviceId(i as u32), spec.on(HostId(i as u64)))
        };
        weights.iter().enumerate().map(device).collect()
    }

    proptest! {
        #[test]
        fn every_table_keeps_the_rules_or_is_refused(
            weights in proptest::collection::vec(1u64..100, 1..20), racks in 1usize..6, k in 1usize..8, m in 1usize..4,
        ) {
            let profile = Profile::new(k, m).expect("a profile");
            let devices = devices(&weights, racks);
            match first_table(profile, FailureDomain::Rack, &devices, 16) {
                Ok(table) => prop_assert_eq!(lint(profile, FailureDomain::Rack, &devices, &table), Vec::<String>::new()),
                Err(PlanError::TooFewDevices { have, need }) => prop_assert!(have < need),
                Err(PlanError::TooFewDomains { .. }) => {
                    let room: usize = (0..racks).map(|rack| {
                        devices.values().filter(|d| d.place.rack == format!("r{rack}")).count().min(m)
                    }).sum();
                    prop_assert!(room < profile.total());
                }
            }
        }
    }

    #[test]
    fn shares_follow_weights() {
        let devices = devices(&[1, 1, 1, 1, 2, 2, 2, 2], 8);
        let profile = Profile::new(1, 1).expect("a profile");
        let table = first_table(profile, FailureDomain::Device, &devices, 4000).expect("a table");
        let mut first = BTreeMap::new();
        table.iter().for_each(|(_, pg)| *first.entry(pg.devices[0]).or_insert(0u32) += 1);
        let light: u32 = (0..4).map(|i| first[&DeviceId(i)]).sum();
        let share = f64::from(light) / 4000.0;
        assert!((share - 1.0 / 3.0).abs() < 0.03, "the lighter half has {share}");
    }

    fn apply(table: &mut [(PgId, Pg)], plan: &Plan) -> usize {
        let mut moved = 0;
        for change in &plan.changes {
            let at = table.iter().position(|(id, _)| *id == change.pg).expect("a known group");
            moved += table[at].1.devices.iter().zip(&change.devices).filter(|(old, new)| old != new).count();
            table[at].1.devices.clone_from(&change.devices);
        }
        moved
    }

    fn load(table: &[(PgId, Pg)]) -> BTreeMap<DeviceId, usize> {
        let mut load = BTreeMap::new();
        table.iter().flat_map(|(_, pg)| &pg.devices).for_each(|id| *load.entry(*id).or_default() += 1);
        load
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever comes, goes and changes its weight: the rules hold, no device is further from its share than the
        /// rules and whole slots make it, and what moves is what has to.
        #[test]
        fn changes_keep_the_rules_balance_and_move_little(
            mut weights in proptest::collection::vec(4u64..12, 9..16),
            events in proptest::collection::vec((0u8..4, any::<u8>(), 4u64..12), 1..6),
        ) {
            let profile = Profile::new(4, 2).expect("a profile");
            let domain = FailureDomain::Node;
            let mut all = devices(&weights, 4);
            let mut table = first_table(profile, domain, &all, 128).expect("enough devices");
            for (event, which, weight) in events {
                let before: BTreeMap<DeviceId, f64> = shares::shares(profile, domain, &all, 128);
                let serving: Vec<DeviceId> = before.keys().copied().collect();
                let victim = serving[usize::from(which) % serving.len()];
                match event {
                    0 => {
                        weights.push(weight);
                        all.extend(devices(&weights, 4).into_iter().skip(weights.len() - 1));
                    }
                    1 if serving.len() > 7 => all.get_mut(&victim).expect("a device").duty = Duty::Out,
                    2 if serving.len() > 7 => all.get_mut(&victim).expect("a device").duty = Duty::Draining,
                    _ => all.get_mut(&victim).expect("a device").weight = weight,
                }
                let after = shares::shares(profile, domain, &all, 128);
                // What must move at least: what each device should have more than it has.
                let had = load(&table);
                let least: f64 = after
                    .iter()
                    .map(|(id, share)| (share - had.get(id).copied().unwrap_or(0) as f64).max(0.0))
                    .sum();
                let plan = change(profile, domain, &all, &table);
                prop_assert_eq!(&plan.stuck, &Vec::<String>::new());
                let moved = apply(&mut table, &plan);
                prop_assert_eq!(lint(profile, domain, &all, &table), Vec::<String>::new());
                prop_assert!(moved as f64 <= least * 1.2 + after.len() as f64, "{} moved, {} needed", moved, least);
                for (id, share) in &after {
                    let load = load(&table).get(id).copied().unwrap_or(0) as f64;
                    prop_assert!((load - share).abs() <= (share * 0.1).max(1.5), "{}: {} for {}", id, load, share);
                }
                let leaving = load(&table).into_keys().filter(|id| all[id].duty != Duty::Serving).count();
                prop_assert_eq!(leaving, 0);
                prop_assert_eq!(change(profile, domain, &all, &table), Plan::default());
            }
        }
    }

    #[test]
    fn a_move_to_a_device_that_is_gone_is_given_another_target() {
        let mut all = devices(&[1; 9], 9);
        let profile = Profile::new(4, 2).expect("a profile");
        let mut table = first_table(profile, FailureDomain::Node, &all, 1).expect("a table");
        let (moving, target) = (table[0].1.devices.clone(), table[0].1.devices[2]);
        table[0].1.previous = Some(Previous { since: Epoch(2), devices: moving });
        all.get_mut(&target).expect("a device").duty = Duty::Draining;
        assert_eq!(
            change(profile, FailureDomain::Node, &all, &table),
            Plan::default(),
            "it moves, and waits"
        );
        all.get_mut(&target).expect("a device").duty = Duty::Out;
        let plan = change(profile, FailureDomain::Node, &all, &table);
        assert_eq!(plan.changes.len(), 1);
        let kept = plan.changes[0].devices.iter().filter(|id| table[0].1.devices.contains(id)).count();
        assert!(kept == 5 && !plan.changes[0].devices.contains(&target), "{plan:?}");
    }

    #[test]
    fn a_device_that_leaves_the_pool_is_replaced_once_its_group_has_moved() {
        let mut all = devices(&[1; 9], 9);
        let profile = Profile::new(4, 2).expect("a profile");
        let mut table = first_table(profile, FailureDomain::Node, &all, 1).expect("a table");
        let leaving = table[0].1.devices[2];
        table[0].1.previous = Some(Previous { since: Epoch(2), devices: table[0].1.devices.clone() });
        // It has another class now, and still serves what it has.
        all.remove(&leaving);
        assert_eq!(change(profile, FailureDomain::Node, &all, &table), Plan::default());
        table[0].1.previous = None;
        let plan = change(profile, FailureDomain::Node, &all, &table);
        assert!(plan.changes.len() == 1 && !plan.changes[0].devices.contains(&leaving), "{plan:?}");
    }

    #[test]
    fn what_nobody_may_take_is_said() {
        let mut all = devices(&[1; 6], 3);
        let profile = Profile::new(4, 2).expect("a profile");
        let table = first_table(profile, FailureDomain::Rack, &all, 4).expect("a table");
        all.get_mut(&DeviceId(2)).expect("a device").duty = Duty::Out;
        let plan = change(profile, FailureDomain::Rack, &all, &table);
        assert_eq!((plan.changes.len(), plan.stuck.len()), (0, 4));
        assert!(plan.stuck[0].contains("device 2 (it is out): add one in another rack"), "{:?}", plan.stuck);
    }

    #[test]
    fn the_linter_sees_each_breach() {
        let devices = devices(&[1; 4], 1);
        let profile = Profile::new(2, 1).expect("a profile");
        let pg = |ids: &[u32]| Pg {
            epoch: Epoch(1),
            devices: ids.iter().map(|&id| DeviceId(id)).collect(),
            previous: None,
            older: Vec::new(),
        };
        let table = [(PgId(0), pg(&[0, 0, 1])), (PgId(1), pg(&[0, 1])), (PgId(2), pg(&[0, 1, 9]))];
        let text = lint(profile, FailureDomain::Rack, &devices, &table).join("\n");
        for breach in
            ["device 0 twice", "has 2 devices", "device 9, which does not exist", "could not survive"]
        {
            assert!(text.contains(breach), "{breach}: {text}");
        }
    }
}
