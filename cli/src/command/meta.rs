//! `geminga meta`: the metadata store, for people.

use clap::Subcommand;

use crate::args::PrintArgs;
use crate::config::MetastoreUrl;

/// Arguments of `geminga meta`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// What to do with the metadata.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Print every key with its decoded value.
    #[command(
        after_help = "Examples:\n  geminga meta dump --metastore etcd://127.0.0.1:2379/prod\n  \
                      geminga meta dump --metastore file://data/metadata.redb --prefix topics/"
    )]
    Dump {
        /// Where: etcd://HOST:PORT[,HOST:PORT...][/CLUSTER], or file://PATH for a standalone server that is stopped.
        #[arg(long, value_name = "URL", env = "GEMINGA_METASTORE")]
        metastore: MetastoreUrl,
        /// Only keys that start with this.
        #[arg(long, value_name = "PREFIX", default_value = "")]
        prefix: String,
        #[command(flatten)]
        print: PrintArgs,
    },
}
