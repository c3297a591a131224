//! Time, for the drivers: what is pure gets it as an argument.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The wall clock, in milliseconds since 1970.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// A moment as text (RFC 3339), to the millisecond where it is not a whole second.
pub fn rfc3339(unix_ms: u64) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000).ok();
    at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}

/// The same to the second.
pub fn rfc3339_s(unix_ms: u64) -> String {
    rfc3339(unix_ms - unix_ms % 1000)
}

/// A monotone clock for sessions that take durations.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn now(&self) -> Duration {
        self.0.elapsed()
    }

    /// The instant at which the stopwatch shows `at`.
    pub fn instant(&self, at: Duration) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.0 + at)
    }
}

/// How long the metadata's clock is believed without asking. Far less than any grace period or memory of requests.
const BELIEVED: Duration = Duration::from_secs(1);

/// The metadata's clock as it was last read, and how much time has passed here since.
#[derive(Default)]
pub struct MetaClock(Mutex<Option<(u64, Instant)>>);

impl MetaClock {
    fn lock(&self) -> MutexGuard<'_, Option<(u64, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The clock in milliseconds; never ahead of it, and `None` where it must be read again.
    pub fn now(&self) -> Option<u64> {
        (*self.lock()).filter(|(_, at)| at.elapsed() < BELIEVED).map(|(clock_ms, _)| clock_ms)
    }

    pub fn set(&self, clock_ms: u64) {
        *self.lock() = Some((clock_ms, Instant::now()));
    }
}
