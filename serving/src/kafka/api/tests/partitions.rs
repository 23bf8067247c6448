//! What admin clients ask of the data of partitions: only owners answer for it.

use bytes::Bytes;
use geminga_records::{Builder, Compression, Record};

use crate::kafka::codec::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use crate::kafka::codec::messages::describe_log_dirs_request::DescribableLogDirTopic;
use crate::kafka::codec::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use crate::kafka::codec::messages::{
    DeleteRecordsRequest, DescribeLogDirsRequest, DescribeProducersRequest, ListOffsetsRequest,
    describe_producers_request,
};
use crate::kafka::error::Code;
use crate::kafka::testing::Rig;
use crate::topics::{Alteration, NewTopic};

/// Answers `(low watermark, code)` of one partition.
async fn delete_records(
    rig: &Rig,
    (node, version): (usize, i16),
    topic: &str,
    (partition, offset): (i32, i64),
) -> (i64, i16) {
    let mut asked = DeleteRecordsPartition::default();
    (asked.partition_index, asked.offset) = (partition, offset);
    let mut request = DeleteRecordsRequest::default();
    let mut topics = DeleteRecordsTopic::default();
    (topics.name, topics.partitions) = (topic.into(), vec![asked]);
    request.topics = vec![topics];
    let mut answer = rig.call_at(node, version, request).await.topics.remove(0);
    let result = answer.partitions.remove(0);
    assert_eq!(result.partition_index, partition);
    (result.low_watermark, result.error_code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_records_are_gone_in_every_version() {
    let rig = Rig::start(2).await;
    let topic = rig.create("t", 2).await;
    let (owner, other) = rig.owner(&topic, 0);
    for version in 0..=2 {
        let at = (owner, version);
        let base = rig.append(&topic, 0, &["a", "b", "c"]).await;
        assert_eq!(delete_records(&rig, at, "t", (0, base + 1)).await, (base + 1, 0));
        assert_eq!(rig.ends(&topic, 0).await, (base + 1, base + 3));
        // It starts later already.
        assert_eq!(delete_records(&rig, at, "t", (0, 0)).await, (base + 1, 0));
        let refused = [
            (at, "t", (0, base + 4), Code::OFFSET_OUT_OF_RANGE),
            (at, "t", (0, -2), Code::OFFSET_OUT_OF_RANGE),
            (at, "t", (2, 0), Code::UNKNOWN_TOPIC_OR_PARTITION),
            (at, "t", (-1, 0), Code::UNKNOWN_TOPIC_OR_PARTITION),
            (at, "u", (0, 0), Code::UNKNOWN_TOPIC_OR_PARTITION),
            ((other, version), "t", (0, -1), Code::NOT_LEADER_OR_FOLLOWER),
        ];
        for (at, topic, asked, code) in refused {
            let answer = delete_records(&rig, at, topic, asked).await;
            assert_eq!(answer, (-1, code.0), "{asked:?}");
        }
        assert_eq!(rig.ends(&topic, 0).await, (base + 1, base + 3));
        assert_eq!(delete_records(&rig, at, "t", (0, -1)).await, (base + 3, 0));
        assert_eq!(rig.ends(&topic, 0).await, (base + 3, base + 3));
    }
}

/// Without compaction it is the one way in which such a topic could lose anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_deleted_of_a_topic_that_is_only_compacted() {
    let rig = Rig::start(1).await;
    let topic = rig.create("t", 1).await;
    rig.append(&topic, 0, &["a", "b"]).await;
    let compact = Alteration {
        set: [("cleanup.policy".to_owned(), "compact".to_owned())].into(),
        ..Alteration::default()
    };
    rig.context(0).admin.alter("t", compact).await.unwrap();
    let refused = (-1, Code::POLICY_VIOLATION.0);
    assert_eq!(delete_records(&rig, (0, 2), "t", (0, 1)).await, refused);
    assert_eq!(rig.ends(&topic, 0).await, (0, 2));
}

/// Sizes of the partitions that a broker says it has, by topic and partition.
async fn sizes(
    rig: &Rig,
    (node, version): (usize, i16),
    asked: Option<&[(&str, &[i32])]>,
) -> Vec<(String, i32, i64)> {
    let mut request = DescribeLogDirsRequest::default();
    request.topics = asked.map(|topics| {
        let topic = |(name, partitions): &(&str, &[i32])| {
            let mut topic = DescribableLogDirTopic::default();
            (topic.topic, topic.partitions) = ((*name).into(), partitions.to_vec());
            topic
        };
        topics.iter().map(topic).collect()
    });
    let answer = rig.call_at(node, version, request).await;
    assert_eq!((answer.error_code, answer.results.len()), (0, 1));
    let directory = &answer.results[0];
    assert_eq!((directory.error_code, directory.total_bytes, directory.usable_bytes), (0, -1, -1));
    let topics = directory.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|p| {
            assert_eq!((p.offset_lag, p.is_future_key), (0, false));
            (topic.name.as_str().to_owned(), p.partition_index, p.partition_size)
        })
    });
    topics.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sizes_are_those_of_what_was_written() {
    const MANY: usize = 100_000;
    let rig = Rig::start(2).await;
    let topic = rig.create("t", 2).await;
    let (owner, other) = rig.owner(&topic, 1);
    let value = "x".repeat(MANY);
    let mut before = 0;
    for version in 1..=4 {
        rig.append(&topic, 1, &[&value]).await;
        let own = sizes(&rig, (owner, version), None).await;
        let [(name, 1, bytes)] = own.as_slice() else { panic!("{own:?}") };
        assert_eq!(name, "t");
        let grown = bytes - before;
        assert!((100_000..101_000).contains(&grown), "version {version}: {before} to {bytes}");
        before = *bytes;
        let empty = sizes(&rig, (other, version), None).await;
        assert_eq!(empty, [("t".to_owned(), 0, 0)], "what others own is not said");
        let asked = sizes(&rig, (owner, version), Some(&[("t", &[1, -1, 7]), ("u", &[0])])).await;
        assert_eq!(asked, own);
        assert_eq!(sizes(&rig, (owner, version), Some(&[("t", &[0])])).await, []);
        assert_eq!(sizes(&rig, (owner, version), Some(&[])).await, []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_writes_to_a_partition_is_told_by_its_owner() {
    let rig = Rig::start(2).await;
    let topic = rig.create("t", 2).await;
    let (owner, other) = rig.owner(&topic, 0);
    rig.append(&topic, 0, &["nobody's"]).await;
    let now = geminga_runtime::WallClock::now_ms(&geminga_runtime::SystemClock);
    let batch = |first: i32, records: i64| {
        let mut builder = Builder::new(Compression::None).producer(77, 3, first);
        for n in 0..records {
            let value = Some(Bytes::from_static(b"v"));
            builder.push(&Record { timestamp: now + n, value, ..Record::default() }).unwrap();
        }
        builder.finish().unwrap()
    };
    rig.append_batch(&topic, 0, batch(0, 2)).await;
    rig.append_batch(&topic, 0, batch(2, 3)).await;
    let ask = async |node: usize, name: &str, partitions: &[i32]| {
        let mut asked = describe_producers_request::TopicRequest::default();
        (asked.name, asked.partition_indexes) = (name.into(), partitions.to_vec());
        let mut request = DescribeProducersRequest::default();
        request.topics = vec![asked];
        rig.call_at(node, 0, request).await.topics.remove(0).partitions
    };
    let answer = ask(owner, "t", &[0, 9]).await;
    assert_eq!(answer[1].error_code, Code::UNKNOWN_TOPIC_OR_PARTITION.0);
    assert_eq!((answer[0].error_code, answer[0].active_producers.len()), (0, 1));
    let producer = &answer[0].active_producers[0];
    assert_eq!((producer.producer_id, producer.producer_epoch), (77, 3));
    assert_eq!((producer.last_sequence, producer.last_timestamp), (4, now + 2));
    assert_eq!((producer.coordinator_epoch, producer.current_txn_start_offset), (-1, -1));
    let elsewhere = &ask(other, "t", &[0]).await[0];
    assert_eq!(elsewhere.error_code, Code::NOT_LEADER_OR_FOLLOWER.0);
    assert_eq!(ask(owner, "u", &[0]).await[0].error_code, Code::UNKNOWN_TOPIC_OR_PARTITION.0);
}

/// Another broker may have told a client of an owner before the owner hears of it: some clients take "not yet" for a failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_is_to_come_is_waited_for() {
    let rig = Rig::start(1).await;
    for n in 0..10 {
        let name = format!("new{n}");
        let new = NewTopic { name: name.clone(), partitions: 3, ..NewTopic::default() };
        let admin = &rig.context(0).admin;
        let ask = async || loop {
            let mut asked = ListOffsetsTopic::default();
            let mut partition = ListOffsetsPartition::default();
            (partition.partition_index, partition.timestamp) = (2, -1);
            (asked.name, asked.partitions) = (name.clone().into(), vec![partition]);
            let mut request = ListOffsetsRequest::default();
            request.topics = vec![asked];
            let mut answer = rig.call(5, request).await;
            let code = answer.topics.remove(0).partitions.remove(0).error_code;
            if code != Code::UNKNOWN_TOPIC_OR_PARTITION.0 {
                break code;
            }
        };
        let (made, code) = tokio::join!(admin.create(new), ask());
        made.unwrap();
        assert_eq!(code, Code::NONE.0, "{name}");
    }
}
