//! `geminga serving`: one broker.

use crate::config::{self, ServingOptions, SourceArgs};
use crate::exit::Failure;
use crate::logging;

/// Arguments of `geminga serving`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  geminga serving --metastore etcd://127.0.0.1:2379")]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) options: ServingOptions,
}

/// Runs until a signal stops it.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let file = config::read_file(args.source.config.as_deref())?;
    let settings = args.options.settle(file)?;
    if args.source.print_config {
        return config::show(&settings);
    }
    logging::start(&settings.log)?;
    Err(Failure::new("`geminga serving` is not built into this version"))
}
