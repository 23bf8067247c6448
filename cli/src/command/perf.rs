//! `geminga perf`: what a cluster does under load, measured at its acknowledgements and at its readers.

mod consume;
mod content;
mod ledger;
mod produce;
mod ticks;

use std::fmt;
use std::time::Duration;

use clap::Subcommand;
use geminga_proto::ids::LedgerId;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::Instant;

use super::ledger::{Place, ledger_id};
use super::produce::{Acks, Compression};
use crate::args::{ClientArgs, PrintArgs};
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
    /// Write ledgers on the bookies, without a broker in between; they are deleted afterwards.
    #[command(
        after_help = "Example:\n  geminga perf ledger --metastore etcd://127.0.0.1:2379/prod --entries 100000 --size 65536"
    )]
    Ledger(LedgerArgs),
    /// Read ledgers that `perf ledger --keep` wrote, all at the same time; every entry's digest is verified.
    #[command(
        after_help = "Example:\n  geminga perf ledger-read 0000000000000002 --metastore etcd://127.0.0.1:2379/prod"
    )]
    LedgerRead(LedgerReadArgs),
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
    /// Do not number batches: a record whose acknowledgement was lost may then be stored twice.
    #[arg(long)]
    pub(crate) no_idempotence: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Arguments of `geminga perf consume`.
#[derive(Debug, clap::Args)]
pub(crate) struct ConsumeArgs {
    #[command(flatten)]
    pub(crate) load: Load,
    /// Read as a member of this consumer group, and commit as one does: a new group, which has committed nothing. It ends when
    /// everything is committed that was there at the start.
    #[arg(long, value_name = "G")]
    pub(crate) group: Option<String>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Arguments of `geminga perf ledger`.
#[derive(Debug, clap::Args)]
pub(crate) struct LedgerArgs {
    #[command(flatten)]
    pub(crate) place: Place,
    /// How many entries each ledger gets.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_RECORDS))]
    pub(crate) entries: u64,
    /// Bytes of each entry's payload.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=8_388_608))]
    pub(crate) size: u32,
    /// How many ledgers are written at the same time.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) ledgers: u32,
    /// Copies.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=7))]
    pub(crate) write_quorum: u8,
    /// Copies on stable storage before an entry counts.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=7))]
    pub(crate) ack_quorum: u8,
    /// Entries a second of each ledger; without, as many as are acknowledged.
    #[arg(long, value_name = "R")]
    pub(crate) rate: Option<u64>,
    /// Leave the ledgers there, to be read.
    #[arg(long)]
    pub(crate) keep: bool,
    #[command(flatten)]
    pub(crate) print: PrintArgs,
}

/// Arguments of `geminga perf ledger-read`.
#[derive(Debug, clap::Args)]
pub(crate) struct LedgerReadArgs {
    /// Their ids.
    #[arg(value_name = "LEDGER", required = true, value_parser = ledger_id)]
    pub(crate) ledgers: Vec<LedgerId>,
    #[command(flatten)]
    pub(crate) place: Place,
    /// Delete them afterwards.
    #[arg(long)]
    pub(crate) delete: bool,
    #[command(flatten)]
    pub(crate) print: PrintArgs,
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
        Action::Produce(args) => server::block_on_command(produce::run(args)),
        Action::Consume(args) => server::block_on_command(consume::run(args)),
        Action::Ledger(args) => server::block_on_command(ledger::write(args)),
        Action::LedgerRead(args) => server::block_on_command(ledger::read(args)),
    }
}

/// Megabytes (10⁶ bytes) a second, and records a second.
fn rates(records: u64, bytes: u64, seconds: f64) -> (f64, f64) {
    let seconds = seconds.max(1e-9);
    (bytes as f64 / 1e6 / seconds, records as f64 / seconds)
}

/// When something is to be sent.
fn due(begin: Instant, number: u64, rate: Option<u64>) -> Instant {
    match rate.and_then(std::num::NonZeroU64::new) {
        None => begin,
        Some(rate) => begin + Duration::from_secs_f64(number as f64 / rate.get() as f64),
    }
}

/// Latencies in milliseconds.
#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Latency {
    /// Of a histogram of microseconds.
    fn of(micros: &Histogram<u64>) -> Self {
        let ms = |micros: u64| micros as f64 / 1000.0;
        let at = |quantile: f64| ms(micros.value_at_quantile(quantile));
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: ms(micros.max()) }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p90, p99, p999, max } = self;
        write!(
            f,
            "latency ms: p50 {p50:.2}, p90 {p90:.2}, p99 {p99:.2}, p99.9 {p999:.2}, max {max:.2}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_rate_is_due_at_it() {
        let begin = Instant::now();
        assert_eq!(due(begin, 1000, None), begin);
        assert_eq!(due(begin, 1000, Some(0)), begin);
        assert_eq!(due(begin, 50, Some(100)), begin + Duration::from_millis(500));
    }
}
