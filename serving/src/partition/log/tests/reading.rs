//! Reading from ledgers, across segments, by offset and by time.

use geminga_metastore::Txn;

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
