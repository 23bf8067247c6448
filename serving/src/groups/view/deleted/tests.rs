//! What is missing from the view is deleted only when the store says so.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use geminga_metastore::record::Topic as Record;
use geminga_metastore::{MemoryStore, MetaStore, Txn, keys};

use super::*;

fn id(n: u128) -> TopicId {
    TopicId::from_random(n)
}

/// Asks until it has been answered: the question after `last` is answered when `last` is known to be deleted.
async fn answered(topics: &LiveTopics, last: u128) {
    let name: Arc<str> = format!("gone-{last}").into();
    let answered = async {
        while !topics.is_deleted(&name, id(last)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), answered).await.expect("it is answered");
}

#[tokio::test(start_paused = true)]
async fn only_the_store_says_that_a_topic_is_gone() {
    let (store, tasks) = (MemoryStore::new(), Tasks::new("test"));
    let record = Record {
        id: id(1),
        partitions: 1,
        write_quorum: 3,
        ack_quorum: 2,
        replication_factor: None,
        configs: BTreeMap::new(),
        created_ms: 5,
    };
    // Written by a newer version, in a format that this one refuses.
    let newer = Bytes::from_static(&[0x08, 0x63]);
    for (name, value) in [("there", record.encode()), ("newer", newer)] {
        store.txn(Txn::new().put(keys::topic("default", name), value)).await.unwrap();
    }
    let store: Arc<dyn MetaStore> = Arc::new(store);
    let topology = Topology::start(store, &tasks, (id(99), 3)).await.unwrap();
    let topics = LiveTopics::start(topology, &tasks);
    assert_eq!(topics.topic("newer"), None, "it is not in the view");
    let (there, newer, never): (Arc<str>, Arc<str>, Arc<str>) =
        ("there".into(), "newer".into(), "never".into());
    for round in 0..2 {
        assert!(!topics.is_deleted(&newer, id(2)), "{round}");
        assert!(!topics.is_deleted(&there, id(1)), "{round}");
        assert_eq!(topics.is_deleted(&there, id(3)), round > 0, "another has its name now");
        assert_eq!(topics.is_deleted(&never, id(4)), round > 0);
        answered(&topics, 100 + round).await;
    }
}
