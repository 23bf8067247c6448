//! The parts of a ledger's object: whoever may write to the object store can put anything there. The checksums of inputs are made
//! to fit, and what one part says of another, or nothing behind them would be reached.

use bytes::Bytes;
use geminga_metastore::record::Custom;
use geminga_proto::entry::{self, Attributes, Kind, NO_SNAPSHOT, Position};
use geminga_proto::ids::{ClusterUuid, EntryId, LedgerId, TopicId};
use geminga_proto::payload::Payload;
use geminga_tier::SegmentWriter;
use geminga_tier::format::{Block, FOOTER_BYTES, Footer, Header, Index, Placed};

use crate::Target;

/// What an object says of itself.
pub(crate) const HEADER: Target = Target { name: "object_header", run: header, seeds: headers };
/// Where its index is.
pub(crate) const FOOTER: Target = Target { name: "object_footer", run: footer, seeds: footers };
/// Where its blocks are.
pub(crate) const INDEX: Target = Target { name: "object_index", run: index, seeds: indexes };
/// Entries.
pub(crate) const BLOCK: Target = Target { name: "object_block", run: block, seeds: blocks };

const LEDGER: LedgerId = LedgerId(7);
const CRC_BYTES: usize = 4;
/// Where a header says its length.
const HEADER_LENGTH: usize = 12;
const ITEM_BYTES: usize = 40;
/// Of a block: its magic and its checksum, and all that stands before the entries.
const UNCOVERED_BYTES: usize = 8;
const BLOCK_HEAD_BYTES: usize = 28;

/// Puts numbers into bytes, as far as there is room.
fn put(bytes: &mut [u8], at: usize, number: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + number.len()) {
        place.copy_from_slice(number);
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk::<N>()).copied().unwrap_or([0; N])
}

/// As a length is written.
fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes()
}

fn header(data: &[u8]) {
    let _ = Header::decode(data);
    let mut bytes = data.to_vec();
    put(&mut bytes, HEADER_LENGTH, &length(data.len() + CRC_BYTES));
    bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
    let Ok(header) = Header::decode(&bytes) else { return };
    assert_eq!(Header::decode(&header.encode()), Ok(header));
}

fn footer(data: &[u8]) {
    let end = u64::from_be_bytes(number(data, 16))
        .saturating_add(u32::from_be_bytes(number(data, 24)).into())
        .saturating_add(FOOTER_BYTES as u64);
    let bytes = [data, &crc32c::crc32c(data).to_be_bytes()].concat();
    let Ok(footer) = Footer::decode(&bytes, end) else { return };
    assert_eq!(footer.last_entry, EntryId(footer.entries.cast_signed() - 1));
    assert_eq!(Footer::decode(&footer.encode(), end), Ok(footer));
}

/// The footer says what the last item does.
fn index(data: &[u8]) {
    let last = &data[data.len() - data.len().min(ITEM_BYTES)..];
    let first_entry = i64::from_be_bytes(number(last, 0));
    let count = u32::from_be_bytes(number(last, 28));
    let last_entry = first_entry.saturating_add(i64::from(count)).saturating_sub(1);
    let footer = Footer {
        index_place: u64::from_be_bytes(number(last, 16))
            .saturating_add(u32::from_be_bytes(number(last, 24)).into()),
        index_length: u32::from_be_bytes(length(data.len())),
        index_crc: crc32c::crc32c(data),
        entries: last_entry.saturating_add(1).cast_unsigned(),
        last_entry: EntryId(last_entry),
        length: 0,
        entries_crc: 0,
        object_crc: 0,
    };
    let Ok(index) = Index::decode(data, &footer) else { return };
    assert!(index.bytes() <= 2 * data.len(), "memory that its length does not explain");
    let mut next = EntryId(0);
    for (at, placed) in index.blocks().iter().enumerate() {
        assert_eq!(placed.first_entry, next, "without a gap");
        assert_eq!(index.of_entry(placed.last_entry()), Some(at));
        next = placed.last_entry().next();
    }
    assert_eq!(index.of_entry(next), None);
    for offset in [i64::MIN, 0, i64::MAX] {
        let (from, to) = index.above_offset(offset);
        assert!(from <= to && to <= next);
        let (from, to) = index.reaching_time(offset);
        assert!(from <= to && to <= next);
    }
}

/// The index says what the block's head does.
fn block(data: &[u8]) {
    let mut bytes = data.to_vec();
    put(&mut bytes, 24, &length(data.len().saturating_sub(BLOCK_HEAD_BYTES)));
    let sum = crc32c::crc32c(bytes.get(UNCOVERED_BYTES..).unwrap_or_default());
    put(&mut bytes, 4, &sum.to_be_bytes());
    let placed = Placed {
        first_entry: EntryId(i64::from_be_bytes(number(&bytes, 8))),
        first_offset: 0,
        place: 0,
        length: u32::from_be_bytes(length(bytes.len())),
        count: u32::from_be_bytes(number(&bytes, 16)),
        running_max_timestamp: 0,
    };
    let Ok(block) = Block::decode(&bytes.into(), &placed) else { return };
    for id in (0..i64::from(placed.count)).map(|n| EntryId(placed.first_entry.0.wrapping_add(n))) {
        let Ok(entry) = block.entry(cluster(), LEDGER, id, None) else { continue };
        assert_eq!((entry.position.ledger, entry.position.entry), (LEDGER, id), "D1");
    }
}

fn cluster() -> ClusterUuid {
    ClusterUuid::from_random(1)
}

/// An object with two entries in one block.
fn object() -> Bytes {
    let header = Header {
        cluster: cluster(),
        attempt: 5,
        ledger: LEDGER,
        qw: 3,
        qa: 2,
        last_entry: EntryId(1),
        custom: Custom {
            topic: TopicId::from_random(2),
            namespace: "default".to_owned(),
            name: "flights".to_owned(),
            partition: 3,
            first_offset: 100,
            term: 2,
        },
    };
    let mut writer = SegmentWriter::new(&header);
    for number in 0..2 {
        writer.push(&stored(number)).expect("the next entry");
    }
    writer.finish().expect("all entries are there").0
}

fn stored(number: i64) -> Bytes {
    let mut payload = Payload::with_index(Bytes::new());
    payload.push(Bytes::from_static(b"payload"));
    let position = Position {
        ledger: LEDGER,
        entry: EntryId(number),
        lac: EntryId(number - 1),
        cumulative_length: 7 * (number.cast_unsigned() + 1),
    };
    let attributes = Attributes {
        kind: Kind::Batches,
        first_offset: 100 + number,
        offset_count: 1,
        max_timestamp: 1,
        running_max_timestamp: 1,
        last_snapshot_entry: NO_SNAPSHOT,
    };
    entry::encode(cluster(), position, attributes, &payload).expect("a small entry")
}

fn parts() -> (Bytes, Footer, Index) {
    let object = object();
    let footer = Footer::decode(&object[object.len() - FOOTER_BYTES..], object.len() as u64)
        .expect("it was written just now");
    let items = items(&object, &footer);
    let index = Index::decode(&items, &footer).expect("it was written just now");
    (object, footer, index)
}

fn items(object: &Bytes, footer: &Footer) -> Bytes {
    let from = usize::try_from(footer.index_place).expect("a small object");
    object.slice(from..from + footer.index_length as usize)
}

fn headers() -> Vec<Bytes> {
    let header = Header::decode(&object()).expect("it was written just now").encode();
    vec![header.slice(..header.len() - CRC_BYTES)]
}

fn footers() -> Vec<Bytes> {
    let (_, footer, _) = parts();
    vec![footer.encode().slice(..FOOTER_BYTES - CRC_BYTES)]
}

fn indexes() -> Vec<Bytes> {
    let (object, footer, index) = parts();
    let one = items(&object, &footer);
    // A second block behind it.
    let placed = index.blocks()[0];
    let mut two = one.to_vec();
    two.extend_from_slice(&one);
    put(&mut two, ITEM_BYTES, &placed.last_entry().next().0.to_be_bytes());
    let behind = placed.place + u64::from(placed.length);
    put(&mut two, ITEM_BYTES + 16, &behind.to_be_bytes());
    vec![one, two.into()]
}

fn blocks() -> Vec<Bytes> {
    let (object, _, index) = parts();
    let placed = index.blocks()[0];
    let from = usize::try_from(placed.place).expect("a small object");
    vec![object.slice(from..from + placed.length as usize)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A target that refuses what it begins with looks at nothing.
    #[test]
    fn seeds_are_parts_of_objects() {
        let (object, footer, index) = parts();
        assert_eq!((footer.entries, index.blocks().len()), (2, 1));
        let block = Block::decode(&blocks()[0], &index.blocks()[0]).expect("a block");
        assert!(block.entry(cluster(), LEDGER, EntryId(1), None).is_ok());
        assert!(Header::decode(&object).is_ok());
        let two = &indexes()[1];
        let last = index.blocks()[0];
        let footer = Footer {
            index_place: last.place + 2 * u64::from(last.length),
            index_length: u32::try_from(two.len()).expect("small"),
            index_crc: crc32c::crc32c(two),
            last_entry: EntryId(3),
            entries: 4,
            ..footer
        };
        assert_eq!(Index::decode(two, &footer).expect("an index").blocks().len(), 2);
    }
}
