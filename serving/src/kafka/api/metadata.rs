//! Metadata: brokers, topics, and who leads which partition. A topic that does not exist is created when the client allows it
//! and the operator, too; the answer then has its leaders already.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use geminga_proto::reason::Reason;

use super::Api;
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::metadata_request::MetadataRequestTopic;
use crate::kafka::codec::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use crate::kafka::codec::messages::{MetadataRequest, MetadataResponse, StrBytes};
use crate::kafka::error::{Code, Fault};
use crate::kafka::operations;
use crate::kafka::place::{self, Node, uuid};
use crate::ownership::assignment::Ownership;
use crate::ownership::topology::Topic;
use crate::topics::NewTopic;

pub(super) const API: Api = Api::new::<MetadataRequest>(
    "Metadata",
    0,
    13,
    |call, body| serve(call, body).boxed(),
    "Copies are kept by bookies, which no client talks to. As replicas the owner and other live brokers are named, as many as the \
     topic's replication factor says and as there are; all are said to be in sync.",
)
.always_saying(&[
    ("is_internal", "false"),
    ("topic_authorized_operations", "3576"),
    ("cluster_authorized_operations", "8096"),
]);

/// A partition while it is described.
const PARTITION_BYTES: usize = 256;
/// And each of its replicas, which are said to be in sync as well.
const REPLICA_BYTES: usize = 8;
/// Versions from which a topic may be asked for by its id alone.
const BY_ID_SINCE: i16 = 12;

async fn serve(call: Call, body: Bytes) -> Served {
    let mut request: MetadataRequest = call.decode(body)?;
    if let Some(asked) = &mut request.topics {
        // Once is enough: each may be large.
        let mut seen = HashSet::new();
        asked.retain(|topic| seen.insert((topic.name.clone(), topic.topic_id)));
    }
    let room = call.kafka.answers.topics.take(expected_bytes(&call, &request)).await;
    let nodes = call.nodes();
    let mut response = MetadataResponse::default();
    response.topics = topics(&call, &request, &nodes).await;
    response.brokers = nodes.iter().map(broker).collect();
    let ctx = &call.kafka.ctx;
    response.cluster_id = Some(ctx.cluster.uuid.to_string().into());
    response.controller_id = call.controller();
    let of_topics =
        operations::when(request.include_topic_authorized_operations, operations::TOPIC);
    for topic in response.topics.iter_mut().filter(|topic| topic.error_code == 0) {
        topic.topic_authorized_operations = of_topics;
    }
    let of_cluster = request.include_cluster_authorized_operations;
    response.cluster_authorized_operations = operations::when(of_cluster, operations::CLUSTER);
    call.answer_in(room, &response)
}

/// What the answer may take while it is put together, roughly.
fn expected_bytes(call: &Call, request: &MetadataRequest) -> usize {
    let topology = call.kafka.ctx.router.topology();
    let default = call.kafka.ctx.admin.default_quorum;
    let of = |topic: Arc<Topic>| {
        topic.partitions as usize
            * (PARTITION_BYTES + REPLICA_BYTES * usize::from(topic.told_copies(default)))
    };
    let named = |asked: &MetadataRequestTopic| match &asked.name {
        Some(name) => topology.topic(name),
        None => call.topic_by_id(asked.topic_id).ok(),
    };
    let all: usize = match some(call, request) {
        Some(asked) => asked.iter().filter_map(named).map(of).sum(),
        None => call.topics().into_iter().map(of).sum(),
    };
    PARTITION_BYTES + all
}

/// The topics that are asked for; `None`: all.
fn some<'a>(call: &Call, request: &'a MetadataRequest) -> Option<&'a Vec<MetadataRequestTopic>> {
    // Version 0 has no word for all but an empty list.
    request.topics.as_ref().filter(|asked| call.version() > 0 || !asked.is_empty())
}

fn broker(node: &Node) -> MetadataResponseBroker {
    let mut broker = MetadataResponseBroker::default();
    broker.node_id = node.broker.id.0;
    broker.host = node.at.host.as_str().into();
    broker.port = i32::from(node.at.port);
    broker.rack = (!node.broker.zone.is_empty()).then(|| node.broker.zone.as_str().into());
    broker
}

async fn topics(
    call: &Call,
    request: &MetadataRequest,
    nodes: &[Node],
) -> Vec<MetadataResponseTopic> {
    let Some(asked) = some(call, request) else {
        return call.topics().iter().map(|topic| describe(call, topic, nodes)).collect();
    };
    let mut topics = Vec::with_capacity(asked.len());
    let mut seen = HashSet::new();
    let once = asked.iter().filter(|asked| seen.insert((&asked.name, *asked.topic_id.as_bytes())));
    for asked in once {
        let create = request.allow_auto_topic_creation && call.kafka.config.auto_create_topics;
        topics.push(match find(call, asked, create).await {
            Ok(topic) => describe(call, &topic, nodes),
            Err(fault) => unknown(call, asked, &fault.of_topic()),
        });
    }
    topics
}

async fn find(
    call: &Call,
    asked: &MetadataRequestTopic,
    create: bool,
) -> Result<Arc<Topic>, Fault> {
    // Earlier versions give ids and do not take them.
    if call.version() < BY_ID_SINCE && !asked.topic_id.is_zero() {
        let why = "a topic is asked for by id: that needs version 12";
        return Err(Fault::new(Code::INVALID_REQUEST, why));
    }
    let Some(name) = &asked.name else {
        if call.version() < BY_ID_SINCE {
            return Err(Fault::new(Code::INVALID_TOPIC_EXCEPTION, "a topic without a name"));
        }
        return call.topic_by_id(asked.topic_id);
    };
    match call.topic(name).await {
        // Names of other systems' internal topics are asked for out of habit; only what nobody may use is wrong.
        Err(fault) if fault.code == Code::UNKNOWN_TOPIC_OR_PARTITION => {
            match crate::topics::name::check(name) {
                Err(_) if name.starts_with("__") => Err(fault),
                Err(wrong) => Err(wrong.into()),
                Ok(()) if create => make(call, name).await,
                Ok(()) => Err(fault),
            }
        }
        found => found,
    }
}

async fn make(call: &Call, name: &StrBytes) -> Result<Arc<Topic>, Fault> {
    call.check_collision(name)?;
    let new = NewTopic {
        name: name.as_str().to_owned(),
        partitions: call.kafka.config.default_partitions,
        ..NewTopic::default()
    };
    match call.kafka.ctx.admin.create(new).await {
        // Another client asked for it at the same time.
        Err(error) if error.reason == Reason::TopicExists => call.topic(name).await,
        made => Ok(made?),
    }
}

fn unknown(call: &Call, asked: &MetadataRequestTopic, fault: &Fault) -> MetadataResponseTopic {
    let mut topic = MetadataResponseTopic::default();
    topic.error_code = fault.code.0;
    topic.name = match &asked.name {
        None if call.version() < BY_ID_SINCE => Some(StrBytes::default()),
        name => name.clone(),
    };
    topic.topic_id = asked.topic_id;
    topic
}

fn describe(call: &Call, topic: &Topic, nodes: &[Node]) -> MetadataResponseTopic {
    let owners = call.kafka.ctx.router.topology().owners(topic);
    let copies = topic.told_copies(call.kafka.ctx.admin.default_quorum);
    let mut described = MetadataResponseTopic::default();
    described.name = Some(topic.name.as_str().into());
    described.topic_id = uuid(topic.id);
    described.partitions =
        (0..).zip(&owners).map(|(index, owner)| partition(index, owner, copies, nodes)).collect();
    described
}

fn partition(
    index: i32,
    owner: &Ownership,
    copies: u16,
    nodes: &[Node],
) -> MetadataResponsePartition {
    let led = place::led(owner, copies, nodes);
    let mut partition = MetadataResponsePartition::default();
    (partition.partition_index, partition.error_code) = (index, led.code.0);
    (partition.leader_id, partition.leader_epoch) = (led.leader, led.epoch);
    partition.isr_nodes.clone_from(&led.replicas);
    (partition.replica_nodes, partition.offline_replicas) = (led.replicas, led.offline);
    partition
}
