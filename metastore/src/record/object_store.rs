//! `object-stores/<bucket>/<prefix>`: which store of that name the cluster uses (`docs/tiering.md`). Put by whoever uses it first, where
//! it is absent, before the marker is written: of several at once one writes. Once the marker is there it says so, and is never changed:
//! another store of the same name, at another endpoint or on another machine, is told from it by the number in its marker.

use bytes::Bytes;
use geminga_proto::internal as wire;
use prost::Message;

use super::{FORMAT, Invalid, check_format, counted};

/// An object store that the cluster uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsedStore {
    /// The number in its marker.
    pub id: u128,
    /// There may be no marker yet: whoever put this number is about to write it.
    pub pending: bool,
}

impl UsedStore {
    /// The value to store.
    pub fn encode(self) -> Bytes {
        let store_id = Bytes::copy_from_slice(&self.id.to_be_bytes());
        let pending = self.pending;
        wire::ObjectStoreRecord { format: FORMAT, store_id, pending }.encode_to_vec().into()
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
            wire::ObjectStoreRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        let id = record.store_id.as_ref().try_into();
        let id = id.map_err(|_| Invalid::field("store_id", "not 16 bytes"))?;
        Ok(Self { id: u128::from_be_bytes(id), pending: record.pending })
    }
}
