//! Where devices stand: zone / rack / node / device.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use thiserror::Error;

/// A device's place in the failure-domain tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub zone: String,
    pub rack: String,
    pub node: String,
}

/// A place that is not written `zone/rack/node`.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a place is written ZONE/RACK/NODE, none of them empty; got {0:?}")]
pub struct PlaceError(String);

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let parts: Vec<_> = text.split('/').collect();
        match parts.as_slice() {
            [zone, rack, node] if parts.iter().all(|part| !part.is_empty()) => {
                Ok(Self { zone: (*zone).to_owned(), rack: (*rack).to_owned(), node: (*node).to_owned() })
            }
            _ => Err(PlaceError(text.to_owned())),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.zone, self.rack, self.node)
    }
}

/// The level of the tree whose members a pool promises to survive the loss of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FailureDomain {
    Device,
    Node,
    Rack,
    Zone,
}

impl fmt::Display for FailureDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Device => "device",
            Self::Node => "node",
            Self::Rack => "rack",
            Self::Zone => "zone",
        })
    }
}

/// A name that is no failure domain's.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no failure domain: there are device, node, rack and zone")]
pub struct DomainError(String);

impl FromStr for FailureDomain {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        let all = [Self::Device, Self::Node, Self::Rack, Self::Zone];
        all.into_iter().find(|domain| domain.to_string() == text).ok_or_else(|| DomainError(text.to_owned()))
    }
}

impl FailureDomain {
    /// The name of the domain that holds device `device` at `place`: equal names fail together.
    pub fn of(self, place: &Place, device: crate::ids::DeviceId) -> String {
        match self {
            Self::Device => format!("{place}/{device}"),
            Self::Node => place.to_string(),
            Self::Rack => format!("{}/{}", place.zone, place.rack),
            Self::Zone => place.zone.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::DeviceId;

    #[test]
    fn domains_widen_from_device_to_zone() {
        let place: Place = "z1/r2/n3".parse().expect("a place");
        let names = [FailureDomain::Device, FailureDomain::Node, FailureDomain::Rack, FailureDomain::Zone]
            .map(|domain| domain.of(&place, DeviceId(4)));
        assert_eq!(names, ["z1/r2/n3/4", "z1/r2/n3", "z1/r2", "z1"]);
        assert!("z1//n3".parse::<Place>().is_err() && "z1/n3".parse::<Place>().is_err());
    }
}
