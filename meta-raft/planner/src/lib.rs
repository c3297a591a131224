//! Decides where placement groups live. Pure: it sees the topology and answers a table; another function holds any table
//! against the rules before it is proposed.
//!
//! Devices are chosen by weighted rendezvous hashing (Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit
//! Rates", 1998; weights as in Schindelhauer and Schomaker, 2005): a device's share is its weight's, and adding or losing
//! one moves only that share.

use holdfast_core::{
    ids::{DeviceId, Epoch, PgId},
    profile::Profile,
    topology::FailureDomain,
};
use holdfast_meta_raft_machine::records::{Device, Pg};
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
    if devices.len() < need {
        return Err(PlanError::TooFewDevices { have: devices.len(), need });
    }
    (0..count)
        .map(|number| {
            let pg = PgId(number);
            Ok((pg, Pg { epoch: Epoch(1), devices: choose(pg, profile, domain, devices)? }))
        })
        .collect()
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
    use holdfast_core::{ids::Incarnation, topology::Place};
    use proptest::prelude::*;

    fn devices(weights: &[u64], racks: usize) -> BTreeMap<DeviceId, Device> {
        let device = |(i, &weight): (usize, &u64)| {
            let place = Place { zone: "z".into(), rack: format!("r{}", i % racks), node: format!("n{i}") };
            (DeviceId(i as u32), Device { incarnation: Incarnation([i as u8; 16]), place, weight })
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

    #[test]
    fn a_lost_device_moves_only_its_own_shards() {
        let all = devices(&[10; 12], 12);
        let profile = Profile::new(4, 2).expect("a profile");
        let before = first_table(profile, FailureDomain::Device, &all, 200).expect("a table");
        let mut fewer = all.clone();
        fewer.remove(&DeviceId(5));
        let after = first_table(profile, FailureDomain::Device, &fewer, 200).expect("a table");
        for ((_, old), (_, new)) in before.iter().zip(&after) {
            let kept = old.devices.iter().filter(|device| new.devices.contains(device)).count();
            let lost = usize::from(old.devices.contains(&DeviceId(5)));
            assert_eq!(kept, profile.total() - lost);
        }
    }

    #[test]
    fn the_linter_sees_each_breach() {
        let devices = devices(&[1; 4], 1);
        let profile = Profile::new(2, 1).expect("a profile");
        let pg = |ids: &[u32]| Pg { epoch: Epoch(1), devices: ids.iter().map(|&id| DeviceId(id)).collect() };
        let table = [(PgId(0), pg(&[0, 0, 1])), (PgId(1), pg(&[0, 1])), (PgId(2), pg(&[0, 1, 9]))];
        let text = lint(profile, FailureDomain::Rack, &devices, &table).join("\n");
        for breach in
            ["device 0 twice", "has 2 devices", "device 9, which does not exist", "could not survive"]
        {
            assert!(text.contains(breach), "{breach}: {text}");
        }
    }
}
