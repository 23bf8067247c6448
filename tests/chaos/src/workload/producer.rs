//! A producer, for one life: idempotent, unless it is told otherwise. Numbers are given in the order of sending, by the one task that
//! sends. A record is written down before it is sent, and again when its end is told.

use std::time::Duration;

use anyhow::Result;
use geminga_check::Event;
use geminga_client::{Ack, Compression, Error, Message, Producer, ProducerConfig};

use super::TOPIC;
use super::client::Own;
use super::order::{Order, orders, told};
use crate::dice::Dice;
use crate::history::{History, content, place, value};

/// Most records that are sent without a pause.
const BURST: usize = 40;
/// Longest pause between bursts.
const PAUSE: Duration = Duration::from_millis(300);
/// The same, in a hurry.
const SHORT: Duration = Duration::from_millis(20);
/// Largest filler of a value, in bytes.
const FILLER: usize = 600;

/// Sends until it is told to end, and then until all has ended that was sent.
pub(super) async fn produce(
    own: &Own,
    dice: &Dice,
    partitions: u32,
    idempotence: bool,
) -> Result<()> {
    let config = ProducerConfig {
        batch_bytes: [1024, 16 * 1024, 256 * 1024][dice.below(3)],
        compression: [Compression::None, Compression::Lz4][dice.below(2)],
        idempotence,
        ..ProducerConfig::default()
    };
    let producer = own.client.producer(config);
    let mut next = vec![0; partitions as usize];
    let mut orders = orders();
    loop {
        for _ in 0..=dice.below(BURST) {
            let partition = dice.below(next.len());
            let seq = next[partition];
            next[partition] += 1;
            let value = value(&own.name, seq, dice.below(FILLER));
            send(own, &producer, u32::try_from(partition)?, seq, value).await;
        }
        let hurries = *orders.borrow() == Order::Hurry;
        let pause = dice.between(Duration::ZERO, if hurries { SHORT } else { PAUSE });
        tokio::select! {
            order = told(&mut orders) => match order {
                Order::Vanish => return Ok(()),
                _ => break,
            },
            () = tokio::time::sleep(pause) => {}
        }
    }
    producer.close().await;
    own.client.close().await;
    Ok(())
}

async fn send(own: &Own, producer: &Producer, partition: u32, seq: u64, value: Vec<u8>) {
    let Own { name, history, .. } = own;
    let place = place(TOPIC, partition);
    history.write(name, Event::Produce { place, content: content(&value) });
    let message = Message { partition: Some(partition), ..Message::new(value) };
    let ended = Ended { history: history.clone(), name: name.clone(), partition, seq };
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
    history: History,
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
        self.history.write(&self.name, event);
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
