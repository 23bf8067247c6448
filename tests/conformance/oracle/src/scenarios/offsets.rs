//! Places in a partition: ends, times, epochs; and where it begins once records are deleted.

use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{
    BrokerId, DeleteRecordsRequest, ListOffsetsRequest, OffsetForLeaderEpochRequest,
};

use super::produce::to;
use crate::batches::{TIME_MS, batch, sealed};
use crate::script::{Script, topic_name};

fn list(topic: &str, partitions: Vec<ListOffsetsPartition>) -> ListOffsetsRequest {
    let topic =
        ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(partitions);
    ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic])
}

fn at(partition: i32, timestamp: i64) -> ListOffsetsPartition {
    ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(timestamp)
}

fn epoch(topic: &str, partition: i32, current: i32, epoch: i32) -> OffsetForLeaderEpochRequest {
    let partition = OffsetForLeaderPartition::default()
        .with_partition(partition)
        .with_current_leader_epoch(current)
        .with_leader_epoch(epoch);
    let topic = OffsetForLeaderTopic::default()
        .with_topic(topic_name(topic))
        .with_partitions(vec![partition]);
    OffsetForLeaderEpochRequest::default().with_topics(vec![topic])
}

fn delete(topic: &str, partition: i32, before: i64) -> DeleteRecordsRequest {
    let partition =
        DeleteRecordsPartition::default().with_partition_index(partition).with_offset(before);
    let topic =
        DeleteRecordsTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition]);
    DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000)
}

pub(super) fn play(script: &mut Script) {
    script.topic("offsets", 2, &[]);
    for _ in 0..2 {
        script.quietly(9, &to("offsets", 0, Some(sealed(batch(3)))));
    }
    for version in 1..=10 {
        let mut of = |what: &str, timestamp| {
            script.ask(what, version, &list("offsets", vec![at(0, timestamp)]));
        };
        of("the end", -1);
        of("the start", -2);
        of("the largest time", -3);
        of("the local start", -4);
        of("the last tiered", -5);
        of("a time that is none", -99);
        of("the first time", TIME_MS);
        of("before all", 1);
        of("a time between", TIME_MS + 1_500);
        of("the last time", TIME_MS + 2_000);
        of("after all", TIME_MS + 2_001);
        let empty = |timestamp| list("offsets", vec![at(1, timestamp)]);
        script.ask("the end of nothing", version, &empty(-1));
        script.ask("the start of nothing", version, &empty(-2));
        script.ask("the largest time of nothing", version, &empty(-3));
        script.ask("a time of nothing", version, &empty(TIME_MS));
        script.ask("an unknown topic", version, &list("offsets-nothing", vec![at(0, -1)]));
        script.ask("a bad topic", version, &list("a b", vec![at(0, -1)]));
        script.ask("an unknown partition", version, &list("offsets", vec![at(7, -1)]));
        script.ask("a negative partition", version, &list("offsets", vec![at(-1, -1)]));
        script.ask("one partition twice", version, &list("offsets", vec![at(0, -1), at(0, -2)]));
        if version >= 4 {
            let ahead = at(0, -1).with_current_leader_epoch(1_000_000);
            script.ask("an epoch to come", version, &list("offsets", vec![ahead]));
        }
        if version >= 2 {
            let committed = list("offsets", vec![at(0, -1)]).with_isolation_level(1);
            script.ask("the end of what is committed", version, &committed);
        }
    }
    for version in 2..=4 {
        script.ask("epoch: to come", version, &epoch("offsets", 0, -1, 1_000_000));
        script.ask("epoch: none", version, &epoch("offsets", 0, -1, -1));
        script.ask("epoch: as a leader to come", version, &epoch("offsets", 0, 1_000_000, 0));
        script.ask("epoch: an unknown topic", version, &epoch("offsets-nothing", 0, -1, 0));
        script.ask("epoch: an unknown partition", version, &epoch("offsets", 7, -1, 0));
    }
    for version in 0..=2 {
        let before = 1 + i64::from(version);
        script.ask(&format!("delete before {before}"), version, &delete("offsets", 0, before));
        script.ask("delete before the start", version, &delete("offsets", 0, 0));
        script.ask("delete beyond the end", version, &delete("offsets", 0, 7));
        script.ask("delete before -2", version, &delete("offsets", 0, -2));
        script.ask("delete of an unknown topic", version, &delete("offsets-nothing", 0, 1));
        script.ask("delete of a bad topic", version, &delete("a b", 0, 1));
        script.ask("delete of an unknown partition", version, &delete("offsets", 7, 1));
    }
    script.ask("the start after deletion", 7, &list("offsets", vec![at(0, -2)]));
    script.ask("the first time after deletion", 7, &list("offsets", vec![at(0, 1)]));
    script.ask("delete all", 2, &delete("offsets", 0, -1));
    script.ask("the start after all is deleted", 7, &list("offsets", vec![at(0, -2)]));
    script.ask("a time after all is deleted", 7, &list("offsets", vec![at(0, 1)]));
    script.ask("the largest time after all is deleted", 7, &list("offsets", vec![at(0, -3)]));
}
