//! `geminga partition`: partitions one by one.

use clap::Subcommand;
use serde::Serialize;

use crate::args::ClientArgs;
use crate::exit::Failure;
use crate::view::View;
use crate::{client, server};

/// Arguments of `geminga partition`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// What to do with partitions.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Give a partition to another broker. No data moves. The balance of the cluster leaves it there as long as brokers
    /// have about as many partitions as each other.
    #[command(after_help = "Example:\n  geminga partition move orders 7 --to 3")]
    Move {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// The broker's number, as `geminga broker list` says it.
        #[arg(long, value_name = "BROKER")]
        to: i32,
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// Does what is asked.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    server::block_on_command(act(args.action))
}

async fn act(action: Action) -> Result<(), Failure> {
    let Action::Move { topic, partition, to, client: args } = action;
    let client = client::connect(&args)?;
    let moved = client.admin().move_partition(&topic, partition, to).await?;
    Moved { topic, partition, from: moved.from_broker, to, term: moved.term }.print(args.print)
}

/// What was done.
#[derive(Debug, Serialize)]
struct Moved {
    topic: String,
    partition: u32,
    from: i32,
    to: i32,
    term: i32,
}

impl View for Moved {
    fn text(&self) -> String {
        let Self { topic, partition, from, to, term } = self;
        if from == to {
            return format!("partition {partition} of {topic} is at broker {to} already\n");
        }
        format!(
            "partition {partition} of {topic} moved from broker {from} to broker {to}, term {term}\n"
        )
    }
}
