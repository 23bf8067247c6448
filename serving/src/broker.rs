//! A broker put together: registration, ownership, partitions, groups and the services in front of them. Everything it
//! needs from the process (store, ledgers, clock, randomness, tasks) is passed in; it keeps nothing on disk.
//!
//! ```text
//!   gRPC ─► services ─► router ─┬─► partitions ─► logs ─► ledgers
//!                               └─► another broker
//!   topology (watches) ─► router, partitions, groups, coordinator      registration (lease)
//! ```
//!
//! It stops in the order of DESIGN: what it owns is handed over, no new work, what was accepted is finished, the registration is
//! ended so that others take over at once what is left, connections are closed.

mod handover;
pub mod memory;
mod serve;
mod views;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use geminga_ledger::LedgerClient;
use geminga_metastore::{Error, MetaStore, ProducerIds, record};
use geminga_proto::ids::BrokerId;
use geminga_runtime::requests::Requests;
use geminga_runtime::{Random, Tasks, WallClock};
use geminga_tls::{Dial, Security};
use tokio::net::TcpListener;

use crate::cold::Cold;
use crate::groups::client::GroupClient;
use crate::groups::coordinator::{self as group_shards, Shards};
use crate::groups::lag::{self, Lag};
use crate::groups::local::LocalGroups;
use crate::groups::view::{LiveTopics, ShardPlacement};
use crate::kafka::{self, Kafka};
use crate::ownership::operator::Operator;
use crate::ownership::probes::Probes;
use crate::ownership::registration::{Identity, Registration};
use crate::ownership::topology::Topology;
use crate::ownership::{coordinator, load};
use crate::partition::log::{LogConfig, LogParts, Reads, Tails};
use crate::partition::statelog::GroupLogs;
use crate::partition::{self, Partitions, PartitionsParts};
use crate::quotas::Quotas;
use crate::room::Streams;
use crate::router::{LocalPartitions, RoutedSource, Router, Source};
use crate::rpc::context::Context;
use crate::rpc::produce::ProduceRoom;
use crate::topics::quorum::Quorum;
use crate::topics::{TopicAdmin, removal};

/// How long Kafka clients may take to read their last answers when the broker stops.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What an operator may tune.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Time to live of the registration; the same at all brokers of a cluster. Default 3 s, minimum 1 s.
    pub lease_ttl: Duration,
    /// How long a broker that stops may take to hand its partitions over; zero = others take them when it has gone.
    /// Default 10 s.
    pub hand_over: Duration,
    /// How long what was accepted may take to finish when the broker stops. Default 10 s.
    pub drain: Duration,
    /// How long an empty group waits for more members before its first generation. Default 500 ms.
    pub group_initial_delay: Duration,
    /// How long committed offsets are kept that no member uses (Kafka's `offsets.retention.minutes`). Default 7 days.
    pub offsets_retention: Duration,
    /// Bytes of what the members of all groups of one shard say of themselves, and as many of what they are assigned; beyond,
    /// newcomers are refused. Default 8 MiB.
    pub group_member_bytes: usize,
    /// Bytes of names and metadata of the committed offsets of all groups of one shard; beyond, commits that need more are
    /// refused. Default 32 MiB.
    pub group_offset_bytes: usize,
    /// Bytes of batches that produce streams of clients hold together while they wait, and as many those of other
    /// brokers; above, sockets are not read. Default 256 MiB, minimum one message.
    pub produce_bytes: usize,
    /// Bytes of records on their way to gRPC clients, of all streams. Default 64 MiB.
    pub stream_bytes: usize,
    /// Limits of topic partitions.
    pub partitions: partition::Config,
    /// Limits of their logs.
    pub log: LogConfig,
    /// What Kafka clients are offered.
    pub kafka: kafka::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lease_ttl: Duration::from_secs(3),
            hand_over: Duration::from_secs(10),
            drain: Duration::from_secs(10),
            group_initial_delay: Duration::from_millis(500),
            offsets_retention: Duration::from_secs(7 * 24 * 60 * 60),
            group_member_bytes: 8 * 1024 * 1024,
            group_offset_bytes: 32 * 1024 * 1024,
            produce_bytes: 256 * 1024 * 1024,
            stream_bytes: 64 * 1024 * 1024,
            partitions: partition::Config::default(),
            log: LogConfig::default(),
            kafka: kafka::Config::default(),
        }
    }
}

/// What a broker is made from.
#[derive(Debug, Clone)]
pub struct BrokerParts {
    /// The metadata store.
    pub store: Arc<dyn MetaStore>,
    /// The cluster's own record.
    pub cluster: record::Cluster,
    /// A number that no broker had before ([`geminga_metastore::cluster::next_broker_id`]).
    pub id: BrokerId,
    /// Ledgers.
    pub ledgers: LedgerClient,
    /// Where the lists of folded segments are; none where no object store was named.
    pub cold: Option<Cold>,
    /// What others are told about it.
    pub identity: Identity,
    /// Copies of what does not say: topics without a quorum, and the groups.
    pub default_quorum: Quorum,
    /// Whether topics of a single copy need no consent: standalone.
    pub single_copy_allowed: bool,
    /// No other broker can exist: standalone.
    pub sole: bool,
    /// How other brokers are reached.
    pub dial: Dial,
    /// Ids and choices.
    pub random: Arc<dyn Random>,
    /// Dates topics and records.
    pub clock: Arc<dyn WallClock>,
    /// What requests are called, and which are logged and traced.
    pub requests: Requests,
    /// Everything runs here; when it is cancelled without [`Broker::shutdown`] before, nothing is drained.
    pub tasks: Tasks,
    /// Limits.
    pub config: Config,
}

/// A running broker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Broker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ctx: Arc<Context>,
    kafka: Kafka,
    partitions: Partitions,
    shards: Shards,
    registration: Registration,
    probes: Probes,
    topology: Topology,
    lag: Lag,
    config: Config,
    /// Cancelled first: no new work.
    intake: Tasks,
    /// Ends with the intake: connections of Kafka clients, which answer what they have taken first.
    kafka_connections: Tasks,
    /// Cancelled last: connections.
    server: Tasks,
    serving: AtomicBool,
}

impl Broker {
    /// Registers the broker and starts everything but the listener; call [`Broker::serve`] at once, since
    /// partitions are assigned to it from now on.
    ///
    /// # Errors
    /// When the metadata store does not answer.
    pub async fn start(parts: &BrokerParts) -> Result<Self, Error> {
        let BrokerParts { store, cluster, tasks, config, .. } = parts;
        let groups = (cluster.groups_topic, cluster.group_shards);
        let topology = Topology::start(Arc::clone(store), tasks, groups).await?;
        let registration = Registration::start(
            Arc::clone(store),
            topology.clone(),
            tasks,
            (parts.id, cluster.epoch),
            parts.identity.clone(),
            config.lease_ttl,
        )
        .await?;
        let dial = parts.dial.clone();
        let (followed, known) = (topology.clone(), registration.clone());
        let probes = Probes::start(Arc::clone(store), followed, known, dial.clone(), tasks);
        let election = coordinator::Parts {
            store: Arc::clone(store),
            topology: topology.clone(),
            registration: registration.clone(),
            probed: Some(probes.watch()),
            ttl: config.lease_ttl,
            sole: parts.sole,
        };
        coordinator::start(election, tasks).await?;
        let removal = removal::Parts {
            store: Arc::clone(store),
            ledgers: parts.ledgers.clone(),
            topology: topology.clone(),
            registration: registration.clone(),
            clock: Arc::clone(&parts.clock),
        };
        removal::start(removal, tasks).await?;
        let router = Router::start(topology.clone(), registration.clone(), dial, tasks);
        let tails = Tails::new(config.log.all_tails_bytes);
        let (bytes, floor) = (config.log.reads_bytes, config.log.reads_floor);
        let reads = Reads::new(bytes, floor, Arc::clone(parts.ledgers.bookies()), tasks.clone());
        let log = LogParts {
            store: Arc::clone(store),
            ledgers: parts.ledgers.clone(),
            me: parts.id,
            tasks: tasks.clone(),
            silence: registration.contact().silence(),
            tails: tails.clone(),
            reads: reads.clone(),
            cold: parts.cold.clone(),
            config: config.log.clone(),
        };
        let partitions = Partitions::start(PartitionsParts {
            log: log.clone(),
            topology: topology.clone(),
            registration: registration.clone(),
            router: Some(router.clone()),
            default_quorum: parts.default_quorum,
            clock: Arc::clone(&parts.clock),
            requests: parts.requests.clone(),
            tasks: tasks.clone(),
            config: config.partitions.clone(),
        });
        load::start(Arc::new(partitions.clone()), registration.clone(), tasks);
        let shards = start_shards(parts, &router, &registration, log);
        let (intake, server) = (tasks.child("streams"), tasks.child("listener"));
        let local: Arc<dyn LocalPartitions> = Arc::new(partitions.clone());
        let source: Arc<dyn Source> =
            Arc::new(RoutedSource::new(router.clone(), Arc::clone(&local)));
        let admin = TopicAdmin {
            store: Arc::clone(store),
            topology: topology.clone(),
            random: Arc::clone(&parts.random),
            clock: Arc::clone(&parts.clock),
            default_quorum: parts.default_quorum,
            single_copy_allowed: parts.single_copy_allowed,
            tiered: parts.ledgers.has_cold(),
        };
        let operator = Operator {
            store: Arc::clone(store),
            topology: topology.clone(),
            clock: Arc::clone(&parts.clock),
        };
        let measured = lag::Parts {
            shards: shards.clone(),
            topology: topology.clone(),
            source: Arc::clone(&source),
        };
        let lag = Lag::start(measured, tasks);
        let quotas = Quotas::start(&**store, tasks).await?;
        let produce_room = ProduceRoom::new(parts.config.produce_bytes);
        let ctx = Arc::new(Context {
            cluster: cluster.clone(),
            store: Arc::clone(store),
            groups: GroupClient::new(shards.clone(), Arc::new(router.clone())),
            router,
            partitions: local,
            source,
            produce_room,
            streams: Streams::new(parts.config.stream_bytes),
            quotas,
            producer_ids: Arc::new(ProducerIds::new(Arc::clone(store), cluster.epoch)),
            admin,
            operator,
            clock: Arc::clone(&parts.clock),
            random: Arc::clone(&parts.random),
            requests: parts.requests.clone(),
            intake: intake.clone(),
            tasks: tasks.clone(),
        });
        let (config, serving) = (config.clone(), AtomicBool::new(false));
        let groups = LocalGroups::new(shards.clone());
        let kafka = Kafka::new(Arc::clone(&ctx), groups, config.kafka.clone());
        let used = memory::Parts {
            produce: ctx.produce_room.clone(),
            tails,
            reads,
            ledgers: parts.ledgers.clone(),
            answers: kafka.answers.clone(),
            streams: ctx.streams.clone(),
            partitions: partitions.clone(),
        };
        memory::watch(&config, used, tasks);
        Ok(Self(Arc::new(Inner {
            ctx,
            kafka,
            partitions,
            shards,
            registration,
            probes,
            topology,
            lag,
            config,
            kafka_connections: intake.child("kafka connections"),
            intake,
            server,
            serving,
        })))
    }

    /// This broker's number.
    pub fn id(&self) -> BrokerId {
        self.0.registration.id()
    }

    /// What serves Kafka clients, to be asked without a socket.
    #[cfg(test)]
    pub(crate) fn kafka(&self) -> &Kafka {
        &self.0.kafka
    }

    /// Serves connections of `listener`, taken as `security` says, until the broker stops. A listener that fails stops everything.
    pub fn serve(&self, listener: TcpListener, security: Security) {
        let (inner, server) = (Arc::clone(&self.0), self.0.server.clone());
        let services = serve::Services {
            ctx: Arc::clone(&inner.ctx),
            shards: inner.shards.clone(),
            partitions: inner.partitions.clone(),
            probes: inner.probes.clone(),
            stop: server.clone(),
        };
        inner.serving.store(true, Ordering::Release);
        self.0.ctx.tasks.spawn("grpc", async move {
            if let Err(error) = Box::pin(services.serve(listener, security)).await {
                tracing::error!(%error, "the gRPC listener failed; stopping");
                inner.ctx.tasks.cancel();
            }
        });
    }

    /// Serves Kafka clients that come by the listener of that name, until the broker stops. Its address is to be in the
    /// [`Identity`] under the same name.
    pub fn serve_kafka(&self, name: String, listener: TcpListener, security: Security) {
        let listener = kafka::Listener::new(name, listener, security, self.0.kafka.clone());
        let (tasks, cut) = (self.0.kafka_connections.clone(), self.0.server.clone());
        self.0.server.spawn("kafka listener", Box::pin(listener.serve(tasks, cut)));
    }

    /// Tells the recorder of metrics that is asked now what has as many series as users make it: how far groups are behind, as far
    /// as this broker coordinates them.
    pub fn observe(&self) {
        self.0.lag.observe();
    }

    /// Whether clients can be sent here.
    ///
    /// # Errors
    /// What is missing, in one line.
    pub fn is_ready(&self) -> Result<(), String> {
        let inner = &*self.0;
        let not = |why: &str| Err(why.to_owned());
        if inner.intake.is_cancelled() {
            return not("shutting down");
        }
        if !inner.serving.load(Ordering::Acquire) {
            return not("not listening yet");
        }
        if !inner.registration.is_registered() {
            return not("not registered in the metadata store");
        }
        if inner.topology.broker(self.id()).is_none() {
            return not("its own registration has not arrived yet");
        }
        if inner.topology.coordinator().is_none() {
            return not("no coordinator is elected");
        }
        let groups = inner.topology.owners(&inner.topology.groups_topic());
        if groups.iter().any(|owner| owner.broker.is_none()) {
            return not("group shards are not assigned yet");
        }
        Ok(())
    }

    /// Stops in good order. Everything that was acknowledged stays; what was not finished in time is unknown to its sender.
    pub async fn shutdown(&self) {
        let inner = &*self.0;
        inner.hand_over(inner.config.hand_over).await;
        inner.intake.cancel();
        inner.partitions.shutdown(inner.config.drain).await;
        inner.registration.leave().await;
        // Everything is answered by now; it remains to be written.
        inner.kafka_connections.finish(LAST_WORDS).await;
        inner.server.cancel();
        inner.intake.finish(inner.config.drain).await;
        tracing::info!(broker = %self.id(), "broker stopped");
    }
}

fn start_shards(
    parts: &BrokerParts,
    router: &Router,
    registration: &Registration,
    log: LogParts,
) -> Shards {
    let delay = parts.config.group_initial_delay.as_millis();
    let retention = parts.config.offsets_retention.as_millis();
    let config = crate::groups::machine::Config {
        initial_delay_ms: u32::try_from(delay).unwrap_or(u32::MAX),
        offsets_retention_ms: i64::try_from(retention).unwrap_or(i64::MAX),
        member_bytes: parts.config.group_member_bytes,
        offset_bytes: parts.config.group_offset_bytes,
    };
    let shards = group_shards::Parts {
        placement: ShardPlacement::start(router.clone(), registration, &parts.tasks),
        logs: Arc::new(GroupLogs::new(log, router.topology().clone(), parts.default_quorum)),
        topics: LiveTopics::start(router.topology().clone(), &parts.tasks),
        clock: Arc::clone(&parts.clock),
        config,
    };
    Shards::start(shards, &parts.tasks)
}

#[cfg(test)]
mod tests;
