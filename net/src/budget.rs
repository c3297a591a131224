//! How many tries beyond the first a process may make, so that many callers of one that is not well do not keep it so.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Retries a second that are always allowed, and the most that can be saved up.
const RETRIES_A_SECOND: f64 = 200.0;

/// A token bucket: it fills with time and with every call that succeeds, so that what has waited for a process that is well
/// again comes back as fast as that process answers. Who finds it empty waits. Time is the caller's.
#[derive(Debug)]
pub struct RetryBudget(Mutex<Bucket>);

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled_at: Duration,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self(Mutex::new(Bucket { tokens: RETRIES_A_SECOND, filled_at: Duration::ZERO }))
    }
}

impl RetryBudget {
    fn with<T>(&self, work: impl FnOnce(&mut Bucket) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A call succeeded.
    pub fn succeeded(&self) {
        self.with(|bucket| bucket.tokens = (bucket.tokens + 1.0).min(RETRIES_A_SECOND));
    }

    /// Whether one more retry may be made now; where not, after how long to ask again.
    ///
    /// # Errors
    /// The wait.
    pub fn take(&self, now: Duration) -> Result<(), Duration> {
        self.with(|bucket| {
            let passed = now.saturating_sub(bucket.filled_at).as_secs_f64();
            bucket.tokens = (bucket.tokens + passed * RETRIES_A_SECOND).min(RETRIES_A_SECOND);
            bucket.filled_at = bucket.filled_at.max(now);
            if bucket.tokens >= 1.0 {
                bucket.tokens -= 1.0;
                return Ok(());
            }
            Err(Duration::from_secs_f64((1.0 - bucket.tokens) / RETRIES_A_SECOND))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_paced_and_come_back_with_success() {
        let budget = RetryBudget::default();
        let second = Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| budget.take(second).is_ok()).count(), 200, "what was saved");
        let wait = budget.take(second).expect_err("it is empty");
        assert!(wait <= Duration::from_millis(5), "{wait:?}");
        assert_eq!(budget.take(second + wait), Ok(()));
        assert!(budget.take(second + wait).is_err());
        for _ in 0..10 {
            budget.succeeded();
        }
        assert_eq!((0..1000).filter(|_| budget.take(second + wait).is_ok()).count(), 10);
        assert_eq!(
            (0..1000).filter(|_| budget.take(second * 9).is_ok()).count(),
            200,
            "and no more is saved"
        );
    }
}
