//! `message.timestamp.type=LogAppendTime`: the owner dates batches when they get their offsets.

use geminga_records::{Batch, decode};

use super::retention::alter;
use super::*;
use crate::partition::testing::CREATED_MS;

const DATED: &[(&str, &str)] = &[("message.timestamp.type", "LogAppendTime")];

/// Number `first` of producer 7.
fn number(first: i32) -> Sequence {
    Sequence { producer_id: 7, epoch: 0, first }
}

/// Every record that is committed: its offset, and its time.
async fn times(broker: &TestBroker) -> Vec<(i64, i64)> {
    let read = broker.read(at(0)).await.unwrap();
    let records = read.batches.iter().flat_map(|bytes| {
        // Which checks the checksum, too.
        let batch = Batch::parse(bytes.clone()).unwrap();
        decode(&batch, 1 << 20).unwrap()
    });
    records.map(|record| (record.offset, record.timestamp)).collect()
}

async fn append(broker: &TestBroker, times: &[i64], compression: Compression) -> Appended {
    let batch = batch_at(times, 10, compression);
    broker.appender().await.unwrap().append(batch).await.unwrap().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn batches_are_dated_when_they_are_appended() {
    let rig = Rig::new().await;
    let broker = rig.broker(1).await;
    assert_eq!(append(&broker, &[5], Compression::None).await.log_append_time_ms, -1);
    alter(&rig, &broker, DATED).await;
    let later = CREATED_MS + 1_000;
    rig.cluster.clock.set(later);
    // Times that no other topic would take.
    let appended = append(&broker, &[i64::MAX, 3], Compression::Lz4).await;
    let expected = |offset, ms| Appended { base_offset: Offset(offset), log_append_time_ms: ms };
    assert_eq!(appended, expected(1, later));
    rig.cluster.clock.set(later + 500);
    assert_eq!(append(&broker, &[0, 9], Compression::None).await, expected(3, later + 500));
    let all = [(0, 5), (1, later), (2, later), (3, later + 500), (4, later + 500)];
    assert_eq!(times(&broker).await, all);
    let found = broker.find(OffsetAt::Timestamp(later + 1)).await;
    assert_eq!((found.offset, found.timestamp_ms), (Some(Offset(3)), Some(later + 500)));
    let found = broker.find(OffsetAt::Timestamp(6)).await;
    assert_eq!((found.offset, found.timestamp_ms), (Some(Offset(1)), Some(later)));
    let newest = broker.find(OffsetAt::MaxTimestamp).await;
    assert_eq!((newest.offset, newest.timestamp_ms), (Some(Offset(3)), Some(later + 500)));
    assert_eq!(broker.find(OffsetAt::Timestamp(later + 501)).await.offset, None);

    alter(&rig, &broker, &[]).await;
    assert_eq!(append(&broker, &[later], Compression::None).await, expected(5, -1));
    let dated = batch_at(&[later], 10, Compression::None).with_log_append_time(later);
    let refused = broker.appender().await.unwrap().append(dated).await;
    assert_eq!(reason(refused.map(drop)), Reason::InvalidTimestamp, "only brokers date");
}

/// P2: whoever sends a batch again is told the offset and the time that it got first.
#[tokio::test(start_paused = true)]
async fn a_duplicate_is_answered_with_the_time_of_then() {
    let rig = Rig::new().await;
    let broker = rig.broker(1).await;
    alter(&rig, &broker, DATED).await;
    broker.produce("first").await.unwrap();
    rig.cluster.bookies.set_all(Mode::Held);
    // One that is in the log, and one that comes again while it is on its way.
    let first = broker.submit_from("a", number(0)).await.unwrap();
    tokio::task::yield_now().await;
    rig.cluster.clock.set(CREATED_MS + 77);
    let again = broker.submit_from("a", number(0)).await.unwrap();
    rig.cluster.bookies.set_all(Mode::Up);
    let first = first.await.unwrap();
    assert_eq!(first.base_offset, Offset(1));
    assert!(first.log_append_time_ms >= CREATED_MS);
    assert_eq!(again.await.unwrap(), first);
    rig.cluster.clock.set(CREATED_MS + 5_000);
    assert_eq!(broker.submit_from("a", number(0)).await.unwrap().await.unwrap(), first);
    // The next owner reads it from the log.
    let next = rig.broker(2).await;
    rig.assign(2, 2).await;
    next.sees_term(2).await;
    assert_eq!(next.submit_from("a", number(0)).await.unwrap().await.unwrap(), first);
    assert_eq!(times(&next).await[1], (1, first.log_append_time_ms));
    // What was never dated has no such time, whatever the topic says since.
    alter(&rig, &next, &[]).await;
    let plain = next.submit_from("b", number(1)).await.unwrap().await.unwrap();
    alter(&rig, &next, DATED).await;
    assert_eq!(plain.log_append_time_ms, -1);
    assert_eq!(next.submit_from("b", number(1)).await.unwrap().await.unwrap(), plain);
}
