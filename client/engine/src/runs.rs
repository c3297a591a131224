//! What of a file's chunks the version before it has: runs of those, and chunks that are new, each with the one before that it
//! was made of, as far as one can tell.

use holdfast_core::ids::ChunkId;
use std::collections::HashMap;

type Chunk = (ChunkId, u32);

/// Some of a file's chunks, one behind another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Where they are among the chunks before; `None` of new ones.
    pub first: Option<usize>,
    pub count: usize,
}

/// A file's chunks as runs, and of each new one the old one that it may be like.
pub fn runs(old: &[Chunk], new: &[Chunk]) -> (Vec<Run>, HashMap<ChunkId, usize>) {
    let mut places: HashMap<Chunk, usize> = HashMap::new();
    for (at, chunk) in old.iter().enumerate() {
        places.entry(*chunk).or_insert(at);
    }
    let (mut runs, mut like): (Vec<Run>, _) = (Vec::new(), HashMap::new());
    let (mut next, mut at) = (0, 0);
    while at < new.len() {
        let found = |at: usize| match old.get(next) == Some(&new[at]) {
            true => Some(next),
            false => places.get(&new[at]).copied(),
        };
        if let Some(first) = found(at) {
            let same = old[first..].iter().zip(&new[at..]).take_while(|(a, b)| a == b).count();
            runs.push(Run { first: Some(first), count: same });
            (next, at) = (first + same, at + same);
            continue;
        }
        let count = (at..new.len()).take_while(|at| found(*at).is_none()).count();
        let end = new.get(at + count).and_then(|_| found(at + count)).unwrap_or(old.len());
        for (number, (id, _)) in new[at..at + count].iter().enumerate() {
            if next < end {
                like.insert(*id, (next + number).min(end - 1));
            }
        }
        runs.push(Run { first: None, count });
        at += count;
    }
    (runs, like)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunks(numbers: &[u8]) -> Vec<Chunk> {
        numbers.iter().map(|number| (ChunkId::of(&[*number]), u32::from(*number))).collect()
    }

    fn like(old: &[u8], new: &[u8]) -> Vec<(u8, usize)> {
        let known = runs(&chunks(old), &chunks(new)).1;
        let of = |number: &u8| Some((*number, *known.get(&ChunkId::of(&[*number]))?));
        new.iter().filter_map(of).collect()
    }

    #[test]
    fn what_was_changed_is_like_what_was_there() {
        assert_eq!(like(&[1, 2, 3, 4], &[1, 2, 9, 4]), [(9, 2)]);
        assert_eq!(like(&[1, 2, 3, 4], &[9, 2, 3, 4]), [(9, 0)]);
        assert_eq!(like(&[1, 2, 3], &[1, 8, 9, 3]), [(8, 1), (9, 1)], "one became two");
        assert_eq!(like(&[1, 2, 3, 4], &[1, 9, 4]), [(9, 1)], "two became one");
        assert_eq!(like(&[1, 2], &[1, 9, 2]), [], "nothing was there");
        assert_eq!(like(&[1, 2], &[1, 2, 9]), []);
        assert_eq!(like(&[], &[1]), []);
    }

    proptest! {
        #[test]
        fn runs_are_the_file(old in proptest::collection::vec(0u8..20, 0..60), new in proptest::collection::vec(0u8..20, 0..60)) {
            let (old, new) = (chunks(&old), chunks(&new));
            let (runs, like) = runs(&old, &new);
            let mut again = Vec::new();
            for run in runs {
                let from = run.first.map_or(&new[again.len()..], |first| &old[first..]);
                prop_assert!(run.count > 0 && run.count <= from.len());
                again.extend_from_slice(&from[..run.count]);
            }
            prop_assert_eq!(again, new);
            prop_assert!(like.values().all(|at| *at < old.len()));
        }
    }
}
