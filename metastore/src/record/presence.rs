//! `bookies/draining/<id>`, `bookies/absent/<id>`, and who holds `auditor` or `under-lock/<ledger>`: what those that heal
//! the storage tell each other about bookies (protocol 6).

use bytes::Bytes;
use geminga_proto::ids::BookieId;
use geminga_proto::internal as wire;
use prost::Message;

use super::{FORMAT, Invalid, check_format, counted};

/// A bookie that is being decommissioned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainingBookie {
    /// Since when, milliseconds since the Unix epoch; never used for safety.
    pub since_ms: i64,
}

/// A bookie that is known and not registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbsentBookie {
    /// Since when, milliseconds since the Unix epoch; never used for safety.
    pub since_ms: i64,
    /// Its failure domain; empty when none was given, or it was not known.
    pub zone: String,
}

/// Whose lease keeps a lock or an election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Who.
    pub bookie: BookieId,
}

impl DrainingBookie {
    /// The value to store.
    pub fn encode(self) -> Bytes {
        let record = wire::DrainingBookieRecord { format: FORMAT, since_ms: self.since_ms };
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
        let record = wire::DrainingBookieRecord::decode(value)
            .map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        Ok(Self { since_ms: record.since_ms })
    }
}

impl AbsentBookie {
    /// The value to store.
    pub fn encode(&self) -> Bytes {
        let (since_ms, zone) = (self.since_ms, self.zone.clone());
        wire::AbsentBookieRecord { format: FORMAT, since_ms, zone }.encode_to_vec().into()
    }

    /// Reads a stored value.
    ///
    /// # Errors
    /// [`Invalid`] when it is not a valid record.
    pub fn decode(value: &[u8]) -> Result<Self, Invalid> {
        counted(Self::read(value))
    }

    fn read(value: &[u8]) -> Result<Self, Invalid> {
        let record = wire::AbsentBookieRecord::decode(value)
            .map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        Ok(Self { since_ms: record.since_ms, zone: record.zone })
    }
}

impl Holder {
    /// The value to store.
    pub fn encode(&self) -> Bytes {
        let bookie_id = self.bookie.as_str().to_owned();
        wire::HolderRecord { format: FORMAT, bookie_id }.encode_to_vec().into()
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
            wire::HolderRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        let bookie = record.bookie_id.parse();
        Ok(Self { bookie: bookie.map_err(|e| Invalid::field("bookie_id", format!("{e}")))? })
    }
}
