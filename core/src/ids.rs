//! Identifiers: one type for each kind of thing, so that a pack is never looked up as a segment.
//!
//! Fixed-width ids keep their big-endian bytes in keys, so that key order is id order.

use serde::{Deserialize, Serialize};
use std::fmt;

/// An id of `$bytes` opaque bytes, shown in hexadecimal.
macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            pub const LEN: usize = $bytes;

            pub fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }

            /// Reads an id back from a key; `None` where the length is not the id's.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// Parses the hexadecimal form that [`fmt::Display`] prints.
            pub fn from_hex(text: &str) -> Option<Self> {
                let mut bytes = [0; $bytes];
                hex::decode_to_slice(text, &mut bytes).ok()?;
                Some(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

/// A counter-like id, shown in decimal.
macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

byte_id!(
    /// The BLAKE3 hash of a chunk's plain bytes: the name by which it is deduplicated within a domain.
    ChunkId, 32
);
byte_id!(
    /// A pack's random name. Its first four bytes are the placement group that the gateway chose for it.
    PackId, 16
);
byte_id!(
    /// A manifest segment's random name.
    SegmentId, 16
);
byte_id!(
    /// A multipart upload's random name.
    UploadId, 16
);
byte_id!(
    /// Names one request of a client. Its first eight bytes are the client's clock in milliseconds, so that old ones
    /// can be forgotten in key order.
    RequestId, 16
);
byte_id!(
    /// A gateway's promise that an upload is alive.
    LeaseId, 16
);
byte_id!(
    /// One life of a device: made when its directory is formatted, never reused.
    Incarnation, 16
);

number_id!(
    /// A bucket; never reused.
    BucketId, u64
);
number_id!(
    /// A file or directory of a bucket's tree, stable over renames.
    NodeId, u64
);
number_id!(
    /// One version of a node, in commit order within the whole metadata group.
    VersionId, u64
);
number_id!(
    /// The boundary that deduplication never crosses: a tenant.
    DomainId, u64
);
number_id!(
    /// A placement group.
    PgId, u32
);
number_id!(
    /// A pool: placement groups of one erasure profile, over devices of one class.
    PoolId, u8
);
number_id!(
    /// A version of a placement group's list of devices.
    Epoch, u64
);
number_id!(
    /// A process of the cluster, as its certificate names it; never reused. A metadata member's raft id is its host's.
    HostId, u64
);
number_id!(
    /// A slot for a disk. The disk in it may be replaced; see [`Incarnation`].
    DeviceId, u32
);

impl ChunkId {
    /// Names a chunk by its plain bytes.
    pub fn of(plain: &[u8]) -> Self {
        Self(*blake3::hash(plain).as_bytes())
    }
}

impl PackId {
    /// A pack of `pg`, told apart from others by 96 random bits.
    pub fn new(pg: PgId, random: [u8; 12]) -> Self {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&pg.0.to_be_bytes());
        bytes[4..].copy_from_slice(&random);
        Self(bytes)
    }

    /// The greatest name below this one, if there is one.
    pub fn before(&self) -> Option<Self> {
        u128::from_be_bytes(self.0).checked_sub(1).map(|number| Self(number.to_be_bytes()))
    }

    /// The placement group that holds the pack.
    pub fn pg(&self) -> PgId {
        let [a, b, c, d, ..] = self.0;
        PgId(u32::from_be_bytes([a, b, c, d]))
    }
}

impl RequestId {
    /// A request made at `unix_ms` on the client's clock, told apart from others by 64 random bits.
    pub fn new(unix_ms: u64, random: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&unix_ms.to_be_bytes());
        bytes[8..].copy_from_slice(&random.to_be_bytes());
        Self(bytes)
    }

    /// When the client made the request, in milliseconds since 1970.
    pub fn unix_ms(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl PoolId {
    /// The pool that every system has.
    pub const FIRST: Self = Self(0);

    /// The domain of what is in the pool: chunks are not deduplicated with those of others.
    pub fn domain(self) -> DomainId {
        DomainId(1 + u64::from(self.0))
    }

    /// The pool's placement group of this number, of which there are fewer than 2^24.
    pub fn group(self, number: u32) -> PgId {
        PgId(u32::from(self.0) << 24 | number)
    }
}

impl PgId {
    /// The pool that the group belongs to.
    pub fn pool(self) -> PoolId {
        PoolId((self.0 >> 24) as u8)
    }
}

impl DomainId {
    /// The pool in which the domain's chunks are. The archive's domain, 0, is in the first one too.
    pub fn pool(self) -> PoolId {
        PoolId(self.0.saturating_sub(1) as u8)
    }
}

impl HostId {
    /// The only host of a system that runs in one process.
    pub const LOCAL: Self = Self(1);
}

impl NodeId {
    /// The root directory of every bucket.
    pub const ROOT: Self = Self(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_carries_its_placement_group() {
        let pack = PackId::new(PgId(0xdead_beef), [7; 12]);
        assert_eq!(pack.pg(), PgId(0xdead_beef));
        assert_eq!(PackId::from_hex(&pack.to_string()), Some(pack));
    }

    #[test]
    fn a_request_carries_its_time() {
        assert_eq!(RequestId::new(1_700_000_000_123, 5).unix_ms(), 1_700_000_000_123);
    }

    #[test]
    fn hex_of_another_length_is_no_id() {
        assert_eq!(UploadId::from_hex("00"), None);
        assert_eq!(UploadId::from_hex("zz000000000000000000000000000000"), None);
    }
}
