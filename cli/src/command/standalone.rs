//! `geminga standalone`: everything in one process.

use crate::config::{self, SourceArgs, StandaloneOptions};
use crate::exit::Failure;
use crate::logging;

/// Arguments of `geminga standalone`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  geminga standalone --data-dir ./data")]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) options: StandaloneOptions,
}

/// Runs until a signal stops it.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let file = config::read_file(args.source.config.as_deref())?;
    let settings = args.options.settle(file)?;
    if args.source.print_config {
        return config::show(&settings);
    }
    logging::start(&settings.log)?;
    Err(Failure::new("`geminga standalone` is not built into this version"))
}
