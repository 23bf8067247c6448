//! A run of entries, verbatim (D2): what one ranged read gets.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use geminga_proto::entry::{self, Entry};
use geminga_proto::ids::{ClusterUuid, EntryId, LedgerId};

use super::index::Placed;
use crate::error::FormatError;

const MAGIC: u32 = u32::from_be_bytes(*b"GmgB");
/// Bytes before the entries.
pub(crate) const BLOCK_HEAD_BYTES: usize = 28;
/// What the checksum does not cover.
const UNCOVERED_BYTES: usize = 8;
/// Bytes of an entry's length.
const LENGTH_BYTES: usize = 4;
/// Entries stand as they are: record batches come compressed by those who made them.
const CODEC_NONE: u8 = 0;
const WHAT: &str = "a block";

/// A block's head, in front of `body`: entries, each with its length.
pub(crate) fn encode(first: EntryId, count: u32, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(BLOCK_HEAD_BYTES + body.len());
    out.put_u32(MAGIC);
    out.put_u32(0);
    out.put_i64(first.0);
    out.put_u32(count);
    out.put_u8(CODEC_NONE);
    out.put_bytes(0, 3);
    out.put_u32(u32::try_from(body.len()).expect("a block is a few entries of 16 MiB at most"));
    out.put_slice(body);
    let sum = super::crc(&out[UNCOVERED_BYTES..]);
    out[4..UNCOVERED_BYTES].copy_from_slice(&sum.to_be_bytes());
    out.freeze()
}

/// A block whose checksum was right. Entries share its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    first: EntryId,
    entries: Vec<Bytes>,
    bytes: usize,
}

impl Block {
    /// From its bytes, which must be exactly those of the block that stands at this place.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn decode(bytes: &Bytes, placed: &Placed) -> Result<Self, FormatError> {
        let damaged = |why| FormatError::Damaged { what: WHAT, why };
        if bytes.len() != placed.length as usize || bytes.len() < BLOCK_HEAD_BYTES {
            let (have, want) = (bytes.len() as u64, u64::from(placed.length));
            return Err(FormatError::Truncated { what: WHAT, have, want });
        }
        let mut head = &bytes[..BLOCK_HEAD_BYTES];
        if head.get_u32() != MAGIC {
            return Err(damaged("its magic"));
        }
        if head.get_u32() != super::crc(&bytes[UNCOVERED_BYTES..]) {
            return Err(damaged("its checksum"));
        }
        let (first, count, codec) = (EntryId(head.get_i64()), head.get_u32(), head.get_u8());
        head.advance(3);
        if codec != CODEC_NONE {
            return Err(damaged("a codec that this version does not know"));
        }
        if first != placed.first_entry || count != placed.count {
            return Err(damaged("it is not the block that the index names"));
        }
        let mut rest = bytes.slice(BLOCK_HEAD_BYTES..);
        if head.get_u32() as usize != rest.len() {
            return Err(damaged("its length"));
        }
        // No more than there is room for, whatever the index and the head say.
        let mut entries = Vec::with_capacity((count as usize).min(rest.len() / LENGTH_BYTES));
        while !rest.is_empty() {
            let length = rest.try_get_u32().map_err(|_| damaged("an entry's length"))? as usize;
            if length > rest.len() {
                return Err(damaged("an entry's length"));
            }
            entries.push(rest.split_to(length));
        }
        if entries.len() != count as usize {
            return Err(damaged("the number of its entries"));
        }
        Ok(Self { first, entries, bytes: bytes.len() })
    }

    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        self.bytes + self.entries.len() * size_of::<Bytes>()
    }

    /// Its first entry.
    pub fn first(&self) -> EntryId {
        self.first
    }

    /// Its last entry.
    pub fn last(&self) -> EntryId {
        EntryId(self.first.0 + self.entries.len() as i64 - 1)
    }

    /// One of its entries, as bookies held it.
    pub fn stored(&self, entry: EntryId) -> Option<&Bytes> {
        let at = usize::try_from(entry.0.checked_sub(self.first.0)?).ok()?;
        self.entries.get(at)
    }

    /// One of its entries, verified (D1); with `prefix_bytes`, its payload cut to that length.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn entry(
        &self,
        cluster: ClusterUuid,
        ledger: LedgerId,
        id: EntryId,
        prefix_bytes: Option<u32>,
    ) -> Result<Entry, FormatError> {
        let missing = FormatError::Damaged { what: WHAT, why: "an entry is not in it" };
        let stored = self.stored(id).ok_or(missing)?;
        let whole = entry::decode_expecting(cluster, ledger, id, stored)?;
        Ok(match prefix_bytes {
            None => whole,
            Some(prefix_bytes) => {
                entry::decode_prefix(ledger, id, &entry::prefix(stored, prefix_bytes)?)?
            }
        })
    }
}
