//! Brokers for the tests of APIs: real ones on bookies and metadata in memory, asked without a socket. A request passes the codec
//! both ways, and the table's dispatch; every answer is read by a second, independent codec as well.

pub(super) mod oracle;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use geminga_metastore::record::KafkaListener;
use geminga_metastore::{MetaStore, cluster};
use geminga_proto::ids::{BrokerId, Offset};
use geminga_records::{Batch, Compression, Record, encode};
use geminga_runtime::requests::{Requests, RequestsConfig};
use geminga_runtime::{SystemClock, SystemRandom, Tasks};
use tokio::net::TcpListener;

use super::Kafka;
use super::api;
use super::call::{Answer, Call, Hangup, Peer, Reply};
use super::codec::messages::{KafkaMessage, KafkaRequest, RequestResponsePair};
use super::codec::{self, Header};
use super::lanes::Lanes;
use crate::broker::{Broker, BrokerParts, Config};
use crate::ownership::registration::Identity;
use crate::ownership::topology::{Topic, Topology};
use crate::partition::testing::{Mode, TestCluster};
use crate::router::{OffsetAt, ReadSpec, check_partition};
use crate::topics::NewTopic;
use crate::topics::quorum::Quorum;

/// No wait of these tests is longer than this.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
/// Name of the listener that all clients of the rig come by.
pub(super) const LISTENER: &str = "PLAINTEXT";
/// As servers have it.
const SLOW: RequestsConfig =
    RequestsConfig { slow: Duration::from_secs(1), traced: 0.0, adopt: None };
const CORRELATION: i32 = 0x0a0b_0c0d;

/// A cluster of brokers with three bookies.
pub(super) struct Rig {
    cluster: TestCluster,
    nodes: Vec<Node>,
}

struct Node {
    broker: Broker,
    tasks: Tasks,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

impl Rig {
    /// So many brokers, with the configuration that tests have.
    pub(super) async fn start(brokers: usize) -> Self {
        Self::start_with(brokers, super::Config::default()).await
    }

    /// The same with another configuration.
    pub(super) async fn start_with(brokers: usize, kafka: super::Config) -> Self {
        Self::start_as(brokers, Config { kafka, ..Config::default() }).await
    }

    /// The same with another configuration of the whole broker.
    pub(super) async fn start_as(brokers: usize, config: Config) -> Self {
        let cluster = TestCluster::new(3);
        cluster.show_bookies(3).await;
        let mut nodes = Vec::new();
        for n in 0..brokers {
            nodes.push(Node::start(&cluster, n, &config).await);
        }
        let rig = Self { cluster, nodes };
        // Balanced, too: what is moved later would change owners under a test.
        for node in &rig.nodes {
            let all = |view: &Topology| {
                let there = view.brokers().len() == brokers && view.coordinator().is_some();
                let groups = view.owners(&view.groups_topic());
                let owned = rig.nodes.iter().map(|node| {
                    let id = Some(node.broker.id());
                    groups.iter().filter(|owner| owner.broker == id).count()
                });
                let owned: Vec<usize> = owned.collect();
                let least = owned.iter().copied().min().unwrap_or(0);
                let even = least > 0 && owned.iter().all(|count| count - least <= 2);
                (there && groups.len() == owned.iter().sum::<usize>() && even).then_some(())
            };
            node.topology().wait_for(LIMIT, all).await.expect("brokers know each other in time");
        }
        rig
    }

    /// A broker's number.
    pub(super) fn broker_id(&self, node: usize) -> BrokerId {
        self.nodes[node].broker.id()
    }

    /// What a broker knows.
    pub(super) fn topology(&self, node: usize) -> &Topology {
        self.nodes[node].topology()
    }

    /// What a broker's services share.
    pub(super) fn context(&self, node: usize) -> &Arc<crate::rpc::context::Context> {
        &self.nodes[node].broker.kafka().ctx
    }

    /// What connections of a broker share.
    pub(super) fn kafka(&self, node: usize) -> &Kafka {
        self.nodes[node].broker.kafka()
    }

    /// How all bookies behave.
    pub(super) fn set_bookies(&self, mode: Mode) {
        self.cluster.bookies.set_all(mode);
    }

    /// Asks the first broker.
    pub(super) async fn call<R: RequestResponsePair>(&self, version: i16, request: R) -> R::Response
    where
        R::Response: KafkaMessage,
    {
        self.call_at(0, version, request).await
    }

    /// Asks a broker.
    pub(super) async fn call_at<R: RequestResponsePair>(
        &self,
        node: usize,
        version: i16,
        request: R,
    ) -> R::Response
    where
        R::Response: KafkaMessage,
    {
        let bytes = self.serve_at(node, version, &request).await.expect("it is answered");
        let flexible = codec::is_flexible::<R>(version);
        let body = open(bytes, R::API_KEY.value(), flexible);
        oracle::check(R::API_KEY.value(), version, &body);
        codec::decode(body, version).expect("an answer that can be read")
    }

    /// Asks the first broker as a client that is not served for a while.
    pub(super) async fn call_owing<R: RequestResponsePair>(
        &self,
        version: i16,
        request: R,
        owed: Duration,
    ) -> R::Response
    where
        R::Response: KafkaMessage,
    {
        let bytes = self.serve_owing(0, version, &request, owed).await.expect("it is answered");
        let body = open(bytes, R::API_KEY.value(), codec::is_flexible::<R>(version));
        codec::decode(body, version).expect("an answer that can be read")
    }

    /// The frame of an answer, or why the connection is closed.
    pub(super) async fn serve_at<R: KafkaRequest>(
        &self,
        node: usize,
        version: i16,
        request: &R,
    ) -> Result<Bytes, Hangup> {
        self.serve_owing(node, version, request, Duration::ZERO).await
    }

    async fn serve_owing<R: KafkaRequest>(
        &self,
        node: usize,
        version: i16,
        request: &R,
        owed: Duration,
    ) -> Result<Bytes, Hangup> {
        let mut bytes = codec::encode_request(CORRELATION, version, request);
        bytes.advance(4);
        let api = api::find(R::API_KEY.value()).expect("it is in the table");
        let kafka = self.nodes[node].broker.kafka().clone();
        let (listener, address) = (LISTENER.to_owned(), ([127, 0, 0, 1], 1).into());
        let peer = Peer { listener, address, lanes: Lanes::default() };
        let mut header = Header::fixed(&mut bytes).expect("a header");
        api.read_header(&mut header, &mut bytes)?;
        let peer = Arc::new(peer);
        let call = Call::new(kafka, peer, header, (0, owed));
        let reply = match api.serve(call, bytes).await? {
            Answer::Ready(reply) => reply,
            Answer::Later(reply) => reply.await?,
            Answer::Quiet { .. } => Reply::default(),
        };
        Ok(reply.pieces.concat().into())
    }

    /// A topic whose partitions have owners at all brokers' views, spread over all of them if there are enough.
    pub(super) async fn create(&self, name: &str, partitions: u32) -> Arc<Topic> {
        let new = NewTopic { name: name.to_owned(), partitions, ..NewTopic::default() };
        let topic = self.context(0).admin.create(new).await.unwrap();
        let wanted = self.nodes.len().min(partitions as usize);
        for node in &self.nodes {
            let spread = |view: &Topology| {
                let topic = view.topic(name)?;
                let owners: Vec<_> = view.owners(&topic).iter().map(|o| o.broker).collect();
                let distinct: std::collections::BTreeSet<_> = owners.iter().flatten().collect();
                (owners.iter().all(Option::is_some) && distinct.len() >= wanted).then_some(())
            };
            node.topology().wait_for(LIMIT, spread).await.expect("a topic is spread in time");
        }
        topic
    }

    /// Which of the brokers owns a partition, and one that does not (the same where there is only one).
    pub(super) fn owner(&self, topic: &Topic, partition: u32) -> (usize, usize) {
        let owners = self.topology(0).owners(topic);
        let owner = owners[partition as usize].broker.expect("it has an owner");
        let at = self.nodes.iter().position(|node| node.broker.id() == owner).expect("a node");
        (at, (at + 1) % self.nodes.len())
    }

    /// Appends records with these values as one batch and waits until they are durable; returns the offset of the first.
    pub(super) async fn append(&self, topic: &Arc<Topic>, partition: u32, values: &[&str]) -> i64 {
        let now = geminga_runtime::WallClock::now_ms(&SystemClock);
        let record = |value: &&str| Record {
            timestamp: now,
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            ..Record::default()
        };
        let records: Vec<_> = values.iter().map(record).collect();
        self.append_batch(topic, partition, encode(&records, Compression::None).unwrap()).await
    }

    /// The same with a batch of any kind.
    pub(super) async fn append_batch(
        &self,
        topic: &Arc<Topic>,
        partition: u32,
        batch: Batch,
    ) -> i64 {
        let partitions = &self.context(self.owner(topic, partition).0).partitions;
        let index = check_partition(topic, partition).unwrap();
        let appender = partitions.appender(Arc::clone(topic), index).await.unwrap();
        let pending = appender.append(batch).await.unwrap();
        tokio::time::timeout(LIMIT, pending).await.unwrap().unwrap().base_offset.0
    }

    /// Batches of a partition from an offset on, as its owner has them.
    pub(super) async fn read(&self, topic: &Arc<Topic>, partition: u32, offset: i64) -> Vec<Bytes> {
        let partitions = &self.context(self.owner(topic, partition).0).partitions;
        let index = check_partition(topic, partition).unwrap();
        let offset = Offset(offset);
        let spec = ReadSpec { offset, max_bytes: 1 << 24, min_bytes: 1, max_wait: Duration::ZERO };
        partitions.read(Arc::clone(topic), index, spec).await.unwrap().batches
    }

    /// Where a partition begins and where it ends.
    pub(super) async fn ends(&self, topic: &Arc<Topic>, partition: u32) -> (i64, i64) {
        let partitions = &self.context(self.owner(topic, partition).0).partitions;
        let index = check_partition(topic, partition).unwrap();
        let find = |at| partitions.find_offset(Arc::clone(topic), index, at);
        let first = find(OffsetAt::Earliest).await.unwrap();
        let last = find(OffsetAt::Latest).await.unwrap();
        (first.offset.unwrap().0, last.offset.unwrap().0)
    }
}

/// The body of an answer's frame, whose head is what it must be.
fn open(mut frame: Bytes, key: i16, flexible: bool) -> Bytes {
    const API_VERSIONS: i16 = 18;
    assert_eq!(frame.get_i32(), i32::try_from(frame.len()).unwrap(), "a frame says its length");
    assert_eq!(frame.get_i32(), CORRELATION);
    if flexible && key != API_VERSIONS {
        assert_eq!(frame.get_u8(), 0, "no tagged fields in the header");
    }
    frame
}

impl Node {
    async fn start(cluster: &TestCluster, number: usize, config: &Config) -> Self {
        let store: Arc<dyn MetaStore> = Arc::new(cluster.store.clone());
        let record = cluster::open_or_init(&*store, &SystemRandom, &SystemClock).await.unwrap();
        let id = cluster::next_broker_id(&*store).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = KafkaListener {
            name: LISTENER.to_owned(),
            host: "127.0.0.1".to_owned(),
            port: 9092 + u16::try_from(number).unwrap(),
        };
        let config = Config {
            lease_ttl: Duration::from_secs(1),
            group_initial_delay: Duration::ZERO,
            ..config.clone()
        };
        let tasks = Tasks::new("broker");
        let parts = BrokerParts {
            store,
            cluster: record,
            id,
            ledgers: cluster.log_parts(id.0).ledgers,
            cold: None,
            identity: Identity {
                grpc_address: listener.local_addr().unwrap().to_string(),
                http_address: String::new(),
                zone: String::new(),
                kafka: vec![at],
                started_ms: 0,
            },
            default_quorum: Quorum::CLUSTER,
            single_copy_allowed: false,
            sole: false,
            dial: geminga_tls::Dial::Plain,
            random: Arc::new(SystemRandom),
            requests: Requests::new(SLOW, &SystemRandom),
            clock: Arc::new(SystemClock),
            tasks: tasks.clone(),
            config,
        };
        let broker = Broker::start(&parts).await.unwrap();
        broker.serve(listener, geminga_tls::Security::plain("grpc"));
        Self { broker, tasks }
    }

    fn topology(&self) -> &Topology {
        self.broker.kafka().ctx.router.topology()
    }
}

#[cfg(test)]
mod tests;
