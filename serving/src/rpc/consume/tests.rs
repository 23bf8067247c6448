//! Streams of one broker, with partitions made up and the group's shard in memory.

use std::collections::BTreeMap;
use std::time::Duration;

use geminga_proto::v1::consume_request::Op;
use geminga_proto::v1::consume_response::Event as Say;
use tokio::time::Instant;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::rpc::fakes::FakeCluster;

const SESSION: Duration = Duration::from_secs(6);

/// A client that grants what it has taken, commits nothing by itself, and answers revocations.
struct Client {
    requests: Option<mpsc::Sender<Result<v1::ConsumeRequest, Status>>>,
    events: Taker,
    id: String,
    /// What it was assigned last: partition and start.
    assigned: BTreeMap<u32, i64>,
    generation: i32,
    read: BTreeMap<u32, Vec<i64>>,
}

fn request() -> v1::ConsumeJoin {
    v1::ConsumeJoin {
        group: "g".to_owned(),
        topics: vec!["t".to_owned()],
        member_id: String::new(),
        client_id: "test".to_owned(),
        session_timeout_ms: u32::try_from(SESSION.as_millis()).unwrap(),
        rebalance_timeout_ms: 30_000,
        offset_reset: v1::OffsetReset::Earliest.into(),
        format: v1::Format::Records.into(),
    }
}

fn op(op: Op) -> v1::ConsumeRequest {
    v1::ConsumeRequest { op: Some(op) }
}

impl Client {
    fn open(cluster: &FakeCluster) -> Self {
        let (requests, stream) = mpsc::channel(64);
        let events = consume(cluster.context(), ReceiverStream::new(stream));
        Self {
            requests: Some(requests),
            events,
            id: String::new(),
            assigned: BTreeMap::new(),
            generation: 0,
            read: BTreeMap::new(),
        }
    }

    /// A member with credit that has its first assignment.
    async fn join(cluster: &FakeCluster) -> Self {
        Self::join_with(cluster, request()).await
    }

    async fn join_with(cluster: &FakeCluster, join: v1::ConsumeJoin) -> Self {
        let mut client = Self::open(cluster);
        client.ask(Op::Join(join)).await;
        client.credit(1 << 20).await;
        client.until("an assignment", |client| client.generation > 0).await;
        client
    }

    async fn ask(&self, what: Op) {
        self.requests.as_ref().unwrap().send(Ok(op(what))).await.unwrap();
    }

    async fn credit(&self, bytes: u64) {
        self.ask(Op::Credit(v1::ConsumeCredit { bytes })).await;
    }

    /// Commits, and waits for the answer.
    async fn commit(&mut self, partition: u32, offset: i64) -> Option<v1::Error> {
        let offset = v1::CommitOffset {
            topic: "t".to_owned(),
            partition,
            offset,
            leader_epoch: None,
            metadata: String::new(),
        };
        self.ask(Op::Commit(v1::ConsumeCommit { id: 9, offsets: vec![offset] })).await;
        loop {
            if let Say::Committed(committed) = self.event().await {
                assert_eq!(committed.id, 9);
                return committed.error;
            }
        }
    }

    /// The next event, taken note of.
    async fn event(&mut self) -> Say {
        let next = tokio::time::timeout(
            Duration::from_secs(120),
            self.events.next::<v1::ConsumeResponse>(),
        );
        let event = next.await.expect("an event").expect("the stream goes on").unwrap();
        let event = event.event.unwrap();
        match &event {
            Say::Joined(joined) => self.id.clone_from(&joined.member_id),
            Say::Revoke(revoke) => {
                self.assigned.clear();
                let revoked = v1::ConsumeRevoked { generation: revoke.generation };
                self.ask(Op::Revoked(revoked)).await;
            }
            Say::Assignment(assignment) => {
                self.generation = assignment.generation;
                let starts = assignment.partitions.iter().map(|p| (p.partition, p.start_offset));
                self.assigned = starts.collect();
            }
            Say::Data(data) => {
                assert!(
                    self.assigned.contains_key(&data.partition),
                    "data of what is not assigned"
                );
                if let Some(v1::partition_data::Data::Records(records)) = &data.data {
                    let offsets = records.records.iter().map(|record| record.offset);
                    self.read.entry(data.partition).or_default().extend(offsets);
                }
            }
            Say::Committed(_) | Say::Error(_) => {}
        }
        event
    }

    async fn until(&mut self, what: &str, mut seen: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !seen(self) {
            self.event().await;
            assert!(start.elapsed() < Duration::from_secs(300), "no {what}");
        }
    }

    async fn read(&mut self, partition: u32, count: usize) -> Vec<i64> {
        self.until("records", |c| c.read.get(&partition).is_some_and(|r| r.len() >= count)).await;
        self.read[&partition].clone()
    }

    /// Departs and waits for the end of the stream.
    async fn leave(mut self) {
        self.ask(Op::Leave(v1::ConsumeLeave {})).await;
        while let Some(event) = self.events.next::<v1::ConsumeResponse>().await {
            event.unwrap();
        }
    }

    /// The error that the stream ends with.
    async fn error(mut self) -> Reason {
        loop {
            match self.events.next::<v1::ConsumeResponse>().await.expect("an error before the end")
            {
                Ok(v1::ConsumeResponse { event: Some(Say::Error(error)), .. }) => {
                    assert!(
                        self.events.next::<v1::ConsumeResponse>().await.is_none(),
                        "an error ends the stream"
                    );
                    return Reason::parse(&error.reason).unwrap();
                }
                Ok(_) => {}
                Err(status) => return ApiError::from_status(&status).reason,
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_reads_everything_and_the_next_one_goes_on_where_it_committed() {
    let cluster = FakeCluster::start().await;
    (0..4).for_each(|p| cluster.source.set(p, 0, 23));
    let mut client = Client::join(&cluster).await;
    assert!(client.id.starts_with("test-"), "{}", client.id);
    assert_eq!(client.assigned, BTreeMap::from([(0, 0), (1, 0), (2, 0), (3, 0)]));
    for partition in 0..4 {
        assert_eq!(client.read(partition, 23).await, Vec::from_iter(0..23));
    }
    // Data that is made while it waits follows.
    cluster.source.set(2, 0, 25);
    assert_eq!(client.read(2, 25).await[23..], [23, 24]);
    assert_eq!(client.commit(0, 23).await, None);
    assert_eq!(client.commit(1, 7).await, None);
    client.leave().await;

    let mut client = Client::join(&cluster).await;
    assert_eq!(client.assigned, BTreeMap::from([(0, 23), (1, 7), (2, 0), (3, 0)]));
    // A start in the middle of a batch.
    assert_eq!(client.read(1, 16).await, Vec::from_iter(7..23));
}

#[tokio::test(start_paused = true)]
async fn members_share_and_inherit_what_a_dead_one_had() {
    let cluster = FakeCluster::start().await;
    (0..4).for_each(|p| cluster.source.set(p, 0, 10));
    let mut first = Client::join(&cluster).await;
    assert_eq!(first.assigned.len(), 4);
    let joins = Client::join(&cluster);
    let shares = first.until("a smaller share", |c| c.assigned.len() == 2);
    let (mut second, ()) = tokio::join!(joins, shares);
    assert_eq!(second.assigned.len(), 2);
    assert!(second.assigned.keys().all(|p| !first.assigned.contains_key(p)));
    assert_eq!(first.generation, second.generation);

    // What the dead one has committed is not read again.
    let (&partition, _) = first.assigned.first_key_value().unwrap();
    assert_eq!(first.commit(partition, 8).await, None);
    let since = Instant::now();
    drop(first);
    second.until("all of it", |c| c.assigned.len() == 4).await;
    let waited = since.elapsed();
    assert!(waited > SESSION / 2 && waited < SESSION * 2, "{waited:?}");
    assert_eq!(second.assigned[&partition], 8);
}

#[tokio::test(start_paused = true)]
async fn a_departure_is_known_at_once() {
    let cluster = FakeCluster::start().await;
    let mut first = Client::join(&cluster).await;
    let shares = first.until("a smaller share", |c| c.assigned.len() == 2);
    let (second, ()) = tokio::join!(Client::join(&cluster), shares);
    let since = Instant::now();
    let all = first.until("all of it", |c| c.assigned.len() == 4);
    tokio::join!(second.leave(), all);
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_broken_stream_is_resumed_by_the_member_id() {
    let cluster = FakeCluster::start().await;
    let mut other = Client::join(&cluster).await;
    let shares = other.until("a smaller share", |c| c.assigned.len() == 2);
    let (mut client, ()) = tokio::join!(Client::join(&cluster), shares);
    let (&partition, _) = client.assigned.first_key_value().unwrap();
    cluster.source.set(partition, 0, 20);
    client.read(partition, 20).await;
    let (id, generation, assigned) =
        (client.id.clone(), client.generation, client.assigned.clone());
    drop(client);

    // What was read before the stream broke is committed by the one that follows.
    let mut client = Client::open(&cluster);
    client.ask(Op::Join(v1::ConsumeJoin { member_id: id.clone(), ..request() })).await;
    assert_eq!(client.commit(partition, 20).await, None);
    client.until("its assignment", |c| c.generation > 0).await;
    assert_eq!((&client.id, client.generation), (&id, generation));
    let partitions = |assigned: &BTreeMap<u32, i64>| assigned.keys().copied().collect::<Vec<_>>();
    assert_eq!(partitions(&client.assigned), partitions(&assigned));
    let unmoved =
        tokio::time::timeout(SESSION * 3, other.events.next::<v1::ConsumeResponse>()).await;
    assert!(unmoved.is_err(), "the group did not rebalance: {unmoved:?}");
    let offsets = cluster.groups.describe(&"g".into()).await.unwrap().offsets;
    assert_eq!((offsets[0].partition, offsets[0].offset), (partition, 20));
}

#[tokio::test(start_paused = true)]
async fn a_second_stream_of_a_member_ends_the_first() {
    let cluster = FakeCluster::start().await;
    let first = Client::join(&cluster).await;
    let join = v1::ConsumeJoin { member_id: first.id.clone(), ..request() };
    let mut second = Client::join_with(&cluster, join).await;
    assert_eq!(second.assigned.len(), 4);
    assert_eq!(first.error().await, Reason::UnknownMember);
    assert_eq!(second.commit(0, 0).await, None, "the first did not take it back");
}

#[tokio::test(start_paused = true)]
async fn the_credit_is_never_exceeded_by_more_than_one_record() {
    let cluster = FakeCluster::start().await;
    (0..4).for_each(|p| cluster.source.set(p, 0, 100));
    let mut client = Client::open(&cluster);
    client.ask(Op::Join(request())).await;
    client.until("an assignment", |c| c.generation > 0).await;
    let (mut granted, mut taken) = (0, 0);
    for grant in [1, 30, 100, 1_000] {
        granted += grant;
        client.credit(grant).await;
        let quiet = Duration::from_secs(10);
        while let Ok(event) = tokio::time::timeout(quiet, client.event()).await {
            let Say::Data(data) = event else { continue };
            let Some(v1::partition_data::Data::Records(records)) = data.data else { panic!() };
            taken += prost::Message::encoded_len(&records) as u64;
        }
        assert!(taken >= granted && taken < granted + 30, "granted {granted}, taken {taken}");
    }
    for offsets in client.read.values() {
        assert_eq!(*offsets, Vec::from_iter(0..i64::try_from(offsets.len()).unwrap()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_pauses_and_seeks() {
    let cluster = FakeCluster::start().await;
    let mut client = Client::join(&cluster).await;
    let pause =
        |paused| Op::Pause(v1::ConsumePause { topic: "t".to_owned(), partition: 0, paused });
    client.ask(pause(true)).await;
    // Answered: so the pause was taken before.
    client.commit(0, 0).await;
    cluster.source.set(0, 0, 10);
    cluster.source.set(1, 0, 10);
    client.read(1, 10).await;
    let silent = tokio::time::timeout(Duration::from_secs(10), client.event()).await;
    assert!(silent.is_err() && !client.read.contains_key(&0), "{silent:?}");
    client.ask(pause(false)).await;
    client.read(0, 10).await;
    let seek = v1::ConsumeSeek { topic: "t".to_owned(), partition: 1, offset: 3 };
    client.ask(Op::Seek(seek)).await;
    assert_eq!(client.read(1, 17).await[10..], [3, 4, 5, 6, 7, 8, 9]);
}

#[tokio::test(start_paused = true)]
async fn partitions_and_coordinators_that_go_and_come_back_lose_and_repeat_nothing() {
    let cluster = FakeCluster::start().await;
    let mut client = Client::join(&cluster).await;
    for round in 1..20i64 {
        cluster.source.set_broken(0, round % 3 == 0);
        if round % 4 == 0 {
            cluster.logs.0[0].depose();
        }
        (0..4).for_each(|p| cluster.source.set(p, 0, round * 7));
        let read = client.read(1, usize::try_from(round * 7).unwrap()).await;
        assert_eq!(client.commit(1, i64::try_from(read.len()).unwrap()).await, None);
    }
    cluster.source.set_broken(0, false);
    for partition in 0..4 {
        assert_eq!(client.read(partition, 133).await, Vec::from_iter(0..133));
    }
    assert_eq!(client.generation, 1, "nothing of this is a rebalance");
}

#[tokio::test(start_paused = true)]
async fn records_that_are_gone_are_passed_over_as_the_client_said() {
    let cluster = FakeCluster::start().await;
    cluster.source.set(0, 0, 10);
    let mut client = Client::join(&cluster).await;
    client.read(0, 10).await;
    cluster.source.set(0, 50, 60);
    assert_eq!(client.read(0, 20).await[10..], Vec::from_iter(50..60));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_read_is_told_and_a_broken_connection_is_no_departure() {
    let cluster = FakeCluster::start().await;
    let client = Client::join(&cluster).await;
    let garbage = Err(Status::internal("failed to decode Protobuf message"));
    client.requests.as_ref().unwrap().send(garbage).await.unwrap();
    assert_eq!(client.error().await, Reason::InvalidRequest);

    let client = Client::join(&cluster).await;
    let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    let reset = Err(Status::from_error(Box::new(reset)));
    client.requests.as_ref().unwrap().send(reset).await.unwrap();
    drop(client);
    let group = cluster.groups.describe(&"g".into()).await.unwrap();
    assert_eq!(group.members.len(), 1, "its session timeout runs");
}

#[tokio::test(start_paused = true)]
async fn latest_starts_at_the_end_and_none_needs_a_commit() {
    let cluster = FakeCluster::start().await;
    cluster.source.set(3, 0, 42);
    let with = |reset: v1::OffsetReset| v1::ConsumeJoin { offset_reset: reset.into(), ..request() };
    let client = Client::join_with(&cluster, with(v1::OffsetReset::Latest)).await;
    assert_eq!(client.assigned[&3], 42);
    client.leave().await;

    let client = Client::open(&cluster);
    client.ask(Op::Join(with(v1::OffsetReset::None))).await;
    assert_eq!(client.error().await, Reason::OffsetOutOfRange);
    // It departed, so that nobody waits for it.
    let refused = cluster.groups.describe(&"g".into()).await.unwrap_err();
    assert_eq!(refused.reason, Reason::UnknownGroup);
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_refused() {
    let cluster = FakeCluster::start().await;
    let client = Client::open(&cluster);
    client.credit(1).await;
    assert_eq!(client.error().await, Reason::InvalidRequest);

    let client = Client::open(&cluster);
    let topics = vec!["t".to_owned(), "u".to_owned()];
    client.ask(Op::Join(v1::ConsumeJoin { topics, ..request() })).await;
    assert_eq!(client.error().await, Reason::UnknownTopic);

    let client = Client::open(&cluster);
    client.ask(Op::Join(v1::ConsumeJoin { session_timeout_ms: 1, ..request() })).await;
    assert_eq!(client.error().await, Reason::InvalidRequest);

    let client = Client::join(&cluster).await;
    client.ask(Op::Join(request())).await;
    assert_eq!(client.error().await, Reason::InvalidRequest);
}

#[tokio::test(start_paused = true)]
async fn batches_are_passed_on_as_they_are() {
    let cluster = FakeCluster::start().await;
    cluster.source.set(0, 0, 12);
    let join = v1::ConsumeJoin { format: v1::Format::Batches.into(), ..request() };
    let mut client = Client::join_with(&cluster, join).await;
    let mut offsets = Vec::new();
    while offsets.len() < 12 {
        let Say::Data(data) = client.event().await else { continue };
        let Some(v1::partition_data::Data::Batches(bytes)) = data.data else { panic!() };
        for batch in geminga_records::split(bytes) {
            let records = geminga_records::decode(&batch.unwrap(), 1 << 20).unwrap();
            offsets.extend(records.iter().map(|record| record.offset));
        }
        assert_eq!(data.next_offset, *offsets.last().unwrap() + 1);
    }
    assert_eq!(offsets, Vec::from_iter(0..12));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_nothing_more_to_say_reads_on() {
    let cluster = FakeCluster::start().await;
    let mut client = Client::join(&cluster).await;
    client.requests = None;
    cluster.source.set(0, 0, 5);
    client.read(0, 5).await;
    tokio::time::sleep(SESSION * 3).await;
    cluster.source.set(0, 0, 9);
    assert_eq!(client.read(0, 9).await, Vec::from_iter(0..9));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_shuts_down_says_so_and_keeps_the_member() {
    let cluster = FakeCluster::start().await;
    let client = Client::join(&cluster).await;
    let (ended, reason) = tokio::join!(cluster.tasks.finish(SESSION), client.error());
    assert!(ended);
    assert_eq!(reason, Reason::ShuttingDown);
    let group = cluster.groups.describe(&"g".into()).await.unwrap();
    assert_eq!(group.members.len(), 1, "it resumes elsewhere");
}

/// A client that takes nothing is still a member, and costs no more than its queue.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_stays_a_member() {
    let cluster = FakeCluster::start().await;
    let mut client = Client::join(&cluster).await;
    (0..4).for_each(|p| cluster.source.set(p, 0, 1_000));
    client.credit(u64::MAX).await;
    tokio::time::sleep(SESSION * 5).await;
    let group = cluster.groups.describe(&"g".into()).await.unwrap();
    assert_eq!(group.members.len(), 1);
    assert_eq!(client.read(0, 1_000).await, Vec::from_iter(0..1_000));
}
