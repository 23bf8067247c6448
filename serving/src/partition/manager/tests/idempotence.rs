//! Idempotent producers: what comes again is written once, whatever became of the first time (P1-P4).

use std::cell::Cell;

use futures::FutureExt;
use geminga_runtime::{Random, SeededRandom};

use super::*;
use crate::partition::mutation::Mutation;
use crate::partition::producers::{Producers, Refusal, Stamp, Verdict};

/// Number `first` of producer 7.
fn number(first: i32) -> Sequence {
    Sequence { producer_id: 7, epoch: 0, first }
}

/// A scenario in paused time: it must pass, and fail without the rule.
fn holds_only_with(rule: Mutation, scenario: impl AsyncFn(Config)) {
    geminga_runtime::holds_only_with(rule, |mutations| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        let scenario = scenario(Config { mutations, ..Config::default() });
        runtime
            .block_on(async { tokio::time::timeout(10 * SOON, scenario).await })
            .expect("it ends");
    });
}

impl Rig {
    async fn broker_with(&self, id: i32, config: &Config) -> TestBroker {
        self.broker_on(id, Arc::new(self.cluster.store.clone()), config.clone()).await
    }

    /// Moves the partition to `broker`.
    async fn move_to(&self, broker: &TestBroker, term: i32) {
        self.assign(broker.registration.id().0, term).await;
        broker.sees_term(term).await;
    }
}

fn once(values: &[&str]) -> Vec<(i64, String)> {
    (0..).zip(values).map(|(offset, value)| (offset, (*value).to_owned())).collect()
}

/// P2: a duplicate of what is in the log is answered with its offset.
#[tokio::test(start_paused = true)]
async fn a_batch_that_comes_again_is_answered_and_not_written() {
    let rig = Rig::new().await;
    let broker = rig.broker(1).await;
    for first in 0..6 {
        let value = first.to_string();
        assert_eq!(broker.produce_from(&value, number(first)).await, Ok(i64::from(first)));
        assert_eq!(broker.produce_from(&value, number(first)).await, Ok(i64::from(first)));
    }
    assert_eq!(reason(broker.produce_from("0", number(0)).await), Reason::DuplicateSequence);
    assert_eq!(broker.produce_from("1", number(1)).await, Ok(1), "one of the last five");
    assert_eq!(reason(broker.produce_from("7", number(7)).await), Reason::OutOfOrderSequence);
    let stranger = Sequence { producer_id: 8, epoch: 0, first: 1 };
    assert_eq!(reason(broker.produce_from("x", stranger).await), Reason::UnknownProducerId);
    let next = Sequence { epoch: 1, ..number(0) };
    assert_eq!(broker.produce_from("6", next).await, Ok(6));
    assert_eq!(reason(broker.produce_from("6", number(6)).await), Reason::InvalidProducerEpoch);
    assert_eq!(broker.all().await, once(&["0", "1", "2", "3", "4", "5", "6"]));
}

/// P2: a duplicate of what is on its way waits for it, also when whoever sent it first has given up.
#[test]
fn a_duplicate_is_never_acknowledged_early() {
    holds_only_with(Mutation::AckEarly, async |config| {
        let rig = Rig::new().await;
        let broker = rig.broker_with(1, &config).await;
        broker.produce("first").await.unwrap();
        rig.cluster.bookies.set_all(Mode::Held);
        let mut pending = Vec::new();
        // Four in the log, and one that waits for company.
        for first in 0..5 {
            pending.push(broker.submit_from("a", number(first)).await.unwrap());
        }
        for first in 0..5 {
            pending.push(broker.submit_from("a", number(first)).await.unwrap());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(pending.iter_mut().all(|answer| answer.now_or_never().is_none()), "too early");
        pending.drain(..5);
        rig.cluster.bookies.set_all(Mode::Up);
        for (offset, answer) in (1..).zip(pending) {
            assert_eq!(answer.await.unwrap().base_offset, Offset(offset));
        }
        assert_eq!(broker.all().await.len(), 6);
    });
}

/// P3: what was refused may come again, and what was given up is not written a second time.
#[test]
fn numbers_of_what_was_refused_are_free_again() {
    holds_only_with(Mutation::KeepRefused, async |config| {
        let rig = Rig::new().await;
        let broker = rig.broker_with(1, &config).await;
        let live = |live| [2, 3].map(|bookie| rig.cluster.bookies.register(bookie, live));
        live(false);
        let outcome = broker.produce_from("first", number(0)).await;
        assert_eq!(reason(outcome), Reason::Unknown, "the log keeps it");
        let refused = broker.produce_from("second", number(1)).await;
        assert_eq!(reason(refused), Reason::NotEnoughLiveBookies);
        live(true);
        for (offset, value, first) in [(0, "first", 0), (1, "second", 1)] {
            loop {
                match broker.produce_from(value, number(first)).await {
                    Ok(at) => break assert_eq!(at, offset),
                    Err(error) => assert!(error.reason.retriable(), "{error}"),
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        assert_eq!(broker.all().await, once(&["first", "second"]));
    });
}

/// P4: stored, and never acknowledged, since the owner was cut off; the next owner knows it.
#[test]
fn what_was_stored_and_not_acknowledged_is_known_to_the_next_owner() {
    holds_only_with(Mutation::ForgetProducers, async |config| {
        let rig = Rig::new().await;
        let (old, new) = (rig.broker_with(1, &config).await, rig.broker_with(2, &config).await);
        assert_eq!(old.produce_from("0", number(0)).await, Ok(0));
        rig.cluster.bookies.set_all(Mode::Mute);
        let mut pending = Vec::new();
        for first in 1..4 {
            pending.push(old.submit_from(&first.to_string(), number(first)).await.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        rig.move_to(&new, 2).await;
        for pending in pending {
            assert_eq!(reason(pending.await), Reason::Unknown);
        }
        rig.cluster.bookies.set_all(Mode::Up);
        for first in 0..5 {
            let sent = new.produce_from(&first.to_string(), number(first)).await;
            assert_eq!(sent, Ok(i64::from(first)));
        }
        assert_eq!(new.all().await, once(&["0", "1", "2", "3", "4"]));
    });
}

/// Like S2: an owner that was deposed and does not know it lacks what the next one has. It does not say so.
#[tokio::test(start_paused = true)]
async fn only_an_owner_that_is_one_says_that_something_is_missing() {
    let rig = Rig::new().await;
    let (old, new) = (rig.broker(1).await, rig.broker(2).await);
    assert_eq!(old.produce_from("0", number(0)).await, Ok(0));
    let deposed = old.appender().await.unwrap();
    old.view.cancel();
    rig.move_to(&new, 2).await;
    assert_eq!(new.produce_from("1", number(1)).await, Ok(1));
    let stranger = Sequence { producer_id: 8, epoch: 0, first: 1 };
    for next in [number(2), stranger] {
        let Ok(pending) = deposed.append(batch_from("x", next)).await else { continue };
        let error = pending.await.unwrap_err();
        assert!(error.reason.retriable(), "{error}");
    }
    assert_eq!(new.produce_from("2", number(2)).await, Ok(2));
    assert_eq!(new.all().await, once(&["0", "1", "2"]));
}

/// Also through owners that had nothing of the producer themselves: it is in their snapshots. No wall clock makes it forgotten.
#[tokio::test(start_paused = true)]
async fn a_producer_is_known_for_as_long_as_it_is_not_silent_for_a_day() {
    const YEAR_MS: i64 = 365 * 24 * 3_600_000;
    let rig = Rig::new().await;
    let brokers = [rig.broker(1).await, rig.broker(2).await];
    assert_eq!(brokers[0].produce_from("0", number(0)).await, Ok(0));
    for term in 2..8 {
        let owner = &brokers[(term as usize + 1) % 2];
        rig.move_to(owner, term).await;
        assert_eq!(owner.produce_from("0", number(0)).await, Ok(0), "term {term}");
        // With the first batch of a ledger a snapshot is written.
        owner.produce("other").await.unwrap();
    }
    // The clock of this machine jumps, while it owns the partition and before the next one does.
    rig.cluster.clock.set(1_700_000_000_000 + YEAR_MS);
    snapshot(&brokers[0], Duration::ZERO).await;
    assert_eq!(brokers[0].produce_from("0", number(0)).await, Ok(0));
    rig.move_to(&brokers[1], 8).await;
    snapshot(&brokers[1], Duration::ZERO).await;
    assert_eq!(brokers[1].produce_from("0", number(0)).await, Ok(0));
    snapshot(&brokers[1], Duration::from_secs(25 * 3_600)).await;
    assert_eq!(reason(brokers[1].produce_from("1", number(1)).await), Reason::UnknownProducerId);
    let next = Sequence { epoch: 1, ..number(0) };
    brokers[1].produce_from("1", next).await.unwrap();
}

/// After a while, and when its ledger has been closed for being idle, makes the owner write a snapshot.
async fn snapshot(owner: &TestBroker, after: Duration) {
    let (records, ledgers) = (owner.all().await.len(), Duration::from_secs(3_600));
    tokio::time::sleep(after.max(ledgers)).await;
    owner.produce("other").await.unwrap();
    assert_eq!(owner.all().await.len(), records + 1);
}

/// What was taken once is answered, whatever the topic takes since; only what is new is refused (P2).
#[tokio::test(start_paused = true)]
async fn a_batch_that_comes_again_is_answered_though_the_topic_would_not_take_it_now() {
    let rig = Rig::new().await;
    let broker = rig.broker(1).await;
    let value = "a".repeat(2_000);
    assert_eq!(broker.produce_from(&value, number(0)).await, Ok(0));
    super::retention::alter(&rig, &broker, &[("max.message.bytes", "1000")]).await;
    assert_eq!(broker.produce_from(&value, number(0)).await, Ok(0));
    assert_eq!(reason(broker.produce_from(&value, number(1)).await), Reason::MessageTooLarge);
    assert_eq!(broker.produce_from("b", number(1)).await, Ok(1), "its number is free");
}

/// While storage stands still, what waits for a proof has waited for too long before batches have, and takes none with it.
#[tokio::test(start_paused = true)]
async fn a_proof_that_is_overdue_gives_up_no_batch() {
    let rig = Rig::new().await;
    let wait = Duration::from_secs(3);
    let broker = rig.broker_with(1, &Config { answer_wait: wait, ..Config::default() }).await;
    assert_eq!(broker.produce_from("0", number(0)).await, Ok(0));
    rig.cluster.bookies.set_all(Mode::Held);
    let gap = broker.submit_from("7", number(7)).await.unwrap();
    tokio::time::sleep(wait - Duration::from_secs(1)).await;
    let mut batches = Vec::new();
    for first in 1..8 {
        batches.push(broker.submit_from("a", number(first)).await.unwrap());
    }
    let young = broker.submit_from("9", number(9)).await.unwrap();
    let error = tokio::time::timeout(Duration::from_secs(2), gap).await.expect("given up");
    assert!(error.unwrap_err().reason.retriable());
    rig.cluster.bookies.set_all(Mode::Up);
    for (offset, batch) in (1..).zip(batches) {
        assert_eq!(batch.await.map(|appended| appended.base_offset), Ok(Offset(offset)));
    }
    assert_eq!(reason(young.await), Reason::OutOfOrderSequence);
}

/// Who drains says also what is proved only then.
#[tokio::test(start_paused = true)]
async fn a_partition_that_closes_finishes_its_proof() {
    let rig = Rig::new().await;
    let broker = rig.broker(1).await;
    assert_eq!(broker.produce_from("0", number(0)).await, Ok(0));
    rig.cluster.bookies.set_all(Mode::Held);
    let gap = broker.submit_from("7", number(7)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (bookies, partitions) = (rig.cluster.bookies.clone(), broker.partitions.clone());
    let shutdown = partitions.shutdown(SOON);
    let release = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bookies.set_all(Mode::Up);
    };
    let (answer, (), ()) = tokio::join!(gap, shutdown, release);
    assert_eq!(reason(answer), Reason::OutOfOrderSequence);
}

/// Beyond what a broker remembers it takes no more producers, and says so; a partition that closes makes room.
#[tokio::test(start_paused = true)]
async fn producers_beyond_what_a_broker_remembers_are_refused() {
    let rig = Rig::new().await;
    let config = Config { max_producers: 2, ..Config::default() };
    let broker = rig.broker_with(1, &config).await;
    let of = |producer_id| Sequence { producer_id, epoch: 0, first: 0 };
    for id in 1..=2 {
        broker.produce_from("a", of(id)).await.unwrap();
    }
    let refused = broker.produce_from("a", of(3)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::Overloaded);
    assert!(refused.message.contains("--max-producers"), "{refused}");
    rig.assign(2, 2).await;
    broker.sees_term(2).await;
    let gone = async {
        while broker.partitions.is_open(rig.topic.id, P0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, gone).await.expect("it closes");
    rig.move_to(&broker, 3).await;
    // What a takeover finds is kept.
    assert_eq!(broker.produce_from("a", of(1)).await, Ok(0));
    assert_eq!(reason(broker.produce_from("a", of(3)).await), Reason::Overloaded);
}

/// Where nobody writes no snapshot is written either; whom a quiet partition remembers makes room all the same, in time.
#[tokio::test(start_paused = true)]
async fn a_quiet_partition_keeps_no_room_from_others() {
    let rig = Rig::new().await;
    let config = Config { max_producers: 2, ..Config::default() };
    let expiry = config.producer_expiry;
    let broker = rig.broker_with(1, &config).await;
    for producer_id in 1..=2 {
        let first = Sequence { producer_id, epoch: 0, first: 0 };
        broker.produce_from("a", first).await.unwrap();
    }
    let other =
        |config: &Config| Producers::new(broker.partitions.0.producers.clone(), config.mutations);
    let sequence = Sequence { producer_id: 3, epoch: 0, first: 0 };
    let comer = Stamp { sequence, count: 1, attributes: 0, max_timestamp: 5 };
    let full = Verdict::Refused(Refusal::BrokerFull { most: 2 });
    assert_eq!(other(&config).check(&comer, 0), full);
    tokio::time::sleep(expiry - Duration::from_secs(60)).await;
    assert_eq!(other(&config).check(&comer, 0), full, "they are not silent for long enough");
    tokio::time::sleep(Duration::from_secs(900)).await;
    assert_eq!(other(&config).check(&comer, 0), Verdict::Next);
}

/// Something before it is missing.
fn is_gap(reason: Reason) -> bool {
    matches!(reason, Reason::OutOfOrderSequence | Reason::UnknownProducerId)
}

/// Until told to stop. Repeats what was not acknowledged under the same numbers, from the first on.
async fn produce(
    id: i64,
    brokers: &[TestBroker],
    random: &SeededRandom,
    stop: &Cell<bool>,
) -> Vec<(i64, String)> {
    let mut acked: Vec<(i64, String)> = Vec::new();
    let mut ahead = 0;
    // Once stopped, what may have been written is still found out.
    while !stop.get() || ahead > 0 {
        let broker = brokers.iter().find(|b| b.appender_is_here());
        let appender = match broker {
            Some(broker) => broker.appender().await,
            None => Err(no_owner("flights", P0)),
        };
        let Ok(appender) = appender else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let burst = if stop.get() { ahead } else { 1 + random.below(5) as usize };
        let (mut pending, mut tried) = (Vec::new(), 0);
        for i in acked.len()..acked.len() + burst.max(ahead) {
            let value = format!("{id}-{i:04}");
            let sequence = Sequence { producer_id: id, epoch: 0, first: i as i32 };
            match appender.append(batch_from(&value, sequence)).await {
                Ok(answer) => pending.push((value, answer)),
                Err(_) => break,
            }
            tried += 1;
        }
        ahead = ahead.max(tried);
        let mut failed = pending.is_empty();
        for (value, answer) in pending {
            match answer.await {
                Ok(appended) => {
                    assert!(!failed, "{value} was acknowledged after an earlier one had failed");
                    acked.push((appended.base_offset.0, value));
                    ahead -= 1;
                }
                // Without the one before it.
                Err(error) if is_gap(error.reason) => assert!(failed, "{error}"),
                Err(error) => {
                    assert!(error.reason.retriable(), "{error}");
                    failed = true;
                }
            }
        }
        let pause = if failed { 50 } else { 20 + random.below(80) };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    acked
}

/// Each record is there once, where its acknowledgement says, in order, and nothing else is.
#[tokio::test(start_paused = true)]
async fn while_partitions_move_and_bookies_fail_each_record_is_written_once() {
    for seed in 0..4 {
        println!("seed {seed}");
        let rig = Rig::new().await;
        let random = SeededRandom::new(seed);
        let brokers = [rig.broker(1).await, rig.broker(2).await];
        let stop = Cell::new(false);
        let producers = [1, 2, 3].map(|id| produce(id, &brokers, &random, &stop));
        let producers = futures::future::join_all(producers);
        let (acked, ()) = tokio::join!(producers, super::faults::disturb(&rig, &random, &stop));
        let reader = brokers.iter().find(|b| b.appender_is_here()).expect("an owner");
        let stored = reader.all().await;
        let mut acked = acked.concat();
        acked.sort_unstable();
        assert_eq!(stored, acked);
        println!("{} records", stored.len());
        assert!(stored.len() > 200, "hardly anything was written");
        rig.cluster.tasks.cancel();
    }
}
