//! Evenness, stickiness and terms of the assignment, by example and over random histories.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

type Current = HashMap<TopicId, Vec<Ownership>>;

fn topic(n: u128) -> TopicId {
    TopicId::from_random(n)
}

fn brokers(ids: &[i32]) -> BTreeSet<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

/// What a step depends on besides topics and owners.
#[derive(Debug, Clone, Default)]
struct Brokers {
    live: BTreeSet<BrokerId>,
    suspect: BTreeSet<BrokerId>,
    draining: BTreeSet<BrokerId>,
    loads: HashMap<BrokerId, BrokerLoad>,
}

impl Brokers {
    fn live(ids: &[i32]) -> Self {
        Self { live: brokers(ids), ..Self::default() }
    }

    fn draining(mut self, ids: &[i32]) -> Self {
        self.draining = brokers(ids);
        self
    }
}

/// One answer, carried out.
fn one(topics: &[(TopicId, u32)], current: &mut Current, brokers: &Brokers) -> Vec<Change> {
    let Brokers { live, suspect, draining, loads } = brokers;
    let changes = plan(&Input { topics, current, live, suspect, draining, loads });
    for change in &changes {
        let count = topics.iter().find(|(t, _)| *t == change.topic).unwrap().1 as usize;
        let owned = current.entry(change.topic).or_default();
        owned.resize(count, Ownership::default());
        assert_eq!(owned[change.partition.0 as usize], change.before);
        assert_ne!(change.before.broker, change.after.broker);
        assert_eq!(change.after.term.0, change.before.term.0 + 1);
        owned[change.partition.0 as usize] = change.after;
    }
    let planned = |c: &&Change| !matches!(c.cause, Cause::New | Cause::Death);
    let from: BTreeSet<_> = changes.iter().filter(planned).map(|c| c.before.broker).collect();
    assert!(from.len() <= 1, "moves from several brokers at once: {from:?}");
    let owned: usize = current.values().map(Vec::len).sum();
    let most = balance::AT_ONCE.max(owned / balance::DRAIN_PARTS);
    assert!(changes.iter().filter(planned).count() <= most);
    changes
}

/// Answers, until nothing more is asked for.
fn settle(topics: &[(TopicId, u32)], current: &mut Current, brokers: &Brokers) -> Vec<Change> {
    let mut all = Vec::new();
    for _ in 0..1_000 {
        let changes = one(topics, current, brokers);
        if changes.is_empty() {
            return all;
        }
        all.extend(changes);
    }
    panic!("it never comes to rest: {brokers:?}");
}

fn step(
    topics: &[(TopicId, u32)],
    current: &mut Current,
    live: &[i32],
    suspect: &[i32],
) -> Vec<Change> {
    let suspect = brokers(suspect);
    settle(topics, current, &Brokers { suspect, ..Brokers::live(live) })
}

fn loads(current: &Current) -> BTreeMap<i32, usize> {
    let mut loads = BTreeMap::new();
    for broker in current.values().flatten().filter_map(|o| o.broker) {
        *loads.entry(broker.0).or_default() += 1;
    }
    loads
}

#[test]
fn a_new_topic_is_spread_over_all() {
    let (topics, mut current) = ([(topic(1), 12)], Current::new());
    step(&topics, &mut current, &[1, 2], &[]);
    assert_eq!(loads(&current), BTreeMap::from([(1, 6), (2, 6)]));
    assert!(current[&topic(1)].iter().all(|o| o.term == Term(1)));
}

#[test]
fn a_death_moves_only_what_the_dead_broker_had() {
    let (topics, mut current) = ([(topic(1), 12)], Current::new());
    step(&topics, &mut current, &[1, 2, 3], &[]);
    let changes = step(&topics, &mut current, &[1, 3], &[]);
    assert_eq!(changes.len(), 4);
    assert!(changes.iter().all(|c| c.before.broker == Some(BrokerId(2))));
    assert_eq!(loads(&current), BTreeMap::from([(1, 6), (3, 6)]));
}

#[test]
fn a_newcomer_takes_its_share_of_every_topic() {
    let (topics, mut current) = ([(topic(1), 12), (topic(2), 12)], Current::new());
    step(&topics, &mut current, &[1], &[]);
    let changes = step(&topics, &mut current, &[1, 2], &[]);
    assert_eq!(changes.len(), 12);
    assert_eq!(changes.iter().filter(|c| c.topic == topic(1)).count(), 6);
}

#[test]
fn a_suspect_keeps_its_partitions_and_gets_none() {
    let (topics, mut current) = ([(topic(1), 10)], Current::new());
    step(&topics, &mut current, &[1, 2], &[]);
    assert_eq!(step(&topics, &mut current, &[1], &[2]), []);
    let more = [(topic(1), 10), (topic(2), 4)];
    let changes = step(&more, &mut current, &[1], &[2]);
    assert!(changes.iter().all(|c| c.after.broker == Some(BrokerId(1)) && c.topic == topic(2)));
    assert_eq!(changes.len(), 4);
}

#[test]
fn nobody_alive_changes_nothing() {
    let (topics, mut current) = ([(topic(1), 3)], Current::new());
    assert_eq!(step(&topics, &mut current, &[], &[]), []);
    step(&topics, &mut current, &[1], &[]);
    assert_eq!(step(&topics, &mut current, &[], &[]), []);
}

#[test]
fn a_draining_broker_gives_everything_away_and_gets_nothing() {
    let (topics, mut current) = ([(topic(1), 50)], Current::new());
    step(&topics, &mut current, &[1, 2, 3], &[]);
    let draining = Brokers::live(&[1, 2, 3]).draining(&[2]);
    let changes = settle(&topics, &mut current, &draining);
    assert!(
        changes.iter().all(|c| c.before.broker == Some(BrokerId(2)) && c.cause == Cause::Drain)
    );
    assert_eq!(loads(&current), BTreeMap::from([(1, 25), (3, 25)]));
    let more = [(topic(1), 50), (topic(2), 4)];
    settle(&more, &mut current, &draining);
    assert_eq!(loads(&current), BTreeMap::from([(1, 27), (3, 27)]));
    // Taken back, it gets its share again.
    let changes = step(&more, &mut current, &[1, 2, 3], &[]);
    assert!(changes.iter().all(|c| c.after.broker == Some(BrokerId(2))));
    assert_eq!(loads(&current), BTreeMap::from([(1, 18), (2, 18), (3, 18)]));
    // With nobody else there it keeps what it has; one that cannot be seen does, too.
    assert_eq!(settle(&more, &mut current, &Brokers::live(&[1, 2, 3]).draining(&[1, 2, 3])), []);
    let unseen = Brokers { suspect: brokers(&[2]), ..Brokers::live(&[1, 3]).draining(&[2]) };
    assert_eq!(settle(&more, &mut current, &unseen), []);
}

#[test]
fn a_large_drain_takes_few_answers_and_ends_gently() {
    let topics: Vec<(TopicId, u32)> = (1..=40).map(|n| (topic(n), 100)).collect();
    let mut current = Current::new();
    step(&topics, &mut current, &[2], &[]);
    let draining = Brokers::live(&[1, 2]).draining(&[2]);
    let mut sizes = Vec::new();
    loop {
        let changes = one(&topics, &mut current, &draining);
        if changes.is_empty() {
            break;
        }
        sizes.push(changes.len());
    }
    assert_eq!(loads(&current), BTreeMap::from([(1, 4_000)]));
    assert_eq!((sizes[0], sizes[sizes.len() - 2]), (62, balance::AT_ONCE));
    assert!(sizes.len() < 160, "{} answers, not 4,000 / 16", sizes.len());
}

#[test]
fn small_differences_are_left_alone() {
    let (topics, mut current) = ([(topic(1), 12)], Current::new());
    step(&topics, &mut current, &[1, 2], &[]);
    let at = current[&topic(1)].iter().position(|o| o.broker == Some(BrokerId(1))).unwrap();
    // As an operator moved it.
    current.get_mut(&topic(1)).unwrap()[at].broker = Some(BrokerId(2));
    assert_eq!(step(&topics, &mut current, &[1, 2], &[]), []);
    assert_eq!(loads(&current), BTreeMap::from([(1, 5), (2, 7)]));
}

const MIB: u64 = 1024 * 1024;

fn load(bytes: u64, busiest: &[(u32, u64)]) -> BrokerLoad {
    let busiest = busiest.iter().map(|(p, bytes)| (topic(1), PartitionIndex(*p), *bytes));
    BrokerLoad { bytes, busiest: busiest.collect() }
}

#[test]
fn the_hottest_broker_gives_a_busy_partition_to_the_coldest() {
    let (topics, mut current) = ([(topic(1), 12)], Current::new());
    step(&topics, &mut current, &[1, 2], &[]);
    let of = |broker| -> Vec<u32> {
        let owns = |(p, o): (u32, &Ownership)| (o.broker == Some(BrokerId(broker))).then_some(p);
        (0..).zip(&current[&topic(1)]).filter_map(owns).collect()
    };
    let (hot, cold) = (of(1), of(2));
    let with = |first: BrokerLoad, second: BrokerLoad| Brokers {
        loads: HashMap::from([(BrokerId(1), first), (BrokerId(2), second)]),
        ..Brokers::live(&[1, 2])
    };
    // All of it in one partition: moving that helps nobody.
    let single = with(load(90 * MIB, &[(hot[0], 89 * MIB)]), load(MIB, &[]));
    assert_eq!(one(&topics, &mut current.clone(), &single), []);
    // Little in all, or little difference.
    let little = with(load(MIB / 2, &[(hot[0], MIB / 4)]), load(0, &[]));
    assert_eq!(one(&topics, &mut current.clone(), &little), []);
    let even = with(load(60 * MIB, &[(hot[0], 20 * MIB)]), load(40 * MIB, &[]));
    assert_eq!(one(&topics, &mut current.clone(), &even), []);
    // A report that names what it does not own any more.
    let late = with(load(90 * MIB, &[(cold[0], 40 * MIB)]), load(MIB, &[]));
    assert_eq!(one(&topics, &mut current.clone(), &late), []);
    // Nobody knows what the other one carries.
    let unknown = Brokers {
        loads: HashMap::from([(BrokerId(1), load(90 * MIB, &[(hot[0], 40 * MIB)]))]),
        ..Brokers::live(&[1, 2])
    };
    assert_eq!(one(&topics, &mut current.clone(), &unknown), []);

    let busy = load(90 * MIB, &[(hot[0], 60 * MIB), (hot[1], 40 * MIB)]);
    let changes = one(&topics, &mut current, &with(busy, load(MIB, &[])));
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].partition.0, changes[0].cause), (hot[1], Cause::Load));
    assert_eq!(changes[0].after.broker, Some(BrokerId(2)));
    // And numbers do not take it back.
    assert_eq!(step(&topics, &mut current, &[1, 2], &[]), []);
}

proptest! {
    /// Over a history of deaths, arrivals, suspicions, drains and new topics: all owned, even within the slack, no
    /// needless moves.
    #[test]
    fn always_even_and_never_restless(
        steps in proptest::collection::vec(
            (proptest::collection::btree_set(0..6i32, 0..6), 0..6i32, 0..6i32, 0..40u32),
            1..12,
        )
    ) {
        let mut topics: Vec<(TopicId, u32)> = Vec::new();
        let mut current = Current::new();
        for (n, (live, suspect, drains, partitions)) in steps.into_iter().enumerate() {
            if partitions > 0 {
                topics.push((topic(n as u128 + 1), partitions));
            }
            let suspect: Vec<i32> = [suspect].into_iter().filter(|s| !live.contains(s)).collect();
            let live: Vec<i32> = live.into_iter().collect();
            let state = Brokers { suspect: brokers(&suspect), ..Brokers::live(&live).draining(&[drains]) };
            let before = loads(&current);
            let changes = settle(&topics, &mut current, &state);
            if live.is_empty() {
                prop_assert!(changes.is_empty());
                continue;
            }
            let mut takers = live.clone();
            if live.len() > 1 {
                takers.retain(|b| *b != drains);
            }
            let after = loads(&current);
            let of = |loads: &BTreeMap<i32, usize>, b: &i32| loads.get(b).copied().unwrap_or(0);
            let counts: Vec<usize> = takers.iter().map(|b| of(&after, b)).collect();
            let (most, fewest) = (*counts.iter().max().unwrap(), *counts.iter().min().unwrap());
            let share = counts.iter().sum::<usize>() / counts.len();
            prop_assert!(most - fewest <= 2.max(share / 8), "{counts:?}");
            prop_assert!(fewest > 0 || most < 2, "{counts:?}");
            for (broker, load) in &after {
                prop_assert!(takers.contains(broker) || (suspect.contains(broker) && of(&before, broker) == *load));
            }
            let total: u32 = topics.iter().map(|t| t.1).sum();
            prop_assert_eq!(after.values().sum::<usize>(), total as usize);
            // Each partition moves once at most, unless its owner was gone, and nobody both gives away and receives.
            for broker in &takers {
                let gave = changes.iter().any(|c| c.before.broker == Some(BrokerId(*broker)));
                let got = changes.iter().any(|c| c.after.broker == Some(BrokerId(*broker)));
                prop_assert!(!gave || !got || changes.iter().any(|c| matches!(c.cause, Cause::Death | Cause::New | Cause::Spread)));
            }
            prop_assert!(one(&topics, &mut current, &state).is_empty());
        }
    }

    /// Whatever brokers report, moves for their bytes' sake come to rest, for numbers too.
    #[test]
    fn loads_that_follow_their_partitions_come_to_rest(
        bytes in proptest::collection::vec(0..50_000_000u64, 1..40),
        count in 2..5i32,
    ) {
        let topics = [(topic(1), bytes.len() as u32)];
        let live: Vec<i32> = (0..count).collect();
        let mut current = Current::new();
        let mut moves = 0;
        loop {
            let mut loads: HashMap<BrokerId, BrokerLoad> =
                live.iter().map(|b| (BrokerId(*b), BrokerLoad::default())).collect();
            for (p, owner) in (0..).zip(current.get(&topic(1)).into_iter().flatten()) {
                let load = loads.get_mut(&owner.broker.unwrap()).unwrap();
                load.bytes += bytes[p as usize];
                load.busiest.push((topic(1), PartitionIndex(p), bytes[p as usize]));
            }
            for load in loads.values_mut() {
                load.busiest.sort_by_key(|(_, _, bytes)| std::cmp::Reverse(*bytes));
                load.busiest.truncate(16);
            }
            let changes = one(&topics, &mut current, &Brokers { loads, ..Brokers::live(&live) });
            if changes.is_empty() {
                break;
            }
            moves += 1;
            prop_assert!(moves < 200, "it goes on and on");
        }
    }
}
