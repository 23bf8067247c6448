//! One file per command: its arguments, and the work. Servers are built from [`crate::config`]; client commands talk
//! to a broker through the public client only.

pub(crate) mod bookie;
pub(crate) mod broker;
pub(crate) mod cluster;
pub(crate) mod consume;
pub(crate) mod group;
pub(crate) mod ledger;
pub(crate) mod meta;
pub(crate) mod migrate;
pub(crate) mod partition;
pub(crate) mod perf;
pub(crate) mod produce;
pub(crate) mod quota;
pub(crate) mod restore;
pub(crate) mod serving;
pub(crate) mod standalone;
pub(crate) mod topic;

use crate::args::Command;
use crate::exit::Failure;

/// Does what the command line asks.
pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Standalone(args) => standalone::run(args),
        Command::Bookie(args) => bookie::run(*args),
        Command::Serving(args) => serving::run(args),
        Command::Broker(args) => broker::run(args),
        Command::Cluster(args) => cluster::run(args),
        Command::Partition(args) => partition::run(args),
        Command::Meta(args) => meta::run(args),
        Command::Topic(args) => topic::run(args),
        Command::Produce(args) => produce::run(args),
        Command::Consume(args) => consume::run(args),
        Command::Group(args) => group::run(args),
        Command::Quota(args) => quota::run(args),
        Command::Restore(args) => restore::run(args),
        Command::Ledger(args) => ledger::run(args),
        Command::Migrate(args) => migrate::run(args),
        Command::Perf(args) => perf::run(args),
    }
}
