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
mod fetching;
mod groups;
mod kafka;
mod owners;
mod probes;
mod producing;
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
        let own = self.broker.id();
        let even = |view: &crate::ownership::topology::Topology| {
            // Whoever is alone has all there is.
            view.brokers().iter().find(|broker| broker.id == own)?;
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
