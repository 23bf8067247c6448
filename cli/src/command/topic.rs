//! `geminga topic`: create, list, describe and delete topics.

use clap::Subcommand;

use crate::args::{ClientArgs, key_value};

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
