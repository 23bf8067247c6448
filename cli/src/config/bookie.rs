//! The settings of `geminga bookie`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    GC_INTERVAL, Interval, Listen, LogOptions, MetastoreUrl, ObjectStoreOptions, TierOptions,
    check_exposure, required,
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
    /// Allow listeners that other machines can reach, although nothing encrypts or authenticates yet.
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
    #[command(flatten)]
    object_store: ObjectStoreOptions,
    #[command(flatten)]
    tier: TierOptions,
    #[command(flatten)]
    log: LogOptions,
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
    pub(crate) object_store: ObjectStoreOptions,
    pub(crate) tier: TierOptions,
    pub(crate) log: LogOptions,
}

impl BookieOptions {
    /// These options over those of the file, over the defaults; checked.
    pub(crate) fn settle(self, file: Self) -> Result<BookieSettings, Failure> {
        let metastore = self.metastore.or(file.metastore);
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
            object_store: self.object_store.over(file.object_store),
            tier: self.tier.over(file.tier),
            log: self.log.over(file.log),
        };
        settings.metastore.require_etcd()?;
        if settings.data_dir.is_empty() {
            return Err(Failure::usage("--data-dir names no directory: give at least one"));
        }
        check_exposure(
            settings.insecure,
            &[("--listen", Some(settings.listen)), ("--http", settings.http)],
        )?;
        Ok(settings)
    }
}
