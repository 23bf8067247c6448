use geminga_proto::ids::Incarnation;

use super::*;

fn member(number: u64) -> Member {
    Member { bookie: format!("b{number}").parse().unwrap(), incarnation: Incarnation(number) }
}

/// A writer of three members, two acks, all connected.
fn connected() -> Writer {
    let members = [member(1), member(2), member(3)];
    let (mut writer, effects) = Writer::new(2, EntryId(0), &members);
    assert_eq!(effects, [Effect::Hello(0), Effect::Hello(1), Effect::Hello(2)]);
    for member in &members {
        opened(&mut writer, member, -1);
    }
    writer
}

fn opened(writer: &mut Writer, member: &Member, tail: i64) -> Vec<Effect> {
    let (durable_tail, staged_tail) = (EntryId(tail), EntryId(tail));
    writer.step(Event::Opened { member: member.clone(), durable_tail, staged_tail })
}

fn ack(writer: &mut Writer, number: u64, tail: i64) -> Vec<Effect> {
    writer.step(Event::Acked { member: member(number), durable_tail: EntryId(tail) })
}

fn append(writer: &mut Writer, count: usize) {
    for _ in 0..count {
        writer.append().unwrap();
    }
}

fn commits(effects: &[Effect]) -> Vec<i64> {
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

/// Scenario 6: acks are cumulative (W1), and completion is in id order (W3).
#[test]
fn an_entry_completes_with_qa_acks_and_everything_before_it() {
    let mut writer = connected();
    append(&mut writer, 3);
    assert_eq!(commits(&ack(&mut writer, 1, 2)), Vec::<i64>::new());
    assert_eq!(commits(&ack(&mut writer, 3, 0)), [0]);
    assert_eq!(commits(&ack(&mut writer, 2, 2)), [2]);
    assert_eq!(writer.lac(), EntryId(2));
}

/// W4: an ack of another life of the same bookie is not counted.
#[test]
fn a_former_life_has_no_vote() {
    let mut writer = connected();
    append(&mut writer, 1);
    ack(&mut writer, 1, 0);
    let stranger = Member { incarnation: Incarnation(99), ..member(2) };
    let effects = writer.step(Event::Acked { member: stranger, durable_tail: EntryId(0) });
    assert_eq!(effects, []);
    assert_eq!(writer.lac(), EntryId::NONE);
}

/// Scenario 4: one of three dead and nobody to replace it; two go on.
#[test]
fn a_dead_position_is_left_out_while_qa_others_are_healthy() {
    let mut writer = connected();
    append(&mut writer, 1);
    writer.step(Event::Disconnected { member: member(3) });
    let effects = writer.step(Event::GiveUp { member: member(3) });
    assert!(effects.contains(&Effect::LeftOut(2)));
    ack(&mut writer, 1, 0);
    let effects = ack(&mut writer, 2, 0);
    assert_eq!(effects, [Effect::Commit(EntryId(0)), Effect::Release(EntryId(0))]);
    let (_, effects) = writer.append().unwrap();
    assert_eq!(effects.len(), 2, "nothing is sent to the absent one: {effects:?}");
}

/// 2.5 step 0: never below Qa; the buffer is kept and the stream resumes by `Hello`.
#[test]
fn the_last_qa_positions_are_waited_for() {
    let mut writer = connected();
    append(&mut writer, 2);
    ack(&mut writer, 1, 1);
    ack(&mut writer, 2, 0);
    writer.step(Event::Disconnected { member: member(3) });
    writer.step(Event::GiveUp { member: member(3) });
    let effects = writer.step(Event::Disconnected { member: member(2) });
    assert!(
        effects.contains(&Effect::QuorumLost) && effects.contains(&Effect::Hello(1)),
        "{effects:?}"
    );
    assert_eq!(writer.step(Event::GiveUp { member: member(2) }), [Effect::QuorumLost]);
    assert_eq!(writer.positions()[1].link, Link::Connecting);
    let effects = opened(&mut writer, &member(2), 0);
    assert_eq!(effects[0], Effect::Send { position: 1, first: EntryId(1), last: EntryId(1) });
    assert_eq!(commits(&ack(&mut writer, 2, 1)), [1]);
}

#[test]
fn a_gap_rewinds_one_stream() {
    let mut writer = connected();
    append(&mut writer, 3);
    let effects = writer.step(Event::OutOfOrder { member: member(2), staged_tail: EntryId(0) });
    assert_eq!(effects, [Effect::Send { position: 1, first: EntryId(1), last: EntryId(2) }]);
}

/// A bookie that has less than it acknowledged, or more than was assigned, is not the log this writer knows.
#[test]
fn an_impossible_tail_is_left_out() {
    for tail in [-1, 7] {
        let mut writer = connected();
        append(&mut writer, 2);
        ack(&mut writer, 3, 1);
        writer.step(Event::Disconnected { member: member(3) });
        let effects = opened(&mut writer, &member(3), tail);
        assert!(effects.contains(&Effect::LeftOut(2)), "tail {tail}: {effects:?}");
    }
}

/// Scenarios 10 and 16.
#[test]
fn a_verdict_ends_the_role_and_leaves_outcomes_unknown() {
    let mut writer = connected();
    append(&mut writer, 1);
    ack(&mut writer, 1, 0);
    assert_eq!(writer.step(Event::Verdict), [Effect::Fail(Outcome::Unknown)]);
    assert_eq!(commits(&ack(&mut writer, 2, 0)), Vec::<i64>::new());
    assert_eq!(writer.append(), Err(NotRunning));
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

/// Scenario 25.
#[test]
fn a_lost_close_leaves_outcomes_unknown() {
    let mut writer = connected();
    append(&mut writer, 1);
    writer.step(Event::Close);
    assert_eq!(writer.step(Event::CloseLost), [Effect::Fail(Outcome::Unknown)]);
    assert_eq!(writer.phase(), Phase::Dead);
}
