//! RocksDB behind the contracts of [`holdfast_core::kv`], and the file operations that must survive a power cut.
//!
//! This is the only crate that links RocksDB, so that what durability depends on (synchronised logs, checksum
//! verification, no silent repair) is set and tested in one place.

pub mod durable;
mod fail_stop;
mod rocks;

pub use fail_stop::fail_stop;
pub use rocks::{Database, Family, Snapshot, Tuning};
