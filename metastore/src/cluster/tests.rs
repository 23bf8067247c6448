use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use geminga_runtime::{ManualClock, SeededRandom};

use super::*;
use crate::conformance::Place;
use crate::{LeaseId, MemoryStore, Range, Revision, Txn, TxnOutcome, Versioned, WatchStream};

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

/// A store on which another process makes the cluster right before this one does something.
#[derive(Debug)]
struct Raced {
    store: MemoryStore,
    before: Step,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Range,
    Txn,
}

impl Raced {
    async fn another(&self, now: Step) {
        if self.before == now {
            // Fails the second time, which is as it should be.
            let _exists = init_with(&self.store, 99).await;
        }
    }
}

#[async_trait]
impl MetaStore for Raced {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        self.store.get(key).await
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        self.another(Step::Range).await;
        self.store.range(prefix, after, limit).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        self.another(Step::Txn).await;
        self.store.txn(txn).await
    }

    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, Error> {
        self.store.watch(prefix, from).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.store.grant_lease(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.store.keep_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.store.revoke_lease(lease).await
    }
}

#[tokio::test]
async fn a_cluster_made_at_any_moment_by_another_is_taken() {
    for before in [Step::Range, Step::Txn] {
        let raced = Raced { store: MemoryStore::new(), before };
        let opened = open_with(&raced, 1).await;
        let (stored, _) = read(&raced).await.unwrap().unwrap();
        assert_eq!(opened, Ok(stored.clone()), "{raced:?}");
        assert_ne!(init_with(&MemoryStore::new(), 1).await, Ok(stored), "the other one's");
    }
}
