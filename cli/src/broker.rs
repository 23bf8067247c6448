//! One broker of this process, put together from its layers: bookies, ledgers, partitions and what serves them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use geminga_ledger::{BookieConnection, BookieDirectory, LedgerClient, Parts};
use geminga_metastore::record::Cluster;
use geminga_metastore::{LedgerIds, MetaStore, cluster};
use geminga_proto::ids::{BookieId, ClusterUuid};
use geminga_runtime::requests::Requests;
use geminga_runtime::{Random, SystemClock, SystemRandom, Tasks, WallClock};
use geminga_serving::broker::{Broker, BrokerParts, Config, memory};
use geminga_serving::cold::Cold;
use geminga_serving::ownership::registration::Identity;
use geminga_serving::topics::quorum::Quorum;
use geminga_tier::Store;
use geminga_tls::Dial;

use crate::config::{BoundKafka, ColdCacheOptions};
use crate::exit::Failure;

/// What distinguishes a broker.
pub(crate) struct Setting {
    pub(crate) store: Arc<dyn MetaStore>,
    /// The same, which is not waited for while the process starts.
    pub(crate) unwaited: Arc<dyn MetaStore>,
    pub(crate) cluster: Cluster,
    /// What others are told: addresses, zone.
    pub(crate) grpc_address: String,
    pub(crate) http_address: String,
    pub(crate) zone: String,
    /// In how many zones copies are at least, where there are so many.
    pub(crate) min_zones: usize,
    /// In how many zones what is acknowledged is.
    pub(crate) min_ack_zones: usize,
    /// Where Kafka clients connect, and what they are offered.
    pub(crate) kafka: Vec<BoundKafka>,
    pub(crate) kafka_offer: geminga_serving::kafka::Config,
    /// How long it may take to hand its partitions over when it is stopped.
    pub(crate) hand_over: Duration,
    /// How often old records are looked for.
    pub(crate) retention_interval: Duration,
    /// Bytes of memory that it is to stay within.
    pub(crate) memory: usize,
    /// Bytes a second that readers of old records get at least.
    pub(crate) catch_up_floor: u64,
    /// After how long a silent idempotent producer is forgotten.
    pub(crate) producer_expiry: Duration,
    /// Most idempotent producers that are remembered.
    pub(crate) max_producers: usize,
    /// Whether every record is looked at before it is taken.
    pub(crate) strict_records: bool,
    /// Where ledgers are read that bookies have dropped.
    pub(crate) objects: Option<Store>,
    /// What of them is kept on a disk here.
    pub(crate) cold_cache: ColdCacheOptions,
    pub(crate) kind: Kind,
    /// How other brokers and bookies are reached.
    pub(crate) dial: Dial,
    /// What requests are called, and which are logged and traced.
    pub(crate) requests: Requests,
}

/// The two kinds of cluster.
pub(crate) enum Kind {
    /// Many brokers and bookies.
    Distributed,
    /// This process is all of it; its bookies are reached without a network.
    Standalone(HashMap<BookieId, Arc<dyn BookieConnection>>),
}

/// How long a start waits for an object store that does not answer. Brokers serve what bookies have without it. A metadata store
/// that does not answer has said so by then.
const PATIENCE: Duration = Duration::from_secs(6);

/// Refuses a store that is not the cluster's: what is missing there is not lost. `metadata`: one that is not waited for.
pub(crate) async fn believe(
    metadata: &dyn MetaStore,
    objects: &Store,
    cluster: ClusterUuid,
) -> Result<(), Failure> {
    let checked = geminga_tier::check(metadata, objects, cluster);
    match tokio::time::timeout(PATIENCE, checked).await {
        Ok(Err(error)) if error.is_refusal() => {
            Err(Failure::new(error).because("OTHER_OBJECT_STORE"))
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "whose the object store is cannot be asked");
            Ok(())
        }
        Err(_) => {
            tracing::warn!(place = objects.place(), "the object store does not answer");
            Ok(())
        }
        Ok(Ok(())) => Ok(()),
    }
}

/// Takes a number and starts, and serves Kafka clients; [`Broker::serve`] is to follow at once. Everything runs in `tasks`.
pub(crate) async fn start(setting: Setting, tasks: &Tasks) -> Result<Broker, Failure> {
    let Setting {
        store,
        unwaited,
        cluster,
        grpc_address,
        http_address,
        zone,
        min_zones,
        min_ack_zones,
        kafka,
        kafka_offer,
        hand_over,
        retention_interval,
        memory,
        catch_up_floor,
        producer_expiry,
        max_producers,
        strict_records,
        objects,
        cold_cache,
        kind,
        dial,
        requests,
    } = setting;
    let (sole, default_quorum, local) = match kind {
        Kind::Distributed => (false, Quorum::CLUSTER, HashMap::new()),
        Kind::Standalone(local) => (true, Quorum::STANDALONE, local),
    };
    let clock: Arc<dyn WallClock> = Arc::new(SystemClock);
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let id = cluster::next_broker_id(&*store).await?;
    let limits = geminga_ledger::Config {
        min_zones,
        min_ack_zones,
        total_outstanding_bytes: memory::entries(memory),
        lane_bytes: memory::lane(memory),
        ..geminga_ledger::Config::default()
    }
    .validated()?;
    let bookies = BookieDirectory::start(
        &*store,
        tasks.child("bookies"),
        local,
        limits.lane_bytes,
        dial.clone(),
    )
    .await?;
    let mut ledgers = LedgerClient::new(Parts {
        cluster: cluster.uuid,
        ids: Arc::new(LedgerIds::new(Arc::clone(&store), cluster.epoch)),
        store: Arc::clone(&store),
        bookies,
        clock: Arc::clone(&clock),
        random: Arc::clone(&random),
        tasks: tasks.child("ledgers"),
        config: limits,
        owner: format!("broker-{id}"),
    })
    .in_zone(&zone);
    ledgers.tell_missing_zones();
    let started_ms = clock.now_ms();
    let (listeners, advertised): (Vec<_>, Vec<_>) =
        kafka.into_iter().map(|bound| ((bound.tcp, bound.security), bound.advertised)).unzip();
    let names: Vec<String> = advertised.iter().map(|listener| listener.name.clone()).collect();
    let mut config = Config { hand_over, kafka: kafka_offer, ..Config::default() }.within(memory);
    let mut old = None;
    if let Some(objects) = objects {
        believe(&*unwaited, &objects, cluster.uuid).await?;
        let opened = tokio::task::spawn_blocking(move || cold_cache.open()).await;
        let disk = opened.map_err(|error| Failure::new(format!("--cold-cache-dir: {error}")))??;
        let bytes = memory::cold(memory);
        config = config.beside_cold(memory);
        let cold = Cold::new(cluster.uuid, objects, disk, bytes, tasks.child("cold reads"));
        old = Some(cold.clone());
        ledgers = ledgers.with_cold(Arc::new(cold));
    }
    config.log.reads_floor = catch_up_floor;
    config.partitions.retention_interval = retention_interval;
    config.partitions.producer_expiry = producer_expiry;
    config.partitions.max_producers = max_producers;
    config.partitions.strict_records = strict_records;
    let parts = BrokerParts {
        store,
        cluster,
        id,
        ledgers,
        cold: old,
        identity: Identity { grpc_address, http_address, zone, kafka: advertised, started_ms },
        default_quorum,
        single_copy_allowed: sole,
        sole,
        dial,
        random,
        clock,
        requests,
        tasks: tasks.clone(),
        config,
    };
    let broker = Box::pin(Broker::start(&parts)).await?;
    for (name, (listener, security)) in names.into_iter().zip(listeners) {
        broker.serve_kafka(name, listener, security);
    }
    Ok(broker)
}
