//! `geminga produce`: one record a line of standard input.

mod input;
mod report;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::PathBuf;
use std::pin::pin;

use clap::ValueEnum;
use futures::FutureExt;
use geminga_client::{Ack, ApiError, Delivery, Error, Message, Producer, ProducerConfig};
use indicatif::ProgressBar;
use tokio::sync::mpsc;

use self::report::{Fate, Report};
use crate::args::{ClientArgs, Output};
use crate::exit::{Exit, Failure};
use crate::progress::{self, Prints};
use crate::{client, server};

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
    /// Do not number batches: a record whose acknowledgement was lost may then be stored twice.
    #[arg(long)]
    pub(crate) no_idempotence: bool,
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

impl From<Compression> for geminga_client::Compression {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Gzip => Self::Gzip,
            Compression::Snappy => Self::Snappy,
            Compression::Lz4 => Self::Lz4,
            Compression::Zstd => Self::Zstd,
        }
    }
}

impl From<Acks> for geminga_client::Acks {
    fn from(acks: Acks) -> Self {
        match acks {
            Acks::All => Self::All,
            Acks::None => Self::None,
        }
    }
}

/// Writes records until the input ends.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    server::block_on_command(produce(args))
}

async fn produce(args: Args) -> Result<(), Failure> {
    let client = client::connect(&args.client)?;
    let mut report = Report::create(args.report.as_deref())?;
    let producer = client.producer(ProducerConfig {
        acks: args.acks.into(),
        compression: args.compression.into(),
        idempotence: !args.no_idempotence,
        ..ProducerConfig::default()
    });
    // A topic that is not there is refused before anything is read.
    producer.partitions(&args.topic).await?;
    let mut input = input::read(std::io::stdin());
    let mut sent = Sent::new(progress::records(None, Prints::Result));
    let separator = args.key_separator.as_deref().map(str::as_bytes);
    let ended = sent.send_all(&producer, &args.topic, separator, &mut input, &mut report).await;
    sent.finish(&mut report).await?;
    producer.close().await;
    sent.bar.finish_and_clear();
    ended?;
    sent.judge(args.client.print.output)
}

/// Records that were sent, in the order of input.
struct Sent {
    deliveries: VecDeque<Delivery>,
    acknowledged: u64,
    failed: u64,
    first_error: Option<ApiError>,
    bar: ProgressBar,
}

impl Sent {
    fn new(bar: ProgressBar) -> Self {
        Self { deliveries: VecDeque::new(), acknowledged: 0, failed: 0, first_error: None, bar }
    }

    /// Sends the whole input, and reports what ends meanwhile.
    async fn send_all(
        &mut self,
        producer: &Producer,
        topic: &str,
        separator: Option<&[u8]>,
        input: &mut mpsc::Receiver<io::Result<input::Lines>>,
        report: &mut Report,
    ) -> Result<(), Failure> {
        loop {
            tokio::select! {
                biased;
                end = next(&mut self.deliveries) => {
                    self.ended(end, report)?;
                    self.report_ready(report)?;
                }
                lines = input.recv() => {
                    let Some(lines) = lines else { return Ok(()) };
                    for line in lines? {
                        let (key, value) = input::split(line, separator);
                        let message = Message { key, value: Some(value), ..Message::default() };
                        self.send(producer, topic, message, report).await?;
                    }
                }
            }
        }
    }

    /// Sends one record. While there is no room for it, reports what ends: the acknowledged count grows all the time.
    async fn send(
        &mut self,
        producer: &Producer,
        topic: &str,
        message: Message,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let mut send = pin!(producer.send(topic, message));
        loop {
            tokio::select! {
                biased;
                delivery = &mut send => {
                    match delivery {
                        Ok(delivery) => self.deliveries.push_back(delivery),
                        // One record that is too large for any batch does not stop the others.
                        Err(error @ Error::Record(_)) => {
                            self.finish(report).await?;
                            self.ended(Err(error), report)?;
                        }
                        Err(error) => return Err(error.into()),
                    }
                    return Ok(());
                }
                end = next(&mut self.deliveries) => {
                    self.ended(end, report)?;
                    self.report_ready(report)?;
                }
            }
        }
    }

    /// Reports everything that is still to come.
    async fn finish(&mut self, report: &mut Report) -> io::Result<()> {
        while !self.deliveries.is_empty() {
            let end = next(&mut self.deliveries).await;
            self.ended(end, report)?;
            self.report_ready(report)?;
        }
        Ok(())
    }

    /// Reports what has ended already, and makes it visible.
    fn report_ready(&mut self, report: &mut Report) -> io::Result<()> {
        while let Some(end) = next(&mut self.deliveries).now_or_never() {
            self.ended(end, report)?;
        }
        report.flush()
    }

    fn ended(&mut self, end: Result<Ack, Error>, report: &mut Report) -> io::Result<()> {
        self.bar.inc(1);
        let fate = match end {
            Ok(Ack { partition, offset: Some(offset), .. }) => Fate::At { partition, offset },
            Ok(Ack { partition, .. }) => Fate::Sent { partition: Some(partition) },
            Err(error) => Fate::Failed(error.to_api()),
        };
        if let Fate::Failed(error) = &fate {
            self.failed += 1;
            self.first_error.get_or_insert_with(|| error.clone());
        } else {
            self.acknowledged += 1;
        }
        report.add(&fate)
    }

    fn judge(self, output: Output) -> Result<(), Failure> {
        let Self { acknowledged, failed, first_error, .. } = self;
        if output == Output::Json {
            let counts = serde_json::json!({"acknowledged": acknowledged, "failed": failed});
            writeln!(io::stdout(), "{counts}")?;
        }
        let Some(error) = first_error else { return Ok(()) };
        let records = acknowledged + failed;
        let line = format!(
            "{failed} of {records} records were not acknowledged, the first because: {}",
            error.message
        );
        Err(Failure::with(Exit::Incomplete, line).because(error.reason.as_str()))
    }
}

/// The end of the oldest record; never, without one. Cancel-safe: what is not ready stays.
async fn next(deliveries: &mut VecDeque<Delivery>) -> Result<Ack, Error> {
    match deliveries.front_mut() {
        Some(delivery) => {
            let end = delivery.await;
            deliveries.pop_front();
            end
        }
        None => std::future::pending().await,
    }
}
