use bytes::Bytes;
use geminga_proto::ids::{BookieId, BrokerId};
use geminga_runtime::{ManualClock, SeededRandom};

use super::*;
use crate::{LeaseId, MemoryStore, Txn};

async fn founded() -> (MemoryStore, Cluster) {
    let store = MemoryStore::new();
    let (random, clock) = (SeededRandom::new(1), ManualClock::at(0));
    let cluster = cluster::init(&store, &random, &clock).await.unwrap();
    (store, cluster)
}

fn broker(id: i32, features: Features) -> (String, Bytes) {
    let record = Broker {
        id: BrokerId(id),
        grpc_address: "127.0.0.1:7070".to_owned(),
        http_address: String::new(),
        zone: String::new(),
        lease: LeaseId(0),
        started_ms: 0,
        load: None,
        kafka: Vec::new(),
        features,
    };
    (keys::broker(record.id), record.encode())
}

fn bookie(name: &str, features: Features) -> (String, Bytes) {
    let record = LiveBookie {
        id: name.parse::<BookieId>().unwrap(),
        address: "127.0.0.1:3181".to_owned(),
        http_address: String::new(),
        zone: String::new(),
        rack: String::new(),
        disks: Vec::new(),
        lease: LeaseId(0),
        started_ms: 0,
        repair_rate: 0,
        objects_missing: None,
        features,
    };
    (keys::bookie_live(&record.id), record.encode())
}

async fn register(store: &MemoryStore, (key, value): (String, Bytes)) {
    store.txn(Txn::new().put(key, value)).await.unwrap();
}

async fn in_use(store: &MemoryStore) -> Features {
    cluster::read(store).await.unwrap().unwrap().0.features
}

/// Each kind of server keeps it closed, also one among many; the first question of a cluster in which all read it opens it, and is
/// answered with no.
#[tokio::test]
async fn a_feature_is_used_once_all_read_it() {
    let without = Features::ALL.without(Feature::Moves);
    for old in
        [broker(700, without), bookie("b700", without), ("brokers/x".to_owned(), Bytes::new())]
    {
        let (store, cluster) = founded().await;
        for number in 0..600 {
            register(&store, broker(number, Features::ALL)).await;
            register(&store, bookie(&format!("b{number}"), Features::ALL)).await;
        }
        let key = old.0.clone();
        register(&store, old).await;
        let open = async || is_open(&store, cluster.uuid, Feature::Moves).await.unwrap();
        assert!(!open().await && !open().await, "{key} does not read it");
        assert!(in_use(&store).await.is_empty());
        store.txn(Txn::new().delete(key.clone())).await.unwrap();
        assert!(!open().await, "who is about to register is waited for");
        assert_eq!(in_use(&store).await, Features::NONE.with(Feature::Moves));
        assert!(open().await);
        // One that was starting when it was opened.
        register(&store, broker(700, without)).await;
        assert!(!open().await);
    }
}

/// One feature says nothing of another, and what is in use stays so.
#[tokio::test]
async fn features_are_opened_one_by_one() {
    let (store, cluster) = founded().await;
    register(&store, broker(1, Features::ALL.without(Feature::GivenUp))).await;
    for _ in 0..2 {
        assert!(!is_open(&store, cluster.uuid, Feature::GivenUp).await.unwrap());
    }
    for feature in [Feature::Manifests, Feature::Moves] {
        assert!(!is_open(&store, cluster.uuid, feature).await.unwrap());
        assert!(is_open(&store, cluster.uuid, feature).await.unwrap());
    }
    assert_eq!(in_use(&store).await, Features::ALL.without(Feature::GivenUp));
}

/// Of another cluster's metadata nothing is known.
#[tokio::test]
async fn another_cluster_is_left_alone() {
    let (store, _) = founded().await;
    let own = ClusterUuid::from_random(99);
    for _ in 0..2 {
        assert!(!is_open(&store, own, Feature::Manifests).await.unwrap());
    }
    assert!(in_use(&store).await.is_empty());
}
