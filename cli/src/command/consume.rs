//! `geminga consume`: records to standard output, one a line.

mod end;
mod group;
mod plain;

use std::io::{self, BufWriter, Stdout, Write};

use clap::ValueEnum;
use geminga_client::{Client, OffsetAt, Records};
use indicatif::ProgressBar;

use self::end::End;
pub(super) use self::group::{Member, Sink};
use crate::args::{ClientArgs, Output};
use crate::exit::Failure;
use crate::progress::{self, Prints};
use crate::record::Shown;
use crate::{client, server};

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

/// Reads until the end that was asked for, or for ever.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    server::block_on_command(consume(args))
}

async fn consume(args: Args) -> Result<(), Failure> {
    let client = client::connect(&args.client)?;
    let bounds = Bounds::read(&client, &args.topic).await?;
    let printer = Printer::new(&args, &bounds);
    match &args.group {
        Some(name) => group::consume(&client, &args, name, bounds, printer).await,
        None => plain::consume(&client, &args, bounds, printer).await,
    }
}

/// First offsets and high watermarks of all partitions, read at the start.
#[derive(Debug)]
pub(super) struct Bounds {
    pub(super) earliest: Vec<(u32, i64)>,
    pub(super) latest: Vec<(u32, i64)>,
}

impl Bounds {
    pub(super) async fn read(client: &Client, topic: &str) -> Result<Self, Failure> {
        let admin = client.admin();
        // Latest first: a partition that loses its oldest records meanwhile then looks empty, not endless.
        let latest = admin.list_offsets(topic, &[], OffsetAt::Latest).await?;
        let earliest = admin.list_offsets(topic, &[], OffsetAt::Earliest).await?;
        Ok(Self { earliest, latest })
    }

    /// Where `--until-end` is: nothing has to be read of a partition that holds no records.
    pub(super) fn end(&self) -> End {
        let holds = |partition: u32, end: i64| {
            self.earliest.iter().any(|&(p, first)| p == partition && first < end)
        };
        let end = |&(partition, end): &(u32, i64)| {
            (partition, if holds(partition, end) { end } else { 0 })
        };
        End::new(self.latest.iter().map(end))
    }
}

/// Writes records to standard output.
struct Printer {
    out: BufWriter<Stdout>,
    format: Format,
    bar: ProgressBar,
}

impl Printer {
    fn new(args: &Args, bounds: &Bounds) -> Self {
        let format = args.format.unwrap_or(match args.client.print.output {
            Output::Text => Format::Value,
            Output::Json => Format::Json,
        });
        let total = (args.until_end && args.from_beginning)
            .then(|| bounds.end().left(&bounds.earliest.iter().copied().collect()));
        let bar = progress::records(total, Prints::Records);
        Self { out: BufWriter::with_capacity(64 * 1024, io::stdout()), format, bar }
    }

    /// Adds those records that are before `end`; not yet visible.
    fn add(&mut self, records: &Records, end: Option<i64>) -> io::Result<()> {
        for record in &records.records {
            if end.is_some_and(|end| record.offset >= end) {
                break;
            }
            let shown = Shown {
                partition: records.from.partition,
                offset: record.offset,
                timestamp_ms: record.timestamp,
                key: record.key.as_deref(),
                value: record.value.as_deref(),
                headers: &record.headers,
            };
            shown.write(self.format, &mut self.out)?;
            self.bar.inc(1);
        }
        Ok(())
    }

    /// Makes everything visible that was added.
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_partition_without_records_is_at_its_end() {
        let bounds =
            Bounds { earliest: vec![(0, 3), (1, 7), (2, 0)], latest: vec![(0, 5), (1, 7), (2, 0)] };
        let end = bounds.end();
        assert!(end.reached(&BTreeMap::from([(0, 5)])));
        assert!(!end.reached(&BTreeMap::from([(0, 4), (1, 7)])));
        assert_eq!(end.left(&bounds.earliest.iter().copied().collect()), 2);
    }
}
