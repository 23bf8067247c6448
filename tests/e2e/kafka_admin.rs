//! One cluster through Kafka's admin APIs and through the commands, which speak gRPC: what is done by one is seen by the other.

use std::collections::BTreeMap;

use bytes::Bytes;
use geminga_harness::{Client, Cluster, Kafka, wait};
use geminga_records::{Compression, Record, encode};
use kafka_wire::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_wire::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_wire::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeClusterRequest, DescribeConfigsRequest, DescribeLogDirsRequest,
    DescribeTopicPartitionsRequest, IncrementalAlterConfigsRequest, ListOffsetsRequest,
    MetadataRequest, ProduceRequest, create_partitions_request, create_topics_request,
    delete_topics_request, describe_configs_request, incremental_alter_configs_request,
};
use serde_json::Value;

use crate::topic::describe;

pub(crate) const TOPIC: &str = "orders";
/// Of each batch, each record a kilobyte.
pub(crate) const RECORDS: usize = 500;
pub(crate) const VALUE_BYTES: usize = 1_000;
/// Of each partition: 5 MB.
const BATCHES: i64 = 10;
const END: i64 = BATCHES * RECORDS as i64;

const UNKNOWN_TOPIC: i16 = 3;
/// Another broker owns the partition.
pub(crate) const NOT_LEADER: i16 = 6;

/// Leaders of the topic's partitions and their epochs, as a broker tells them; `None`: there is no such topic.
pub(crate) fn leaders(kafka: &mut Kafka) -> Option<Vec<(i32, i32)>> {
    let mut all = MetadataRequest::default();
    all.topics = None;
    let answer = kafka.call(12, &all);
    let topic =
        answer.topics.iter().find(|t| t.name.as_ref().is_some_and(|n| n.as_str() == TOPIC))?;
    Some(topic.partitions.iter().map(|p| (p.leader_id, p.leader_epoch)).collect())
}

/// How many replicas a broker names of each of the topic's partitions, all in sync; `None`: there is no such topic, or they differ.
pub(crate) fn replicas(kafka: &mut Kafka) -> Option<i64> {
    let mut asked = kafka_wire::metadata_request::MetadataRequestTopic::default();
    asked.name = Some(TOPIC.into());
    let mut request = MetadataRequest::default();
    request.topics = Some(vec![asked]);
    let topic = kafka.call(9, &request).topics.remove(0);
    let first = topic.partitions.first()?.replica_nodes.len();
    let same = topic
        .partitions
        .iter()
        .all(|p| p.replica_nodes.len() == first && p.isr_nodes == p.replica_nodes);
    same.then(|| i64::try_from(first).expect("few"))
}

/// Creates the topic with that many partitions and replicas, as a client counts them.
pub(crate) fn create_replicated(kafka: &mut Kafka, partitions: i32, replicas: i16) {
    let mut new = create_topics_request::CreatableTopic::default();
    (new.name, new.num_partitions, new.replication_factor) = (TOPIC.into(), partitions, replicas);
    let mut request = CreateTopicsRequest::default();
    request.topics = vec![new];
    let made = kafka.call(7, &request).topics.remove(0);
    assert_eq!((made.error_code, made.replication_factor), (0, replicas));
}

/// Connections to all brokers, by number.
pub(crate) fn connect(cluster: &Cluster) -> BTreeMap<i32, Kafka> {
    let mut any = cluster.kafka(0);
    let answer = any.call(1, &DescribeClusterRequest::default());
    let address = |b: &kafka_wire::describe_cluster_response::DescribeClusterBroker| {
        (b.broker_id, Kafka::connect(&format!("{}:{}", b.host.as_str(), b.port)))
    };
    answer.brokers.iter().map(address).collect()
}

pub(crate) fn produce(kafka: &mut Kafka, partition: i32) -> (i16, i64) {
    let value = Some(Bytes::from(vec![b'x'; VALUE_BYTES]));
    let records = vec![Record { timestamp: -1, value, ..Record::default() }; RECORDS];
    let batch = encode(&records, Compression::None).expect("a batch");
    let mut data = PartitionProduceData::default();
    (data.index, data.records) = (partition, Some(batch.into_bytes()));
    let mut topic = TopicProduceData::default();
    (topic.name, topic.partition_data) = (TOPIC.into(), vec![data]);
    let mut request = ProduceRequest::default();
    (request.acks, request.timeout_ms, request.topic_data) = (-1, 30_000, vec![topic]);
    let answer = kafka.call(9, &request);
    let part = &answer.responses[0].partition_responses[0];
    (part.error_code, part.base_offset)
}

/// An offset of a partition: -2 = where it starts, -1 = where it ends.
pub(crate) fn offset(kafka: &mut Kafka, partition: i32, at: i64) -> (i16, i64) {
    let mut asked = ListOffsetsPartition::default();
    (asked.partition_index, asked.timestamp) = (partition, at);
    let mut topic = ListOffsetsTopic::default();
    (topic.name, topic.partitions) = (TOPIC.into(), vec![asked]);
    let mut request = ListOffsetsRequest::default();
    request.topics = vec![topic];
    let answer = kafka.call(5, &request);
    let part = &answer.topics[0].partitions[0];
    (part.error_code, part.offset)
}

/// Sizes of the topic's partitions that a broker has.
pub(crate) fn sizes(kafka: &mut Kafka) -> BTreeMap<i32, i64> {
    let mut all = DescribeLogDirsRequest::default();
    all.topics = None;
    let answer = kafka.call(4, &all);
    assert_eq!((answer.error_code, answer.results[0].error_code), (0, 0));
    let topics = answer.results[0].topics.iter().filter(|t| t.name.as_str() == TOPIC);
    let partitions = topics.flat_map(|topic| &topic.partitions);
    partitions.map(|p| (p.partition_index, p.partition_size)).collect()
}

/// The configs of the topic that were set.
pub(crate) fn configs(kafka: &mut Kafka) -> BTreeMap<String, String> {
    let mut resource = describe_configs_request::DescribeConfigsResource::default();
    (resource.resource_type, resource.resource_name) = (2, TOPIC.into());
    resource.configuration_keys = None;
    let mut request = DescribeConfigsRequest::default();
    request.resources = vec![resource];
    let answer = kafka.call(4, &request);
    assert_eq!(answer.results[0].error_code, 0);
    let set = answer.results[0].configs.iter().filter(|config| config.config_source == 1);
    let pair = |c: &kafka_wire::describe_configs_response::DescribeConfigsResourceResult| {
        let value = c.value.as_ref().expect("a value");
        (c.name.as_str().to_owned(), value.as_str().to_owned())
    };
    set.map(pair).collect()
}

pub(crate) fn set_config(kafka: &mut Kafka, name: &str, value: &str) {
    use incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
    let mut config = AlterableConfig::default();
    (config.name, config.value) = (name.into(), Some(value.into()));
    let mut resource = AlterConfigsResource::default();
    (resource.resource_type, resource.resource_name) = (2, TOPIC.into());
    resource.configs = vec![config];
    let mut request = IncrementalAlterConfigsRequest::default();
    request.resources = vec![resource];
    assert_eq!(kafka.call(1, &request).responses[0].error_code, 0);
}

/// Deletes the records of a partition before an offset; the code, and where it starts then.
pub(crate) fn delete_records(kafka: &mut Kafka, partition: i32, before: i64) -> (i16, i64) {
    let mut asked = DeleteRecordsPartition::default();
    (asked.partition_index, asked.offset) = (partition, before);
    let mut topic = DeleteRecordsTopic::default();
    (topic.name, topic.partitions) = (TOPIC.into(), vec![asked]);
    let mut request = DeleteRecordsRequest::default();
    request.topics = vec![topic];
    let answer = kafka.call(2, &request);
    let part = &answer.topics[0].partitions[0];
    (part.error_code, part.low_watermark)
}

/// What the commands say of each partition under a name.
fn seen(client: &Client, what: &str) -> Vec<i64> {
    let described = describe(client, TOPIC);
    let partitions = described["partitions"].as_array().expect("partitions");
    partitions.iter().map(|p| p[what].as_i64().unwrap_or(-1)).collect()
}

/// Waits until a broker names these leaders, as the commands do.
fn wait_led(kafka: &mut Kafka, client: &Client) -> Vec<(i32, i32)> {
    wait::until("the same leaders through Kafka and the commands", || {
        let led = leaders(kafka)?;
        let (owners, terms) = (seen(client, "owner_broker"), seen(client, "term"));
        let same = led.iter().map(|l| i64::from(l.0)).eq(owners)
            && led.iter().map(|l| i64::from(l.1)).eq(terms);
        same.then_some(led)
    })
}

#[test]
fn what_is_done_through_kafka_is_seen_by_the_commands_and_back() {
    let cluster = Cluster::start(3, 2);
    let client = cluster.client(1);
    let mut brokers = connect(&cluster);
    assert_eq!(brokers.len(), 2);
    let ids: Vec<i32> = brokers.keys().copied().collect();

    // A topic, made through Kafka and described by the other face.
    let mut new = create_topics_request::CreatableTopic::default();
    (new.name, new.num_partitions, new.replication_factor) = (TOPIC.into(), 2, 3);
    let mut config = create_topics_request::CreatableTopicConfig::default();
    (config.name, config.value) = ("retention.ms".into(), Some("86400000".into()));
    new.configs = vec![config];
    let mut request = CreateTopicsRequest::default();
    request.topics = vec![new.clone()];
    let any = brokers.get_mut(&ids[0]).expect("a broker");
    let made = any.call(7, &request).topics.remove(0);
    assert_eq!((made.error_code, made.num_partitions), (0, 2), "{made:?}");
    assert_eq!(any.call(7, &request).topics[0].error_code, 36, "it exists");
    let described = describe(&client, TOPIC);
    assert_eq!(described["partitions"].as_array().map(Vec::len), Some(2));
    assert_eq!(described["topic"]["configs"]["retention.ms"], "86400000");

    // Leaders, offsets and sizes.
    let led = wait_led(any, &client);
    for (partition, (leader, _)) in (0..).zip(&led) {
        let (other, owner) = (ids[usize::from(ids[0] == *leader)], *leader);
        let broker = brokers.get_mut(&owner).expect("the leader");
        for batch in 0..BATCHES {
            assert_eq!(produce(broker, partition), (0, batch * RECORDS as i64));
        }
        assert_eq!(offset(broker, partition, -1), (0, END));
        let elsewhere = brokers.get_mut(&other).expect("the other");
        assert_eq!(produce(elsewhere, partition).0, NOT_LEADER);
        assert_eq!(delete_records(elsewhere, partition, -1), (NOT_LEADER, -1));
    }
    assert_eq!(seen(&client, "high_watermark"), [END, END]);
    let all = |brokers: &mut BTreeMap<i32, Kafka>| -> BTreeMap<i32, (i32, i64)> {
        let of = |(id, kafka): (&i32, &mut Kafka)| {
            let id = *id;
            sizes(kafka).into_iter().map(move |(partition, bytes)| (partition, (id, bytes)))
        };
        brokers.iter_mut().flat_map(of).collect()
    };
    let before = all(&mut brokers);
    let payload = END * VALUE_BYTES as i64;
    for (partition, (leader, _)) in (0..).zip(&led) {
        let (owner, bytes) = before[&partition];
        assert_eq!(owner, *leader);
        assert!((payload..payload * 11 / 10).contains(&bytes), "{bytes} bytes of {payload}");
    }

    // Configs, altered by both.
    let any = brokers.get_mut(&ids[1]).expect("a broker");
    set_config(any, "segment.ms", "700000");
    assert_eq!(describe(&client, TOPIC)["topic"]["configs"]["segment.ms"], "700000");
    client.run(&["topic", "alter", TOPIC, "--config", "retention.ms=1000000"]).ok();
    let expected = [("retention.ms", "1000000"), ("segment.ms", "700000")];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    wait::until("the altered configs", || (configs(any) == expected.clone().into()).then_some(()));

    // A partition that moves takes its size along, and its epoch rises.
    let (from, epoch) = led[0];
    let to = ids[usize::from(ids[0] == from)];
    client.run(&["partition", "move", TOPIC, "0", "--to", &to.to_string()]).ok();
    for kafka in brokers.values_mut() {
        let moved = wait_led(kafka, &client)[0];
        assert!(moved.0 == to && moved.1 > epoch, "{moved:?}");
        let mut request = DescribeTopicPartitionsRequest::default();
        let mut topic = kafka_wire::describe_topic_partitions_request::TopicRequest::default();
        topic.name = TOPIC.into();
        request.topics = vec![topic];
        let answer = kafka.call(0, &request);
        assert_eq!(answer.topics[0].partitions[0].leader_id, to);
    }
    // The other one may have made room for it.
    let led = wait_led(brokers.get_mut(&to).expect("the new leader"), &client);
    let moved = wait::until("sizes at the leaders", || {
        let found = all(&mut brokers);
        let same = (0..).zip(&led).all(|(partition, (leader, _))| {
            found.get(&partition).is_some_and(|(owner, _)| owner == leader)
        });
        same.then_some(found)
    });
    assert_eq!(moved[&0].0, to);
    for (partition, (_, bytes)) in before {
        // A ledger ends with what the log notes for itself.
        let noted = moved[&partition].1 - bytes;
        assert!((0..1_000).contains(&noted), "{noted} more: moved, and not copied");
    }

    // Records that are deleted by both.
    let owner = brokers.get_mut(&to).expect("the new leader");
    assert_eq!(delete_records(owner, 0, 700), (0, 700));
    assert_eq!(seen(&client, "log_start_offset")[0], 700);
    let delete = ["topic", "delete-records", TOPIC, "--partition", "0", "--before", "900"];
    client.run(&delete).ok();
    assert_eq!(offset(owner, 0, -2), (0, 900));
    assert_eq!(delete_records(owner, 0, -1), (0, END));
    assert_eq!(seen(&client, "log_start_offset")[0], END);

    // More partitions.
    let mut more = create_partitions_request::CreatePartitionsTopic::default();
    (more.name, more.count, more.assignments) = (TOPIC.into(), 3, None);
    let mut request = CreatePartitionsRequest::default();
    request.topics = vec![more];
    assert_eq!(owner.call(3, &request).results[0].error_code, 0);
    assert_eq!(describe(&client, TOPIC)["topic"]["partitions"], Value::from(3));
    client.run(&["topic", "alter", TOPIC, "--partitions", "5"]).ok();
    assert_eq!(wait_led(owner, &client).len(), 5);

    // And the end of it, by both.
    let mut gone = delete_topics_request::DeleteTopicState::default();
    gone.topic_id = made.topic_id;
    let mut request = DeleteTopicsRequest::default();
    request.topics = vec![gone];
    let answer = owner.call(6, &request);
    assert_eq!(answer.responses[0].error_code, 0);
    client.run(&["topic", "describe", TOPIC]).refused("UNKNOWN_TOPIC");
    client.run(&["topic", "create", TOPIC, "--partitions", "1"]).ok();
    wait::until("the topic of the same name", || leaders(owner).filter(|all| all.len() == 1));
    client.run(&["topic", "delete", TOPIC]).ok();
    for kafka in brokers.values_mut() {
        wait::until("the topic to be gone", || leaders(kafka).is_none().then_some(()));
        assert_eq!(offset(kafka, 0, -1).0, UNKNOWN_TOPIC);
        assert_eq!(sizes(kafka), BTreeMap::new());
    }
}
