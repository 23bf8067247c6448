//! Produce: one record batch for each of some partitions, exactly as the client compressed it. The request has its place once all
//! of its batches have theirs; the answer follows when they are durable on the ack quorum, whatever `acks` asks for beyond
//! an answer: 1 is answered as late as -1 is.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::join_all;
use geminga_proto::ids::{PartitionIndex, TopicId};
use geminga_proto::reason::ApiError;
use geminga_records::{Batch, BatchError, Compression};
use tokio::time::Instant;

use super::Api;
use crate::kafka::call::{Answer, Call, Hangup, Reply, Served};
use crate::kafka::codec;
use crate::kafka::codec::messages::produce_request::{PartitionProduceData, TopicProduceData};
use crate::kafka::codec::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse,
    TopicProduceResponse,
};
use crate::kafka::codec::messages::{ProduceRequest, ProduceResponse, StrBytes, Uuid};
use crate::kafka::error::{Code, Fault};
use crate::kafka::lanes::{Key, Prior};
use crate::kafka::place::{Elsewhere, Leader, NO_EPOCH};
use crate::ownership::topology::Topic;
use crate::quotas::Kind;
use crate::router::{Appended, Pending};

pub(super) const API: Api = Api::new::<ProduceRequest>(
    "Produce",
    3,
    11,
    |call, body| serve(call, body).boxed(),
    "Advertised from 0, since older clients turn compression off otherwise; 0 to 2 are refused. acks=1 is answered as acks=-1 is. At most 1,000 records of a refused batch are named (`record_errors`), without a message of their own.",
)
.advertised_from(0)
.keeping_room();

/// Clients of older versions do not know zstd.
const ZSTD_SINCE: i16 = 7;
/// A batch finds its place in so long, or is refused: the requests behind it wait for that, whichever partitions they are for.
const PLACING: Duration = Duration::from_secs(2);
/// A client that does not say how long it waits.
const LONGEST: Duration = Duration::from_mins(5);

/// A batch that has its place, or why it has none.
type Placed = Result<Pending, Elsewhere>;

/// What is to be answered of one partition.
struct Part {
    index: i32,
    topic: Option<TopicId>,
    placed: Placed,
}

impl Part {
    /// The partition, if there is such a one.
    fn key(&self) -> Option<Key> {
        self.topic.zip(u32::try_from(self.index).ok().map(PartitionIndex))
    }
}

/// What is to be answered of one topic.
struct Parts {
    name: StrBytes,
    id: Uuid,
    parts: Vec<Part>,
}

async fn serve(call: Call, body: Bytes) -> Served {
    codec::check_produce(body.clone(), call.version())?;
    let body_bytes = body.len();
    let request: ProduceRequest = call.decode(body)?;
    call.notes.about(request.topic_data.iter().map(|topic| topic.partition_data.len()).sum());
    let acks = request.acks;
    // As Kafka has it, only who waits for all copies waits that long at most.
    let timeout = match (acks, u64::try_from(request.timeout_ms)) {
        (-1, Ok(ms)) => Duration::from_millis(ms).min(LONGEST),
        _ => LONGEST,
    };
    let deadline = Instant::now() + timeout;
    let throttle_ms = call.charge(Kind::Produce, body_bytes);
    let placed = match refusal(&request) {
        Some(fault) => request.topic_data.into_iter().map(|topic| refused(topic, &fault)).collect(),
        None => place_all(&call, request.topic_data).await,
    };
    if acks != 0 {
        return Ok(Answer::Later(answer(call, placed, deadline, throttle_ms).boxed()));
    }
    // Nobody waits for the rest. That something was not taken can only be shown by closing the connection.
    let all = placed.iter().flat_map(|topic| &topic.parts).all(|part| part.placed.is_ok());
    let end = (!all).then_some(Hangup::Unwritten);
    Ok(Answer::Quiet { settled: settle(call, placed).boxed(), end })
}

/// Resolves when each batch is written, or lost: until then they are in memory, and later ones keep to their opening.
async fn settle(call: Call, placed: Vec<Parts>) {
    let parts = placed.into_iter().flat_map(|topic| topic.parts);
    join_all(parts.filter_map(|part| Some((part.key()?, part.placed.ok()?))).map(
        async |(key, pending)| {
            let acked = pending.await;
            call.peer.lanes.done(key, acked.is_ok());
        },
    ))
    .await;
}

/// Why nothing of a request is taken.
fn refusal(request: &ProduceRequest) -> Option<Fault> {
    if !(-1..=1).contains(&request.acks) {
        return Some(Fault::new(Code::INVALID_REQUIRED_ACKS, "acks must be -1, 0 or 1"));
    }
    if request.transactional_id.is_some() {
        let why = "transactions are not supported: produce without a transactional id";
        return Some(Fault::new(Code::TRANSACTIONAL_ID_AUTHORIZATION_FAILED, why));
    }
    let mut seen = HashSet::new();
    let all = request.topic_data.iter().flat_map(|topic| {
        topic.partition_data.iter().map(|partition| (&topic.name, partition.index))
    });
    let mut twice = all.filter(|partition| !seen.insert(*partition));
    twice.next().map(|_| Fault::new(Code::INVALID_REQUEST, "a partition is named twice"))
}

fn refused(topic: TopicProduceData, fault: &Fault) -> Parts {
    let part = |data: PartitionProduceData| Part {
        index: data.index,
        topic: None,
        placed: Err(fault.clone().into()),
    };
    let parts = topic.partition_data.into_iter().map(part).collect();
    Parts { name: topic.name, id: topic.topic_id, parts }
}

/// Partitions wait for each other only where the client says that they belong together: in the answer.
async fn place_all(call: &Call, topics: Vec<TopicProduceData>) -> Vec<Parts> {
    join_all(topics.into_iter().map(|asked| async move {
        let topic = match call.topic(&asked.name).await {
            Ok(topic) => topic,
            Err(fault) => return refused(asked, &fault),
        };
        let parts = asked.partition_data.into_iter().map(|data| async {
            let index = data.index;
            let placed = place(call, &topic, data).await;
            Part { index, topic: Some(topic.id), placed }
        });
        let parts = join_all(parts).await;
        Parts { name: asked.name, id: asked.topic_id, parts }
    }))
    .await
}

/// A batch that fails keeps those behind it in the same partition from being taken, until the client can know (P5).
async fn place(call: &Call, topic: &Arc<Topic>, data: PartitionProduceData) -> Placed {
    let partition = match call.here(topic, data.index, NO_EPOCH).await {
        Ok((partition, _)) => partition,
        Err(elsewhere) => {
            // It may be here a moment later, when the client has not heard of this yet.
            let index = u32::try_from(data.index).ok().filter(|index| *index < topic.partitions);
            let key = index.map(|index| (topic.id, PartitionIndex(index)));
            key.into_iter().for_each(|key| call.peer.lanes.failed(key));
            return Err(elsewhere);
        }
    };
    let key = (topic.id, partition);
    let placed = tokio::time::timeout(PLACING, append(call, topic, key, data.records)).await;
    let placed = placed.unwrap_or_else(|_| Err(not_placed().into()));
    if placed.is_err() {
        call.peer.lanes.failed(key);
    }
    placed
}

/// What was not placed was not written.
fn not_placed() -> Fault {
    let why = "the partition does not take batches now: it is being opened, or storage is slow";
    Fault::new(Code::NOT_LEADER_OR_FOLLOWER, why)
}

async fn append(call: &Call, topic: &Arc<Topic>, key: Key, records: Option<Bytes>) -> Placed {
    let fault = |error| Elsewhere::from(Fault::from(error));
    let batch = batch(call, records)?;
    let appender = match call.peer.lanes.enter(key, call.place) {
        Ok(Some(appender)) => appender,
        Ok(None) => {
            let partitions = &call.kafka.ctx.partitions;
            partitions.appender(Arc::clone(topic), key.1).await.map_err(fault)?
        }
        Err(Prior) => {
            let why = "an earlier batch of this partition failed: send again from that one";
            return Err(Fault::new(Code::NOT_LEADER_OR_FOLLOWER, why).into());
        }
    };
    let pending = appender.append(batch).await.map_err(fault)?;
    call.peer.lanes.placed(key, appender);
    Ok(pending)
}

/// Bytes that are no batch. A batch that is cut short was sent so: to send it again is of no use, unlike with one whose checksum
/// is wrong.
fn unreadable(error: BatchError) -> Fault {
    let cut = matches!(error, BatchError::Truncated { .. });
    let fault = Fault::from(ApiError::from(error));
    if cut { Fault { code: Code::INVALID_RECORD, ..fault } } else { fault }
}

fn batch(call: &Call, records: Option<Bytes>) -> Result<Batch, Fault> {
    let Some(records) = records else {
        return Err(Fault::new(Code::INVALID_RECORD, "no record batch: send one a partition"));
    };
    let batch = Batch::parse(records).map_err(unreadable)?;
    if batch.header().is_transactional() {
        let why = "transactions are not supported: produce without a transactional id";
        return Err(Fault::new(Code::TRANSACTIONAL_ID_AUTHORIZATION_FAILED, why));
    }
    if call.version() < ZSTD_SINCE && batch.header().compression() == Ok(Compression::Zstd) {
        let why = "zstd needs version 7 of Produce: upgrade the client";
        return Err(Fault::new(Code::UNSUPPORTED_COMPRESSION_TYPE, why));
    }
    Ok(batch)
}

async fn answer(
    call: Call,
    placed: Vec<Parts>,
    deadline: Instant,
    throttle_ms: i32,
) -> Result<Reply, Hangup> {
    let (mut failed, mut in_memory) = (Vec::new(), Vec::new());
    let mut response = ProduceResponse::default();
    let mut leaders = Vec::new();
    for Parts { name, id, parts } in placed {
        let mut topic = TopicProduceResponse::default();
        (topic.name, topic.topic_id) = (name, id);
        for part in parts {
            let key = part.key();
            let Part { index, placed, .. } = part;
            let outcome = match placed {
                Ok(mut pending) => {
                    let acked = tokio::time::timeout_at(deadline, &mut pending).await;
                    if let Some(key) = key {
                        call.peer.lanes.done(key, matches!(acked, Ok(Ok(_))));
                    }
                    match acked {
                        Ok(acked) => acked.map_err(|error| Fault::from(error).into()),
                        Err(_) => {
                            in_memory.push(pending);
                            Err(late().into())
                        }
                    }
                }
                Err(elsewhere) => Err(elsewhere),
            };
            failed.extend(key.filter(|_| outcome.is_err()));
            topic.partition_responses.push(answered(&call, index, key, outcome, &mut leaders));
        }
        response.responses.push(topic);
    }
    response.throttle_time_ms = throttle_ms;
    response.node_endpoints = endpoints(&call, leaders);
    let mut reply = call.reply(&response)?;
    reply.failed = failed;
    reply.settled = (!in_memory.is_empty()).then(|| join_all(in_memory).map(drop).boxed());
    Ok(reply)
}

fn late() -> Fault {
    let why =
        "not acknowledged within the request's timeout: it may have been written, or may yet be";
    Fault::new(Code::REQUEST_TIMED_OUT, why)
}

fn answered(
    call: &Call,
    index: i32,
    key: Option<Key>,
    outcome: Result<Appended, Elsewhere>,
    leaders: &mut Vec<Leader>,
) -> PartitionProduceResponse {
    let mut part = PartitionProduceResponse::default();
    part.index = index;
    (part.base_offset, part.log_append_time_ms) = (-1, -1);
    // By it, clients whose producer is not known any more tell whether anything of theirs is lost.
    let ends =
        key.and_then(|(topic, partition)| call.kafka.ctx.partitions.open_offsets(topic, partition));
    part.log_start_offset = ends.map_or(-1, |ends| ends.log_start.0);
    match outcome {
        Ok(appended) => {
            part.base_offset = appended.base_offset.0;
            part.log_append_time_ms = appended.log_append_time_ms;
        }
        Err(Elsewhere { fault, leader }) => {
            part.error_code = fault.code.0;
            part.error_message = Some(fault.message.into());
            if call.version() >= RECORDS_SINCE {
                part.record_errors = fault.records.iter().map(|place| errant(*place)).collect();
            }
            if let Some(leader) = leader.filter(|_| call.version() >= LEADERS_SINCE) {
                let mut hint = LeaderIdAndEpoch::default();
                (hint.leader_id, hint.leader_epoch) = (leader.id.0, leader.epoch.0);
                part.current_leader = hint;
                leaders.push(leader);
            }
        }
    }
    part
}

/// A record that a batch was refused for; why, the batch's own message says.
fn errant(place: u32) -> BatchIndexAndErrorMessage {
    let mut errant = BatchIndexAndErrorMessage::default();
    errant.batch_index = i32::try_from(place).unwrap_or(i32::MAX);
    errant.batch_index_error_message = None;
    errant
}

/// Versions from which a client is told which records its batch was refused for.
const RECORDS_SINCE: i16 = 8;
/// Versions from which a client is told who leads a partition that is not here.
const LEADERS_SINCE: i16 = 10;

fn endpoints(call: &Call, mut leaders: Vec<Leader>) -> Vec<NodeEndpoint> {
    leaders.sort_unstable_by_key(|leader| leader.id);
    leaders.dedup_by_key(|leader| leader.id);
    let endpoint = |leader: Leader| {
        let node = call.node(leader.id)?;
        let mut endpoint = NodeEndpoint::default();
        (endpoint.node_id, endpoint.port) = (leader.id.0, i32::from(node.at.port));
        endpoint.host = node.at.host.into();
        Some(endpoint)
    };
    leaders.into_iter().filter_map(endpoint).collect()
}
