//! Objects to packs and back, as decisions without I/O.
//!
//! [`PackBuilder`] makes packs of chunks, [`WriteSession`] decides when a pack is durable enough to acknowledge, and
//! [`ReadSession`] which shards to ask for a range of a pack, and what to do when some are missing, late or lie. A driver
//! beside this crate carries bytes and time in and out.

mod build;
mod chunk;
mod read;
mod write;

pub use build::{PackBuilder, SealedPack};
pub use chunk::{ChunkError, open_chunk};
pub use read::{Fetch, ReadError, ReadSession, suspects};
pub use write::{WriteOutcome, WriteSession};
