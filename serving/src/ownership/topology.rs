//! The cluster as this broker knows it: topics, brokers, owners and live bookies, fed by watches. One task writes it; every
//! request reads it, so that looking up an owner costs the metadata store nothing.
//!
//! It may lag. It therefore only triggers: whatever changes metadata guards its transaction by versions, and a
//! name that is not found here is looked up in the store before it is called unknown.

mod state;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use geminga_metastore::record::{self, LiveBookie};
use geminga_metastore::{Error, MetaStore, Revision, Version, WatchEvent, keys};
use geminga_proto::ids::{BrokerId, PartitionIndex, Term, TopicId};
use geminga_proto::reason::{ApiError, Reason};
use geminga_runtime::Tasks;
use parking_lot::RwLock;
use tokio::sync::{Semaphore, watch};

pub use state::{Asked, Broker, Chunk, Elected, Topic};
use state::{Feed, Moves, State};

use super::assignment::Ownership;
use crate::rpc::metadata::api_error;
use crate::topics::name::DEFAULT_NAMESPACE;

/// Most look-ups of unknown names in the store at one time; further ones are refused, and may try again.
const MAX_LOOKUPS: usize = 16;
/// How long a topic that the store has may take to arrive here.
const CATCH_UP: Duration = Duration::from_secs(5);

/// Who owns a partition, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Who.
    pub broker: BrokerId,
    /// Since which term.
    pub term: Term,
    /// Where it serves gRPC; `None` when it is not registered now.
    pub address: Option<String>,
}

/// A handle on the view; cheap to clone.
#[derive(Clone)]
pub struct Topology(Arc<Shared>);

struct Shared {
    state: RwLock<State>,
    changed: watch::Sender<u64>,
    store: Arc<dyn MetaStore>,
    lookups: Semaphore,
}

impl fmt::Debug for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state.read();
        f.debug_struct("Topology")
            .field("topics", &state.topics().len())
            .field("brokers", &state.brokers().len())
            .finish_non_exhaustive()
    }
}

/// What the store itself says of a topic's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// No topic has it.
    Absent,
    /// This one has.
    Is(TopicId),
    /// One that this version cannot read.
    Unreadable,
}

type Events = SelectAll<BoxStream<'static, (Feed, WatchEvent)>>;

impl Topology {
    /// Reads everything once and follows changes until `tasks` stops. `groups`: the internal topic that holds
    /// the groups, with its shard count.
    ///
    /// # Errors
    /// When the metadata store cannot be read.
    pub async fn start(
        store: Arc<dyn MetaStore>,
        tasks: &Tasks,
        groups: (TopicId, u32),
    ) -> Result<Self, Error> {
        let mut events = Events::new();
        let mut missing = Vec::new();
        for feed in Feed::ALL {
            let watch = store.watch(feed.prefix(), None).await?;
            events.push(watch.map(move |event| (feed, event)).boxed());
            missing.push(feed);
        }
        let shared = Shared {
            state: RwLock::new(State::new(groups.0, groups.1)),
            changed: watch::Sender::new(0),
            store,
            lookups: Semaphore::new(MAX_LOOKUPS),
        };
        let topology = Self(Arc::new(shared));
        // A watch without a revision begins with everything there is.
        while !missing.is_empty() {
            let Some((feed, event)) = events.next().await else { break };
            missing.retain(|m| *m != feed);
            topology.apply(feed, event);
        }
        let (follower, cancelled) = (topology.clone(), tasks.cancelled());
        tasks.spawn("topology", async move {
            tokio::select! {
                () = cancelled => {}
                () = follower.follow(events) => {}
            }
        });
        Ok(topology)
    }

    async fn follow(&self, mut events: Events) {
        while let Some((feed, event)) = events.next().await {
            self.apply(feed, event);
        }
    }

    fn apply(&self, feed: Feed, event: WatchEvent) {
        let mut state = self.0.state.write();
        state.apply(feed, event);
        super::metrics::observe_topology(state.topics().len(), state.brokers().len());
        drop(state);
        self.0.changed.send_modify(|version| *version += 1);
    }

    /// Changes whenever the view does.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Waits until `seen` finds what it looks for, at most for `within`; asked again after every change.
    /// Cancel-safe.
    pub async fn wait_for<T>(
        &self,
        within: Duration,
        mut seen: impl FnMut(&Self) -> Option<T>,
    ) -> Option<T> {
        let mut changed = self.changed();
        let wait = async {
            loop {
                changed.mark_unchanged();
                if let Some(found) = seen(self) {
                    return Some(found);
                }
                changed.changed().await.ok()?;
            }
        };
        tokio::time::timeout(within, wait).await.ok().flatten()
    }

    /// A topic of the default namespace by its name.
    pub fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.0.state.read().topic(DEFAULT_NAMESPACE, name)
    }

    /// A topic by its id, internal ones included.
    pub fn topic_by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        self.0.state.read().topic_by_id(id)
    }

    /// The internal topic whose partitions hold the consumer groups.
    pub fn groups_topic(&self) -> Arc<Topic> {
        self.0.state.read().groups_topic()
    }

    /// Every topic, internal ones included, by namespace and name.
    pub fn topics(&self) -> Vec<Arc<Topic>> {
        self.0.state.read().topics().values().cloned().collect()
    }

    /// A topic by its name; a name that is not known here is looked up in the store, since this view may lag.
    ///
    /// # Errors
    /// [`Reason::UnknownTopic`], or that the store cannot be asked.
    pub async fn resolve(&self, name: &str) -> Result<Arc<Topic>, ApiError> {
        if let Some(topic) = self.topic(name) {
            return Ok(topic);
        }
        let unknown = || {
            let shown: String = name.chars().take(64).collect();
            let why = format!("topic {shown:?} does not exist: create it first");
            ApiError::new(Reason::UnknownTopic, why)
        };
        // A name that could never be created is not worth a question; nor is a flood of unknown ones.
        if crate::topics::name::check(name).is_err() {
            return Err(unknown());
        }
        let Ok(_permit) = self.0.lookups.try_acquire() else {
            let why = "too many unknown topics are looked up at once: try again";
            return Err(ApiError::new(Reason::Overloaded, why));
        };
        let key = keys::topic(DEFAULT_NAMESPACE, name);
        if self.0.store.get(&key).await.map_err(|e| api_error(&e))?.is_none() {
            return Err(unknown());
        }
        self.wait_for(CATCH_UP, |topology| topology.topic(name)).await.ok_or_else(|| {
            let why = format!("topic {name} is not known to this broker yet: try again");
            ApiError::new(Reason::NotReady, why)
        })
    }

    /// Which topic of the default namespace has this name now, as the store says.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn stored(&self, name: &str) -> Result<Stored, Error> {
        let key = keys::topic(DEFAULT_NAMESPACE, name);
        Ok(match self.0.store.get(&key).await? {
            None => Stored::Absent,
            Some(found) => match record::Topic::decode(&found.value) {
                Ok(topic) => Stored::Is(topic.id),
                Err(_) => Stored::Unreadable,
            },
        })
    }

    /// Who owns a partition; `None` when nobody was assigned yet.
    pub fn owner(&self, topic: TopicId, partition: PartitionIndex) -> Option<Owner> {
        let state = self.0.state.read();
        let ownership = state.ownership(topic, partition)?;
        let broker = ownership.broker?;
        let address = state.brokers().get(&broker).map(|b| b.grpc_address.clone());
        Some(Owner { broker, term: ownership.term, address })
    }

    /// Owners of a topic's partitions, by index.
    pub fn owners(&self, topic: &Topic) -> Vec<Ownership> {
        self.owners_at(topic).0
    }

    /// Owners of a topic's partitions, by index, and the revision at which they became that; 0: none was ever assigned.
    pub fn owners_at(&self, topic: &Topic) -> (Vec<Ownership>, Revision) {
        let state = self.0.state.read();
        let owner = |p| state.ownership(topic.id, PartitionIndex(p)).unwrap_or_default();
        let owners = (0..topic.partitions).map(owner).collect();
        (owners, state.assigned_at(topic.id))
    }

    /// Everything that one broker owns.
    pub fn owned_by(&self, broker: BrokerId) -> Vec<(TopicId, PartitionIndex, Term)> {
        self.0.state.read().owned_by(broker)
    }

    /// How many partitions each broker owns.
    pub fn loads(&self) -> HashMap<BrokerId, u32> {
        self.0.state.read().loads()
    }

    /// The version of the assignment that names a partition's owner, to guard a takeover with.
    pub fn chunk(&self, topic: TopicId, chunk: u32) -> Option<Arc<Chunk>> {
        self.0.state.read().chunk(topic, chunk)
    }

    /// Changes of assignments up to here have been seen.
    pub(crate) fn assign_revision(&self) -> Revision {
        self.0.state.read().assign_revision()
    }

    /// A registered broker.
    pub fn broker(&self, broker: BrokerId) -> Option<Arc<Broker>> {
        self.0.state.read().brokers().get(&broker).cloned()
    }

    /// All registered brokers, by id.
    pub fn brokers(&self) -> Vec<Arc<Broker>> {
        self.0.state.read().brokers().values().cloned().collect()
    }

    /// Brokers that are to own nothing, with the versions of the keys that say so.
    pub fn drains(&self) -> BTreeMap<BrokerId, Version> {
        self.0.state.read().drains().clone()
    }

    /// The move of a partition that the coordinator is asked for.
    pub fn asked(&self, topic: TopicId, partition: PartitionIndex) -> Option<Asked> {
        self.0.state.read().moves().get(&(topic, partition)).copied()
    }

    /// All moves that the coordinator is asked for.
    pub(crate) fn moves(&self) -> Moves {
        self.0.state.read().moves().clone()
    }

    /// The elected coordinator.
    pub fn coordinator(&self) -> Option<Elected> {
        self.0.state.read().coordinator()
    }

    /// The live bookies, by id.
    pub fn live_bookies(&self) -> Vec<Arc<LiveBookie>> {
        self.0.state.read().live_bookies().values().cloned().collect()
    }
}

#[cfg(test)]
mod tests;
