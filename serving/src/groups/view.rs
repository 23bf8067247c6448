//! What groups ask of the broker around them: which topics exist, and which broker coordinates which shard. Both are
//! caches fed by watches; they only trigger, the log decides (M8).

mod live;

use std::fmt;

use geminga_proto::ids::{BrokerId, TopicId};
use tokio::sync::watch;

pub use live::ShardPlacement;

/// What a group needs to know of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicFacts {
    /// Which topic of that name.
    pub id: TopicId,
    /// Its partitions.
    pub partitions: u32,
}

/// The topics of the default namespace.
///
/// # Contract
/// Complete from the first call on: a topic that is missing does not exist, or was created moments ago. Cheap; never
/// waits.
pub trait TopicView: Send + Sync + fmt::Debug + 'static {
    /// The topic of that name.
    fn topic(&self, name: &str) -> Option<TopicFacts>;

    /// Ticks when any topic was created, deleted or changed its partition count.
    fn changed(&self) -> watch::Receiver<u64>;
}

/// Who coordinates a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// This broker.
    Local,
    /// Another one.
    Remote {
        /// Which.
        broker: BrokerId,
        /// Where it listens for gRPC, `host:port`.
        address: String,
    },
    /// Nobody at the moment.
    Nobody,
}

/// Where the partitions of `_system/__groups` are.
pub trait Placement: Send + Sync + fmt::Debug + 'static {
    /// How many shards there are; fixed for the life of a cluster, at least 1.
    fn shards(&self) -> u32;

    /// Who is assigned `shard`.
    fn owner(&self, shard: u32) -> Owner;

    /// This broker.
    fn local_broker(&self) -> BrokerId;

    /// The address under which clients and brokers reach this broker.
    fn local_address(&self) -> String;

    /// Ticks when any owner changed.
    fn changed(&self) -> watch::Receiver<u64>;
}
