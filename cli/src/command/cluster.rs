//! `geminga cluster`: the cluster as a whole.

mod audit;
mod doctor;

use clap::Subcommand;
use geminga_metastore::{cluster, restored};
use geminga_runtime::{SystemClock, SystemRandom};
use serde::Serialize;

use crate::args::{ClientArgs, PrintArgs};
use crate::config::{EtcdTlsArgs, MetastoreUrl};
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
        tls: EtcdTlsArgs,
        #[command(flatten)]
        print: PrintArgs,
    },
    /// Say that the metadata came from a backup: raises the cluster's epoch, with which all new ids begin, the terms of all
    /// partitions and the number of the next broker. Refused while a broker or bookie is registered. `geminga meta restore` does
    /// the same by itself; this is for an etcd that was restored with its own tools. No broker starts before `geminga cluster audit`.
    #[command(
        after_help = "Example:\n  geminga cluster epoch-bump --metastore etcd://127.0.0.1:2379/prod"
    )]
    EpochBump {
        /// Where: etcd://HOST:PORT[,HOST:PORT...][/CLUSTER].
        #[arg(long, value_name = "URL", env = "GEMINGA_METASTORE")]
        metastore: MetastoreUrl,
        #[command(flatten)]
        tls: EtcdTlsArgs,
        /// Choose an epoch above this one, too, such as one that an audit or a bookie names.
        #[arg(long, value_name = "EPOCH", default_value_t = 0)]
        above: u16,
        #[command(flatten)]
        print: PrintArgs,
    },
    /// Compare what bookies hold with metadata that came from a backup: ledgers that were open in it are recovered, ledgers that it
    /// does not know are kept for seven days and listed, and so is what is missing. Brokers may start then. Start all bookies
    /// first. Safe to interrupt and to run again.
    #[command(
        after_help = "Examples:\n  geminga cluster audit --metastore etcd://127.0.0.1:2379/prod\n  \
                      geminga cluster audit --object-store s3://bucket/prefix --metastore etcd://127.0.0.1:2379/prod"
    )]
    Audit(audit::Args),
    /// Look at everything, and say in sentences what is wrong and what to do: the metadata, and what each process says over HTTP.
    /// Changes nothing. Exits with 1 when something is wrong.
    #[command(
        after_help = "Examples:\n  geminga cluster doctor --metastore etcd://127.0.0.1:2379/prod\n  \
                      geminga cluster doctor --metastore etcd://127.0.0.1:2379/prod --output json"
    )]
    Doctor(doctor::Args),
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
        Action::EpochBump { metastore, tls, above, print } => {
            server::block_on_command(epoch_bump(metastore, tls, above, print))
        }
        Action::Audit(args) => server::block_on_command(audit::run(args)),
        Action::Doctor(args) => server::block_on_command(doctor::run(args)),
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

async fn init(metastore: MetastoreUrl, tls: EtcdTlsArgs, print: PrintArgs) -> Result<(), Failure> {
    let store = metadata::connect(&metastore, tls.load(&metastore)?.as_ref()).await?;
    let made = cluster::init(&*store, &SystemRandom, &SystemClock).await?;
    Made { cluster: made.uuid.to_string(), metastore: metastore.to_string() }.print(print)
}

/// What `geminga cluster epoch-bump` made.
#[derive(Debug, Serialize)]
struct Raised {
    cluster: String,
    cluster_epoch: u16,
}

impl View for Raised {
    fn text(&self) -> String {
        let Self { cluster, cluster_epoch } = self;
        format!(
            "Cluster {cluster} is in epoch {cluster_epoch}. Start all bookies, then run `geminga cluster audit`.\n"
        )
    }
}

async fn epoch_bump(
    metastore: MetastoreUrl,
    tls: EtcdTlsArgs,
    above: u16,
    print: PrintArgs,
) -> Result<(), Failure> {
    let store = metadata::connect(&metastore, tls.load(&metastore)?.as_ref()).await?;
    let raised = restored::raise_epoch(&*store, &SystemClock, above).await?;
    Raised { cluster: raised.uuid.to_string(), cluster_epoch: raised.epoch }.print(print)
}
