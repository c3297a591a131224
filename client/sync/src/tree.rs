//! A tree of named nodes, which is never anything else: no operation leaves a node without a parent, a cycle, or two
//! nodes of one name.

use holdfast_core::ids::NodeId;
use std::collections::BTreeMap;
use thiserror::Error;

/// Names a node in all trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Id {
    Root,
    /// The server's name for it, which it keeps wherever it moves.
    Known(NodeId),
    /// Made here, and not yet known to the server: told apart by a number of the client's own.
    Fresh(u64),
}

/// BLAKE3 of a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Content(pub [u8; 32]);

/// What a node is. Times are not part of it: touching a file changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Kind {
    Directory,
    File {
        content: Content,
    },
    /// A symbolic link, as a link: its content is where it leads.
    Link {
        content: Content,
    },
}

impl Kind {
    pub fn is_directory(&self) -> bool {
        *self == Self::Directory
    }

    /// Whether one may become the other by an edit. Everything else is another node.
    pub fn same_class(&self, other: &Self) -> bool {
        matches!(
            (self, other),
            (Self::Directory, Self::Directory)
                | (Self::File { .. }, Self::File { .. })
                | (Self::Link { .. }, Self::Link { .. })
        )
    }
}

/// Where a node is: its parent, and its name there, which is any bytes but `/` and NUL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub parent: Id,
    pub name: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    pub place: Place,
    pub kind: Kind,
    /// Of a file: whether it may be run. It is apart from what the file is, so that changing it is no edit.
    pub executable: bool,
}

/// Why a tree cannot be changed so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TreeError {
    #[error("the node is there already")]
    Exists,
    #[error("there is no such node")]
    Missing,
    #[error("the parent is not a directory of the tree")]
    NoParent,
    #[error("another node has the name")]
    Taken,
    #[error("the directory would be inside itself")]
    Cycle,
    #[error("the directory is not empty")]
    NotEmpty,
    #[error("a directory cannot become a file, nor a file a directory")]
    OtherClass,
}

/// Nodes below a root, which is always there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    nodes: BTreeMap<Id, Node>,
    names: BTreeMap<Place, Id>,
}

impl Tree {
    /// A tree of nodes, parents first, and those that it cannot have.
    pub fn grow(nodes: BTreeMap<Id, Node>) -> (Self, Vec<(Id, TreeError)>) {
        let mut inside: BTreeMap<Id, Vec<(Id, Node)>> = BTreeMap::new();
        for (id, node) in nodes {
            inside.entry(node.place.parent).or_default().push((id, node));
        }
        let (mut tree, mut left, mut open) = (Self::default(), Vec::new(), vec![Id::Root]);
        while let Some(parent) = open.pop() {
            for (id, node) in inside.remove(&parent).unwrap_or_default() {
                match tree.insert(id, node) {
                    Ok(()) => open.push(id),
                    Err(error) => left.push((id, error)),
                }
            }
        }
        left.extend(inside.into_values().flatten().map(|(id, _)| (id, TreeError::NoParent)));
        (tree, left)
    }

    pub fn get(&self, id: Id) -> Option<&Node> {
        self.nodes.get(&id)
    }

    pub fn contains(&self, id: Id) -> bool {
        self.nodes.contains_key(&id)
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// All nodes but the root, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (Id, &Node)> {
        self.nodes.iter().map(|(id, node)| (*id, node))
    }

    pub fn at(&self, place: &Place) -> Option<Id> {
        self.names.get(place).copied()
    }

    /// The nodes in a directory, in the order of their names.
    pub fn children(&self, parent: Id) -> impl Iterator<Item = (&[u8], Id)> {
        let from = Place { parent, name: Vec::new() };
        let inside = self.names.range(from..).take_while(move |(place, _)| place.parent == parent);
        inside.map(|(place, id)| (place.name.as_slice(), *id))
    }

    /// Whether it is the root, or a directory of the tree.
    pub fn is_directory(&self, id: Id) -> bool {
        id == Id::Root || self.get(id).is_some_and(|node| node.kind.is_directory())
    }

    /// The directories above a node, the nearest first, without the root.
    pub fn above(&self, id: Id) -> impl Iterator<Item = Id> {
        let parent = |id: &Id| self.get(*id).map(|node| node.place.parent).filter(|id| *id != Id::Root);
        std::iter::successors(parent(&id), parent)
    }

    /// # Errors
    /// As the name of each says: nothing is changed then.
    pub fn insert(&mut self, id: Id, node: Node) -> Result<(), TreeError> {
        if id == Id::Root || self.contains(id) {
            return Err(TreeError::Exists);
        }
        self.check_free(&node.place)?;
        self.names.insert(node.place.clone(), id);
        self.nodes.insert(id, node);
        Ok(())
    }

    fn check_free(&self, place: &Place) -> Result<(), TreeError> {
        if !self.is_directory(place.parent) {
            return Err(TreeError::NoParent);
        }
        if self.names.contains_key(place) { Err(TreeError::Taken) } else { Ok(()) }
    }

    /// # Errors
    /// As [`Tree::insert`].
    pub fn relocate(&mut self, id: Id, place: Place) -> Result<(), TreeError> {
        let old = self.get(id).ok_or(TreeError::Missing)?.place.clone();
        if old == place {
            return Ok(());
        }
        self.check_free(&place)?;
        if place.parent == id || self.above(place.parent).any(|above| above == id) {
            return Err(TreeError::Cycle);
        }
        self.names.remove(&old);
        self.names.insert(place.clone(), id);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.place = place;
        }
        Ok(())
    }

    /// # Errors
    /// As [`Tree::insert`].
    pub fn mark(&mut self, id: Id, executable: bool) -> Result<(), TreeError> {
        self.nodes.get_mut(&id).ok_or(TreeError::Missing)?.executable = executable;
        Ok(())
    }

    /// # Errors
    /// As [`Tree::insert`].
    pub fn edit(&mut self, id: Id, kind: Kind) -> Result<(), TreeError> {
        let node = self.nodes.get_mut(&id).ok_or(TreeError::Missing)?;
        if !node.kind.same_class(&kind) {
            return Err(TreeError::OtherClass);
        }
        node.kind = kind;
        Ok(())
    }

    /// Takes a node away that has nothing in it.
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn remove(&mut self, id: Id) -> Result<Node, TreeError> {
        if self.children(id).next().is_some() {
            return Err(TreeError::NotEmpty);
        }
        let node = self.nodes.remove(&id).ok_or(TreeError::Missing)?;
        self.names.remove(&node.place);
        Ok(node)
    }

    /// Calls a node by another name of the client's or the server's, in its children too.
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn renumber(&mut self, from: Id, to: Id) -> Result<(), TreeError> {
        if to == Id::Root || self.contains(to) {
            return Err(TreeError::Exists);
        }
        let node = self.nodes.remove(&from).ok_or(TreeError::Missing)?;
        self.names.insert(node.place.clone(), to);
        self.nodes.insert(to, node);
        let inside: Vec<Id> = self.children(from).map(|(_, id)| id).collect();
        for id in inside {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            self.names.remove(&node.place);
            node.place.parent = to;
            self.names.insert(node.place.clone(), id);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(parent: Id, name: &str) -> Place {
        Place { parent, name: name.into() }
    }

    fn directory(parent: Id, name: &str) -> Node {
        Node { place: place(parent, name), kind: Kind::Directory, executable: false }
    }

    #[test]
    fn nothing_makes_it_anything_but_a_tree() {
        let [a, b, c] = [Id::Fresh(1), Id::Known(NodeId(2)), Id::Fresh(3)];
        let mut tree = Tree::default();
        tree.insert(a, directory(Id::Root, "a")).expect("free");
        tree.insert(b, directory(a, "b")).expect("free");
        assert_eq!(tree.insert(a, directory(Id::Root, "x")), Err(TreeError::Exists));
        assert_eq!(tree.insert(c, directory(Id::Root, "a")), Err(TreeError::Taken));
        assert_eq!(tree.insert(c, directory(Id::Fresh(9), "c")), Err(TreeError::NoParent));
        assert_eq!(tree.relocate(a, place(b, "inside")), Err(TreeError::Cycle));
        assert_eq!(tree.relocate(a, place(a, "itself")), Err(TreeError::Cycle));
        assert_eq!(tree.remove(a), Err(TreeError::NotEmpty));
        let link = Kind::Link { content: Content([7; 32]) };
        assert_eq!(tree.edit(b, link.clone()), Err(TreeError::OtherClass));
        let link = Node { place: place(b, "c"), kind: link, executable: false };
        tree.insert(c, link).expect("free");
        assert_eq!(tree.insert(Id::Fresh(4), directory(c, "x")), Err(TreeError::NoParent));
        tree.renumber(b, Id::Fresh(7)).expect("free");
        assert_eq!(tree.above(c).collect::<Vec<_>>(), [Id::Fresh(7), a]);
        tree.relocate(Id::Fresh(7), place(Id::Root, "b")).expect("free");
        assert_eq!(tree.children(Id::Root).map(|(_, id)| id).collect::<Vec<_>>(), [a, Id::Fresh(7)]);
        tree.remove(c).expect("it is a link");
        assert_eq!((tree.len(), tree.at(&place(Id::Fresh(7), "c"))), (2, None));
    }
}
