//! A registration that ends, over metadata that is another's by then.

use std::sync::atomic::Ordering::SeqCst;

use geminga_metastore::record::{Cluster, Restored};
use geminga_metastore::{MemoryStore, Range, Revision, Versioned, WatchStream};
use geminga_proto::ids::TopicId;

use super::*;
use crate::partition::testing::number_brokers;

const TTL: Duration = Duration::from_secs(3);
const ID: BrokerId = BrokerId(7);

async fn registered(store: &MemoryStore) -> Result<(Registration, Tasks), Error> {
    number_brokers(store).await;
    register(store).await
}

async fn register(store: &MemoryStore) -> Result<(Registration, Tasks), Error> {
    register_over(Arc::new(store.clone())).await
}

async fn register_over(shared: Arc<dyn MetaStore>) -> Result<(Registration, Tasks), Error> {
    let tasks = Tasks::new("broker");
    let groups = (TopicId::from_random(1), 4);
    let topology = Topology::start(Arc::clone(&shared), &tasks, groups).await?;
    let identity = Identity {
        grpc_address: "127.0.0.1:1".to_owned(),
        http_address: String::new(),
        zone: String::new(),
        kafka: Vec::new(),
        started_ms: 0,
    };
    let started = Registration::start(shared, topology, &tasks, (ID, 0), identity, TTL).await?;
    Ok((started, tasks))
}

/// A store that was waited for: the first lease has ended by the time it is used, and what is written with the second is sent twice.
#[derive(Debug)]
struct Waited(MemoryStore, std::sync::atomic::AtomicUsize);

#[async_trait::async_trait]
impl MetaStore for Waited {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        self.0.get(key).await
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        self.0.range(prefix, after, limit).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        self.0.txn(txn.clone()).await?;
        self.0.txn(txn).await
    }

    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, Error> {
        self.0.watch(prefix, from).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let lease = self.0.grant_lease(ttl).await?;
        if self.1.fetch_add(1, SeqCst) == 0 {
            self.0.revoke_lease(lease).await?;
        }
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.0.keep_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.0.revoke_lease(lease).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_waited_for_does_not_refuse_a_broker() {
    let store = MemoryStore::new();
    number_brokers(&store).await;
    let waited = Arc::new(Waited(store.clone(), 0.into()));
    let (registration, _tasks) = register_over(waited.clone()).await.unwrap();
    assert_eq!(waited.1.load(SeqCst), 2, "one lease that ended, and one that stands");
    assert!(registration.is_registered());
    assert!(store.get(&keys::broker(ID)).await.unwrap().is_some());
}

async fn change(store: &MemoryStore, change: impl FnOnce(&mut Cluster)) {
    let (mut cluster, version) = cluster::read(store).await.unwrap().unwrap();
    change(&mut cluster);
    store.put_if(keys::CLUSTER, Some(version), cluster.encode()).await.unwrap().unwrap();
}

/// The lease ends, as it does when the broker is cut off.
async fn end(store: &MemoryStore, registration: &Registration) {
    let Standing::Registered { lease } = registration.standing() else { panic!("registered") };
    store.revoke_lease(lease).await.unwrap();
}

/// M1: it is of a life that the metadata has lost, or of one that others go on with.
#[tokio::test(start_paused = true)]
async fn scenario_43_a_broker_that_outlived_its_metadata_stops() {
    let restored = |audited| Some(Restored { at_ms: 1, audited });
    let next_epoch = |cluster: &mut Cluster| {
        (cluster.epoch, cluster.restored) = (1, restored(true));
    };
    let not_audited = |cluster: &mut Cluster| cluster.restored = restored(false);
    let before_its_number = |cluster: &mut Cluster| cluster.next_broker = ID;
    let changes: [&dyn Fn(&mut Cluster); 3] = [&next_epoch, &not_audited, &before_its_number];
    for (case, what) in changes.into_iter().enumerate() {
        let store = MemoryStore::new();
        let (registration, tasks) = registered(&store).await.unwrap();
        change(&store, what).await;
        end(&store, &registration).await;
        let stopped = tokio::time::timeout(10 * TTL, tasks.cancelled()).await;
        stopped.unwrap_or_else(|_| panic!("case {case}: it goes on"));
        assert!(!registration.is_registered());
        assert_eq!(store.get(&keys::broker(ID)).await.unwrap(), None, "case {case}");
        let refused = register(&store).await.unwrap_err();
        assert!(matches!(refused, Error::Unavailable(_)), "case {case}: {refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_whose_lease_ended_comes_back_while_others_start() {
    let store = MemoryStore::new();
    let (registration, tasks) = registered(&store).await.unwrap();
    let first = registration.standing();
    change(&store, |cluster| cluster.next_broker = BrokerId(1_001)).await;
    end(&store, &registration).await;
    let mut standing = registration.watch();
    let again = standing.wait_for(|now| *now != first && *now != Standing::Lost);
    tokio::time::timeout(10 * TTL, again).await.unwrap().unwrap();
    assert!(registration.is_registered() && !tasks.is_cancelled());
}
