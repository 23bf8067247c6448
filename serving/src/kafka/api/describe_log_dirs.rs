//! DescribeLogDirs: what the partitions of this broker hold. Brokers have no directories: there is one pseudo directory, and
//! the disks behind it are the bookies'.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt};
use geminga_proto::ids::{PartitionIndex, TopicId};

use super::{Api, PARALLEL};
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use crate::kafka::codec::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};
use crate::kafka::error::Fault;
use crate::kafka::patience::Patience;
use crate::ownership::topology::Topic;
use crate::topics::name::DEFAULT_NAMESPACE;

pub(super) const API: Api = Api::new::<DescribeLogDirsRequest>(
    "DescribeLogDirs",
    1,
    4,
    |call, body| serve(call, body).boxed(),
    "One pseudo directory, with the sizes of the partitions that the broker owns: one copy, without what is not acknowledged. \
     The offset lag is always 0, and what the disks of bookies hold is not said: -1.",
)
.always_saying(&[
    ("log_dir", "/ledgers"),
    ("total_bytes", "-1"),
    ("usable_bytes", "-1"),
    ("offset_lag", "0"),
    ("is_future_key", "false"),
]);

/// The pseudo directory's name.
const DIRECTORY: &str = "/ledgers";
/// What a partition takes while it is described.
const PARTITION_BYTES: usize = 128;
/// Kafka's "not known".
const UNKNOWN: i64 = -1;

async fn serve(call: Call, body: Bytes) -> Served {
    let request: DescribeLogDirsRequest = call.decode(body)?;
    let wanted = request.topics.map(|topics| {
        let mut wanted: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
        for asked in topics {
            wanted.entry(asked.topic.as_str().to_owned()).or_default().extend(asked.partitions);
        }
        wanted
    });
    let mut directory = DescribeLogDirsResult::default();
    directory.log_dir = DIRECTORY.into();
    (directory.total_bytes, directory.usable_bytes) = (UNKNOWN, UNKNOWN);
    // Each partition may take a moment: what there is to say of them has its room before.
    let owned = owned(&call);
    let partitions: usize = owned.values().map(Vec::len).sum();
    let room = call.kafka.answers.topics.take(partitions * PARTITION_BYTES).await;
    let sizes = topics(&call, owned, wanted.as_ref());
    match Patience::with_room().hold(sizes).await {
        Ok(topics) => directory.topics = topics,
        Err(fault) => directory.error_code = fault.code.0,
    }
    let mut response = DescribeLogDirsResponse::default();
    response.results = vec![directory];
    call.answer_in(room, &response)
}

/// The partitions of this broker.
fn owned(call: &Call) -> BTreeMap<TopicId, Vec<PartitionIndex>> {
    let router = &call.kafka.ctx.router;
    let mut owned: BTreeMap<TopicId, Vec<PartitionIndex>> = BTreeMap::new();
    for (topic, partition, _) in router.topology().owned_by(router.me()) {
        owned.entry(topic).or_default().push(partition);
    }
    owned
}

/// Those that are asked for; all when `wanted` says nothing.
async fn topics(
    call: &Call,
    owned: BTreeMap<TopicId, Vec<PartitionIndex>>,
    wanted: Option<&BTreeMap<String, BTreeSet<i32>>>,
) -> Result<Vec<DescribeLogDirsTopic>, Fault> {
    let router = &call.kafka.ctx.router;
    let mut topics = Vec::new();
    for (id, mut partitions) in owned {
        let topic = router.topology().topic_by_id(id);
        let Some(topic) = topic.filter(|topic| topic.namespace == DEFAULT_NAMESPACE) else {
            continue;
        };
        if let Some(wanted) = wanted {
            let Some(asked) = wanted.get(&topic.name) else { continue };
            partitions.retain(|partition| {
                i32::try_from(partition.0).is_ok_and(|index| asked.contains(&index))
            });
        }
        partitions.retain(|partition| partition.0 < topic.partitions);
        if partitions.is_empty() {
            continue;
        }
        partitions.sort_unstable();
        let mut described = DescribeLogDirsTopic::default();
        described.name = topic.name.as_str().into();
        described.partitions = sizes(call, &topic, partitions).await?;
        topics.push(described);
    }
    topics.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
    Ok(topics)
}

async fn sizes(
    call: &Call,
    topic: &Arc<Topic>,
    partitions: Vec<PartitionIndex>,
) -> Result<Vec<DescribeLogDirsPartition>, Fault> {
    let size = |partition: PartitionIndex| async move {
        let bytes = call.kafka.ctx.partitions.size(topic.id, partition).await?;
        let mut described = DescribeLogDirsPartition::default();
        described.partition_index = i32::try_from(partition.0).unwrap_or(i32::MAX);
        described.partition_size = i64::try_from(bytes).unwrap_or(i64::MAX);
        Ok(described)
    };
    futures::stream::iter(partitions).map(size).buffered(PARALLEL).try_collect().await
}
