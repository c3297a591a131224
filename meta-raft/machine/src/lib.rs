//! The replicated state machine: what the cluster knows, and how commands change it.
//!
//! [`apply`] is a pure function of the state and one raft entry. It reads through a [`View`](holdfast_core::kv::View)
//! and answers a batch of writes, so that state of any size lives in RocksDB and memory stays bounded. Time and ids come
//! with the entry; a rejection is an answer, not an error; nothing here can see a clock, a file or a socket. The same log
//! gives byte-identical state on every member.
//!
//! [`query`] and [`list`] are the questions that gateways ask of the same state.

mod apply;
pub mod ask;
pub mod audit;
pub mod command;
mod keys;
pub mod list;
pub mod names;
pub mod people;
pub mod query;
pub mod records;

pub use apply::{Applied, CLUSTER_VERSION, apply};
