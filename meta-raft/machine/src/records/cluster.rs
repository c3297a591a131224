//! Hosts, devices and where shards belong.
//!
//! Records with two versions are written in the oldest that can say what they hold, so that a state which does not use
//! what is new keeps its bytes.

use super::Record;
use holdfast_core::{
    codec,
    ids::{DeviceId, Epoch, HostId, Incarnation},
    kv::KvError,
    profile::Profile,
    roles::Roles,
    topology::{FailureDomain, Place},
};
use serde::{Deserialize, Serialize};

/// A process of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// What people call it; unique among hosts that are not revoked.
    pub name: String,
    pub roles: Roles,
    /// Where it is called, as `HOST:PORT`.
    pub address: String,
    pub place: Place,
    /// It is no longer spoken with, whatever its certificate says.
    pub revoked: bool,
}
record!(Host, "a host");

/// Leave to join, for whoever knows the secret with this record's hash. Used once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    pub roles: Roles,
    /// On the metadata's clock.
    pub expires_ms: u64,
}
record!(Token, "a join token");

/// Whom a token let in: the host asks again where the answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedToken {
    pub host: HostId,
    /// BLAKE3 of its certificate request.
    pub request: [u8; 32],
}
record!(UsedToken, "a used join token");

/// Who signs the hosts' certificates.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// The cluster's name for itself, in 32 hexadecimal digits.
    pub cluster: String,
    /// DER.
    pub certificate: Vec<u8>,
    /// PKCS#8, DER.
    pub key: Vec<u8>,
}
record!(Authority, "the certificate authority");

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({})", self.cluster)
    }
}

/// A key pair for S3.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKey {
    pub access: String,
    pub secret: String,
}
record!(AccessKey, "an access key");

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AccessKey({})", self.access)
    }
}

/// What is to become of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Duty {
    /// It holds its share.
    #[default]
    Serving,
    /// It gives its share to others, and still serves what it has.
    Draining,
    /// Nothing is expected of it: what it held is made anew elsewhere. It serves again when it comes back.
    Out,
    /// Out for good, by the operator's word.
    Removed,
}

impl Duty {
    /// Whether nothing is expected of the device.
    pub fn is_gone(self) -> bool {
        matches!(self, Self::Out | Self::Removed)
    }
}

/// A slot for a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub incarnation: Incarnation,
    pub place: Place,
    /// Bytes of capacity: how much of the data it should hold, beside others.
    pub weight: u64,
    pub host: HostId,
    pub duty: Duty,
    /// The operator allows an empty disk to take the slot.
    pub replaceable: bool,
}

/// A placement group: shard `i` of its packs belongs on `devices[i]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pg {
    pub epoch: Epoch,
    pub devices: Vec<DeviceId>,
    /// Where its older packs still are, while they move.
    pub previous: Option<Previous>,
    /// Where packs that are older still are, oldest first: a group that moved was given other devices, because some that
    /// it was moving to are gone.
    pub older: Vec<Previous>,
}

/// A placement group as version 2 stored and sent it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PgBefore3 {
    pub epoch: Epoch,
    pub devices: Vec<DeviceId>,
    pub previous: Option<Previous>,
}

impl From<PgBefore3> for Pg {
    fn from(PgBefore3 { epoch, devices, previous }: PgBefore3) -> Self {
        Self { epoch, devices, previous, older: Vec::new() }
    }
}

impl From<Pg> for PgBefore3 {
    fn from(Pg { epoch, devices, previous, older: _ }: Pg) -> Self {
        Self { epoch, devices, previous }
    }
}

/// A placement group before its devices changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// Packs of earlier epochs are on `devices`.
    pub since: Epoch,
    pub devices: Vec<DeviceId>,
}

impl Pg {
    /// The group as commands name it, where it does not move.
    pub fn spec(self) -> PgSpec {
        PgSpec { epoch: self.epoch, devices: self.devices }
    }

    /// Where the shards of a pack of `epoch` are.
    pub fn devices_at(&self, epoch: Epoch) -> &[DeviceId] {
        let generations = self.older.iter().chain(&self.previous);
        let found = generations.into_iter().find(|generation| epoch < generation.since);
        found.map_or(&self.devices, |generation| &generation.devices)
    }

    /// Whether a pack of `epoch` is not yet where it belongs.
    pub fn is_behind(&self, epoch: Epoch) -> bool {
        self.previous.as_ref().is_some_and(|previous| epoch < previous.since)
    }

    /// Whether shards are on a device, or are meant to be.
    pub fn uses(&self, device: DeviceId) -> bool {
        self.devices.contains(&device) || self.leaves(device)
    }

    /// Whether packs that have not moved yet have shards on a device.
    pub fn leaves(&self, device: DeviceId) -> bool {
        self.older.iter().chain(&self.previous).any(|generation| generation.devices.contains(&device))
    }
}

/// The first pool, or what any pool is like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    pub profile: Profile,
    pub pg_count: u32,
    /// What it promises to survive the loss of one of.
    pub domain: FailureDomain,
}

/// A pool for objects of one storage class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassPool {
    /// The storage class as S3 calls it.
    pub class: String,
    pub pool: Pool,
    /// It is on devices of this class alone; where there is none, on all.
    pub devices: Option<String>,
}
record!(ClassPool, "a storage class's pool");

/// A device as commands name it, and as version 1 stored it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSpec {
    pub incarnation: Incarnation,
    pub place: Place,
    /// Bytes of capacity.
    pub weight: u64,
}

impl DeviceSpec {
    /// The device in service on `host`.
    pub fn on(self, host: HostId) -> Device {
        let Self { incarnation, place, weight } = self;
        Device { incarnation, place, weight, host, duty: Duty::Serving, replaceable: false }
    }
}

#[derive(Serialize, Deserialize)]
enum DeviceVersions {
    V1(DeviceSpec),
    V2(Device),
}

impl Record for Device {
    const WHAT: &'static str = "a device";

    fn to_bytes(&self) -> Vec<u8> {
        let Self { incarnation, place, weight, host, duty, replaceable } = self.clone();
        let plain = host == HostId::LOCAL && duty == Duty::Serving && !replaceable;
        codec::encode(&if plain {
            DeviceVersions::V1(DeviceSpec { incarnation, place, weight })
        } else {
            DeviceVersions::V2(self.clone())
        })
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, KvError> {
        Ok(match codec::decode(Self::WHAT, bytes)? {
            DeviceVersions::V1(spec) => spec.on(HostId::LOCAL),
            DeviceVersions::V2(device) => device,
        })
    }
}

/// A placement group as commands name it, and as version 1 stored it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PgSpec {
    pub epoch: Epoch,
    pub devices: Vec<DeviceId>,
}

impl From<PgSpec> for Pg {
    fn from(PgSpec { epoch, devices }: PgSpec) -> Self {
        Self { epoch, devices, previous: None, older: Vec::new() }
    }
}

#[derive(Serialize, Deserialize)]
enum PgVersions {
    V1(PgSpec),
    V2(PgBefore3),
    V3(Pg),
}

impl Record for Pg {
    const WHAT: &'static str = "a placement group";

    fn to_bytes(&self) -> Vec<u8> {
        let Self { epoch, devices, previous, older } = self.clone();
        codec::encode(&match previous {
            None => PgVersions::V1(PgSpec { epoch, devices }),
            Some(_) if older.is_empty() => PgVersions::V2(self.clone().into()),
            Some(_) => PgVersions::V3(self.clone()),
        })
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, KvError> {
        Ok(match codec::decode(Self::WHAT, bytes)? {
            PgVersions::V1(spec) => spec.into(),
            PgVersions::V2(pg) => pg.into(),
            PgVersions::V3(pg) => pg,
        })
    }
}

/// A pool as commands name it, and as version 1 stored it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSpec {
    pub profile: Profile,
    pub pg_count: u32,
}

#[derive(Serialize, Deserialize)]
enum PoolVersions {
    V1(PoolSpec),
    V2(Pool),
}

impl Record for Pool {
    const WHAT: &'static str = "a pool";

    fn to_bytes(&self) -> Vec<u8> {
        let Self { profile, pg_count, domain } = self.clone();
        codec::encode(&match domain {
            FailureDomain::Device => PoolVersions::V1(PoolSpec { profile, pg_count }),
            FailureDomain::Node | FailureDomain::Rack | FailureDomain::Zone => PoolVersions::V2(self.clone()),
        })
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, KvError> {
        Ok(match codec::decode(Self::WHAT, bytes)? {
            PoolVersions::V1(PoolSpec { profile, pg_count }) => {
                Self { profile, pg_count, domain: FailureDomain::Device }
            }
            PoolVersions::V2(pool) => pool,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_uses_nothing_new_keeps_its_old_bytes() {
        let place = Place { zone: "z".into(), rack: "r".into(), node: "n".into() };
        let old = Device {
            incarnation: Incarnation([1; 16]),
            place,
            weight: 7,
            host: HostId::LOCAL,
            duty: Duty::Serving,
            replaceable: false,
        };
        assert_eq!(old.to_bytes()[0], 0);
        for device in
            [old.clone(), Device { duty: Duty::Draining, ..old.clone() }, Device { host: HostId(9), ..old }]
        {
            assert_eq!(Device::from_bytes(&device.to_bytes()), Ok(device));
        }
        let pg = Pg { epoch: Epoch(3), devices: vec![DeviceId(1)], previous: None, older: Vec::new() };
        let previous = Some(Previous { since: Epoch(3), devices: vec![DeviceId(2)] });
        let moving = Pg { previous, ..pg.clone() };
        assert_eq!((pg.to_bytes()[0], moving.to_bytes()[0]), (0, 1));
        assert_eq!(Pg::from_bytes(&pg.to_bytes()), Ok(pg));
        assert_eq!(moving.devices_at(Epoch(2)), [DeviceId(2)]);
        assert_eq!(moving.devices_at(Epoch(3)), [DeviceId(1)]);
        assert_eq!(Pg::from_bytes(&moving.to_bytes()), Ok(moving.clone()));
        // What it was moving to was replaced: packs of three ages are in three places.
        let replaced = Pg {
            epoch: Epoch(5),
            devices: vec![DeviceId(3)],
            previous: Some(Previous { since: Epoch(5), devices: vec![DeviceId(1)] }),
            older: vec![Previous { since: Epoch(3), devices: vec![DeviceId(2)] }],
        };
        assert_eq!(replaced.to_bytes()[0], 2);
        for (epoch, device) in [(2, 2), (3, 1), (4, 1), (5, 3)] {
            assert_eq!(replaced.devices_at(Epoch(epoch)), [DeviceId(device)]);
        }
        assert!(
            replaced.is_behind(Epoch(4)) && !replaced.is_behind(Epoch(5)) && replaced.leaves(DeviceId(2))
        );
        assert_eq!(Pg::from_bytes(&replaced.to_bytes()), Ok(replaced));
        for domain in [FailureDomain::Device, FailureDomain::Rack] {
            let pool = Pool { profile: Profile::new(4, 2).expect("a profile"), pg_count: 8, domain };
            assert_eq!(Pool::from_bytes(&pool.to_bytes()), Ok(pool));
        }
    }
}
