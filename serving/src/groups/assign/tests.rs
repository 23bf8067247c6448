use proptest::prelude::*;

use super::*;

fn names(topics: &[&str]) -> Vec<Arc<str>> {
    topics.iter().map(|&t| t.into()).collect()
}

fn run(
    topics: &[Vec<Arc<str>>],
    previous: &[Assignment],
    counts: &BTreeMap<&str, u32>,
) -> Vec<Assignment> {
    let members: Vec<_> = topics
        .iter()
        .zip(previous)
        .map(|(topics, previous)| Subscriber { topics, previous })
        .collect();
    assign(&members, |topic| counts.get(topic).copied().unwrap_or(0))
}

fn sizes(assigned: &[Assignment]) -> Vec<usize> {
    assigned.iter().map(|a| a.values().map(Vec::len).sum()).collect()
}

fn kept(before: &Assignment, after: &Assignment) -> usize {
    before
        .iter()
        .map(|(topic, list)| {
            list.iter().filter(|p| after.get(topic).is_some_and(|a| a.contains(p))).count()
        })
        .sum()
}

#[test]
fn one_member_reads_everything() {
    let counts = BTreeMap::from([("a", 3), ("b", 1)]);
    let got = run(&[names(&["a", "b", "gone"])], &[Assignment::new()], &counts);
    assert_eq!(got, vec![BTreeMap::from([("a".into(), vec![0, 1, 2]), ("b".into(), vec![0])])]);
}

#[test]
fn a_new_member_takes_only_its_share() {
    let counts = BTreeMap::from([("a", 12)]);
    let topics = vec![names(&["a"]); 3];
    let before = run(&topics[..2], &vec![Assignment::new(); 2], &counts);
    assert_eq!(sizes(&before), [6, 6]);
    let mut previous = before.clone();
    previous.push(Assignment::new());
    let after = run(&topics, &previous, &counts);
    assert_eq!(sizes(&after), [4, 4, 4]);
    assert_eq!(kept(&before[0], &after[0]) + kept(&before[1], &after[1]), 8);
}

#[test]
fn who_stays_keeps_everything() {
    let counts = BTreeMap::from([("a", 12)]);
    let topics = vec![names(&["a"]); 3];
    let before = run(&topics, &vec![Assignment::new(); 3], &counts);
    let after = run(&topics[1..], &before[1..], &counts);
    assert_eq!(sizes(&after), [6, 6]);
    for (before, after) in before[1..].iter().zip(&after) {
        assert_eq!(kept(before, after), 4);
    }
}

#[test]
fn more_members_than_partitions_leaves_some_idle() {
    let counts = BTreeMap::from([("a", 2)]);
    let got = run(&vec![names(&["a"]); 3], &vec![Assignment::new(); 3], &counts);
    assert_eq!(sizes(&got), [1, 1, 0]);
}

proptest! {
    /// Whatever members had and want: each partition of a subscribed topic has one reader, who subscribes to it;
    /// where all want the same, loads differ by at most one; the same input gives the same output.
    #[test]
    fn every_partition_has_one_reader(
        counts in proptest::collection::vec(0u32..12, 4),
        wants in proptest::collection::vec(proptest::collection::btree_set(0usize..4, 1..4), 1..7),
        had in proptest::collection::vec(proptest::collection::btree_map(0usize..4, proptest::collection::btree_set(0u32..14, 0..9), 0..4), 7),
    ) {
        const NAMES: [&str; 4] = ["a", "b", "c", "d"];
        let counts: BTreeMap<&str, u32> = NAMES.into_iter().zip(counts).collect();
        let topics: Vec<Vec<Arc<str>>> = wants.iter().map(|w| w.iter().map(|&t| NAMES[t].into()).collect()).collect();
        let previous: Vec<Assignment> = had.iter().take(topics.len())
            .map(|m| m.iter().map(|(&t, ps)| (NAMES[t].into(), ps.iter().copied().collect())).collect())
            .collect();
        let got = run(&topics, &previous, &counts);
        prop_assert_eq!(&got, &run(&topics, &previous, &counts));
        let mut readers: BTreeMap<(&str, u32), usize> = BTreeMap::new();
        for (at, assigned) in got.iter().enumerate() {
            for (topic, list) in assigned {
                prop_assert!(topics[at].contains(topic));
                for &partition in list {
                    let topic = NAMES.into_iter().find(|n| **n == **topic).unwrap();
                    prop_assert!(readers.insert((topic, partition), at).is_none(), "two readers");
                }
            }
        }
        let wanted: usize = NAMES.into_iter()
            .filter(|n| topics.iter().any(|t| t.iter().any(|x| **x == **n)))
            .map(|n| counts[n] as usize).sum();
        prop_assert_eq!(readers.len(), wanted);
        if topics.iter().all(|t| *t == topics[0]) {
            let sizes = sizes(&got);
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{:?}", sizes);
        }
    }
}
