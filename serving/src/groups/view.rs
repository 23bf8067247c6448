//! What groups ask of the broker around them: which topics exist, and which broker coordinates which shard. Both are
//! caches fed by watches; they only trigger, the log decides (M8).

mod deleted;
mod live;

use std::fmt;
use std::sync::Arc;

use geminga_proto::ids::{BrokerId, TopicId};
use tokio::sync::watch;

pub use deleted::LiveTopics;
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
/// Cheap; never waits. A topic that is missing may have been created moments ago, or be one that this broker cannot read: that it
/// is gone is only what [`TopicView::is_deleted`] says.
pub trait TopicView: Send + Sync + fmt::Debug + 'static {
    /// The topic of that name.
    fn topic(&self, name: &str) -> Option<TopicFacts>;

    /// Whether the store itself has said that the topic of this name and id is no more. False until it has; asking makes that the
    /// store is asked.
    fn is_deleted(&self, name: &Arc<str>, id: TopicId) -> bool;

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

    /// Whether the lease that this broker is assigned shards by may still hold, as far as its own clock can tell.
    fn is_leased(&self) -> bool;

    /// This broker.
    fn local_broker(&self) -> BrokerId;

    /// The address under which clients and brokers reach this broker.
    fn local_address(&self) -> String;

    /// Ticks when any owner changed.
    fn changed(&self) -> watch::Receiver<u64>;
}
