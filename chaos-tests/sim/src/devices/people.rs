//! What people do to their files, and what of it must be found in the end.

use super::files::{Body, State};
use crate::Rng;
use holdfast_client_engine::{disk::INTERNAL, system::Names};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e.txt", "f.txt"];

pub struct People {
    rng: Rng,
    written: u64,
    /// Contents that somebody left somewhere and nobody took away.
    pub owed: BTreeSet<Vec<u8>>,
    /// Contents that somebody moved, perhaps to where they had been before.
    pub shifted: BTreeSet<Vec<u8>>,
    pub deeds: usize,
    story: Story,
}

/// What was done, in order, for whoever has to find out why something is lost.
#[derive(Clone, Default)]
pub struct Story(Arc<Mutex<String>>);

impl Story {
    pub fn tell(&self, who: &str, what: &str) {
        let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *text += &format!("{who}: {what}\n");
    }

    pub fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// All that a person sees.
fn seen(state: &State) -> Vec<(Names, Body)> {
    let mut all = state.below(&[]);
    all.retain(|(names, _)| names[0] != INTERNAL);
    all
}

impl People {
    pub fn new(rng: Rng, story: Story) -> Self {
        Self { rng, written: 0, owed: BTreeSet::new(), shifted: BTreeSet::new(), deeds: 0, story }
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        (!from.is_empty()).then(|| &from[self.rng.below(from.len() as u64) as usize])
    }

    /// All contents have one length: it tells nobody anything.
    fn content(&mut self) -> Vec<u8> {
        self.written += 1;
        format!("content {:06}", self.written).into_bytes()
    }

    /// Somebody takes away what a place holds, which may have been nowhere else.
    fn take(&mut self, state: &mut State, names: &[Vec<u8>]) {
        if let Some(Body::File(bytes)) = state.look(names) {
            self.owed.remove(&bytes);
        }
        for (_, body) in state.below(names) {
            if let Body::File(bytes) = body {
                self.owed.remove(&bytes);
            }
        }
    }

    fn tell(&mut self, state: &State, what: &str, names: &[Vec<u8>], done: &std::io::Result<()>) {
        let path = String::from_utf8_lossy(&names.join(&b'/')).into_owned();
        self.deeds += usize::from(done.is_ok());
        let done = done.as_ref().map_err(std::io::Error::kind);
        self.story.tell(state.name, &format!("  {what} {path}: {done:?}"));
    }

    fn write(&mut self, state: &mut State, names: &[Vec<u8>]) {
        if matches!(state.look(names), Some(Body::Directory(_) | Body::Link(_))) {
            return;
        }
        let bytes = self.content();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let is_there = state.look(names).is_some();
        let how = self.rng.below(4);
        self.take(state, names);
        let done = match how {
            0 | 1 if is_there => state.write_into(names, &bytes, how == 1),
            _ => state.write_over(names, &bytes),
        };
        if done.is_ok() {
            self.owed.insert(bytes);
        }
        self.tell(state, &format!("{text} is written ({how}) to"), names, &done);
    }

    /// What a disk lost by itself is nobody's fault.
    pub fn forget(&mut self, lost: impl Iterator<Item = Vec<u8>>) {
        for bytes in lost {
            self.owed.remove(&bytes);
        }
    }

    /// Somebody does something.
    pub fn act(&mut self, state: &mut State) {
        state.set_times_back();
        let all = seen(state);
        let files: Vec<Names> = all
            .iter()
            .filter(|(_, body)| matches!(body, Body::File(_)))
            .map(|(names, _)| names.clone())
            .collect();
        let mut directories: Vec<Names> = vec![Names::new()];
        directories.extend(
            all.iter().filter(|(_, body)| matches!(body, Body::Directory(_))).map(|(names, _)| names.clone()),
        );
        let name = NAMES[self.rng.below(NAMES.len() as u64) as usize].as_bytes().to_vec();
        let Some(directory) = self.pick(&directories).cloned() else { return };
        let goal: Names = [directory.as_slice(), &[name]].concat();
        match self.rng.below(14) {
            0..=2 => self.write(state, &goal),
            3 | 4 => {
                if let Some(names) = self.pick(&files).cloned() {
                    self.write(state, &names);
                }
            }
            5 => {
                let done = state.add_directory(&goal);
                self.tell(state, "a directory is made", &goal, &done);
            }
            6 => {
                if let Some(names) = self.pick(&files).cloned() {
                    self.take(state, &names);
                    let done = state.remove(&names);
                    self.tell(state, "somebody removes", &names, &done);
                }
            }
            7 | 8 => {
                let from: Vec<Names> = all.iter().map(|(names, _)| names.clone()).collect();
                if let Some(from) = self.pick(&from).cloned() {
                    self.shift(state, &from, &goal);
                }
            }
            9 | 10 => {
                // Two change places.
                let (one, two) = (self.pick(&files).cloned(), self.pick(&files).cloned());
                if let (Some(one), Some(two)) = (one, two) {
                    let between: Names = vec![b"between.part".to_vec()];
                    if state.look(&between).is_none() && one != two {
                        self.shift(state, &one, &between);
                        self.shift(state, &two, &one);
                        self.shift(state, &between, &two);
                    }
                }
            }
            11 => {
                if let Some(names) = self.pick(&files).cloned() {
                    let done = state.run_or_not(&names);
                    self.tell(state, "whether it may be run is changed of", &names, &done);
                }
            }
            12 => {
                if state.look(&goal).is_none() {
                    let target = self.content();
                    let done = state.add_link(&goal, &target);
                    self.tell(state, "a link is made", &goal, &done);
                }
            }
            _ => {
                if !directory.is_empty() {
                    self.take(state, &directory);
                    let done = state.remove(&directory);
                    self.tell(state, "somebody removes all of", &directory, &done);
                }
            }
        }
    }

    fn shift(&mut self, state: &mut State, from: &[Vec<u8>], to: &[Vec<u8>]) {
        let taken = match state.look(to) {
            Some(Body::File(bytes)) if from != to => Some(bytes),
            _ => None,
        };
        if let Some(Body::File(bytes)) = state.look(from) {
            self.shifted.insert(bytes);
        }
        let done = state.move_over(from, to);
        if let (Ok(()), Some(bytes)) = (&done, taken) {
            self.owed.remove(&bytes);
        }
        let what = String::from_utf8_lossy(&from.join(&b'/')).into_owned();
        self.tell(state, &format!("{what} is moved to"), to, &done);
    }
}
