use bytes::Bytes;
use geminga_proto::ids::{Offset, Term};

use super::*;
use crate::partition::log::segments::Known;
use crate::partition::log::tail::Tail;
use crate::partition::log::{Ends, ReadEntry};

const ENTRY: usize = 100;

fn partition(tails: &Tails) -> Arc<Segments> {
    let known = Known {
        ends: Ends { log_start: Offset(0), high_watermark: Offset(0) },
        max_timestamp: -1,
        segments: Vec::new(),
        anchor: None,
        term: Term(1),
    };
    Arc::new(Segments::new(known, Tail::new(10 * ENTRY, -1), tails.clone()))
}

fn fill(partition: &Arc<Segments>, offsets: std::ops::Range<i64>) {
    for n in offsets {
        let payload = Bytes::from(vec![0; ENTRY]);
        let entry =
            ReadEntry { first_offset: Offset(n), offset_count: 1, max_timestamp: n, payload };
        partition.committed(vec![entry], Offset(n + 1));
    }
}

/// The first offset in memory.
fn first(partition: &Segments) -> Option<i64> {
    let end = partition.ends().high_watermark.0;
    (0..end).find(|n| partition.recent(Offset(*n), 1).is_some())
}

#[test]
fn all_together_stay_within_the_bound() {
    let tails = Tails::new(25 * ENTRY);
    let partitions: Vec<_> = (0..10).map(|_| partition(&tails)).collect();
    for round in 0..20 {
        for partition in &partitions {
            fill(partition, round * 3..round * 3 + 3);
            assert!(tails.bytes() <= 25 * ENTRY, "{tails:?}");
        }
    }
    let kept = partitions.iter().filter_map(|p| Some(60 - first(p)?)).sum::<i64>();
    assert_eq!(kept as usize * ENTRY, tails.bytes(), "what is counted is what is kept");
}

#[test]
fn a_partition_that_takes_nothing_more_gives_up_what_it_keeps() {
    let tails = Tails::new(10 * ENTRY);
    let (quiet, busy) = (partition(&tails), partition(&tails));
    fill(&quiet, 0..10);
    fill(&busy, 0..200);
    assert_eq!(first(&quiet), None);
    assert_eq!(first(&busy), Some(190), "up to its own bound");
    assert_eq!(tails.members(), 1);
    fill(&quiet, 10..11);
    assert_eq!(tails.members(), 2);
}

#[test]
fn what_is_dropped_is_counted_no_more_and_leaves_the_ring() {
    let tails = Tails::new(usize::MAX);
    for _ in 0..1_000 {
        fill(&partition(&tails), 0..3);
    }
    assert_eq!(tails.bytes(), 0);
    assert!(tails.members() <= MIN_SWEEP);
}
