//! Acknowledgements that are in two zones, the whole client over: placement, the writer, the change of its ensemble and the roll.

use geminga_metastore::record::LedgerMeta;

use super::*;
use crate::partition::testing::Mode;

/// Bookies in these zones, and a partition whose acknowledgements are in two.
async fn two_zones(zones: &[&str]) -> (TestCluster, Arc<Topic>, Owner) {
    let mut cluster = TestCluster::new(zones.len());
    cluster.ledgers = geminga_ledger::Config { min_ack_zones: 2, ..cluster.ledgers };
    for (number, zone) in (1..).zip(zones) {
        cluster.bookies.put_into(number, zone);
    }
    let topic = cluster.create_topic("flights", 1).await;
    let mut owner = Owner::open(&cluster, &topic, 1, 1).await;
    owner.append(1);
    owner.all_acked().await;
    (cluster, topic, owner)
}

/// 6.7: two of one zone have it, and nothing is said before the third, of the other zone, has.
#[tokio::test(start_paused = true)]
async fn an_acknowledgement_waits_for_the_second_zone() {
    let (cluster, topic, mut owner) = two_zones(&["a", "a", "b"]).await;
    cluster.bookies.set(3, Mode::Held);
    owner.append(1);
    owner.pass(Duration::from_secs(1)).await;
    assert_eq!(owner.acked, 1, "only zone a has it");
    cluster.bookies.set(3, Mode::Up);
    owner.all_acked().await;
    assert_eq!(cluster.segments(topic.id, 0).await, 1, "it was but late");

    // One of zone a does not matter.
    cluster.bookies.set(1, Mode::Held);
    owner.append(1);
    owner.pass(Duration::from_secs(1)).await;
    assert_eq!(owner.acked, 3);
}

/// Without the setting two copies are enough, wherever they are.
#[tokio::test(start_paused = true)]
async fn an_acknowledgement_does_not_wait_for_zones_that_nobody_asked_for() {
    let cluster = TestCluster::new(3);
    for (number, zone) in [(1, "a"), (2, "a"), (3, "b")] {
        cluster.bookies.put_into(number, zone);
    }
    let topic = cluster.create_topic("flights", 1).await;
    let mut owner = Owner::open(&cluster, &topic, 1, 1).await;
    owner.append(1);
    owner.all_acked().await;
    cluster.bookies.set(3, Mode::Held);
    owner.append(1);
    owner.pass(Duration::from_secs(1)).await;
    assert_eq!(owner.acked, 2);
}

/// A zone that is gone, and nobody of it registered: the ledger is left for one that what is there can acknowledge.
#[tokio::test(start_paused = true)]
async fn writes_go_on_in_the_zone_that_is_left() {
    let (cluster, topic, mut owner) = two_zones(&["a", "a", "b"]).await;
    cluster.bookies.set(3, Mode::Stopped);
    owner.append(1);
    owner.pass(Duration::from_secs(10)).await;
    assert_eq!(owner.acked, 1, "its registration says that there are two zones");
    cluster.bookies.register(3, false);
    owner.all_acked().await;
    owner.append(1);
    owner.all_acked().await;
    assert_eq!(read_all(&owner.reader).await.len(), 3);

    // It is back, and so are its acknowledgements, from the next ledger on.
    cluster.bookies.set(3, Mode::Up);
    cluster.bookies.register(3, true);
    owner.append(1);
    owner.pass(Duration::from_secs(60)).await;
    owner.append(1);
    owner.all_acked().await;
    let before = cluster.segments(topic.id, 0).await;
    cluster.bookies.set(3, Mode::Held);
    owner.append(1);
    let acked = owner.acked;
    owner.pass(Duration::from_secs(1)).await;
    assert_eq!((owner.acked, cluster.segments(topic.id, 0).await), (acked, before));
    cluster.bookies.set(3, Mode::Up);
    owner.all_acked().await;
}

/// Another of the lost zone takes the place, in the same ledger; one of the other zone does not.
#[tokio::test(start_paused = true)]
async fn a_place_of_the_second_zone_goes_to_another_of_it() {
    let (cluster, topic, mut owner) = two_zones(&["a", "a", "b", "b"]).await;
    let members = |segments: &LedgerMeta| {
        let ensemble = &segments.last_fragment().ensemble;
        ensemble.iter().map(|member| member.bookie.to_string()).collect::<Vec<_>>()
    };
    let segments = cluster.stored_segments(topic.id, 0).await;
    let [segment] = &segments[..] else { panic!("one segment") };
    let parts = cluster.log_parts(1);
    let (meta, _) = parts.ledgers.metadata(segment.ledger).await.unwrap().unwrap();
    // Three of four: one zone has one member.
    let lonely = |zone: [usize; 2]| {
        let there = zone.map(|n| members(&meta).contains(&format!("bookie-{n}")));
        there.iter().filter(|there| **there).count() == 1
    };
    let zone = if lonely([1, 2]) { [1, 2] } else { [3, 4] };
    let gone = zone.into_iter().find(|n| members(&meta).contains(&format!("bookie-{n}"))).unwrap();
    cluster.bookies.set(gone, Mode::Stopped);
    owner.append(1);
    owner.all_acked().await;
    let (meta, _) = parts.ledgers.metadata(segment.ledger).await.unwrap().unwrap();
    let other = zone.into_iter().find(|n| *n != gone).unwrap();
    assert!(members(&meta).contains(&format!("bookie-{other}")), "{meta:?}");
    assert_eq!(cluster.segments(topic.id, 0).await, 1);
}

/// A zone whose bookies are registered and do not answer: what waits stays in a ledger that acknowledges it when they do.
#[tokio::test(start_paused = true)]
async fn a_zone_that_does_not_answer_costs_few_ledgers() {
    let (cluster, topic, mut owner) = two_zones(&["a", "a", "b"]).await;
    cluster.bookies.set(3, Mode::Stopped);
    owner.append(1);
    owner.pass(Duration::from_secs(300)).await;
    let segments = cluster.segments(topic.id, 0).await;
    assert!((5..=11).contains(&segments), "{segments}: the pause doubles up to 45 seconds");
    assert!(owner.acked == 1 && !owner.writer.is_writable());

    cluster.bookies.set(3, Mode::Up);
    owner.pass(Duration::from_secs(2)).await;
    assert_eq!(owner.acked, 2, "whether or not a pause goes on");
    assert!(cluster.segments(topic.id, 0).await <= segments + 1);

    // Gone again, and at last not registered either: the pause ends with that.
    cluster.bookies.set(3, Mode::Stopped);
    owner.append(1);
    owner.pass(Duration::from_secs(300)).await;
    assert_eq!(owner.acked, 2);
    cluster.bookies.register(3, false);
    owner.pass(Duration::from_secs(2)).await;
    assert_eq!(owner.acked, 3);
    assert_eq!(read_all(&owner.reader).await.len(), 3);
}

/// Three copies in the zone that is left lack nothing but the zone. When it is back, so are its acknowledgements, and once is enough.
#[tokio::test(start_paused = true)]
async fn a_ledger_of_one_zone_is_left_when_the_other_is_back() {
    let (cluster, topic, mut owner) = two_zones(&["a", "a", "a", "b"]).await;
    cluster.bookies.set(4, Mode::Stopped);
    cluster.bookies.register(4, false);
    owner.append(1);
    owner.all_acked().await;
    let before = cluster.segments(topic.id, 0).await;
    for _ in 0..60 {
        owner.append(1);
        owner.pass(Duration::from_secs(1)).await;
    }
    assert_eq!(cluster.segments(topic.id, 0).await, before, "there is no other zone");

    cluster.bookies.set(4, Mode::Up);
    cluster.bookies.register(4, true);
    for _ in 0..60 {
        owner.append(1);
        owner.pass(Duration::from_secs(1)).await;
    }
    assert_eq!(cluster.segments(topic.id, 0).await, before + 1);
    cluster.bookies.set(4, Mode::Held);
    owner.all_acked().await;
    owner.append(1);
    let acked = owner.acked;
    owner.pass(Duration::from_secs(1)).await;
    assert_eq!(owner.acked, acked, "only zone a has it");
    cluster.bookies.set(4, Mode::Up);
    owner.all_acked().await;
    assert_eq!(read_all(&owner.reader).await.len(), 123);
}

/// Nothing new is placed on one that names no zone where others do, so it is not waited for.
#[tokio::test(start_paused = true)]
async fn a_bookie_without_a_zone_is_no_other_zone() {
    let (cluster, topic, mut owner) = two_zones(&["a", "a", "a", ""]).await;
    for _ in 0..60 {
        owner.append(1);
        owner.pass(Duration::from_secs(1)).await;
    }
    assert_eq!((owner.acked, cluster.segments(topic.id, 0).await), (61, 1));
}
