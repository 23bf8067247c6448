//! `Stream.Fetch`: partitions from given offsets on. One stream reads its partitions in turn, so that none starves
//! another, a few at a time, and holds a bounded number of bytes; when nothing is there it waits for whichever gets some
//! first. It is driven by whoever polls its answers: a client that does not read is not read for.

mod format;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use geminga_proto::ids::{Offset, PartitionIndex};
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::{caps, v1};
use tokio::time::Instant;
use tonic::Status;

use super::context::Context;
use crate::ownership::topology::Topic;
use crate::router::{Read, ReadSpec, Route, check_partition, no_owner, not_owner};
use format::{Part, as_batches, as_records};

/// Most bytes of one answer when the caller does not say.
const DEFAULT_MAX_BYTES: usize = 1024 * 1024;
/// A stream that goes on asks again after so long when the caller does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(5);
/// Longest wait of one poll.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Reads that are under way at one time.
const PARALLEL_READS: usize = 4;
/// Partitions that are waited for at one time.
const PARALLEL_WAITS: usize = 64;
/// Answers gathered before they are sent, in bytes as stored.
const GATHER_BYTES: usize = 4 * 1024 * 1024;
/// Between attempts at a partition that cannot be read now.
const RETRY: Duration = Duration::from_millis(100);
/// How long a partition may be out of reach before a stream that goes on gives it up with the error.
const PATIENCE: Duration = Duration::from_secs(60);

/// The answers to one stream.
pub(super) type Answers = BoxStream<'static, Result<v1::FetchResponse, Status>>;

/// Checks a request and begins to serve it.
///
/// # Errors
/// UNKNOWN_TOPIC, UNKNOWN_PARTITION, INVALID_REQUEST. What goes wrong with one partition later is in its data.
pub(super) async fn fetch(
    ctx: Arc<Context>,
    request: v1::FetchRequest,
) -> Result<Answers, ApiError> {
    let stopping = ctx.intake.cancelled().boxed();
    let fetch = Box::new(Fetch::new(ctx, request).await?);
    let answers = futures::stream::unfold((fetch, stopping), |(mut fetch, mut stopping)| async {
        let answer = fetch.next(&mut stopping).await?;
        Some((answer, (fetch, stopping)))
    });
    Ok(answers.boxed())
}

/// One partition of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reader {
    partition: PartitionIndex,
    offset: Offset,
    /// Where the stream ends for it, with `until_end`: its high watermark when it was first read.
    end: Option<Offset>,
    failing: Option<Failing>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Failing {
    since: Instant,
    retry_at: Instant,
}

struct Fetch {
    ctx: Arc<Context>,
    topic: Arc<Topic>,
    /// The next to be read is in front.
    readers: VecDeque<Reader>,
    min_bytes: usize,
    max_bytes: usize,
    max_wait: Duration,
    records: bool,
    direct: bool,
    until_end: bool,
    once: bool,
    ready: VecDeque<v1::FetchResponse>,
    over: bool,
}

type Done = (PartitionIndex, Result<Read, ApiError>);

impl Fetch {
    async fn new(ctx: Arc<Context>, request: v1::FetchRequest) -> Result<Self, ApiError> {
        let invalid = |why: &str| Err(ApiError::new(Reason::InvalidRequest, why));
        let topic = ctx.router.topology().resolve(&request.topic).await?;
        let Ok(format) = v1::Format::try_from(request.format) else {
            return invalid("format must be FORMAT_RECORDS or FORMAT_BATCHES");
        };
        if request.partitions.is_empty() {
            return invalid("no partitions: name at least one");
        }
        let mut seen = HashSet::new();
        let mut readers = VecDeque::with_capacity(request.partitions.len());
        for wanted in &request.partitions {
            let partition = check_partition(&topic, wanted.partition)?;
            if wanted.offset < 0 {
                return invalid("an offset is negative: look offsets up with ListOffsets");
            }
            if !seen.insert(partition) {
                return invalid("a partition is named twice");
            }
            let offset = Offset(wanted.offset);
            readers.push_back(Reader { partition, offset, end: None, failing: None });
        }
        let max_bytes = match request.max_bytes as usize {
            0 => DEFAULT_MAX_BYTES,
            said => said.min(caps::MAX_BATCH_BYTES),
        };
        let max_wait = match request.max_wait_ms {
            0 if !request.once => DEFAULT_WAIT,
            said => Duration::from_millis(u64::from(said)).min(MAX_WAIT),
        };
        Ok(Self {
            ctx,
            topic,
            readers,
            min_bytes: (request.min_bytes as usize).clamp(1, max_bytes),
            max_bytes,
            max_wait,
            records: format == v1::Format::Records,
            direct: request.direct,
            until_end: request.until_end,
            once: request.once,
            ready: VecDeque::new(),
            over: false,
        })
    }

    async fn next(
        &mut self,
        stopping: &mut BoxFuture<'static, ()>,
    ) -> Option<Result<v1::FetchResponse, Status>> {
        loop {
            if let Some(answer) = self.ready.pop_front() {
                return Some(Ok(answer));
            }
            if self.over || self.readers.is_empty() {
                return None;
            }
            tokio::select! {
                biased;
                () = &mut *stopping => {
                    self.over = true;
                    let why = "the broker is shutting down: ask another one";
                    return Some(Err(ApiError::new(Reason::ShuttingDown, why).to_status()));
                }
                () = self.work() => {}
            }
        }
    }

    /// Gathers answers, or waits until there may be some. Cancel-safe.
    async fn work(&mut self) {
        if self.once {
            return self.poll_once().await;
        }
        if self.read_around().await == 0 {
            self.wait().await;
        }
    }

    fn spec(&self, reader: &Reader, max_bytes: usize, max_wait: Duration) -> ReadSpec {
        let min_bytes = self.min_bytes.min(max_bytes);
        ReadSpec { offset: reader.offset, max_bytes, min_bytes, max_wait }
    }

    fn read(&self, reader: &Reader, spec: ReadSpec) -> impl Future<Output = Done> + Send + 'static {
        let (ctx, topic) = (Arc::clone(&self.ctx), Arc::clone(&self.topic));
        let (partition, direct) = (reader.partition, self.direct);
        async move {
            let read = if direct {
                read_here(&ctx, topic, partition, spec).await
            } else {
                ctx.source.read(&topic, partition, spec).await
            };
            (partition, read)
        }
    }

    /// Reads what is there, each partition once at most; returns how many gave something.
    async fn read_around(&mut self) -> usize {
        let now = Instant::now();
        let due = self.readers.iter().filter(|r| r.failing.is_none_or(|f| f.retry_at <= now));
        let reads: Vec<_> = due
            .map(|reader| self.read(reader, self.spec(reader, self.max_bytes, Duration::ZERO)))
            .collect();
        let mut reads = futures::stream::iter(reads).buffered(PARALLEL_READS);
        let (mut gave, mut bytes) = (0, 0);
        while let Some((partition, read)) = reads.next().await {
            bytes += read.as_ref().map_or(0, |r| r.batches.iter().map(|b| b.len()).sum());
            gave += usize::from(self.absorb(partition, read));
            if bytes >= GATHER_BYTES {
                break;
            }
        }
        gave
    }

    /// Waits until some partition gives something, or for as long as was asked for.
    async fn wait(&mut self) {
        let now = Instant::now();
        let retry_at = self.readers.iter().filter_map(|r| r.failing.map(|f| f.retry_at)).min();
        let mut waits: FuturesUnordered<_> = self
            .readers
            .iter()
            .filter(|reader| reader.failing.is_none())
            .take(PARALLEL_WAITS)
            .map(|reader| self.read(reader, self.spec(reader, self.max_bytes, self.max_wait)))
            .collect();
        let retry = async {
            match retry_at {
                Some(at) => tokio::time::sleep_until(at.max(now)).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(retry);
        loop {
            tokio::select! {
                biased;
                Some((partition, read)) = waits.next() => {
                    if self.absorb(partition, read) {
                        return;
                    }
                    if waits.is_empty() && retry_at.is_none() {
                        return;
                    }
                }
                () = &mut retry => return,
            }
        }
    }

    /// One long poll: an answer for all partitions that fit, once enough is there or the time is over.
    async fn poll_once(&mut self) {
        let deadline = Instant::now() + self.max_wait;
        if self.readers.len() > 1 {
            // Nobody remembers where the last poll began.
            let turn = self.ctx.random.below(self.readers.len() as u64);
            self.readers.rotate_left(usize::try_from(turn).unwrap_or(0));
        }
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let alone = self.readers.len() == 1;
            let wait = if alone { left } else { Duration::ZERO };
            let (mut answer, mut bytes, mut failed) = (Vec::new(), 0, false);
            for reader in &self.readers {
                if bytes >= self.max_bytes {
                    break;
                }
                let spec = self.spec(reader, self.max_bytes - bytes, wait);
                let (partition, read) = self.read(reader, spec).await;
                failed |= read.is_err();
                bytes += read.as_ref().map_or(0, |r| r.batches.iter().map(|b| b.len()).sum());
                let part = read.and_then(|read| {
                    let part = self.parts(&read, reader.offset)?.into_iter().next();
                    Ok((read, part))
                });
                answer.push(match part {
                    Ok((read, Some(part))) => self.data(partition, &read, part),
                    Ok((read, None)) => self.data(partition, &read, as_batches(&read)),
                    Err(error) => self.error(partition, reader.offset, &error),
                });
            }
            if alone || failed || bytes >= self.min_bytes || left.is_zero() {
                self.ready.push_back(v1::FetchResponse { partitions: answer });
                self.over = true;
                return;
            }
            self.wait_any(left).await;
        }
    }

    /// Waits until some partition has something to read.
    async fn wait_any(&self, wait: Duration) {
        let mut waits: FuturesUnordered<_> = self
            .readers
            .iter()
            .take(PARALLEL_WAITS)
            .map(|reader| {
                self.read(reader, ReadSpec { max_bytes: 1, ..self.spec(reader, 1, wait) })
            })
            .collect();
        while let Some((_, read)) = waits.next().await {
            if read.is_err() || read.is_ok_and(|r| !r.batches.is_empty()) {
                return;
            }
        }
    }

    /// Takes what one partition gave, and puts it at the end of the line. Returns whether there is something to say.
    fn absorb(&mut self, partition: PartitionIndex, read: Result<Read, ApiError>) -> bool {
        let Some(at) = self.readers.iter().position(|r| r.partition == partition) else {
            return false;
        };
        let Some(mut reader) = self.readers.remove(at) else { return false };
        let parts = read.and_then(|read| Ok((self.parts(&read, reader.offset)?, read)));
        let (parts, read) = match parts {
            Ok(good) => good,
            Err(error) => return self.failed(reader, &error),
        };
        reader.failing = None;
        let end = *reader.end.get_or_insert(read.high_watermark);
        let ends = self.until_end && read.next_offset >= end;
        let empty = read.batches.is_empty();
        reader.offset = read.next_offset;
        if !empty || ends {
            for part in parts {
                let data = self.data(partition, &read, part);
                self.ready.push_back(v1::FetchResponse { partitions: vec![data] });
            }
        }
        if !ends {
            self.readers.push_back(reader);
        }
        !empty || ends
    }

    /// A partition cannot be read: tried again for a while, unless the caller looks for owners by itself.
    fn failed(&mut self, mut reader: Reader, error: &ApiError) -> bool {
        let now = Instant::now();
        let since = reader.failing.map_or(now, |failing| failing.since);
        if error.reason.retriable() && !self.direct && now.duration_since(since) < PATIENCE {
            reader.failing = Some(Failing { since, retry_at: now + RETRY });
            self.readers.push_back(reader);
            return false;
        }
        let data = self.error(reader.partition, reader.offset, error);
        self.ready.push_back(v1::FetchResponse { partitions: vec![data] });
        true
    }

    fn parts(&self, read: &Read, from: Offset) -> Result<Vec<Part>, ApiError> {
        if self.records {
            as_records(read, from, self.max_bytes)
        } else {
            Ok(vec![as_batches(read)])
        }
    }

    fn data(&self, partition: PartitionIndex, read: &Read, part: Part) -> v1::PartitionData {
        v1::PartitionData {
            topic: self.topic.name.clone(),
            partition: partition.0,
            data: part.data,
            next_offset: part.next_offset.0,
            high_watermark: read.high_watermark.0,
            log_start_offset: read.log_start.0,
            error: None,
        }
    }

    fn error(&self, partition: PartitionIndex, at: Offset, error: &ApiError) -> v1::PartitionData {
        v1::PartitionData {
            topic: self.topic.name.clone(),
            partition: partition.0,
            data: None,
            next_offset: at.0,
            high_watermark: -1,
            log_start_offset: -1,
            error: Some(error.to_proto()),
        }
    }
}

/// A caller that asks directly is not helped on: a second hop is refused.
async fn read_here(
    ctx: &Context,
    topic: Arc<Topic>,
    partition: PartitionIndex,
    spec: ReadSpec,
) -> Result<Read, ApiError> {
    match ctx.router.owner_of(&topic, partition) {
        Route::Local { .. } => ctx.partitions.read(topic, partition, spec).await,
        Route::Remote { address, .. } => Err(not_owner(&topic.name, partition, address)),
        Route::NoOwner => Err(no_owner(&topic.name, partition)),
    }
}
