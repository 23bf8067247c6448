//! Batches into open partitions.

use geminga_metastore::record::{LedgerMeta, LedgerState};

use futures::FutureExt;
use geminga_records::Batch;

use super::*;

/// S6, P1: whatever the producers do at the same time, each one's batches stand in its order, at the offsets that the
/// acknowledgements said.
#[tokio::test(start_paused = true)]
async fn concurrent_producers_each_keep_their_order() {
    let rig = Rig::new().await;
    let broker = rig.broker(1).await;
    let producer = async |name: &str| {
        let appender = broker.appender().await.unwrap();
        let mut pending = Vec::new();
        for i in 0..100 {
            let value = format!("{name}{i:03}");
            pending.push((value.clone(), appender.append(batch_of(&value)).await.unwrap()));
        }
        let mut acked = Vec::new();
        for (value, pending) in pending {
            acked.push((pending.await.unwrap().base_offset.0, value));
        }
        acked
    };
    let (a, b, c) = tokio::join!(producer("a"), producer("b"), producer("c"));
    let stored = broker.all().await;
    assert_eq!(stored.len(), 300);
    for acked in [a, b, c] {
        assert!(acked.is_sorted());
        for found in acked {
            assert!(stored.contains(&found), "{found:?} was acknowledged");
        }
    }
}

/// The term stands in each batch as Kafka's leader epoch; the records are what was sent (P6).
#[tokio::test(start_paused = true)]
async fn batches_are_stored_as_sent_but_for_offset_and_term() {
    let rig = Rig::new().await;
    let broker = rig.broker(1).await;
    broker.produce("first").await.unwrap();
    let sent = batch_at(&[10, 20], 100, Compression::Zstd);
    let appended = broker.appender().await.unwrap().append(sent.clone()).await.unwrap();
    let expected = Appended { base_offset: Offset(1), log_append_time_ms: -1 };
    assert_eq!(appended.await, Ok(expected));
    let read = broker.read(at(1)).await.unwrap();
    assert_eq!(read.batches, [Bytes::from(sent.stamp(1, 1).concat())]);
}

/// A batch may come in a message that is a thousand times its size, with batches for other partitions. While its own stands
/// still it does not keep the message; what came first is copied as well when the next one comes.
#[tokio::test(start_paused = true)]
async fn what_waits_for_storage_keeps_no_message() {
    let rig = Rig::new().await;
    let broker = rig.broker(1).await;
    let appender = broker.appender().await.unwrap();
    rig.cluster.bookies.set_all(Mode::Held);
    let mut pending = Vec::new();
    let mut submit = async |value: &str| {
        let batch = batch_of(value).into_bytes();
        let message = Bytes::from([&batch[..], &[0; 10_000]].concat());
        let batch = Batch::parse(message.slice(..batch.len())).unwrap();
        pending.push(appender.append(batch).await.unwrap());
        tokio::time::sleep(Duration::from_millis(200)).await;
        message
    };
    let mut messages = Vec::new();
    for i in 0..10 {
        messages.push(submit(&format!("{i}")).await);
    }
    let kept = messages.iter().filter(|message| !message.is_unique()).count();
    assert_eq!(kept, 0, "of ten");
    rig.cluster.bookies.set_all(Mode::Up);
    for pending in pending {
        pending.await.unwrap();
    }
    let stored: Vec<String> = broker.all().await.into_iter().map(|(_, value)| value).collect();
    assert_eq!(stored, (0..10).map(|i| format!("{i}")).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_while_it_opens_shares_the_opening() {
    let rig = Rig::new().await;
    let broker = rig.broker(1).await;
    assert!(!broker.partitions.is_open(rig.topic.id, P0));
    let all = futures::future::join_all((0..10).map(|_| broker.appender())).await;
    let first = Arc::clone(all[0].as_ref().unwrap());
    for other in all {
        assert!(std::ptr::addr_eq(Arc::as_ptr(&first), Arc::as_ptr(&other.unwrap())));
    }
    assert!(first.is_open() && broker.partitions.is_open(rig.topic.id, P0));
}

/// S11: the answer names the owner.
#[tokio::test(start_paused = true)]
async fn what_another_broker_owns_is_refused_with_its_address() {
    let rig = Rig::new().await;
    let (broker, _owner) = (rig.broker(2).await, rig.broker(1).await);
    broker.sees(|broker| broker.topology.broker(BrokerId(1)).is_some()).await;
    let error = broker.appender().await.unwrap_err();
    assert_eq!(error.reason, Reason::NotOwner);
    assert_eq!(error.owner_address.as_deref(), Some("broker-1:7070"));
    let error = broker.partitions.appender(Arc::clone(&rig.topic), PartitionIndex(1)).await;
    assert_eq!(reason(error), Reason::UnknownPartition);
}

#[tokio::test(start_paused = true)]
async fn a_failed_opening_is_told_at_once_until_its_backoff_has_passed() {
    let rig = Rig::new().await;
    let store = FaultyStore::new(rig.cluster.store.clone());
    store.set(Fault::Away);
    let broker = rig.broker_on(1, Arc::new(store.clone()), Config::default()).await;
    let error = broker.appender().await.unwrap_err();
    assert!(error.reason.retriable(), "{error}");
    store.set(Fault::None);
    assert_eq!(broker.appender().await.unwrap_err(), error, "not tried again yet");
    tokio::time::advance(Duration::from_secs(6)).await;
    assert_eq!(broker.produce("now").await, Ok(0));
}

/// Back-pressure: what is accepted and not answered is bounded, and who waits for ever is told so.
#[tokio::test(start_paused = true)]
async fn queued_bytes_are_bounded() {
    let rig = Rig::new().await;
    let config = Config { partition_queue_bytes: 0, ..Config::default() };
    let broker = rig.broker_on(1, Arc::new(rig.cluster.store.clone()), config).await;
    broker.produce("first").await.unwrap();
    rig.cluster.bookies.set_all(Mode::Held);
    let appender = broker.appender().await.unwrap();
    let batch = batch_at(&[1], 1_000_000, Compression::None);
    let mut pending = Vec::new();
    let refused = loop {
        match appender.append(batch.clone()).await {
            Ok(accepted) => pending.push(accepted),
            Err(error) => break error,
        }
    };
    assert_eq!(pending.len(), LARGEST_COST / batch.len());
    assert_eq!(refused.reason, Reason::Overloaded);
    rig.cluster.bookies.set_all(Mode::Up);
    for pending in pending {
        assert!(pending.await.is_ok());
    }
    assert!(appender.append(batch).await.unwrap().await.is_ok(), "there is room again");
}

/// S21: no acknowledgement without copies; producers are told to come again, and it heals by itself.
#[tokio::test(start_paused = true)]
async fn without_enough_bookies_nothing_is_acknowledged_until_they_are_back() {
    let rig = Rig::new().await;
    let broker = rig.broker(1).await;
    broker.produce("a").await.unwrap();
    for bookie in [2, 3] {
        rig.cluster.bookies.set(bookie, Mode::Stopped);
        rig.cluster.bookies.register(bookie, false);
    }
    let mut failed = 0;
    let healed = async {
        tokio::time::sleep(SOON).await;
        for bookie in [2, 3] {
            rig.cluster.bookies.register(bookie, true);
            rig.cluster.bookies.set(bookie, Mode::Up);
        }
    };
    let retried = async {
        loop {
            match tokio::time::timeout(Duration::from_secs(5), broker.produce("b")).await {
                Ok(Ok(offset)) => return offset,
                Ok(Err(error)) => assert!(error.reason.retriable(), "{error}"),
                Err(_) => {}
            }
            failed += 1;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let (offset, ()) = tokio::join!(retried, healed);
    assert!(failed > 0, "acknowledged with one bookie of three");
    let stored = broker.all().await;
    assert_eq!(stored[0], (0, "a".to_owned()));
    assert!(stored.contains(&(offset, "b".to_owned())), "{stored:?}");
}

/// Also where there is no ledger yet: who comes first is told in time, who comes later at once, and it heals.
#[tokio::test(start_paused = true)]
async fn while_storage_stands_still_everybody_is_told_something() {
    let rig = Rig::new().await;
    let broker = rig.broker(1).await;
    let live = |live| [2, 3].map(|bookie| rig.cluster.bookies.register(bookie, live));
    live(false);
    let begun = Instant::now();
    assert_eq!(reason(broker.produce("first").await), Reason::Unknown);
    assert_eq!(begun.elapsed().as_secs(), 30);
    assert_eq!(reason(broker.produce("second").await), Reason::NotEnoughLiveBookies);
    assert_eq!(begun.elapsed().as_secs(), 30);
    assert_eq!(broker.all().await, []);
    live(true);
    let offset = loop {
        match broker.produce("third").await {
            Ok(offset) => break offset,
            Err(error) => assert_eq!(error.reason, Reason::NotEnoughLiveBookies),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    // What was given up is still written, before all that comes later: its outcome was unknown.
    assert_eq!(broker.all().await, [(0, "first".to_owned()), (offset, "third".to_owned())]);
}

/// P5: while one batch is looked into, an earlier one is refused, and then storage is there again: the later one does not pass it.
#[tokio::test(start_paused = true)]
async fn what_came_before_a_refusal_is_not_taken_after_it() {
    let rig = Rig::new().await;
    let config = Config { strict_records: true, ..Config::default() };
    let broker = rig.broker_on(1, Arc::new(rig.cluster.store.clone()), config).await;
    let live = |live| [2, 3].map(|bookie| rig.cluster.bookies.register(bookie, live));
    let appender = broker.appender().await.unwrap();
    let large = || batch_at(&[-1], 12 << 20, Compression::Zstd);
    live(false);
    // Too few bookies: what waits longest has an unknown outcome, and what comes then is refused.
    assert_eq!(reason(broker.produce("first").await), Reason::Unknown);
    let mut later = appender.append(large());
    assert!((&mut later).now_or_never().is_none(), "it is looked into elsewhere");
    assert_eq!(reason(broker.produce("second").await), Reason::NotEnoughLiveBookies);
    live(true);
    while broker.produce("third").await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let placed = later.await.expect("it has its place in the mailbox");
    assert_eq!(reason(placed.await), Reason::NotWritten);
    assert!(appender.append(large()).await.unwrap().await.is_ok(), "one that comes now is");
}

/// A partition that is given up leaves no ledger open for the next owner to recover.
#[tokio::test(start_paused = true)]
async fn a_shutdown_closes_the_ledger() {
    let rig = Rig::new().await;
    let broker = rig.broker(1).await;
    broker.produce("a").await.unwrap();
    let open = async || {
        let ledgers = rig.cluster.store.range(keys::LEDGERS, None, 100).await.unwrap().items;
        let states = ledgers.iter().map(|item| {
            let id = keys::parse_ledger(&item.key).unwrap();
            LedgerMeta::decode(id, &item.value.value).unwrap().state
        });
        states.filter(|state| *state == LedgerState::Open).count()
    };
    assert_eq!(open().await, 1);
    broker.partitions.shutdown(SOON).await;
    assert_eq!(open().await, 0);
}
