//! What a stream is given: the answers of [`Fetch`](super::Fetch).

use geminga_proto::ids::{Offset, PartitionIndex};
use geminga_proto::reason::ApiError;
use geminga_proto::v1;
use geminga_records::BatchError;
use prost::Message as _;

use super::{Fetch, Reader, Refused};
use crate::room::Held;
use crate::rpc::chunks::{self, Chunk, Chunks, end_of, join_or_less};
use crate::rpc::outgoing::Charged;
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

    /// What an answer takes of batches that were read, how many bytes, and their room: all of them, or the first ones where there is no
    /// room to lay all end to end.
    ///
    /// # Errors
    /// A stored batch that does not say where it ends.
    pub(super) fn batches(
        &self,
        partition: PartitionIndex,
        found: Charged,
    ) -> Result<(v1::PartitionData, usize, Option<Held>), BatchError> {
        let Charged { read, mut room } = found;
        let joined = join_or_less(&read.batches, room.as_mut());
        let bytes = joined.bytes.len();
        let mut next_offset = read.next_offset.0;
        if let [.., last] = &read.batches[..joined.count]
            && joined.count < read.batches.len()
        {
            next_offset = end_of(last)?;
            room.iter_mut().for_each(|room| room.keep(bytes));
        }
        let data = (bytes > 0).then_some(v1::partition_data::Data::Batches(joined.bytes));
        let (high_watermark, log_start) = (read.high_watermark.0, read.log_start.0);
        Ok((self.data(partition, data, next_offset, high_watermark, log_start), bytes, room))
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
