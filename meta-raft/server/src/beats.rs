//! Who was heard of, and when: kept in memory by every member, and believed by the leader.

use holdfast_core::ids::{DeviceId, HostId};
use holdfast_proto::{Beat, DeviceBeat, DeviceHealth, HostHealth, JobBytes};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The time over which rates are averaged.
const AVERAGED: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Table {
    hosts: BTreeMap<HostId, HostBeat>,
    devices: BTreeMap<DeviceId, (DeviceBeat, HostId, Instant)>,
}

/// What was heard of a host.
struct HostBeat {
    at: Instant,
    version: u32,
    stopped: bool,
    done: JobBytes,
    /// Bytes a second, over the last seconds.
    rates: [f64; 4],
}

fn numbers(done: &JobBytes) -> [u64; 4] {
    [done.rebuild, done.rebalance, done.scrub, done.compaction]
}

impl HostBeat {
    /// How fast the host works, given what it had done when it was last heard of.
    fn follow(before: Option<&Self>, now: Instant, beat: &Beat) -> Self {
        let done = beat.done.unwrap_or_default();
        let mut rates = [0.0; 4];
        if let Some(before) = before {
            let seconds = now.saturating_duration_since(before.at).as_secs_f64().max(0.001);
            let weight = (seconds / AVERAGED.as_secs_f64()).min(1.0);
            let (old, new) = (numbers(&before.done), numbers(&done));
            for (i, rate) in rates.iter_mut().enumerate() {
                // A process that began anew counts from nothing.
                let speed = new[i].saturating_sub(old[i]) as f64 / seconds;
                *rate = before.rates[i] * (1.0 - weight) + speed * weight;
            }
        }
        Self { at: now, version: beat.version, stopped: beat.stops, done, rates }
    }
}

/// The table. Cheap to clone.
#[derive(Clone)]
pub struct Beats {
    table: Arc<Mutex<Table>>,
    /// Nobody can have been heard of before.
    since: Instant,
}

impl Default for Beats {
    fn default() -> Self {
        Self { table: Arc::default(), since: Instant::now() }
    }
}

impl Beats {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host says that it and its devices are alive.
    pub fn heard(&self, host: HostId, beat: Beat) {
        let now = Instant::now();
        let mut table = self.table();
        let known = HostBeat::follow(table.hosts.get(&host), now, &beat);
        table.hosts.insert(host, known);
        for beat in beat.devices {
            table.devices.insert(DeviceId(beat.device), (beat, host, now));
        }
    }

    /// How long a device has been silent, as far as this member can know, and what it said last.
    pub fn device(&self, id: DeviceId) -> (Duration, Option<DeviceBeat>) {
        match self.table().devices.get(&id) {
            Some((beat, _, at)) => (at.elapsed(), Some(beat.clone())),
            None => (self.since.elapsed(), None),
        }
    }

    /// How long a host has been silent.
    pub fn host(&self, id: HostId) -> Duration {
        self.table().hosts.get(&id).map_or_else(|| self.since.elapsed(), |host| host.at.elapsed())
    }

    /// The newest cluster version that a host said it understands.
    pub fn version(&self, id: HostId) -> Option<u32> {
        self.table().hosts.get(&id).map(|host| host.version)
    }

    /// What all hosts that are up do of each job, in bytes a second.
    pub fn rates(&self) -> JobBytes {
        let table = self.table();
        let up = table.hosts.values().filter(|host| host.at.elapsed() < AVERAGED);
        let sum = up.fold([0.0; 4], |sum, host| std::array::from_fn(|i| sum[i] + host.rates[i]));
        let [rebuild, rebalance, scrub, compaction] = sum.map(|rate| rate as u64);
        JobBytes { rebuild, rebalance, scrub, compaction }
    }

    /// All of it, for others.
    pub fn report(&self) -> (Vec<HostHealth>, Vec<DeviceHealth>) {
        let ms = |at: &Instant| at.elapsed().as_millis() as u64;
        let table = self.table();
        let hosts = table.hosts.iter().map(|(id, host)| HostHealth {
            host: id.0,
            silent_ms: Some(ms(&host.at)),
            stopped: host.stopped,
        });
        let has_stopped = |host| table.hosts.get(host).is_some_and(|host| host.stopped);
        let devices = table.devices.values().map(|(beat, host, at)| DeviceHealth {
            beat: Some(beat.clone()),
            silent_ms: ms(at),
            stopped: has_stopped(host),
        });
        (hosts.collect(), devices.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_stops_is_not_taken_for_alive_until_it_is_back() {
        let beats = Beats::default();
        let device = DeviceBeat { device: 7, ..DeviceBeat::default() };
        let alive = Beat { devices: vec![device], ..Beat::default() };
        let told = |beats: &Beats| {
            let (hosts, devices) = beats.report();
            (hosts[0].stopped, devices[0].stopped)
        };
        beats.heard(HostId(1), alive.clone());
        assert_eq!(told(&beats), (false, false));
        beats.heard(HostId(1), Beat { stops: true, ..Beat::default() });
        assert_eq!(told(&beats), (true, true));
        // It is not silent for longer than it is: its data is not made anew elsewhere because of a restart.
        assert!(beats.device(DeviceId(7)).0 < Duration::from_secs(60));
        beats.heard(HostId(1), alive);
        assert_eq!(told(&beats), (false, false));
    }
}
