use geminga_metastore::record::{Custom, Digest, Tier};
use geminga_proto::ids::{Incarnation, LedgerId, Member, SealEpoch};
use geminga_runtime::holds_only_with;

use super::*;

const V1: Version = Version(1);
const OP: u128 = 77;

fn member(number: u64) -> Member {
    Member { bookie: format!("b{number}").parse().unwrap(), incarnation: Incarnation(number) }
}

fn fragment(first: i64, members: [u64; 3]) -> Fragment {
    Fragment { first_entry: EntryId(first), ensemble: members.map(member).to_vec() }
}

fn open(fragments: Vec<Fragment>) -> LedgerMeta {
    LedgerMeta {
        id: LedgerId(1),
        state: LedgerState::Open,
        seal_epoch: SealEpoch(0),
        qw: 3,
        qa: 2,
        digest: Digest::Crc32c,
        fragments,
        last_entry: None,
        length: 0,
        entries_crc: None,
        tier: Tier::Local,
        close_kind: None,
        recoverer: String::new(),
        last_op: 1,
        custom: Custom::default(),
        created_ms: 0,
        owner: String::new(),
        degraded: false,
    }
}

fn cas(next: Next) -> (Version, LedgerMeta) {
    match next {
        Next::Cas { expected, meta } => (expected, *meta),
        other => panic!("{other:?}"),
    }
}

/// A change of the ensemble of `meta`, and what it sends first.
fn change(meta: &LedgerMeta, to: Fragment) -> (Commit, LedgerMeta) {
    change_with(meta, to, Mutations::default())
}

fn change_with(meta: &LedgerMeta, to: Fragment, mutations: Mutations) -> (Commit, LedgerMeta) {
    let (commit, next) = Commit::new(meta, V1, Update::Ensemble(to), OP, mutations);
    let (expected, sent) = cas(next);
    assert_eq!((expected, sent.last_op), (V1, OP));
    (commit, sent)
}

/// A second change before anything was acknowledged on the first one's fragment takes its place (2.5 step 3).
#[test]
fn scenario_11_an_empty_last_fragment_is_replaced_and_another_is_appended() {
    holds_only_with(Mutation::AppendEmptyFragment, |mutations| {
        let meta = open(vec![fragment(0, [1, 2, 3])]);
        let (_, sent) = change_with(&meta, fragment(0, [1, 2, 4]), mutations);
        assert_eq!(sent.fragments, [fragment(0, [1, 2, 4])]);
        let (_, sent) = change_with(&meta, fragment(5, [1, 2, 4]), mutations);
        assert_eq!(sent.fragments, [fragment(0, [1, 2, 3]), fragment(5, [1, 2, 4])]);
        let (_, again) = change_with(&sent, fragment(5, [1, 2, 5]), mutations);
        assert_eq!(again.fragments, [fragment(0, [1, 2, 3]), fragment(5, [1, 2, 5])]);
        assert_eq!(again.validate(), Ok(()));
    });
}

/// M9: recognised by its operation, and not made twice.
#[test]
fn scenario_08_a_change_that_timed_out_and_was_applied_makes_no_second_fragment() {
    holds_only_with(Mutation::ForgetOperation, |mutations| {
        let meta = open(vec![fragment(0, [1, 2, 3])]);
        let (mut commit, sent) = change_with(&meta, fragment(5, [1, 2, 4]), mutations);
        assert_eq!(commit.cas_done(CasResult::Unknown), Next::Read);
        let next = commit.read(Some((sent.clone(), Version(2))));
        assert_eq!(next, Next::Committed(Box::new(sent.clone()), Version(2)));
        // Also where a repair of the first fragment has written over it meanwhile.
        let mut repaired = sent;
        repaired.fragments[0] = fragment(0, [5, 2, 3]);
        repaired.last_op = 99;
        let next = commit.read(Some((repaired.clone(), Version(3))));
        assert_eq!(next, Next::Committed(Box::new(repaired), Version(3)));
    });
}

/// The store may apply an attempt after it was repeated: the repetition is lost, and the read tells.
#[test]
fn an_attempt_that_is_applied_late_is_recognised() {
    let meta = open(vec![fragment(0, [1, 2, 3])]);
    let (mut commit, sent) = change(&meta, fragment(5, [1, 2, 4]));
    assert_eq!(commit.cas_done(CasResult::Unknown), Next::Read);
    let (expected, again) = cas(commit.read(Some((meta, V1))));
    assert_eq!((expected, &again), (V1, &sent));
    assert_eq!(commit.cas_done(CasResult::Lost), Next::Read);
    let next = commit.read(Some((sent.clone(), Version(2))));
    assert_eq!(next, Next::Committed(Box::new(sent), Version(2)));
}

/// The merge rule: built on the new value, never the old one sent again.
#[test]
fn scenario_09_a_change_that_lost_to_a_repair_is_rebuilt_with_both() {
    holds_only_with(Mutation::ResendOldValue, |mutations| {
        let meta = open(vec![fragment(0, [1, 2, 3]), fragment(4, [1, 2, 3])]);
        let (mut commit, _) = change_with(&meta, fragment(9, [1, 2, 4]), mutations);
        assert_eq!(commit.cas_done(CasResult::Lost), Next::Read);
        let mut repaired = meta;
        repaired.fragments[0] = fragment(0, [5, 2, 3]);
        let (expected, sent) = cas(commit.read(Some((repaired, Version(2)))));
        let both = [fragment(0, [5, 2, 3]), fragment(4, [1, 2, 3]), fragment(9, [1, 2, 4])];
        assert_eq!((expected, sent.fragments.as_slice()), (Version(2), both.as_slice()));
    });
}

#[test]
fn scenario_10_a_change_that_lost_to_a_recoverer_never_takes_place() {
    holds_only_with(Mutation::WriteWhenNotOpen, |mutations| {
        let meta = open(vec![fragment(0, [1, 2, 3])]);
        let taken = |state| {
            let mut taken = meta.clone();
            taken.state = state;
            taken.last_entry = (state == LedgerState::Closed).then_some(EntryId(3));
            Some((taken, Version(2)))
        };
        let states = [LedgerState::InRecovery, LedgerState::Closed, LedgerState::Deleting];
        for now in states.map(taken).into_iter().chain([None]) {
            let (mut commit, _) = change_with(&meta, fragment(5, [1, 2, 4]), mutations);
            commit.cas_done(CasResult::Lost);
            assert_eq!(commit.read(now), Next::Lost);
        }
    });
}

#[test]
fn a_close_is_ours_by_its_operation_or_its_kind() {
    let meta = open(vec![fragment(0, [1, 2, 3])]);
    let close = Update::Close { last: EntryId(4), length: 40, entries_crc: 4 };
    let (mut commit, next) = Commit::new(&meta, V1, close, OP, Mutations::default());
    let (_, sent) = cas(next);
    assert_eq!((sent.state, sent.last_entry), (LedgerState::Closed, Some(EntryId(4))));
    assert_eq!(commit.cas_done(CasResult::Unknown), Next::Read);
    let mut repaired = sent.clone();
    repaired.last_op = 99;
    let next = commit.read(Some((repaired.clone(), Version(3))));
    assert_eq!(next, Next::Committed(Box::new(repaired), Version(3)));
    // Scenario 25: the same end, but by a recoverer.
    let mut recovered = sent;
    recovered.last_op = 99;
    recovered.close_kind = Some(CloseKind::Recovered);
    assert_eq!(commit.read(Some((recovered, Version(3)))), Next::Lost);
}
