//! A host of a cluster: its configuration, its identity, the roles that it runs.

pub mod config;
pub mod found;
pub mod identity;
mod roles;
mod storage;
mod watch;

pub use roles::run;
