use geminga_metastore::record::{Custom, Digest, Fragment};
use geminga_proto::ids::{Incarnation, LedgerId};

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
    let (mut recovery, effects) = Recovery::new("R".to_owned(), 100, Mutations::default());
    assert_eq!(effects, [Effect::ReadMeta]);
    let effects = recovery.step(Event::meta_read(Some((open(first), V1))));
    let [Effect::Cas { expected: V1, meta }] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!((meta.state, meta.seal_epoch), (LedgerState::InRecovery, SealEpoch(1)));
    let effects = recovery.step(Event::CasDone(CasResult::Applied(V2)));
    assert_eq!(effects.len(), 4, "a deadline and three seals: {effects:?}");
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

fn copy(source: usize, target: usize, first: i64, last: i64) -> Effect {
    Effect::Copy { source, target, first: EntryId(first), last: EntryId(last) }
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

/// Scenario 14: the entry is on one of the two that answer.
#[test]
fn the_longest_tail_wins_and_is_copied() {
    let mut recovery = sealing(0);
    assert_eq!(seal(&mut recovery, 0, 5, 4), []);
    assert_eq!(seal(&mut recovery, 1, 3, 3), [Effect::StartGrace]);
    assert_eq!(recovery.step(Event::GraceOver), [copy(0, 1, 4, 5)]);
    let effects = recovery.step(Event::Copied { target: 1, tail: EntryId(5) });
    assert_eq!(effects, [Effect::ReadLength(EntryId(5))]);
    assert_eq!(closing_at(&recovery.step(Event::LengthRead(10))), Some(5));
    let effects = recovery.step(Event::CasDone(CasResult::Applied(Version(3))));
    let [Effect::Finish(Finish::Closed(meta))] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!((meta.last_entry, meta.length), (Some(EntryId(5)), 10));
}

/// Scenario 15: one answer of three is below coverage; the ledger is not closed.
#[test]
fn one_answer_is_not_enough() {
    let mut recovery = sealing(0);
    assert_eq!(seal(&mut recovery, 0, 4, 4), []);
    let effects = recovery.step(Event::DeadlineOver);
    assert_eq!(
        effects,
        [Effect::Finish(Finish::Stopped(Stop::Missing(vec![member(2), member(3)])))]
    );
}

/// Scenario 29: what lost data does not vouch for what it lacks.
#[test]
fn an_amnesiac_is_not_counted() {
    let mut recovery = sealing(0);
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
}

/// Scenario 18 and H3: the end of an empty last fragment is the end of the one before it.
#[test]
fn an_empty_last_fragment_ends_at_the_one_before() {
    let mut recovery = sealing(2000);
    seal(&mut recovery, 0, 1999, -1);
    seal(&mut recovery, 1, 1999, -1);
    let effects = seal(&mut recovery, 2, 1999, -1);
    assert_eq!(effects, [Effect::ReadLength(EntryId(1999))]);
    assert_eq!(closing_at(&recovery.step(Event::LengthRead(1))), Some(1999));
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

/// Scenario 22 and 23: a newer recoverer is followed.
#[test]
fn a_stale_epoch_follows() {
    let mut recovery = sealing(0);
    assert_eq!(recovery.step(Event::Stale), [Effect::Finish(Finish::Follow)]);
    assert!(recovery.is_done());
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

/// Scenario 24 and the merge rule: the close is rebuilt on what is there now.
#[test]
fn an_unknown_close_is_adopted_or_rebuilt() {
    let mut recovery = sealing(0);
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
}

/// Scenario 33: unreadable bytes end the ledger only where coverage says the entry was never acknowledged.
#[test]
fn unreadable_bytes_end_the_ledger_only_below_coverage() {
    let corrupt = Event::SourceFailed { source: 0, target: 1, entry: EntryId(5), corrupt: true };

    let mut recovery = sealing(0);
    seal(&mut recovery, 0, 5, 4);
    seal(&mut recovery, 1, 4, 4);
    assert!(!seal(&mut recovery, 2, 4, 4).is_empty());
    let effects = recovery.step(corrupt.clone());
    assert_eq!(effects, [], "the other copy is still under way");
    let other = Event::SourceFailed { source: 0, target: 2, entry: EntryId(5), corrupt: true };
    let effects = recovery.step(other);
    assert_eq!(effects, [Effect::ReadLength(EntryId(4))]);

    let mut recovery = sealing(0);
    seal(&mut recovery, 0, 5, 4);
    seal(&mut recovery, 1, 4, 4);
    recovery.step(Event::GraceOver);
    let effects = recovery.step(corrupt);
    assert_eq!(effects, [Effect::Finish(Finish::Stopped(Stop::Unreadable(EntryId(5))))]);
}
