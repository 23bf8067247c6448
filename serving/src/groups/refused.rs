//! Why a shard of this broker did not answer.

use geminga_proto::ids::BrokerId;
use geminga_proto::reason::{ApiError, Reason};

use super::types::Error;

/// Why there is no answer from a shard of this broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another broker coordinates the group; nothing was done.
    #[error("the group is coordinated by broker {broker} at {address}: ask there")]
    NotCoordinator {
        /// Which.
        broker: BrokerId,
        /// Where it listens for gRPC.
        address: String,
    },
    /// No broker coordinates the group at the moment; nothing was done.
    #[error("the group has no coordinator now: try again")]
    Nobody,
    /// This broker is taking the group over; nothing was done.
    #[error("the group's coordinator is taking over: try again")]
    Loading,
    /// The shard has as many large requests as it takes; nothing was done.
    #[error("the group's coordinator has too much to do: try again")]
    Busy,
    /// This broker was to take the group over and has not, and cannot prove that it is still to; nothing was done.
    #[error("the group's coordinator cannot take it over now: look for it again")]
    Unproved,
    /// The shard moved before it proved its answer; what was asked may have been done.
    #[error("the group's coordinator moved before it proved its answer: ask again")]
    Moved,
    /// The shard cannot be read; nothing was done.
    #[error("{0}")]
    Damaged(String),
    /// No shard has this number.
    #[error("there is no such group shard")]
    NoShard,
    /// The group's own answer.
    #[error(transparent)]
    Group(#[from] Error),
}

impl Refused {
    /// As the public API says it of a shard.
    pub(super) fn into_api(self, shard: u32) -> ApiError {
        let reason = match self {
            Self::Group(error) => return error.into(),
            Self::NotCoordinator { address, .. } => {
                let why = format!("group shard {shard} is coordinated by {address}: ask there");
                return ApiError::not_owner(why, Some(address));
            }
            Self::Damaged(why) => return ApiError::new(Reason::DataLoss, why),
            Self::Nobody | Self::Loading | Self::Busy | Self::Unproved => Reason::NotReady,
            Self::Moved => Reason::Unknown,
            Self::NoShard => Reason::InvalidRequest,
        };
        ApiError::new(reason, format!("group shard {shard}: {self}"))
    }
}
