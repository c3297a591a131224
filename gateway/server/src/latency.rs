//! How long reads of shards usually take, so that one that takes much longer is noticed soon.
//!
//! The median is followed by a stochastic approximation: each reading moves the estimate a little towards itself. Slow
//! devices, while they are fewer than half, do not move it: they are what is to be noticed.

use std::{
    sync::atomic::{AtomicU64, Ordering},
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

#[cfg(test)]
mod tests {
    use super::*;

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
