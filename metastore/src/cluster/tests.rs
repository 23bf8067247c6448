use std::collections::BTreeSet;

use geminga_runtime::{ManualClock, SeededRandom};

use super::*;
use crate::conformance::Place;
use crate::{MemoryStore, Txn};

async fn init_with(store: &dyn MetaStore, seed: u64) -> Result<Cluster, ClusterError> {
    init(store, &SeededRandom::new(seed), &ManualClock::at(77)).await
}

async fn open_with(store: &dyn MetaStore, seed: u64) -> Result<Cluster, ClusterError> {
    open_or_init(store, &SeededRandom::new(seed), &ManualClock::at(77)).await
}

async fn of_two_that_init_one_wins(place: Place) {
    let store = place.store.as_ref();
    let (a, b) = futures::join!(init_with(store, 1), init_with(store, 2));
    let (stored, _) = read(store).await.unwrap().unwrap();
    match (a, b) {
        (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => {
            assert_eq!(won, stored);
            assert_eq!(lost, ClusterError::Exists(won.uuid));
        }
        both => panic!("one wins: {both:?}"),
    }
}

async fn servers_that_start_together_agree(place: Place) {
    let store = place.store.as_ref();
    let opened = futures::future::join_all((0..5).map(|seed| open_with(store, seed))).await;
    let (stored, _) = read(store).await.unwrap().unwrap();
    for cluster in opened {
        assert_eq!(cluster.unwrap(), stored);
    }
    let ids = (0..20).map(|_| async { next_broker_id(store).await.unwrap() });
    let ids: BTreeSet<i32> =
        futures::future::join_all(ids).await.into_iter().map(|id| id.0).collect();
    assert_eq!(ids, (1..=20).collect(), "each its own number, none lost");
}

#[tokio::test]
async fn of_two_that_init_one_wins_in_memory() {
    of_two_that_init_one_wins(Place::memory().await).await;
}

#[tokio::test]
async fn of_two_that_init_one_wins_in_a_file() {
    of_two_that_init_one_wins(Place::embedded().await).await;
}

#[tokio::test]
async fn of_two_that_init_one_wins_in_etcd() {
    of_two_that_init_one_wins(Place::etcd().await).await;
}

#[tokio::test]
async fn servers_that_start_together_agree_in_memory() {
    servers_that_start_together_agree(Place::memory().await).await;
}

#[tokio::test]
async fn servers_that_start_together_agree_in_a_file() {
    servers_that_start_together_agree(Place::embedded().await).await;
}

#[tokio::test]
async fn servers_that_start_together_agree_in_etcd() {
    servers_that_start_together_agree(Place::etcd().await).await;
}

#[tokio::test]
async fn a_cluster_is_made_only_where_nothing_is() {
    let store = MemoryStore::new();
    assert_eq!(next_broker_id(&store).await, Err(ClusterError::Missing));
    store.txn(Txn::new().put("zzz", "1")).await.unwrap();
    let not_empty = ClusterError::NotEmpty("zzz".to_owned());
    assert_eq!(init_with(&store, 1).await, Err(not_empty.clone()));
    assert_eq!(open_with(&store, 1).await, Err(not_empty), "never made over somebody's data");
    store.txn(Txn::new().delete("zzz")).await.unwrap();
    let made = init_with(&store, 1).await.unwrap();
    assert_eq!((made.next_broker, made.created_ms), (BrokerId(1), 77));
    assert_eq!(init_with(&store, 2).await, Err(ClusterError::Exists(made.uuid)));
    assert_eq!(open_with(&store, 3).await, Ok(made));
}

#[tokio::test]
async fn a_damaged_cluster_is_not_made_anew() {
    let store = MemoryStore::new();
    store.txn(Txn::new().put(keys::CLUSTER, "no cluster")).await.unwrap();
    let error = open_with(&store, 1).await.unwrap_err();
    assert!(matches!(error, ClusterError::Metadata(Error::Corrupt { .. })), "{error:?}");
}

#[tokio::test]
async fn numbers_end_and_do_not_wrap() {
    let store = MemoryStore::new();
    let made = init_with(&store, 1).await.unwrap();
    let last = Cluster { next_broker: BrokerId(i32::MAX), ..made };
    store.txn(Txn::new().put(keys::CLUSTER, last.encode())).await.unwrap();
    assert_eq!(next_broker_id(&store).await, Err(ClusterError::NoBrokerIds));
}
