//! What a process of the cluster does, and may do.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use thiserror::Error;

/// One of a host's duties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Role {
    /// Keeps the metadata, and votes on it.
    Meta = 1,
    /// Keeps shards.
    Storage = 2,
    /// Serves clients.
    Gateway = 4,
    /// Gives orders: an operator, not a host.
    Operator = 8,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Meta, Self::Storage, Self::Gateway, Self::Operator];

    /// The role's name in configurations and certificates.
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Storage => "storage",
            Self::Gateway => "gateway",
            Self::Operator => "operator",
        }
    }
}

/// A set of roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
pub struct Roles(u8);

impl Roles {
    pub const NONE: Self = Self(0);

    #[must_use]
    pub fn with(self, role: Role) -> Self {
        Self(self.0 | role as u8)
    }

    #[must_use]
    pub fn without(self, role: Role) -> Self {
        Self(self.0 & !(role as u8))
    }

    pub fn has(self, role: Role) -> bool {
        self.0 & role as u8 != 0
    }

    /// Whether every role of `self` is one of `others`.
    pub fn within(self, others: Self) -> bool {
        self.0 & !others.0 == 0
    }

    /// The set as a number, between processes.
    pub fn bits(self) -> u32 {
        u32::from(self.0)
    }

    /// The roles of a number; bits that are no role's do not count.
    pub fn from_bits(bits: u32) -> Self {
        Role::ALL.into_iter().filter(|role| bits & *role as u32 != 0).collect()
    }

    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.has(*role))
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        roles.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(Role::name).collect();
        f.write_str(&names.join(","))
    }
}

/// A name that is no role's.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no role: there are meta, storage and gateway")]
pub struct RoleError(String);

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        let found = Self::ALL.into_iter().find(|role| role.name() == text);
        found.ok_or_else(|| RoleError(text.to_owned()))
    }
}

impl FromStr for Roles {
    type Err = RoleError;

    /// Names between commas.
    fn from_str(text: &str) -> Result<Self, RoleError> {
        text.split(',').map(|name| name.trim().parse::<Role>()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_written_as_names() {
        let roles: Roles = "meta, gateway".parse().expect("roles");
        assert_eq!(roles.to_string(), "meta,gateway");
        assert!(roles.has(Role::Meta) && !roles.has(Role::Storage));
        assert!(Roles::NONE.with(Role::Meta).within(roles) && !roles.within(Roles::NONE.with(Role::Meta)));
        assert_eq!(Roles::from_bits(roles.bits() | 0x100), roles);
        assert_eq!("boss".parse::<Roles>(), Err(RoleError("boss".into())));
    }
}
