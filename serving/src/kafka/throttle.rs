//! `throttle_time_ms`: how long a client that asked too often is not served, in the answers that have a word for it. It stands at one
//! place of an answer's body, whatever the answer is, so that it is told where answers are encoded and no API thinks of it. Only
//! Produce and Fetch say it themselves, who charge for bytes, too; `ApiVersions` is asked before there is anything to owe.

use std::time::Duration;

use bytes::BytesMut;

use super::call::WAIT_OF_REQUESTS;
use super::codec;

/// Where it is in the body of an answer; `None`: nowhere.
fn place(key: i16, version: i16) -> Option<usize> {
    let (since, at) = match key {
        // Behind an error code.
        47 => (0, 2),
        21 | 22 | 32 | 33 | 35 | 37 | 42..=44 | 46 | 60 | 61 | 75 => (0, 0),
        10 | 12..=16 | 20 => (1, 0),
        2 | 11 | 19 | 23 => (2, 0),
        3 | 8 | 9 => (3, 0),
        _ => return None,
    };
    (version >= since).then_some(at)
}

/// Says it in a whole answer.
pub(super) fn tell(
    answer: &mut BytesMut,
    (key, version): (i16, i16),
    flexible: bool,
    owed: Duration,
) {
    let Some(at) = place(key, version) else { return };
    let at = codec::HEAD_BYTES + usize::from(flexible) + at;
    let told = i32::try_from(owed.min(WAIT_OF_REQUESTS).as_millis()).unwrap_or(i32::MAX);
    if let Some(said) = answer.get_mut(at..at + 4) {
        said.copy_from_slice(&told.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages as theirs;
    use kafka_protocol::protocol::Encodable;

    use super::*;
    use crate::kafka::api::TABLE;
    use crate::kafka::codec::messages::{HeartbeatRequest, MetadataRequest, OffsetDeleteRequest};
    use crate::kafka::testing::Rig;

    /// Where another codec says it.
    macro_rules! theirs_say {
        ($key:expr, $version:expr, $($api:literal: $answer:ident,)*) => {
            match $key {
                $($api => {
                    let bytes = |ms| {
                        let mut bytes = BytesMut::new();
                        let answer = theirs::$answer::default().with_throttle_time_ms(ms);
                        answer.encode(&mut bytes, $version).map(|()| bytes)
                    };
                    let (without, with) = (bytes(0).unwrap(), bytes(-1).unwrap_or_default());
                    without.iter().zip(&with).position(|(a, b)| a != b)
                })*
                key => panic!("API {key} is served and not compared: name it here"),
            }
        };
    }

    #[test]
    fn it_is_where_another_codec_says_it() {
        for (api, version) in TABLE.iter().flat_map(|api| api.versions().map(move |v| (api, v))) {
            let theirs = theirs_say!(
                api.key(), version,
                0: ProduceResponse, 1: FetchResponse, 2: ListOffsetsResponse, 3: MetadataResponse,
                8: OffsetCommitResponse, 9: OffsetFetchResponse, 10: FindCoordinatorResponse,
                11: JoinGroupResponse, 12: HeartbeatResponse, 13: LeaveGroupResponse,
                14: SyncGroupResponse, 15: DescribeGroupsResponse, 16: ListGroupsResponse,
                18: ApiVersionsResponse, 19: CreateTopicsResponse, 20: DeleteTopicsResponse,
                21: DeleteRecordsResponse, 22: InitProducerIdResponse,
                23: OffsetForLeaderEpochResponse, 32: DescribeConfigsResponse,
                33: AlterConfigsResponse, 35: DescribeLogDirsResponse,
                37: CreatePartitionsResponse, 42: DeleteGroupsResponse, 43: ElectLeadersResponse,
                44: IncrementalAlterConfigsResponse, 46: ListPartitionReassignmentsResponse,
                47: OffsetDeleteResponse, 60: DescribeClusterResponse,
                61: DescribeProducersResponse, 75: DescribeTopicPartitionsResponse,
            );
            let theirs = theirs.filter(|_| !matches!(api.key(), 0 | 1 | 18));
            assert_eq!(place(api.key(), version), theirs, "{} {version}", api.name());
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_asks_too_often_is_told() {
        let rig = Rig::start(1).await;
        let owed = Duration::from_millis(300);
        for version in 0..=4 {
            let answer = rig.call_owing(version, HeartbeatRequest::default(), owed).await;
            assert_eq!(answer.throttle_time_ms, if version >= 1 { 300 } else { 0 });
        }
        for version in 0..=13 {
            let answer = rig.call_owing(version, MetadataRequest::default(), owed * 10).await;
            assert_eq!(answer.throttle_time_ms, if version >= 3 { 1_000 } else { 0 });
        }
        let answer = rig.call_owing(0, OffsetDeleteRequest::default(), owed).await;
        assert_eq!((answer.throttle_time_ms, answer.error_code), (300, 24));
    }
}
