//! Records of the partitions that one broker leads.

use bytes::Bytes;
use kafka_wire::FetchRequest;
use kafka_wire::fetch_request::{FetchPartition, FetchTopic};
use kafka_wire::fetch_response::PartitionData;

use super::READ_COMMITTED;
use super::connection::{Connection, SourceError};

/// How long a broker waits for records where there are none.
const WAIT_MS: i32 = 500;
/// Most bytes of one answer; a batch that is larger comes alone.
pub(in super::super) const MOST_BYTES: u64 = 8 * 1024 * 1024;
/// Of them, of one partition.
const SHARE: u64 = 4;
const OFFSET_OUT_OF_RANGE: i16 = 1;
/// What passes when somebody else leads, or the cluster has settled: LEADER_NOT_AVAILABLE, NOT_LEADER_OR_FOLLOWER,
/// REQUEST_TIMED_OUT, REPLICA_NOT_AVAILABLE, NETWORK_EXCEPTION, KAFKA_STORAGE_ERROR, FENCED_LEADER_EPOCH, UNKNOWN_LEADER_EPOCH,
/// OFFSET_NOT_AVAILABLE, UNKNOWN_TOPIC_OR_PARTITION for as long as metadata does not say so as well.
const PASSING: [i16; 10] = [3, 5, 6, 7, 9, 13, 56, 74, 75, 78];

/// A connection to a broker that leads partitions.
pub(in super::super) struct Leader {
    connection: Connection,
}

/// What came of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Fetched {
    /// Whose.
    pub(in super::super) topic: String,
    /// Which.
    pub(in super::super) partition: u32,
    /// What.
    pub(in super::super) answer: Answer,
}

/// What a broker says of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Answer {
    /// Batches end to end, perhaps none.
    Records {
        /// As they are stored; the last may be cut off.
        batches: Bytes,
        /// Transactions that were aborted: whose, and where the first record is.
        aborted: Vec<(i64, i64)>,
        /// After the last committed record.
        end: i64,
    },
    /// There is nothing at that offset: it was deleted, or never written.
    OutOfRange,
    /// The broker does not lead it any more.
    Moved,
    /// It is refused for good.
    Refused(SourceError),
}

impl Leader {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// What there is from these offsets on, about so many bytes; waits a moment where there is nothing. The first partitions come
    /// first.
    pub(in super::super) async fn fetch(
        &mut self,
        from: &[(String, u32, i64)],
        most: u64,
    ) -> Result<Vec<Fetched>, SourceError> {
        let most = most.min(MOST_BYTES);
        let number = |bytes: u64| i32::try_from(bytes).unwrap_or(i32::MAX);
        let mut request = FetchRequest::default();
        (request.replica_id, request.isolation_level) = (-1, READ_COMMITTED);
        (request.max_wait_ms, request.min_bytes, request.max_bytes) = (WAIT_MS, 1, number(most));
        for (topic, partition, offset) in from {
            let mut asked = FetchPartition::default();
            (asked.partition, asked.fetch_offset) = (partition.cast_signed(), *offset);
            asked.partition_max_bytes = number(most / SHARE);
            match request.topics.last_mut().filter(|last| last.topic.as_str() == topic) {
                Some(last) => last.partitions.push(asked),
                None => {
                    let mut named = FetchTopic::default();
                    (named.topic, named.partitions) = (topic.as_str().into(), vec![asked]);
                    request.topics.push(named);
                }
            }
        }
        let answer = self.connection.call(4, 12, &request).await?;
        if answer.error_code != 0 {
            return Err(SourceError::refused("records", answer.error_code));
        }
        let mut fetched = Vec::new();
        for topic in answer.responses {
            for data in topic.partitions {
                fetched.push(Fetched {
                    topic: topic.topic.to_string(),
                    partition: data.partition_index.cast_unsigned(),
                    answer: told(&topic.topic, data),
                });
            }
        }
        Ok(fetched)
    }
}

fn told(topic: &str, data: PartitionData) -> Answer {
    match data.error_code {
        0 => {
            let aborted = data.aborted_transactions.unwrap_or_default();
            let aborted = aborted.into_iter().map(|a| (a.producer_id, a.first_offset)).collect();
            // Brokers of before transactions say -1.
            let end = match data.last_stable_offset {
                offset @ 0.. => offset,
                _ => data.high_watermark,
            };
            Answer::Records { batches: data.records.unwrap_or_default(), aborted, end }
        }
        OFFSET_OUT_OF_RANGE => Answer::OutOfRange,
        code if PASSING.contains(&code) => Answer::Moved,
        code => {
            let what = format!("records of `{topic}`, partition {}", data.partition_index);
            Answer::Refused(SourceError::refused(what, code))
        }
    }
}
