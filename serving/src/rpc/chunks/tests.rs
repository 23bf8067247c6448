//! Cutting what was read.

use futures::FutureExt;
use geminga_proto::ids::Offset;
use geminga_records::{Compression, Record, encode};
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::room::Room;
use crate::router::Read;

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

/// The next piece, which there is.
fn piece(cut: Cut) -> Chunk {
    let Cut::Piece(chunk) = cut else { panic!("{cut:?}") };
    chunk
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
        let found = read(&counts, compression, 10).into();
        let mut chunks = Chunks::new(found, from, v1::Format::Records);
        let (mut at, mut seen) = (from, Vec::new());
        while let Cut::Piece(chunk) = chunks.next(room).unwrap() {
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
        let mut chunks = Chunks::new(read.into(), 0, v1::Format::Batches);
        let (mut seen, mut at) = (Vec::new(), 0);
        while let Cut::Piece(chunk) = chunks.next(room).unwrap() {
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
        assert!(Chunks::new(read.clone().into(), 0, format).next(1000).is_err());
    }
}

#[test]
fn a_read_with_nothing_for_the_reader_has_no_piece() {
    let found = read(&[3], Compression::None, 10).into();
    let mut chunks = Chunks::new(found, 3, v1::Format::Records);
    assert!(matches!(chunks.next(1000), Ok(Cut::Nothing)));
    assert_eq!(chunks.end(), 3);
}

/// What is good goes before what is not.
#[test]
fn records_before_a_damaged_batch_come_first() {
    let mut read = read(&[3, 3], Compression::None, 10);
    read.batches[1] = read.batches[1].slice(..70);
    let mut chunks = Chunks::new(read.into(), 0, v1::Format::Records);
    let good = piece(chunks.next(1000).unwrap());
    assert_eq!((records(&good).len(), good.next_offset), (3, 3));
    assert!(!chunks.is_empty() && chunks.next(1000).is_err());
}

const KIB: usize = 1024;

/// One batch of so many records of a KiB, as it is read with room for what is stored.
async fn packed(room: &Room, count: usize) -> Charged {
    let read = read(&[count], Compression::Zstd, KIB);
    let held = room.take(read.batches[0].len()).await;
    Charged { read, room: Some(held) }
}

/// The same, read with as much room as it was said to need.
async fn packed_with(room: &Room, count: usize, needs: usize) -> Charged {
    Charged { read: read(&[count], Compression::Zstd, KIB), room: Some(room.take(needs).await) }
}

#[tokio::test]
async fn a_batch_has_room_for_what_it_is_taken_apart_to_and_for_a_piece_until_that_is_written() {
    let room = Room::new(4096 * KIB);
    let mut chunks = Chunks::new(packed(&room, 600).await, 0, v1::Format::Records);
    let first = piece(chunks.next(100 * KIB).unwrap());
    let room_of_first = first.room.clone();
    assert!(room.used() >= 600 * KIB + first.bytes, "{}", room.used());
    assert!(chunks.is_waiting(), "the piece is on its way");
    drop(first);
    assert!(chunks.is_waiting());
    drop(room_of_first);
    assert!(!chunks.is_waiting() && room.used() >= 700 * KIB, "the next one needs it again");
    let mut seen = 0;
    while let Cut::Piece(next) = chunks.next(100 * KIB).unwrap() {
        assert!(room.used() >= 600 * KIB + next.bytes);
        seen = next.next_offset;
        if chunks.is_empty() {
            drop(chunks);
            assert_eq!(room.used(), next.bytes, "the last piece has what it takes, and no more");
            break;
        }
    }
    assert_eq!((seen, room.used()), (600, 0));
}

/// Nothing is decompressed, and nobody waits, where there is no room for it.
#[tokio::test]
async fn who_finds_no_room_says_what_is_needed_and_with_that_goes_on() {
    let room = Room::new(4096 * KIB);
    let mut others = room.take(3500 * KIB).await;
    let mut chunks = Chunks::new(packed(&room, 600).await, 7, v1::Format::Records);
    let Cut::Short(mut needs) = chunks.next(100 * KIB).unwrap() else { panic!("{chunks:?}") };
    drop(chunks);
    assert_eq!(room.used(), 3500 * KIB, "it is all let go");
    others.keep(0);
    let mut attempts = 0;
    let first = loop {
        let found = packed_with(&room, 600, needs).await;
        // Nobody leaves anything beyond that.
        others = room.take(4096 * KIB - room.used()).await;
        let mut chunks = Chunks::new(found, 7, v1::Format::Records);
        match chunks.next(100 * KIB).unwrap() {
            Cut::Piece(first) => break first,
            Cut::Short(more) => needs = more,
            Cut::Nothing => panic!("there are records"),
        }
        drop(others);
        attempts += 1;
        assert!(attempts < 3, "{needs} is needed at last");
    };
    assert_eq!(records(&first)[0].0, 7);
}

#[tokio::test]
async fn what_can_never_be_taken_apart_is_refused() {
    let room = Room::new(1024 * KIB);
    let mut needs = 0;
    let error = loop {
        let found = match needs {
            0 => packed(&room, 1600).await,
            needs => packed_with(&room, 1600, needs).await,
        };
        match Chunks::new(found, 0, v1::Format::Records).next(100 * KIB) {
            Ok(Cut::Short(more)) => needs = more,
            Ok(cut) => panic!("{cut:?}"),
            Err(error) => break error,
        }
        assert!(needs < 1 << 30);
    };
    assert_eq!(error, BatchError::Inflated(1536 * KIB));
    let told = unreadable("partition 1 of t", 0, &error);
    assert_eq!(told.reason, Reason::LimitExceeded);
    assert_eq!(room.used(), 0);
}

/// Several batches are copied, which takes as much room again; without it they come one by one, as they are.
#[tokio::test]
async fn batches_are_laid_end_to_end_where_there_is_room_for_both() {
    let read = read(&[3, 2], Compression::None, KIB);
    let all = read.batches.concat();
    let first = read.batches[0].clone();
    for (free, count) in [(all.len(), 2), (all.len() - 1, 1)] {
        let room = Room::new(all.len() + free);
        let mut held = room.take(all.len()).await;
        let joined = join(&read.batches, Some(&mut held));
        assert_eq!((joined.count, room.used()), (count, all.len()));
        assert_eq!(joined.bytes, if count == 2 { Bytes::from(all.clone()) } else { first.clone() });

        let found = Charged { read: read.clone(), room: Some(held) };
        let mut chunks = Chunks::new(found, 0, v1::Format::Batches);
        let mut offsets = Vec::new();
        while let Cut::Piece(chunk) = chunks.next(all.len()).unwrap() {
            offsets.push(chunk.next_offset);
        }
        assert_eq!((offsets, room.used()), (if count == 2 { vec![5] } else { vec![3, 5] }, 0));
    }
    // Whose rest is let go takes as many as have room twice, and nothing that keeps the rest in memory.
    let five = vec![read.batches[0].clone(); 5];
    let bytes = five.concat().len();
    let room = Room::new(bytes);
    let mut held = room.take(bytes).await;
    let joined = join_or_less(&five, Some(&mut held));
    assert_eq!((joined.count, joined.bytes), (2, Bytes::from(five[..2].concat())));
    let alone = join_or_less(&read.batches, Some(&mut room.clone().take(0).await));
    assert_eq!((alone.count, &alone.bytes), (1, &first));
    assert_ne!(alone.bytes.as_ptr(), first.as_ptr(), "a copy");
    assert_eq!(join(&[], None).count, 0);
    assert_eq!(join(&read.batches, None).count, 2, "another broker has the room for it");
}

proptest! {
    /// However little others leave: every record once and in order, and never less room than what there is.
    #[test]
    fn all_is_sent_however_full_the_room_is(
        counts in proptest::collection::vec(1usize..300, 1..5),
        taken in 0usize..1024,
        most in 1usize..200,
        zipped in any::<bool>(),
    ) {
        let compression = if zipped { Compression::Zstd } else { Compression::None };
        let room = Room::new(1024 * KIB);
        let held = |bytes| room.take(bytes).now_or_never().expect("it is free");
        let whole = read(&counts, compression, KIB);
        let (end, mut at, mut needs, mut in_vain) = (whole.next_offset.0, 0, 0, 0);
        while at < end {
            let mut read = whole.clone();
            read.batches.retain(|batch| end_of(batch).unwrap() > at);
            if needs > 0 {
                read.batches.truncate(1);
                read.next_offset = Offset(end_of(&read.batches[0]).unwrap());
            }
            let stored: usize = read.batches.iter().map(Bytes::len).sum();
            let found = Charged { room: Some(held(needs.max(stored))), read };
            let others = held((taken * KIB).min(1024 * KIB - room.used()));
            let mut chunks = Chunks::new(found, at, v1::Format::Records);
            needs = 0;
            while !chunks.is_empty() {
                match chunks.next(most * KIB).unwrap() {
                    Cut::Piece(piece) => {
                        let (first, last) = (&records(&piece)[0], piece.next_offset);
                        prop_assert_eq!(first.0, at);
                        prop_assert!(piece.bytes + others.bytes() <= room.used() || room.used() == 1024 * KIB);
                        (at, in_vain) = (last, 0);
                    }
                    Cut::Short(more) => {
                        needs = more;
                        in_vain += 1;
                        prop_assert!(in_vain < 4, "{more} bytes are needed again and again");
                        break;
                    }
                    Cut::Nothing => at = chunks.end(),
                }
            }
        }
    }
}
