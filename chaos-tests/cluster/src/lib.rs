//! A real cluster on one machine, in network namespaces, to which everything is done that happens to clusters.
//!
//! Three metadata members, six storage nodes and two gateways, each with an address of its own, stand in three racks. While
//! clients write, read and compare-and-swap, hosts are killed and paused, networks cut and made lossy, disks wiped, damaged
//! and filled. Afterwards the history of every register must be linearizable, every acknowledged object must be there, and
//! the cluster must be well again by itself.

pub mod client;
pub mod history;
mod lab;
mod load;
mod nemesis;
mod run;

pub use client::Client;
pub use lab::{Lab, can_run};
pub use run::{Report, run};
