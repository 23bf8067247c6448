//! The load of `tests/bench/run` where `geminga perf` is not enough. Prints one line of JSON.
//!
//! * [`plain`]: objects written to, and read from, a store in the plainest way, beside which uploads and cold reads are held.
//! * [`tail`]: records at a steady rate, and a group that keeps up: from when each was due to its arrival.
//! * [`phases`]: the same through phases that the caller names, with every error that a client is told.
//! * [`window`]: so many records unacknowledged on each of so many streams, on [`geminga`] or on [`nats`].

mod geminga;
mod nats;
mod phases;
mod plain;
mod report;
mod tail;
mod window;

use clap::{Parser, Subcommand, ValueEnum};

#[derive(Debug, Parser)]
#[command(about = "Load for tests/bench/run")]
struct Cli {
    #[command(subcommand)]
    load: Load,
}

#[derive(Debug, Subcommand)]
enum Load {
    /// Objects in parts, to a store.
    Put(plain::PutArgs),
    /// Ranges of objects, from a store.
    Get(plain::GetArgs),
    /// A steady rate and a group that keeps up.
    Tail(tail::Args),
    /// The same, through phases whose names come by standard input; every error counts.
    Phases(phases::Args),
    /// A fixed number of records unacknowledged on each stream.
    Window {
        /// Which system.
        #[arg(value_enum)]
        system: System,
        #[command(flatten)]
        args: window::Args,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum System {
    Geminga,
    Nats,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().load {
        Load::Put(args) => plain::put(args).await?.print(),
        Load::Get(args) => plain::get(args).await?.print(),
        Load::Tail(args) => tail::run(args).await?.print(),
        Load::Phases(args) => phases::run(args).await?.print(),
        Load::Window { system: System::Geminga, args } => geminga::run(args).await?.print(),
        Load::Window { system: System::Nats, args } => nats::run(args).await?.print(),
    }
}
