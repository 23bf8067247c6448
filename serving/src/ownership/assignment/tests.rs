//! Evenness, stickiness and terms of the assignment, by example and over random histories.

use proptest::prelude::*;

use super::*;

type Current = HashMap<TopicId, Vec<Ownership>>;

fn topic(n: u128) -> TopicId {
    TopicId::from_random(n)
}

fn brokers(ids: &[i32]) -> BTreeSet<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

fn step(
    topics: &[(TopicId, u32)],
    current: &mut Current,
    live: &[i32],
    suspect: &[i32],
) -> Vec<Change> {
    let (live, suspect) = (brokers(live), brokers(suspect));
    let changes = plan(&Input { topics, current, live: &live, suspect: &suspect });
    for change in &changes {
        let count = topics.iter().find(|(t, _)| *t == change.topic).unwrap().1 as usize;
        let owned = current.entry(change.topic).or_default();
        owned.resize(count, Ownership::default());
        assert_eq!(owned[change.partition.0 as usize], change.before);
        assert_ne!(change.before.broker, change.after.broker);
        assert_eq!(change.after.term.0, change.before.term.0 + 1);
        owned[change.partition.0 as usize] = change.after;
    }
    changes
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

proptest! {
    /// Over a history of deaths, arrivals, suspicions and new topics: all owned, even, no needless moves.
    #[test]
    fn always_even_and_never_restless(
        steps in proptest::collection::vec(
            (proptest::collection::btree_set(0..6i32, 0..6), 0..6i32, 0..9u32),
            1..12,
        )
    ) {
        let mut topics: Vec<(TopicId, u32)> = Vec::new();
        let mut current = Current::new();
        for (n, (live, suspect, partitions)) in steps.into_iter().enumerate() {
            if partitions > 0 {
                topics.push((topic(n as u128 + 1), partitions));
            }
            let suspect: Vec<i32> = [suspect].into_iter().filter(|s| !live.contains(s)).collect();
            let live: Vec<i32> = live.into_iter().collect();
            let before = loads(&current);
            let changes = step(&topics, &mut current, &live, &suspect);
            if live.is_empty() {
                prop_assert!(changes.is_empty());
                continue;
            }
            let after = loads(&current);
            let of = |loads: &BTreeMap<i32, usize>, b: &i32| loads.get(b).copied().unwrap_or(0);
            let counts: Vec<usize> = live.iter().map(|b| of(&after, b)).collect();
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
            for (broker, load) in &after {
                prop_assert!(live.contains(broker) || (suspect.contains(broker) && of(&before, broker) == *load));
            }
            let total: u32 = topics.iter().map(|t| t.1).sum();
            prop_assert_eq!(after.values().sum::<usize>(), total as usize);
            // A living owner loses only what it must: down to the even share, and no further.
            let lost = |b: &i32| changes.iter().filter(|c| c.before.broker == Some(BrokerId(*b))).count();
            for broker in &live {
                let floor = counts.iter().min().unwrap();
                prop_assert!(lost(broker) == 0 || of(&before, broker) - lost(broker) >= *floor);
                // Nobody both gives away and receives.
                let got = changes.iter().any(|c| c.after.broker == Some(BrokerId(*broker)));
                prop_assert!(lost(broker) == 0 || !got);
            }
            prop_assert!(step(&topics, &mut current, &live, &suspect).is_empty());
        }
    }
}
