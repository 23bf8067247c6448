//! `Stream.Fetch`: partitions from given offsets on. Each partition of a stream has one long poll under way and gets its next
//! turn when all others had theirs, so that none starves another; the polls together hold a bounded number of bytes, of the
//! [room](super::outgoing) that all streams share. A stream is a task: what is read for it arrives however slowly its client reads.

mod answers;
mod once;
mod polls;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use geminga_proto::ids::{Offset, PartitionIndex};
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::{caps, v1};
use geminga_runtime::requests::{self, RequestId};
use tokio::time::Instant;

use self::answers::bytes_of;
use super::chunks::{Chunks, Cut};
use super::context::Context;
use super::outgoing::{self, Charged, Client, Giver, LOOK, Taker};
use super::way::Lease;
use crate::ownership::topology::Topic;
use crate::quotas::{Account, Kind, millis};
use crate::router::check_partition;

/// Most bytes of one answer when the caller does not say.
const DEFAULT_MAX_BYTES: usize = 1024 * 1024;
/// A stream that goes on asks again after so long when the caller does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(5);
/// Longest wait of one poll.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Between attempts at a partition that cannot be read now.
const RETRY: Duration = Duration::from_millis(100);
/// How long a partition may be out of reach before a stream that goes on gives it up with the error.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a client may take to hear that the broker stops.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Checks a request and begins to serve it; gives the answers to it.
///
/// # Errors
/// UNKNOWN_TOPIC, UNKNOWN_PARTITION, INVALID_REQUEST. What goes wrong with one partition later is in its data.
pub(super) async fn fetch(
    ctx: Arc<Context>,
    request: v1::FetchRequest,
    client: Client,
) -> Result<Taker, ApiError> {
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
    /// Room that its next batch needs to be taken apart, where that is more than was free.
    needs: usize,
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
type Ready = (v1::FetchResponse, Option<Lease>);

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
            readers.push_back(Reader { partition, offset, end: None, failing: None, needs: 0 });
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
            if let Some(sending) = &self.sending {
                // Meanwhile it may be let go.
                if sending.chunks.is_waiting() {
                    self.meanwhile(to.until_written()).await;
                } else if !self.meanwhile(to.is_taking()).await {
                    return None;
                } else {
                    self.send_on();
                }
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

    /// Takes what one partition gave. Batches go as they are; records are sent piece by piece.
    fn absorb(&mut self, mut reader: Reader, read: Result<Charged, Refused>) {
        let found = match read {
            Ok(found) => found,
            Err(refused) => return self.failed(reader, &refused),
        };
        (reader.failing, reader.needs) = (None, 0);
        let end = *reader.end.get_or_insert(found.read.high_watermark);
        if self.records {
            let ends = self.until_end && found.read.next_offset >= end;
            let chunks = Chunks::new(found, reader.offset.0, v1::Format::Records);
            self.sending = Some(Sending { reader, chunks, ends, begun: false });
            return;
        }
        let (data, _, room) = match self.batches(reader.partition, found) {
            Ok(batches) => batches,
            Err(error) => {
                let error = self.unreadable(&reader, &error);
                return self.failed(reader, &error.into());
            }
        };
        reader.offset = Offset(data.next_offset);
        let ends = self.until_end && reader.offset >= end;
        if data.data.is_some() || ends {
            self.push(data, room.map(Lease::new));
        }
        if !ends {
            self.readers.push_back(reader);
        }
    }

    /// Makes the next answer of what is being sent, for a client that takes it now. A partition that was sent goes to the end of the
    /// line; one that there is no room for is read again first.
    fn send_on(&mut self) {
        let Some(Sending { mut reader, mut chunks, ends, begun }) = self.sending.take() else {
            return;
        };
        match chunks.next(self.max_bytes) {
            Ok(Cut::Piece(chunk)) => {
                reader.offset = Offset(chunk.next_offset);
                let room = chunk.room.clone();
                let data = self.chunk(reader.partition, &chunks, chunk);
                self.push(data, room);
                if !chunks.is_empty() {
                    self.sending = Some(Sending { reader, chunks, ends, begun: true });
                } else if !ends {
                    self.readers.push_back(reader);
                }
            }
            // Whoever waits for the end learns that it is there.
            Ok(Cut::Nothing) if ends => {
                if !begun || reader.offset.0 < chunks.end() {
                    let data = self.nothing(reader.partition, &chunks);
                    self.push(data, None);
                }
            }
            Ok(Cut::Nothing) => {
                reader.offset = Offset(reader.offset.0.max(chunks.end()));
                self.readers.push_back(reader);
            }
            Ok(Cut::Short(needs)) => {
                reader.needs = needs;
                self.readers.push_front(reader);
            }
            Err(error) => {
                let error = self.unreadable(&reader, &error);
                self.failed(reader, &error.into());
            }
        }
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
}
