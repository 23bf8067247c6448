//! The Kafka face over real sockets: order, refusals, and that nobody else notices a client that misbehaves.

use bytes::BytesMut;
use geminga_records::{Compression, Record};
use kafka_wire::fetch_request::{FetchPartition, FetchTopic};
use kafka_wire::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_wire::metadata_request::MetadataRequestTopic;
use kafka_wire::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::{
    ApiVersionsRequest, ApiVersionsResponse, FetchRequest, FetchResponse, FindCoordinatorRequest,
    FindCoordinatorResponse, InitProducerIdRequest, InitProducerIdResponse, KafkaRequest,
    KafkaResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse,
    OutboundFrameLimits, ProduceRequest, ProduceResponse, encode_request,
    response_header_version_for,
};
use kafka_wire_core::{ApiVersion, DecodeLimits, Decoder, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

mod groups;
mod refused;

/// A Kafka client of one connection.
struct Client {
    stream: TcpStream,
    correlation: i32,
}

impl Client {
    async fn connect(node: &Node) -> Self {
        Self { stream: TcpStream::connect(&node.kafka).await.unwrap(), correlation: 0 }
    }

    /// Sends a request; returns its correlation id.
    async fn send<R: KafkaRequest>(&mut self, version: i16, request: &R) -> i32 {
        self.correlation += 1;
        let mut frame = BytesMut::new();
        let limits = OutboundFrameLimits::new(usize::MAX);
        let (version, client) = (ApiVersion::new(version), Some(StrBytes::from("test")));
        encode_request(&mut frame, self.correlation, client, request, version, limits).unwrap();
        // Where the broker has closed the connection, the next read tells.
        let _sent = self.stream.write_all(&frame).await.is_ok();
        self.correlation
    }

    /// The next frame, from its correlation id on; `None` when the broker has closed the connection.
    async fn frame(&mut self) -> Option<Bytes> {
        let read = async {
            let length = self.stream.read_u32().await.ok()?;
            let mut frame = vec![0; length as usize];
            self.stream.read_exact(&mut frame).await.ok()?;
            Some(Bytes::from(frame))
        };
        tokio::time::timeout(LIMIT, read).await.expect("an answer, or the end, in time")
    }

    /// The answer to the last request.
    async fn answer<R: KafkaRequest, A: KafkaResponse>(&mut self, version: i16) -> A {
        let mut frame = self.frame().await.expect("an answer");
        let correlation = frame.split_to(4);
        assert_eq!(correlation[..], self.correlation.to_be_bytes());
        let version = ApiVersion::new(version);
        let header = response_header_version_for::<R>(version).unwrap();
        let _no_tags = frame.split_to(usize::from(header > 0));
        crate::kafka::check_by_another_codec(R::API_KEY.value(), version.value(), &frame);
        let mut decoder = Decoder::new(frame, DecodeLimits::default()).unwrap();
        let answer = A::decode(&mut decoder, version).unwrap();
        decoder.finish().unwrap();
        answer
    }

    async fn call<R: KafkaRequest, A: KafkaResponse>(&mut self, version: i16, request: &R) -> A {
        self.send(version, request).await;
        self.answer::<R, A>(version).await
    }

    async fn is_closed(&mut self) -> bool {
        self.frame().await.is_none()
    }
}

async fn rig() -> (TestCluster, Node) {
    rig_with(crate::kafka::Config::default()).await
}

async fn rig_with(kafka: crate::kafka::Config) -> (TestCluster, Node) {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let kafka = crate::kafka::Config { auto_create_topics: true, default_partitions: 2, ..kafka };
    let config = Config { kafka, ..Config::default() };
    let node = Node::start_with(&cluster, config).await;
    create(&node, "t", 1).await;
    node.wait_owned_by("t", node.broker.id()).await;
    (cluster, node)
}

fn records(values: &[&str], compression: Compression) -> Bytes {
    let record = |value: &&str| Record {
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        ..Record::default()
    };
    let records: Vec<_> = values.iter().map(record).collect();
    geminga_records::encode(&records, compression).unwrap().into_bytes()
}

fn produce(topic: &str, acks: i16, batches: &[(i32, Option<Bytes>)]) -> ProduceRequest {
    let mut request = ProduceRequest::default();
    (request.acks, request.timeout_ms) = (acks, 10_000);
    let mut data = TopicProduceData::default();
    data.name = topic.into();
    for (index, records) in batches {
        let mut partition = PartitionProduceData::default();
        (partition.index, partition.records) = (*index, records.clone());
        data.partition_data.push(partition);
    }
    request.topic_data.push(data);
    request
}

fn fetch(topic: &str, offset: i64, min_bytes: i32, max_wait_ms: i32) -> FetchRequest {
    let mut partition = FetchPartition::default();
    (partition.fetch_offset, partition.partition_max_bytes) = (offset, 1 << 20);
    (partition.current_leader_epoch, partition.log_start_offset) = (-1, -1);
    let mut asked = FetchTopic::default();
    (asked.topic, asked.partitions) = (topic.into(), vec![partition]);
    let mut request = FetchRequest::default();
    (request.replica_id, request.session_epoch) = (-1, -1);
    (request.min_bytes, request.max_bytes, request.max_wait_ms) = (min_bytes, 1 << 24, max_wait_ms);
    request.topics = vec![asked];
    request
}

/// Code, and where the batch begins.
async fn produced(client: &mut Client, version: i16, request: &ProduceRequest) -> (i16, i64) {
    let answer: ProduceResponse = client.call(version, request).await;
    let part = &answer.responses[0].partition_responses[0];
    (part.error_code, part.base_offset)
}

/// Code, high watermark and values.
async fn fetched(
    client: &mut Client,
    version: i16,
    request: &FetchRequest,
) -> (i16, i64, Vec<String>) {
    let answer: FetchResponse = client.call(version, request).await;
    values(&answer)
}

fn values(answer: &FetchResponse) -> (i16, i64, Vec<String>) {
    let part = &answer.responses[0].partitions[0];
    let mut values = Vec::new();
    for batch in geminga_records::split(part.records.clone().expect("never null")) {
        for record in geminga_records::decode(&batch.unwrap(), 1 << 20).unwrap() {
            values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
        }
    }
    (part.error_code, part.high_watermark, values)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_is_one_topic_whoever_writes_and_reads_it() {
    let (_cluster, node) = rig().await;
    let mut client = Client::connect(&node).await;
    let batch = Some(records(&["0", "1"], Compression::Lz4));
    assert_eq!(produced(&mut client, 9, &produce("t", -1, &[(0, batch)])).await, (0, 0));
    Producer::open(&node).await.send_all("t", 0, 2..4).await;
    let batch = Some(records(&["4"], Compression::None));
    assert_eq!(produced(&mut client, 3, &produce("t", 1, &[(0, batch)])).await, (0, 4));
    assert_eq!(read_all(&node, "t", 1).await, vec![vec![0, 1, 2, 3, 4]]);
    for version in 4..=12 {
        // The batch that contains the offset comes whole.
        let (code, end, all) = fetched(&mut client, version, &fetch("t", 1, 1, 1000)).await;
        assert_eq!((code, end), (0, 5));
        assert_eq!(all, ["0", "1", "2", "3", "4"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_in_the_order_of_requests() {
    let (_cluster, node) = rig().await;
    let mut client = Client::connect(&node).await;
    let mut sent = Vec::new();
    for n in 0..20 {
        let batch = Some(records(&[&n.to_string()], Compression::None));
        sent.push(client.send(9, &produce("t", -1, &[(0, batch)])).await);
        if n % 5 == 0 {
            sent.push(client.send(4, &fetch("t", 1_000, 1, 50)).await);
        }
        sent.push(client.send(9, &MetadataRequest::default()).await);
    }
    for correlation in sent {
        let frame = client.frame().await.expect("an answer to each");
        assert_eq!(frame[..4], correlation.to_be_bytes());
    }
    // Batches were placed in the order that they came in.
    assert_eq!(read_all(&node, "t", 1).await, vec![(0..20).collect::<Vec<u64>>()]);
}

/// Before a client has asked for anything it has next to nothing: others who do take its place, and those who did keep theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_connects_and_says_nothing_keeps_nobody_out() {
    let config = crate::kafka::Config { strangers: 3, ..crate::kafka::Config::default() };
    let (_cluster, node) = rig_with(config).await;
    let mut known = Client::connect(&node).await;
    let ask = MetadataRequest::default();
    let _: MetadataResponse = known.call(9, &ask).await;
    // One of them with bytes that are not even the head of a request.
    let mut silent: Vec<Client> = Vec::new();
    for bytes in [&b""[..], b"\0\0\0\x20", b""] {
        let mut client = Client::connect(&node).await;
        client.stream.write_all(bytes).await.unwrap();
        silent.push(client);
    }
    let served = async {
        loop {
            let mut client = Client::connect(&node).await;
            client.send(9, &ask).await;
            if client.frame().await.is_some() {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, served).await.expect("one of the silent makes room");
    assert!(silent[0].is_closed().await, "the oldest");
    let _: MetadataResponse = known.call(9, &ask).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_ends_with_data_with_time_and_with_its_client() {
    let (_cluster, node) = rig().await;
    let places = node.broker.0.kafka.free_places();
    let mut reader = Client::connect(&node).await;
    let mut writer = Client::connect(&node).await;
    assert_eq!(fetched(&mut reader, 11, &fetch("t", 0, 1, 50)).await, (0, 0, Vec::new()));
    reader.send(11, &fetch("t", 0, 1, 60_000)).await;
    let batch = Some(records(&["late"], Compression::None));
    assert_eq!(produced(&mut writer, 9, &produce("t", -1, &[(0, batch)])).await, (0, 0));
    let answer: FetchResponse = reader.answer::<FetchRequest, _>(11).await;
    assert_eq!(values(&answer), (0, 1, vec!["late".to_owned()]));
    reader.send(11, &fetch("t", 1, 1, 300_000)).await;
    drop((reader, writer));
    let gone = async {
        while node.broker.0.kafka.free_places() < places {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.expect("connections end with their clients");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_ask_for_no_answer_are_written_though_the_client_leaves() {
    let (_cluster, node) = rig().await;
    let mut client = Client::connect(&node).await;
    for n in 0..50 {
        let batch = Some(records(&[&n.to_string()], Compression::None));
        client.send(9, &produce("t", 0, &[(0, batch)])).await;
    }
    client.stream.shutdown().await.unwrap();
    assert!(client.is_closed().await, "and none is answered");
    let mut reader = Client::connect(&node).await;
    let (mut all, mut next) = (Vec::new(), 0);
    while next < 50 {
        let (code, _, values) = fetched(&mut reader, 11, &fetch("t", next, 1, 30_000)).await;
        assert_eq!(code, 0);
        next += i64::try_from(values.len()).unwrap();
        all.extend(values);
    }
    assert_eq!(all, (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
    // What cannot be written shows by the end of the connection.
    let mut client = Client::connect(&node).await;
    client
        .send(9, &produce("no-such-topic", 0, &[(0, Some(records(&["x"], Compression::None)))]))
        .await;
    assert!(client.is_closed().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_batches_get_the_code_that_kafka_gives() {
    let (_cluster, node) = rig().await;
    let mut client = Client::connect(&node).await;
    let good = records(&["x"], Compression::None);
    let changed = |at: usize, to: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = to;
        Some(Bytes::from(bytes))
    };
    let two = Some(Bytes::from([&good[..], &good[..]].concat()));
    let large = "x".repeat(1_100_000);
    let large = Some(records(&[&large], Compression::None));
    let zstd = Some(records(&["x"], Compression::Zstd));
    let dated = geminga_records::Batch::parse(good.clone()).unwrap().with_log_append_time(5);
    let one = |records| vec![(0, records)];
    for (version, acks, topic, batches, code) in [
        (9, -1, "t", one(changed(16, 1)), 87),
        (9, -1, "t", one(changed(16, 0)), 87),
        (9, -1, "t", one(changed(68, 0xff)), 2),
        (9, -1, "t", one(changed(7, 1)), 87),
        (9, -1, "t", one(two), 87),
        (9, -1, "t", one(None), 87),
        (9, -1, "t", one(large), 10),
        (9, -1, "t", one(Some(dated.into_bytes())), 32),
        (6, -1, "t", one(zstd.clone()), 76),
        (9, 2, "t", one(Some(good.clone())), 21),
        (9, -1, "nowhere", one(Some(good.clone())), 3),
        (9, -1, "t", vec![(7, Some(good.clone()))], 3),
        (9, -1, "t", vec![(-1, Some(good.clone()))], 3),
        (9, -1, "t", vec![(0, Some(good.clone())), (0, Some(good.clone()))], 42),
    ] {
        let answer = produced(&mut client, version, &produce(topic, acks, &batches)).await;
        assert_eq!(answer, (code, -1), "version {version}, acks {acks}, topic {topic}");
    }
    let mut transactional = produce("t", -1, &one(Some(good.clone())));
    transactional.transactional_id = Some("mine".into());
    assert_eq!(produced(&mut client, 9, &transactional).await, (53, -1));
    assert_eq!(produced(&mut client, 7, &produce("t", -1, &one(zstd))).await, (0, 0));
    // Who cannot read zstd is told so.
    assert_eq!(fetched(&mut client, 9, &fetch("t", 0, 1, 10)).await.0, 76);
    assert_eq!(fetched(&mut client, 10, &fetch("t", 0, 1, 10)).await.0, 0);
    assert_eq!(fetched(&mut client, 11, &fetch("t", 2, 1, 10)).await.0, 1, "out of range");
    assert_eq!(fetched(&mut client, 11, &fetch("nowhere", 0, 1, 10)).await.0, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_request_ends_its_connection_and_no_other() {
    let (_cluster, node) = rig().await;
    let mut bystander = Client::connect(&node).await;
    let hostile =
        [&12u32.to_be_bytes()[..], &[0, 0, 0, 3, 0, 0, 0, 1, 255, 255, 255, 255]].concat();
    let topics = [
        &23u32.to_be_bytes()[..],
        &[0, 0, 0, 3, 0, 0, 0, 1, 255, 255, 255, 255, 255, 255, 0, 0, 0, 1, 1, 0, 0, 0, 0],
    ]
    .concat();
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01],
        vec![0xff; 64],
        hostile,
        topics,
        // An API that is none, one that is not served, a version that is none.
        [&10u32.to_be_bytes()[..], &[0x7f, 0, 0, 0, 0, 0, 0, 1, 255, 255]].concat(),
        [&10u32.to_be_bytes()[..], &[0, 4, 0, 0, 0, 0, 0, 1, 255, 255]].concat(),
        [&10u32.to_be_bytes()[..], &[0, 3, 0, 99, 0, 0, 0, 1, 255, 255]].concat(),
        [&10u32.to_be_bytes()[..], &[0, 0, 0, 2, 0, 0, 0, 1, 255, 255]].concat(),
    ] {
        let mut client = Client::connect(&node).await;
        client.stream.write_all(&bytes).await.unwrap();
        assert!(client.is_closed().await, "{bytes:?}");
        let request = ApiVersionsRequest::default();
        let answer: ApiVersionsResponse = bystander.call(0, &request).await;
        assert_eq!(answer.error_code, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_are_told_whatever_is_asked() {
    let (_cluster, node) = rig().await;
    let mut client = Client::connect(&node).await;
    let mut request = ApiVersionsRequest::default();
    (request.client_software_name, request.client_software_version) = ("test".into(), "1.0".into());
    for version in 0..=4 {
        let answer: ApiVersionsResponse = client.call(version, &request).await;
        assert_eq!(answer.error_code, 0);
        let produce = answer.api_keys.iter().find(|api| api.api_key == 0).expect("it is there");
        assert_eq!((produce.min_version, produce.max_version), (0, 11));
    }
    // A version that is not known is answered in version 0, with what to ask for instead.
    client.correlation += 1;
    let frame =
        [&10u32.to_be_bytes()[..], &[0, 18, 0, 77], &client.correlation.to_be_bytes(), &[255, 255]];
    client.stream.write_all(&frame.concat()).await.unwrap();
    let answer: ApiVersionsResponse = client.answer::<ApiVersionsRequest, _>(0).await;
    assert_eq!(answer.error_code, 35);
    let keys: Vec<_> = answer.api_keys.iter().map(|api| (api.api_key, api.max_version)).collect();
    assert_eq!(keys, [(18, 4)]);
    request.client_software_name = "no name".into();
    let answer: ApiVersionsResponse = client.call(3, &request).await;
    assert_eq!((answer.error_code, answer.api_keys.len()), (42, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_finds_creates_and_tells_where_everything_is() {
    let (_cluster, node) = rig().await;
    let mut client = Client::connect(&node).await;
    let me = node.broker.id().0;
    let asked = |names: &[&str]| {
        let topic = |name: &&str| {
            let mut topic = MetadataRequestTopic::default();
            topic.name = Some((*name).into());
            topic
        };
        let mut request = MetadataRequest::default();
        request.topics = Some(names.iter().map(topic).collect());
        request.allow_auto_topic_creation = true;
        request
    };
    for version in 0..=13 {
        let answer: MetadataResponse = client.call(version, &asked(&["t"])).await;
        let [broker] = &answer.brokers[..] else { panic!("{answer:?}") };
        assert_eq!(
            (broker.node_id, format!("{}:{}", broker.host, broker.port)),
            (me, node.kafka.clone())
        );
        let partition = &answer.topics[0].partitions[0];
        assert_eq!((answer.topics[0].error_code, partition.leader_id), (0, me));
        assert_eq!(partition.isr_nodes, [me]);
        if version >= 10 {
            assert!(!answer.topics[0].topic_id.is_zero());
        }
        // All topics.
        let mut all = MetadataRequest::default();
        all.topics = if version == 0 { Some(Vec::new()) } else { None };
        let answer: MetadataResponse = client.call(version, &all).await;
        assert!(answer.topics.iter().any(|topic| topic.name.as_deref() == Some("t")));
        assert!(answer.topics.iter().all(|topic| topic.name.as_deref() != Some("__groups")));
    }
    let mut request = asked(&["new", "no/good"]);
    request.allow_auto_topic_creation = false;
    let answer: MetadataResponse = client.call(4, &request).await;
    let codes: Vec<_> = answer.topics.iter().map(|topic| topic.error_code).collect();
    assert_eq!(codes, [3, 17]);
    let answer: MetadataResponse = client.call(4, &asked(&["new"])).await;
    let leaders: Vec<_> = answer.topics[0].partitions.iter().map(|p| p.leader_id).collect();
    assert_eq!((answer.topics[0].error_code, leaders), (0, vec![me, me]));
    let answer: MetadataResponse = client.call(12, &asked(&["t"])).await;
    let mut by_id = MetadataRequestTopic::default();
    (by_id.topic_id, by_id.name) = (answer.topics[0].topic_id, None);
    let mut request = MetadataRequest::default();
    request.topics = Some(vec![by_id]);
    let answer: MetadataResponse = client.call(12, &request).await;
    assert_eq!(answer.topics[0].name.as_deref(), Some("t"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_producers_and_coordinators_are_found_in_every_version() {
    let (_cluster, node) = rig().await;
    let mut client = Client::connect(&node).await;
    let batch = Some(records(&["a", "b", "c"], Compression::Gzip));
    assert_eq!(produced(&mut client, 9, &produce("t", -1, &[(0, batch)])).await, (0, 0));
    for version in 1..=10 {
        for (at, offset) in [(-1, 3), (-2, 0), (0, 0), (i64::MAX, -1)] {
            let mut partition = ListOffsetsPartition::default();
            (partition.timestamp, partition.current_leader_epoch) = (at, -1);
            let mut topic = ListOffsetsTopic::default();
            (topic.name, topic.partitions) = ("t".into(), vec![partition]);
            let mut request = ListOffsetsRequest::default();
            (request.replica_id, request.topics) = (-1, vec![topic]);
            let answer: ListOffsetsResponse = client.call(version, &request).await;
            let found = &answer.topics[0].partitions[0];
            assert_eq!((found.error_code, found.offset), (0, offset), "version {version}, {at}");
        }
    }
    // A client that knows another epoch is told so.
    for (epoch, code) in [(0, 74), (1, 0), (2, 75)] {
        let mut partition = ListOffsetsPartition::default();
        (partition.timestamp, partition.current_leader_epoch) = (-1, epoch);
        let mut topic = ListOffsetsTopic::default();
        (topic.name, topic.partitions) = ("t".into(), vec![partition]);
        let mut request = ListOffsetsRequest::default();
        (request.replica_id, request.topics) = (-1, vec![topic]);
        let answer: ListOffsetsResponse = client.call(4, &request).await;
        assert_eq!(answer.topics[0].partitions[0].error_code, code, "epoch {epoch}");
    }
    for version in 0..=5 {
        let mut request = InitProducerIdRequest::default();
        (request.producer_id, request.producer_epoch, request.transactional_id) = (-1, -1, None);
        let answer: InitProducerIdResponse = client.call(version, &request).await;
        assert_eq!((answer.error_code, answer.producer_epoch), (0, 0));
        assert!(answer.producer_id > 0);
        request.transactional_id = Some("mine".into());
        let answer: InitProducerIdResponse = client.call(version, &request).await;
        assert_eq!((answer.error_code, answer.producer_id), (53, -1));
    }
    for version in 0..=6 {
        let mut request = FindCoordinatorRequest::default();
        match version >= 4 {
            true => request.coordinator_keys = vec!["g".into()],
            false => request.key = "g".into(),
        }
        let found: FindCoordinatorResponse = client.call(version, &request).await;
        let (code, id) = match found.coordinators.first() {
            Some(found) => (found.error_code, found.node_id),
            None => (found.error_code, found.node_id),
        };
        assert_eq!((code, id), (0, node.broker.id().0), "version {version}");
    }
}

/// Who asks the wrong broker is told the right one, in as many words as the version has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_broker_tells_the_right_one() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let (one, two) = (Node::start(&cluster).await, Node::start(&cluster).await);
    two.wait_even().await;
    create(&one, "t", 2).await;
    one.wait_spread("t", 2).await;
    let elsewhere = one.owners("t").await.iter().position(|o| *o == two.broker.id()).unwrap();
    let elsewhere = i32::try_from(elsewhere).unwrap();
    let mut client = Client::connect(&one).await;
    let batch = Some(records(&["x"], Compression::None));
    for version in 3..=11 {
        let request = produce("t", -1, &[(elsewhere, batch.clone())]);
        let answer: ProduceResponse = client.call(version, &request).await;
        let part = &answer.responses[0].partition_responses[0];
        assert_eq!((part.error_code, part.base_offset), (6, -1));
        if version >= 10 {
            assert_eq!(part.current_leader.leader_id, two.broker.id().0);
            let at = &answer.node_endpoints[0];
            assert_eq!(format!("{}:{}", at.host, at.port), two.kafka);
        }
    }
    for version in 4..=12 {
        let mut request = fetch("t", 0, 1, 10_000);
        request.topics[0].partitions[0].partition = elsewhere;
        let answer: FetchResponse = client.call(version, &request).await;
        assert_eq!(answer.responses[0].partitions[0].error_code, 6);
    }
    let answer: MetadataResponse = client.call(9, &MetadataRequest::default()).await;
    assert_eq!(answer.brokers.len(), 2);
    let mut right = Client::connect(&two).await;
    assert_eq!(produced(&mut right, 9, &produce("t", -1, &[(elsewhere, batch)])).await.0, 0);
}

/// A large frame gives its room back when it is answered, not when the next one is: else two of them wait for each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_may_send_large_frames_one_after_the_other() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    // Room for one frame of the largest size.
    let config = Config { produce_bytes: 0, ..Config::default() };
    let node = Node::start_with(&cluster, config).await;
    let request = v1::CreateTopicRequest {
        name: "t".to_owned(),
        partitions: 1,
        configs: [("max.message.bytes".to_owned(), "16000000".to_owned())].into(),
        ..Default::default()
    };
    node.topics().await.create_topic(request).await.unwrap();
    node.wait_owned_by("t", node.broker.id()).await;
    let mut client = Client::connect(&node).await;
    let large = Some(records(&[&"x".repeat(10_000_000)], Compression::None));
    for offset in 0..3 {
        let answer = produced(&mut client, 9, &produce("t", -1, &[(0, large.clone())])).await;
        assert_eq!(answer, (0, offset));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_before_a_bad_request_is_answered() {
    let (_cluster, node) = rig().await;
    let mut client = Client::connect(&node).await;
    let batch = Some(records(&["x"], Compression::None));
    let first = client.send(9, &produce("t", -1, &[(0, batch.clone())])).await;
    let second = client.send(9, &MetadataRequest::default()).await;
    let third = client.send(9, &produce("t", -1, &[(0, batch)])).await;
    client.stream.write_all(&[0xff; 16]).await.unwrap();
    for correlation in [first, second, third] {
        let frame = client.frame().await.expect("an answer to each good one");
        assert_eq!(frame[..4], correlation.to_be_bytes());
    }
    assert!(client.is_closed().await);
}

/// Too little to answer with is answered when the time is over, and a little more does not end the wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_waits_for_enough_or_for_its_time() {
    let (_cluster, node) = rig().await;
    let (mut reader, mut writer) = (Client::connect(&node).await, Client::connect(&node).await);
    let batch = |value: &str| Some(records(&[value], Compression::None));
    let small = produce("t", -1, &[(0, batch("a"))]);
    assert_eq!(produced(&mut writer, 9, &small).await.0, 0);
    let (code, _, values) = fetched(&mut reader, 11, &fetch("t", 0, 100_000, 300)).await;
    assert_eq!((code, values), (0, vec!["a".to_owned()]), "its time is over");
    reader.send(11, &fetch("t", 0, 100_000, 60_000)).await;
    assert_eq!(produced(&mut writer, 9, &small).await.0, 0);
    let large = "b".repeat(100_000);
    assert_eq!(produced(&mut writer, 9, &produce("t", -1, &[(0, batch(&large))])).await.0, 0);
    let answer: FetchResponse = reader.answer::<FetchRequest, _>(11).await;
    let (code, end, got) = values_of(&answer);
    assert_eq!((code, end, got), (0, 3, 3), "enough of it");
}

fn values_of(answer: &FetchResponse) -> (i16, i64, usize) {
    let (code, end, values) = values(answer);
    (code, end, values.len())
}

/// A broker that stops lets its clients read what it has answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stops_is_read_to_the_end() {
    let (_cluster, node) = rig().await;
    let mut client = Client::connect(&node).await;
    let large = Some(records(&[&"x".repeat(1_000_000)], Compression::None));
    for _ in 0..7 {
        assert_eq!(produced(&mut client, 9, &produce("t", -1, &[(0, large.clone())])).await.0, 0);
    }
    let mut request = fetch("t", 0, 7_000_000, 30_000);
    request.topics[0].partitions[0].partition_max_bytes = 1 << 24;
    client.send(11, &request).await;
    // More than sockets hold of an answer that is not read.
    let length = client.stream.read_u32().await.unwrap() as usize;
    assert!(length > 7_000_000, "{length}");
    let broker = node.broker.clone();
    let tasks = Tasks::new("test");
    let stopping = tasks.spawn("shutdown", async move { broker.shutdown().await });
    let left = async {
        while node.broker.0.registration.is_registered() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, left).await.expect("it leaves in time");
    let mut answer = vec![0; length];
    client.stream.read_exact(&mut answer).await.expect("the whole answer");
    stopping.await.unwrap();
}
