//! `geminga produce`: one record a line of standard input.

mod input;
mod report;

use std::path::PathBuf;

use clap::ValueEnum;

use crate::args::ClientArgs;

/// Arguments of `geminga produce`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exits with 0 only when every record is acknowledged, with 3 when some were not (with --acks none: \
                  when all are sent).\n\nExamples:\n  echo hello | geminga produce greetings\n  \
                  geminga produce orders --key-separator : --report report.jsonl < orders.txt"
)]
pub(crate) struct Args {
    /// The topic.
    pub(crate) topic: String,
    /// Split each line at the first occurrence: the key before, the value after. A line without it has no key.
    #[arg(long, value_name = "SEP", value_parser = separator)]
    pub(crate) key_separator: Option<String>,
    /// How batches are compressed.
    #[arg(long, value_enum, default_value_t = Compression::None)]
    pub(crate) compression: Compression,
    /// Wait until the ack quorum has each record on stable storage, or do not wait at all.
    #[arg(long, value_enum, default_value_t = Acks::All)]
    pub(crate) acks: Acks,
    /// Write a JSON line per record, in the order of input: partition and offset, or the reason it was not
    /// acknowledged.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// How batches are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compression {
    /// Not at all.
    None,
    /// Small, slow.
    Gzip,
    /// Fast.
    Snappy,
    /// Fast.
    Lz4,
    /// Small and fast.
    Zstd,
}

/// What counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Acks {
    /// On the stable storage of the ack quorum.
    All,
    /// Sent.
    None,
}

/// A separator that can occur.
fn separator(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('\n') {
        return Err("a separator is at least one character and no line break".to_owned());
    }
    Ok(text.to_owned())
}
