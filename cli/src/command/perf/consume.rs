//! `geminga perf consume`: reads a topic from its beginning to the end that it has at the start, and compares every byte
//! with what `perf produce` wrote. By itself, or as the member of a group.

use std::collections::BTreeMap;
use std::time::Duration;

use geminga_client::{Client, ReaderConfig, Records};
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::time::Instant;

use super::content::{Content, Tally};
use super::{ConsumeArgs, Load, rates};
use crate::client;
use crate::command::consume::{Bounds, Member, Sink};
use crate::exit::{Exit, Failure};
use crate::progress::{self, Prints};
use crate::view::View;

/// Bytes of one answer: this is about throughput.
const MAX_BYTES: u32 = 4 * 1024 * 1024;
/// How often a member commits: as applications do, not after each answer.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// Reads, judges, prints.
pub(super) async fn run(args: ConsumeArgs) -> Result<(), Failure> {
    let client = client::connect(&args.client)?;
    let load = &args.load;
    let bounds = Bounds::read(&client, &load.topic).await?;
    let mut judge = Judge::new(load);
    match &args.group {
        None => read(&client, load, bounds, &mut judge).await?,
        Some(group) => {
            let (topic, end) = (&load.topic, Some(bounds.end()));
            let waits = COMMIT_EVERY;
            let member = Member { client: &client, topic, group, from_beginning: true, end, waits };
            member.read(&mut judge).await?;
        }
    }
    judge.bar.finish_and_clear();
    let report = judge.report(load);
    report.print(args.client.print)?;
    report.judge()
}

/// Reads without a group.
async fn read(
    client: &Client,
    load: &Load,
    bounds: Bounds,
    judge: &mut Judge,
) -> Result<(), Failure> {
    let config = ReaderConfig { max_bytes: MAX_BYTES, ..ReaderConfig::default() };
    let Bounds { earliest, latest } = bounds;
    let mut reader = client.reader(&load.topic, earliest, config);
    let left = |positions: BTreeMap<u32, i64>| {
        latest.iter().any(|(p, end)| positions.get(p).is_some_and(|position| position < end))
    };
    while left(reader.positions()) {
        judge.add(&reader.next().await?)?;
    }
    Ok(())
}

/// Compares what is read.
struct Judge {
    content: Content,
    tally: Tally,
    bar: ProgressBar,
    begin: Instant,
    /// When the last record was read.
    last: Instant,
    read: u64,
}

impl Judge {
    fn new(load: &Load) -> Self {
        let begin = Instant::now();
        Self {
            content: Content::new(load.seed, load.size),
            tally: Tally::new(load.records),
            bar: progress::records(Some(load.records), Prints::Result),
            begin,
            last: begin,
            read: 0,
        }
    }

    fn report(&self, load: &Load) -> Report {
        let bytes = self.read * u64::from(load.size);
        let seconds = (self.last - self.begin).as_secs_f64();
        let (mb_per_second, records_per_second) = rates(self.read, bytes, seconds);
        Report {
            topic: load.topic.clone(),
            records: self.read,
            bytes,
            seconds,
            mb_per_second,
            records_per_second,
            missing: self.tally.missing(),
            duplicates: self.tally.duplicates,
            wrong: self.tally.wrong,
        }
    }
}

impl Sink for Judge {
    fn add(&mut self, records: &Records) -> Result<(), Failure> {
        for record in &records.records {
            let value = record.value.as_deref();
            self.tally.count(value.and_then(|value| self.content.number(value)));
        }
        let count = records.records.len() as u64;
        if count > 0 {
            self.last = Instant::now();
        }
        self.read += count;
        self.bar.inc(count);
        Ok(())
    }

    fn done(&mut self) -> Result<(), Failure> {
        Ok(())
    }
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
