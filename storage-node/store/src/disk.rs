//! What the store needs of a disk: numbered segment files.

use std::{fmt, io};

/// A segment file's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct SegmentId(pub u32);

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// Room on the file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    pub free: u64,
}

/// Segment files. Offsets and lengths of writes are multiples of 4096.
pub trait Disk {
    /// The segments that exist.
    ///
    /// # Errors
    /// As all here: what the operating system says.
    fn segments(&self) -> io::Result<Vec<SegmentId>>;

    /// Makes room for bytes `from..to` of a segment, which is made where it does not exist. Fails rather than leaves a
    /// later write without room.
    fn reserve(&self, segment: SegmentId, from: u64, to: u64) -> io::Result<()>;

    /// Writes `parts` one after another from `offset`, which has been reserved. Not durable before [`Disk::sync`].
    fn write(&self, segment: SegmentId, offset: u64, parts: &[&[u8]]) -> io::Result<()>;

    /// Makes all writes to the segment durable. After an error nothing is known of any of them.
    fn sync(&self, segment: SegmentId) -> io::Result<()>;

    /// Reads exactly `into`; bytes beyond the end of the file are zeros.
    fn read(&self, segment: SegmentId, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// As [`Disk::read`], from the medium and not from a cache of it.
    fn read_medium(&self, segment: SegmentId, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Gives the space of a range back. Its bytes are zeros, or as before.
    fn punch(&self, segment: SegmentId, offset: u64, len: u64) -> io::Result<()>;

    /// Cuts the segment off at `len`, giving reserved space back.
    fn truncate(&self, segment: SegmentId, len: u64) -> io::Result<()>;

    fn remove(&self, segment: SegmentId) -> io::Result<()>;

    fn space(&self) -> io::Result<Space>;
}
