//! Where the cluster is, and what all of the client's parts share. Connections are made on first use and again after
//! they broke. Each producer, consumer and reader has a connection of its own, so that records that nobody takes from
//! one do not fill the window that another's acknowledgements need.

use std::sync::Arc;
use std::time::Duration;

use geminga_proto::caps;
use geminga_runtime::{Random, SystemClock, SystemRandom, Tasks, WallClock};
use tonic::transport::{Channel, Endpoint};

use crate::admin::Admin;
use crate::consumer::{Consumer, ConsumerConfig, Reader, ReaderConfig};
use crate::error::Error;
use crate::producer::{Producer, ProducerConfig};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A server that vanished is noticed within the sum of both; one that is merely slow for a moment is not.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long [`Client::close`] waits for what was accepted.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Settings of a [`Client`].
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// What servers call this client. Default `geminga-client`.
    pub client_id: String,
    /// How long a call of [`Admin`] is repeated while partitions or groups are moving. Default 30 s.
    pub request_timeout: Duration,
    /// How long a call of [`Admin`] is repeated while nobody answers. Default 3 s.
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
    endpoint: Endpoint,
    admin: Channel,
    config: ClientConfig,
    tasks: Tasks,
}

impl Client {
    /// A client of the cluster that the broker at `server` (HOST:PORT) belongs to. Nothing is sent yet. Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// `Config` when `server` is not an address.
    pub fn connect(server: &str) -> Result<Self, Error> {
        Self::with(server, ClientConfig::default())
    }

    /// [`Client::connect`] with settings.
    ///
    /// # Errors
    /// `Config` when `server` is not an address.
    pub fn with(server: &str, config: ClientConfig) -> Result<Self, Error> {
        let endpoint = Endpoint::from_shared(format!("http://{server}"))
            .map_err(|error| Error::Config(format!("`{server}` is not HOST:PORT: {error}")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .max_frame_size(caps::H2_MAX_FRAME_BYTES)
            .initial_stream_window_size(caps::H2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(caps::H2_CONNECTION_WINDOW_BYTES);
        let admin = endpoint.connect_lazy();
        let tasks = Tasks::new("client");
        Ok(Self(Arc::new(Inner { server: server.to_owned(), endpoint, admin, config, tasks })))
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

    /// The address it was given.
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

    /// The connection that admin calls share.
    pub(crate) fn admin_channel(&self) -> Channel {
        self.0.admin.clone()
    }

    /// A connection for one stream's sake.
    pub(crate) fn own_channel(&self) -> Channel {
        self.0.endpoint.connect_lazy()
    }
}
