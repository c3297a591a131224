//! The words of Holdfast and the contracts between its parts.
//!
//! Everything here is pure: no clock, no randomness, no files, no sockets. Ids and time come from outside, so that
//! the same inputs give the same outputs in production, in tests and in the simulator.

pub mod buffer;
pub mod chunker;
pub mod codec;
pub mod ids;
pub mod kv;
pub mod limits;
pub mod manifest;
pub mod pack;
pub mod profile;
pub mod roles;
pub mod topology;
