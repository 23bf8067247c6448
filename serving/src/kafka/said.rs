//! Which error codes an answer says, in all its parts. Every message that is an answer says so here: what a client was told is
//! counted where answers are made into bytes, so no API can forget it.

use super::codec::messages::{
    AlterConfigsResponse, ApiVersionsResponse, CreatePartitionsResponse, CreateTopicsResponse,
    DeleteGroupsResponse, DeleteRecordsResponse, DeleteTopicsResponse, DescribeClusterResponse,
    DescribeConfigsResponse, DescribeGroupsResponse, DescribeLogDirsResponse,
    DescribeProducersResponse, DescribeTopicPartitionsResponse, ElectLeadersResponse,
    FindCoordinatorResponse, HeartbeatResponse, IncrementalAlterConfigsResponse,
    InitProducerIdResponse, JoinGroupResponse, LeaveGroupResponse, ListGroupsResponse,
    ListOffsetsResponse, ListPartitionReassignmentsResponse, MetadataResponse,
    OffsetCommitResponse, OffsetDeleteResponse, OffsetFetchResponse, OffsetForLeaderEpochResponse,
    ProduceResponse, SyncGroupResponse,
};
use super::error::Code;
use super::{api, metrics};

/// An answer.
pub(super) trait Says {
    /// Hands each code that it says to `each`, those that are no errors with them.
    fn codes(&self, each: impl FnMut(i16));
}

/// Implements it by the iterators over what has a code.
macro_rules! says {
    ($($message:ident, $said:ident: $($codes:expr),+;)*) => {
        $(impl Says for $message {
            fn codes(&self, mut each: impl FnMut(i16)) {
                let $said = self;
                $($codes.for_each(&mut each);)+
            }
        })*
    };
}

/// The codes of these.
macro_rules! of {
    ($each:expr) => {
        $each.iter().map(|one| one.error_code)
    };
    ($outer:expr, $inner:ident) => {
        $outer.iter().flat_map(|one| &one.$inner).map(|one| one.error_code)
    };
}

/// The code of the whole.
macro_rules! whole {
    ($said:expr) => {
        std::iter::once($said.error_code)
    };
}

says! {
    ProduceResponse, said: of!(said.responses, partition_responses);
    ListOffsetsResponse, said: of!(said.topics, partitions);
    MetadataResponse, said: whole!(said), of!(said.topics), of!(said.topics, partitions);
    OffsetCommitResponse, said: of!(said.topics, partitions);
    OffsetFetchResponse, said: whole!(said), of!(said.topics, partitions), of!(said.groups),
        said.groups.iter().flat_map(|group| &group.topics).flat_map(|topic| &topic.partitions).map(|p| p.error_code);
    FindCoordinatorResponse, said: whole!(said), of!(said.coordinators);
    JoinGroupResponse, said: whole!(said);
    HeartbeatResponse, said: whole!(said);
    LeaveGroupResponse, said: whole!(said), of!(said.members);
    SyncGroupResponse, said: whole!(said);
    DescribeGroupsResponse, said: of!(said.groups);
    ListGroupsResponse, said: whole!(said);
    ApiVersionsResponse, said: whole!(said);
    CreateTopicsResponse, said: of!(said.topics);
    DeleteTopicsResponse, said: of!(said.responses);
    DeleteRecordsResponse, said: of!(said.topics, partitions);
    InitProducerIdResponse, said: whole!(said);
    OffsetForLeaderEpochResponse, said: of!(said.topics, partitions);
    DescribeConfigsResponse, said: of!(said.results);
    AlterConfigsResponse, said: of!(said.responses);
    DescribeLogDirsResponse, said: whole!(said), of!(said.results);
    CreatePartitionsResponse, said: of!(said.results);
    DeleteGroupsResponse, said: of!(said.results);
    ElectLeadersResponse, said: whole!(said), of!(said.replica_election_results, partition_result);
    IncrementalAlterConfigsResponse, said: of!(said.responses);
    ListPartitionReassignmentsResponse, said: whole!(said);
    OffsetDeleteResponse, said: whole!(said), of!(said.topics, partitions);
    DescribeClusterResponse, said: whole!(said);
    DescribeProducersResponse, said: of!(said.topics, partitions);
    DescribeTopicPartitionsResponse, said: of!(said.topics), of!(said.topics, partitions);
}

/// Counts an answer to a request for the API of that key: once for each different error that it says, or as one without.
pub(super) fn count(key: i16, answer: &impl Says) {
    let api = api::find(key).map_or("other", api::Api::name);
    // There are few codes, and mostly none of them.
    let mut errors: Vec<i16> = Vec::new();
    answer.codes(|code| {
        if code != Code::NONE.0 && !errors.contains(&code) {
            errors.push(code);
        }
    });
    if errors.is_empty() {
        metrics::count_reply(api, Code::NONE.name());
    }
    for code in errors {
        metrics::count_reply(api, Code(code).name());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::codec::messages::metadata_response::{
        MetadataResponsePartition, MetadataResponseTopic,
    };

    fn codes(answer: &impl Says) -> Vec<i16> {
        let mut codes = Vec::new();
        answer.codes(|code| codes.push(code));
        codes
    }

    #[test]
    fn codes_of_all_parts_are_said() {
        let mut answer = MetadataResponse::default();
        let mut topic = MetadataResponseTopic::default();
        let mut partition = MetadataResponsePartition::default();
        (answer.error_code, topic.error_code, partition.error_code) = (1, 2, 3);
        topic.partitions = vec![partition.clone(), partition];
        answer.topics = vec![topic];
        assert_eq!(codes(&answer), [1, 2, 3, 3]);
    }

    #[test]
    fn codes_have_the_names_that_kafka_gives_them() {
        assert_eq!(Code(6).name(), "NOT_LEADER_OR_FOLLOWER");
        assert_eq!((Code::NONE.name(), Code(-1).name()), ("NONE", "UNKNOWN_SERVER_ERROR"));
        assert_eq!(Code(9_999).name(), "OTHER");
    }
}
