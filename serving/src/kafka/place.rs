//! Where things are, as a Kafka client is told: brokers by the listener that the client came by, and who leads a partition.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use geminga_metastore::record::KafkaListener;
use geminga_proto::ids::{BrokerId, PartitionIndex, Term, TopicId};
use tokio::time::Instant;

use super::call::Call;
use super::codec::messages::Uuid;
use super::error::{Code, Fault};
use crate::ownership::assignment::Ownership;
use crate::ownership::topology::{Broker, Topic};
use crate::router::{Route, check_partition};
use crate::topics::name::{self, DEFAULT_NAMESPACE};

/// Kafka's "no broker".
pub(super) const NOBODY: i32 = -1;
/// Kafka's "no epoch".
pub(super) const NO_EPOCH: i32 = -1;
/// Most topics of one request that this broker does not know and asks the store about, or creates; more may be in the next one.
const MAX_LOOKUPS: usize = 32;
/// A request waits this long, in all, for owners that this broker has not heard of: the one that named it to the client may have
/// heard sooner, and some clients take the first "not yet" for the end.
const PATIENCE: Duration = Duration::from_millis(500);

/// A broker that a client can reach.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) broker: Arc<Broker>,
    pub(super) at: KafkaListener,
}

/// Who leads a partition that is asked for at the wrong broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leader {
    pub(super) id: BrokerId,
    pub(super) epoch: Term,
}

/// Why a partition is not served here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Elsewhere {
    pub(super) fault: Fault,
    /// Where it is, when that is known.
    pub(super) leader: Option<Leader>,
}

impl From<Fault> for Elsewhere {
    fn from(fault: Fault) -> Self {
        Self { fault, leader: None }
    }
}

impl Call {
    /// All brokers that the client can reach, by id.
    pub(super) fn nodes(&self) -> Vec<Node> {
        let brokers = self.kafka.ctx.router.topology().brokers();
        brokers.into_iter().filter_map(|broker| self.reachable(broker)).collect()
    }

    /// One of them.
    pub(super) fn node(&self, id: BrokerId) -> Option<Node> {
        self.reachable(self.kafka.ctx.router.topology().broker(id)?)
    }

    fn reachable(&self, broker: Arc<Broker>) -> Option<Node> {
        let listener = &self.peer.listener;
        let at = broker.kafka.iter().find(|at| at.name == *listener)?.clone();
        Some(Node { broker, at })
    }

    /// Who serves what Kafka's controller serves: any broker does. That it is the elected one makes clients agree.
    pub(super) fn controller(&self) -> i32 {
        let elected = self.kafka.ctx.router.topology().coordinator();
        let reachable = elected.and_then(|elected| self.node(elected.broker));
        reachable.map_or(self.kafka.ctx.router.me(), |node| node.broker.id).0
    }

    /// Refuses an assignment by hand that names no broker, or one twice. That they are there is not asked: it has no effect, and scripts
    /// that name them number them as they were elsewhere.
    ///
    /// # Errors
    /// [`Code::INVALID_REPLICA_ASSIGNMENT`].
    pub(super) fn check_assigned(ids: &[i32]) -> Result<(), Fault> {
        let mut seen = BTreeSet::new();
        let why = if ids.is_empty() {
            "an assignment by hand names brokers for each partition: name one or more".to_owned()
        } else if let Some(twice) = ids.iter().find(|id| !seen.insert(**id)) {
            format!("an assignment by hand names broker {twice} twice for a partition")
        } else {
            return Ok(());
        };
        Err(Fault::new(Code::INVALID_REPLICA_ASSIGNMENT, why))
    }

    /// The topics that Kafka clients see, by name.
    pub(super) fn topics(&self) -> Vec<Arc<Topic>> {
        let mut topics = self.kafka.ctx.router.topology().topics();
        topics.retain(|topic| topic.namespace == DEFAULT_NAMESPACE);
        topics
    }

    /// Whether a new topic may have this name beside those that there are.
    pub(super) fn check_collision(&self, name: &str) -> Result<(), Fault> {
        let topics = self.topics();
        let Some(other) = topics.iter().find(|topic| name::collide(&topic.name, name)) else {
            return Ok(());
        };
        let why = format!("the name collides with topic {}: choose another", other.name);
        Err(Fault::new(Code::INVALID_TOPIC_EXCEPTION, why))
    }

    /// A topic by its name; see [`crate::ownership::topology::Topology::resolve`]. One request costs the metadata store so many
    /// looks, whatever it names.
    pub(super) async fn topic(&self, name: &str) -> Result<Arc<Topic>, Fault> {
        let topology = self.kafka.ctx.router.topology();
        if let Some(topic) = topology.topic(name) {
            return Ok(topic);
        }
        // A name that nobody may use costs no look.
        let is_free = name::check(name).is_err();
        if !is_free && self.lookups.fetch_add(1, Ordering::Relaxed) >= MAX_LOOKUPS {
            let why = "too many topics of one request are not known here: ask for some of them";
            return Err(Fault::new(Code::NOT_ENOUGH_REPLICAS, why));
        }
        Ok(topology.resolve(name).await?)
    }

    /// A topic by its name, where a name that no topic may have is told from one that none has.
    pub(super) async fn named_topic(&self, name: &str) -> Result<Arc<Topic>, Fault> {
        match self.topic(name).await {
            Err(fault) if fault.code == Code::UNKNOWN_TOPIC_OR_PARTITION => {
                Err(name::check(name).err().map_or(fault, Fault::from))
            }
            found => found,
        }
    }

    /// A topic by its id.
    pub(super) fn topic_by_id(&self, id: Uuid) -> Result<Arc<Topic>, Fault> {
        let topology = self.kafka.ctx.router.topology();
        TopicId::from_slice(id.as_bytes())
            .and_then(|id| topology.topic_by_id(id))
            .filter(|topic| topic.namespace == DEFAULT_NAMESPACE)
            .ok_or_else(|| Fault::new(Code::UNKNOWN_TOPIC_ID, "no topic has this id"))
    }

    /// A partition that this broker serves, and its term; a client that knows another epoch is told so (`said`: -1 = it does not
    /// say). Cancel-safe.
    pub(super) async fn here(
        &self,
        topic: &Topic,
        index: i32,
        said: i32,
    ) -> Result<(PartitionIndex, Term), Elsewhere> {
        let unknown = || Fault::new(Code::UNKNOWN_TOPIC_OR_PARTITION, "no such partition");
        let index = u32::try_from(index).map_err(|_| unknown())?;
        let partition = check_partition(topic, index).map_err(Fault::from)?;
        let term = match self.owner(topic, partition).await {
            Route::Local { term } => term,
            Route::Remote { broker, term, .. } => {
                let fault = Fault::new(Code::NOT_LEADER_OR_FOLLOWER, "another broker serves it");
                return Err(Elsewhere { fault, leader: Some(Leader { id: broker, epoch: term }) });
            }
            Route::NoOwner => {
                let why = "the partition has no owner now: try again";
                return Err(Fault::new(Code::LEADER_NOT_AVAILABLE, why).into());
            }
        };
        match said {
            NO_EPOCH => Ok((partition, term)),
            said if said < term.0 => {
                Err(Fault::new(Code::FENCED_LEADER_EPOCH, "a newer epoch has begun").into())
            }
            said if said > term.0 => {
                Err(Fault::new(Code::UNKNOWN_LEADER_EPOCH, "this epoch is not known yet").into())
            }
            _ => Ok((partition, term)),
        }
    }

    /// Who serves a partition; where that is nobody, somebody may soon ([`PATIENCE`]).
    async fn owner(&self, topic: &Topic, partition: PartitionIndex) -> Route {
        let router = &self.kafka.ctx.router;
        let known = || {
            let route = router.owner_of(topic, partition);
            (!matches!(route, Route::NoOwner)).then_some(route)
        };
        if let Some(route) = known() {
            return route;
        }
        let until = *self.patience.get_or_init(|| Instant::now() + PATIENCE);
        let within = until.saturating_duration_since(Instant::now());
        let found = router.topology().wait_for(within, |_| known()).await;
        // This broker's own registration is no change of the view.
        found.or_else(known).unwrap_or(Route::NoOwner)
    }
}

/// What clients are told of a partition. Copies are kept by bookies, which no client talks to: brokers are named in their stead, the
/// owner first, as many as the topic is said to have and as there are. All are said to be in sync: none of them holds anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Led {
    pub(super) code: Code,
    /// [`NOBODY`] when it has none that the client can reach.
    pub(super) leader: i32,
    pub(super) epoch: i32,
    pub(super) replicas: Vec<i32>,
    pub(super) offline: Vec<i32>,
}

/// How a partition that is said to have so many `copies` is led, to a client that can reach `nodes`.
pub(super) fn led(owner: &Ownership, copies: u16, nodes: &[Node]) -> Led {
    let code = Code::LEADER_NOT_AVAILABLE;
    let (replicas, offline) = (Vec::new(), Vec::new());
    let nobody = Led { code, leader: NOBODY, epoch: NO_EPOCH, replicas, offline };
    let Some(id) = owner.broker else { return nobody };
    if let Ok(at) = nodes.binary_search_by_key(&id, |node| node.broker.id) {
        // From the owner on, so that a partition that moves to the next one changes little.
        let others = nodes[at..].iter().chain(&nodes[..at]).take(usize::from(copies.max(1)));
        let replicas = others.map(|node| node.broker.id.0).collect();
        return Led { code: Code::NONE, leader: id.0, epoch: owner.term.0, replicas, ..nobody };
    }
    // Another broker will take it over soon, unless the owner has no such listener.
    let replicas = vec![id.0];
    Led { offline: replicas.clone(), replicas, ..nobody }
}

/// As Kafka writes it.
pub(super) fn uuid(id: TopicId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}
