//! Brokers in one process, over real sockets, on bookies and metadata in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use geminga_metastore::record::KafkaListener;
use geminga_metastore::{MetaStore, cluster};
use geminga_proto::ids::BrokerId;
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1::cluster_client::ClusterClient;
use geminga_proto::v1::stream_client::StreamClient;
use geminga_proto::v1::topics_client::TopicsClient;
use geminga_proto::{caps, v1};
use geminga_runtime::requests::Requests;
use geminga_runtime::{SystemClock, SystemRandom, Tasks};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::{Broker, BrokerParts, Config};
use crate::ownership::registration::Identity;
use crate::partition::testing::TestCluster;
use crate::topics::quorum::Quorum;

/// No wait of these tests is longer than this.
const LIMIT: Duration = Duration::from_secs(30);

mod dating;
mod kafka;
mod probes;
mod quotas;
mod requests;
mod room;

struct Node {
    broker: Broker,
    tasks: Tasks,
    address: String,
    /// Where it serves Kafka clients.
    kafka: String,
}

impl Node {
    async fn start(cluster: &TestCluster) -> Self {
        let config = Config { lease_ttl: Duration::from_secs(1), ..Config::default() };
        Self::start_with(cluster, config).await
    }

    async fn start_with(cluster: &TestCluster, config: Config) -> Self {
        Self::start_as(cluster, config, Requests::default()).await
    }

    async fn start_as(cluster: &TestCluster, config: Config, requests: Requests) -> Self {
        let store: Arc<dyn MetaStore> = Arc::new(cluster.store.clone());
        let record = cluster::open_or_init(&*store, &SystemRandom, &SystemClock).await.unwrap();
        let id = cluster::next_broker_id(&*store).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let kafka_listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let kafka = kafka_listener.local_addr().unwrap();
        let advertised = KafkaListener {
            name: "default".to_owned(),
            host: kafka.ip().to_string(),
            port: kafka.port(),
        };
        let tasks = Tasks::new("broker");
        let parts = BrokerParts {
            store,
            cluster: record,
            id,
            ledgers: cluster.log_parts(id.0).ledgers,
            cold: None,
            identity: Identity {
                grpc_address: address.clone(),
                http_address: String::new(),
                zone: String::new(),
                kafka: vec![advertised],
                started_ms: 0,
            },
            default_quorum: Quorum::CLUSTER,
            single_copy_allowed: false,
            sole: false,
            dial: geminga_tls::Dial::Plain,
            random: Arc::new(SystemRandom),
            requests,
            clock: Arc::new(SystemClock),
            tasks: tasks.clone(),
            config,
        };
        let broker = Broker::start(&parts).await.unwrap();
        broker.serve(listener, geminga_tls::Security::plain("grpc"));
        let security = geminga_tls::Security::plain("kafka");
        broker.serve_kafka("default".to_owned(), kafka_listener, security);
        Self { broker, tasks, address, kafka: kafka.to_string() }
    }

    /// Ends it without a word to anybody.
    fn kill(&self) {
        self.tasks.cancel();
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    async fn topics(&self) -> TopicsClient<Channel> {
        TopicsClient::new(self.channel().await)
    }

    async fn owners(&self, topic: &str) -> Vec<BrokerId> {
        let view = &self.broker.0.topology;
        let topic = view.resolve(topic).await.unwrap();
        let owners = view.owners(&topic);
        owners.iter().map(|o| o.broker.unwrap_or(BrokerId(-1))).collect()
    }

    /// Waits until `broker` owns all of a topic, as far as this one knows.
    async fn wait_owned_by(&self, topic: &str, broker: BrokerId) {
        let view = &self.broker.0.topology;
        let topic = view.resolve(topic).await.unwrap();
        let all = |view: &crate::ownership::topology::Topology| {
            view.owners(&topic).iter().all(|o| o.broker == Some(broker)).then_some(())
        };
        view.wait_for(LIMIT, all).await.expect("one broker owns everything in time");
    }

    /// Waits until all brokers have a part of what there is: a topic that is made before may stay with whoever has less.
    async fn wait_even(&self) {
        let even = |view: &crate::ownership::topology::Topology| {
            let owners = view.owners(&view.groups_topic());
            let owned = view.brokers().into_iter().map(|broker| {
                owners.iter().filter(|owner| owner.broker == Some(broker.id)).count()
            });
            let owned: Vec<usize> = owned.collect();
            let (least, most) = (owned.iter().min()?, owned.iter().max()?);
            let all = owned.iter().sum::<usize>() == owners.len();
            (all && *least > 0 && most - least <= 2).then_some(())
        };
        let even = self.broker.0.topology.wait_for(LIMIT, even).await;
        even.expect("brokers share what there is in time");
    }

    /// Waits until partitions of the topic are spread over `brokers`.
    async fn wait_spread(&self, topic: &str, brokers: usize) {
        let view = &self.broker.0.topology;
        let topic = view.resolve(topic).await.unwrap();
        let spread = |view: &crate::ownership::topology::Topology| {
            let owners: std::collections::BTreeSet<_> =
                view.owners(&topic).iter().filter_map(|o| o.broker).collect();
            (owners.len() == brokers).then_some(())
        };
        view.wait_for(LIMIT, spread).await.expect("the topic is spread in time");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

async fn create(node: &Node, name: &str, partitions: u32) {
    node.wait_even().await;
    let request =
        v1::CreateTopicRequest { name: name.to_owned(), partitions, ..Default::default() };
    node.topics().await.create_topic(request).await.unwrap();
}

fn element(id: u64, topic: &str, partition: u32, value: String) -> v1::ProduceElement {
    let record = v1::Record { value: Some(Bytes::from(value)), ..Default::default() };
    let records = v1::Records { records: vec![record] };
    v1::ProduceElement {
        id,
        topic: topic.to_owned(),
        partition: Some(partition),
        data: Some(v1::produce_element::Data::Records(records)),
        ..Default::default()
    }
}

/// One produce stream.
struct Producer {
    requests: mpsc::Sender<v1::ProduceRequest>,
    answers: Streaming<v1::ProduceResponse>,
    direct: bool,
}

impl Producer {
    async fn open(node: &Node) -> Self {
        let (requests, stream) = mpsc::channel(16);
        let mut client = StreamClient::new(node.channel().await);
        let answers = client.produce(ReceiverStream::new(stream)).await.unwrap().into_inner();
        Self { requests, answers, direct: false }
    }

    /// Sends elements and waits for all their results.
    async fn send(
        &mut self,
        elements: Vec<v1::ProduceElement>,
    ) -> BTreeMap<u64, v1::ProduceResult> {
        let mut results = BTreeMap::new();
        let count = elements.len();
        let request = v1::ProduceRequest { elements, direct: self.direct, ..Default::default() };
        self.requests.send(request).await.unwrap();
        while results.len() < count {
            let answer = self.answers.message().await.unwrap().expect("the stream goes on");
            results.extend(answer.results.into_iter().map(|r| (r.id, r)));
        }
        results
    }

    /// Sends values to a partition, windows at a time, until all are acknowledged; goes back to the first that failed.
    async fn send_all(&mut self, topic: &str, partition: u32, values: std::ops::Range<u64>) {
        let (mut next, mut restart) = (values.start, false);
        while next < values.end {
            let window: Vec<_> = (next..values.end.min(next + 50))
                .map(|value| {
                    let mut element = element(value, topic, partition, value.to_string());
                    element.restart = restart && value == next;
                    element
                })
                .collect();
            let results = self.send(window).await;
            let failed = results.values().find(|r| r.error.is_some());
            restart = failed.is_some();
            next = match failed {
                None => results.keys().max().unwrap() + 1,
                Some(result) => {
                    let error = ApiError::from_proto(result.error.as_ref().unwrap());
                    assert!(error.reason.retriable(), "{error}");
                    for later in results.range(result.id..) {
                        assert!(later.1.error.is_some(), "written after a failure: {later:?}");
                    }
                    result.id
                }
            };
        }
    }
}

/// All values of a topic, by partition.
async fn read_all(node: &Node, topic: &str, partitions: u32) -> Vec<Vec<u64>> {
    let mut client = StreamClient::new(node.channel().await);
    let request = v1::FetchRequest {
        topic: topic.to_owned(),
        partitions: (0..partitions)
            .map(|partition| v1::FetchPartition { partition, offset: 0 })
            .collect(),
        until_end: true,
        ..Default::default()
    };
    let mut answers = client.fetch(request).await.unwrap().into_inner();
    let mut values = vec![Vec::new(); partitions as usize];
    let mut next = vec![0; partitions as usize];
    while let Some(answer) = answers.next().await {
        for data in answer.unwrap().partitions {
            assert_eq!(data.error, None);
            let at = data.partition as usize;
            if let Some(v1::partition_data::Data::Records(records)) = data.data {
                for record in records.records {
                    assert_eq!(record.offset, next[at], "offsets are dense");
                    next[at] += 1;
                    let value = record.value.expect("a value");
                    values[at].push(std::str::from_utf8(&value).unwrap().parse().unwrap());
                }
            }
        }
    }
    values
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_broker_serves_any_partition() {
    const PARTITIONS: u32 = 4;
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let (one, two) = (Node::start(&cluster).await, Node::start(&cluster).await);
    create(&one, "flights", PARTITIONS).await;
    one.wait_spread("flights", 2).await;
    two.wait_spread("flights", 2).await;
    for (node, values) in [(&one, 0..100), (&two, 100..200)] {
        let mut producer = Producer::open(node).await;
        for partition in 0..PARTITIONS {
            producer.send_all("flights", partition, values.clone()).await;
        }
    }
    let all: Vec<u64> = (0..200).collect();
    for node in [&one, &two] {
        assert_eq!(read_all(node, "flights", PARTITIONS).await, vec![all.clone(); 4]);
        let at = Some(v1::list_offsets_request::At::Latest(true));
        let request =
            v1::ListOffsetsRequest { topic: "flights".to_owned(), at, ..Default::default() };
        let found = node.topics().await.list_offsets(request).await.unwrap().into_inner();
        let offsets: Vec<i64> = found.offsets.iter().map(|o| o.offset).collect();
        assert_eq!(offsets, [200; 4]);
        let request = v1::DescribeTopicRequest { name: "flights".to_owned() };
        let described = node.topics().await.describe_topic(request).await.unwrap().into_inner();
        for partition in described.partitions {
            assert_eq!(partition.high_watermark, Some(200));
            assert_eq!(partition.segments.len(), 1, "{partition:?}");
            assert_eq!(partition.segments[0].bookies.len(), 3);
        }
    }
    let mut status = ClusterClient::new(two.channel().await);
    let status = status.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.brokers.len(), status.bookies.len(), status.topics), (2, 3, 1));
    assert!(status.bookies.iter().all(|b| b.live && b.writable));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_directly_is_told_where_to_ask() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let (one, two) = (Node::start(&cluster).await, Node::start(&cluster).await);
    create(&one, "t", 2).await;
    one.wait_spread("t", 2).await;
    two.wait_spread("t", 2).await;
    let elsewhere = one.owners("t").await.iter().position(|o| *o == two.broker.id()).unwrap();
    let elsewhere = u32::try_from(elsewhere).unwrap();
    let mut producer = Producer::open(&one).await;
    producer.direct = true;
    let results = producer.send(vec![element(1, "t", elsewhere, "1".to_owned())]).await;
    let error = results[&1].error.clone().expect("refused");
    assert_eq!((error.reason.as_str(), &error.owner_address), ("NOT_OWNER", &two.address));
    let request = v1::FetchRequest {
        topic: "t".to_owned(),
        partitions: vec![v1::FetchPartition { partition: elsewhere, offset: 0 }],
        direct: true,
        once: true,
        ..Default::default()
    };
    let mut client = StreamClient::new(one.channel().await);
    let answer = client.fetch(request).await.unwrap().into_inner().message().await.unwrap();
    let error = answer.expect("an answer").partitions.remove(0).error.expect("refused");
    assert_eq!((error.reason.as_str(), &error.owner_address), ("NOT_OWNER", &two.address));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_broker_dies_the_other_takes_over_and_nothing_acknowledged_is_lost() {
    const PARTITIONS: u32 = 4;
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let (one, two) = (Node::start(&cluster).await, Node::start(&cluster).await);
    create(&one, "t", PARTITIONS).await;
    one.wait_spread("t", 2).await;
    let streams = (0..PARTITIONS).map(|partition| {
        let two = &two;
        async move {
            let mut producer = Producer::open(two).await;
            producer.send_all("t", partition, 0..2_000).await;
        }
    });
    let kill = async {
        // Some is written before, some after.
        let mut producer = Producer::open(&two).await;
        producer.send_all("other", 0, 0..200).await;
        one.kill();
    };
    create(&two, "other", 1).await;
    let work = futures::future::join(futures::future::join_all(streams), kill);
    tokio::time::timeout(LIMIT, work).await.expect("in time");
    two.wait_owned_by("t", two.broker.id()).await;
    for values in read_all(&two, "t", PARTITIONS).await {
        // Unknown outcomes were sent again: the first deliveries are in order, and none is missing.
        let mut seen = 0;
        for value in values {
            assert!(value <= seen, "{value} before {seen}");
            seen = seen.max(value + 1);
        }
        assert_eq!(seen, 2_000);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stops_in_good_order_hands_over_at_once() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let (one, two) = (Node::start(&cluster).await, Node::start(&cluster).await);
    create(&one, "t", 4).await;
    two.wait_spread("t", 2).await;
    assert_eq!(two.broker.is_ready(), Ok(()));
    let mut producer = Producer::open(&one).await;
    producer.send_all("t", 0, 0..100).await;
    one.broker.shutdown().await;
    assert_eq!(one.broker.is_ready(), Err("shutting down".to_owned()));
    two.wait_owned_by("t", two.broker.id()).await;
    let ended = producer.answers.message().await.expect_err("the stream has ended");
    assert_eq!(ApiError::from_status(&ended).reason, Reason::ShuttingDown);
    let values = read_all(&two, "t", 4).await;
    assert_eq!(values[0], (0..100).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elements_without_a_partition_go_by_their_key() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let node = Node::start(&cluster).await;
    create(&node, "t", 8).await;
    let mut producer = Producer::open(&node).await;
    let keyed = |id: u64, key: &str| {
        let mut element = element(id, "t", 0, id.to_string());
        element.partition = None;
        if let Some(v1::produce_element::Data::Records(records)) = &mut element.data {
            records.records[0].key = Some(Bytes::copy_from_slice(key.as_bytes()));
        }
        element
    };
    let results =
        producer.send(vec![keyed(1, "foobar"), keyed(2, "abc"), keyed(3, "foobar")]).await;
    let partition = |id| results[&id].partition;
    assert_eq!(partition(1), Some(geminga_proto::murmur::bucket(b"foobar", 8)));
    assert_eq!(partition(2), Some(geminga_proto::murmur::bucket(b"abc", 8)));
    assert_eq!((partition(3), results[&3].base_offset), (partition(1), 1));
    let mut bad = element(4, "t", 0, String::new());
    bad.data = Some(v1::produce_element::Data::Batch(Bytes::from_static(b"not a batch")));
    let results = producer.send(vec![bad, element(5, "t", 0, "5".to_owned())]).await;
    let reason = |id| results[&id].error.as_ref().map(|e| e.reason.clone());
    assert_eq!(reason(4).as_deref(), Some("CORRUPT_BATCH"));
    assert_eq!(reason(5).as_deref(), Some("PRIOR_BATCH_FAILED"));
    let mut again = element(6, "t", 0, "6".to_owned());
    again.restart = true;
    let unknown = element(7, "nowhere", 0, "7".to_owned());
    let results = producer.send(vec![again, unknown]).await;
    assert_eq!(results[&6].error, None);
    assert_eq!(results[&7].error.as_ref().unwrap().reason, "UNKNOWN_TOPIC");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_overtakes_an_element_whose_topic_was_not_found() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let node = Node::start(&cluster).await;
    let mut producer = Producer::open(&node).await;
    let reason = |result: &v1::ProduceResult| result.error.as_ref().map(|e| e.reason.clone());
    let anywhere =
        |id| v1::ProduceElement { partition: None, ..element(id, "late", 0, id.to_string()) };
    let results = producer.send(vec![element(1, "late", 0, "1".to_owned()), anywhere(2)]).await;
    assert_eq!(reason(&results[&1]).as_deref(), Some("UNKNOWN_TOPIC"));
    // The client must not take a partition for chosen that nobody chose.
    assert_eq!((results[&1].partition, results[&2].partition), (Some(0), None));
    create(&node, "late", 2).await;
    let results = producer
        .send(vec![
            element(3, "late", 0, "3".to_owned()),
            element(4, "late", 1, "4".to_owned()),
            anywhere(5),
        ])
        .await;
    assert_eq!(reason(&results[&3]).as_deref(), Some("PRIOR_BATCH_FAILED"));
    assert_eq!(results[&4].error, None, "another partition");
    assert_eq!(reason(&results[&5]).as_deref(), Some("PRIOR_BATCH_FAILED"));
    let mut again = element(6, "late", 0, "1".to_owned());
    again.restart = true;
    let results = producer.send(vec![again, element(7, "late", 0, "3".to_owned())]).await;
    assert_eq!((results[&6].base_offset, results[&7].base_offset), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_above_the_limits_ends_its_stream_with_a_reason() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let node = Node::start(&cluster).await;
    create(&node, "t", 1).await;
    let many = vec![v1::ProduceElement::default(); caps::MAX_PRODUCE_ELEMENTS + 1];
    let large = element(1, "t", 0, "x".repeat(caps::MAX_CLIENT_MESSAGE_BYTES));
    for elements in [many, vec![large]] {
        let mut producer = Producer::open(&node).await;
        let request = v1::ProduceRequest { elements, ..Default::default() };
        producer.requests.send(request).await.unwrap();
        let ended = producer.answers.message().await.expect_err("it is refused");
        assert_eq!(ApiError::from_status(&ended).reason, Reason::LimitExceeded, "{ended}");
    }
    let records = vec![v1::Record::default(); caps::MAX_BATCH_RECORDS as usize + 1];
    let mut crowded = element(1, "t", 0, String::new());
    crowded.data = Some(v1::produce_element::Data::Records(v1::Records { records }));
    let mut producer = Producer::open(&node).await;
    let results = producer.send(vec![crowded]).await;
    assert_eq!(results[&1].error.as_ref().unwrap().reason, "MESSAGE_TOO_LARGE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_answered_makes_room_for_more_whoever_takes_the_results() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    // The smallest room there is: that of one message.
    let node = Node::start_with(&cluster, Config { produce_bytes: 0, ..Config::default() }).await;
    create(&node, "t", 2).await;
    let value = "x".repeat(1_000_000);
    let lazy = Producer::open(&node).await;
    let mut busy = Producer::open(&node).await;
    let sending = async {
        for id in 0..12 {
            let elements = vec![element(id, "t", 0, value.clone())];
            let request = v1::ProduceRequest { elements, ..Default::default() };
            lazy.requests.send(request).await.unwrap();
        }
    };
    let both = async {
        for id in 0..12 {
            let results = busy.send(vec![element(id, "t", 1, value.clone())]).await;
            assert_eq!(results[&id].error, None);
        }
    };
    let both = futures::future::join(sending, both);
    tokio::time::timeout(LIMIT, both).await.expect("no room is lost");
}

/// One consumer's stream.
struct Consumer {
    requests: mpsc::Sender<v1::ConsumeRequest>,
    events: Streaming<v1::ConsumeResponse>,
}

impl Consumer {
    async fn join(node: &Node, group: &str, topic: &str) -> Self {
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

    async fn ask(&self, op: v1::consume_request::Op) {
        self.requests.send(v1::ConsumeRequest { op: Some(op) }).await.unwrap();
    }

    /// Departs, so that nobody waits for it.
    async fn leave(mut self) {
        self.ask(v1::consume_request::Op::Leave(v1::ConsumeLeave {})).await;
        while self.events.message().await.unwrap().is_some() {}
    }

    /// Reads `count` records and commits what was read; returns how many it got from each partition.
    async fn read(&mut self, count: usize) -> BTreeMap<u32, usize> {
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

/// What one poll says of each partition: how many records, or the reason why there are none.
async fn poll(node: &Node, offsets: &[i64], wait_ms: u32) -> BTreeMap<u32, Result<usize, String>> {
    let partitions = (0..)
        .zip(offsets)
        .map(|(partition, offset)| v1::FetchPartition { partition, offset: *offset });
    let request = v1::FetchRequest {
        topic: "t".to_owned(),
        partitions: partitions.collect(),
        max_wait_ms: wait_ms,
        once: true,
        ..Default::default()
    };
    let mut client = StreamClient::new(node.channel().await);
    let mut answers = client.fetch(request).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().expect("one answer");
    assert_eq!(answers.message().await.unwrap(), None, "and no other");
    let said = |data: v1::PartitionData| match (data.data, data.error) {
        (_, Some(error)) => Err(error.reason),
        (Some(v1::partition_data::Data::Records(records)), None) => Ok(records.records.len()),
        _ => Ok(0),
    };
    answer.partitions.into_iter().map(|data| (data.partition, said(data))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_waits_for_whichever_partition_gets_something() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let (one, two) = (Node::start(&cluster).await, Node::start(&cluster).await);
    create(&one, "t", 4).await;
    one.wait_spread("t", 2).await;
    two.wait_spread("t", 2).await;
    assert_eq!(poll(&one, &[0; 4], 0).await.values().collect::<Vec<_>>(), [&Ok(0); 4]);
    for partition in 0..4 {
        let writes = async {
            let mut producer = Producer::open(&two).await;
            producer.send_all("t", partition, 0..10).await;
        };
        let mut offsets = [10; 4];
        offsets[partition as usize..].fill(0);
        let (found, ()) = futures::future::join(poll(&one, &offsets, 20_000), writes).await;
        assert!(matches!(found[&partition], Ok(n) if n > 0), "{found:?}");
    }
    let refused = poll(&one, &[10, 11, 10, 10], 20_000).await;
    assert_eq!(refused[&1], Err("OFFSET_OUT_OF_RANGE".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_over_a_takeover_without_a_gap_or_a_repetition() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let (one, two) = (Node::start(&cluster).await, Node::start(&cluster).await);
    create(&one, "t", 2).await;
    two.wait_spread("t", 2).await;
    let request = v1::FetchRequest {
        topic: "t".to_owned(),
        partitions: (0..2).map(|p| v1::FetchPartition { partition: p, offset: 0 }).collect(),
        ..Default::default()
    };
    let mut client = StreamClient::new(two.channel().await);
    let mut answers = client.fetch(request).await.unwrap().into_inner();
    let mut producer = Producer::open(&two).await;
    let mut next = [0; 2];
    let read = async {
        while next.iter().any(|next| *next < 100) {
            for data in answers.message().await.unwrap().expect("it goes on").partitions {
                assert_eq!(data.error, None);
                if let Some(v1::partition_data::Data::Records(records)) = data.data {
                    for record in records.records {
                        assert_eq!(record.offset, next[data.partition as usize]);
                        next[data.partition as usize] += 1;
                    }
                }
            }
        }
    };
    let write = async {
        for partition in 0..2 {
            producer.send_all("t", partition, 0..50).await;
        }
        one.kill();
        for partition in 0..2 {
            producer.send_all("t", partition, 50..100).await;
        }
    };
    let both = futures::future::join(read, write);
    tokio::time::timeout(LIMIT, both).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_and_health_know_every_public_service() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_request::MessageRequest,
        server_reflection_response::MessageResponse,
    };
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let node = Node::start(&cluster).await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(node.channel().await);
    let answers = reflection.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().expect("an answer");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}")
    };
    let listed: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    let mut health = HealthClient::new(node.channel().await);
    let public = ["Stream", "Topics", "Groups", "Cluster"].map(|s| format!("geminga.v1.{s}"));
    for service in [String::new()].into_iter().chain(public) {
        assert!(service.is_empty() || listed.contains(&service), "{service} in {listed:?}");
        let answer = health.check(HealthCheckRequest { service }).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
}
