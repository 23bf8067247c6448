//! Consumer groups: who reads which partition, and how far they got.
//!
//! * [`core`]: one group as a pure state machine; [`assign`]: who reads what.
//! * [`record`]: what groups write to their shard's log; [`image`]: what is durable of it.
//! * [`machine`]: the groups of one shard; [`request`]: what it is asked.
//! * [`view`]: what groups ask of the broker around them.
//! * [`coordinator`]: the shards that this broker serves; [`client`]: any group, wherever its shard is.

mod assign;
pub mod client;
pub mod coordinator;
pub mod core;
#[cfg(test)]
pub(crate) mod fakes;
mod image;
pub mod limits;
pub mod machine;
pub(crate) mod metrics;
pub mod record;
pub mod request;
pub mod types;
pub mod view;
pub(crate) mod wire;
