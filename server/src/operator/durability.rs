//! How durable the running cluster is, from its own figures, and what would change that.

use super::{Operator, show::bytes, show::say};
use crate::system::SystemError;
use holdfast_core::profile::Profile;
use holdfast_meta_raft_machine::ask::Topology;
use holdfast_meta_raft_planner::durability::{Durability, Group, Inputs, nines};
use holdfast_proto::HealthNow;
use serde_json::json;

/// Disks' annual failure rate, of a large fleet in 2025.
const AFR: f64 = 0.0136;

/// Bytes a second at which a lost device is made anew, until a rebuild has shown better.
const REBUILD_BYTES_A_SECOND: f64 = 50e6;

/// What is reckoned for a device that holds nothing yet.
const LIVE_LEAST: u64 = 1 << 40;

/// Hours until a device is given up, a metadata member replaced, and between two readings of a shard.
const DETECT_HOURS: f64 = 1.0 / 6.0;
const REPLACE_HOURS: f64 = 24.0;
const SCRUB_HOURS: f64 = 14.0 * 24.0;

/// What durability is computed from: measured, or assumed, or asked for.
#[derive(Debug, Clone, Copy)]
struct Figures {
    inputs: Inputs,
    live: u64,
    rate: f64,
}

fn group_of(profile: Profile) -> Group {
    Group { n: profile.total() as u32, m: profile.parity() as u32 }
}

impl Figures {
    fn of(topology: &Topology, health: &HealthNow) -> Option<Self> {
        let pool = topology.pool.as_ref()?;
        let live = health.devices.iter().filter_map(|device| Some(device.beat.as_ref()?.live)).max();
        let live = live.unwrap_or(0).max(LIVE_LEAST);
        Some(Self::assumed(pool.profile, pool.pg_count, health.voters.len() as u32, live))
    }

    /// What is measured, with what is assumed.
    fn assumed(profile: Profile, groups: u32, voters: u32, live: u64) -> Self {
        let inputs = Inputs {
            group: group_of(profile),
            groups,
            afr: AFR,
            detect_hours: DETECT_HOURS,
            rebuild_hours: 0.0,
            latent: 0.0,
            scrub_hours: SCRUB_HOURS,
            packs: 1,
            voters,
            replace_hours: REPLACE_HOURS,
        };
        Self { inputs, live, rate: REBUILD_BYTES_A_SECOND }
    }

    fn inputs(&self) -> Inputs {
        Inputs { rebuild_hours: self.live as f64 / self.rate / 3600.0, ..self.inputs }
    }

    /// Takes a figure that was asked for.
    fn suppose(&mut self, text: &str) -> Result<(), String> {
        let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
        let number = || value.parse::<f64>().map_err(|_| format!("{value:?} is no number"));
        let count = || value.parse::<u32>().map_err(|_| format!("{value:?} is no number"));
        let hours = || {
            let duration = humantime::parse_duration(value).map_err(|error| format!("{value:?}: {error}"))?;
            Ok::<_, String>(duration.as_secs_f64() / 3600.0)
        };
        match name {
            "profile" => {
                let profile: Profile = value.parse().map_err(|error| format!("{error}"))?;
                self.inputs.group = group_of(profile);
            }
            "groups" => self.inputs.groups = count()?.max(1),
            "voters" => self.inputs.voters = count()?.max(1),
            "packs" => self.inputs.packs = count()?.max(1),
            "afr" => self.inputs.afr = number()?.clamp(1e-6, 100.0),
            "latent" => self.inputs.latent = number()?.clamp(0.0, 1.0),
            "rate" => self.rate = (number()? * 1e6).max(1.0),
            "live" => self.live = (number()? * 1e12) as u64,
            "detect" => self.inputs.detect_hours = hours()?,
            "scrub" => self.inputs.scrub_hours = hours()?,
            "replace" => self.inputs.replace_hours = hours()?,
            _ => {
                return Err(format!(
                    "{name:?} is no figure: there are profile, groups, voters, packs, afr, latent, rate (MB/s), live (TB), \
                     detect, scrub and replace"
                ));
            }
        }
        Ok(())
    }
}

/// One line for the status.
pub fn line(topology: &Topology, health: &HealthNow) -> Option<String> {
    let figures = Figures::of(topology, health)?;
    let durability = figures.inputs().durability();
    Some(format!(
        "{:.1} nines a year for an object's shards, {:.1} for all metadata (assumed: AFR {:.2} %, {:.0} MB/s, {} a device)",
        nines(durability.object),
        nines(durability.metadata),
        figures.inputs.afr * 100.0,
        figures.rate / 1e6,
        bytes(figures.live)
    ))
}

/// What keeps a cluster from eleven nines.
fn advice(inputs: &Inputs, durability: &Durability) -> Vec<String> {
    let mut advice = Vec::new();
    if nines(durability.object) < 11.0 {
        advice.push(format!(
            "the shards do not carry eleven nines: a wider profile, as 6+3 over 9 domains or 8+4 over 12, or a rebuild faster \
             than {:.1} h",
            inputs.detect_hours + inputs.rebuild_hours
        ));
    }
    if nines(durability.metadata) < 11.0 {
        advice.push(format!("{} metadata members do not carry eleven nines: have 5", inputs.voters));
    }
    advice
}

impl Operator {
    pub(super) async fn durability(&self, suppose: &[String]) -> Result<(), SystemError> {
        let (topology, health) = (&self.cluster.topology, self.health().await?);
        let mut figures = Figures::of(topology, &health)
            .ok_or_else(|| SystemError::Cluster("there is no pool yet".to_owned()))?;
        for text in suppose {
            figures.suppose(text).map_err(SystemError::Cluster)?;
        }
        let inputs = figures.inputs();
        let durability = inputs.durability();
        let advice = advice(&inputs, &durability);
        if self.json {
            say(format!(
                "{:#}",
                json!({
                    "nines": nines(durability.loss()),
                    "object_nines": nines(durability.object),
                    "metadata_nines": nines(durability.metadata),
                    "shards": inputs.group.n,
                    "spare": inputs.group.m,
                    "groups": inputs.groups,
                    "afr": inputs.afr,
                    "detect_hours": inputs.detect_hours,
                    "rebuild_hours": inputs.rebuild_hours,
                    "scrub_hours": inputs.scrub_hours,
                    "latent": inputs.latent,
                    "voters": inputs.voters,
                    "packs": inputs.packs,
                    "advice": advice,
                })
            ));
            return Ok(());
        }
        say(format!("an object of {} packs    {:.2} nines a year", inputs.packs, nines(durability.object)));
        say(format!("all metadata           {:.2} nines a year", nines(durability.metadata)));
        say(format!("both                   {:.2} nines a year", nines(durability.loss())));
        say("");
        let Inputs { group, groups, afr, detect_hours, rebuild_hours, scrub_hours, latent, voters, .. } =
            inputs;
        say(format!("profile    {}+{}, in {groups} placement groups (measured)", group.n - group.m, group.m));
        say(format!("voters     {voters} (measured)"));
        say(format!(
            "device     {} to make anew (the fullest, 1 TiB at least), AFR {:.2} % (assumed)",
            bytes(figures.live),
            afr * 100.0
        ));
        say(format!(
            "window     {detect_hours:.2} h to give up + {rebuild_hours:.2} h at {:.0} MB/s (assumed)",
            figures.rate / 1e6
        ));
        say(format!(
            "rot        {latent} of a device's shards a year, read every {scrub_hours:.0} h (assumed)"
        ));
        advice.iter().for_each(|text| say(format!("\n{text}")));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_can_be_supposed_and_mistakes_are_named() {
        let profile = Profile::new(4, 2).expect("a profile");
        let mut figures = Figures::assumed(profile, 64, 3, LIVE_LEAST);
        let before = figures.inputs().durability();
        assert!(advice(&figures.inputs(), &before).iter().any(|text| text.contains("have 5")));
        for text in ["profile=8+4", "voters=5", "rate=200", "detect=10m", "live=4"] {
            figures.suppose(text).expect("a figure");
        }
        let after = figures.inputs().durability();
        assert!(after.object < before.object && advice(&figures.inputs(), &after).is_empty());
        for (text, mistake) in
            [("colour=red", "is no figure"), ("afr=x", "is no number"), ("voters", "NAME=VALUE")]
        {
            assert!(figures.suppose(text).expect_err("a mistake").contains(mistake));
        }
    }
}
