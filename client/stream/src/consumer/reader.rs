//! Partitions of one's own choice, from offsets of one's own choice, without a group.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryFutureExt};
use geminga_proto::caps;
use geminga_proto::v1;
use geminga_proto::v1::stream_client::StreamClient;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;

use super::data::{self, Arrived};
use super::position::Position;
use super::{Records, TopicPartition};
use crate::backoff;
use crate::client::Client;
use crate::error::Error;

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

/// Reads partitions of one topic on and on.
pub struct Reader {
    client: Client,
    channel: Channel,
    config: ReaderConfig,
    topic: Arc<str>,
    positions: BTreeMap<u32, Position>,
    stream: Option<BoxStream<'static, Result<v1::FetchResponse, Status>>>,
    arrived: VecDeque<v1::PartitionData>,
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
        Self {
            channel: client.own_channel(),
            client,
            config,
            topic: Arc::from(topic),
            positions,
            stream: None,
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
        loop {
            while let Some(data) = self.arrived.pop_front() {
                if let Some(records) = self.take(data)? {
                    return Ok(records);
                }
            }
            self.retry.pause().await;
            let stream = match &mut self.stream {
                Some(stream) => stream,
                None => {
                    let stream = self.open();
                    self.stream.insert(stream)
                }
            };
            match stream.next().await {
                Some(Ok(response)) => {
                    self.arrived.extend(response.partitions);
                }
                Some(Err(status)) => {
                    self.fail(Error::from_status(self.client.server(), &status))?;
                }
                None => {
                    let server = self.client.server().to_owned();
                    let why = "the server ended the stream".to_owned();
                    self.fail(Error::Unreachable { server, why })?;
                }
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
        self.stream = None;
        self.arrived.clear();
    }

    fn open(&self) -> BoxStream<'static, Result<v1::FetchResponse, Status>> {
        let partition = |(&partition, position): (&u32, &Position)| v1::FetchPartition {
            partition,
            offset: position.next(),
        };
        let request = v1::FetchRequest {
            topic: self.topic.as_ref().to_owned(),
            partitions: self.positions.iter().map(partition).collect(),
            min_bytes: self.config.min_bytes,
            max_bytes: self.config.max_bytes,
            max_wait_ms: u32::try_from(self.config.max_wait.as_millis()).unwrap_or(u32::MAX),
            format: v1::Format::Batches.into(),
            direct: false,
            until_end: false,
            client_id: self.client.config().client_id.clone(),
            once: false,
        };
        let channel = self.channel.clone();
        async move {
            StreamClient::new(channel)
                .max_decoding_message_size(caps::MAX_CLIENT_MESSAGE_BYTES)
                .fetch(request)
                .await
        }
        .map_ok(tonic::Response::into_inner)
        .try_flatten_stream()
        .boxed()
    }

    fn take(&mut self, data: v1::PartitionData) -> Result<Option<Records>, Error> {
        let partition = data.partition;
        let Arrived { records, next_offset, high_watermark, error, .. } = data::take(data)?;
        if let Some(error) = error {
            self.fail(error.into())?;
            return Ok(None);
        }
        self.retry.succeeded();
        let Some(position) = self.positions.get_mut(&partition) else { return Ok(None) };
        let Some(records) = position.accept(records, next_offset) else { return Ok(None) };
        let from = TopicPartition { topic: Arc::clone(&self.topic), partition };
        Ok(Some(Records { from, records, next_offset: position.next(), high_watermark }))
    }

    /// Gives the stream up, to open another from the next offsets.
    fn fail(&mut self, error: Error) -> Result<(), Error> {
        self.stream = None;
        self.arrived.clear();
        self.retry.failed(error, self.config.retry_timeout, &self.client)
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

    /// Returns the error when trying again does not help, or has gone on for `timeout`.
    pub(super) fn failed(
        &mut self,
        error: Error,
        timeout: Duration,
        client: &Client,
    ) -> Result<(), Error> {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        if !error.retriable() {
            return Err(error);
        }
        if now - since >= timeout {
            return Err(Error::TimedOut { after: timeout, last: Box::new(error) });
        }
        tracing::debug!(%error, "stream lost; trying again");
        self.failures = self.failures.saturating_add(1);
        self.resume_at = Some(now + backoff::pause(self.failures, &*client.config().random));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
