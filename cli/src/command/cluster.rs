//! `geminga cluster`: the cluster as a whole.

use clap::Subcommand;
use geminga_metastore::cluster;
use geminga_runtime::{SystemClock, SystemRandom};
use serde::Serialize;

use crate::args::{ClientArgs, PrintArgs};
use crate::config::{MetastoreUrl, TlsArgs};
use crate::exit::Failure;
use crate::view::{Status, View};
use crate::{client, metadata, server};

/// Arguments of `geminga cluster`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// What to do with the cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Write the metadata of a new cluster; refused when there is one. The first server of an empty metadata store
    /// does the same by itself.
    #[command(
        after_help = "Example:\n  geminga cluster init --metastore etcd://127.0.0.1:2379/prod"
    )]
    Init {
        /// Where: etcd://HOST:PORT[,HOST:PORT...][/CLUSTER].
        #[arg(long, value_name = "URL", env = "GEMINGA_METASTORE")]
        metastore: MetastoreUrl,
        #[command(flatten)]
        tls: TlsArgs,
        #[command(flatten)]
        print: PrintArgs,
    },
    /// Show brokers, bookies and defaults.
    #[command(after_help = "Example:\n  geminga cluster status")]
    Status {
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// Does what is asked.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        Action::Init { metastore, tls, print } => {
            server::block_on_command(init(metastore, tls, print))
        }
        Action::Status { client } => server::block_on_command(status(client)),
    }
}

async fn status(args: ClientArgs) -> Result<(), Failure> {
    let status = client::connect(&args)?.admin().cluster_status().await?;
    Status::from(status).print(args.print)
}

/// What `geminga cluster init` made.
#[derive(Debug, Serialize)]
struct Made {
    cluster: String,
    metastore: String,
}

impl View for Made {
    fn text(&self) -> String {
        let Self { cluster, metastore } = self;
        format!("Cluster {cluster} is created in {metastore}.\n")
    }
}

async fn init(metastore: MetastoreUrl, tls: TlsArgs, print: PrintArgs) -> Result<(), Failure> {
    let store = metadata::connect(&metastore, tls.load()?.as_ref()).await?;
    let made = cluster::init(&*store, &SystemRandom, &SystemClock).await?;
    Made { cluster: made.uuid.to_string(), metastore: metastore.to_string() }.print(print)
}
