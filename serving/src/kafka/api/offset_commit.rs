//! OffsetCommit: how far a group has read. Acknowledged when it is durable; leader epoch and the client's own words come back
//! as they are.

use bytes::Bytes;
use futures::FutureExt;

use super::Api;
use crate::groups::classic::CommitClassic;
use crate::groups::limits;
use crate::groups::types::{Committed, TopicPartition};
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::offset_commit_request::OffsetCommitRequestPartition;
use crate::kafka::codec::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use crate::kafka::codec::messages::{OffsetCommitRequest, OffsetCommitResponse};
use crate::kafka::error::{Code, Fault, code_of_group};
use crate::kafka::group;

pub(super) const API: Api = Api::new::<OffsetCommitRequest>(
    "OffsetCommit",
    2,
    9,
    |call, body| serve(call, body).boxed(),
    "Classic groups, and clients that are in no group while it has no members.",
);

async fn serve(call: Call, body: Bytes) -> Served {
    let bytes = body.len();
    let request: OffsetCommitRequest = call.decode(body)?;
    let mut offsets = Vec::new();
    let mut response = OffsetCommitResponse::default();
    // Of each offset that is asked for: where its answer is.
    let mut places = Vec::new();
    // More than any commit may hold is not worth a look.
    let too_many = request.topics.iter().map(|topic| topic.partitions.len()).sum::<usize>()
        > limits::MAX_COMMIT_OFFSETS;
    let mut topics = group::Topics::new(&call);
    for (t, asked) in request.topics.iter().enumerate() {
        let named = if too_many { None } else { Some(topics.find(&asked.name).await) };
        let mut topic = OffsetCommitResponseTopic::default();
        topic.name.clone_from(&asked.name);
        for (p, partition) in asked.partitions.iter().enumerate() {
            let mut answer = OffsetCommitResponsePartition::default();
            answer.partition_index = partition.partition_index;
            let found = match &named {
                Some(named) => named.partition(partition.partition_index),
                None => Err(Code::INVALID_REQUEST),
            };
            match found {
                Ok(tp) => {
                    offsets.push(committed(tp, partition));
                    places.push((t, p));
                }
                Err(code) => answer.error_code = code.0,
            }
            topic.partitions.push(answer);
        }
        response.topics.push(topic);
    }
    if too_many {
        return call.answer(&response);
    }
    let codes = commit(&call, &request, offsets, bytes).await;
    for ((t, p), code) in places.into_iter().zip(codes) {
        response.topics[t].partitions[p].error_code = code.0;
    }
    call.answer(&response)
}

async fn commit(
    call: &Call,
    request: &OffsetCommitRequest,
    offsets: Vec<(TopicPartition, Committed)>,
    bytes: usize,
) -> Vec<Code> {
    let count = offsets.len();
    let (member, instance) = (&request.member_id, request.group_instance_id.as_ref());
    let commit = CommitClassic {
        by: group::identity(member, instance, request.generation_id_or_member_epoch),
        retention_ms: Some(request.retention_time_ms).filter(|ms| *ms >= 0),
        offsets,
    };
    let each = call.kafka.groups.commit(&group::name(&request.group_id), commit, bytes).await;
    match each {
        Ok(each) => {
            each.iter().map(|one| one.as_ref().err().map_or(Code::NONE, code_of_group)).collect()
        }
        Err(refused) => vec![Fault::from(refused).code; count],
    }
}

/// When, for which topic and until when is for the coordinator to add.
fn committed(
    tp: TopicPartition,
    asked: &OffsetCommitRequestPartition,
) -> (TopicPartition, Committed) {
    let committed = Committed {
        offset: asked.committed_offset,
        leader_epoch: Some(asked.committed_leader_epoch).filter(|epoch| *epoch >= 0),
        metadata: asked.committed_metadata.as_ref().map_or("", |text| text.as_str()).to_owned(),
        committed_ms: 0,
        topic_id: None,
        expires_ms: None,
    };
    (tp, committed)
}
