//! The settings of `geminga serving`.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::kafka::{Defaults, Exposure};
use super::{
    ColdCacheOptions, EtcdTlsOptions, Interval, KafkaOptions, KafkaSettings, Listen, LogOptions,
    MAX_PRODUCERS, MetastoreUrl, MinZones, ObjectStoreOptions, PRODUCER_EXPIRY, RETENTION_INTERVAL,
    Size, TlsOptions, TraceOptions, catch_up_floor, check_exposure, check_zones, memory, required,
    settle_floor, settle_memory,
};
use crate::args::host_port;
use crate::exit::Failure;

/// What flags, variables and the file can say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct ServingOptions {
    /// The cluster's metadata: etcd://HOST:PORT[,HOST:PORT...][/CLUSTER].
    #[arg(long, value_name = "URL", env = "GEMINGA_METASTORE")]
    metastore: Option<MetastoreUrl>,
    /// Where clients and other brokers connect [default: 127.0.0.1:7070].
    #[arg(long, value_name = "IP:PORT", env = "GEMINGA_GRPC")]
    grpc: Option<Listen>,
    /// Where /livez, /readyz, /metrics and /api/v1 are [default: 127.0.0.1:7080].
    #[arg(long, value_name = "IP:PORT", env = "GEMINGA_HTTP")]
    http: Option<Listen>,
    /// What others are told to connect to, when that is not the address of --grpc.
    #[arg(long, value_name = "HOST:PORT", env = "GEMINGA_ADVERTISE", value_parser = host_port)]
    advertise: Option<String>,
    /// Where this broker is: a rack, a room, a zone. It reads from bookies there first.
    #[arg(long, value_name = "ZONE", env = "GEMINGA_ZONE")]
    zone: Option<String>,
    /// How many zones count for more than the quarantine of a bookie that failed often lately: while copies are in fewer, it is chosen all the same if it is the only one of
    /// another zone that takes data [default: 2].
    #[arg(long, value_name = "ZONES", env = "GEMINGA_MIN_ZONES")]
    min_zones: Option<MinZones>,
    /// In how many zones a record is before it is acknowledged, or in all that its segment began with, where they are fewer; at most as
    /// many as --min-zones says [default: 1].
    #[arg(long, value_name = "ZONES", env = "GEMINGA_MIN_ACK_ZONES")]
    min_ack_zones: Option<MinZones>,
    /// How long a broker that is stopped may take to hand its partitions over to others [default: 10].
    #[arg(long, value_name = "SECONDS", env = "GEMINGA_DRAIN_TIMEOUT", value_parser = clap::value_parser!(u32).range(0..=3600))]
    drain_timeout: Option<u32>,
    /// Allow listeners that other machines can reach although nothing encrypts what they hear and say.
    #[arg(
        long,
        value_name = "BOOL",
        env = "GEMINGA_INSECURE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    insecure: Option<bool>,
    /// How often it is looked for records that a topic's retention gives up [default: 1m].
    #[arg(long, value_name = "DURATION", env = "GEMINGA_RETENTION_INTERVAL")]
    retention_interval: Option<Interval>,
    /// Memory that the broker is to stay within, 256MiB at least: slow storage then ends at the clients [default: 2GiB].
    #[arg(long, value_name = "SIZE", env = "GEMINGA_MEMORY", value_parser = memory)]
    memory: Option<Size>,
    /// Bytes a second that readers of what is not in memory any more get from the broker together, however much longer commits
    /// take for it; beyond that they give way to producers [default: 32MiB].
    #[arg(long, value_name = "SIZE", env = "GEMINGA_CATCH_UP_FLOOR", value_parser = catch_up_floor)]
    catch_up_floor: Option<Size>,
    /// An idempotent producer that writes nothing to a partition for so long is forgotten there [default: 1day].
    #[arg(long, value_name = "DURATION", env = "GEMINGA_PRODUCER_EXPIRY")]
    producer_expiry: Option<Interval>,
    /// Most idempotent producers that all partitions here remember together, about half a KiB each [default: 500000].
    #[arg(long, value_name = "PRODUCERS", env = "GEMINGA_MAX_PRODUCERS")]
    max_producers: Option<NonZeroU32>,
    /// Look at every record of a batch before it is taken, as Kafka does, also of those that are compressed, which costs what
    /// decompressing costs [default: only those of topics that need it].
    #[arg(
        long,
        value_name = "BOOL",
        env = "GEMINGA_STRICT_RECORDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    strict_records: Option<bool>,
    #[command(flatten)]
    kafka: KafkaOptions,
    #[command(flatten)]
    object_store: ObjectStoreOptions,
    #[command(flatten)]
    cold_cache: ColdCacheOptions,
    #[command(flatten)]
    tls: TlsOptions,
    #[command(flatten)]
    etcd: EtcdTlsOptions,
    #[command(flatten)]
    log: LogOptions,
    #[command(flatten)]
    trace: TraceOptions,
}

/// What the server is built from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ServingSettings {
    pub(crate) metastore: MetastoreUrl,
    pub(crate) grpc: Listen,
    pub(crate) http: Listen,
    pub(crate) advertise: Option<String>,
    pub(crate) zone: String,
    pub(crate) min_zones: MinZones,
    pub(crate) min_ack_zones: MinZones,
    pub(crate) drain_timeout: u32,
    pub(crate) insecure: bool,
    pub(crate) retention_interval: Interval,
    pub(crate) memory: Size,
    pub(crate) catch_up_floor: Size,
    pub(crate) producer_expiry: Interval,
    pub(crate) max_producers: u32,
    pub(crate) strict_records: bool,
    pub(crate) kafka: KafkaSettings,
    pub(crate) object_store: ObjectStoreOptions,
    pub(crate) cold_cache: ColdCacheOptions,
    pub(crate) tls: TlsOptions,
    pub(crate) etcd: EtcdTlsOptions,
    pub(crate) log: LogOptions,
    pub(crate) trace: TraceOptions,
}

impl ServingOptions {
    /// These options over those of the file, over the defaults; checked.
    pub(crate) fn settle(self, file: Self) -> Result<ServingSettings, Failure> {
        let metastore = self.metastore.or(file.metastore);
        let tls = self.tls.over(file.tls);
        let etcd = self.etcd.over(file.etcd);
        let insecure = self.insecure.or(file.insecure).unwrap_or(false);
        let object_store = self.object_store.over(file.object_store);
        let settings = ServingSettings {
            metastore: required(metastore, "--metastore", "GEMINGA_METASTORE")?,
            grpc: self.grpc.or(file.grpc).unwrap_or_else(|| Listen::local(7070)),
            http: self.http.or(file.http).unwrap_or_else(|| Listen::local(7080)),
            advertise: self.advertise.or(file.advertise),
            zone: self.zone.or(file.zone).unwrap_or_default(),
            min_zones: self.min_zones.or(file.min_zones).unwrap_or_default(),
            min_ack_zones: self.min_ack_zones.or(file.min_ack_zones).unwrap_or(MinZones::ONE),
            drain_timeout: self.drain_timeout.or(file.drain_timeout).unwrap_or(10),
            insecure,
            retention_interval: self
                .retention_interval
                .or(file.retention_interval)
                .unwrap_or(Interval(RETENTION_INTERVAL)),
            memory: settle_memory(self.memory.or(file.memory))?,
            catch_up_floor: settle_floor(self.catch_up_floor.or(file.catch_up_floor))?,
            producer_expiry: self
                .producer_expiry
                .or(file.producer_expiry)
                .unwrap_or(Interval(PRODUCER_EXPIRY)),
            max_producers: self
                .max_producers
                .or(file.max_producers)
                .map_or(MAX_PRODUCERS, NonZeroU32::get),
            strict_records: self.strict_records.or(file.strict_records).unwrap_or(false),
            kafka: self.kafka.settle(
                file.kafka,
                Exposure { insecure, tls: tls.is_on() },
                Defaults { port: None, auto_create_topics: false },
            )?,
            cold_cache: self.cold_cache.over(file.cold_cache, object_store.is_some())?,
            object_store,
            tls,
            etcd,
            log: self.log.over(file.log),
            trace: self.trace.over(file.trace)?,
        };
        settings.metastore.require_etcd()?;
        check_zones(settings.min_zones, settings.min_ack_zones)?;
        settings.tls.check(false)?;
        settings.etcd.check(settings.metastore.is_tls())?;
        check_exposure(
            settings.insecure || settings.tls.is_on(),
            &[("--grpc", Some(settings.grpc)), ("--http", Some(settings.http))],
        )?;
        Ok(settings)
    }
}
