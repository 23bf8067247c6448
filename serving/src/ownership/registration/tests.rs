//! A registration that ends, over metadata that is another's by then.

use geminga_metastore::MemoryStore;
use geminga_metastore::record::{Cluster, Restored};
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
    let (shared, tasks) = (Arc::new(store.clone()) as Arc<dyn MetaStore>, Tasks::new("broker"));
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
