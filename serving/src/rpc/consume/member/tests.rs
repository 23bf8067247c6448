//! The member alone, with the answers of a coordinator made up.

use super::*;
use crate::groups::types::Committed;

const SESSION: Duration = Duration::from_secs(9);
const REBALANCE: Duration = Duration::from_secs(30);

fn tp(partition: u32) -> TopicPartition {
    TopicPartition { topic: "t".into(), partition }
}

fn committed(offset: i64) -> Committed {
    Committed {
        offset,
        leader_epoch: None,
        metadata: String::new(),
        committed_ms: 0,
        topic_id: None,
        expires_ms: None,
    }
}

fn error(reason: Reason) -> ApiError {
    ApiError::new(reason, "made up")
}

struct Bench {
    now: Instant,
    member: Member,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        let (member, first) = Member::new(now, "m".into(), SESSION, REBALANCE);
        let hello = v1::ConsumeJoined { member_id: "m".to_owned() };
        assert_eq!(first, [Effect::Say(Say::Joined(hello)), Effect::Join]);
        Self { now, member }
    }

    /// A member that reads these partitions in that generation.
    fn reading(generation: i32, partitions: &[u32]) -> Self {
        let mut bench = Self::new();
        bench.assign(generation, partitions);
        bench
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        self.member.step(self.now, event)
    }

    /// What is due at the next deadline.
    fn tick(&mut self) -> Vec<Effect> {
        self.now = self.member.next_deadline().expect("something is due");
        self.step(Event::Tick)
    }

    fn joined(&mut self, generation: i32, partitions: &[u32]) -> Vec<Effect> {
        let assigned = [("t".into(), partitions.to_vec())].into();
        let joined = Joined { member: "m".into(), generation, assigned };
        self.step(Event::Joined(Ok(JoinAnswer::Joined(joined, vec![(tp(0), committed(70))]))))
    }

    fn assign(&mut self, generation: i32, partitions: &[u32]) -> Vec<Effect> {
        let effects = self.joined(generation, partitions);
        let [Effect::Resolve(starts)] = effects.as_slice() else { panic!("{effects:?}") };
        let starts = starts.iter().map(|(tp, at)| (tp.clone(), at.unwrap_or(0))).collect();
        self.step(Event::Resolved(Ok(starts)))
    }

    fn commit(&mut self, id: u64, partition: u32, offset: i64) -> Vec<Effect> {
        self.step(Event::Commit(id, vec![(tp(partition), committed(offset))]))
    }

    fn rebalance(&mut self) -> Vec<Effect> {
        assert!(matches!(self.tick()[..], [Effect::Beat(_)]));
        self.step(Event::Beaten(Err(error(Reason::RebalanceInProgress))))
    }
}

fn call(generation: i32, sequence: u64, offsets: &[(u32, i64)]) -> Effect {
    let offsets = offsets.iter().map(|(p, offset)| (tp(*p), committed(*offset))).collect();
    Effect::Commit(CommitCall { generation, sequence, offsets })
}

fn done(id: u64) -> Effect {
    Effect::Say(Say::Committed(v1::ConsumeCommitted { id, error: None }))
}

fn refused(effect: &Effect) -> (u64, Reason) {
    let Effect::Say(Say::Committed(v1::ConsumeCommitted { id, error: Some(error) })) = effect
    else {
        panic!("{effect:?}");
    };
    (*id, Reason::parse(&error.reason).unwrap())
}

fn revoke(generation: i32) -> Effect {
    Effect::Say(Say::Revoke(v1::ConsumeRevoke { generation }))
}

#[test]
fn an_assignment_comes_with_its_start_offsets_before_anything_is_read() {
    let mut bench = Bench::new();
    assert_eq!(bench.step(Event::Joined(Ok(JoinAnswer::Wait))), [Effect::Join]);
    let starts = vec![(tp(0), Some(70)), (tp(1), None)];
    assert_eq!(bench.joined(3, &[0, 1]), [Effect::Resolve(starts)]);
    let found = vec![(tp(0), 70), (tp(1), 5)];
    let effects = bench.step(Event::Resolved(Ok(found.clone())));
    let partition = |partition, start_offset| v1::AssignedPartition {
        topic: "t".to_owned(),
        partition,
        start_offset,
    };
    let assignment = v1::ConsumeAssignment {
        generation: 3,
        partitions: vec![partition(0, 70), partition(1, 5)],
    };
    assert_eq!(effects, [Effect::Say(Say::Assignment(assignment)), Effect::Read(found)]);
}

#[test]
fn reading_stops_before_the_revocation_and_joining_waits_for_the_commits() {
    let mut bench = Bench::reading(1, &[0, 1]);
    assert_eq!(bench.rebalance(), [Effect::Stop, revoke(1)]);
    assert_eq!(bench.commit(1, 0, 80), [call(1, 1, &[(0, 80)])]);
    assert_eq!(bench.commit(2, 1, 9), []);
    assert_eq!(bench.step(Event::Revoked(0)), [], "of another generation");
    assert_eq!(bench.step(Event::Revoked(1)), []);
    assert_eq!(bench.step(Event::Committed(Ok(()))), [done(1), call(1, 2, &[(1, 9)])]);
    assert_eq!(bench.step(Event::Committed(Ok(()))), [done(2), Effect::Join]);
    bench.assign(2, &[1]);
    assert_eq!(bench.commit(3, 1, 10), [call(2, 3, &[(1, 10)])]);
}

#[test]
fn a_client_that_does_not_answer_is_waited_for_until_the_rebalance_timeout() {
    let mut bench = Bench::reading(1, &[0]);
    bench.rebalance();
    let since = bench.now;
    loop {
        match bench.tick().as_slice() {
            [Effect::Beat(1)] => {
                // Still in the group, or not any more: it changes nothing.
                let known = bench.now - since < REBALANCE / 2;
                let answer =
                    if known { Reason::RebalanceInProgress } else { Reason::UnknownMember };
                assert_eq!(bench.step(Event::Beaten(Err(error(answer)))), []);
            }
            [Effect::Join] => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bench.now - since, REBALANCE);
}

#[test]
fn commits_that_wait_are_made_together_and_the_newest_counts() {
    let mut bench = Bench::reading(1, &[0, 1]);
    assert_eq!(bench.commit(1, 0, 1), [call(1, 1, &[(0, 1)])]);
    assert_eq!(bench.commit(2, 0, 2), []);
    assert_eq!(bench.commit(3, 0, 3), []);
    assert_eq!(bench.commit(4, 1, 4), []);
    let effects = bench.step(Event::Committed(Ok(())));
    assert_eq!(effects, [done(1), call(1, 2, &[(0, 3), (1, 4)])]);
    let failed = bench.step(Event::Committed(Err(error(Reason::Unknown))));
    let ids: Vec<_> = failed.iter().map(refused).collect();
    assert_eq!(ids, [2, 3, 4].map(|id| (id, Reason::Unknown)));
}

#[test]
fn a_commit_of_what_is_not_assigned_is_refused() {
    let mut bench = Bench::reading(1, &[0]);
    assert_eq!(refused(&bench.commit(1, 1, 4)[0]), (1, Reason::StaleGeneration));
    // One that comes while the member joins is judged by its next assignment.
    bench.rebalance();
    assert_eq!(bench.step(Event::Revoked(1)), [Effect::Join]);
    assert_eq!(bench.commit(2, 0, 80), []);
    assert_eq!(bench.commit(3, 1, 1), []);
    let effects = bench.joined(2, &[1]);
    assert!(matches!(effects[0], Effect::Resolve(_)));
    assert_eq!(refused(&effects[1]), (2, Reason::StaleGeneration));
    assert_eq!(effects[2], call(2, 1, &[(1, 1)]));
}

#[test]
fn a_member_of_an_older_generation_joins_again_with_what_it_can_save() {
    for reason in [Reason::StaleGeneration, Reason::UnknownMember] {
        let mut bench = Bench::reading(1, &[0]);
        assert_eq!(bench.tick(), [Effect::Beat(1)]);
        assert_eq!(bench.step(Event::Beaten(Err(error(reason)))), [Effect::Stop, revoke(1)]);
        assert_eq!(bench.step(Event::Revoked(1)), [Effect::Join]);
    }
}

#[test]
fn a_coordinator_that_is_away_changes_nothing_for_the_reader() {
    let mut bench = Bench::reading(1, &[0]);
    for reason in [Reason::NotReady, Reason::NotOwner, Reason::Unknown, Reason::ShuttingDown] {
        assert_eq!(bench.tick(), [Effect::Beat(1)]);
        assert_eq!(bench.step(Event::Beaten(Err(error(reason)))), []);
    }
    assert_eq!(bench.tick(), [Effect::Beat(1)]);
    assert_eq!(bench.step(Event::Beaten(Ok(()))), []);

    let mut bench = Bench::new();
    assert_eq!(bench.step(Event::Joined(Err(error(Reason::NotReady)))), []);
    assert_eq!(bench.tick(), [Effect::Join]);
}

#[test]
fn a_member_that_was_taken_over_ends_and_leaves_the_other_alone() {
    let mut bench = Bench::reading(1, &[0]);
    bench.tick();
    let effects = bench.step(Event::Beaten(Err(error(Reason::MemberFenced))));
    assert_eq!(effects, [Effect::Stop, Effect::Say(Say::Error(taken_over().to_proto()))]);
    assert!(bench.member.has_ended());
    assert_eq!(bench.step(Event::Leave), []);
}

#[test]
fn a_departure_comes_after_all_commits() {
    let mut bench = Bench::reading(1, &[0]);
    assert_eq!(bench.commit(1, 0, 1), [call(1, 1, &[(0, 1)])]);
    assert_eq!(bench.commit(2, 0, 2), []);
    assert_eq!(bench.step(Event::Leave), [Effect::Stop]);
    assert!(!bench.member.has_room(), "nothing more is heard");
    assert_eq!(bench.step(Event::Committed(Ok(()))), [done(1), call(1, 2, &[(0, 2)])]);
    assert_eq!(bench.step(Event::Committed(Ok(()))), [done(2), Effect::Depart]);
    assert_eq!(bench.step(Event::Left), [Effect::Stop]);
    assert!(bench.member.has_ended());
}

#[test]
fn a_departure_while_joining_is_made_at_once() {
    let mut bench = Bench::new();
    bench.commit(1, 0, 1);
    let effects = bench.step(Event::Leave);
    assert_eq!(effects[0], Effect::Stop);
    assert_eq!(refused(&effects[1]), (1, Reason::StaleGeneration));
    assert_eq!(effects[2], Effect::Depart);
    assert_eq!(bench.joined(1, &[0]), [], "too late");
}

#[test]
fn a_start_that_cannot_be_found_departs_and_says_why() {
    let mut bench = Bench::new();
    bench.joined(1, &[0, 1]);
    let effects = bench.step(Event::Resolved(Err(error(Reason::OffsetOutOfRange))));
    assert_eq!(effects, [Effect::Stop, Effect::Depart]);
    let said = Effect::Say(Say::Error(error(Reason::OffsetOutOfRange).to_proto()));
    assert_eq!(bench.step(Event::Left), [Effect::Stop, said]);
}

#[test]
fn a_group_that_refuses_ends_the_stream() {
    let mut bench = Bench::new();
    let effects = bench.step(Event::Joined(Err(error(Reason::InvalidRequest))));
    let said = Say::Error(error(Reason::InvalidRequest).to_proto());
    assert_eq!(effects, [Effect::Stop, Effect::Say(said)]);
    assert!(bench.member.has_ended());
}

#[test]
fn a_client_that_closed_its_side_is_not_asked_to_answer() {
    let mut bench = Bench::reading(1, &[0]);
    assert_eq!(bench.step(Event::HalfClosed), []);
    assert_eq!(bench.rebalance(), [Effect::Stop, revoke(1), Effect::Join]);
    // Or it closes instead of answering.
    let mut bench = Bench::reading(1, &[0]);
    bench.rebalance();
    assert_eq!(bench.step(Event::HalfClosed), [Effect::Join]);
}

#[test]
fn without_partitions_there_is_nothing_to_revoke() {
    let mut bench = Bench::reading(1, &[]);
    assert_eq!(bench.rebalance(), [Effect::Stop, Effect::Join]);
    // Nor while the client has not heard of the assignment.
    let mut bench = Bench::new();
    bench.joined(1, &[0]);
    assert_eq!(bench.rebalance(), [Effect::Stop, Effect::Join]);
    assert_eq!(bench.step(Event::Resolved(Ok(vec![(tp(0), 1)]))), [], "of the former generation");
}

#[test]
fn commits_above_a_limit_and_too_many_of_them_are_held_off() {
    let mut bench = Bench::reading(1, &[0]);
    let many = (0..10_001).map(|p| (tp(p), committed(1))).collect();
    let effects = bench.step(Event::Commit(7, many));
    assert_eq!(refused(&effects[0]), (7, Reason::LimitExceeded));
    let mut sent = 0;
    while bench.member.has_room() {
        bench.commit(sent, 0, 1);
        sent += 1;
        assert!(sent < 1_000, "the client's requests are taken for ever");
    }
    let effects = bench.step(Event::Committed(Ok(())));
    assert!(effects.contains(&done(0)) && bench.member.has_room());
}
