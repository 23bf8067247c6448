//! `geminga consume`: records to standard output, one a line.

mod end;

use clap::ValueEnum;

use crate::args::ClientArgs;

/// Arguments of `geminga consume`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "With --group the members of the group share the partitions, and what was printed is committed. \
                  Without, all partitions are read and nothing is committed.\n\nExamples:\n  \
                  geminga consume greetings --from-beginning --until-end\n  \
                  geminga consume orders --group billing --from-beginning --format json"
)]
pub(crate) struct Args {
    /// The topic.
    pub(crate) topic: String,
    /// Join this consumer group.
    #[arg(long, value_name = "G")]
    pub(crate) group: Option<String>,
    /// Start at the first record, not after the last; in a group, where it has no committed offset.
    #[arg(long)]
    pub(crate) from_beginning: bool,
    /// End when everything that was there at the start has been read; in a group, when the group has committed it,
    /// whichever member read it.
    #[arg(long)]
    pub(crate) until_end: bool,
    /// How a record looks [default: value; with --output json: json].
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// How a record looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Its value.
    Value,
    /// Its key, a tab, its value.
    KeyValue,
    /// A JSON object: partition, offset, timestamp_ms, key, value, headers.
    Json,
}
