//! Cutting what was read.

use geminga_proto::ids::Offset;
use geminga_records::{Compression, Record, encode};
use proptest::prelude::*;
use prost::Message;

use super::*;

/// Batches of so many records each, from offset 0 on.
fn batches(counts: &[usize], compression: Compression, size: usize) -> (Vec<Bytes>, i64) {
    let mut base = 0;
    let batch = |&count: &usize| {
        let record = |n: i64| Record {
            value: Some(format!("{:0>size$}", base + n).into()),
            ..Record::default()
        };
        let records: Vec<_> = (0..i64::try_from(count).unwrap()).map(record).collect();
        let stamped = encode(&records, compression).unwrap().stamp(base, 1).concat();
        base += i64::try_from(count).unwrap();
        Bytes::from(stamped)
    };
    (counts.iter().map(batch).collect(), base)
}

fn read(counts: &[usize], compression: Compression, size: usize) -> Read {
    let (batches, end) = batches(counts, compression, size);
    Read { batches, next_offset: Offset(end), high_watermark: Offset(end), log_start: Offset(0) }
}

fn records(chunk: &Chunk) -> Vec<(i64, String)> {
    let Data::Records(records) = &chunk.data else { panic!("records were asked for") };
    let text = |r: &v1::Record| String::from_utf8(r.value.clone().unwrap().to_vec()).unwrap();
    records.records.iter().map(|r| (r.offset, text(r))).collect()
}

proptest! {
    /// However little room there is: every record from the start on, once, in order, and each piece says where the next
    /// begins. A piece above the room is a single record, and costs what a client counts.
    #[test]
    fn records_come_once_and_within_the_room(
        counts in proptest::collection::vec(1usize..20, 1..6),
        from in 0usize..40,
        room in 1usize..400,
        zipped in any::<bool>(),
    ) {
        let compression = if zipped { Compression::Lz4 } else { Compression::None };
        let total: usize = counts.iter().sum();
        let from = i64::try_from(from.min(total)).unwrap();
        let mut chunks = Chunks::new(read(&counts, compression, 10), from, v1::Format::Records);
        let (mut at, mut seen) = (from, Vec::new());
        while let Some(chunk) = chunks.next(room).unwrap() {
            let Data::Records(wire) = &chunk.data else { panic!("records were asked for") };
            prop_assert_eq!(wire.encoded_len(), chunk.bytes);
            prop_assert!(chunk.bytes <= room || wire.records.len() == 1);
            for (offset, text) in records(&chunk) {
                prop_assert_eq!(&text, &format!("{offset:0>10}"));
                prop_assert!(offset >= at && offset < chunk.next_offset);
                seen.push(offset);
            }
            at = chunk.next_offset;
        }
        prop_assert!(chunks.is_empty());
        prop_assert_eq!(chunks.end(), i64::try_from(total).unwrap());
        prop_assert_eq!(seen, (from..i64::try_from(total).unwrap()).collect::<Vec<_>>());
    }

    #[test]
    fn batches_come_whole_and_within_the_room(
        counts in proptest::collection::vec(1usize..20, 1..6),
        room in 1usize..1000,
    ) {
        let read = read(&counts, Compression::None, 10);
        let all = read.batches.concat();
        let largest = read.batches.iter().map(Bytes::len).max().unwrap();
        let mut chunks = Chunks::new(read, 0, v1::Format::Batches);
        let (mut seen, mut at) = (Vec::new(), 0);
        while let Some(chunk) = chunks.next(room).unwrap() {
            let Data::Batches(bytes) = &chunk.data else { panic!("batches were asked for") };
            prop_assert_eq!(bytes.len(), chunk.bytes);
            prop_assert!(chunk.bytes <= room.max(largest));
            let first = geminga_records::split(bytes.clone()).next().unwrap().unwrap();
            prop_assert_eq!(first.header().base_offset, at);
            at = chunk.next_offset;
            seen.extend_from_slice(bytes);
        }
        prop_assert_eq!(seen, all);
        prop_assert_eq!(at, chunks.end());
    }
}

#[test]
fn what_cannot_be_taken_apart_is_an_error() {
    let mut read = read(&[3], Compression::None, 10);
    read.batches[0] = read.batches[0].slice(..70);
    for format in [v1::Format::Records, v1::Format::Batches] {
        assert!(Chunks::new(read.clone(), 0, format).next(1000).is_err());
    }
}

#[test]
fn a_read_with_nothing_for_the_reader_has_no_piece() {
    let mut chunks = Chunks::new(read(&[3], Compression::None, 10), 3, v1::Format::Records);
    assert_eq!(chunks.next(1000), Ok(None));
    assert_eq!(chunks.end(), 3);
}
