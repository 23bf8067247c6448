//! Classic members over a log that acknowledges when the test says so: what S2 and S3 mean to them, and that nobody is
//! kept in a group for an answer that nobody waits for.

use super::*;
use crate::groups::classic::{
    CommitClassic, Each, Identity, JoinClassic, JoinedClassic, MemberName, Protocol, SyncClassic,
    Synced,
};
use crate::groups::request::Fetched;
use crate::groups::room::Room;

/// More than any answer here takes.
const MUCH: usize = 1 << 20;

pub(super) fn newcomer(fresh: &str) -> JoinClassic {
    JoinClassic {
        name: MemberName::default(),
        fresh: fresh.into(),
        client_id: "c".to_owned(),
        client_host: "h".to_owned(),
        session_timeout_ms: 6_000,
        rebalance_timeout_ms: 10_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![Protocol { name: "range".into(), metadata: Bytes::from_static(b"r") }],
        two_steps: false,
        may_skip: true,
    }
}

pub(super) fn again(id: &str) -> JoinClassic {
    let name = MemberName { member: id.into(), instance: None };
    JoinClassic { name, ..newcomer("unused") }
}

pub(super) fn identity(id: &str, generation: i32) -> Identity {
    let name = MemberName { member: id.into(), instance: None };
    Identity { name, generation }
}

fn join(bench: &mut Bench, join: JoinClassic) -> Answer<JoinedClassic> {
    join_at(bench, GROUP, join)
}

pub(super) fn join_at(bench: &mut Bench, group: &str, join: JoinClassic) -> Answer<JoinedClassic> {
    ask(bench, |r| Request::JoinClassic(group.into(), join, Room::default(), r))
}

fn sync(bench: &mut Bench, id: &str, generation: i32, assigned: &'static str) -> Answer<Synced> {
    let sync = SyncClassic {
        by: identity(id, generation),
        assignments: vec![(id.into(), Bytes::from_static(assigned.as_bytes()))],
        ..SyncClassic::default()
    };
    ask(bench, |r| Request::SyncClassic(GROUP.into(), sync, Room::default(), r))
}

fn heartbeat(bench: &mut Bench, id: &str, generation: i32) -> Result<(), Error> {
    let by = identity(id, generation);
    let mut answer = ask(bench, |r| Request::HeartbeatClassic(GROUP.into(), by, r));
    bench.ack_all();
    answer.try_recv().unwrap()
}

fn offsets(bench: &mut Bench, by: Identity, offsets: Vec<(TopicPartition, Committed)>) -> Each {
    let commit = CommitClassic { by, retention_ms: None, offsets };
    let mut answer = ask(bench, |r| Request::CommitClassic(GROUP.into(), commit, r));
    bench.ack_all();
    answer.try_recv().unwrap().unwrap()
}

pub(super) fn nobody() -> Identity {
    Identity { generation: -1, ..Identity::default() }
}

#[test]
fn neither_generation_nor_assignment_is_seen_before_the_log_has_it() {
    let mut bench = Bench::new();
    let mut joined = join(&mut bench, newcomer("a"));
    assert!(joined.try_recv().is_err(), "S3");
    bench.ack_all();
    assert_eq!(joined.try_recv().unwrap().unwrap().generation, 1);
    let mut synced = sync(&mut bench, "a", 1, "mine");
    assert!(synced.try_recv().is_err(), "S3");
    bench.ack_all();
    assert_eq!(&synced.try_recv().unwrap().unwrap().assignment[..], b"mine");
    // An assignment that the log never got was never seen.
    let _joined = join(&mut bench, again("a"));
    bench.ack_all();
    let mut synced = sync(&mut bench, "a", 2, "other");
    bench.crash(0, false);
    assert!(matches!(synced.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
    let mut synced = sync(&mut bench, "a", 2, "later");
    bench.ack_all();
    assert_eq!(&synced.try_recv().unwrap().unwrap().assignment[..], b"later");
}

#[test]
fn members_go_on_at_the_next_coordinator() {
    for snapshot in [false, true] {
        let mut bench = Bench::new();
        let _joined = join(&mut bench, newcomer("a"));
        let _synced = sync(&mut bench, "a", 1, "mine");
        bench.ack_all();
        bench.crash(0, snapshot);
        assert_eq!(heartbeat(&mut bench, "a", 1), Ok(()));
        let mut synced = sync(&mut bench, "a", 1, "ignored: the group is stable");
        bench.ack_all();
        assert_eq!(&synced.try_recv().unwrap().unwrap().assignment[..], b"mine");
        let described = describe(&mut bench).unwrap();
        assert_eq!(described.summary.phase, Phase::Stable);
        assert_eq!(
            (described.summary.protocol_type.as_str(), &*described.protocol),
            ("consumer", "range")
        );
        let classic = described.members[0].classic.as_ref().unwrap();
        assert_eq!((&classic.assignment[..], classic.client_host.as_str()), (&b"mine"[..], "h"));
    }
}

#[test]
fn nobody_is_kept_for_an_answer_that_nobody_waits_for() {
    let mut bench = Bench::new();
    let _joined = join(&mut bench, newcomer("a"));
    let _synced = sync(&mut bench, "a", 1, "");
    bench.ack_all();
    // A connection breaks while its first join waits; the hint gets through.
    drop(join(&mut bench, newcomer("lost")));
    bench.request(Request::Gone(GROUP.into()));
    bench.ack_all();
    assert_eq!(bench.machine.members, 1);
    // It does not: the next request of the group finds out as well.
    let mut joined = join(&mut bench, again("a"));
    bench.ack_all();
    assert_eq!(joined.try_recv().unwrap().unwrap().members.len(), 1);
    drop(join(&mut bench, newcomer("lost")));
    let mut joined = join(&mut bench, again("a"));
    bench.ack_all();
    assert_eq!(joined.try_recv().unwrap().unwrap().members.len(), 1);
    assert!(bench.machine.waiting.is_empty());
}

#[test]
fn a_late_join_whose_connection_is_gone_fences_nobody() {
    let mut bench = Bench::new();
    let fixed = |fresh: &str| {
        let name = MemberName { member: "".into(), instance: Some("i".into()) };
        JoinClassic { name, ..newcomer(fresh) }
    };
    let _joined = join(&mut bench, fixed("healthy"));
    let _synced = sync(&mut bench, "healthy", 1, "mine");
    bench.ack_all();
    let (respond, answer) = oneshot::channel();
    drop(answer);
    bench.request(Request::JoinClassic(GROUP.into(), fixed("late"), Room::default(), respond));
    bench.ack_all();
    assert_eq!(heartbeat(&mut bench, "healthy", 1), Ok(()));
}

#[test]
fn a_commit_is_refused_offset_by_offset() {
    let mut bench = Bench::new();
    let at = |partition, metadata: usize| {
        let mut one = commit(None, 5).offsets.remove(0);
        one.0.partition = partition;
        one.1.metadata = "x".repeat(metadata);
        one
    };
    let each = offsets(&mut bench, nobody(), vec![at(0, 4096), at(1, 4097), at(2, 0)]);
    assert_eq!(each, [Ok(()), Err(Error::MetadataTooLarge { limit: 4096 }), Ok(())]);
    let tps = [0, 1, 2].map(|partition| TopicPartition { topic: "t".into(), partition });
    let mut fetched =
        ask(&mut bench, |r| Request::FetchOffsets(GROUP.into(), Some(tps.to_vec()), MUCH, r));
    assert!(fetched.try_recv().is_err(), "S2");
    bench.ack_all();
    let Fetched::These(fetched, bytes) = fetched.try_recv().unwrap().unwrap() else { panic!() };
    let found = fetched.iter().map(|(tp, found)| (tp.partition, found.metadata.len()));
    assert_eq!(found.collect::<Vec<_>>(), [(0, 4096), (2, 0)]);
    assert_eq!((fetched[1].1.leader_epoch, bytes), (Some(3), 4096 + 2 * 65));
    // However often it is asked for, a partition is one; and nothing is made of more than is asked for.
    let often = vec![tps[0].clone(); 1_000];
    for (wanted, most, expected) in [
        (Some(often.clone()), MUCH, 1),
        (Some(often), 4_000, 0),
        (None, 4096 + 2 * 65, 2),
        (None, 4096 + 2 * 65 - 1, 0),
    ] {
        let mut fetched = ask(&mut bench, |r| Request::FetchOffsets(GROUP.into(), wanted, most, r));
        bench.ack_all();
        match fetched.try_recv().unwrap().unwrap() {
            Fetched::These(found, bytes) => assert!(found.len() == expected && bytes <= most),
            Fetched::Larger(bytes) => assert!(expected == 0 && bytes > most),
        }
    }
    let mut none = ask(&mut bench, |r| Request::FetchOffsets("none".into(), None, MUCH, r));
    bench.ack_all();
    let nothing = Fetched::These(Vec::new(), 0);
    assert_eq!(none.try_recv().unwrap(), Ok(nothing), "a group that does not exist");
}

/// What Kafka's tools are told of a group has no offsets: they would be made for nobody.
#[test]
fn members_are_described_without_offsets() {
    let mut bench = Bench::new();
    offsets(&mut bench, nobody(), commit(None, 5).offsets);
    let mut described = ask(&mut bench, |r| Request::DescribeMembers(GROUP.into(), r));
    bench.ack_all();
    assert_eq!(described.try_recv().unwrap().unwrap().offsets, []);
    assert_eq!(describe(&mut bench).unwrap().offsets.len(), 1);
}

#[test]
fn a_group_that_does_not_exist_knows_no_members() {
    let mut bench = Bench::new();
    let mut joined = join(&mut bench, again("a"));
    let mut synced = sync(&mut bench, "a", 1, "");
    let names = vec![MemberName { member: "a".into(), instance: None }];
    let mut left = ask(&mut bench, |r| Request::LeaveClassic(GROUP.into(), names, r));
    let commit = CommitClassic { by: identity("a", 1), ..CommitClassic::default() };
    let mut committed = ask(&mut bench, |r| Request::CommitClassic(GROUP.into(), commit, r));
    let mut deleted = ask(&mut bench, |r| Request::DeleteOffsets(GROUP.into(), Vec::new(), r));
    let mut nameless =
        ask(&mut bench, |r| Request::JoinClassic("".into(), newcomer("a"), Room::default(), r));
    bench.ack_all();
    let unknown = Error::UnknownMember;
    assert_eq!(joined.try_recv().unwrap(), Err(unknown.clone()));
    assert_eq!(synced.try_recv().unwrap(), Err(unknown.clone()));
    assert_eq!(left.try_recv().unwrap(), Ok(vec![Err(unknown.clone())]));
    assert_eq!(committed.try_recv().unwrap(), Err(Error::StaleGeneration { current: 0 }));
    assert_eq!(deleted.try_recv().unwrap(), Err(Error::UnknownGroup));
    assert_eq!(nameless.try_recv().unwrap(), Err(Error::GroupName { limit: 255 }));
    assert_eq!(heartbeat(&mut bench, "a", 1), Err(unknown));
    assert!(bench.machine.groups.is_empty() && bench.durable.is_empty());
}

#[derive(Debug, Clone)]
enum Act {
    Join(u8),
    Sync(u8),
    Drop(u8),
    Pass(u16),
    Ack(u8),
    Crash(u8, bool),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => (0u8..3).prop_map(Act::Join),
        6 => (0u8..3).prop_map(Act::Sync),
        1 => (0u8..3).prop_map(Act::Drop),
        3 => (0u16..4_000).prop_map(Act::Pass),
        8 => (1u8..4).prop_map(Act::Ack),
        1 => (0u8..4, any::<bool>()).prop_map(|(kept, snapshot)| Act::Crash(kept, snapshot)),
    ];
    proptest::collection::vec(act, 1..100)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever breaks: a generation and an assignment that a member sees are in the log at that moment, and no two
    /// assignments of one generation are ever seen by one member.
    #[test]
    fn what_a_member_sees_is_durable(acts in acts()) {
        let mut bench = Bench::new();
        let mut joins: Vec<(u8, Answer<JoinedClassic>)> = Vec::new();
        let mut syncs: Vec<(u8, Answer<Synced>)> = Vec::new();
        let mut seen: std::collections::BTreeMap<(u8, i32), Bytes> = std::collections::BTreeMap::new();
        let mut present = [0i32; 3];
        let mut written = 0u32;
        for act in acts {
            match act {
                Act::Join(m) => {
                    let known = present[usize::from(m)] > 0;
                    let request = if known { again(&format!("m{m}")) } else { newcomer(&format!("m{m}")) };
                    joins.push((m, join(&mut bench, request)));
                }
                Act::Sync(m) => {
                    written += 1;
                    let sync = SyncClassic {
                        by: identity(&format!("m{m}"), present[usize::from(m)]),
                        assignments: (0..3).map(|n| (format!("m{n}").into(), format!("{written}").into())).collect(),
                        ..SyncClassic::default()
                    };
                    let answer = ask(&mut bench, |r| Request::SyncClassic(GROUP.into(), sync, Room::default(), r));
                    syncs.push((m, answer));
                }
                Act::Drop(m) => joins.retain(|(waits, _)| *waits != m),
                Act::Pass(ms) => {
                    bench.now_ms += u64::from(ms);
                    bench.tick();
                }
                Act::Ack(entries) => bench.ack(entries.into()),
                Act::Crash(kept, snapshot) => bench.crash(kept.into(), snapshot),
            }
            let durable = bench.generations();
            joins.retain_mut(|(m, answer)| match answer.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => true,
                Ok(Ok(joined)) => {
                    present[usize::from(*m)] = joined.generation;
                    let written = durable.iter().any(|g| {
                        g.generation == joined.generation && g.members.iter().any(|r| r.member == joined.member)
                    });
                    assert!(written, "S3: {joined:?}");
                    false
                }
                Ok(Err(Error::UnknownMember)) => {
                    present[usize::from(*m)] = 0;
                    false
                }
                Ok(Err(_)) | Err(oneshot::error::TryRecvError::Closed) => false,
            });
            syncs.retain_mut(|(m, answer)| match answer.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => true,
                Ok(Ok(synced)) => {
                    let name = format!("m{m}");
                    let found = durable.iter().rev().find(|g| {
                        g.classic.as_ref().is_some_and(|c| c.assigned)
                            && g.members.iter().any(|r| {
                                *r.member == *name
                                    && r.classic.as_ref().unwrap().assignment == synced.assignment
                            })
                    });
                    let generation = found.expect("S3: an assignment that is not durable").generation;
                    let former = seen.insert((*m, generation), synced.assignment.clone());
                    assert!(former.is_none_or(|f| f == synced.assignment), "two assignments in {generation}");
                    false
                }
                Ok(Err(_)) | Err(oneshot::error::TryRecvError::Closed) => false,
            });
            // A group that is gone begins anew.
            if bench.machine.groups.is_empty() {
                seen.clear();
            }
        }
        drop((joins, syncs));
        bench.now_ms += 60_000;
        bench.tick();
        bench.ack_all();
        bench.now_ms += 60_000;
        bench.tick();
        prop_assert!(bench.machine.members == 0 && bench.machine.waiting.is_empty());
        bench.ack_all();
        prop_assert!(bench.machine.unapplied.is_empty());
    }
}
