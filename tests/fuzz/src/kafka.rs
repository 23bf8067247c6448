//! Requests of Kafka clients: any API in any version that is served.

use bytes::{Bytes, BytesMut};
use geminga_serving::kafka;
use kafka_wire::{
    AlterConfigsRequest, ApiVersionsRequest, CreatePartitionsRequest, CreateTopicsRequest,
    DeleteGroupsRequest, DeleteRecordsRequest, DeleteTopicsRequest, DescribeClusterRequest,
    DescribeConfigsRequest, DescribeGroupsRequest, DescribeLogDirsRequest,
    DescribeProducersRequest, DescribeTopicPartitionsRequest, ElectLeadersRequest, FetchRequest,
    FindCoordinatorRequest, HeartbeatRequest, IncrementalAlterConfigsRequest,
    InitProducerIdRequest, JoinGroupRequest, KafkaRequest, LeaveGroupRequest, ListGroupsRequest,
    ListOffsetsRequest, ListPartitionReassignmentsRequest, MetadataRequest, OffsetCommitRequest,
    OffsetDeleteRequest, OffsetFetchRequest, OffsetForLeaderEpochRequest, OutboundFrameLimits,
    ProduceRequest, SyncGroupRequest, encode_request,
};
use kafka_wire_core::{ApiVersion, StrBytes};

use crate::Target;

/// A frame without its length.
pub(crate) const REQUEST: Target = Target { name: "kafka_request", run: request, seeds: requests };

fn request(bytes: &[u8]) {
    // Whatever it says, it ends.
    let _ = kafka::understands(Bytes::copy_from_slice(bytes));
}

fn requests() -> Vec<Bytes> {
    let mut all = Vec::new();
    add::<ProduceRequest>(&mut all);
    add::<FetchRequest>(&mut all);
    add::<ListOffsetsRequest>(&mut all);
    add::<MetadataRequest>(&mut all);
    add::<OffsetCommitRequest>(&mut all);
    add::<OffsetFetchRequest>(&mut all);
    add::<FindCoordinatorRequest>(&mut all);
    add::<JoinGroupRequest>(&mut all);
    add::<HeartbeatRequest>(&mut all);
    add::<LeaveGroupRequest>(&mut all);
    add::<SyncGroupRequest>(&mut all);
    add::<DescribeGroupsRequest>(&mut all);
    add::<ListGroupsRequest>(&mut all);
    add::<ApiVersionsRequest>(&mut all);
    add::<InitProducerIdRequest>(&mut all);
    add::<OffsetForLeaderEpochRequest>(&mut all);
    add::<DeleteGroupsRequest>(&mut all);
    add::<OffsetDeleteRequest>(&mut all);
    add::<CreateTopicsRequest>(&mut all);
    add::<DeleteTopicsRequest>(&mut all);
    add::<DeleteRecordsRequest>(&mut all);
    add::<DescribeConfigsRequest>(&mut all);
    add::<AlterConfigsRequest>(&mut all);
    add::<DescribeLogDirsRequest>(&mut all);
    add::<CreatePartitionsRequest>(&mut all);
    add::<ElectLeadersRequest>(&mut all);
    add::<IncrementalAlterConfigsRequest>(&mut all);
    add::<ListPartitionReassignmentsRequest>(&mut all);
    add::<DescribeClusterRequest>(&mut all);
    add::<DescribeProducersRequest>(&mut all);
    add::<DescribeTopicPartitionsRequest>(&mut all);
    assert!(all.iter().all(|frame| kafka::understands(frame.clone())), "seeds are requests");
    all
}

/// The request that says least, in its lowest and in its highest version that are served.
fn add<R: KafkaRequest + Default>(all: &mut Vec<Bytes>) {
    let versions = R::SUPPORTED_VERSIONS;
    let frames = (versions.min().value()..=versions.max().value()).filter_map(|version| {
        let (version, client) = (ApiVersion::new(version), Some(StrBytes::from("fuzz")));
        let mut frame = BytesMut::new();
        let limits = OutboundFrameLimits::new(1 << 20);
        encode_request(&mut frame, 1, client, &R::default(), version, limits).ok()?;
        Some(frame.freeze().slice(4..)).filter(|frame| kafka::understands(frame.clone()))
    });
    let frames: Vec<Bytes> = frames.collect();
    all.extend([frames.first(), frames.last()].into_iter().flatten().cloned());
}
