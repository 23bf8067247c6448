//! Members of groups, over their coordinator's death.

use super::*;

/// One consumer's stream.
pub(super) struct Consumer {
    requests: mpsc::Sender<v1::ConsumeRequest>,
    pub(super) events: Streaming<v1::ConsumeResponse>,
}

impl Consumer {
    pub(super) async fn join(node: &Node, group: &str, topic: &str) -> Self {
        let (requests, stream) = mpsc::channel(16);
        let mut client = StreamClient::new(node.channel().await);
        let events = client.consume(ReceiverStream::new(stream)).await.unwrap().into_inner();
        let consumer = Self { requests, events };
        let join = v1::ConsumeJoin {
            group: group.to_owned(),
            topics: vec![topic.to_owned()],
            session_timeout_ms: 10_000,
            offset_reset: v1::OffsetReset::Earliest.into(),
            ..Default::default()
        };
        consumer.ask(v1::consume_request::Op::Join(join)).await;
        let credit = v1::ConsumeCredit { bytes: 64 << 20 };
        consumer.ask(v1::consume_request::Op::Credit(credit)).await;
        consumer
    }

    pub(super) async fn ask(&self, op: v1::consume_request::Op) {
        self.requests.send(v1::ConsumeRequest { op: Some(op) }).await.unwrap();
    }

    /// Departs, so that nobody waits for it.
    pub(super) async fn leave(mut self) {
        self.ask(v1::consume_request::Op::Leave(v1::ConsumeLeave {})).await;
        while self.events.message().await.unwrap().is_some() {}
    }

    /// Reads `count` records and commits what was read; returns how many it got from each partition.
    pub(super) async fn read(&mut self, count: usize) -> BTreeMap<u32, usize> {
        use v1::consume_response::Event;
        let (mut got, mut next) = (BTreeMap::new(), BTreeMap::new());
        while got.values().sum::<usize>() < count {
            match self.events.message().await.unwrap().expect("the stream goes on").event {
                Some(Event::Data(data)) => {
                    let Some(v1::partition_data::Data::Records(records)) = data.data else {
                        continue;
                    };
                    *got.entry(data.partition).or_default() += records.records.len();
                    next.insert(data.partition, (data.topic, data.next_offset));
                }
                Some(Event::Error(error)) => panic!("{error:?}"),
                _ => {}
            }
        }
        let offset = |(partition, (topic, offset))| v1::CommitOffset {
            topic,
            partition,
            offset,
            ..Default::default()
        };
        let offsets = next.into_iter().map(offset).collect();
        self.ask(v1::consume_request::Op::Commit(v1::ConsumeCommit { id: 7, offsets })).await;
        loop {
            match self.events.message().await.unwrap().expect("the stream goes on").event {
                Some(Event::Committed(done)) => {
                    assert_eq!((done.id, done.error), (7, None));
                    return got;
                }
                Some(Event::Error(error)) => panic!("{error:?}"),
                _ => {}
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_goes_on_where_it_was_after_its_coordinator_died() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let (one, two) = (Node::start(&cluster).await, Node::start(&cluster).await);
    two.wait_even().await;
    create(&one, "t", 4).await;
    two.wait_spread("t", 2).await;
    let mut producer = Producer::open(&two).await;
    for partition in 0..4 {
        producer.send_all("t", partition, 0..50).await;
    }
    // Groups are spread over the shards of both brokers; some of these lose their coordinator.
    for group in 0..4 {
        let mut consumer = Consumer::join(&two, &format!("group-{group}"), "t").await;
        let read = tokio::time::timeout(LIMIT, consumer.read(200)).await.expect("in time");
        assert_eq!(read.values().copied().collect::<Vec<_>>(), [50; 4]);
        consumer.leave().await;
    }
    one.kill();
    two.wait_owned_by("t", two.broker.id()).await;
    for partition in 0..4 {
        producer.send_all("t", partition, 50..60).await;
    }
    for group in 0..4 {
        let mut consumer = Consumer::join(&two, &format!("group-{group}"), "t").await;
        let read = tokio::time::timeout(LIMIT, consumer.read(40)).await.expect("in time");
        assert_eq!(read.values().copied().collect::<Vec<_>>(), [10; 4], "group {group}");
    }
}
