//! The command line as a whole, and the arguments that several commands share. The contract: flags may be added,
//! their meanings never change.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::command::{
    bookie, broker, cluster, consume, group, ledger, meta, migrate, partition, perf, produce,
    quota, restore, serving, standalone, topic,
};
use crate::config::TlsArgs;
use crate::exit::{EXIT_CODES, Exit};

/// A streaming platform whose brokers hold no data: bookies keep it, in quorum-replicated ledgers.
#[derive(Debug, Parser)]
#[command(name = "geminga", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Servers, whose complaints are read in the logs of pods.
const SERVERS: [&str; 3] = ["standalone", "bookie", "serving"];

impl Cli {
    /// What this process was told; without it, what to exit with, when all has been said.
    pub(crate) fn told() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|error| {
            let server =
                std::env::args_os().skip(1).find(|word| !word.as_encoded_bytes().starts_with(b"-"));
            let server = server.is_some_and(|word| SERVERS.iter().any(|name| word == *name));
            // Nothing can be said when the output is gone; the exit code still tells.
            let _ = if error.use_stderr() && server && !io::stderr().is_terminal() {
                writeln!(io::stderr(), "{}", what_is_wrong(&error.render().to_string()))
            } else {
                error.print()
            };
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8))
        })
    }
}

/// Of a complaint what is before the hints and the usage, in one line.
fn what_is_wrong(complaint: &str) -> String {
    let lines = complaint.lines().take_while(|line| !line.trim().is_empty());
    lines.map(str::trim).collect::<Vec<_>>().join(" ")
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything in one process: a broker, one bookie, metadata in a file.
    Standalone(standalone::Args),
    /// Run a storage node.
    Bookie(Box<bookie::Args>),
    /// Run a broker.
    Serving(serving::Args),
    /// Create, alter, list, describe and delete topics; look offsets up; delete old records.
    Topic(topic::Args),
    /// Write records from standard input, one a line.
    Produce(produce::Args),
    /// Read records to standard output.
    Consume(consume::Args),
    /// List, describe, delete and reset consumer groups.
    Group(group::Args),
    /// Initialise a cluster's metadata, or show who is in it.
    Cluster(cluster::Args),
    /// List brokers, and take them out of service without anybody noticing.
    Broker(broker::Args),
    /// Move partitions between brokers.
    Partition(partition::Args),
    /// Limit how much clients may send, read and ask for.
    Quota(quota::Args),
    /// List, describe and recover ledgers, the pieces that logs are made of.
    Ledger(ledger::Args),
    /// Look at the metadata store, save it, bring it back.
    Meta(meta::Args),
    /// Find out what an object store alone holds, and bring its topics back.
    Restore(restore::Args),
    /// Copy topics and groups of another cluster that speaks Kafka's protocol.
    Migrate(migrate::Args),
    /// Measure throughput and latency.
    Perf(perf::Args),
}

/// Where a client command connects, and how it prints.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ClientArgs {
    /// Any broker, or several with commas between them: others are learned from it, and used when it is gone. By TLS with
    /// https:// before each, or --tls-ca.
    #[arg(
        long,
        value_name = "HOST:PORT,...",
        env = "GEMINGA_SERVER",
        default_value = "127.0.0.1:7070",
        value_parser = host_ports,
        help_heading = "Connection"
    )]
    pub(crate) server: String,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
    #[command(flatten)]
    pub(crate) print: PrintArgs,
}

/// How a command prints.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct PrintArgs {
    /// Tables for people or JSON for programs.
    #[arg(long, value_enum, default_value_t = Output::Text, help_heading = "Output")]
    pub(crate) output: Output,
}

/// See [`PrintArgs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Tables and sentences.
    Text,
    /// One JSON document.
    Json,
}

/// Checks the shape of an address; the name is resolved when it is used.
pub(crate) fn host_port(text: &str) -> Result<String, String> {
    let wrong = || format!("`{text}` is not HOST:PORT");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || (host.contains(':') && !bracketed) || host.contains('/') {
        return Err(wrong());
    }
    match port.parse::<u16>() {
        Ok(1..) => Ok(text.to_owned()),
        _ => Err(format!("`{text}` does not end with a port in 1..=65535")),
    }
}

/// Checks the shape of several addresses with commas between them.
pub(crate) fn host_ports(text: &str) -> Result<String, String> {
    let each = |text: &str| {
        let (scheme, address) = match text.split_once("://") {
            Some((scheme @ ("http" | "https"), address)) => (format!("{scheme}://"), address),
            _ => (String::new(), text),
        };
        Ok(format!("{scheme}{}", host_port(address)?))
    };
    let each: Result<Vec<String>, String> = text.split(',').map(|a| each(a.trim())).collect();
    Ok(each?.join(","))
}

/// Splits `k=v` at its first `=`.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not KEY=VALUE")),
    }
}

#[cfg(test)]
mod book;
#[cfg(test)]
mod docs;
#[cfg(test)]
mod tests;
