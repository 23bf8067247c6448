//! What a stream is given: the answers of [`Fetch`](super::Fetch).

use bytes::{Bytes, BytesMut};
use geminga_proto::ids::{Offset, PartitionIndex};
use geminga_proto::reason::ApiError;
use geminga_proto::v1;
use geminga_records::BatchError;
use prost::Message as _;

use super::{Fetch, Reader, Refused};
use crate::router::Read;
use crate::rpc::chunks::{self, Chunk, Chunks};
use crate::rpc::way::Lease;

impl Fetch {
    /// An answer of one partition.
    pub(super) fn push(&mut self, data: v1::PartitionData, room: Option<Lease>) {
        let answer = v1::FetchResponse { partitions: vec![data], throttle_ms: 0 };
        self.ready.push_back((answer, room));
    }

    pub(super) fn unreadable(&self, reader: &Reader, error: &BatchError) -> ApiError {
        let what = format!("partition {} of {}", reader.partition, self.topic.name);
        chunks::unreadable(what, reader.offset.0, error)
    }

    pub(super) fn batches(&self, partition: PartitionIndex, read: &Read) -> v1::PartitionData {
        let data = end_to_end(&read.batches).map(v1::partition_data::Data::Batches);
        let next_offset = read.next_offset.0;
        self.data(partition, data, next_offset, read.high_watermark.0, read.log_start.0)
    }

    pub(super) fn chunk(
        &self,
        partition: PartitionIndex,
        from: &Chunks,
        chunk: Chunk,
    ) -> v1::PartitionData {
        let Chunk { data, next_offset, .. } = chunk;
        self.data(partition, Some(data), next_offset, from.high_watermark, from.log_start)
    }

    pub(super) fn nothing(&self, partition: PartitionIndex, from: &Chunks) -> v1::PartitionData {
        self.data(partition, None, from.end(), from.high_watermark, from.log_start)
    }

    fn data(
        &self,
        partition: PartitionIndex,
        data: Option<v1::partition_data::Data>,
        next_offset: i64,
        high_watermark: i64,
        log_start_offset: i64,
    ) -> v1::PartitionData {
        v1::PartitionData {
            topic: self.topic.name.clone(),
            partition: partition.0,
            data,
            next_offset,
            high_watermark,
            log_start_offset,
            error: None,
        }
    }

    pub(super) fn error(
        &self,
        partition: PartitionIndex,
        at: Offset,
        refused: &Refused,
    ) -> v1::PartitionData {
        let (log_start, high_watermark) = refused.ends.unwrap_or((Offset(-1), Offset(-1)));
        v1::PartitionData {
            topic: self.topic.name.clone(),
            partition: partition.0,
            data: None,
            next_offset: at.0,
            high_watermark: high_watermark.0,
            log_start_offset: log_start.0,
            error: Some(refused.error.to_proto()),
        }
    }
}

/// What an answer counts towards quotas.
pub(super) fn bytes_of(answer: &v1::FetchResponse) -> u64 {
    let bytes = answer.partitions.iter().map(|partition| match &partition.data {
        Some(v1::partition_data::Data::Batches(batches)) => batches.len(),
        Some(v1::partition_data::Data::Records(records)) => records.encoded_len(),
        None => 0,
    });
    bytes.sum::<usize>() as u64
}

/// Batches as stored, laid end to end; copied only when there are several.
fn end_to_end(batches: &[Bytes]) -> Option<Bytes> {
    match batches {
        [] => None,
        [one] => Some(one.clone()),
        several => {
            let mut bytes = BytesMut::with_capacity(several.iter().map(Bytes::len).sum());
            several.iter().for_each(|batch| bytes.extend_from_slice(batch));
            Some(bytes.freeze())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_laid_end_to_end() {
        assert_eq!(end_to_end(&[]), None);
        let (a, b) = (Bytes::from_static(b"first"), Bytes::from_static(b"second"));
        assert_eq!(end_to_end(std::slice::from_ref(&a)), Some(a.clone()));
        assert_eq!(end_to_end(&[a, b]), Some(Bytes::from_static(b"firstsecond")));
    }
}
