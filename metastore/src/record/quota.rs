//! `quotas/default` and `quotas/client/<client id>`: what client ids may do at each broker. Written by any broker for an
//! operator, guarded by the key itself; every broker follows it.

use bytes::Bytes;
use geminga_proto::internal as wire;
use prost::Message;

use super::{FORMAT, Invalid, check_format, counted};

/// Quotas of one client id, or of each; `None` = no limit of its own. None is zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Bytes of records that it may send a second.
    pub producer_byte_rate: Option<u64>,
    /// Bytes of records that it may read a second.
    pub consumer_byte_rate: Option<u64>,
    /// Requests that it may make a second.
    pub request_rate: Option<u64>,
}

impl Quota {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The value to store.
    pub fn encode(&self) -> Bytes {
        let Self { producer_byte_rate, consumer_byte_rate, request_rate } = *self;
        let format = FORMAT;
        wire::QuotaRecord { format, producer_byte_rate, consumer_byte_rate, request_rate }
            .encode_to_vec()
            .into()
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
            wire::QuotaRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        let wire::QuotaRecord { producer_byte_rate, consumer_byte_rate, request_rate, .. } = record;
        let quota = Self { producer_byte_rate, consumer_byte_rate, request_rate };
        if [producer_byte_rate, consumer_byte_rate, request_rate].contains(&Some(0)) {
            return Err(Invalid::field("quota", "a rate of 0"));
        }
        Ok(quota)
    }
}
