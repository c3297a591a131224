//! The tree that both sides are to become.
//!
//! Each node is merged by itself, its place and what it is apart: what one side changed is taken over, what both changed
//! otherwise is a conflict. An edit or a move counts more than a deletion. Then the whole is made a tree again: parents that
//! are needed come back, directories that were moved into each other go back to where the server has them, and of several
//! nodes of one name all but one get another, unless they are the same.

use crate::{
    names::{conflicted, is_copy_of, stem_of},
    tree::{Id, Kind, Node, Place, Tree, TreeError},
};
use std::collections::{BTreeMap, BTreeSet};

/// What a client knows of a space.
#[derive(Debug, Clone, Default)]
pub struct Trees {
    /// What the server has, as far as it was heard of.
    pub remote: Tree,
    /// What was last found on the disk.
    pub local: Tree,
    /// What both had alike when they last agreed. Not always a tree: some steps are carried out before others.
    pub synced: BTreeMap<Id, Base>,
}

/// What both sides had alike of a node when they last agreed: each attribute by itself, as far as they ever did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Base {
    pub place: Option<Place>,
    pub kind: Option<Kind>,
    pub executable: Option<bool>,
}

impl From<Node> for Base {
    fn from(node: Node) -> Self {
        Self { place: Some(node.place), kind: Some(node.kind), executable: Some(node.executable) }
    }
}

impl Trees {
    /// Takes note of what both sides have alike by now, and forgets what neither has.
    pub fn agree(&mut self) {
        let Self { remote, local, synced } = self;
        synced.retain(|id, _| local.contains(*id) || remote.contains(*id));
        for (id, here) in local.iter() {
            let Some(there) = remote.get(id) else { continue };
            let base = synced.entry(id).or_default();
            if here.place == there.place {
                base.place = Some(here.place.clone());
            }
            if here.kind == there.kind {
                base.kind = Some(here.kind.clone());
            }
            if here.executable == there.executable {
                base.executable = Some(here.executable);
            }
        }
    }

    /// Calls a local node by another name, as the place of what is in it too.
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn renumber(&mut self, from: Id, to: Id) -> Result<(), TreeError> {
        self.local.renumber(from, to)?;
        if !self.local.is_directory(to) {
            return Ok(());
        }
        // What is in it was not moved by that.
        for place in self.synced.values_mut().filter_map(|base| base.place.as_mut()) {
            if place.parent == from {
                place.parent = to;
            }
        }
        Ok(())
    }
}

/// What becomes of a file that was edited on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflicts {
    /// The local bytes become another file, called a conflicted copy.
    Copy,
    /// The local bytes are committed above the server's, which are a version then. Where nothing is known of what both
    /// had before, who wrote last is not known either: then it is [`Conflicts::Copy`], as it is where two files were made
    /// of one name.
    LastWriter,
    /// Neither side changes until somebody decides. Two files that were made of one name are told apart as by
    /// [`Conflicts::Copy`].
    Manual,
}

/// Who makes conflicted copies, as their names say: a device and a date.
#[derive(Debug, Clone, Copy)]
pub struct Label<'a>(pub &'a str);

/// What is to be.
#[derive(Debug, Clone)]
pub struct Merged {
    /// What both sides are to become. Files that are [held](Merged::held) are in it as the server has them.
    pub tree: Tree,
    /// The trees, local nodes by the names that they have in `tree`: some turned out to be the server's, and some to be
    /// others than the server's.
    pub trees: Trees,
    /// Files whose bytes stay as they are on each side.
    pub held: BTreeSet<Id>,
    /// Which local nodes were given other names, in order.
    pub renumbered: Vec<(Id, Id)>,
    /// Places that several nodes were to have.
    pub crowded: BTreeSet<Place>,
    /// The next free number for nodes of the client's own.
    pub next_fresh: u64,
}

/// Merges any three trees. `next_fresh` is above all numbers of fresh nodes in them.
pub fn merge(trees: Trees, conflicts: Conflicts, label: Label<'_>, next_fresh: u64) -> Merged {
    let mut work = Work {
        trees,
        conflicts,
        label,
        next_fresh,
        wanted: BTreeMap::new(),
        held: BTreeSet::new(),
        renumbered: Vec::new(),
        crowded: BTreeSet::new(),
    };
    work.tell_apart();
    work.merge_nodes();
    loop {
        let came_back = work.bring_parents_back();
        if !work.break_cycles() && !came_back {
            break;
        }
    }
    work.tell_names_apart();
    let Work { trees, wanted, held, renumbered, crowded, next_fresh, .. } = work;
    let (tree, left) = Tree::grow(wanted);
    assert!(left.is_empty(), "what was merged is a tree: {left:?}");
    Merged { tree, trees, held, renumbered, crowded, next_fresh }
}

struct Work<'a> {
    trees: Trees,
    conflicts: Conflicts,
    label: Label<'a>,
    next_fresh: u64,
    /// What is to be, perhaps not yet a tree.
    wanted: BTreeMap<Id, Node>,
    held: BTreeSet<Id>,
    renumbered: Vec<(Id, Id)>,
    crowded: BTreeSet<Place>,
}

/// Whether a side moved a directory above a node that the other side deleted: what is in it was moved too.
fn moved_with(side: &Tree, other: &Tree, synced: &BTreeMap<Id, Base>, id: Id) -> bool {
    let went = |above: &Id| {
        let now = side.get(*above).map(|node| &node.place).filter(|place| !place.is_aside());
        let was = synced.get(above).and_then(|base| base.place.as_ref());
        now.is_some() && was.is_some() && now != was && !other.contains(*above)
    };
    side.above(id).any(|above| went(&above))
}

impl Work<'_> {
    /// A node as it was when both sides agreed, if it was one of this class.
    fn base(&self, id: Id, like: &Node) -> Base {
        let base = self.trees.synced.get(&id);
        let base = base.filter(|base| base.kind.as_ref().is_none_or(|kind| kind.same_class(&like.kind)));
        base.cloned().unwrap_or_default()
    }

    /// Where a local node is. One that somebody who was stopped left aside is where it was before.
    fn place_here(&self, id: Id, node: &Node) -> Place {
        if !node.place.is_aside() {
            return node.place.clone();
        }
        let known = self.base(id, node).place.or_else(|| Some(self.trees.remote.get(id)?.place.clone()));
        let exists = |place: &Place| {
            self.trees.local.is_directory(place.parent) || self.trees.remote.is_directory(place.parent)
        };
        let name = match node.place.before_aside() {
            b"" => b"recovered".to_vec(),
            name => name.to_vec(),
        };
        known.filter(exists).unwrap_or(Place { parent: Id::Root, name })
    }

    fn fresh(&mut self) -> Id {
        self.next_fresh += 1;
        Id::Fresh(self.next_fresh - 1)
    }

    /// Gives local nodes names of their own that are not, or no longer, what the server has under theirs.
    fn tell_apart(&mut self) {
        let others: Vec<Id> = self
            .trees
            .local
            .iter()
            .filter(|(id, node)| self.is_another(*id, node))
            .map(|(id, _)| id)
            .collect();
        for id in others {
            self.renumber(id);
        }
    }

    /// Makes a local node one of the client's own.
    fn renumber(&mut self, id: Id) -> Id {
        let fresh = self.fresh();
        self.call(id, fresh);
        fresh
    }

    /// Gives a local node a name that none has.
    fn call(&mut self, from: Id, to: Id) {
        let renumbered = self.trees.renumber(from, to);
        assert!(renumbered.is_ok(), "the one is there, and the other is not: {renumbered:?}");
        self.renumbered.push((from, to));
    }

    fn is_another(&self, id: Id, node: &Node) -> bool {
        let Id::Known(_) = id else { return false };
        let base = self.base(id, node);
        match self.trees.remote.get(id) {
            Some(remote) if !remote.kind.same_class(&node.kind) => true,
            Some(remote) => {
                let same = |kind: &Kind| base.kind.as_ref() == Some(kind);
                let both = remote.kind != node.kind && !same(&remote.kind) && !same(&node.kind);
                let copy = match self.conflicts {
                    Conflicts::Copy => true,
                    Conflicts::LastWriter => base.kind.is_none(),
                    Conflicts::Manual => false,
                };
                both && copy
            }
            // Deleted there, or never there: what was changed here since, or is not known to have been there, is new.
            None => {
                let place = self.place_here(id, node);
                let unchanged = base.kind.as_ref() == Some(&node.kind) && base.place == Some(place);
                let Trees { local, remote, synced } = &self.trees;
                !unchanged || moved_with(local, remote, synced, id)
            }
        }
    }

    fn merge_nodes(&mut self) {
        let ids: BTreeSet<Id> = self
            .trees
            .local
            .iter()
            .map(|(id, _)| id)
            .chain(self.trees.remote.iter().map(|(id, _)| id))
            .collect();
        for id in ids {
            if let Some(node) = self.merge_node(id) {
                self.wanted.insert(id, node);
            }
        }
    }

    fn merge_node(&mut self, id: Id) -> Option<Node> {
        let (local, remote) = (self.trees.local.get(id), self.trees.remote.get(id));
        match (local, remote) {
            (Some(local), Some(remote)) => {
                let base = self.base(id, remote);
                let here = self.place_here(id, local);
                let moved_here = base.place.as_ref() != Some(&here);
                let moved_there = base.place.as_ref() != Some(&remote.place);
                // Where both moved it, it goes where the server has it.
                let place = if moved_here && !moved_there { here } else { remote.place.clone() };
                let marked_here = base.executable.is_some_and(|was| was != local.executable);
                let executable = if marked_here { local.executable } else { remote.executable };
                let edited_here = base.kind.as_ref() != Some(&local.kind);
                let edited_there = base.kind.as_ref() != Some(&remote.kind);
                let mut kind = &remote.kind;
                if local.kind != remote.kind && edited_here {
                    // Of what both edited, a copy is another node by now.
                    if edited_there && self.conflicts != Conflicts::LastWriter {
                        self.held.insert(id);
                    } else {
                        kind = &local.kind;
                    }
                }
                Some(Node { place, kind: kind.clone(), executable })
            }
            (Some(local), None) => matches!(id, Id::Fresh(_))
                .then(|| Node { place: self.place_here(id, local), ..local.clone() }),
            (None, Some(remote)) => {
                let base = self.base(id, remote);
                let unchanged =
                    base.kind.as_ref() == Some(&remote.kind) && base.place.as_ref() == Some(&remote.place);
                let Trees { local, remote: tree, synced } = &self.trees;
                (!unchanged || moved_with(tree, local, synced, id)).then(|| remote.clone())
            }
            (None, None) => None,
        }
    }

    /// Directories that were deleted come back where something in them stays. Whether any did.
    fn bring_parents_back(&mut self) -> bool {
        let mut changed = false;
        loop {
            let needed =
                |node: &Node| node.place.parent != Id::Root && !self.wanted.contains_key(&node.place.parent);
            let missing: BTreeSet<Id> =
                self.wanted.values().filter(|node| needed(node)).map(|node| node.place.parent).collect();
            if missing.is_empty() {
                return changed;
            }
            changed = true;
            for id in missing {
                self.bring_back(id);
            }
        }
    }

    fn bring_back(&mut self, id: Id) {
        if let Some(node) = self.trees.remote.get(id) {
            self.wanted.insert(id, node.clone());
            return;
        }
        // The server has deleted it: it is made again, as another one.
        let fresh = self.renumber(id);
        let again = self.trees.local.get(fresh);
        let again = again.map(|node| Node { place: self.place_here(fresh, node), ..node.clone() });
        self.wanted.extend(again.map(|node| (fresh, node)));
        for node in self.wanted.values_mut().filter(|node| node.place.parent == id) {
            node.place.parent = fresh;
        }
    }

    /// Directories that were moved into each other go back to where the server has them. Whether any did.
    fn break_cycles(&mut self) -> bool {
        let mut changed = false;
        let mut safe: BTreeSet<Id> = BTreeSet::new();
        let ids: Vec<Id> = self.wanted.keys().copied().collect();
        for id in ids {
            let (mut path, mut seen, mut at) = (Vec::new(), BTreeSet::new(), id);
            while at != Id::Root && !safe.contains(&at) && seen.insert(at) {
                path.push(at);
                at = self.wanted.get(&at).map_or(Id::Root, |node| node.place.parent);
            }
            if seen.contains(&at) {
                // What the server has is a tree, so that one of them at least is elsewhere there. What only leads into
                // the cycle stays.
                let cycle = path.iter().position(|on| *on == at).map_or(&[][..], |start| &path[start..]);
                for back in cycle {
                    let there = self.trees.remote.get(*back).map(|node| node.place.clone());
                    if let (Some(node), Some(there)) = (self.wanted.get_mut(back), there)
                        && node.place != there
                    {
                        node.place = there;
                        changed = true;
                    }
                }
            }
            safe.extend(path);
        }
        changed
    }

    /// Of several nodes of one name one keeps it; the others are the same, or get names of their own.
    fn tell_names_apart(&mut self) {
        let mut taken: BTreeMap<Place, BTreeSet<Id>> = BTreeMap::new();
        for (id, node) in &self.wanted {
            taken.entry(node.place.clone()).or_default().insert(*id);
        }
        let mut crowded: Vec<Place> =
            taken.iter().filter(|(_, ids)| ids.len() > 1).map(|(place, _)| place.clone()).collect();
        while let Some(place) = crowded.pop() {
            let Some(ids) = taken.get(&place).filter(|ids| ids.len() > 1).cloned() else { continue };
            self.crowded.insert(place.clone());
            let at_home = |id: &Id| self.trees.remote.get(*id).is_some_and(|node| node.place == place);
            let keeper = ids.iter().copied().find(|id| at_home(id)).or_else(|| ids.first().copied());
            let Some(keeper) = keeper else { continue };
            for other in ids.into_iter().filter(|id| *id != keeper) {
                if let Some(ids) = taken.get_mut(&place) {
                    ids.remove(&other);
                }
                let same = Some(keeper).filter(|keeper| self.is_same(*keeper, other));
                if let Some(keeper) = same.or_else(|| self.copy_that_is(other, &place, &taken)) {
                    self.unite(keeper, other, &mut taken, &mut crowded);
                    continue;
                }
                let free = self.free_name(other, &place, &taken);
                taken.entry(free.clone()).or_default().insert(other);
                if let Some(node) = self.wanted.get_mut(&other) {
                    node.place = free;
                }
            }
        }
    }

    /// Whether a local node is what the keeper of its name is.
    fn is_same(&self, keeper: Id, other: Id) -> bool {
        let (Some(one), Some(two)) = (self.wanted.get(&keeper), self.wanted.get(&other)) else {
            return false;
        };
        let is_fresh = matches!(other, Id::Fresh(_));
        let directories = one.kind.is_directory() && two.kind.is_directory();
        is_fresh && (directories || (one.kind == two.kind && !self.trees.local.contains(keeper)))
    }

    /// A conflicted copy beside a place that is what `other` is: somebody, or this client before its answer was lost, has
    /// made it already.
    fn copy_that_is(&self, other: Id, place: &Place, taken: &BTreeMap<Place, BTreeSet<Id>>) -> Option<Id> {
        let is_directory = self.wanted.get(&other)?.kind.is_directory();
        let stem = stem_of(&place.name, is_directory);
        let first = Place { parent: place.parent, name: stem.to_vec() };
        let beside =
            taken.range(first..).take_while(|(at, _)| at.parent == place.parent && at.name.starts_with(stem));
        let copies = beside.filter(|(at, _)| is_copy_of(&at.name, &place.name, is_directory));
        let mut copies = copies.flat_map(|(_, ids)| ids.iter().copied());
        copies.find(|copy| !is_directory && *copy != other && self.is_same(*copy, other))
    }

    /// Has `other` be the keeper. What is in it goes there.
    fn unite(
        &mut self,
        keeper: Id,
        other: Id,
        taken: &mut BTreeMap<Place, BTreeSet<Id>>,
        crowded: &mut Vec<Place>,
    ) {
        self.wanted.remove(&other);
        if !self.trees.local.contains(keeper) {
            self.call(other, keeper);
        }
        let first = Place { parent: other, name: Vec::new() };
        let inside = taken.range(first..).take_while(|(place, _)| place.parent == other);
        let inside: Vec<Id> = inside.flat_map(|(_, ids)| ids.iter().copied()).collect();
        for id in inside {
            let Some(node) = self.wanted.get_mut(&id) else { continue };
            if let Some(ids) = taken.get_mut(&node.place) {
                ids.remove(&id);
            }
            node.place.parent = keeper;
            let ids = taken.entry(node.place.clone()).or_default();
            ids.insert(id);
            if ids.len() > 1 {
                crowded.push(node.place.clone());
            }
        }
    }

    fn free_name(&self, id: Id, place: &Place, taken: &BTreeMap<Place, BTreeSet<Id>>) -> Place {
        let is_directory = self.wanted.get(&id).is_some_and(|node| node.kind.is_directory());
        let mut number = 1;
        loop {
            let name = conflicted(&place.name, is_directory, self.label.0, number);
            let free = Place { parent: place.parent, name };
            if taken.get(&free).is_none_or(BTreeSet::is_empty) {
                return free;
            }
            number += 1;
        }
    }
}
