//! CreateTopics. A topic that is answered for can be written at once: its partitions have owners. How many copies there are is
//! the server's to say: a replication factor that could be is taken, and has no effect.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use futures::FutureExt;

use super::Api;
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::create_topics_request::CreatableTopic;
use crate::kafka::codec::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult,
};
use crate::kafka::codec::messages::{CreateTopicsRequest, CreateTopicsResponse, StrBytes, Uuid};
use crate::kafka::configs;
use crate::kafka::error::{Code, Fault, said};
use crate::kafka::place::uuid;
use crate::topics::NewTopic;

pub(super) const API: Api = Api::new::<CreateTopicsRequest>(
    "CreateTopics",
    2,
    7,
    |call, body| serve(call, body).boxed(),
    "The replication factor is taken up to the number of live brokers or bookies and has no effect: the server's default quorum says \
     how many copies there are, and the answer says so. Assignments by hand only say how many partitions there are.",
);

/// Kafka's "as the broker has it".
const DEFAULT: i32 = -1;

/// What was made, or would be.
struct Made {
    id: Uuid,
    partitions: i32,
    copies: i16,
    configs: BTreeMap<String, String>,
}

async fn serve(call: Call, body: Bytes) -> Served {
    let request: CreateTopicsRequest = call.decode(body)?;
    let mut named: HashMap<StrBytes, usize> = HashMap::new();
    for topic in &request.topics {
        *named.entry(topic.name.clone()).or_default() += 1;
    }
    let mut response = CreateTopicsResponse::default();
    for topic in request.topics {
        let made = match named.get(&topic.name) {
            Some(1) => make(&call, &topic, request.validate_only).await,
            // Of each name one answer, whatever how often it came.
            Some(_) => {
                named.remove(&topic.name);
                Err(Fault::new(Code::INVALID_REQUEST, "a topic is named twice"))
            }
            None => continue,
        };
        response.topics.push(answer(topic.name, made));
    }
    call.answer(&response)
}

async fn make(call: &Call, asked: &CreatableTopic, validate_only: bool) -> Result<Made, Fault> {
    let mut configs = BTreeMap::new();
    for config in &asked.configs {
        let Some(value) = &config.value else {
            let why = format!("topic config {} has no value: leave it out", config.name.as_str());
            return Err(Fault::new(Code::INVALID_CONFIG, why));
        };
        configs.insert(config.name.as_str().to_owned(), value.as_str().to_owned());
    }
    call.check_collision(&asked.name)?;
    let partitions = partitions(call, asked)?;
    let new = NewTopic {
        name: asked.name.as_str().to_owned(),
        partitions,
        configs,
        ..NewTopic::default()
    };
    let admin = &call.kafka.ctx.admin;
    let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    if validate_only {
        let quorum = admin.check_create(&new).await?;
        let (copies, configs) = (i16::from(quorum.write), new.configs);
        return Ok(Made { id: Uuid::ZERO, partitions: number(partitions), copies, configs });
    }
    let topic = admin.create(new).await?;
    let copies = i16::from(topic.quorum.unwrap_or(admin.default_quorum).write);
    let configs = topic.configs.clone();
    Ok(Made { id: uuid(topic.id), partitions: number(topic.partitions), copies, configs })
}

/// How many partitions are asked for, where what is said of copies could be.
fn partitions(call: &Call, asked: &CreatableTopic) -> Result<u32, Fault> {
    let (count, factor) = (asked.num_partitions, i32::from(asked.replication_factor));
    if !asked.assignments.is_empty() {
        if count != DEFAULT || factor != DEFAULT {
            let why = "an assignment by hand says how many partitions and replicas there are: leave both out";
            return Err(Fault::new(Code::INVALID_REQUEST, why));
        }
        let each: BTreeSet<i32> = asked.assignments.iter().map(|a| a.partition_index).collect();
        let whole = each.len() == asked.assignments.len()
            && each.iter().copied().zip(0..).all(|(a, b)| a == b);
        if !whole || asked.assignments.iter().any(|a| a.broker_ids.is_empty()) {
            let why = "an assignment by hand must name each partition once, from 0 on, and a broker for each";
            return Err(Fault::new(Code::INVALID_REPLICA_ASSIGNMENT, why));
        }
        return Ok(u32::try_from(each.len()).unwrap_or(u32::MAX));
    }
    let topology = call.kafka.ctx.router.topology();
    let most = topology.brokers().len().max(topology.live_bookies().len());
    if factor != DEFAULT && !usize::try_from(factor).is_ok_and(|n| (1..=most).contains(&n)) {
        let why = format!("replication factor {factor}: ask for 1 to {most}, or -1");
        return Err(Fault::new(Code::INVALID_REPLICATION_FACTOR, why));
    }
    match count {
        DEFAULT => Ok(call.kafka.config.default_partitions),
        count => u32::try_from(count).map_err(|_| {
            let why = format!("{count} partitions: ask for one or more, or -1");
            Fault::new(Code::INVALID_PARTITIONS, why)
        }),
    }
}

fn answer(name: StrBytes, made: Result<Made, Fault>) -> CreatableTopicResult {
    let mut result = CreatableTopicResult::default();
    result.name = name;
    let outcome = made.map(|made| {
        result.topic_id = made.id;
        (result.num_partitions, result.replication_factor) = (made.partitions, made.copies);
        result.configs = Some(configs::of_topic(&made.configs).map(|e| config(&e)).collect());
    });
    (result.error_code, result.error_message) = said(outcome);
    result
}

fn config(entry: &configs::Entry) -> CreatableTopicConfigs {
    let mut config = CreatableTopicConfigs::default();
    config.name = entry.name.into();
    config.value = Some(entry.value.as_str().into());
    (config.read_only, config.config_source) = (entry.read_only, entry.source);
    config
}
