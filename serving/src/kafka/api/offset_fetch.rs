//! OffsetFetch: how far groups have read. What was never committed is no error.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;

use super::Api;
use super::sized::Size;
use crate::groups::limits;
use crate::groups::local::Refused;
use crate::groups::request::Fetched;
use crate::groups::types::{Committed, TopicPartition};
use crate::kafka::call::{Call, Hangup, Served};
use crate::kafka::codec::messages::offset_fetch_request::OffsetFetchRequestGroup;
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

/// What a partition takes while it is answered, beside the words that were committed with it.
const PARTITION_BYTES: usize = 128;
/// What a topic and a group take beside their names.
const NAME_BYTES: usize = 64;

/// Topics and partitions, as asked for, each once; `None`: all.
type Asked = Option<Vec<(StrBytes, Vec<i32>)>>;
/// A topic, and what is committed of its partitions.
type Topic = (StrBytes, Vec<(i32, Result<Option<Committed>, Code>)>);
type Found = Vec<Topic>;

async fn serve(call: Call, body: Bytes) -> Served {
    let asked = asked(call.version(), call.decode(body)?);
    let topics = asked.iter().flat_map(|(_, topics)| topics.iter().flatten());
    let partitions: usize = topics.map(|(_, indexes)| indexes.len()).sum();
    // No group holds as much.
    if partitions > limits::MAX_GROUP_OFFSETS {
        return Err(Hangup::FrameSize);
    }
    let mut size = Size::of(&call.kafka.answers.groups, partitions * PARTITION_BYTES).await;
    let response = loop {
        let response = answer(&call, &asked, &mut size).await;
        if !size.is_too_small() {
            break response;
        }
        drop(response);
        size = size.larger().await;
    };
    size.answer(&call, &response)
}

/// Groups, and what is asked for of each.
fn asked(version: i16, request: OffsetFetchRequest) -> Vec<(StrBytes, Asked)> {
    if version < MANY_SINCE {
        let topics = request.topics.map(|topics| {
            once(topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)))
        });
        return vec![(request.group_id, topics)];
    }
    let one = |asked: OffsetFetchRequestGroup| {
        let topics = asked.topics.map(|topics| {
            once(topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)))
        });
        (asked.group_id, topics)
    };
    request.groups.into_iter().map(one).collect()
}

/// Whoever asks for a partition more than once is answered once: the answer would be many times what there is.
fn once(topics: impl Iterator<Item = (StrBytes, Vec<i32>)>) -> Vec<(StrBytes, Vec<i32>)> {
    let mut seen: HashMap<StrBytes, HashSet<i32>> = HashMap::new();
    let mut each = Vec::new();
    for (name, mut partitions) in topics {
        let seen = seen.entry(name.clone()).or_default();
        partitions.retain(|index| seen.insert(*index));
        each.push((name, partitions));
    }
    each
}

/// What fits of it: clients ask again for the rest.
async fn answer(call: &Call, asked: &[(StrBytes, Asked)], size: &mut Size) -> OffsetFetchResponse {
    let mut response = OffsetFetchResponse::default();
    for (name, topics) in asked {
        let (found, code) = find(call, name, topics.as_ref(), size).await;
        if call.version() >= MANY_SINCE {
            let mut group = OffsetFetchResponseGroup::default();
            (group.group_id, group.error_code) = (name.clone(), code.0);
            group.topics = found.into_iter().map(of_many).collect();
            response.groups.push(group);
        } else {
            if call.version() >= ERROR_SINCE {
                response.error_code = code.0;
            }
            response.topics = found.into_iter().map(|t| of_one(call.version(), t)).collect();
        }
    }
    response
}

/// The error is that of all of them; each partition then has it, too, for versions that have no other place.
async fn find(
    call: &Call,
    group: &StrBytes,
    asked: Option<&Vec<(StrBytes, Vec<i32>)>>,
    size: &mut Size,
) -> (Found, Code) {
    let of = |(name, indexes): &(StrBytes, Vec<i32>)| {
        NAME_BYTES + name.len() + indexes.len() * PARTITION_BYTES
    };
    let names = asked.map_or(0, |topics| topics.iter().map(of).sum());
    if !size.add(NAME_BYTES + group.len() + names) {
        return (Vec::new(), Code::COORDINATOR_LOAD_IN_PROGRESS);
    }
    let named = asked.map(|topics| {
        let of = |(topic, partitions): &(StrBytes, Vec<i32>)| {
            let topic = group::name(topic);
            let known = partitions.iter().filter_map(|index| u32::try_from(*index).ok());
            known.map(|partition| TopicPartition { topic: Arc::clone(&topic), partition }).collect()
        };
        topics.iter().flat_map(of as fn(&_) -> Vec<_>).collect()
    });
    let most = size.left();
    let fetched = call.kafka.groups.fetch_offsets(&group::name(group), named, most).await;
    let code = match fetched {
        Ok(Fetched::These(offsets, bytes)) => {
            size.add(bytes);
            return (
                asked.map_or_else(|| all(&offsets), |asked| these(asked, &offsets)),
                Code::NONE,
            );
        }
        Ok(Fetched::Larger(bytes)) => {
            size.add(bytes);
            Code::COORDINATOR_LOAD_IN_PROGRESS
        }
        Err(refused) => code_of(refused),
    };
    let failed = |(name, partitions): &(StrBytes, Vec<i32>)| {
        (name.clone(), partitions.iter().map(|index| (*index, Err(code))).collect())
    };
    (asked.map_or_else(Vec::new, |asked| asked.iter().map(failed).collect()), code)
}

fn these(asked: &[(StrBytes, Vec<i32>)], offsets: &[(TopicPartition, Committed)]) -> Found {
    let known: HashMap<(&str, u32), &Committed> =
        offsets.iter().map(|(tp, committed)| ((&*tp.topic, tp.partition), committed)).collect();
    let one = |topic: &str, index: i32| {
        let partition = u32::try_from(index).ok()?;
        known.get(&(topic, partition)).map(|committed| (*committed).clone())
    };
    let of = |(name, partitions): &(StrBytes, Vec<i32>)| {
        let found = partitions.iter().map(|index| (*index, Ok(one(name.as_str(), *index))));
        (name.clone(), found.collect())
    };
    asked.iter().map(of).collect()
}

/// Clients that expect no other word find the coordinator anew.
pub(super) fn code_of(refused: Refused) -> Code {
    match Fault::from(refused).code {
        Code::COORDINATOR_NOT_AVAILABLE => Code::NOT_COORDINATOR,
        code => code,
    }
}

fn all(offsets: &[(TopicPartition, Committed)]) -> Found {
    let mut topics: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (tp, committed) in offsets {
        let Ok(index) = i32::try_from(tp.partition) else { continue };
        topics.entry(&tp.topic).or_default().push((index, Ok(Some(committed.clone()))));
    }
    topics.into_iter().map(|(name, partitions)| (name.into(), partitions)).collect()
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
