//! The way from one tree to another, step by step.

use crate::tree::{Id, Kind, Node, Place, Tree, TreeError};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A change that can be carried out when its turn comes: every step before it done, it leaves a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Create {
        id: Id,
        node: Node,
    },
    /// To its place, or [aside](Place::is_aside) for a while.
    Move {
        id: Id,
        to: Place,
    },
    Edit {
        id: Id,
        kind: Kind,
    },
    /// Makes a file one that may be run, or one that may not.
    Mark {
        id: Id,
        executable: bool,
    },
    /// Of a file or link, or of a directory with nothing in it.
    Remove {
        id: Id,
    },
}

impl Step {
    /// Changes a tree so.
    ///
    /// # Errors
    /// Where it is not this step's turn.
    pub fn carry_out(&self, tree: &mut Tree) -> Result<(), TreeError> {
        match self.clone() {
            Self::Create { id, node } => tree.insert(id, node),
            Self::Move { id, to } => tree.relocate(id, to),
            Self::Edit { id, kind } => tree.edit(id, kind),
            Self::Mark { id, executable } => tree.mark(id, executable),
            Self::Remove { id } => tree.remove(id).map(drop),
        }
    }
}

impl Place {
    /// A place outside all names, for what is in another's way until that other has moved too. It says what the name was:
    /// whoever is stopped in the middle finds it by that.
    fn aside(number: usize, name: &[u8]) -> Self {
        Self { parent: Id::Root, name: [format!("\0{number}\0").as_bytes(), name].concat() }
    }

    /// The name that something had before it was put aside.
    pub(crate) fn before_aside(&self) -> &[u8] {
        self.name.splitn(3, |byte| *byte == 0).nth(2).unwrap_or_default()
    }

    /// Whether it is no place of the space's: what is there goes on to another.
    pub fn is_aside(&self) -> bool {
        self.name.first() == Some(&0)
    }
}

/// The steps from one tree to another. What is `held` is not edited.
///
/// Nodes take their places from the root downwards, each as soon as its parent is there and its name free; what is removed
/// goes last, deepest first: until then it is nowhere else, perhaps.
pub fn steps(from: &Tree, to: &Tree, held: &BTreeSet<Id>) -> Vec<Step> {
    let mut way = Way {
        now: from.clone(),
        to,
        steps: Vec::new(),
        queue: VecDeque::new(),
        for_place: BTreeMap::new(),
        for_parent: BTreeMap::new(),
        inside_itself: Vec::new(),
        aside: 0,
    };
    way.line_up();
    way.walk();
    way.remove_rest();
    for (id, node) in to.iter() {
        let Some(was) = from.get(id) else { continue };
        if was.kind != node.kind && !held.contains(&id) {
            way.steps.push(Step::Edit { id, kind: node.kind.clone() });
        }
        if was.executable != node.executable {
            way.steps.push(Step::Mark { id, executable: node.executable });
        }
    }
    way.steps
}

struct Way<'a> {
    now: Tree,
    to: &'a Tree,
    steps: Vec<Step>,
    /// Nodes to be made or moved.
    queue: VecDeque<Id>,
    /// Those whose name another has, by their place.
    for_place: BTreeMap<Place, Id>,
    /// Those whose parent is not there.
    for_parent: BTreeMap<Id, Vec<Id>>,
    /// Those whose parent is still inside them.
    inside_itself: Vec<Id>,
    aside: usize,
}

impl Way<'_> {
    /// All that is to be made or moved, parents before what is in them.
    fn line_up(&mut self) {
        let mut open = VecDeque::from([Id::Root]);
        while let Some(parent) = open.pop_front() {
            for (_, id) in self.to.children(parent) {
                if self.to.is_directory(id) {
                    open.push_back(id);
                }
                if self.now.get(id).map(|node| &node.place) != self.to.get(id).map(|node| &node.place) {
                    self.queue.push_back(id);
                }
            }
        }
    }

    fn walk(&mut self) {
        loop {
            while let Some(id) = self.queue.pop_front() {
                self.settle(id);
            }
            let Some((place, id)) = self.for_place.pop_first() else { break };
            self.clear(&place);
            self.queue.push_back(id);
        }
        let stuck = self.for_parent.len() + self.inside_itself.len();
        assert!(stuck == 0, "every node of a tree comes to its place");
    }

    /// Takes a node to its place, or has it wait for what is in its way.
    fn settle(&mut self, id: Id) {
        let Some(node) = self.to.get(id) else { return };
        let before = self.now.get(id).map(|node| node.place.clone());
        let outcome = match &before {
            Some(_) => self.now.relocate(id, node.place.clone()),
            None => self.now.insert(id, node.clone()),
        };
        match outcome {
            Ok(()) => {
                self.steps.push(match before {
                    Some(_) => Step::Move { id, to: node.place.clone() },
                    None => Step::Create { id, node: node.clone() },
                });
                self.queue.extend(before.and_then(|place| self.for_place.remove(&place)));
                self.queue.extend(self.for_parent.remove(&id).unwrap_or_default());
                self.queue.extend(std::mem::take(&mut self.inside_itself));
            }
            Err(TreeError::Taken) => drop(self.for_place.insert(node.place.clone(), id)),
            Err(TreeError::NoParent) => self.for_parent.entry(node.place.parent).or_default().push(id),
            Err(TreeError::Cycle) => self.inside_itself.push(id),
            Err(
                other
                @ (TreeError::Exists | TreeError::Missing | TreeError::NotEmpty | TreeError::OtherClass),
            ) => {
                unreachable!("a node has one place in each tree: {other}")
            }
        }
    }

    /// Gets a place free whose owner waits for another itself, or is to go: that goes last, when nothing in it stays.
    fn clear(&mut self, place: &Place) {
        let Some(id) = self.now.at(place) else { return };
        let Some(before) = self.now.get(id).map(|node| node.place.clone()) else { return };
        let place = loop {
            self.aside += 1;
            let place = Place::aside(self.aside, &before.name);
            // Whoever was stopped in the middle left something there.
            if self.now.at(&place).is_none() {
                break place;
            }
        };
        let moved = self.now.relocate(id, place.clone());
        assert!(moved.is_ok(), "there is room aside: {moved:?}");
        self.steps.push(Step::Move { id, to: place });
        self.queue.extend(self.for_place.remove(&before));
    }

    fn remove(&mut self, id: Id) {
        let removed = self.now.remove(id);
        assert!(removed.is_ok(), "what is removed is empty by then: {removed:?}");
        self.steps.push(Step::Remove { id });
    }

    fn remove_rest(&mut self) {
        let (mut open, mut goes) = (vec![Id::Root], Vec::new());
        while let Some(id) = open.pop() {
            if id != Id::Root && !self.to.contains(id) {
                goes.push(id);
            }
            open.extend(self.now.children(id).map(|(_, id)| id));
        }
        goes.into_iter().rev().for_each(|id| self.remove(id));
    }
}
