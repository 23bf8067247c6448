//! Answers to fetches take room for what is there, and records that are hard to get are in nobody's way.

use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;

use crate::broker::Config;
use crate::kafka::codec::messages::fetch_request::{FetchPartition, FetchTopic};
use crate::kafka::codec::messages::metadata_request::MetadataRequestTopic;
use crate::kafka::codec::messages::{FetchRequest, MetadataRequest};
use crate::kafka::error::Code;
use crate::kafka::testing::Rig;
use crate::partition::testing::Mode;

const FETCH: i16 = 11;

/// Each of these partitions from an offset on.
fn fetch(partitions: &[(i32, i64)]) -> FetchRequest {
    let asked = |&(partition, offset): &(i32, i64)| {
        let mut asked = FetchPartition::default();
        (asked.partition, asked.fetch_offset, asked.partition_max_bytes) =
            (partition, offset, 1 << 20);
        (asked.current_leader_epoch, asked.log_start_offset) = (-1, -1);
        asked
    };
    let mut topic = FetchTopic::default();
    (topic.topic, topic.partitions) = ("t".into(), partitions.iter().map(asked).collect());
    let mut request = FetchRequest::default();
    (request.replica_id, request.session_epoch) = (-1, -1);
    (request.min_bytes, request.max_bytes, request.max_wait_ms) = (1, 1 << 24, 0);
    request.topics = vec![topic];
    request
}

/// Of each partition: its code, and bytes of records.
async fn fetched(rig: &Rig, partitions: &[(i32, i64)]) -> Vec<(Code, usize)> {
    let answer = rig.call(FETCH, fetch(partitions)).await;
    let parts = answer.responses[0].partitions.iter();
    let bytes = parts.map(|part| {
        (Code(part.error_code), part.records.as_ref().map_or(0, |records| records.len()))
    });
    bytes.collect()
}

#[tokio::test]
async fn whoever_finds_nothing_new_needs_no_room_and_neither_do_descriptions() {
    let rig = Rig::start(1).await;
    let topic = rig.create("t", 1).await;
    rig.append(&topic, 0, &["a"]).await;
    tokio::time::pause();
    let answers = rig.kafka(0).answers.clone();
    let recent = answers.recent.take(usize::MAX).await;
    let older = answers.older.take(usize::MAX).await;
    assert_eq!(fetched(&rig, &[(0, 1)]).await, [(Code::NONE, 0)]);
    assert_eq!(fetched(&rig, &[(0, 7)]).await, [(Code::OFFSET_OUT_OF_RANGE, 0)]);
    let mut all_topics = MetadataRequest::default();
    all_topics.topics = None;
    assert_eq!(rig.call(9, all_topics).await.topics.len(), 1);
    let all = [(0, 0)];
    let mut waits = Box::pin(fetched(&rig, &all));
    let second = Duration::from_secs(1);
    assert!(tokio::time::timeout(second, &mut waits).await.is_err(), "there is no room");
    drop(recent);
    assert!(waits.await[0].1 > 0);
    drop(older);
    assert_eq!(answers.used(), 0);
}

/// Who waits for many bytes does not read those that are there whenever a few come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_read_again_when_enough_have_come() {
    let rig = Rig::start(1).await;
    let topic = rig.create("t", 1).await;
    rig.append(&topic, 0, &["a"]).await;
    let mut request = fetch(&[(0, 0)]);
    (request.min_bytes, request.max_wait_ms) = (100_000, 60_000);
    let mut waits = Box::pin(rig.call(FETCH, request));
    let recent = &rig.kafka(0).answers.recent;
    // It has read, and waits.
    assert!((&mut waits).now_or_never().is_none());
    assert_eq!(recent.used(), 0);
    let all = recent.take(usize::MAX).await;
    for _ in 0..10 {
        rig.append(&topic, 0, &["a few"]).await;
        assert!((&mut waits).now_or_never().is_none());
        assert!(!all.is_wanted(), "it reads again for a few bytes");
    }
    let many = "x".repeat(100_000);
    rig.append(&topic, 0, &[many.as_str()]).await;
    assert!((&mut waits).now_or_never().is_none());
    assert!(all.is_wanted(), "it reads");
    drop(all);
    let answer = waits.await;
    let records = answer.responses[0].partitions[0].records.as_ref();
    assert!(records.is_some_and(|records| records.len() > 100_000));
}

/// Partitions in memory are read at once, whatever storage does, and those behind it within one time for all of them.
#[tokio::test]
async fn storage_that_stands_still_holds_up_nobody_who_reads_from_memory() {
    let mut config = Config::default();
    config.log.all_tails_bytes = 300_000;
    let rig = Rig::start_as(1, config).await;
    let topic = rig.create("t", 4).await;
    let large = "x".repeat(200_000);
    for partition in [0, 1, 2] {
        for _ in 0..2 {
            rig.append(&topic, partition, &[&large]).await;
        }
    }
    rig.append(&topic, 3, &["new"]).await;
    tokio::time::pause();
    let answers = rig.kafka(0).answers.clone();
    rig.set_bookies(Mode::Held);
    let begun = Instant::now();
    let found = fetched(&rig, &[(0, 0), (1, 0), (2, 0), (3, 0)]).await;
    assert!(found.iter().all(|(code, _)| *code == Code::NONE), "{found:?}");
    assert!(found[3].1 > 0 && found[0].1 == 0, "{found:?}");
    assert!(begun.elapsed() <= Duration::from_millis(600), "{:?}", begun.elapsed());

    let begun = Instant::now();
    let looks = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        (answers.recent.used(), answers.older.used())
    };
    let asked = [(0, 0), (1, 0)];
    let (found, (recent, older)) = futures::join!(fetched(&rig, &asked), looks);
    assert!(recent == 0 && older > 0, "{recent} and {older}");
    assert!(found.iter().all(|(code, _)| *code == Code::NOT_LEADER_OR_FOLLOWER), "{found:?}");
    assert!(begun.elapsed() <= Duration::from_millis(10_100), "{:?} for both", begun.elapsed());

    rig.set_bookies(Mode::Up);
    let mut read = [0; 3];
    while read.contains(&0) {
        let found = fetched(&rig, &[(0, 0), (1, 0), (2, 0), (3, 0)]).await;
        for (read, (code, bytes)) in read.iter_mut().zip(found) {
            assert_eq!(code, Code::NONE);
            *read += bytes;
        }
    }
    assert_eq!(answers.used(), 0);
}

/// What is named twice is described once, by name and by id.
#[tokio::test]
async fn metadata_describes_each_topic_once() {
    let rig = Rig::start(1).await;
    let topic = rig.create("t", 2).await;
    let named = |name: &str| {
        let mut named = MetadataRequestTopic::default();
        named.name = Some(name.into());
        named
    };
    let mut by_id = MetadataRequestTopic::default();
    (by_id.name, by_id.topic_id) = (None, crate::kafka::place::uuid(topic.id));
    for (version, asked, names) in [
        (9, vec![named("t"), named("u"), named("t"), named("u"), named("t")], vec!["t", "u"]),
        (12, vec![by_id.clone(), by_id.clone(), by_id], vec!["t"]),
    ] {
        let mut request = MetadataRequest::default();
        request.topics = Some(asked);
        let answer = rig.call(version, request).await;
        let described = answer.topics.iter().map(|topic| topic.name.as_deref().unwrap_or(""));
        assert_eq!(described.collect::<Vec<_>>(), names);
    }
    let mut none = MetadataRequest::default();
    none.topics = Some(Vec::new());
    assert!(rig.call(9, none).await.topics.is_empty(), "brokers only");
}
