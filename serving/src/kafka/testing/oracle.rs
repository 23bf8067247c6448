//! A second opinion on answers: a codec that others wrote from the same schemas reads them, and writes the same bytes again.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages as theirs;
use kafka_protocol::protocol::{Decodable, Encodable, Message};

/// Checks the body of an answer.
///
/// # Panics
/// When it disagrees, or has not the API in that version.
pub(crate) fn check(key: i16, version: i16, body: &Bytes) {
    match key {
        0 => agree::<theirs::ProduceResponse>(version, body),
        1 => agree::<theirs::FetchResponse>(version, body),
        2 => agree::<theirs::ListOffsetsResponse>(version, body),
        3 => agree::<theirs::MetadataResponse>(version, body),
        8 => agree::<theirs::OffsetCommitResponse>(version, body),
        9 => agree::<theirs::OffsetFetchResponse>(version, body),
        10 => agree::<theirs::FindCoordinatorResponse>(version, body),
        11 => agree::<theirs::JoinGroupResponse>(version, body),
        12 => agree::<theirs::HeartbeatResponse>(version, body),
        13 => agree::<theirs::LeaveGroupResponse>(version, body),
        14 => agree::<theirs::SyncGroupResponse>(version, body),
        15 => agree::<theirs::DescribeGroupsResponse>(version, body),
        16 => agree::<theirs::ListGroupsResponse>(version, body),
        18 => agree::<theirs::ApiVersionsResponse>(version, body),
        19 => agree::<theirs::CreateTopicsResponse>(version, body),
        20 => agree::<theirs::DeleteTopicsResponse>(version, body),
        21 => agree::<theirs::DeleteRecordsResponse>(version, body),
        22 => agree::<theirs::InitProducerIdResponse>(version, body),
        23 => agree::<theirs::OffsetForLeaderEpochResponse>(version, body),
        32 => agree::<theirs::DescribeConfigsResponse>(version, body),
        33 => agree::<theirs::AlterConfigsResponse>(version, body),
        35 => agree::<theirs::DescribeLogDirsResponse>(version, body),
        37 => agree::<theirs::CreatePartitionsResponse>(version, body),
        42 => agree::<theirs::DeleteGroupsResponse>(version, body),
        43 => agree::<theirs::ElectLeadersResponse>(version, body),
        44 => agree::<theirs::IncrementalAlterConfigsResponse>(version, body),
        46 => agree::<theirs::ListPartitionReassignmentsResponse>(version, body),
        47 => agree::<theirs::OffsetDeleteResponse>(version, body),
        60 => agree::<theirs::DescribeClusterResponse>(version, body),
        61 => agree::<theirs::DescribeProducersResponse>(version, body),
        75 => agree::<theirs::DescribeTopicPartitionsResponse>(version, body),
        _ => panic!("API {key} is served and not compared: name it here"),
    }
}

fn agree<M: Message + Decodable + Encodable + std::fmt::Debug>(version: i16, body: &Bytes) {
    let known = M::VERSIONS.min..=M::VERSIONS.max;
    assert!(known.contains(&version), "version {version} is served and not compared");
    let mut rest = body.clone();
    let read = M::decode(&mut rest, version).expect("they can read it, too");
    assert!(rest.is_empty(), "they leave {} bytes of {read:?}", rest.len());
    let mut again = BytesMut::new();
    read.encode(&mut again, version).expect("they can write what they read");
    assert_eq!(again.freeze(), *body, "they write {read:?} in another way");
}
