//! Stores of one name, and clusters that find them.

use std::sync::Arc;

use geminga_metastore::MemoryStore;
use geminga_metastore::record::Custom;
use geminga_proto::ids::{LedgerId, TopicId};
use object_store::memory::InMemory;

use super::*;
use crate::testing::cluster;

/// A store that is told from one that is gone with its process.
fn store() -> Store {
    Store::of(Arc::new(InMemory::new()), "s3://bucket")
}

/// An upload of the cluster.
async fn upload(store: &Store) {
    let custom = Custom { topic: TopicId::from_random(3), ..Custom::default() };
    let key = store.key(cluster(), &custom, LedgerId(7), 1);
    store.upload(&key).complete("entries".into()).await.unwrap();
}

#[tokio::test]
async fn whoever_comes_first_marks_a_store() {
    let (metadata, objects) = (MemoryStore::new(), store());
    check(&metadata, &objects, cluster()).await.unwrap();
    assert_eq!(Marker::read(&objects).await.unwrap(), None, "a look changes nothing");
    for fresh in [1, 2] {
        claim(&metadata, &objects, cluster(), fresh).await.unwrap();
        let marker = Marker { cluster: cluster(), store: 1 };
        assert_eq!(Marker::read(&objects).await.unwrap(), Some(marker));
    }
    check(&metadata, &objects, cluster()).await.unwrap();
    let found = metadata.get("object-stores/s3://bucket/").await.unwrap().unwrap();
    assert_eq!(UsedStore::decode(&found.value), Ok(UsedStore { id: 1 }));
}

/// Bookies that start at the same moment all go by the same marker.
#[test]
fn several_at_once_agree() {
    let block_on = |work: &dyn Fn(&tokio::runtime::Runtime)| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        work(&runtime.enable_time().build().unwrap());
    };
    for _ in 0..50 {
        let (metadata, objects) = (MemoryStore::new(), store());
        std::thread::scope(|scope| {
            for fresh in 1..=4 {
                let (metadata, objects) = (&metadata, &objects);
                scope.spawn(move || {
                    block_on(&|runtime| {
                        runtime.block_on(claim(metadata, objects, cluster(), fresh)).unwrap();
                    });
                });
            }
        });
        block_on(&|runtime| {
            let marker = runtime.block_on(Marker::read(&objects)).unwrap().unwrap();
            assert!((1..=4).contains(&marker.store));
            runtime.block_on(claim(&metadata, &objects, cluster(), 99)).unwrap();
        });
    }
}

#[tokio::test]
async fn a_store_of_another_cluster_is_refused() {
    let (objects, other) = (store(), ClusterUuid::from_random(77));
    claim(&MemoryStore::new(), &objects, other, 1).await.unwrap();
    let metadata = MemoryStore::new();
    for refused in [
        claim(&metadata, &objects, cluster(), 2).await,
        check(&metadata, &objects, cluster()).await,
    ] {
        let error = refused.unwrap_err();
        let told = matches!(&error, ClaimError::OtherCluster { found, .. } if *found == other);
        assert!(told && error.is_refusal(), "{error}");
        assert!(error.to_string().contains("--object-store"), "{error}");
    }
    assert_eq!(metadata.range("", None, 9).await.unwrap().items, [], "and leaves no trace");
}

/// Another endpoint, or a directory that is not shared.
#[tokio::test]
async fn another_store_of_the_same_name_is_refused() {
    let (metadata, used) = (MemoryStore::new(), store());
    claim(&metadata, &used, cluster(), 1).await.unwrap();
    let empty = store();
    for refused in
        [claim(&metadata, &empty, cluster(), 2).await, check(&metadata, &empty, cluster()).await]
    {
        let error = refused.unwrap_err();
        assert!(matches!(error, ClaimError::Nothing { .. }) && error.is_refusal(), "{error}");
    }
    assert_eq!(Marker::read(&empty).await.unwrap(), None, "it is not marked");
    // One that was used with metadata of its own.
    claim(&MemoryStore::new(), &empty, cluster(), 2).await.unwrap();
    let error = claim(&metadata, &empty, cluster(), 3).await.unwrap_err();
    assert!(matches!(error, ClaimError::OtherStore { .. }) && error.is_refusal(), "{error}");
    claim(&metadata, &used, cluster(), 3).await.unwrap();
}

/// Two bookies that were given two directories of one path: one of them is refused, whoever was first where.
#[tokio::test]
async fn of_two_stores_that_are_marked_at_once_one_is_used() {
    let (metadata, one, two) = (MemoryStore::new(), store(), store());
    // Both found no key, and marked what they have.
    Marker { cluster: cluster(), store: 1 }.write(&one).await.unwrap();
    Marker { cluster: cluster(), store: 2 }.write(&two).await.unwrap();
    claim(&metadata, &two, cluster(), 3).await.unwrap();
    let error = claim(&metadata, &one, cluster(), 4).await.unwrap_err();
    assert!(matches!(error, ClaimError::OtherStore { .. }), "{error}");
}

/// 6.8: metadata from a backup of before follows the marker; objects that were copied without it are marked as they were.
#[tokio::test]
async fn what_is_lost_on_one_side_is_taken_from_the_other() {
    let (metadata, objects) = (MemoryStore::new(), store());
    claim(&metadata, &objects, cluster(), 1).await.unwrap();
    let restored = MemoryStore::new();
    claim(&restored, &objects, cluster(), 2).await.unwrap();
    let copied = store();
    upload(&copied).await;
    for metadata in [&metadata, &restored] {
        check(metadata, &copied, cluster()).await.unwrap();
        claim(metadata, &copied, cluster(), 3).await.unwrap();
        assert_eq!(Marker::read(&copied).await.unwrap().unwrap().store, 1);
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_who_is_away_is_not() {
    let (metadata, objects) = (MemoryStore::new(), store());
    objects.upload(&objects.marker_key()).complete("what?".into()).await.unwrap();
    let error = claim(&metadata, &objects, cluster(), 1).await.unwrap_err();
    assert!(matches!(error, ClaimError::Objects(_)) && error.is_refusal(), "{error}");
    let away = ClaimError::Objects(ObjectError::Store("503".to_owned()));
    assert!(!away.is_refusal());
    // One in memory begins empty each time.
    let memory = Store::of(Arc::new(InMemory::new()), "memory://");
    claim(&metadata, &memory, cluster(), 1).await.unwrap();
    assert_eq!(Marker::read(&memory).await.unwrap(), None);
}
