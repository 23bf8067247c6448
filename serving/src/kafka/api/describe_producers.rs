//! DescribeProducers: the idempotent producers that partitions of this broker remember.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};

use super::{Api, PARALLEL};
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use crate::kafka::codec::messages::{DescribeProducersRequest, DescribeProducersResponse};
use crate::kafka::error::{Fault, said};
use crate::kafka::place::NO_EPOCH;
use crate::ownership::topology::Topic;
use crate::router::ActiveProducer;

pub(super) const API: Api = Api::new::<DescribeProducersRequest>(
    "DescribeProducers",
    0,
    0,
    |call, body| serve(call, body).boxed(),
    "At the partition's owner only. There are no transactions yet: their offsets and coordinators are always -1.",
);

async fn serve(call: Call, body: Bytes) -> Served {
    let request: DescribeProducersRequest = call.decode(body)?;
    let mut response = DescribeProducersResponse::default();
    for asked in request.topics {
        let found = call.named_topic(&asked.name).await;
        let mut seen = HashSet::new();
        let once = asked.partition_indexes.into_iter().filter(|index| seen.insert(*index));
        let partitions = futures::stream::iter(once.collect::<Vec<_>>()).map(|index| {
            let (call, found) = (&call, &found);
            async move {
                let producers = match found {
                    Ok(topic) => producers(call, topic, index).await,
                    Err(fault) => Err(fault.clone()),
                };
                let mut partition = PartitionResponse::default();
                let outcome = producers.map(|producers| {
                    partition.active_producers = producers.into_iter().map(state).collect();
                });
                (partition.error_code, partition.error_message) = said(outcome);
                partition.partition_index = index;
                partition
            }
        });
        let mut topic = TopicResponse::default();
        topic.partitions = partitions.buffered(PARALLEL).collect().await;
        topic.name = asked.name;
        response.topics.push(topic);
    }
    call.answer(&response)
}

async fn producers(
    call: &Call,
    topic: &Arc<Topic>,
    index: i32,
) -> Result<Vec<ActiveProducer>, Fault> {
    let (partition, _) = call.here(topic, index, NO_EPOCH).map_err(|elsewhere| elsewhere.fault)?;
    Ok(call.kafka.ctx.partitions.producers(Arc::clone(topic), partition).await?)
}

fn state(producer: ActiveProducer) -> ProducerState {
    let mut state = ProducerState::default();
    (state.producer_id, state.producer_epoch) = (producer.id, i32::from(producer.epoch));
    state.last_sequence = producer.last_sequence;
    state.last_timestamp = producer.last_timestamp_ms;
    (state.coordinator_epoch, state.current_txn_start_offset) = (-1, -1);
    state
}
