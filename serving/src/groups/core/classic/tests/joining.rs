//! JoinGroup, Heartbeat and LeaveGroup.

use geminga_proto::caps;

use super::*;

#[test]
fn a_generation_begins_when_all_have_joined_and_the_leader_alone_is_told_of_them() {
    let (mut bench, generation) = Bench::stable(&["a"]);
    let b = bench.join(newcomer("b"));
    assert!(bench.is_waiting(b));
    assert_eq!(bench.heartbeat("a", generation), Err(Error::RebalanceInProgress), "preparing");
    let a = bench.join(again("a"));
    let (a, b) = (bench.joined(a), bench.joined(b));
    assert_eq!((a.generation, b.generation), (generation + 1, generation + 1));
    assert_eq!((&*a.leader, &*b.leader, &*a.protocol), ("a", "a", "range"));
    let listed: Vec<_> = a.members.iter().map(|m| (&*m.name.member, &m.metadata[..])).collect();
    assert_eq!(listed, [("a", &b"r"[..]), ("b", &b"r"[..])]);
    assert_eq!(b.members, []);
    assert_eq!(bench.group.state(), State::CompletingRebalance);
    assert_eq!(bench.heartbeat("a", generation + 1), Ok(Reply::Done), "completing, as in Kafka");
}

#[test]
fn a_generation_is_in_the_log_before_anybody_hears_of_it() {
    let mut bench = Bench::new();
    let a = bench.join(newcomer("a"));
    let (before, _) = &bench.replies[&a];
    assert_eq!(*before, 1, "S3");
    let newest = bench.newest();
    assert_eq!((newest.generation, newest.members.len()), (1, 1));
    assert!(!newest.classic.unwrap().assigned);
}

#[test]
fn a_new_member_first_gets_an_id_and_joins_with_it() {
    let mut bench = Bench::new();
    let two_steps = JoinClassic { two_steps: true, ..newcomer("a") };
    assert_eq!(bench.refused(two_steps), Error::MemberIdRequired("a".into()));
    assert!(!bench.group.is_blank(), "somebody is expected");
    assert_eq!(bench.group.len(), 0);
    let a = bench.join(again("a"));
    assert_eq!(&*bench.joined(a).member, "a");
    // An id that nobody gave out, or that was not used in time, is nobody's.
    assert_eq!(bench.refused(again("x")), Error::UnknownMember);
    let two_steps = JoinClassic { two_steps: true, ..newcomer("b") };
    assert_eq!(bench.refused(two_steps), Error::MemberIdRequired("b".into()));
    bench.pass(SESSION.into());
    assert_eq!(bench.refused(again("b")), Error::UnknownMember);
}

#[test]
fn static_members_join_in_one_step() {
    let mut bench = Bench::new();
    let a = bench.join(JoinClassic { two_steps: true, ..fixed("i", "a") });
    assert_eq!(&*bench.joined(a).member, "a");
}

#[test]
fn who_was_given_an_id_is_waited_for() {
    let (mut bench, _) = Bench::stable(&["a"]);
    bench.refused(JoinClassic { two_steps: true, ..newcomer("b") });
    bench.join(newcomer("c"));
    let a = bench.join(again("a"));
    assert!(bench.is_waiting(a), "b is expected");
    let b = bench.join(again("b"));
    assert_eq!(bench.joined(a).members.len(), 3);
    assert_eq!(bench.joined(b).generation, 2);
}

#[test]
fn who_was_given_an_id_is_not_waited_for_longer_than_its_session() {
    let (mut bench, _) = Bench::stable(&["a"]);
    bench.refused(JoinClassic { two_steps: true, ..newcomer("b") });
    let a = bench.join(again("a"));
    bench.pass(u64::from(SESSION) - 1);
    assert!(bench.is_waiting(a));
    bench.pass(1);
    assert_eq!(bench.joined(a).generation, 2);
}

/// Ids that nobody joins with are given out for nothing: whoever asks for many keeps nobody out, and holds nobody up for long.
#[test]
fn ids_that_are_given_out_keep_nobody_out() {
    let (mut bench, _) = Bench::stable(&["a"]);
    let asks = |n: usize| JoinClassic {
        two_steps: true,
        session_timeout_ms: limits::MAX_SESSION_TIMEOUT_MS,
        ..newcomer(&format!("x{n}"))
    };
    for n in 0..=caps::MAX_GROUP_MEMBERS {
        let given: Arc<str> = format!("x{n}").into();
        assert_eq!(bench.refused(asks(n)), Error::MemberIdRequired(given));
    }
    assert_eq!(bench.refused(again("x0")), Error::UnknownMember, "the oldest gave way");
    let newcomer_joins = bench.join(again("x1"));
    let a = bench.join(again("a"));
    assert!(bench.is_waiting(newcomer_joins) && bench.is_waiting(a), "others are expected");
    for _ in 0..REBALANCE / SESSION {
        bench.pass(u64::from(SESSION) - 1_000);
        let _ = bench.heartbeat("a", 1);
    }
    bench.pass(60_000);
    assert!(bench.group.classic.nobody_is_expected(), "for a minute");
    assert_eq!(bench.joined(a).members.len(), 2);
}

/// Whoever has not joined by the deadline is left behind, whichever event is the first to come after it.
#[test]
fn who_is_late_is_left_behind_by_any_event() {
    let events: [fn(&mut Bench); 3] = [
        |bench| bench.step(Event::Tick),
        |bench| {
            let _leaves = bench.leave(&[name("c")]);
        },
        |bench| {
            bench.join(newcomer("d"));
        },
    ];
    for (n, event) in events.into_iter().enumerate() {
        let (mut bench, generation) = Bench::stable(&["a", "b", "c"]);
        let c = bench.join(again_with("c", "other"));
        let b = bench.join(again("b"));
        assert!(bench.is_waiting(c) && bench.is_waiting(b));
        // `a`, which leads, is heard of and does not join.
        bench.now_ms += u64::from(REBALANCE) - 1;
        let _ = bench.heartbeat("a", generation);
        bench.now_ms += 1;
        event(&mut bench);
        let joined = bench.joined(b);
        assert_eq!((joined.generation, &*joined.leader), (generation + 1, &*joined.leader));
        assert!(bench.group.members().iter().all(|m| &*m.member != "a"), "event {n}");
        assert_eq!(bench.heartbeat("a", generation), Err(Error::UnknownMember));
    }
}

fn again_with(id: &str, metadata: &'static str) -> JoinClassic {
    JoinClassic { protocols: protocols(&[("range", metadata)]), ..again(id) }
}

/// What arrives is part of a frame; a few bytes of it are not to keep all of that in memory.
#[test]
fn no_frame_is_kept_for_what_a_member_says_or_is_assigned() {
    let frame = Bytes::from(vec![7; 1024 * 1024]);
    let part = frame.slice(1_000..1_020);
    let protocols = vec![Protocol { name: "range".into(), metadata: part.clone() }];
    let mut bench = Bench::new();
    let a = bench.join(JoinClassic { protocols, ..newcomer("a") });
    let sync = SyncClassic {
        by: identity("a", bench.joined(a).generation),
        assignments: vec![("a".into(), part.clone())],
        ..SyncClassic::default()
    };
    let synced = bench.ask(|token| Event::SyncClassic(token, sync));
    assert_eq!(bench.synced(synced), part);
    let within = |bytes: &Bytes| frame.as_ptr_range().contains(&bytes.as_ptr());
    assert!(within(&part));
    for member in bench.group.members() {
        let classic = member.classic.unwrap();
        assert_eq!(classic.metadata("range").unwrap(), &part);
        assert!(!within(classic.metadata("range").unwrap()) && !within(&classic.assignment));
    }
}

#[test]
fn a_follower_that_wants_the_same_hears_the_present_at_once() {
    let (mut bench, generation) = Bench::stable(&["a", "b"]);
    let persisted = bench.persisted.len();
    let b = bench.join(again("b"));
    assert_eq!((bench.joined(b).generation, &*bench.joined(b).leader), (generation, "a"));
    assert_eq!(bench.group.state(), State::Stable);
    assert_eq!(bench.persisted.len(), persisted);
}

#[test]
fn a_leader_that_joins_again_or_changed_metadata_begins_a_rebalance() {
    let (mut bench, _) = Bench::stable(&["a", "b"]);
    let a = bench.join(again("a"));
    assert!(bench.is_waiting(a));
    let (mut bench, _) = Bench::stable(&["a", "b"]);
    let b = bench.join(JoinClassic { protocols: protocols(&[("range", "other")]), ..again("b") });
    assert!(bench.is_waiting(b));
    assert!(matches!(bench.group.state(), State::PreparingRebalance { .. }));
}

#[test]
fn a_join_that_is_sent_twice_is_answered_once_more() {
    let mut bench = Bench::new();
    bench.initial_delay_ms = 100;
    let lost = bench.join(newcomer("a"));
    let retried = bench.join(again("a"));
    assert_eq!(bench.answer(lost), Err(Error::RebalanceInProgress));
    bench.pass(100);
    assert_eq!(bench.joined(retried).generation, 1);
    // The answer was lost: it is given again, to the leader with the members.
    let retried = bench.join(again("a"));
    assert_eq!((bench.joined(retried).generation, bench.joined(retried).members.len()), (1, 1));
}

#[test]
fn members_need_a_protocol_in_common() {
    let (mut bench, _) = Bench::stable(&["a"]);
    let other = JoinClassic { protocols: protocols(&[("own", "")]), ..newcomer("b") };
    assert_eq!(bench.refused(other), Error::InconsistentProtocol);
    let other = JoinClassic { protocol_type: "connect".to_owned(), ..newcomer("b") };
    assert_eq!(bench.refused(other), Error::InconsistentProtocol);
    let none = JoinClassic { protocols: Vec::new(), ..newcomer("b") };
    assert_eq!(Bench::new().refused(none), Error::InconsistentProtocol);
    let none = JoinClassic { protocol_type: String::new(), ..newcomer("b") };
    assert_eq!(Bench::new().refused(none), Error::InconsistentProtocol);
    assert_eq!(bench.group.state(), State::Stable, "nothing has happened");
    bench.join(JoinClassic { protocols: protocols(&[("sticky", "b")]), ..newcomer("b") });
    let a = bench.join(again("a"));
    assert_eq!(&*bench.joined(a).protocol, "sticky");
    assert_eq!(&bench.joined(a).members[1].metadata[..], b"b");
}

#[test]
fn session_timeouts_are_bounded_and_rebalance_timeouts_are_cut() {
    let mut bench = Bench::new();
    for session_timeout_ms in [0, 5_999, 30 * 60 * 1000 + 1] {
        let join = JoinClassic { session_timeout_ms, ..newcomer("a") };
        assert!(matches!(bench.refused(join), Error::Timeout { what: "session timeout", .. }));
    }
    assert!(bench.group.is_blank());
    bench.join(JoinClassic { rebalance_timeout_ms: u32::MAX, ..newcomer("a") });
    assert_eq!(bench.newest().members[0].rebalance_timeout_ms, limits::MAX_REBALANCE_TIMEOUT_MS);
}

#[test]
fn groups_are_bounded() {
    let mut bench = Bench::new();
    bench.initial_delay_ms = 1_000;
    let two_steps = JoinClassic { two_steps: true, ..newcomer("given out") };
    assert_eq!(bench.refused(two_steps), Error::MemberIdRequired("given out".into()));
    for n in 0..caps::MAX_GROUP_MEMBERS {
        bench.join(newcomer(&format!("m{n}")));
    }
    assert!(matches!(bench.refused(newcomer("more")), Error::GroupFull { .. }));
    assert!(matches!(bench.refused(again("given out")), Error::GroupFull { .. }));
    assert!(bench.is_waiting(bench.token - 2), "members stay");

    let mut bench = Bench::new();
    let metadata = Bytes::from(vec![0; limits::MAX_CLASSIC_METADATA_BYTES / 2]);
    let large = vec![Protocol { name: "range".into(), metadata }];
    bench.join(JoinClassic { protocols: large.clone(), ..newcomer("a") });
    let second = JoinClassic { protocols: large.clone(), ..newcomer("b") };
    assert!(matches!(bench.refused(second), Error::GroupFull { .. }));
    bench.join(JoinClassic { protocols: large, ..again("a") });
    assert_eq!(bench.group.generation(), 1, "its own words do not count twice");
}

#[test]
fn the_first_generation_waits_for_more_and_longer_when_more_come() {
    let mut bench = Bench::new();
    bench.initial_delay_ms = 100;
    let a = bench.join(newcomer("a"));
    bench.pass(60);
    let b = bench.join(newcomer("b"));
    bench.pass(60);
    assert!(bench.is_waiting(a), "b came while the group waited");
    bench.pass(80);
    assert_eq!(bench.joined(a).members.len(), 2);
    assert_eq!(bench.joined(b).generation, 1);
}

#[test]
fn the_first_generation_does_not_wait_for_ever() {
    let mut bench = Bench::new();
    bench.initial_delay_ms = 1_000;
    let a = bench.join(newcomer("a"));
    for n in 0..u64::from(REBALANCE) / 500 {
        assert!(bench.is_waiting(a));
        bench.join(newcomer(&format!("m{n}")));
        bench.pass(500);
    }
    assert_eq!(bench.joined(a).generation, 1);
}

#[test]
fn who_does_not_join_in_time_is_left_behind() {
    let (mut bench, generation) = Bench::stable(&["a", "b", "c"]);
    let c = bench.join(again("c"));
    assert_eq!(bench.joined(c).generation, generation, "nothing has changed");
    bench.join(newcomer("d"));
    let b = bench.join(again("b"));
    // The others go on with their heartbeats, and never join.
    for _ in 0..4 {
        bench.pass(5_000);
        let _ = bench.heartbeat("a", generation);
        let _ = bench.heartbeat("c", generation);
    }
    let joined = bench.joined(b);
    assert_eq!(joined.generation, generation + 1);
    let listed: Vec<_> = joined.members.iter().map(|m| &*m.name.member).collect();
    assert_eq!((listed, &*joined.leader), (vec!["b", "d"], "b"), "the eldest of them leads");
    assert_eq!(bench.heartbeat("a", generation), Err(Error::UnknownMember));
}

#[test]
fn silence_ends_a_membership_and_waiting_is_not_silence() {
    let (mut bench, generation) = Bench::stable(&["a", "b"]);
    bench.pass(u64::from(SESSION) - 1);
    assert_eq!(bench.heartbeat("a", generation), Ok(Reply::Done));
    bench.pass(1);
    assert_eq!(bench.heartbeat("b", generation), Err(Error::UnknownMember));
    assert_eq!(bench.heartbeat("a", generation), Err(Error::RebalanceInProgress));
    let (mut bench, generation) = Bench::stable(&["a", "b"]);
    let a = bench.join(again("a"));
    for _ in 0..3 {
        bench.pass(u64::from(SESSION) / 2);
        let _ = bench.heartbeat("b", generation);
    }
    assert!(bench.is_waiting(a));
    bench.join(again("b"));
    assert_eq!(bench.joined(a).members.len(), 2);
}

#[test]
fn heartbeats_are_of_a_member_and_of_the_present_generation() {
    let (mut bench, generation) = Bench::stable(&["a"]);
    assert_eq!(bench.heartbeat("a", generation), Ok(Reply::Done));
    assert_eq!(bench.heartbeat("x", generation), Err(Error::UnknownMember));
    let stale = Error::StaleGeneration { current: generation };
    assert_eq!(bench.heartbeat("a", generation - 1), Err(stale));
}

#[test]
fn several_leave_at_once_and_each_is_answered() {
    let (mut bench, generation) = Bench::stable(&["a", "b", "c"]);
    bench.refused(JoinClassic { two_steps: true, ..newcomer("expected") });
    let each = bench.leave(&[name("a"), name("x"), name("a"), name("expected")]);
    let unknown = Err(Error::UnknownMember);
    assert_eq!(each, [Ok(()), unknown.clone(), unknown, Ok(())]);
    assert_eq!(bench.heartbeat("b", generation), Err(Error::RebalanceInProgress));
    bench.join(again("c"));
    let b = bench.join(again("b"));
    assert_eq!(&*bench.joined(b).leader, "b");
}

#[test]
fn a_member_that_leaves_while_it_waits_is_told_that_it_is_none() {
    let mut bench = Bench::new();
    bench.initial_delay_ms = 100;
    let a = bench.join(newcomer("a"));
    bench.leave(&[name("a")]);
    assert_eq!(bench.answer(a), Err(Error::UnknownMember));
    assert_eq!(bench.group.state(), State::Dead, "nothing is left of the group");
}

#[test]
fn a_first_join_that_nobody_waits_for_leaves_no_member_behind() {
    let (mut bench, _) = Bench::stable(&["a"]);
    let lost = bench.join(newcomer("lost"));
    bench.step(Event::Gone(lost));
    assert!(bench.is_waiting(lost), "there is nobody to answer");
    let a = bench.join(again("a"));
    assert_eq!(bench.joined(a).members.len(), 1);
}

#[test]
fn a_member_that_knows_its_id_may_come_back_after_its_connection_broke() {
    let (mut bench, generation) = Bench::stable(&["a", "b"]);
    let lost = bench.join(again("a"));
    bench.step(Event::Gone(lost));
    let b = bench.join(again("b"));
    assert!(bench.is_waiting(b), "a has to join again");
    let a = bench.join(again("a"));
    assert_eq!(bench.joined(a).generation, generation + 1);
    assert_eq!(bench.joined(b).generation, generation + 1);
    assert!(bench.is_waiting(lost));
    // One that does not come back is silent from then on.
    let (mut bench, _) = Bench::stable(&["a", "b"]);
    let lost = bench.join(again("a"));
    bench.step(Event::Gone(lost));
    let b = bench.join(again("b"));
    bench.pass(u64::from(SESSION) - 1);
    assert!(bench.is_waiting(b));
    bench.pass(1);
    assert_eq!(bench.joined(b).members.len(), 1);
}

#[test]
fn members_of_one_kind_keep_the_other_out() {
    use crate::groups::types::{Caller, Join};
    let stream = Join {
        caller: Caller { member: "s".into(), session: 1 },
        client_id: String::new(),
        topics: vec!["t".into()],
        session_timeout_ms: SESSION,
        rebalance_timeout_ms: REBALANCE,
    };
    let (mut bench, generation) = Bench::stable(&["a"]);
    let caller = stream.caller.clone();
    let token = bench.ask(|token| Event::Join(token, stream.clone()));
    assert_eq!(bench.answer(token), Err(Error::OtherKind(Kind::Classic)));
    let token = bench.ask(|token| Event::Heartbeat(token, caller.clone(), generation));
    assert_eq!(bench.answer(token), Err(Error::OtherKind(Kind::Classic)));

    let mut bench = Bench::new();
    bench.ask(|token| Event::Join(token, stream));
    let refused = Error::OtherKind(Kind::Stream);
    assert_eq!(bench.refused(newcomer("a")), refused);
    assert_eq!(bench.heartbeat("a", 1), Err(refused.clone()));
    let sync = bench.sync("a", 1, &[]);
    assert_eq!(bench.answer(sync), Err(refused.clone()));
    let left = bench.ask(|token| Event::LeaveClassic(token, vec![name("a")]));
    assert_eq!(bench.answer(left), Err(refused));
    // The last member goes, and the group may be the other kind.
    let token = bench.ask(|token| Event::Leave(token, caller));
    assert_eq!(bench.answer(token), Ok(Reply::Done));
    bench.group = Group::default();
    let a = bench.join(newcomer("a"));
    assert_eq!(bench.joined(a).generation, 1);
}
