//! Every limit of the system, each with its reason.

/// Shards of a pack, data and parity together. A shard's presence is one bit of a `u32`, and no published profile for
/// disks is wider.
pub const SHARDS_MAX: usize = 32;

/// Plain bytes in a pack before it is closed. 4 MiB over 4+2 gives shards of 1 MiB: large enough that a disk's
/// flush and a record's header are noise, small enough that an upload's buffers are.
pub const PACK_BYTES: usize = 4 << 20;

/// Chunks in a pack. Bounds the table of contents (and so the command that registers it) where chunks are tiny.
pub const PACK_CHUNKS_MAX: usize = 4096;

/// Shards are padded to this where they are stored in segment files, so that they can be written without a copy by
/// direct I/O.
pub const SHARD_ALIGN: usize = 4096;

/// Shards up to this size are values in the device's RocksDB instead of segment records, whose 4 KiB header and
/// alignment would cost more than RocksDB's log does. They are padded to [`SMALL_SHARD_ALIGN`] only.
pub const SMALL_SHARD_BYTES: usize = 4096;

/// What small shards are padded to: a cache line, so that erasure kernels run on whole vectors.
pub const SMALL_SHARD_ALIGN: usize = 64;

/// The unit of a shard's own checksums: the least that a range read must fetch and verify.
pub const BLOCK_BYTES: usize = 32 << 10;

/// Chunks that one manifest segment names. A segment is then under 48 KiB, and the work to release it is bounded.
pub const SEGMENT_CHUNKS_MAX: usize = 1024;

/// One raft entry's commands. raft-rs sends entries whole, so that one must not hold up a heartbeat.
pub const RAFT_ENTRY_BYTES_MAX: usize = 1 << 20;

/// An object's key, as in S3.
pub const KEY_BYTES_MAX: usize = 1024;

/// Names and values of an object's own metadata together, as in S3.
pub const USER_METADATA_BYTES_MAX: usize = 2048;

/// Parts of a multipart upload, as in S3.
pub const PARTS_MAX: u16 = 10_000;

/// The least size of any part but the last, as in S3.
pub const PART_BYTES_MIN: u64 = 5 << 20;

/// An object's size, as in S3: 5 TiB.
pub const OBJECT_BYTES_MAX: u64 = 5 << 40;

/// A single PUT's size, as in S3: 5 GiB.
pub const PUT_BYTES_MAX: u64 = 5 << 30;

/// Keys on one page of a listing, as in S3.
pub const LIST_KEYS_MAX: usize = 1000;

/// How long the outcome of a request is remembered for a client that repeats it, and how old a request may be.
pub const REQUEST_WINDOW_MS: u64 = 10 * 60 * 1000;

/// How long a deleted pack's name stays refused: far longer than any gateway can hold a write in flight.
pub const TOMBSTONE_MS: u64 = 24 * 60 * 60 * 1000;

/// The furthest that one raft entry moves the metadata's clock, which follows the leader's monotonic clock and not the
/// wall's: a host whose time jumps a year ahead does not end every grace period.
pub const CLOCK_STEP_MAX_MS: u64 = 60 * 60 * 1000;

/// Journal records kept for a bucket. A sync client that was away for longer compares trees instead.
pub const JOURNAL_RECORDS_MAX: u64 = 1_000_000;

/// Bytes of the name of a journal's reader.
pub const CURSOR_NAME_MAX: usize = 128;

/// Chunk references that one garbage collection command touches: some milliseconds of `apply`, so that writes do not
/// wait behind it.
pub const COLLECT_STEPS_MAX: u32 = 2048;

const _: () = assert!(PACK_BYTES.is_multiple_of(SHARD_ALIGN));
const _: () = assert!(SHARD_ALIGN.is_multiple_of(SMALL_SHARD_ALIGN));
const _: () = assert!(BLOCK_BYTES.is_multiple_of(SHARD_ALIGN));
