//! How fast bytes of files go to the server and come from it.

use bytesize::ByteSize;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use std::{
    fmt,
    num::NonZeroU32,
    str::FromStr,
    sync::{Arc, PoisonError, RwLock},
};

/// What may go at once, at most: pauses are short, and a chunk passes in some steps.
const BURST: u32 = 64 << 10;

/// Bytes in a second, at most; or as many as there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rate(pub Option<NonZeroU32>);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        let bytes: ByteSize =
            text.parse().map_err(|_| "write bytes in a second, as 500K or 2M, or none".to_owned())?;
        let rate = u32::try_from(bytes.as_u64()).ok().filter(|rate| *rate >= 1000).and_then(NonZeroU32::new);
        rate.map(|rate| Self(Some(rate))).ok_or_else(|| "between 1K and 4G in a second".to_owned())
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(rate) => write!(f, "{}/s", ByteSize(u64::from(rate.get())).display().si()),
            None => f.write_str("none"),
        }
    }
}

/// Both ways' rates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    pub up: Rate,
    pub down: Rate,
}

/// Has bytes wait for their turn, each way by itself.
#[derive(Default)]
pub struct Limits {
    up: Limit,
    down: Limit,
}

#[derive(Default)]
struct Limit(RwLock<(Rate, Option<Arc<DefaultDirectRateLimiter>>)>);

impl Limit {
    fn set(&self, rate: Rate) {
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if now.0 != rate {
            let burst = |rate: NonZeroU32| NonZeroU32::new(rate.get().min(BURST)).unwrap_or(NonZeroU32::MIN);
            let limiter = rate
                .0
                .map(|rate| Arc::new(RateLimiter::direct(Quota::per_second(rate).allow_burst(burst(rate)))));
            *now = (rate, limiter);
        }
    }

    async fn pass(&self, mut bytes: usize) {
        while bytes > 0 {
            let now = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
            let (Some(rate), Some(limiter)) = (now.0.0, now.1) else { return };
            let some = bytes.min(rate.get().min(BURST) as usize);
            if let Some(some) = NonZeroU32::new(some as u32) {
                // It is never more than may go at once.
                let _passed = limiter.until_n_ready(some).await;
            }
            bytes -= some;
        }
    }
}

impl Limits {
    pub fn set(&self, rates: &Rates) {
        self.up.set(rates.up);
        self.down.set(rates.down);
    }

    /// Waits until so many bytes may go to the server.
    pub async fn up(&self, bytes: usize) {
        self.up.pass(bytes).await;
    }

    /// Waits until so many bytes may have come from the server.
    pub async fn down(&self, bytes: usize) {
        self.down.pass(bytes).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_people_write_them() {
        let rate = |text: &str| text.parse::<Rate>().map(|rate| rate.0.map(NonZeroU32::get));
        assert_eq!(rate("none"), Ok(None));
        assert_eq!(rate("500K"), Ok(Some(500_000)));
        assert_eq!(rate("1.5 MiB"), Ok(Some(3 << 19)));
        assert_eq!(rate("2000"), Ok(Some(2000)));
        for bad in ["", "0", "-5", "fast", "10", "100G"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
        assert_eq!("2M".parse::<Rate>().map(|rate| rate.to_string()), Ok("2.0 MB/s".to_owned()));
    }

    #[tokio::test]
    async fn what_is_bounded_takes_its_time_and_what_is_not_takes_none() {
        let limits = Limits::default();
        limits.up(usize::MAX).await;
        limits.set(&Rates { up: "1M".parse().expect("a rate"), down: Rate(None) });
        let begun = std::time::Instant::now();
        limits.down(usize::MAX).await;
        limits.up(BURST as usize + 200_000).await;
        // The lower bound is what a limit is; how long it takes beyond that depends on the machine.
        assert!(begun.elapsed().as_millis() >= 190, "{:?}", begun.elapsed());
    }
}
