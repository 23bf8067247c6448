//! ElectLeaders. The coordinator gives every partition an owner by itself, and there is no replica to prefer: no election is needed.

use std::collections::HashSet;

use bytes::Bytes;
use futures::FutureExt;

use super::Api;
use crate::kafka::call::{Call, Hangup, Served};
use crate::kafka::codec::messages::elect_leaders_response::{
    PartitionResult, ReplicaElectionResult,
};
use crate::kafka::codec::messages::{ElectLeadersRequest, ElectLeadersResponse};
use crate::kafka::error::{Code, Fault, said};
use crate::kafka::patience::Patience;
use crate::ownership::topology::Topic;
use crate::router::check_partition;

pub(super) const API: Api = Api::new::<ElectLeadersRequest>(
    "ElectLeaders",
    0,
    2,
    |call, body| serve(call, body).boxed(),
    "Every partition that is named is answered ELECTION_NOT_NEEDED: the coordinator gives each an owner by itself.",
);

/// Versions from which the whole answer has a code.
const CODE_SINCE: i16 = 1;
/// Most partitions of one request; more end the connection.
const MOST_PARTITIONS: usize = 200_000;
/// What a partition or a topic takes while it is answered, with the reason.
const PARTITION_BYTES: usize = 256;
/// Kinds of elections: of the preferred replica, and of any.
const KINDS: std::ops::RangeInclusive<i8> = 0..=1;

async fn serve(call: Call, body: Bytes) -> Served {
    let request: ElectLeadersRequest = call.decode(body)?;
    let mut response = ElectLeadersResponse::default();
    if call.version() >= CODE_SINCE && !KINDS.contains(&request.election_type) {
        response.error_code = Code::INVALID_REQUEST.0;
        return call.answer(&response);
    }
    let asked = request.topic_partitions.iter().flatten();
    let (topics, partitions) =
        asked.fold((0, 0), |(topics, all), topic| (topics + 1, all + topic.partitions.len()));
    if partitions > MOST_PARTITIONS {
        return Err(Hangup::FrameSize);
    }
    let room = (topics + partitions) * PARTITION_BYTES;
    let room = call.kafka.answers.topics.take(room).await;
    let patience = Patience::with_room();
    // Where all are asked for only those are answered that needed one.
    for asked in request.topic_partitions.into_iter().flatten() {
        let found = patience.hold(call.topic(&asked.topic)).await;
        let partition = |id: i32| {
            let outcome = match &found {
                Ok(topic) => Err(election(topic, id)),
                Err(fault) => Err(fault.clone()),
            };
            let mut result = PartitionResult::default();
            (result.error_code, result.error_message) = said(outcome);
            result.partition_id = id;
            result
        };
        let mut result = ReplicaElectionResult::default();
        let mut seen = HashSet::new();
        let once = asked.partitions.into_iter().filter(|id| seen.insert(*id));
        result.partition_result = once.map(partition).collect();
        result.topic = asked.topic;
        response.replica_election_results.push(result);
    }
    call.answer_in(room, &response)
}

/// Why there is no election.
fn election(topic: &Topic, id: i32) -> Fault {
    match u32::try_from(id).map(|id| check_partition(topic, id)) {
        Ok(Ok(_)) => {
            let why = "the coordinator gives every partition an owner by itself";
            Fault::new(Code::ELECTION_NOT_NEEDED, why)
        }
        Ok(Err(unknown)) => unknown.into(),
        Err(_) => Fault::new(Code::UNKNOWN_TOPIC_OR_PARTITION, "no such partition"),
    }
}
