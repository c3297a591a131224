//! The shard store of one device: recycled segment files for shards, a sorted index for where they are.
//!
//! A shard is written once, as a self-describing record: a 4 KiB header and the payload, appended to the active segment
//! and synced before it is acknowledged. The index is written after it and not synced: after a crash the tail of the
//! log-like active segments is read again and their records indexed. Space comes back by whole segments, and by holes
//! where a deleted shard was.
//!
//! Plain synchronous code over a [`Disk`] and a [`Store`](holdfast_core::kv::Store): the simulator runs the same code
//! over disks that tear, rot and lie.

mod disk;
mod fs_disk;
mod record;
#[cfg(any(test, feature = "sim"))]
mod sim_disk;
mod store;

pub use disk::{Disk, SegmentId, Space};
pub use fs_disk::FsDisk;
pub use record::{BadHeader, HEADER_BYTES, Header};
#[cfg(any(test, feature = "sim"))]
pub use sim_disk::SimDisk;
pub use store::{
    Inventory, PutShard, Recovered, SEGMENT_BYTES, ShardError, ShardId, ShardStore, StoreConfig, Usage,
    WriteClass,
};
