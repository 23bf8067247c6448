//! `geminga perf produce`: as many records as are acknowledged, or at a given rate. Latency is from when a record was due
//! to its acknowledgement, so that waiting for room in the buffer, or for one's own lateness, is not hidden.

use std::sync::Arc;
use std::time::Duration;

use geminga_client::{Ack, ApiError, Error, Message, ProducerConfig};
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;

use super::content::Content;
use super::{Latency, ProduceArgs, due, rates};
use crate::client;
use crate::command::produce::Acks;
use crate::exit::{Exit, Failure};
use crate::progress::{self, Prints};
use crate::view::View;

/// Shorter pauses than a timer keeps are not made: records that are due go together.
const TICK: Duration = Duration::from_millis(1);

/// The bar moves once for so many records.
const SHOW_EVERY: u64 = 256;

/// What acknowledgements have said so far.
#[derive(Debug)]
struct Tally {
    /// Microseconds.
    latency: Histogram<u64>,
    acknowledged: u64,
    failed: u64,
    first_error: Option<ApiError>,
    last: Instant,
}

impl Tally {
    fn new(now: Instant) -> Result<Self, Failure> {
        let latency = Histogram::new(3).map_err(Failure::new)?;
        Ok(Self { latency, acknowledged: 0, failed: 0, first_error: None, last: now })
    }

    fn count(&mut self, due: Instant, end: Result<Ack, Error>) {
        let now = Instant::now();
        match end {
            Ok(_) => {
                self.acknowledged += 1;
                self.last = now;
                let micros = u64::try_from((now - due).as_micros()).unwrap_or(u64::MAX);
                if self.latency.record(micros).is_err() {
                    // Longer than any histogram can be: the longest there is.
                    self.latency.saturating_record(micros);
                }
            }
            Err(error) => {
                self.failed += 1;
                self.first_error.get_or_insert_with(|| error.to_api());
            }
        }
    }
}

/// Where acknowledgements are counted and shown.
struct Told {
    tally: Mutex<Tally>,
    bar: ProgressBar,
}

impl Told {
    fn count(&self, due: Instant, end: Result<Ack, Error>) {
        let mut tally = self.tally.lock();
        tally.count(due, end);
        let ended = tally.acknowledged + tally.failed;
        drop(tally);
        if ended.is_multiple_of(SHOW_EVERY) {
            self.bar.set_position(ended);
        }
    }
}

/// Runs the load and prints what came of it.
pub(super) async fn run(args: ProduceArgs) -> Result<(), Failure> {
    let client = client::connect(&args.client)?;
    let producer = client.producer(ProducerConfig {
        acks: args.acks.into(),
        compression: args.compression.into(),
        idempotence: !args.no_idempotence,
        ..ProducerConfig::default()
    });
    let load = &args.load;
    producer.partitions(&load.topic).await?;
    let content = Content::new(load.seed, load.size);
    let bar = progress::records(Some(load.records), Prints::Result);
    let begin = Instant::now();
    let told = Arc::new(Told { tally: Mutex::new(Tally::new(begin)?), bar: bar.clone() });
    for number in 0..load.records {
        let now = Instant::now();
        let due = if args.rate.is_some() { due(begin, number, args.rate) } else { now };
        if due > now + TICK {
            tokio::time::sleep_until(due).await;
        }
        let told = Arc::clone(&told);
        let message = Message::new(content.value(number));
        producer.send_with(&load.topic, message, move |end| told.count(due, end)).await?;
    }
    producer.close().await;
    bar.finish_and_clear();
    let tally = told.tally.lock();
    let report = Report::new(&args, &tally, tally.last - begin);
    report.print(args.client.print)?;
    match &tally.first_error {
        None => Ok(()),
        Some(error) => {
            let line = format!(
                "{} of {} records were not acknowledged, the first because: {}",
                tally.failed, load.records, error.message
            );
            Err(Failure::with(Exit::Incomplete, line).because(error.reason.as_str()))
        }
    }
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    topic: String,
    /// Whether they were acknowledged, or sent only.
    acknowledged: bool,
    records: u64,
    failed: u64,
    bytes: u64,
    seconds: f64,
    mb_per_second: f64,
    records_per_second: f64,
    latency_ms: Latency,
}

impl Report {
    fn new(args: &ProduceArgs, tally: &Tally, elapsed: Duration) -> Self {
        let bytes = tally.acknowledged * u64::from(args.load.size);
        let seconds = elapsed.as_secs_f64();
        let (mb_per_second, records_per_second) = rates(tally.acknowledged, bytes, seconds);
        Self {
            topic: args.load.topic.clone(),
            acknowledged: args.acks == Acks::All,
            records: tally.acknowledged,
            failed: tally.failed,
            bytes,
            seconds,
            mb_per_second,
            records_per_second,
            latency_ms: Latency::of(&tally.latency),
        }
    }
}

impl View for Report {
    fn text(&self) -> String {
        let Self { records, seconds, mb_per_second, records_per_second, latency_ms, .. } = self;
        let what = if self.acknowledged { "acknowledged" } else { "sent, without acknowledgement" };
        format!(
            "{records} records {what} in {seconds:.2} s: {mb_per_second:.1} MB/s, \
             {records_per_second:.0} records/s\n{latency_ms}\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_acknowledgements_count() {
        let begin = Instant::now();
        let mut tally = Tally::new(begin).unwrap();
        let ack =
            || Ack { topic: "t".into(), partition: 0, offset: Some(1), log_append_time_ms: 0 };
        tally.count(begin, Ok(ack()));
        tally.count(begin, Err(Error::Closed));
        assert_eq!((tally.acknowledged, tally.failed, tally.latency.len()), (1, 1, 1));
        let due = begin.checked_sub(Duration::from_secs(70)).unwrap();
        tally.count(due, Ok(ack()));
        assert!(tally.latency.max() >= 70_000_000, "{}", tally.latency.max());
    }
}
