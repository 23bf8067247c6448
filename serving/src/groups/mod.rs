//! Consumer groups: who reads which partition, and how far they got.
//!
//! * [`types`]: the nouns that all groups share; [`classic`]: those of Kafka's classic protocol.
//! * [`core`]: one group as a pure state machine; [`assign`]: who reads what.
//! * [`record`]: what groups write to their shard's log; [`image`]: what is durable of it.
//! * [`machine`]: the groups of one shard; [`request`]: what it is asked.
//! * [`view`]: what groups ask of the broker around them.
//! * [`lag`]: how far groups are behind, for metrics.
//! * [`coordinator`]: the shards that this broker serves; [`client`]: any group, wherever its shard is; [`local`]: groups
//!   for those who must come to their coordinator.

mod assign;
pub mod classic;
pub mod client;
mod consumer_protocol;
pub mod coordinator;
pub mod core;
#[cfg(test)]
pub(crate) mod fakes;
mod image;
pub(crate) mod lag;
pub mod limits;
pub mod local;
pub mod machine;
pub(crate) mod metrics;
pub mod record;
pub(crate) mod refused;
pub mod request;
pub mod room;
pub mod types;
pub mod view;
pub(crate) mod wire;
