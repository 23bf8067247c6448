//! OffsetFetch: how far groups have read. What was never committed is no error.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;

use super::Api;
use crate::groups::local::Refused;
use crate::groups::request::Fetched;
use crate::groups::types::{Committed, TopicPartition};
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use crate::kafka::codec::messages::{OffsetFetchRequest, OffsetFetchResponse, StrBytes};
use crate::kafka::error::{Code, Fault};
use crate::kafka::group;
use crate::kafka::place::NO_EPOCH;

pub(super) const API: Api = Api::new::<OffsetFetchRequest>(
    "OffsetFetch",
    1,
    9,
    |call, body| serve(call, body).boxed(),
    "No offset is ever unstable, since there are no transactions.",
);

/// The first version with an error beside those of partitions.
const ERROR_SINCE: i16 = 2;
/// The first version that says epochs.
const EPOCHS_SINCE: i16 = 5;
/// The first version in which several groups are asked for together.
const MANY_SINCE: i16 = 8;

/// Topics and partitions, as asked for; `None`: all.
type Asked = Option<Vec<(StrBytes, Vec<i32>)>>;
/// A topic, and what is committed of its partitions.
type Topic = (StrBytes, Vec<(i32, Result<Option<Committed>, Code>)>);
type Found = Vec<Topic>;

async fn serve(call: Call, body: Bytes) -> Served {
    let request: OffsetFetchRequest = call.decode(body)?;
    let mut response = OffsetFetchResponse::default();
    if call.version() >= MANY_SINCE {
        for asked in request.groups {
            let topics = asked.topics.map(|topics| {
                topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)).collect()
            });
            let (found, code) = find(&call, &asked.group_id, topics).await;
            let mut group = OffsetFetchResponseGroup::default();
            (group.group_id, group.error_code) = (asked.group_id, code.0);
            group.topics = found.into_iter().map(of_many).collect();
            response.groups.push(group);
        }
        return call.answer(&response);
    }
    let topics = request.topics.map(|topics| {
        topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)).collect()
    });
    let (found, code) = find(&call, &request.group_id, topics).await;
    if call.version() >= ERROR_SINCE {
        response.error_code = code.0;
    }
    response.topics = found.into_iter().map(|topic| of_one(call.version(), topic)).collect();
    call.answer(&response)
}

/// The error is that of all of them; each partition then has it, too, for versions that have no other place.
async fn find(call: &Call, group: &StrBytes, asked: Asked) -> (Found, Code) {
    let named = asked.as_ref().map(|topics| {
        let of = |(topic, partitions): &(StrBytes, Vec<i32>)| {
            let topic = group::name(topic);
            let known = partitions.iter().filter_map(|index| u32::try_from(*index).ok());
            known.map(|partition| TopicPartition { topic: Arc::clone(&topic), partition }).collect()
        };
        topics.iter().flat_map(of as fn(&_) -> Vec<_>).collect()
    });
    let fetched = call.kafka.groups.fetch_offsets(&group::name(group), named).await;
    match (asked, fetched) {
        (None, Ok(fetched)) => (all(fetched), Code::NONE),
        (None, Err(refused)) => (Vec::new(), code_of(refused)),
        (Some(asked), Ok(fetched)) => {
            let known: BTreeMap<_, _> = fetched.into_iter().collect();
            let one = |topic: &Arc<str>, index: i32| {
                let partition = u32::try_from(index).ok()?;
                known.get(&TopicPartition { topic: Arc::clone(topic), partition })?.clone()
            };
            let of = |(name, partitions): (StrBytes, Vec<i32>)| {
                let topic = group::name(&name);
                let found = partitions.iter().map(|index| (*index, Ok(one(&topic, *index))));
                let found = found.collect();
                (name, found)
            };
            (asked.into_iter().map(of).collect(), Code::NONE)
        }
        (Some(asked), Err(refused)) => {
            let code = code_of(refused);
            let of = |(name, partitions): (StrBytes, Vec<i32>)| {
                (name, partitions.into_iter().map(|index| (index, Err(code))).collect())
            };
            (asked.into_iter().map(of).collect(), code)
        }
    }
}

/// Clients that expect no other word find the coordinator anew.
fn code_of(refused: Refused) -> Code {
    match Fault::from(refused).code {
        Code::COORDINATOR_NOT_AVAILABLE => Code::NOT_COORDINATOR,
        code => code,
    }
}

fn all(fetched: Fetched) -> Found {
    let mut topics: BTreeMap<Arc<str>, Vec<_>> = BTreeMap::new();
    for (tp, committed) in fetched {
        let Ok(index) = i32::try_from(tp.partition) else { continue };
        topics.entry(tp.topic).or_default().push((index, Ok(committed)));
    }
    topics.into_iter().map(|(name, partitions)| ((&*name).into(), partitions)).collect()
}

/// Offset, epoch, words and error of a partition.
fn said(found: Result<Option<Committed>, Code>) -> (i64, i32, Option<StrBytes>, i16) {
    match found {
        Ok(Some(committed)) => {
            let epoch = committed.leader_epoch.unwrap_or(NO_EPOCH);
            (committed.offset, epoch, Some(committed.metadata.into()), 0)
        }
        Ok(None) => (-1, NO_EPOCH, Some(StrBytes::default()), 0),
        Err(code) => (-1, NO_EPOCH, Some(StrBytes::default()), code.0),
    }
}

fn of_one(version: i16, (name, partitions): Topic) -> OffsetFetchResponseTopic {
    let mut topic = OffsetFetchResponseTopic::default();
    let partitions = partitions.into_iter().map(|(index, found)| {
        let (offset, epoch, metadata, code) = said(found);
        let mut partition = OffsetFetchResponsePartition::default();
        (partition.partition_index, partition.committed_offset) = (index, offset);
        (partition.metadata, partition.error_code) = (metadata, code);
        partition.committed_leader_epoch = if version < EPOCHS_SINCE { NO_EPOCH } else { epoch };
        partition
    });
    (topic.name, topic.partitions) = (name, partitions.collect());
    topic
}

fn of_many((name, partitions): Topic) -> OffsetFetchResponseTopics {
    let mut topic = OffsetFetchResponseTopics::default();
    let partitions = partitions.into_iter().map(|(index, found)| {
        let (offset, epoch, metadata, code) = said(found);
        let mut partition = OffsetFetchResponsePartitions::default();
        (partition.partition_index, partition.committed_offset) = (index, offset);
        (partition.metadata, partition.error_code) = (metadata, code);
        partition.committed_leader_epoch = epoch;
        partition
    });
    (topic.name, topic.partitions) = (name, partitions.collect());
    topic
}
