//! What requests of few bytes cost: memory for their answers, looks at the metadata store, and time.

use std::future::poll_fn;
use std::task::Poll;

use crate::kafka::Config;
use crate::kafka::call::Hangup;
use crate::kafka::codec::messages::create_partitions_request::CreatePartitionsTopic;
use crate::kafka::codec::messages::create_topics_request::CreatableTopic;
use crate::kafka::codec::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use crate::kafka::codec::messages::describe_configs_request::DescribeConfigsResource;
use crate::kafka::codec::messages::describe_producers_request::TopicRequest;
use crate::kafka::codec::messages::elect_leaders_request::TopicPartitions;
use crate::kafka::codec::messages::metadata_request::MetadataRequestTopic;
use crate::kafka::codec::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeConfigsRequest, DescribeLogDirsRequest, DescribeProducersRequest, ElectLeadersRequest,
    KafkaRequest, MetadataRequest, StrBytes,
};
use crate::kafka::error::Code;
use crate::kafka::testing::{LIMIT, Rig};
use crate::room::Held;

fn configs_of(resources: usize) -> DescribeConfigsRequest {
    let resource = |n: usize| {
        let mut resource = DescribeConfigsResource::default();
        (resource.resource_type, resource.configuration_keys) = (2, None);
        resource.resource_name = if n == 0 { "t".into() } else { format!("t{n}").into() };
        resource
    };
    let mut request = DescribeConfigsRequest::default();
    request.resources = (0..resources).map(resource).collect();
    request
}

/// Of a topic that is named so many times, each time with so many partitions.
fn elections(times: usize, partitions: i32) -> ElectLeadersRequest {
    let mut topic = TopicPartitions::default();
    (topic.topic, topic.partitions) = ("t".into(), (0..partitions).collect());
    let mut request = ElectLeadersRequest::default();
    request.topic_partitions = Some(vec![topic; times]);
    request
}

fn producers(times: usize, partitions: i32) -> DescribeProducersRequest {
    let mut topic = TopicRequest::default();
    (topic.name, topic.partition_indexes) = ("t".into(), (0..partitions).collect());
    let mut request = DescribeProducersRequest::default();
    request.topics = vec![topic; times];
    request
}

fn topics(names: impl Iterator<Item = String>, timeout_ms: i32) -> CreateTopicsRequest {
    let topic = |name: String| {
        let mut topic = CreatableTopic::default();
        (topic.name, topic.num_partitions, topic.replication_factor) = (name.into(), 1, -1);
        topic
    };
    let mut request = CreateTopicsRequest::default();
    (request.topics, request.timeout_ms) = (names.map(topic).collect(), timeout_ms);
    request
}

/// Asks while all room is taken: the answer must want some, and comes when there is.
async fn waits_for_room<R: KafkaRequest>(rig: &Rig, version: i16, request: R) {
    let room = &rig.kafka(0).answers.topics;
    let all: Held = room.take(usize::MAX).await;
    let mut answer = Box::pin(rig.serve_at(0, version, &request));
    let wanted = poll_fn(|cx| {
        assert!(answer.as_mut().poll(cx).is_pending(), "{:?} is answered", R::API_KEY);
        match all.is_wanted() {
            true => Poll::Ready(()),
            false => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    });
    tokio::time::timeout(LIMIT, wanted).await.expect("it asks for room");
    drop(all);
    assert!(answer.await.is_ok());
    assert_eq!(room.used(), 0, "and gives it back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_larger_than_their_requests_have_room_before_they_are_made() {
    let rig = Rig::start(1).await;
    rig.create("t", 2).await;
    waits_for_room(&rig, 4, configs_of(1)).await;
    waits_for_room(&rig, 2, elections(1, 1_000)).await;
    waits_for_room(&rig, 0, producers(1, 1_000)).await;
    let mut validated = topics(std::iter::once("u".to_owned()), 0);
    validated.validate_only = true;
    waits_for_room(&rig, 7, validated).await;
    let mut all = DescribeLogDirsRequest::default();
    all.topics = None;
    waits_for_room(&rig, 4, all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_be_too_large_is_refused() {
    let rig = Rig::start(1).await;
    rig.create("t", 1).await;
    for version in 1..=4 {
        let results = rig.call(version, configs_of(20_000)).await.results;
        assert_eq!((results.len(), results[0].error_code), (20_000, 0));
        let last = results.last().expect("the last one");
        assert_eq!(last.error_code, Code::POLICY_VIOLATION.0);
        assert!(last.error_message.as_ref().is_some_and(|why| why.contains("fewer")));
    }
    let ends = Hangup::FrameSize;
    assert_eq!(rig.serve_at(0, 2, &elections(3, 70_000)).await.unwrap_err(), ends);
    assert_eq!(rig.serve_at(0, 0, &producers(3, 40_000)).await.unwrap_err(), ends);
    // Configs of so many are told, and of the others that they are not.
    let mut validated = topics((0..1_001).map(|n| format!("u{n}")), 0);
    validated.validate_only = true;
    let made = rig.call(7, validated).await.topics;
    assert!(made.iter().all(|topic| topic.error_code == 0));
    assert!(made[..1_000].iter().all(|topic| topic.configs.is_some()));
    let last = &made[1_000];
    let untold = Code::POLICY_VIOLATION.0;
    assert_eq!((&last.configs, last.topic_config_error_code), (&None, untold));
}

fn metadata(names: impl Iterator<Item = String>) -> MetadataRequest {
    let topic = |name: String| {
        let mut topic = MetadataRequestTopic::default();
        topic.name = Some(StrBytes::from(name));
        topic
    };
    let mut request = MetadataRequest::default();
    (request.topics, request.allow_auto_topic_creation) = (Some(names.map(topic).collect()), true);
    request
}

/// All topics that there can be may be named in one request, and those that there are not cost so many looks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_topics_cost_a_few_looks_a_request() {
    let rig = Rig::start(1).await;
    rig.create("t", 1).await;
    let names = || (0..99_999).map(|n| format!("none{n}")).chain(["t".to_owned()]);
    let answer = rig.call(12, metadata(names())).await;
    let count = |code: Code| answer.topics.iter().filter(|t| t.error_code == code.0).count();
    assert_eq!(count(Code::UNKNOWN_TOPIC_OR_PARTITION), 32);
    assert_eq!(count(Code::LEADER_NOT_AVAILABLE), 99_999 - 32, "to be asked again");
    assert_eq!(count(Code::NONE), 1, "what is known needs no look");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_creates_a_few_topics() {
    let rig = Rig::start_with(1, Config { auto_create_topics: true, ..Config::default() }).await;
    for round in 1..=2 {
        let answer = rig.call(12, metadata((0..50).map(|n| format!("new{n}")))).await;
        let there = answer.topics.iter().filter(|topic| topic.error_code == 0).count();
        assert_eq!(there, (32 * round).min(50), "in round {round}");
    }
}

/// What the client gave no time for is said to have timed out, and what had not begun is not done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_answered_in_the_time_that_was_given() {
    let rig = Rig::start(1).await;
    // So many that none of these takes less than a millisecond, be the machine ever so quick.
    let names = || (0..200).map(|n| format!("t{n}"));
    let late = Code::REQUEST_TIMED_OUT.0;
    let made = rig.call(7, topics(names(), 1)).await.topics;
    assert_eq!(made.last().unwrap().error_code, late);
    assert!(rig.topology(0).topic("t199").is_none(), "it had not begun");
    let made = rig.call(7, topics(names(), 60_000)).await.topics;
    assert_eq!(made.last().unwrap().error_code, 0);
    let mut more = CreatePartitionsRequest::default();
    let two = |name: String| {
        let mut topic = CreatePartitionsTopic::default();
        (topic.name, topic.count, topic.assignments) = (name.into(), 2, None);
        topic
    };
    (more.topics, more.timeout_ms) = (names().map(two).collect(), 1);
    let results = rig.call(3, more).await.results;
    assert_eq!(results.last().unwrap().error_code, late);
    let mut deletion = DeleteTopicsRequest::default();
    deletion.topic_names = names().map(StrBytes::from).collect();
    deletion.timeout_ms = 1;
    let results = rig.call(5, deletion).await.responses;
    assert_eq!(results.last().unwrap().error_code, late);
    let topic = rig.topology(0).topic("t199").expect("it is still there");
    assert_eq!(topic.partitions, 1);
    let mut records = DeleteRecordsRequest::default();
    let first = |name: String| {
        let mut topic = DeleteRecordsTopic::default();
        topic.name = name.into();
        topic.partitions = vec![DeleteRecordsPartition::default()];
        topic
    };
    // It takes so little that only very many of them take longer.
    let many = (0..4_000).map(|n| format!("t{}", n % 200)).map(first);
    (records.topics, records.timeout_ms) = (many.collect(), 1);
    let results = rig.call(2, records).await.topics;
    assert_eq!(results.last().unwrap().partitions[0].error_code, late);
}
