use geminga_proto::ids::{ClusterUuid, DiskUuid, Incarnation};
use proptest::prelude::*;

use super::*;

fn identity() -> Identity {
    Identity {
        cluster: ClusterUuid::from_random(1),
        bookie: "bookie-1".parse().unwrap(),
        incarnation: Incarnation(7),
        disk: DiskUuid::from_random(2),
    }
}

fn seed() -> Seed {
    Seed::of(&identity())
}

fn records() -> Vec<Record> {
    vec![
        Record::RunStart { fragment_first: EntryId(0) },
        Record::Entries {
            fragment_first: EntryId(0),
            first: EntryId(3),
            entries: vec![Bytes::from_static(b"first"), Bytes::new(), Bytes::from_static(b"third")],
            lac: EntryId(2),
        },
        Record::Seal { epoch: SealEpoch(4) },
        Record::Closed { last: EntryId(5) },
        Record::Tombstone,
    ]
}

fn body(records: &[Record]) -> Vec<Bytes> {
    let mut parts = Vec::new();
    for record in records {
        parts.push(encode_record(LedgerId(0x17), record, seed()));
        if let Record::Entries { entries, .. } = record {
            parts.extend(entries.iter().cloned());
        }
    }
    parts
}

fn written(parts: Vec<Bytes>) -> Bytes {
    parts.concat().into()
}

const HEAD: FrameHead = FrameHead { segment: 9, seq: 5, durable_upto: 3 };

/// The format of what is on disks already: it may only grow. Read back, the bytes say what was written.
#[test]
fn golden_bytes() {
    let mut parts = body(&records());
    parts.push(encode_mark(Mark::Idle));
    let frame = written(encode_frame(HEAD, seed(), parts));
    let golden = Bytes::from(crate::log::tests::golden("frame.hex", &frame));
    let read = decode_frame(&golden, 0, HEAD.segment, seed()).unwrap();
    assert_eq!((read.head, read.end), (HEAD, 512));
    let items: Vec<_> =
        decode_body(&read.body, seed()).unwrap().into_iter().map(|p| p.item).collect();
    let ledger = |record| Item::Ledger { ledger: LedgerId(0x17), record };
    let expected: Vec<_> =
        records().into_iter().map(ledger).chain([Item::Mark(Mark::Idle)]).collect();
    assert_eq!(items, expected);

    let header = encode_header(&identity(), 9);
    let golden = crate::log::tests::golden("segment-header.hex", &header);
    assert_eq!(check_header(&golden, &identity(), 9), Ok(()));
}

#[test]
fn a_header_is_for_one_segment_of_one_log() {
    let header = encode_header(&identity(), 9);
    assert_eq!(check_header(&header, &identity(), 9), Ok(()));
    let others = [
        (Identity { cluster: ClusterUuid::from_random(3), ..identity() }, 9, "cluster"),
        (Identity { bookie: "bookie-11".parse().unwrap(), ..identity() }, 9, "bookie"),
        (Identity { incarnation: Incarnation(8), ..identity() }, 9, "incarnation"),
        (Identity { disk: DiskUuid::from_random(3), ..identity() }, 9, "disk"),
        (identity(), 10, "place in the log"),
    ];
    for (other, segment, what) in others {
        assert_eq!(check_header(&header, &other, segment), Err(BadHeader::Foreign(what)));
    }
    for byte in [0, 9, 30, 100, 3000, 4095] {
        let mut damaged = header.to_vec();
        damaged[byte] ^= 1;
        assert_eq!(check_header(&damaged, &identity(), 9), Err(BadHeader::Damaged));
    }
    assert_eq!(check_header(&header[..4000], &identity(), 9), Err(BadHeader::Damaged));
    let mut newer = BytesMut::from(&header[..4092]);
    newer[9] = 2;
    let crc = crc32c::crc32c(&newer);
    newer.put_u32(crc);
    assert_eq!(check_header(&newer, &identity(), 9), Err(BadHeader::Version(2)));
}

#[test]
fn a_frame_belongs_to_one_place_of_one_life() {
    let frame = written(encode_frame(HEAD, seed(), body(&records())));
    assert!(decode_frame(&frame, 0, 9, seed()).is_some());
    assert!(decode_frame(&frame, 0, 8, seed()).is_none(), "a recycled file's old frame");
    let other = Seed::of(&Identity { incarnation: Incarnation(8), ..identity() });
    assert!(decode_frame(&frame, 0, 9, other).is_none(), "a former life's frame");
}

fn record() -> impl Strategy<Value = Record> {
    let id = -1i64..1 << 40;
    let entries = proptest::collection::vec(
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from),
        0..8,
    );
    prop_oneof![
        (id.clone(), 0i64..1 << 40, entries, id.clone()).prop_map(
            |(fragment, first, entries, lac)| {
                Record::Entries {
                    fragment_first: EntryId(fragment),
                    first: EntryId(first),
                    entries,
                    lac: EntryId(lac),
                }
            }
        ),
        any::<u32>().prop_map(|epoch| Record::Seal { epoch: SealEpoch(epoch) }),
        id.clone().prop_map(|first| Record::RunStart { fragment_first: EntryId(first) }),
        id.prop_map(|last| Record::Closed { last: EntryId(last) }),
        Just(Record::Tombstone),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        records in proptest::collection::vec(record(), 0..6),
        segment: u64,
        seq in 1u64..,
    ) {
        let head = FrameHead { segment, seq, durable_upto: seq - 1 };
        let parts = body(&records);
        let length: usize = parts.iter().map(Bytes::len).sum();
        prop_assert_eq!(length, records.iter().map(record_bytes).sum::<usize>());
        let file = written(encode_frame(head, seed(), parts));
        prop_assert_eq!(file.len(), frame_bytes(length));
        let frame = decode_frame(&file, 0, segment, seed()).unwrap();
        prop_assert_eq!((frame.head, frame.end), (head, file.len()));
        let placed = decode_body(&frame.body, seed()).unwrap();
        let mut at = 0;
        for (placed, record) in placed.iter().zip(&records) {
            let item = Item::Ledger { ledger: LedgerId(0x17), record: record.clone() };
            prop_assert_eq!(&placed.item, &item);
            prop_assert_eq!((placed.offset, placed.length), (at, record_bytes(record)));
            at += placed.length;
        }
        prop_assert_eq!(placed.len(), records.len());
    }

    /// Every single damaged bit is noticed.
    #[test]
    fn damage_is_noticed(records in proptest::collection::vec(record(), 1..4), at: prop::sample::Index, bit in 0u8..8) {
        let parts = body(&records);
        let length: usize = parts.iter().map(Bytes::len).sum();
        let mut file = written(encode_frame(HEAD, seed(), parts)).to_vec();
        file[at.index(FRAME_HEAD_BYTES + length)] ^= 1 << bit;
        prop_assert!(decode_frame(&file.into(), 0, HEAD.segment, seed()).is_none());
    }

    /// Bytes that nobody wrote are refused, never a panic, nor a large allocation.
    #[test]
    fn garbage_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600), cut: prop::sample::Index) {
        let garbage = Bytes::from(bytes.clone());
        let _ = decode_body(&garbage, seed());
        let _ = EntriesHead::decode(&garbage, seed());
        prop_assert!(decode_frame(&garbage, cut.index(700), HEAD.segment, seed()).is_none());
        // The same behind good beginnings.
        let mut bodies = body(&records()).concat();
        bodies.truncate(cut.index(bodies.len()));
        bodies.extend(bytes);
        let _ = decode_body(&Bytes::from(bodies.clone()), seed());
        let _ = EntriesHead::decode(bodies.get(24..).unwrap_or_default(), seed());
    }
}
