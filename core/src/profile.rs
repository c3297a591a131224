//! Erasure profiles: `k` data shards and `m` parity shards.

use crate::limits::SHARDS_MAX;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use thiserror::Error;

/// `k+m`: any `k` of the `k+m` shards of a pack give it back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Profile {
    data: u8,
    parity: u8,
}

/// A profile that cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ProfileError {
    #[error("an erasure profile is written K+M, as in 4+2; got {0:?}")]
    Syntax(String),
    #[error(
        "an erasure profile needs at least 1 data and 1 parity shard, and {SHARDS_MAX} together at most; got {0}+{1}"
    )]
    Range(usize, usize),
}

impl Profile {
    /// `data + parity` shards.
    ///
    /// # Errors
    /// Where either is none, or both are more than [`SHARDS_MAX`].
    pub fn new(data: usize, parity: usize) -> Result<Self, ProfileError> {
        let total = data.saturating_add(parity);
        if data == 0 || parity == 0 || total > SHARDS_MAX {
            return Err(ProfileError::Range(data, parity));
        }
        Ok(Self { data: data as u8, parity: parity as u8 })
    }

    /// `k`, how many shards give the pack back.
    pub fn data(&self) -> usize {
        usize::from(self.data)
    }

    /// `m`, how many shards may be lost.
    pub fn parity(&self) -> usize {
        usize::from(self.parity)
    }

    /// `k + m`.
    pub fn total(&self) -> usize {
        self.data() + self.parity()
    }

    /// A bit for each shard.
    pub fn mask(&self) -> u32 {
        ((1u64 << self.total()) - 1) as u32
    }

    /// The fewest durable shards with which a pack is acknowledged: `k + 1`, so that the loss of one device at that
    /// instant loses nothing.
    pub fn write_quorum(&self) -> usize {
        self.data() + 1
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.data, self.parity)
    }
}

impl FromStr for Profile {
    type Err = ProfileError;

    fn from_str(text: &str) -> Result<Self, ProfileError> {
        let syntax = || ProfileError::Syntax(text.to_owned());
        let (data, parity) = text.split_once('+').ok_or_else(syntax)?;
        Self::new(data.parse().map_err(|_| syntax())?, parity.parse().map_err(|_| syntax())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_written_as_k_plus_m() {
        let profile: Profile = "8+4".parse().expect("a profile");
        assert_eq!((profile.data(), profile.parity(), profile.write_quorum()), (8, 4, 9));
        assert_eq!(profile.to_string(), "8+4");
    }

    #[test]
    fn what_cannot_be_coded_is_refused() {
        for bad in ["", "4", "4+", "+2", "0+2", "4+0", "20+20", "4-2", "4+2+1", "-1+2"] {
            assert!(bad.parse::<Profile>().is_err(), "{bad:?}");
        }
    }
}
