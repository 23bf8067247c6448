//! One connection: it takes requests one after the other and writes answers in their order, as Kafka promises.
//!
//! ```text
//!   socket ─► intake: head ─► wait ─► frame ─► serve ─(bounded)─► answers, in order ─► socket
//!                                                 └───(bounded)─► batches under way ─┘
//! ```
//!
//! * A request is served when the one before it has its place: records that were handed to their partitions need not be durable
//!   before the next request begins. Whatever else is asked is answered first.
//! * While a request is served the socket is read ahead, as far as what follows is small ([`super::frame`]).
//! * Whatever makes a client wait does so before its next frame is taken, with no room in its hands: what it owes, answers that it does
//!   not read, and requests that wait for something to happen. A frame that is taken is served at once.
//! * However a client leaves, what it sent before is served and answered, at the pace that its quotas allow, but for what would
//!   wait: a long poll, a join. A broker that stops takes no further frame.
//! * A connection is over when its answers are: when all are written, or the client does not read them. But the room of batches is
//!   given back when these are written or lost, no later and no earlier, whether anybody hears of it or not.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::IoSlice;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::future::{BoxFuture, Shared, pending};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use geminga_runtime::requests;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use super::api::{self, Api};
use super::call::{Answer, Call, Hangup, LONGEST_WAIT, Peer, Reply, WAIT_OF_REQUESTS};
use super::codec::Header;
use super::frame::{Frame, Frames, Head};
use super::journey::Journey;
use super::lanes::Key;
use super::pace::Pace;
use super::strangers::Stranger;
use super::{Kafka, metrics};
use crate::quotas::Kind;
use crate::room::Held;
use crate::rpc::produce::Taken;

/// Answers that are not written yet, and requests whose batches are not.
const IN_FLIGHT: usize = 1024;
/// With more bytes of answers unwritten nothing is taken.
const MAX_UNWRITTEN: usize = 1024 * 1024;
/// Answers that are there are written together up to so many bytes.
const GATHER_BYTES: usize = 256 * 1024;
/// Most pieces of one write.
const GATHER_PIECES: usize = 64;
/// How long a client may take to read [`STEP_BYTES`], or the rest.
const READ_PATIENCE: Duration = Duration::from_mins(2);
/// And how long if it holds room that others wait for.
const SHORT_PATIENCE: Duration = Duration::from_secs(5);
const STEP_BYTES: usize = 64 * 1024;

/// An answer that is due, or that there is none any more.
enum Due {
    Answer { journey: Box<Journey>, answer: Waiting },
    End(Hangup),
}

enum Waiting {
    Ready(Reply),
    Later(oneshot::Receiver<Result<Reply, Hangup>>),
}

/// What is done in the background of a connection, to its end.
type Work = BoxFuture<'static, ()>;

/// Serves a client until it goes, or must be sent away, or `stop` says that no more requests are to be read. It is a stranger until the
/// head of its first request is there.
///
/// # Errors
/// Why the client was sent away.
pub(super) async fn serve<R, W>(
    kafka: Kafka,
    (peer, stranger): (Arc<Peer>, Option<Stranger>),
    (reader, writer): (R, W),
    stop: impl Future<Output = ()> + Send,
) -> Result<(), Hangup>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin,
{
    let (to, due) = mpsc::channel(IN_FLIGHT);
    let (behind, work) = mpsc::channel(1);
    let pace = Pace::default();
    let out = Outgoing::new(writer, Arc::clone(&peer), pace.clone());
    let frames = Frames::new(reader, pace.clone());
    let client = Mutex::new(Arc::from(""));
    let stranger = Mutex::new(stranger);
    let intake = Intake { kafka, peer, stranger, pace, to, behind, client, stop: stop.shared() };
    let answering = async {
        let taking = async {
            intake.run(frames).await;
            pending::<Infallible>().await
        };
        tokio::select! {
            biased;
            end = write(due, out) => end,
            never = taking => match never {},
        }
    };
    let (end, ()) = futures::join!(answering, finish(work));
    end
}

/// Takes requests and serves them.
struct Intake<S: Future<Output = ()>> {
    kafka: Kafka,
    peer: Arc<Peer>,
    stranger: Mutex<Option<Stranger>>,
    pace: Pace,
    to: mpsc::Sender<Due>,
    behind: mpsc::Sender<Work>,
    /// What the client called itself last.
    client: Mutex<Arc<str>>,
    stop: Shared<S>,
}

impl<S: Future<Output = ()> + Send> Intake<S> {
    /// Until there is no further request. The end travels behind the answers, so that what came before it is answered.
    async fn run<R: AsyncRead + Send + Unpin>(self, mut frames: Frames<R>) {
        loop {
            let next = tokio::select! {
                biased;
                () = self.stop.clone() => return,
                    next = self.next(&mut frames) => next,
            };
            let due = match next {
                Ok(Some((head, frame))) => self.serve_one(&mut frames, head, frame).await,
                Ok(None) => return,
                Err(hangup) => Err(hangup),
            };
            let (due, last) = match due {
                Ok(Some(due)) => (due, false),
                Ok(None) => {
                    self.pace.answered();
                    continue;
                }
                Err(hangup) => (Due::End(hangup), true),
            };
            if self.to.send(due).await.is_err() || last {
                return;
            }
        }
    }

    /// The next frame, when it is its turn.
    async fn next<R: AsyncRead + Send + Unpin>(
        &self,
        frames: &mut Frames<R>,
    ) -> Result<Option<(Head, Frame)>, Hangup> {
        let Some(head) = frames.head().await? else { return Ok(None) };
        if api::find(head.key).is_some() {
            drop(self.stranger.lock().take());
        }
        self.pay(&head).await;
        self.pace.caught_up(MAX_UNWRITTEN).await;
        // Records go nowhere from here but to the partitions of this broker.
        let room = match head.is_produce() {
            true => self.kafka.ctx.produce_room.part(true),
            false => &self.kafka.plain_room,
        };
        let Some(frame) = frames.take(&head, room).await? else { return Ok(None) };
        self.pace.asked();
        Ok(Some((head, frame)))
    }

    /// A client that went beyond its quotas was answered, and told, and waits before it is served again.
    async fn pay(&self, head: &Head) {
        let kind = api::find(head.key).map_or(Kind::Request, Api::quota);
        let most = if kind == Kind::Request { WAIT_OF_REQUESTS } else { LONGEST_WAIT };
        let account = self.kafka.ctx.quotas.account(&head.client_id, false);
        account.paid_within([(Kind::Request, WAIT_OF_REQUESTS), (kind, most)]).await;
    }

    /// `None`: there is no answer.
    async fn serve_one<R: AsyncRead + Send + Unpin>(
        &self,
        frames: &mut Frames<R>,
        head: Head,
        frame: Frame,
    ) -> Result<Option<Due>, Hangup> {
        let Frame { mut bytes, room } = frame;
        let frame_bytes = bytes.len();
        let mut header = Header::fixed(&mut bytes)?;
        let api = api::find(header.key).ok_or(Hangup::Unsupported)?;
        api.read_header(&mut header, &mut bytes)?;
        let (kafka, peer) = (self.kafka.clone(), Arc::clone(&self.peer));
        let owed = kafka.ctx.quotas.charge(Kind::Request, &head.client_id, 1);
        let client = self.client(&head.client_id);
        let requests = &self.kafka.ctx.requests;
        let (what, who) = ((api.name(), api.is_patient()), (Arc::clone(&peer), client));
        let mut journey = Box::new(Journey::begin(requests, what, who, frame_bytes));
        let mut call = Call::new(kafka, peer, header, (head.begins, owed));
        call.notes = Arc::clone(&journey.notes);
        // To nobody else does it say anything.
        let id = requests.are_told().then(|| journey.id.clone());
        let serving = requests::scope(id, api.serve(call, bytes));
        let serving = serving.instrument(journey.span.clone());
        let (answer, room) = if api.keeps_room() {
            (Some(frames.beside(serving).await?), room)
        } else {
            (self.answer(frames, api, serving, room).await?, Taken::default())
        };
        // A long poll says itself for how long it waited.
        journey.placed(api.waits_for_others());
        let answer = match answer {
            Some(Answer::Ready(reply)) => {
                self.pace.queued(reply.bytes());
                Waiting::Ready(reply)
            }
            Some(Answer::Later(reply)) => {
                journey.stores();
                Waiting::Later(self.later(reply, room).await)
            }
            Some(Answer::Quiet { settled, end }) => {
                metrics::observe_request(api.name(), journey.since.elapsed());
                journey.end(0, Instant::now());
                self.finish(settled.map(|()| drop(room)).boxed()).await;
                return end.map_or(Ok(None), Err);
            }
            None => return Ok(None),
        };
        Ok(Some(Due::Answer { journey, answer }))
    }

    /// What the client calls itself, which hardly ever changes within a connection.
    fn client(&self, id: &str) -> Arc<str> {
        let mut last = self.client.lock();
        if **last != *id {
            *last = id.into();
        }
        Arc::clone(&last)
    }

    /// An answer is made as soon as it can be, also while those before it are not read: then the request has no more need of its
    /// room.
    async fn later(
        &self,
        reply: BoxFuture<'static, Result<Reply, Hangup>>,
        room: Taken,
    ) -> oneshot::Receiver<Result<Reply, Hangup>> {
        let (made, answer) = oneshot::channel();
        let pace = self.pace.clone();
        let work = async move {
            let mut reply = reply.await;
            let mut settled = None;
            if let Ok(reply) = &mut reply {
                reply.made = Some(Instant::now());
                settled = reply.settled.take();
                pace.queued(reply.bytes());
            }
            // Whoever would write it may have given up.
            let _heard = made.send(reply).is_ok();
            if let Some(settled) = settled {
                settled.await;
            }
            drop(room);
        };
        self.finish(work.boxed()).await;
        answer
    }

    async fn finish(&self, work: Work) {
        // Its other end goes after this one.
        let _sent = self.behind.send(work).await.is_ok();
    }

    /// What would wait for something to happen does so only while the client is there, and not with room that others need.
    async fn answer<R: AsyncRead + Send + Unpin>(
        &self,
        frames: &mut Frames<R>,
        api: &Api,
        serving: impl Future<Output = Result<Answer, Hangup>> + Send,
        room: Taken,
    ) -> Result<Option<Answer>, Hangup> {
        let mut serving = pin!(serving);
        if !api.waits() {
            let answer = frames.beside(serving).await;
            drop(room);
            return answer.map(Some);
        }
        // Decodes the request, if no more.
        if let Some(answer) = serving.as_mut().now_or_never() {
            return answer.map(Some);
        }
        drop(room);
        tokio::select! {
            biased;
            answer = serving => answer.map(Some),
            () = frames.gone() => Ok(None),
            () = self.stop.clone() => Ok(None),
        }
    }
}

/// Does what is to be done in the background, until there is no more.
async fn finish(mut work: mpsc::Receiver<Work>) {
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = under_way.next() => {}
            Some(next) = work.recv(), if under_way.len() < IN_FLIGHT => under_way.push(next),
            else => return,
        }
    }
}

/// Writes all answers, until there will be no more.
async fn write<W: AsyncWrite + Unpin>(
    mut due: mpsc::Receiver<Due>,
    mut out: Outgoing<W>,
) -> Result<(), Hangup> {
    let mut next = due.recv().await;
    while let Some(item) = next {
        let (mut journey, answer) = match item {
            Due::Answer { journey, answer } => (journey, answer),
            Due::End(hangup) => {
                out.flush().await?;
                return Err(hangup);
            }
        };
        let reply = match answer {
            Waiting::Ready(reply) => Ok(reply),
            Waiting::Later(mut later) => {
                let reply = match (&mut later).now_or_never() {
                    Some(reply) => reply,
                    None => {
                        out.flush().await?;
                        later.await
                    }
                };
                // Whoever makes it does so to the end.
                reply.unwrap_or(Err(Hangup::Unsayable))
            }
        };
        let reply = match reply {
            Ok(reply) => reply,
            Err(hangup) => {
                out.flush().await?;
                return Err(hangup);
            }
        };
        metrics::observe_request(journey.api, journey.since.elapsed());
        out.pace.answered();
        journey.made(reply.made);
        out.add(reply, journey);
        if out.is_full() {
            out.flush().await?;
        }
        next = match due.try_recv() {
            Ok(due) => Some(due),
            Err(_) => {
                out.flush().await?;
                due.recv().await
            }
        };
    }
    Ok(())
}

/// Answers that go out together.
struct Outgoing<W> {
    to: W,
    peer: Arc<Peer>,
    pace: Pace,
    pieces: VecDeque<Bytes>,
    bytes: usize,
    /// Room of answers that are not written.
    rooms: Vec<Held>,
    /// Failures that they tell.
    failed: Vec<Key>,
    /// The requests that they answer, and the bytes of each answer.
    journeys: Vec<(Box<Journey>, usize)>,
}

impl<W: AsyncWrite + Unpin> Outgoing<W> {
    fn new(to: W, peer: Arc<Peer>, pace: Pace) -> Self {
        let (pieces, rooms, failed) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { to, peer, pace, pieces, bytes: 0, rooms, failed, journeys: Vec::new() }
    }

    fn add(&mut self, reply: Reply, journey: Box<Journey>) {
        self.journeys.push((journey, reply.bytes()));
        self.bytes += reply.bytes();
        self.pieces.extend(reply.pieces);
        self.rooms.extend(reply.rooms);
        self.failed.extend(reply.failed);
    }

    fn is_full(&self) -> bool {
        self.bytes >= GATHER_BYTES || self.pieces.len() >= GATHER_PIECES
    }

    /// Writes all there is. A client that has gone reads nothing any more, which is no error of the broker's.
    async fn flush(&mut self) -> Result<(), Hangup> {
        while self.bytes > 0 {
            self.step().await?;
        }
        self.settle().await?;
        self.rooms.clear();
        let now = Instant::now();
        for (journey, bytes) in self.journeys.drain(..) {
            journey.end(bytes, now);
        }
        if !self.failed.is_empty() {
            self.peer.lanes.told(&std::mem::take(&mut self.failed), self.pace.sent());
        }
        Ok(())
    }

    /// What was taken for encryption has to reach the socket, too; a plain one keeps nothing back.
    async fn settle(&mut self) -> Result<(), Hangup> {
        let begun = Instant::now();
        while begun.elapsed() < READ_PATIENCE {
            // The client that has gone reads nothing; what its connection fails with, its next read tells.
            if timeout_at(Instant::now() + SHORT_PATIENCE, self.to.flush()).await.is_ok() {
                return Ok(());
            }
            if self.rooms.iter().any(Held::is_wanted) {
                break;
            }
        }
        Err(Hangup::Slow)
    }

    /// Writes some of it, in time.
    async fn step(&mut self) -> Result<(), Hangup> {
        let (begun, left) = (Instant::now(), self.bytes.saturating_sub(STEP_BYTES));
        while self.bytes > left {
            let waited = begun.elapsed();
            let in_the_way = waited >= SHORT_PATIENCE && self.rooms.iter().any(Held::is_wanted);
            if in_the_way || waited >= READ_PATIENCE {
                return Err(Hangup::Slow);
            }
            let slices: Vec<_> =
                self.pieces.iter().take(GATHER_PIECES).map(|piece| IoSlice::new(piece)).collect();
            let look = Instant::now() + SHORT_PATIENCE;
            match timeout_at(look, self.to.write_vectored(&slices)).await {
                Ok(Ok(written)) if written > 0 => self.written(written),
                Ok(Ok(_) | Err(_)) => {
                    self.pieces.clear();
                    self.written(self.bytes);
                }
                Err(_still_full) => {}
            }
        }
        Ok(())
    }

    fn written(&mut self, mut written: usize) {
        self.bytes -= written;
        self.pace.written(written);
        let mut needed = self.bytes;
        for held in &mut self.rooms {
            held.keep(needed);
            needed -= held.bytes();
        }
        while let Some(first) = self.pieces.front_mut() {
            if written < first.len() {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
