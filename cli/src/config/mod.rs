//! What a server is told: a flag wins over a `GEMINGA_*` variable, a variable over the file, the file over the
//! default. Each server has `Options` (everything optional: what flags, variables and the file have in common) and
//! `Settings` (complete and checked: what `--print-config` shows and what the server is built from). Printed
//! settings are a valid file.

mod bookie;
mod cold_cache;
mod disk;
mod interval;
mod kafka;
mod listen;
mod metastore;
mod min_zones;
mod object_store;
mod serving;
mod size;
mod slow;
mod standalone;
mod tls;
mod trace;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::exit::Failure;

pub(crate) use bookie::{BookieOptions, BookieSettings};
pub(crate) use cold_cache::ColdCacheOptions;
pub(crate) use disk::DiskOptions;
pub(crate) use interval::Interval;
pub(crate) use kafka::{BoundKafka, KafkaOptions, KafkaSettings};
pub(crate) use listen::{Listen, advertised, check_exposure, reached};
pub(crate) use metastore::MetastoreUrl;
pub(crate) use min_zones::{MinZones, check_zones};
pub(crate) use object_store::{ObjectStoreOptions, TierOptions};
pub(crate) use serving::{ServingOptions, ServingSettings};
pub(crate) use size::{Size, catch_up_floor, memory, settle_floor, settle_memory};
pub(crate) use slow::Slow;
pub(crate) use standalone::{StandaloneOptions, StandaloneSettings};
pub(crate) use tls::{EtcdTlsArgs, EtcdTlsOptions, ServerTls, TlsArgs, TlsOptions};
pub(crate) use trace::TraceOptions;

/// As the bookie's own default.
const GC_INTERVAL: Duration = Duration::from_secs(300);

/// As the broker's own default.
const RETENTION_INTERVAL: Duration = Duration::from_secs(60);

/// As the broker's own default.
const PRODUCER_EXPIRY: Duration = Duration::from_secs(24 * 3_600);

/// As the broker's own default.
const MAX_PRODUCERS: u32 = 500_000;

/// Flags that every server has and the file cannot hold.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SourceArgs {
    /// A TOML file with the same names as the flags.
    #[arg(long, value_name = "FILE", env = "GEMINGA_CONFIG", help_heading = "Configuration")]
    pub(crate) config: Option<PathBuf>,
    /// Show the configuration that results from flags, GEMINGA_* variables, file and defaults, and exit.
    #[arg(long, help_heading = "Configuration")]
    pub(crate) print_config: bool,
}

/// What a server logs, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct LogOptions {
    /// A level, or levels by module: `info`, `warn,geminga_ledger=debug` [default: info].
    #[arg(
        id = "log_filter",
        long = "log-filter",
        value_name = "FILTER",
        env = "GEMINGA_LOG_FILTER",
        help_heading = "Logging"
    )]
    pub(crate) filter: Option<String>,
    /// Lines for people or JSON for programs, on standard error [default: text].
    #[arg(
        id = "log_format",
        long = "log-format",
        value_name = "FORMAT",
        value_enum,
        env = "GEMINGA_LOG_FORMAT",
        help_heading = "Logging"
    )]
    pub(crate) format: Option<LogFormat>,
    /// Requests that take longer are logged, ten a second at most; `0`: none is [default: 1s].
    #[arg(
        id = "slow_request_log",
        long = "slow-request-log",
        value_name = "DURATION",
        env = "GEMINGA_SLOW_REQUEST_LOG",
        help_heading = "Logging"
    )]
    pub(crate) slow_requests: Option<Slow>,
}

impl LogOptions {
    /// These options where they are set, those of `file` elsewhere, the defaults last.
    pub(crate) fn over(self, file: Self) -> Self {
        Self {
            filter: Some(self.filter.or(file.filter).unwrap_or_else(|| "info".to_owned())),
            format: Some(self.format.or(file.format).unwrap_or(LogFormat::Text)),
            slow_requests: Some(self.slow_requests.or(file.slow_requests).unwrap_or_default()),
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Reads the file, when one is named.
pub(crate) fn read_file<T: DeserializeOwned + Default>(path: Option<&Path>) -> Result<T, Failure> {
    let Some(path) = path else { return Ok(T::default()) };
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("--config {shown} cannot be read: {error}")))?;
    toml::from_str(&text).map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        Failure::usage(format!("{shown} line {line}: {}", error.message()))
    })
}

/// What `--print-config` does.
pub(crate) fn show<T: Serialize>(settings: &T) -> Result<(), Failure> {
    let text = render(settings)?;
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

fn render<T: Serialize>(settings: &T) -> Result<String, Failure> {
    toml::to_string(settings).map_err(Failure::new)
}

/// A value that must come from somewhere.
fn required<T>(value: Option<T>, flag: &str, variable: &str) -> Result<T, Failure> {
    value.ok_or_else(|| {
        Failure::usage(format!(
            "{flag} is missing: give the flag, set {variable}, or name it in the file of --config"
        ))
    })
}

#[cfg(test)]
mod tests;
