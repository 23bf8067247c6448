//! Log lines of servers, on standard error: standard output belongs to what a command prints. Beside them, where a collector is
//! named, go traces.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::{LogFormat, LogOptions, TraceOptions};
use crate::exit::Failure;
use crate::traces::{Service, Traces};

/// Starts logging, and tracing if it is asked for, for the rest of the process. Must run inside the runtime.
pub(crate) fn start(
    options: &LogOptions,
    trace: &TraceOptions,
    service: &Service<'_>,
) -> Result<Traces, Failure> {
    let filter = options.filter.as_deref().unwrap_or("info");
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Failure::usage(format!("--log-filter `{filter}` is not a level or list of levels: {error}"))
    })?;
    let Some((endpoint, dial)) = trace.collector()? else {
        lines_only(filter, options.format).map_err(Failure::new)?;
        return Ok(Traces::none());
    };
    let (traces, spans) = Traces::to(&endpoint, &dial, service)?;
    // Each has a filter of its own: what is traced does not depend on what is logged.
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match options.format {
        Some(LogFormat::Json) => lines.json().flatten_event(true).with_filter(filter).boxed(),
        _ => lines.with_ansi(std::io::stderr().is_terminal()).with_filter(filter).boxed(),
    };
    tracing_subscriber::registry().with(lines).with(spans).try_init().map_err(Failure::new)?;
    Ok(traces)
}

fn lines_only(
    filter: EnvFilter,
    format: Option<LogFormat>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        Some(LogFormat::Json) => builder.json().flatten_event(true).try_init(),
        _ => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
    }
}
