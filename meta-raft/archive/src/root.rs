//! Roots: the file on every device from which a cluster without metadata is found again.

use crate::{
    ArchiveKey, Nonce, RecoveryKey, SealError,
    key::{open, seal},
};
use holdfast_core::{
    codec,
    ids::{DeviceId, HostId},
};
use holdfast_meta_raft_machine::records::{Archive, Authority, Host, Pool};
use serde::{Deserialize, Serialize};

const WHAT: &str = "root";

/// The newest root counts: raft's term, and a counter within it.
pub type RootVersion = (u64, u64);

/// A root as devices keep it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// The cluster's name for itself.
    pub cluster: String,
    pub version: RootVersion,
    /// The archive's key, sealed under the operators' recovery key.
    wrapped: Vec<u8>,
    /// [`Contents`], sealed under the archive's key.
    sealed: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
enum VersionedRoot {
    V1(Root),
}

/// What a root says to who can open it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Signs the certificates of hosts; `None` for a system in one process.
    pub authority: Option<Authority>,
    pub pool: Pool,
    pub hosts: Vec<(HostId, Host)>,
    /// Which host has which device.
    pub devices: Vec<(DeviceId, HostId)>,
    pub archive: Archive,
}

#[derive(Serialize, Deserialize)]
enum VersionedContents {
    V1(Contents),
}

impl Root {
    /// Seals `contents`; `wrapped` is the key as [`ArchiveKey::wrap`] gave it.
    pub fn seal(
        cluster: String,
        version: RootVersion,
        wrapped: Vec<u8>,
        key: &ArchiveKey,
        nonce: Nonce,
        contents: Contents,
    ) -> Self {
        let about = about(&cluster, version);
        let sealed = seal(&key.contents(), nonce, &about, &codec::encode(&VersionedContents::V1(contents)));
        Self { cluster, version, wrapped, sealed }
    }

    /// The archive's key and what the root says.
    ///
    /// # Errors
    /// Where the key is another cluster's, or the root is damaged.
    pub fn open(&self, recovery: &RecoveryKey) -> Result<(ArchiveKey, Contents), SealError> {
        let key = ArchiveKey::unwrap(recovery, &self.wrapped)?;
        let plain = open(WHAT, &key.contents(), &about(&self.cluster, self.version), &self.sealed)?;
        let decoded = codec::decode(WHAT, &plain).map_err(|_| SealError::Malformed(WHAT))?;
        let VersionedContents::V1(contents) = decoded;
        Ok((key, contents))
    }

    pub fn to_bytes(self) -> Vec<u8> {
        codec::encode(&VersionedRoot::V1(self))
    }

    /// # Errors
    /// Where the bytes are no root.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SealError> {
        let VersionedRoot::V1(root) = codec::decode(WHAT, bytes).map_err(|_| SealError::Malformed(WHAT))?;
        Ok(root)
    }
}

fn about(cluster: &str, (term, counter): RootVersion) -> Vec<u8> {
    [&term.to_le_bytes(), &counter.to_le_bytes(), cluster.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::{profile::Profile, topology::FailureDomain};

    #[test]
    fn a_root_opens_with_the_recovery_key() {
        let (recovery, key) = (RecoveryKey::new([1; 32]), ArchiveKey::new([2; 32]));
        let pool = Pool {
            profile: Profile::new(4, 2).expect("a profile"),
            pg_count: 8,
            domain: FailureDomain::Rack,
        };
        let contents = Contents {
            authority: None,
            pool,
            hosts: Vec::new(),
            devices: vec![(DeviceId(1), HostId(2))],
            archive: Archive::default(),
        };
        let wrapped = key.wrap(&recovery, [3; 12]);
        let root = Root::seal("c".into(), (4, 5), wrapped, &key, [6; 12], contents.clone());
        let read = Root::from_bytes(&root.clone().to_bytes()).expect("a root");
        assert_eq!(read.open(&recovery), Ok((key, contents)));
        assert!(read.open(&RecoveryKey::new([7; 32])).is_err());
        let newer = Root { version: (5, 0), ..root };
        assert!(newer.open(&recovery).is_err(), "its version is sealed too");
        assert!(Root::from_bytes(b"nothing").is_err());
    }
}
