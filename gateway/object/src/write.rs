//! When a pack is durable enough.

use holdfast_core::profile::Profile;
use std::time::Duration;

/// How a pack's write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    /// May be acknowledged. Bit `i` of `missing`: shard `i` is not known to be durable, and is to be repaired.
    Durable { missing: u32 },
    /// Fewer shards are durable than the write quorum: must not be acknowledged.
    Failed { durable: usize },
}

/// Decides over one pack's shards. Time is a duration since any fixed instant.
///
/// All `k + m` are waited for until the patience ends; from then on the write quorum is enough. Below the quorum, nothing
/// is acknowledged, however long it takes.
#[derive(Debug, Clone)]
pub struct WriteSession {
    profile: Profile,
    durable: u32,
    failed: u32,
    patience_ends: Duration,
    gives_up: Duration,
}

impl WriteSession {
    /// A write that began at `now`, of which the shards `unavailable` cannot be written.
    pub fn new(
        profile: Profile,
        unavailable: u32,
        now: Duration,
        patience: Duration,
        give_up: Duration,
    ) -> Self {
        Self {
            profile,
            durable: 0,
            failed: unavailable,
            patience_ends: now + patience,
            gives_up: now + give_up,
        }
    }

    /// Shard `index` was made durable, or was not.
    pub fn handle_result(&mut self, index: usize, durable: bool) {
        let set = if durable { &mut self.durable } else { &mut self.failed };
        *set |= 1 << index;
    }

    /// When to ask again although nothing has happened.
    pub fn poll_timeout(&self, now: Duration) -> Duration {
        if now < self.patience_ends { self.patience_ends } else { self.gives_up }
    }

    /// The outcome, once there is one.
    pub fn poll_outcome(&self, now: Duration) -> Option<WriteOutcome> {
        let all = ((1u64 << self.profile.total()) - 1) as u32;
        let durable = self.durable.count_ones() as usize;
        let answered = (self.durable | self.failed) & all == all;
        let quorum = durable >= self.profile.write_quorum();
        if quorum && (answered || now >= self.patience_ends) {
            return Some(WriteOutcome::Durable { missing: all & !self.durable });
        }
        let hopeless = self.profile.total() - (self.failed & !self.durable).count_ones() as usize;
        if hopeless < self.profile.write_quorum() || now >= self.gives_up {
            return Some(WriteOutcome::Failed { durable });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn session(unavailable: u32) -> WriteSession {
        let profile = Profile::new(4, 2).expect("a profile");
        WriteSession::new(profile, unavailable, SECOND, SECOND, 10 * SECOND)
    }

    proptest! {
        #[test]
        fn nothing_is_acknowledged_below_the_quorum_and_nothing_waits_for_ever(
            results in proptest::collection::vec((0usize..6, any::<bool>()), 0..12), unavailable in 0u32..64,
        ) {
            let mut session = session(unavailable);
            let mut durable = 0u32;
            for (index, ok) in results {
                session.handle_result(index, ok);
                durable |= u32::from(ok) << index;
                for now in [SECOND, 3 * SECOND] {
                    if let Some(WriteOutcome::Durable { missing }) = session.poll_outcome(now) {
                        prop_assert!(durable.count_ones() >= 5);
                        prop_assert_eq!(missing, 0b11_1111 & !durable);
                    }
                }
            }
            prop_assert!(session.poll_outcome(11 * SECOND).is_some());
        }
    }

    #[test]
    fn all_shards_are_waited_for_only_as_long_as_patience_lasts() {
        let mut session = session(0);
        (0..5).for_each(|i| session.handle_result(i, true));
        assert_eq!(session.poll_outcome(SECOND), None);
        assert_eq!(session.poll_timeout(SECOND), 2 * SECOND);
        assert_eq!(session.poll_outcome(2 * SECOND), Some(WriteOutcome::Durable { missing: 0b10_0000 }));
        session.handle_result(5, true);
        assert_eq!(session.poll_outcome(SECOND), Some(WriteOutcome::Durable { missing: 0 }));
    }

    #[test]
    fn a_quorum_that_cannot_be_reached_fails_at_once() {
        let mut session = session(0b1);
        session.handle_result(3, false);
        assert_eq!(session.poll_outcome(SECOND), Some(WriteOutcome::Failed { durable: 0 }));
    }
}
