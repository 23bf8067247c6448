//! DescribeTopicPartitions: what Metadata says of partitions, by pages.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;

use super::Api;
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use crate::kafka::codec::messages::{
    DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
};
use crate::kafka::error::{Code, Fault};
use crate::kafka::operations;
use crate::kafka::place::{self, Node, uuid};
use crate::ownership::assignment::Ownership;
use crate::ownership::topology::Topic;

pub(super) const API: Api = Api::new::<DescribeTopicPartitionsRequest>(
    "DescribeTopicPartitions",
    0,
    0,
    |call, body| serve(call, body).boxed(),
    "At most 2,000 partitions an answer, and the cursor to go on with. Replicas as with Metadata.",
)
.always_saying(&[
    ("is_internal", "false"),
    ("eligible_leader_replicas", "[]"),
    ("last_known_elr", "[]"),
    ("topic_authorized_operations", "3576"),
]);

/// Most partitions of one answer, whatever is asked for.
const MOST_PARTITIONS: usize = 2_000;

async fn serve(call: Call, body: Bytes) -> Served {
    let request: DescribeTopicPartitionsRequest = call.decode(body)?;
    let mut names: BTreeSet<String> = match request.topics.is_empty() {
        true => call.topics().iter().map(|topic| topic.name.clone()).collect(),
        false => request.topics.iter().map(|t| t.name.as_str().to_owned()).collect(),
    };
    let mut response = DescribeTopicPartitionsResponse::default();
    let limit = usize::try_from(request.response_partition_limit).ok().filter(|n| *n > 0);
    let first = request.cursor.as_ref().map_or(Ok(0), |at| usize::try_from(at.partition_index));
    let (Some(limit), Ok(first)) = (limit, first) else {
        let invalid = Fault::new(Code::INVALID_REQUEST, "a limit or a cursor is below what can be");
        response.topics = names.iter().map(|name| unknown(name, &invalid)).collect();
        return call.answer(&response);
    };
    if let Some(cursor) = &request.cursor {
        names = names.split_off(cursor.topic_name.as_str());
    }
    let (mut room, nodes) = (limit.min(MOST_PARTITIONS), call.nodes());
    for name in names {
        let topic = match find(&call, &name).await {
            Ok(topic) => topic,
            Err(fault) => {
                response.topics.push(unknown(&name, &fault.of_topic()));
                continue;
            }
        };
        let begun = request.cursor.as_ref().is_some_and(|at| at.topic_name.as_str() == name);
        let first = if begun { first } else { 0 };
        let owners = call.kafka.ctx.router.topology().owners(&topic);
        let left = owners.get(first..).unwrap_or_default();
        if room > 0 {
            let shown = left.iter().take(room);
            let copies = topic.told_copies(call.kafka.ctx.admin.default_quorum);
            response.topics.push(describe((&topic, copies), first, shown, &nodes));
        }
        if left.len() > room || room == 0 {
            let mut cursor = Cursor::default();
            cursor.topic_name = name.into();
            cursor.partition_index = i32::try_from(first + room).unwrap_or(i32::MAX);
            response.next_cursor = Some(cursor);
            break;
        }
        room -= left.len();
    }
    call.answer(&response)
}

async fn find(call: &Call, name: &str) -> Result<Arc<Topic>, Fault> {
    crate::topics::name::check(name)?;
    call.topic(name).await
}

fn unknown(name: &str, fault: &Fault) -> DescribeTopicPartitionsResponseTopic {
    let mut topic = DescribeTopicPartitionsResponseTopic::default();
    (topic.error_code, topic.name) = (fault.code.0, Some(name.into()));
    topic
}

/// Some partitions of a topic that is said to have so many copies, from `first` on.
fn describe<'a>(
    (topic, copies): (&Topic, u16),
    first: usize,
    owners: impl Iterator<Item = &'a Ownership>,
    nodes: &[Node],
) -> DescribeTopicPartitionsResponseTopic {
    let mut described = DescribeTopicPartitionsResponseTopic::default();
    described.name = Some(topic.name.as_str().into());
    described.topic_id = uuid(topic.id);
    described.topic_authorized_operations = operations::TOPIC;
    let first = i32::try_from(first).unwrap_or(i32::MAX);
    described.partitions = (first..)
        .zip(owners)
        .map(|(index, owner)| partition(index, owner, copies, nodes))
        .collect();
    described
}

fn partition(
    index: i32,
    owner: &Ownership,
    copies: u16,
    nodes: &[Node],
) -> DescribeTopicPartitionsResponsePartition {
    let led = place::led(owner, copies, nodes);
    let mut partition = DescribeTopicPartitionsResponsePartition::default();
    (partition.partition_index, partition.error_code) = (index, led.code.0);
    (partition.leader_id, partition.leader_epoch) = (led.leader, led.epoch);
    partition.isr_nodes.clone_from(&led.replicas);
    // None rather than null, which Kafka's own tools do not expect.
    (partition.eligible_leader_replicas, partition.last_known_elr) = (Some(vec![]), Some(vec![]));
    (partition.replica_nodes, partition.offline_replicas) = (led.replicas, led.offline);
    partition
}
