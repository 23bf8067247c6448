//! Brokers that share logs in memory and disagree about who owns them only as far as the test says.

use geminga_proto::ids::BrokerId;
use geminga_proto::reason::Reason;

use super::*;
use crate::groups::client::GroupClient;
use crate::groups::fakes::{FakeBroker, FakeDial, FakeTopics, MemoryLogs};
use crate::groups::types::{Committed, TopicPartition};

const AWAY: &str = "there:7070";

fn elsewhere() -> Owner {
    Owner::Remote { broker: BrokerId(9), address: AWAY.to_owned() }
}

fn at(partition: u32, offset: i64) -> Vec<(TopicPartition, Committed)> {
    let tp = TopicPartition { topic: "t".into(), partition };
    let committed = Committed {
        offset,
        leader_epoch: None,
        metadata: String::new(),
        committed_ms: 0,
        topic_id: None,
        expires_ms: None,
    };
    vec![(tp, committed)]
}

async fn committed(client: &GroupClient) -> Vec<(u32, i64)> {
    let group = client.describe(&"g".into()).await.unwrap();
    group.offsets.iter().map(|o| (o.partition, o.offset)).collect()
}

struct Bench {
    logs: MemoryLogs,
    topics: Arc<FakeTopics>,
}

impl Bench {
    fn new() -> Self {
        Self { logs: MemoryLogs::new(1), topics: Arc::new(FakeTopics::new(&[("t", 4)])) }
    }

    fn broker(&self, owner: Owner) -> FakeBroker {
        FakeBroker::start(&self.logs, &self.topics, vec![owner])
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_owner_has_everything_and_the_former_names_it() {
    let bench = Bench::new();
    let (a, b) = (bench.broker(Owner::Local), bench.broker(elsewhere()));
    let client = a.client(FakeDial::default());
    client.commit_offsets(&"g".into(), at(0, 7)).await.unwrap();

    a.placement.set(0, elsewhere());
    b.placement.set(0, Owner::Local);
    let there = b.client(FakeDial::default());
    assert_eq!(committed(&there).await, [(0, 7)]);

    let refused = a.shards.ask(0, 0, Request::List).await.unwrap_err();
    assert_eq!((refused.reason, refused.owner_address.as_deref()), (Reason::NotOwner, Some(AWAY)));
}

#[tokio::test(start_paused = true)]
async fn a_shard_is_ready_before_anybody_asks() {
    let bench = Bench::new();
    let broker = bench.broker(Owner::Local);
    tokio::time::advance(Duration::from_millis(1)).await;
    for _ in 0..32 {
        tokio::task::yield_now().await;
    }
    assert_eq!(broker.shards.ready(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_cannot_be_opened_is_not_ready_and_opens_later() {
    let bench = Bench::new();
    bench.logs.0[0].set_unavailable(true);
    let broker = bench.broker(Owner::Local);
    let client = broker.client(FakeDial::default());
    let refused = client.describe(&"g".into()).await.unwrap_err();
    assert_eq!(refused.reason, Reason::NotReady);

    bench.logs.0[0].set_unavailable(false);
    client.commit_offsets(&"g".into(), at(1, 3)).await.unwrap();
    assert_eq!(committed(&client).await, [(1, 3)]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_log_is_opened_again_with_all_that_was_acknowledged() {
    let bench = Bench::new();
    let broker = bench.broker(Owner::Local);
    let client = broker.client(FakeDial::default());
    client.commit_offsets(&"g".into(), at(0, 1)).await.unwrap();
    for round in 2..6 {
        bench.logs.0[0].depose();
        client.commit_offsets(&"g".into(), at(0, round)).await.unwrap();
        assert_eq!(committed(&client).await, [(0, round)]);
    }
}

/// S2: the former owner, which has not heard of the change, says nothing at all.
#[tokio::test(start_paused = true)]
async fn an_owner_that_was_deposed_unnoticed_answers_nothing() {
    let bench = Bench::new();
    let a = bench.broker(Owner::Local);
    let client = a.client(FakeDial::default());
    client.commit_offsets(&"g".into(), at(0, 1)).await.unwrap();
    bench.logs.0[0].pause(true);
    let (zombie, ask) = (a.shards.clone(), |to| Request::Describe("g".into(), to));
    let answer = a.tasks.spawn("asks", async move { zombie.ask(0, 0, ask).await.map(|_| ()) });
    tokio::time::advance(Duration::from_millis(10)).await;

    bench.logs.0[0].depose();
    let unproved = answer.await.unwrap().unwrap().unwrap_err();
    assert_eq!(unproved.reason, Reason::Unknown);
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_every_shard() {
    let bench = Bench::new();
    let broker = bench.broker(Owner::Local);
    let client = broker.client(FakeDial::default());
    client.commit_offsets(&"g".into(), at(0, 1)).await.unwrap();
    assert!(broker.tasks.finish(Duration::from_secs(1)).await);
    assert_eq!(broker.shards.ready(), 0);
}
