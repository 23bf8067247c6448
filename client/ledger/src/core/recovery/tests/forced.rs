//! What an operator's word changes (4.8), and what it does not.

use geminga_metastore::record::CloseKind;

use super::*;

fn forced(first: i64) -> Recovery {
    sealing(first).forced()
}

/// Carries out what is left until the closing swap; its metadata.
fn close(recovery: &mut Recovery, mut effects: Vec<Effect>) -> Box<LedgerMeta> {
    loop {
        let length = effects.iter().any(|effect| matches!(effect, Effect::ReadLength(_)));
        let search = effects.iter().any(|effect| matches!(effect, Effect::Search { .. }));
        match effects.into_iter().find_map(|effect| match effect {
            Effect::Cas { meta, .. } => Some(meta),
            _ => None,
        }) {
            Some(meta) => return meta,
            None if length => effects = recovery.step(Event::LengthRead(10)),
            // Nobody is found in time.
            None if search => effects = recovery.step(Event::DeadlineOver),
            None => panic!("it neither closes nor waits for a length"),
        }
    }
}

fn without(numbers: &[u64]) -> Option<CloseKind> {
    let missing = numbers.iter().map(|number| member(*number)).collect();
    Some(CloseKind::ForcedWithRisk { missing })
}

#[test]
fn one_survivor_of_three_closes_at_its_tail_and_the_stamp_names_the_others() {
    let mut recovery = forced(0);
    seal(&mut recovery, 1, 5, 3);
    let effects = recovery.step(Event::DeadlineOver);
    let meta = close(&mut recovery, effects);
    assert_eq!((meta.last_entry, meta.close_kind.clone()), (Some(EntryId(5)), without(&[1, 3])));
    assert_eq!(meta.state, LedgerState::Closed);
}

#[test]
fn nobody_answers_and_the_fragment_ends_where_it_begins() {
    let mut recovery = forced(4);
    let effects = recovery.step(Event::DeadlineOver);
    let meta = close(&mut recovery, effects);
    assert_eq!((meta.last_entry, meta.close_kind.clone()), (Some(EntryId(3)), without(&[1, 2, 3])));
}

/// A log whose last entry nobody delivers could not be opened: the ledger ends at the last that somebody does. One that was deleted in a
/// life that the metadata does not know (6.8) ends where it did.
#[test]
fn a_ledger_ends_at_the_last_entry_that_somebody_delivers() {
    for (end, length, fragments) in [(3, 0, 2), (2, 70, 1), (-1, 0, 1)] {
        let mut recovery = forced(4);
        let effects = recovery.step(Event::DeadlineOver);
        assert!(effects.contains(&Effect::ReadLength(EntryId(3))), "{effects:?}");
        let effects = recovery.step(Event::DeadlineOver);
        assert_eq!(effects, [Effect::FindEnd(EntryId(3))]);
        let effects = recovery.step(Event::EndFound { end: EntryId(end), length });
        let [Effect::Cas { meta, .. }] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!((meta.last_entry, meta.length), (Some(EntryId(end)), length));
        assert_eq!(meta.close_kind, without(&[1, 2, 3]));
        assert_eq!(meta.fragments.len(), fragments);
        meta.validate().unwrap();
        // Somebody delivers it after all, too late.
        assert_eq!(recovery.step(Event::LengthRead(80)), []);
    }

    // What a bookie may have that is only away is not cut off.
    let unreadable = Finish::Stopped(Stop::Unreadable(EntryId(3)));
    let mut recovery = forced(4);
    recovery.step(Event::DeadlineOver);
    recovery.step(Event::DeadlineOver);
    assert_eq!(recovery.step(Event::EndUnknown), [Effect::Finish(unreadable.clone())]);

    // Without the word it stops.
    let mut recovery = sealing(4);
    for index in 0..3 {
        seal(&mut recovery, index, 3, 3);
    }
    assert_eq!(recovery.step(Event::DeadlineOver), [Effect::Finish(unreadable)]);
}

#[test]
fn acknowledged_entries_beyond_every_tail_are_given_up() {
    let mut recovery = forced(0);
    seal(&mut recovery, 0, 5, 7);
    seal(&mut recovery, 1, 4, 3);
    let effects = recovery.step(Event::GraceOver);
    let meta = close(&mut recovery, effects);
    assert_eq!((meta.last_entry, meta.close_kind.clone()), (Some(EntryId(5)), without(&[3])));
}

#[test]
fn who_lost_data_is_heard_only_when_a_rule_is_overridden() {
    let unsure = |tail| Event::Sealed {
        position: 2,
        tail: EntryId(tail),
        max_lac: EntryId(-1),
        authoritative: false,
    };
    let mut recovery = forced(0);
    recovery.step(unsure(9));
    seal(&mut recovery, 0, 5, 5);
    seal(&mut recovery, 1, 5, 5);
    let meta = close(&mut recovery, vec![Effect::ReadLength(EntryId(5))]);
    assert_eq!(
        (meta.last_entry, &meta.close_kind),
        (Some(EntryId(5)), &Some(CloseKind::Recovered))
    );

    let mut recovery = forced(0);
    recovery.step(unsure(9));
    seal(&mut recovery, 0, 5, 5);
    let effects = recovery.step(Event::DeadlineOver);
    let copied = recovery.step(Event::Copied { target: 0, tail: EntryId(9) });
    let meta = close(&mut recovery, if copied.is_empty() { effects } else { copied });
    assert_eq!((meta.last_entry, meta.close_kind.clone()), (Some(EntryId(9)), without(&[2, 3])));
}

#[test]
fn a_quorum_that_is_there_is_recovered_as_ever() {
    let mut recovery = forced(0);
    seal(&mut recovery, 0, 5, 5);
    seal(&mut recovery, 1, 5, 5);
    let effects = recovery.step(Event::GraceOver);
    let meta = close(&mut recovery, effects);
    assert_eq!(
        (meta.last_entry, &meta.close_kind),
        (Some(EntryId(5)), &Some(CloseKind::Recovered))
    );
}

#[test]
fn without_the_word_it_stops() {
    let mut recovery = sealing(0);
    seal(&mut recovery, 1, 5, 3);
    let missing = Finish::Stopped(Stop::Missing(vec![member(1), member(3)]));
    assert_eq!(recovery.step(Event::DeadlineOver), [Effect::Finish(missing)]);
}
