//! What a sync client does next, decided from three trees of a space and nothing else.
//!
//! The *remote* tree is what the server has, as far as the client has heard; the *local* tree is what was last found on the
//! disk; the *synced* tree is what both were when they last agreed, and so the merge base that tells which side changed what
//! (the design of Dropbox's Nucleus; Jayakar, "Rewriting the heart of our sync engine", 2020). [`merge`] makes of any three
//! trees the one that both sides are to become; [`steps`] orders the changes that lead there so that each can be carried out
//! when its turn comes. [`merge_part`] does so for the part of large trees that a change concerns.

mod merge;
mod names;
mod part;
mod steps;
mod tree;

pub use merge::{Base, Conflicts, Label, Merged, Trees, merge};
pub use names::{conflicted, is_marked};
pub use part::{Forest, Part, Side, merge_part};
pub use steps::{Step, steps};
pub use tree::{Content, Id, Kind, Node, Place, Tree, TreeError};
