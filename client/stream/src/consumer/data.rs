//! Data of one partition as it comes, decoded.

use std::sync::Arc;

use bytes::Bytes;
use geminga_proto::reason::ApiError;
use geminga_proto::v1;
use geminga_proto::v1::partition_data::Data;
use geminga_records::{Header, Record, decode, split};

use super::TopicPartition;
use crate::error::Error;

/// Most bytes that one batch may decompress to: many times of what any client packs into one.
const INFLATED_BYTES: usize = 256 * 1024 * 1024;

/// What a broker sent of one partition.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) from: TopicPartition,
    pub(crate) records: Vec<Record>,
    pub(crate) batches: Vec<Header>,
    pub(crate) next_offset: i64,
    pub(crate) high_watermark: i64,
    /// What it counts for against the credit.
    pub(crate) bytes: u64,
    pub(crate) error: Option<ApiError>,
}

/// Takes one answer apart.
///
/// # Errors
/// `Record` when stored bytes cannot be read: damage, or a codec of the future.
pub(crate) fn take(data: v1::PartitionData) -> Result<Arrived, Error> {
    let from = TopicPartition { topic: Arc::from(data.topic), partition: data.partition };
    let ((mut records, stored), bytes) = match data.data {
        None => ((Vec::new(), Vec::new()), 0),
        Some(Data::Batches(batches)) => {
            let bytes = batches.len();
            (unpack(batches)?, bytes)
        }
        Some(Data::Records(records)) => {
            let bytes = prost_len(&records);
            ((records.records.into_iter().map(Record::from).collect(), Vec::new()), bytes)
        }
    };
    // A stored batch comes whole, also the one that the log begins within since records were deleted.
    records.retain(|record| record.offset >= data.log_start_offset);
    Ok(Arrived {
        from,
        records,
        batches: stored,
        next_offset: data.next_offset,
        high_watermark: data.high_watermark,
        bytes: bytes as u64,
        error: data.error.as_ref().map(ApiError::from_proto),
    })
}

fn unpack(batches: Bytes) -> Result<(Vec<Record>, Vec<Header>), Error> {
    let (mut all, mut headers) = (Vec::new(), Vec::new());
    for batch in split(batches) {
        let batch = batch?;
        headers.push(*batch.header());
        // Markers take an offset and say nothing to readers.
        if !batch.header().is_control() {
            all.append(&mut decode(&batch, INFLATED_BYTES)?);
        }
    }
    Ok((all, headers))
}

fn prost_len(records: &v1::Records) -> usize {
    use prost::Message as _;
    records.encoded_len()
}

#[cfg(test)]
mod tests {
    use geminga_records::{Compression, encode};

    use super::*;

    #[test]
    fn what_was_deleted_of_a_batch_does_not_arrive() {
        let records: Vec<Record> = (0..4).map(|_| Record::default()).collect();
        let batch = encode(&records, Compression::None).unwrap().into_bytes();
        let data = v1::PartitionData {
            topic: "t".to_owned(),
            data: Some(Data::Batches(batch)),
            next_offset: 4,
            log_start_offset: 3,
            ..v1::PartitionData::default()
        };
        let arrived = take(data).unwrap();
        assert_eq!(arrived.records.iter().map(|record| record.offset).collect::<Vec<_>>(), [3]);
        assert_eq!(arrived.next_offset, 4);
        assert_eq!(
            arrived.batches.iter().map(|header| header.record_count).collect::<Vec<_>>(),
            [4]
        );
    }
}
