//! `geminga cluster`: the cluster as a whole.

use clap::Subcommand;

use crate::args::{ClientArgs, PrintArgs};
use crate::config::MetastoreUrl;

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
        print: PrintArgs,
    },
    /// Show brokers, bookies and defaults.
    #[command(after_help = "Example:\n  geminga cluster status")]
    Status {
        #[command(flatten)]
        client: ClientArgs,
    },
}
