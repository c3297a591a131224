//! Who a host is: its key and certificate, and whom it knows to ask.

use holdfast_core::{ids::HostId, roles::Roles};
use holdfast_kv::durable;
use holdfast_meta_raft_machine::ask::Topology;
use holdfast_net::{Tls, TlsError, transport};
use serde::{Deserialize, Serialize};
use std::{io, path::Path};
use thiserror::Error;

const FORMAT: u32 = 1;
const FILE: &str = "identity.toml";

/// An identity, as it is kept in a file that only its owner can read.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostIdentity {
    format: u32,
    pub cluster: String,
    pub host: u64,
    pub roles: String,
    /// When its certificate was made, in seconds since 1970.
    pub issued: u64,
    /// Its metadata has been started: a directory without it is a loss, and not a beginning.
    #[serde(default)]
    pub started: bool,
    /// What the cluster's hosts speak over: tcp or quic.
    #[serde(default = "tcp")]
    pub transport: String,
    /// Metadata members that it can ask.
    pub members: Vec<String>,
    /// DER, in hexadecimal, as the following.
    authority: String,
    certificate: String,
    key: String,
}

#[derive(Debug, Error)]
pub enum IdentityError {
    #[error("{0}: {1}")]
    Io(String, io::Error),
    #[error("{0} is damaged: revoke this host, and let it join again with an empty data directory")]
    Damaged(String),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the host's identity: {0}")]
    Transport(String),
}

/// What an identity is made of.
pub struct Parts {
    pub cluster: String,
    pub host: HostId,
    pub roles: Roles,
    pub transport: String,
    pub members: Vec<String>,
    pub authority: Vec<u8>,
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

fn tcp() -> String {
    "tcp".to_owned()
}

pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The addresses of a cluster's metadata members.
pub fn members_of(topology: &Topology) -> Vec<String> {
    topology.members().map(|(_, host)| host.address.clone()).collect()
}

impl HostIdentity {
    pub fn new(parts: Parts) -> Self {
        Self {
            format: FORMAT,
            cluster: parts.cluster,
            host: parts.host.0,
            roles: parts.roles.to_string(),
            issued: now(),
            started: false,
            transport: parts.transport,
            members: parts.members,
            authority: hex::encode(parts.authority),
            certificate: hex::encode(parts.certificate),
            key: hex::encode(parts.key),
        }
    }

    pub fn host(&self) -> HostId {
        HostId(self.host)
    }

    /// Reads the identity in `dir`; `None` where there is none.
    ///
    /// # Errors
    /// Where the file is damaged or cannot be read.
    pub fn read(dir: &Path) -> Result<Option<Self>, IdentityError> {
        let path = dir.join(FILE);
        let shown = path.display().to_string();
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(IdentityError::Io(shown, error)),
            Ok(text) => text,
        };
        let found: Self = toml::from_str(&text).map_err(|_| IdentityError::Damaged(shown.clone()))?;
        if found.format == FORMAT { Ok(Some(found)) } else { Err(IdentityError::Damaged(shown)) }
    }

    /// # Errors
    /// Where the file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), IdentityError> {
        let failed = |error| IdentityError::Io(dir.join(FILE).display().to_string(), error);
        let text = toml::to_string(self).map_err(|error| failed(io::Error::other(error)))?;
        durable::create_dir(dir).map_err(failed)?;
        durable::replace(&dir.join(FILE), text.as_bytes(), 0o600).map_err(failed)
    }

    fn der(&self) -> Result<[Vec<u8>; 3], IdentityError> {
        let decode = |text: &str| hex::decode(text).map_err(|_| IdentityError::Damaged(FILE.to_owned()));
        Ok([decode(&self.key)?, decode(&self.certificate)?, decode(&self.authority)?])
    }

    /// The host's side of mutual TLS.
    ///
    /// # Errors
    /// Where key and certificates do not belong together.
    pub fn tls(&self) -> Result<Tls, IdentityError> {
        let [key, certificate, authority] = self.der()?;
        let transport = transport::named(&self.transport).map_err(IdentityError::Transport)?;
        Ok(Tls::new(&key, &certificate, &authority)?.over(transport))
    }

    /// The authority's certificate, DER.
    ///
    /// # Errors
    /// Where the file is damaged.
    pub fn authority(&self) -> Result<Vec<u8>, IdentityError> {
        Ok(self.der()?[2].clone())
    }

    /// Takes another certificate, here and for connections from now on.
    ///
    /// # Errors
    /// Where it does not fit the key.
    pub fn renew(&mut self, tls: &Tls, key: &[u8], certificate: &[u8]) -> Result<(), IdentityError> {
        tls.renew(key, certificate, &self.authority()?)?;
        self.key = hex::encode(key);
        self.certificate = hex::encode(certificate);
        self.issued = now();
        Ok(())
    }
}
