//! `Stream.Fetch`: partitions from given offsets on. Each partition of a stream has one long poll under way and gets its next
//! turn when all others had theirs, so that none starves another; the polls together hold a bounded number of bytes, of the
//! [room](super::outgoing) that all streams share. A stream is a task: what is read for it arrives however slowly its client reads.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use geminga_proto::ids::{Offset, PartitionIndex};
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::{caps, v1};
use geminga_records::BatchError;
use geminga_runtime::requests::{self, RequestId};
use prost::Message as _;
use tokio::time::Instant;

use super::chunks::{Chunk, Chunks};
use super::context::Context;
use super::outgoing::{self, Charged, Client, Giver, LOOK, Taker, Waits};
use crate::ownership::topology::Topic;
use crate::quotas::{Account, Kind, millis};
use crate::room::Held;
use crate::router::{OffsetAt, Read, ReadSpec, Route, check_partition, no_owner, not_owner};

/// Most bytes of one answer when the caller does not say.
const DEFAULT_MAX_BYTES: usize = 1024 * 1024;
/// A stream that goes on asks again after so long when the caller does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(5);
/// Longest wait of one poll.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Partitions that are polled at one time.
const PARALLEL_POLLS: usize = 64;
/// Most bytes that the polls of one stream hold together; each may hold one batch more.
const POLLED_BYTES: usize = 16 * 1024 * 1024;
/// A poll asks for at least so much.
const MIN_POLL_BYTES: usize = 64 * 1024;
/// How long the ends of a partition may take that was asked for what is not there.
const ENDS_WAIT: Duration = Duration::from_secs(2);
/// Between attempts at a partition that cannot be read now.
const RETRY: Duration = Duration::from_millis(100);
/// How long a partition may be out of reach before a stream that goes on gives it up with the error.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long after its time one poll may wait for room for what is there.
const ROOM_WAIT: Duration = Duration::from_secs(1);
/// How long a client may take to hear that the broker stops.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The answers to one stream.
pub(super) type Answers = Taker<v1::FetchResponse>;

/// Checks a request and begins to serve it.
///
/// # Errors
/// UNKNOWN_TOPIC, UNKNOWN_PARTITION, INVALID_REQUEST. What goes wrong with one partition later is in its data.
pub(super) async fn fetch(
    ctx: Arc<Context>,
    request: v1::FetchRequest,
    client: Client,
) -> Result<Answers, ApiError> {
    let tasks = ctx.intake.clone();
    let (stopping, still) = (tasks.cancelled(), tasks.cancelled());
    let fetch = Box::new(Fetch::new(ctx, request, client.clone()).await?);
    let (giver, mut watch, answers) = outgoing::channel(1, client);
    let id = requests::current();
    tasks.spawn("fetch", async move {
        let stopped = tokio::select! {
            biased;
            () = stopping => true,
            () = watch.until_gone() => false,
            () = serve(fetch, &giver, id) => false,
        };
        if stopped {
            let why = "the broker is shutting down: ask another one";
            let why = ApiError::new(Reason::ShuttingDown, why).to_status();
            let _last = tokio::time::timeout(LAST_WORDS, giver.end(why)).await;
        }
        drop(giver);
        tokio::select! {
            () = still => {}
            () = watch.until_written() => {}
        }
    });
    Ok(answers)
}

/// Gives all answers.
async fn serve(mut fetch: Box<Fetch>, to: &Giver<v1::FetchResponse>, id: Option<RequestId>) {
    let told = fetch.ctx.requests.are_told();
    let mut answered = 0;
    loop {
        // It lasts for as long as its client wants, and is not traced as one.
        answered += 1;
        let id = id.as_ref().map(|id| if told { id.part(answered) } else { id.clone() });
        if requests::scope(id, fetch.give_next(to)).await.is_none() {
            return;
        }
    }
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

/// What one partition gave, as far as it is not sent.
struct Sending {
    reader: Reader,
    chunks: Chunks,
    /// What is not sent of it takes this.
    room: Option<Held>,
    /// The stream ends for the partition with this.
    ends: bool,
    /// Some of it was sent.
    begun: bool,
}

/// Why a partition could not be read.
#[derive(Debug)]
struct Refused {
    error: ApiError,
    /// Where it starts and ends, for one that was asked for what is not there.
    ends: Option<(Offset, Offset)>,
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self { error, ends: None }
    }
}

type Polled = (Reader, Result<Charged, Refused>);

/// An answer, and the room that it takes.
type Ready = (v1::FetchResponse, Option<Held>);

struct Fetch {
    ctx: Arc<Context>,
    taker: Client,
    topic: Arc<Topic>,
    /// Those that are not polled now; the next to be polled is in front.
    readers: VecDeque<Reader>,
    polls: FuturesUnordered<BoxFuture<'static, Polled>>,
    /// What they gave while something else was waited for.
    polled: VecDeque<Polled>,
    min_bytes: usize,
    max_bytes: usize,
    max_wait: Duration,
    /// What is being sent of one partition. Nothing else is read meanwhile.
    sending: Option<Sending>,
    records: bool,
    direct: bool,
    until_end: bool,
    once: bool,
    ready: VecDeque<Ready>,
    over: bool,
    client: Account,
}

impl Fetch {
    async fn new(
        ctx: Arc<Context>,
        request: v1::FetchRequest,
        taker: Client,
    ) -> Result<Self, ApiError> {
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
        let client = ctx.quotas.account(&request.client_id, request.forwarded);
        client.charge(Kind::Request, 1);
        Ok(Self {
            ctx,
            taker,
            topic,
            readers,
            polls: FuturesUnordered::new(),
            polled: VecDeque::new(),
            sending: None,
            min_bytes: (request.min_bytes as usize).clamp(1, max_bytes),
            max_bytes,
            max_wait,
            records: format == v1::Format::Records,
            direct: request.direct,
            until_end: request.until_end,
            once: request.once,
            ready: VecDeque::new(),
            over: false,
            client,
        })
    }

    /// Gives one answer; `None` when there is none any more, or nobody to take it.
    async fn give_next(&mut self, to: &Giver<v1::FetchResponse>) -> Option<()> {
        if self.is_over() {
            return None;
        }
        let client = self.client.clone();
        let held_back = self.meanwhile(client.paid([Kind::Consume, Kind::Request])).await;
        while self.ready.is_empty() {
            if self.send_on() {
                continue;
            }
            if self.is_over() {
                return None;
            }
            match self.polled.pop_front() {
                Some((reader, read)) => self.absorb(reader, read),
                None => self.work().await,
            }
        }
        if !self.meanwhile(to.is_taking()).await {
            return None;
        }
        let (mut answer, room) = self.ready.pop_front()?;
        self.client.charge(Kind::Consume, bytes_of(&answer));
        answer.throttle_ms = millis(held_back);
        to.give(answer, room);
        Some(())
    }

    /// Whether there is nothing more to give.
    fn is_over(&self) -> bool {
        let reads = !self.readers.is_empty() || self.polls_out() > 0;
        self.ready.is_empty() && self.sending.is_none() && (self.over || !reads)
    }

    /// Waits for something else while polls go on. What they gave is let go when others want its room for a while.
    async fn meanwhile<T>(&mut self, wait: impl Future<Output = T>) -> T {
        let look = tokio::time::sleep(LOOK);
        tokio::pin!(wait, look);
        loop {
            tokio::select! {
                biased;
                done = &mut wait => return done,
                () = &mut look => {
                    look.as_mut().reset(Instant::now() + LOOK);
                    if self.taker.is_room_wanted() {
                        self.let_go();
                    }
                }
                Some(polled) = self.polls.next() => self.polled.push_back(polled),
            }
        }
    }

    /// Forgets what was read and not given: it is read again, from where it was given to.
    fn let_go(&mut self) {
        if let Some(sending) = self.sending.take() {
            self.readers.push_front(sending.reader);
        }
        for (reader, read) in std::mem::take(&mut self.polled) {
            match read {
                Ok(_) => self.readers.push_back(reader),
                Err(refused) => self.polled.push_back((reader, Err(refused))),
            }
        }
    }

    /// Polls whose answers were not taken in.
    fn polls_out(&self) -> usize {
        self.polls.len() + self.polled.len()
    }

    /// Gathers answers, or waits until there may be some. Cancel-safe.
    async fn work(&mut self) {
        if self.once {
            return self.poll_once().await;
        }
        let retry_at = self.top_up(Instant::now());
        let retry = async {
            match retry_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some((reader, read)) = self.polls.next() => self.absorb(reader, read),
            () = retry => {}
        }
    }

    /// Polls as many partitions as may be polled now; returns when one that waits to be tried again is due.
    fn top_up(&mut self, now: Instant) -> Option<Instant> {
        let all = self.readers.len() + self.polls_out();
        let most = self.taker.most_bytes(POLLED_BYTES);
        let parallel = (most / MIN_POLL_BYTES).clamp(1, PARALLEL_POLLS);
        // Where not all can be polled at once, those that are idle must make room soon.
        let wait = self.max_wait / u32::try_from(all.div_ceil(parallel)).unwrap_or(u32::MAX);
        let share = most / all.clamp(1, parallel);
        let max_bytes = share.max(MIN_POLL_BYTES).min(self.max_bytes);
        let mut retry_at: Option<Instant> = None;
        for _ in 0..self.readers.len() {
            let Some(reader) = self.readers.pop_front() else { break };
            let due = reader.failing.map(|failing| failing.retry_at).filter(|at| *at > now);
            if due.is_some() || self.polls_out() >= parallel {
                retry_at = due.into_iter().chain(retry_at).min();
                self.readers.push_back(reader);
                continue;
            }
            // The first read says where the stream ends, so it does not wait.
            let at_once = self.until_end && reader.end.is_none();
            let wait = if at_once { Duration::ZERO } else { wait };
            let read = self.read(&reader, self.spec(&reader, max_bytes, wait));
            self.polls.push(read.map(move |read| (reader, read)).boxed());
        }
        retry_at
    }

    fn spec(&self, reader: &Reader, max_bytes: usize, max_wait: Duration) -> ReadSpec {
        let min_bytes = self.min_bytes.min(max_bytes);
        ReadSpec { offset: reader.offset, max_bytes, min_bytes, max_wait }
    }

    /// Reads, once there is room for what is there.
    fn read(
        &self,
        reader: &Reader,
        spec: ReadSpec,
    ) -> impl Future<Output = Result<Charged, Refused>> + Send + 'static {
        let read = self.read_if(Waits::Always, reader, spec);
        async move { Ok(read.await?.expect("room was waited for")) }
    }

    /// The same; nothing where there is no room and none may be waited for any more.
    fn read_if(
        &self,
        waits: Waits,
        reader: &Reader,
        spec: ReadSpec,
    ) -> impl Future<Output = Result<Option<Charged>, Refused>> + Send + use<> {
        let (ctx, topic) = (Arc::clone(&self.ctx), Arc::clone(&self.topic));
        let (partition, direct) = (reader.partition, self.direct);
        let taker = self.taker.clone();
        async move {
            let one = |spec| {
                let (ctx, topic) = (Arc::clone(&ctx), Arc::clone(&topic));
                async move {
                    if direct {
                        read_here(&ctx, topic, partition, spec).await
                    } else {
                        ctx.source.read(&topic, partition, spec).await
                    }
                }
            };
            match taker.read(spec, waits, one).await {
                Ok(read) => Ok(read),
                Err(error) if error.reason == Reason::OffsetOutOfRange => {
                    let ends = ends_of(&ctx, &topic, partition).await;
                    Err(Refused { error, ends })
                }
                Err(error) => Err(error.into()),
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
            let (mut answer, mut bytes, mut over) = (Vec::new(), 0, alone || left.is_zero());
            let mut held: Option<Held> = None;
            for at in 0..self.readers.len() {
                if bytes >= self.max_bytes {
                    break;
                }
                let reader = self.readers[at].clone();
                let most = self.max_bytes - bytes;
                let waits = match held.as_ref().is_some_and(|held| held.bytes() > 0) {
                    true => Waits::Not,
                    false => Waits::Until(deadline + ROOM_WAIT),
                };
                let part = match self.read_if(waits, &reader, self.spec(&reader, most, wait)).await
                {
                    Ok(Some(Charged { read, room })) => {
                        held = Held::both(held, room);
                        self.first_part(&reader, read, most).map_err(Refused::from)
                    }
                    // The rest is for the next poll.
                    Ok(None) if bytes > 0 => {
                        over = true;
                        break;
                    }
                    Ok(None) => Err(no_room().into()),
                    Err(refused) => Err(refused),
                };
                let (part, more) = part.unwrap_or_else(|refused| {
                    over = true;
                    (self.error(reader.partition, reader.offset, &refused), 0)
                });
                bytes += more;
                answer.push(part);
            }
            if over || bytes >= self.min_bytes {
                let answer = v1::FetchResponse { partitions: answer, throttle_ms: 0 };
                self.ready.push_back((answer, held));
                self.over = true;
                return;
            }
            drop(held);
            // Until there is more than that, of any.
            let found = answer.iter().map(|part| Offset(part.next_offset));
            let polls =
                self.readers.iter().zip(found).take(PARALLEL_POLLS).map(|(reader, offset)| {
                    let reader = Reader { offset, ..reader.clone() };
                    self.read_if(Waits::Not, &reader, self.spec(&reader, 1, left))
                });
            wait_any(polls.collect()).await;
        }
    }

    /// What one answer takes of a read, and how much that is.
    fn first_part(
        &self,
        reader: &Reader,
        read: Read,
        room: usize,
    ) -> Result<(v1::PartitionData, usize), ApiError> {
        if !self.records {
            let bytes = read.batches.iter().map(Bytes::len).sum();
            return Ok((self.batches(reader.partition, &read), bytes));
        }
        let mut chunks = Chunks::new(read, reader.offset.0, v1::Format::Records);
        let next = chunks.next(room).map_err(|error| self.damaged(reader, &error))?;
        Ok(match next {
            Some(chunk) => {
                let bytes = chunk.bytes;
                (self.chunk(reader.partition, &chunks, chunk), bytes)
            }
            None => (self.nothing(reader.partition, &chunks), 0),
        })
    }

    /// Takes what one partition gave. Batches go as they are; records are sent piece by piece.
    fn absorb(&mut self, mut reader: Reader, read: Result<Charged, Refused>) {
        let Charged { read, room } = match read {
            Ok(read) => read,
            Err(refused) => return self.failed(reader, &refused),
        };
        reader.failing = None;
        let end = *reader.end.get_or_insert(read.high_watermark);
        let ends = self.until_end && read.next_offset >= end;
        if self.records {
            let chunks = Chunks::new(read, reader.offset.0, v1::Format::Records);
            self.sending = Some(Sending { reader, chunks, room, ends, begun: false });
            return;
        }
        reader.offset = read.next_offset;
        if !read.batches.is_empty() || ends {
            let data = self.batches(reader.partition, &read);
            self.push(data, room);
        }
        if !ends {
            self.readers.push_back(reader);
        }
    }

    /// Makes the next answer of what is being sent; false when there is nothing. A partition that was sent goes to the end
    /// of the line.
    fn send_on(&mut self) -> bool {
        let Some(Sending { mut reader, mut chunks, mut room, ends, begun }) = self.sending.take()
        else {
            return false;
        };
        match chunks.next(self.max_bytes) {
            Ok(Some(chunk)) => {
                reader.offset = Offset(chunk.next_offset);
                let part = Held::part(&mut room, chunk.bytes, chunks.is_empty());
                let data = self.chunk(reader.partition, &chunks, chunk);
                self.push(data, part);
                if !chunks.is_empty() {
                    self.sending = Some(Sending { reader, chunks, room, ends, begun: true });
                } else if !ends {
                    self.readers.push_back(reader);
                }
            }
            // Whoever waits for the end learns that it is there.
            Ok(None) if ends => {
                if !begun || reader.offset.0 < chunks.end() {
                    let data = self.nothing(reader.partition, &chunks);
                    self.push(data, None);
                }
            }
            Ok(None) => {
                reader.offset = Offset(reader.offset.0.max(chunks.end()));
                self.readers.push_back(reader);
            }
            Err(error) => {
                let error = self.damaged(&reader, &error);
                self.failed(reader, &error.into());
            }
        }
        true
    }

    /// A partition cannot be read: tried again for a while, unless the caller looks for owners by itself.
    fn failed(&mut self, mut reader: Reader, refused: &Refused) {
        let (now, error) = (Instant::now(), &refused.error);
        let since = reader.failing.map_or(now, |failing| failing.since);
        if error.reason.retriable() && !self.direct && now.duration_since(since) < PATIENCE {
            reader.failing = Some(Failing { since, retry_at: now + RETRY });
            return self.readers.push_back(reader);
        }
        let data = self.error(reader.partition, reader.offset, refused);
        self.push(data, None);
    }

    /// An answer of one partition.
    fn push(&mut self, data: v1::PartitionData, room: Option<Held>) {
        let answer = v1::FetchResponse { partitions: vec![data], throttle_ms: 0 };
        self.ready.push_back((answer, room));
    }

    fn damaged(&self, reader: &Reader, error: &BatchError) -> ApiError {
        let why = format!(
            "partition {} of {} cannot be taken apart at offset {} ({error}): go on after that batch, or ask for batches",
            reader.partition, self.topic.name, reader.offset
        );
        ApiError::new(Reason::DataLoss, why)
    }

    fn batches(&self, partition: PartitionIndex, read: &Read) -> v1::PartitionData {
        let data = end_to_end(&read.batches).map(v1::partition_data::Data::Batches);
        let next_offset = read.next_offset.0;
        self.data(partition, data, next_offset, read.high_watermark.0, read.log_start.0)
    }

    fn chunk(&self, partition: PartitionIndex, from: &Chunks, chunk: Chunk) -> v1::PartitionData {
        let Chunk { data, next_offset, .. } = chunk;
        self.data(partition, Some(data), next_offset, from.high_watermark, from.log_start)
    }

    fn nothing(&self, partition: PartitionIndex, from: &Chunks) -> v1::PartitionData {
        self.data(partition, None, from.end(), from.high_watermark, from.log_start)
    }

    fn data(
        &self,
        partition: PartitionIndex,
        data: Option<v1::partition_data::Data>,
        next_offset: i64,
        high_watermark: i64,
        log_start_offset: i64,
    ) -> v1::PartitionData {
        v1::PartitionData {
            topic: self.topic.name.clone(),
            partition: partition.0,
            data,
            next_offset,
            high_watermark,
            log_start_offset,
            error: None,
        }
    }

    fn error(&self, partition: PartitionIndex, at: Offset, refused: &Refused) -> v1::PartitionData {
        let (log_start, high_watermark) = refused.ends.unwrap_or((Offset(-1), Offset(-1)));
        v1::PartitionData {
            topic: self.topic.name.clone(),
            partition: partition.0,
            data: None,
            next_offset: at.0,
            high_watermark: high_watermark.0,
            log_start_offset: log_start.0,
            error: Some(refused.error.to_proto()),
        }
    }
}

/// What an answer counts towards quotas.
fn bytes_of(answer: &v1::FetchResponse) -> u64 {
    let bytes = answer.partitions.iter().map(|partition| match &partition.data {
        Some(v1::partition_data::Data::Batches(batches)) => batches.len(),
        Some(v1::partition_data::Data::Records(records)) => records.encoded_len(),
        None => 0,
    });
    bytes.sum::<usize>() as u64
}

/// Batches as stored, laid end to end; copied only when there are several.
fn end_to_end(batches: &[Bytes]) -> Option<Bytes> {
    match batches {
        [] => None,
        [one] => Some(one.clone()),
        several => {
            let mut bytes = BytesMut::with_capacity(several.iter().map(Bytes::len).sum());
            several.iter().for_each(|batch| bytes.extend_from_slice(batch));
            Some(bytes.freeze())
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

/// Where a partition starts and ends; `None` when that cannot be found out now.
async fn ends_of(
    ctx: &Context,
    topic: &Arc<Topic>,
    partition: PartitionIndex,
) -> Option<(Offset, Offset)> {
    let find = |at| ctx.source.find_offset(topic, partition, at);
    let both = async { tokio::try_join!(find(OffsetAt::Earliest), find(OffsetAt::Latest)).ok() };
    let (first, last) = tokio::time::timeout(ENDS_WAIT, both).await.ok().flatten()?;
    first.offset.zip(last.offset)
}

fn no_room() -> ApiError {
    let why = "the memory for answers is full: try again, and see geminga_memory_used_bytes of the broker";
    ApiError::new(Reason::NotReady, why)
}

/// Waits until some partition has something to read, or none will in time.
async fn wait_any<F>(mut polls: FuturesUnordered<F>)
where
    F: Future<Output = Result<Option<Charged>, Refused>>,
{
    while let Some(read) = polls.next().await {
        // Where there is no room for it, something is there, too.
        let is_nothing = matches!(&read, Ok(Some(found)) if found.read.batches.is_empty());
        if !is_nothing {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_laid_end_to_end() {
        assert_eq!(end_to_end(&[]), None);
        let (a, b) = (Bytes::from_static(b"first"), Bytes::from_static(b"second"));
        assert_eq!(end_to_end(std::slice::from_ref(&a)), Some(a.clone()));
        assert_eq!(end_to_end(&[a, b]), Some(Bytes::from_static(b"firstsecond")));
    }
}
