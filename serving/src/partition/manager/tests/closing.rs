//! Partitions that move, end and come back.

use super::*;

/// All that was acknowledged is there under the next owner, and offsets go on.
#[tokio::test(start_paused = true)]
async fn another_broker_takes_over_and_goes_on() {
    let rig = Rig::new().await;
    let (old, new) = (rig.broker(1).await, rig.broker(2).await);
    for i in 0..20 {
        old.produce(&format!("old{i}")).await.unwrap();
    }
    let appender = old.appender().await.unwrap();
    rig.assign(2, 2).await;
    for broker in [&old, &new] {
        broker.sees_term(2).await;
    }
    assert_eq!(new.produce("new").await, Ok(20));
    let stored = new.all().await;
    assert_eq!(stored.len(), 21);
    assert_eq!(stored[7], (7, "old7".to_owned()));
    assert_eq!(reason(old.submit("late").await), Reason::NotOwner);
    assert!(!appender.is_open());
    assert_eq!(reason(appender.append(batch_of("late")).await), Reason::NotOwner);
    let (first, end) = (new.find(OffsetAt::Earliest).await, new.find(OffsetAt::Latest).await);
    assert_eq!((first.term, first.epoch), (Term(2), Term(1)), "written under the first");
    assert_eq!((end.term, end.epoch), (Term(2), Term(2)));
}

/// What is on its way when a partition moves ends as unknown, never as acknowledged (P3).
#[tokio::test(start_paused = true)]
async fn what_was_on_its_way_has_an_unknown_outcome() {
    let rig = Rig::new().await;
    let (old, new) = (rig.broker(1).await, rig.broker(2).await);
    old.produce("acked").await.unwrap();
    rig.cluster.bookies.set_all(Mode::Held);
    let pending = old.submit("pending").await.unwrap();
    rig.assign(2, 2).await;
    assert_eq!(reason(pending.await), Reason::Unknown);
    rig.cluster.bookies.set_all(Mode::Up);
    new.sees_term(2).await;
    let offset = new.produce("new").await.unwrap();
    let stored = new.all().await;
    assert_eq!(stored[0], (0, "acked".to_owned()));
    assert_eq!(stored.last(), Some(&(offset, "new".to_owned())));
}

/// A broker that learns nothing of its successor finds out when it writes: a zombie acknowledges nothing.
#[tokio::test(start_paused = true)]
async fn a_blind_owner_is_deposed_by_the_log() {
    let rig = Rig::new().await;
    let (blind, new) = (rig.broker(1).await, rig.broker(2).await);
    blind.produce("acked").await.unwrap();
    assert!(blind.view.finish(SOON).await);
    rig.assign(2, 2).await;
    new.sees_term(2).await;
    assert_eq!(new.produce("new").await, Ok(1));
    let outcome = async { blind.submit("zombie").await?.await };
    let error = outcome.await.unwrap_err();
    assert!(error.reason.retriable(), "{error}");
    assert_eq!(reason(blind.produce("again").await), Reason::NotOwner, "it is told so");
    let stored = new.all().await;
    assert_eq!(stored, [(0, "acked".to_owned()), (1, "new".to_owned())]);
}

/// Cut off from the metadata store, an owner that writes nothing learns from its bookies that it was deposed (DESIGN 6).
#[tokio::test(start_paused = true)]
async fn an_owner_without_metadata_asks_its_bookies() {
    for fault in [Fault::Away, Fault::Hang] {
        let rig = Rig::new().await;
        let store = FaultyStore::new(rig.cluster.store.clone());
        let blind = rig.broker_on(1, Arc::new(store.clone()), Config::default()).await;
        let new = rig.broker(2).await;
        blind.produce("acked").await.unwrap();
        let appender = blind.appender().await.unwrap();
        assert!(blind.view.finish(SOON).await);
        store.set(fault);
        rig.cluster.silence.send_replace(true);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(appender.is_open(), "nobody sealed its ledger: it goes on");
        assert_eq!(blind.produce("alone").await, Ok(1));
        rig.assign(2, 2).await;
        new.sees_term(2).await;
        assert_eq!(new.produce("new").await, Ok(2));
        let poll = blind.read(ReadSpec { max_wait: SOON, ..at(2) });
        let polled = tokio::time::timeout(Duration::from_secs(3), poll).await;
        assert_eq!(reason(polled.expect("it is told in time")), Reason::NotOwner);
        assert!(!appender.is_open());
    }
}

/// An assignment to the same broker under a higher term is another opening.
#[tokio::test(start_paused = true)]
async fn a_higher_term_opens_it_again() {
    let rig = Rig::new().await;
    let broker = rig.broker(1).await;
    broker.produce("a").await.unwrap();
    let first = broker.appender().await.unwrap();
    rig.assign(1, 5).await;
    broker.sees_term(5).await;
    assert_eq!(broker.produce("b").await, Ok(1));
    assert!(!first.is_open());
    assert!(
        first.append(batch_of("late")).await.is_err(),
        "an appender is bound to its opening (P5)"
    );
    assert_eq!(broker.find(OffsetAt::Latest).await.term, Term(5));
    assert_eq!(broker.all().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_topic_is_closed_and_its_readers_are_told() {
    let rig = Rig::new().await;
    let broker = rig.broker(1).await;
    broker.produce("a").await.unwrap();
    let poll = broker.read(ReadSpec { max_wait: SOON, ..at(1) });
    let delete = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let txn = Txn::new().delete(keys::topic("default", "flights"));
        assert!(matches!(rig.cluster.store.txn(txn).await.unwrap(), TxnOutcome::Committed(_)));
    };
    let (polled, ()) = tokio::join!(poll, delete);
    assert_eq!(reason(polled), Reason::UnknownTopic);
    assert_eq!(reason(broker.submit("b").await), Reason::UnknownTopic);
    assert!(!broker.partitions.is_open(rig.topic.id, P0));
}

/// A broker without registration serves nothing, not even what is still assigned to it.
#[tokio::test(start_paused = true)]
async fn a_lost_registration_closes_everything() {
    let rig = Rig::new().await;
    let broker = rig.broker(1).await;
    broker.produce("a").await.unwrap();
    let appender = broker.appender().await.unwrap();
    let Standing::Registered { lease } = broker.registration.standing() else { panic!() };
    let poll = broker.read(ReadSpec { max_wait: SOON, ..at(1) });
    let revoke = async { rig.cluster.store.revoke_lease(lease).await.unwrap() };
    let (polled, ()) = tokio::join!(poll, revoke);
    assert_eq!(reason(polled), Reason::NotReady);
    assert!(!appender.is_open());
    let mut standing = broker.registration.watch();
    standing.wait_for(|s| *s != Standing::Lost).await.unwrap();
    assert_eq!(broker.produce("b").await, Ok(1), "it is registered again and still the owner");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_lets_what_was_accepted_be_acknowledged() {
    let rig = Rig::new().await;
    let broker = rig.broker(1).await;
    broker.produce("a").await.unwrap();
    rig.cluster.bookies.set_all(Mode::Held);
    let appender = broker.appender().await.unwrap();
    let mut pending = Vec::new();
    for i in 0..20 {
        pending.push(appender.append(batch_of(&format!("{i}"))).await.unwrap());
    }
    let back = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(reason(appender.append(batch_of("late")).await), Reason::ShuttingDown);
        rig.cluster.bookies.set_all(Mode::Up);
    };
    tokio::join!(broker.partitions.shutdown(SOON), back);
    for pending in pending {
        assert!(pending.await.is_ok());
    }
    assert_eq!(reason(broker.submit("late").await), Reason::ShuttingDown);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_at_its_deadline() {
    let rig = Rig::new().await;
    let broker = rig.broker(1).await;
    broker.produce("a").await.unwrap();
    rig.cluster.bookies.set_all(Mode::Held);
    let pending = broker.submit("b").await.unwrap();
    let begun = Instant::now();
    broker.partitions.shutdown(Duration::from_secs(2)).await;
    assert!(begun.elapsed() < Duration::from_secs(4));
    assert_eq!(reason(pending.await), Reason::Unknown);
}

/// More partitions than may be open are served in turn, whoever is in use keeps its place.
#[tokio::test(start_paused = true)]
async fn partitions_that_nobody_uses_make_room() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 3).await;
    for partition in 0..3 {
        cluster.assign(topic.id, partition, 1, 1).await;
    }
    let rig = Rig { cluster, topic };
    let config = Config { max_open: 2, ..Config::default() };
    let broker = rig.broker_on(1, Arc::new(rig.cluster.store.clone()), config).await;
    broker.sees_term(1).await;
    let appender = async |partition| {
        broker.partitions.appender(Arc::clone(&broker.topic), PartitionIndex(partition)).await
    };
    broker.produce("a").await.unwrap();
    let busy = appender(1).await.unwrap();
    assert_eq!(reason(appender(2).await), Reason::Overloaded, "both were just used");
    tokio::time::sleep(QUIET).await;
    busy.append(batch_of("b")).await.unwrap().await.unwrap();
    assert_eq!(reason(appender(2).await), Reason::NotReady, "room is being made");
    let third = async {
        while appender(2).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, third).await.expect("there is room soon");
    assert!(busy.is_open());
    assert!(!broker.partitions.is_open(broker.topic.id, P0));
    tokio::time::sleep(QUIET).await;
    while broker.produce("c").await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(broker.all().await.len(), 2, "and what was closed is there again");
}
