//! The other cluster: what it has, and records of it. Any that speaks Kafka's protocol, of version 0.11 or later.
//!
//! Whom to ask is what the cluster says of itself: leaders for records and offsets, coordinators for groups, the addresses that were
//! given for the rest.

mod connection;
mod fetch;

use std::collections::BTreeMap;

use geminga_tls::Dial;
use kafka_wire::describe_configs_request::DescribeConfigsResource;
use kafka_wire::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_wire::metadata_request::MetadataRequestTopic;
use kafka_wire::{
    DescribeConfigsRequest, FindCoordinatorRequest, ListGroupsRequest, ListOffsetsRequest,
    MetadataRequest, OffsetFetchRequest,
};

use self::connection::Connection;

pub(super) use self::connection::SourceError;
pub(super) use self::fetch::{Answer, Fetched, Leader, MOST_BYTES};

/// Who asks is told only what is committed.
const READ_COMMITTED: i8 = 1;
const TOPIC: i8 = 2;
/// Of a config: somebody set it for this topic.
const SET_FOR_THE_TOPIC: i8 = 1;
const UNKNOWN_GROUP: i16 = 69;
/// Configs of so many topics are asked for at once.
const TOPICS_AT_ONCE: usize = 200;
const NO_LEADER: i32 = -1;

/// A topic over there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Topic {
    /// Its name.
    pub(super) name: String,
    /// Who it is, whatever its name; empty where the cluster does not say.
    pub(super) id: String,
    /// Kafka's own, such as that of committed offsets.
    pub(super) internal: bool,
    /// Leaders by partition; -1 = none now.
    pub(super) leaders: Vec<i32>,
}

/// The cluster as it says it is now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    /// What it calls itself; empty where it does not say.
    pub(super) cluster: String,
    /// Where brokers are, by their numbers.
    pub(super) brokers: BTreeMap<i32, String>,
    /// By name.
    pub(super) topics: BTreeMap<String, Topic>,
}

/// A config that a topic has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Config {
    /// Its name.
    pub(super) name: String,
    /// What holds.
    pub(super) value: String,
    /// Whether somebody set it for the topic; else it is the cluster's.
    pub(super) own: bool,
}

/// Where a partition begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// The first offset.
    pub(super) start: i64,
    /// After the last committed record.
    pub(super) end: i64,
}

/// What a group has committed, by topic and partition: offset, metadata.
pub(super) type Committed = BTreeMap<(String, u32), (i64, String)>;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Source {
    seeds: Vec<String>,
    dial: Dial,
}

impl Source {
    /// The cluster that the brokers at `seeds` belong to: HOST:PORT, with commas between them. Nothing is asked yet.
    pub(super) fn new(seeds: &str, dial: Dial) -> Self {
        Self { seeds: seeds.split(',').map(|seed| seed.trim().to_owned()).collect(), dial }
    }

    /// A connection to the first of those that were given that answers.
    async fn any(&self) -> Result<Connection, SourceError> {
        let mut last = None;
        for seed in &self.seeds {
            match Connection::open(seed, &self.dial).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("one address at least was given"))
    }

    /// All topics, or some of them.
    pub(super) async fn metadata(
        &self,
        topics: Option<&[String]>,
    ) -> Result<Metadata, SourceError> {
        let mut request = MetadataRequest::default();
        request.allow_auto_topic_creation = false;
        request.topics = topics.map(|topics| {
            let named = |name: &String| {
                let mut topic = MetadataRequestTopic::default();
                topic.name = Some(name.as_str().into());
                topic
            };
            topics.iter().map(named).collect()
        });
        let answer = self.any().await?.call(4, 12, &request).await?;
        let cluster = answer.cluster_id.map(|id| id.to_string()).unwrap_or_default();
        let mut metadata = Metadata { cluster, ..Metadata::default() };
        for broker in answer.brokers {
            let host = match broker.host.contains(':') {
                true => format!("[{}]", broker.host),
                false => broker.host.to_string(),
            };
            metadata.brokers.insert(broker.node_id, format!("{host}:{}", broker.port));
        }
        for topic in answer.topics {
            let Some(name) = topic.name.map(|name| name.to_string()) else { continue };
            // One of which some partition has no leader is there all the same.
            if topic.error_code != 0 && topic.partitions.is_empty() {
                return Err(SourceError::refused(format!("topic `{name}`"), topic.error_code));
            }
            let mut leaders = vec![NO_LEADER; topic.partitions.len()];
            for partition in topic.partitions {
                let index = usize::try_from(partition.partition_index).unwrap_or(usize::MAX);
                if let Some(leader) = leaders.get_mut(index) {
                    *leader =
                        if partition.error_code == 0 { partition.leader_id } else { NO_LEADER };
                }
            }
            let id = match topic.topic_id.is_zero() {
                true => String::new(),
                false => {
                    topic.topic_id.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
                }
            };
            let topic = Topic { name: name.clone(), id, internal: topic.is_internal, leaders };
            metadata.topics.insert(name, topic);
        }
        Ok(metadata)
    }

    /// What holds of some topics.
    pub(super) async fn configs(
        &self,
        topics: &[String],
    ) -> Result<BTreeMap<String, Vec<Config>>, SourceError> {
        let mut connection = self.any().await?;
        let mut configs = BTreeMap::new();
        for some in topics.chunks(TOPICS_AT_ONCE) {
            let mut request = DescribeConfigsRequest::default();
            for topic in some {
                let mut resource = DescribeConfigsResource::default();
                resource.resource_type = TOPIC;
                resource.resource_name = topic.as_str().into();
                resource.configuration_keys = None;
                request.resources.push(resource);
            }
            for result in connection.call(1, 4, &request).await?.results {
                let name = result.resource_name.to_string();
                if result.error_code != 0 {
                    return Err(SourceError::refused(
                        format!("the configs of `{name}`"),
                        result.error_code,
                    ));
                }
                let config = |config: kafka_wire::describe_configs_response::DescribeConfigsResourceResult| {
                    let value = config.value?.to_string();
                    let own = config.config_source == SET_FOR_THE_TOPIC;
                    Some(Config { name: config.name.to_string(), value, own })
                };
                configs.insert(name, result.configs.into_iter().filter_map(config).collect());
            }
        }
        Ok(configs)
    }

    /// Where partitions begin and end. Those that have no leader now are left out.
    pub(super) async fn bounds(
        &self,
        metadata: &Metadata,
        topics: &[String],
    ) -> Result<BTreeMap<(String, u32), Bounds>, SourceError> {
        let mut by_leader: BTreeMap<i32, Vec<(String, u32)>> = BTreeMap::new();
        for topic in topics.iter().filter_map(|name| metadata.topics.get(name)) {
            for (partition, leader) in (0..).zip(&topic.leaders) {
                by_leader.entry(*leader).or_default().push((topic.name.clone(), partition));
            }
        }
        let mut bounds = BTreeMap::new();
        for (leader, partitions) in by_leader {
            let Some(address) = metadata.brokers.get(&leader) else { continue };
            let mut connection = Connection::open(address, &self.dial).await?;
            // The end first: a partition that loses its oldest records meanwhile then looks empty, not endless.
            let ends = offsets(&mut connection, &partitions, -1).await?;
            let starts = offsets(&mut connection, &partitions, -2).await?;
            for (key, start) in starts {
                if let Some(end) = ends.get(&key) {
                    bounds.insert(key, Bounds { start, end: (*end).max(start) });
                }
            }
        }
        Ok(bounds)
    }

    /// All groups, with what they have committed. Of those that may not be looked at, why.
    pub(super) async fn groups(
        &self,
        metadata: &Metadata,
    ) -> Result<Vec<(String, String)>, SourceError> {
        let mut groups = BTreeMap::new();
        for address in metadata.brokers.values() {
            let mut connection = Connection::open(address, &self.dial).await?;
            let answer = connection.call(0, 4, &ListGroupsRequest::default()).await?;
            if answer.error_code != 0 {
                return Err(SourceError::refused("the list of groups", answer.error_code));
            }
            for group in answer.groups {
                groups.insert(group.group_id.to_string(), group.group_state.to_string());
            }
        }
        Ok(groups.into_iter().collect())
    }

    /// What a group has committed.
    pub(super) async fn committed(&self, group: &str) -> Result<Committed, SourceError> {
        let mut request = FindCoordinatorRequest::default();
        request.key = group.into();
        let found = self.any().await?.call(0, 3, &request).await?;
        if found.error_code != 0 {
            return Err(SourceError::refused(format!("group `{group}`"), found.error_code));
        }
        let address = format!("{}:{}", found.host, found.port);
        let mut connection = Connection::open(&address, &self.dial).await?;
        let mut request = OffsetFetchRequest::default();
        request.group_id = group.into();
        request.topics = None;
        let answer = connection.call(2, 7, &request).await?;
        if answer.error_code != 0 && answer.error_code != UNKNOWN_GROUP {
            return Err(SourceError::refused(
                format!("the offsets of `{group}`"),
                answer.error_code,
            ));
        }
        let mut committed = Committed::new();
        for topic in answer.topics {
            for partition in topic.partitions {
                let Ok(index) = u32::try_from(partition.partition_index) else { continue };
                if partition.error_code == 0 && partition.committed_offset >= 0 {
                    let metadata =
                        partition.metadata.map(|text| text.to_string()).unwrap_or_default();
                    committed.insert(
                        (topic.name.to_string(), index),
                        (partition.committed_offset, metadata),
                    );
                }
            }
        }
        Ok(committed)
    }

    /// A connection to a leader, for records.
    pub(super) async fn leader(&self, address: &str) -> Result<Leader, SourceError> {
        Ok(Leader::new(Connection::open(address, &self.dial).await?))
    }
}

/// Offsets at a time, -1 the end and -2 the start, of partitions that a broker leads; those that it does not are left out.
async fn offsets(
    connection: &mut Connection,
    partitions: &[(String, u32)],
    at: i64,
) -> Result<BTreeMap<(String, u32), i64>, SourceError> {
    let mut topics: BTreeMap<&str, ListOffsetsTopic> = BTreeMap::new();
    for (name, partition) in partitions {
        let topic = topics.entry(name).or_insert_with(|| {
            let mut topic = ListOffsetsTopic::default();
            topic.name = name.as_str().into();
            topic
        });
        let mut asked = ListOffsetsPartition::default();
        (asked.partition_index, asked.timestamp) = (partition.cast_signed(), at);
        topic.partitions.push(asked);
    }
    let mut request = ListOffsetsRequest::default();
    (request.replica_id, request.isolation_level) = (-1, READ_COMMITTED);
    request.topics = topics.into_values().collect();
    let mut offsets = BTreeMap::new();
    for topic in connection.call(2, 7, &request).await?.topics {
        for partition in topic.partitions {
            if partition.error_code == 0 {
                let index = partition.partition_index.cast_unsigned();
                offsets.insert((topic.name.to_string(), index), partition.offset);
            }
        }
    }
    Ok(offsets)
}
