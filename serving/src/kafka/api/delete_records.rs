//! DeleteRecords: records before an offset become unreadable for ever.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use geminga_proto::ids::Offset;

use super::{Api, PARALLEL};
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::delete_records_request::DeleteRecordsPartition;
use crate::kafka::codec::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use crate::kafka::codec::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use crate::kafka::error::{Code, Fault};
use crate::kafka::patience::Patience;
use crate::kafka::place::NO_EPOCH;
use crate::ownership::topology::Topic;
use crate::topics::config;

pub(super) const API: Api = Api::new::<DeleteRecordsRequest>(
    "DeleteRecords",
    0,
    2,
    |call, body| serve(call, body).boxed(),
    "At the partition's owner only. Space is freed by whole segments.",
);

/// Kafka's "everything up to the high watermark".
const EVERYTHING: i64 = -1;

async fn serve(call: Call, body: Bytes) -> Served {
    let request: DeleteRecordsRequest = call.decode(body)?;
    let patience = Patience::of(request.timeout_ms);
    let mut response = DeleteRecordsResponse::default();
    for asked in request.topics {
        let found = call.topic(&asked.name).await;
        let partitions = futures::stream::iter(asked.partitions).map(|partition| {
            let (call, found, patience) = (&call, &found, &patience);
            async move {
                let deleted = match found {
                    Ok(topic) => patience.hold(delete(call, topic, &partition)).await,
                    Err(fault) => Err(fault.clone()),
                };
                let mut result = DeleteRecordsPartitionResult::default();
                (result.partition_index, result.low_watermark) = (partition.partition_index, -1);
                match deleted {
                    Ok(start) => result.low_watermark = start.0,
                    Err(fault) => result.error_code = fault.code.0,
                }
                result
            }
        });
        let mut topic = DeleteRecordsTopicResult::default();
        topic.partitions = partitions.buffered(PARALLEL).collect().await;
        topic.name = asked.name;
        response.topics.push(topic);
    }
    call.answer(&response)
}

/// Where the partition starts then.
async fn delete(
    call: &Call,
    topic: &Arc<Topic>,
    asked: &DeleteRecordsPartition,
) -> Result<Offset, Fault> {
    let (partition, _) = call
        .here(topic, asked.partition_index, NO_EPOCH)
        .await
        .map_err(|elsewhere| elsewhere.fault)?;
    let before = match asked.offset {
        EVERYTHING => None,
        offset if offset >= 0 => Some(Offset(offset)),
        _ => return Err(Fault::new(Code::OFFSET_OUT_OF_RANGE, "an offset is negative")),
    };
    if !config::lets_records_be_deleted(&topic.configs) {
        let why = "the topic is only compacted: nothing of it is deleted";
        return Err(Fault::new(Code::POLICY_VIOLATION, why));
    }
    let partitions = &call.kafka.ctx.partitions;
    Ok(partitions.delete_records(Arc::clone(topic), partition, before).await?)
}
