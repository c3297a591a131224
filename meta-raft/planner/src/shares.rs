//! How many slots of a table each device should have: by weight, as far as the rules let it.
//!
//! A device has one slot of a group at most, and a failure domain `m`. What a device or domain cannot take goes to the
//! others by weight.

use holdfast_core::{ids::DeviceId, profile::Profile, topology::FailureDomain};
use holdfast_meta_raft_machine::records::{Device, Duty};
use std::collections::BTreeMap;

/// The shares of all devices that serve, for `groups` groups.
pub fn shares(
    profile: Profile,
    domain: FailureDomain,
    devices: &BTreeMap<DeviceId, Device>,
    groups: usize,
) -> BTreeMap<DeviceId, f64> {
    let serving = devices.iter().filter(|(_, device)| device.duty == Duty::Serving);
    let mut domains: BTreeMap<String, Vec<(DeviceId, f64)>> = BTreeMap::new();
    for (&id, device) in serving {
        domains.entry(domain.of(&device.place, id)).or_default().push((id, device.weight.max(1) as f64));
    }
    let groups = groups as f64;
    let weights: Vec<(f64, f64)> = domains
        .values()
        .map(|members| {
            let most = members.len().min(profile.parity()) as f64 * groups;
            (members.iter().map(|(_, weight)| weight).sum(), most)
        })
        .collect();
    let of_domains = fill(&weights, groups * profile.total() as f64);
    let mut shares = BTreeMap::new();
    for (members, share) in domains.values().zip(of_domains) {
        let weights: Vec<(f64, f64)> = members.iter().map(|(_, weight)| (*weight, groups)).collect();
        shares.extend(members.iter().map(|(id, _)| *id).zip(fill(&weights, share)));
    }
    shares
}

/// Divides `total` by weight among takers of (weight, the most they take).
fn fill(takers: &[(f64, f64)], total: f64) -> Vec<f64> {
    let mut given: Vec<Option<f64>> = vec![None; takers.len()];
    loop {
        let open = || takers.iter().zip(&given).filter(|(_, given)| given.is_none());
        let left = total - given.iter().flatten().sum::<f64>();
        let weight: f64 = open().map(|((weight, _), _)| weight).sum();
        if weight <= 0.0 {
            break;
        }
        let over: Vec<usize> = (0..takers.len())
            .filter(|&i| given[i].is_none() && left * takers[i].0 / weight > takers[i].1)
            .collect();
        if over.is_empty() {
            for (i, (own, _)) in takers.iter().enumerate() {
                given[i].get_or_insert(left * own / weight);
            }
            break;
        }
        over.into_iter().for_each(|i| given[i] = Some(takers[i].1));
    }
    given.into_iter().map(Option::unwrap_or_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_cannot_take_goes_to_the_others() {
        assert_eq!(fill(&[(1.0, 9.0), (1.0, 9.0), (2.0, 9.0)], 8.0), [2.0, 2.0, 4.0]);
        assert_eq!(fill(&[(1.0, 9.0), (1.0, 9.0), (2.0, 3.0)], 8.0), [2.5, 2.5, 3.0]);
        assert_eq!(fill(&[(1.0, 1.0)], 8.0), [1.0]);
    }
}
