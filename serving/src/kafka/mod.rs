//! The Kafka face of the broker: topics, records and groups are the same ones that gRPC clients see, spoken of in Kafka's
//! words. Everything is translated here, at the edge; the rest of the broker never hears of Kafka.
//!
//! ```text
//!   listener ─► connection ─┬─ reads frames ahead, bounded by bytes
//!                           ├─ serves one after the other: table of APIs ─► one file per API
//!                           └─ writes answers in the order of requests
//! ```
//!
//! * What is not built is not advertised, and never answered with a made-up success.
//! * Partitions are never forwarded: whoever asks the wrong broker is told the right one.

mod api;
mod call;
mod codec;
mod configs;
mod connection;
mod error;
mod frame;
mod listener;
mod metrics;
mod place;
#[cfg(test)]
mod testing;

use std::fmt;
use std::sync::Arc;

pub use api::document;
use geminga_proto::caps;
pub(crate) use listener::Listener;
use tokio::sync::Semaphore;

use crate::rpc::context::Context;

/// What an operator may tune of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Whether asking for a topic that does not exist creates it. Default: no.
    pub auto_create_topics: bool,
    /// Partitions of topics that are created without saying how many. Default 1.
    pub default_partitions: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { auto_create_topics: false, default_partitions: 1 }
    }
}

/// What all connections share; cheap to clone.
#[derive(Clone)]
pub(crate) struct Kafka {
    pub(crate) ctx: Arc<Context>,
    pub(crate) config: Arc<Config>,
    /// One permit a connection, of all listeners together.
    places: Arc<Semaphore>,
}

impl Kafka {
    pub(crate) fn new(ctx: Arc<Context>, config: Config) -> Self {
        let places = Arc::new(Semaphore::new(caps::MAX_CONNECTIONS));
        Self { ctx, config: Arc::new(config), places }
    }
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kafka").field("config", &self.config).finish_non_exhaustive()
    }
}
