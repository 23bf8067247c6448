//! Partitions of one's own choice, from offsets of one's own choice, without a group. Each way that the partitions take has
//! a stream of its own: to their owner where it can be reached, else to any broker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt, StreamExt, TryFutureExt};
use geminga_proto::caps;
use geminga_proto::reason::Reason;
use geminga_proto::v1;
use geminga_proto::v1::stream_client::StreamClient;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;

use super::data::{self, Arrived};
use super::position::Position;
use super::{Records, TopicPartition};
use crate::backoff;
use crate::client::Client;
use crate::directory::{View, Way};
use crate::error::Error;

/// After so many failures in a row a broker is left alone for a while.
const TIRED: u32 = 5;

/// Settings of a [`Reader`].
#[derive(Debug, Clone)]
pub struct ReaderConfig {
    /// Most bytes of one answer; a larger batch still comes whole. Default 1 MiB.
    pub max_bytes: u32,
    /// The broker answers when it has so many bytes. Default 1.
    pub min_bytes: u32,
    /// … or after this time. Default 500 ms.
    pub max_wait: Duration,
    /// How long it is tried again without any answer before [`Reader::next`] fails. Default 2 minutes.
    pub retry_timeout: Duration,
}

impl Default for ReaderConfig {
    fn default() -> Self {
        Self {
            max_bytes: 1024 * 1024,
            min_bytes: 1,
            max_wait: Duration::from_millis(500),
            retry_timeout: Duration::from_secs(120),
        }
    }
}

/// One stream and what it reads.
struct Stream {
    address: String,
    partitions: BTreeSet<u32>,
    answers: BoxStream<'static, Result<v1::FetchResponse, Status>>,
}

/// Reads partitions of one topic on and on.
pub struct Reader {
    client: Client,
    config: ReaderConfig,
    topic: Arc<str>,
    positions: BTreeMap<u32, Position>,
    views: watch::Receiver<Arc<View>>,
    streams: BTreeMap<Way, Stream>,
    /// The streams are those that the view asks for.
    settled: bool,
    arrived: VecDeque<(Way, v1::PartitionData)>,
    retry: Retry,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl Reader {
    pub(crate) fn new(
        client: Client,
        topic: &str,
        starts: impl IntoIterator<Item = (u32, i64)>,
        config: ReaderConfig,
    ) -> Self {
        let positions = starts.into_iter().map(|(p, offset)| (p, Position::at(offset))).collect();
        client.directory().follow(topic);
        Self {
            views: client.directory().watch(),
            client,
            config,
            topic: Arc::from(topic),
            positions,
            streams: BTreeMap::new(),
            settled: false,
            arrived: VecDeque::new(),
            retry: Retry::default(),
        }
    }

    /// The next records of any of the partitions. Waits for new ones for ever. Broken streams, moving partitions and the
    /// like are tried again from the next offset. Cancel-safe.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`, `OFFSET_OUT_OF_RANGE` and what else trying again does not cure; the last failure when nothing
    /// was heard for `retry_timeout`.
    pub async fn next(&mut self) -> Result<Records, Error> {
        if self.positions.is_empty() {
            return Err(Error::Config("no partitions to read: name at least one".to_owned()));
        }
        loop {
            while let Some((way, data)) = self.arrived.pop_front() {
                if let Some(records) = self.take(way, data)? {
                    return Ok(records);
                }
            }
            self.retry.pause().await;
            if !self.settled {
                self.open()?;
            }
            let answer = tokio::select! {
                biased;
                answer = next_of(&mut self.streams) => Some(answer),
                Ok(()) = self.views.changed() => None,
            };
            match answer {
                Some((way, Some(Ok(response)))) => {
                    self.arrived.extend(response.partitions.into_iter().map(|data| (way, data)));
                }
                Some((way, Some(Err(status)))) => {
                    let server = self.streams.get(&way).map_or("", |stream| &stream.address);
                    self.fail(way, Error::from_status(server, &status))?;
                }
                Some((way, None)) => {
                    let server = self.streams.get(&way).map_or("", |stream| &stream.address);
                    let (server, why) =
                        (server.to_owned(), "the server ended the stream".to_owned());
                    self.fail(way, Error::Unreachable { server, why })?;
                }
                None => self.settled = false,
            }
        }
    }

    /// The offset after the last record that was returned, by partition.
    pub fn positions(&self) -> BTreeMap<u32, i64> {
        self.positions.iter().map(|(partition, position)| (*partition, position.next())).collect()
    }

    /// Goes on at `offset` in `partition`, which may be a new one.
    pub fn seek(&mut self, partition: u32, offset: i64) {
        // Positions are part of the request: the next one asks from here.
        self.positions.insert(partition, Position::at(offset));
        self.streams.clear();
        self.settled = false;
        self.arrived.clear();
    }

    /// Makes the streams those that the view asks for. Where one is missing, it is opened when it is first polled.
    fn open(&mut self) -> Result<(), Error> {
        let view = Arc::clone(&self.views.borrow_and_update());
        let mut wanted: BTreeMap<Way, BTreeSet<u32>> = BTreeMap::new();
        for partition in self.positions.keys() {
            wanted.entry(view.way(&self.topic, *partition)).or_default().insert(*partition);
        }
        self.streams.retain(|way, stream| wanted.get(way) == Some(&stream.partitions));
        for (way, partitions) in wanted {
            if !self.streams.contains_key(&way) {
                let address = match way {
                    Way::Any => self.client.directory().entry(),
                    Way::Broker(broker) => view.address(broker).unwrap_or_default().to_owned(),
                };
                let answers = self.ask(way, &address, &partitions)?;
                self.streams.insert(way, Stream { address, partitions, answers });
            }
        }
        self.settled = true;
        Ok(())
    }

    fn ask(
        &self,
        way: Way,
        address: &str,
        partitions: &BTreeSet<u32>,
    ) -> Result<BoxStream<'static, Result<v1::FetchResponse, Status>>, Error> {
        let partition = |(&partition, position): (&u32, &Position)| {
            let offset = position.next();
            partitions.contains(&partition).then_some(v1::FetchPartition { partition, offset })
        };
        let request = v1::FetchRequest {
            topic: self.topic.as_ref().to_owned(),
            partitions: self.positions.iter().filter_map(partition).collect(),
            min_bytes: self.config.min_bytes,
            max_bytes: self.config.max_bytes,
            max_wait_ms: u32::try_from(self.config.max_wait.as_millis()).unwrap_or(u32::MAX),
            format: v1::Format::Batches.into(),
            direct: way != Way::Any,
            until_end: false,
            client_id: self.client.config().client_id.clone(),
            once: false,
            forwarded: false,
        };
        let channel = self.client.directory().own_channel(address)?;
        Ok(async move {
            StreamClient::new(channel)
                .max_decoding_message_size(caps::MAX_CLIENT_MESSAGE_BYTES)
                .fetch(request)
                .await
        }
        .map_ok(tonic::Response::into_inner)
        .try_flatten_stream()
        .boxed())
    }

    fn take(&mut self, way: Way, data: v1::PartitionData) -> Result<Option<Records>, Error> {
        let partition = data.partition;
        let Arrived { records, batches, next_offset, high_watermark, error, .. } =
            data::take(data)?;
        if let Some(error) = error {
            if let (Reason::NotOwner, Some(owner)) = (error.reason, &error.owner_address) {
                self.client.directory().moved(&self.topic, partition, owner);
            }
            self.fail(way, error.into())?;
            return Ok(None);
        }
        self.retry.succeeded();
        let Some(position) = self.positions.get_mut(&partition) else { return Ok(None) };
        let Some(records) = position.accept(records, next_offset) else { return Ok(None) };
        let from = TopicPartition { topic: Arc::clone(&self.topic), partition };
        Ok(Some(Records { from, records, batches, next_offset: position.next(), high_watermark }))
    }

    /// Gives a stream up, to open another from the next offsets.
    fn fail(&mut self, way: Way, error: Error) -> Result<(), Error> {
        self.arrived.retain(|(from, _)| *from != way);
        let address = self.streams.remove(&way).map(|stream| stream.address);
        self.settled = false;
        self.retry.failed(error, address.as_deref(), self.config.retry_timeout, &self.client)
    }
}

/// What comes next on any of the streams; never, without one. Cancel-safe.
async fn next_of(
    streams: &mut BTreeMap<Way, Stream>,
) -> (Way, Option<Result<v1::FetchResponse, Status>>) {
    let mut next: FuturesUnordered<_> = streams
        .iter_mut()
        .map(|(way, stream)| stream.answers.next().map(|answer| (*way, answer)))
        .collect();
    match next.next().await {
        Some(answer) => answer,
        None => std::future::pending().await,
    }
}

/// Failures in a row, and the pause before the next attempt.
#[derive(Debug, Default)]
pub(super) struct Retry {
    failures: u32,
    since: Option<Instant>,
    resume_at: Option<Instant>,
}

impl Retry {
    /// Waits until the next attempt may be made. Cancel-safe.
    pub(super) async fn pause(&mut self) {
        if let Some(at) = self.resume_at {
            tokio::time::sleep_until(at).await;
            self.resume_at = None;
        }
    }

    /// Something good was heard.
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Returns the error when trying again does not help, or has gone on for `timeout`. `address`: whom it came from; when
    /// that one is gone, others are asked from now on.
    pub(super) fn failed(
        &mut self,
        error: Error,
        address: Option<&str>,
        timeout: Duration,
        client: &Client,
    ) -> Result<(), Error> {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        if !error.retriable() {
            return Err(error);
        }
        self.failures = self.failures.saturating_add(1);
        match address {
            // One that answers and cannot help may be cut off from the others: so often in a row, it rests.
            Some(address) if error.sends_away() || self.failures.is_multiple_of(TIRED) => {
                client.directory().failed(address);
            }
            Some(address) if error.needs_another() => client.directory().unhelpful(address),
            _ => client.directory().trouble(),
        }
        if now - since >= timeout {
            return Err(Error::TimedOut { after: timeout, last: Box::new(error) });
        }
        tracing::debug!(%error, "stream lost; trying again");
        self.resume_at = Some(now + backoff::pause(self.failures, &*client.config().random));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
