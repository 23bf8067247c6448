//! Records at a steady rate and a group that keeps up, through phases that the caller names: what a restart of servers does to
//! clients. Each line on standard input begins the phase of that name; `end`, or the end of the input, ends sending. Then what was
//! acknowledged must arrive. Nothing that a client is told is passed over: each record that fails, each error of a member.
//!
//! A record belongs to the phase in which it was due. Producer and members are in one process, so that both have one clock.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::future::join_all;
use geminga_client::{
    Ack, Client, Consumer, ConsumerConfig, Error, Event, Message, OffsetReset, Producer,
    ProducerConfig,
};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::report::histogram;

/// How long the last records may take to arrive.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a member looks whether all have arrived.
const LOOK: Duration = Duration::from_millis(200);
/// Most errors that are told, and most of one member before it gives up.
const MOST_ERRORS: usize = 20;
/// Most events that are committed together.
const MOST_EVENTS: usize = 64;
/// Number, time due and phase of a record are before its padding.
const HEAD: usize = 8 + 8 + 4;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The topic; it must exist and be empty.
    topic: String,
    /// Brokers, with commas between them.
    #[arg(long)]
    server: String,
    /// Records a second.
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Bytes of a record.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// The group.
    #[arg(long)]
    group: String,
    /// Its members.
    #[arg(long, default_value_t = 2)]
    members: usize,
}

/// One phase.
#[derive(Debug)]
struct Phase {
    name: String,
    failed: u64,
    /// From when a record was due to its acknowledgement, microseconds.
    acked: Histogram<u64>,
    /// From when a record was due to its first arrival.
    arrived: Histogram<u64>,
}

/// What has happened so far.
#[derive(Debug)]
struct Tally {
    begin: Instant,
    phases: Vec<Phase>,
    /// Of each record by its number, how often it arrived.
    arrivals: Vec<u32>,
    /// Records that were acknowledged, by number, and where.
    places: BTreeMap<u64, (u32, i64)>,
    /// Everything that was sent has ended.
    closed: bool,
    assignments: u64,
    /// Records that are not at the place that their acknowledgement named, or of somebody else.
    wrong: u64,
    errors: u64,
    told: Vec<String>,
}

impl Tally {
    fn micros(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn phase(&mut self, name: String) -> anyhow::Result<()> {
        let (acked, arrived) = (histogram()?, histogram()?);
        self.phases.push(Phase { name, failed: 0, acked, arrived });
        Ok(())
    }

    fn error(&mut self, who: &str, error: &Error) {
        self.errors += 1;
        if self.told.len() < MOST_ERRORS {
            let at = self.begin.elapsed().as_secs_f64();
            self.told.push(format!("{at:.1} s, {who}: {error} ({})", error.reason().as_str()));
        }
    }

    fn ended(&mut self, number: u64, due: u64, phase: usize, end: Result<Ack, Error>) {
        let now = self.micros();
        match end {
            Ok(ack) => {
                self.phases[phase].acked.saturating_record(now.saturating_sub(due));
                self.places.insert(number, (ack.partition, ack.offset.unwrap_or(-1)));
            }
            Err(error) => {
                self.phases[phase].failed += 1;
                self.error("producer", &error);
            }
        }
    }

    fn arrived(&mut self, partition: u32, offset: i64, value: Option<&[u8]>) {
        let now = self.micros();
        let Some((number, due, phase)) = value.and_then(parse) else {
            self.wrong += 1;
            return;
        };
        let arrivals = usize::try_from(number).ok().and_then(|n| self.arrivals.get_mut(n));
        let (Some(arrivals), true) = (arrivals, phase < self.phases.len()) else {
            self.wrong += 1;
            return;
        };
        *arrivals += 1;
        if *arrivals == 1 {
            self.phases[phase].arrived.saturating_record(now.saturating_sub(due));
        }
        // A record may arrive before its acknowledgement; then only its number is judged.
        if self.places.get(&number).is_some_and(|place| *place != (partition, offset)) {
            self.wrong += 1;
        }
    }

    /// How many that were acknowledged have not arrived.
    fn missing(&self) -> usize {
        let there =
            |number: &u64| usize::try_from(*number).is_ok_and(|number| self.arrivals[number] > 0);
        self.places.keys().filter(|number| !there(number)).count()
    }

    fn is_over(&self) -> bool {
        self.closed && self.missing() == 0
    }
}

fn parse(value: &[u8]) -> Option<(u64, u64, usize)> {
    let (number, rest) = value.split_first_chunk()?;
    let (due, rest) = rest.split_first_chunk()?;
    let phase = u32::from_be_bytes(*rest.first_chunk()?);
    Some((u64::from_be_bytes(*number), u64::from_be_bytes(*due), usize::try_from(phase).ok()?))
}

/// Latencies in milliseconds.
#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    max: f64,
}

impl Latency {
    fn of(micros: &Histogram<u64>) -> Self {
        let ms = |micros: u64| micros as f64 / 1000.0;
        let at = |quantile| ms(micros.value_at_quantile(quantile));
        Self { p50: at(0.5), p99: at(0.99), max: ms(micros.max()) }
    }
}

#[derive(Debug, Serialize)]
struct PhaseReport {
    name: String,
    records: u64,
    failed: u64,
    acked_ms: Latency,
    arrived_ms: Latency,
}

/// What is printed, as `rolling_kafka.py` does.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    phases: Vec<PhaseReport>,
    sent: usize,
    acknowledged: usize,
    missing: usize,
    repeated: u64,
    wrong: u64,
    assignments: u64,
    errors: u64,
    told: Vec<String>,
}

impl Report {
    fn of(tally: &Tally) -> Self {
        let phase = |phase: &Phase| PhaseReport {
            name: phase.name.clone(),
            records: phase.acked.len(),
            failed: phase.failed,
            acked_ms: Latency::of(&phase.acked),
            arrived_ms: Latency::of(&phase.arrived),
        };
        Self {
            phases: tally.phases.iter().map(phase).collect(),
            sent: tally.arrivals.len(),
            acknowledged: tally.places.len(),
            missing: tally.missing(),
            repeated: tally.arrivals.iter().map(|n| u64::from(n.saturating_sub(1))).sum(),
            wrong: tally.wrong,
            assignments: tally.assignments,
            errors: tally.errors,
            told: tally.told.clone(),
        }
    }

    /// As one line of JSON.
    pub(crate) fn print(&self) -> anyhow::Result<()> {
        println!("{}", serde_json::to_string(self)?);
        Ok(())
    }
}

/// Runs producer and members until the input says `end`, and all has arrived.
pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    let client = Client::connect(&args.server)?;
    let tally = Arc::new(Mutex::new(Tally {
        begin: Instant::now(),
        phases: Vec::new(),
        arrivals: Vec::new(),
        places: BTreeMap::new(),
        closed: false,
        assignments: 0,
        wrong: 0,
        errors: 0,
        told: Vec::new(),
    }));
    let (said, words) = mpsc::channel(1);
    let reader = thread::spawn(move || {
        for word in std::io::stdin().lock().lines().map_while(Result::ok) {
            if word == "end" || said.blocking_send(word).is_err() {
                return;
            }
        }
    });
    let producer = client.producer(ProducerConfig::default());
    let members = (0..args.members).map(|number| {
        let mut config = ConsumerConfig::new(&args.group, &args.topic);
        config.offset_reset = OffsetReset::Earliest;
        follow(client.consumer(config), number, &tally)
    });
    let (produced, ()) = tokio::join!(produce(producer, &args, words, &tally), async {
        join_all(members).await;
    });
    produced?;
    // It has heard `end`, or nobody hears it any more.
    let _ = reader.join();
    client.close().await;
    let report = Report::of(&tally.lock());
    Ok(report)
}

async fn produce(
    producer: Producer,
    args: &Args,
    mut words: mpsc::Receiver<String>,
    tally: &Arc<Mutex<Tally>>,
) -> anyhow::Result<()> {
    let Some(first) = words.recv().await else { anyhow::bail!("no phase was named") };
    let begin = tally.lock().begin;
    let from = Instant::now();
    let mut phase = 0;
    tally.lock().phase(first)?;
    for number in 0_u64.. {
        let due = from + Duration::from_secs_f64(number as f64 / f64::from(args.rate.max(1)));
        tokio::select! {
            biased;
            word = words.recv() => match word {
                Some(name) => {
                    tally.lock().phase(name)?;
                    phase += 1;
                }
                None => break,
            },
            () = sleep_until(due) => {}
        }
        let due = u64::try_from((due - begin).as_micros())?;
        let mut value = BytesMut::with_capacity(args.size.max(HEAD));
        value.put_u64(number);
        value.put_u64(due);
        value.put_u32(u32::try_from(phase)?);
        value.resize(args.size.max(HEAD), 0x5a);
        tally.lock().arrivals.push(0);
        let told = Arc::clone(tally);
        // Keys, so that all partitions get records all the time.
        let message = Message::keyed(Bytes::from(number.to_string()), value.freeze());
        let end = move |end| told.lock().ended(number, due, phase, end);
        producer.send_with(&args.topic, message, end).await?;
    }
    producer.close().await;
    tally.lock().closed = true;
    Ok(())
}

/// One member: takes what comes, commits it, and counts.
async fn follow(mut consumer: Consumer, number: usize, tally: &Mutex<Tally>) {
    let (who, mut errors) = (format!("member {number}"), 0);
    let mut deadline = None;
    while errors < MOST_ERRORS {
        {
            let tally = tally.lock();
            if tally.is_over() || deadline.is_some_and(|deadline| Instant::now() > deadline) {
                break;
            }
            if tally.closed && deadline.is_none() {
                deadline = Some(Instant::now() + PATIENCE);
            }
        }
        let end = match timeout(LOOK, consumer.next()).await {
            Err(_) => continue,
            Ok(first) => take(first, &mut consumer, tally).await,
        };
        if let Err(error) = end {
            errors += 1;
            tally.lock().error(&who, &error);
        }
    }
    consumer.leave().await;
}

/// Takes an event and what is there beside it, and commits.
async fn take(
    first: Result<Event, Error>,
    consumer: &mut Consumer,
    tally: &Mutex<Tally>,
) -> Result<(), Error> {
    let mut next = Some(first?);
    for left in (0..MOST_EVENTS).rev() {
        match next {
            Some(Event::Records(records)) => {
                let mut tally = tally.lock();
                for record in &records.records {
                    tally.arrived(records.from.partition, record.offset, record.value.as_deref());
                }
            }
            Some(Event::Assigned(_)) => tally.lock().assignments += 1,
            Some(Event::Revoked | Event::Lost) | None => break,
        }
        next = if left > 0 { consumer.try_next()? } else { None };
    }
    consumer.commit().await
}
