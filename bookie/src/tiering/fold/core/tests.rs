use geminga_proto::ids::{Offset, Term};

use super::*;

fn listed(records: &[i64]) -> Vec<Listed> {
    let mut base = 0;
    let one = |(at, records): (usize, &i64)| {
        let segment = Segment {
            ledger: LedgerId(at as u64),
            base_offset: Offset(base),
            term: Term(1),
            end_offset: Some(Offset(base + records)),
            max_timestamp: None,
            bytes: None,
        };
        base += records;
        Listed { seq: at as u32, segment, version: Version(1) }
    };
    records.iter().enumerate().map(one).collect()
}

const POLICY: Policy = Policy { keep: 3, at_least: 2 };

#[test]
fn the_newest_keep_their_keys_and_few_are_not_worth_it() {
    assert_eq!(POLICY.foldable(&listed(&[5; 4])), 0, "one only");
    assert_eq!(POLICY.foldable(&listed(&[5; 5])), 2);
    assert_eq!(POLICY.foldable(&listed(&[5; 50])), 47);
    assert_eq!(POLICY.foldable(&listed(&vec![5; 5_000])), MAX_RUN);
    assert_eq!(Policy { keep: 0, at_least: 0 }.foldable(&listed(&[5; 4])), 3, "never all");
    assert_eq!(POLICY.foldable(&[]), 0);
}

/// Who opens the partition finds its end among the keys: one that holds records, and with them a snapshot, is always there (P4).
#[test]
fn one_that_holds_records_keeps_its_key() {
    assert_eq!(POLICY.foldable(&listed(&[5, 5, 5, 5, 0, 0, 0])), 3, "the last that holds any");
    assert_eq!(POLICY.foldable(&listed(&[0; 9])), 0);
    let mut open = listed(&[5, 5, 5, 5, 5, 5]);
    for at in &mut open[2..] {
        at.segment.end_offset = None;
    }
    assert_eq!(POLICY.foldable(&open), 0, "of the others nobody noted that they hold any");
}
