//! Where the cluster is, and what all of the client's parts share. Connections are made on first use, and again, to
//! another broker where there is one, after they broke. Each producer, consumer and reader has connections of its own, so
//! that records that nobody takes from one do not fill the window that another's acknowledgements need.

use std::sync::Arc;
use std::time::Duration;

use geminga_runtime::{Random, SystemClock, SystemRandom, Tasks, WallClock};

use crate::admin::Admin;
use crate::consumer::{Consumer, ConsumerConfig, Reader, ReaderConfig};
use crate::directory::Directory;
use crate::error::Error;
use crate::producer::{Producer, ProducerConfig};

/// How long [`Client::close`] waits for what was accepted.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Settings of a [`Client`].
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// What servers call this client. Default `geminga-client`.
    pub client_id: String,
    /// How long a call of [`Admin`] is repeated while partitions or groups are moving. Default 30 s.
    pub request_timeout: Duration,
    /// How long a call of [`Admin`] is repeated while nobody answers, once every known broker was asked. Default 3 s.
    pub unreachable_timeout: Duration,
    /// Dates records that have no timestamp.
    pub clock: Arc<dyn WallClock>,
    /// Spreads retries and keyless records.
    pub random: Arc<dyn Random>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            client_id: "geminga-client".to_owned(),
            request_timeout: Duration::from_secs(30),
            unreachable_timeout: Duration::from_secs(3),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        }
    }
}

/// A handle on a cluster. Cloning is cheap and shares everything.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    server: String,
    directory: Directory,
    config: ClientConfig,
    tasks: Tasks,
}

impl Client {
    /// A client of the cluster that the brokers at `servers` belong to: HOST:PORT, several with commas between them. One
    /// is enough while it lives; the others are learned from it. Nothing is sent yet. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// `Config` when one is not an address.
    pub fn connect(servers: &str) -> Result<Self, Error> {
        Self::with(servers, ClientConfig::default())
    }

    /// [`Client::connect`] with settings.
    ///
    /// # Errors
    /// `Config` when one of `servers` is not an address.
    pub fn with(servers: &str, config: ClientConfig) -> Result<Self, Error> {
        let tasks = Tasks::new("client");
        let directory = Directory::new(servers, Arc::clone(&config.random), &tasks)?;
        let server = servers.to_owned();
        Ok(Self(Arc::new(Inner { server, directory, config, tasks })))
    }

    /// Topics, groups and the cluster.
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// A producer; it stops when it is closed or dropped.
    pub fn producer(&self, config: ProducerConfig) -> Producer {
        Producer::start(self, config)
    }

    /// A new member of a consumer group; it joins with its first [`Consumer::next`].
    pub fn consumer(&self, config: ConsumerConfig) -> Consumer {
        Consumer::new(self.clone(), config)
    }

    /// A reader of the partitions of `topic` that `starts` names, from there on.
    pub fn reader(
        &self,
        topic: &str,
        starts: impl IntoIterator<Item = (u32, i64)>,
        config: ReaderConfig,
    ) -> Reader {
        Reader::new(self.clone(), topic, starts, config)
    }

    /// The addresses it was given.
    pub fn server(&self) -> &str {
        &self.0.server
    }

    /// Stops everything that was started from this client, and waits for it. Producers that were not closed before
    /// fail what they still hold.
    pub async fn close(&self) {
        self.0.tasks.finish(CLOSE_TIMEOUT).await;
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.0.config
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.0.tasks
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.0.directory
    }
}
