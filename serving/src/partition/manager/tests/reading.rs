//! Reading open partitions.

use super::*;
use crate::ownership::load;

/// Three batches of one record each that were acknowledged as one entry or several.
async fn three() -> (Rig, TestBroker) {
    let rig = Rig::new().await;
    let broker = rig.broker(1).await;
    let appender = broker.appender().await.unwrap();
    let mut pending = Vec::new();
    for value in ["zero", "one", "two"] {
        pending.push(appender.append(batch_of(value)).await.unwrap());
    }
    for pending in pending {
        pending.await.unwrap();
    }
    (rig, broker)
}

#[tokio::test(start_paused = true)]
async fn a_read_begins_anywhere_and_ends_at_the_high_watermark() {
    let (_rig, broker) = three().await;
    let read = broker.read(at(1)).await.unwrap();
    assert_eq!(values(&read.batches), [(1, "one".to_owned()), (2, "two".to_owned())]);
    let ends = (read.next_offset, read.high_watermark, read.log_start);
    assert_eq!(ends, (Offset(3), Offset(3), Offset(0)));
    let end = broker.read(at(3)).await.unwrap();
    assert!(end.batches.is_empty());
    assert_eq!(end.next_offset, Offset(3));
    for beyond in [-1, 4] {
        assert_eq!(reason(broker.read(at(beyond)).await), Reason::OffsetOutOfRange);
    }
}

#[tokio::test(start_paused = true)]
async fn most_bytes_bound_a_read_but_for_its_first_batch() {
    let (_rig, broker) = three().await;
    let read = broker.read(ReadSpec { max_bytes: 1, ..at(0) }).await.unwrap();
    assert_eq!(values(&read.batches), [(0, "zero".to_owned())]);
    assert_eq!(read.next_offset, Offset(1));
}

/// S9: a long poll ends as soon as something is committed, not at its deadline.
#[tokio::test(start_paused = true)]
async fn a_long_poll_wakes_for_new_records() {
    let (_rig, broker) = three().await;
    let begun = Instant::now();
    let poll = broker.read(ReadSpec { max_wait: SOON, ..at(3) });
    let produce = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        broker.produce("three").await.unwrap()
    };
    let (read, offset) = tokio::join!(poll, produce);
    assert_eq!(values(&read.unwrap().batches), [(offset, "three".to_owned())]);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_waits_for_its_fewest_bytes_or_its_deadline() {
    let (_rig, broker) = three().await;
    let begun = Instant::now();
    let poll = ReadSpec { min_bytes: 10_000, max_wait: SOON, ..at(2) };
    let produce = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        broker.produce("three").await.unwrap();
    };
    let (read, ()) = tokio::join!(broker.read(poll), produce);
    assert_eq!(values(&read.unwrap().batches).len(), 2, "all that came until the deadline");
    assert!(begun.elapsed() >= SOON);
    let few = batch_of("few").len();
    let begun = Instant::now();
    let poll = ReadSpec { min_bytes: 2 * few, max_wait: SOON, ..at(4) };
    let produce = async {
        broker.produce("few").await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        broker.produce("few").await.unwrap();
    };
    let (read, ()) = tokio::join!(broker.read(poll), produce);
    assert_eq!(read.unwrap().next_offset, Offset(6));
    assert!(begun.elapsed() < SOON);
}

/// S12, P1: what is not acknowledged is not visible.
#[tokio::test(start_paused = true)]
async fn only_committed_records_are_read() {
    let (rig, broker) = three().await;
    rig.cluster.bookies.set_all(Mode::Held);
    let pending = broker.submit("three").await.unwrap();
    let read = broker.read(ReadSpec { max_wait: Duration::from_secs(1), ..at(3) }).await.unwrap();
    assert!(read.batches.is_empty());
    assert_eq!(read.high_watermark, Offset(3));
    assert_eq!(broker.find(OffsetAt::Latest).await.offset, Some(Offset(3)));
    rig.cluster.bookies.set_all(Mode::Up);
    assert_eq!(pending.await.unwrap().base_offset, Offset(3));
    assert_eq!(broker.all().await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn offsets_are_found_by_time() {
    let rig = Rig::new().await;
    let broker = rig.broker(1).await;
    let appender = broker.appender().await.unwrap();
    for times in [[100, 200], [150, 300], [400, 400]] {
        let batch = batch_at(&times, 10, Compression::Lz4);
        appender.append(batch).await.unwrap().await.unwrap();
    }
    let ends = [OffsetAt::Earliest, OffsetAt::Latest].map(|at| broker.find(at));
    let ends = futures::future::join_all(ends).await;
    assert_eq!(
        ends.iter().map(|e| e.offset).collect::<Vec<_>>(),
        [Some(Offset(0)), Some(Offset(6))]
    );
    for (asked, offset, timestamp) in
        [(0, 0, 100), (150, 1, 200), (201, 3, 300), (300, 3, 300), (301, 4, 400)]
    {
        let found = broker.find(OffsetAt::Timestamp(asked)).await;
        let expected = FoundOffset {
            offset: Some(Offset(offset)),
            timestamp_ms: Some(timestamp),
            term: Term(1),
            epoch: Term(1),
        };
        assert_eq!(found, expected, "{asked}");
    }
    let none = broker.find(OffsetAt::Timestamp(401)).await;
    assert_eq!((none.offset, none.timestamp_ms), (None, None));
    let open = broker.partitions.open_offsets(rig.topic.id, P0).unwrap();
    assert_eq!((open.log_start, open.high_watermark), (Offset(0), Offset(6)));
}

/// Bytes in and out are told to the coordinator, by partition.
#[tokio::test(start_paused = true)]
async fn what_is_appended_and_what_is_read_are_told_as_load() {
    const WINDOW_SECONDS: u64 = 10;
    let rig = Rig::new().await;
    let broker = rig.broker(1).await;
    let tasks = rig.cluster.tasks.child("load");
    load::start(Arc::new(broker.partitions.clone()), broker.registration.clone(), &tasks);
    let value = "x".repeat(512 * 1024);
    let bytes = batch_of(&value).len() as u64;
    let key = (rig.topic.id, P0);
    broker.produce(&value).await.unwrap();
    assert_eq!(broker.partitions.carried(), [(key, bytes)]);
    assert_eq!(broker.read(at(0)).await.unwrap().batches.len(), 1);
    assert_eq!(broker.partitions.carried(), [(key, 2 * bytes)]);
    let told = [(key.0, key.1, 2 * bytes / WINDOW_SECONDS)];
    broker
        .sees(|broker| {
            let me = broker.topology.broker(broker.registration.id());
            me.and_then(|me| me.load.clone()).is_some_and(|load| load.busiest == told)
        })
        .await;
}
