//! Retention as topics say, while they are written and read, and alterations that take effect on open partitions.

use geminga_metastore::record;

use super::*;
use crate::partition::manager::Config;

const NOW: i64 = 1_700_000_000_000;
const DAY: i64 = 86_400_000;

/// Changes the topic's configs, as an alteration does.
pub(super) async fn alter(rig: &Rig, broker: &TestBroker, configs: &[(&str, &str)]) {
    let key = keys::topic("default", "flights");
    let found = rig.cluster.store.get(&key).await.unwrap().unwrap();
    let mut topic = record::Topic::decode(&found.value).unwrap();
    topic.configs = configs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let put = rig.cluster.store.put_if(&key, Some(found.version), topic.encode()).await.unwrap();
    let version = put.expect("nobody else changes it");
    broker.sees(|b| b.topology.topic("flights").is_some_and(|t| t.version >= Some(version))).await;
    let handle = broker.partitions.open_now((broker.topic.id, P0));
    let Some(handle) = handle else { return };
    let mut followed = handle.topic.clone();
    let followed = followed.wait_for(|topic| topic.version >= Some(version));
    assert!(tokio::time::timeout(SOON, followed).await.is_ok(), "it follows its topic");
}

fn config() -> Config {
    Config { retention_interval: Duration::from_secs(1), ..Config::default() }
}

async fn start(rig: &Rig) -> TestBroker {
    let store: Arc<dyn MetaStore> = Arc::new(rig.cluster.store.clone());
    rig.broker_on(1, store, config()).await
}

/// Batches of about 50 KiB, two to a segment of the smallest size, each a day younger than the one before.
async fn days(broker: &TestBroker, days: std::ops::Range<i64>) {
    let appender = broker.appender().await.unwrap();
    for day in days {
        let batch = batch_at(&[NOW + day * DAY], 50_000, Compression::None);
        appender.append(batch).await.unwrap().await.unwrap();
    }
}

async fn wait_start(broker: &TestBroker, start: i64) {
    let reached = async {
        while broker.find(OffsetAt::Earliest).await.offset != Some(Offset(start)) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let reached = tokio::time::timeout(Duration::from_secs(3_600 * 3), reached).await;
    let now = broker.find(OffsetAt::Earliest).await;
    assert!(reached.is_ok(), "it starts at {now:?}, not at {start}");
}

/// Waits until `left` segments are stored.
async fn wait_segments(rig: &Rig, left: usize) {
    let reached = async {
        while rig.cluster.segments(rig.topic.id, 0).await != left {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let reached = tokio::time::timeout(Duration::from_secs(3_600 * 3), reached).await;
    assert!(reached.is_ok(), "{} segments", rig.cluster.segments(rig.topic.id, 0).await);
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_set_later_rolls_and_gives_up_what_is_old() {
    let rig = Rig::new().await;
    let broker = start(&rig).await;
    days(&broker, -10..-6).await;
    assert_eq!(rig.cluster.segments(rig.topic.id, 0).await, 1, "a segment holds 1 GiB");
    // The open ledger is too large now, and gives way with the next record.
    alter(&rig, &broker, &[("segment.bytes", "65536")]).await;
    days(&broker, -6..0).await;
    let segments = rig.cluster.segments(rig.topic.id, 0).await;
    assert!(segments >= 4, "{segments}");
    let ms = (3 * DAY + DAY / 2).to_string();
    alter(&rig, &broker, &[("segment.bytes", "65536"), ("retention.ms", &ms)]).await;
    // Records of the last three days, and those that share a segment with one.
    wait_start(&broker, 6).await;
    wait_segments(&rig, 3).await;
    assert_eq!(reason(broker.read(at(5)).await), Reason::OffsetOutOfRange);
    assert_eq!(broker.read(at(6)).await.unwrap().log_start, Offset(6));
    // The last ledger is closed although it could take more, and then a new one takes the state over.
    alter(&rig, &broker, &[("retention.ms", "0")]).await;
    let altered = tokio::time::Instant::now();
    wait_start(&broker, 10).await;
    assert!(altered.elapsed() < Duration::from_secs(10), "{:?}", altered.elapsed());
    wait_segments(&rig, 1).await;
    assert_eq!(broker.produce("next").await, Ok(10));
}

#[tokio::test(start_paused = true)]
async fn by_size_the_oldest_segments_go() {
    let rig = Rig::new().await;
    let broker = start(&rig).await;
    let limits = [("segment.bytes", "65536"), ("retention.bytes", "150000")];
    alter(&rig, &broker, &limits).await;
    days(&broker, -20..0).await;
    let first = async {
        let kept = |start: i64| (20 - start) * 50_000;
        while broker.find(OffsetAt::Earliest).await.offset.unwrap().0 == 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let start = broker.find(OffsetAt::Earliest).await.offset.unwrap().0;
        assert!((150_000..300_000).contains(&kept(start)), "{start}");
        start
    };
    let start = tokio::time::timeout(SOON, first).await.expect("in time");
    // Nothing more goes while nothing more comes.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(broker.find(OffsetAt::Earliest).await.offset, Some(Offset(start)));
}

/// A partition that nobody uses is opened for it, and only then.
#[tokio::test(start_paused = true)]
async fn a_partition_that_is_not_open_is_looked_after() {
    let rig = Rig::new().await;
    let first = rig.broker(1).await;
    alter(&rig, &first, &[("segment.bytes", "65536")]).await;
    days(&first, -10..0).await;
    first.partitions.shutdown(SOON).await;
    rig.assign(2, 2).await;
    let store: Arc<dyn MetaStore> = Arc::new(rig.cluster.store.clone());
    let second = rig.broker_on(2, store, config()).await;
    second.sees_term(2).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!second.partitions.is_open(rig.topic.id, P0), "there is nothing to give up");
    alter(&rig, &second, &[("retention.ms", &(2 * DAY).to_string())]).await;
    wait_segments(&rig, 2).await;
    assert!(second.partitions.is_open(rig.topic.id, P0));
}

/// Where the store does not say how segments ended: noting that is best effort.
async fn forget_ends(rig: &Rig) {
    let prefix = keys::segments_of(rig.topic.id, P0);
    for item in rig.cluster.store.range(&prefix, None, 100).await.unwrap().items {
        let segment = record::Segment::decode(&item.value.value).unwrap();
        let segment =
            record::Segment { end_offset: None, max_timestamp: None, bytes: None, ..segment };
        let version = Some(item.value.version);
        rig.cluster.store.put_if(&item.key, version, segment.encode()).await.unwrap().unwrap();
    }
}

/// Its ledgers say enough to know whether it is worth opening.
#[tokio::test(start_paused = true)]
async fn a_partition_whose_ends_are_not_noted_is_looked_after() {
    for limits in [("retention.ms", DAY.to_string()), ("retention.bytes", "1000".to_owned())] {
        let rig = Rig::new().await;
        let first = rig.broker(1).await;
        days(&first, -10..-5).await;
        // Cut off: its ledger stays open. The next one has it closed and writes on; and is cut off as well.
        first.view.cancel();
        rig.assign(2, 2).await;
        let second = rig.broker(2).await;
        second.sees_term(2).await;
        days(&second, 0..1).await;
        rig.cluster.clock.set(NOW + 2 * DAY);
        days(&second, 2..3).await;
        second.view.cancel();
        forget_ends(&rig).await;
        rig.assign(3, 3).await;
        let store: Arc<dyn MetaStore> = Arc::new(rig.cluster.store.clone());
        let third = rig.broker_on(3, store, config()).await;
        third.sees_term(3).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!third.partitions.is_open(rig.topic.id, P0), "there is nothing to give up");
        alter(&rig, &third, &[(limits.0, &limits.1)]).await;
        wait_segments(&rig, 1).await;
        assert_eq!(third.find(OffsetAt::Earliest).await.offset, Some(Offset(5)));
        rig.cluster.tasks.cancel();
    }
}

async fn wait_stored_start(rig: &Rig, start: i64) {
    let key = keys::log_start(rig.topic.id, P0);
    let reached = async {
        loop {
            let found = rig.cluster.store.get(&key).await.unwrap();
            let stored = found.map(|found| record::LogStart::decode(&found.value).unwrap().offset);
            if stored == Some(Offset(start)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let reached = tokio::time::timeout(Duration::from_secs(3_600 * 3), reached).await;
    assert!(reached.is_ok(), "nothing is given up");
}

/// What its owner left in an open ledger goes as well, when that is older than a segment gets.
#[tokio::test(start_paused = true)]
async fn what_a_dead_owner_left_in_an_open_ledger_goes_though_nobody_opens_it() {
    let rig = Rig::new().await;
    let first = rig.broker(1).await;
    let day = DAY.to_string();
    alter(&rig, &first, &[("retention.ms", &day), ("segment.ms", &day)]).await;
    days(&first, 0..1).await;
    // It dies before it notes an end.
    first.partitions.shutdown(SOON).await;
    forget_ends(&rig).await;
    rig.assign(2, 2).await;
    let store: Arc<dyn MetaStore> = Arc::new(rig.cluster.store.clone());
    let second = rig.broker_on(2, store, config()).await;
    second.sees_term(2).await;
    // Its last record may be nearly as young as a segment may be old.
    rig.cluster.clock.set(NOW + 2 * DAY - 1);
    tokio::time::sleep(Duration::from_secs(2 * 3_600)).await;
    assert!(!second.partitions.is_open(rig.topic.id, P0), "it may hold what is wanted");
    rig.cluster.clock.set(NOW + 2 * DAY + 1);
    wait_stored_start(&rig, 1).await;
}

/// What was given up goes although nobody opens the partition again, and the topic keeps the rest for ever.
#[tokio::test(start_paused = true)]
async fn what_is_left_of_what_was_given_up_goes() {
    let rig = Rig::new().await;
    let first = rig.broker(1).await;
    alter(&rig, &first, &[("segment.bytes", "65536")]).await;
    days(&first, -10..0).await;
    let segments = rig.cluster.segments(rig.topic.id, 0).await;
    let handle = first.partitions.open_now((rig.topic.id, P0)).unwrap();
    handle.head.raise(Offset(8)).await.unwrap();
    // It ends before it removes anything.
    first.partitions.shutdown(SOON).await;
    assert_eq!(rig.cluster.segments(rig.topic.id, 0).await, segments);
    rig.assign(2, 2).await;
    let store: Arc<dyn MetaStore> = Arc::new(rig.cluster.store.clone());
    let second = rig.broker_on(2, store, config()).await;
    second.sees_term(2).await;
    wait_segments(&rig, segments - 4).await;
}

/// A new cluster, where nothing has a date yet, has no reason to doubt its clock.
#[tokio::test(start_paused = true)]
async fn where_nothing_is_dated_nothing_speaks_against_the_clock() {
    let rig = Rig::new().await;
    let broker = rig.broker(1).await;
    assert_eq!(broker.partitions.known_ms(), Some(NOW));
    rig.cluster.clock.set(NOW - DAY);
    assert_eq!(broker.partitions.known_ms(), None, "noted by a clock that was ahead");
    rig.cluster.clock.set(NOW);
    let gone = Txn::new().delete(keys::topic("default", "flights"));
    rig.cluster.store.txn(gone).await.unwrap();
    broker.sees(|broker| broker.topology.topic("flights").is_none()).await;
    assert_eq!(broker.partitions.known_ms(), None);
}

/// From the start: nothing is given up by age until the clock has had an hour to be set right.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_years_ahead_at_the_start_gives_nothing_up() {
    let rig = Rig::new().await;
    rig.cluster.clock.set(NOW + 3 * 365 * DAY);
    let broker = start(&rig).await;
    alter(&rig, &broker, &[("segment.bytes", "65536"), ("retention.ms", &DAY.to_string())]).await;
    days(&broker, 0..4).await;
    tokio::time::sleep(Duration::from_secs(3_000)).await;
    assert_eq!(broker.find(OffsetAt::Earliest).await.offset, Some(Offset(0)));
    rig.cluster.clock.set(NOW + 4 * DAY);
    tokio::time::sleep(Duration::from_secs(3_000)).await;
    assert_eq!(broker.find(OffsetAt::Earliest).await.offset, Some(Offset(0)));
    wait_start(&broker, 2).await;
}

#[tokio::test(start_paused = true)]
async fn deleted_records_are_gone_for_every_reader() {
    let rig = Rig::new().await;
    let broker = rig.broker(1).await;
    for value in ["a", "b", "c", "d"] {
        broker.produce(value).await.unwrap();
    }
    let delete = |before: Option<i64>| {
        let topic = Arc::clone(&broker.topic);
        broker.partitions.delete_records(topic, P0, before.map(Offset))
    };
    assert_eq!(delete(Some(2)).await, Ok(Offset(2)));
    assert_eq!(delete(Some(1)).await, Ok(Offset(2)));
    assert_eq!(reason(delete(Some(5)).await), Reason::OffsetOutOfRange);
    assert_eq!(reason(broker.read(at(1)).await), Reason::OffsetOutOfRange);
    assert_eq!(broker.find(OffsetAt::Earliest).await.offset, Some(Offset(2)));
    assert_eq!(broker.find(OffsetAt::Timestamp(0)).await.offset, Some(Offset(2)));
    rig.assign(2, 2).await;
    let second = rig.broker(2).await;
    second.sees_term(2).await;
    assert_eq!(second.find(OffsetAt::Earliest).await.offset, Some(Offset(2)));
    let topic = Arc::clone(&second.topic);
    assert_eq!(second.partitions.delete_records(topic, P0, None).await, Ok(Offset(4)));
    assert_eq!(second.find(OffsetAt::MaxTimestamp).await.offset, None);
    assert_eq!(second.produce("e").await, Ok(4));
}

#[tokio::test(start_paused = true)]
async fn what_a_topic_takes_can_be_altered_while_it_is_open() {
    let rig = Rig::new().await;
    let broker = rig.broker(1).await;
    let appender = broker.appender().await.unwrap();
    let large = || batch_at(&[NOW], 2_000, Compression::None);
    appender.append(large()).await.unwrap().await.unwrap();
    alter(&rig, &broker, &[("max.message.bytes", "1000")]).await;
    assert_eq!(reason(appender.append(large()).await), Reason::MessageTooLarge);
    alter(&rig, &broker, &[]).await;
    appender.append(large()).await.unwrap().await.unwrap();
    let future = batch_at(&[NOW + DAY], 10, Compression::None);
    assert_eq!(reason(appender.append(future.clone()).await), Reason::InvalidTimestamp);
    let later = DAY.to_string();
    alter(&rig, &broker, &[("message.timestamp.after.max.ms", &later)]).await;
    appender.append(future).await.unwrap().await.unwrap();
}
