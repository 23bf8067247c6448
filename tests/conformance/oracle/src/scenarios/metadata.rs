//! What there is: metadata by name and by id, pages of partitions, the cluster.

use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    DescribeClusterRequest, DescribeTopicPartitionsRequest, MetadataRequest,
};

use crate::script::{NOBODY, Script, topic_name};

fn asked(version: i16, names: &[&str]) -> MetadataRequest {
    let topic = |name: &&str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
    MetadataRequest::default()
        .with_topics(Some(names.iter().map(topic).collect()))
        .with_allow_auto_topic_creation(version < 4)
}

fn pages(names: &[&str], limit: i32) -> DescribeTopicPartitionsRequest {
    let topic = |name: &&str| TopicRequest::default().with_name(topic_name(name));
    DescribeTopicPartitionsRequest::default()
        .with_topics(names.iter().map(topic).collect())
        .with_response_partition_limit(limit)
}

pub(super) fn play(script: &mut Script) {
    script.topic("metadata", 2, &[]);
    script.topic("metadata-b", 1, &[]);
    for version in 0..=13 {
        script.ask("a topic", version, &asked(version, &["metadata"]));
        script.ask("an unknown topic", version, &asked(version, &["metadata-nothing"]));
        script.ask("a bad name", version, &asked(version, &["a b"]));
        script.ask("no name", version, &asked(version, &[""]));
        script.ask("one topic twice", version, &asked(version, &["metadata", "metadata"]));
        if version > 0 {
            script.ask("no topics", version, &asked(version, &[]));
        }
    }
    let id = script.quietly(12, &asked(12, &["metadata"])).topics.remove(0).topic_id;
    for version in 10..=13 {
        let by = |id, name: Option<&str>| {
            let topic = MetadataRequestTopic::default().with_topic_id(id);
            let topic = topic.with_name(name.map(topic_name));
            asked(version, &[]).with_topics(Some(vec![topic]))
        };
        script.ask("by its id", version, &by(id, None));
        script.ask("by an unknown id", version, &by(NOBODY, None));
        script.ask("by id and name", version, &by(id, Some("metadata")));
        script.ask("by nothing", version, &by(uuid::Uuid::nil(), None));
    }
    script.ask("pages: two topics", 0, &pages(&["metadata-b", "metadata"], 2_000));
    script.ask("pages: the first", 0, &pages(&["metadata", "metadata-b"], 1));
    let at = |name: &str, partition| {
        Some(Cursor::default().with_topic_name(topic_name(name)).with_partition_index(partition))
    };
    let next = pages(&["metadata", "metadata-b"], 1).with_cursor(at("metadata", 1));
    script.ask("pages: the second", 0, &next);
    let after = pages(&["metadata"], 10).with_cursor(at("metadata", 9));
    script.ask("pages: after the last partition", 0, &after);
    let negative = pages(&["metadata"], 10).with_cursor(at("metadata", -1));
    script.ask("pages: before the first partition", 0, &negative);
    let gone = pages(&["metadata", "metadata-b"], 10).with_cursor(at("metadata-a", 0));
    script.ask("pages: from a topic that is not there", 0, &gone);
    script.ask("pages: an unknown topic", 0, &pages(&["metadata-nothing"], 10));
    script.ask("pages: a bad name", 0, &pages(&["a b"], 10));
    script.ask("pages: no partitions", 0, &pages(&["metadata"], 0));
    for version in 0..=2 {
        script.ask("the cluster", version, &DescribeClusterRequest::default());
        if version > 0 {
            let controllers = DescribeClusterRequest::default().with_endpoint_type(2);
            script.ask("controllers", version, &controllers);
            let neither = DescribeClusterRequest::default().with_endpoint_type(7);
            script.ask("endpoints of no kind", version, &neither);
        }
    }
}
