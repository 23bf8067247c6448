//! The view over the store in memory: what it shows, what it ignores, and what it asks the store for.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use geminga_metastore::record::{Assign, Assignment, Broker as BrokerRecord, Topic as Record};
use geminga_metastore::{MemoryStore, Txn};

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

async fn view(store: &MemoryStore) -> (Topology, Tasks) {
    let tasks = Tasks::new("test");
    let groups = (TopicId::from_random(1), 3);
    (Topology::start(Arc::new(store.clone()), &tasks, groups).await.unwrap(), tasks)
}

fn id(n: u128) -> TopicId {
    TopicId::from_random(n)
}

fn topic(n: u128, partitions: u32) -> Bytes {
    let record = Record {
        id: id(n),
        partitions,
        write_quorum: 3,
        ack_quorum: 2,
        replication_factor: None,
        configs: BTreeMap::new(),
        created_ms: 5,
    };
    record.encode()
}

fn broker(n: i32) -> Bytes {
    let record = BrokerRecord {
        id: BrokerId(n),
        grpc_address: format!("broker-{n}:7070"),
        http_address: String::new(),
        zone: "z".to_owned(),
        kafka: Vec::new(),
        lease: geminga_metastore::LeaseId(i64::from(n)),
        started_ms: 0,
        load: None,
        features: geminga_metastore::record::Features::ALL,
    };
    record.encode()
}

fn assign(owners: &[i32]) -> Bytes {
    let owner = |n: &i32| Assignment { broker: (*n >= 0).then_some(BrokerId(*n)), term: Term(7) };
    Assign { partitions: owners.iter().map(owner).collect() }.encode()
}

async fn put(store: &MemoryStore, key: &str, value: Bytes) {
    store.txn(Txn::new().put(key, value)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn owners_are_those_of_topics_that_exist_and_of_partitions_they_have() {
    let store = MemoryStore::new();
    put(&store, &keys::topic("default", "t"), topic(2, 3)).await;
    put(&store, &keys::broker(BrokerId(1)), broker(1)).await;
    // A chunk may be longer than the topic; one of a deleted topic may be left.
    put(&store, &keys::assign(id(2), 0), assign(&[1, -1, 9, 1])).await;
    put(&store, &keys::assign(id(3), 0), assign(&[1])).await;
    let (view, _tasks) = view(&store).await;
    let owner = |topic, partition| view.owner(id(topic), PartitionIndex(partition));
    let first = owner(2, 0).unwrap();
    assert_eq!((first.broker, first.term), (BrokerId(1), Term(7)));
    assert_eq!(first.address.as_deref(), Some("broker-1:7070"));
    assert_eq!(owner(2, 1), None, "assigned to nobody");
    assert_eq!(owner(2, 2).unwrap().address, None, "assigned to a broker that is not registered");
    assert_eq!(owner(2, 3), None, "beyond the topic");
    assert_eq!(owner(3, 0), None, "of a topic that is gone");
    assert_eq!(view.loads(), HashMap::from([(BrokerId(1), 1), (BrokerId(9), 1)]));
    assert_eq!(view.owned_by(BrokerId(1)), [(id(2), PartitionIndex(0), Term(7))]);
}

/// Of two brokers that are asked, the one that saw more says the greater number.
#[tokio::test(start_paused = true)]
async fn a_change_of_owners_has_a_greater_revision() {
    let store = MemoryStore::new();
    put(&store, &keys::topic("default", "t"), topic(2, 100)).await;
    let (view, _tasks) = view(&store).await;
    let topic = view.topic("t").unwrap();
    assert_eq!(view.owners_at(&topic).1, Revision(0), "nobody was ever assigned");
    let mut last = Revision(0);
    for (chunk, broker) in [(0, 1), (1, 1), (0, 2), (1, 2)] {
        put(&store, &keys::assign(id(2), chunk), assign(&[broker])).await;
        let at = PartitionIndex(chunk * 64);
        let moved = |view: &Topology| view.owner(id(2), at).filter(|o| o.broker.0 == broker);
        view.wait_for(LIMIT, moved).await.unwrap();
        let (owners, revision) = view.owners_at(&topic);
        assert_eq!(owners[at.0 as usize].broker, Some(BrokerId(broker)));
        assert!(revision > last, "{revision:?} after {last:?}");
        last = revision;
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_that_cannot_be_understood_hides_nothing_else() {
    let store = MemoryStore::new();
    let garbage = || Bytes::from_static(b"\xff\xff garbage");
    put(&store, &keys::topic("default", "bad"), garbage()).await;
    put(&store, &keys::topic("default", "good"), topic(2, 1)).await;
    put(&store, &keys::broker(BrokerId(1)), garbage()).await;
    put(&store, "topics/no-name", topic(3, 1)).await;
    put(&store, keys::COORDINATOR, garbage()).await;
    let (view, _tasks) = view(&store).await;
    assert!(view.topic("good").is_some());
    assert!(view.topic("bad").is_none() && view.brokers().is_empty());
    assert_eq!(view.coordinator(), None);
}

#[tokio::test(start_paused = true)]
async fn changes_arrive_and_a_recreated_topic_is_another() {
    let store = MemoryStore::new();
    let (view, _tasks) = view(&store).await;
    let key = keys::topic("default", "t");
    put(&store, &key, topic(2, 1)).await;
    assert!(view.wait_for(LIMIT, |view| view.topic("t")).await.is_some());
    store.txn(Txn::new().delete(&key)).await.unwrap();
    let gone = |view: &Topology| view.topic("t").is_none().then_some(());
    assert!(view.wait_for(LIMIT, gone).await.is_some());
    assert_eq!(view.topic_by_id(id(2)), None);
    put(&store, &key, topic(3, 4)).await;
    let again = view.wait_for(LIMIT, |view| view.topic("t")).await.unwrap();
    assert_eq!((again.id, again.partitions), (id(3), 4));
    assert!(view.wait_for(Duration::from_millis(1), |view| view.topic("u")).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_internal_topic_is_there_without_a_key() {
    let (view, _tasks) = view(&MemoryStore::new()).await;
    let groups = view.groups_topic();
    assert!(groups.is_internal() && groups.partitions == 3);
    assert_eq!(view.topic_by_id(groups.id), Some(groups.clone()));
    assert_eq!(view.topic(&groups.name), None, "it is in no namespace of users");
    assert_eq!(view.owners(&groups).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_name_is_unknown_only_when_the_store_says_so() {
    let store = MemoryStore::new();
    let (view, tasks) = view(&store).await;
    let reason = |result: Result<Arc<Topic>, ApiError>| result.map_err(|e| e.reason);
    assert_eq!(reason(view.resolve("t").await), Err(Reason::UnknownTopic));
    assert_eq!(reason(view.resolve("a/b").await), Err(Reason::UnknownTopic));
    put(&store, &keys::topic("default", "t"), topic(2, 1)).await;
    assert_eq!(view.resolve("t").await.unwrap().id, id(2));
    // A view that has stopped: the topic exists, and is not called unknown.
    tasks.finish(LIMIT).await;
    put(&store, &keys::topic("default", "u"), topic(3, 1)).await;
    assert_eq!(reason(view.resolve("u").await), Err(Reason::NotReady));
}
