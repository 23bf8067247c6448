//! Record batches: good ones, ones with one thing wrong, and what can be seen of those that are fetched.

use bytes::{Bytes, BytesMut};
use geminga_records::{Compression, HEADER_BYTES, Record, encode};
use serde_json::{Value, json};

/// The time of the first record that scenarios write; the others follow a second apart.
pub(crate) const TIME_MS: i64 = 1_700_000_000_000;

// Where the fields of a header are.
pub(crate) const BASE_OFFSET: usize = 0;
pub(crate) const LENGTH: usize = 8;
pub(crate) const MAGIC: usize = 16;
pub(crate) const CRC: usize = 17;
pub(crate) const ATTRIBUTES: usize = 21;
pub(crate) const LAST_DELTA: usize = 23;
pub(crate) const BASE_TIMESTAMP: usize = 27;
pub(crate) const MAX_TIMESTAMP: usize = 35;
pub(crate) const PRODUCER: usize = 43;
pub(crate) const PRODUCER_EPOCH: usize = 51;
pub(crate) const SEQUENCE: usize = 53;
pub(crate) const COUNT: usize = 57;

/// A batch with so many records.
pub(crate) fn batch(count: i64) -> BytesMut {
    compressed(count, Compression::None)
}

pub(crate) fn compressed(count: i64, codec: Compression) -> BytesMut {
    let record = |n: i64| Record {
        timestamp: TIME_MS + n * 1_000,
        key: Some(format!("key {n}").into()),
        value: Some(format!("value {n}").into()),
        ..Record::default()
    };
    let records: Vec<_> = (0..count).map(record).collect();
    of(&records, codec)
}

pub(crate) fn of(records: &[Record], codec: Compression) -> BytesMut {
    BytesMut::from(&encode(records, codec).expect("a batch").into_bytes()[..])
}

/// Writes a field.
pub(crate) fn set(batch: &mut BytesMut, at: usize, bytes: &[u8]) {
    batch[at..at + bytes.len()].copy_from_slice(bytes);
}

/// With the checksum that it should have.
pub(crate) fn sealed(mut batch: BytesMut) -> Bytes {
    let crc = crc32c::crc32c(&batch[ATTRIBUTES..]);
    set(&mut batch, CRC, &crc.to_be_bytes());
    batch.freeze()
}

/// A batch of two with a field changed, and the right checksum.
pub(crate) fn with(at: usize, bytes: &[u8]) -> Bytes {
    let mut changed = batch(2);
    set(&mut changed, at, bytes);
    sealed(changed)
}

/// An idempotent producer's batch of `count` records.
pub(crate) fn idempotent(producer: i64, epoch: i16, sequence: i32, count: i64) -> Bytes {
    let mut batch = batch(count);
    set(&mut batch, PRODUCER, &producer.to_be_bytes());
    set(&mut batch, PRODUCER_EPOCH, &epoch.to_be_bytes());
    set(&mut batch, SEQUENCE, &sequence.to_be_bytes());
    sealed(batch)
}

/// The batches of a fetch, as a list of what their headers say; the checksum stands for the records.
pub(crate) fn shown(records: &Value) -> Value {
    let Some(text) = records.as_str() else { return records.clone() };
    let hex = text.strip_prefix("0x").expect("bytes");
    let bytes: Vec<u8> = (0..hex.len() / 2)
        .map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).expect("hexadecimal"))
        .collect();
    let (mut all, mut rest) = (Vec::new(), &bytes[..]);
    while rest.len() >= HEADER_BYTES {
        let word = |at: usize| i32::from_be_bytes(rest[at..at + 4].try_into().expect("four"));
        let long = |at: usize| i64::from_be_bytes(rest[at..at + 8].try_into().expect("eight"));
        let length = usize::try_from(word(LENGTH)).expect("a length") + LENGTH + 4;
        let attributes =
            i16::from_be_bytes(rest[ATTRIBUTES..ATTRIBUTES + 2].try_into().expect("two"));
        // The time of the log is in the checksum.
        let own_time = attributes & 8 == 0;
        all.push(json!({
            "base_offset": long(BASE_OFFSET), "bytes": length, "magic": rest[MAGIC],
            "attributes": attributes, "count": word(COUNT),
            "crc": if own_time { format!("{:08x}", word(CRC)) } else { "<crc>".into() },
            "max_timestamp": if own_time { json!(long(MAX_TIMESTAMP)) } else { json!("<now>") },
        }));
        rest = rest.get(length..).unwrap_or_default();
    }
    if !rest.is_empty() {
        all.push(json!({ "rest": rest.len() }));
    }
    Value::Array(all)
}
