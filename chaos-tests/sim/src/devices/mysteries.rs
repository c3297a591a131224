//! One file at several devices, as it is seen from outside: whatever is read and taken away must be explained by the model of
//! [`holdfast_chaos_tests_mysteries`].

use super::{DEVICES, World, files::Body};
use holdfast_chaos_tests_mysteries::{Explanations, Mystery};
use holdfast_client_engine::system::Names;
use std::collections::BTreeSet;

/// What people do in a run, and turns of engines between two deeds at most.
const DEEDS: u64 = 12;
const TURNS: u64 = 250;

fn file() -> Names {
    vec![b"a".to_vec()]
}

fn value_of(bytes: &[u8]) -> Option<u32> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

impl World {
    fn seen(&self, at: usize) -> Option<u32> {
        match self.devices[at].files.state().look(&file()) {
            Some(Body::File(bytes)) => value_of(&bytes),
            Some(Body::Directory(_) | Body::Link(_)) | None => None,
        }
    }

    fn deed(&mut self, seen: &mut Explanations, written: &mut u32) -> Result<(), Mystery> {
        let at = self.pick();
        let taken = self.seen(at);
        match self.rng.below(6) {
            0 | 1 => {
                self.story.tell(DEVICES[at], &format!("  reads {taken:?}"));
                seen.read(at, taken)
            }
            2..=4 => {
                *written += 1;
                let bytes = format!("{written:06}").into_bytes();
                self.devices[at].files.state().write_over(&file(), &bytes).expect("a disk writes");
                self.story.tell(DEVICES[at], &format!("  writes {written} over {taken:?}"));
                seen.write(at, taken, Some(*written))
            }
            _ if taken.is_some() => {
                self.devices[at].files.state().remove(&file()).expect("a disk removes");
                self.story.tell(DEVICES[at], &format!("  deletes {taken:?}"));
                seen.write(at, taken, None)
            }
            _ => Ok(()),
        }
    }

    /// Engines go on, and are told of what people did; now and then one is killed.
    fn go_on(&mut self) {
        for _ in 0..self.rng.below(TURNS) {
            let at = self.pick();
            match self.rng.below(20) {
                0..=2 => self.deliver(at),
                3 if self.rng.chance(5) => {
                    self.devices[at].kill();
                    self.story.tell(DEVICES[at], "is killed");
                    self.report.kills += 1;
                }
                _ => {
                    self.devices[at].is_up = true;
                    self.turn(at);
                }
            }
        }
    }

    fn live_with_it(&mut self) -> Result<(), Mystery> {
        let (mut seen, mut written) = (Explanations::new(self.devices.len()), 0);
        for _ in 0..DEEDS {
            self.deed(&mut seen, &mut written)?;
            self.go_on();
        }
        self.settle();
        for at in 0..self.devices.len() {
            let mut beside = BTreeSet::new();
            for (names, body) in self.devices[at].files.state().below(&[]) {
                if let (1, Body::File(bytes)) = (names.len(), body) {
                    beside.extend(value_of(&bytes).filter(|_| names != file()));
                }
            }
            seen.quiet(self.seen(at), &beside)?;
        }
        Ok(())
    }
}

/// Runs one seed.
pub fn run(seed: u64) -> super::Report {
    let mut world = World::new(seed, "copy");
    if let Err(Mystery(what)) = world.live_with_it() {
        world.violate(what);
    }
    world.report()
}
