//! Topics and placement as tests set them.

use std::collections::BTreeMap;

use geminga_proto::ids::TopicId;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::view::{Owner, Placement, TopicFacts, TopicView};

#[derive(Debug)]
pub(crate) struct FakeTopics {
    topics: Mutex<BTreeMap<String, TopicFacts>>,
    changed: watch::Sender<u64>,
}

impl FakeTopics {
    pub(crate) fn new(topics: &[(&str, u32)]) -> Self {
        let fake = Self { topics: Mutex::default(), changed: watch::Sender::new(0) };
        for (n, (name, partitions)) in topics.iter().enumerate() {
            fake.set(name, n as u128, *partitions);
        }
        fake
    }

    /// Creates, re-creates or grows a topic.
    pub(crate) fn set(&self, name: &str, id: u128, partitions: u32) {
        let facts = TopicFacts { id: TopicId::from_random(id), partitions };
        self.topics.lock().insert(name.to_owned(), facts);
        self.changed.send_modify(|n| *n += 1);
    }
}

impl TopicView for FakeTopics {
    fn topic(&self, name: &str) -> Option<TopicFacts> {
        self.topics.lock().get(name).copied()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

#[derive(Debug)]
pub(crate) struct FakePlacement {
    owners: Mutex<Vec<Owner>>,
    changed: watch::Sender<u64>,
}

impl FakePlacement {
    pub(crate) fn new(owners: Vec<Owner>) -> Self {
        Self { owners: Mutex::new(owners), changed: watch::Sender::new(0) }
    }

    pub(crate) fn set(&self, shard: u32, owner: Owner) {
        self.owners.lock()[shard as usize] = owner;
        self.changed.send_modify(|n| *n += 1);
    }
}

impl Placement for FakePlacement {
    fn shards(&self) -> u32 {
        u32::try_from(self.owners.lock().len()).unwrap()
    }

    fn owner(&self, shard: u32) -> Owner {
        self.owners.lock()[shard as usize].clone()
    }

    fn local_address(&self) -> String {
        "here:7070".to_owned()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
