//! Consensus, driven as handle and poll: tikv's raft-rs over a log in any [`Store`](holdfast_core::kv::Store).
//!
//! raft-rs decides; this crate keeps its contract: what is durable before which message leaves, which entries may be
//! applied, and how a log is opened again after a crash. It has no thread, clock or socket of its own. A driver calls
//! [`Pump::tick`], [`Pump::step`] and [`Pump::propose`], then polls [`Pump::poll`] until it has nothing left.

mod log;
mod pump;

pub use log::{LogError, LoggedEntry, RaftLog, Watermark, begin_at, read_entries, survive_alone};
pub use pump::{
    CommittedEntry, Envelope, MemberChange, MemberId, Pump, PumpConfig, PumpError, ReadReady, SnapshotSource,
    TakenSnapshot, Work,
};

#[cfg(test)]
mod tests;
