//! The configuration of a host of a cluster, checked in one pass.

use holdfast_core::{
    roles::{Role, Roles},
    topology::Place,
};
use holdfast_meta_raft_machine::records::Host;
use holdfast_net::transport::named;
use serde::Deserialize;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use toml::Spanned;

use crate::config::{ConfigError, DoorConfig, Mistakes, RawDoor, address, duration, local_port, read};

/// A device that is silent for so long is given up, unless told otherwise.
const OUT_AFTER: Duration = Duration::from_secs(10 * 60);

/// A host of a cluster.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// Where its identity and metadata are.
    pub data: PathBuf,
    /// What people call it.
    pub name: String,
    pub roles: Roles,
    pub place: Place,
    /// Where it listens for other hosts.
    pub listen: SocketAddr,
    /// Where others reach it.
    pub advertise: String,
    pub s3: SocketAddr,
    /// How the S3 door is called.
    pub door: DoorConfig,
    pub metrics: SocketAddr,
    /// Where a metadata member serves the admin API, where it does.
    pub admin: Option<SocketAddr>,
    /// Where a gateway syncs with devices, where it does.
    pub sync: Option<SocketAddr>,
    pub devices: Vec<PathBuf>,
    pub gc_grace: Duration,
    pub scrub_period: Duration,
    /// How long lifecycle rules take a day to be.
    pub lifecycle_day: Duration,
    /// A device that is silent for so long is out.
    pub out_after: Duration,
    /// What the cluster's hosts speak over: tcp or quic.
    pub transport: String,
    /// Metadata members to ask beside those that are known.
    pub members: Vec<String>,
}

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    data: Spanned<String>,
    name: Spanned<String>,
    roles: Vec<Spanned<String>>,
    place: Spanned<String>,
    listen: Spanned<String>,
    advertise: Option<Spanned<String>>,
    s3: Option<Spanned<String>>,
    domains: Option<Spanned<Vec<String>>>,
    tls_cert: Option<Spanned<PathBuf>>,
    tls_key: Option<Spanned<PathBuf>>,
    public_url: Option<String>,
    metrics: Option<Spanned<String>>,
    admin: Option<Spanned<String>>,
    sync: Option<Spanned<String>>,
    gc_grace: Option<Spanned<String>>,
    scrub_period: Option<Spanned<String>>,
    /// In seconds.
    lifecycle_day: Option<Spanned<u32>>,
    out_after: Option<Spanned<String>>,
    transport: Option<Spanned<String>>,
    #[serde(default)]
    members: Vec<String>,
    #[serde(default)]
    device: Vec<RawDevice>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDevice {
    dir: Spanned<String>,
}

impl HostConfig {
    /// The host as the metadata knows it.
    pub fn record(&self) -> Host {
        Host {
            name: self.name.clone(),
            roles: self.roles,
            address: self.advertise.clone(),
            place: self.place.clone(),
            revoked: false,
        }
    }

    /// # Errors
    /// Where the file cannot be read, or with all its mistakes.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let (name, text) = read(path)?;
        Self::from_text(&name, &text)
    }

    /// Turns a file's text into a configuration, or into all its mistakes.
    ///
    /// # Errors
    /// With the mistakes.
    pub fn from_text(name: &str, text: &str) -> Result<Self, ConfigError> {
        let mut mistakes = Mistakes::new(name, text);
        let raw: RawFile = toml::from_str(text).map_err(|error| mistakes.syntax(&error))?;
        let nowhere = Place { zone: String::new(), rack: String::new(), node: String::new() };
        let listen = mistakes.parse(Some(&raw.listen), local_port(7400), address);
        let hour = Duration::from_secs(3600);
        let place = mistakes.parse(Some(&raw.place), nowhere, |text| {
            text.parse::<Place>().map_err(|error| error.to_string())
        });
        let mut roles = Roles::NONE;
        for role in &raw.roles {
            let operator = || "an operator is no host: the roles are meta, storage and gateway".to_owned();
            let parsed = mistakes.parse(Some(role), None, |text| match text.parse() {
                Ok(Role::Operator) => Err(operator()),
                Ok(role) => Ok(Some(role)),
                Err(error) => Err(error.to_string()),
            });
            roles = parsed.map_or(roles, |role| roles.with(role));
        }
        if raw.roles.is_empty() {
            mistakes.whole("a host needs a role: meta, storage or gateway");
        }
        let host_name = raw.name.get_ref().clone();
        let letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '.';
        if host_name.is_empty() || host_name.len() > 64 || !host_name.chars().all(letter) {
            mistakes.at(&raw.name, "a host's name has 1 to 64 letters, digits, hyphens and dots");
        }
        let mut devices: Vec<PathBuf> = Vec::new();
        for device in &raw.device {
            let dir = PathBuf::from(device.dir.get_ref());
            if devices.contains(&dir) {
                mistakes.at(&device.dir, &format!("device {} is there twice", dir.display()));
            }
            devices.push(dir);
        }
        if roles.has(Role::Storage) == devices.is_empty() {
            mistakes.whole(if devices.is_empty() {
                "a storage node needs a [[device]]"
            } else {
                "only a storage node has devices"
            });
        }
        let advertise = raw.advertise.map_or_else(|| listen.to_string(), Spanned::into_inner);
        let config = Self {
            data: PathBuf::from(raw.data.get_ref()),
            name: host_name,
            roles,
            place,
            listen,
            advertise,
            s3: mistakes.parse(raw.s3.as_ref(), local_port(9000), address),
            metrics: mistakes.parse(raw.metrics.as_ref(), local_port(9001), address),
            door: mistakes.door(&RawDoor {
                domains: raw.domains,
                tls_cert: raw.tls_cert,
                tls_key: raw.tls_key,
                public_url: raw.public_url,
            }),
            admin: mistakes.parse(raw.admin.as_ref(), None, |text| address(text).map(Some)),
            sync: mistakes.parse(raw.sync.as_ref(), None, |text| address(text).map(Some)),
            devices,
            gc_grace: mistakes.parse(raw.gc_grace.as_ref(), hour, duration),
            scrub_period: mistakes.parse(raw.scrub_period.as_ref(), 14 * 24 * hour, duration),
            lifecycle_day: mistakes.lifecycle_day(raw.lifecycle_day.as_ref()),
            out_after: mistakes.parse(raw.out_after.as_ref(), OUT_AFTER, duration),
            transport: mistakes
                .parse(raw.transport.as_ref(), "tcp".to_owned(), |text| named(text).map(|_| text.to_owned())),
            members: raw.members,
        };
        mistakes.finish(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_is_enough() {
        let text = "data = \"d\"\nname = \"s-1\"\nroles = [\"storage\"]\nplace = \"z/r/n\"\nlisten = \"10.0.0.1:7400\"\n\
                    [[device]]\ndir = \"/disks/1\"\n";
        let config = HostConfig::from_text("f", text).expect("a valid file");
        assert_eq!((config.advertise.as_str(), config.devices.len()), ("10.0.0.1:7400", 1));
        assert!(config.roles.has(Role::Storage));
    }

    #[test]
    fn every_mistake_is_reported_with_its_place() {
        let text = "data = \"d\"\nname = \"a b\"\nroles = [\"storage\", \"boss\", \"operator\"]\nplace = \"x\"\n\
                    listen = \"here\"\nout_after = \"soon\"\ntransport = \"pigeon\"\n";
        let error = HostConfig::from_text("f", text).expect_err("mistakes").to_string();
        for expected in [
            "f:2: a host's name",
            "f:3: \"boss\"",
            "f:3: an operator",
            "f:4: a place",
            "f:5: \"here\"",
            "f:6: \"soon\"",
            "f:7: \"pigeon\"",
            "needs a [[device]]",
        ] {
            assert!(error.contains(expected), "{expected:?} is missing in {error}");
        }
    }
}
