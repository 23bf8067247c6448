//! What is written by hand is what two independent readers read, in every version that is served.

use geminga_proto::ids::Term;
use kafka_protocol::messages::{FetchResponse as Theirs, ResponseHeader};
use kafka_protocol::protocol::Decodable;
use proptest::prelude::*;

use super::*;
use crate::kafka::error::Fault;

const VERSIONS: std::ops::RangeInclusive<i16> = 4..=17;

fn data() -> impl Strategy<Value = Data> {
    let batch = proptest::collection::vec(any::<u8>(), 1..300).prop_map(Bytes::from);
    let batches = proptest::collection::vec(batch, 0..4);
    (any::<i64>(), any::<i64>(), batches, any::<bool>()).prop_map(
        |(high_watermark, log_start, batches, committed_only)| Data {
            high_watermark,
            log_start,
            batches,
            committed_only,
        },
    )
}

fn elsewhere() -> impl Strategy<Value = Elsewhere> {
    let leader = (0..3i32, 0..9i32);
    (1..100i16, proptest::option::of(leader)).prop_map(|(code, leader)| Elsewhere {
        fault: Fault::new(Code(code), "elsewhere"),
        leader: leader.map(|(id, epoch)| Leader { id: BrokerId(id), epoch: Term(epoch) }),
    })
}

/// Name, id and partitions.
type Meant = (String, [u8; 16], Vec<(i32, Result<Data, Elsewhere>)>);

fn topic() -> impl Strategy<Value = Meant> {
    let data = prop_oneof![data().prop_map(Ok), elsewhere().prop_map(Err)];
    let parts = proptest::collection::vec((any::<i32>(), data), 0..4);
    ("[a-z.]{1,200}", any::<[u8; 16]>(), parts)
}

fn reply(topics: &[Meant]) -> Reply {
    let part =
        |(index, data): &(i32, Result<Data, Elsewhere>)| Part { index: *index, data: data.clone() };
    let topic = |(name, id, parts): &(String, [u8; 16], Vec<_>)| Topic {
        name: name.as_str().into(),
        id: Uuid::from_bytes(*id),
        parts: parts.iter().map(part).collect(),
    };
    Reply { topics: topics.iter().map(topic).collect(), ..Reply::default() }
}

fn endpoint(broker: BrokerId) -> Option<KafkaListener> {
    // One of them is not registered.
    (broker.0 > 0).then(|| KafkaListener {
        name: String::new(),
        host: format!("broker-{broker}"),
        port: 9092,
    })
}

/// The frame without its length, which must be right.
fn frame(pieces: &[Bytes]) -> Bytes {
    let mut all = Bytes::from(pieces.concat());
    let length = all.split_to(4);
    assert_eq!(u32::from_be_bytes(length[..].try_into().unwrap()) as usize, all.len());
    all
}

proptest! {
    #[test]
    fn two_readers_read_what_was_meant(topics in proptest::collection::vec(topic(), 0..3)) {
        for version in VERSIONS {
            let pieces = reply(&topics).encode(7, version, endpoint).pieces;
            let mut theirs = frame(&pieces);
            let header = ResponseHeader::decode(&mut theirs, i16::from(version >= 12)).unwrap();
            prop_assert_eq!(header.correlation_id, 7);
            let mut ours = theirs.clone();
            let theirs = Theirs::decode(&mut theirs, version).unwrap();
            prop_assert_eq!(theirs.responses.len(), topics.len());
            let again = codec::decode::<FetchResponse>(ours.split_off(0), version).unwrap();
            for ((topic, ours), theirs) in topics.iter().zip(&again.responses).zip(&theirs.responses) {
                let (name, id, parts) = topic;
                if version < 13 {
                    prop_assert_eq!(ours.topic.as_str(), name);
                    prop_assert_eq!(theirs.topic.0.as_str(), name);
                } else {
                    prop_assert_eq!(ours.topic_id.as_bytes(), id);
                    prop_assert_eq!(theirs.topic_id.as_bytes(), id);
                }
                prop_assert_eq!(theirs.partitions.len(), parts.len());
                for (((index, data), ours), theirs) in parts.iter().zip(&ours.partitions).zip(&theirs.partitions) {
                    prop_assert_eq!((ours.partition_index, theirs.partition_index), (*index, *index));
                    let code = data.as_ref().err().map_or(0, |elsewhere| elsewhere.fault.code.0);
                    prop_assert_eq!((ours.error_code, theirs.error_code), (code, code));
                    let records = data.as_ref().map_or(Vec::new(), |data| data.batches.concat());
                    prop_assert_eq!(ours.records.as_deref(), Some(&records[..]));
                    prop_assert_eq!(theirs.records.as_deref(), Some(&records[..]));
                    let hint = data.as_ref().err().and_then(|e| e.leader).filter(|_| version >= LEADERS_SINCE);
                    let hint = hint.map_or((-1, -1), |leader| (leader.id.0, leader.epoch.0));
                    prop_assert_eq!((ours.current_leader.leader_id, ours.current_leader.leader_epoch), hint);
                    if let Ok(data) = data {
                        prop_assert_eq!(ours.high_watermark, data.high_watermark);
                        prop_assert_eq!(theirs.last_stable_offset, data.high_watermark);
                        prop_assert_eq!(ours.aborted_transactions.is_some(), data.committed_only);
                    }
                }
            }
            let told = topics.iter().flat_map(|(_, _, parts)| parts).filter_map(|(_, data)| data.as_ref().err()?.leader);
            let mut told: Vec<i32> = told.map(|leader| leader.id.0).filter(|id| *id > 0).collect();
            told.sort_unstable();
            told.dedup();
            let endpoints: Vec<i32> = again.node_endpoints.iter().map(|node| node.node_id).collect();
            prop_assert_eq!(endpoints, if version >= ENDPOINTS_SINCE { told } else { Vec::new() });
        }
    }
}

/// Batches go out as they are: the same memory, not a copy.
#[test]
fn batches_are_not_copied() {
    let batch = Bytes::from(vec![7; 100]);
    let data = Data {
        high_watermark: 1,
        log_start: 0,
        batches: vec![batch.clone()],
        committed_only: false,
    };
    for version in VERSIONS {
        let topics = vec![("t".to_owned(), [1; 16], vec![(0, Ok(data.clone()))])];
        let pieces = reply(&topics).encode(1, version, |_| None).pieces;
        assert!(pieces.iter().any(|piece| piece.as_ptr() == batch.as_ptr()), "{version}");
    }
}

#[test]
fn a_refused_session_is_said_where_there_are_sessions() {
    for version in 7..=17 {
        let pieces =
            Reply::refused(Code::FETCH_SESSION_ID_NOT_FOUND).encode(1, version, |_| None).pieces;
        let mut frame = frame(&pieces);
        let _ = ResponseHeader::decode(&mut frame, i16::from(version >= 12)).unwrap();
        let answer = Theirs::decode(&mut frame, version).unwrap();
        assert_eq!((answer.error_code, answer.session_id), (70, 0));
    }
}
