use geminga_metastore::Version;
use geminga_metastore::record::{Custom, Digest, Fragment, LedgerState, Tier};
use geminga_proto::ids::{Incarnation, LedgerId, SealEpoch};
use geminga_runtime::holds_only_with;

use super::*;
use crate::core::commit::{CasResult, Commit, Next, Update};

pub(super) fn member(number: u64) -> Member {
    Member { bookie: format!("b{number}").parse().unwrap(), incarnation: Incarnation(number) }
}

/// A new ledger on these members.
pub(super) fn open(qa: u8, members: &[u64]) -> LedgerMeta {
    let ensemble = members.iter().map(|n| member(*n)).collect();
    LedgerMeta {
        id: LedgerId(1),
        state: LedgerState::Open,
        seal_epoch: SealEpoch(0),
        qw: u8::try_from(members.len()).unwrap(),
        qa,
        digest: Digest::Crc32c,
        fragments: vec![Fragment { first_entry: EntryId(0), ensemble }],
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

/// A writer of three members, two acks, all connected.
pub(super) fn connected() -> Writer {
    connected_with(Mutations::default())
}

/// The same, without a rule.
pub(super) fn connected_with(mutations: Mutations) -> Writer {
    let (mut writer, effects) = Writer::new(&open(2, &[1, 2, 3]), &[Zone(0); 3], 2, mutations);
    assert_eq!(effects, [Effect::Hello(0), Effect::Hello(1), Effect::Hello(2)]);
    for number in 1..=3 {
        opened(&mut writer, number, -1);
    }
    writer
}

/// The same of members 1, 2, … in these zones, whose acknowledgements are in two.
pub(super) fn in_two_zones(zones: &[u16], mutations: Mutations) -> Writer {
    let members: Vec<u64> = (1..=zones.len() as u64).collect();
    let zones: Vec<Zone> = zones.iter().copied().map(Zone).collect();
    let (mut writer, _) = Writer::new(&open(2, &members), &zones, 2, mutations);
    for number in members {
        opened(&mut writer, number, -1);
    }
    writer
}

pub(super) fn opened(writer: &mut Writer, number: u64, tail: i64) -> Vec<Effect> {
    let (durable_tail, staged_tail) = (EntryId(tail), EntryId(tail));
    writer.step(Event::Opened { member: member(number), durable_tail, staged_tail })
}

pub(super) fn ack(writer: &mut Writer, number: u64, tail: i64) -> Vec<Effect> {
    writer.step(Event::Acked { member: member(number), durable_tail: EntryId(tail) })
}

pub(super) fn append(writer: &mut Writer, count: usize) {
    for _ in 0..count {
        writer.append().unwrap();
    }
}

pub(super) fn commits(effects: &[Effect]) -> Vec<i64> {
    effects
        .iter()
        .filter_map(|e| if let Effect::Commit(lac) = e { Some(lac.0) } else { None })
        .collect()
}

#[test]
fn ids_follow_call_order_and_go_to_everyone() {
    let mut writer = connected();
    let (id, effects) = writer.append().unwrap();
    assert_eq!(id, EntryId(0));
    let sent = |position| Effect::Send { position, first: EntryId(0), last: EntryId(0) };
    assert_eq!(effects, [sent(0), sent(1), sent(2)]);
    assert_eq!(writer.append().unwrap().0, EntryId(1));
}

/// Acks are cumulative (W1), and completion is in id order (W3).
#[test]
fn scenario_06_an_entry_completes_with_qa_acks_and_everything_before_it() {
    holds_only_with(Mutation::AckWithOneLess, |mutations| {
        let mut writer = connected_with(mutations);
        append(&mut writer, 3);
        assert_eq!(commits(&ack(&mut writer, 1, 2)), Vec::<i64>::new());
        assert_eq!(commits(&ack(&mut writer, 3, 0)), [0]);
        assert_eq!(commits(&ack(&mut writer, 2, 2)), [2]);
        assert_eq!(writer.lac(), EntryId(2));
    });
}

/// 6.7: an entry that only one zone has dies with it.
#[test]
fn an_entry_waits_for_a_copy_in_another_zone() {
    holds_only_with(Mutation::AckInOneZone, |mutations| {
        let mut writer = in_two_zones(&[0, 0, 1], mutations);
        append(&mut writer, 3);
        assert_eq!(commits(&ack(&mut writer, 1, 2)), Vec::<i64>::new());
        assert_eq!(commits(&ack(&mut writer, 2, 2)), Vec::<i64>::new(), "both are in one zone");
        assert_eq!(commits(&ack(&mut writer, 3, 0)), [0]);
        assert_eq!(commits(&ack(&mut writer, 3, 2)), [2]);
    });
}

/// Two zones are enough of three; Qa copies are needed all the same, and in a ledger that began in one zone that one is enough.
#[test]
fn zones_that_are_not_asked_for_and_not_there_are_not_waited_for() {
    let mut writer = in_two_zones(&[0, 1, 2], Mutations::default());
    append(&mut writer, 1);
    assert_eq!(commits(&ack(&mut writer, 3, 0)), Vec::<i64>::new());
    assert_eq!(commits(&ack(&mut writer, 1, 0)), [0]);
    let mut writer = in_two_zones(&[4, 4, 4], Mutations::default());
    append(&mut writer, 1);
    ack(&mut writer, 2, 0);
    assert_eq!(commits(&ack(&mut writer, 1, 0)), [0]);
}

/// W4: an ack of another life of the same bookie is not counted.
#[test]
fn scenario_28_a_former_life_has_no_vote() {
    holds_only_with(Mutation::IgnoreIncarnation, |mutations| {
        let mut writer = connected_with(mutations);
        append(&mut writer, 1);
        ack(&mut writer, 1, 0);
        let stranger = Member { incarnation: Incarnation(99), ..member(2) };
        let effects = writer.step(Event::Acked { member: stranger, durable_tail: EntryId(0) });
        assert_eq!(effects, []);
        assert_eq!(writer.lac(), EntryId::NONE);
        // And empty nodes at the same address answer that they are not who was meant: no ack, whatever they store.
        use geminga_proto::bookie::{Code, WriteReply};
        let mut reply = WriteReply::refusal(Code::WrongIncarnation, "");
        reply.durable_tail = EntryId(0);
        let event = Event::from_add(member(2), &reply);
        assert_eq!(event, Event::Disconnected { member: member(2) });
    });
}

#[test]
fn a_gap_rewinds_one_stream() {
    let mut writer = connected();
    append(&mut writer, 3);
    let effects = writer.step(Event::OutOfOrder { member: member(2), staged_tail: EntryId(0) });
    assert_eq!(effects, [Effect::Send { position: 1, first: EntryId(1), last: EntryId(2) }]);
}

/// A bookie that has less than it acknowledged, or more than was assigned, is not the log this writer knows.
/// Each of the requests that were on their way behind a gap is refused with the same tail: one answer to all of them.
#[test]
fn a_gap_is_filled_once() {
    let mut writer = connected();
    append(&mut writer, 3);
    let gap = || Event::OutOfOrder { member: member(2), staged_tail: EntryId(0) };
    assert_eq!(writer.step(gap()).len(), 1);
    assert_eq!((writer.step(gap()), writer.step(gap())), (vec![], vec![]));
    append(&mut writer, 1);
    assert_eq!(writer.step(gap()), []);
    // Another connection begins anew.
    writer.step(Event::Disconnected { member: member(2) });
    opened(&mut writer, 2, 0);
    assert_eq!(writer.step(gap()).len(), 1);
}

#[test]
fn an_impossible_tail_is_a_failure() {
    for tail in [-1, 7] {
        let mut writer = connected();
        append(&mut writer, 2);
        ack(&mut writer, 3, 1);
        writer.step(Event::Disconnected { member: member(3) });
        assert_eq!(opened(&mut writer, 3, tail), [Effect::Search], "tail {tail}");
        let effects = writer.step(Event::Searched(Search::Unanswered));
        assert!(effects.contains(&Effect::LeftOut(2)), "tail {tail}: {effects:?}");
        assert_eq!(commits(&ack(&mut writer, 1, 1)).len(), usize::from(tail == 7), "{tail}");
    }
}

#[test]
fn scenario_16_a_verdict_ends_the_role_and_leaves_outcomes_unknown() {
    holds_only_with(Mutation::IgnoreVerdicts, |mutations| {
        let mut writer = connected_with(mutations);
        append(&mut writer, 1);
        ack(&mut writer, 3, 0);
        let verdict = Event::Verdict { member: member(1) };
        assert_eq!(writer.step(verdict), [Effect::Fail(Outcome::Unknown)]);
        assert_eq!(commits(&ack(&mut writer, 2, 0)), Vec::<i64>::new());
        assert_eq!(writer.append(), Err(NotRunning));
    });
}

/// I3: once the end is being committed nothing completes; afterwards the rest is certain (2.9).
#[test]
fn a_close_freezes_the_lac() {
    let mut writer = connected();
    append(&mut writer, 2);
    ack(&mut writer, 1, 1);
    ack(&mut writer, 2, 0);
    assert_eq!(writer.step(Event::Close), [Effect::CommitClose(EntryId(0))]);
    assert_eq!(commits(&ack(&mut writer, 2, 1)), Vec::<i64>::new());
    assert_eq!(writer.lac(), EntryId(0));
    assert_eq!(writer.step(Event::CloseCommitted), [Effect::Fail(Outcome::NotWritten)]);
    assert_eq!(writer.phase(), Phase::Closed);
}

/// Whatever bookies say meanwhile, only the close itself tells what became of it.
#[test]
fn a_verdict_does_not_decide_about_a_close() {
    let mut writer = connected();
    append(&mut writer, 1);
    writer.step(Event::Close);
    assert_eq!(writer.step(Event::Verdict { member: member(1) }), []);
    assert_eq!(writer.phase(), Phase::Closing);
    assert_eq!(writer.step(Event::CloseCommitted), [Effect::Fail(Outcome::NotWritten)]);
    let mut writer = connected();
    writer.step(Event::Close);
    writer.step(Event::Verdict { member: member(1) });
    writer.step(Event::Deposed);
    assert_eq!(writer.phase(), Phase::Dead);
}

/// The recoverer marked the ledger first: the close never takes place, and the writer ends with everything unknown. That the
/// writer may be first is `recovery`'s to adopt.
#[test]
fn scenario_25_a_lost_close_leaves_outcomes_unknown() {
    holds_only_with(Mutation::WriteWhenNotOpen, |mutations| {
        let meta = open(2, &[1, 2, 3]);
        let mut writer = connected_with(mutations);
        append(&mut writer, 1);
        let [Effect::CommitClose(last)] = writer.step(Event::Close)[..] else { panic!("no close") };
        let close = Update::Close { last, length: 0, entries_crc: 0 };
        let (mut commit, _) = Commit::new(&meta, Version(1), close, 9, mutations);
        assert_eq!(commit.cas_done(CasResult::Lost), Next::Read);
        let mut marked = meta;
        (marked.state, marked.seal_epoch) = (LedgerState::InRecovery, SealEpoch(1));
        assert_eq!(commit.read(Some((marked, Version(2)))), Next::Lost);
        assert_eq!(writer.step(Event::Deposed), [Effect::Fail(Outcome::Unknown)]);
        assert_eq!(writer.phase(), Phase::Dead);
        assert_eq!(commits(&ack(&mut writer, 1, 0)), Vec::<i64>::new());
        assert_eq!(commits(&ack(&mut writer, 2, 0)), Vec::<i64>::new());
    });
}

/// The ledger was deleted under a writer that is stale, or sealed: no answer that it gets is an ack.
#[test]
fn scenario_27_a_deleted_ledger_acknowledges_nothing() {
    use geminga_proto::bookie::{Code, WriteReply};
    for code in [Code::Deleted, Code::Sealed] {
        let mut writer = connected();
        append(&mut writer, 1);
        for number in 1..=3 {
            let mut reply = WriteReply::refusal(code, "");
            reply.durable_tail = EntryId(0);
            let effects = writer.step(Event::from_add(member(number), &reply));
            assert_eq!(commits(&effects), Vec::<i64>::new());
        }
        assert_eq!(writer.lac(), EntryId::NONE);
    }
}
