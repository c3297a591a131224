//! What keeps a directory and a space the same: hears the server, looks at the disk, decides with
//! [`holdfast_client_sync`], and carries it out on both sides.
//!
//! It works over any [`System`](system::System) and any [`Server`](server::Server), has no thread and no timer of its own,
//! and may be stopped at any moment.

pub mod chunks;
pub mod disk;
pub mod engine;
pub mod error;
pub mod linux;
mod look;
mod partial;
mod runs;
mod scan;
pub mod server;
pub mod state;
pub mod store;
pub mod system;

pub use engine::{Dirty, Engine, Keep, Passed, Root, strategy};
