//! The settings of `geminga bookie`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use geminga_bookie::RepairConfig;

use super::{
    DiskOptions, EtcdTlsOptions, GC_INTERVAL, Interval, Listen, LogOptions, MetastoreUrl,
    ObjectStoreOptions, Size, TierOptions, TlsOptions, TraceOptions, check_exposure, required,
};
use crate::args::host_port;
use crate::exit::Failure;

/// What flags, variables and the file can say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct BookieOptions {
    /// The cluster's metadata: etcd://HOST:PORT[,HOST:PORT...][/CLUSTER].
    #[arg(long, value_name = "URL", env = "GEMINGA_METASTORE")]
    metastore: Option<MetastoreUrl>,
    /// Where ledgers are kept, one directory a disk; created when not there.
    #[arg(long, value_name = "DIR", env = "GEMINGA_DATA_DIR", num_args = 1.., value_delimiter = ',')]
    data_dir: Option<Vec<PathBuf>>,
    /// Where brokers connect [default: 127.0.0.1:3181].
    #[arg(long, value_name = "IP:PORT", env = "GEMINGA_LISTEN")]
    listen: Option<Listen>,
    /// Where /livez, /readyz and /metrics are [default: nowhere].
    #[arg(long, value_name = "IP:PORT", env = "GEMINGA_HTTP")]
    http: Option<Listen>,
    /// What brokers are told to connect to, when that is not the address of --listen.
    #[arg(long, value_name = "HOST:PORT", env = "GEMINGA_ADVERTISE", value_parser = host_port)]
    advertise: Option<String>,
    /// The name of this bookie in the cluster [default: the one its data directory was given at first].
    #[arg(long, value_name = "ID", env = "GEMINGA_ID")]
    id: Option<String>,
    /// Where this bookie is: a rack, a room, a zone.
    #[arg(long, value_name = "ZONE", env = "GEMINGA_ZONE")]
    zone: Option<String>,
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
    /// Go on without what a disk lost, or what is damaged on it: the other bookies' copies restore it.
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
    /// How much this bookie copies in a second when it repairs what others lost; 0 = as much as goes [default: 50MiB].
    #[arg(long, value_name = "SIZE", env = "GEMINGA_REPAIR_RATE")]
    repair_rate: Option<Size>,
    /// How long a bookie may be away before its copies are made anew elsewhere [default: 10m].
    #[arg(long, value_name = "DURATION", env = "GEMINGA_LOST_BOOKIE_DELAY")]
    lost_bookie_delay: Option<Interval>,
    /// How long an open ledger with a member that is gone is left to its owner, and how often that is looked at
    /// [default: 30s].
    #[arg(long, value_name = "DURATION", env = "GEMINGA_REPAIR_GRACE")]
    repair_grace: Option<Interval>,
    /// How often all ledgers are looked through for members that are gone [default: 1h].
    #[arg(long, value_name = "DURATION", env = "GEMINGA_AUDIT_INTERVAL")]
    audit_interval: Option<Interval>,
    /// How often bookies are asked whether they have everything that they should [default: 1day].
    #[arg(long, value_name = "DURATION", env = "GEMINGA_TAIL_INTERVAL")]
    tail_interval: Option<Interval>,
    /// How long a copy is kept that no ledger names any more, since others took its place; counted anew when the bookie starts [default: 7days].
    #[arg(long, value_name = "DURATION", env = "GEMINGA_EXCESS_GRACE")]
    excess_grace: Option<Interval>,
    #[command(flatten)]
    disk: DiskOptions,
    #[command(flatten)]
    object_store: ObjectStoreOptions,
    #[command(flatten)]
    tier: TierOptions,
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
pub(crate) struct BookieSettings {
    pub(crate) metastore: MetastoreUrl,
    pub(crate) data_dir: Vec<PathBuf>,
    pub(crate) listen: Listen,
    pub(crate) http: Option<Listen>,
    pub(crate) advertise: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) zone: String,
    pub(crate) insecure: bool,
    pub(crate) auto_heal: bool,
    pub(crate) gc_interval: Interval,
    pub(crate) repair_rate: Size,
    pub(crate) lost_bookie_delay: Interval,
    pub(crate) repair_grace: Interval,
    pub(crate) audit_interval: Interval,
    pub(crate) tail_interval: Interval,
    pub(crate) excess_grace: Interval,
    pub(crate) disk: DiskOptions,
    pub(crate) object_store: ObjectStoreOptions,
    pub(crate) tier: TierOptions,
    pub(crate) tls: TlsOptions,
    pub(crate) etcd: EtcdTlsOptions,
    pub(crate) log: LogOptions,
    pub(crate) trace: TraceOptions,
}

impl BookieSettings {
    /// How copies are made anew.
    pub(crate) fn repair(&self) -> RepairConfig {
        RepairConfig {
            rate: self.repair_rate.0 as u64,
            lost_bookie_delay: self.lost_bookie_delay.0,
            open_grace: self.repair_grace.0,
            audit_interval: self.audit_interval.0,
            tail_interval: self.tail_interval.0,
            excess_grace: self.excess_grace.0,
            ..RepairConfig::default()
        }
    }
}

impl BookieOptions {
    /// These options over those of the file, over the defaults; checked.
    pub(crate) fn settle(self, file: Self) -> Result<BookieSettings, Failure> {
        let metastore = self.metastore.or(file.metastore);
        let tls = self.tls.over(file.tls);
        let etcd = self.etcd.over(file.etcd);
        let repair = RepairConfig::default();
        let default_rate = Size(usize::try_from(repair.rate).unwrap_or(usize::MAX));
        let interval = |given: Option<Interval>, default| given.unwrap_or(Interval(default));
        let settings = BookieSettings {
            metastore: required(metastore, "--metastore", "GEMINGA_METASTORE")?,
            data_dir: required(self.data_dir.or(file.data_dir), "--data-dir", "GEMINGA_DATA_DIR")?,
            listen: self.listen.or(file.listen).unwrap_or_else(|| Listen::local(3181)),
            http: self.http.or(file.http),
            advertise: self.advertise.or(file.advertise),
            id: self.id.or(file.id),
            zone: self.zone.or(file.zone).unwrap_or_default(),
            insecure: self.insecure.or(file.insecure).unwrap_or(false),
            auto_heal: self.auto_heal.or(file.auto_heal).unwrap_or(false),
            gc_interval: self.gc_interval.or(file.gc_interval).unwrap_or(Interval(GC_INTERVAL)),
            repair_rate: self.repair_rate.or(file.repair_rate).unwrap_or(default_rate),
            lost_bookie_delay: interval(
                self.lost_bookie_delay.or(file.lost_bookie_delay),
                repair.lost_bookie_delay,
            ),
            repair_grace: interval(self.repair_grace.or(file.repair_grace), repair.open_grace),
            audit_interval: interval(
                self.audit_interval.or(file.audit_interval),
                repair.audit_interval,
            ),
            tail_interval: interval(
                self.tail_interval.or(file.tail_interval),
                repair.tail_interval,
            ),
            excess_grace: interval(self.excess_grace.or(file.excess_grace), repair.excess_grace),
            disk: self.disk.over(file.disk)?,
            object_store: self.object_store.over(file.object_store),
            tier: self.tier.over(file.tier),
            tls,
            etcd,
            log: self.log.over(file.log),
            trace: self.trace.over(file.trace)?,
        };
        settings.metastore.require_etcd()?;
        settings.tls.check(false)?;
        settings.etcd.check(settings.metastore.is_tls())?;
        if settings.data_dir.is_empty() {
            return Err(Failure::usage("--data-dir names no directory: give at least one"));
        }
        check_exposure(
            settings.insecure || settings.tls.is_on(),
            &[("--listen", Some(settings.listen)), ("--http", settings.http)],
        )?;
        Ok(settings)
    }
}
