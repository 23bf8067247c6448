//! How much one round does, and whether it may.

use super::*;

/// A round reads so many keys and no more, and the next goes on behind it: whatever else is to be done comes between.
#[tokio::test]
async fn a_round_has_an_end_and_the_next_goes_on() {
    let first = World::new(0).await;
    let mut worlds = Vec::new();
    for at in 3..9 {
        worlds.push(first.beside(at, 605).await);
    }
    let (mut cursor, mut rounds) = (Cursor::default(), Vec::new());
    for seed in 1..=2 {
        rounds.push((first.folder(seed).fold(&mut cursor).await.unwrap(), cursor.more));
    }
    assert_eq!(rounds, [(2_400, true), (1_200, false)]);
    for world in &worlds {
        world.judge(1).await;
        assert_eq!(world.manifest().await.last_seq(), Some(600));
    }
}

/// Who registers while a round is under way is seen before the next partition.
#[tokio::test]
async fn a_round_ends_when_an_older_version_registers() {
    let first = World::new(30).await;
    let second = first.beside(3, 30).await;
    let broker = keys::broker(BrokerId(5));
    let late = Txn::new().put(broker.clone(), Bytes::new());
    *first.store.plan.lock() = Some((0, Trouble::Overtaken(late)));
    let mut cursor = Cursor::default();
    assert_eq!(first.folder(1).fold(&mut cursor).await.unwrap(), 25);
    assert!(!cursor.more);
    first.store.memory.txn(Txn::new().delete(broker)).await.unwrap();
    assert_eq!(first.folder(2).fold(&mut cursor).await.unwrap(), 25, "it goes on there");
    first.judge(1).await;
    second.judge(1).await;
}

/// To a version that does not read manifests folded segments look lost: while one is registered nothing is folded, and once anything is,
/// none starts.
#[tokio::test]
async fn nothing_is_folded_before_all_versions_read_manifests() {
    let world = World::new(30).await;
    world.found(false).await;
    let old = Broker {
        id: BrokerId(4),
        grpc_address: "127.0.0.1:7070".to_owned(),
        http_address: String::new(),
        zone: String::new(),
        lease: LeaseId(0),
        started_ms: 0,
        load: None,
        kafka: Vec::new(),
        features: Features::NONE,
    };
    let upgraded = Broker { features: Features::ALL, ..old.clone() };
    let older = Txn::new().put(keys::broker(old.id), old.encode());
    world.store.memory.txn(older).await.unwrap();
    let marked = async || {
        let (found, _) = geminga_metastore::cluster::read(&*world.store).await.unwrap().unwrap();
        found.features.contains(Feature::Manifests)
    };
    assert_eq!(world.round(1).await.0, 0);
    assert!(!marked().await);
    let upgraded = Txn::new().put(keys::broker(old.id), upgraded.encode());
    world.store.memory.txn(upgraded).await.unwrap();
    assert_eq!(world.round(2).await.0, 0, "who is about to register is waited for");
    assert!(marked().await);
    let late = Txn::new().put(keys::broker(BrokerId(5)), old.encode());
    world.store.memory.txn(late).await.unwrap();
    assert_eq!(world.round(3).await.0, 0);
    world.store.memory.txn(Txn::new().delete(keys::broker(BrokerId(5)))).await.unwrap();
    assert_eq!(world.round(4).await.0, 25);
    world.judge(1).await;
}

/// A cluster with nothing to fold stays as earlier versions know it.
#[tokio::test]
async fn a_cluster_that_has_nothing_to_fold_is_not_marked() {
    let world = World::new(7).await;
    world.found(false).await;
    world.round(1).await;
    let (found, _) = geminga_metastore::cluster::read(&*world.store).await.unwrap().unwrap();
    assert!(found.features.is_empty());
}
