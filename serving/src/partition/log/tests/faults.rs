//! Bookies and metadata that fail under an owner.

use super::*;
use crate::partition::testing::{Fault, FaultyStore, Mode};
use geminga_proto::payload::Payload;
use geminga_runtime::{Random, SeededRandom};

#[tokio::test(start_paused = true)]
async fn one_bookie_less_stops_nothing() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    let mut owner = Owner::open(&cluster, &topic, 1, 1).await;
    owner.append(1);
    owner.all_acked().await;
    cluster.bookies.set(2, Mode::Stopped);
    owner.append(1);
    owner.all_acked().await;
    cluster.bookies.register(2, false);
    owner.pass(Duration::from_secs(60)).await;
    let segments = cluster.segments(topic.id, 0).await;
    cluster.bookies.set(2, Mode::Up);
    cluster.bookies.register(2, true);
    owner.append(1);
    owner.pass(Duration::from_secs(60)).await;
    assert_eq!(cluster.segments(topic.id, 0).await, segments + 1, "rolled onto all three");
    assert!(owner.waiting.is_empty());
    let mut next = Owner::open(&cluster, &topic, 2, 2).await;
    next.append(1);
    next.all_acked().await;
    assert_eq!(read_all(&next.reader).await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_log_starts_with_the_bookies_that_are_there() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    cluster.bookies.set(1, Mode::Stopped);
    cluster.bookies.register(1, false);
    let mut owner = Owner::open(&cluster, &topic, 1, 1).await;
    owner.append(1);
    owner.all_acked().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_quorum_waits_and_comes_back() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    let mut owner = Owner::open(&cluster, &topic, 1, 1).await;
    owner.append(1);
    owner.all_acked().await;
    for number in [1, 2] {
        cluster.bookies.set(number, Mode::Stopped);
        cluster.bookies.register(number, false);
    }
    owner.append(1);
    owner.append(2);
    owner.pass(Duration::from_secs(30)).await;
    assert_eq!(owner.acked, 1, "two copies are not there");
    assert!(!owner.writer.is_writable());
    assert_eq!(owner.lost, None);
    assert_eq!(cluster.segments(topic.id, 0).await, 1, "the ledger is kept");
    cluster.bookies.set(1, Mode::Up);
    cluster.bookies.register(1, true);
    owner.all_acked().await;
    assert!(owner.writer.is_writable());
    assert_eq!(read_all(&owner.reader).await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_lost_quorum_moves_to_other_bookies() {
    let cluster = TestCluster::new(6);
    let topic = cluster.create_topic("flights", 1).await;
    for number in 4..=6 {
        cluster.bookies.register(number, false);
    }
    let mut owner = Owner::open(&cluster, &topic, 1, 1).await;
    owner.append(1);
    owner.all_acked().await;
    for number in 1..=3 {
        cluster.bookies.set(number, Mode::Held);
        cluster.bookies.register(number, false);
        cluster.bookies.register(number + 3, true);
    }
    for _ in 0..5 {
        owner.append(1);
    }
    owner.all_acked().await;
    assert_eq!(cluster.segments(topic.id, 0).await, 2);
    // What the first bookies were still holding goes nowhere: their ledger is closed.
    cluster.bookies.set_all(Mode::Up);
    let next = Owner::open(&cluster, &topic, 2, 2).await;
    assert_eq!(next.before, 6);
    assert_eq!(read_all(&next.reader).await.len(), 6);
}

/// Entries that are durable but whose answers are lost are acknowledged from the closed ledger and not written twice (W9).
#[tokio::test(start_paused = true)]
async fn lost_answers_make_no_duplicates() {
    let cluster = TestCluster::new(6);
    let topic = cluster.create_topic("flights", 1).await;
    for number in 4..=6 {
        cluster.bookies.register(number, false);
    }
    let mut owner = Owner::open(&cluster, &topic, 1, 1).await;
    owner.append(1);
    owner.all_acked().await;
    for number in 1..=3 {
        cluster.bookies.set(number, Mode::Mute);
    }
    for _ in 0..5 {
        owner.append(1);
    }
    owner.pass(Duration::from_secs(1)).await;
    assert_eq!(owner.acked, 1);
    for number in 4..=6 {
        cluster.bookies.register(number, true);
    }
    owner.pass(Duration::from_secs(20)).await;
    cluster.bookies.set_all(Mode::Up);
    owner.all_acked().await;
    let next = Owner::open(&cluster, &topic, 2, 2).await;
    assert_eq!(read_all(&next.reader).await.len(), 6);
}

/// The same when somebody else closes the ledger, with entries that its writer never saw acknowledged (W9, H21).
/// Nothing is sent to the next ledger before the old one is closed, so nothing can be acknowledged in it either.
#[test]
fn scenario_63_the_rest_of_a_closed_ledger_is_written_again_and_no_more() {
    holds_only_with(Mutation::SkipSettle, async |mutations| {
        let cluster = TestCluster::new(3);
        let topic = cluster.create_topic("flights", 1).await;
        let mut owner = Owner::without(mutations, &cluster, &topic, 1, 1).await;
        owner.append(1);
        owner.all_acked().await;
        cluster.bookies.set_all(Mode::Mute);
        for _ in 0..5 {
            owner.append(1);
        }
        owner.pass(Duration::from_secs(1)).await;
        // Two more reach the ledger's writer, and no bookie.
        cluster.bookies.set_all(Mode::Stopped);
        owner.append(1);
        owner.append(1);
        owner.pass(Duration::from_secs(1)).await;
        assert_eq!((owner.acked, owner.waiting.len()), (1, 7));
        cluster.bookies.set_all(Mode::Up);
        let ledger = cluster.stored_segments(topic.id, 0).await[0].ledger;
        let closed = cluster.log_parts(7).ledgers.recover(ledger).await.unwrap();
        assert_eq!(
            closed.last_entry.unwrap().0,
            2 + 5,
            "a snapshot of two parts, then six appends"
        );
        owner.all_acked().await;
        let next = Owner::open(&cluster, &topic, 2, 2).await;
        assert_eq!(read_all(&next.reader).await.len(), 8);
        let segments = cluster.stored_segments(topic.id, 0).await;
        let bases: Vec<i64> = segments.iter().map(|s| s.base_offset.0).collect();
        assert_eq!(bases, [0, 6], "only two were written again");
    });
}

/// Bytes that changed between the check of a batch and its entry are taken by no bookie. The log says so instead of carrying
/// them from ledger to ledger for ever; what was acknowledged before is there, and the next opening goes on.
#[tokio::test(start_paused = true)]
async fn bytes_that_changed_in_memory_end_the_opening() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    let mut owner = Owner::open(&cluster, &topic, 1, 1).await;
    owner.append(1);
    owner.all_acked().await;
    let mut changed = Payload::default();
    changed.push_known(Bytes::from_static(b"batch"), 1);
    owner.writer.append(What::Batches { offset_count: 1, max_timestamp: 1 }, changed).unwrap();
    owner.pass(Duration::from_secs(120)).await;
    assert!(matches!(owner.lost, Some(Lost::Failed(_))), "{:?}", owner.lost);
    assert_eq!(owner.acked, 1);
    let segments = cluster.segments(topic.id, 0).await;
    assert!(segments <= 2, "{segments} ledgers for one append");
    let mut next = Owner::open(&cluster, &topic, 2, 2).await;
    next.append(1);
    next.all_acked().await;
    assert_eq!(read_all(&next.reader).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn without_metadata_an_open_ledger_goes_on() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    cluster.assign(topic.id, 0, 1, 1).await;
    let store = FaultyStore::new(cluster.store.clone());
    let parts = cluster.log_parts_on(1, Arc::new(store.clone()));
    let roll = Roll { bytes: 500, ..Roll::default() };
    let mut owner = Owner::open_with(&parts, OpenSpec { roll, ..spec(&topic, 1) }).await;
    owner.append(1);
    owner.all_acked().await;
    store.set(Fault::Away);
    for _ in 0..50 {
        owner.append(1);
    }
    owner.all_acked().await;
    assert_eq!(cluster.segments(topic.id, 0).await, 1, "rolls are not started");
    store.set(Fault::None);
    owner.pass(Duration::from_secs(10)).await;
    owner.append(1);
    owner.all_acked().await;
    assert_eq!(cluster.segments(topic.id, 0).await, 2);
    assert_eq!(read_all(&owner.reader).await.len(), 52);
}

/// A store that hangs holds up no append, although the ledger is large enough to roll all the time.
#[tokio::test(start_paused = true)]
async fn metadata_that_hangs_delays_nothing() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    cluster.assign(topic.id, 0, 1, 1).await;
    let store = FaultyStore::new(cluster.store.clone());
    let parts = cluster.log_parts_on(1, Arc::new(store.clone()));
    let roll = Roll { bytes: 500, ..Roll::default() };
    let mut owner = Owner::open_with(&parts, OpenSpec { roll, ..spec(&topic, 1) }).await;
    owner.append(1);
    owner.all_acked().await;
    store.set(Fault::Hang);
    for n in 0..100 {
        owner.append(1);
        let acked = tokio::time::timeout(Duration::from_millis(100), owner.all_acked()).await;
        assert!(acked.is_ok(), "append {n} waits for the metadata store");
        owner.pass(Duration::from_millis(400)).await;
    }
    assert_eq!(cluster.segments(topic.id, 0).await, 1);
    store.set(Fault::None);
    owner.pass(Duration::from_secs(10)).await;
    owner.append(1);
    owner.all_acked().await;
    assert_eq!(cluster.segments(topic.id, 0).await, 2);
    assert_eq!(read_all(&owner.reader).await.len(), 102);
}

#[tokio::test(start_paused = true)]
async fn without_metadata_the_first_append_waits() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    cluster.assign(topic.id, 0, 1, 1).await;
    let store = FaultyStore::new(cluster.store.clone());
    let parts = cluster.log_parts_on(1, Arc::new(store.clone()));
    let mut owner = Owner::open_with(&parts, spec(&topic, 1)).await;
    store.set(Fault::Away);
    owner.append(1);
    owner.pass(Duration::from_secs(30)).await;
    assert!(!owner.writer.is_writable());
    assert_eq!((owner.acked, owner.lost.clone()), (0, None));
    store.set(Fault::None);
    owner.all_acked().await;
}

#[tokio::test(start_paused = true)]
async fn transactions_with_lost_answers_change_nothing_twice() {
    for fault in [Fault::LoseAnswer, Fault::LoseRequest] {
        let cluster = TestCluster::new(3);
        let topic = cluster.create_topic("flights", 1).await;
        cluster.assign(topic.id, 0, 1, 1).await;
        let store = FaultyStore::new(cluster.store.clone());
        let parts = cluster.log_parts_on(1, Arc::new(store.clone()));
        let roll = Roll { bytes: 300, ..Roll::default() };
        store.set(fault);
        let mut owner = Owner::open_with(&parts, OpenSpec { roll, ..spec(&topic, 1) }).await;
        for _ in 0..60 {
            store.set(fault);
            owner.append(1);
            owner.all_acked().await;
        }
        assert!(cluster.segments(topic.id, 0).await > 3);
        store.set(Fault::None);
        let next = Owner::open(&cluster, &topic, 2, 2).await;
        assert_eq!(next.before, 60);
        assert_eq!(read_all(&next.reader).await.len(), 60);
    }
}

/// Owners, bookies and metadata fail at random. Whatever was acknowledged to anybody is in the log, in its place.
#[tokio::test(start_paused = true)]
async fn acknowledged_records_survive_random_faults() {
    for seed in 0..30 {
        println!("seed {seed}");
        survive(seed).await;
    }
}

async fn survive(seed: u64) {
    let random = SeededRandom::new(seed);
    let cluster = TestCluster::new(4);
    let topic = cluster.create_topic("flights", 1).await;
    let mut acked = Offset(0);
    let mut down = None;
    for term in 1..=8 {
        cluster.assign(topic.id, 0, term, term).await;
        let store = FaultyStore::new(cluster.store.clone());
        let mut parts = cluster.log_parts_on(term, Arc::new(store.clone()));
        parts.config.snapshot_entries = 9;
        parts.config.tail_bytes = 200;
        let roll = Roll { bytes: 1_000, ..Roll::default() };
        let mut owner = Owner::open_with(&parts, OpenSpec { roll, ..spec(&topic, term) }).await;
        assert!(owner.high_watermark >= acked, "acknowledged and gone");
        assert_eq!(owner.before, read_all(&owner.reader).await.len() as u64);
        for _ in 0..random.below(60) {
            match random.below(12) {
                0 => {
                    if let Some(number) = down.take() {
                        cluster.bookies.set(number, Mode::Up);
                        cluster.bookies.register(number, true);
                    }
                    let number = random.below(4) as usize + 1;
                    let modes = [Mode::Stopped, Mode::Held, Mode::Mute];
                    cluster.bookies.set(number, modes[random.below(3) as usize]);
                    cluster.bookies.register(number, random.below(2) == 0);
                    down = Some(number);
                }
                1 => store.set(Fault::LoseAnswer),
                2 => store.set(Fault::LoseRequest),
                3 => {
                    store.set(Fault::Away);
                    owner.pass(Duration::from_millis(random.below(3_000))).await;
                    store.set(Fault::None);
                }
                4 => owner.pass(Duration::from_millis(random.below(9_000))).await,
                _ => (0..random.below(8)).for_each(|_| owner.append(random.below(3) as u32 + 1)),
            }
            if random.below(2) == 0 {
                owner.pass(Duration::from_millis(random.below(20))).await;
            }
            assert_eq!(owner.lost, None);
        }
        if random.below(2) == 0 {
            store.set(Fault::None);
            owner.all_acked().await;
        }
        acked = owner.high_watermark;
    }
}
