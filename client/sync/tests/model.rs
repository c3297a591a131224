//! Trees of all kinds, merged: whatever the three are, both sides come to be one, and nothing that anybody wrote is lost.
//!
//! `HOLDFAST_SYNC_CASES` says how many cases there are, and `HOLDFAST_SYNC_START` the first seed.

use holdfast_client_sync::{
    Base, Conflicts, Content, Id, Kind, Label, Merged, Node, Place, Step, Tree, TreeError, Trees, merge,
    merge_part, steps,
};
use holdfast_core::ids::NodeId;
use std::collections::{BTreeMap, BTreeSet};

const LABEL: Label<'static> = Label("laptop, 2026-11-23");

/// A small generator (xorshift64*; Marsaglia 2003, Vigna 2016): the same seed gives the same case on every machine.
struct Rng(u64);

impl Rng {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % limit.max(1)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len())]) }
    }

    fn kind(&mut self, contents: usize) -> Kind {
        match self.below(8) {
            0..3 => Kind::Directory,
            3..7 => Kind::File { content: Content([self.below(contents) as u8; 32]) },
            _ => Kind::Link { content: Content([100 + self.below(3) as u8; 32]) },
        }
    }

    fn place(&mut self, tree: &Tree) -> Place {
        let mut parents: Vec<Id> =
            tree.iter().map(|(id, _)| id).filter(|id| tree.is_directory(*id)).collect();
        parents.extend([Id::Root, Id::Root]);
        let parent = self.pick(&parents).unwrap_or(Id::Root);
        let name = [&b"a"[..], b"b", b"c.txt", b"d"][self.below(4)].to_vec();
        Place { parent, name }
    }
}

fn number(setting: &str, default: u64) -> u64 {
    std::env::var(setting).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs a check on many seeds; the one that fails is in the message of its panic.
fn each_seed(default: u64, check: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let start = number("HOLDFAST_SYNC_START", 0);
    for seed in start..start + number("HOLDFAST_SYNC_CASES", default) {
        let outcome = std::panic::catch_unwind(|| check(seed));
        assert!(outcome.is_ok(), "seed {seed} fails: HOLDFAST_SYNC_START={seed} HOLDFAST_SYNC_CASES=1");
    }
}

/// A random tree, whose nodes are of a few ids so that those of several trees meet.
fn random_tree(rng: &mut Rng, fresh: bool) -> Tree {
    let mut tree = Tree::default();
    for _ in 0..rng.below(10) {
        let id = match fresh && rng.below(4) == 0 {
            true => Id::Fresh(rng.below(6) as u64),
            false => Id::Known(NodeId(1 + rng.below(12) as u64)),
        };
        let (place, kind) = (rng.place(&tree), rng.kind(5));
        let executable = matches!(kind, Kind::File { .. }) && rng.below(4) == 0;
        let node = Node { place, kind, executable };
        // What cannot be there is not.
        let _refused = tree.insert(id, node);
    }
    tree
}

/// Trees that may have nothing to do with each other.
fn three_trees(rng: &mut Rng) -> Trees {
    let (remote, local) = (random_tree(rng, false), random_tree(rng, true));
    Trees { remote, local, synced: map_of(&random_tree(rng, false)) }
}

/// Changes a tree as somebody would; what cannot be done is left.
fn disturb(rng: &mut Rng, tree: &mut Tree, next_fresh: &mut u64, new_content: &mut impl FnMut() -> Content) {
    let ids: Vec<Id> = tree.iter().map(|(id, _)| id).collect();
    let outcome = match rng.below(10) {
        0..4 => {
            *next_fresh += 1;
            let kind = match rng.below(3) {
                0 => Kind::Directory,
                _ => Kind::File { content: new_content() },
            };
            tree.insert(Id::Fresh(*next_fresh - 1), Node { place: rng.place(tree), kind, executable: false })
        }
        4..6 => match rng.pick(&ids) {
            Some(id) if !tree.is_directory(id) => match rng.below(4) {
                0 => tree.mark(id, rng.below(2) == 0),
                _ => tree.edit(id, Kind::File { content: new_content() }),
            },
            Some(_) | None => Ok(()),
        },
        6..8 => match rng.pick(&ids) {
            Some(id) => {
                let place = rng.place(tree);
                tree.relocate(id, place)
            }
            None => Ok(()),
        },
        _ => match rng.pick(&ids) {
            Some(id) => {
                prune(tree, id);
                Ok(())
            }
            None => Ok(()),
        },
    };
    let _refused: Result<(), TreeError> = outcome;
}

/// Removes a node with all that is in it.
fn prune(tree: &mut Tree, id: Id) {
    let inside: Vec<Id> = tree.children(id).map(|(_, id)| id).collect();
    inside.into_iter().for_each(|id| prune(tree, id));
    tree.remove(id).expect("it is empty by now");
}

fn map_of(tree: &Tree) -> BTreeMap<Id, Base> {
    tree.iter().map(|(id, node)| (id, Base::from(node.clone()))).collect()
}

fn content_of(node: &Node) -> Option<Content> {
    match &node.kind {
        Kind::File { content } => Some(*content),
        Kind::Directory | Kind::Link { .. } => None,
    }
}

fn base_content(base: &Base) -> Option<Content> {
    match base.kind {
        Some(Kind::File { content }) => Some(content),
        Some(Kind::Directory | Kind::Link { .. }) | None => None,
    }
}

fn contents(tree: &Tree) -> BTreeSet<Content> {
    tree.iter().filter_map(|(_, node)| content_of(node)).collect()
}

/// What a tree is after all steps to the merged one; every one of them can be taken.
fn arrive(mut tree: Tree, merged: &Merged) -> Tree {
    for step in steps(&tree, &merged.tree, &merged.held) {
        step.carry_out(&mut tree).unwrap_or_else(|error| panic!("{step:?}: {error}"));
    }
    tree
}

fn same_but_held(tree: &Tree, merged: &Merged) -> bool {
    tree.len() == merged.tree.len()
        && merged.tree.iter().all(|(id, node)| {
            tree.get(id).is_some_and(|found| {
                (&found.place, found.executable) == (&node.place, node.executable)
                    && (found.kind == node.kind || merged.held.contains(&id))
            })
        })
}

/// Held against everything that must be true of any merge.
fn check(trees: &Trees, conflicts: Conflicts) {
    let merged = merge(trees.clone(), conflicts, LABEL, 1000);
    let arrive = |tree: &Tree| arrive(tree.clone(), &merged);
    let (local, remote) = (arrive(&merged.trees.local), arrive(&trees.remote));
    assert!(same_but_held(&local, &merged), "the disk becomes what was planned");
    assert!(same_but_held(&remote, &merged), "the server becomes what was planned");
    let asked = merge(trees.clone(), conflicts, LABEL, 1000);
    let told = |merged: &Merged| (merged.tree.clone(), merged.trees.local.clone());
    assert_eq!(told(&asked), told(&merged), "it is the same every time");

    // Nobody's bytes are lost.
    let kept = contents(&merged.tree);
    let new = |tree: &Tree| -> Vec<(Id, Content)> {
        let of = tree.iter().filter_map(|(id, node)| Some((id, content_of(node)?)));
        of.filter(|(id, content)| trees.synced.get(id).and_then(base_content) != Some(*content)).collect()
    };
    for (id, content) in new(&trees.local) {
        assert!(kept.contains(&content) || merged.held.contains(&id), "{id:?} was written here");
    }
    for (id, content) in new(&trees.remote) {
        let is_version = conflicts == Conflicts::LastWriter && trees.local.contains(id);
        assert!(kept.contains(&content) || is_version, "{id:?} was written there");
    }
    // And nothing comes back that one side deleted and the other left alone.
    let untouched = |tree: &Tree, id: Id| {
        let chain = std::iter::once(id).chain(tree.above(id));
        chain.into_iter().all(|id| {
            let (node, base) = (tree.get(id), trees.synced.get(&id));
            let base = base.and_then(|base| Some((base.place.as_ref()?, base.kind.as_ref()?)));
            node.map(|node| (&node.place, &node.kind)) == base
        })
    };
    for (side, other) in [(&trees.local, &trees.remote), (&trees.remote, &trees.local)] {
        for (id, _) in side.iter().filter(|(id, node)| content_of(node).is_some() && !other.contains(*id)) {
            if untouched(side, id) {
                assert!(!merged.tree.contains(id), "{id:?} was deleted");
            }
        }
    }
    settles(&merged, local, remote, conflicts);
}

/// What both sides have become is merged to itself, with nothing to do.
fn settles(merged: &Merged, local: Tree, mut remote: Tree, conflicts: Conflicts) {
    let fresh: Vec<Id> = remote.iter().map(|(id, _)| id).filter(|id| matches!(id, Id::Fresh(_))).collect();
    let mut again = Trees { remote: Tree::default(), local, synced: merged.trees.synced.clone() };
    for (at, id) in fresh.into_iter().enumerate() {
        let known = Id::Known(NodeId(5000 + at as u64));
        remote.renumber(id, known).expect("it is new");
        again.renumber(id, known).expect("it is new");
    }
    again.remote = remote;
    again.agree();
    let next = merge(again.clone(), conflicts, LABEL, 2000);
    assert_eq!(next.trees.local, again.local, "nothing is called otherwise");
    assert_eq!(steps(&next.trees.local, &next.tree, &next.held), [], "nothing is left to be done here");
    assert_eq!(steps(&again.remote, &next.tree, &next.held), [], "nothing is left to be done there");
}

#[test]
fn any_three_trees_become_one() {
    each_seed(30_000, |seed| {
        let trees = three_trees(&mut Rng::new(seed));
        for conflicts in [Conflicts::Copy, Conflicts::LastWriter, Conflicts::Manual] {
            check(&trees, conflicts);
        }
    });
}

/// The nodes of which not all three trees say the same.
fn disagreed(trees: &Trees) -> Vec<Id> {
    let ids: BTreeSet<Id> = trees.local.iter().chain(trees.remote.iter()).map(|(id, _)| id).collect();
    let agreed = |id: &Id| {
        let base = trees.remote.get(*id).map(|node| Base::from(node.clone()));
        trees.local.get(*id) == trees.remote.get(*id) && trees.synced.get(id) == base.as_ref()
    };
    ids.into_iter().filter(|id| !agreed(id)).collect()
}

/// Merges trees some nodes at a time: all that is true of the merge in whole is true of this, too.
fn check_parts(mut trees: Trees, conflicts: Conflicts, rng: &mut Rng) {
    let untouched = |side: &Tree, id: Id| {
        let mut chain = std::iter::once(id).chain(side.above(id));
        chain.all(|id| side.get(id).map(|node| Base::from(node.clone())).as_ref() == trees.synced.get(&id))
    };
    let deleted = |side: &Tree, other: &Tree| -> Vec<Id> {
        let files = side.iter().filter(|(id, node)| content_of(node).is_some() && !other.contains(*id));
        files.map(|(id, _)| id).filter(|id| untouched(side, *id)).collect()
    };
    let deleted = [deleted(&trees.local, &trees.remote), deleted(&trees.remote, &trees.local)].concat();
    let written = |tree: &Tree| -> BTreeSet<Content> {
        let of = tree.iter().filter_map(|(id, node)| Some((id, content_of(node)?)));
        let new = of.filter(|(id, content)| trees.synced.get(id).and_then(base_content) != Some(*content));
        new.map(|(_, content)| content).collect()
    };
    let written: BTreeSet<Content> = written(&trees.local).union(&written(&trees.remote)).copied().collect();
    let (mut next_fresh, mut next_known, mut versions) = (1000, 5000, contents(&trees.remote));
    for round in 0.. {
        assert!(round < 200, "it comes to an end");
        let held = |id: &Id| {
            conflicts == Conflicts::Manual && trees.local.contains(*id) && trees.remote.contains(*id)
        };
        let open = disagreed(&trees);
        if open.iter().all(held) {
            break;
        }
        let seeds: Vec<Id> = (0..1 + rng.below(3)).filter_map(|_| rng.pick(&open)).collect();
        let part = merge_part(&trees, seeds, conflicts, LABEL, next_fresh).expect("memory reads");
        next_fresh = part.merged.next_fresh;
        for (from, to) in &part.merged.renumbered {
            trees.renumber(*from, *to).expect("it is there, and the name is free");
        }
        for step in steps(&part.merged.trees.local, &part.merged.tree, &part.merged.held) {
            step.carry_out(&mut trees.local).unwrap_or_else(|error| panic!("{step:?} here: {error}"));
        }
        for step in steps(&part.before.remote, &part.merged.tree, &part.merged.held) {
            step.carry_out(&mut trees.remote).unwrap_or_else(|error| panic!("{step:?} there: {error}"));
        }
        let fresh: Vec<Id> = trees.remote.iter().map(|(id, _)| id).collect();
        for id in fresh.into_iter().filter(|id| matches!(id, Id::Fresh(_))) {
            next_known += 1;
            trees.remote.renumber(id, Id::Known(NodeId(next_known))).expect("it is new");
            trees.renumber(id, Id::Known(NodeId(next_known))).expect("it is new");
        }
        versions.extend(contents(&trees.remote));
        trees.agree();
    }
    let kept: BTreeSet<Content> = versions.union(&contents(&trees.local)).copied().collect();
    assert!(written.is_subset(&kept), "nobody's bytes are lost");
    for id in deleted {
        assert!(!trees.remote.contains(id), "{id:?} was deleted");
    }
    assert_eq!(trees.local.len(), trees.remote.len(), "both sides are one");
}

#[test]
fn any_three_trees_become_one_part_by_part() {
    each_seed(30_000, |seed| {
        let mut rng = Rng::new(seed);
        let trees = three_trees(&mut rng);
        for conflicts in [Conflicts::Copy, Conflicts::LastWriter, Conflicts::Manual] {
            check_parts(trees.clone(), conflicts, &mut rng);
        }
    });
}

#[test]
fn what_two_sides_do_to_one_tree_is_merged() {
    each_seed(30_000, |seed| {
        let mut rng = Rng::new(seed);
        let base = random_tree(&mut rng, false);
        let (mut remote, mut local) = (base.clone(), base.clone());
        let mut next = 100u8;
        let mut new_content = || {
            next = next.wrapping_add(1);
            Content([next; 32])
        };
        let (mut here, mut there) = (0, 0);
        for _ in 0..rng.below(6) {
            disturb(&mut rng, &mut local, &mut here, &mut new_content);
        }
        for _ in 0..rng.below(6) {
            disturb(&mut rng, &mut remote, &mut there, &mut new_content);
        }
        for number in 0..there {
            let _not_made = remote.renumber(Id::Fresh(number), Id::Known(NodeId(100 + number)));
        }
        let trees = Trees { remote, local, synced: map_of(&base) };
        for conflicts in [Conflicts::Copy, Conflicts::LastWriter, Conflicts::Manual] {
            check(&trees, conflicts);
            check_parts(trees.clone(), conflicts, &mut rng);
        }
    });
}

/// A server, and what was ever committed to it.
#[derive(Default)]
struct Server {
    tree: Tree,
    next: u64,
    versions: BTreeSet<Content>,
}

#[derive(Default)]
struct Client {
    trees: Trees,
    next_fresh: u64,
}

impl Client {
    /// Hears from the server, and carries out a part of what is to be done, as if it were killed then.
    fn sync(&mut self, server: &mut Server, rng: &mut Rng, whole: bool) {
        self.trees.remote = server.tree.clone();
        let merged = merge(self.trees.clone(), Conflicts::Copy, LABEL, self.next_fresh);
        self.next_fresh = merged.next_fresh;
        self.trees = merged.trees.clone();
        let here = steps(&self.trees.local, &merged.tree, &merged.held);
        let there = steps(&server.tree, &merged.tree, &merged.held);
        let some = |rng: &mut Rng, all: usize| if whole { all } else { rng.below(all + 1) };
        let (some_here, some_there) = (some(rng, here.len()), some(rng, there.len()));
        for step in &there[..some_there] {
            step.carry_out(&mut server.tree).expect("it was planned from what is there");
            server.versions.extend(contents(&server.tree));
        }
        for step in &here[..some_here] {
            self.take(step, server);
        }
        put_back(&mut server.tree);
        let made: Vec<Id> =
            server.tree.iter().map(|(id, _)| id).filter(|id| matches!(id, Id::Fresh(_))).collect();
        for id in made {
            server.next += 1;
            let known = Id::Known(NodeId(server.next));
            server.tree.renumber(id, known).expect("it is new");
            let _not_there_yet = self.trees.renumber(id, known);
        }
        self.trees.remote = server.tree.clone();
        self.trees.agree();
    }

    /// Carries out a step on the disk, which never destroys what is nowhere else.
    fn take(&mut self, step: &Step, server: &Server) {
        let before = contents(&self.trees.local);
        step.carry_out(&mut self.trees.local).expect("it was planned from what is there");
        for lost in before.difference(&contents(&self.trees.local)) {
            assert!(server.versions.contains(lost), "{step:?} destroys what was never committed");
        }
    }
}

/// What a killed client left aside on the server goes back into the root, under names that nobody has.
fn put_back(tree: &mut Tree) {
    let aside: Vec<(Id, Place)> = tree
        .iter()
        .filter(|(_, node)| node.place.is_aside())
        .map(|(id, node)| (id, node.place.clone()))
        .collect();
    for (id, place) in aside {
        let name = [b"put back ", &place.name[1..]].concat();
        let mut free = Place { parent: Id::Root, name };
        while tree.at(&free).is_some() {
            free.name.push(b'\'');
        }
        tree.relocate(id, free).expect("it is free");
    }
}

#[test]
fn several_clients_that_are_killed_come_to_agree_and_lose_nothing() {
    each_seed(5_000, |seed| {
        let mut rng = Rng::new(seed);
        let mut server = Server { next: 10_000, ..Server::default() };
        let mut clients: Vec<Client> = (0..2 + rng.below(2)).map(|_| Client::default()).collect();
        let mut next = 0u32;
        for _ in 0..rng.below(40) {
            let at = rng.below(clients.len());
            let client = &mut clients[at];
            if rng.below(3) > 0 {
                let mut new_content = || {
                    next += 1;
                    let mut content = [0; 32];
                    content[..4].copy_from_slice(&next.to_be_bytes());
                    Content(content)
                };
                disturb(&mut rng, &mut client.trees.local, &mut client.next_fresh, &mut new_content);
            } else {
                let whole = rng.below(2) == 0;
                client.sync(&mut server, &mut rng, whole);
            }
        }
        let written: BTreeSet<Content> =
            clients.iter().flat_map(|client| contents(&client.trees.local)).collect();
        for _ in 0..clients.len() + 2 {
            clients.iter_mut().for_each(|client| client.sync(&mut server, &mut rng, true));
        }
        for client in &clients {
            assert_eq!(client.trees.local, server.tree, "all have the same");
        }
        assert!(written.is_subset(&server.versions), "all that was on a disk is somewhere to be found");
    });
}
