//! The settings of `geminga standalone`.

use std::num::NonZeroU32;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::kafka::{Defaults, Exposure};
use super::{
    ColdCacheOptions, DiskOptions, GC_INTERVAL, Interval, KafkaOptions, KafkaSettings, Listen,
    LogOptions, MAX_PRODUCERS, ObjectStoreOptions, PRODUCER_EXPIRY, RETENTION_INTERVAL, Size,
    TierOptions, TlsOptions, TraceOptions, catch_up_floor, check_exposure, memory, required,
    settle_floor, settle_memory,
};
use crate::exit::Failure;

/// Kafka's own port.
const KAFKA_PORT: u16 = 9092;

/// What flags, variables and the file can say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct StandaloneOptions {
    /// Where everything is kept; created when it is not there.
    #[arg(long, value_name = "DIR", env = "GEMINGA_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Where clients connect [default: 127.0.0.1:7070].
    #[arg(long, value_name = "IP:PORT", env = "GEMINGA_GRPC")]
    grpc: Option<Listen>,
    /// Where /livez, /readyz, /metrics and /api/v1 are [default: 127.0.0.1:7080].
    #[arg(long, value_name = "IP:PORT", env = "GEMINGA_HTTP")]
    http: Option<Listen>,
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
    /// Go on without what the disk lost, or what is damaged on it. Here is its only copy.
    #[arg(
        long,
        value_name = "BOOL",
        env = "GEMINGA_AUTO_HEAL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    auto_heal: Option<bool>,
    /// How often it is looked for ledgers that were deleted, whose space is then given back [default: 5m].
    #[arg(long, value_name = "DURATION", env = "GEMINGA_GC_INTERVAL")]
    gc_interval: Option<Interval>,
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
    disk: DiskOptions,
    #[command(flatten)]
    object_store: ObjectStoreOptions,
    #[command(flatten)]
    cold_cache: ColdCacheOptions,
    #[command(flatten)]
    tier: TierOptions,
    #[command(flatten)]
    tls: TlsOptions,
    #[command(flatten)]
    log: LogOptions,
    #[command(flatten)]
    trace: TraceOptions,
}

/// What the server is built from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct StandaloneSettings {
    pub(crate) data_dir: PathBuf,
    pub(crate) grpc: Listen,
    pub(crate) http: Listen,
    pub(crate) insecure: bool,
    pub(crate) auto_heal: bool,
    pub(crate) gc_interval: Interval,
    pub(crate) retention_interval: Interval,
    pub(crate) memory: Size,
    pub(crate) catch_up_floor: Size,
    pub(crate) producer_expiry: Interval,
    pub(crate) max_producers: u32,
    pub(crate) strict_records: bool,
    pub(crate) kafka: KafkaSettings,
    pub(crate) disk: DiskOptions,
    pub(crate) object_store: ObjectStoreOptions,
    pub(crate) cold_cache: ColdCacheOptions,
    pub(crate) tier: TierOptions,
    pub(crate) tls: TlsOptions,
    pub(crate) log: LogOptions,
    pub(crate) trace: TraceOptions,
}

impl StandaloneOptions {
    /// These options over those of the file, over the defaults; checked.
    pub(crate) fn settle(self, file: Self) -> Result<StandaloneSettings, Failure> {
        let insecure = self.insecure.or(file.insecure).unwrap_or(false);
        let tls = self.tls.over(file.tls);
        let object_store = self.object_store.over(file.object_store);
        let settings = StandaloneSettings {
            data_dir: required(self.data_dir.or(file.data_dir), "--data-dir", "GEMINGA_DATA_DIR")?,
            grpc: self.grpc.or(file.grpc).unwrap_or_else(|| Listen::local(7070)),
            http: self.http.or(file.http).unwrap_or_else(|| Listen::local(7080)),
            insecure,
            auto_heal: self.auto_heal.or(file.auto_heal).unwrap_or(false),
            gc_interval: self.gc_interval.or(file.gc_interval).unwrap_or(Interval(GC_INTERVAL)),
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
                Defaults { port: Some(KAFKA_PORT), auto_create_topics: true },
            )?,
            disk: self.disk.over(file.disk)?,
            cold_cache: self.cold_cache.over(file.cold_cache, object_store.is_some())?,
            object_store,
            tier: self.tier.over(file.tier),
            tls,
            log: self.log.over(file.log),
            trace: self.trace.over(file.trace)?,
        };
        settings.tls.check(true)?;
        check_exposure(
            settings.insecure || settings.tls.is_on(),
            &[("--grpc", Some(settings.grpc)), ("--http", Some(settings.http))],
        )?;
        Ok(settings)
    }
}
