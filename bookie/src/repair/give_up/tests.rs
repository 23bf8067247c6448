use geminga_metastore::record::{Custom, Digest, Fragment, TierObject};
use geminga_proto::ids::SealEpoch;
use geminga_runtime::holds_only_with;

use super::*;

fn member(number: u64) -> Member {
    Member { bookie: format!("b{number}").parse().unwrap(), incarnation: Incarnation(number) }
}

/// Entries 0 to 8, whose places are given to others than b1.
fn closed() -> LedgerMeta {
    let fragment = |first, ensemble: [u64; 3]| Fragment {
        first_entry: EntryId(first),
        ensemble: ensemble.map(member).to_vec(),
    };
    LedgerMeta {
        id: LedgerId(7),
        state: LedgerState::Closed,
        seal_epoch: SealEpoch(0),
        qw: 3,
        qa: 2,
        digest: Digest::Crc32c,
        fragments: vec![fragment(0, [2, 3, 4]), fragment(5, [2, 3, 5])],
        last_entry: Some(EntryId(8)),
        length: 0,
        entries_crc: None,
        close_kind: Some(CloseKind::Writer),
        recoverer: String::new(),
        last_op: 1,
        custom: Custom::default(),
        created_ms: 0,
        owner: String::new(),
        degraded: false,
        tier: Tier::Local,
    }
}

fn whole() -> Vec<Held> {
    [4, 4, 4, 8, 8, 8].map(|end| (Some(EntryId(end)), EntryId(end))).to_vec()
}

/// I15: a copy more than others should have is one that they need while they lack something.
#[test]
fn scenario_51_a_copy_that_others_need_stays() {
    holds_only_with(Mutation::GiveUpNeeded, |mutations| {
        let excess = |meta: &LedgerMeta, marked, held: &[Held]| {
            is_excess(meta, &member(1), EntryId(8), marked, held, mutations)
        };
        assert!(excess(&closed(), false, &whole()));
        assert!(!excess(&closed(), true, &whole()), "somebody lacks something");
        for short in 0..whole().len() {
            for tail in [None, Some(EntryId(3))] {
                let mut held = whole();
                held[short].0 = tail;
                assert!(!excess(&closed(), false, &held), "{held:?}");
            }
        }
    });
}

#[test]
fn a_copy_that_a_place_names_stays() {
    let excess = |meta: &LedgerMeta| {
        is_excess(meta, &member(1), EntryId(8), false, &whole(), Mutations::default())
    };
    assert!(excess(&closed()));
    let mut named = closed();
    named.fragments[0].ensemble[2] = member(1);
    assert!(!excess(&named), "it has a place in one fragment yet");
    named.fragments[0].ensemble[2] = Member { incarnation: Incarnation(9), ..member(1) };
    assert!(excess(&named), "another disk, or life, has it");
    for state in [LedgerState::Open, LedgerState::InRecovery, LedgerState::Deleting] {
        assert!(!excess(&LedgerMeta { state, ..closed() }));
    }
    let object = TierObject {
        attempt: 1,
        bucket: String::new(),
        key: String::new(),
        size: 1,
        entries: 1,
        object_crc: 0,
        etag: String::new(),
        index_place: 0,
        at_ms: 0,
    };
    assert!(!excess(&LedgerMeta { tier: Tier::Trimmed(object), ..closed() }), "by its object");
}

/// What was acknowledged behind an end that was forced, or came from a backup, may be here only.
#[test]
fn a_copy_that_goes_on_behind_the_end_stays() {
    let excess = |meta: &LedgerMeta, reach| {
        is_excess(meta, &member(1), EntryId(reach), false, &whole(), Mutations::default())
    };
    assert!(excess(&closed(), 8) && excess(&closed(), -1));
    assert!(!excess(&closed(), 9), "this disk knows of more");
    let risk = CloseKind::ForcedWithRisk { missing: vec![member(9)] };
    let forced = LedgerMeta { close_kind: Some(risk), ..closed() };
    assert!(!excess(&forced, 8), "its end is a human's guess");
    assert!(!excess(&LedgerMeta { last_entry: None, ..closed() }, 0));
}
