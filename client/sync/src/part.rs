//! A part of the trees that is merged by itself, so that what a change costs does not depend on how much there is.
//!
//! It holds what is asked for and all that its merge could depend on: what is above each node, whatever has a name that is
//! wanted, all that is in a directory that goes. Whether something is missing is seen by the merge's result: then it is
//! taken in, and merged again.

use crate::{
    merge::{Base, Conflicts, Label, Merged, Trees, merge},
    names::stem_of,
    tree::{Id, Node, Place, Tree, TreeError},
};
use std::collections::{BTreeMap, BTreeSet};

/// Which of the two trees that are trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Local,
    Remote,
}

const SIDES: [Side; 2] = [Side::Local, Side::Remote];

/// Whole trees, wherever they are kept.
pub trait Forest {
    type Error;

    /// A node of a tree.
    ///
    /// # Errors
    /// Where it cannot be read, here and below.
    fn node(&self, side: Side, id: Id) -> Result<Option<Node>, Self::Error>;

    /// What both sides had alike of a node.
    fn base(&self, id: Id) -> Result<Option<Base>, Self::Error>;

    /// The node at a place.
    fn at(&self, side: Side, place: &Place) -> Result<Option<Id>, Self::Error>;

    /// The nodes in a directory whose names begin so.
    fn inside(&self, side: Side, parent: Id, prefix: &[u8]) -> Result<Vec<Id>, Self::Error>;
}

/// A part of the trees, merged.
#[derive(Debug, Clone)]
pub struct Part {
    /// The part as it was.
    pub before: Trees,
    /// The nodes that are in it, on whichever side.
    pub ids: BTreeSet<Id>,
    pub merged: Merged,
}

/// Merges the part of the trees that some nodes belong to. `next_fresh` is above all numbers of fresh nodes anywhere.
///
/// # Errors
/// Where the trees cannot be read.
pub fn merge_part<F: Forest>(
    forest: &F,
    seeds: impl IntoIterator<Item = Id>,
    conflicts: Conflicts,
    label: Label<'_>,
    next_fresh: u64,
) -> Result<Part, F::Error> {
    let mut gathered =
        Gathered { forest, ids: BTreeSet::new(), nodes: BTreeMap::new(), synced: BTreeMap::new() };
    gathered.take(seeds.into_iter().collect())?;
    // What is aside already is in nobody's way.
    gathered.take(forest.inside(Side::Local, Id::Root, b"\0")?)?;
    loop {
        let before = gathered.trees();
        let merged = merge(before.clone(), conflicts, label, next_fresh);
        let missing = gathered.missing(&before, &merged)?;
        if missing.is_empty() {
            return Ok(Part { before, ids: gathered.ids, merged });
        }
        gathered.take(missing)?;
    }
}

/// What was taken in so far.
struct Gathered<'a, F> {
    forest: &'a F,
    ids: BTreeSet<Id>,
    nodes: BTreeMap<(Side, Id), Node>,
    synced: BTreeMap<Id, Base>,
}

impl<F: Forest> Gathered<'_, F> {
    /// Takes nodes in, and all that is above them.
    fn take(&mut self, mut open: Vec<Id>) -> Result<(), F::Error> {
        while let Some(id) = open.pop() {
            if id == Id::Root || !self.ids.insert(id) {
                continue;
            }
            for side in SIDES {
                if let Some(node) = self.forest.node(side, id)? {
                    open.push(node.place.parent);
                    self.nodes.insert((side, id), node);
                }
            }
            if let Some(base) = self.forest.base(id)? {
                open.extend(base.place.as_ref().map(|place| place.parent));
                self.synced.insert(id, base);
            }
        }
        Ok(())
    }

    fn trees(&self) -> Trees {
        let tree = |wanted: Side| {
            let nodes = self.nodes.iter().filter(|((side, _), _)| *side == wanted);
            let (tree, left) = Tree::grow(nodes.map(|((_, id), node)| (*id, node.clone())).collect());
            debug_assert!(left.is_empty(), "what is kept is a tree: {left:?}");
            tree
        };
        Trees { remote: tree(Side::Remote), local: tree(Side::Local), synced: self.synced.clone() }
    }

    /// What has to be taken in, too, before the merge can be held to be that of the whole trees.
    fn missing(&self, before: &Trees, merged: &Merged) -> Result<Vec<Id>, F::Error> {
        let mut missing = BTreeSet::new();
        // What each was called before, by what it is called now.
        let mut was: BTreeMap<Id, Id> = BTreeMap::new();
        for (from, to) in &merged.renumbered {
            let before = was.remove(from).unwrap_or(*from);
            was.insert(*to, before);
        }
        let named: BTreeMap<Id, Id> = was.iter().map(|(now, before)| (*before, *now)).collect();
        // Where the whole trees have a place: they do not know the new names yet.
        let of_whole = |side: Side, place: &Place| {
            let parent = was.get(&place.parent).filter(|_| side == Side::Local);
            Place { parent: *parent.unwrap_or(&place.parent), name: place.name.clone() }
        };
        for (side, tree) in [(Side::Local, &before.local), (Side::Remote, &before.remote)] {
            for (id, _) in tree.iter().filter(|(_, node)| node.kind.is_directory()) {
                let now = *named.get(&id).filter(|_| side == Side::Local).unwrap_or(&id);
                // One that is not what the server has under its name takes with it what is in it.
                let is_another = now != id && matches!(id, Id::Known(_));
                if is_another || !merged.tree.contains(now) {
                    self.all_in(side, id, &mut missing)?;
                }
            }
            for (id, node) in merged.tree.iter() {
                let before = *was.get(&id).filter(|_| side == Side::Local).unwrap_or(&id);
                let there = tree.get(before).map(|node| &node.place);
                let wanted = of_whole(side, &node.place);
                if there != Some(&wanted) {
                    missing.extend(self.forest.at(side, &wanted)?);
                }
            }
            for place in &merged.crowded {
                let wanted = of_whole(side, place);
                for is_directory in [false, true] {
                    let stem = stem_of(&wanted.name, is_directory);
                    missing.extend(self.forest.inside(side, wanted.parent, stem)?);
                }
            }
        }
        Ok(missing.into_iter().filter(|id| !self.ids.contains(id)).collect())
    }

    fn all_in(&self, side: Side, directory: Id, found: &mut BTreeSet<Id>) -> Result<(), F::Error> {
        let mut open = vec![directory];
        while let Some(id) = open.pop() {
            for inside in self.forest.inside(side, id, b"")? {
                if found.insert(inside) {
                    open.push(inside);
                }
            }
        }
        Ok(())
    }
}

/// Trees in memory.
impl Forest for Trees {
    type Error = TreeError;

    fn node(&self, side: Side, id: Id) -> Result<Option<Node>, TreeError> {
        Ok(self.side(side).get(id).cloned())
    }

    fn base(&self, id: Id) -> Result<Option<Base>, TreeError> {
        Ok(self.synced.get(&id).cloned())
    }

    fn at(&self, side: Side, place: &Place) -> Result<Option<Id>, TreeError> {
        Ok(self.side(side).at(place))
    }

    fn inside(&self, side: Side, parent: Id, prefix: &[u8]) -> Result<Vec<Id>, TreeError> {
        let inside = self.side(side).children(parent).filter(|(name, _)| name.starts_with(prefix));
        Ok(inside.map(|(_, id)| id).collect())
    }
}

impl Trees {
    fn side(&self, side: Side) -> &Tree {
        match side {
            Side::Local => &self.local,
            Side::Remote => &self.remote,
        }
    }
}
