//! What admin clients are told of the cluster and of who leads what.

use crate::kafka::codec::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use crate::kafka::codec::messages::elect_leaders_request::TopicPartitions;
use crate::kafka::codec::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use crate::kafka::codec::messages::{
    DescribeClusterRequest, DescribeGroupsRequest, DescribeTopicPartitionsRequest,
    ElectLeadersRequest, ListPartitionReassignmentsRequest, MetadataRequest,
};
use crate::kafka::error::Code;
use crate::kafka::place::uuid;
use crate::kafka::testing::Rig;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_brokers_are_told_and_one_of_them_is_the_controller() {
    let rig = Rig::start(2).await;
    let ids = [rig.broker_id(0).0, rig.broker_id(1).0];
    for version in 0..=2 {
        let answer = rig.call_at(1, version, DescribeClusterRequest::default()).await;
        assert_eq!((answer.error_code, answer.error_message), (0, None));
        assert_eq!(answer.cluster_id.as_str(), rig.context(0).cluster.uuid.to_string());
        let brokers: Vec<_> = answer.brokers.iter().map(|b| (b.broker_id, b.port)).collect();
        assert_eq!(brokers, [(ids[0], 9092), (ids[1], 9093)]);
        assert_eq!(answer.brokers[0].host.as_str(), "127.0.0.1");
        assert!(ids.contains(&answer.controller_id));
        assert_eq!(answer.cluster_authorized_operations, i32::MIN, "not said");
        let mut request = DescribeClusterRequest::default();
        request.include_cluster_authorized_operations = true;
        let answer = rig.call(version, request).await;
        assert_eq!(operations(answer.cluster_authorized_operations), OF_CLUSTER);
        if version > 0 {
            for (kind, code) in
                [(2, Code::MISMATCHED_ENDPOINT_TYPE), (3, Code::UNSUPPORTED_ENDPOINT_TYPE)]
            {
                let mut request = DescribeClusterRequest::default();
                request.endpoint_type = kind;
                let refused = rig.call(version, request).await;
                assert_eq!((refused.error_code, refused.brokers.len()), (code.0, 0));
            }
        }
    }
}

/// Kafka's codes of all operations that there are.
const OF_TOPIC: [i32; 8] = [3, 4, 5, 6, 7, 8, 10, 11];
const OF_GROUP: [i32; 5] = [3, 6, 8, 10, 11];
const OF_CLUSTER: [i32; 7] = [5, 7, 8, 9, 10, 11, 12];

/// The codes of a set of operations.
fn operations(bits: i32) -> Vec<i32> {
    assert!(bits > 0, "they are said: {bits}");
    (0..31).filter(|code| bits & (1 << code) != 0).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_may_do_everything() {
    let rig = Rig::start(1).await;
    rig.create("t", 1).await;
    for version in 8..=13 {
        let mut request = MetadataRequest::default();
        request.topics = None;
        let answer = rig.call(version, request.clone()).await;
        assert_eq!(answer.topics[0].topic_authorized_operations, i32::MIN, "not asked");
        assert_eq!(answer.cluster_authorized_operations, i32::MIN, "not asked");
        request.include_topic_authorized_operations = true;
        request.include_cluster_authorized_operations = version <= 10;
        let answer = rig.call(version, request).await;
        assert_eq!(operations(answer.topics[0].topic_authorized_operations), OF_TOPIC);
        if version <= 10 {
            assert_eq!(operations(answer.cluster_authorized_operations), OF_CLUSTER);
        }
    }
    for version in 3..=6 {
        let mut request = DescribeGroupsRequest::default();
        request.groups = vec!["g".into()];
        let answer = rig.call(version, request.clone()).await;
        assert_eq!(answer.groups[0].authorized_operations, i32::MIN, "not asked");
        request.include_authorized_operations = true;
        let answer = rig.call(version, request).await;
        assert_eq!(operations(answer.groups[0].authorized_operations), OF_GROUP);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_election_is_needed_and_nothing_is_reassigned() {
    let rig = Rig::start(1).await;
    rig.create("t", 2).await;
    let (unneeded, unknown) = (Code::ELECTION_NOT_NEEDED.0, Code::UNKNOWN_TOPIC_OR_PARTITION.0);
    for version in 0..=2 {
        let of = |topic: &str, partitions: &[i32]| {
            let mut named = TopicPartitions::default();
            (named.topic, named.partitions) = (topic.into(), partitions.to_vec());
            named
        };
        let mut request = ElectLeadersRequest::default();
        request.topic_partitions = Some(vec![of("t", &[0, 1, 2, -1]), of("u", &[0])]);
        let answer = rig.call(version, request).await;
        assert_eq!(answer.error_code, 0);
        let codes = |at: usize| -> Vec<_> {
            let results = &answer.replica_election_results[at].partition_result;
            results.iter().map(|result| result.error_code).collect()
        };
        assert_eq!(codes(0), [unneeded, unneeded, unknown, unknown]);
        assert_eq!(codes(1), [unknown]);
        let mut all = ElectLeadersRequest::default();
        all.topic_partitions = None;
        assert_eq!(rig.call(version, all.clone()).await.replica_election_results, []);
        if version > 0 {
            all.election_type = 2;
            assert_eq!(rig.call(version, all).await.error_code, Code::INVALID_REQUEST.0);
        }
    }
    let mut topic = ListPartitionReassignmentsTopics::default();
    (topic.name, topic.partition_indexes) = ("t".into(), vec![0]);
    for topics in [None, Some(vec![topic])] {
        let mut request = ListPartitionReassignmentsRequest::default();
        request.topics = topics;
        let answer = rig.call(0, request).await;
        assert_eq!((answer.error_code, answer.error_message, answer.topics.len()), (0, None, 0));
    }
}

/// Pages of `(topic, its first partition on the page, how many are there, code)`, until there is no cursor.
async fn pages(rig: &Rig, names: &[&str], limit: i32) -> Vec<Vec<(String, i32, usize, i16)>> {
    let mut request = DescribeTopicPartitionsRequest::default();
    request.response_partition_limit = limit;
    request.topics = names
        .iter()
        .map(|name| {
            let mut topic = TopicRequest::default();
            topic.name = (*name).into();
            topic
        })
        .collect();
    let mut pages = Vec::new();
    loop {
        let answer = rig.call(0, request.clone()).await;
        let topic = |t: &crate::kafka::codec::messages::describe_topic_partitions_response::DescribeTopicPartitionsResponseTopic| {
            let first = t.partitions.first().map_or(-1, |p| p.partition_index);
            (t.name.as_ref().unwrap().as_str().to_owned(), first, t.partitions.len(), t.error_code)
        };
        pages.push(answer.topics.iter().map(topic).collect());
        let Some(next) = answer.next_cursor else { return pages };
        let mut cursor = Cursor::default();
        (cursor.topic_name, cursor.partition_index) = (next.topic_name, next.partition_index);
        request.cursor = Some(cursor);
        assert!(pages.len() < 20, "it ends");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_described_by_pages() {
    let rig = Rig::start(1).await;
    let (a, _) = (rig.create("a", 3).await, rig.create("b", 2).await);
    let of = |name: &str, first, count| (name.to_owned(), first, count, 0);
    assert_eq!(pages(&rig, &[], 2000).await, [vec![of("a", 0, 3), of("b", 0, 2)]]);
    let twos = [vec![of("a", 0, 2)], vec![of("a", 2, 1), of("b", 0, 1)], vec![of("b", 1, 1)]];
    assert_eq!(pages(&rig, &["b", "a"], 2).await, twos);
    assert_eq!(pages(&rig, &["b", "a"], 3).await, [vec![of("a", 0, 3)], vec![of("b", 0, 2)]]);
    let unknown = Code::UNKNOWN_TOPIC_OR_PARTITION.0;
    let mixed = [vec![of("b", 0, 2), ("c".to_owned(), -1, 0, unknown)]];
    assert_eq!(pages(&rig, &["c", "b"], 5).await, mixed);
    let invalid = Code::INVALID_TOPIC_EXCEPTION.0;
    assert_eq!(pages(&rig, &["a b"], 5).await, [vec![("a b".to_owned(), -1, 0, invalid)]]);
    let refused = Code::INVALID_REQUEST.0;
    assert_eq!(pages(&rig, &["a"], 0).await, [vec![("a".to_owned(), -1, 0, refused)]]);

    let mut request = DescribeTopicPartitionsRequest::default();
    let mut cursor = Cursor::default();
    (cursor.topic_name, cursor.partition_index) = ("a".into(), -1);
    request.cursor = Some(cursor);
    assert_eq!(rig.call(0, request.clone()).await.topics[0].error_code, refused);
    // A topic that is gone meanwhile, and partitions that never were.
    request.cursor.as_mut().unwrap().topic_name = "aa".into();
    request.cursor.as_mut().unwrap().partition_index = 7;
    let answer = rig.call(0, request.clone()).await;
    assert_eq!((answer.topics.len(), answer.topics[0].partitions.len()), (1, 2));
    request.cursor.as_mut().unwrap().topic_name = "a".into();
    let answer = rig.call(0, request).await;
    assert_eq!((answer.topics.len(), answer.topics[0].partitions.len()), (2, 0));
    assert_eq!(answer.topics[0].topic_id, uuid(a.id));
    let led = &answer.topics[1].partitions[1];
    let me = rig.broker_id(0).0;
    assert_eq!((led.error_code, led.partition_index, led.leader_id), (0, 1, me));
    assert_eq!(operations(answer.topics[1].topic_authorized_operations), OF_TOPIC);
    assert_eq!((&led.replica_nodes, &led.isr_nodes), (&vec![me], &vec![me]));
    assert!(led.leader_epoch > 0 && led.offline_replicas.is_empty());
    assert_eq!(led.eligible_leader_replicas, Some(vec![]), "null breaks Kafka's own tools");
    assert_eq!(led.last_known_elr, Some(vec![]));
}
