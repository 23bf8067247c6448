//! `geminga bookie`: one storage node.

use crate::config::{self, BookieOptions, SourceArgs};
use crate::exit::Failure;
use crate::logging;

/// Arguments of `geminga bookie`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  geminga bookie --metastore etcd://127.0.0.1:2379 --data-dir /var/lib/geminga"
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) options: BookieOptions,
}

/// Runs until a signal stops it.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let file = config::read_file(args.source.config.as_deref())?;
    let settings = args.options.settle(file)?;
    if args.source.print_config {
        return config::show(&settings);
    }
    logging::start(&settings.log)?;
    Err(Failure::new("`geminga bookie` is not built into this version"))
}
