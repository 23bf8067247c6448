//! The object that says whose a store is, and which one. Big-endian:
//!
//! ```text
//! u64 magic | u16 version | u16 0 | [16] cluster | [16] store | u32 crc32c of all of it
//! ```
//!
//! Written once, by whoever uses the store first, where there is none; never changed. The number of the store is a random one: two stores of
//! one name, at two endpoints or in directories of two machines, have two.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use geminga_proto::ids::ClusterUuid;

use crate::error::{FormatError, ObjectError};
use crate::store::Store;

const MAGIC: u64 = u64::from_be_bytes(*b"GEMINGAS");
/// The version written today.
const VERSION: u16 = 1;
const BYTES: usize = 48;
const CRC_BYTES: usize = 4;
const WHAT: &str = "the marker of the object store";

/// What it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// Whose the store is.
    pub cluster: ClusterUuid,
    /// Which it is.
    pub store: u128,
}

impl Marker {
    /// Its bytes.
    pub fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(BYTES);
        out.put_u64(MAGIC);
        out.put_u16(VERSION);
        out.put_u16(0);
        out.put_slice(self.cluster.as_bytes());
        out.put_u128(self.store);
        let sum = crc32c::crc32c(&out);
        out.put_u32(sum);
        out.freeze()
    }

    /// From an object's bytes.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let damaged = |why| FormatError::Damaged { what: WHAT, why };
        let mut head = bytes;
        if head.try_get_u64().ok() != Some(MAGIC) {
            return Err(damaged("its magic"));
        }
        match head.try_get_u16() {
            Ok(VERSION) => {}
            Ok(newer) => return Err(FormatError::Version(newer)),
            Err(_) => return Err(damaged("its length")),
        }
        if bytes.len() != BYTES {
            return Err(damaged("its length"));
        }
        let (covered, mut sum) = bytes.split_at(BYTES - CRC_BYTES);
        if crc32c::crc32c(covered) != sum.get_u32() {
            return Err(damaged("its checksum"));
        }
        let (cluster, mut store) = covered[12..].split_at(16);
        let cluster = ClusterUuid::from_slice(cluster).ok_or(damaged("the cluster"))?;
        Ok(Self { cluster, store: store.get_u128() })
    }

    /// What is in a store; `None` when it is certain that there is none.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn read(store: &Store) -> Result<Option<Self>, ObjectError> {
        match Self::read_once(store).await {
            // It may have been damaged on its way only.
            Err(ObjectError::Format(_)) => Self::read_once(store).await,
            read => read,
        }
    }

    async fn read_once(store: &Store) -> Result<Option<Self>, ObjectError> {
        let found = store.read_small(&store.marker_key(), BYTES).await?;
        Ok(found.map(|bytes| Self::decode(&bytes)).transpose()?)
    }

    /// Writes it where there is none. Of several who do so at once one does; what then stands is to be read.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn write(self, store: &Store) -> Result<(), ObjectError> {
        store.put_new(&store.marker_key(), self.encode()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faulty::{Byte, Call, Fault, Faulty};
    use crate::testing::{cluster, golden};

    fn marker() -> Marker {
        Marker { cluster: cluster(), store: 0x0123_4567_89ab_cdef }
    }

    #[test]
    fn a_marker_is_read_back_and_stays_what_it_is() {
        let stored = golden("marker-v1.hex", &marker().encode());
        assert_eq!(Marker::decode(&stored), Ok(marker()));
    }

    #[test]
    fn nothing_that_changed_is_taken_for_it() {
        let good = marker().encode();
        for at in 0..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 0x20;
            assert!(Marker::decode(&bad).is_err(), "byte {at}");
            assert!(Marker::decode(&good[..at]).is_err(), "cut at {at}");
        }
        let mut newer = good.to_vec();
        newer[9] = 2;
        newer.push(0);
        assert_eq!(Marker::decode(&newer), Err(FormatError::Version(2)));
    }

    /// What is damaged on its way, or cut off, is read once more; what is damaged there is told.
    #[tokio::test]
    async fn a_damaged_marker_is_read_twice() {
        let faulty = Faulty::default();
        let store = faulty.store();
        marker().write(&store).await.unwrap();
        for fault in [Fault::Garble(Byte::Middle), Fault::Truncate] {
            faulty.fail(Call::Get, fault, 1);
            assert_eq!(Marker::read(&store).await.unwrap(), Some(marker()), "{fault:?}");
            faulty.fail(Call::Get, fault, 2);
            let error = Marker::read(&store).await.unwrap_err();
            assert!(matches!(error, ObjectError::Format(_)), "{fault:?}: {error}");
        }
        let other = Store::open("memory:///", &crate::Options::default(), []).unwrap();
        let longer = [marker().encode(), Bytes::from_static(&[0])].concat();
        other.upload(&other.marker_key()).complete(longer.into()).await.unwrap();
        Marker::read(&other).await.unwrap_err();
    }

    #[tokio::test]
    async fn the_first_one_stands() {
        let store = Store::open("memory:///a/prefix", &crate::Options::default(), []).unwrap();
        assert_eq!(Marker::read(&store).await.unwrap(), None);
        marker().write(&store).await.unwrap();
        Marker { store: 9, ..marker() }.write(&store).await.unwrap();
        assert_eq!(Marker::read(&store).await.unwrap(), Some(marker()));
        assert!(
            store.is_marker(&store.marker_key()) && store.marker_key().starts_with("a/prefix/")
        );
        // It is none of the cluster's objects.
        assert_eq!(store.parse_any_key(&store.marker_key()), None);
    }
}
