//! DescribeProducers: the idempotent producers that partitions of this broker remember.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;

use super::Api;
use super::sized::Size;
use crate::kafka::call::{Call, Hangup, Served};
use crate::kafka::codec::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use crate::kafka::codec::messages::{
    DescribeProducersRequest, DescribeProducersResponse, StrBytes,
};
use crate::kafka::error::{Code, Fault, said};
use crate::kafka::patience::Patience;
use crate::kafka::place::NO_EPOCH;
use crate::ownership::topology::Topic;
use crate::router::ActiveProducer;

pub(super) const API: Api = Api::new::<DescribeProducersRequest>(
    "DescribeProducers",
    0,
    0,
    |call, body| serve(call, body).boxed(),
    "At the partition's owner only. There are no transactions yet: their offsets and coordinators are always -1.",
)
.always_saying(&[("coordinator_epoch", "-1"), ("current_txn_start_offset", "-1")]);

/// Most partitions of one request; more end the connection.
const MOST_PARTITIONS: usize = 100_000;
/// What a partition and a producer take while they are described.
const PARTITION_BYTES: usize = 256;
const PRODUCER_BYTES: usize = 128;

/// What is asked for: topics, each with partitions that are named once.
type Asked = Vec<(StrBytes, Result<Arc<Topic>, Fault>, Vec<i32>)>;

async fn serve(call: Call, body: Bytes) -> Served {
    let request: DescribeProducersRequest = call.decode(body)?;
    let mut asked = Asked::new();
    for topic in request.topics {
        let found = call.named_topic(&topic.name).await;
        let mut seen = HashSet::new();
        let once = topic.partition_indexes.into_iter().filter(|index| seen.insert(*index));
        asked.push((topic.name, found, once.collect()));
    }
    let partitions: usize = asked.iter().map(|(_, _, indexes)| indexes.len()).sum();
    if partitions > MOST_PARTITIONS {
        return Err(Hangup::FrameSize);
    }
    let least = partitions * PARTITION_BYTES;
    let mut size = Size::of(&call.kafka.answers.topics, least).await;
    let response = loop {
        size.add(least);
        let response = describe(&call, &asked, &mut size).await;
        if !size.is_too_small() {
            break response;
        }
        drop(response);
        size = size.larger().await;
    };
    size.answer(&call, &response)
}

/// What fits of it. A partition may have ten thousand producers: they are asked for one after the other.
async fn describe(call: &Call, asked: &Asked, size: &mut Size) -> DescribeProducersResponse {
    let (mut response, patience) = (DescribeProducersResponse::default(), Patience::with_room());
    for (name, found, indexes) in asked {
        let mut topic = TopicResponse::default();
        topic.name = name.clone();
        for &index in indexes {
            let producers = match found {
                Ok(topic) if !size.is_full() => patience.hold(producers(call, topic, index)).await,
                Ok(_) => Err(too_large()),
                Err(fault) => Err(fault.clone()),
            };
            let producers = producers.and_then(|producers| {
                let fits = size.add(producers.len() * PRODUCER_BYTES);
                if fits { Ok(producers) } else { Err(too_large()) }
            });
            let mut partition = PartitionResponse::default();
            let outcome = producers.map(|producers| {
                partition.active_producers = producers.into_iter().map(state).collect();
            });
            (partition.error_code, partition.error_message) = said(outcome);
            partition.partition_index = index;
            topic.partitions.push(partition);
        }
        response.topics.push(topic);
    }
    response
}

fn too_large() -> Fault {
    let why = "the answer would be too large: ask for fewer partitions at once";
    Fault::new(Code::POLICY_VIOLATION, why)
}

async fn producers(
    call: &Call,
    topic: &Arc<Topic>,
    index: i32,
) -> Result<Vec<ActiveProducer>, Fault> {
    let (partition, _) =
        call.here(topic, index, NO_EPOCH).await.map_err(|elsewhere| elsewhere.fault)?;
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
