//! The view's contents: plain maps that watch events are applied to. No I/O. A value that cannot be understood is
//! ignored with a warning, so that one bad key never hides the rest.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use geminga_metastore::record::{self, BrokerLoad, KafkaListener, LiveBookie};
use geminga_metastore::{Change, KeyValue, LeaseId, Revision, Version, WatchEvent, keys};
use geminga_proto::caps;
use geminga_proto::ids::{BookieId, BrokerId, PartitionIndex, Term, TopicId};

use crate::ownership::assignment::Ownership;
use crate::topics::config::Settings;
use crate::topics::name::{GROUPS_TOPIC, SYSTEM_NAMESPACE};
use crate::topics::quorum::Quorum;

/// Most brokers or bookies that are kept; far above any cluster that one etcd serves.
const MAX_NODES: usize = 10_000;
/// Most moves that wait for the coordinator.
const MAX_MOVES: usize = 100_000;

/// A topic that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its identity; another life of the same name has another.
    pub id: TopicId,
    /// `default`, or `_system` for ours.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// How many.
    pub partitions: u32,
    /// Copies of its entries; `None` for internal topics, which follow the server's default.
    pub quorum: Option<Quorum>,
    /// What Kafka clients are told of its copies, where its creator asked for a number.
    pub replication_factor: Option<u16>,
    /// As they were set.
    pub configs: BTreeMap<String, String>,
    /// Those that take effect, as numbers.
    pub settings: Settings,
    /// Milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// When its key began to exist; `None` for internal topics, which have none.
    pub created: Option<Revision>,
    /// Version of its key, to guard its removal with; `None` for internal topics.
    pub version: Option<Version>,
}

impl Topic {
    /// How many copies Kafka clients are told of, where `default` holds for topics that do not say how many they have.
    pub fn told_copies(&self, default: Quorum) -> u16 {
        let copies = self.quorum.unwrap_or(default).write;
        self.replication_factor.unwrap_or(u16::from(copies))
    }

    /// Whether it is one of ours, hidden from users and refused to them.
    pub fn is_internal(&self) -> bool {
        self.namespace == SYSTEM_NAMESPACE
    }
}

/// A registered broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Its number.
    pub id: BrokerId,
    /// Where it serves gRPC, `HOST:PORT`.
    pub grpc_address: String,
    /// Where it serves health and metrics; empty when it does not.
    pub http_address: String,
    /// Failure domain; empty when none was given.
    pub zone: String,
    /// The lease that it is registered by: each registration has another.
    pub lease: LeaseId,
    /// When it began, by its clock, milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// What it carries; `None` before its first report.
    pub load: Option<BrokerLoad>,
    /// Where it serves Kafka clients, by listener.
    pub kafka: Vec<KafkaListener>,
    /// Names this registration: reports do not change it.
    pub created: Revision,
    /// Version of its key: that of the report, too.
    pub version: Version,
}

/// A move that the coordinator is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Who is to own the partition.
    pub to: BrokerId,
    /// Version of the key that asks.
    pub version: Version,
}

/// Partitions that are to move, and how.
pub(crate) type Moves = BTreeMap<(TopicId, PartitionIndex), Asked>;

/// The owners of up to 64 partitions, as one key holds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Version of the key.
    pub version: Version,
    /// By partition, from the chunk's first.
    pub owners: Vec<Ownership>,
}

/// The coordinator's election, as last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elected {
    /// Who.
    pub broker: BrokerId,
    /// Names this election: what the coordinator's writes are guarded by.
    pub created: Revision,
}

/// One watched prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feed {
    Topics,
    Brokers,
    Assign,
    Coordinator,
    Bookies,
    Drains,
    Moves,
}

impl Feed {
    pub(super) const ALL: [Self; 7] = [
        Self::Topics,
        Self::Brokers,
        Self::Assign,
        Self::Coordinator,
        Self::Bookies,
        Self::Drains,
        Self::Moves,
    ];

    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Topics => keys::TOPICS,
            Self::Brokers => keys::BROKERS,
            Self::Assign => keys::ASSIGN,
            Self::Coordinator => keys::COORDINATOR,
            Self::Bookies => keys::BOOKIES_LIVE,
            Self::Drains => keys::DRAINS,
            Self::Moves => keys::MOVES,
        }
    }
}

type Name = (String, String);

/// Everything that is known.
#[derive(Debug)]
pub(super) struct State {
    groups: Arc<Topic>,
    topics: BTreeMap<Name, Arc<Topic>>,
    by_id: HashMap<TopicId, Name>,
    brokers: BTreeMap<BrokerId, Arc<Broker>>,
    assign: HashMap<TopicId, BTreeMap<u32, Arc<Chunk>>>,
    assign_revision: Revision,
    coordinator: Option<Elected>,
    bookies: BTreeMap<BookieId, Arc<LiveBookie>>,
    drains: BTreeMap<BrokerId, Version>,
    moves: Moves,
}

impl State {
    pub(super) fn new(groups: TopicId, shards: u32) -> Self {
        let configs = BTreeMap::new();
        let settings = Settings::from_configs(&configs);
        let groups = Arc::new(Topic {
            id: groups,
            namespace: SYSTEM_NAMESPACE.to_owned(),
            name: GROUPS_TOPIC.to_owned(),
            partitions: shards.min(caps::MAX_PARTITIONS_PER_TOPIC),
            quorum: None,
            replication_factor: None,
            configs,
            settings,
            created_ms: 0,
            created: None,
            version: None,
        });
        let mut state = Self {
            groups: Arc::clone(&groups),
            topics: BTreeMap::new(),
            by_id: HashMap::new(),
            brokers: BTreeMap::new(),
            assign: HashMap::new(),
            assign_revision: Revision(0),
            coordinator: None,
            bookies: BTreeMap::new(),
            drains: BTreeMap::new(),
            moves: Moves::new(),
        };
        state.insert_topic(groups);
        state
    }

    pub(super) fn apply(&mut self, feed: Feed, event: WatchEvent) {
        match event {
            WatchEvent::Snapshot(range) => {
                self.clear(feed);
                range.items.iter().for_each(|item| self.put(feed, item));
                self.reached(feed, range.revision);
            }
            WatchEvent::Changes { revision, changes } => {
                for change in &changes {
                    match change {
                        Change::Put(item) => self.put(feed, item),
                        Change::Delete { key } => self.delete(feed, key),
                    }
                }
                self.reached(feed, revision);
            }
        }
    }

    fn reached(&mut self, feed: Feed, revision: Revision) {
        if feed == Feed::Assign {
            self.assign_revision = revision;
        }
    }

    fn clear(&mut self, feed: Feed) {
        match feed {
            Feed::Topics => {
                self.topics.clear();
                self.by_id.clear();
                self.insert_topic(Arc::clone(&self.groups));
            }
            Feed::Brokers => self.brokers.clear(),
            Feed::Assign => self.assign.clear(),
            Feed::Coordinator => self.coordinator = None,
            Feed::Bookies => self.bookies.clear(),
            Feed::Drains => self.drains.clear(),
            Feed::Moves => self.moves.clear(),
        }
    }

    fn put(&mut self, feed: Feed, item: &KeyValue) {
        let done = match feed {
            Feed::Topics => self.put_topic(item),
            Feed::Brokers => self.put_broker(item),
            Feed::Assign => self.put_chunk(item),
            Feed::Coordinator => self.put_coordinator(item),
            Feed::Bookies => self.put_bookie(item),
            Feed::Drains => self.put_drain(item),
            Feed::Moves => self.put_move(item),
        };
        if let Err(why) = done {
            tracing::warn!(key = item.key, %why, "metadata key is ignored");
        }
    }

    fn put_topic(&mut self, item: &KeyValue) -> Result<(), String> {
        let (namespace, name) = keys::parse_topic(&item.key).ok_or("not a topic's key")?;
        let name = (namespace.to_owned(), name.to_owned());
        if self.topics.len() > caps::MAX_TOPICS && !self.topics.contains_key(&name) {
            return Err(format!("more than {} topics", caps::MAX_TOPICS));
        }
        let topic = decode_topic(&name, item)?;
        self.remove_topic(&name);
        self.insert_topic(Arc::new(topic));
        Ok(())
    }

    fn insert_topic(&mut self, topic: Arc<Topic>) {
        let name = (topic.namespace.clone(), topic.name.clone());
        self.by_id.insert(topic.id, name.clone());
        self.topics.insert(name, topic);
    }

    fn remove_topic(&mut self, name: &Name) {
        if let Some(topic) = self.topics.remove(name) {
            self.by_id.remove(&topic.id);
        }
    }

    fn put_broker(&mut self, item: &KeyValue) -> Result<(), String> {
        let id = keys::parse_broker(&item.key).ok_or("not a broker's key")?;
        if self.brokers.len() >= MAX_NODES && !self.brokers.contains_key(&id) {
            return Err(format!("more than {MAX_NODES} brokers"));
        }
        let found = record::Broker::decode(&item.value.value).map_err(|e| e.to_string())?;
        let broker = Broker {
            id,
            grpc_address: found.grpc_address,
            http_address: found.http_address,
            zone: found.zone,
            lease: found.lease,
            started_ms: found.started_ms,
            load: found.load,
            kafka: found.kafka,
            created: item.value.created,
            version: item.value.version,
        };
        self.brokers.insert(id, Arc::new(broker));
        Ok(())
    }

    fn put_chunk(&mut self, item: &KeyValue) -> Result<(), String> {
        let (topic, chunk) = keys::parse_assign(&item.key).ok_or("not an assignment's key")?;
        if chunk >= caps::MAX_PARTITIONS_PER_TOPIC.div_ceil(caps::ASSIGN_CHUNK) {
            return Err(format!("chunk {chunk} is beyond the most partitions of a topic"));
        }
        let found = record::Assign::decode(&item.value.value).map_err(|e| e.to_string())?;
        let owners =
            found.partitions.iter().map(|p| Ownership { broker: p.broker, term: p.term }).collect();
        let value = Arc::new(Chunk { version: item.value.version, owners });
        self.assign.entry(topic).or_default().insert(chunk, value);
        Ok(())
    }

    fn put_coordinator(&mut self, item: &KeyValue) -> Result<(), String> {
        if item.key != keys::COORDINATOR {
            return Ok(());
        }
        let found = record::Coordinator::decode(&item.value.value).map_err(|e| e.to_string())?;
        self.coordinator = Some(Elected { broker: found.broker, created: item.value.created });
        Ok(())
    }

    fn put_bookie(&mut self, item: &KeyValue) -> Result<(), String> {
        let found = LiveBookie::decode(&item.value.value).map_err(|e| e.to_string())?;
        if self.bookies.len() >= MAX_NODES && !self.bookies.contains_key(&found.id) {
            return Err(format!("more than {MAX_NODES} bookies"));
        }
        self.bookies.insert(found.id.clone(), Arc::new(found));
        Ok(())
    }

    fn put_drain(&mut self, item: &KeyValue) -> Result<(), String> {
        let broker = keys::parse_drain(&item.key).ok_or("not the key of a drain")?;
        record::Drain::decode(&item.value.value).map_err(|e| e.to_string())?;
        if self.drains.len() >= MAX_NODES && !self.drains.contains_key(&broker) {
            return Err(format!("more than {MAX_NODES} drains"));
        }
        self.drains.insert(broker, item.value.version);
        Ok(())
    }

    fn put_move(&mut self, item: &KeyValue) -> Result<(), String> {
        let partition = keys::parse_move(&item.key).ok_or("not the key of a move")?;
        let found = record::Move::decode(&item.value.value).map_err(|e| e.to_string())?;
        if self.moves.len() >= MAX_MOVES && !self.moves.contains_key(&partition) {
            return Err(format!("more than {MAX_MOVES} moves"));
        }
        self.moves.insert(partition, Asked { to: found.to, version: item.value.version });
        Ok(())
    }

    fn delete(&mut self, feed: Feed, key: &str) {
        match feed {
            Feed::Topics => {
                if let Some((namespace, name)) = keys::parse_topic(key) {
                    self.remove_topic(&(namespace.to_owned(), name.to_owned()));
                }
            }
            Feed::Brokers => {
                if let Some(id) = keys::parse_broker(key) {
                    self.brokers.remove(&id);
                }
            }
            Feed::Assign => {
                if let Some((topic, chunk)) = keys::parse_assign(key)
                    && let Some(chunks) = self.assign.get_mut(&topic)
                {
                    chunks.remove(&chunk);
                    if chunks.is_empty() {
                        self.assign.remove(&topic);
                    }
                }
            }
            Feed::Coordinator => {
                if key == keys::COORDINATOR {
                    self.coordinator = None;
                }
            }
            Feed::Bookies => {
                if let Some(id) = keys::parse_bookie_live(key) {
                    self.bookies.remove(&id);
                }
            }
            Feed::Drains => {
                if let Some(broker) = keys::parse_drain(key) {
                    self.drains.remove(&broker);
                }
            }
            Feed::Moves => {
                if let Some(partition) = keys::parse_move(key) {
                    self.moves.remove(&partition);
                }
            }
        }
    }

    pub(super) fn topics(&self) -> &BTreeMap<Name, Arc<Topic>> {
        &self.topics
    }

    pub(super) fn topic(&self, namespace: &str, name: &str) -> Option<Arc<Topic>> {
        self.topics.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    pub(super) fn topic_by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        self.topics.get(self.by_id.get(&id)?).cloned()
    }

    pub(super) fn groups_topic(&self) -> Arc<Topic> {
        Arc::clone(&self.groups)
    }

    pub(super) fn brokers(&self) -> &BTreeMap<BrokerId, Arc<Broker>> {
        &self.brokers
    }

    pub(super) fn live_bookies(&self) -> &BTreeMap<BookieId, Arc<LiveBookie>> {
        &self.bookies
    }

    pub(super) fn drains(&self) -> &BTreeMap<BrokerId, Version> {
        &self.drains
    }

    pub(super) fn moves(&self) -> &Moves {
        &self.moves
    }

    pub(super) fn coordinator(&self) -> Option<Elected> {
        self.coordinator
    }

    pub(super) fn assign_revision(&self) -> Revision {
        self.assign_revision
    }

    /// Of a topic that exists: what is left of a deleted one owns nothing.
    pub(super) fn ownership(&self, id: TopicId, partition: PartitionIndex) -> Option<Ownership> {
        let topic = self.topics.get(self.by_id.get(&id)?)?;
        if partition.0 >= topic.partitions {
            return None;
        }
        let chunk = self.assign.get(&id)?.get(&(partition.0 / caps::ASSIGN_CHUNK))?;
        chunk.owners.get((partition.0 % caps::ASSIGN_CHUNK) as usize).copied()
    }

    pub(super) fn chunk(&self, topic: TopicId, chunk: u32) -> Option<Arc<Chunk>> {
        self.assign.get(&topic)?.get(&chunk).cloned()
    }

    /// When the newest of a topic's chunks was written; 0 without any.
    pub(super) fn assigned_at(&self, topic: TopicId) -> Revision {
        let chunks = self.assign.get(&topic).into_iter().flat_map(BTreeMap::values);
        Revision(chunks.map(|chunk| chunk.version.0).max().unwrap_or(0))
    }

    fn each_owned(&self) -> impl Iterator<Item = (BrokerId, TopicId, PartitionIndex, Term)> {
        let chunks = self.topics.values().filter_map(|t| Some((t, self.assign.get(&t.id)?)));
        chunks.flat_map(|(topic, chunks)| {
            chunks.iter().flat_map(move |(index, chunk)| {
                let first = index * caps::ASSIGN_CHUNK;
                let numbered = (first..topic.partitions).zip(&chunk.owners);
                numbered.filter_map(move |(p, o)| {
                    Some((o.broker?, topic.id, PartitionIndex(p), o.term))
                })
            })
        })
    }

    pub(super) fn owned_by(&self, broker: BrokerId) -> Vec<(TopicId, PartitionIndex, Term)> {
        self.each_owned().filter(|o| o.0 == broker).map(|(_, t, p, term)| (t, p, term)).collect()
    }

    pub(super) fn loads(&self) -> HashMap<BrokerId, u32> {
        let mut loads = HashMap::new();
        for (broker, ..) in self.each_owned() {
            *loads.entry(broker).or_default() += 1;
        }
        loads
    }
}

fn decode_topic(name: &Name, item: &KeyValue) -> Result<Topic, String> {
    let found = record::Topic::decode(&item.value.value).map_err(|e| e.to_string())?;
    Ok(Topic {
        id: found.id,
        namespace: name.0.clone(),
        name: name.1.clone(),
        partitions: found.partitions,
        quorum: Some(Quorum { write: found.write_quorum, ack: found.ack_quorum }),
        replication_factor: found.replication_factor,
        settings: Settings::from_configs(&found.configs),
        configs: found.configs,
        created_ms: found.created_ms,
        created: Some(item.value.created),
        version: Some(item.value.version),
    })
}
