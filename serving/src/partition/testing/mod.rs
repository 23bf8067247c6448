//! A small cluster in memory for tests of partitions: metadata, bookies on the production ledger core, and as many
//! brokers as a test wants. Run it on a paused clock.

mod bookies;
mod store;

use std::collections::BTreeMap;
use std::sync::Arc;

use geminga_ledger::{LedgerClient, Parts};
use geminga_metastore::record::{self, Assign, Assignment, Cookie, LiveBookie, LiveDisk, Segment};
use geminga_metastore::{LeaseId, LedgerIds, MemoryStore, MetaStore, cluster, keys};
use geminga_proto::caps;
use geminga_proto::ids::{
    BookieId, BrokerId, ClusterUuid, Incarnation, PartitionIndex, Term, TopicId,
};
use geminga_runtime::{ManualClock, SeededRandom, SystemClock, SystemRandom, Tasks};
use tokio::sync::watch;

pub(crate) use bookies::{MemoryBookies, Mode};
pub(crate) use store::{Fault, FaultyStore};

use super::log::{LogConfig, LogParts, Reads, Tails};
use crate::ownership::topology::Topic;
use crate::topics::config::Settings;
use crate::topics::quorum::Quorum;

/// What the clock says at first, and when topics are made.
pub(crate) const CREATED_MS: i64 = 1_700_000_000_000;

/// Everything below the brokers.
#[derive(Debug, Clone)]
pub(crate) struct TestCluster {
    pub(crate) store: MemoryStore,
    pub(crate) bookies: MemoryBookies,
    pub(crate) clock: ManualClock,
    pub(crate) tasks: Tasks,
    /// Whether brokers find their metadata store silent.
    pub(crate) silence: Arc<watch::Sender<bool>>,
    /// What brokers' ledgers are like.
    pub(crate) ledgers: geminga_ledger::Config,
    uuid: ClusterUuid,
}

/// A cluster in `store` whose brokers up to number 999 may register.
pub(crate) async fn number_brokers(store: &MemoryStore) {
    let (cluster, version) = match cluster::read(store).await.unwrap() {
        Some((cluster, version)) => (cluster, Some(version)),
        None => {
            let made = record::Cluster {
                uuid: ClusterUuid::from_random(77),
                epoch: 0,
                group_shards: 8,
                next_broker: BrokerId(1),
                groups_topic: TopicId::from_random(78),
                created_ms: CREATED_MS,
                restored: None,
                features: record::Features::NONE,
            };
            (made, None)
        }
    };
    let next_broker = BrokerId(1_000).max(cluster.next_broker);
    let raised = record::Cluster { next_broker, ..cluster };
    store.put_if(keys::CLUSTER, version, raised.encode()).await.unwrap();
}

impl TestCluster {
    /// A cluster with `bookies` live bookies.
    pub(crate) fn new(bookies: usize) -> Self {
        let uuid = ClusterUuid::from_random(77);
        let store = MemoryStore::new();
        let bookies = MemoryBookies::new(uuid, Arc::new(store.clone()), bookies);
        let clock = ManualClock::at(CREATED_MS);
        let silence = Arc::new(watch::Sender::new(false));
        let ledgers = geminga_ledger::Config::default();
        Self { store, bookies, clock, tasks: Tasks::new("test"), silence, ledgers, uuid }
    }

    /// The cluster.
    pub(crate) fn uuid(&self) -> ClusterUuid {
        self.uuid
    }

    /// Bookies that take data, as the metadata shows them to brokers.
    pub(crate) async fn show_bookies(&self, count: usize) {
        cluster::open_or_init(&self.store, &SystemRandom, &SystemClock).await.unwrap();
        for n in 1..=count {
            let id: BookieId = format!("bookie-{n}").parse().unwrap();
            let cookie = Cookie { cluster: self.uuid, bookie: id.clone(), disks: Vec::new() };
            let disk = LiveDisk {
                incarnation: Incarnation(1),
                writable: true,
                free_bytes: 1,
                total_bytes: 2,
            };
            let live = LiveBookie {
                id: id.clone(),
                address: "127.0.0.1:1".to_owned(),
                http_address: String::new(),
                zone: String::new(),
                rack: String::new(),
                disks: vec![disk],
                lease: LeaseId(1),
                started_ms: 0,
                repair_rate: 0,
                objects_missing: None,
                features: record::Features::ALL,
            };
            self.store.put_if(&keys::bookie_cookie(&id), None, cookie.encode()).await.unwrap();
            self.store.put_if(&keys::bookie_live(&id), None, live.encode()).await.unwrap();
        }
    }

    /// What the logs of broker `id` are made from.
    pub(crate) fn log_parts(&self, id: i32) -> LogParts {
        self.log_parts_on(id, Arc::new(self.store.clone()))
    }

    /// The same with a metadata store of its own.
    pub(crate) fn log_parts_on(&self, id: i32, store: Arc<dyn MetaStore>) -> LogParts {
        let parts = Parts {
            cluster: self.uuid,
            ids: Arc::new(LedgerIds::new(Arc::clone(&store), 0)),
            store: Arc::clone(&store),
            bookies: Arc::new(self.bookies.clone()),
            clock: Arc::new(self.clock.clone()),
            random: Arc::new(SeededRandom::new(u64::from(id.unsigned_abs()))),
            tasks: self.tasks.child("ledgers"),
            config: self.ledgers.clone(),
            owner: format!("broker-{id}"),
        };
        LogParts {
            store,
            ledgers: LedgerClient::new(parts),
            me: BrokerId(id),
            tasks: self.tasks.child("logs"),
            silence: self.silence.subscribe(),
            tails: Tails::new(usize::MAX),
            reads: Reads::new(
                usize::MAX,
                u64::MAX,
                Arc::new(self.bookies.clone()),
                self.tasks.child("reads"),
            ),
            cold: None,
            config: LogConfig::default(),
        }
    }

    /// Creates a topic of the default namespace, with copies on two of three bookies.
    pub(crate) async fn create_topic(&self, name: &str, partitions: u32) -> Arc<Topic> {
        let id = TopicId::from_random(u128::from(crc(name)));
        let quorum = Quorum::CLUSTER;
        let configs = BTreeMap::new();
        let stored = record::Topic {
            id,
            partitions,
            write_quorum: quorum.write,
            ack_quorum: quorum.ack,
            replication_factor: None,
            configs: configs.clone(),
            created_ms: CREATED_MS,
        };
        let key = keys::topic("default", name);
        let version = self.store.put_if(&key, None, stored.encode()).await.unwrap();
        Arc::new(Topic {
            id,
            namespace: "default".to_owned(),
            name: name.to_owned(),
            partitions,
            quorum: Some(quorum),
            replication_factor: None,
            settings: Settings::from_configs(&configs),
            configs,
            created_ms: CREATED_MS,
            created: version.map(|v| geminga_metastore::Revision(v.0)),
            version,
        })
    }

    /// Assigns one partition; others of its chunk keep what they have.
    pub(crate) async fn assign(&self, topic: TopicId, partition: u32, broker: i32, term: i32) {
        let chunk = partition / caps::ASSIGN_CHUNK;
        let key = keys::assign(topic, chunk);
        let found = self.store.get(&key).await.unwrap();
        let mut assign = match &found {
            Some(found) => Assign::decode(&found.value).unwrap(),
            None => Assign { partitions: Vec::new() },
        };
        let index = (partition % caps::ASSIGN_CHUNK) as usize;
        if assign.partitions.len() <= index {
            let nobody = Assignment { broker: None, term: Term(0) };
            assign.partitions.resize(index + 1, nobody);
        }
        assign.partitions[index] = Assignment { broker: Some(BrokerId(broker)), term: Term(term) };
        let version = found.map(|found| found.version);
        assert!(self.store.put_if(&key, version, assign.encode()).await.unwrap().is_some());
    }

    /// A partition's segments, in log order.
    pub(crate) async fn stored_segments(&self, topic: TopicId, partition: u32) -> Vec<Segment> {
        let prefix = keys::segments_of(topic, PartitionIndex(partition));
        let found = self.store.range(&prefix, None, 10_000).await.unwrap();
        found.items.iter().map(|item| Segment::decode(&item.value.value).unwrap()).collect()
    }

    /// How many segments a partition has.
    pub(crate) async fn segments(&self, topic: TopicId, partition: u32) -> usize {
        self.stored_segments(topic, partition).await.len()
    }
}

/// A number that follows from a name.
fn crc(name: &str) -> u64 {
    name.bytes().fold(7, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)))
}
