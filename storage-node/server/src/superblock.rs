//! What a device's directory says it is, twice: one damaged or deleted file does not cost a device.

use holdfast_core::ids::{DeviceId, Incarnation};
use holdfast_kv::durable;
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::{Path, PathBuf},
};
use thiserror::Error;

const FILES: [&str; 2] = ["device.toml", "segments/device.toml"];
const FORMAT: u32 = 1;

/// A device's identity, in `device.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    pub cluster: String,
    pub slot: DeviceId,
    pub incarnation: Incarnation,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    cluster: String,
    slot: u32,
    incarnation: String,
    /// CRC-32C of the fields above: a damaged copy must not pass for another device's.
    check: Option<String>,
}

impl Stored {
    fn sum(&self) -> String {
        let text = format!("{} {} {} {}", self.format, self.cluster, self.slot, self.incarnation);
        format!("{:08x}", crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, text.as_bytes()))
    }
}

/// A directory that is no device of this cluster.
#[derive(Debug, Error)]
pub enum SuperblockError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is damaged: {reason}. If the disk is to be replaced, empty its directory")]
    Damaged { path: PathBuf, reason: String },
    #[error(
        "{path} belongs to cluster {theirs}, slot {slot}: it is not used here, so that nothing of it is overwritten"
    )]
    Foreign { path: PathBuf, theirs: String, slot: u32 },
    #[error("{0} holds files and is no device: give a device an empty directory")]
    NotEmpty(PathBuf),
}

impl Superblock {
    /// Reads the superblock of `dir`; `None` where it has none.
    ///
    /// # Errors
    /// Where both copies are damaged.
    pub fn read(dir: &Path) -> Result<Option<Self>, SuperblockError> {
        let [first, second] = FILES.map(|file| Self::read_copy(dir.join(file)));
        match (first, second) {
            (Ok(Some(found)), _) | (_, Ok(Some(found))) => Ok(Some(found)),
            (first, second) => first.and(second),
        }
    }

    fn read_copy(path: PathBuf) -> Result<Option<Self>, SuperblockError> {
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) if source.kind() == io::ErrorKind::InvalidData => {
                return Err(SuperblockError::Damaged { path, reason: "it is not text".to_owned() });
            }
            Err(source) => return Err(SuperblockError::Io { path, source }),
            Ok(text) => text,
        };
        let damaged = |reason: String| SuperblockError::Damaged { path: path.clone(), reason };
        let stored: Stored = toml::from_str(&text).map_err(|error| damaged(error.message().to_owned()))?;
        if stored.format != FORMAT {
            return Err(damaged(format!("format {} is not known to this version", stored.format)));
        }
        if stored.check.as_ref().is_some_and(|check| *check != stored.sum()) {
            return Err(damaged("its checksum is wrong".to_owned()));
        }
        let incarnation = Incarnation::from_hex(&stored.incarnation);
        let incarnation =
            incarnation.ok_or_else(|| damaged("its incarnation is not 32 hexadecimal digits".to_owned()))?;
        Ok(Some(Self { cluster: stored.cluster, slot: DeviceId(stored.slot), incarnation }))
    }

    /// The superblock of `dir`, which is formatted where it is empty.
    ///
    /// # Errors
    /// Where the directory belongs elsewhere, holds other files, or cannot be written durably.
    pub fn open_or_format(
        dir: &Path,
        cluster: &str,
        slot: DeviceId,
        fresh: Incarnation,
    ) -> Result<Self, SuperblockError> {
        let path = dir.join(FILES[0]);
        let io = |source| SuperblockError::Io { path: path.clone(), source };
        let superblock = match Self::read(dir)? {
            Some(found) if found.cluster == cluster && found.slot == slot => found,
            Some(found) => {
                return Err(SuperblockError::Foreign { path, theirs: found.cluster, slot: found.slot.0 });
            }
            None => {
                let mut strangers = std::fs::read_dir(dir).map_err(io)?.flatten();
                // What an interrupted formatting leaves is nothing.
                let nothing = |entry: &std::fs::DirEntry| {
                    let name = entry.file_name();
                    let empty =
                        std::fs::read_dir(entry.path()).is_ok_and(|mut entries| entries.next().is_none());
                    name == "lost+found"
                        || name == "lock"
                        || name == "device.toml.new"
                        || (name == "segments" && empty)
                };
                if strangers.any(|entry| !nothing(&entry)) {
                    return Err(SuperblockError::NotEmpty(dir.to_owned()));
                }
                Self { cluster: cluster.to_owned(), slot, incarnation: fresh }
            }
        };
        // Written at every start: a disk that cannot sync is found now, and not with the first shard.
        let mut stored = Stored {
            format: FORMAT,
            cluster: superblock.cluster.clone(),
            slot: slot.0,
            incarnation: superblock.incarnation.to_string(),
            check: None,
        };
        stored.check = Some(stored.sum());
        let text = toml::to_string(&stored).map_err(|error| io(io::Error::other(error)))?;
        durable::create_dir(&dir.join("segments")).map_err(io)?;
        for file in FILES {
            durable::replace(&dir.join(file), text.as_bytes(), 0o600).map_err(io)?;
        }
        Ok(superblock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path, cluster: &str, slot: u32, life: u8) -> Result<Superblock, SuperblockError> {
        Superblock::open_or_format(dir, cluster, DeviceId(slot), Incarnation([life; 16]))
    }

    #[test]
    fn a_device_keeps_its_identity_until_it_is_emptied() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(open(dir.path(), "c", 1, 1).expect("formatted").incarnation, Incarnation([1; 16]));
        assert_eq!(open(dir.path(), "c", 1, 2).expect("opened").incarnation, Incarnation([1; 16]));
        assert!(matches!(open(dir.path(), "d", 1, 2), Err(SuperblockError::Foreign { .. })));
        assert!(matches!(open(dir.path(), "c", 2, 2), Err(SuperblockError::Foreign { .. })));
        // A bit that flips in one copy makes it nobody else's.
        let text = std::fs::read_to_string(dir.path().join(FILES[0])).expect("a file");
        for (from, to) in [("cluster = \"c\"", "cluster = \"b\""), ("slot = 1", "slot = 3"), ("0101", "0111")]
        {
            std::fs::write(dir.path().join(FILES[0]), text.replacen(from, to, 1)).expect("a write");
            assert_eq!(
                open(dir.path(), "c", 1, 2).expect("the other copy").incarnation,
                Incarnation([1; 16])
            );
        }
        std::fs::write(dir.path().join(FILES[0]), b"\xff\xfe").expect("a write");
        assert_eq!(open(dir.path(), "c", 1, 2).expect("the other copy").incarnation, Incarnation([1; 16]));
        for file in FILES {
            std::fs::write(dir.path().join(file), b"format = 9").expect("a write");
        }
        assert!(matches!(open(dir.path(), "c", 1, 2), Err(SuperblockError::Damaged { .. })));
        for file in FILES {
            std::fs::remove_file(dir.path().join(file)).expect("a removal");
        }
        std::fs::write(dir.path().join("precious"), b"x").expect("a write");
        assert!(matches!(open(dir.path(), "c", 1, 2), Err(SuperblockError::NotEmpty(_))));
    }
}
