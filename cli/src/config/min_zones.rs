//! In how many zones copies are at least, and acknowledgements.

use std::fmt;
use std::str::FromStr;

use geminga_proto::caps;
use serde::{Deserialize, Serialize};

use crate::exit::Failure;

/// One at least, and no more than there can be copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub(crate) struct MinZones(u8);

impl MinZones {
    /// Wherever copies are.
    pub(crate) const ONE: Self = Self(1);

    pub(crate) fn get(self) -> usize {
        self.0.into()
    }
}

impl Default for MinZones {
    fn default() -> Self {
        Self(2)
    }
}

/// Refuses acknowledgements in more zones than copies are asked to be in: where those are in fewer, so would acknowledgements be, and
/// nobody told.
pub(crate) fn check_zones(copies: MinZones, acknowledged: MinZones) -> Result<(), Failure> {
    match acknowledged <= copies {
        true => Ok(()),
        false => Err(Failure::usage(format!(
            "--min-ack-zones {acknowledged} is more than --min-zones {copies}: acknowledgements are in no more zones than copies; \
             give --min-zones {acknowledged} too"
        ))),
    }
}

impl TryFrom<u8> for MinZones {
    type Error = String;

    fn try_from(zones: u8) -> Result<Self, String> {
        let most = caps::MAX_WRITE_QUORUM;
        match (1..=most).contains(&zones) {
            true => Ok(Self(zones)),
            false => {
                Err(format!("{zones} zones: from 1 to {most}, as many as there can be copies"))
            }
        }
    }
}

impl From<MinZones> for u8 {
    fn from(zones: MinZones) -> Self {
        zones.0
    }
}

impl FromStr for MinZones {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<u8>().map_err(|error| error.to_string())?.try_into()
    }
}

impl fmt::Display for MinZones {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
