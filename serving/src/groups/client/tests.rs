//! Groups across two brokers: one coordinates, the other asks it over a real socket.

use futures::FutureExt;
use geminga_proto::murmur;
use geminga_runtime::Tasks;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Endpoint, Server};

use super::*;
use crate::groups::fakes::{FakeBroker, FakeDial, FakeTopics, MemoryLogs};
use crate::groups::types::CommitBy;
use crate::rpc::peer::PeerService;

const BOUND: Duration = Duration::from_secs(20);
const SHARDS: usize = 3;

/// Serves a broker's shards; returns its connection.
async fn serve(broker: &FakeBroker, tasks: &Tasks) -> (Channel, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = Server::builder().add_service(PeerService::server(broker.shards.clone(), None));
    let cancelled = tasks.cancelled();
    tasks.spawn("server", async move {
        let incoming = TcpListenerStream::new(listener);
        // Ends at once, with all connections: a broker that is killed.
        tokio::select! {
            () = cancelled => {}
            served = server.serve_with_incoming(incoming) => served.unwrap(),
        }
    });
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    (channel, address)
}

struct Bench {
    here: FakeBroker,
    there: FakeBroker,
    server: Tasks,
    client: GroupClient,
}

/// The other broker coordinates all shards.
async fn bench() -> Bench {
    let topics = Arc::new(FakeTopics::new(&[("t", 4)]));
    let logs = MemoryLogs::new(SHARDS);
    let there = FakeBroker::start(&logs, &topics, vec![Owner::Local; SHARDS]);
    let server = Tasks::new("server");
    let (channel, address) = serve(&there, &server).await;
    let owner = Owner::Remote { broker: BrokerId(2), address };
    let here = FakeBroker::start(&logs, &topics, vec![owner; SHARDS]);
    let client = here.client(FakeDial([(BrokerId(2), channel)].into()));
    Bench { here, there, server, client }
}

fn caller(member: &str) -> Caller {
    Caller { member: member.into(), session: 5 }
}

fn join(member: &str) -> Join {
    Join {
        caller: caller(member),
        client_id: "c".to_owned(),
        topics: vec!["t".into()],
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 30_000,
    }
}

fn offsets(offset: i64) -> Vec<(TopicPartition, Committed)> {
    let tp = TopicPartition { topic: "t".into(), partition: 1 };
    let committed = Committed {
        offset,
        leader_epoch: Some(3),
        metadata: "m".to_owned(),
        committed_ms: 0,
        topic_id: None,
        expires_ms: None,
    };
    vec![(tp, committed)]
}

fn commit(generation: i32, offset: i64, sequence: u64) -> Commit {
    let by = CommitBy { caller: caller("m"), generation, sequence };
    Commit { by: Some(by), offsets: offsets(offset) }
}

async fn joined(client: &GroupClient, group: &Arc<str>, member: &str) -> i32 {
    loop {
        match client.join(group, join(member), BOUND).await.unwrap() {
            JoinAnswer::Joined(joined, _) => return joined.generation,
            JoinAnswer::Wait => {}
        }
    }
}

#[tokio::test]
async fn everything_works_one_hop_away() {
    let Bench { client, .. } = bench().await;
    let group: Arc<str> = "g".into();
    let JoinAnswer::Joined(first, none) = client.join(&group, join("m"), BOUND).await.unwrap()
    else {
        panic!("alone, a member is in the next generation at once");
    };
    assert_eq!(first.assigned[&Arc::from("t")], [0, 1, 2, 3]);
    assert_eq!(none, []);
    client.heartbeat(&group, caller("m"), first.generation, BOUND).await.unwrap();
    client.commit(&group, commit(first.generation, 10, 1), BOUND).await.unwrap();
    let stale = client.commit(&group, commit(first.generation - 1, 9, 2), BOUND).await;
    assert_eq!(stale.unwrap_err().reason, Reason::StaleGeneration);

    // The same member again is told the same place, and where to go on.
    let JoinAnswer::Joined(again, committed) = client.join(&group, join("m"), BOUND).await.unwrap()
    else {
        panic!("a member of a stable group knows its place");
    };
    assert_eq!(again, first);
    assert_eq!((committed[0].0.partition, committed[0].1.offset), (1, 10));

    let found = client.describe(&group).await.unwrap();
    assert_eq!(found.coordinator_address, "here:7070", "as the fake there calls itself");
    assert_eq!(found.members[0].client_id, "c");
    assert_eq!(client.delete(&group).await.unwrap_err().reason, Reason::GroupNotEmpty);
    let refused = client.commit_offsets(&group, offsets(1)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::GroupNotEmpty);

    client.leave(&group, caller("m"), BOUND).await.unwrap();
    client.leave(&group, caller("m"), BOUND).await.expect("who is not there has left");
    client.delete(&group).await.unwrap();
    assert_eq!(client.describe(&group).await.unwrap_err().reason, Reason::UnknownGroup);
}

#[tokio::test]
async fn a_member_taken_over_is_told_so_across_the_hop() {
    let Bench { client, .. } = bench().await;
    let group: Arc<str> = "g".into();
    let generation = joined(&client, &group, "m").await;
    let mut second = join("m");
    second.caller.session = 6;
    client.join(&group, second, BOUND).await.unwrap();
    let fenced = client.heartbeat(&group, caller("m"), generation, BOUND).await.unwrap_err();
    assert_eq!(fenced.reason, Reason::MemberFenced);
}

#[tokio::test]
async fn a_list_is_of_all_shards() {
    let Bench { client, here, .. } = bench().await;
    // Half of the shards are here: they are listed as well.
    here.placement.set(0, Owner::Local);
    let names: Vec<String> = (0..12).map(|n| format!("g{n:02}")).collect();
    let shards: std::collections::BTreeSet<u32> =
        names.iter().map(|name| murmur::bucket(name.as_bytes(), SHARDS as u32)).collect();
    assert_eq!(shards.len(), SHARDS, "the names cover every shard");
    for name in &names {
        client.commit_offsets(&name.as_str().into(), offsets(1)).await.unwrap();
    }
    let listed: Vec<String> =
        client.list().await.unwrap().into_iter().map(|group| group.group).collect();
    assert_eq!(listed, names);
}

/// The coordinator is killed; after a while this broker is assigned its shards.
#[tokio::test]
async fn a_request_follows_its_shard() {
    let Bench { client, here, there, server } = bench().await;
    let group: Arc<str> = "g".into();
    let generation = joined(&client, &group, "m").await;
    client.commit(&group, commit(generation, 10, 1), BOUND).await.unwrap();

    assert!(server.finish(BOUND).await && there.tasks.finish(BOUND).await);
    let commit = client.commit(&group, commit(generation, 11, 2), BOUND);
    tokio::pin!(commit);
    assert!(commit.as_mut().now_or_never().is_none());
    for shard in 0..SHARDS {
        here.placement.set(u32::try_from(shard).unwrap(), Owner::Local);
    }
    commit.await.unwrap();
    client.heartbeat(&group, caller("m"), generation, BOUND).await.unwrap();
    let found = client.describe(&group).await.unwrap();
    assert_eq!((found.offsets[0].offset, found.members.len()), (11, 1));
}

/// The coordinator's machine vanishes: it takes the request and never answers.
#[tokio::test]
async fn a_coordinator_that_vanished_is_not_waited_for_once_there_is_another() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let topics = Arc::new(FakeTopics::new(&[("t", 4)]));
    let owner = Owner::Remote { broker: BrokerId(2), address };
    let broker = FakeBroker::start(&MemoryLogs::new(1), &topics, vec![owner]);
    let client = broker.client(FakeDial([(BrokerId(2), channel)].into()));
    let group: Arc<str> = "g".into();
    let since = Instant::now();
    let taken = async {
        let connection = silent.accept().await.unwrap();
        broker.placement.set(0, Owner::Local);
        connection
    };
    let (committed, _connection) = tokio::join!(client.commit_offsets(&group, offsets(4)), taken);
    committed.unwrap();
    assert!(since.elapsed() < ATTEMPT / 2, "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn without_a_coordinator_the_caller_may_try_again() {
    let topics = Arc::new(FakeTopics::new(&[]));
    let broker = FakeBroker::start(&MemoryLogs::new(1), &topics, vec![Owner::Nobody]);
    let client = broker.client(FakeDial::default());
    let since = Instant::now();
    let error = client.describe(&"g".into()).await.unwrap_err();
    assert_eq!(error.reason, Reason::NotReady);
    assert!(since.elapsed() <= PATIENCE, "{:?}", since.elapsed());
}
