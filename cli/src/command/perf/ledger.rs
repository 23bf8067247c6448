//! `geminga perf ledger`: what bookies do under load, without a broker in between. Writes ledgers of its own, reads them,
//! and deletes them.

use std::num::NonZeroU64;
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};
use geminga_ledger::{Config, CreateError, CreateSpec, LedgerClient, Outcome, ReadError, Writer};
use geminga_metastore::Txn;
use geminga_metastore::record::Custom;
use geminga_proto::entry::{Attributes, Kind, NO_SNAPSHOT};
use geminga_proto::ids::{EntryId, LedgerId};
use geminga_runtime::{Random, SeededRandom, Tasks};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::Instant;

use super::ticks::Ticks;
use super::{Latency, LedgerArgs, LedgerReadArgs, rates};
use crate::command::ledger;
use crate::exit::{Exit, Failure};
use crate::view::View;

/// Different parts of so many bytes are the payloads: incompressible, and made before the clock starts.
const CONTENT_BYTES: usize = 4 << 20;
/// How long the last entries may take.
const DRAIN: Duration = Duration::from_secs(30);

/// Writes as told and prints what came of it.
pub(super) async fn write(args: LedgerArgs) -> Result<(), Failure> {
    if args.ack_quorum > args.write_quorum {
        return Err(Failure::usage("--ack-quorum cannot be above --write-quorum"));
    }
    let tasks = Tasks::new("perf");
    let client = ledger::connect(&args.place, &tasks, Config::default()).await?;
    let content = content(args.size as usize);
    let spec = CreateSpec { qw: args.write_quorum, qa: args.ack_quorum, custom: custom() };
    let writers =
        try_join_all((0..args.ledgers).map(|_| client.create(spec.clone(), |_| Txn::new())));
    let writers = writers.await?;
    let ids: Vec<LedgerId> = writers.iter().map(Writer::id).collect();

    let begin = Instant::now();
    let loads = writers.into_iter().map(|writer| load(writer, &args, &content, begin));
    let written = try_join_all(loads).await?;
    let elapsed = begin.elapsed();

    let mut latency = Histogram::new(3).map_err(Failure::new)?;
    for one in &written {
        latency.add(one).map_err(Failure::new)?;
    }
    if !args.keep {
        delete(&client, &ids).await?;
    }
    let (entries, seconds) = (latency.len(), elapsed.as_secs_f64());
    let bytes = entries * u64::from(args.size);
    let (mb_per_second, entries_per_second) = rates(entries, bytes, seconds);
    let report = Written {
        ledgers: ids.iter().map(LedgerId::to_string).collect(),
        entries,
        bytes,
        seconds,
        mb_per_second,
        entries_per_second,
        latency_ms: Latency::of(&latency),
    };
    report.print(args.print)
}

fn custom() -> Custom {
    Custom { name: "geminga perf ledger".to_owned(), ..Custom::default() }
}

fn content(size: usize) -> Bytes {
    let mut random = vec![0; CONTENT_BYTES + size];
    let seeded = SeededRandom::new(1);
    for word in random.chunks_mut(8) {
        word.copy_from_slice(&seeded.next_u64().to_le_bytes()[..word.len()]);
    }
    random.into()
}

/// Appends one ledger's share and closes it; the latencies of its entries in microseconds, each from when it was due.
async fn load(
    mut writer: Writer,
    args: &LedgerArgs,
    content: &Bytes,
    begin: Instant,
) -> Result<Histogram<u64>, Failure> {
    let size = args.size as usize;
    let mut latency = Histogram::new(3).map_err(Failure::new)?;
    let mut pending = FuturesOrdered::new();
    let ticks = args.rate.and_then(NonZeroU64::new);
    let ticks = ticks.map(|rate| Ticks::start(begin, args.entries, rate)).transpose();
    let mut ticks = ticks.map_err(Failure::new)?;
    // When the next one was due, once it is.
    let mut turn = None;
    let mut number = 0;
    while number < args.entries || !pending.is_empty() {
        let next = async {
            if let (None, Some(ticks)) = (turn, &mut ticks) {
                turn = ticks.next().await;
            }
            writer.ready(size).await
        };
        tokio::select! {
            biased;
            Some((due, outcome)) = pending.next() => {
                if outcome != Outcome::Acked {
                    return Err(incomplete(writer.id(), outcome));
                }
                let elapsed: Duration = Instant::now() - due;
                let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
                latency.record(micros).map_err(Failure::new)?;
            }
            ready = next, if number < args.entries => {
                ready.map_err(Failure::new)?;
                let from = (number as usize).wrapping_mul(8191) % CONTENT_BYTES;
                let payload = content.slice(from..from + size).into();
                let (_, _, outcome) =
                    writer.append(attributes(number), &payload).map_err(Failure::new)?;
                let due = turn.take().unwrap_or_else(Instant::now);
                pending.push_back(outcome.map(move |outcome| (due, outcome)));
                number += 1;
            }
        }
    }
    writer.close(DRAIN, |_| Txn::new()).await.map_err(Failure::new)?;
    Ok(latency)
}

fn attributes(number: u64) -> Attributes {
    Attributes {
        kind: Kind::Batches,
        first_offset: i64::try_from(number).unwrap_or(i64::MAX),
        offset_count: 1,
        max_timestamp: 0,
        running_max_timestamp: 0,
        last_snapshot_entry: NO_SNAPSHOT,
    }
}

fn incomplete(ledger: LedgerId, outcome: Outcome) -> Failure {
    let line = format!("an entry of ledger {ledger} ended as {outcome:?}: see the bookies' logs");
    Failure::with(Exit::Incomplete, line).because("NOT_ACKNOWLEDGED")
}

async fn delete(client: &LedgerClient, ids: &[LedgerId]) -> Result<(), Failure> {
    for id in ids {
        client.delete(*id).await.map_err(Failure::new)?;
    }
    Ok(())
}

/// Reads whole ledgers, all at the same time, every entry verified.
pub(super) async fn read(args: LedgerReadArgs) -> Result<(), Failure> {
    let tasks = Tasks::new("perf");
    let client = ledger::connect(&args.place, &tasks, Config::default()).await?;
    let begin = Instant::now();
    let read = try_join_all(args.ledgers.iter().map(|id| read_one(&client, *id))).await?;
    let seconds = begin.elapsed().as_secs_f64();
    if args.delete {
        delete(&client, &args.ledgers).await?;
    }
    let entries = read.iter().map(|(entries, _)| entries).sum();
    let bytes = read.iter().map(|(_, bytes)| bytes).sum();
    let (mb_per_second, entries_per_second) = rates(entries, bytes, seconds);
    Read { entries, bytes, seconds, mb_per_second, entries_per_second }.print(args.print)
}

async fn read_one(client: &LedgerClient, id: LedgerId) -> Result<(u64, u64), Failure> {
    let meta = match client.metadata(id).await? {
        Some((meta, _)) => meta,
        None => return Err(ledger::unknown(id)),
    };
    let Some(last) = meta.last_entry else {
        return Err(Failure::new(format!("ledger {id} is not closed: recover it first")));
    };
    let reader = client.reader(meta.into());
    let (mut next, mut entries, mut bytes) = (EntryId(0), 0, 0);
    while next <= last {
        for entry in reader.read(next, last, usize::MAX, None).await.map_err(unreadable)? {
            next = next.next();
            entries += 1;
            bytes += entry.payload.len() as u64;
        }
    }
    Ok((entries, bytes))
}

fn unreadable(error: ReadError) -> Failure {
    Failure::with(Exit::Incomplete, error)
}

impl From<CreateError> for Failure {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::Metadata(error) => error.into(),
            error => Self::new(error),
        }
    }
}

/// What writing came to.
#[derive(Debug, Serialize)]
struct Written {
    ledgers: Vec<String>,
    entries: u64,
    bytes: u64,
    seconds: f64,
    mb_per_second: f64,
    entries_per_second: f64,
    latency_ms: Latency,
}

impl View for Written {
    fn text(&self) -> String {
        let Self { entries, seconds, mb_per_second, entries_per_second, latency_ms, .. } = self;
        format!(
            "{entries} entries acknowledged in {seconds:.2} s: {mb_per_second:.1} MB/s of payload, \
             {entries_per_second:.0} entries/s\n{latency_ms}\n"
        )
    }
}

/// What reading came to.
#[derive(Debug, Serialize)]
struct Read {
    entries: u64,
    bytes: u64,
    seconds: f64,
    mb_per_second: f64,
    entries_per_second: f64,
}

impl View for Read {
    fn text(&self) -> String {
        let Self { entries, seconds, mb_per_second, entries_per_second, .. } = self;
        format!(
            "{entries} entries read in {seconds:.2} s: {mb_per_second:.1} MB/s of payload, \
             {entries_per_second:.0} entries/s\n"
        )
    }
}
