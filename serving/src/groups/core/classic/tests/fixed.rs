//! Static members (KIP-345, KIP-814).

use super::*;

/// A stable group of the static members `i` and `j` with ids `a` and `b`; `i` leads.
fn stable() -> (Bench, i32) {
    let mut bench = Bench::new();
    bench.initial_delay_ms = 10;
    bench.join(fixed("i", "a"));
    bench.join(fixed("j", "b"));
    bench.pass(20);
    bench.sync("b", 1, &[]);
    bench.sync("a", 1, &[("a", "for i"), ("b", "for j")]);
    assert_eq!(bench.group.state(), State::Stable);
    (bench, 1)
}

#[test]
fn a_static_member_comes_back_without_a_rebalance() {
    let (mut bench, generation) = stable();
    let back = bench.join(fixed("j", "b2"));
    let joined = bench.joined(back);
    assert_eq!((&*joined.member, joined.generation, &*joined.leader), ("b2", generation, "a"));
    assert!(!joined.skip_assignment && joined.members.is_empty());
    assert_eq!(bench.group.state(), State::Stable);
    let synced = bench.sync("b2", generation, &[]);
    assert_eq!(&bench.synced(synced)[..], b"for j");
    // Durable before it is said, so that the next coordinator knows the new id.
    let (before, _) = bench.replies[&back];
    let Change::Generation(durable) = &bench.persisted[before - 1] else { panic!() };
    assert!(durable.members.iter().any(|m| &*m.member == "b2"));
    bench.restart();
    let by = Identity { name: instance("b2", "j"), generation };
    assert_eq!(bench.heartbeat_by(by), Ok(Reply::Done));
}

#[test]
fn a_leader_that_comes_back_goes_on_with_what_is_assigned() {
    let (mut bench, generation) = stable();
    let back = bench.join(fixed("i", "a2"));
    let joined = bench.joined(back);
    assert_eq!((&*joined.leader, joined.skip_assignment), ("a2", true));
    assert_eq!(joined.members.len(), 2, "it watches the topics of all");
    let synced = bench.sync("a2", generation, &[]);
    assert_eq!(&bench.synced(synced)[..], b"for i");
    // One that would not understand is told another leader than itself.
    let back = bench.join(JoinClassic { may_skip: false, ..fixed("i", "a3") });
    let joined = bench.joined(back);
    assert_eq!((&*joined.leader, joined.skip_assignment, joined.members.len()), ("a2", false, 0));
    assert_eq!(bench.group.generation(), generation);
}

#[test]
fn the_former_member_is_fenced() {
    let (mut bench, generation) = stable();
    bench.join(fixed("j", "b2"));
    let fenced = Error::FencedInstance;
    let by = Identity { name: instance("b", "j"), generation };
    assert_eq!(bench.heartbeat_by(by.clone()), Err(fenced.clone()));
    let sync = SyncClassic { by: by.clone(), ..SyncClassic::default() };
    let token = bench.ask(|token| Event::SyncClassic(token, sync));
    assert_eq!(bench.answer(token), Err(fenced.clone()));
    let token = bench.ask(|token| Event::CommitClassic(token, by, Vec::new()));
    assert_eq!(bench.answer(token), Err(fenced.clone()));
    assert_eq!(bench.refused(JoinClassic { name: instance("b", "j"), ..again("b") }), fenced);
    assert_eq!(bench.leave(&[instance("b", "j")]), [Err(fenced)]);
    // Without its instance it is just nobody, and so is an instance that nobody has.
    assert_eq!(bench.heartbeat("b", generation), Err(Error::UnknownMember));
    let by = Identity { name: instance("b2", "k"), generation };
    assert_eq!(bench.heartbeat_by(by), Err(Error::UnknownMember));
}

#[test]
fn a_former_member_that_waits_is_fenced_at_once() {
    let (mut bench, generation) = stable();
    bench.join(newcomer("c"));
    let parked = bench.join(JoinClassic { name: instance("b", "j"), ..again("b") });
    let back = bench.join(fixed("j", "b2"));
    assert_eq!(bench.answer(parked), Err(Error::FencedInstance));
    bench.join(JoinClassic { name: instance("a", "i"), ..again("a") });
    assert_eq!(bench.joined(back).generation, generation + 1);
    let parked = bench.sync("b2", generation + 1, &[]);
    bench.join(fixed("j", "b3"));
    assert_eq!(bench.answer(parked), Err(Error::FencedInstance));
}

/// A subscription as consumers write it: which topics, and what it owned in which generation, which a restart changes.
fn subscribed(topics: &[&str], owned: &str) -> Vec<Protocol> {
    let mut metadata = crate::groups::consumer_protocol::tests::subscribed(topics);
    metadata.extend(owned.as_bytes());
    vec![Protocol { name: "range".into(), metadata: metadata.into() }]
}

fn says(protocols: Vec<Protocol>, join: JoinClassic) -> JoinClassic {
    JoinClassic { protocols, ..join }
}

/// Consumers write the generation that they were in into their metadata, so that a restarted one never says the same.
#[test]
fn a_static_member_that_says_something_else_comes_back_without_a_rebalance() {
    let mut bench = Bench::new();
    bench.initial_delay_ms = 10;
    bench.join(says(subscribed(&["t", "u"], "generation 4"), fixed("i", "a")));
    bench.join(says(subscribed(&["t"], "generation 4"), fixed("j", "b")));
    bench.pass(20);
    bench.sync("b", 1, &[]);
    bench.sync("a", 1, &[("a", "for i"), ("b", "for j")]);
    let back = bench.join(says(subscribed(&["t"], "generation -1"), fixed("j", "b2")));
    assert_eq!((bench.joined(back).generation, bench.group.state()), (1, State::Stable));
    let back = bench.join(says(subscribed(&["u", "t"], "generation -1"), fixed("i", "a2")));
    assert_eq!((bench.joined(back).generation, bench.group.state()), (1, State::Stable));
    // What it says now is what the next leader is told, also by the next coordinator.
    bench.restart();
    let members = bench.group.members();
    let said = members.iter().map(|m| m.classic.as_ref().unwrap().metadata("range").unwrap());
    assert!(said.into_iter().all(|said| said.ends_with(b"generation -1")));
}

#[test]
fn a_static_member_that_wants_other_topics_is_a_rebalance() {
    let mut bench = Bench::new();
    bench.initial_delay_ms = 10;
    bench.join(says(subscribed(&["t"], ""), fixed("i", "a")));
    bench.pass(20);
    bench.sync("a", 1, &[]);
    let back = bench.join(says(subscribed(&["t", "u"], ""), fixed("i", "a2")));
    assert_eq!(bench.joined(back).generation, 2);
}

#[test]
fn a_static_member_that_changes_the_choice_is_a_rebalance() {
    let (mut bench, generation) = stable();
    // It may follow another one as well: the choice is the same.
    let more = protocols(&[("range", "r"), ("sticky", "s"), ("x", "")]);
    let back = bench.join(says(more, fixed("j", "b2")));
    assert_eq!(bench.joined(back).generation, generation);
    let back = bench.join(says(protocols(&[("sticky", "s")]), fixed("j", "b3")));
    assert!(bench.is_waiting(back));
    bench.join(JoinClassic { name: instance("a", "i"), ..again("a") });
    let joined = bench.joined(back);
    assert_eq!((joined.generation, &*joined.protocol), (generation + 1, "sticky"));
}

#[test]
fn a_static_member_that_comes_back_before_the_assignment_is_a_rebalance() {
    let mut bench = Bench::new();
    bench.initial_delay_ms = 10;
    bench.join(fixed("i", "a"));
    bench.join(fixed("j", "b"));
    bench.pass(20);
    let back = bench.join(fixed("j", "b2"));
    assert!(bench.is_waiting(back), "the leader would assign to the former id");
    bench.join(JoinClassic { name: instance("a", "i"), ..again("a") });
    assert_eq!(bench.joined(back).generation, 2);
}

#[test]
fn a_static_member_may_miss_a_rebalance_within_its_session() {
    let (mut bench, generation) = stable();
    let c = JoinClassic { rebalance_timeout_ms: 1_000, ..newcomer("c") };
    let short = |id, inst| JoinClassic {
        name: instance(id, inst),
        rebalance_timeout_ms: 1_000,
        ..again(id)
    };
    bench.join(short("a", "i"));
    bench.join(short("b", "j"));
    bench.sync("a", generation + 1, &[]);
    bench.sync("b", generation + 1, &[]);
    let c = bench.join(c);
    bench.join(short("a", "i"));
    bench.pass(1_000);
    let joined = bench.joined(c);
    assert_eq!(joined.generation, generation + 2);
    assert_eq!(bench.newest().members.len(), 3, "b is away");
    bench.pass(SESSION.into());
    assert!(bench.group.members().iter().all(|m| &*m.member != "b"));
}

#[test]
fn who_is_away_does_not_lose_all_to_nobody() {
    let (mut bench, generation) = stable();
    let short = |id, inst| JoinClassic {
        name: instance(id, inst),
        rebalance_timeout_ms: 1_000,
        ..again(id)
    };
    let a = bench.join(short("a", "i"));
    let b = bench.join(short("b", "j"));
    assert!(!bench.is_waiting(a) && !bench.is_waiting(b));
    bench.sync("a", generation + 1, &[]);
    bench.sync("b", generation + 1, &[]);
    // Somebody begins a rebalance and goes; nobody else has joined when its time is up.
    let lost = bench.join(JoinClassic { rebalance_timeout_ms: 1_000, ..newcomer("c") });
    bench.step(Event::Gone(lost));
    bench.pass(3_000);
    assert_eq!(bench.group.generation(), generation + 1);
    assert_eq!(bench.group.len(), 2);
}

#[test]
fn an_administrator_removes_an_instance_without_its_member_id() {
    let (mut bench, generation) = stable();
    let each = bench.leave(&[instance("", "j"), instance("", "none")]);
    assert_eq!(each, [Ok(()), Err(Error::UnknownMember)]);
    let by = Identity { name: instance("a", "i"), generation };
    assert_eq!(bench.heartbeat_by(by), Err(Error::RebalanceInProgress));
}
