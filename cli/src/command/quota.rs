//! `geminga quota`: how much a client id may do at each broker.

use clap::{Subcommand, ValueEnum};
use geminga_client::v1;

use super::topic::done;
use crate::args::ClientArgs;
use crate::client;
use crate::config::Size;
use crate::exit::Failure;
use crate::server;
use crate::view::{Quotas, View};

/// Arguments of `geminga quota`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// Whose quotas.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Whose {
    /// The client id, as clients give it.
    client_id: Option<String>,
    /// Every client id, each by itself, that has no such quota of its own.
    #[arg(long)]
    default: bool,
}

/// A quota by its name.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Name {
    /// Bytes of records sent.
    #[value(name = "producer_byte_rate")]
    Producer,
    /// Bytes of records read.
    #[value(name = "consumer_byte_rate")]
    Consumer,
    /// Requests.
    #[value(name = "request_rate")]
    Requests,
}

/// What to do with quotas.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// List quotas, and whom the broker that answers holds back now.
    #[command(after_help = "Example:\n  geminga quota list")]
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Set quotas of a client id, at each broker; those that are not named stay as they are. Takes effect at once.
    /// A client that goes beyond is slowed down and gets no error.
    #[command(
        after_help = "Examples:\n  geminga quota set loader --producer-byte-rate 10MiB\n  geminga quota set --default --consumer-byte-rate 50MiB --request-rate 200"
    )]
    Set {
        #[command(flatten)]
        whose: Whose,
        /// Bytes of records that it may send to a broker a second, such as 10MiB.
        #[arg(long, value_name = "SIZE", required_unless_present_any = ["consumer_byte_rate", "request_rate"])]
        producer_byte_rate: Option<Size>,
        /// Bytes of records that it may read from a broker a second.
        #[arg(long, value_name = "SIZE")]
        consumer_byte_rate: Option<Size>,
        /// Requests that it may make to a broker a second, in number: not Kafka's share of a thread's time.
        #[arg(long, value_name = "NUMBER")]
        request_rate: Option<u64>,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Take quotas of a client id away.
    #[command(
        after_help = "Examples:\n  geminga quota remove loader\n  geminga quota remove --default --quota request_rate"
    )]
    Remove {
        #[command(flatten)]
        whose: Whose,
        /// Only this one; may be repeated.
        #[arg(long, value_name = "NAME")]
        quota: Vec<Name>,
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// Does what is asked.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    server::block_on_command(act(args.action))
}

async fn act(action: Action) -> Result<(), Failure> {
    match action {
        Action::List { client: args } => {
            let quotas = client::connect(&args)?.admin().list_quotas().await?;
            Quotas::from(quotas).print(args.print)
        }
        Action::Set {
            whose,
            producer_byte_rate,
            consumer_byte_rate,
            request_rate,
            client: args,
        } => {
            let quota = v1::Quota {
                client_id: whose.client_id,
                producer_byte_rate: producer_byte_rate.map(|size| size.0 as u64),
                consumer_byte_rate: consumer_byte_rate.map(|size| size.0 as u64),
                request_rate,
            };
            client::connect(&args)?.admin().set_quota(quota).await?;
            done("the quotas are set", args.print.output)
        }
        Action::Remove { whose, quota, client: args } => {
            let names = quota.into_iter().filter_map(|name| name.to_possible_value());
            let names = names.map(|name| name.get_name().to_owned()).collect();
            client::connect(&args)?.admin().remove_quota(whose.client_id, names).await?;
            done("the quotas are removed", args.print.output)
        }
    }
}
