//! Producers: idempotent, each with a client of its own. One lives for a while and is followed by another under a new name.
//! Numbers are given in the order of sending, by the one task that sends.

use std::time::Duration;

use anyhow::Result;
use geminga_check::Event;
use geminga_client::{Ack, Compression, Error, Message, ProducerConfig};

use super::{Context, Phase, TOPIC};
use crate::dice::Dice;
use crate::history::{content, place, value};

/// Most records that are sent without a pause.
const BURST: usize = 40;
/// Longest pause between bursts.
const PAUSE: Duration = Duration::from_millis(300);
/// Largest filler of a value, in bytes.
const FILLER: usize = 600;

/// Runs as many producers at a time, until no more records are to be sent and all have ended.
pub(crate) async fn producers(context: Context, count: usize) -> Result<()> {
    let lines = (0..count).map(|line| {
        let context = context.clone();
        context.tasks.clone().spawn("producers", async move { follow(&context, line).await })
    });
    for line in lines.collect::<Vec<_>>() {
        line.await?.ok_or_else(|| anyhow::anyhow!("a producer panicked"))??;
    }
    Ok(())
}

/// One producer after the other.
async fn follow(context: &Context, line: usize) -> Result<()> {
    let dice = Dice::new(context.seed, 1000 + line as u64);
    let mut life = 1;
    while *context.phase.borrow() == Phase::Load {
        produce(context, &format!("p{}.{life}", line + 1), &dice).await?;
        life += 1;
    }
    Ok(())
}

async fn produce(context: &Context, name: &str, dice: &Dice) -> Result<()> {
    let client = context.client(name)?;
    let config = ProducerConfig {
        batch_bytes: [1024, 16 * 1024, 256 * 1024][dice.below(3)],
        compression: [Compression::None, Compression::Lz4][dice.below(2)],
        idempotence: context.idempotence,
        ..ProducerConfig::default()
    };
    let producer = client.producer(config);
    let mut next = vec![0; context.partitions as usize];
    let end = dice.between(Duration::from_secs(5), Duration::from_secs(40));
    let end = tokio::time::sleep(end);
    tokio::pin!(end);
    loop {
        for _ in 0..=dice.below(BURST) {
            let partition = dice.below(next.len());
            let seq = next[partition];
            next[partition] += 1;
            let value = value(name, seq, dice.below(FILLER));
            send(context, &producer, name, u32::try_from(partition)?, seq, value).await;
        }
        tokio::select! {
            () = context.reached(Phase::Settle) => break,
            () = &mut end => break,
            () = tokio::time::sleep(dice.between(Duration::ZERO, PAUSE)) => {}
        }
    }
    producer.close().await;
    client.close().await;
    Ok(())
}

async fn send(
    context: &Context,
    producer: &geminga_client::Producer,
    name: &str,
    partition: u32,
    seq: u64,
    value: Vec<u8>,
) {
    let place = place(TOPIC, partition);
    let history = &context.history;
    history.write(name, Event::Produce { place: place.clone(), content: content(&value) });
    let message = Message { partition: Some(partition), ..Message::new(value) };
    let ended = Ended { context: context.clone(), name: name.to_owned(), partition, seq };
    let (told, refused) = (ended.clone(), ended);
    // With an error here, the callback is not called, and the record was not taken.
    let sent = producer.send_with(TOPIC, message, move |end| told.tell(end)).await;
    if let Err(error) = sent {
        refused.tell(Err(error));
    }
}

/// Writes how a record ended.
#[derive(Debug, Clone)]
struct Ended {
    context: Context,
    name: String,
    partition: u32,
    seq: u64,
}

impl Ended {
    fn tell(self, end: Result<Ack, Error>) {
        let place = place(TOPIC, self.partition);
        let (producer, seq) = (self.name.clone(), self.seq);
        let event = match end {
            Ok(ack) => {
                let offset = ack.offset.and_then(|offset| u64::try_from(offset).ok());
                Event::Ack { place, producer, seq, offset }
            }
            Err(error) => {
                let (in_doubt, why) = (is_in_doubt(&error), error.to_string());
                Event::Fail { place, producer, seq, in_doubt, why }
            }
        };
        self.context.history.write(&self.name, event);
    }
}

/// Whether the record may be there all the same, as the client's errors promise.
fn is_in_doubt(error: &Error) -> bool {
    match error {
        Error::TimedOut { .. }
        | Error::InDoubt { .. }
        | Error::Unreachable { .. }
        | Error::Closed => true,
        Error::Api(_) | Error::Record(_) | Error::Config(_) => false,
    }
}
