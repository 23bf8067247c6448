//! Topics, placement, shards and connections as tests set them.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use geminga_proto::ids::{BrokerId, PartitionIndex, TopicId};
use geminga_proto::reason::{ApiError, Reason};
use geminga_runtime::{ManualClock, Tasks};
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::transport::Channel;

use super::client::{Dial, GroupClient};
use super::coordinator::{Parts, Shards};
use super::machine::Config;
use super::view::{Owner, Placement, TopicFacts, TopicView};
use crate::statelog::log::{Logs, OpenError, Opened};
use crate::statelog::memory::MemoryLog;

/// No delay, and a day of retention.
pub(crate) const CONFIG: Config = Config {
    initial_delay_ms: 0,
    offsets_retention_ms: 24 * 60 * 60 * 1000,
    member_bytes: 64 * 1024 * 1024,
    offset_bytes: 64 * 1024 * 1024,
};

#[derive(Debug)]
pub(crate) struct FakeTopics {
    topics: Mutex<BTreeMap<String, TopicFacts>>,
    hidden: Mutex<Vec<TopicId>>,
    changed: watch::Sender<u64>,
}

impl FakeTopics {
    pub(crate) fn new(topics: &[(&str, u32)]) -> Self {
        let (topics_of, hidden) = (Mutex::default(), Mutex::default());
        let fake = Self { topics: topics_of, hidden, changed: watch::Sender::new(0) };
        for (n, (name, partitions)) in topics.iter().enumerate() {
            fake.set(name, n as u128, *partitions);
        }
        fake
    }

    pub(crate) fn delete(&self, name: &str) {
        self.topics.lock().remove(name);
        self.changed.send_modify(|n| *n += 1);
    }

    /// The topic is there, and this broker does not see it.
    pub(crate) fn hide(&self, name: &str) {
        let hidden = self.topics.lock().get(name).map(|facts| facts.id);
        self.hidden.lock().extend(hidden);
        self.delete(name);
    }

    pub(crate) fn restore(&self, name: &str, facts: TopicFacts) {
        self.topics.lock().insert(name.to_owned(), facts);
        self.changed.send_modify(|n| *n += 1);
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

    /// What tests set is what the store says, but for what is only out of sight.
    fn is_deleted(&self, name: &Arc<str>, id: TopicId) -> bool {
        self.topic(name).is_none_or(|facts| facts.id != id) && !self.hidden.lock().contains(&id)
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

#[derive(Debug)]
pub(crate) struct FakePlacement {
    owners: Mutex<Vec<Owner>>,
    leased: Mutex<bool>,
    changed: watch::Sender<u64>,
}

impl FakePlacement {
    pub(crate) fn new(owners: Vec<Owner>) -> Self {
        let (owners, leased) = (Mutex::new(owners), Mutex::new(true));
        Self { owners, leased, changed: watch::Sender::new(0) }
    }

    /// The store has not answered for longer than the lease holds.
    pub(crate) fn lose_the_store(&self) {
        *self.leased.lock() = false;
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

    fn is_leased(&self) -> bool {
        *self.leased.lock()
    }

    fn local_broker(&self) -> BrokerId {
        BrokerId(1)
    }

    fn local_address(&self) -> String {
        "here:7070".to_owned()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// One log in memory for each shard; shared by the brokers of a test.
#[derive(Debug, Clone)]
pub(crate) struct MemoryLogs(pub(crate) Vec<MemoryLog>);

impl MemoryLogs {
    pub(crate) fn new(shards: usize) -> Self {
        Self((0..shards).map(|_| MemoryLog::default()).collect())
    }
}

#[async_trait]
impl Logs for MemoryLogs {
    async fn open(&self, shard: PartitionIndex) -> Result<Opened, OpenError> {
        self.0[shard.0 as usize].open(shard).await
    }
}

/// A broker's share of groups, on shards in memory.
pub(crate) struct FakeBroker {
    pub(crate) placement: Arc<FakePlacement>,
    pub(crate) shards: Shards,
    pub(crate) tasks: Tasks,
}

impl FakeBroker {
    pub(crate) fn start(logs: &MemoryLogs, topics: &Arc<FakeTopics>, owners: Vec<Owner>) -> Self {
        let (tasks, placement) = (Tasks::new("test"), Arc::new(FakePlacement::new(owners)));
        let parts = Parts {
            placement: placement.clone(),
            logs: Arc::new(logs.clone()),
            topics: topics.clone(),
            clock: Arc::new(ManualClock::at(1_000)),
            config: CONFIG,
        };
        let shards = Shards::start(parts, &tasks);
        Self { placement, shards, tasks }
    }

    pub(crate) fn client(&self, dial: FakeDial) -> GroupClient {
        GroupClient::new(self.shards.clone(), Arc::new(dial))
    }
}

/// Connections to what a test serves on sockets.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeDial(pub(crate) BTreeMap<BrokerId, Channel>);

impl Dial for FakeDial {
    fn channel(&self, broker: BrokerId) -> Result<Channel, ApiError> {
        let none = || ApiError::new(Reason::NotReady, "no such broker in this test");
        self.0.get(&broker).cloned().ok_or_else(none)
    }
}
