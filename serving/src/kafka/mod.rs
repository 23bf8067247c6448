//! The Kafka face of the broker: topics, records and groups are the same ones that gRPC clients see, spoken of in Kafka's
//! words. Everything is translated here, at the edge; the rest of the broker never hears of Kafka.
//!
//! ```text
//!   listener ─► connection ─┬─ takes frames one after the other, bounded by bytes
//!                           ├─ serves each: table of APIs ─► one file per API
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
mod group;
mod journey;
mod lanes;
mod listener;
mod metrics;
mod operations;
mod pace;
mod patience;
mod place;
mod said;
mod strangers;
#[cfg(test)]
mod testing;
mod throttle;

use std::fmt;
use std::sync::Arc;

pub use api::{document, served, understands};
use geminga_proto::caps;
pub(crate) use listener::Listener;
use strangers::Strangers;
#[cfg(test)]
pub(crate) use testing::oracle::check as check_by_another_codec;
use tokio::sync::Semaphore;

use crate::groups::local::LocalGroups;
use crate::room::Answers;
use crate::rpc::context::Context;
use crate::rpc::produce::Part;

/// What an operator may tune of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Whether asking for a topic that does not exist creates it. Default: no.
    pub auto_create_topics: bool,
    /// Partitions of topics that are created without saying how many. Default 1.
    pub default_partitions: u32,
    /// Bytes of requests without records that are read and not decoded, of all connections; what they decode to may be twenty times
    /// that. Default 16 MiB, at least two of the largest.
    pub request_bytes: usize,
    /// Bytes of answers that were made and not written, of all connections. Default 128 MiB.
    pub reply_bytes: usize,
    /// Most connections that are in a handshake or have not asked for anything yet. Default 2,048: when all clients come
    /// back at once, they wait for their handshakes.
    pub strangers: usize,
}

impl Default for Config {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            auto_create_topics: false,
            default_partitions: 1,
            request_bytes: 16 * MIB,
            reply_bytes: 128 * MIB,
            strangers: 2_048,
        }
    }
}

/// What all connections share; cheap to clone.
#[derive(Clone)]
pub(crate) struct Kafka {
    pub(crate) ctx: Arc<Context>,
    /// The groups that this broker coordinates.
    pub(crate) groups: LocalGroups,
    pub(crate) config: Arc<Config>,
    /// For frames without records, until they are decoded.
    plain_room: Part,
    /// For answers, until they are written.
    pub(crate) answers: Answers,
    /// One permit a connection, of all listeners together.
    places: Arc<Semaphore>,
    /// Of these connections, those of whom nothing is known.
    strangers: Arc<Strangers>,
}

impl Kafka {
    pub(crate) fn new(ctx: Arc<Context>, groups: LocalGroups, config: Config) -> Self {
        let places = Arc::new(Semaphore::new(caps::MAX_CONNECTIONS));
        let plain_room = Part::new(config.request_bytes.max(2 * codec::MAX_PLAIN_BYTES));
        let answers = Answers::new(config.reply_bytes);
        let strangers = Strangers::new(config.strangers);
        Self { ctx, groups, config: Arc::new(config), plain_room, answers, places, strangers }
    }

    /// How many connections more there may be.
    #[cfg(test)]
    pub(crate) fn free_places(&self) -> usize {
        self.places.available_permits()
    }
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kafka").field("config", &self.config).finish_non_exhaustive()
    }
}
