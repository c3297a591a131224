//! What people at several devices may see of one file, whatever the system between them does and when.
//!
//! After Hughes, Pierce, Arts and Norell, "Mysteries of Dropbox: Property-Based Testing of a Distributed Synchronization
//! Service" (ICST 2016). Reads, writes, deletions and a final quiet are all that is observed. That devices send and receive
//! is not, so every moment at which they may have is tried: [`Explanations`] are all states that the system may be in, and
//! where none is left, what was seen cannot be explained. Values are written once each; no value is an absent file.
//!
//! What is different here: a conflict is sorted out on the server first. Until it is on the device, too, people there still
//! see what they wrote, and may take it away from where it is going, or be too late for that; and then the file may be absent
//! for a moment.

use std::collections::BTreeSet;

/// A content, or that there is no file.
pub type Value = Option<u32>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Device {
    value: Value,
    /// It has heard of what the server has.
    fresh: bool,
    /// It has what the server has not heard of.
    dirty: bool,
    /// What it has is beside the file on the server.
    beside: bool,
}

/// A state that the system may be in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    server: Value,
    conflicts: BTreeSet<u32>,
    devices: Vec<Device>,
}

impl State {
    /// A device tells the server of its change. Where it has not heard of another, both stay: what is on the server has the
    /// name. A deletion stands against no edit.
    fn send(&self, at: usize) -> Option<Self> {
        let device = self.devices.get(at).filter(|device| device.dirty)?;
        let mut next = self.clone();
        next.devices[at].dirty = false;
        match (device.fresh, device.value, self.server) {
            (true, _, _) | (false, Some(_), None) => {
                next.server = device.value;
                next.devices.iter_mut().for_each(|other| other.fresh = false);
                next.devices[at].fresh = true;
            }
            (false, None, _) => {}
            (false, Some(value), Some(_)) => {
                next.conflicts.insert(value);
                next.devices[at].beside = true;
            }
        }
        Some(next)
    }

    /// A device hears of what the server has.
    fn receive(&self, at: usize) -> Option<Self> {
        self.devices.get(at).filter(|device| !device.fresh && !device.dirty)?;
        let mut next = self.clone();
        next.devices[at] = Device { value: self.server, fresh: true, dirty: false, beside: false };
        Some(next)
    }

    /// A conflict is sorted out on a device, too: what is on the server comes next.
    fn put_beside(&self, at: usize) -> Option<Self> {
        self.devices.get(at).filter(|device| device.beside)?;
        let mut next = self.clone();
        next.devices[at] = Device { value: None, fresh: false, dirty: false, beside: false };
        Some(next)
    }

    /// Somebody takes away what a device has, and puts another in its place.
    fn write(&self, at: usize, taken: Value, value: Value) -> Vec<Self> {
        if self.devices[at].value != taken {
            return Vec::new();
        }
        let mut next = self.clone();
        let device = &mut next.devices[at];
        let was_beside = std::mem::replace(&mut device.beside, false);
        (device.value, device.dirty) = (value, true);
        let mut all = vec![next.clone()];
        if let (true, Some(taken)) = (was_beside, taken) {
            next.conflicts.remove(&taken);
            all.push(next);
        }
        all
    }

    fn is_quiet(&self) -> bool {
        self.devices.iter().all(|device| device.fresh && !device.dirty)
    }
}

/// All that the system may be in, by what was seen so far.
#[derive(Debug, Clone)]
pub struct Explanations(BTreeSet<State>);

/// What was seen that nothing explains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mystery(pub String);

impl Explanations {
    /// So many devices, and no file.
    pub fn new(devices: usize) -> Self {
        let device = Device { value: None, fresh: true, dirty: false, beside: false };
        let state = State { server: None, conflicts: BTreeSet::new(), devices: vec![device; devices] };
        Self(BTreeSet::from([state]))
    }

    /// Lets all happen that may have happened unseen.
    fn meanwhile(&self) -> BTreeSet<State> {
        let (mut all, mut open) = (self.0.clone(), Vec::from_iter(self.0.clone()));
        while let Some(state) = open.pop() {
            for at in 0..state.devices.len() {
                for next in [state.send(at), state.receive(at), state.put_beside(at)].into_iter().flatten() {
                    if all.insert(next.clone()) {
                        open.push(next);
                    }
                }
            }
        }
        all
    }

    fn see(&mut self, what: &str, explain: impl Fn(State) -> Vec<State>) -> Result<(), Mystery> {
        let explained: BTreeSet<State> = self.meanwhile().into_iter().flat_map(explain).collect();
        if explained.is_empty() {
            return Err(Mystery(format!("{what}, where only these are possible: {:?}", self.meanwhile())));
        }
        self.0 = explained;
        Ok(())
    }

    /// Somebody reads.
    ///
    /// # Errors
    /// Where the value cannot be there, here and below.
    pub fn read(&mut self, at: usize, value: Value) -> Result<(), Mystery> {
        self.see(&format!("{at} reads {value:?}"), |state| {
            Vec::from_iter((state.devices[at].value == value).then_some(state))
        })
    }

    /// Somebody writes, or deletes, and takes a value away by that.
    pub fn write(&mut self, at: usize, taken: Value, value: Value) -> Result<(), Mystery> {
        self.see(&format!("{at} writes {value:?} over {taken:?}"), |state| state.write(at, taken, value))
    }

    /// Nothing happens any more: all have the same, and what is beside the file are conflicts.
    pub fn quiet(&mut self, value: Value, conflicts: &BTreeSet<u32>) -> Result<(), Mystery> {
        self.see(&format!("all have {value:?} in the end, and {conflicts:?} beside it"), |state| {
            let is_so = state.is_quiet() && state.server == value && state.conflicts == *conflicts;
            Vec::from_iter(is_so.then_some(state))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> BTreeSet<u32> {
        BTreeSet::new()
    }

    #[test]
    fn what_one_writes_the_other_reads_before_or_after_it_is_there() {
        let mut seen = Explanations::new(2);
        seen.write(0, None, Some(1)).expect("it is new");
        seen.read(1, None).expect("it is not there yet");
        seen.read(1, Some(1)).expect("it is there");
        assert!(seen.clone().read(1, None).is_err(), "it goes back");
        seen.write(1, Some(1), Some(2)).expect("it is an edit");
        assert!(seen.clone().quiet(Some(1), &none()).is_err(), "an edit is lost");
        assert!(seen.clone().quiet(Some(2), &BTreeSet::from([1])).is_err(), "there was no conflict");
        seen.quiet(Some(2), &none()).expect("as it should be");
    }

    #[test]
    fn of_two_edits_one_has_the_name_and_the_other_is_beside_it() {
        let mut seen = Explanations::new(2);
        seen.write(0, None, Some(1)).expect("it is new");
        seen.write(1, None, Some(2)).expect("it is new there");
        assert!(seen.clone().quiet(Some(1), &none()).is_err(), "an edit is lost");
        for (name, beside) in [(1, 2), (2, 1)] {
            seen.clone().quiet(Some(name), &BTreeSet::from([beside])).expect("a conflict");
        }
    }

    #[test]
    fn what_is_going_beside_a_file_may_still_be_taken_away_or_not() {
        let mut seen = Explanations::new(2);
        seen.write(0, None, Some(1)).expect("it is new");
        seen.write(1, None, Some(2)).expect("it is new there");
        seen.read(0, Some(1)).expect("it is there still");
        seen.write(1, Some(2), None).expect("it is deleted");
        for beside in [none(), BTreeSet::from([2])] {
            seen.clone().quiet(Some(1), &beside).expect("in time, or too late");
        }
        assert!(seen.quiet(Some(2), &none()).is_err(), "what nobody took away is lost");
    }

    #[test]
    fn a_deletion_takes_no_edit_away_that_it_did_not_see() {
        let mut seen = Explanations::new(2);
        seen.write(0, None, Some(1)).expect("it is new");
        seen.read(1, Some(1)).expect("it is there");
        seen.write(0, Some(1), None).expect("it is deleted");
        seen.write(1, Some(1), Some(2)).expect("and edited");
        assert!(seen.clone().quiet(None, &none()).is_err(), "an edit is lost");
        seen.quiet(Some(2), &none()).expect("the edit stays");
    }
}
