//! The bytes of objects: what is written is read, nothing that changed is taken for it, and the format stays what it is.

use bytes::Bytes;
use geminga_metastore::record::Custom;
use geminga_proto::ids::{ClusterUuid, EntryId, LedgerId, TopicId};

use super::*;
use crate::testing::{self, entry_of};
use crate::writer::{SegmentWriter, Summary};

const LEDGER: LedgerId = LedgerId(0x2a);

fn header(last: i64) -> Header {
    Header {
        cluster: testing::cluster(),
        attempt: 0x0123_4567_89ab_cdef,
        ledger: LEDGER,
        qw: 3,
        qa: 2,
        last_entry: EntryId(last),
        custom: Custom {
            topic: TopicId::from_slice(&[7; 16]).unwrap(),
            namespace: "default".to_owned(),
            name: "flights".to_owned(),
            partition: 3,
            first_offset: 100,
            term: 2,
        },
    }
}

fn write(sizes: &[usize]) -> (Bytes, Summary, Vec<Bytes>) {
    let entries = testing::entries(LEDGER, sizes);
    let mut writer = SegmentWriter::new(&header(sizes.len() as i64 - 1));
    for entry in &entries {
        writer.push(entry).unwrap();
    }
    let (bytes, summary) = writer.finish().unwrap();
    assert_eq!(bytes.len() as u64, summary.size);
    (bytes, summary, entries)
}

/// Everything that a reader does with an object: its entries.
fn read(object: &Bytes) -> Result<Vec<Bytes>, crate::FormatError> {
    let header = Header::decode(object)?;
    let at = object.len().checked_sub(FOOTER_BYTES);
    let footer = Footer::decode(&object[at.unwrap_or(0)..], object.len() as u64)?;
    let place = footer.index_place as usize;
    let end = place + footer.index_length as usize;
    let index = Index::decode(&object[place..end], &footer)?;
    let mut entries = Vec::new();
    for placed in index.blocks() {
        let from = placed.place as usize;
        let block = Block::decode(&object.slice(from..from + placed.length as usize), placed)?;
        for id in (block.first().0..=block.last().0).map(EntryId) {
            block.entry(header.cluster, header.ledger, id, None)?;
            entries.push(block.stored(id).unwrap().clone());
        }
    }
    Ok(entries)
}

#[test]
fn what_is_written_is_read() {
    let (object, summary, entries) = write(&[10, 700_000, 0, 900_000, 5, 3_000_000, 1]);
    assert_eq!(read(&object).unwrap(), entries);
    assert_eq!(summary.entries, 7);
    let digests = entries.iter().map(|entry| geminga_proto::entry::stored_digest(entry).unwrap());
    assert_eq!(summary.entries_crc, digests.fold(0, geminga_proto::entry::roll_digest));
    assert_eq!(summary.length, 4_600_016);
    assert_eq!(Header::decode(&object).unwrap(), header(6));
}

/// Every byte of an object is covered by some checksum, and every length by another.
#[test]
fn no_changed_byte_and_no_cut_goes_unnoticed() {
    let (object, _, _) = write(&[10, 0, 300]);
    for at in 0..object.len() {
        let mut changed = object.to_vec();
        changed[at] ^= 0x40;
        assert!(read(&changed.into()).is_err(), "byte {at} of {}", object.len());
        if at > FOOTER_BYTES {
            assert!(read(&object.slice(..at)).is_err(), "cut at {at}");
        }
    }
}

#[test]
fn only_the_entry_that_is_due_is_taken() {
    let entries = testing::entries(LEDGER, &[10, 20, 30]);
    let mut writer = SegmentWriter::new(&header(2));
    assert!(writer.push(&entries[1]).is_err(), "a gap");
    writer.push(&entries[0]).unwrap();
    assert!(writer.push(&entries[0]).is_err(), "a repetition");
    let mut rotten = entries[1].to_vec();
    rotten[90] ^= 1;
    assert!(writer.push(&rotten.into()).is_err(), "rot");
    let other = entry_of(LedgerId(9), 1, 20, 30);
    assert!(writer.push(&other).is_err(), "another ledger's");
    let jump = entry_of(LEDGER, 1, 20, 31);
    assert!(writer.push(&jump).is_err(), "a length that does not follow");
    writer.push(&entries[1]).unwrap();
    // T3: what could not be read is never left out silently.
    let mismatch = writer.finish().unwrap_err();
    assert_eq!((mismatch.what, mismatch.have, mismatch.want), ("entries", 2, 3));
}

#[test]
fn parts_are_taken_as_they_fill_up() {
    let entries = testing::entries(LEDGER, &[600_000; 20]);
    let mut writer = SegmentWriter::new(&header(19));
    let (mut taken, mut most) = (Vec::new(), 0);
    for entry in &entries {
        writer.push(entry).unwrap();
        while let Some(part) = writer.take(2 << 20) {
            assert_eq!(part.len(), 2 << 20);
            taken.extend_from_slice(&part);
        }
        most = most.max(writer.held());
    }
    let (rest, summary) = writer.finish().unwrap();
    taken.extend_from_slice(&rest);
    assert_eq!(taken.len() as u64, summary.size);
    assert_eq!(read(&taken.into()).unwrap(), entries);
    assert!(most < 5 << 20, "{most} bytes were held");
}

/// Against the entries themselves, wherever the borders of blocks are.
#[test]
fn the_index_narrows_a_search_to_one_block() {
    let (object, summary, entries) = write(&[400_000; 11]);
    let footer = Footer::decode(&object[object.len() - FOOTER_BYTES..], summary.size).unwrap();
    let end = object.len() - FOOTER_BYTES;
    let index = Index::decode(&object[summary.index_place as usize..end], &footer).unwrap();
    assert!(index.blocks().len() > 3);
    let headers: Vec<_> =
        entries.iter().map(|e| geminga_proto::entry::peek(e).unwrap().1).collect();
    let first = |test: &dyn Fn(&geminga_proto::entry::Attributes) -> bool| {
        headers.iter().position(test).unwrap_or(headers.len()) as i64
    };
    for offset in 90..150 {
        let want = first(&|header| header.first_offset > offset);
        let (low, high) = index.above_offset(offset);
        assert!((low.0..=high.0).contains(&want), "offset {offset}: {want} in {low}..={high}");
        assert!(high.0 - low.0 <= 3, "one block");
    }
    for time in 0..200 {
        let want = first(&|header| header.running_max_timestamp >= time);
        let (low, high) = index.reaching_time(time);
        assert!((low.0..=high.0).contains(&want), "time {time}: {want} in {low}..={high}");
    }
    for entry in 0..11 {
        let block = &index.blocks()[index.of_entry(EntryId(entry)).unwrap()];
        assert!((block.first_entry..=block.last_entry()).contains(&EntryId(entry)));
    }
    assert_eq!(index.of_entry(EntryId(11)), None);
}

#[test]
fn golden_bytes() {
    let (object, _, entries) = write(&[10, 0, 300]);
    let stored = testing::golden("ledger.seg.hex", &object);
    assert_eq!(read(&stored.into()).unwrap(), entries);
}

#[test]
fn another_cluster_reads_nothing() {
    let (object, summary, _) = write(&[10]);
    let footer = Footer::decode(&object[object.len() - FOOTER_BYTES..], summary.size).unwrap();
    let end = object.len() - FOOTER_BYTES;
    let index = Index::decode(&object[summary.index_place as usize..end], &footer).unwrap();
    let placed = &index.blocks()[0];
    let bytes = object.slice(placed.place as usize..placed.place as usize + placed.length as usize);
    let block = Block::decode(&bytes, placed).unwrap();
    let other = ClusterUuid::from_slice(&[9; 16]).unwrap();
    assert!(block.entry(other, LEDGER, EntryId(0), None).is_err());
}
