use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use geminga_metastore::{MetaStore, Txn, TxnOutcome, keys};
use geminga_proto::ids::{BrokerId, Offset, PartitionIndex, Term, TopicId};
use geminga_proto::reason::{ApiError, Reason};
use geminga_records::{Compression, Sequence};
use geminga_runtime::Tasks;
use geminga_runtime::requests::Requests;

use super::*;
use crate::ownership::registration::Identity;
use crate::partition::samples::{batch_at, batch_from, batch_of, values};
use crate::partition::testing::{Fault, FaultyStore, Mode, TestCluster, number_brokers};
use crate::router::{Appended, Pending};

mod closing;
mod dating;
mod faults;
mod idempotence;
mod opening;
mod reading;
mod retention;
mod writing;

const P0: PartitionIndex = PartitionIndex(0);
const SOON: Duration = Duration::from_secs(60);

/// Three bookies, one topic of one partition.
struct Rig {
    cluster: TestCluster,
    topic: Arc<Topic>,
}

impl Rig {
    /// With the partition assigned to broker 1 under term 1.
    async fn new() -> Self {
        let cluster = TestCluster::new(3);
        let topic = cluster.create_topic("flights", 1).await;
        cluster.assign(topic.id, 0, 1, 1).await;
        Self { cluster, topic }
    }

    async fn broker(&self, id: i32) -> TestBroker {
        self.broker_on(id, Arc::new(self.cluster.store.clone()), Config::default()).await
    }

    /// A broker whose logs have a store of their own.
    async fn broker_on(&self, id: i32, store: Arc<dyn MetaStore>, config: Config) -> TestBroker {
        let tasks = self.cluster.tasks.child("broker");
        let view = tasks.child("view");
        number_brokers(&self.cluster.store).await;
        let shared: Arc<dyn MetaStore> = Arc::new(self.cluster.store.clone());
        let groups = (TopicId::from_random(4), 1);
        let topology = Topology::start(Arc::clone(&shared), &view, groups).await.unwrap();
        let identity = Identity {
            grpc_address: format!("broker-{id}:7070"),
            http_address: String::new(),
            zone: String::new(),
            kafka: Vec::new(),
            started_ms: 0,
        };
        let registration = Registration::start(
            shared,
            topology.clone(),
            &tasks,
            (BrokerId(id), 0),
            identity,
            Duration::from_secs(3),
        )
        .await
        .unwrap();
        let partitions = Partitions::start(PartitionsParts {
            log: self.cluster.log_parts_on(id, store),
            topology: topology.clone(),
            registration: registration.clone(),
            router: None,
            default_quorum: Quorum::CLUSTER,
            clock: Arc::new(self.cluster.clock.clone()),
            requests: Requests::default(),
            tasks,
            config,
        });
        let topic = Arc::clone(&self.topic);
        let broker = TestBroker { partitions, topology, registration, topic, view };
        broker.sees(|broker| broker.topology.topic_by_id(broker.topic.id).is_some()).await;
        broker
    }

    /// Gives the partition another owner.
    async fn assign(&self, broker: i32, term: i32) {
        self.cluster.assign(self.topic.id, 0, broker, term).await;
    }
}

struct TestBroker {
    partitions: Partitions,
    topology: Topology,
    registration: Registration,
    topic: Arc<Topic>,
    /// The task that follows the cluster; without it this broker learns nothing.
    view: Tasks,
}

impl TestBroker {
    async fn sees(&self, what: impl Fn(&Self) -> bool) {
        self.topology.wait_for(SOON, |_| what(self).then_some(())).await.expect("seen soon");
    }

    /// Waits until this broker's view names it, or another one, the owner under `term`.
    async fn sees_term(&self, term: i32) {
        self.sees(|broker| {
            let owner = broker.topology.owner(broker.topic.id, P0);
            owner.is_some_and(|owner| owner.term == Term(term))
        })
        .await;
    }

    async fn appender(&self) -> Result<Arc<dyn Appender>, ApiError> {
        self.partitions.appender(Arc::clone(&self.topic), P0).await
    }

    /// Whether the partition is assigned to this broker, as far as it knows.
    fn appender_is_here(&self) -> bool {
        let owner = self.topology.owner(self.topic.id, P0);
        owner.is_some_and(|owner| owner.broker == self.registration.id())
    }

    /// The same for an idempotent producer.
    async fn submit_from(&self, value: &str, sequence: Sequence) -> Result<Pending, ApiError> {
        self.appender().await?.append(batch_from(value, sequence)).await
    }

    async fn produce_from(&self, value: &str, sequence: Sequence) -> Result<i64, ApiError> {
        Ok(self.submit_from(value, sequence).await?.await?.base_offset.0)
    }

    async fn submit(&self, value: &str) -> Result<Pending, ApiError> {
        self.appender().await?.append(batch_of(value)).await
    }

    async fn produce(&self, value: &str) -> Result<i64, ApiError> {
        let Appended { base_offset, .. } = self.submit(value).await?.await?;
        Ok(base_offset.0)
    }

    async fn read(&self, spec: ReadSpec) -> Result<Read, ApiError> {
        self.partitions.read(Arc::clone(&self.topic), P0, spec).await
    }

    /// All that is committed.
    async fn all(&self) -> Vec<(i64, String)> {
        let mut all = Vec::new();
        let mut spec = at(0);
        loop {
            let read = self.read(spec).await.unwrap();
            if read.batches.is_empty() {
                assert_eq!(read.next_offset, read.high_watermark);
                return all;
            }
            all.extend(values(&read.batches));
            spec.offset = read.next_offset;
        }
    }

    async fn find(&self, at: OffsetAt) -> FoundOffset {
        self.partitions.find_offset(Arc::clone(&self.topic), P0, at).await.unwrap()
    }
}

/// Whatever is there from `offset` on.
fn at(offset: i64) -> ReadSpec {
    ReadSpec { offset: Offset(offset), max_bytes: 1 << 20, min_bytes: 1, max_wait: Duration::ZERO }
}

fn reason<T>(result: Result<T, ApiError>) -> Reason {
    result.err().expect("an error").reason
}
