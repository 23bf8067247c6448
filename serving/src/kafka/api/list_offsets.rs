//! ListOffsets: where a partition begins and ends, and the first record since a time.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};

use super::{Api, PARALLEL};
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::list_offsets_request::ListOffsetsPartition;
use crate::kafka::codec::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use crate::kafka::codec::messages::{ListOffsetsRequest, ListOffsetsResponse};
use crate::kafka::error::{Code, Fault};
use crate::kafka::place::NO_EPOCH;
use crate::ownership::topology::Topic;
use crate::router::{FoundOffset, OffsetAt};

pub(super) const API: Api = Api::new::<ListOffsetsRequest>(
    "ListOffsets",
    1,
    10,
    |call, body| serve(call, body).boxed(),
    "Where a segment is kept is not shown: the earliest local offset is the earliest, and there is no tiered one.",
)
.waiting();

/// Versions from which an answer has an epoch.
const EPOCHS_SINCE: i16 = 4;

/// What a timestamp below zero asks for instead of a time, and since which version.
mod special {
    pub(super) const LATEST: i64 = -1;
    pub(super) const EARLIEST: i64 = -2;
    pub(super) const MAX_TIMESTAMP: i64 = -3;
    pub(super) const MAX_TIMESTAMP_SINCE: i16 = 7;
    pub(super) const EARLIEST_LOCAL: i64 = -4;
    pub(super) const EARLIEST_LOCAL_SINCE: i16 = 8;
    pub(super) const LATEST_TIERED: i64 = -5;
    pub(super) const LATEST_TIERED_SINCE: i16 = 9;
}

async fn serve(call: Call, body: Bytes) -> Served {
    let request: ListOffsetsRequest = call.decode(body)?;
    let mut response = ListOffsetsResponse::default();
    let mut times = HashMap::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            *times.entry((topic.name.clone(), partition.partition_index)).or_insert(0) += 1;
        }
    }
    for asked in request.topics {
        let mut topic = ListOffsetsTopicResponse::default();
        let found = call.topic(&asked.name).await;
        let mut answers: Vec<BoxFuture<'_, ListOffsetsPartitionResponse>> = Vec::new();
        for partition in &asked.partitions {
            let twice = times[&(asked.name.clone(), partition.partition_index)] > 1;
            answers.push(one(&call, &found, partition, twice).boxed());
        }
        topic.partitions = stream::iter(answers).buffered(PARALLEL).collect().await;
        topic.name = asked.name;
        response.topics.push(topic);
    }
    call.answer(&response)
}

async fn one(
    call: &Call,
    topic: &Result<Arc<Topic>, Fault>,
    partition: &ListOffsetsPartition,
    twice: bool,
) -> ListOffsetsPartitionResponse {
    let found = match topic {
        _ if twice => Err(Fault::new(Code::INVALID_REQUEST, "a partition is named twice")),
        Ok(topic) => find(call, topic, partition).await,
        Err(fault) => Err(fault.clone()),
    };
    answer(call, partition.partition_index, found)
}

/// `None`: there is no such thing, which is no error.
async fn find(
    call: &Call,
    topic: &Arc<Topic>,
    asked: &ListOffsetsPartition,
) -> Result<Option<FoundOffset>, Fault> {
    let version = call.version();
    let at = match asked.timestamp {
        special::LATEST => Some(OffsetAt::Latest),
        special::EARLIEST => Some(OffsetAt::Earliest),
        special::MAX_TIMESTAMP if version >= special::MAX_TIMESTAMP_SINCE => {
            Some(OffsetAt::MaxTimestamp)
        }
        special::EARLIEST_LOCAL if version >= special::EARLIEST_LOCAL_SINCE => {
            Some(OffsetAt::Earliest)
        }
        special::LATEST_TIERED if version >= special::LATEST_TIERED_SINCE => None,
        time if time >= 0 => Some(OffsetAt::Timestamp(time)),
        _ => return Err(Fault::new(Code::UNSUPPORTED_VERSION, "no such offset in this version")),
    };
    let (partition, _) = call
        .here(topic, asked.partition_index, asked.current_leader_epoch)
        .await
        .map_err(|elsewhere| elsewhere.fault)?;
    let Some(at) = at else { return Ok(None) };
    let found = call.kafka.ctx.partitions.find_offset(Arc::clone(topic), partition, at).await?;
    Ok(Some(found))
}

fn answer(
    call: &Call,
    index: i32,
    found: Result<Option<FoundOffset>, Fault>,
) -> ListOffsetsPartitionResponse {
    let mut answer = ListOffsetsPartitionResponse::default();
    answer.partition_index = index;
    (answer.offset, answer.timestamp) = (-1, -1);
    let epoch = |epoch: i32| if call.version() < EPOCHS_SINCE { NO_EPOCH } else { epoch };
    answer.leader_epoch = NO_EPOCH;
    match found {
        Ok(Some(FoundOffset { offset: Some(offset), timestamp_ms, epoch: written, .. })) => {
            answer.offset = offset.0;
            answer.timestamp = timestamp_ms.unwrap_or(-1);
            answer.leader_epoch = epoch(written.0);
        }
        Ok(_) => {}
        Err(fault) => answer.error_code = fault.code.0,
    }
    answer
}
