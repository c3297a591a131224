//! What a host keeps knowing of the others: who they are, where they are, and how they are.

use super::storage::{Seen, Shelf};
use bytes::Bytes;
use holdfast_core::{buffer::BufferPool, ids::HostId};
use holdfast_gateway_server::{Engine, Upkeep};
use holdfast_meta_raft_machine::{CLUSTER_VERSION, ask::Topology, records::Job};
use holdfast_meta_raft_server::RemoteMeta;
use holdfast_net::{Remote, Target, Tls};
use holdfast_proto::{self as proto, Beat, DeviceBeat, JobBytes, call::Method, reply};
use holdfast_storage_node_server::{Device, RemoteDevice, Revoked};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How often a host says that it is alive, and looks at the others.
const PACE: Duration = Duration::from_millis(500);

/// A device that was silent for so long is not asked.
const SUSPECT: Duration = Duration::from_secs(3);

/// How long a host that could not be reached may take to answer.
const PROBE: Duration = Duration::from_secs(2);

/// A host's view of the others.
pub struct Watch {
    pub host: HostId,
    pub tls: Tls,
    pub pool: BufferPool,
    pub meta: RemoteMeta,
    pub seen: Seen,
    pub revoked: Revoked,
    /// The host's own devices.
    pub shelf: Arc<Shelf>,
    /// What must know where devices are, once there is a pool.
    pub engine: OnceLock<Engine>,
    /// What its jobs have done, once they run.
    pub upkeep: OnceLock<Upkeep>,
    /// The host was told to stop.
    pub stopping: AtomicBool,
    /// The other hosts that keep devices.
    pub hosts: Mutex<BTreeMap<HostId, Remote>>,
}

impl Watch {
    fn hosts(&self) -> MutexGuard<'_, BTreeMap<HostId, Remote>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells a pipeline of the other devices from now on.
    pub fn attach(&self, engine: Engine) {
        let _attached_before = self.engine.set(engine);
        self.take(Topology::clone(&self.seen.load()));
    }

    /// Watches until the future is dropped. What cannot be read now is read later.
    pub async fn run(&self) {
        let mut ticks = interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let look = async {
            loop {
                ticks.tick().await;
                match self.meta.refresh().await {
                    Ok(topology) => self.take(topology),
                    Err(error) => tracing::warn!(%error, "the cluster's state cannot be read"),
                }
                self.look_after_devices().await;
            }
        };
        // Whoever waits for an answer still is alive.
        tokio::join!(look, self.beat());
    }

    async fn beat(&self) {
        let mut ticks = interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let devices = self.shelf.slots().map(|slots| slots.in_service()).unwrap_or_default();
            // A disk that hangs says nothing; the others, and the host, are alive.
            let beats = devices
                .into_iter()
                .map(|device| timeout(PACE, tokio::task::spawn_blocking(move || beat_of(&device))));
            let beats = futures::future::join_all(beats).await;
            let devices = beats.into_iter().filter_map(|beat| beat.ok()?.ok()).collect();
            self.meta.tell_all(&self.beat_with(devices));
        }
    }

    fn beat_with(&self, devices: Vec<DeviceBeat>) -> Method {
        Method::Beat(Beat {
            devices,
            version: CLUSTER_VERSION,
            done: self.upkeep.get().map(done_by),
            stops: self.stopping.load(Ordering::Acquire),
        })
    }

    /// Says that the host stops: whoever goes on to the next host when all is well must not take this one for alive until
    /// it has come back.
    pub async fn say_goodbye(&self) {
        self.stopping.store(true, Ordering::Release);
        self.meta.say_to_all(&self.beat_with(Vec::new()), PACE).await;
    }

    /// Takes note of a topology.
    pub fn take(&self, topology: Topology) {
        let gone = topology.hosts.iter().filter(|(_, host)| host.revoked).map(|(id, _)| *id);
        self.revoked.store(Arc::new(gone.collect::<BTreeSet<_>>()));
        if let Some(engine) = self.engine.get() {
            engine.take_topology(&topology);
            let slots = engine.devices();
            let known = slots.remote();
            let mut hosts = self.hosts();
            let mut remote = BTreeMap::new();
            for (id, device) in topology.devices.iter().filter(|(_, device)| device.host != self.host) {
                let Some(host) = topology.host(device.host).filter(|host| !host.revoked) else { continue };
                let entry = match known.get(id).filter(|device| device.is_at(&host.address)) {
                    Some(known) => known.clone(),
                    None => RemoteDevice::new(*id, self.remote(&mut hosts, device.host, &host.address)),
                };
                remote.insert(*id, entry);
            }
            slots.set_remote(remote);
        }
        self.seen.store(Arc::new(topology));
    }

    /// The way to another host.
    fn remote(&self, hosts: &mut BTreeMap<HostId, Remote>, id: HostId, address: &str) -> Remote {
        let fresh = || Remote::new(self.tls.clone(), Target::Host(id), address.to_owned(), self.pool.clone());
        let remote = hosts.entry(id).or_insert_with(fresh);
        if remote.address() != address {
            *remote = fresh();
        }
        remote.clone()
    }

    /// Learns how the other devices are, and finds out whether hosts that could not be reached are back.
    async fn look_after_devices(&self) {
        let Some(engine) = self.engine.get() else { return };
        let down: Vec<Remote> = self.hosts().values().filter(|remote| remote.is_down()).cloned().collect();
        for remote in down {
            tokio::spawn(async move {
                // Any answer is a sign of life, a refusal too.
                let _alive = remote.call(Method::Health(proto::Health {}), Bytes::new(), PROBE).await;
            });
        }
        let health = match self.meta.call(Method::Health(proto::Health {}), Bytes::new()).await {
            Ok(reply::Result::Health(health)) => health,
            Ok(_) | Err(_) => return,
        };
        let heard: BTreeMap<u32, (&DeviceBeat, u64, bool)> = health
            .devices
            .iter()
            .filter_map(|device| {
                device.beat.as_ref().map(|beat| (beat.device, (beat, device.silent_ms, device.stopped)))
            })
            .collect();
        for (id, device) in &*engine.devices().remote() {
            match heard.get(&id.0) {
                Some((beat, silent_ms, stopped)) => {
                    let up = !stopped && Duration::from_millis(*silent_ms) < SUSPECT;
                    device.set_condition(up, beat.nearly_full, beat.backed_up);
                }
                // The member may have started a moment ago, and not have heard of it yet.
                None => device.set_condition(true, false, false),
            }
        }
    }
}

fn done_by(upkeep: &Upkeep) -> JobBytes {
    let done = |job| upkeep.done.of(job).load(Ordering::Relaxed);
    JobBytes {
        rebuild: done(Job::Rebuild),
        rebalance: done(Job::Rebalance),
        scrub: done(Job::Scrub),
        compaction: done(Job::Compaction),
    }
}

fn beat_of(device: &Device) -> DeviceBeat {
    let space = device.space().ok();
    let usage = device.usage();
    let scrub = device.scrub();
    DeviceBeat {
        device: device.slot().0,
        incarnation: device.incarnation().as_bytes().to_vec(),
        total: space.map_or(0, |space| space.total),
        free: space.map_or(0, |space| space.free),
        live: usage.live,
        shards: usage.shards,
        nearly_full: device.nearly_full(),
        backed_up: device.is_backed_up(),
        scrub_done: scrub.done,
        scrub_total: scrub.total,
        scrub_began_ms: scrub.began_ms,
        scrub_finished_ms: scrub.finished_ms,
        scrub_asked_ms: scrub.asked_ms,
    }
}
