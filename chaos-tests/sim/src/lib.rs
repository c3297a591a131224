//! The deterministic simulator: production code over a simulated network and simulated disks, one thread, one seed.
//!
//! A seed decides everything: which faults a run has, when they strike, what clients do. The same seed gives the same
//! trace, which every run is checked for. The oracles say what must never be seen, whatever the faults.

pub mod devices;
pub mod metadata;
pub mod objects;
pub mod placement;
mod rng;

pub use rng::Rng;
