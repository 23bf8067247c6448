//! Producers while partitions move and bookies fail, by seed.

use std::cell::Cell;

use geminga_runtime::{Random, SeededRandom};

use super::*;

const MOVES: i32 = 25;

/// Until told to stop. Retries in order from the first batch that was not acknowledged, as a client does (P5).
async fn produce(
    name: char,
    brokers: &[TestBroker],
    random: &SeededRandom,
    stop: &Cell<bool>,
) -> (Vec<(i64, String)>, usize) {
    let (mut acked, mut unknown) = (Vec::new(), 0);
    while !stop.get() {
        let broker = brokers.iter().find(|b| b.appender_is_here());
        let appender = match broker {
            Some(broker) => broker.appender().await,
            None => Err(no_owner("flights", P0)),
        };
        let Ok(appender) = appender else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut pending = Vec::new();
        let burst = 1 + random.below(8) as usize;
        for i in acked.len()..acked.len() + burst {
            let value = format!("{name}{i:04}");
            match appender.append(batch_of(&value)).await {
                Ok(answer) => pending.push((value, answer)),
                Err(_) => break,
            }
        }
        let mut failed = pending.is_empty();
        for (value, answer) in pending {
            match answer.await {
                Ok(appended) => {
                    assert!(!failed, "{value} was acknowledged after an earlier one had failed");
                    acked.push((appended.base_offset.0, value));
                }
                Err(error) => {
                    assert!(error.reason.retriable(), "{error}");
                    unknown += usize::from(error.reason == Reason::Unknown);
                    failed = true;
                }
            }
        }
        let pause = if failed { 50 } else { 20 + random.below(80) };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    (acked, unknown)
}

/// Moves the partition while bookies are away, one or too many; what is taken away comes back.
pub(super) async fn disturb(rig: &Rig, random: &SeededRandom, stop: &Cell<bool>) {
    for term in 2..2 + MOVES {
        tokio::time::sleep(Duration::from_millis(random.below(400))).await;
        let mode = [Mode::Held, Mode::Stopped, Mode::Mute][random.below(3) as usize];
        let first = 1 + random.below(3) as usize;
        for bookie in first..=3 {
            rig.cluster.bookies.set(bookie, mode);
        }
        tokio::time::sleep(Duration::from_millis(random.below(400))).await;
        rig.assign(1 + (term % 2), term).await;
        tokio::time::sleep(Duration::from_millis(random.below(1500))).await;
        rig.cluster.bookies.set_all(Mode::Up);
    }
    stop.set(true);
}

/// Nothing acknowledged is lost or moved, and each producer's batches keep their order.
#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_stays_where_it_was_said_to_be() {
    let mut unknowns = 0;
    for seed in 0..2 {
        println!("seed {seed}");
        let rig = Rig::new().await;
        let random = SeededRandom::new(seed);
        let brokers = [rig.broker(1).await, rig.broker(2).await];
        let stop = Cell::new(false);
        let producers = ['a', 'b', 'c'].map(|name| produce(name, &brokers, &random, &stop));
        let producers = futures::future::join_all(producers);
        let (acked, ()) = tokio::join!(producers, disturb(&rig, &random, &stop));
        let reader = loop {
            let here = brokers.iter().find(|b| b.appender_is_here());
            if let Some(broker) = here
                && broker.appender().await.is_ok()
            {
                break broker;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let stored = reader.all().await;
        for (at, (offset, _)) in stored.iter().enumerate() {
            assert_eq!(*offset, at as i64, "offsets are dense");
        }
        for (acked, unknown) in acked {
            unknowns += unknown;
            assert!(acked.is_sorted(), "acknowledged out of order: {acked:?}");
            for (offset, value) in acked {
                assert_eq!(stored[offset as usize].1, value);
            }
        }
        println!("{} records stored, {unknowns} outcomes unknown so far", stored.len());
        rig.cluster.tasks.cancel();
    }
    assert!(unknowns > 0, "nothing was disturbed");
}
