//! `geminga restore`: what an object store holds without the metadata that named it, and how it becomes topics again.

mod import;
mod plan;
mod survey;

use clap::Subcommand;
use geminga_proto::ids::ClusterUuid;
use geminga_tier::Store;

use crate::args::PrintArgs;
use crate::config::{EtcdTlsArgs, MetastoreUrl, ObjectStoreOptions};
use crate::exit::Failure;
use crate::server;
use crate::view::View;

/// Arguments of `geminga restore`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// List the topics, partitions and offsets that an object store alone holds, and what of them is missing or damaged. Needs no
    /// cluster and changes nothing.
    #[command(
        after_help = "Example:\n  geminga restore scan --object-store s3://bucket/prefix --verify"
    )]
    Scan {
        #[command(flatten)]
        what: What,
        /// Read all objects, not only their ends.
        #[arg(long)]
        verify: bool,
        #[command(flatten)]
        print: PrintArgs,
    },
    /// Make topics of what an object store alone holds, in an empty metadata store, or in the same cluster where it has no such
    /// topics. Every object is read and verified first. The objects stay where they are, and belong to the new topics. Safe to run
    /// again when it was interrupted.
    #[command(
        after_help = "Examples:\n  geminga restore import --object-store s3://bucket/prefix --metastore etcd://127.0.0.1:2379/prod\n  \
                      geminga restore import --object-store s3://bucket/prefix --topic flights --metastore etcd://127.0.0.1:2379/prod"
    )]
    Import {
        #[command(flatten)]
        what: What,
        /// Only these topics: names, or ids where several had the same name. Comma-separated.
        #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
        topic: Vec<String>,
        /// Where offsets are missing, take what follows the last gap, and leave what is before it.
        #[arg(long)]
        after_gaps: bool,
        /// Where: etcd://HOST:PORT[,HOST:PORT...][/CLUSTER].
        #[arg(long, value_name = "URL", env = "GEMINGA_METASTORE")]
        metastore: MetastoreUrl,
        #[command(flatten)]
        tls: Box<EtcdTlsArgs>,
        #[command(flatten)]
        print: PrintArgs,
    },
}

/// Which objects.
#[derive(Debug, clap::Args)]
pub(crate) struct What {
    #[command(flatten)]
    objects: ObjectStoreOptions,
    /// Only those of this cluster, where the store holds objects of several.
    #[arg(long, value_name = "UUID")]
    cluster: Option<ClusterUuid>,
}

impl What {
    fn open(&self) -> Result<Store, Failure> {
        let store = self.objects.open(false)?;
        store.ok_or_else(|| Failure::usage("which objects? give --object-store"))
    }
}

/// Does what is asked.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        Action::Scan { what, verify, print } => server::block_on_command(async move {
            let store = what.open()?;
            let depth = if verify { survey::Depth::All } else { survey::Depth::Ends };
            let survey = survey::survey(&store, what.cluster, depth).await?;
            plan::Scan::of(&survey).print(print)
        }),
        Action::Import { what, topic, after_gaps, metastore, tls, print } => {
            let wanted = import::Wanted { topics: topic, after_gaps };
            server::block_on_command(async move {
                let store = what.open()?;
                let survey = survey::survey(&store, what.cluster, survey::Depth::All).await?;
                import::run(&store, &survey, &wanted, &metastore, &tls, print).await
            })
        }
    }
}
