//! How durable data is, computed: nines are `-log10(P(an object is lost within a year))`.
//!
//! Two models of one group of `n` shards, of which any `m` may be lost, on devices that fail at an annual rate `lambda` and are
//! made anew within `tau` years: the fixed window (as Backblaze computes it), and the Markov chain of losses and repairs,
//! solved exactly for the mean time to data loss (as in Angus, "On computing MTBF for a k-out-of-n:G repairable system",
//! 1988). A year has 365 days.

/// Hours in a year.
pub const YEAR_HOURS: f64 = 8760.0;

/// How lost shards are made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// All at once.
    Parallel,
    /// One after another.
    Serial,
}

/// `n` shards, of which any `m` may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    pub n: u32,
    pub m: u32,
}

fn choose(n: u32, k: u32) -> f64 {
    (0..k).map(|i| f64::from(n - i) / f64::from(i + 1)).product()
}

/// Over many chances, the chance that it happens at all.
fn any(chance: f64, chances: f64) -> f64 {
    -(chances * (-chance).ln_1p()).exp_m1()
}

/// The chance that more than `m` of a group's shards are bad, each with the chance `p`.
pub fn more_than_m_bad(group: Group, p: f64) -> f64 {
    let term = |j: u32| choose(group.n, j) * p.powi(j as i32) * (1.0 - p).powi((group.n - j) as i32);
    (group.m + 1..=group.n).map(term).sum()
}

/// Yearly loss of a group by the fixed window: a year is so many windows of `tau` years, each of which starts whole.
pub fn window_loss(group: Group, lambda: f64, tau: f64) -> f64 {
    let failed = -(-lambda * tau).exp_m1();
    any(more_than_m_bad(group, failed), 1.0 / tau)
}

/// Mean time to data loss by the Markov chain, in the unit of `tau` and `1 / lambda`.
pub fn mean_time_to_loss(group: Group, lambda: f64, tau: f64, repair: Repair) -> f64 {
    let (mut sum, mut before) = (0.0, 0.0);
    for lost in 0..=group.m {
        let failures = f64::from(group.n - lost) * lambda;
        let repairs = match (lost, repair) {
            (0, _) => 0.0,
            (lost, Repair::Parallel) => f64::from(lost) / tau,
            (_, Repair::Serial) => 1.0 / tau,
        };
        before = (1.0 + repairs * before) / failures;
        sum += before;
    }
    sum
}

/// Yearly loss of a group by the Markov chain.
pub fn chain_loss(group: Group, lambda: f64, tau: f64, repair: Repair) -> f64 {
    -(-1.0 / mean_time_to_loss(group, lambda, tau, repair)).exp_m1()
}

/// The chance that a shard is bad at an instant: its device failed within the window, or it rotted since it was last read.
pub fn bad_shard(lambda: f64, tau: f64, latent: f64, scrub_period: f64) -> f64 {
    (lambda * tau + latent * scrub_period / 2.0).min(1.0)
}

/// The chance of any loss where `failed` of `nodes` are gone at once, and the data is in `groups` random sets of nodes.
pub fn copyset_loss(nodes: u32, failed: u32, group: Group, groups: f64) -> f64 {
    let hit = |j: u32| choose(failed, j) * choose(nodes - failed, group.n - j) / choose(nodes, group.n);
    any((group.m + 1..=group.n).map(hit).sum(), groups)
}

/// The chance that an object of so many packs loses one of them, where a group is lost with the chance `loss`.
pub fn object_loss(loss: f64, packs: u32, groups: u32) -> f64 {
    any(loss, f64::from(packs.min(groups)))
}

/// Yearly loss of everything, where `voters` copies of the metadata are replaced within `tau` years.
pub fn metadata_loss(voters: u32, lambda: f64, tau: f64) -> f64 {
    chain_loss(Group { n: voters, m: voters.saturating_sub(1) }, lambda, tau, Repair::Parallel)
}

/// The longest window, in hours, with which a group's yearly loss stays below `target`.
pub fn longest_window_hours(group: Group, lambda: f64, target: f64, repair: Repair) -> f64 {
    let (mut low, mut high) = (1e-9f64, 10.0f64);
    for _ in 0..200 {
        let middle = (low * high).sqrt();
        if chain_loss(group, lambda, middle, repair) <= target {
            low = middle;
        } else {
            high = middle;
        }
    }
    low * YEAR_HOURS
}

/// The nines of a yearly loss.
pub fn nines(loss: f64) -> f64 {
    -loss.log10()
}

/// What a cluster's durability is computed from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Inputs {
    pub group: Group,
    pub groups: u32,
    /// Annual failure rate of a device.
    pub afr: f64,
    /// Hours until a failed device is given up.
    pub detect_hours: f64,
    /// Hours to make anew what a device held.
    pub rebuild_hours: f64,
    /// Shards of a device that rot, as a part of them, a year.
    pub latent: f64,
    pub scrub_hours: f64,
    /// Packs of the object that is asked about.
    pub packs: u32,
    pub voters: u32,
    /// Hours until a lost member is replaced.
    pub replace_hours: f64,
}

/// Yearly losses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Durability {
    /// Of an object's shards, by the worse of both models.
    pub object: f64,
    /// Of all metadata.
    pub metadata: f64,
}

impl Durability {
    /// An object is lost with its shards or with its record.
    pub fn loss(&self) -> f64 {
        1.0 - (1.0 - self.object) * (1.0 - self.metadata)
    }
}

impl Inputs {
    /// The window in which a lost shard is missing, in years.
    pub fn tau(&self) -> f64 {
        (self.detect_hours + self.rebuild_hours) / YEAR_HOURS
    }

    pub fn durability(&self) -> Durability {
        let tau = self.tau();
        let chain = chain_loss(self.group, self.afr, tau, Repair::Parallel);
        let bad = bad_shard(self.afr, tau, self.latent, self.scrub_hours / YEAR_HOURS);
        let window = any(more_than_m_bad(self.group, bad), 1.0 / tau);
        let object = object_loss(chain.max(window), self.packs, self.groups);
        Durability { object, metadata: metadata_loss(self.voters, self.afr, self.replace_hours / YEAR_HOURS) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: f64 = 1.0 / 365.0;

    fn near(value: f64, expected: f64, part: f64) {
        assert!((value / expected - 1.0).abs() < part, "{value} is not {expected}");
    }

    #[test]
    fn the_fixed_window_gives_the_published_figures() {
        let group = Group { n: 20, m: 3 };
        near(window_loss(group, 0.00405, 6.5 * DAY), 7.354e-12, 1e-4);
        assert_eq!((nines(window_loss(group, 0.0136, 6.5 * DAY)) * 100.0).round(), 903.0);
    }

    #[test]
    fn the_chain_is_exact() {
        let hours = mean_time_to_loss(Group { n: 8, m: 1 }, 1e-5, 24.0, Repair::Serial);
        near(hours, 7_467_261.904_761_905, 1e-12);
    }

    #[test]
    fn the_models_differ_by_what_theory_says() {
        for (group, parallel, serial) in
            [(Group { n: 20, m: 3 }, 3.997, 23.96), (Group { n: 6, m: 2 }, 3.000, 5.999)]
        {
            let (lambda, tau) = (0.00405, 6.5 * DAY);
            let window = window_loss(group, lambda, tau);
            let ratio = |repair| chain_loss(group, lambda, tau, repair) / window;
            near(ratio(Repair::Parallel), parallel, 1e-3);
            near(ratio(Repair::Serial), serial, 1e-3);
        }
    }

    #[test]
    fn random_sets_of_nodes_lose_what_was_published() {
        let group = Group { n: 3, m: 2 };
        for (groups, percent) in [(1666.0, 0.157), (275_000.0, 22.81), (8333.0, 0.781)] {
            near(copyset_loss(5000, 50, group, groups) * 100.0, percent, 2e-3);
        }
    }

    #[test]
    fn the_longest_windows_are_those_of_the_table() {
        let groups = [(3, 2), (6, 2), (9, 3), (12, 4), (20, 3)].map(|(n, m)| Group { n, m });
        let first = [(10.1, 7.1), (2.2, 1.6), (73.0, 40.0), (424.0, 191.0), (21.6, 11.9)];
        let second = [(1.4, 1.0), (0.3, 0.2), (12.9, 7.1), (83.0, 38.0), (3.8, 2.1)];
        for (afr, table) in [(0.0136, first), (0.05, second)] {
            for (group, (parallel, serial)) in groups.iter().zip(table) {
                for (repair, hours) in [(Repair::Parallel, parallel), (Repair::Serial, serial)] {
                    let longest = longest_window_hours(*group, afr, 1e-11, repair);
                    // The table gives two or three digits.
                    assert!(
                        (longest - hours).abs() <= f64::max(0.06, hours * 0.015),
                        "{longest} is not {hours}"
                    );
                }
            }
        }
    }

    #[test]
    fn metadata_is_as_durable_as_its_members() {
        assert_eq!((nines(metadata_loss(3, 0.0136, DAY)) * 10.0).round(), 102.0);
        assert_eq!((nines(metadata_loss(5, 0.0136, DAY)) * 10.0).round(), 189.0);
    }

    /// Azure's local reconstruction code (6, 2, 2): two groups of three data and one local parity, two global parities.
    #[test]
    fn a_locally_repairable_code_decodes_what_was_published() {
        let (mut all, mut decoded) = (0, 0);
        for pattern in (0u32..1 << 10).filter(|pattern| pattern.count_ones() == 4) {
            let failed = |mask: u32| (pattern & mask).count_ones();
            let beyond = |mask: u32| failed(mask).saturating_sub(1);
            all += 1;
            decoded += u32::from(beyond(0b1111) + beyond(0b1111_0000) + failed(0b11_0000_0000) <= 2);
        }
        assert_eq!((f64::from(decoded) / f64::from(all) * 100.0).round(), 86.0);
    }

    /// Splitmix64 (Steele et al., 2014), as numbers between 0 and 1.
    struct Chance(u64);

    impl Chance {
        fn next(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        }

        /// Until something happens that does at `rate`.
        fn wait(&mut self, rate: f64) -> f64 {
            -(1.0 - self.next()).ln() / rate
        }
    }

    /// Where loss is frequent, simulated failures and repairs agree with the chain.
    #[test]
    fn simulated_events_agree_with_the_chain() {
        let mut chance = Chance(1);
        for (group, lambda) in
            [(Group { n: 6, m: 2 }, 5.0), (Group { n: 9, m: 3 }, 20.0), (Group { n: 3, m: 2 }, 50.0)]
        {
            for repair in [Repair::Parallel, Repair::Serial] {
                let (tau, runs) = (0.01, 4000);
                let mut total = 0.0;
                for _ in 0..runs {
                    let mut lost = 0;
                    while lost <= group.m {
                        let failures = f64::from(group.n - lost) * lambda;
                        let at_once =
                            if repair == Repair::Parallel { f64::from(lost) } else { f64::from(lost.min(1)) };
                        let repairs = at_once / tau;
                        total += chance.wait(failures + repairs);
                        if chance.next() * (failures + repairs) < failures { lost += 1 } else { lost -= 1 }
                    }
                }
                near(total / f64::from(runs), mean_time_to_loss(group, lambda, tau, repair), 0.08);
            }
        }
    }

    #[test]
    fn what_is_claimed_is_the_worse_of_all() {
        let inputs = Inputs {
            group: Group { n: 6, m: 2 },
            groups: 64,
            afr: 0.0136,
            detect_hours: 0.2,
            rebuild_hours: 1.0,
            latent: 0.0,
            scrub_hours: 336.0,
            packs: 1,
            voters: 3,
            replace_hours: 24.0,
        };
        let honest = inputs.durability();
        assert!(nines(honest.object) > 11.0 && nines(honest.loss()) < 10.3, "the metadata carries less");
        let rotten = Inputs { latent: 0.01, ..inputs }.durability();
        assert!(rotten.object > honest.object);
        let large = Inputs { packs: 1000, ..inputs }.durability();
        near(large.object, honest.object * 64.0, 1e-3);
    }
}
