use geminga_metastore::record::TierObject;
use geminga_proto::ids::{EntryId, Offset, Term};

use super::*;
use crate::testing;

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

fn trimmed(ledger: LedgerId) -> LedgerMeta {
    let object = TierObject {
        attempt: 5,
        bucket: "memory://".to_owned(),
        key: "a/b".to_owned(),
        size: 7,
        entries: 1,
        object_crc: 9,
        etag: String::new(),
        index_place: 3,
        at_ms: 0,
    };
    LedgerMeta {
        state: LedgerState::Closed,
        last_entry: Some(EntryId(0)),
        tier: Tier::Trimmed(object),
        ..testing::open_ledger(ledger)
    }
}

/// What a look does with six segments behind a list of this many bytes: the effect after the last ledger was read.
fn behind_a_list_of(size: u64) -> Effect {
    let part = ManifestPart {
        attempt: 7,
        bucket: "memory://".to_owned(),
        key: "a/list".to_owned(),
        size,
        crc: 5,
        first_seq: 1,
        last_seq: 9,
        segments: 9,
        base_offset: Offset(0),
        end_offset: Offset(0),
        bytes: 0,
        lowest_ledger: LedgerId(1),
        highest_ledger: LedgerId(9),
    };
    let look = Look {
        cluster: ClusterUuid::from_random(1),
        of: (TopicId::from_random(2), PartitionIndex(0)),
        bucket: "memory://".to_owned(),
        policy: POLICY,
        attempt: 8,
        now_ms: 0,
        mutations: Mutations::default(),
    };
    let mut all = listed(&[5; 9]);
    all.iter_mut().for_each(|at| at.seq += 100);
    let (mut fold, mut effect) = Fold::begin(look, all);
    loop {
        let event = match &effect {
            Effect::ReadManifest => {
                let manifest = Manifest { parts: vec![part.clone()], ..Manifest::default() };
                Event::Manifest(Some((manifest, Version(3))))
            }
            Effect::ReadLedger(ledger) => Event::Ledger(Some((trimmed(*ledger), Version(4)))),
            _ => return effect,
        };
        effect = fold.step(event);
    }
}

/// A list is written anew while everybody could read it then: larger ones are left as they are, and another is begun.
#[test]
fn a_list_does_not_outgrow_what_is_read() {
    assert!(matches!(behind_a_list_of(1_000), Effect::ReadPart(_)));
    let full = MAX_MANIFEST_BYTES as u64 - 100;
    let Effect::Write(list) = behind_a_list_of(full) else { panic!("another is begun") };
    assert_eq!(list.segments().len(), 6);
}
