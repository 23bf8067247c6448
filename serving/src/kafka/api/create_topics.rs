//! CreateTopics. A topic that is answered for can be written at once: its partitions have owners. How many copies there are is
//! the server's to say: a replication factor that could be is kept and told, and makes no copy.

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
use crate::kafka::patience::Patience;
use crate::kafka::place::uuid;
use crate::topics::{NewTopic, config};

pub(super) const API: Api = Api::new::<CreateTopicsRequest>(
    "CreateTopics",
    2,
    7,
    |call, body| serve(call, body).boxed(),
    "The replication factor is *advertised*: kept with the topic and told to clients, since many ask for 3 and check what they are told, \
     and no copy is made for it. How many copies there are says the server's default quorum, which is also what -1 stands for. Taken \
     are 1 to the number of live brokers or of live bookies, whichever is larger: a cluster that has neither could not hold so many copies in \
     any way, and is told INVALID_REPLICATION_FACTOR as by Kafka; to bind it to the number of brokers, as Kafka does, would refuse 3 \
     where one broker serves three bookies. Assignments by hand must name no broker \
     twice for a partition, and only say how many partitions and replicas there are.",
)
.always_saying(&[("read_only", "false"), ("is_sensitive", "false")]);

/// Kafka's "as the broker has it".
const DEFAULT: i32 = -1;
/// The first version that says a topic's configs.
const CONFIGS_SINCE: i16 = 5;
/// Topics of one request whose configs are told; of the others an error stands in their place, which clients take for just that.
const MOST_TOLD: usize = 1_000;
/// What one of them takes while it is told.
const CONFIG_BYTES: usize = 192;

/// Most that Kafka's messages can say.
const MOST_COPIES: usize = i16::MAX as usize;

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
    let patience = Patience::of(request.timeout_ms);
    let mut outcomes = Vec::new();
    for topic in request.topics {
        let made = match named.get(&topic.name) {
            Some(1) => patience.hold(make(&call, &topic, request.validate_only)).await,
            // Of each name one answer, whatever how often it came.
            Some(_) => {
                named.remove(&topic.name);
                Err(Fault::new(Code::INVALID_REQUEST, "a topic is named twice"))
            }
            None => continue,
        };
        outcomes.push((topic.name, made));
    }
    tell(&call, outcomes).await
}

/// What is said of configs is many times what was asked: room for it is taken before it is made, and when all is done, since who
/// holds room should wait for nothing.
async fn tell(call: &Call, outcomes: Vec<(StrBytes, Result<Made, Fault>)>) -> Served {
    let says_configs = call.version() >= CONFIGS_SINCE;
    let made = outcomes.iter().filter(|(_, made)| made.is_ok()).count();
    let mut told = if says_configs { made.min(MOST_TOLD) } else { 0 };
    let room = call.kafka.answers.topics.take(told * config::TABLE.len() * CONFIG_BYTES).await;
    let mut response = CreateTopicsResponse::default();
    for (name, made) in outcomes {
        let is_made = made.is_ok();
        let mut topic = answer(name, made, told > 0);
        if is_made && says_configs && told == 0 {
            (topic.configs, topic.topic_config_error_code) = (None, Code::POLICY_VIOLATION.0);
        }
        told -= usize::from(is_made && told > 0);
        response.topics.push(topic);
    }
    call.answer_in(room, &response)
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
    let (partitions, replication_factor) = numbers(call, asked)?;
    let new = NewTopic {
        name: asked.name.as_str().to_owned(),
        partitions,
        replication_factor,
        configs,
        ..NewTopic::default()
    };
    let admin = &call.kafka.ctx.admin;
    let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let told = |copies: u16| i16::try_from(copies).unwrap_or(i16::MAX);
    if validate_only {
        let quorum = admin.check_create(&new).await?;
        let copies = told(replication_factor.unwrap_or(u16::from(quorum.write)));
        let (partitions, configs) = (number(partitions), new.configs);
        return Ok(Made { id: Uuid::ZERO, partitions, copies, configs });
    }
    let topic = admin.create(new).await?;
    let copies = told(topic.told_copies(admin.default_quorum));
    let configs = topic.configs.clone();
    Ok(Made { id: uuid(topic.id), partitions: number(topic.partitions), copies, configs })
}

/// How many partitions and copies are asked for; `None`: copies as the server has it.
fn numbers(call: &Call, asked: &CreatableTopic) -> Result<(u32, Option<u16>), Fault> {
    let (count, factor) = (asked.num_partitions, i32::from(asked.replication_factor));
    if !asked.assignments.is_empty() {
        if count != DEFAULT || factor != DEFAULT {
            let why = "an assignment by hand says how many partitions and replicas there are: leave both out";
            return Err(Fault::new(Code::INVALID_REQUEST, why));
        }
        let each: BTreeSet<i32> = asked.assignments.iter().map(|a| a.partition_index).collect();
        let whole = each.len() == asked.assignments.len()
            && each.iter().copied().zip(0..).all(|(a, b)| a == b);
        if !whole {
            let why = "an assignment by hand must name each partition once, from 0 on";
            return Err(Fault::new(Code::INVALID_REPLICA_ASSIGNMENT, why));
        }
        asked.assignments.iter().try_for_each(|a| Call::check_assigned(&a.broker_ids))?;
        let copies = asked.assignments[0].broker_ids.len();
        if asked.assignments.iter().any(|a| a.broker_ids.len() != copies) {
            let why = "an assignment by hand must name as many brokers for each partition";
            return Err(Fault::new(Code::INVALID_REPLICA_ASSIGNMENT, why));
        }
        let factor = i32::try_from(copies).unwrap_or(i32::MAX);
        let partitions = u32::try_from(each.len()).unwrap_or(u32::MAX);
        return Ok((partitions, Some(replication_factor(call, factor)?)));
    }
    let factor = match factor {
        DEFAULT => None,
        factor => Some(replication_factor(call, factor)?),
    };
    let partitions = match count {
        DEFAULT => call.kafka.config.default_partitions,
        count => u32::try_from(count).map_err(|_| {
            let why = format!("{count} partitions: ask for one or more, or -1");
            Fault::new(Code::INVALID_PARTITIONS, why)
        })?,
    };
    Ok((partitions, factor))
}

/// As many copies as there could be in any way: where one broker serves three bookies, three, and where one bookie serves three brokers,
/// what those clients expect that count brokers.
fn replication_factor(call: &Call, factor: i32) -> Result<u16, Fault> {
    let topology = call.kafka.ctx.router.topology();
    let most = topology.brokers().len().max(topology.live_bookies().len()).min(MOST_COPIES);
    let could_be = u16::try_from(factor).ok().filter(|n| (1..=most).contains(&usize::from(*n)));
    could_be.ok_or_else(|| {
        let why = format!("replication factor {factor}: ask for 1 to {most}, or -1");
        Fault::new(Code::INVALID_REPLICATION_FACTOR, why)
    })
}

fn answer(name: StrBytes, made: Result<Made, Fault>, tell: bool) -> CreatableTopicResult {
    let mut result = CreatableTopicResult::default();
    result.name = name;
    let outcome = made.map(|made| {
        result.topic_id = made.id;
        (result.num_partitions, result.replication_factor) = (made.partitions, made.copies);
        if tell {
            let told = configs::of_topic(&made.configs).map(|entry| described(&entry));
            result.configs = Some(told.collect());
        }
    });
    (result.error_code, result.error_message) = said(outcome);
    result
}

fn described(entry: &configs::Entry) -> CreatableTopicConfigs {
    let mut config = CreatableTopicConfigs::default();
    config.name = entry.name.into();
    config.value = Some(entry.value.as_str().into());
    (config.read_only, config.config_source) = (entry.read_only, entry.source);
    config
}
