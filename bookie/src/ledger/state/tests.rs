use geminga_proto::bookie::Scope;
use geminga_runtime::holds_only_with;

use super::*;

fn me() -> Identity {
    Identity {
        cluster: ClusterUuid::from_random(1),
        member: Member { bookie: "b1".parse().unwrap(), incarnation: Incarnation(7) },
        authoritative: true,
        writable: true,
        mutations: Mutations::default(),
    }
}

fn request(epoch: u32, op: WriteOp) -> WriteRequest {
    let scope = Scope {
        cluster: me().cluster,
        ledger: LedgerId(1),
        fragment_first: EntryId(0),
        epoch: SealEpoch(epoch),
        incarnation: me().member.incarnation,
    };
    WriteRequest { scope, op }
}

fn add(first: i64, count: usize) -> WriteOp {
    WriteOp::Add {
        first: EntryId(first),
        entries: vec![Bytes::from_static(b"e"); count],
        lac: EntryId(first - 1),
    }
}

fn recovery_add(first: i64, count: usize) -> WriteOp {
    WriteOp::RecoveryAdd { first: EntryId(first), entries: vec![Bytes::from_static(b"e"); count] }
}

fn ask(state: &mut LedgerState, epoch: u32, op: WriteOp) -> Vec<Effect<()>> {
    state.step(&me(), Event::Request { to: (), request: request(epoch, op) })
}

fn checked(state: &mut LedgerState, epoch: u32, op: WriteOp, finding: Finding) -> Vec<Effect<()>> {
    state.step(&me(), Event::Checked { to: (), request: request(epoch, op), finding })
}

/// A ledger that its writer has opened.
fn opened() -> LedgerState {
    let mut state = LedgerState::unknown(LedgerId(1));
    assert!(matches!(ask(&mut state, 0, WriteOp::Hello)[..], [Effect::CheckMetadata(..)]));
    let effects = checked(&mut state, 0, WriteOp::Hello, Finding::Writable);
    assert!(matches!(
        effects[..],
        [Effect::Append(Record::RunStart { .. }), Effect::ReplyWhenDurable(..)]
    ));
    state
}

fn code(effects: &[Effect<()>]) -> Code {
    match effects.last() {
        Some(Effect::ReplyNow((), reply) | Effect::ReplyWhenDurable((), reply)) => reply.code,
        other => panic!("no reply: {other:?}"),
    }
}

fn durable_tail(effects: &[Effect<()>]) -> i64 {
    match effects.last() {
        Some(Effect::ReplyWhenDurable((), reply)) => reply.durable_tail.0,
        other => panic!("a tail is only told when durable: {other:?}"),
    }
}

/// K2, H11, H12: a first contact is believed only if the metadata names this disk-life as a member of an open ledger.
#[test]
fn a_first_contact_is_checked() {
    let findings = [
        (Finding::NotMember, Code::Unauthorised),
        (Finding::Gone, Code::Deleted),
        (Finding::Ended(SealEpoch(3)), Code::Sealed),
        (Finding::Recovering(SealEpoch(1)), Code::Sealed),
        (Finding::Unavailable, Code::Busy),
    ];
    for (finding, expected) in findings {
        for op in [WriteOp::Hello, add(0, 1)] {
            let mut state = LedgerState::unknown(LedgerId(1));
            assert_eq!(code(&checked(&mut state, 0, op, finding)), expected, "{finding:?}");
            assert!(!state.is_known());
        }
    }
}

#[test]
fn entries_are_contiguous_and_answered_when_durable() {
    let mut state = opened();
    assert_eq!(durable_tail(&ask(&mut state, 0, add(0, 2))), 1);
    assert_eq!(durable_tail(&ask(&mut state, 0, add(2, 1))), 2);
    let gap = ask(&mut state, 0, add(4, 1));
    let [Effect::ReplyNow((), reply)] = &gap[..] else { panic!("{gap:?}") };
    assert_eq!(
        (reply.code, reply.staged_tail, reply.durable_tail),
        (Code::OutOfOrder, EntryId(2), EntryId::NONE)
    );
    assert_eq!(
        code(&ask(&mut state, 0, add(2, 2))),
        Code::OutOfOrder,
        "an overlap starts again behind the tail"
    );
}

/// K3 and D3: a duplicate is compared, and never answered before it is durable.
#[test]
fn a_duplicate_is_compared() {
    let mut state = opened();
    ask(&mut state, 0, add(0, 3));
    let effects = ask(&mut state, 0, add(1, 1));
    let [Effect::Compare { first, equal, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((*first, equal.durable_tail), (EntryId(1), EntryId(1)));
}

/// F2: whatever the tail, the answer waits for the seal's record.
#[test]
fn a_seal_is_answered_when_durable() {
    for entries in [0, 2] {
        let mut state = opened();
        if entries > 0 {
            ask(&mut state, 0, add(0, entries));
        }
        let effects = ask(&mut state, 1, WriteOp::Seal);
        assert_eq!(effects[0], Effect::Append(Record::Seal { epoch: SealEpoch(1) }));
        assert_eq!(durable_tail(&effects), entries as i64 - 1);
    }
}

/// F3: a ledger never seen is sealed too, without a look at the metadata.
#[test]
fn an_unknown_ledger_is_sealed() {
    let mut state = LedgerState::unknown(LedgerId(1));
    let effects = ask(&mut state, 1, WriteOp::Seal);
    assert_eq!(durable_tail(&effects), -1);
    assert_eq!(code(&ask(&mut state, 0, add(0, 1))), Code::Sealed);
    // A check that was under way when the seal came does not help the writer.
    assert_eq!(code(&checked(&mut state, 0, WriteOp::Hello, Finding::Writable)), Code::Sealed);
}

#[test]
fn a_seal_ends_the_writer_and_older_recoverers() {
    let mut state = opened();
    ask(&mut state, 2, WriteOp::Seal);
    assert_eq!(code(&ask(&mut state, 0, add(0, 1))), Code::Sealed);
    assert_eq!(code(&ask(&mut state, 0, WriteOp::Hello)), Code::Sealed);
    assert_eq!(code(&ask(&mut state, 1, WriteOp::Seal)), Code::StaleEpoch);
    assert_eq!(code(&ask(&mut state, 1, recovery_add(0, 1))), Code::StaleEpoch);
    assert_eq!(durable_tail(&ask(&mut state, 2, recovery_add(0, 1))), 0);
    assert_eq!(state.sealed_epoch(), SealEpoch(2));
}

/// F5: a copy under a later epoch than the seal here makes that seal durable first, if the metadata agrees.
#[test]
fn a_later_recoverer_is_checked_and_sealed_in() {
    let mut state = opened();
    ask(&mut state, 1, WriteOp::Seal);
    assert!(matches!(ask(&mut state, 2, recovery_add(0, 1))[..], [Effect::CheckMetadata(..)]));
    let effects = checked(&mut state, 2, recovery_add(0, 1), Finding::Recovering(SealEpoch(3)));
    assert_eq!(code(&effects), Code::StaleEpoch);
    let effects = checked(&mut state, 2, recovery_add(0, 1), Finding::Recovering(SealEpoch(2)));
    assert_eq!(effects[0], Effect::Append(Record::Seal { epoch: SealEpoch(2) }));
    assert_eq!(durable_tail(&effects), 0);
}

/// 4.2 row 4: a seal goes ahead of a metadata check, and what was read before it is no leave to write after it.
#[test]
fn a_seal_during_a_check_ends_the_writer() {
    holds_only_with(Mutation::TrustCheck, |mutations| {
        let me = Identity { mutations, ..me() };
        let mut state = LedgerState::unknown(LedgerId(1));
        assert!(matches!(ask(&mut state, 0, WriteOp::Hello)[..], [Effect::CheckMetadata(..)]));
        assert_eq!(durable_tail(&ask(&mut state, 1, WriteOp::Seal)), -1);
        let request = request(0, WriteOp::Hello);
        let event = Event::Checked { to: (), request, finding: Finding::Writable };
        assert_eq!(code(&state.step(&me, event)), Code::Sealed);
        assert_eq!(code(&ask(&mut state, 0, add(0, 1))), Code::Sealed);
    });
}

/// Scenario 28: another life of this bookie is asked for.
#[test]
fn another_incarnation_is_refused() {
    let mut state = opened();
    let mut wrong = request(0, add(0, 1));
    wrong.scope.incarnation = Incarnation(8);
    let effects = state.step(&me(), Event::Request { to: (), request: wrong });
    assert_eq!(code(&effects), Code::WrongIncarnation);
    let mut foreign = request(0, add(0, 1));
    foreign.scope.cluster = ClusterUuid::from_random(2);
    let effects = state.step(&me(), Event::Request { to: (), request: foreign });
    assert_eq!(code(&effects), Code::Unauthorised);
}

/// F4: a tombstone answers everything.
#[test]
fn a_tombstone_refuses_everything() {
    let mut state = opened();
    state.apply(&Record::Tombstone);
    for (epoch, op) in
        [(0, WriteOp::Hello), (0, add(0, 1)), (1, WriteOp::Seal), (1, recovery_add(0, 1))]
    {
        assert_eq!(code(&ask(&mut state, epoch, op)), Code::Deleted);
    }
}

/// 5.8: a full disk takes no new entries, but seals and a recoverer's copies.
#[test]
fn a_read_only_disk_still_seals() {
    let full = Identity { writable: false, ..me() };
    let hello = request(0, WriteOp::Hello);
    let new =
        LedgerState::unknown(LedgerId(1)).step(&full, Event::Request { to: (), request: hello });
    assert_eq!(code(&new), Code::ReadOnly, "no new ledger");
    let mut state = opened();
    let mut step = |epoch, op| {
        let request = request(epoch, op);
        code(&state.step(&full, Event::Request { to: (), request }))
    };
    assert_eq!(step(0, add(0, 1)), Code::ReadOnly);
    assert_eq!(step(1, WriteOp::Seal), Code::Ok);
    assert_eq!(step(1, recovery_add(0, 1)), Code::Ok);
}

/// W5, H6: only the writer's own statements raise the LAC, and they are not clamped to what is held.
#[test]
fn the_lac_is_the_writers_word() {
    let mut state = opened();
    ask(&mut state, 0, add(0, 1));
    ask(&mut state, 0, WriteOp::AdvanceLac(EntryId(9)));
    assert_eq!(state.max_lac(), EntryId(9));
    ask(&mut state, 1, WriteOp::Seal);
    ask(&mut state, 1, recovery_add(1, 20));
    assert_eq!(state.max_lac(), EntryId(9));
}

/// K5: replaying what was appended gives the same state.
#[test]
fn replay_gives_the_same_state() {
    let mut state = LedgerState::unknown(LedgerId(1));
    let mut log = Vec::new();
    let steps = [
        checked(&mut state, 0, WriteOp::Hello, Finding::Writable),
        ask(&mut state, 0, add(0, 3)),
        ask(&mut state, 1, WriteOp::Seal),
        ask(&mut state, 1, recovery_add(3, 2)),
        ask(&mut state, 1, WriteOp::Closed(EntryId(4))),
    ];
    for effect in steps.into_iter().flatten() {
        if let Effect::Append(record) = effect {
            log.push(record);
        }
    }
    let mut replayed = LedgerState::unknown(LedgerId(1));
    for record in &log {
        replayed.apply(record);
    }
    assert_eq!(replayed, state);
}

/// F1: whichever comes first; an add is in the tail that the seal reports, or refused.
#[test]
fn scenario_40_an_add_is_in_the_tail_or_refused() {
    holds_only_with(Mutation::AcceptAfterSeal, |mutations| {
        let me = Identity { mutations, ..me() };
        for sealed_after in 0..=4 {
            let mut state = opened();
            let mut tail = None;
            for id in 0..4 {
                if id == sealed_after {
                    tail = Some(durable_tail(&ask(&mut state, 1, WriteOp::Seal)));
                }
                let event = Event::Request { to: (), request: request(0, add(id, 1)) };
                let reply = code(&state.step(&me, event));
                match tail {
                    Some(tail) => assert_eq!((reply, tail), (Code::Sealed, sealed_after - 1)),
                    None => assert_eq!(reply, Code::Ok),
                }
            }
        }
    });
}

/// 4.2: a recoverer whose seal was replaced by a newer one copies nothing any more.
#[test]
fn scenario_23_a_former_recoverer_copies_nothing() {
    holds_only_with(Mutation::AcceptStaleEpoch, |mutations| {
        let me = Identity { mutations, ..me() };
        let mut state = opened();
        ask(&mut state, 1, WriteOp::Seal);
        ask(&mut state, 2, WriteOp::Seal);
        let event = Event::Request { to: (), request: request(1, recovery_add(0, 1)) };
        assert_eq!(code(&state.step(&me, event)), Code::StaleEpoch);
        assert_eq!(state.held().tail(EntryId(0)), EntryId::NONE);
    });
}

/// 5.7: empty nodes at the address of those that were meant store nothing.
#[test]
fn scenario_28_another_life_is_not_answered_for() {
    holds_only_with(Mutation::IgnoreIncarnation, |mutations| {
        let me = Identity { mutations, ..me() };
        let mut state = opened();
        for op in [WriteOp::Hello, add(0, 1), WriteOp::Seal] {
            let epoch = u32::from(op == WriteOp::Seal);
            let mut request = request(epoch, op);
            request.scope.incarnation = Incarnation(8);
            let effects = state.step(&me, Event::Request { to: (), request });
            assert_eq!(code(&effects), Code::WrongIncarnation);
        }
        assert_eq!(state.held().tail(EntryId(0)), EntryId::NONE);
    });
}

/// What is accepted can be read back after a restart: the log knows no entry at the very end of the numbers.
#[test]
fn ids_at_the_end_of_the_numbers_are_refused() {
    for (fragment_first, count, expected) in [
        (i64::MAX - 3, 2, Code::Ok),
        (i64::MAX - 1, 1, Code::Invalid),
        (i64::MAX - 2, 2, Code::Invalid),
        (i64::MAX, 1, Code::Invalid),
        (i64::MAX, 2, Code::Invalid),
    ] {
        let mut request = request(0, add(fragment_first, count));
        request.scope.fragment_first = EntryId(fragment_first);
        let effects = opened().step(&me(), Event::Request { to: (), request });
        assert_eq!(code(&effects), expected, "{count} from {fragment_first}");
    }
}

fn repair_add(first: i64, count: usize) -> WriteOp {
    WriteOp::RepairAdd { first: EntryId(first), entries: vec![Bytes::from_static(b"e"); count] }
}

/// 6.5: a repair's copies are checked once for each fragment, end with it, and need no seal and set none.
#[test]
fn a_repair_fills_an_immutable_fragment() {
    holds_only_with(Mutation::RepairBeyondEnd, |mutations| {
        let me = Identity { mutations, ..me() };
        let mut state = LedgerState::unknown(LedgerId(1));
        assert!(matches!(ask(&mut state, 0, repair_add(0, 2))[..], [Effect::CheckMetadata(..)]));
        let finding = Finding::Repairable(EntryId(4));
        let effects = checked(&mut state, 0, repair_add(0, 2), finding);
        assert!(matches!(effects[0], Effect::Append(Record::RunStart { .. })));
        assert_eq!(durable_tail(&effects), 1);
        assert_eq!(code(&ask(&mut state, 0, repair_add(3, 1))), Code::OutOfOrder);
        let more = ask(&mut state, 0, repair_add(2, 2));
        assert!(matches!(more[0], Effect::Append(Record::Entries { .. })), "checked once");
        let beyond = Event::Request { to: (), request: request(0, repair_add(4, 2)) };
        assert_eq!(code(&state.step(&me, beyond)), Code::Invalid);
        assert!(matches!(ask(&mut state, 0, repair_add(1, 1))[..], [Effect::Compare { .. }]));
        assert_eq!(
            (durable_tail(&ask(&mut state, 0, WriteOp::Tail)), state.sealed_epoch().0),
            (3, 0)
        );
        // A seal concerns the writer, and a tombstone everybody.
        ask(&mut state, 3, WriteOp::Seal);
        assert_eq!(code(&ask(&mut state, 0, repair_add(4, 1))), Code::Ok);
        state.delete().expect("it was there");
        assert_eq!(code(&ask(&mut state, 0, repair_add(4, 1))), Code::Deleted);
    });
}

#[test]
fn a_full_disk_takes_no_repair_and_no_ledger_is_known_by_a_question() {
    let full = Identity { writable: false, ..me() };
    for mut state in [LedgerState::unknown(LedgerId(1)), opened()] {
        let known = state.is_known();
        let op = Event::Request { to: (), request: request(0, repair_add(0, 1)) };
        let effects = match state.step(&full, op).remove(0) {
            Effect::CheckMetadata((), request) => {
                let finding = Finding::Repairable(EntryId(4));
                state.step(&full, Event::Checked { to: (), request, finding })
            }
            effect => vec![effect],
        };
        assert_eq!(code(&effects), Code::ReadOnly);
        assert_eq!(durable_tail(&ask(&mut state, 0, WriteOp::Tail)), -1);
        assert_eq!(state.is_known(), known);
    }
}

/// K2 in its repair form: only what does not change any more, and only where a place is to be given away or this is a member.
#[test]
fn what_may_be_repaired_is_judged_by_the_metadata() {
    let other = |number: u64| Member {
        bookie: format!("b{number}").parse().unwrap(),
        incarnation: Incarnation(number),
    };
    let fragment = |first: i64, ensemble: [Member; 2]| geminga_metastore::record::Fragment {
        first_entry: EntryId(first),
        ensemble: ensemble.to_vec(),
    };
    let mut meta = LedgerMeta {
        id: LedgerId(1),
        state: MetaState::Open,
        seal_epoch: SealEpoch(0),
        qw: 2,
        qa: 2,
        digest: geminga_metastore::record::Digest::Crc32c,
        fragments: vec![fragment(0, [other(2), other(3)]), fragment(5, [other(3), other(4)])],
        last_entry: None,
        length: 0,
        entries_crc: None,
        close_kind: None,
        recoverer: String::new(),
        last_op: 0,
        custom: geminga_metastore::record::Custom::default(),
        created_ms: 0,
        owner: String::new(),
        degraded: false,
        tier: geminga_metastore::record::Tier::Local,
    };
    let mut mark = Under::new(LedgerId(1), geminga_metastore::record::UnderReason::Lost, 0);
    let judge = |meta: &LedgerMeta, mark: &Under, who: &Member, first: i64| {
        judge_repair(Some(meta), Some(mark), who, EntryId(first))
    };
    let me = me().member;
    assert_eq!(judge(&meta, &mark, &me, 0), Finding::NotRepairable, "nobody is to be replaced");
    assert_eq!(judge(&meta, &mark, &other(2), 0), Finding::Repairable(EntryId(4)), "a member");
    mark.add(&other(3), geminga_metastore::record::UnderReason::Lost);
    assert_eq!(judge(&meta, &mark, &me, 0), Finding::Repairable(EntryId(4)));
    assert_eq!(judge(&meta, &mark, &me, 5), Finding::NotRepairable, "its writer's (H17)");
    assert_eq!(judge(&meta, &mark, &me, 3), Finding::NotRepairable, "no such fragment");
    (meta.state, meta.last_entry) = (MetaState::Closed, Some(EntryId(8)));
    assert_eq!(judge(&meta, &mark, &me, 5), Finding::Repairable(EntryId(8)));
    meta.state = MetaState::Deleting;
    assert_eq!(judge(&meta, &mark, &me, 5), Finding::Gone);
    assert_eq!(judge_repair(None, Some(&mark), &me, EntryId(5)), Finding::Gone);
}

/// A closed ledger of entries 0 to 2, whose places others have.
fn left_over() -> LedgerState {
    let mut state = opened();
    assert_eq!(durable_tail(&ask(&mut state, 0, add(0, 3))), 2);
    ask(&mut state, 0, WriteOp::Closed(EntryId(2)));
    state
}

/// 5.6: who gives a copy up looks whether that is right after it was announced, and whoever sends something after that is told what is kept.
#[test]
fn scenario_51_a_copy_that_a_repair_was_promised_stays() {
    holds_only_with(Mutation::GiveUpPromised, |mutations| {
        let sends: [fn(&mut LedgerState); 3] = [
            |state| drop(ask(state, 0, repair_add(0, 2))),
            // It was on its way to the metadata when that was read for the copy as well.
            |state| drop(checked(state, 0, repair_add(0, 2), Finding::Repairable(EntryId(2)))),
            |state| drop(ask(state, 0, WriteOp::Hello)),
        ];
        for send in sends {
            let mut state = left_over();
            assert_eq!(state.give_up(mutations), None, "nobody announced it");
            assert!(state.begin_to_give_up());
            send(&mut state);
            assert_eq!(state.give_up(mutations), None);
            assert_eq!(state.held().last(), EntryId(2));
        }
        // Who merely asks is promised nothing, and a repair that was let in before has to be let in again.
        let mut state = left_over();
        checked(&mut state, 0, repair_add(0, 2), Finding::Repairable(EntryId(2)));
        assert!(state.begin_to_give_up());
        ask(&mut state, 0, WriteOp::Tail);
        ask(&mut state, 0, WriteOp::Seal);
        assert_eq!(state.clone().give_up(mutations), Some(Record::GivenUp));
        let again = ask(&mut state, 0, repair_add(0, 2));
        assert!(matches!(again[..], [Effect::CheckMetadata(..)]), "{again:?}");
        assert_eq!(state.give_up(mutations), None);
    });
}

/// K1: it had the entries once, so it is no witness against them; a repair may bring them back.
#[test]
fn scenario_51_what_was_given_up_is_not_denied() {
    holds_only_with(Mutation::VouchAfterGivingUp, |mutations| {
        let me = Identity { mutations, ..me() };
        let mut state = left_over();
        assert!(state.begin_to_give_up() && state.give_up(mutations).is_some());
        assert!(!state.begin_to_give_up(), "there is nothing any more");
        let request = |epoch, op| Event::Request { to: (), request: request(epoch, op) };
        for (epoch, op) in [(0, WriteOp::Hello), (0, add(0, 1)), (1, recovery_add(0, 1))] {
            assert_eq!(code(&state.step(&me, request(epoch, op))), Code::Limbo);
        }
        let sealed = state.step(&me, request(1, WriteOp::Seal));
        let Some(Effect::ReplyWhenDurable((), reply)) = sealed.last() else { panic!("{sealed:?}") };
        assert_eq!((reply.durable_tail, reply.authoritative), (EntryId::NONE, false));
        let finding = Finding::Repairable(EntryId(2));
        assert!(matches!(ask(&mut state, 0, repair_add(0, 3))[..], [Effect::CheckMetadata(..)]));
        assert_eq!(durable_tail(&checked(&mut state, 0, repair_add(0, 3), finding)), 2);
        assert!(state.is_given_up(), "what else it had it does not deny either");
        assert!(state.begin_to_give_up(), "it may be given up again");
    });
}
