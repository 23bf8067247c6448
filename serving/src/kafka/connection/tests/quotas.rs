//! Clients that go beyond their quotas are answered at once, and waited with before they are served again.

use geminga_proto::v1::Quota;

use super::*;
use crate::kafka::codec::messages::{HeartbeatRequest, HeartbeatResponse};

const HEARTBEAT: i16 = 3;

/// Gives the only client there is a quota.
async fn limit(rig: &Rig, limits: Quota) {
    let ctx = rig.context(0);
    ctx.quotas.set(&*ctx.store, limits.clone()).await.unwrap();
    while !ctx.quotas.list().quotas.contains(&limits) {
        seconds(1).await;
    }
}

fn of_all() -> Quota {
    Quota::default()
}

/// With nothing in its hands, and also when it has closed its side: what it sent before is served, and paid for.
#[tokio::test]
async fn a_client_that_owes_waits_without_room_and_pays_whatever_it_does() {
    let (rig, _topic) = rig().await;
    limit(&rig, Quota { producer_byte_rate: Some(100_000), ..of_all() }).await;
    let mut wire = Wire::new(&rig, 1 << 20);
    let begun = Instant::now();
    for _ in 0..4 {
        wire.send(PRODUCE, &produce(-1, 10_000, 200_000)).await;
    }
    wire.shut();
    let (code, told) = wire.produced(1).await;
    assert_eq!((code, told / 100), (0, 10), "it is told");
    assert_eq!(begun.elapsed().as_millis() / 100, 0, "and answered at once");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(wire.used(), (0, 0, 0), "while it owes");
    for number in 2..5 {
        assert_eq!(wire.produced(number).await.0, 0);
        assert_eq!(begun.elapsed().as_secs() + 1, 2 * (number as u64 - 1));
    }
    assert_eq!(wire.end().await, (Ok(()), 0));
    // Nor is a new connection free of it.
    let mut wire = Wire::new(&rig, 1 << 20);
    let begun = Instant::now();
    wire.send(PRODUCE, &produce(-1, 10_000, 10)).await;
    assert_eq!(wire.produced(1).await.0, 0);
    assert_eq!(begun.elapsed().as_secs(), 2);
}

#[tokio::test]
async fn what_is_read_is_paid_for_before_more_is_read() {
    let (rig, topic) = rig().await;
    fill(&rig, &topic).await;
    limit(&rig, Quota { consumer_byte_rate: Some(900_000), ..of_all() }).await;
    let mut wire = Wire::new(&rig, 8 << 20);
    let begun = Instant::now();
    wire.send(FETCH, &fetch(0, 0, 1)).await;
    let answer: FetchResponse = wire.answer::<FetchRequest>(1, FETCH).await;
    assert_eq!(answer.throttle_time_ms / 100, 30, "it is told");
    wire.send(METADATA, &metadata(1)).await;
    wire.answer::<MetadataRequest>(2, METADATA).await;
    assert_eq!(begun.elapsed().as_secs(), 0, "and other things are not held up by it");
    wire.send(FETCH, &fetch(0, 0, 1)).await;
    wire.answer::<FetchRequest>(3, FETCH).await;
    assert_eq!(begun.elapsed().as_secs(), 3);
}

/// Members of groups are heard, however much clients of their name ask.
#[tokio::test]
async fn no_wait_is_longer_than_a_client_can_stand() {
    let (rig, _topic) = rig().await;
    limit(&rig, Quota { request_rate: Some(1), producer_byte_rate: Some(1), ..of_all() }).await;
    let quotas = rig.context(0).quotas.clone();
    quotas.charge(Kind::Request, "test", 100_000);
    quotas.charge(Kind::Produce, "test", 100_000);
    let mut wire = Wire::new(&rig, 1 << 20);
    let mut request = HeartbeatRequest::default();
    (request.group_id, request.member_id) = ("g".into(), "m".into());
    let begun = Instant::now();
    for number in 1..4 {
        wire.send(HEARTBEAT, &request).await;
        let answer: HeartbeatResponse = wire.answer::<HeartbeatRequest>(number, HEARTBEAT).await;
        assert_ne!(answer.error_code, 0, "nobody knows it");
        assert_eq!(begun.elapsed().as_secs(), number as u64);
    }
    let begun = Instant::now();
    wire.send(PRODUCE, &produce(-1, 10_000, 10)).await;
    let (code, told) = wire.produced(4).await;
    assert_eq!((code, told), (0, 60_000), "nor does it wait longer by itself");
    assert_eq!(begun.elapsed().as_secs(), 60);
    wire.send(FETCH, &fetch(0, 0, 1)).await;
    let answer: FetchResponse = wire.answer::<FetchRequest>(5, FETCH).await;
    assert_eq!(answer.throttle_time_ms, 1_000, "it is told of its requests, too");
    // And a broker that stops does not wait for it.
    wire.send(PRODUCE, &produce(-1, 10_000, 10)).await;
    seconds(10).await;
    wire.stop.cancel();
    assert_eq!(wire.end().await, (Ok(()), 0));
}
