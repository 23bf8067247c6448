//! The groups of a shard over a log that acknowledges when the test says so and loses what the test says.

mod bounds;
mod classic;
mod expiry;

use std::collections::{BTreeMap, VecDeque};

use geminga_runtime::ManualClock;
use proptest::prelude::*;
use tokio::sync::oneshot;

use super::*;
use crate::groups::core::Phase;
use crate::groups::fakes::{CONFIG, FakeTopics};
use crate::groups::record::Generation;
use crate::groups::types::{Caller, Commit, CommitBy, Committed, Join, TopicPartition};
use crate::statelog::gate::Gate;

const GROUP: &str = "g";
const SESSION_MS: u32 = 3_000;

struct Bench {
    topics: Arc<FakeTopics>,
    clock: ManualClock,
    machine: Groups,
    gate: Gate<Held>,
    durable: Vec<Bytes>,
    /// Numbers and commands (none: a barrier) on their way.
    flying: VecDeque<(u64, Option<Bytes>)>,
    appended: u64,
    now_ms: u64,
}

impl Bench {
    fn new() -> Self {
        let topics = Arc::new(FakeTopics::new(&[("t", 5), ("u", 2)]));
        let clock = ManualClock::at(1_000);
        let machine = machine(&topics, &clock);
        Self {
            topics,
            clock,
            machine,
            gate: Gate::default(),
            durable: Vec::new(),
            flying: VecDeque::new(),
            appended: 0,
            now_ms: 0,
        }
    }

    fn request(&mut self, request: Request) {
        let mut out = Output::default();
        self.machine.request(self.now_ms, request, &mut out);
        self.take(out);
    }

    fn tick(&mut self) {
        while self.machine.next_deadline().is_some_and(|at| at <= self.now_ms) {
            let mut out = Output::default();
            self.machine.tick(self.now_ms, &mut out);
            self.take(out);
        }
    }

    fn take(&mut self, out: Output<Held>) {
        let appended = !out.commands.is_empty();
        for command in out.commands {
            self.appended += 1;
            self.gate.appended(self.appended, command.len());
            self.flying.push_back((self.appended, Some(command)));
        }
        out.held.into_iter().for_each(|held| self.gate.hold(held));
        if appended {
            self.gate.serve();
        } else {
            self.barrier();
        }
    }

    fn barrier(&mut self) {
        if self.gate.wants_barrier() {
            self.appended += 1;
            self.gate.barrier_appended(self.appended);
            self.flying.push_back((self.appended, None));
        }
    }

    fn ack(&mut self, entries: usize) {
        for _ in 0..entries {
            let Some((number, command)) = self.flying.pop_front() else { return };
            if let Some(command) = command {
                self.machine.apply(&command).unwrap();
                self.durable.push(command);
            }
            for held in self.gate.acked(number) {
                self.machine.release(held);
            }
            self.barrier();
        }
    }

    fn ack_all(&mut self) {
        while !self.flying.is_empty() {
            self.ack(1);
        }
    }

    /// The broker dies; of what was on its way, `kept` entries are in the log after all. With `snapshot` the next
    /// owner starts from one.
    fn crash(&mut self, kept: usize, snapshot: bool) {
        let kept = self.flying.drain(..).take(kept).filter_map(|(_, command)| command);
        self.durable.extend(kept);
        self.gate = Gate::default();
        self.machine = machine(&self.topics, &self.clock);
        for command in &self.durable {
            self.machine.apply(command).unwrap();
        }
        if snapshot {
            let parts = self.machine.snapshot();
            self.machine = machine(&self.topics, &self.clock);
            parts.iter().for_each(|part| self.machine.load(part).unwrap());
        }
        self.machine.replayed(self.now_ms);
    }

    fn generations(&self) -> Vec<Generation> {
        let changes = self.durable.iter().map(|command| record::decode(command).unwrap().1);
        changes
            .filter_map(|change| match change {
                Change::Generation(generation) => Some(generation),
                Change::Offsets(..) | Change::Forgotten(_) | Change::Deleted => None,
            })
            .collect()
    }
}

fn machine(topics: &Arc<FakeTopics>, clock: &ManualClock) -> Groups {
    Groups::new(0, CONFIG, topics.clone(), Arc::new(clock.clone()))
}

fn caller(member: u8) -> Caller {
    Caller { member: format!("m{member}").into(), session: 1 }
}

fn join(member: u8) -> Join {
    // Members of even number also read `u`.
    let topics =
        if member.is_multiple_of(2) { vec!["t".into(), "u".into()] } else { vec!["t".into()] };
    Join {
        caller: caller(member),
        client_id: String::new(),
        topics,
        session_timeout_ms: SESSION_MS,
        rebalance_timeout_ms: SESSION_MS * 2,
    }
}

fn commit(by: Option<CommitBy>, offset: i64) -> Commit {
    commit_of(0, by, offset)
}

fn commit_of(partition: u8, by: Option<CommitBy>, offset: i64) -> Commit {
    let tp = TopicPartition { topic: "t".into(), partition: partition.into() };
    let committed = Committed {
        offset,
        leader_epoch: Some(3),
        metadata: "mine".to_owned(),
        committed_ms: 0,
        topic_id: None,
        expires_ms: None,
    };
    Commit { by, offsets: vec![(tp, committed)] }
}

fn ask<T>(
    bench: &mut Bench,
    request: impl FnOnce(Respond<T>) -> Request,
) -> oneshot::Receiver<Result<T, Error>> {
    let (respond, answer) = oneshot::channel();
    bench.request(request(respond));
    answer
}

fn describe(bench: &mut Bench) -> Result<Description, Error> {
    let mut answer = ask(bench, |respond| Request::Describe(GROUP.into(), respond));
    bench.ack_all();
    answer.try_recv().unwrap()
}

#[test]
fn nothing_is_said_before_the_log_has_it() {
    let mut bench = Bench::new();
    let mut joined = ask(&mut bench, |r| Request::Join(GROUP.into(), join(1), r));
    assert!(joined.try_recv().is_err(), "S3");
    bench.ack(1);
    assert!(matches!(joined.try_recv().unwrap(), Ok(JoinAnswer::Joined(..))));
    let mut beat = ask(&mut bench, |r| Request::Heartbeat(GROUP.into(), caller(1), 1, r));
    assert!(beat.try_recv().is_err(), "S2");
    bench.ack(1);
    assert_eq!(beat.try_recv().unwrap(), Ok(()));
}

#[test]
fn a_deposed_coordinator_answers_nothing() {
    let mut bench = Bench::new();
    let mut unknown = ask(&mut bench, |r| Request::Heartbeat(GROUP.into(), caller(1), 1, r));
    bench.crash(0, false);
    assert!(matches!(unknown.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
}

#[test]
fn committed_offsets_come_with_the_assignment() {
    let mut bench = Bench::new();
    let mut done = ask(&mut bench, |r| Request::Commit(GROUP.into(), commit(None, 42), r));
    bench.ack_all();
    assert_eq!(done.try_recv().unwrap(), Ok(()));
    bench.crash(0, true);
    let mut joined = ask(&mut bench, |r| Request::Join(GROUP.into(), join(1), r));
    bench.ack_all();
    let Ok(Ok(JoinAnswer::Joined(joined, offsets))) = joined.try_recv() else { panic!() };
    assert_eq!(joined.assigned[&Arc::from("t")].len(), 5);
    let [(tp, committed)] = &offsets[..] else { panic!("{offsets:?}") };
    assert_eq!((tp.to_string().as_str(), committed.offset), ("t-0", 42));
    assert_eq!((committed.leader_epoch, committed.metadata.as_str()), (Some(3), "mine"));
    assert_eq!(committed.committed_ms, 1_000);
}

/// For metrics: no more than is durable, and without a write to the log of a shard at rest.
#[test]
fn how_far_groups_have_come_is_told_at_once_page_by_page() {
    let mut bench = Bench::new();
    let positions = |bench: &mut Bench, after: Option<&str>, most| {
        let mut answer = ask(bench, |r| Request::Positions(after.map(Arc::from), most, r));
        let found = answer.try_recv().expect("at once").unwrap();
        assert!(bench.flying.is_empty(), "the log is written to");
        let groups = found.groups.iter().map(|(name, offsets)| (name.to_string(), offsets.len()));
        (groups.collect::<Vec<_>>(), found.more)
    };
    for group in ["a", "b", "c"] {
        let _done = ask(&mut bench, |r| Request::Commit(group.into(), commit(None, 42), r));
    }
    let flying = std::mem::take(&mut bench.flying);
    assert_eq!(positions(&mut bench, None, 10), (vec![], false), "nothing is durable");
    bench.flying = flying;
    bench.ack_all();
    let named = |names: &[&str]| -> Vec<_> { names.iter().map(|n| ((*n).to_owned(), 1)).collect() };
    assert_eq!(positions(&mut bench, None, 10), (named(&["a", "b", "c"]), false));
    assert_eq!(positions(&mut bench, None, 2), (named(&["a", "b"]), true));
    assert_eq!(positions(&mut bench, Some("b"), 2), (named(&["c"]), false));
    // Offsets of a topic that is another one now are none.
    bench.topics.set("t", 99, 5);
    assert_eq!(positions(&mut bench, Some("b"), 2).0, [("c".to_owned(), 0)]);
}

#[test]
fn offsets_do_not_outlive_their_topic() {
    let mut bench = Bench::new();
    let _done = ask(&mut bench, |r| Request::Commit(GROUP.into(), commit(None, 42), r));
    assert_eq!(describe(&mut bench).unwrap().offsets.len(), 1);
    bench.topics.set("t", 99, 5);
    assert_eq!(describe(&mut bench).unwrap().offsets, []);
}

#[test]
fn new_partitions_are_found_without_being_asked() {
    let mut bench = Bench::new();
    let _joined = ask(&mut bench, |r| Request::Join(GROUP.into(), join(1), r));
    bench.topics.set("t", 0, 6);
    bench.machine.world_changed(bench.now_ms);
    bench.now_ms += TOPICS_DEBOUNCE_MS;
    bench.tick();
    assert_eq!(describe(&mut bench).unwrap().summary.phase, Phase::Preparing);
}

#[test]
fn unknown_groups_and_names_are_refused() {
    let mut bench = Bench::new();
    assert_eq!(describe(&mut bench), Err(Error::UnknownGroup));
    let mut deleted = ask(&mut bench, |r| Request::Delete(GROUP.into(), r));
    bench.ack_all();
    assert_eq!(deleted.try_recv().unwrap(), Err(Error::UnknownGroup));
    for name in [String::new(), "x".repeat(256)] {
        let mut joined = ask(&mut bench, |r| Request::Join(name.into(), join(1), r));
        bench.ack_all();
        assert!(joined.try_recv().unwrap().is_err());
    }
    assert_eq!(bench.durable.len(), 0);
}

#[test]
fn commits_are_limited() {
    let mut bench = Bench::new();
    let mut bad = vec![commit(None, -1), commit(None, 1), commit(None, 1), commit(None, 1)];
    bad[1].offsets[0].1.metadata = "x".repeat(4097);
    bad[2].offsets = vec![bad[2].offsets[0].clone(); limits::MAX_COMMIT_OFFSETS + 1];
    bad[3].offsets[0].0.topic = "t".repeat(250).into();
    for commit in bad {
        let mut answer = ask(&mut bench, |r| Request::Commit(GROUP.into(), commit, r));
        bench.ack_all();
        assert!(answer.try_recv().unwrap().is_err());
    }
    assert!(bench.machine.groups.is_empty());
}

#[test]
fn a_deleted_group_is_gone_for_good() {
    let mut bench = Bench::new();
    let _done = ask(&mut bench, |r| Request::Commit(GROUP.into(), commit(None, 42), r));
    let mut deleted = ask(&mut bench, |r| Request::Delete(GROUP.into(), r));
    bench.ack_all();
    assert_eq!(deleted.try_recv().unwrap(), Ok(()));
    bench.crash(0, false);
    assert_eq!(describe(&mut bench), Err(Error::UnknownGroup));
}

/// It hung on its way to a coordinator and was repeated at the next one.
#[test]
fn a_commit_that_arrives_late_is_refused_after_takeovers() {
    for snapshot in [false, true] {
        let mut bench = Bench::new();
        let _joined = ask(&mut bench, |r| Request::Join(GROUP.into(), join(1), r));
        bench.ack_all();
        let by = |sequence| Some(CommitBy { caller: caller(1), generation: 1, sequence });
        for sequence in [1, 2] {
            let offset = i64::try_from(sequence).unwrap();
            let commit = commit(by(sequence), offset);
            let mut done = ask(&mut bench, |r| Request::Commit(GROUP.into(), commit, r));
            bench.ack_all();
            assert_eq!(done.try_recv().unwrap(), Ok(()));
            bench.crash(0, snapshot);
        }
        let mut late = ask(&mut bench, |r| Request::Commit(GROUP.into(), commit(by(1), 1), r));
        bench.ack_all();
        assert_eq!(late.try_recv().unwrap(), Err(Error::StaleGeneration { current: 1 }));
        // Whoever asked has given up: it is not taken up at all.
        let gone = oneshot::channel().0;
        bench.request(Request::Commit(GROUP.into(), commit(by(3), 3), gone));
        assert!(bench.flying.is_empty());
    }
}

#[derive(Debug, Clone)]
enum Step {
    Join(u8),
    /// Member and by how much its generation is behind.
    Heartbeat(u8, i32),
    Commit(u8, i32),
    /// One of the former commits arrives once more.
    Late(u8),
    Leave(u8),
    Delete,
    Pass(u16),
    Ack(u8),
    Crash(u8, bool),
    Partitions(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u8..4).prop_map(Step::Join),
        3 => (0u8..4, 0i32..2).prop_map(|(m, back)| Step::Heartbeat(m, back)),
        3 => (0u8..4, 0i32..2).prop_map(|(m, back)| Step::Commit(m, back)),
        2 => any::<u8>().prop_map(Step::Late),
        1 => (0u8..4).prop_map(Step::Leave),
        1 => Just(Step::Delete),
        3 => (0u16..4_000).prop_map(Step::Pass),
        6 => (1u8..5).prop_map(Step::Ack),
        1 => (0u8..4, any::<bool>()).prop_map(|(kept, snapshot)| Step::Crash(kept, snapshot)),
        1 => (1u8..9).prop_map(Step::Partitions),
    ];
    proptest::collection::vec(step, 1..120)
}

type Answer<T> = oneshot::Receiver<Result<T, Error>>;

/// Answers that are due, checked as they come.
#[derive(Default)]
struct Due {
    joins: Vec<(u8, u64, Answer<JoinAnswer>)>,
    /// By member, each of which commits the partition of its number.
    commits: Vec<(u8, i64, Answer<()>)>,
    /// Of each, the newest commit that was answered with success since the last deletion was asked for.
    committed: BTreeMap<u8, i64>,
    /// All that were sent since then.
    sent: Vec<(u8, Commit)>,
    /// Of those that arrived late.
    late: Vec<Answer<()>>,
}

impl Due {
    /// No acknowledged commit is gone.
    fn holds(&self, image: &Image) -> Result<(), TestCaseError> {
        for (member, committed) in &self.committed {
            let tp = TopicPartition { topic: "t".into(), partition: (*member).into() };
            let durable = image.group(GROUP).and_then(|group| group.offsets().get(&tp));
            let is_held = durable.is_some_and(|durable| durable.offset >= *committed);
            prop_assert!(is_held, "{committed} of {member} is gone: {durable:?}");
        }
        Ok(())
    }
}

fn check(bench: &Bench, due: &mut Due) -> Result<(), TestCaseError> {
    let generations = bench.generations();
    let acked = bench.flying.front().map_or(bench.appended, |(number, _)| number - 1);
    let mut joins = Vec::new();
    for (member, before, mut answer) in due.joins.drain(..) {
        match answer.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => joins.push((member, before, answer)),
            Err(oneshot::error::TryRecvError::Closed) | Ok(Err(_) | Ok(JoinAnswer::Wait)) => {}
            Ok(Ok(JoinAnswer::Joined(joined, _))) => {
                prop_assert!(acked > before, "S2: an entry after the request is durable");
                let durable = generations.iter().find(|g| {
                    g.generation == joined.generation
                        && g.members
                            .iter()
                            .any(|m| m.member == joined.member && m.assigned == joined.assigned)
                });
                prop_assert!(durable.is_some(), "S3: {joined:?} is not durable");
            }
        }
    }
    due.joins = joins;
    due.commits.retain_mut(|(member, offset, answer)| match answer.try_recv() {
        Err(oneshot::error::TryRecvError::Empty) => true,
        Ok(Ok(())) => {
            due.committed.insert(*member, *offset);
            false
        }
        Err(oneshot::error::TryRecvError::Closed) | Ok(Err(_)) => false,
    });
    Ok(())
}

/// Each generation in the log is whole and disjoint, and numbers rise within the life of a group.
fn check_log(bench: &Bench) -> Result<(), TestCaseError> {
    let mut last = 0;
    for command in &bench.durable {
        let generation = match record::decode(command).unwrap().1 {
            Change::Generation(generation) => generation,
            Change::Deleted => {
                last = 0;
                continue;
            }
            Change::Offsets(..) | Change::Forgotten(_) => continue,
        };
        prop_assert_eq!(generation.generation, last + 1);
        last = generation.generation;
        for topic in ["t", "u"] {
            let topic: Arc<str> = topic.into();
            let readers = generation.members.iter().filter(|m| m.topics.contains(&topic)).count();
            let mut read: Vec<u32> = generation
                .members
                .iter()
                .flat_map(|m| m.assigned.get(&topic).cloned().unwrap_or_default())
                .collect();
            read.sort_unstable();
            // The partition count of that time is the number of the last one read; from 0, each once.
            let whole: Vec<u32> = (0..u32::try_from(read.len()).unwrap()).collect();
            prop_assert_eq!(&read, &whole);
            prop_assert_eq!(readers > 0, !read.is_empty());
        }
    }
    Ok(())
}

fn run(bench: &mut Bench, due: &mut Due, offset: &mut i64, step: Step) {
    let known = bench.machine.groups.get(GROUP).map_or(0, |slot| slot.group.generation());
    match step {
        Step::Join(member) => {
            let before = bench.appended;
            let answer = ask(bench, |r| Request::Join(GROUP.into(), join(member), r));
            due.joins.push((member, before, answer));
        }
        Step::Heartbeat(member, back) => {
            let _unheard =
                ask(bench, |r| Request::Heartbeat(GROUP.into(), caller(member), known - back, r));
        }
        Step::Commit(member, back) => {
            *offset += 1;
            let by = CommitBy {
                caller: caller(member),
                generation: known - back,
                sequence: u64::try_from(*offset).unwrap(),
            };
            let commit = commit_of(member, Some(by), *offset);
            due.sent.push((member, commit.clone()));
            let answer = ask(bench, |r| Request::Commit(GROUP.into(), commit, r));
            due.commits.push((member, *offset, answer));
        }
        Step::Late(which) => {
            let sent = usize::from(which).checked_rem(due.sent.len());
            if let Some((_, commit)) = sent.map(|sent| due.sent[sent].clone()) {
                due.late.push(ask(bench, |r| Request::Commit(GROUP.into(), commit, r)));
            }
        }
        Step::Leave(member) => {
            let _unheard = ask(bench, |r| Request::Leave(GROUP.into(), caller(member), r));
        }
        Step::Delete => {
            // What was committed before may be gone from now on.
            due.committed.clear();
            due.commits.clear();
            due.sent.clear();
            let _unheard = ask(bench, |r| Request::Delete(GROUP.into(), r));
        }
        Step::Pass(ms) => {
            bench.now_ms += u64::from(ms);
            bench.tick();
        }
        Step::Ack(entries) => bench.ack(entries.into()),
        Step::Crash(kept, snapshot) => bench.crash(kept.into(), snapshot),
        Step::Partitions(count) => {
            bench.topics.set("t", 0, count.into());
            bench.machine.world_changed(bench.now_ms);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Random members, time, acknowledgements and crashes: nothing is said that the log does not hold, every
    /// generation is whole and disjoint, generations rise, committed offsets survive, and nothing is left behind.
    #[test]
    fn the_log_holds_what_was_said(steps in steps()) {
        let mut bench = Bench::new();
        let (mut due, mut offset) = (Due::default(), 0);
        for step in steps {
            run(&mut bench, &mut due, &mut offset, step);
            check(&bench, &mut due)?;
            due.holds(&bench.machine.image)?;
            let group = bench.machine.groups.get(GROUP);
            let members = group.map_or(0, |slot| slot.group.len());
            prop_assert!(members <= 4 && bench.machine.members == members);
            prop_assert!(bench.machine.deadlines.len() <= 1);
            prop_assert!(bench.machine.waiting.len() <= members, "parked joins only");
        }
        bench.ack_all();
        check(&bench, &mut due)?;
        check_log(&bench)?;
        bench.crash(0, true);
        due.holds(&bench.machine.image)?;
        // Left alone, every member is taken for dead and the group is empty or gone.
        bench.now_ms += 10 * u64::from(SESSION_MS);
        bench.tick();
        bench.ack_all();
        prop_assert!(bench.machine.members == 0 && bench.machine.deadlines.is_empty());
    }
}
