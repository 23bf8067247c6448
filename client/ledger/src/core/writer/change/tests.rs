use geminga_proto::bookie::{Code, WriteReply};
use geminga_proto::ids::Incarnation;
use geminga_runtime::holds_only_with;

use super::super::tests::{
    ack, append, commits, connected, connected_with, in_two_zones, member, open, opened,
};
use super::super::{Event, Outcome};
use super::*;
use crate::core::mutation::Mutations;

fn give_up(writer: &mut Writer, number: u64) -> Vec<Effect> {
    writer.step(Event::GiveUp { member: member(number) })
}

/// Others were found: each takes the place of the one before it.
fn found(writer: &mut Writer, replacements: &[(u64, u64)]) -> Vec<Effect> {
    let replacements: Vec<_> = replacements.iter().map(|(old, new)| (*old, *new, 0)).collect();
    found_in(writer, &replacements)
}

/// The same, with the zones that the others are in.
fn found_in(writer: &mut Writer, replacements: &[(u64, u64, u16)]) -> Vec<Effect> {
    let found = replacements.iter().map(|(old, new, zone)| taking(*old, member(*new), *zone));
    writer.step(Event::Searched(Search::Found(found.collect())))
}

fn taking(old: u64, by: Member, zone: u16) -> Replacement {
    Replacement { lost: member(old), by, zone: Zone(zone) }
}

fn change(first: i64, members: &[u64]) -> Effect {
    let ensemble = members.iter().map(|n| member(*n)).collect();
    Effect::Change { first: EntryId(first), ensemble }
}

fn send(position: usize, first: i64, last: i64) -> Effect {
    Effect::Send { position, first: EntryId(first), last: EntryId(last) }
}

fn marks(effects: &[Effect]) -> Vec<Member> {
    let mark = |e: &Effect| if let Effect::MarkUnder(m) = e { m.clone() } else { Vec::new() };
    effects.iter().flat_map(mark).collect()
}

/// Three entries, the first two of them acknowledged by 1 and 2; 3 has none and is gone. 4 is about to take its place.
fn changing() -> Writer {
    changing_with(Mutations::default())
}

fn changing_with(mutations: Mutations) -> Writer {
    let mut writer = connected_with(mutations);
    append(&mut writer, 3);
    ack(&mut writer, 1, 1);
    assert_eq!(commits(&ack(&mut writer, 2, 1)), [1]);
    writer.step(Event::Disconnected { member: member(3) });
    assert_eq!(give_up(&mut writer, 3), [Effect::Search]);
    assert_eq!(found(&mut writer, &[(3, 4)]), [change(2, &[1, 2, 4])]);
    assert_eq!(writer.phase(), Phase::Changing);
    writer
}

/// The two that are left go on until the change is sent; the new one gets what is pending; the old fragment is marked.
#[test]
fn scenario_01_a_dead_member_is_replaced_and_its_fragment_marked() {
    holds_only_with(Mutation::ForgetDebt, |mutations| {
        let mut writer = connected_with(mutations);
        append(&mut writer, 2);
        writer.step(Event::Disconnected { member: member(3) });
        give_up(&mut writer, 3);
        ack(&mut writer, 1, 0);
        assert_eq!(commits(&ack(&mut writer, 2, 0)), [0], "goes on while others are looked for");
        assert_eq!(found(&mut writer, &[(3, 4)]), [change(1, &[1, 2, 4])]);
        let effects = writer.step(Event::Changed);
        assert_eq!(marks(&effects), [member(3)]);
        assert!(effects.contains(&Effect::Hello(2)), "{effects:?}");
        assert_eq!(writer.fragment_first(), EntryId(1));
        assert_eq!(opened(&mut writer, 4, 0), [send(2, 1, 1)]);
        ack(&mut writer, 4, 1);
        assert_eq!(commits(&ack(&mut writer, 1, 1)), [1]);
    });
}

#[test]
fn scenario_02_two_dead_members_are_replaced_in_one_change() {
    holds_only_with(Mutation::SkipReplay, |mutations| {
        let mut writer = connected_with(mutations);
        append(&mut writer, 3);
        ack(&mut writer, 1, 2);
        assert_eq!(commits(&ack(&mut writer, 2, 0)), [0]);
        for dead in [2, 3] {
            writer.step(Event::Disconnected { member: member(dead) });
            assert_eq!(give_up(&mut writer, dead), [Effect::Search]);
        }
        assert_eq!(found(&mut writer, &[(2, 4), (3, 5)]), [change(1, &[1, 4, 5])]);
        let effects = writer.step(Event::Changed);
        assert_eq!(marks(&effects), [member(3)], "2 has what was acknowledged");
        assert_eq!(opened(&mut writer, 4, 0), [send(1, 1, 2)]);
        assert_eq!(opened(&mut writer, 5, 0), [send(2, 1, 2)]);
        assert_eq!(commits(&ack(&mut writer, 5, 1)), [1], "in order, from LAC + 1 on");
        assert_eq!(commits(&ack(&mut writer, 4, 2)), [2]);
    });
}

/// By metadata alone; what is pending certainly was not written then.
#[test]
fn scenario_03_a_ledger_whose_members_all_died_is_closed_at_its_lac() {
    holds_only_with(Mutation::CloseAtLap, |mutations| {
        let mut writer = connected_with(mutations);
        append(&mut writer, 2);
        ack(&mut writer, 1, 0);
        ack(&mut writer, 2, 0);
        for dead in 1..=3 {
            writer.step(Event::Disconnected { member: member(dead) });
        }
        assert_eq!(give_up(&mut writer, 1), [Effect::QuorumLost]);
        assert!(writer.is_quorum_lost());
        assert_eq!(writer.step(Event::Close), [Effect::CommitClose(EntryId(0))]);
        let effects = writer.step(Event::CloseCommitted);
        assert_eq!(effects[0], Effect::Fail(Outcome::NotWritten));
        assert_eq!(marks(&effects), [member(3)]);
    });
}

#[test]
fn scenario_04_without_a_spare_two_of_three_go_on() {
    holds_only_with(Mutation::WaitForSpare, |mutations| {
        for search in [Search::Found(Vec::new()), Search::Unanswered] {
            let mut writer = connected_with(mutations);
            append(&mut writer, 1);
            writer.step(Event::Disconnected { member: member(3) });
            give_up(&mut writer, 3);
            let effects = writer.step(Event::Searched(search));
            assert_eq!(effects, [Effect::LeftOut(2)]);
            ack(&mut writer, 1, 0);
            let effects = ack(&mut writer, 2, 0);
            assert_eq!(effects, [Effect::Commit(EntryId(0)), Effect::Release(EntryId(0))]);
            let (_, effects) = writer.append().unwrap();
            assert_eq!(
                effects,
                [send(0, 1, 1), send(1, 1, 1)],
                "nothing is sent to the absent one"
            );
            // A bookie that comes later takes the place.
            assert_eq!(writer.step(Event::SearchAgain), [Effect::Search]);
            assert_eq!(found(&mut writer, &[(3, 4)]), [change(1, &[1, 2, 4])]);
            assert_eq!(marks(&writer.step(Event::Changed)), [member(3)]);
        }
    });
}

/// Never below Qa: the buffer is kept and the stream resumes by `Hello`; the owner hears of it.
#[test]
fn scenario_05_without_a_spare_the_last_qa_are_waited_for() {
    holds_only_with(Mutation::AckWithOneLess, |mutations| {
        let mut writer = connected_with(mutations);
        append(&mut writer, 2);
        ack(&mut writer, 1, 1);
        ack(&mut writer, 2, 0);
        assert_eq!(writer.lac(), EntryId(0), "the other has one copy");
        for dead in [3, 2] {
            writer.step(Event::Disconnected { member: member(dead) });
            give_up(&mut writer, dead);
        }
        assert_eq!(found(&mut writer, &[]), [Effect::QuorumLost]);
        assert_eq!(writer.positions()[1].link, Link::Connecting);
        assert_eq!(opened(&mut writer, 2, 0)[0], send(1, 1, 1));
        assert!(writer.is_quorum_lost(), "a hello is no proof");
        assert_eq!(commits(&ack(&mut writer, 2, 1)), [1]);
        assert!(!writer.is_quorum_lost());
    });
}

/// W6, W4: nothing completes until the change is known, and what the old member says counts nothing afterwards. BookKeeper #4651.
#[test]
fn scenario_07_acks_of_the_old_member_during_the_change() {
    holds_only_with(Mutation::CompleteWhileChanging, |mutations| {
        let mut writer = changing_with(mutations);
        let effects = ack(&mut writer, 1, 2);
        assert_eq!(effects, [], "frozen, although 1 and 3 have it");
        assert_eq!(commits(&ack(&mut writer, 3, 2)), Vec::<i64>::new());
        let effects = writer.step(Event::Changed);
        assert_eq!(commits(&effects), Vec::<i64>::new(), "one copy in the new ensemble");
        assert_eq!(ack(&mut writer, 3, 2), [], "no longer at its position");
        assert_eq!(commits(&ack(&mut writer, 2, 2)), [2]);
    });
}

/// W7: until the change is known to be made the newcomer gets nothing.
#[test]
fn nothing_is_sent_to_a_newcomer_before_the_change_is_known() {
    let mut writer = changing();
    let (_, effects) = writer.append().unwrap();
    assert_eq!(effects, [send(0, 3, 3), send(1, 3, 3)]);
    assert_eq!(opened(&mut writer, 4, -1), []);
    assert_eq!(writer.step(Event::Changed)[0], Effect::MarkUnder(vec![member(3)]));
    assert_eq!(opened(&mut writer, 4, 1), [send(2, 2, 3)]);
}

#[test]
fn scenario_10_a_change_lost_to_a_recoverer_ends_the_role() {
    let mut writer = changing();
    ack(&mut writer, 1, 2);
    assert_eq!(writer.step(Event::Deposed), [Effect::Fail(Outcome::Unknown)]);
    for number in 1..=4 {
        assert_eq!(commits(&ack(&mut writer, number, 2)), Vec::<i64>::new());
    }
    assert_eq!(writer.step(Event::Changed), []);
    assert_eq!(writer.append(), Err(super::super::NotRunning));
}

/// The second change starts at the same entry, so that it takes the fragment of the first (2.5 step 3).
#[test]
fn scenario_11_a_replacement_that_fails_during_replay_is_replaced_in_place() {
    let mut writer = changing();
    writer.step(Event::Changed);
    opened(&mut writer, 4, 1);
    writer.step(Event::Disconnected { member: member(4) });
    assert_eq!(give_up(&mut writer, 4), [Effect::Search]);
    assert_eq!(found(&mut writer, &[(4, 5)]), [change(2, &[1, 2, 5])]);
    let effects = writer.step(Event::Changed);
    assert_eq!(marks(&effects), [], "no fragment has ended");
    assert_eq!(writer.fragments, 2);
    assert_eq!(opened(&mut writer, 5, 1), [send(2, 2, 2)]);
}

/// A late ack of the first stint is as good as one of the second: what is durable there has the same content (D3), and
/// the metadata names the member.
#[test]
fn scenario_12_a_member_that_returns_with_a_late_ack() {
    holds_only_with(Mutation::IgnoreIncarnation, |mutations| {
        let mut writer = changing_with(mutations);
        writer.step(Event::Changed);
        append(&mut writer, 1);
        give_up(&mut writer, 4);
        assert_eq!(found(&mut writer, &[(4, 3)]), [change(2, &[1, 2, 3])]);
        assert_eq!(ack(&mut writer, 3, 2), [], "not a member yet");
        writer.step(Event::Changed);
        assert_eq!(commits(&ack(&mut writer, 3, 2)), Vec::<i64>::new());
        assert_eq!(commits(&ack(&mut writer, 1, 2)), [2], "on 1 and 3, both in the ensemble");
        // Another life of it is somebody else.
        assert_eq!(commits(&ack(&mut writer, 1, 3)), Vec::<i64>::new());
        let stranger = Member { incarnation: Incarnation(99), ..member(3) };
        assert_eq!(writer.step(Event::Acked { member: stranger, durable_tail: EntryId(3) }), []);
    });
}

/// The same bookie, wiped, takes the place that its former life lost; no other bookie comes twice.
#[test]
fn a_new_life_takes_its_own_lost_place() {
    let reborn = Member { incarnation: Incarnation(99), ..member(3) };
    let mut writer = connected();
    give_up(&mut writer, 3);
    let search = Search::Found(vec![taking(3, reborn.clone(), 0)]);
    let effects = writer.step(Event::Searched(search));
    let ensemble = vec![member(1), member(2), reborn.clone()];
    assert_eq!(effects, [Effect::Change { first: EntryId(0), ensemble }]);
    let mut writer = connected();
    give_up(&mut writer, 2);
    let search = Search::Found(vec![taking(2, reborn, 0)]);
    let effects = writer.step(Event::Searched(search));
    assert_eq!(effects, [Effect::LeftOut(1)]);
}

/// Step 5: one that stays and lags continues at the new fragment; what it misses below is marked if it does not come.
#[test]
fn a_kept_member_that_lags_owes_the_fragment_that_ended() {
    for breaks in [false, true] {
        let mut writer = connected();
        append(&mut writer, 4);
        ack(&mut writer, 1, 2);
        assert_eq!(commits(&ack(&mut writer, 2, 2)), [2]);
        give_up(&mut writer, 1);
        assert_eq!(found(&mut writer, &[(1, 4)]), [change(3, &[4, 2, 3])]);
        assert_eq!(marks(&writer.step(Event::Changed)), [], "3 may have them under way");
        if breaks {
            writer.step(Event::Disconnected { member: member(3) });
            // Relative to the new fragment nothing is missing.
            let effects = opened(&mut writer, 3, 2);
            assert_eq!(marks(&effects), [member(3)]);
            assert!(effects.contains(&send(2, 3, 3)), "{effects:?}");
        } else {
            assert_eq!(marks(&ack(&mut writer, 3, 3)), []);
            writer.step(Event::Disconnected { member: member(3) });
            assert_eq!(marks(&opened(&mut writer, 3, 3)), []);
        }
    }
}

/// Failures during the change wait for its end, and are replaced next.
#[test]
fn a_failure_during_the_change_is_replaced_after_it() {
    let mut writer = changing();
    writer.step(Event::Disconnected { member: member(2) });
    assert_eq!(give_up(&mut writer, 2), [], "one change at a time");
    assert_eq!(writer.step(Event::Changed).last(), Some(&Effect::Search));
    opened(&mut writer, 4, 1);
    ack(&mut writer, 4, 2);
    assert_eq!(commits(&ack(&mut writer, 1, 2)), [2]);
    assert_eq!(found(&mut writer, &[(2, 5)]), [change(3, &[1, 5, 4])]);
}

/// A change that certainly did not take place: the ensemble is what it was, and Qa of it suffice.
#[test]
fn a_refused_change_leaves_the_ensemble() {
    let mut writer = changing();
    ack(&mut writer, 1, 2);
    ack(&mut writer, 2, 2);
    let effects = writer.step(Event::NotChanged);
    assert!(effects.contains(&Effect::LeftOut(2)), "{effects:?}");
    assert_eq!(commits(&effects), [2]);
    assert_eq!(writer.fragment_first(), EntryId(0));
}

/// A bookie that finds itself outside of the ensemble says that the writer has no right to it (K2): true of it only.
#[test]
fn a_member_that_leaves_passes_no_verdict() {
    let reply = WriteReply::refusal(Code::Unauthorised, "not a member of the last fragment");
    let verdict = Event::from_hello(member(3), &reply);
    let mut writer = changing();
    assert_eq!(writer.step(verdict.clone()), []);
    writer.step(Event::Changed);
    assert_eq!(writer.step(verdict), []);
    assert_eq!(writer.phase(), Phase::Running);
    let verdict = Event::from_hello(member(1), &reply);
    assert_eq!(writer.step(verdict), [Effect::Fail(Outcome::Unknown)]);
}

#[test]
fn a_close_waits_for_the_change_before_it() {
    let mut writer = changing();
    ack(&mut writer, 1, 2);
    ack(&mut writer, 2, 2);
    assert_eq!(writer.step(Event::Close), []);
    let effects = writer.step(Event::Changed);
    assert_eq!(commits(&effects), [2]);
    assert_eq!(effects.last(), Some(&Effect::CommitClose(EntryId(2))));
}

/// 2.5 step 0: the owner is asked to roll once a member that was left out is there again.
#[test]
fn a_member_that_is_back_asks_for_a_roll() {
    let mut writer = connected();
    give_up(&mut writer, 3);
    found(&mut writer, &[]);
    assert_eq!(writer.step(Event::Back { member: member(1) }), []);
    assert_eq!(writer.step(Event::Back { member: member(3) }), [Effect::Roll]);
    assert!(writer.is_roll_asked());
    assert_eq!(writer.step(Event::Back { member: member(3) }), [], "once");
}

#[test]
fn scenario_64_a_ledger_with_all_its_fragments_is_rolled() {
    holds_only_with(Mutation::IgnoreFragmentLimit, |mutations| {
        let mut meta = open(2, &[1, 2, 3]);
        let more = (1..64).map(|n| geminga_metastore::record::Fragment {
            first_entry: EntryId(n),
            ..meta.fragments[0].clone()
        });
        let more: Vec<_> = more.collect();
        meta.fragments.extend(more);
        let (mut writer, _) = Writer::new(&meta, &[Zone(0); 3], 1, mutations);
        for number in 1..=3 {
            opened(&mut writer, number, 62);
        }
        append(&mut writer, 1);
        ack(&mut writer, 1, 63);
        ack(&mut writer, 2, 63);
        give_up(&mut writer, 3);
        let effects = found(&mut writer, &[(3, 4)]);
        assert_eq!(effects[..2], [Effect::Roll, Effect::LeftOut(2)]);
        // So is one whose ensemble changes again and again.
        let mut writer = connected_with(mutations);
        give_up(&mut writer, 3);
        let effects = writer.step(Event::Searched(Search::TooMany));
        assert_eq!(effects, [Effect::Roll, Effect::LeftOut(2)]);
    });
}

/// 6.4: where nothing is written nobody finds out who is gone, but by asking.
#[test]
fn scenario_70_an_idle_member_that_is_not_registered_is_asked_and_replaced_if_it_is_silent() {
    holds_only_with(Mutation::AskNobody, |mutations| {
        let mut writer = connected_with(mutations);
        append(&mut writer, 2);
        let unregistered = Event::Unregistered { member: member(3) };
        assert_eq!(writer.step(unregistered.clone()), [], "what is under way tells");
        for number in 1..=3 {
            ack(&mut writer, number, 1);
        }
        assert_eq!(writer.step(unregistered.clone()), [Effect::Hello(2)]);
        assert_eq!(opened(&mut writer, 3, 1), [], "it is there, and stays");
        assert_eq!((writer.phase(), writer.positions()[2].link), (Phase::Running, Link::Live));
        assert_eq!(writer.step(unregistered.clone()), [Effect::Hello(2)]);
        assert_eq!(writer.step(unregistered.clone()), [], "once at a time");
        assert_eq!(give_up(&mut writer, 3), [Effect::Search]);
        assert_eq!(found(&mut writer, &[(3, 4)]), [change(2, &[1, 2, 4])], "behind the LAC");
        let effects = writer.step(Event::Changed);
        assert_eq!(marks(&effects), [], "it had everything");
        assert!(effects.contains(&Effect::Hello(2)), "{effects:?}");
        assert_eq!(opened(&mut writer, 4, 1), []);
        assert_eq!(writer.append().unwrap().1, [send(0, 2, 2), send(1, 2, 2), send(2, 2, 2)]);
        assert_eq!(writer.step(unregistered), [], "it has left");
    });
}

/// A member that lacks entries of the fragment that ends is marked, and never comes back into it by its place in the next.
#[test]
fn an_unregistered_member_that_has_lost_what_it_said_is_marked() {
    let mut writer = connected();
    append(&mut writer, 2);
    for number in 1..=3 {
        ack(&mut writer, number, 1);
    }
    writer.step(Event::Unregistered { member: member(3) });
    assert_eq!(opened(&mut writer, 3, 0), [Effect::Search], "not the log that it had");
    assert_eq!(found(&mut writer, &[(3, 4)]), [change(2, &[1, 2, 4])]);
    assert_eq!(marks(&writer.step(Event::Changed)), [member(3)]);
}

/// Slow is not stuck: a member that was given up for being slow is replaced although it moves.
#[test]
fn scenario_59_a_slow_member_is_replaced_although_it_moves() {
    holds_only_with(Mutation::ForgiveSlow, |mutations| {
        let mut writer = connected_with(mutations);
        append(&mut writer, 9);
        ack(&mut writer, 1, 8);
        ack(&mut writer, 2, 8);
        give_up(&mut writer, 3);
        ack(&mut writer, 3, 1);
        assert_eq!(found(&mut writer, &[(3, 4)]), [change(9, &[1, 2, 4])]);
    });
}

/// A change that would leave fewer than Qa to acknowledge is not worth its wait: a roll is.
#[test]
fn a_change_that_does_not_reach_qa_is_not_started() {
    let meta = open(3, &[1, 2, 3, 4, 5]);
    let (mut writer, _) = Writer::new(&meta, &[Zone(0); 5], 1, Mutations::default());
    for number in 1..=5 {
        opened(&mut writer, number, -1);
    }
    for dead in 2..=5 {
        give_up(&mut writer, dead);
    }
    assert_eq!(found(&mut writer, &[(2, 6)]), [Effect::QuorumLost]);
}

/// 6.7: the zones that a ledger began with are its zones to the end. Without one of them it takes nobody, leaves nobody out, and asks to
/// be closed; the next ledger has what zones there are.
#[test]
fn a_ledger_does_not_fall_below_its_zones() {
    let mut writer = in_two_zones(&[0, 0, 1], Mutations::default());
    append(&mut writer, 1);
    ack(&mut writer, 1, 0);
    ack(&mut writer, 2, 0);
    give_up(&mut writer, 3);
    assert_eq!(found_in(&mut writer, &[(3, 4, 0)]), [Effect::QuorumLost]);
    assert!(writer.is_quorum_lost());
    assert_eq!(writer.lac(), EntryId::NONE);
    // Nobody at all is found: its buffer is kept, and it may come back.
    assert_eq!(writer.step(Event::SearchAgain), [Effect::Search]);
    assert_eq!(found_in(&mut writer, &[]), []);
    assert!(writer.is_quorum_lost());
    assert_eq!(commits(&ack(&mut writer, 3, 0)), [0]);
    assert!(!writer.is_quorum_lost(), "it takes entries again");
}

/// Somebody of that zone, or of a third one, may come; and a member whose zone has another may be left out.
#[test]
fn another_of_the_zone_or_of_a_third_one_takes_the_place() {
    for zone in [1, 2] {
        let mut writer = in_two_zones(&[0, 0, 1], Mutations::default());
        append(&mut writer, 1);
        ack(&mut writer, 1, 0);
        give_up(&mut writer, 3);
        assert_eq!(found_in(&mut writer, &[(3, 4, zone)]), [change(0, &[1, 2, 4])]);
        writer.step(Event::Changed);
        opened(&mut writer, 4, -1);
        assert_eq!(commits(&ack(&mut writer, 2, 0)), Vec::<i64>::new(), "both in zone 0");
        assert_eq!(commits(&ack(&mut writer, 4, 0)), [0], "zone {zone}");
    }
    let mut writer = in_two_zones(&[0, 0, 1], Mutations::default());
    give_up(&mut writer, 2);
    assert_eq!(found_in(&mut writer, &[]), [Effect::LeftOut(1)]);
}
