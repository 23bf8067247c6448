//! The last bytes of an object: where its index is, and what the whole comes to.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use geminga_proto::ids::EntryId;

use super::index::ITEM_BYTES;
use super::{VERSION, crc};
use crate::error::FormatError;

const MAGIC: u64 = u64::from_be_bytes(*b"GEMINGAE");
/// Bytes of it.
pub const FOOTER_BYTES: usize = 96;
const CRC_BYTES: usize = 4;
const WHAT: &str = "the footer";

/// What an object comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    /// Where the index begins, bytes.
    pub index_place: u64,
    /// Bytes of the index.
    pub index_length: u32,
    /// Of the index.
    pub index_crc: u32,
    /// How many entries.
    pub entries: u64,
    /// The last of them.
    pub last_entry: EntryId,
    /// Payload bytes.
    pub length: u64,
    /// Rolling digest of the entries.
    pub entries_crc: u64,
    /// Checksum of everything before the footer.
    pub object_crc: u32,
}

impl Footer {
    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(FOOTER_BYTES);
        out.put_u64(MAGIC);
        out.put_u16(VERSION);
        out.put_bytes(0, 6);
        out.put_u64(self.index_place);
        out.put_u32(self.index_length);
        out.put_u32(self.index_crc);
        out.put_u64(self.entries);
        out.put_i64(self.last_entry.0);
        out.put_u64(self.length);
        out.put_u64(self.entries_crc);
        out.put_u32(self.object_crc);
        out.put_bytes(0, FOOTER_BYTES - CRC_BYTES - out.len());
        let sum = crc(&out);
        out.put_u32(sum);
        out.freeze()
    }

    /// From the last bytes of an object of `size` bytes.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn decode(bytes: &[u8], size: u64) -> Result<Self, FormatError> {
        let damaged = |why| FormatError::Damaged { what: WHAT, why };
        if bytes.len() != FOOTER_BYTES {
            let have = bytes.len() as u64;
            return Err(FormatError::Truncated { what: WHAT, have, want: FOOTER_BYTES as u64 });
        }
        let (covered, mut sum) = bytes.split_at(FOOTER_BYTES - CRC_BYTES);
        let mut rest = covered;
        if rest.get_u64() != MAGIC {
            return Err(damaged("its magic"));
        }
        if crc(covered) != sum.get_u32() {
            return Err(damaged("its checksum"));
        }
        match rest.get_u16() {
            VERSION => {}
            newer => return Err(FormatError::Version(newer)),
        }
        rest.advance(6);
        let footer = Self {
            index_place: rest.get_u64(),
            index_length: rest.get_u32(),
            index_crc: rest.get_u32(),
            entries: rest.get_u64(),
            last_entry: EntryId(rest.get_i64()),
            length: rest.get_u64(),
            entries_crc: rest.get_u64(),
            object_crc: rest.get_u32(),
        };
        let end = footer.index_place.checked_add(u64::from(footer.index_length));
        if end != size.checked_sub(FOOTER_BYTES as u64) {
            return Err(damaged("the index does not end at it"));
        }
        let count = i64::try_from(footer.entries).ok();
        if count.is_none_or(|count| count < 1 || footer.last_entry != EntryId(count - 1))
            || !(footer.index_length as usize).is_multiple_of(ITEM_BYTES)
        {
            return Err(damaged("its numbers contradict each other"));
        }
        Ok(footer)
    }
}
