//! What a fetch asks for, looked up: partitions that are served here, and the faults of those that are not.

use std::sync::Arc;

use geminga_proto::ids::PartitionIndex;

use crate::kafka::call::Call;
use crate::kafka::codec::messages::fetch_request::{FetchPartition, FetchTopic};
use crate::kafka::codec::messages::{FetchRequest, StrBytes, Uuid};
use crate::kafka::error::Fault;
use crate::kafka::place::Elsewhere;
use crate::ownership::topology::Topic;

/// The version from which topics go by their ids.
pub(super) const BY_ID_SINCE: i16 = 13;

/// A topic of a request.
pub(super) struct Asked {
    pub(super) name: StrBytes,
    pub(super) id: Uuid,
    pub(super) partitions: Vec<(i32, Result<Wanted, Elsewhere>)>,
}

/// A partition to read from.
pub(super) struct Wanted {
    pub(super) topic: Arc<Topic>,
    pub(super) partition: PartitionIndex,
    pub(super) offset: i64,
    pub(super) max_bytes: usize,
}

pub(super) async fn asked(call: &Call, request: &FetchRequest) -> Vec<Asked> {
    let mut all = Vec::with_capacity(request.topics.len());
    for asked in &request.topics {
        let topic = match call.version() < BY_ID_SINCE {
            true => call.topic(&asked.topic).await,
            false => call.topic_by_id(asked.topic_id),
        };
        all.push(look_up(call, asked, topic).await);
    }
    all
}

async fn look_up(call: &Call, asked: &FetchTopic, topic: Result<Arc<Topic>, Fault>) -> Asked {
    let mut partitions = Vec::with_capacity(asked.partitions.len());
    for partition in &asked.partitions {
        let wanted = match &topic {
            Ok(topic) => wanted(call, topic, partition).await,
            Err(fault) => Err(fault.clone().into()),
        };
        partitions.push((partition.partition, wanted));
    }
    Asked { name: asked.topic.clone(), id: asked.topic_id, partitions }
}

async fn wanted(
    call: &Call,
    topic: &Arc<Topic>,
    asked: &FetchPartition,
) -> Result<Wanted, Elsewhere> {
    let (partition, _) = call.here(topic, asked.partition, asked.current_leader_epoch).await?;
    Ok(Wanted {
        topic: Arc::clone(topic),
        partition,
        offset: asked.fetch_offset,
        max_bytes: usize::try_from(asked.partition_max_bytes).unwrap_or(0).max(1),
    })
}
