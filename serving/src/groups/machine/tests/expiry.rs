//! Offsets that are forgotten: of nobody, of deleted topics, and when the commit said so.

use super::*;
use crate::groups::classic::{CommitClassic, Identity};
use crate::groups::fakes::CONFIG;

const DAY_MS: i64 = CONFIG.offsets_retention_ms;

impl Bench {
    /// Lets both clocks run, and the walks be walked.
    fn age(&mut self, ms: i64) {
        self.ack_all();
        let until_ms = self.now_ms + u64::try_from(ms).unwrap();
        let start_ms = self.clock.now_ms();
        let start = self.now_ms;
        while let Some(at) = self.machine.next_deadline().filter(|at| *at <= until_ms) {
            self.now_ms = self.now_ms.max(at);
            self.clock.set(start_ms + i64::try_from(self.now_ms - start).unwrap());
            let mut out = Output::default();
            self.machine.tick(self.now_ms, &mut out);
            self.take(out);
            self.ack_all();
        }
        self.now_ms = until_ms;
        self.clock.set(start_ms + ms);
    }

    fn offsets(&self) -> usize {
        self.machine.image.offsets()
    }
}

fn commit_alone(bench: &mut Bench) {
    let _done = ask(bench, |r| Request::Commit(GROUP.into(), commit(None, 42), r));
    bench.ack_all();
    assert_eq!(bench.offsets(), 1);
}

#[test]
fn what_nobody_ever_read_is_forgotten_by_its_age_and_the_group_with_it() {
    let mut bench = Bench::new();
    bench.machine.replayed(0);
    commit_alone(&mut bench);
    bench.age(DAY_MS - 1_000);
    assert_eq!(bench.offsets(), 1);
    bench.age(3_600_000);
    assert_eq!(bench.offsets(), 0);
    assert_eq!(describe(&mut bench), Err(Error::UnknownGroup));
    bench.crash(0, false);
    assert_eq!(describe(&mut bench), Err(Error::UnknownGroup), "for good");
}

#[test]
fn what_members_read_is_kept_and_ages_from_when_they_went() {
    let mut bench = Bench::new();
    bench.machine.replayed(0);
    commit_alone(&mut bench);
    let _joined = ask(&mut bench, |r| Request::Join(GROUP.into(), join(1), r));
    for _ in 0..DAY_MS / 2_000 {
        bench.age(4_000);
        let _joined = ask(&mut bench, |r| Request::Join(GROUP.into(), join(1), r));
    }
    assert_eq!(bench.offsets(), 1, "two days old, and in use");
    let _left = ask(&mut bench, |r| Request::Leave(GROUP.into(), caller(1), r));
    bench.age(DAY_MS - 1_000);
    assert_eq!(bench.offsets(), 1);
    bench.age(3_600_000);
    assert_eq!(bench.offsets(), 0);
}

#[test]
fn a_commit_may_say_how_long_it_is_kept() {
    let mut bench = Bench::new();
    bench.machine.replayed(0);
    let by = Identity { generation: -1, ..Identity::default() };
    let offsets = commit(None, 42).offsets;
    let commit = CommitClassic { by, retention_ms: Some(60_000), offsets };
    let _done = ask(&mut bench, |r| Request::CommitClassic(GROUP.into(), commit, r));
    bench.age(30_000);
    assert_eq!(bench.offsets(), 1);
    bench.age(3_600_000);
    assert_eq!(bench.offsets(), 0);
}

#[test]
fn offsets_go_with_their_topic_but_not_with_a_moment_of_ignorance() {
    let mut bench = Bench::new();
    bench.machine.replayed(0);
    commit_alone(&mut bench);
    let facts = bench.topics.topic("t").unwrap();
    bench.topics.delete("t");
    bench.machine.world_changed(bench.now_ms);
    bench.age(31_000);
    assert_eq!(bench.offsets(), 1, "seen missing once");
    bench.topics.restore("t", facts);
    bench.age(3_600_000);
    assert_eq!(bench.offsets(), 1);
    bench.topics.delete("t");
    bench.machine.world_changed(bench.now_ms);
    bench.age(120_000);
    assert_eq!(bench.offsets(), 0);
}

/// A broker may miss a topic for long: its watch stands still, or a newer broker has written it.
#[test]
fn offsets_stay_while_the_store_has_their_topic() {
    let mut bench = Bench::new();
    bench.machine.replayed(0);
    commit_alone(&mut bench);
    bench.topics.hide("t");
    bench.machine.world_changed(bench.now_ms);
    bench.age(3_600_000);
    assert_eq!(bench.offsets(), 1);
}

#[test]
fn nothing_newer_is_forgotten_by_mistake() {
    let mut bench = Bench::new();
    bench.machine.replayed(0);
    commit_alone(&mut bench);
    bench.clock.set(bench.clock.now_ms() + 2 * DAY_MS);
    // A new commit is on its way when the walk comes by.
    let _done = ask(&mut bench, |r| Request::Commit(GROUP.into(), commit(None, 43), r));
    bench.now_ms += 3_600_000;
    bench.tick();
    bench.ack_all();
    assert_eq!(bench.offsets(), 1);
}

#[test]
fn many_groups_are_walked_in_stretches() {
    let mut bench = Bench::new();
    bench.machine.replayed(0);
    for n in 0..3 * TICK_GROUPS + 1 {
        let name: Arc<str> = format!("g{n:04}").into();
        let _done = ask(&mut bench, |r| Request::Commit(name, commit(None, 42), r));
    }
    bench.ack_all();
    bench.age(2 * DAY_MS);
    assert_eq!((bench.offsets(), bench.machine.groups.len()), (0, 0));
}

#[test]
fn deleted_offsets_are_gone_and_an_empty_group_with_them() {
    let mut bench = Bench::new();
    bench.machine.replayed(0);
    commit_alone(&mut bench);
    let tp = TopicPartition { topic: "t".into(), partition: 0 };
    let mut deleted = ask(&mut bench, |r| Request::DeleteOffsets(GROUP.into(), vec![tp], r));
    bench.ack_all();
    assert_eq!(deleted.try_recv().unwrap(), Ok(vec![Ok(())]));
    assert_eq!(describe(&mut bench).unwrap().offsets, []);
    bench.age(31_000);
    assert_eq!(describe(&mut bench), Err(Error::UnknownGroup));
}

#[test]
fn deletions_are_bounded() {
    let mut bench = Bench::new();
    commit_alone(&mut bench);
    let tp = |partition| TopicPartition { topic: "t".into(), partition };
    let many = (0..=u32::try_from(limits::MAX_COMMIT_OFFSETS).unwrap()).map(tp).collect();
    let impossible = vec![TopicPartition { topic: "t".repeat(250).into(), partition: 0 }];
    for offsets in [many, impossible] {
        let mut deleted = ask(&mut bench, |r| Request::DeleteOffsets(GROUP.into(), offsets, r));
        bench.ack_all();
        assert!(deleted.try_recv().unwrap().is_err());
    }
    assert_eq!(bench.durable.len(), 1);
}
