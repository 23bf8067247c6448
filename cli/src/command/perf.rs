//! `geminga perf`: what a cluster does under load, measured at its acknowledgements and at its readers.

mod consume;
mod content;
mod produce;

use clap::Subcommand;

use super::produce::{Acks, Compression};
use crate::args::ClientArgs;
use crate::exit::Failure;
use crate::server;

/// Arguments of `geminga perf`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Write records; counts acknowledgements, never sends.
    #[command(after_help = "Example:\n  geminga perf produce bench --records 1000000 --size 1024")]
    Produce(ProduceArgs),
    /// Read them back; every byte is compared with what was written.
    #[command(after_help = "Example:\n  geminga perf consume bench --records 1000000 --size 1024")]
    Consume(ConsumeArgs),
}

/// Arguments of `geminga perf produce`.
#[derive(Debug, clap::Args)]
pub(crate) struct ProduceArgs {
    #[command(flatten)]
    pub(crate) load: Load,
    /// Records a second; without, as many as are acknowledged.
    #[arg(long, value_name = "R")]
    pub(crate) rate: Option<u64>,
    /// How batches are compressed.
    #[arg(long, value_enum, default_value_t = Compression::None)]
    pub(crate) compression: Compression,
    /// Wait for acknowledgements or not.
    #[arg(long, value_enum, default_value_t = Acks::All)]
    pub(crate) acks: Acks,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Arguments of `geminga perf consume`.
#[derive(Debug, clap::Args)]
pub(crate) struct ConsumeArgs {
    #[command(flatten)]
    pub(crate) load: Load,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// More would need a tally of more than 125 MB.
const MAX_RECORDS: u64 = 1_000_000_000;

/// What is written and expected.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Load {
    /// The topic; it must exist.
    pub(crate) topic: String,
    /// How many records.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_RECORDS))]
    pub(crate) records: u64,
    /// Bytes of each record's value.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(16..))]
    pub(crate) size: u32,
    /// What the content is derived from; the same for writing and reading.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub(crate) seed: u64,
}

/// Measures until all records are through.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        Action::Produce(args) => server::block_on(produce::run(args)),
        Action::Consume(args) => server::block_on(consume::run(args)),
    }
}

/// Megabytes (10⁶ bytes) a second, and records a second.
fn rates(records: u64, bytes: u64, seconds: f64) -> (f64, f64) {
    let seconds = seconds.max(1e-9);
    (bytes as f64 / 1e6 / seconds, records as f64 / seconds)
}
