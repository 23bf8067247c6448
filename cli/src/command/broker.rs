//! `geminga broker`: who serves, and taking brokers out of service.

use std::time::Duration;

use clap::Subcommand;
use geminga_client::{Admin, v1};
use tokio::time::Instant;

use super::topic::done;
use crate::args::ClientArgs;
use crate::exit::Failure;
use crate::view::{Brokers, View};
use crate::{client, server};

/// Between two looks at what a draining broker still owns.
const POLL: Duration = Duration::from_millis(200);

/// Arguments of `geminga broker`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// What to do with brokers.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// List brokers, what they own and what they carry.
    #[command(after_help = "Example:\n  geminga broker list")]
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Have a broker hand over everything it owns, and wait until it has; it serves on until then and is given nothing.
    /// A broker that is stopped does so by itself.
    #[command(after_help = "Example:\n  geminga broker drain 3")]
    Drain {
        /// The broker's number.
        broker: i32,
        /// How long to wait; the broker goes on handing over when this is over.
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        wait: u64,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Let a broker own partitions again.
    #[command(after_help = "Example:\n  geminga broker undrain 3")]
    Undrain {
        /// The broker's number.
        broker: i32,
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
            let status = client::connect(&args)?.admin().cluster_status().await?;
            Brokers::from(status).print(args.print)
        }
        Action::Drain { broker, wait, client: args } => {
            let admin = client::connect(&args)?.admin();
            admin.drain_broker(broker).await?;
            handed_over(&admin, broker, Duration::from_secs(wait)).await?;
            done(&format!("broker {broker} owns nothing any more"), args.print.output)
        }
        Action::Undrain { broker, client: args } => {
            client::connect(&args)?.admin().undrain_broker(broker).await?;
            done(&format!("broker {broker} is given partitions again"), args.print.output)
        }
    }
}

/// Waits until the broker owns nothing, or has gone.
async fn handed_over(admin: &Admin, broker: i32, within: Duration) -> Result<(), Failure> {
    let begin = Instant::now();
    loop {
        let status = admin.cluster_status().await?;
        let found = |b: &&v1::BrokerStatus| b.broker_id == broker;
        let left = status.brokers.iter().find(found).map_or(0, |b| b.partitions);
        if left == 0 {
            return Ok(());
        }
        if begin.elapsed() >= within {
            return Err(Failure::new(format!(
                "broker {broker} still owns {left} partitions after {} s and goes on handing over: \
                 look again with `geminga broker list`",
                within.as_secs()
            )));
        }
        tokio::time::sleep(POLL).await;
    }
}
