//! What a group and a shard hold at most (docs/api.md): above, what would grow is refused, and what is there goes on.

use super::classic::{again, identity, join_at, newcomer, nobody};
use super::*;
use crate::groups::classic::{CommitClassic, Each, JoinClassic, MemberName, Protocol, SyncClassic};
use crate::groups::room::Room;

fn with_words(bytes: usize, join: JoinClassic) -> JoinClassic {
    let metadata = Bytes::from(vec![b'x'; bytes]);
    let protocols = vec![Protocol { name: "range".into(), metadata }];
    JoinClassic { protocols, ..join }
}

/// However many groups there are, what their members say and are assigned is bounded: above, newcomers are refused, and those who
/// are members go on.
#[test]
fn what_the_members_of_a_shard_say_is_bounded() {
    let mut bench = Bench::new();
    bench.machine.config.member_bytes = 100_000;
    let mut groups = 0;
    let refused = loop {
        let name = format!("g{groups}");
        let mut joined = join_at(&mut bench, &name, with_words(10_000, newcomer("a")));
        bench.ack_all();
        match joined.try_recv().unwrap() {
            Ok(_) => groups += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::GroupFull { .. }), "{refused:?}");
    assert_eq!(groups, 8, "seven eighths");
    assert_eq!(bench.machine.groups.len(), groups, "who is refused leaves nothing behind");
    // Ids that are given out count as well.
    let mut given_out = 0;
    loop {
        let two_steps = JoinClassic { two_steps: true, ..newcomer(&format!("{given_out:0100}")) };
        let mut joined = join_at(&mut bench, &format!("id{given_out}"), two_steps);
        bench.ack_all();
        match joined.try_recv().unwrap() {
            Err(Error::MemberIdRequired(_)) => given_out += 1,
            Err(Error::GroupFull { .. }) => break,
            other => panic!("{other:?}"),
        }
        assert!(given_out < 100);
    }
    // A member may say a little more, and the next owner counts the same.
    bench.crash(0, true);
    let before = bench.machine.bytes;
    assert!(before.0 > 80_000, "{before:?}");
    let mut joined = join_at(&mut bench, "g0", with_words(11_000, again("a")));
    bench.ack_all();
    assert_eq!(joined.try_recv().unwrap().unwrap().generation, 2);
    assert_eq!(bench.machine.bytes.0, before.0 + 1_000);
    // Room comes back with those who go.
    for n in 0..groups {
        let names = vec![MemberName { member: "a".into(), instance: None }];
        let _left = ask(&mut bench, |r| Request::LeaveClassic(format!("g{n}").into(), names, r));
    }
    bench.ack_all();
    assert_eq!(bench.machine.bytes, (0, 0));
}

#[test]
fn what_the_members_of_a_shard_are_assigned_is_bounded() {
    let mut bench = Bench::new();
    bench.machine.config.member_bytes = 10_000;
    let assigned = "x".repeat(4_000).leak();
    let mut fit = 0;
    for group in ["a", "b", "c"] {
        let _joined = join_at(&mut bench, group, newcomer("a"));
        let sync = SyncClassic {
            by: identity("a", 1),
            assignments: vec![("a".into(), Bytes::from_static(assigned.as_bytes()))],
            ..SyncClassic::default()
        };
        let mut synced =
            ask(&mut bench, |r| Request::SyncClassic(group.into(), sync, Room::default(), r));
        bench.ack_all();
        match synced.try_recv().unwrap() {
            Ok(_) => fit += 1,
            Err(error) => assert!(matches!(error, Error::GroupFull { .. }), "{error:?}"),
        }
    }
    assert_eq!((fit, bench.machine.bytes.1), (2, 8_000));
}

fn at(topic: &str, partition: u32, metadata: usize) -> (TopicPartition, Committed) {
    let mut one = commit(None, 5).offsets.remove(0);
    one.0 = TopicPartition { topic: topic.into(), partition };
    one.1.metadata = "x".repeat(metadata);
    one
}

fn commit_to(
    bench: &mut Bench,
    group: &str,
    offsets: Vec<(TopicPartition, Committed)>,
) -> Result<Each, Error> {
    let commit = CommitClassic { by: nobody(), retention_ms: None, offsets };
    let mut answer = ask(bench, |r| Request::CommitClassic(group.into(), commit, r));
    bench.ack_all();
    answer.try_recv().unwrap()
}

/// The limits of docs/api.md.
#[test]
fn a_group_holds_so_many_offsets() {
    let mut bench = Bench::new();
    let partitions = u32::try_from(limits::MAX_GROUP_OFFSETS).unwrap();
    let step = 10_000;
    for first in (0..partitions).step_by(step) {
        let offsets = (first..first + 10_000).map(|p| at("t", p, 0)).collect();
        commit_to(&mut bench, GROUP, offsets).unwrap();
    }
    let limit = limits::MAX_GROUP_OFFSETS;
    let refused = Err(Error::Limit { what: "the number of offsets of a group", limit });
    assert_eq!(commit_to(&mut bench, GROUP, vec![at("t", partitions, 0)]), refused);
    commit_to(&mut bench, GROUP, vec![at("t", 0, 0)]).unwrap();
    commit_to(&mut bench, "other", vec![at("t", 0, 0)]).unwrap();
    let many = (0..=10_000).map(|p| at("t", p, 0)).collect();
    assert!(commit_to(&mut bench, "other", many).is_err(), "in one commit");
}

#[test]
fn a_group_holds_so_many_bytes_of_offsets_and_goes_on_committing_where_it_stands() {
    let mut bench = Bench::new();
    let step = |first: u32| (first..first + 200).map(|p| at("t", p, 4_096)).collect::<Vec<_>>();
    let mut first = 0;
    let refused = loop {
        match commit_to(&mut bench, GROUP, step(first)) {
            Ok(_) => first += 200,
            Err(refused) => break refused,
        }
        assert!(first < 10_000);
    };
    let limit = limits::MAX_GROUP_OFFSET_BYTES;
    let what = "bytes of committed offsets of a group";
    assert_eq!(refused, Error::Limit { what, limit });
    // What grows nothing is not refused, however full the group is.
    commit_to(&mut bench, GROUP, step(0)).unwrap();
    commit_to(&mut bench, GROUP, step(first - 200)).unwrap();
}

#[test]
fn a_shard_holds_so_many_bytes_of_offsets_whatever_groups_they_are_in() {
    let mut bench = Bench::new();
    bench.machine.config.offset_bytes = 50_000;
    let mut groups = 0;
    let refused = loop {
        match commit_to(&mut bench, &format!("g{groups}"), vec![at("t", 0, 4_096)]) {
            Ok(_) => groups += 1,
            Err(refused) => break refused,
        }
        assert!(groups < 100);
    };
    let what = "bytes of committed offsets of one shard";
    assert_eq!((refused, groups), (Error::Limit { what, limit: 50_000 }, 12));
    commit_to(&mut bench, "g0", vec![at("t", 0, 4_096)]).unwrap();
    let mut deleted = ask(&mut bench, |r| Request::Delete("g0".into(), r));
    bench.ack_all();
    deleted.try_recv().unwrap().unwrap();
    commit_to(&mut bench, "new", vec![at("t", 0, 4_096)]).unwrap();
}

#[test]
fn a_shard_holds_so_many_groups_and_offsets() {
    let mut bench = Bench::new();
    let limit = caps::MAX_GROUPS_PER_SHARD;
    for n in 0..limit {
        let name: Arc<str> = format!("g{n}").into();
        bench.machine.groups.insert(name, Slot::default());
    }
    let full = || Error::Limit { what: "the number of groups of one shard", limit };
    assert_eq!(commit_to(&mut bench, "one-more", vec![at("t", 0, 0)]), Err(full()));
    let mut joined = join_at(&mut bench, "one-more", newcomer("a"));
    bench.ack_all();
    assert_eq!(joined.try_recv().unwrap().unwrap_err(), full());
    let mut joined = join_at(&mut bench, "g7", newcomer("a"));
    bench.ack_all();
    joined.try_recv().unwrap().unwrap();

    let mut bench = Bench::new();
    let limit = limits::MAX_SHARD_OFFSETS;
    bench.machine.image.pretend(limit - 1);
    commit_to(&mut bench, "g", vec![at("t", 0, 0)]).unwrap();
    let refused = Err(Error::Limit { what: "the number of offsets of one shard", limit });
    assert_eq!(commit_to(&mut bench, "h", vec![at("t", 0, 0)]), refused);
    commit_to(&mut bench, "g", vec![at("t", 0, 0)]).unwrap();
}
