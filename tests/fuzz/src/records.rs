//! Record batches: what producers send, and what consumers get.

use bytes::Bytes;
use geminga_records::{Batch, Compression, Record, split};

use crate::Target;

/// One batch, as a producer sends it.
pub(crate) const BATCH: Target = Target { name: "record_batch", run: batch, seeds };
/// Batches end to end, as an entry holds them.
pub(crate) const PAYLOAD: Target = Target { name: "batches", run: payload, seeds };

/// Most bytes that the records of one batch may take when they are unpacked.
const UNPACKED: usize = 1 << 20;

fn seeds() -> Vec<Bytes> {
    let record = |value: &'static [u8]| Record {
        offset: 0,
        timestamp: 1_700_000_000_000,
        key: Some(Bytes::from_static(b"key")),
        value: Some(Bytes::from_static(value)),
        headers: vec![("name".to_owned(), Some(Bytes::from_static(b"value")))],
    };
    let kinds = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];
    let records = [record(b""), record(b"a value, a value, a value")];
    let encode =
        |kind| geminga_records::encode(&records, kind).expect("a small batch").into_bytes();
    kinds.into_iter().map(encode).collect()
}

fn batch(bytes: &[u8]) {
    let Ok(batch) = Batch::parse(Bytes::copy_from_slice(bytes)) else { return };
    assert_eq!(batch.as_bytes(), bytes, "a batch passes through as it is");
    if batch.check_produced().is_ok() {
        let [head, rest] = batch.stamp(77, 5);
        let stamped = [head, rest].concat();
        assert_eq!(stamped.len(), bytes.len());
        let stamped = Batch::parse(stamped.into()).expect("a stamp does not break a batch");
        assert_eq!(stamped.header().base_offset, 77);
    }
    let mut seen = 0;
    let looked = geminga_records::look_through(&batch, UNPACKED, |_| seen += 1);
    if let Ok(records) = geminga_records::decode(&batch, UNPACKED) {
        assert_eq!((looked, seen), (Ok(()), records.len()));
        let count = i64::try_from(records.len()).expect("few");
        assert_eq!(count, i64::from(batch.header().record_count));
    }
}

fn payload(bytes: &[u8]) {
    let mut seen = 0;
    for batch in split(Bytes::copy_from_slice(bytes)) {
        let Ok(batch) = batch else { break };
        assert!(batch.len() > 0, "or it would never end");
        seen += batch.len();
        assert!(seen <= bytes.len());
    }
}
