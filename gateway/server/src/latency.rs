//! How long reads of shards usually take, so that one that takes much longer is noticed soon.
//!
//! The median is followed by a stochastic approximation: each reading moves the estimate a little towards itself. Slow
//! devices, while they are fewer than half, do not move it: they are what is to be noticed.

use holdfast_core::ids::DeviceId;
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Reads up to this many bytes are told from larger ones.
const SMALL: u32 = 64 << 10;

/// A read is late after so many medians.
const MEDIANS: u32 = 4;

/// No read is late before this: less is noise.
const LEAST: Duration = Duration::from_millis(1);

/// The median of what was recorded, in microseconds.
#[derive(Debug)]
struct Median(AtomicU64);

impl Median {
    fn record(&self, taken: Duration) {
        let micros = taken.as_micros().min(u128::from(u64::MAX)) as u64;
        let step = |estimate: u64| {
            let step = (estimate / 16).max(20);
            Some(if micros > estimate { estimate + step } else { estimate.saturating_sub(step) })
        };
        // Where another thread was faster, its reading counts.
        let _newest = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
    }

    fn get(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// Medians of small and large reads.
#[derive(Debug)]
pub struct Latency {
    small: Median,
    large: Median,
}

impl Default for Latency {
    fn default() -> Self {
        let unknown = || Median(AtomicU64::new(50_000));
        Self { small: unknown(), large: unknown() }
    }
}

impl Latency {
    fn of(&self, bytes: u32) -> &Median {
        if bytes <= SMALL { &self.small } else { &self.large }
    }

    /// A read of so many bytes took so long.
    pub fn record(&self, bytes: u32, taken: Duration) {
        self.of(bytes).record(taken);
    }

    /// After this a read of so many bytes is late; `most` at most.
    pub fn late_after(&self, bytes: u32, most: Duration) -> Duration {
        (self.of(bytes).get() * MEDIANS).clamp(LEAST.min(most), most)
    }
}

/// A device that was late so often, without being in time once, is a straggler.
const LATE_MAX: u32 = 3;

/// A straggler is asked once in so long, to see whether it still is one.
const PROBE_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Lateness {
    in_a_row: u32,
    /// On the caller's clock.
    asked_again_at: Duration,
}

/// Devices that are late time and again: what they have is computed from others at once, instead of after waiting.
#[derive(Debug, Default)]
pub struct Stragglers {
    late: Mutex<BTreeMap<DeviceId, Lateness>>,
    /// Devices in `late`: nearly always none, and then nothing is locked.
    count: AtomicUsize,
}

impl Stragglers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<DeviceId, Lateness>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A read of the device was late at `now`.
    pub fn late(&self, device: DeviceId, now: Duration) {
        let mut late = self.lock();
        let lateness = late.entry(device).or_default();
        lateness.in_a_row += 1;
        lateness.asked_again_at = now + PROBE_EVERY;
        self.count.store(late.len(), Ordering::Relaxed);
    }

    /// The device answered in time.
    pub fn prompt(&self, device: DeviceId) {
        if self.count.load(Ordering::Relaxed) > 0 {
            let mut late = self.lock();
            late.remove(&device);
            self.count.store(late.len(), Ordering::Relaxed);
        }
    }

    /// Whether the device should not be asked at `now`. Whoever is told that it may be is the one who finds out.
    pub fn is_one(&self, device: DeviceId, now: Duration) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut late = self.lock();
        let Some(lateness) = late.get_mut(&device).filter(|lateness| lateness.in_a_row >= LATE_MAX) else {
            return false;
        };
        if now < lateness.asked_again_at {
            return true;
        }
        lateness.asked_again_at = now + PROBE_EVERY;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stragglers_are_asked_now_and_then() {
        let (stragglers, device, s) = (Stragglers::default(), DeviceId(3), Duration::from_secs);
        for _ in 0..LATE_MAX {
            assert!(!stragglers.is_one(device, s(1)));
            stragglers.late(device, s(1));
        }
        assert!(stragglers.is_one(device, s(2)));
        assert!(!stragglers.is_one(DeviceId(4), s(2)));
        assert!(!stragglers.is_one(device, s(6)), "one asks again");
        assert!(stragglers.is_one(device, s(6)), "and only one");
        stragglers.late(device, s(7));
        assert!(stragglers.is_one(device, s(11)));
        assert!(!stragglers.is_one(device, s(12)));
        stragglers.prompt(device);
        assert!(!stragglers.is_one(device, s(12)), "it is itself again");
        stragglers.late(device, s(13));
        assert!(!stragglers.is_one(device, s(13)), "once is no rule");
    }

    #[test]
    fn slow_devices_do_not_move_what_is_usual() {
        let (latency, most) = (Latency::default(), Duration::from_millis(250));
        assert_eq!(latency.late_after(4096, most), Duration::from_millis(200));
        for n in 0..5000u32 {
            let taken = if n % 3 == 0 { Duration::from_millis(100) } else { Duration::from_millis(2) };
            latency.record(4096, taken);
        }
        let late = latency.late_after(4096, most);
        assert!(late < Duration::from_millis(20), "{late:?}");
        assert_eq!(
            latency.late_after(1 << 20, most),
            Duration::from_millis(200),
            "large reads are another matter"
        );
        for _ in 0..5000 {
            latency.record(4096, Duration::from_secs(9));
        }
        assert_eq!(latency.late_after(4096, most), most);
    }
}
