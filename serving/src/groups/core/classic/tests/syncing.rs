//! SyncGroup, and what a coordinator that takes over makes of a generation.

use super::*;

#[test]
fn followers_wait_for_the_leader() {
    let (mut bench, generation) = Bench::stable(&["a", "b"]);
    bench.join(newcomer("c"));
    bench.join(again("b"));
    bench.join(again("a"));
    let next = generation + 1;
    let b = bench.sync("b", next, &[]);
    let c = bench.sync("c", next, &[]);
    assert!(bench.is_waiting(b) && bench.is_waiting(c));
    let a = bench.sync("a", next, &[("a", "for a"), ("b", "for b"), ("stranger", "")]);
    assert_eq!((&bench.synced(a)[..], &bench.synced(b)[..]), (&b"for a"[..], &b"for b"[..]));
    assert_eq!(bench.synced(c), Bytes::new(), "the leader forgot it");
    assert_eq!(bench.group.state(), State::Stable);
    assert_eq!(bench.heartbeat("c", next), Ok(Reply::Done));
    // Asked again, it is told again.
    let b = bench.sync("b", next, &[]);
    assert_eq!(&bench.synced(b)[..], b"for b");
}

#[test]
fn an_assignment_is_in_the_log_before_anybody_sees_it() {
    let mut bench = Bench::new();
    bench.join(newcomer("a"));
    let a = bench.sync("a", 1, &[("a", "mine")]);
    let (before, _) = &bench.replies[&a];
    let Change::Generation(durable) = &bench.persisted[before - 1] else { panic!("S3") };
    assert!(durable.classic.as_ref().unwrap().assigned, "S3");
    let classic = durable.members[0].classic.as_ref().unwrap();
    assert_eq!((durable.generation, &classic.assignment[..]), (1, &b"mine"[..]), "S3");
}

#[test]
fn an_assignment_is_of_the_present_generation_and_protocol() {
    let mut bench = Bench::new();
    bench.join(newcomer("a"));
    let stale = bench.sync("a", 0, &[]);
    assert_eq!(bench.answer(stale), Err(Error::StaleGeneration { current: 1 }));
    let unknown = bench.sync("x", 1, &[]);
    assert_eq!(bench.answer(unknown), Err(Error::UnknownMember));
    for (protocol_type, protocol) in [(Some("connect"), None), (None, Some("sticky"))] {
        let sync = SyncClassic {
            by: identity("a", 1),
            protocol_type: protocol_type.map(ToOwned::to_owned),
            protocol: protocol.map(ToOwned::to_owned),
            assignments: Vec::new(),
        };
        let other = bench.ask(|token| Event::SyncClassic(token, sync));
        assert_eq!(bench.answer(other), Err(Error::InconsistentProtocol));
    }
    let sync = SyncClassic {
        by: identity("a", 1),
        protocol_type: Some("consumer".to_owned()),
        protocol: Some("range".to_owned()),
        assignments: Vec::new(),
    };
    let same = bench.ask(|token| Event::SyncClassic(token, sync));
    assert_eq!(bench.synced(same), Bytes::new());
}

#[test]
fn who_waits_for_an_assignment_is_told_when_there_will_be_none() {
    let (mut bench, generation) = Bench::stable(&["a", "b"]);
    bench.join(again("a"));
    bench.join(again("b"));
    let b = bench.sync("b", generation + 1, &[]);
    bench.join(newcomer("c"));
    assert_eq!(bench.answer(b), Err(Error::RebalanceInProgress));
    let a = bench.sync("a", generation + 1, &[]);
    assert_eq!(bench.answer(a), Err(Error::RebalanceInProgress), "preparing");
}

#[test]
fn who_does_not_ask_for_its_assignment_is_removed() {
    let (mut bench, generation) = Bench::stable(&["a", "b"]);
    bench.join(again("a"));
    bench.join(again("b"));
    let next = generation + 1;
    let b = bench.sync("b", next, &[]);
    for _ in 0..4 {
        assert!(bench.is_waiting(b));
        bench.pass(5_000);
        // Heartbeats do not make up for it.
        let _ = bench.heartbeat("a", next);
    }
    assert_eq!(bench.answer(b), Err(Error::RebalanceInProgress));
    assert_eq!(bench.heartbeat("a", next), Err(Error::UnknownMember));
    let b = bench.join(again("b"));
    assert_eq!(&*bench.joined(b).leader, "b");
}

#[test]
fn a_stable_group_waits_for_the_last_to_ask_and_then_removes_it() {
    let (mut bench, generation) = Bench::stable(&["a", "b"]);
    bench.join(again("a"));
    bench.join(again("b"));
    let next = generation + 1;
    bench.sync("a", next, &[("b", "for b")]);
    assert_eq!(bench.group.state(), State::Stable);
    for _ in 0..4 {
        bench.pass(5_000);
        let _ = (bench.heartbeat("a", next), bench.heartbeat("b", next));
    }
    assert_eq!(bench.heartbeat("b", next), Err(Error::UnknownMember));
    assert_eq!(bench.heartbeat("a", next), Err(Error::RebalanceInProgress));
}

#[test]
fn assignments_are_bounded() {
    let mut bench = Bench::new();
    bench.join(newcomer("a"));
    let large = Bytes::from(vec![0; limits::MAX_CLASSIC_ASSIGNMENT_BYTES + 1]);
    let sync = SyncClassic {
        by: identity("a", 1),
        assignments: vec![("a".into(), large)],
        ..SyncClassic::default()
    };
    let refused = bench.ask(|token| Event::SyncClassic(token, sync));
    assert!(matches!(bench.answer(refused), Err(Error::GroupFull { .. })));
    assert_eq!(bench.group.state(), State::CompletingRebalance);
    let a = bench.sync("a", 1, &[("a", "less")]);
    assert_eq!(&bench.synced(a)[..], b"less");
}

/// The largest generation that a group's limits allow fits into a command.
#[test]
fn the_largest_generation_is_a_command() {
    let mut bench = Bench::new();
    let metadata = Bytes::from(vec![0; limits::MAX_CLASSIC_METADATA_BYTES - 500]);
    let large = vec![Protocol { name: "range".into(), metadata }];
    bench.join(JoinClassic { protocols: large, ..newcomer("a") });
    let sync = SyncClassic {
        by: identity("a", 1),
        assignments: vec![("a".into(), vec![0; limits::MAX_CLASSIC_ASSIGNMENT_BYTES].into())],
        ..SyncClassic::default()
    };
    bench.ask(|token| Event::SyncClassic(token, sync));
    let command = crate::groups::record::encode("g", &Change::Generation(bench.newest()));
    assert!(command.len() > 2 * 5_000_000 && command.len() <= limits::MAX_COMMAND_BYTES);
}

#[test]
fn a_sync_that_nobody_waits_for_is_asked_for_again() {
    let (mut bench, generation) = Bench::stable(&["a", "b"]);
    bench.join(again("a"));
    bench.join(again("b"));
    let next = generation + 1;
    let lost = bench.sync("b", next, &[]);
    bench.step(Event::Gone(lost));
    bench.sync("a", next, &[("b", "for b")]);
    assert!(bench.is_waiting(lost));
    let b = bench.sync("b", next, &[]);
    assert_eq!(&bench.synced(b)[..], b"for b");
}

#[test]
fn members_keep_generation_and_assignment_when_their_coordinator_dies() {
    let (mut bench, generation) = Bench::stable(&["a", "b"]);
    bench.restart();
    assert_eq!(bench.group.state(), State::Stable);
    assert_eq!(bench.heartbeat("a", generation), Ok(Reply::Done));
    let b = bench.sync("b", generation, &[]);
    assert_eq!(&bench.synced(b)[..], b"b");
    // Who wants the same is still known to.
    let b = bench.join(again("b"));
    assert_eq!((bench.joined(b).generation, &*bench.joined(b).leader), (generation, "a"));
    bench.pass(SESSION.into());
    assert_eq!(bench.group.len(), 0, "a session from then on");
}

#[test]
fn a_coordinator_that_takes_over_before_the_assignment_goes_on_there() {
    let mut bench = Bench::new();
    bench.initial_delay_ms = 10;
    bench.join(newcomer("a"));
    bench.join(newcomer("b"));
    bench.pass(20);
    bench.restart();
    assert_eq!(bench.group.state(), State::CompletingRebalance);
    // The answer to b's join was lost.
    let b = bench.join(again("b"));
    assert_eq!(bench.joined(b).generation, 1);
    let b = bench.sync("b", 1, &[]);
    bench.sync("a", 1, &[("b", "for b")]);
    assert_eq!(&bench.synced(b)[..], b"for b");
    assert_eq!(bench.newest().generation, 1);
}

#[test]
fn a_generation_without_a_leader_after_a_takeover_is_given_up() {
    let mut bench = Bench::new();
    bench.initial_delay_ms = 10;
    bench.join(newcomer("a"));
    bench.join(newcomer("b"));
    bench.pass(20);
    bench.restart();
    let b = bench.sync("b", 1, &[]);
    bench.pass(SESSION.into());
    assert_eq!(bench.answer(b), Err(Error::RebalanceInProgress));
    let b = bench.join(again("b"));
    assert_eq!((&*bench.joined(b).leader, bench.joined(b).generation), ("b", 2));
}
