//! Log lines of servers, on standard error: standard output belongs to what a command prints.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogOptions};
use crate::exit::Failure;

/// Starts logging for the rest of the process.
pub(crate) fn start(options: &LogOptions) -> Result<(), Failure> {
    let filter = options.filter.as_deref().unwrap_or("info");
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Failure::usage(format!("--log-filter `{filter}` is not a level or list of levels: {error}"))
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match options.format {
        Some(LogFormat::Json) => builder.json().flatten_event(true).try_init(),
        _ => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    started.map_err(Failure::new)
}
