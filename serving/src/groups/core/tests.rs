use geminga_proto::caps;

use super::*;
use crate::groups::types::{Caller, Commit, CommitBy, Committed, Join, TopicPartition};

const SESSION: u32 = 9_000;
const REBALANCE: u32 = 20_000;

/// A group with a clock, the log's place taken by a list, and four partitions of topic `t`, two of `u`.
struct Bench {
    group: Group,
    now_ms: u64,
    initial_delay_ms: u32,
    rooms: Rooms,
    partitions: BTreeMap<&'static str, u32>,
    persisted: Vec<Change>,
    replies: BTreeMap<Token, Result<Reply, Error>>,
    token: Token,
}

impl Bench {
    fn new() -> Self {
        Self {
            group: Group::default(),
            now_ms: 1_000,
            initial_delay_ms: 0,
            rooms: Rooms::left(usize::MAX, (0, 0)),
            partitions: BTreeMap::from([("t", 4), ("u", 2)]),
            persisted: Vec::new(),
            replies: BTreeMap::new(),
            token: 0,
        }
    }

    fn step(&mut self, event: Event) {
        let counts = self.partitions.clone();
        let partitions = move |topic: &str| counts.get(topic).copied().unwrap_or(0);
        let context = Context {
            now_ms: self.now_ms,
            wall_ms: 0,
            partitions: &partitions,
            initial_delay_ms: self.initial_delay_ms,
            rooms: self.rooms,
        };
        for effect in self.group.step(context, event) {
            match effect {
                Effect::Persist(change) => self.persisted.push(change),
                Effect::Reply(token, reply) => {
                    assert!(self.replies.insert(token, reply).is_none(), "answered twice");
                }
            }
        }
    }

    fn ask(&mut self, event: impl FnOnce(Token) -> Event) -> Token {
        self.token += 1;
        self.step(event(self.token));
        self.token
    }

    fn join(&mut self, member: &str) -> Token {
        self.join_as(member, 1, &["t"])
    }

    fn join_as(&mut self, member: &str, session: u64, topics: &[&str]) -> Token {
        let join = join(member, session, topics);
        self.ask(|token| Event::Join(token, join))
    }

    fn heartbeat(&mut self, member: &str, generation: i32) -> Result<Reply, Error> {
        let caller = caller(member, 1);
        let token = self.ask(|token| Event::Heartbeat(token, caller, generation));
        self.replies[&token].clone()
    }

    fn leave(&mut self, member: &str) {
        let caller = caller(member, 1);
        let token = self.ask(|token| Event::Leave(token, caller));
        assert_eq!(self.replies[&token], Ok(Reply::Done));
    }

    fn commit(&mut self, by: Option<(&str, i32, u64)>) -> Result<Reply, Error> {
        let by = by.map(|(member, generation, sequence)| CommitBy {
            caller: caller(member, 1),
            generation,
            sequence,
        });
        let commit = Commit { by, offsets: vec![offset()] };
        let token = self.ask(|token| Event::Commit(token, commit));
        self.replies[&token].clone()
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        while self.group.next_deadline().is_some_and(|at| at <= self.now_ms) {
            self.step(Event::Tick);
        }
    }

    fn joined(&self, token: Token) -> (i32, Vec<u32>) {
        match self.replies.get(&token) {
            Some(Ok(Reply::Joined(joined))) => {
                let partitions = joined.assigned.get("t").cloned().unwrap_or_default();
                (joined.generation, partitions)
            }
            other => panic!("not joined: {other:?}"),
        }
    }

    fn restart(&mut self) {
        let mut newest = Generation::default();
        for change in &self.persisted {
            match change {
                Change::Generation(generation) => newest = generation.clone(),
                Change::Offsets(_, by) => newest.speaks(by.clone()),
                Change::Forgotten(_) | Change::Deleted => {}
            }
        }
        let has_offsets = self.persisted.iter().any(|c| matches!(c, Change::Offsets(..)));
        self.group = Group::restore(&newest, has_offsets, self.now_ms);
    }
}

fn caller(member: &str, session: u64) -> Caller {
    Caller { member: member.into(), session }
}

fn join(member: &str, session: u64, topics: &[&str]) -> Join {
    Join {
        caller: caller(member, session),
        client_id: "test".to_owned(),
        topics: topics.iter().map(|&t| t.into()).collect(),
        session_timeout_ms: SESSION,
        rebalance_timeout_ms: REBALANCE,
    }
}

fn offset() -> (TopicPartition, Committed) {
    let tp = TopicPartition { topic: "t".into(), partition: 0 };
    let committed = Committed {
        offset: 7,
        leader_epoch: None,
        metadata: String::new(),
        committed_ms: 0,
        topic_id: None,
        expires_ms: None,
    };
    (tp, committed)
}

#[test]
fn the_first_member_gets_everything_once_it_is_persisted() {
    let mut bench = Bench::new();
    let a = bench.join("a");
    assert_eq!(bench.joined(a), (1, vec![0, 1, 2, 3]));
    let [Change::Generation(generation)] = &bench.persisted[..] else { panic!() };
    assert_eq!((generation.generation, generation.members.len()), (1, 1));
    assert_eq!(bench.group.state(), State::Stable);
}

#[test]
fn the_initial_delay_gathers_members_into_one_generation() {
    let mut bench = Bench::new();
    bench.initial_delay_ms = 100;
    let a = bench.join("a");
    bench.pass(50);
    let b = bench.join("b");
    assert!(bench.replies.is_empty());
    bench.pass(50);
    assert_eq!(bench.joined(a), (1, vec![0, 2]));
    assert_eq!(bench.joined(b), (1, vec![1, 3]));
}

#[test]
fn a_new_member_makes_the_others_join_again() {
    let mut bench = Bench::new();
    bench.join("a");
    let b = bench.join("b");
    assert_eq!(bench.heartbeat("a", 1), Err(Error::RebalanceInProgress));
    assert_eq!(
        bench.commit(Some(("a", 1, 1))),
        Ok(Reply::Done),
        "of the old generation, while preparing"
    );
    let a = bench.join("a");
    assert_eq!(bench.joined(a), (2, vec![0, 1]));
    assert_eq!(bench.joined(b), (2, vec![2, 3]));
    assert_eq!(bench.commit(Some(("a", 1, 2))), Err(Error::StaleGeneration { current: 2 }));
    assert_eq!(bench.heartbeat("a", 1), Err(Error::StaleGeneration { current: 2 }));
    assert_eq!(bench.heartbeat("a", 2), Ok(Reply::Done));
}

#[test]
fn a_waiting_member_is_told_to_ask_again_and_then_its_generation() {
    let mut bench = Bench::new();
    bench.join("a");
    let b = bench.join("b");
    bench.pass(u64::from(SESSION) / 3);
    assert_eq!(bench.replies[&b], Ok(Reply::Wait));
    // The phase completes while b is between two asks.
    let a = bench.join("a");
    assert_eq!(bench.joined(a).0, 2);
    let b = bench.join("b");
    assert_eq!(bench.joined(b), (2, vec![2, 3]));
    assert_eq!(bench.group.generation(), 2);
}

#[test]
fn a_silent_member_is_removed_after_its_session_timeout() {
    let mut bench = Bench::new();
    bench.join("a");
    bench.join("b");
    bench.join("a");
    bench.pass(u64::from(SESSION) - 1);
    assert_eq!(bench.heartbeat("a", 2), Ok(Reply::Done));
    bench.pass(1);
    assert_eq!(bench.heartbeat("a", 2), Err(Error::RebalanceInProgress));
    assert_eq!(bench.heartbeat("b", 2), Err(Error::UnknownMember));
    let a = bench.join("a");
    assert_eq!(bench.joined(a), (3, vec![0, 1, 2, 3]));
}

#[test]
fn who_does_not_join_again_in_time_is_removed() {
    let mut bench = Bench::new();
    bench.join("a");
    let mut b = bench.join("b");
    for _ in 0..=REBALANCE / 2_000 {
        // Both are alive; only b joins.
        let _ = bench.heartbeat("a", 1);
        if bench.replies.get(&b) == Some(&Ok(Reply::Wait)) {
            b = bench.join("b");
        }
        bench.pass(2_000);
    }
    assert_eq!(bench.heartbeat("a", 1), Err(Error::UnknownMember));
    assert_eq!(bench.joined(b), (2, vec![0, 1, 2, 3]));
}

#[test]
fn an_empty_group_keeps_its_offsets_and_forgets_itself_without() {
    let mut bench = Bench::new();
    bench.join("a");
    assert_eq!(bench.commit(Some(("a", 1, 1))), Ok(Reply::Done));
    bench.leave("a");
    assert_eq!((bench.group.state(), bench.group.generation()), (State::Empty, 2));
    assert_eq!(bench.group.kind(), None);
    assert_eq!(bench.commit(None), Ok(Reply::Done), "without members, without membership");

    let mut bench = Bench::new();
    bench.join("a");
    bench.leave("a");
    assert_eq!(bench.group.state(), State::Dead);
    assert_eq!(bench.persisted.last(), Some(&Change::Deleted));
}

#[test]
fn membership_is_checked() {
    let mut bench = Bench::new();
    bench.join("a");
    assert_eq!(bench.commit(None), Err(Error::NotEmpty));
    assert_eq!(bench.commit(Some(("x", 1, 1))), Err(Error::UnknownMember));
    let delete = bench.ask(Event::Delete);
    assert_eq!(bench.replies[&delete], Err(Error::NotEmpty));
}

#[test]
fn a_late_duplicate_commit_is_refused_and_a_retry_is_not() {
    let mut bench = Bench::new();
    bench.join("a");
    assert_eq!(bench.commit(Some(("a", 1, 1))), Ok(Reply::Done));
    assert_eq!(bench.commit(Some(("a", 1, 2))), Ok(Reply::Done));
    assert_eq!(bench.commit(Some(("a", 1, 2))), Ok(Reply::Done));
    assert_eq!(bench.commit(Some(("a", 1, 1))), Err(Error::StaleGeneration { current: 1 }));
}

/// What was on its way to a former coordinator, or through another one, arrives at the next.
#[test]
fn the_next_coordinator_refuses_a_late_commit_too() {
    let mut bench = Bench::new();
    bench.join("a");
    assert_eq!(bench.commit(Some(("a", 1, 1))), Ok(Reply::Done));
    assert_eq!(bench.commit(Some(("a", 1, 2))), Ok(Reply::Done));
    bench.restart();
    assert_eq!(bench.commit(Some(("a", 1, 1))), Err(Error::StaleGeneration { current: 1 }));
    assert_eq!(bench.commit(Some(("a", 1, 2))), Ok(Reply::Done), "a retry");
    // A generation in between says it too.
    let (again, b) = (bench.join("a"), bench.join("b"));
    bench.join("a");
    assert_eq!((bench.joined(b).0, bench.replies.contains_key(&again)), (2, true));
    bench.restart();
    assert_eq!(bench.commit(Some(("a", 2, 1))), Err(Error::StaleGeneration { current: 2 }));
    assert_eq!(bench.commit(Some(("a", 2, 3))), Ok(Reply::Done));
}

#[test]
fn the_next_coordinator_knows_which_stream_speaks_for_a_member() {
    let mut bench = Bench::new();
    bench.join("a");
    assert_eq!(bench.commit(Some(("a", 1, 5))), Ok(Reply::Done));
    bench.join_as("a", 2, &["t"]);
    bench.restart();
    assert_eq!(bench.commit(Some(("a", 1, 6))), Err(Error::Fenced));
    assert_eq!(bench.heartbeat("a", 1), Err(Error::Fenced));
    let again = bench.join_as("a", 2, &["t"]);
    assert_eq!(bench.joined(again).0, 1, "asking again changes nothing");
}

#[test]
fn another_stream_takes_a_member_over_and_fences_the_first() {
    let mut bench = Bench::new();
    bench.join("a");
    let resumed = bench.join_as("a", 2, &["t"]);
    assert_eq!(bench.joined(resumed), (1, vec![0, 1, 2, 3]), "no rebalance");
    assert_eq!(bench.heartbeat("a", 1), Err(Error::Fenced));
    assert_eq!(bench.commit(Some(("a", 1, 1))), Err(Error::Fenced));
    // Parked joins are fenced too.
    let parked = bench.join_as("b", 1, &["t"]);
    bench.join_as("b", 2, &["t"]);
    assert_eq!(bench.replies[&parked], Err(Error::Fenced));
}

#[test]
fn another_subscription_or_more_partitions_rebalance() {
    let mut bench = Bench::new();
    bench.join("a");
    let again = bench.join_as("a", 1, &["u", "t", "t"]);
    assert_eq!(bench.joined(again).0, 2);
    bench.step(Event::TopicsChanged);
    assert_eq!(bench.heartbeat("a", 2), Ok(Reply::Done), "nothing changed");
    bench.partitions.insert("t", 5);
    bench.step(Event::TopicsChanged);
    assert_eq!(bench.heartbeat("a", 2), Err(Error::RebalanceInProgress));
    let again = bench.join_as("a", 1, &["t", "u"]);
    assert_eq!(bench.joined(again), (3, vec![0, 1, 2, 3, 4]));
}

#[test]
fn members_survive_a_restart_of_the_coordinator() {
    let mut bench = Bench::new();
    bench.join("a");
    bench.join("b");
    bench.join("a");
    bench.restart();
    assert_eq!(bench.heartbeat("a", 2), Ok(Reply::Done));
    assert_eq!(bench.commit(Some(("a", 2, 1))), Ok(Reply::Done));
    bench.pass(u64::from(SESSION) - 1);
    assert_eq!(bench.heartbeat("a", 2), Ok(Reply::Done));
    bench.pass(1);
    assert_eq!(bench.heartbeat("b", 2), Err(Error::UnknownMember), "never heard of since");
}

#[test]
fn impossible_joins_leave_no_group_behind() {
    let mut bench = Bench::new();
    let mut short = join("a", 1, &["t"]);
    short.session_timeout_ms = 5;
    let many = (0..=limits::MAX_MEMBER_TOPICS).map(|n| n.to_string()).collect::<Vec<_>>();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (join, reason) in [
        (short, "INVALID_REQUEST"),
        (join("a", 1, &[]), "INVALID_REQUEST"),
        (join("", 1, &["t"]), "INVALID_REQUEST"),
        (join(&"x".repeat(300), 1, &["t"]), "LIMIT_EXCEEDED"),
        (join("a", 1, &many), "LIMIT_EXCEEDED"),
    ] {
        let token = bench.ask(|token| Event::Join(token, join));
        let error = bench.replies[&token].clone().unwrap_err();
        assert_eq!(error.reason().as_str(), reason, "{error}");
    }
    bench.partitions.insert("t", 300_000);
    let token = bench.join("a");
    assert!(matches!(bench.replies[&token], Err(Error::Limit { .. })));
    assert!(bench.group.is_blank() && bench.persisted.is_empty());
}

#[test]
fn a_group_is_limited_in_members() {
    let mut bench = Bench::new();
    bench.initial_delay_ms = 1_000;
    for n in 0..caps::MAX_GROUP_MEMBERS {
        bench.join(&format!("m{n}"));
    }
    let last = bench.join("one too many");
    assert!(matches!(bench.replies[&last], Err(Error::Limit { .. })));
    bench.pass(1_000);
    assert_eq!(bench.group.state(), State::Stable);
}
