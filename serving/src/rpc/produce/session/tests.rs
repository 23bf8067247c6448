use std::collections::BTreeMap;

use bytes::Bytes;
use geminga_records::{Compression, Record};

use super::*;
use crate::topics::config::Settings;

fn tracked() -> Tracked {
    let configs = BTreeMap::new();
    let topic = Topic {
        id: TopicId::from_random(1),
        namespace: "default".to_owned(),
        name: "flights".to_owned(),
        partitions: 1,
        quorum: None,
        replication_factor: None,
        settings: Settings::from_configs(&configs),
        configs,
        created_ms: 0,
        created: None,
        version: None,
    };
    Tracked {
        lane: Lane::default(),
        topic: Arc::new(topic),
        path: None,
        direct: false,
        not_before: None,
        moved: Instant::now(),
    }
}

/// While a partition opens or has no room, what is sent to it does not keep what was sent to others in the same messages.
#[tokio::test(start_paused = true)]
async fn what_waits_behind_others_keeps_no_message() {
    let mut tracked = tracked();
    let push = |tracked: &mut Tracked| {
        let batch = geminga_records::encode(&[Record::default()], Compression::None);
        let batch = batch.unwrap().into_bytes();
        let message = Bytes::from([&batch[..], &[0; 10_000]].concat());
        let batch = Batch::parse(message.slice(..batch.len())).unwrap();
        let meta = Meta { id: 1, answered: true, restart: false, direct: false, cost: 1 };
        tracked.push(Item { meta, work: Ok(batch) });
        message
    };
    tokio::time::advance(STANDS_STILL * 2).await;
    let first = push(&mut tracked);
    assert!(!first.is_unique(), "it waits for nobody, and is not copied");
    tracked.moved = Instant::now();
    assert!(tracked.lane.next(true).is_some(), "its place is not fixed yet");
    assert!(!push(&mut tracked).is_unique(), "that takes no time as a rule");
    tokio::time::advance(STANDS_STILL).await;
    assert!(push(&mut tracked).is_unique());
}
