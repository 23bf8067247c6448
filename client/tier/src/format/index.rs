//! Where an object's blocks are, and what is in them: finds an entry, an offset or a time with no read but that of the block.

use bytes::{Buf, BufMut};
use geminga_proto::ids::EntryId;

use super::footer::Footer;
use crate::error::FormatError;

pub(super) const ITEM_BYTES: usize = 40;
const WHAT: &str = "the index";

/// One block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Its first entry.
    pub first_entry: EntryId,
    /// The first offset that its first entry states.
    pub first_offset: i64,
    /// Where it begins in the object, bytes.
    pub place: u64,
    /// Bytes, head included.
    pub length: u32,
    /// Entries.
    pub count: u32,
    /// The largest timestamp of the partition up to and with its last entry.
    pub running_max_timestamp: i64,
}

impl Placed {
    /// Its last entry.
    pub fn last_entry(&self) -> EntryId {
        EntryId(self.first_entry.0 + i64::from(self.count) - 1)
    }
}

pub(crate) fn put(out: &mut impl BufMut, placed: &Placed) {
    out.put_i64(placed.first_entry.0);
    out.put_i64(placed.first_offset);
    out.put_u64(placed.place);
    out.put_u32(placed.length);
    out.put_u32(placed.count);
    out.put_i64(placed.running_max_timestamp);
}

/// All blocks of an object: they hold entries `0..=last_entry` without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index(Vec<Placed>);

impl Index {
    /// From its bytes.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn decode(bytes: &[u8], footer: &Footer) -> Result<Self, FormatError> {
        let damaged = |why| FormatError::Damaged { what: WHAT, why };
        if bytes.len() != footer.index_length as usize {
            let (have, want) = (bytes.len() as u64, u64::from(footer.index_length));
            return Err(FormatError::Truncated { what: WHAT, have, want });
        }
        if super::crc(bytes) != footer.index_crc {
            return Err(damaged("its checksum"));
        }
        let mut blocks = Vec::with_capacity(bytes.len() / ITEM_BYTES);
        let mut next = EntryId(0);
        let mut place = None;
        for mut item in bytes.chunks(ITEM_BYTES) {
            if item.len() < ITEM_BYTES {
                return Err(damaged("its length"));
            }
            let placed = Placed {
                first_entry: EntryId(item.get_i64()),
                first_offset: item.get_i64(),
                place: item.get_u64(),
                length: item.get_u32(),
                count: item.get_u32(),
                running_max_timestamp: item.get_i64(),
            };
            let follows = place.is_none_or(|place| place == placed.place);
            if placed.first_entry != next || placed.count == 0 || !follows {
                return Err(damaged("its blocks do not follow one another"));
            }
            next = placed.last_entry().next();
            place = Some(placed.place.saturating_add(u64::from(placed.length)));
            blocks.push(placed);
        }
        if next != footer.last_entry.next() || place != Some(footer.index_place) {
            return Err(damaged("its blocks do not end where the object says"));
        }
        Ok(Self(blocks))
    }

    /// The blocks, in order.
    pub fn blocks(&self) -> &[Placed] {
        &self.0
    }

    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        self.0.len() * size_of::<Placed>()
    }

    /// Which block holds an entry.
    pub fn of_entry(&self, entry: EntryId) -> Option<usize> {
        let after = self.0.partition_point(|block| block.first_entry <= entry);
        let at = after.checked_sub(1)?;
        (entry <= self.0[at].last_entry()).then_some(at)
    }

    /// Between which entries, the first included and the last not, the first one stands whose first offset is above `offset`: the
    /// search ends there when its lower end is the upper. All of them are of one block, but for the upper end.
    pub fn above_offset(&self, offset: i64) -> (EntryId, EntryId) {
        let after = self.0.partition_point(|block| block.first_offset <= offset);
        let Some(before) = after.checked_sub(1) else { return (EntryId(0), EntryId(0)) };
        let block = &self.0[before];
        (block.first_entry.next(), block.last_entry().next())
    }

    /// The same of the first entry up to which the largest timestamp is `timestamp_ms` or more.
    pub fn reaching_time(&self, timestamp_ms: i64) -> (EntryId, EntryId) {
        let at = self.0.partition_point(|block| block.running_max_timestamp < timestamp_ms);
        match (self.0.get(at), self.0.last()) {
            (Some(block), _) => (block.first_entry, block.last_entry()),
            (None, Some(last)) => (last.last_entry().next(), last.last_entry().next()),
            (None, None) => (EntryId(0), EntryId(0)),
        }
    }
}
