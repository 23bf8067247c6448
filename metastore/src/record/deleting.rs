//! `deleting/<ledger>`: a ledger whose deletion has begun (protocol 7.8).

use bytes::Bytes;
use geminga_proto::internal as wire;
use prost::Message;

use super::{FORMAT, Invalid, check_format, counted};

/// A deletion that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deleting {
    /// Milliseconds since the Unix epoch.
    pub since_ms: i64,
}

impl Deleting {
    /// The value to store.
    pub fn encode(self) -> Bytes {
        let record = wire::DeletingRecord { format: FORMAT, since_ms: self.since_ms };
        record.encode_to_vec().into()
    }

    /// Reads a stored value.
    ///
    /// # Errors
    /// [`Invalid`] when it is not a valid record.
    pub fn decode(value: &[u8]) -> Result<Self, Invalid> {
        counted(Self::read(value))
    }

    fn read(value: &[u8]) -> Result<Self, Invalid> {
        let record =
            wire::DeletingRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        Ok(Self { since_ms: record.since_ms })
    }
}
