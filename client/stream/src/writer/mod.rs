//! Batches that are ready: for whoever has record batches already, with the numbers of an idempotent producer in them, and
//! wants them in a partition as they are. One caller at a time hands over a number of batches and waits for all of them.
//!
//! * Batches of one partition are written in the order in which they are given; [`round`] decides what may be sent when.
//! * What is not answered is sent again, on another stream and in the same order, under the same numbers, so that a partition
//!   takes it once. So every batch needs numbers: one that has none may be stored twice.
//! * Nothing is kept between two calls but the stream.

mod round;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryFutureExt};
use geminga_proto::caps;
use geminga_proto::messages::sent::{self, Sent};
use geminga_proto::v1;
use geminga_proto::v1::stream_client::StreamClient;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use self::round::Round;
use crate::backoff;
use crate::client::Client;
use crate::error::Error;

/// Messages that wait for the network.
const QUEUE: usize = 2;
/// Batches in one message, unless one alone is larger.
const MESSAGE_BYTES: usize = 1024 * 1024;
/// How long nothing may be heard while something is on its way; quotas hold a stream back for a minute at most.
const SILENCE: Duration = Duration::from_secs(90);

/// A batch for a partition: exactly one record batch of format 2 at base offset 0, with the numbers of an idempotent producer.
#[derive(Debug, Clone)]
pub struct ReadyBatch {
    /// Whose.
    pub topic: Arc<str>,
    /// Which.
    pub partition: u32,
    /// The batch.
    pub batch: Bytes,
}

/// What became of a batch: the offset of its first record, or `None` where it was written before, longer ago than the
/// partition remembers.
pub type Written = Result<Option<i64>, Error>;

/// See the module.
#[derive(Debug)]
pub struct BatchWriter {
    client: Client,
    /// How long a batch is tried while nothing goes forward.
    patience: Duration,
    stream: Option<Stream>,
    /// Of the next element.
    next_id: u64,
}

/// One stream.
struct Stream {
    /// Whom it was opened to.
    address: String,
    requests: mpsc::Sender<v1::ProduceRequest>,
    /// Opens the stream when it is first polled.
    answers: BoxStream<'static, Result<v1::ProduceResponse, Status>>,
    /// The partitions that something was sent to; the first element of each says that it begins.
    begun: round::Begun,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("address", &self.address).finish_non_exhaustive()
    }
}

impl BatchWriter {
    pub(crate) fn new(client: &Client, patience: Duration) -> Self {
        Self { client: client.clone(), patience, stream: None, next_id: 0 }
    }

    /// Writes batches and waits for all of them; what became of each is in its place. A batch that is refused for good takes
    /// with it those of its partition that come behind it. When the call is dropped, some may be written.
    pub async fn append(&mut self, batches: &[ReadyBatch]) -> Vec<Written> {
        let mut round = Round::new(batches);
        let (mut failures, mut since) = (0, Instant::now());
        while !round.is_over() {
            let left = round.left();
            let Err(error) = self.attempt(&mut round).await else { break };
            if round.left() < left {
                (failures, since) = (0, Instant::now());
            }
            failures += 1;
            self.blame(&error);
            let config = self.client.config();
            let pause = backoff::pause(failures, &*config.random);
            if matches!(error, Error::Closed) || since.elapsed() + pause >= self.patience {
                round.give_up(&error, self.patience);
                break;
            }
            tracing::debug!(%error, failures, "batches are sent again");
            round.again();
            tokio::time::sleep(pause).await;
        }
        round.into_ends()
    }

    /// The stream is over, and others should be asked where that may help.
    fn blame(&mut self, error: &Error) {
        let Some(stream) = self.stream.take() else { return };
        let directory = self.client.directory();
        if error.sends_away() {
            directory.failed(&stream.address);
        } else if error.needs_another() {
            directory.unhelpful(&stream.address);
        }
    }

    /// Sends what is left, until that is over or the stream is no good any more.
    async fn attempt(&mut self, round: &mut Round<'_>) -> Result<(), Error> {
        if self.stream.is_none() {
            self.stream = Some(self.open()?);
        }
        let stream = self.stream.as_mut().expect("just opened");
        let mut deadline = Instant::now() + SILENCE;
        while !round.is_over() {
            tokio::select! {
                biased;
                () = self.client.tasks().cancelled() => return Err(Error::Closed),
                answer = stream.answers.next() => {
                    let response = match answer {
                        Some(Ok(response)) => response,
                        Some(Err(status)) => return Err(Error::from_status(&stream.address, &status)),
                        None => return Err(lost(&stream.address, "the server ended the stream")),
                    };
                    deadline = Instant::now() + SILENCE;
                    for result in response.results {
                        round.on_result(result, &mut stream.begun)?;
                    }
                }
                room = stream.requests.reserve(), if round.has_ready() => {
                    let Ok(room) = room else {
                        return Err(lost(&stream.address, "the connection broke"));
                    };
                    let elements = round.collect(MESSAGE_BYTES, &mut self.next_id, &mut stream.begun);
                    room.send(v1::ProduceRequest {
                        elements,
                        direct: false,
                        client_id: self.client.config().client_id.clone(),
                        forwarded: false,
                    });
                }
                () = tokio::time::sleep_until(deadline) => {
                    return Err(lost(&stream.address, "no answer"));
                }
            }
        }
        Ok(())
    }

    fn open(&self) -> Result<Stream, Error> {
        let directory = self.client.directory();
        let address = directory.entry();
        let channel = directory.own_channel(&address)?;
        let (requests, queue) = mpsc::channel(QUEUE);
        let answers = async move {
            StreamClient::new(Sent::new(channel))
                .max_decoding_message_size(caps::MAX_CLIENT_MESSAGE_BYTES)
                .produce(sent::request(ReceiverStream::new(queue)))
                .await
        }
        .map_ok(|opened| opened.into_inner())
        .try_flatten_stream()
        .boxed();
        Ok(Stream { address, requests, answers, begun: round::Begun::default() })
    }
}

fn lost(server: &str, why: &str) -> Error {
    Error::Unreachable { server: server.to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests;
