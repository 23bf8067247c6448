//! Reading from ledgers, across segments, by offset and by time.

use geminga_metastore::Txn;
use geminga_runtime::requests::{self, RequestId};

use super::*;
use crate::partition::testing::Mode;

/// A log of `entries` entries with three offsets each, in many segments, of which little is in memory.
async fn long_log(cluster: &TestCluster, entries: u32) -> Owner {
    let topic = cluster.create_topic("flights", 1).await;
    cluster.assign(topic.id, 0, 1, 1).await;
    let mut parts = cluster.log_parts(1);
    parts.config.tail_bytes = 100;
    parts.config.snapshot_entries = 16;
    let roll = Roll { bytes: 2_000, ..Roll::default() };
    let mut owner = Owner::open_with(&parts, OpenSpec { roll, ..spec(&topic, 1) }).await;
    for _ in 0..entries {
        owner.append(3);
        owner.writer.append(What::Barrier, Vec::new()).unwrap();
        let barrier = owner.writer.next_offset();
        // Barriers are acknowledged in their turn like anything else.
        owner.waiting.insert(owner.waiting.keys().next_back().unwrap() + 1, (barrier, 0));
        while owner.waiting.len() > 30 {
            owner.turn().await;
        }
    }
    owner.all_acked().await;
    owner
}

#[tokio::test(start_paused = true)]
async fn every_offset_is_found() {
    let cluster = TestCluster::new(3);
    let owner = long_log(&cluster, 200).await;
    read_all(&owner.reader).await;
    for offset in (0..600).rev().step_by(7) {
        let read = owner.reader.read(Offset(offset), 1).await.unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].first_offset, Offset(offset / 3 * 3), "the entry that contains it");
    }
}

/// It is read by another task than the one that asks; what is read ahead, nobody asked for.
#[tokio::test(start_paused = true)]
async fn bookies_know_which_request_reads() {
    let cluster = TestCluster::new(3);
    let owner = long_log(&cluster, 200).await;
    assert_eq!(cluster.bookies.read_for().len(), 0);
    let id = RequestId::parse("order-17").unwrap();
    let read = requests::scope(id, owner.reader.read(Offset(0), 1)).await.unwrap();
    assert_eq!(read.len(), 1);
    assert_eq!(cluster.bookies.read_for().into_iter().collect::<Vec<_>>(), ["order-17"]);
}

#[tokio::test(start_paused = true)]
async fn offsets_out_of_range_are_refused() {
    let cluster = TestCluster::new(3);
    let owner = long_log(&cluster, 10).await;
    assert_eq!(owner.reader.read(Offset(30), 10).await, Ok(Vec::new()));
    for asked in [Offset(-1), Offset(31)] {
        let refused = owner.reader.read(asked, 10).await;
        assert!(matches!(refused, Err(ReadError::OutOfRange { .. })), "{refused:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn reading_on_needs_no_search() {
    let cluster = TestCluster::new(3);
    let owner = long_log(&cluster, 200).await;
    let mut next = Offset(0);
    let before = cluster.bookies.reads();
    let mut calls = 0;
    while next < Offset(590) {
        let read = owner.reader.read(next, 200).await.unwrap();
        next = read.last().unwrap().end();
        calls += 1;
    }
    let reads = cluster.bookies.reads() - before;
    assert!(reads < 3 * calls, "{reads} reads for {calls} calls");
}

#[tokio::test(start_paused = true)]
async fn any_replica_will_do() {
    let cluster = TestCluster::new(3);
    let owner = long_log(&cluster, 50).await;
    cluster.bookies.set(1, Mode::Stopped);
    cluster.bookies.set(3, Mode::Stopped);
    read_all(&owner.reader).await;
    cluster.bookies.set(2, Mode::Stopped);
    let read = owner.reader.read(Offset(0), 10).await;
    assert!(matches!(read, Err(ReadError::Unavailable(_))), "{read:?}");
}

#[tokio::test(start_paused = true)]
async fn a_time_is_found_where_its_first_record_is() {
    let cluster = TestCluster::new(3);
    let owner = long_log(&cluster, 200).await;
    // An entry at offset n has the timestamp 10 n.
    for (time, offset) in [(-5, 0), (0, 0), (1, 3), (30, 3), (31, 6), (2_999, 300), (5_970, 597)] {
        let found = owner.reader.by_time(time).await.unwrap();
        assert_eq!(found.map(|e| e.first_offset), Some(Offset(offset)), "at {time}");
    }
    assert_eq!(owner.reader.by_time(5_971).await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn the_high_watermark_can_be_followed() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    let mut owner = Owner::open(&cluster, &topic, 1, 1).await;
    let mut watch = owner.reader.watch();
    owner.append(4);
    owner.all_acked().await;
    watch.changed().await.unwrap();
    assert_eq!(*watch.borrow(), Offset(4));
}

/// RD3: what members say that a repair has replaced is no data loss.
#[tokio::test(start_paused = true)]
async fn data_loss_is_judged_by_present_metadata() {
    let cluster = TestCluster::new(6);
    let topic = cluster.create_topic("flights", 1).await;
    for number in 4..=6 {
        cluster.bookies.register(number, false);
    }
    for term in 1..=2 {
        let mut owner = Owner::open(&cluster, &topic, term, term).await;
        owner.append(1);
        owner.all_acked().await;
    }
    let owner = Owner::open(&cluster, &topic, 3, 3).await;
    let ledgers = cluster.log_parts(1).ledgers;
    let ledger = cluster.stored_segments(topic.id, 0).await[0].ledger;
    let (good, _) = ledgers.metadata(ledger).await.unwrap().unwrap();
    // Members that never had anything.
    let mut bad = good.clone();
    for (number, member) in (4..).zip(&mut bad.fragments[0].ensemble) {
        member.bookie = format!("bookie-{number}").parse().unwrap();
    }
    let key = geminga_metastore::keys::ledger(ledger);
    cluster.store.txn(Txn::new().put(&key, bad.encode())).await.unwrap();
    let lost = owner.reader.read(Offset(0), 1).await;
    assert!(matches!(lost, Err(ReadError::Damaged(_))), "{lost:?}");
    cluster.store.txn(Txn::new().put(&key, good.encode())).await.unwrap();
    assert_eq!(read_all(&owner.reader).await.len(), 2);
}

/// Consumers that keep up wait for nobody: not for room, not for bookies.
#[tokio::test(start_paused = true)]
async fn recent_entries_are_read_while_old_ones_wait() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    cluster.assign(topic.id, 0, 1, 1).await;
    let mut parts = cluster.log_parts(1);
    parts.config.tail_bytes = 100;
    // Room for a single read.
    parts.reads =
        Reads::new(0, u64::MAX, Arc::new(cluster.bookies.clone()), cluster.tasks.child("reads"));
    let mut owner = Owner::open_with(&parts, spec(&topic, 1)).await;
    for _ in 0..50 {
        owner.append(3);
    }
    owner.all_acked().await;
    owner.reader.read(Offset(0), 1).await.unwrap();
    cluster.bookies.set_all(Mode::Held);
    let old = (0..10).map(|n| Box::pin(owner.reader.read(Offset(3 * n), 1))).collect::<Vec<_>>();
    let mut old = futures::future::join_all(old);
    assert!(futures::poll!(&mut old).is_pending());
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(parts.reads.is_short(), "the others wait for the one that has all the room");
    let recent = owner.reader.read(Offset(147), 1_000);
    let recent = futures::FutureExt::now_or_never(recent).expect("it waits for nothing").unwrap();
    assert_eq!(recent[0].first_offset, Offset(147));
    cluster.bookies.set_all(Mode::Up);
    for (n, read) in old.await.into_iter().enumerate() {
        assert_eq!(read.unwrap()[0].first_offset, Offset(3 * n as i64));
    }
}

/// By that readers of old entries know that they have to give way.
#[tokio::test(start_paused = true)]
async fn what_is_appended_and_committed_is_seen_where_old_entries_are_read() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    cluster.assign(topic.id, 0, 1, 1).await;
    let parts = cluster.log_parts(1);
    let mut owner = Owner::open_with(&parts, spec(&topic, 1)).await;
    owner.append(3);
    owner.all_acked().await;
    let (commits, waiting) = parts.reads.seen();
    assert!(commits > 0);
    assert_eq!(waiting, 0);
    cluster.bookies.set_all(Mode::Held);
    owner.append(3);
    assert_eq!(parts.reads.seen(), (commits, 1));
    drop(owner);
    assert_eq!(parts.reads.seen(), (commits, 0));
}

/// Whoever gives up waiting and asks again finds its read where it was: slow storage is asked once.
#[tokio::test(start_paused = true)]
async fn who_asks_again_joins_what_is_on_its_way() {
    let cluster = TestCluster::new(3);
    let owner = long_log(&cluster, 200).await;
    owner.reader.read(Offset(0), 1).await.unwrap();
    cluster.bookies.set_all(Mode::Held);
    let before = cluster.bookies.reads();
    let asked =
        |wait| tokio::time::timeout(Duration::from_millis(wait), owner.reader.read(Offset(3), 1));
    for _ in 0..10 {
        assert!(asked(100).await.is_err());
    }
    cluster.bookies.set_all(Mode::Up);
    let read = asked(60_000).await.unwrap().unwrap();
    assert_eq!(read[0].first_offset, Offset(3));
    assert!(cluster.bookies.reads() - before <= 3, "{}", cluster.bookies.reads() - before);
}

/// What readers that are behind are given never stands where recent entries are kept.
#[tokio::test(start_paused = true)]
async fn old_reads_put_nothing_into_memory_and_push_nothing_out() {
    let cluster = TestCluster::new(3);
    let owner = long_log(&cluster, 200).await;
    let recent = (0..600).find(|n| owner.reader.stored_segments().is_recent(Offset(*n))).unwrap();
    assert!(recent > 500, "{recent}");
    read_all(&owner.reader).await;
    let still = (0..600).find(|n| owner.reader.stored_segments().is_recent(Offset(*n)));
    assert_eq!(still, Some(recent));
    let before = cluster.bookies.reads();
    for offset in recent..600 {
        owner.reader.read(Offset(offset), 1).await.unwrap();
    }
    assert_eq!(cluster.bookies.reads(), before, "the tail needs no bookie");
    owner.reader.read(Offset(recent - 1), 1).await.unwrap();
    assert!(cluster.bookies.reads() > before, "what is before it does");
}

/// Who reads on gets what did not fit before, and what follows, without another question at the time.
#[tokio::test(start_paused = true)]
async fn whoever_reads_on_finds_the_next_entries_there() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    cluster.assign(topic.id, 0, 1, 1).await;
    let mut parts = cluster.log_parts(1);
    parts.config.tail_bytes = 100;
    let mut owner = Owner::open_with(&parts, spec(&topic, 1)).await;
    let large = Bytes::from(vec![7; 100_000]);
    for _ in 0..40 {
        let what = What::Batches { offset_count: 1, max_timestamp: 0 };
        let appended = owner.writer.append(what, vec![large.clone()]).unwrap();
        owner.waiting.insert(appended.number, (appended.first_offset, 1));
    }
    owner.all_acked().await;
    let mut next = Offset(0);
    let mut on = async || {
        let read = owner.reader.read(next, 150_000).await.unwrap();
        assert_eq!((read.len(), read[0].first_offset), (1, next), "in order, once");
        next = read[0].end();
    };
    on().await;
    on().await;
    // What follows is on its way, and once it is here it needs no bookie.
    tokio::time::sleep(Duration::from_millis(1)).await;
    cluster.bookies.set_all(Mode::Held);
    on().await;
    on().await;
    cluster.bookies.set_all(Mode::Up);
    let before = cluster.bookies.reads();
    for _ in 4..39 {
        on().await;
    }
    let asked = cluster.bookies.reads() - before;
    assert!(asked < 35 * 3 / 5, "{asked} questions for 35 reads");
    assert!(parts.reads.bytes() <= 2 * 300_000, "{:?}: one piece, and one ahead", parts.reads);
    drop(owner);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(parts.reads.bytes(), 0);
}
