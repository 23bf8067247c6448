//! `geminga perf consume`: reads a topic from its beginning to the end that it has at the start, and compares every byte
//! with what `perf produce` wrote.

use geminga_client::{OffsetAt, ReaderConfig};
use serde::Serialize;
use tokio::time::Instant;

use super::content::{Content, Tally};
use super::{ConsumeArgs, rates};
use crate::client;
use crate::exit::{Exit, Failure};
use crate::progress::{self, Prints};
use crate::view::View;

/// Bytes of one answer: this is about throughput.
const MAX_BYTES: u32 = 4 * 1024 * 1024;

/// Reads, judges, prints.
pub(super) async fn run(args: ConsumeArgs) -> Result<(), Failure> {
    let client = client::connect(&args.client)?;
    let admin = client.admin();
    let load = &args.load;
    let ends = admin.list_offsets(&load.topic, &[], OffsetAt::Latest).await?;
    let starts = admin.list_offsets(&load.topic, &[], OffsetAt::Earliest).await?;
    let config = ReaderConfig { max_bytes: MAX_BYTES, ..ReaderConfig::default() };
    let content = Content::new(load.seed, load.size);
    let mut tally = Tally::new(load.records);
    let bar = progress::records(Some(load.records), Prints::Result);
    let begin = Instant::now();
    let mut last = begin;
    let mut read = 0;
    let mut reader = client.reader(&load.topic, starts, config);
    let left = |positions: std::collections::BTreeMap<u32, i64>| {
        ends.iter().any(|(p, end)| positions.get(p).is_some_and(|position| position < end))
    };
    while left(reader.positions()) {
        let records = reader.next().await?;
        for record in &records.records {
            tally.count(record.value.as_deref().and_then(|value| content.number(value)));
        }
        let count = records.records.len() as u64;
        if count > 0 {
            last = Instant::now();
        }
        read += count;
        bar.inc(count);
    }
    bar.finish_and_clear();
    let bytes = read * u64::from(load.size);
    let seconds = (last - begin).as_secs_f64();
    let (mb_per_second, records_per_second) = rates(read, bytes, seconds);
    let report = Report {
        topic: load.topic.clone(),
        records: read,
        bytes,
        seconds,
        mb_per_second,
        records_per_second,
        missing: tally.missing(),
        duplicates: tally.duplicates,
        wrong: tally.wrong,
    };
    report.print(args.client.print)?;
    report.judge()
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    topic: String,
    records: u64,
    bytes: u64,
    seconds: f64,
    mb_per_second: f64,
    records_per_second: f64,
    missing: u64,
    duplicates: u64,
    wrong: u64,
}

impl Report {
    /// Duplicates are what retries may leave; they are told, not judged.
    fn judge(&self) -> Result<(), Failure> {
        let Self { missing, wrong, .. } = self;
        if *missing == 0 && *wrong == 0 {
            return Ok(());
        }
        let line =
            format!("{missing} records are missing and {wrong} are not as they were written");
        Err(Failure::with(Exit::Incomplete, line).because("CONTENT_MISMATCH"))
    }
}

impl View for Report {
    fn text(&self) -> String {
        let Self { records, seconds, mb_per_second, records_per_second, .. } = self;
        let Self { missing, duplicates, wrong, .. } = self;
        format!(
            "{records} records read in {seconds:.2} s: {mb_per_second:.1} MB/s, \
             {records_per_second:.0} records/s\n\
             content: {missing} missing, {duplicates} duplicates, {wrong} wrong\n"
        )
    }
}
