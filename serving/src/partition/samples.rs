//! Batches and entries for tests.

use bytes::Bytes;
use geminga_proto::ids::Offset;
use geminga_records::{Batch, Builder, Compression, Record, Sequence, split};

use super::log::ReadEntry;

/// A batch with a record of `value_bytes` at each of these times.
pub(crate) fn batch_at(times: &[i64], value_bytes: usize, compression: Compression) -> Batch {
    let mut builder = Builder::new(compression);
    for &timestamp in times {
        let value = Some(Bytes::from(vec![7; value_bytes]));
        builder.push(&Record { timestamp, value, ..Record::default() }).unwrap();
    }
    builder.finish().unwrap()
}

/// A batch of one record with this value.
pub(crate) fn batch_of(value: &str) -> Batch {
    let mut builder = Builder::new(Compression::None);
    let value = Some(Bytes::copy_from_slice(value.as_bytes()));
    builder.push(&Record { value, ..Record::default() }).unwrap();
    builder.finish().unwrap()
}

/// The same of an idempotent producer.
pub(crate) fn batch_from(value: &str, sequence: Sequence) -> Batch {
    let mut batch = batch_of(value);
    batch.set_sequence(sequence);
    batch
}

/// The values in stored batches, in order, each with its offset.
pub(crate) fn values(batches: &[Bytes]) -> Vec<(i64, String)> {
    let records = batches.iter().flat_map(|bytes| {
        let batch = Batch::parse(bytes.clone()).unwrap();
        geminga_records::decode(&batch, 1 << 20).unwrap()
    });
    records.map(|r| (r.offset, String::from_utf8(r.value.unwrap().to_vec()).unwrap())).collect()
}

/// A stored entry of these batches that begins at `first_offset`.
pub(crate) fn entry(first_offset: i64, batches: &[Batch]) -> ReadEntry {
    let (mut next, mut max_timestamp, mut payload) = (first_offset, -1, Vec::new());
    for batch in batches {
        payload.extend(batch.stamp(next, 1).concat());
        next += batch.header().offset_count();
        max_timestamp = max_timestamp.max(batch.header().max_timestamp);
    }
    ReadEntry {
        first_offset: Offset(first_offset),
        offset_count: u32::try_from(next - first_offset).unwrap(),
        max_timestamp,
        payload: Bytes::from(payload),
    }
}

/// Base offset and leader epoch of each batch in a payload.
pub(crate) fn stamps(payload: &[Bytes]) -> Vec<(i64, i32)> {
    let batches = split(Bytes::from(payload.concat()));
    batches
        .map(|batch| {
            // The checksum still holds.
            let batch = Batch::parse(batch.unwrap().into_bytes()).unwrap();
            (batch.header().base_offset, batch.header().leader_epoch)
        })
        .collect()
}
