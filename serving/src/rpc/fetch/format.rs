//! What was read, in the format that was asked for. Plain records are cut into answers of bounded size: a small batch may
//! decompress to a large one.

use bytes::{Bytes, BytesMut};
use geminga_proto::ids::Offset;
use geminga_proto::reason::ApiError;
use geminga_proto::v1;
use geminga_records::Batch;

use crate::router::Read;

/// Most bytes that one stored batch is decompressed to.
const MAX_INFLATED_BYTES: usize = 128 * 1024 * 1024;
/// What a record costs in an answer beside its key, value and headers.
const RECORD_OVERHEAD: usize = 32;

/// A part of what was read, and where to go on after it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Part {
    /// `None` when there is nothing.
    pub(super) data: Option<v1::partition_data::Data>,
    pub(super) next_offset: Offset,
}

/// Batches as stored, laid end to end; copied only when there are several.
pub(super) fn as_batches(read: &Read) -> Part {
    let data = match read.batches.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        several => {
            let mut bytes = BytesMut::with_capacity(several.iter().map(Bytes::len).sum());
            several.iter().for_each(|batch| bytes.extend_from_slice(batch));
            Some(bytes.freeze())
        }
    };
    let data = data.map(v1::partition_data::Data::Batches);
    Part { data, next_offset: read.next_offset }
}

/// Records from `from` on, in parts of about `part_bytes`; never none.
///
/// # Errors
/// When a stored batch does not decode. What comes before it is lost with it: ask for batches to get at both.
pub(super) fn as_records(
    read: &Read,
    from: Offset,
    part_bytes: usize,
) -> Result<Vec<Part>, ApiError> {
    let mut parts = Vec::new();
    let (mut records, mut bytes) = (Vec::new(), 0);
    for batch in &read.batches {
        let batch = Batch::parse_stored(batch.clone())?;
        if batch.header().is_control() {
            continue;
        }
        for record in geminga_records::decode(&batch, MAX_INFLATED_BYTES)? {
            if record.offset < from.0 {
                continue;
            }
            let record = v1::Record::from(record);
            let size = size_of(&record);
            if !records.is_empty() && bytes + size > part_bytes {
                parts.push(part(std::mem::take(&mut records), Offset(record.offset)));
                bytes = 0;
            }
            bytes += size;
            records.push(record);
        }
    }
    if records.is_empty() {
        parts.push(Part { data: None, next_offset: read.next_offset });
    } else {
        parts.push(part(records, read.next_offset));
    }
    Ok(parts)
}

fn part(records: Vec<v1::Record>, next_offset: Offset) -> Part {
    let records = v1::Records { records };
    Part { data: Some(v1::partition_data::Data::Records(records)), next_offset }
}

fn size_of(record: &v1::Record) -> usize {
    let part = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
    let headers = record.headers.iter().map(|h| h.key.len() + part(&h.value) + RECORD_OVERHEAD);
    RECORD_OVERHEAD + part(&record.key) + part(&record.value) + headers.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use geminga_records::{Compression, Record, encode};

    use super::*;

    fn batch(base: i64, values: &[&str]) -> Bytes {
        let record = |v: &&str| Record {
            value: Some(Bytes::copy_from_slice(v.as_bytes())),
            ..Record::default()
        };
        let records: Vec<Record> = values.iter().map(record).collect();
        let [head, rest] = encode(&records, Compression::Lz4).unwrap().stamp(base, 1);
        [head, rest].concat().into()
    }

    fn read(batches: Vec<Bytes>, next: i64) -> Read {
        let (next_offset, high_watermark) = (Offset(next), Offset(next));
        Read { batches, next_offset, high_watermark, log_start: Offset(0) }
    }

    fn offsets(part: &Part) -> Vec<i64> {
        match &part.data {
            Some(v1::partition_data::Data::Records(r)) => {
                r.records.iter().map(|r| r.offset).collect()
            }
            _ => Vec::new(),
        }
    }

    #[test]
    fn records_begin_where_was_asked_and_are_cut_by_size() {
        let read = read(vec![batch(10, &["a", "b", "c"]), batch(13, &["d", "e"])], 15);
        let parts = as_records(&read, Offset(11), 2 * (RECORD_OVERHEAD + 1)).unwrap();
        assert_eq!(parts.iter().map(offsets).collect::<Vec<_>>(), [vec![11, 12], vec![13, 14]]);
        let next: Vec<i64> = parts.iter().map(|p| p.next_offset.0).collect();
        assert_eq!(next, [13, 15]);
    }

    #[test]
    fn nothing_read_is_one_part_without_data() {
        let parts = as_records(&read(Vec::new(), 7), Offset(7), 100).unwrap();
        assert_eq!(parts, [Part { data: None, next_offset: Offset(7) }]);
        assert_eq!(as_batches(&read(Vec::new(), 7)).data, None);
    }

    #[test]
    fn batches_are_laid_end_to_end() {
        let (a, b) = (batch(0, &["a"]), batch(1, &["b"]));
        let part = as_batches(&read(vec![a.clone(), b.clone()], 2));
        let whole = Bytes::from([a, b].concat());
        assert_eq!(part.data, Some(v1::partition_data::Data::Batches(whole)));
    }

    #[test]
    fn a_record_above_the_part_goes_alone() {
        let long = "x".repeat(1_000);
        let read = read(vec![batch(0, &["a", &long, "b"])], 3);
        let parts = as_records(&read, Offset(0), 100).unwrap();
        assert_eq!(parts.iter().map(offsets).collect::<Vec<_>>(), [vec![0], vec![1], vec![2]]);
    }
}
