//! `geminga topic`: create, alter, list, describe and delete topics, look offsets up, and delete old records.

use std::io::Write;
use std::str::FromStr;

use clap::Subcommand;
use geminga_client::{NewTopic, OffsetAt, TopicChanges};

use crate::args::{ClientArgs, Output, key_value};
use crate::client;
use crate::exit::Failure;
use crate::server;
use crate::view::{Altered, Description, Places, Topic, Topics, View};

/// Arguments of `geminga topic`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// What to do with topics.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Create a topic.
    #[command(
        after_help = "Example:\n  geminga topic create orders --partitions 12 --config max.message.bytes=65536"
    )]
    Create(CreateArgs),
    /// List topics.
    #[command(after_help = "Example:\n  geminga topic list --output json")]
    List {
        /// Also those that the cluster keeps for itself.
        #[arg(long)]
        internal: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show a topic's partitions, who owns them and where their segments are.
    #[command(after_help = "Example:\n  geminga topic describe orders")]
    Describe {
        /// The topic.
        name: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Change configs of a topic, or give it more partitions. Takes effect at once, also while it is written and read.
    #[command(
        after_help = "Example:\n  geminga topic alter orders --config retention.ms=86400000 --unset segment.bytes"
    )]
    Alter(AlterArgs),
    /// Show where a topic's partitions start or end, or where the records of a time are.
    #[command(after_help = "Example:\n  geminga topic offsets orders --at 2026-01-31T08:00:00Z")]
    Offsets {
        /// The topic.
        name: String,
        /// `earliest`, `latest`, `max-timestamp` (the youngest record), or the first record of a time or later: like
        /// 2026-01-31T08:00:00Z, or in milliseconds since 1970.
        #[arg(long, value_name = "PLACE", default_value = "latest")]
        at: Place,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Make the records of a partition before an offset unreadable for ever. Their space is given back by whole segments.
    #[command(
        after_help = "Example:\n  geminga topic delete-records orders --partition 0 --before 1000"
    )]
    DeleteRecords {
        /// The topic.
        name: String,
        /// The partition.
        #[arg(long, value_name = "P")]
        partition: u32,
        /// The first offset that stays; `latest` deletes all that there are.
        #[arg(long, value_name = "OFFSET", value_parser = before)]
        before: i64,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Delete a topic and all its records.
    #[command(after_help = "Example:\n  geminga topic delete orders")]
    Delete {
        /// The topic.
        name: String,
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// Arguments of `geminga topic create`.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// The topic: 1 to 249 letters, digits, `.`, `_` and `-`.
    pub(crate) name: String,
    /// How many partitions; there can be more later, and never fewer.
    #[arg(long, value_name = "N")]
    pub(crate) partitions: u32,
    /// Copies of each record [default: the server's: 1 in standalone, else 3].
    #[arg(long, value_name = "W")]
    pub(crate) write_quorum: Option<u32>,
    /// Copies on stable storage before a record is acknowledged [default: the server's: 1 in standalone, else 2].
    #[arg(long, value_name = "A")]
    pub(crate) ack_quorum: Option<u32>,
    /// Accept a write quorum of 1, with which the loss of one disk loses records.
    #[arg(long)]
    pub(crate) allow_single_copy: bool,
    /// A topic config by its Kafka name; may be repeated.
    #[arg(long = "config", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) configs: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Arguments of `geminga topic alter`.
#[derive(Debug, clap::Args)]
pub(crate) struct AlterArgs {
    /// The topic.
    pub(crate) name: String,
    /// A topic config by its Kafka name; may be repeated.
    #[arg(long = "config", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) configs: Vec<(String, String)>,
    /// A topic config that goes back to its default; may be repeated.
    #[arg(long, value_name = "KEY")]
    pub(crate) unset: Vec<String>,
    /// How many partitions there are to be, more than there are. Keys are spread over all of them from then on, so records
    /// of one key may be in two.
    #[arg(long, value_name = "N")]
    pub(crate) partitions: Option<u32>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// A place in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(OffsetAt);

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = match text {
            "earliest" => OffsetAt::Earliest,
            "latest" => OffsetAt::Latest,
            "max-timestamp" => OffsetAt::MaxTimestamp,
            _ => OffsetAt::Timestamp(text.parse::<i64>().or_else(|_| moment(text)).map_err(|()| {
                format!(
                    "`{text}` is not earliest, latest, max-timestamp, milliseconds or a time like 2026-01-31T08:00:00Z"
                )
            })?),
        };
        Ok(Self(at))
    }
}

/// Milliseconds since 1970 of a time as RFC 3339 writes it.
pub(super) fn moment(text: &str) -> Result<i64, ()> {
    let time = humantime::parse_rfc3339(text).map_err(|_| ())?;
    let since = time.duration_since(std::time::UNIX_EPOCH).map_err(|_| ())?;
    i64::try_from(since.as_millis()).map_err(|_| ())
}

fn before(text: &str) -> Result<i64, String> {
    if text == "latest" {
        return Ok(-1);
    }
    match text.parse::<i64>() {
        Ok(offset @ 0..) => Ok(offset),
        _ => Err(format!("`{text}` is not an offset, nor latest")),
    }
}

/// Does what is asked.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    server::block_on_command(act(args.action))
}

async fn act(action: Action) -> Result<(), Failure> {
    match action {
        Action::Create(args) => create(args).await,
        Action::List { internal, client: args } => {
            let topics = client::connect(&args)?.admin().list_topics(internal).await?;
            Topics::from(topics).print(args.print)
        }
        Action::Describe { name, client: args } => {
            let described = client::connect(&args)?.admin().describe_topic(&name).await?;
            Description::from(described).print(args.print)
        }
        Action::Alter(args) => alter(args).await,
        Action::Offsets { name, at: Place(at), client: args } => {
            let places = client::connect(&args)?.admin().list_places(&name, &[], at).await?;
            Places::from(places).print(args.print)
        }
        Action::DeleteRecords { name, partition, before, client: args } => {
            let admin = client::connect(&args)?.admin();
            let start = admin.delete_records(&name, partition, before).await?;
            Places::start(partition, start).print(args.print)
        }
        Action::Delete { name, client: args } => {
            client::connect(&args)?.admin().delete_topic(&name).await?;
            done(&format!("deleted topic {name}"), args.print.output)
        }
    }
}

async fn create(args: CreateArgs) -> Result<(), Failure> {
    let topic = NewTopic {
        name: args.name,
        partitions: args.partitions,
        write_quorum: args.write_quorum,
        ack_quorum: args.ack_quorum,
        allow_single_copy: args.allow_single_copy,
        configs: args.configs.into_iter().collect(),
    };
    let created = client::connect(&args.client)?.admin().create_topic(topic).await?;
    Topic::from(created).print(args.client.print)
}

async fn alter(args: AlterArgs) -> Result<(), Failure> {
    let AlterArgs { name, configs, unset, partitions, client: args } = args;
    if configs.is_empty() && unset.is_empty() && partitions.is_none() {
        return Err(Failure::usage("nothing to alter: give --config, --unset or --partitions"));
    }
    let changes = TopicChanges { set: configs.into_iter().collect(), unset, partitions };
    let altered = client::connect(&args)?.admin().alter_topic(&name, changes).await?;
    Altered::from(altered).print(args.print)
}

/// A sentence for people; programs have the exit code.
pub(super) fn done(sentence: &str, output: Output) -> Result<(), Failure> {
    if output == Output::Text {
        writeln!(std::io::stdout(), "{sentence}")?;
    }
    Ok(())
}
