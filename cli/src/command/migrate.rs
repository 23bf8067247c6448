//! `geminga migrate`: topics and groups of another cluster that speaks Kafka's protocol come over to this one.
//!
//! The bridge is a client of both: it reads the source as a consumer would, and writes here by gRPC. What it has done is kept here
//! ([`keeper`]), so it can be killed at any moment and started again anywhere: each record is written once
//! ([`checkpoint`], [`lane`]).

mod back;
mod checkpoint;
mod copying;
mod keeper;
mod lane;
mod map;
mod meter;
mod offsets;
mod pieces;
mod plan;
mod run;
mod shown;
mod source;

use std::path::PathBuf;

use clap::Subcommand;
use geminga_client::Client;
use geminga_tls::{Credentials, Dial, Files};

use self::keeper::Keeper;
use self::source::{Source, SourceError};
use crate::args::{ClientArgs, host_ports};
use crate::config::Size;
use crate::exit::{Exit, Failure};
use crate::view::View;
use crate::{client, server};

/// Arguments of `geminga migrate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Show what would be copied, and what would not be as it is there. Changes nothing.
    #[command(after_help = "Examples:\n  geminga migrate plan --from kafka:9092\n  \
                            geminga migrate plan --from kafka:9092 --exclude logs,metrics --output json")]
    Plan {
        #[command(flatten)]
        from: FromArgs,
        #[command(flatten)]
        topics: TopicArgs,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Copy topics, and keep copying what comes, until it is stopped; goes on where an earlier run ended.
    #[command(after_help = "Examples:\n  geminga migrate run --from kafka:9092\n  \
                            geminga migrate run --from kafka:9092 --topic orders --until-caught-up --rate 20MiB")]
    Run {
        #[command(flatten)]
        from: FromArgs,
        #[command(flatten)]
        topics: TopicArgs,
        /// End when everything is copied that the source has when this begins.
        #[arg(long)]
        until_caught_up: bool,
        /// Copy so many bytes a second at most, such as 20MiB, as they are compressed.
        #[arg(long, value_name = "BYTES")]
        rate: Option<Size>,
        /// Go on where an earlier run said that nobody knows any more whether its last records are here: they may come twice.
        #[arg(long)]
        accept_repeats: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Give groups the offsets here that their committed offsets at the source have become. Stop their members first.
    #[command(after_help = "Examples:\n  geminga migrate offsets --from kafka:9092 --dry-run\n  \
                            geminga migrate offsets --from kafka:9092 --group billing")]
    Offsets {
        #[command(flatten)]
        from: FromArgs,
        /// These groups only.
        #[arg(long, value_name = "G,...", value_delimiter = ',')]
        group: Vec<String>,
        /// Show them only.
        #[arg(long)]
        dry_run: bool,
        /// Set them also where the group is further here.
        #[arg(long)]
        overwrite: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// The other cluster.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct FromArgs {
    /// Any broker of the source, or several with commas between them; others are learned from it. Kafka 0.11 or later, or what
    /// speaks its protocol. Listeners that want SASL cannot be used yet.
    #[arg(long, value_name = "HOST:PORT,...", env = "GEMINGA_MIGRATE_FROM", value_parser = host_ports, help_heading = "Source")]
    from: String,
    /// The source speaks TLS, and its certificate is of an authority that this system believes.
    #[arg(long, help_heading = "Source")]
    from_tls: bool,
    /// The source speaks TLS, and these authorities, in PEM, signed its certificate.
    #[arg(long, value_name = "FILE", env = "GEMINGA_MIGRATE_FROM_TLS_CA", help_heading = "Source")]
    from_tls_ca: Option<PathBuf>,
    /// The certificate to show to the source, in PEM, where it asks for one.
    #[arg(
        long,
        value_name = "FILE",
        env = "GEMINGA_MIGRATE_FROM_TLS_CERT",
        help_heading = "Source"
    )]
    from_tls_cert: Option<PathBuf>,
    /// The private key of --from-tls-cert, in PEM.
    #[arg(
        long,
        value_name = "FILE",
        env = "GEMINGA_MIGRATE_FROM_TLS_KEY",
        help_heading = "Source"
    )]
    from_tls_key: Option<PathBuf>,
    /// What this migration is called. What it has done is kept here as the group and the topic `migrate.NAME`; each source needs a
    /// name of its own.
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = name, help_heading = "Source")]
    name: String,
}

/// Which topics.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TopicArgs {
    /// These topics only.
    #[arg(long, value_name = "T,...", value_delimiter = ',')]
    topic: Vec<String>,
    /// Not these topics.
    #[arg(long, value_name = "T,...", value_delimiter = ',')]
    exclude: Vec<String>,
}

/// It becomes part of a topic's name.
fn name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match text.len() {
        1..=64 if text.chars().all(good) => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is not 1 to 64 letters, digits, dots, dashes and underscores")),
    }
}

impl FromArgs {
    fn open(&self) -> Result<Source, Failure> {
        if self.from.contains("://") {
            return Err(Failure::usage(
                "--from takes HOST:PORT: say --from-tls or --from-tls-ca for TLS",
            ));
        }
        let Self { from_tls_ca, from_tls_cert, from_tls_key, .. } = self.clone();
        let files = Files { cert: from_tls_cert, key: from_tls_key, ca: from_tls_ca };
        let dial = match files == Files::default() && !self.from_tls {
            true => Dial::Plain,
            false => Dial::Tls(
                Credentials::of_client(files)
                    .map_err(|error| Failure::usage(error).because("TLS_FILES"))?,
            ),
        };
        Ok(Source::new(&self.from, dial))
    }
}

impl From<TopicArgs> for plan::Wanted {
    fn from(args: TopicArgs) -> Self {
        Self { topics: args.topic, exclude: args.exclude }
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        let exit = match error {
            SourceError::Unreachable { .. } => Exit::Unreachable,
            SourceError::Version { .. } | SourceError::Refused { .. } => Exit::Failed,
        };
        Self::with(exit, error).because("SOURCE")
    }
}

/// Does it.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    server::block_on_command(async move {
        match args.action {
            Action::Plan { from, topics, client } => {
                let (source, here, keeper) = open(&from, &client)?;
                let plan = plan::plan(&source, &here, &keeper, &topics.into()).await?;
                shown::Plan::from(&plan).print(client.print)
            }
            Action::Run { from, topics, until_caught_up, rate, accept_repeats, client } => {
                let (source, here, keeper) = open(&from, &client)?;
                let plan = plan::plan(&source, &here, &keeper, &topics.into()).await?;
                let rate = rate.map(|rate| rate.0 as u64);
                let how = run::How { until_caught_up, rate, accept_repeats };
                let outcome = run::run(&source, &here, keeper, plan, how).await?;
                shown::Run::from(&outcome).print(client.print)?;
                let unfinished = if until_caught_up { outcome.unfinished() } else { 0 };
                incomplete(outcome.failed() + unfinished, "partitions were not copied to their end")
            }
            Action::Offsets { from, group, dry_run, overwrite, client } => {
                let (source, here, keeper) = open(&from, &client)?;
                let how = offsets::How { groups: group, dry_run, overwrite };
                let groups = offsets::run(&source, &here, &keeper, &how).await?;
                shown::Groups::from(&groups[..]).print(client.print)?;
                let left = |group: &offsets::Group| group.refused.is_some() || group.waits();
                incomplete(
                    groups.iter().filter(|group| left(group)).count(),
                    "groups have offsets that were not set",
                )
            }
        }
    })
}

fn open(from: &FromArgs, to: &ClientArgs) -> Result<(Source, Client, Keeper), Failure> {
    let source = from.open()?;
    let here = client::connect(to)?;
    let keeper = Keeper::new(&here, &from.name);
    Ok((source, here, keeper))
}

fn incomplete(count: usize, what: &str) -> Result<(), Failure> {
    match count {
        0 => Ok(()),
        count => Err(Failure::with(Exit::Incomplete, format!("{count} {what}: see above"))
            .because("INCOMPLETE")),
    }
}
