//! `geminga topic`: create, list, describe and delete topics.

use std::io::Write;

use clap::Subcommand;
use geminga_client::NewTopic;

use crate::args::{ClientArgs, Output, key_value};
use crate::client;
use crate::exit::Failure;
use crate::server;
use crate::view::{Description, Topic, Topics, View};

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
    /// How many partitions; the number is for ever.
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

/// A sentence for people; programs have the exit code.
pub(super) fn done(sentence: &str, output: Output) -> Result<(), Failure> {
    if output == Output::Text {
        writeln!(std::io::stdout(), "{sentence}")?;
    }
    Ok(())
}
