//! Records at a steady rate and a group that keeps up, in one process, so that both have one clock: each record says when it
//! was due, and its latency is from then to its arrival, so that a producer's lateness is not hidden.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use geminga_client::{
    Client, ConsumerConfig, Event, Message, OffsetReset, Producer, ProducerConfig,
};
use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::report::{Report, histogram};

/// How long the last records may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Records before this long are not counted: connections open, partitions too.
const WARM_UP: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The topic; it must exist.
    topic: String,
    /// A broker.
    #[arg(long)]
    server: String,
    /// Records a second.
    #[arg(long, default_value_t = 2000)]
    rate: u64,
    /// Bytes of a record.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// For so long.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// The group, a new one each time.
    #[arg(long)]
    group: String,
}

/// Runs both sides.
pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    let client = Client::connect(&args.server)?;
    let producer = client.producer(ProducerConfig::default());
    let mut config = ConsumerConfig::new(&args.group, &args.topic);
    config.offset_reset = OffsetReset::Latest;
    let mut consumer = client.consumer(config);
    loop {
        match consumer.next().await? {
            Event::Assigned(partitions) if !partitions.is_empty() => break,
            _ => {}
        }
    }
    let begin = Instant::now() + Duration::from_millis(100);
    let total = args.rate * args.seconds;
    let produced = produce(&producer, &args, begin, total);
    let consumed = consume(&mut consumer, begin, total);
    let (_, micros) = tokio::try_join!(produced, consumed)?;
    consumer.leave().await;
    producer.close().await;
    Ok(Report::new(&micros, args.seconds as f64))
}

async fn produce(
    producer: &Producer,
    args: &Args,
    begin: Instant,
    total: u64,
) -> anyhow::Result<()> {
    let pace = Duration::from_secs_f64(1.0 / args.rate.max(1) as f64);
    for number in 0..total {
        let due = pace.mul_f64(number as f64);
        tokio::time::sleep_until(begin + due).await;
        let mut value = vec![0x5a; args.size.max(8)];
        value[..8].copy_from_slice(&u64::try_from(due.as_micros())?.to_be_bytes());
        // One that is not acknowledged is one that the group waits for in vain.
        producer.send_with(&args.topic, Message::new(Bytes::from(value)), |_| {}).await?;
    }
    Ok(())
}

async fn consume(
    consumer: &mut geminga_client::Consumer,
    begin: Instant,
    total: u64,
) -> anyhow::Result<Histogram<u64>> {
    let mut micros = histogram()?;
    let mut arrived = 0;
    while arrived < total {
        let event =
            tokio::time::timeout(PATIENCE, consumer.next()).await.context("no records")??;
        let Event::Records(records) = event else { continue };
        let now = u64::try_from(Instant::now().saturating_duration_since(begin).as_micros())?;
        for record in &records.records {
            let Some(due) = record.value.as_deref().and_then(|value| value.first_chunk()) else {
                bail!("a record of somebody else: use a topic of its own");
            };
            let due = u64::from_be_bytes(*due);
            arrived += 1;
            if u128::from(due) >= WARM_UP.as_micros() {
                micros.saturating_record(now.saturating_sub(due));
            }
        }
    }
    Ok(micros)
}
