//! Commands that the cluster does not know yet: members of an older version could not even read them.

use holdfast_meta_raft_machine::command::{Outcome, Rejection, Request};

/// What of a submission may be proposed, and what is answered without.
pub struct Gated {
    pub allowed: Vec<Request>,
    /// By place in the submission; `None` where the group answers.
    answers: Vec<Option<Outcome>>,
}

impl Gated {
    /// Sorts out what needs a newer cluster than one of `version`; 0 is not known, and lets everything through.
    pub fn new(requests: Vec<Request>, version: u32) -> Self {
        let mut gated = Self { allowed: Vec::with_capacity(requests.len()), answers: Vec::new() };
        for request in requests {
            let since = request.command.since_version();
            let refused = version != 0 && since > version;
            gated.answers.push(refused.then_some(Outcome::Rejected(Rejection::NeedsClusterVersion(since))));
            if !refused {
                gated.allowed.push(request);
            }
        }
        gated
    }

    /// All outcomes, in the submission's order.
    pub fn merge(self, outcomes: Vec<Outcome>) -> Vec<Outcome> {
        let mut outcomes = outcomes.into_iter();
        self.answers.into_iter().filter_map(|answer| answer.or_else(|| outcomes.next())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_meta_raft_machine::{command::Command, records::Archive};

    #[test]
    fn what_is_too_new_is_refused_in_its_place() {
        let (old, new) = (Command::ResumeCollection, Command::NoteArchive { archive: Archive::default() });
        let requests: Vec<_> = [new.clone(), old.clone(), new, old].map(Request::idempotent).to_vec();
        let gated = Gated::new(requests.clone(), 2);
        assert_eq!(gated.allowed.len(), 2);
        let refused = Outcome::Rejected(Rejection::NeedsClusterVersion(3));
        let merged = gated.merge(vec![Outcome::Done, Outcome::Done]);
        assert_eq!(merged, [refused.clone(), Outcome::Done, refused, Outcome::Done]);
        assert_eq!(Gated::new(requests.clone(), 3).allowed.len(), 4);
        assert_eq!(Gated::new(requests, 0).allowed.len(), 4);
    }
}
