//! What stands behind the last frame of a segment that is full: what the segment holds, so that opening the log need not
//! read the frames again (protocol 5.5). Big-endian.
//!
//! ```text
//! … frames | free | items, 40 bytes each | zeros up to the next 512 | trailer, the last 512 bytes of the file
//! item     u8 kind | 3 × 0 | u32 offset | u64 ledger | u32 length | u32 count | i64 first or value | i64 lac
//!          (of a trimmed ledger these two are the halves of its attempt)
//! trailer  u64 magic | u16 version | 6 × 0 | u64 segment_seq | u64 first frame | u64 last frame | u64 offset of the items
//!          | u32 number of items | u32 crc32c of the items | u32 end of the frames | zeros | u32 crc32c at 508
//! ```
//!
//! Both crcs are seeded by the disk's identity, and the segment's number is inside, so what an earlier use of the file left
//! behind is none. A footer is written only when every frame of its segment is on stable storage. It is never trusted
//! when it is damaged: the frames are read then.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use geminga_proto::ids::{EntryId, LedgerId, SealEpoch};

use super::format::{ALIGNMENT, HEADER_BYTES, Seed};
use crate::ledger::Record;

const MAGIC: u64 = u64::from_be_bytes(*b"GEMINGAF");
/// The version written today.
const VERSION: u16 = 1;
const ITEM_BYTES: usize = 40;
/// Bytes of the trailer.
pub(super) const TRAILER_BYTES: usize = ALIGNMENT;
const CRC_BYTES: usize = 4;

/// What an item is. Persisted, keep stable; the same numbers as the records in a frame.
const ENTRIES: u8 = 1;
const SEAL: u8 = 2;
const RUN_START: u8 = 3;
const CLOSED: u8 = 4;
const TOMBSTONE: u8 = 5;
const TRIMMED: u8 = 7;
const GIVEN_UP: u8 = 8;

/// One record of a segment, in the order of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// Where a record's entries are.
    Extent(Extent),
    /// A record without entries, whole.
    Record(LedgerId, Record),
}

/// Consecutive entries of a ledger in one record of this segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) ledger: LedgerId,
    pub(super) first: EntryId,
    /// At least 1.
    pub(super) count: u32,
    pub(super) lac: EntryId,
    /// Of the record in the file, bytes.
    pub(super) offset: u32,
    /// Of the whole record, bytes.
    pub(super) length: u32,
}

/// The footer of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) segment: u64,
    pub(super) first_frame: u64,
    pub(super) last_frame: u64,
    /// Where the frames end, bytes.
    pub(super) end: u32,
    pub(super) items: Vec<Item>,
}

impl Footer {
    /// The bytes, and where they stand in a file of `file_bytes`: at its end, which moves only when there is no room
    /// behind the frames.
    pub(super) fn encode(&self, seed: Seed, file_bytes: u64) -> (u64, Bytes) {
        let mut bytes = BytesMut::with_capacity(self.items.len() * ITEM_BYTES + 2 * ALIGNMENT);
        for item in &self.items {
            put_item(&mut bytes, item);
        }
        let items_crc = seed.crc(&bytes);
        let padded = bytes.len().next_multiple_of(ALIGNMENT);
        bytes.put_bytes(0, padded - bytes.len());
        let total = (padded + TRAILER_BYTES) as u64;
        let behind = u64::from(self.end).next_multiple_of(ALIGNMENT as u64);
        let at = behind.max((file_bytes - file_bytes % ALIGNMENT as u64).saturating_sub(total));
        bytes.put_u64(MAGIC);
        bytes.put_u16(VERSION);
        bytes.put_bytes(0, 6);
        bytes.put_u64(self.segment);
        bytes.put_u64(self.first_frame);
        bytes.put_u64(self.last_frame);
        bytes.put_u64(at);
        bytes.put_u32(u32::try_from(self.items.len()).expect("a segment holds fewer than 2^32"));
        bytes.put_u32(items_crc);
        bytes.put_u32(self.end);
        bytes.put_bytes(0, padded + TRAILER_BYTES - CRC_BYTES - bytes.len());
        let crc = seed.crc(&bytes[padded..]);
        bytes.put_u32(crc);
        (at, bytes.freeze())
    }
}

/// A trailer that is whole: where the items are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trailer {
    first_frame: u64,
    last_frame: u64,
    segment: u64,
    end: u32,
    count: u32,
    items_crc: u32,
    /// Where the items begin in the file, bytes.
    pub(super) items_at: u64,
}

impl Trailer {
    /// From the last bytes of a segment's file of `file_bytes`; `None` when they are no trailer of it.
    pub(super) fn decode(bytes: &[u8], segment: u64, seed: Seed, file_bytes: u64) -> Option<Self> {
        let (covered, mut crc) = bytes.split_at_checked(TRAILER_BYTES - CRC_BYTES)?;
        if crc.len() != CRC_BYTES || crc.get_u32() != seed.crc(covered) {
            return None;
        }
        let mut rest = covered;
        if rest.get_u64() != MAGIC || rest.get_u16() != VERSION {
            return None;
        }
        rest.advance(6);
        let trailer = Self {
            segment: rest.get_u64(),
            first_frame: rest.get_u64(),
            last_frame: rest.get_u64(),
            items_at: rest.get_u64(),
            count: rest.get_u32(),
            items_crc: rest.get_u32(),
            end: rest.get_u32(),
        };
        let items_end = trailer.items_at.checked_add(trailer.items_bytes() as u64)?;
        let fits = items_end <= file_bytes.saturating_sub(TRAILER_BYTES as u64)
            && trailer.items_at >= u64::from(trailer.end)
            && trailer.end as usize >= HEADER_BYTES
            && (1..=trailer.last_frame).contains(&trailer.first_frame);
        (trailer.segment == segment && fits).then_some(trailer)
    }

    /// Bytes of the items.
    pub(super) fn items_bytes(&self) -> usize {
        self.count as usize * ITEM_BYTES
    }

    /// The footer, of which `items` are the bytes of the items; `None` when they are damaged.
    pub(super) fn footer(&self, items: &[u8], seed: Seed) -> Option<Footer> {
        if items.len() != self.items_bytes() || seed.crc(items) != self.items_crc {
            return None;
        }
        let items = items.chunks_exact(ITEM_BYTES).map(get_item).collect::<Option<_>>()?;
        let Self { segment, first_frame, last_frame, end, .. } = *self;
        Some(Footer { segment, first_frame, last_frame, end, items })
    }
}

fn put_item(bytes: &mut BytesMut, item: &Item) {
    let (kind, ledger, value) = match item {
        Item::Extent(extent) => (ENTRIES, extent.ledger, extent.first.0),
        Item::Record(ledger, record) => match record {
            Record::Seal { epoch } => (SEAL, *ledger, i64::from(epoch.0)),
            Record::RunStart { fragment_first } => (RUN_START, *ledger, fragment_first.0),
            Record::Closed { last } => (CLOSED, *ledger, last.0),
            Record::Trimmed { attempt } => (TRIMMED, *ledger, halves(*attempt).0),
            Record::GivenUp => (GIVEN_UP, *ledger, 0),
            Record::Tombstone => (TOMBSTONE, *ledger, 0),
            // Without an entry it says only that the ledger is known.
            Record::Entries { fragment_first, .. } => (RUN_START, *ledger, fragment_first.0),
        },
    };
    let (offset, length, count, lac) = match item {
        Item::Extent(Extent { offset, length, count, lac, .. }) => {
            (*offset, *length, *count, lac.0)
        }
        Item::Record(_, Record::Trimmed { attempt }) => (0, 0, 0, halves(*attempt).1),
        Item::Record(..) => (0, 0, 0, 0),
    };
    bytes.put_u8(kind);
    bytes.put_bytes(0, 3);
    bytes.put_u32(offset);
    bytes.put_u64(ledger.0);
    bytes.put_u32(length);
    bytes.put_u32(count);
    bytes.put_i64(value);
    bytes.put_i64(lac);
}

/// The bits of an attempt's id as two numbers of an item.
fn halves(attempt: u128) -> (i64, i64) {
    ((attempt >> 64) as u64 as i64, attempt as u64 as i64)
}

fn get_item(mut bytes: &[u8]) -> Option<Item> {
    let kind = bytes.get_u8();
    bytes.advance(3);
    let (offset, ledger) = (bytes.get_u32(), LedgerId(bytes.get_u64()));
    let (length, count) = (bytes.get_u32(), bytes.get_u32());
    let (value, lac) = (bytes.get_i64(), EntryId(bytes.get_i64()));
    let record = match kind {
        ENTRIES => {
            let end = value.checked_add(i64::from(count))?;
            let sound = value >= 0 && count > 0 && end < i64::MAX;
            let extent = Extent { ledger, first: EntryId(value), count, lac, offset, length };
            return sound.then_some(Item::Extent(extent));
        }
        SEAL => Record::Seal { epoch: SealEpoch(u32::try_from(value).ok()?) },
        RUN_START => Record::RunStart { fragment_first: EntryId(value) },
        CLOSED => Record::Closed { last: EntryId(value) },
        TRIMMED => {
            let attempt = u128::from(value as u64) << 64 | u128::from(lac.0 as u64);
            Record::Trimmed { attempt }
        }
        GIVEN_UP => Record::GivenUp,
        TOMBSTONE => Record::Tombstone,
        _ => return None,
    };
    Some(Item::Record(ledger, record))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::tests::identity;

    fn seed() -> Seed {
        Seed::of(&identity())
    }

    fn footer() -> Footer {
        let ledger = LedgerId(0x17);
        let extent = |first, offset| Extent {
            ledger,
            first: EntryId(first),
            count: 3,
            lac: EntryId(first - 1),
            offset,
            length: 700,
        };
        let records = [
            Record::RunStart { fragment_first: EntryId(2) },
            Record::Seal { epoch: SealEpoch(u32::MAX) },
            Record::Closed { last: EntryId(7) },
            Record::Tombstone,
        ];
        let mut items = vec![Item::Extent(extent(0, 4132)), Item::Extent(extent(3, 5132))];
        items.extend(records.map(|record| Item::Record(ledger, record)));
        Footer { segment: 9, first_frame: 5, last_frame: 8, end: 6144, items }
    }

    /// A file with the footer in it, as long as it needs to be.
    fn file(footer: &Footer, file_bytes: u64) -> Vec<u8> {
        let (at, bytes) = footer.encode(seed(), file_bytes);
        let mut file = vec![0; usize::try_from(at).unwrap()];
        file.extend(bytes);
        file
    }

    fn read(file: &[u8], segment: u64) -> Option<Footer> {
        let from = file.len().checked_sub(TRAILER_BYTES)?;
        let trailer = Trailer::decode(&file[from..], segment, seed(), file.len() as u64)?;
        let at = usize::try_from(trailer.items_at).unwrap();
        trailer.footer(&file[at..at + trailer.items_bytes()], seed())
    }

    #[test]
    fn a_footer_stands_at_the_end_of_its_file() {
        for (file_bytes, expected) in [(16 << 10, 16 << 10), (6144, 7168), (6145, 7168), (0, 7168)]
        {
            let file = file(&footer(), file_bytes);
            assert_eq!(file.len(), expected, "{file_bytes}");
            assert_eq!(read(&file, 9), Some(footer()));
            assert_eq!(read(&file, 8), None, "a recycled file's old footer");
        }
    }

    /// The format of what is on disks already.
    #[test]
    fn golden_bytes() {
        let (at, bytes) = footer().encode(seed(), 0);
        assert_eq!((at, bytes.len()), (6144, 1024));
        let mut stored = vec![0; 6144];
        stored.extend(crate::log::tests::golden("footer.hex", &bytes));
        assert_eq!(read(&stored, 9), Some(footer()));
    }

    proptest! {
        /// Every single damaged bit is noticed.
        #[test]
        fn damage_is_noticed(at: prop::sample::Index, bit in 0u8..8) {
            let mut file = file(&footer(), 0);
            let items = footer().items.len() * ITEM_BYTES;
            let trailer = file.len() - TRAILER_BYTES;
            let at = at.index(items + TRAILER_BYTES);
            let at = if at < items { 6144 + at } else { trailer + at - items };
            file[at] ^= 1 << bit;
            prop_assert_eq!(read(&file, 9), None);
        }

        /// Bytes that nobody wrote are refused, never a panic, nor a large allocation.
        #[test]
        fn garbage_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
            prop_assert_eq!(read(&bytes, 9), None);
            let mut sound = bytes;
            sound.resize(ITEM_BYTES, 0);
            sound[0] %= 8;
            let _ = get_item(&sound);
        }
    }
}
