//! How much the cluster's own work may take: foreground traffic goes first.

use arc_swap::ArcSwap;
use holdfast_meta_raft_machine::records::{Job, Settings};
use holdfast_storage_node_server::Foreground;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Bytes a second where nothing else is set: what one disk gives without noticing.
const DEFAULT_RATE: u64 = 200 << 20;

/// The share of the rate that is left to upkeep while clients are served.
const BUSY_SHARE: u64 = 8;

/// A client was served within this time: the node is busy.
const BUSY: Duration = Duration::from_millis(250);

/// What accumulates while nothing is done.
const BURST: Duration = Duration::from_millis(500);

/// What each job has done since the process began, in bytes.
#[derive(Debug, Default)]
pub struct Done {
    pub rebuilt: AtomicU64,
    pub moved: AtomicU64,
    pub scrubbed: AtomicU64,
    pub compacted: AtomicU64,
}

impl Done {
    pub fn of(&self, job: Job) -> &AtomicU64 {
        match job {
            Job::Rebuild => &self.rebuilt,
            Job::Rebalance => &self.moved,
            Job::Scrub => &self.scrubbed,
            Job::Compaction => &self.compacted,
        }
    }
}

struct Bucket {
    /// Bytes that may be moved now; negative where more was taken than there was.
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self { tokens: 0.0, filled: now }
    }

    /// Takes tokens, or says how long to wait for some. What was taken too much is waited for by the next.
    fn take(&mut self, bytes: f64, rate: f64, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + passed * rate).min(BURST.as_secs_f64() * rate);
        if self.tokens >= 0.0 {
            self.tokens -= bytes;
            return Duration::ZERO;
        }
        // Looked at again soon: the node may be idle by then.
        Duration::from_secs_f64((-self.tokens / rate).clamp(0.005, 0.1))
    }
}

/// What is urgent, and the rest: neither takes what the other was given.
struct Buckets {
    urgent: Bucket,
    other: Bucket,
    served: u64,
    busy_until: Instant,
}

/// The budget of one node. Cheap to clone.
#[derive(Clone)]
pub struct Upkeep {
    settings: Arc<ArcSwap<Settings>>,
    buckets: Arc<Mutex<Buckets>>,
    foreground: Foreground,
    pub done: Arc<Done>,
}

impl Upkeep {
    /// A budget that yields to what `foreground` counts.
    pub fn new(foreground: Foreground) -> Self {
        let now = Instant::now();
        let (urgent, other) = (Bucket::new(now), Bucket::new(now));
        let buckets = Buckets { urgent, other, served: foreground.count(), busy_until: now };
        Self {
            settings: Arc::default(),
            buckets: Arc::new(Mutex::new(buckets)),
            foreground,
            done: Arc::default(),
        }
    }

    /// Follows what operators set.
    pub fn set(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    pub fn is_paused(&self, job: Job) -> bool {
        self.settings.load().is_paused(job)
    }

    /// Waits until `bytes` may be read or written for a job. What is `urgent` has the whole rate, whoever is served.
    pub async fn admit(&self, bytes: u64, urgent: bool) {
        loop {
            let wait = self.take(bytes as f64, urgent, Instant::now());
            if wait.is_zero() {
                return;
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Takes from the budget, or says how long to wait.
    fn take(&self, bytes: f64, urgent: bool, now: Instant) -> Duration {
        let rate = match self.settings.load().upkeep_bytes_per_s {
            0 => DEFAULT_RATE,
            rate => rate,
        };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if urgent {
            let wait = buckets.urgent.take(bytes, rate as f64, now);
            // The rest has little meanwhile, as beside clients.
            buckets.busy_until = buckets.busy_until.max(now + BUSY);
            return wait;
        }
        let served = self.foreground.count();
        if served != std::mem::replace(&mut buckets.served, served) {
            buckets.busy_until = now + BUSY;
        }
        let rate = if now < buckets.busy_until { rate / BUSY_SHARE } else { rate };
        buckets.other.take(bytes, rate as f64, now)
    }

    /// Counts what a job has done.
    pub fn count(&self, job: Job, bytes: u64) {
        self.done.of(job).fetch_add(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that a job gets in a second of steps of 1 MiB.
    fn second(upkeep: &Upkeep, from: Instant, urgent: bool, mut serve: impl FnMut()) -> u64 {
        let mut taken = 0;
        for ms in 0..1000 {
            serve();
            while upkeep.take(f64::from(1 << 20), urgent, from + Duration::from_millis(ms)).is_zero() {
                taken += 1 << 20;
            }
        }
        taken
    }

    #[test]
    fn who_serves_clients_leaves_little_to_upkeep() {
        let foreground = Foreground::default();
        let upkeep = Upkeep::new(foreground.clone());
        upkeep.set(Settings { upkeep_bytes_per_s: 64 << 20, ..Settings::default() });
        let start = Instant::now();
        let idle = second(&upkeep, start, false, || {});
        let busy = second(&upkeep, start + Duration::from_secs(2), false, || foreground.served());
        let urgent = second(&upkeep, start + Duration::from_secs(4), true, || foreground.served());
        // In steps of 1 MiB, with a burst of half a second.
        let mib = |bytes: u64| bytes >> 20;
        assert!((60..=100).contains(&mib(idle)), "{idle}");
        assert!((6..=16).contains(&mib(busy)), "{busy}");
        assert!((60..=100).contains(&mib(urgent)), "{urgent}");
    }

    #[test]
    fn what_is_urgent_is_not_slowed_by_the_rest() {
        let upkeep = Upkeep::new(Foreground::default());
        upkeep.set(Settings { upkeep_bytes_per_s: 64 << 20, ..Settings::default() });
        let start = Instant::now();
        let (mut urgent, mut other) = (0u64, 0u64);
        for ms in 0..1000 {
            let now = start + Duration::from_millis(ms);
            while upkeep.take(f64::from(1 << 20), false, now).is_zero() {
                other += 1;
            }
            while upkeep.take(f64::from(1 << 20), true, now).is_zero() {
                urgent += 1;
            }
        }
        assert!((60..=100).contains(&urgent), "{urgent}");
        assert!((6..=20).contains(&other), "{other}");
    }

    #[test]
    fn jobs_are_paused_and_go_on() {
        let upkeep = Upkeep::new(Foreground::default());
        let mut settings = Settings::default();
        settings.set_paused(Job::Scrub, true);
        upkeep.set(settings.clone());
        assert!(upkeep.is_paused(Job::Scrub) && !upkeep.is_paused(Job::Rebuild));
        settings.set_paused(Job::Scrub, false);
        upkeep.set(settings);
        assert!(!upkeep.is_paused(Job::Scrub));
    }
}
