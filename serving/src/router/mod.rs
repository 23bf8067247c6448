//! Where a request for a partition is served: here, at another broker, or nowhere yet. A request is forwarded one hop at
//! most: the forwarded call carries `direct`, and a broker that is asked directly for what it does not own answers
//! NOT_OWNER with the owner's address (DESIGN 6).

mod hop;
mod local;
mod peers;
pub mod source;

use std::time::Duration;

use geminga_proto::ids::{BrokerId, PartitionIndex, Term};
use geminga_proto::reason::{ApiError, Reason};
use geminga_runtime::Tasks;
use geminga_tls::Dial;
use tonic::transport::Channel;

pub(crate) use hop::hop;
pub use local::{
    ActiveProducer, Appended, Appender, FoundOffset, LocalPartitions, OffsetAt, OpenOffsets,
    Pending, Read, ReadSpec,
};
use peers::Peers;
pub use source::{RoutedSource, Source};

use crate::ownership::registration::Registration;
use crate::ownership::topology::{Topic, Topology};

/// How long answers of a broker that has left may be on their way.
const LAST_ANSWERS: Duration = Duration::from_millis(100);

/// Where a partition is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// By this broker, as far as it knows.
    Local {
        /// Its term.
        term: Term,
    },
    /// By another one.
    Remote {
        /// Which.
        broker: BrokerId,
        /// Where it serves gRPC, `HOST:PORT`.
        address: String,
        /// Its term.
        term: Term,
    },
    /// By nobody now: not assigned yet, or the owner is not registered.
    NoOwner,
}

/// Finds owners and holds one connection to each other broker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Router {
    topology: Topology,
    registration: Registration,
    peers: Peers,
}

impl Router {
    /// Starts a router, which reaches others as `dial` says; connections to brokers that vanish are dropped until `tasks` stops.
    pub fn start(
        topology: Topology,
        registration: Registration,
        dial: Dial,
        tasks: &Tasks,
    ) -> Self {
        let peers = Peers::start(topology.clone(), dial, tasks);
        Self { topology, registration, peers }
    }

    /// The view that routes come from.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// This broker.
    pub fn me(&self) -> BrokerId {
        self.registration.id()
    }

    /// Where a partition is served now. Without a registration this broker serves nothing.
    pub fn owner_of(&self, topic: &Topic, partition: PartitionIndex) -> Route {
        let Some(owner) = self.topology.owner(topic.id, partition) else { return Route::NoOwner };
        if owner.broker != self.me() {
            return match owner.address {
                Some(address) => Route::Remote { broker: owner.broker, address, term: owner.term },
                None => Route::NoOwner,
            };
        }
        if self.registration.is_registered() {
            Route::Local { term: owner.term }
        } else {
            Route::NoOwner
        }
    }

    /// The connection to another broker; it connects in the background and again after it broke.
    ///
    /// # Errors
    /// [`Reason::NotReady`] when that broker is not registered.
    pub fn channel(&self, broker: BrokerId) -> Result<Channel, ApiError> {
        let Some(found) = self.topology.broker(broker) else {
            let why = format!("broker {broker} is not registered now: try again");
            return Err(ApiError::new(Reason::NotReady, why));
        };
        self.peers.channel(broker, &found.grpc_address)
    }
}

impl Router {
    /// Resolves a moment after a broker's registration ended: what it had answered before has arrived by then, and nothing
    /// more is to be waited for, whether its connection broke or its machine only vanished. Cancel-safe.
    pub fn gone(&self, broker: BrokerId) -> impl Future<Output = ()> + Send + 'static {
        let topology = self.topology.clone();
        async move {
            let mut changed = topology.changed();
            while topology.broker(broker).is_some() {
                if changed.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
            tokio::time::sleep(LAST_ANSWERS).await;
        }
    }
}

/// The answer where a partition has no owner now.
pub fn no_owner(topic: &str, partition: PartitionIndex) -> ApiError {
    let why = format!("partition {partition} of {topic} has no owner now: try again");
    ApiError::new(Reason::NotReady, why)
}

/// The answer to a direct request for what another broker owns.
pub fn not_owner(topic: &str, partition: PartitionIndex, address: String) -> ApiError {
    let why = format!("partition {partition} of {topic} is served by {address}: ask there");
    ApiError::not_owner(why, Some(address))
}

/// Checks that a topic has a partition.
///
/// # Errors
/// [`Reason::UnknownPartition`].
pub fn check_partition(topic: &Topic, partition: u32) -> Result<PartitionIndex, ApiError> {
    if partition < topic.partitions {
        return Ok(PartitionIndex(partition));
    }
    let why = format!(
        "topic {} has no partition {partition}: it has {}, numbered from 0",
        topic.name, topic.partitions
    );
    Err(ApiError::new(Reason::UnknownPartition, why))
}
