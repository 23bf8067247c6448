//! Batches as brokers store them, built by hand.

use geminga_records::{Compression, Sequence, encode};

use super::*;

const TRANSACTIONAL: u8 = 1 << 4;
const CONTROL: u8 = 1 << 5;
const LOG_APPEND_TIME: u8 = 1 << 3;

fn record(value: &str) -> Record {
    Record {
        timestamp: 5,
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        ..Record::default()
    }
}

fn sealed(mut bytes: Vec<u8>, attributes: u8) -> Vec<u8> {
    bytes[22] |= attributes;
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// Records from an offset on, as of a producer.
fn stored(
    base: i64,
    values: &[&str],
    codec: Compression,
    producer: i64,
    attributes: u8,
) -> Vec<u8> {
    let records: Vec<_> = values.iter().map(|value| record(value)).collect();
    let mut batch = encode(&records, codec).unwrap();
    if producer >= 0 {
        batch.set_sequence(Sequence { producer_id: producer, epoch: 0, first: 0 });
    }
    sealed(batch.stamp(base, 3).concat(), attributes)
}

fn marker(base: i64, producer: i64, commits: bool) -> Vec<u8> {
    let key = Some(Bytes::from(vec![0, 0, 0, u8::from(commits)]));
    let mut batch = encode(&[Record { key, ..Record::default() }], Compression::None).unwrap();
    batch.set_sequence(Sequence { producer_id: producer, epoch: 0, first: 0 });
    sealed(batch.stamp(base, 3).concat(), TRANSACTIONAL | CONTROL)
}

/// A batch of which compaction has left some records: the offsets that are left, from the first on.
fn compacted(base: i64, span: i32, left: &[i32], codec: Compression) -> Vec<u8> {
    let value = |delta: &i32| (*delta, (base + i64::from(*delta)).to_string());
    sparse(base, span, &left.iter().map(value).collect::<Vec<_>>(), codec)
}

/// A batch of records at these places in it, each laid by hand.
fn sparse(base: i64, span: i32, records: &[(i32, String)], codec: Compression) -> Vec<u8> {
    let mut laid = Vec::new();
    let mut bytes = Vec::new();
    for (delta, value) in records {
        let one = encode(&[record(value)], Compression::None).unwrap().into_bytes();
        bytes = one[..61].to_vec();
        // Length, attributes, time, and then the place, a byte each but for the first.
        let length = one[61..].iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
        let at = laid.len() + length + 2;
        laid.extend_from_slice(&one[61..]);
        laid[at] = u8::try_from(delta << 1).unwrap();
    }
    match codec {
        Compression::None => bytes.extend(laid),
        _ => bytes.extend(recompress(&laid, codec)),
    }
    bytes[22] = codec.id();
    let length = i32::try_from(bytes.len() - 12).unwrap();
    let count = i32::try_from(records.len()).unwrap();
    bytes[..8].copy_from_slice(&base.to_be_bytes());
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[23..27].copy_from_slice(&(span - 1).to_be_bytes());
    bytes[57..61].copy_from_slice(&count.to_be_bytes());
    sealed(bytes, 0)
}

fn recompress(laid: &[u8], codec: Compression) -> Vec<u8> {
    assert_eq!(codec, Compression::Gzip);
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(laid).unwrap();
    encoder.finish().unwrap()
}

fn good(batches: Vec<Vec<u8>>, from: i64, aborted: &[(i64, i64)]) -> Pieces {
    let (pieces, wrong) = pieces(batches.concat().into(), from, aborted);
    assert_eq!(wrong, None);
    for piece in &pieces.pieces {
        let batch = Batch::parse(piece.batch.as_bytes().clone()).unwrap();
        batch.check_produced().unwrap();
        assert_eq!((batch.header().sequence(), batch.header().is_transactional()), (None, false));
    }
    pieces
}

fn values(pieces: &Pieces) -> Vec<String> {
    let records = pieces.pieces.iter().flat_map(|piece| decode(&piece.batch, 1 << 20).unwrap());
    records.map(|r| String::from_utf8(r.value.unwrap().to_vec()).unwrap()).collect()
}

#[test]
fn a_batch_without_gaps_keeps_its_bytes() {
    for codec in Compression::ALL {
        let bytes = stored(40, &["a", "b"], codec, 9, 0);
        let found = good(vec![bytes.clone()], 40, &[]);
        let [piece] = &found.pieces[..] else { panic!("{found:?}") };
        assert_eq!(piece.batch.as_bytes()[61..], bytes[61..]);
        assert_eq!((piece.count(), &piece.runs[..], piece.next), (2, &[(0, 40)][..], 42));
        assert_eq!(found.next, 42);
    }
}

#[test]
fn what_was_asked_for_begins_in_the_middle() {
    let bytes = stored(40, &["a", "b", "c"], Compression::Zstd, 9, 0);
    let found = good(vec![bytes, stored(43, &["d"], Compression::None, -1, 0)], 42, &[]);
    assert_eq!(values(&found), ["c", "d"]);
    assert_eq!(found.pieces[0].runs, [(0, 42)]);
    assert_eq!((found.pieces[0].next, found.next), (43, 44));
    assert_eq!(found.pieces[0].batch.header().compression(), Ok(Compression::Zstd));
}

#[test]
fn gaps_become_none_and_are_told() {
    for codec in [Compression::None, Compression::Gzip] {
        let found = good(vec![compacted(10, 9, &[0, 1, 4, 7], codec)], 10, &[]);
        assert_eq!(values(&found), ["10", "11", "14", "17"]);
        assert_eq!(found.pieces[0].runs, [(0, 10), (2, 14), (3, 17)]);
        assert_eq!((found.pieces[0].next, found.next), (19, 19));
    }
    let nothing = good(vec![compacted(10, 9, &[0], Compression::None)], 11, &[]);
    assert_eq!((nothing.pieces.len(), nothing.next), (0, 19));
}

#[test]
fn only_what_was_committed_is_copied() {
    let plain = Compression::None;
    let batches = vec![
        stored(0, &["plain"], plain, -1, 0),
        stored(1, &["lost"], plain, 7, TRANSACTIONAL),
        stored(2, &["kept"], plain, 8, TRANSACTIONAL),
        marker(3, 7, false),
        stored(4, &["kept too"], plain, 7, TRANSACTIONAL),
        marker(5, 8, true),
        marker(6, 7, true),
    ];
    let found = good(batches, 0, &[(7, 1)]);
    assert_eq!(values(&found), ["plain", "kept", "kept too"]);
    let from: Vec<_> = found.pieces.iter().map(|piece| piece.runs[0].1).collect();
    assert_eq!((from, found.next), (vec![0, 2, 4], 7));
}

#[test]
fn a_marker_ends_a_transaction_whose_records_came_before() {
    let kept = || stored(3, &["kept"], Compression::None, 7, TRANSACTIONAL);
    let plain = stored(1, &["plain"], Compression::None, -1, 0);
    let (aborted, committed) = (marker(2, 7, false), marker(4, 7, true));
    for (before, from) in [(vec![], 2), (vec![plain], 1)] {
        let behind = vec![aborted.clone(), kept(), committed.clone()];
        let found = good([before, behind].concat(), from, &[(7, 0)]);
        assert_eq!(values(&found).last().map(String::as_str), Some("kept"));
        assert_eq!(found.next, 5);
    }
}

#[test]
fn dates_of_the_broker_are_those_of_the_records() {
    let mut bytes = stored(0, &["a", "b"], Compression::Lz4, -1, 0);
    bytes[35..43].copy_from_slice(&77_i64.to_be_bytes());
    let found = good(vec![sealed(bytes, LOG_APPEND_TIME)], 0, &[]);
    let records = decode(&found.pieces[0].batch, 1 << 20).unwrap();
    assert_eq!(records.iter().map(|r| r.timestamp).collect::<Vec<_>>(), [77, 77]);
}

#[test]
fn what_is_damaged_is_not_copied_and_what_is_cut_off_waits() {
    let first = stored(0, &["a"], Compression::None, -1, 0);
    let second = stored(1, &["b"], Compression::None, -1, 0);
    let cut = [&first[..], &second[..second.len() - 1]].concat();
    let (found, wrong) = pieces(cut.into(), 0, &[]);
    assert_eq!((found.pieces.len(), found.next, wrong), (1, 1, None));
    let mut damaged = second.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let (found, wrong) = pieces([first.clone(), damaged].concat().into(), 0, &[]);
    assert_eq!((found.pieces.len(), found.next), (1, 1));
    assert_eq!(wrong, Some(Unusable::Batch { offset: 1, why: BatchError::Checksum }));
    let mut old = second;
    old[16] = 1;
    let (found, wrong) = pieces([first, old].concat().into(), 0, &[]);
    assert_eq!((found.next, wrong), (1, Some(Unusable::Old { offset: 1, magic: 1 })));
}

#[test]
fn what_takes_too_much_room_when_taken_apart_becomes_several() {
    let big = "x".repeat(6 << 20);
    let records = ["skip", &big, &big, &big].map(str::to_owned);
    let records: Vec<_> = (0..).zip(records).collect();
    let bytes = sparse(0, 4, &records, Compression::Gzip);
    let found = good(vec![bytes], 1, &[]);
    let counts: Vec<_> = found.pieces.iter().map(Piece::count).collect();
    assert_eq!(counts, [2, 1]);
    let places: Vec<_> = found.pieces.iter().map(|p| (p.runs.clone(), p.next)).collect();
    assert_eq!(places, [(vec![(0, 1)], 3), (vec![(0, 3)], 4)]);
}
