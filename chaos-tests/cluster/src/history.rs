//! Histories of registers, and whether they are linearizable.
//!
//! The check is Wing and Gong's search with Lowe's memory of configurations that were seen ("Testing for linearizability",
//! Concurrency and Computation 29(4), 2017): an operation may take effect at any instant between its call and its return;
//! one whose outcome is unknown at any instant after its call, or never.

use std::collections::HashSet;

/// What a client asked of a register. Values are unique within a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Read,
    Write(u64),
    Delete,
    /// Writes the second value if the register holds the first; absent is `None`.
    Swap(Option<u64>, u64),
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A read's value.
    Found(Option<u64>),
    Done,
    /// A swap whose condition did not hold.
    Refused,
    /// Nobody knows, and nobody will: the client gave up waiting, or was told that it failed halfway.
    Unknown,
}

/// One operation. Times are of one clock, in any unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    pub called: u64,
    pub returned: u64,
    pub call: Call,
    pub outcome: Outcome,
}

/// The register after an operation, if it may have that outcome there.
fn step(state: Option<u64>, operation: &Operation) -> Option<Option<u64>> {
    use Outcome::{Done, Found, Refused, Unknown};
    match (operation.call, operation.outcome) {
        (Call::Read, Found(value)) => (value == state).then_some(state),
        (Call::Write(value), Done | Unknown) => Some(Some(value)),
        (Call::Delete, Done | Unknown) => Some(None),
        (Call::Swap(expected, value), Done) => (expected == state).then_some(Some(value)),
        // It may also have been refused, which changes nothing.
        (Call::Swap(expected, value), Unknown) => Some(if expected == state { Some(value) } else { state }),
        (Call::Swap(expected, _), Refused) => (expected != state).then_some(state),
        (Call::Read, Unknown) => Some(state),
        (Call::Read, Done | Refused)
        | (Call::Write(_) | Call::Delete, Found(_) | Refused)
        | (Call::Swap(..), Found(_)) => None,
    }
}

/// Whether some order of the operations explains all outcomes. The register is absent at first.
pub fn is_linearizable(operations: &[Operation]) -> bool {
    let mut operations: Vec<Operation> = operations
        .iter()
        .filter(|one| !matches!((one.call, one.outcome), (Call::Read, Outcome::Unknown)))
        .copied()
        .collect();
    operations.sort_by_key(|operation| operation.called);
    for operation in &mut operations {
        if operation.outcome == Outcome::Unknown {
            operation.returned = u64::MAX;
        }
    }
    let mut search = Search { operations: &operations, seen: HashSet::new() };
    search.explains()
}

struct Search<'a> {
    operations: &'a [Operation],
    /// Sets of operations that have taken effect, and what the register was then: they lead nowhere.
    seen: HashSet<(Vec<u64>, Option<u64>)>,
}

impl Search<'_> {
    /// Depth first, without recursion: histories are long.
    fn explains(&mut self) -> bool {
        let words = self.operations.len().div_ceil(64);
        let mut taken = vec![0u64; words];
        let mut state: Option<u64> = None;
        // What was taken, the state before it, and where to go on when that leads nowhere.
        let mut path: Vec<(usize, Option<u64>)> = Vec::new();
        let mut next = 0;
        loop {
            if self.all_known_taken(&taken) {
                return true;
            }
            match self.candidate(&taken, state, next) {
                Some((at, after)) => {
                    taken[at / 64] |= 1 << (at % 64);
                    if self.seen.insert((taken.clone(), after)) {
                        path.push((at, state));
                        state = after;
                        next = 0;
                    } else {
                        taken[at / 64] &= !(1 << (at % 64));
                        next = at + 1;
                    }
                }
                None => {
                    let Some((at, before)) = path.pop() else { return false };
                    taken[at / 64] &= !(1 << (at % 64));
                    state = before;
                    next = at + 1;
                }
            }
        }
    }

    fn is_taken(taken: &[u64], at: usize) -> bool {
        taken[at / 64] >> (at % 64) & 1 == 1
    }

    fn all_known_taken(&self, taken: &[u64]) -> bool {
        let left = self.operations.iter().enumerate().filter(|(at, _)| !Self::is_taken(taken, *at));
        left.clone().all(|(_, operation)| operation.outcome == Outcome::Unknown)
    }

    /// The first operation from `from` on that may take effect next: it was called before any other that is left returned.
    fn candidate(&self, taken: &[u64], state: Option<u64>, from: usize) -> Option<(usize, Option<u64>)> {
        let mut earliest = u64::MAX;
        for (at, operation) in self.operations.iter().enumerate() {
            if Self::is_taken(taken, at) {
                continue;
            }
            if operation.called > earliest {
                return None;
            }
            earliest = earliest.min(operation.returned);
            if at >= from
                && let Some(after) = step(state, operation)
            {
                return Some((at, after));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn operation(called: u64, returned: u64, call: Call, outcome: Outcome) -> Operation {
        Operation { called, returned, call, outcome }
    }

    #[test]
    fn a_stale_read_is_found() {
        let write = operation(0, 1, Call::Write(1), Outcome::Done);
        let newer = operation(2, 3, Call::Write(2), Outcome::Done);
        let stale = operation(4, 5, Call::Read, Outcome::Found(Some(1)));
        assert!(!is_linearizable(&[write, newer, stale]));
        let during = operation(2, 5, Call::Read, Outcome::Found(Some(1)));
        assert!(is_linearizable(&[write, newer, during]));
    }

    #[test]
    fn a_lost_write_is_found() {
        let write = operation(0, 1, Call::Write(1), Outcome::Done);
        let absent = operation(2, 3, Call::Read, Outcome::Found(None));
        assert!(!is_linearizable(&[write, absent]));
        let unknown = operation(0, 1, Call::Write(1), Outcome::Unknown);
        assert!(is_linearizable(&[unknown, absent]));
        // It may still come to pass later.
        let late = operation(4, 5, Call::Read, Outcome::Found(Some(1)));
        assert!(is_linearizable(&[unknown, absent, late]));
        let gone = operation(6, 7, Call::Read, Outcome::Found(None));
        assert!(!is_linearizable(&[unknown, absent, late, gone]));
    }

    #[test]
    fn two_winners_of_one_swap_are_found() {
        let write = operation(0, 1, Call::Write(1), Outcome::Done);
        let one = operation(2, 9, Call::Swap(Some(1), 2), Outcome::Done);
        let two = operation(2, 9, Call::Swap(Some(1), 3), Outcome::Done);
        assert!(!is_linearizable(&[write, one, two]));
        let loser = operation(2, 9, Call::Swap(Some(1), 3), Outcome::Refused);
        assert!(is_linearizable(&[write, one, loser]));
        assert!(!is_linearizable(&[write, operation(2, 3, Call::Swap(Some(1), 3), Outcome::Refused)]));
    }

    /// A history of a register that works: effects at random instants, calls before and returns after them.
    fn honest(choices: &[(u8, u8, u8)]) -> Vec<Operation> {
        let mut state = None;
        choices
            .iter()
            .enumerate()
            .map(|(at, (kind, before, behind))| {
                let (now, value) = (1000 + at as u64 * 10, at as u64 + 1);
                let (call, outcome) = match kind % 5 {
                    0 => (Call::Read, Outcome::Found(state)),
                    1 => (Call::Write(value), Outcome::Done),
                    2 => (Call::Delete, Outcome::Done),
                    3 => (Call::Swap(state, value), Outcome::Done),
                    _ => (Call::Swap(Some(u64::MAX), value), Outcome::Refused),
                };
                let made =
                    operation(now - u64::from(before % 25), now + u64::from(behind % 25), call, outcome);
                state = step(state, &made).expect("it works");
                made
            })
            .collect()
    }

    proptest! {
        #[test]
        fn what_a_register_does_is_linearizable(choices in prop::collection::vec(any::<(u8, u8, u8)>(), 0..40)) {
            prop_assert!(is_linearizable(&honest(&choices)));
        }

        #[test]
        fn a_value_that_was_never_written_is_never_explained(choices in prop::collection::vec(any::<(u8, u8, u8)>(), 0..20)) {
            let mut history = honest(&choices);
            history.push(operation(1_000_000, 1_000_001, Call::Read, Outcome::Found(Some(u64::MAX - 1))));
            prop_assert!(!is_linearizable(&history));
        }
    }
}
