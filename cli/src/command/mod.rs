//! One file per command: its arguments, and the work. Servers are built from [`crate::config`]; client commands talk
//! to a broker through the public client only.

pub(crate) mod bookie;
pub(crate) mod cluster;
pub(crate) mod consume;
pub(crate) mod group;
pub(crate) mod meta;
pub(crate) mod perf;
pub(crate) mod produce;
pub(crate) mod serving;
pub(crate) mod standalone;
pub(crate) mod topic;

use crate::args::Command;
use crate::exit::Failure;

/// Does what the command line asks.
pub(crate) fn run(command: Command) -> Result<(), Failure> {
    let name = match command {
        Command::Standalone(args) => return standalone::run(args),
        Command::Bookie(args) => return bookie::run(args),
        Command::Serving(args) => return serving::run(args),
        Command::Cluster(args) => return cluster::run(args),
        Command::Meta(args) => return meta::run(args),
        Command::Topic(_) => "topic",
        Command::Produce(_) => "produce",
        Command::Consume(_) => "consume",
        Command::Group(_) => "group",
        Command::Perf(_) => "perf",
    };
    Err(Failure::new(format!("`geminga {name}` is not built into this version")))
}
