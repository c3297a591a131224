//! What a data directory is: which cluster, which profile, how many devices.
//!
//! The identity is written before anything else is made, and again when the system has been set up. From then on a
//! missing metadata store is a loss to be reported, and never a reason to begin anew over devices that hold data.

use crate::config::Config;
use holdfast_core::profile::Profile;
use holdfast_kv::durable;
use holdfast_storage_node_server::Superblock;
use serde::{Deserialize, Serialize};
use std::{io, path::Path};
use thiserror::Error;

const FILE: &str = "cluster.toml";
const FORMAT: u32 = 1;

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    format: u32,
    pub cluster: String,
    pub profile: String,
    pub devices: u32,
    /// The system has been set up; until then nothing in it can be data.
    pub ready: bool,
}

#[derive(Debug, Error)]
pub enum IdentityError {
    #[error("{0}: {1}")]
    Io(String, io::Error),
    #[error("{0} is damaged. Restore it from a backup: it names the cluster that the devices belong to")]
    Damaged(String),
    #[error(
        "the metadata of this system is gone: {0} does not exist, but the system was set up before. Bring it back from the \
             devices with \"holdfast recover --from-devices --data DIR\". Nothing was changed"
    )]
    MetadataGone(String),
    #[error(
        "{0} is a device with data, and {1} is not the data directory it belongs to. Nothing was changed"
    )]
    StrayDevice(String, String),
    #[error(
        "the system was made with the erasure profile {have}, and {asked} was asked for: the profile of a pool \
             cannot be changed"
    )]
    Profile { have: String, asked: String },
    #[error(
        "the system was made with {have} devices, and {asked} were asked for: adding and removing devices is not \
             possible in this version"
    )]
    Devices { have: u32, asked: u32 },
}

impl Identity {
    /// Reads the identity of a data directory, or gives it one.
    ///
    /// # Errors
    /// Where it does not fit what is there, or what was asked for.
    pub fn read_or_make(config: &Config) -> Result<Self, IdentityError> {
        let path = config.data.join(FILE);
        let shown = path.display().to_string();
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                no_strays(config)?;
                let fresh = Self::fresh(config);
                fresh.write(&config.data).map_err(|error| IdentityError::Io(shown, error))?;
                return Ok(fresh);
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(IdentityError::Damaged(shown));
            }
            Err(error) => return Err(IdentityError::Io(shown, error)),
            Ok(text) => text,
        };
        let found: Self = toml::from_str(&text).map_err(|_| IdentityError::Damaged(shown.clone()))?;
        if found.format != FORMAT {
            return Err(IdentityError::Damaged(shown));
        }
        let metadata = config.data.join("meta").join("db").join("CURRENT");
        if found.ready && !metadata.exists() {
            return Err(IdentityError::MetadataGone(metadata.display().to_string()));
        }
        let (profile, devices) = (config.profile.to_string(), config.devices.len() as u32);
        if found.profile != profile {
            return Err(IdentityError::Profile { have: found.profile, asked: profile });
        }
        if found.devices != devices {
            return Err(IdentityError::Devices { have: found.devices, asked: devices });
        }
        Ok(found)
    }

    /// The identity of a system whose metadata was recovered from its devices.
    pub fn recovered(cluster: String, profile: Profile, devices: u32) -> Self {
        Self { format: FORMAT, cluster, profile: profile.to_string(), devices, ready: true }
    }

    fn fresh(config: &Config) -> Self {
        Self {
            format: FORMAT,
            cluster: hex::encode(rand::random::<[u8; 16]>()),
            profile: config.profile.to_string(),
            devices: config.devices.len() as u32,
            ready: false,
        }
    }

    /// # Errors
    /// Where the file cannot be written.
    pub fn write(&self, data: &Path) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        durable::replace(&data.join(FILE), text.as_bytes(), 0o600)
    }
}

/// A system is set up over fresh devices only.
fn no_strays(config: &Config) -> Result<(), IdentityError> {
    for device in &config.devices {
        if let Ok(Some(_)) = Superblock::read(&device.dir) {
            let (dir, data) = (device.dir.display().to_string(), config.data.display().to_string());
            return Err(IdentityError::StrayDevice(dir, data));
        }
    }
    Ok(())
}
