//! OffsetForLeaderEpoch: where the records of an epoch end, by which a consumer learns whether what it read is still there. Here
//! it always is: nothing that was acknowledged is ever cut off.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use geminga_proto::ids::{Offset, Term};

use super::{Api, PARALLEL};
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use crate::kafka::codec::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use crate::kafka::codec::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use crate::kafka::error::Fault;
use crate::kafka::place::NO_EPOCH;
use crate::ownership::topology::Topic;

pub(super) const API: Api = Api::new::<OffsetForLeaderEpochRequest>(
    "OffsetForLeaderEpoch",
    2,
    4,
    |call, body| serve(call, body).boxed(),
    "An epoch is a term of ownership of a partition.",
)
.waiting();

async fn serve(call: Call, body: Bytes) -> Served {
    let request: OffsetForLeaderEpochRequest = call.decode(body)?;
    let mut response = OffsetForLeaderEpochResponse::default();
    for asked in request.topics {
        let mut topic = OffsetForLeaderTopicResult::default();
        let found = call.topic(&asked.topic).await;
        let partitions = futures::stream::iter(asked.partitions).map(|partition| {
            let (call, found) = (&call, &found);
            async move {
                let end = match found {
                    Ok(topic) => end(call, topic, &partition).await,
                    Err(fault) => Err(fault.clone()),
                };
                answer(partition.partition, end)
            }
        });
        topic.partitions = partitions.buffered(PARALLEL).collect().await;
        topic.topic = asked.topic;
        response.topics.push(topic);
    }
    call.answer(&response)
}

async fn end(
    call: &Call,
    topic: &Arc<Topic>,
    asked: &OffsetForLeaderPartition,
) -> Result<Option<(Term, Offset)>, Fault> {
    let (partition, _) = call
        .here(topic, asked.partition, asked.current_leader_epoch)
        .await
        .map_err(|elsewhere| elsewhere.fault)?;
    // Before all epochs there is no offset.
    if asked.leader_epoch < 0 {
        return Ok(None);
    }
    let (topic, term) = (Arc::clone(topic), Term(asked.leader_epoch));
    Ok(call.kafka.ctx.partitions.end_of_term(topic, partition, term).await?)
}

fn answer(partition: i32, end: Result<Option<(Term, Offset)>, Fault>) -> EpochEndOffset {
    let mut answer = EpochEndOffset::default();
    answer.partition = partition;
    (answer.leader_epoch, answer.end_offset) = (NO_EPOCH, -1);
    match end {
        Ok(Some((term, offset))) => (answer.leader_epoch, answer.end_offset) = (term.0, offset.0),
        Ok(None) => {}
        Err(fault) => answer.error_code = fault.code.0,
    }
    answer
}
