//! Batches as a whole: round trips, a second implementation, bytes that other clients made, and bytes that nobody
//! should have made.

use bytes::{Bytes, BytesMut};
use geminga_proto::reason::Reason;
use kafka_protocol::records as oracle;
use proptest::prelude::*;

use super::*;

const LIMIT: usize = 1 << 20;

fn record(timestamp: i64, key: Option<&'static str>, value: Option<&'static str>) -> Record {
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    Record { timestamp, key: key.map(bytes), value: value.map(bytes), ..Record::default() }
}

fn some_records() -> Vec<Record> {
    let mut with_headers = record(1_000, Some("k"), Some("v"));
    with_headers.headers =
        vec![("a".to_owned(), Some(Bytes::from_static(b"1"))), ("a".to_owned(), None)];
    vec![with_headers, record(999, None, Some("")), record(2_000, Some(""), None)]
}

fn at_offsets(mut records: Vec<Record>, base: i64) -> Vec<Record> {
    for (offset, record) in (base..).zip(&mut records) {
        record.offset = offset;
    }
    records
}

fn bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

prop_compose! {
    fn records()(records in proptest::collection::vec(
        (any::<i64>(), proptest::option::of(bytes()), proptest::option::of(bytes()),
         proptest::collection::vec((".{0,9}", proptest::option::of(bytes())), 0..4)),
        1..30,
    )) -> Vec<Record> {
        records.into_iter().map(|(timestamp, key, value, headers)| {
            // Deltas of real clocks, not of all 64 bits.
            Record { timestamp: timestamp >> 2, key, value, headers, offset: 0 }
        }).collect()
    }
}

fn codec() -> impl Strategy<Value = Compression> {
    proptest::sample::select(&Compression::ALL[..])
}

/// One of two bytes would take many times as much once it is kept: those who want none keep none.
#[test]
fn headers_that_nobody_wants_take_no_memory() {
    let headers = vec![(String::new(), None); 100_000];
    let batch = encode(&[Record { headers, ..Record::default() }], Compression::Zstd).unwrap();
    assert!(batch.len() < 1_000);
    let records = Compression::Zstd.decompress(batch.records(), LIMIT).unwrap();
    let seen = crate::record::Walk::new(batch.header(), &records[..]).next().unwrap().unwrap();
    assert_eq!(seen.kept_headers(), 0);
    let mut glances = 0;
    look_through(&batch, LIMIT, |_| glances += 1).unwrap();
    assert_eq!(glances, 1);
    assert_eq!(decode(&batch, LIMIT).unwrap()[0].headers.len(), 100_000);
}

proptest! {
    /// Whether the bytes are changed in place or copied, the batch is the one that a builder would have made.
    #[test]
    fn a_batch_is_given_to_a_producer(records in records(), codec in codec(), sequence: (u32, u16, u32), shared: bool) {
        let sequence = Sequence {
            producer_id: i64::from(sequence.0),
            epoch: (sequence.1 >> 1).cast_signed(),
            first: (sequence.2 >> 1).cast_signed(),
        };
        let batch = encode(&records, codec).unwrap();
        prop_assert_eq!(batch.header().sequence(), None);
        let keep = shared.then(|| batch.clone());
        let mut given = batch;
        given.set_sequence(sequence);
        prop_assert_eq!(given.header().sequence(), Some(sequence));
        prop_assert_eq!(&Batch::parse(given.as_bytes().clone()).unwrap(), &given);
        let mut builder = Builder::new(codec).producer(sequence.producer_id, sequence.epoch, sequence.first);
        records.iter().for_each(|record| { builder.push(record).unwrap(); });
        prop_assert_eq!(&builder.finish().unwrap(), &given);
        // Others who hold it see nothing of that.
        if let Some(keep) = keep {
            prop_assert_eq!(keep, encode(&records, codec).unwrap());
        }
    }

    /// What a log holds, and a transaction wrote, becomes what a plain producer would have sent.
    #[test]
    fn a_stored_batch_is_sent_anew(records in records(), codec in codec(), base in 0..i64::MAX / 2, transactional: bool) {
        let batch = encode(&records, codec).unwrap();
        let mut stored = batch.clone();
        stored.set_sequence(Sequence { producer_id: 5, epoch: 1, first: 9 });
        let stored = stored.stamp(base, 7).concat();
        let mut stored = BytesMut::from(&stored[..]);
        if transactional {
            stored[header::CRC_FROM + 1] |= 1 << 4;
            batch::seal(&mut stored);
        }
        let stored = Batch::parse(stored.freeze()).unwrap();
        prop_assert_eq!(stored.header().is_transactional(), transactional);
        prop_assert_eq!(stored.check_sum(), Ok(()));
        prop_assert_eq!(stored.anew(), batch);
    }

    #[test]
    fn what_was_encoded_is_decoded(records in records(), codec in codec(), base in 0..i64::MAX / 2) {
        let batch = encode(&records, codec).unwrap();
        prop_assert_eq!(batch.header().compression(), Ok(codec));
        prop_assert_eq!(batch.header().max_timestamp, records.iter().map(|r| r.timestamp).max().unwrap());
        let batch = Batch::parse(batch.into_bytes()).unwrap();
        batch.check_produced().unwrap();
        let mut seen = Vec::new();
        look_through(&batch, LIMIT, |glance| seen.push(glance)).unwrap();
        let expected = (0..).zip(&records).map(|(place, record)| {
            Glance { place, timestamp: record.timestamp, has_key: record.key.is_some() }
        });
        prop_assert_eq!(seen, expected.collect::<Vec<_>>());
        let [head, shared] = batch.stamp(base, 7);
        prop_assert_eq!(batch.shared_checksum(), crc32c::crc32c(&shared));
        let stamped = Bytes::from([head, shared].concat());
        let batch = Batch::parse(stamped).unwrap();
        prop_assert_eq!((batch.header().base_offset, batch.header().leader_epoch), (base, 7));
        prop_assert_eq!(batch.header().next_offset(), base + records.len() as i64);
        let one_by_one = Records::open(&batch, LIMIT).unwrap();
        prop_assert!(one_by_one.bytes() > 0);
        let one_by_one: Vec<_> = one_by_one.collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(&one_by_one, &decode(&batch, LIMIT).unwrap());
        prop_assert_eq!(one_by_one, at_offsets(records, base));
    }

    /// A lie about the largest timestamp is mended under a checksum that fits, and nothing else changes.
    #[test]
    fn a_largest_timestamp_is_mended(records in records(), codec in codec(), said: i64) {
        let batch = encode(&records, codec).unwrap();
        let lying = batch.with_max_timestamp(said);
        let lying = Batch::parse(lying.into_bytes()).unwrap();
        prop_assert_eq!(lying.header().max_timestamp, said);
        prop_assert_eq!(lying.with_max_timestamp(batch.header().max_timestamp), batch);
    }

    #[test]
    fn a_second_implementation_reads_what_we_write(records in records()) {
        let mut records = records;
        // It keeps headers in a map.
        for record in &mut records {
            record.headers.sort();
            record.headers.dedup_by(|a, b| a.0 == b.0);
        }
        let mut bytes = encode(&records, Compression::None).unwrap().into_bytes();
        let set = oracle::RecordBatchDecoder::decode(&mut bytes).unwrap();
        let read: Vec<Record> = set.records.into_iter().map(|r| Record {
            offset: r.offset,
            timestamp: r.timestamp,
            key: r.key,
            value: r.value,
            headers: r.headers.into_iter().map(|(k, v)| (k.to_string(), v)).collect(),
        }).collect();
        prop_assert_eq!(read, at_offsets(records, 0));
    }

    #[test]
    fn a_flipped_bit_is_seen(at in 16usize..130, bit in 0u8..8) {
        let batch = encode(&some_records(), Compression::None).unwrap();
        let mut broken = batch.into_bytes().to_vec();
        let at = at.min(broken.len() - 1);
        broken[at] ^= 1 << bit;
        prop_assert!(Batch::parse(Bytes::from(broken)).is_err());
    }

    /// Bytes that pass the checksum because the sender computed it over nonsense.
    #[test]
    fn noise_under_a_good_checksum_is_refused_or_read(
        noise in proptest::collection::vec(any::<u8>(), 0..300),
        codec in 0i16..8,
        count in 1i32..2_000_000,
        keep in any::<bool>(),
    ) {
        let mut bytes = BytesMut::new();
        let header = Header {
            base_offset: 0, batch_length: 49 + noise.len() as i32, leader_epoch: -1, magic: 2, crc: 0,
            attributes: codec, last_offset_delta: count - 1, base_timestamp: 0, max_timestamp: 0,
            producer_id: -1, producer_epoch: -1, base_sequence: -1,
            record_count: if keep { count } else { 1 },
        };
        header.write(&mut bytes);
        bytes.extend_from_slice(&noise);
        batch::seal(&mut bytes);
        if let Ok(batch) = Batch::parse(bytes.freeze()) {
            if let Ok(records) = decode(&batch, LIMIT) {
                prop_assert_eq!(records.len(), count as usize);
            }
            let _ = (batch.check_produced(), look_through(&batch, LIMIT, drop));
        }
    }

    #[test]
    fn noise_is_refused(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Batch::parse(Bytes::from(noise.clone())).is_err());
        let mut walk = split(Bytes::from(noise.clone()));
        prop_assert!(noise.is_empty() || walk.by_ref().any(|batch| batch.is_err()));
        prop_assert!(walk.next().is_none());
    }

    /// A batch of ours, damaged inside and sealed again: any answer but a panic or too many bytes.
    #[test]
    fn damage_under_a_good_checksum_does_no_harm(
        codec in codec(), at in 61usize..400, byte in any::<u8>(), cut in 0usize..100,
    ) {
        let records: Vec<Record> = (0..40).map(|n| record(n, Some("key"), Some("some text, some text"))).collect();
        let mut bytes = encode(&records, codec).unwrap().into_bytes().to_vec();
        let at = at.min(bytes.len() - 1);
        bytes[at] = byte;
        bytes.truncate((bytes.len() - cut).max(HEADER_BYTES));
        let length = (bytes.len() - LOG_OVERHEAD_BYTES) as i32;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        batch::seal(&mut bytes);
        let batch = Batch::parse(Bytes::from(bytes)).unwrap();
        if let Ok(records) = decode(&batch, LIMIT) {
            prop_assert_eq!(records.len(), 40);
        }
    }
}

/// What Kafka's clients write, byte by byte: this must stay readable, and what we write must stay this.
#[test]
fn golden_bytes() {
    let golden = "000000000000000000000050ffffffff0287d1ccb8000000000002000000000000\
                  03e800000000000007d0ffffffffffffffffffffffffffff00000003";
    let batch = encode(&some_records(), Compression::None).unwrap();
    let hex: String = batch.as_bytes().iter().map(|b| format!("{b:02x}")).collect();
    let records = "1e000000026b02760402610231026101\
                   0c000102010000\
                   0e00d00f04000100";
    assert_eq!(hex, format!("{golden}{records}"));
}

/// What `gzip`, `lz4`, `zstd` and the description of snappy's blocks make of one text; snappy also in the framing
/// of snappy-java, in two blocks.
#[test]
fn other_packers_are_read() {
    let plain = Bytes::from_static(b"geminga geminga geminga geminga geminga");
    for (codec, packed) in [
        (Compression::Gzip, "1f8b08000000000002034b4fcdcdcc4b4f5448c74f0300135b1e2f27000000"),
        (
            Compression::Lz4,
            "04224d186440a7120000008f67656d696e676120080007506d696e6761000000000ad47484",
        ),
        (Compression::Zstd, "28b52ffd04587500004067656d696e67612001006b0a17c7d6f803"),
        (Compression::Snappy, "271c67656d696e6761207a0800"),
        (
            Compression::Snappy,
            "82534e415050590000000001000000010000000a081c67656d696e676120\
             0000000d1f1c67656d696e6761205a0800",
        ),
    ] {
        let packed: Vec<u8> = (0..packed.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&packed[at..at + 2], 16).unwrap())
            .collect();
        let packed = Bytes::from(packed);
        assert_eq!(codec.decompress(packed.clone(), LIMIT), Ok(plain.clone()), "{codec:?}");
        assert_eq!(codec.decompress(packed.clone(), 38), Err(BatchError::Inflated(38)));
        for cut in 0..packed.len() {
            // Not every codec says that its end is missing: then what is there is right.
            if let Ok(text) = codec.decompress(packed.slice(..cut), LIMIT) {
                assert!(plain.starts_with(&text), "{codec:?}");
            }
        }
    }
}

#[test]
fn a_bomb_is_not_inflated() {
    // 16 MiB of zeros packs into a few kilobytes.
    let value = Bytes::from(vec![0; 15 << 20]);
    let bomb = Record { value: Some(value), ..Record::default() };
    for codec in Compression::ALL {
        let batch = encode(std::slice::from_ref(&bomb), codec).unwrap();
        assert_eq!(decode(&batch, LIMIT), Err(BatchError::Inflated(LIMIT)), "{codec:?}");
        let opened = Records::open(&batch, LIMIT).map(|records| records.bytes());
        assert_eq!(opened, Err(BatchError::Inflated(LIMIT)), "{codec:?}");
        assert_eq!(decode(&batch, 16 << 20).unwrap().len(), 1, "{codec:?}");
    }
}

/// A header may take two bytes, and a hundred once it is read.
#[test]
fn of_more_headers_than_are_read_one_by_one_nothing_is_made() {
    let with = |count| {
        let headers = vec![(String::new(), None); count];
        encode(&[Record { headers, ..Record::default() }], Compression::None).unwrap()
    };
    let open = |batch: &Batch| Records::open(batch, LIMIT).unwrap().next().unwrap();
    assert_eq!(open(&with(10_000)).map(|record| record.headers.len()), Ok(10_000));
    let more = with(10_001);
    assert_eq!(open(&more), Err(BatchError::TooManyHeaders));
    assert_eq!(decode(&more, LIMIT).unwrap().len(), 1, "whoever takes the batch may");
}

#[test]
fn every_refusal_has_its_kind() {
    let good = encode(&some_records(), Compression::None).unwrap().into_bytes();
    let kind = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.to_vec();
        change(&mut bytes);
        Batch::parse(Bytes::from(bytes)).map_err(|error| error.kind())
    };
    assert!(kind(&|_| {}).is_ok());
    assert_eq!(kind(&|b| b.clear()), Err(Kind::Corrupt));
    assert_eq!(kind(&|b| b.truncate(90)), Err(Kind::Corrupt));
    assert_eq!(kind(&|b| *b = vec![0; 200]), Err(Kind::Corrupt));
    assert_eq!(kind(&|b| b.push(0)), Err(Kind::Invalid));
    assert_eq!(kind(&|b| b.extend_from_slice(&good)), Err(Kind::Invalid));
    assert_eq!(kind(&|b| b[16] = 1), Err(Kind::Unsupported));
    assert_eq!(kind(&|b| b[22] = 5), Err(Kind::Unsupported));
    assert_eq!(kind(&|b| b[60] = 2), Err(Kind::Invalid));
    assert_eq!(kind(&|b| b[8] = 0x7f), Err(Kind::TooLarge));
    assert_eq!(kind(&|b| b[8] = 0xff), Err(Kind::Corrupt));
    assert_eq!(kind(&|b| b[17] ^= 1), Err(Kind::Corrupt));
}

#[test]
fn what_only_brokers_write_is_refused() {
    let batch = encode(&some_records(), Compression::Lz4).unwrap();
    batch.check_produced().unwrap();
    let stamped = Batch::parse(Bytes::from(batch.stamp(5, 0).concat())).unwrap();
    assert!(matches!(stamped.check_produced(), Err(BatchError::NotProducible(_))));
    let dated = batch.with_log_append_time(77);
    let refused = dated.check_produced().unwrap_err();
    assert_eq!((refused.reason(), refused), (Reason::InvalidTimestamp, BatchError::Dated));
    let halfway = Builder::new(Compression::None).producer(3, 0, -1);
    let halfway = {
        let mut b = halfway;
        b.push(&some_records()[0]).unwrap();
        b.finish().unwrap()
    };
    assert!(matches!(halfway.check_produced(), Err(BatchError::NotProducible(_))));
}

#[test]
fn the_brokers_date_counts_for_every_record() {
    let batch = encode(&some_records(), Compression::Zstd).unwrap().with_log_append_time(77);
    let batch = Batch::parse(batch.into_bytes()).unwrap();
    assert!(batch.header().is_log_append_time());
    assert!(decode(&batch, LIMIT).unwrap().iter().all(|record| record.timestamp == 77));
}

#[test]
fn batches_end_to_end_are_split() {
    let batch = encode(&some_records(), Compression::None).unwrap();
    let parts = [batch.stamp(0, 1), batch.stamp(3, 1)].concat();
    let payload = Bytes::from(parts.concat());
    let offsets: Vec<i64> =
        split(payload.clone()).map(|b| b.unwrap().header().base_offset).collect();
    assert_eq!(offsets, [0, 3]);
    let mut cut = split(payload.slice(..payload.len() - 1));
    assert!(cut.next().unwrap().is_ok());
    assert!(matches!(cut.next(), Some(Err(BatchError::Truncated { .. }))));
    assert!(cut.next().is_none());
    assert!(split(Bytes::new()).next().is_none());
}

#[test]
fn builders_hold_the_limits() {
    let empty = Builder::new(Compression::None);
    assert!(empty.is_empty());
    assert!(matches!(empty.finish(), Err(BatchError::Count { .. })));
    let mut builder = Builder::new(Compression::None);
    let half = Record { value: Some(Bytes::from(vec![1; 9 << 20])), ..Record::default() };
    assert_eq!(builder.push(&half), Ok(0));
    assert!(matches!(builder.push(&half), Err(BatchError::TooLarge { .. })));
    assert_eq!(builder.count(), 1);
    assert_eq!(builder.finish().unwrap().header().record_count, 1);
}
