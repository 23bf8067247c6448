//! Topics made, grown and deleted by Kafka clients.

use std::collections::BTreeSet;

use crate::kafka::Config;
use crate::kafka::codec::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use crate::kafka::codec::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use crate::kafka::codec::messages::create_topics_response::CreatableTopicResult;
use crate::kafka::codec::messages::delete_topics_request::DeleteTopicState;
use crate::kafka::codec::messages::describe_topic_partitions_request::TopicRequest;
use crate::kafka::codec::messages::metadata_request::MetadataRequestTopic;
use crate::kafka::codec::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest,
    DescribeTopicPartitionsRequest, MetadataRequest, Uuid,
};
use crate::kafka::error::Code;
use crate::kafka::place::uuid;
use crate::kafka::testing::Rig;
use crate::topics::config::TABLE;

fn topic(name: &str, partitions: i32, factor: i16) -> CreatableTopic {
    let mut topic = CreatableTopic::default();
    topic.name = name.into();
    (topic.num_partitions, topic.replication_factor) = (partitions, factor);
    topic
}

fn with_config(mut topic: CreatableTopic, name: &str, value: Option<&str>) -> CreatableTopic {
    let mut config = CreatableTopicConfig::default();
    (config.name, config.value) = (name.into(), value.map(Into::into));
    topic.configs.push(config);
    topic
}

fn assigned(topic: CreatableTopic, partitions: &[i32]) -> CreatableTopic {
    let each: Vec<_> = partitions.iter().map(|index| (*index, 1)).collect();
    assigned_to(topic, &each)
}

/// Partitions, and to how many brokers each.
fn assigned_to(mut topic: CreatableTopic, partitions: &[(i32, i32)]) -> CreatableTopic {
    topic.assignments = partitions
        .iter()
        .map(|&(index, brokers)| {
            let mut assignment = CreatableReplicaAssignment::default();
            (assignment.partition_index, assignment.broker_ids) = (index, (1..=brokers).collect());
            assignment
        })
        .collect();
    topic
}

async fn create(rig: &Rig, version: i16, topic: CreatableTopic) -> CreatableTopicResult {
    let mut request = CreateTopicsRequest::default();
    request.topics = vec![topic];
    rig.call(version, request).await.topics.remove(0)
}

/// Leaders of a topic, as a client is told at once; `None`: there is no such topic.
async fn leaders(rig: &Rig, name: &str) -> Option<Vec<i32>> {
    let mut all = MetadataRequest::default();
    all.topics = None;
    let answer = rig.call(12, all).await;
    let of = |t: &crate::kafka::codec::messages::metadata_response::MetadataResponseTopic| {
        t.partitions.iter().map(|p| p.leader_id).collect()
    };
    answer.topics.iter().find(|t| t.name.as_ref().is_some_and(|n| n.as_str() == name)).map(of)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_created_topic_has_leaders_at_once_in_every_version() {
    let rig = Rig::start_with(2, Config { default_partitions: 4, ..Config::default() }).await;
    let ids = [rig.broker_id(0).0, rig.broker_id(1).0];
    for version in 2..=7 {
        let name = format!("t{version}");
        let new = with_config(topic(&name, 3, 2), "retention.ms", Some("5000"));
        let made = create(&rig, version, new).await;
        assert_eq!((made.error_code, made.name.as_str()), (0, name.as_str()));
        assert_eq!(made.error_message, None);
        let leaders = leaders(&rig, &name).await.expect("it is there");
        assert_eq!(leaders.len(), 3);
        assert!(leaders.iter().all(|leader| ids.contains(leader)), "{leaders:?}");
        let id = uuid(rig.topology(0).topic(&name).unwrap().id);
        assert_eq!(made.topic_id, if version >= 7 { id } else { Uuid::ZERO });
        if version >= 5 {
            assert_eq!(
                (made.num_partitions, made.replication_factor),
                (3, 2),
                "as it was asked for"
            );
            let configs = made.configs.unwrap();
            assert_eq!(configs.len(), TABLE.len());
            for config in configs {
                let own = config.name.as_str() == "retention.ms";
                assert_eq!(config.config_source, if own { 1 } else { 5 }, "{config:?}");
                assert!(!own || config.value.unwrap().as_str() == "5000");
            }
        }
    }
    let made = create(&rig, 7, topic("default", -1, -1)).await;
    assert_eq!((made.error_code, made.num_partitions, made.replication_factor), (0, 4, 3));
    let made = create(&rig, 4, assigned(topic("by-hand", -1, -1), &[1, 0])).await;
    assert_eq!(made.error_code, 0);
    assert_eq!(leaders(&rig, "by-hand").await.unwrap().len(), 2);
}

/// Tools divide by the number of replicas, and call a partition short of copies where fewer are in sync.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_replication_factor_is_told_as_it_was_asked_for() {
    let rig = Rig::start(2).await;
    let ids = [rig.broker_id(0).0, rig.broker_id(1).0];
    // Asked for, told, and brokers that are named: there are two, and three bookies.
    let rows = [
        (topic("one", 2, 1), 1, 1),
        (topic("two", 2, 2), 2, 2),
        (topic("three", 2, 3), 3, 2),
        (topic("default", 2, -1), 3, 2),
        (assigned_to(topic("by-hand", -1, -1), &[(0, 2), (1, 2)]), 2, 2),
    ];
    for (new, told, named) in rows {
        let name = new.name.clone();
        let mut only = CreateTopicsRequest::default();
        (only.topics, only.validate_only) = (vec![new.clone()], true);
        assert_eq!(rig.call(7, only).await.topics[0].replication_factor, told, "{name:?}");
        let made = create(&rig, 7, new).await;
        assert_eq!((made.error_code, made.replication_factor), (0, told), "{name:?}");
        let mut asked = MetadataRequestTopic::default();
        asked.name = Some(name.clone());
        let mut request = MetadataRequest::default();
        request.topics = Some(vec![asked]);
        let topic = rig.call(12, request).await.topics.remove(0);
        let mut asked = TopicRequest::default();
        asked.name = name;
        let mut request = DescribeTopicPartitionsRequest::default();
        (request.topics, request.response_partition_limit) = (vec![asked], 9);
        let same = rig.call(0, request).await.topics.remove(0);
        for (p, same) in topic.partitions.iter().zip(&same.partitions) {
            let replicas = &p.replica_nodes;
            assert_eq!((replicas.len(), replicas[0]), (named, p.leader_id), "the owner first");
            let others: BTreeSet<_> = replicas.iter().collect();
            assert!(others.len() == named && replicas.iter().all(|id| ids.contains(id)));
            assert_eq!((&p.isr_nodes, p.offline_replicas.len()), (replicas, 0));
            assert_eq!((&same.replica_nodes, &same.isr_nodes), (replicas, replicas));
        }
        assert_eq!((topic.partitions.len(), same.partitions.len()), (2, 2));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_cannot_be_are_refused_and_not_made() {
    let rig = Rig::start(1).await;
    assert_eq!(create(&rig, 7, topic("there.is", 1, 1)).await.error_code, 0);
    let plain = || topic("t", 1, -1);
    let me = rig.broker_id(0).0;
    let mut twice = assigned(topic("t", -1, -1), &[0]);
    twice.assignments[0].broker_ids = vec![me, me];
    let refused = [
        (topic("", 1, 1), Code::INVALID_TOPIC_EXCEPTION),
        (topic("a b", 1, 1), Code::INVALID_TOPIC_EXCEPTION),
        (topic("..", 1, 1), Code::INVALID_TOPIC_EXCEPTION),
        (topic("__consumer_offsets", 1, 1), Code::INVALID_TOPIC_EXCEPTION),
        (topic("there_is", 1, 1), Code::INVALID_TOPIC_EXCEPTION),
        (topic("there.is", 1, 1), Code::TOPIC_ALREADY_EXISTS),
        (topic("t", 0, 1), Code::INVALID_PARTITIONS),
        (topic("t", -2, 1), Code::INVALID_PARTITIONS),
        (topic("t", 10_001, 1), Code::INVALID_PARTITIONS),
        (topic("t", 1, 0), Code::INVALID_REPLICATION_FACTOR),
        (topic("t", 1, -2), Code::INVALID_REPLICATION_FACTOR),
        (topic("t", 1, 4), Code::INVALID_REPLICATION_FACTOR),
        (assigned(topic("t", -1, -1), &[0, 2]), Code::INVALID_REPLICA_ASSIGNMENT),
        (assigned(topic("t", -1, -1), &[0, 0]), Code::INVALID_REPLICA_ASSIGNMENT),
        (assigned(topic("t", -1, -1), &[-1]), Code::INVALID_REPLICA_ASSIGNMENT),
        (assigned_to(topic("t", -1, -1), &[(0, 1), (1, 2)]), Code::INVALID_REPLICA_ASSIGNMENT),
        (assigned_to(topic("t", -1, -1), &[(0, 4)]), Code::INVALID_REPLICATION_FACTOR),
        (twice, Code::INVALID_REPLICA_ASSIGNMENT),
        (assigned(topic("t", 1, -1), &[0]), Code::INVALID_REQUEST),
        (with_config(plain(), "no.such", Some("1")), Code::INVALID_CONFIG),
        (with_config(plain(), "retention.ms", Some("-2")), Code::INVALID_CONFIG),
        (with_config(plain(), "retention.ms", None), Code::INVALID_CONFIG),
    ];
    for version in 2..=7 {
        for validate_only in [false, true] {
            for (new, code) in &refused {
                let mut request = CreateTopicsRequest::default();
                (request.topics, request.validate_only) = (vec![new.clone()], validate_only);
                let result = rig.call(version, request).await.topics.remove(0);
                assert_eq!(result.error_code, code.0, "{new:?}: {result:?}");
                assert!(result.error_message.is_some_and(|why| !why.is_empty()));
            }
        }
        let mut request = CreateTopicsRequest::default();
        request.topics = vec![plain(), topic("u", 1, 1), plain()];
        request.validate_only = true;
        let results = rig.call(version, request).await.topics;
        let codes: Vec<_> = results.iter().map(|r| (r.name.as_str(), r.error_code)).collect();
        assert_eq!(codes, [("t", Code::INVALID_REQUEST.0), ("u", 0)]);
    }
    assert_eq!(leaders(&rig, "t").await, None);
    assert_eq!(leaders(&rig, "u").await, None, "it was to be validated only");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_topic_is_gone_when_that_is_answered() {
    let rig = Rig::start(1).await;
    for version in 1..=6 {
        let topic = rig.create("t", 1).await;
        let mut request = DeleteTopicsRequest::default();
        let state = |name: Option<&str>, id| {
            let mut state = DeleteTopicState::default();
            (state.name, state.topic_id) = (name.map(Into::into), id);
            state
        };
        match version {
            6 => request.topics = vec![state(Some("t"), Uuid::ZERO), state(Some("u"), Uuid::ZERO)],
            _ => request.topic_names = vec!["t".into(), "u".into()],
        }
        let results = rig.call(version, request.clone()).await.responses;
        let codes: Vec<_> = results.iter().map(|r| r.error_code).collect();
        assert_eq!(codes, [0, Code::UNKNOWN_TOPIC_OR_PARTITION.0]);
        assert_eq!(results[0].name.as_ref().unwrap().as_str(), "t");
        assert_eq!(results[0].topic_id, if version == 6 { uuid(topic.id) } else { Uuid::ZERO });
        assert_eq!(leaders(&rig, "t").await, None);
        if version < 6 {
            let topic = rig.create("t", 1).await;
            request.topic_names = vec!["t".into(), "t".into()];
            let results = rig.call(version, request.clone()).await.responses;
            assert_eq!((results.len(), results[0].error_code), (1, Code::INVALID_REQUEST.0));
            assert!(rig.topology(0).topic_by_id(topic.id).is_some(), "told that it was not done");
            request.topic_names = vec!["t".into()];
            assert_eq!(rig.call(version, request).await.responses[0].error_code, 0);
            continue;
        }
        let topic = rig.create("t", 1).await;
        let id = uuid(topic.id);
        let refused = Code::INVALID_REQUEST.0;
        request.topics = vec![state(Some("t"), id), state(None, id), state(None, id)];
        request.topics.push(state(None, Uuid::ZERO));
        let results = rig.call(version, request.clone()).await.responses;
        let codes: Vec<_> = results.iter().map(|r| r.error_code).collect();
        assert_eq!(codes, [refused, refused, refused]);
        assert!(rig.topology(0).topic_by_id(topic.id).is_some(), "told that it was not done");
        request.topics = vec![state(None, id)];
        let results = rig.call(version, request).await.responses;
        assert_eq!(results[0].error_code, 0);
        assert_eq!(results[0].name.as_ref().unwrap().as_str(), "t");
        let mut request = DeleteTopicsRequest::default();
        request.topics = vec![state(None, id)];
        let result = rig.call(version, request).await.responses.remove(0);
        assert_eq!((result.error_code, result.topic_id), (Code::UNKNOWN_TOPIC_ID.0, id));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_grows_has_leaders_for_what_is_new() {
    let rig = Rig::start(1).await;
    rig.create("t", 1).await;
    let grow = |name: &str, count: i32, assignments: Option<usize>| {
        let mut topic = CreatePartitionsTopic::default();
        (topic.name, topic.count) = (name.into(), count);
        topic.assignments = assignments.map(|n| {
            let mut assignment = CreatePartitionsAssignment::default();
            assignment.broker_ids = vec![1];
            vec![assignment; n]
        });
        topic
    };
    for version in 0..=3 {
        let before = i32::from(version) + 1;
        let ask = async |topics: Vec<CreatePartitionsTopic>, validate_only| {
            let mut request = CreatePartitionsRequest::default();
            (request.topics, request.validate_only) = (topics, validate_only);
            let results = rig.call(version, request).await.results;
            results.iter().map(|result| result.error_code).collect::<Vec<_>>()
        };
        let (fewer, unknown) = (Code::INVALID_PARTITIONS.0, Code::UNKNOWN_TOPIC_OR_PARTITION.0);
        let by_hand = Code::INVALID_REPLICA_ASSIGNMENT.0;
        assert_eq!(
            ask(vec![grow("t", before, None), grow("u", 9, None)], false).await,
            [fewer, unknown]
        );
        assert_eq!(ask(vec![grow("t", -1, None)], true).await, [fewer]);
        assert_eq!(ask(vec![grow("t", 10_001, None)], true).await, [fewer]);
        assert_eq!(ask(vec![grow("t", before + 2, Some(1))], false).await, [by_hand]);
        let mut named_twice = grow("t", before + 1, Some(1));
        named_twice.assignments.as_mut().unwrap()[0].broker_ids = vec![7, 7];
        assert_eq!(ask(vec![named_twice], false).await, [by_hand]);
        assert_eq!(ask(vec![grow("t", before + 1, None)], true).await, [0]);
        assert_eq!(leaders(&rig, "t").await.unwrap().len(), usize::try_from(before).unwrap());
        let twice = vec![grow("t", before + 1, Some(1)), grow("t", before + 2, None)];
        assert_eq!(ask(twice, false).await, [Code::INVALID_REQUEST.0]);
        assert_eq!(leaders(&rig, "t").await.unwrap().len(), usize::try_from(before).unwrap());
        assert_eq!(ask(vec![grow("t", before + 1, Some(1))], false).await, [0]);
        let now = leaders(&rig, "t").await.unwrap();
        assert_eq!(now, vec![rig.broker_id(0).0; usize::try_from(before).unwrap() + 1]);
    }
}
