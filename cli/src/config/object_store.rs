//! Where closed segments go, and when bookies let go of theirs. Credentials are the environment's alone: they neither stand in a file
//! nor are shown.

use std::time::Duration;

use geminga_bookie::TieringConfig;
use geminga_tier::{Options, Store};
use serde::{Deserialize, Serialize};

use super::{Interval, Size};
use crate::exit::Failure;

/// Objects that are younger may be about to be named by metadata.
const LEAST_SWEEP_AGE: Duration =
    if geminga_runtime::FOR_TESTS { Duration::ZERO } else { Duration::from_secs(24 * 3_600) };

/// The store, for whoever reads or writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct ObjectStoreOptions {
    /// Where closed segments of topics with remote.storage.enable=true are kept: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX,
    /// az://CONTAINER/PREFIX or file:///PATH. Give all bookies and brokers the same. Credentials are those of AWS_*, GOOGLE_* and
    /// AZURE_* variables [default: nowhere].
    #[arg(
        id = "object_store",
        long = "object-store",
        value_name = "URL",
        env = "GEMINGA_OBJECT_STORE",
        help_heading = "Object store"
    )]
    pub(crate) url: Option<String>,
    /// Where that store is, when not at its vendor's own address: http://HOST:PORT. Of s3:// and az://.
    #[arg(
        id = "object_store_endpoint",
        long = "object-store-endpoint",
        value_name = "URL",
        env = "GEMINGA_OBJECT_STORE_ENDPOINT",
        help_heading = "Object store"
    )]
    pub(crate) endpoint: Option<String>,
    /// Name the bucket in the path of requests, not in the host; always so with an endpoint. Of s3://.
    #[arg(
        id = "object_store_path_style",
        long = "object-store-path-style",
        value_name = "BOOL",
        env = "GEMINGA_OBJECT_STORE_PATH_STYLE",
        help_heading = "Object store",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub(crate) path_style: Option<bool>,
}

impl ObjectStoreOptions {
    /// These options where they are set, those of `file` elsewhere.
    pub(crate) fn over(self, file: Self) -> Self {
        Self {
            url: self.url.or(file.url),
            endpoint: self.endpoint.or(file.endpoint),
            path_style: self.path_style.or(file.path_style),
        }
    }

    /// Whether one is named.
    pub(crate) fn is_some(&self) -> bool {
        self.url.is_some()
    }

    /// Opens it, if one was named; makes no request. `alone`: nobody else has to find what is in it.
    pub(crate) fn open(&self, alone: bool) -> Result<Option<Store>, Failure> {
        let Some(url) = &self.url else {
            return match self.endpoint.is_some() || self.path_style.is_some() {
                true => Err(Failure::usage(
                    "--object-store-endpoint and --object-store-path-style are of --object-store: give that, too",
                )),
                false => Ok(None),
            };
        };
        let options = Options {
            endpoint: self.endpoint.clone(),
            path_style: self.path_style.unwrap_or(false),
        };
        let environment = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        let store = Store::open(url, &options, environment).map_err(Failure::usage)?;
        if store.is_memory() && !alone {
            return Err(Failure::usage(
                "--object-store memory:// is gone with its process, and no other process sees it: it is for trying out `geminga standalone`",
            ));
        }
        Ok(Some(store))
    }
}

/// How a bookie tiers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct TierOptions {
    /// How often it is looked for segments to upload, and for copies that may go [default: 30s].
    #[arg(
        id = "tier_interval",
        long = "tier-interval",
        value_name = "DURATION",
        env = "GEMINGA_TIER_INTERVAL",
        help_heading = "Object store"
    )]
    pub(crate) interval: Option<Interval>,
    /// How long bookies keep their copies of what was uploaded, where local.retention.ms of the topic does not say [default: 1h].
    #[arg(
        id = "tier_local_retention",
        long = "tier-local-retention",
        value_name = "DURATION",
        env = "GEMINGA_TIER_LOCAL_RETENTION",
        help_heading = "Object store"
    )]
    pub(crate) local_retention: Option<Interval>,
    /// Most bytes a second that this bookie uploads while its disks have room; 0 = as fast as it goes [default: 50MiB].
    #[arg(
        id = "tier_upload_rate",
        long = "tier-upload-rate",
        value_name = "SIZE",
        env = "GEMINGA_TIER_UPLOAD_RATE",
        help_heading = "Object store"
    )]
    pub(crate) upload_rate: Option<Size>,
    /// After how long another bookie may take over an upload that does not end, beside the time that its bytes take [default: 5m].
    #[arg(
        id = "tier_take_over",
        long = "tier-take-over",
        value_name = "DURATION",
        env = "GEMINGA_TIER_TAKE_OVER",
        help_heading = "Object store"
    )]
    pub(crate) take_over: Option<Interval>,
    /// How often it is looked for segments to fold: old ones that are in the object store only leave the metadata [default: 10m].
    #[arg(
        id = "tier_fold_interval",
        long = "tier-fold-interval",
        value_name = "DURATION",
        env = "GEMINGA_TIER_FOLD_INTERVAL",
        help_heading = "Object store"
    )]
    pub(crate) fold_interval: Option<Interval>,
    /// The newest segments of a partition, so many, stay in the metadata one by one; at least 1 [default: 100].
    #[arg(
        id = "tier_fold_keep",
        long = "tier-fold-keep",
        value_name = "SEGMENTS",
        env = "GEMINGA_TIER_FOLD_KEEP",
        help_heading = "Object store"
    )]
    pub(crate) fold_keep: Option<usize>,
    /// Older ones are folded when there are so many of them; 0 = never [default: 200].
    #[arg(
        id = "tier_fold_at",
        long = "tier-fold-at",
        value_name = "SEGMENTS",
        env = "GEMINGA_TIER_FOLD_AT",
        help_heading = "Object store"
    )]
    pub(crate) fold_at: Option<usize>,
    /// For tests: how often it is looked for objects that nothing refers to [default: 1d].
    #[arg(
        id = "tier_sweep_interval",
        long = "tier-sweep-interval",
        value_name = "DURATION",
        hide = true
    )]
    pub(crate) sweep_interval: Option<Interval>,
    /// For tests: how old such an object must be to be removed; a day at least in a release [default: 7d].
    #[arg(id = "tier_sweep_age", long = "tier-sweep-age", value_name = "DURATION", hide = true)]
    pub(crate) sweep_age: Option<Interval>,
}

impl TierOptions {
    /// These options where they are set, those of `file` elsewhere, the bookie's own defaults last.
    pub(crate) fn over(self, file: Self) -> Self {
        let own = TieringConfig::default();
        let rate = own.upload_rate.map(|rate| Size(usize::try_from(rate).unwrap_or(usize::MAX)));
        let or = |given: Option<Interval>, file: Option<Interval>, own: Duration| {
            Some(given.or(file).unwrap_or(Interval(own)))
        };
        Self {
            interval: or(self.interval, file.interval, own.interval),
            local_retention: or(self.local_retention, file.local_retention, own.local_retention),
            upload_rate: self.upload_rate.or(file.upload_rate).or(rate),
            take_over: or(self.take_over, file.take_over, own.take_over),
            fold_interval: or(self.fold_interval, file.fold_interval, own.fold_interval),
            fold_keep: Some(self.fold_keep.or(file.fold_keep).unwrap_or(own.fold_keep)),
            fold_at: Some(self.fold_at.or(file.fold_at).unwrap_or(own.fold_at)),
            sweep_interval: or(self.sweep_interval, file.sweep_interval, own.sweep_interval),
            sweep_age: or(self.sweep_age, file.sweep_age, own.sweep_age),
        }
    }

    /// As the bookie has it.
    pub(crate) fn config(&self) -> TieringConfig {
        let own = TieringConfig::default();
        let time = |given: Option<Interval>, own: Duration| given.map_or(own, |given| given.0);
        TieringConfig {
            interval: time(self.interval, own.interval),
            local_retention: time(self.local_retention, own.local_retention),
            upload_rate: match self.upload_rate.map(|size| size.0 as u64) {
                Some(0) => None,
                rate => rate.or(own.upload_rate),
            },
            take_over: time(self.take_over, own.take_over),
            fold_interval: time(self.fold_interval, own.fold_interval),
            fold_keep: self.fold_keep.unwrap_or(own.fold_keep).max(1),
            fold_at: match self.fold_at.unwrap_or(own.fold_at) {
                0 => usize::MAX,
                segments => segments,
            },
            sweep_interval: time(self.sweep_interval, own.sweep_interval),
            sweep_age: time(self.sweep_age, own.sweep_age).max(LEAST_SWEEP_AGE),
        }
    }
}
