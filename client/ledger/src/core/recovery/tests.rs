mod forced;

use geminga_metastore::record::{Custom, Digest, Fragment, Tier};
use geminga_proto::ids::{Incarnation, LedgerId, Member};
use geminga_runtime::holds_only_with;

use super::*;

const V1: Version = Version(1);
const V2: Version = Version(2);

fn member(number: u64) -> Member {
    Member { bookie: format!("b{number}").parse().unwrap(), incarnation: Incarnation(number) }
}

/// An open ledger of three members, two acks, whose last fragment starts at `first`.
fn open(first: i64) -> LedgerMeta {
    let ensemble = vec![member(1), member(2), member(3)];
    let mut fragments = vec![Fragment { first_entry: EntryId(0), ensemble: ensemble.clone() }];
    if first > 0 {
        fragments.push(Fragment { first_entry: EntryId(first), ensemble });
    }
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
        last_op: 0,
        custom: Custom::default(),
        created_ms: 0,
        owner: String::new(),
        degraded: false,
    }
}

/// A recovery that has marked the ledger and waits for seals.
fn sealing(first: i64) -> Recovery {
    sealing_with(first, Mutations::default())
}

/// The same, without a rule.
fn sealing_with(first: i64, mutations: Mutations) -> Recovery {
    let (mut recovery, effects) = Recovery::new("R".to_owned(), 100, mutations);
    assert_eq!(effects, [Effect::ReadMeta]);
    let effects = recovery.step(Event::meta_read(Some((open(first), V1))));
    let [Effect::Cas { expected: V1, meta }] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!((meta.state, meta.seal_epoch), (LedgerState::InRecovery, SealEpoch(1)));
    let effects = recovery.step(Event::CasDone(CasResult::Applied(V2)));
    assert_eq!(effects.len(), 4, "a deadline and three seals: {effects:?}");
    for effect in &effects[1..] {
        let Effect::Seal { fragment_first, .. } = effect else { panic!("{effect:?}") };
        assert_eq!(*fragment_first, EntryId(first), "tails are relative to the last fragment");
    }
    recovery
}

fn seal(recovery: &mut Recovery, position: usize, tail: i64, max_lac: i64) -> Vec<Effect> {
    recovery.step(Event::Sealed {
        position,
        tail: EntryId(tail),
        max_lac: EntryId(max_lac),
        authoritative: true,
    })
}

/// The end that the closing CAS would set.
fn closing_at(effects: &[Effect]) -> Option<i64> {
    effects.iter().find_map(|effect| match effect {
        Effect::Cas { meta, .. } if meta.state == LedgerState::Closed => {
            meta.last_entry.map(|e| e.0)
        }
        _ => None,
    })
}

/// Between members of a ledger of one fragment.
fn copy(source: usize, target: usize, first: i64, last: i64) -> Effect {
    copy_to(source, (target, target as u64 + 1), 0, first, last)
}

fn copy_to(
    source: usize,
    (target, to): (usize, u64),
    fragment_first: i64,
    first: i64,
    last: i64,
) -> Effect {
    Effect::Copy {
        from: member(source as u64 + 1),
        target,
        to: member(to),
        fragment_first: EntryId(fragment_first),
        first: EntryId(first),
        last: EntryId(last),
    }
}

fn found(recovery: &mut Recovery, replacements: &[(u64, u64)]) -> Vec<Effect> {
    let found = replacements.iter().map(|(old, new)| (member(*old), member(*new))).collect();
    recovery.step(Event::Found(found))
}

fn source_failed(recovery: &mut Recovery, source: usize, target: usize, entry: i64) -> Vec<Effect> {
    recovery.step(failed(source, target, entry, false))
}

/// A source fails: the member at this position of a ledger of one fragment.
fn failed(source: usize, target: usize, entry: i64, corrupt: bool) -> Event {
    let from = member(source as u64 + 1);
    Event::SourceFailed { from, target, entry: EntryId(entry), corrupt }
}

#[test]
fn a_closed_ledger_is_adopted() {
    let mut closed = open(0);
    closed.state = LedgerState::Closed;
    closed.last_entry = Some(EntryId(4));
    let (mut recovery, _) = Recovery::new("R".to_owned(), 100, Mutations::default());
    let effects = recovery.step(Event::meta_read(Some((closed.clone(), V1))));
    assert_eq!(effects, [Effect::Finish(Finish::Closed(Box::new(closed)))]);
}

#[test]
fn a_deleted_ledger_is_not_created_again() {
    let (mut recovery, _) = Recovery::new("R".to_owned(), 100, Mutations::default());
    assert_eq!(recovery.step(Event::meta_read(None)), [Effect::Finish(Finish::Gone)]);
}

/// The entry is on one of the two that answer.
#[test]
fn scenario_14_the_longest_tail_wins_and_is_copied() {
    holds_only_with(Mutation::TakeShortestTail, |mutations| {
        let mut recovery = sealing_with(0, mutations);
        assert_eq!(seal(&mut recovery, 0, 5, 4), []);
        assert_eq!(seal(&mut recovery, 1, 3, 3), [Effect::StartGrace]);
        assert_eq!(recovery.step(Event::GraceOver), [copy(0, 1, 4, 5)]);
        let effects = recovery.step(Event::Copied { target: 1, tail: EntryId(5) });
        assert_eq!(effects, [Effect::ReadLength(EntryId(5))]);
        assert_eq!(closing_at(&recovery.step(Event::LengthRead(10))), Some(5));
        let effects = recovery.step(Event::CasDone(CasResult::Applied(Version(3))));
        let [told, mark, Effect::Finish(Finish::Closed(meta))] = effects.as_slice() else {
            panic!("{effects:?}")
        };
        assert_eq!((meta.last_entry, meta.length), (Some(EntryId(5)), 10));
        let members = vec![member(1), member(2), member(3)];
        assert_eq!(told, &Effect::TellClosed { members, last: EntryId(5) });
        assert_eq!(mark, &Effect::MarkUnder(vec![member(3)]), "S7");
    });
}

/// 13: entry 5 is on B1 only. With B1 among those that answer it is kept, without it it is not; both for ever.
#[test]
fn scenario_13_an_entry_on_one_bookie_is_kept_if_that_answers() {
    holds_only_with(Mutation::TakeShortestTail, |mutations| {
        let mut recovery = sealing_with(0, mutations);
        seal(&mut recovery, 0, 5, 4);
        seal(&mut recovery, 1, 4, 4);
        assert_eq!(recovery.step(Event::GraceOver), [copy(0, 1, 5, 5)]);
        recovery.step(Event::Copied { target: 1, tail: EntryId(5) });
        assert_eq!(closing_at(&recovery.step(Event::LengthRead(0))), Some(5));

        let mut recovery = sealing_with(0, mutations);
        seal(&mut recovery, 1, 4, 4);
        seal(&mut recovery, 2, 4, 4);
        assert_eq!(recovery.step(Event::GraceOver), [Effect::ReadLength(EntryId(4))]);
        assert_eq!(closing_at(&recovery.step(Event::LengthRead(0))), Some(4));
    });
}

/// 17: the seal of B2 reports what it took before; without B2, B3 is sealed, so nothing can be acknowledged later.
#[test]
fn scenario_17_a_seal_reports_what_came_before_it() {
    holds_only_with(Mutation::TakeShortestTail, |mutations| {
        let mut recovery = sealing_with(0, mutations);
        seal(&mut recovery, 0, -1, -1);
        seal(&mut recovery, 1, 0, -1);
        assert_eq!(recovery.step(Event::GraceOver), [copy(1, 0, 0, 0)]);
        recovery.step(Event::Copied { target: 0, tail: EntryId(0) });
        assert_eq!(closing_at(&recovery.step(Event::LengthRead(0))), Some(0));
    });
}

/// S5: a member that does not take its copy is stood in for, by a fragment that begins above what is acknowledged.
#[test]
fn a_target_that_fails_is_stood_in_for() {
    let mut recovery = sealing(0);
    seal(&mut recovery, 0, 7, 4);
    seal(&mut recovery, 1, 5, 4);
    assert_eq!(recovery.step(Event::GraceOver), [copy(0, 1, 6, 7)]);
    let effects = recovery.step(Event::TargetFailed { target: 1 });
    assert_eq!(effects, [Effect::Search { lost: vec![1, 2], shunned: Vec::new() }]);
    assert_eq!(found(&mut recovery, &[(3, 4)]), [copy_to(0, (2, 4), 5, 5, 7)]);
    // It fails too; the next one is another.
    let effects = recovery.step(Event::TargetFailed { target: 2 });
    let shunned = vec![member(4)];
    assert_eq!(effects, [Effect::Search { lost: vec![1, 2], shunned }]);
    assert_eq!(found(&mut recovery, &[(3, 5)]), [copy_to(0, (2, 5), 5, 5, 7)]);
    let effects = recovery.step(Event::Copied { target: 2, tail: EntryId(7) });
    assert_eq!(effects, [Effect::ReadLength(EntryId(7))]);
    let effects = recovery.step(Event::LengthRead(10));
    let [Effect::Cas { meta, .. }] = effects.as_slice() else { panic!("{effects:?}") };
    let ensemble = vec![member(1), member(2), member(5)];
    assert_eq!(meta.fragments[1], Fragment { first_entry: EntryId(5), ensemble });
    assert_eq!((meta.fragments.len(), meta.last_entry), (2, Some(EntryId(7))));
    assert_eq!(meta.validate(), Ok(()));
    // The member that failed lacks the end, the one that is gone what was acknowledged.
    let effects = recovery.step(Event::CasDone(CasResult::Applied(Version(3))));
    assert_eq!(effects[1], Effect::MarkUnder(vec![member(2), member(3)]));
}

/// H4, H6: nobody hears of who stands in before the close; the next recoverer seals the original ensemble.
#[test]
fn scenario_21_who_stands_in_is_not_published_before_the_close() {
    holds_only_with(Mutation::PublishStandInsEarly, |mutations| {
        let mut recovery = sealing_with(0, mutations);
        seal(&mut recovery, 0, 7, 4);
        seal(&mut recovery, 1, 5, 4);
        recovery.step(Event::GraceOver);
        let mut effects = recovery.step(Event::TargetFailed { target: 1 });
        effects.extend(found(&mut recovery, &[(2, 4)]));
        let swaps = effects.iter().filter(|e| matches!(e, Effect::Cas { .. })).count();
        assert_eq!(swaps, 0, "{effects:?}");
        let marked = recovery.meta().unwrap().clone();
        assert_eq!(marked.fragments, open(0).fragments);
        let (mut next, _) = Recovery::new("R2".to_owned(), 900, mutations);
        next.step(Event::meta_read(Some((marked, V2))));
        let effects = next.step(Event::CasDone(CasResult::Applied(Version(3))));
        let sealed = effects.iter().filter_map(|effect| match effect {
            Effect::Seal { member, epoch: SealEpoch(2), .. } => Some(member.clone()),
            _ => None,
        });
        assert_eq!(sealed.collect::<Vec<_>>(), [member(1), member(2), member(3)]);
    });
}

/// Where nothing of the last fragment is acknowledged, or where no further one fits, it is replaced in place.
#[test]
fn a_ledger_without_room_for_a_fragment_replaces_its_last() {
    let mut full = open(0);
    let fragment = full.fragments[0].clone();
    let first = |n| Fragment { first_entry: EntryId(n), ..fragment.clone() };
    full.fragments.extend((1..64).map(|n| first(n * 10)));
    for (meta, first, acknowledged) in [(full, 630, 640), (open(0), 0, -1)] {
        let (mut recovery, _) = Recovery::new("R".to_owned(), 100, Mutations::default());
        let count = meta.fragments.len();
        recovery.step(Event::meta_read(Some((meta, V1))));
        recovery.step(Event::CasDone(CasResult::Applied(V2)));
        seal(&mut recovery, 0, first + 20, acknowledged);
        seal(&mut recovery, 1, first - 1, -1);
        recovery.step(Event::GraceOver);
        recovery.step(Event::TargetFailed { target: 1 });
        let effects = found(&mut recovery, &[(3, 4)]);
        assert_eq!(effects, [copy_to(0, (2, 4), first, first, first + 20)]);
        recovery.step(Event::Copied { target: 2, tail: EntryId(first + 20) });
        let effects = recovery.step(Event::LengthRead(10));
        let [Effect::Cas { meta, .. }] = effects.as_slice() else { panic!("{effects:?}") };
        assert_eq!(meta.fragments.len(), count);
        assert_eq!(meta.last_fragment().ensemble, [member(1), member(2), member(4)]);
        assert_eq!(meta.validate(), Ok(()));
    }
}

/// Whoever stands in already is not asked for again: the search would find it for ever.
#[test]
fn the_second_search_finds_another() {
    let mut open = open(0);
    (open.qw, open.qa) = (4, 3);
    open.fragments[0].ensemble.push(member(4));
    let (mut recovery, _) = Recovery::new("R".to_owned(), 100, Mutations::default());
    recovery.step(Event::meta_read(Some((open, V1))));
    recovery.step(Event::CasDone(CasResult::Applied(V2)));
    seal(&mut recovery, 0, 5, 4);
    seal(&mut recovery, 1, 4, 4);
    recovery.step(Event::GraceOver);
    let effects = recovery.step(Event::TargetFailed { target: 1 });
    assert_eq!(effects, [Effect::Search { lost: vec![1, 2, 3], shunned: Vec::new() }]);
    found(&mut recovery, &[(2, 5)]);
    let effects = recovery.step(Event::Copied { target: 1, tail: EntryId(5) });
    let shunned = vec![member(5)];
    assert_eq!(effects, [Effect::Search { lost: vec![2, 3], shunned }]);
}

/// A member that answers late, while somebody was looked for, is copied to as any other.
#[test]
fn a_late_seal_needs_nobody_in_its_place() {
    let mut recovery = sealing(0);
    seal(&mut recovery, 0, 5, 4);
    seal(&mut recovery, 1, 4, 4);
    recovery.step(Event::GraceOver);
    recovery.step(Event::TargetFailed { target: 1 });
    assert_eq!(seal(&mut recovery, 2, 4, 4), [copy(0, 2, 5, 5)]);
    assert_eq!(found(&mut recovery, &[(3, 4)]), []);
    recovery.step(Event::Copied { target: 2, tail: EntryId(5) });
    let effects = recovery.step(Event::LengthRead(10));
    let [Effect::Cas { meta, .. }] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!(meta.fragments.len(), 1);
}

/// 1.6, H15: an answer that says nothing counts nothing.
#[test]
fn an_unknown_answer_is_no_negative() {
    let mut recovery = sealing(0);
    seal(&mut recovery, 0, 4, 4);
    assert_eq!(recovery.step(Event::SealUnknown { position: 1 }), []);
    assert_eq!(recovery.step(Event::SealUnknown { position: 2 }), []);
    let effects = recovery.step(Event::DeadlineOver);
    assert!(
        matches!(effects.as_slice(), [Effect::Finish(Finish::Stopped(Stop::Missing(_)))]),
        "{effects:?}"
    );
}

/// 26: the ledger is deleted while it is recovered; the key is not made again (M7).
#[test]
fn scenario_26_a_ledger_deleted_during_recovery_stays_deleted() {
    holds_only_with(Mutation::MakeKeyAgain, |mutations| {
        let mut recovery = sealing_with(0, mutations);
        for position in 0..3 {
            seal(&mut recovery, position, -1, -1);
        }
        assert_eq!(recovery.step(Event::CasDone(CasResult::Lost)), [Effect::ReadMeta]);
        assert_eq!(recovery.step(Event::meta_read(None)), [Effect::Finish(Finish::Gone)]);
        let mut recovery = sealing_with(0, mutations);
        let reply = geminga_proto::bookie::WriteReply::refusal(
            geminga_proto::bookie::Code::Deleted,
            "the ledger was deleted",
        );
        assert_eq!(Event::from_seal(0, &reply), None, "unknown: nothing is concluded from it");
        let mut deleting = recovery.meta().unwrap().clone();
        deleting.state = LedgerState::Deleting;
        for position in 0..3 {
            seal(&mut recovery, position, -1, -1);
        }
        recovery.step(Event::CasDone(CasResult::Lost));
        let effects = recovery.step(Event::meta_read(Some((deleting, Version(9)))));
        assert_eq!(effects, [Effect::Finish(Finish::Gone)]);
    });
}

/// One answer of three is below coverage; the ledger is not closed.
#[test]
fn scenario_15_one_answer_is_not_enough() {
    holds_only_with(Mutation::SealWithOneLess, |mutations| {
        let mut recovery = sealing_with(0, mutations);
        assert_eq!(seal(&mut recovery, 0, 4, 4), []);
        let effects = recovery.step(Event::DeadlineOver);
        assert_eq!(
            effects,
            [Effect::Finish(Finish::Stopped(Stop::Missing(vec![member(2), member(3)])))]
        );
    });
}

/// Coverage that comes in the last moment gets a deadline for what is still to do: a source that dies then must not leave an
/// attempt that waits for ever.
#[test]
fn what_is_sealed_at_the_deadline_gets_another() {
    let mut recovery = sealing(0);
    seal(&mut recovery, 0, 4, -1);
    assert_eq!(seal(&mut recovery, 1, 2, -1), [Effect::StartGrace]);
    let effects = recovery.step(Event::DeadlineOver);
    assert_eq!(effects, [Effect::StartDeadline, copy(0, 1, 3, 4)]);
    source_failed(&mut recovery, 0, 1, 3);
    let effects = recovery.step(Event::DeadlineOver);
    let missing = vec![member(1), member(3)];
    assert_eq!(effects, [Effect::Finish(Finish::Stopped(Stop::Missing(missing)))]);
}

/// Everybody answered the seal, and the only one that has the rest does not deliver it: that one is asked for by name.
#[test]
fn a_source_that_does_not_deliver_is_missing() {
    let mut recovery = sealing(0);
    for (position, tail) in [(0, 4), (1, 2), (2, 2)] {
        seal(&mut recovery, position, tail, -1);
    }
    assert_eq!(source_failed(&mut recovery, 0, 1, 3), []);
    assert_eq!(source_failed(&mut recovery, 0, 2, 3), [Effect::StartPause]);
    let effects = recovery.step(Event::DeadlineOver);
    assert_eq!(effects, [Effect::Finish(Finish::Stopped(Stop::Missing(vec![member(1)])))]);
}

/// Nobody else has the rest: the attempt asks again instead of waiting for its deadline, as often as it takes.
#[test]
fn the_only_source_is_asked_again() {
    let mut recovery = sealing(0);
    for (position, tail) in [(0, 4), (1, 2), (2, 2)] {
        seal(&mut recovery, position, tail, -1);
    }
    for _ in 0..3 {
        source_failed(&mut recovery, 0, 1, 3);
        assert_eq!(source_failed(&mut recovery, 0, 2, 3), [Effect::StartPause]);
        let copies = [copy(0, 1, 3, 4), copy(0, 2, 3, 4)];
        assert_eq!(recovery.step(Event::PauseOver), copies);
    }
    recovery.step(Event::Copied { target: 1, tail: EntryId(4) });
    let effects = recovery.step(Event::Copied { target: 2, tail: EntryId(4) });
    assert_eq!(effects, [Effect::ReadLength(EntryId(4))]);
    // One whose bytes are bad is not: they will not become better.
    let mut recovery = sealing(0);
    for (position, tail) in [(0, 4), (1, 4), (2, 2)] {
        seal(&mut recovery, position, tail, -1);
    }
    assert_eq!(recovery.step(Event::PauseOver), [], "a pause nobody asked for changes nothing");
    assert_eq!(recovery.step(failed(0, 2, 3, true)), [copy(1, 2, 3, 4)]);
    recovery.step(Event::PauseOver);
    assert_eq!(source_failed(&mut recovery, 1, 2, 3), [Effect::ReadLength(EntryId(4))]);
}

/// Qa hold everything: a third that does not take its copy has a moment, and is marked for repair.
#[test]
fn a_copy_that_hangs_does_not_hold_up_the_close() {
    let mut recovery = sealing(0);
    seal(&mut recovery, 0, 5, 2);
    seal(&mut recovery, 1, 4, 2);
    seal(&mut recovery, 2, 3, 2);
    let effects = recovery.step(Event::Copied { target: 1, tail: EntryId(5) });
    assert_eq!(effects, [Effect::StartCopyGrace]);
    assert_eq!(recovery.step(Event::CopyGraceOver), [Effect::ReadLength(EntryId(5))]);
    assert_eq!(closing_at(&recovery.step(Event::LengthRead(0))), Some(5));
    assert_eq!(recovery.step(Event::TargetFailed { target: 2 }), []);
    let effects = recovery.step(Event::CasDone(CasResult::Applied(Version(3))));
    assert_eq!(effects[1], Effect::MarkUnder(vec![member(3)]), "S7");
}

/// Nothing is closed on fewer than Qa copies, however long they take.
#[test]
fn a_grace_for_copies_ends_nothing_that_is_not_readable() {
    let mut recovery = sealing(0);
    seal(&mut recovery, 0, 5, 2);
    seal(&mut recovery, 1, 4, 2);
    seal(&mut recovery, 2, 3, 2);
    assert_eq!(recovery.step(Event::CopyGraceOver), []);
}

/// The end of a ledger is what the swap said: what a stand-in does while that is under way changes nothing of it.
#[test]
fn who_stands_in_is_settled_once_copying_is_over() {
    let mut recovery = sealing(0);
    seal(&mut recovery, 0, 5, 2);
    seal(&mut recovery, 1, 4, 2);
    recovery.step(Event::GraceOver);
    recovery.step(Event::TargetFailed { target: 1 });
    found(&mut recovery, &[(2, 4), (3, 5)]);
    recovery.step(Event::Copied { target: 1, tail: EntryId(5) });
    recovery.step(Event::CopyGraceOver);
    let effects = recovery.step(Event::LengthRead(0));
    let [Effect::Cas { meta: swapped, .. }] = effects.as_slice() else { panic!("{effects:?}") };
    recovery.step(Event::TargetFailed { target: 2 });
    let effects = recovery.step(Event::CasDone(CasResult::Applied(Version(3))));
    let Some(Effect::Finish(Finish::Closed(closed))) = effects.last() else {
        panic!("{effects:?}")
    };
    assert_eq!(closed, swapped);
}

/// A stand-in has verified bytes of what it received: it is a source, and a holder, like any member.
#[test]
fn what_a_stand_in_received_is_not_unreadable() {
    let mut open = open(0);
    (open.qw, open.qa) = (4, 3);
    open.fragments[0].ensemble.push(member(4));
    let (mut recovery, _) = Recovery::new("R".to_owned(), 100, Mutations::default());
    recovery.step(Event::meta_read(Some((open, V1))));
    recovery.step(Event::CasDone(CasResult::Applied(V2)));
    seal(&mut recovery, 0, 5, 4);
    seal(&mut recovery, 1, 4, 4);
    recovery.step(Event::GraceOver);
    recovery.step(Event::TargetFailed { target: 1 });
    let copies = [copy_to(0, (1, 5), 5, 5, 5), copy_to(0, (2, 6), 5, 5, 5)];
    assert_eq!(found(&mut recovery, &[(2, 5), (3, 6)]), copies);
    recovery.step(Event::Copied { target: 1, tail: EntryId(5) });
    // The member's bytes rot now, after it has filled one of them.
    let effects = recovery.step(failed(0, 2, 5, true));
    assert_eq!(effects, [copy_to(4, (2, 6), 5, 5, 5)], "from the one that stands in");
    let effects = recovery.step(Event::Copied { target: 2, tail: EntryId(5) });
    assert_eq!(effects, [Effect::ReadLength(EntryId(5))]);
}

/// What lost data does not vouch for what it lacks.
#[test]
fn scenario_29_an_amnesiac_is_not_counted() {
    holds_only_with(Mutation::CountNonAuthoritative, |mutations| {
        let mut recovery = sealing_with(0, mutations);
        seal(&mut recovery, 0, 4, 4);
        let amnesiac = Event::Sealed {
            position: 1,
            tail: EntryId(-1),
            max_lac: EntryId(-1),
            authoritative: false,
        };
        assert_eq!(recovery.step(amnesiac), []);
        let effects = recovery.step(Event::DeadlineOver);
        assert!(
            matches!(effects.as_slice(), [Effect::Finish(Finish::Stopped(Stop::Missing(_)))]),
            "{effects:?}"
        );
    });
}

/// H3: the end of an empty last fragment is the end of the one before it. Its members may have no entry at all, so what
/// they report depends on where they are asked to begin.
#[test]
fn scenario_18_an_empty_last_fragment_ends_at_the_one_before() {
    holds_only_with(Mutation::SealFromTheStart, |mutations| {
        let (mut recovery, _) = Recovery::new("R".to_owned(), 100, mutations);
        recovery.step(Event::meta_read(Some((open(2000), V1))));
        let seals = recovery.step(Event::CasDone(CasResult::Applied(V2)));
        let mut effects = Vec::new();
        for seal_asked in seals {
            if let Effect::Seal { position, fragment_first, .. } = seal_asked {
                effects = seal(&mut recovery, position, fragment_first.prev().0, -1);
            }
        }
        assert_eq!(effects, [Effect::ReadLength(EntryId(1999))]);
        let effects = recovery.step(Event::LengthRead(1));
        assert_eq!(closing_at(&effects), Some(1999));
        let [Effect::Cas { meta, .. }] = effects.as_slice() else { panic!("{effects:?}") };
        assert_eq!(meta.fragments, open(2000).fragments, "none below an existing one");
    });
}

/// S4: an acknowledged entry that nobody has is never "fixed" by closing below it.
#[test]
fn an_acknowledged_entry_beyond_every_tail_stops() {
    let mut recovery = sealing(0);
    seal(&mut recovery, 0, 3, 7);
    seal(&mut recovery, 1, 3, 3);
    let effects = seal(&mut recovery, 2, 3, 3);
    let stop = Stop::AcknowledgedLost { acknowledged: EntryId(7), tail: EntryId(3) };
    assert_eq!(effects, [Effect::Finish(Finish::Stopped(stop))]);
}

/// A newer recoverer is followed.
#[test]
fn scenario_23_a_stale_epoch_follows() {
    holds_only_with(Mutation::IgnoreNewerRecoverer, |mutations| {
        let mut recovery = sealing_with(0, mutations);
        assert_eq!(recovery.step(Event::Stale), [Effect::Finish(Finish::Follow)]);
        assert!(recovery.is_done());
    });
}

/// A recoverer that slept after its copies wakes up when another has closed the ledger below them: it adopts that end.
#[test]
fn scenario_23_a_lower_end_is_adopted() {
    holds_only_with(Mutation::RewriteEnd, |mutations| {
        let mut recovery = sealing_with(0, mutations);
        seal(&mut recovery, 0, 5, 4);
        seal(&mut recovery, 1, 4, 4);
        recovery.step(Event::GraceOver);
        recovery.step(Event::Copied { target: 1, tail: EntryId(5) });
        let mut closed = recovery.meta().unwrap().clone();
        (closed.state, closed.last_entry) = (LedgerState::Closed, Some(EntryId(4)));
        closed.seal_epoch = SealEpoch(2);
        assert_eq!(closing_at(&recovery.step(Event::LengthRead(0))), Some(5));
        assert_eq!(recovery.step(Event::CasDone(CasResult::Lost)), [Effect::ReadMeta]);
        let effects = recovery.step(Event::meta_read(Some((closed.clone(), Version(9)))));
        assert_eq!(effects, [Effect::Finish(Finish::Closed(Box::new(closed)))]);
    });
}

/// Two recoverers, each with another pair of answers: one end; who loses the swap adopts it.
#[test]
fn scenario_22_two_recoverers_and_one_end() {
    holds_only_with(Mutation::RewriteEnd, |mutations| {
        let mut first = sealing_with(0, mutations);
        let marked = first.meta().unwrap().clone();
        seal(&mut first, 0, 5, 4);
        seal(&mut first, 1, 4, 4);
        first.step(Event::GraceOver);
        first.step(Event::Copied { target: 1, tail: EntryId(5) });
        let (mut second, _) = Recovery::new("R2".to_owned(), 900, mutations);
        second.step(Event::meta_read(Some((marked, V2))));
        second.step(Event::CasDone(CasResult::Applied(Version(3))));
        seal(&mut second, 1, 5, 4);
        seal(&mut second, 2, 4, 4);
        second.step(Event::GraceOver);
        second.step(Event::Copied { target: 2, tail: EntryId(5) });
        let effects = second.step(Event::LengthRead(0));
        let [Effect::Cas { expected: Version(3), meta }] = effects.as_slice() else {
            panic!("{effects:?}")
        };
        // The first one's swap is of an older version.
        let late = first.step(Event::LengthRead(0));
        assert!(matches!(late.as_slice(), [Effect::Cas { expected: V2, .. }]), "{late:?}");
        first.step(Event::CasDone(CasResult::Lost));
        let effects = first.step(Event::meta_read(Some(((**meta).clone(), Version(4)))));
        assert_eq!(effects, [Effect::Finish(Finish::Closed(meta.clone()))]);
    });
}

/// M9: an unknown mark that took place is recognised by its operation id.
#[test]
fn an_unknown_mark_is_resolved_by_reading() {
    let (mut recovery, _) = Recovery::new("R".to_owned(), 100, Mutations::default());
    let effects = recovery.step(Event::meta_read(Some((open(0), V1))));
    let [Effect::Cas { meta, .. }] = effects.as_slice() else { panic!("{effects:?}") };
    let applied = (**meta).clone();
    assert_eq!(recovery.step(Event::CasDone(CasResult::Unknown)), [Effect::ReadMeta]);
    let effects = recovery.step(Event::meta_read(Some((applied.clone(), V2))));
    assert_eq!(effects.len(), 4, "goes on to seal: {effects:?}");
    // Had somebody else marked it meanwhile, that one is at work.
    let (mut recovery, _) = Recovery::new("R".to_owned(), 200, Mutations::default());
    recovery.step(Event::meta_read(Some((open(0), V1))));
    recovery.step(Event::CasDone(CasResult::Lost));
    let effects = recovery.step(Event::meta_read(Some((applied, V2))));
    assert_eq!(effects, [Effect::Finish(Finish::Follow)]);
}

/// M9: the store may apply a mark after its client gave up and repeated it.
#[test]
fn a_mark_that_was_applied_late_is_not_followed() {
    let (mut recovery, _) = Recovery::new("R".to_owned(), 100, Mutations::default());
    let effects = recovery.step(Event::meta_read(Some((open(0), V1))));
    let [Effect::Cas { meta, .. }] = effects.as_slice() else { panic!("{effects:?}") };
    let applied = (**meta).clone();
    recovery.step(Event::CasDone(CasResult::Unknown));
    // Not there yet: repeated.
    let effects = recovery.step(Event::meta_read(Some((open(0), V1))));
    assert!(matches!(effects.as_slice(), [Effect::Cas { expected: V1, .. }]), "{effects:?}");
    recovery.step(Event::CasDone(CasResult::Lost));
    let effects = recovery.step(Event::meta_read(Some((applied.clone(), V2))));
    assert_eq!(effects.len(), 4, "goes on to seal: {effects:?}");
    assert_eq!(recovery.meta(), Some(&applied));
}

/// The merge rule: the close is rebuilt on what is there now.
#[test]
fn scenario_24_an_unknown_close_is_adopted_or_rebuilt() {
    holds_only_with(Mutation::AssumeApplied, |mutations| {
        let mut recovery = sealing_with(0, mutations);
        for position in 0..3 {
            seal(&mut recovery, position, -1, -1);
        }
        let marked = recovery.meta().unwrap().clone();
        assert_eq!(recovery.step(Event::CasDone(CasResult::Unknown)), [Effect::ReadMeta]);
        let effects = recovery.step(Event::meta_read(Some((marked.clone(), Version(9)))));
        assert_eq!(closing_at(&effects), Some(-1));
        assert!(matches!(effects.as_slice(), [Effect::Cas { expected: Version(9), .. }]));
        recovery.step(Event::CasDone(CasResult::Lost));
        let mut closed = marked;
        closed.state = LedgerState::Closed;
        closed.last_entry = Some(EntryId(-1));
        let effects = recovery.step(Event::meta_read(Some((closed, Version(10)))));
        assert!(matches!(effects.as_slice(), [Effect::Finish(Finish::Closed(_))]), "{effects:?}");
    });
}

/// Unreadable bytes end the ledger only where coverage says the entry was never acknowledged.
#[test]
fn scenario_33_unreadable_bytes_end_the_ledger_only_below_coverage() {
    holds_only_with(Mutation::EndBelowUnreadable, |mutations| {
        let corrupt = failed(0, 1, 5, true);
        let mut recovery = sealing_with(0, mutations);
        seal(&mut recovery, 0, 5, 4);
        seal(&mut recovery, 1, 4, 4);
        assert!(!seal(&mut recovery, 2, 4, 4).is_empty());
        let effects = recovery.step(corrupt.clone());
        assert_eq!(effects, [Effect::StartCopyGrace], "the other copy is still under way");
        let effects = recovery.step(failed(0, 2, 5, true));
        assert_eq!(effects, [Effect::ReadLength(EntryId(4))]);

        let mut recovery = sealing_with(0, mutations);
        seal(&mut recovery, 0, 5, 4);
        seal(&mut recovery, 1, 4, 4);
        recovery.step(Event::GraceOver);
        let effects = recovery.step(corrupt);
        assert_eq!(effects, [Effect::Finish(Finish::Stopped(Stop::Unreadable(EntryId(5))))]);
    });
}
