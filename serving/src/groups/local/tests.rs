//! Classic members at their coordinator: who is asked, who else would have to be, and what a member keeps when its
//! coordinator dies.

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::groups::classic::Protocol;
use crate::groups::fakes::{FakeBroker, FakeTopics, MemoryLogs};
use crate::groups::types::Committed;

const AWAY: &str = "there:7070";

fn elsewhere() -> Owner {
    Owner::Remote { broker: BrokerId(9), address: AWAY.to_owned() }
}

struct Bench {
    logs: MemoryLogs,
    topics: Arc<FakeTopics>,
    group: Arc<str>,
}

impl Bench {
    fn new() -> Self {
        let topics = Arc::new(FakeTopics::new(&[("t", 4)]));
        Self { logs: MemoryLogs::new(1), topics, group: "g".into() }
    }

    fn broker(&self, owner: Owner) -> (FakeBroker, LocalGroups) {
        let broker = FakeBroker::start(&self.logs, &self.topics, vec![owner]);
        let groups = LocalGroups::new(broker.shards.clone());
        (broker, groups)
    }

    /// Asks as long as the shard is being opened.
    async fn beat(&self, groups: &LocalGroups, id: &str, generation: i32) -> Result<(), Refused> {
        loop {
            match groups.heartbeat(&self.group, identity(id, generation)).await {
                Err(Refused::Loading | Refused::Moved) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                answer => return answer,
            }
        }
    }
}

fn identity(id: &str, generation: i32) -> Identity {
    let name = MemberName { member: id.into(), instance: None };
    Identity { name, generation }
}

fn newcomer(fresh: &str) -> JoinClassic {
    JoinClassic {
        name: MemberName::default(),
        fresh: fresh.into(),
        client_id: String::new(),
        client_host: String::new(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![Protocol { name: "range".into(), metadata: Bytes::from_static(b"r") }],
        two_steps: false,
        may_skip: false,
    }
}

fn again(id: &str) -> JoinClassic {
    let name = MemberName { member: id.into(), instance: None };
    JoinClassic { name, ..newcomer("unused") }
}

fn sync(id: &str, generation: i32) -> SyncClassic {
    SyncClassic {
        by: identity(id, generation),
        assignments: vec![(id.into(), Bytes::from_static(b"mine"))],
        ..SyncClassic::default()
    }
}

#[tokio::test(start_paused = true)]
async fn members_keep_their_assignment_when_their_coordinator_is_killed() {
    let bench = Bench::new();
    let ((a, there), (b, here)) = (bench.broker(Owner::Local), bench.broker(elsewhere()));
    assert_eq!(bench.beat(&there, "m", 1).await, Err(Error::UnknownMember.into()));
    let joined = there.join(&bench.group, newcomer("m"), 100).await.unwrap();
    let synced = there.sync(&bench.group, sync("m", joined.generation), 100).await.unwrap();
    assert_eq!(&synced.assignment[..], b"mine");

    a.tasks.cancel();
    bench.logs.0[0].depose();
    b.placement.set(0, Owner::Local);
    assert_eq!(bench.beat(&here, "m", joined.generation).await, Ok(()));
    let synced = here.sync(&bench.group, sync("m", joined.generation), 100).await.unwrap();
    assert_eq!(&synced.assignment[..], b"mine");
    assert_eq!(here.describe(&bench.group).await.unwrap().summary.generation, 1, "no rebalance");
}

#[tokio::test(start_paused = true)]
async fn who_else_coordinates_is_said() {
    let bench = Bench::new();
    let (broker, groups) = bench.broker(elsewhere());
    let refused = Refused::NotCoordinator { broker: BrokerId(9), address: AWAY.to_owned() };
    assert_eq!(groups.find("g"), Some(BrokerId(9)));
    assert_eq!(groups.heartbeat(&bench.group, identity("m", 1)).await, Err(refused.clone()));
    assert_eq!(groups.join(&bench.group, newcomer("m"), 100).await, Err(refused));
    assert_eq!(groups.list().await, Ok(Vec::new()), "others list it");
    broker.placement.set(0, Owner::Nobody);
    assert_eq!(groups.find("g"), None);
    assert_eq!(groups.heartbeat(&bench.group, identity("m", 1)).await, Err(Refused::Nobody));
    bench.logs.0[0].set_unavailable(true);
    broker.placement.set(0, Owner::Local);
    assert_eq!(groups.find("g"), Some(BrokerId(1)));
    assert_eq!(groups.heartbeat(&bench.group, identity("m", 1)).await, Err(Refused::Loading));
    assert_eq!(groups.list().await, Err(Refused::Loading), "part would pass for the whole");
}

/// S2: nothing proves that a shard which is lost and cannot be opened is still this broker's.
#[tokio::test(start_paused = true)]
async fn a_shard_that_does_not_come_back_is_not_said_to_be_loading_for_long() {
    let bench = Bench::new();
    let (_broker, groups) = bench.broker(Owner::Local);
    let _ = bench.beat(&groups, "m", 1).await;
    groups.join(&bench.group, newcomer("m"), 100).await.unwrap();
    bench.logs.0[0].set_unavailable(true);
    bench.logs.0[0].depose();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let beat = || groups.heartbeat(&bench.group, identity("m", 1));
    assert_eq!(beat().await, Err(Refused::Loading));
    assert_eq!(groups.find("g"), Some(BrokerId(1)));
    // It is tried again and again meanwhile.
    let shortest = u64::from(crate::groups::limits::MIN_CLASSIC_SESSION_TIMEOUT_MS);
    tokio::time::sleep(Duration::from_millis(shortest - 500)).await;
    assert_eq!(beat().await, Err(Refused::Unproved));
    assert_eq!(groups.find("g"), None, "clients are to find another");
    bench.logs.0[0].set_unavailable(false);
    assert_eq!(loaded(beat).await, Ok(()), "it is still a member");
    assert_eq!(groups.find("g"), Some(BrokerId(1)));
    // Lost once more: its time begins anew.
    bench.logs.0[0].set_unavailable(true);
    bench.logs.0[0].depose();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(beat().await, Err(Refused::Loading));
}

/// The answer once the shard is there.
async fn loaded<F: Future<Output = Result<(), Refused>>>(
    beat: impl Fn() -> F,
) -> Result<(), Refused> {
    loop {
        match beat().await {
            Err(Refused::Loading | Refused::Unproved) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            answer => return answer,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_is_not_said_to_be_loading_beyond_the_lease() {
    let bench = Bench::new();
    let (broker, groups) = bench.broker(Owner::Local);
    let _ = bench.beat(&groups, "m", 1).await;
    broker.placement.lose_the_store();
    let beat = || groups.heartbeat(&bench.group, identity("m", 1));
    assert_eq!(
        beat().await,
        Err(Error::UnknownMember.into()),
        "what the log proves needs no lease"
    );
    bench.logs.0[0].set_unavailable(true);
    bench.logs.0[0].depose();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(beat().await, Err(Refused::Unproved));
}

/// A client has one heartbeat on its way and sends the next one after the answer.
#[tokio::test(start_paused = true)]
async fn nobody_is_expelled_for_waiting_for_a_log_that_stalls() {
    let bench = Bench::new();
    let (_broker, groups) = bench.broker(Owner::Local);
    let _ = bench.beat(&groups, "m", 1).await;
    groups.join(&bench.group, newcomer("m"), 100).await.unwrap();
    groups.sync(&bench.group, sync("m", 1), 100).await.unwrap();
    tokio::time::sleep(Duration::from_secs(9)).await;
    bench.logs.0[0].pause(true);
    let beat = || groups.heartbeat(&bench.group, identity("m", 1));
    {
        let mut waiting = Box::pin(beat());
        let stalled = tokio::time::timeout(Duration::from_secs(25), &mut waiting).await;
        assert!(stalled.is_err(), "S2");
        bench.logs.0[0].pause(false);
        assert_eq!(waiting.await, Ok(()));
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(beat().await, Ok(()), "its next one is in time");
    tokio::time::sleep(Duration::from_millis(10_001)).await;
    assert_eq!(beat().await, Err(Error::UnknownMember.into()), "silence still ends a membership");
}

/// What is large and waits is counted, and what is more is refused at once.
#[tokio::test(start_paused = true)]
async fn large_requests_wait_within_a_bound() {
    use futures::FutureExt;
    const LARGE: usize = 4 * 1024 * 1024;
    let bench = Bench::new();
    let (_broker, groups) = bench.broker(Owner::Local);
    let _ = bench.beat(&groups, "m", 1).await;
    bench.logs.0[0].pause(true);
    // Commits keep their room until they are answered.
    let commit = || CommitClassic {
        by: Identity { generation: -1, ..Identity::default() },
        ..CommitClassic::default()
    };
    let mut accepted: Vec<_> =
        (0..4).map(|_| Box::pin(groups.commit(&bench.group, commit(), LARGE))).collect();
    for commit in &mut accepted {
        assert!(commit.now_or_never().is_none());
    }
    let join = |fresh: &str, bytes| Box::pin(groups.join(&bench.group, newcomer(fresh), bytes));
    let mut large: Vec<_> = (0..6).map(|n| join(&format!("large-{n}"), LARGE)).collect();
    let refused = large.iter_mut().filter_map(|join| join.now_or_never());
    let refused: Vec<_> = refused.map(Result::unwrap_err).collect();
    assert_eq!(refused, [Refused::Busy, Refused::Busy], "four of them wait");
    let mut sync = Box::pin(groups.sync(&bench.group, sync("m", 1), LARGE));
    assert_eq!((&mut sync).now_or_never(), Some(Err(Refused::Busy)));
    assert!(join("small", 4_000).now_or_never().is_none(), "it waits");
    bench.logs.0[0].pause(false);
    drop(large);
    for commit in accepted {
        commit.await.unwrap();
    }
    assert_eq!(
        groups.sync(&bench.group, sync_of_nobody(), LARGE).await,
        Err(Error::UnknownMember.into())
    );
}

fn sync_of_nobody() -> SyncClassic {
    sync("nobody", 1)
}

#[tokio::test(start_paused = true)]
async fn a_join_that_nobody_waits_for_does_not_hold_up_the_others() {
    let bench = Bench::new();
    let (_broker, groups) = bench.broker(Owner::Local);
    let _ = bench.beat(&groups, "m", 1).await;
    groups.join(&bench.group, newcomer("m"), 100).await.unwrap();
    groups.sync(&bench.group, sync("m", 1), 100).await.unwrap();
    let lost = groups.join(&bench.group, newcomer("lost"), 100);
    let waited = Duration::from_millis(100);
    assert!(tokio::time::timeout(waited, lost).await.is_err(), "m has not joined yet");
    let joined = groups.join(&bench.group, again("m"), 100).await.unwrap();
    assert_eq!((joined.generation, joined.members.len()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn offsets_are_committed_fetched_and_forgotten() {
    let bench = Bench::new();
    let (_broker, groups) = bench.broker(Owner::Local);
    let _ = bench.beat(&groups, "m", 1).await;
    let tp = TopicPartition { topic: "t".into(), partition: 1 };
    let committed = Committed {
        offset: 7,
        leader_epoch: Some(2),
        metadata: "mine".to_owned(),
        committed_ms: 0,
        topic_id: None,
        expires_ms: None,
    };
    let commit = CommitClassic {
        by: Identity { generation: -1, ..Identity::default() },
        retention_ms: None,
        offsets: vec![(tp.clone(), committed)],
    };
    assert_eq!(groups.commit(&bench.group, commit, 100).await, Ok(vec![Ok(())]));
    let fetched =
        groups.fetch_offsets(&bench.group, Some(vec![tp.clone()]), 1 << 20).await.unwrap();
    let Fetched::These(fetched, _) = fetched else { panic!() };
    let found = &fetched[0].1;
    assert_eq!((found.offset, found.leader_epoch, &*found.metadata), (7, Some(2), "mine"));
    let [listed] = &groups.list().await.unwrap()[..] else { panic!() };
    assert_eq!((&*listed.group, listed.kind), ("g", None));
    assert_eq!(groups.delete_offsets(&bench.group, vec![tp.clone()]).await, Ok(vec![Ok(())]));
    let fetched = groups.fetch_offsets(&bench.group, Some(vec![tp]), 1 << 20).await.unwrap();
    assert_eq!(fetched, Fetched::These(Vec::new(), 0));
    assert_eq!(groups.delete(&bench.group).await, Ok(()));
    assert_eq!(groups.delete(&bench.group).await, Err(Error::UnknownGroup.into()));
}
