//! What tools ask of brokers: directories, elections, reassignments.

use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use kafka_protocol::messages::{
    DescribeLogDirsRequest, ElectLeadersRequest, ListPartitionReassignmentsRequest,
};

use super::produce::to;
use crate::batches::{batch, sealed};
use crate::script::{Script, topic_name};

pub(super) fn play(script: &mut Script) {
    script.topic("describe", 2, &[]);
    script.quietly(9, &to("describe", 0, Some(sealed(batch(3)))));
    for version in 1..=4 {
        let of = |name: &str, partitions: &[i32]| {
            let topic = DescribableLogDirTopic::default()
                .with_topic(topic_name(name))
                .with_partitions(partitions.to_vec());
            DescribeLogDirsRequest::default().with_topics(Some(vec![topic]))
        };
        script.ask("directories", version, &of("describe", &[0, 1]));
        script.ask("directories: an unknown topic", version, &of("describe-nothing", &[0]));
        script.ask("directories: an unknown partition", version, &of("describe", &[7]));
        let none = DescribeLogDirsRequest::default().with_topics(Some(vec![]));
        script.ask("directories: no topics", version, &none);
    }
    for version in 0..=2 {
        let of = |name: &str, partitions: &[i32]| {
            let topic = TopicPartitions::default()
                .with_topic(topic_name(name))
                .with_partitions(partitions.to_vec());
            ElectLeadersRequest::default()
                .with_topic_partitions(Some(vec![topic]))
                .with_timeout_ms(10_000)
        };
        script.ask("election", version, &of("describe", &[0, 1]));
        script.ask("election: an unknown topic", version, &of("describe-nothing", &[0]));
        script.ask("election: an unknown partition", version, &of("describe", &[7]));
        if version >= 1 {
            let unclean = of("describe", &[0]).with_election_type(1);
            script.ask("election: unclean", version, &unclean);
            let neither = of("describe", &[0]).with_election_type(9);
            script.ask("election: of no kind", version, &neither);
        }
    }
    let of = |name: &str| {
        let topic = ListPartitionReassignmentsTopics::default()
            .with_name(topic_name(name))
            .with_partition_indexes(vec![0]);
        ListPartitionReassignmentsRequest::default()
            .with_topics(Some(vec![topic]))
            .with_timeout_ms(10_000)
    };
    script.ask("reassignments", 0, &of("describe"));
    script.ask("reassignments: an unknown topic", 0, &of("describe-nothing"));
    let all = ListPartitionReassignmentsRequest::default().with_topics(None).with_timeout_ms(1_000);
    script.ask("reassignments: all", 0, &all);
}
