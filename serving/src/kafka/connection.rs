//! One connection: three loops that run as one task. Frames are read ahead, requests are served one after the other, and answers
//! are written in the order of requests, as Kafka promises.
//!
//! ```text
//!   socket ─► frames ─(bounded)─► serve ─(bounded)─► answers ─► socket
//! ```
//!
//! * A request is served when the one before it has its place: records that were handed to their partitions need not be durable
//!   before the next request begins. Whatever else is asked is answered first.
//! * However a connection ends, what was read before is served and answered, but for what would wait: a long poll, a join.
//! * A client that does not read its answers is not served further.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use super::api::{self, Api};
use super::call::{Answer, Call, Hangup, Peer, Reply};
use super::codec::Header;
use super::frame::{Charged, Frame, Frames};
use super::lanes::Key;
use super::pace::Pace;
use super::{Kafka, metrics};
use crate::quotas::Kind;

/// Frames that are read and not served yet.
const READ_AHEAD: usize = 8;
/// Answers that are not written yet.
const IN_FLIGHT: usize = 1024;
/// With more bytes of answers unwritten only records are taken.
const MAX_UNWRITTEN: usize = 1024 * 1024;
/// Answers that are there are written together up to so many bytes.
const GATHER_BYTES: usize = 256 * 1024;
/// Most pieces of one write.
const GATHER_PIECES: usize = 64;
/// How long a client may take to read what was written.
const READ_PATIENCE: Duration = Duration::from_mins(2);

/// An answer that is due, or that there is none any more.
enum Due {
    Answer {
        api: &'static str,
        since: Instant,
        answer: Waiting,
        /// Of the request's bytes, until it is answered.
        room: Charged,
    },
    End(Hangup),
}

enum Waiting {
    Ready(Reply),
    Later(BoxFuture<'static, Result<Reply, Hangup>>),
}

/// Serves a client until it goes, or must be sent away, or `stop` says that no more requests are to be read.
///
/// # Errors
/// Why the client was sent away.
pub(super) async fn serve(
    kafka: Kafka,
    peer: Arc<Peer>,
    stream: TcpStream,
    stop: impl Future<Output = ()>,
) -> Result<(), Hangup> {
    let (reader, writer) = stream.into_split();
    let (frames_in, frames) = mpsc::channel(READ_AHEAD);
    let (due_in, due) = mpsc::channel(IN_FLIGHT);
    let pace = Pace::default();
    let rooms = (kafka.ctx.produce_room.clone(), kafka.plain_room.clone());
    let read = read(Frames::new(reader, rooms, pace.clone()), frames_in, pace.clone(), stop);
    let requests = Requests { kafka, peer: Arc::clone(&peer), pace: pace.clone(), to: due_in };
    let write = write(due, Outgoing::new(writer, peer, pace));
    // The end travels along with the requests, so that what came before it is answered.
    let ((), (), end) = futures::join!(read, requests.serve(frames), write);
    end
}

async fn read<R: AsyncRead + Unpin>(
    mut frames: Frames<R>,
    to: mpsc::Sender<Result<Frame, Hangup>>,
    pace: Pace,
    stop: impl Future<Output = ()>,
) {
    tokio::pin!(stop);
    loop {
        let frame = tokio::select! {
            biased;
            () = &mut stop => break,
            frame = frames.next() => frame,
        };
        let Some(item) = frame.transpose() else { break };
        let last = item.is_err();
        if !last {
            pace.read();
        }
        if to.send(item).await.is_err() || last {
            break;
        }
    }
    pace.end();
}

struct Requests {
    kafka: Kafka,
    peer: Arc<Peer>,
    pace: Pace,
    to: mpsc::Sender<Due>,
}

impl Requests {
    async fn serve(self, mut frames: mpsc::Receiver<Result<Frame, Hangup>>) {
        let mut number = 0;
        while let Some(frame) = frames.recv().await {
            number += 1;
            let due = match frame {
                Ok(frame) => self.serve_one(frame, number).await,
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
                break;
            }
        }
        self.pace.end();
    }

    /// `None`: there is no answer.
    async fn serve_one(&self, frame: Frame, number: u64) -> Result<Option<Due>, Hangup> {
        let Frame { mut bytes, room } = frame;
        let since = Instant::now();
        let mut header = Header::fixed(&mut bytes)?;
        let api = api::find(header.key).ok_or(Hangup::Unsupported)?;
        api.read_header(&mut header, &mut bytes)?;
        let (kafka, peer) = (self.kafka.clone(), Arc::clone(&self.peer));
        let call = Call { kafka, peer, header, number };
        self.pay(&call, api).await;
        let (answer, room) = if api.keeps_room() {
            (api.serve(call, bytes).await?, room)
        } else {
            self.pace.caught_up(MAX_UNWRITTEN).await;
            (self.answer(api, api.serve(call, bytes), room).await?, Charged::Nothing)
        };
        let answer = match answer {
            Answer::Ready(reply) => Waiting::Ready(reply),
            Answer::Later(reply) => Waiting::Later(reply),
            Answer::None => {
                metrics::observe_request(api.name(), since.elapsed());
                return Ok(None);
            }
        };
        if let Waiting::Ready(reply) = &answer {
            self.pace.queued(reply.bytes());
        }
        Ok(Some(Due::Answer { api: api.name(), since, answer, room }))
    }

    /// A client that goes beyond its quotas was answered, and told, and waits before it is served again.
    async fn pay(&self, call: &Call, api: &Api) {
        let account = call.kafka.ctx.quotas.account(call.client_id(), false);
        let paid = account.paid([Kind::Request, api.quota()]);
        tokio::select! {
            biased;
            _waited = paid => {}
            () = self.pace.ending() => {}
        }
        account.charge(Kind::Request, 1);
    }

    /// What would wait for something to happen does so only while the client is there, and not with room that others need.
    async fn answer(
        &self,
        api: &Api,
        mut serving: BoxFuture<'static, Result<Answer, Hangup>>,
        room: Charged,
    ) -> Result<Answer, Hangup> {
        if !api.waits() {
            let answer = serving.await;
            drop(room);
            return answer;
        }
        // Decodes the request, if no more.
        if let Some(answer) = (&mut serving).now_or_never() {
            return answer;
        }
        drop(room);
        self.pace.set_waits(true);
        let answer = tokio::select! {
            biased;
            answer = serving => answer,
            () = self.pace.ending() => Ok(Answer::None),
        };
        self.pace.set_waits(false);
        answer
    }
}

async fn write<W: AsyncWrite + Unpin>(
    mut due: mpsc::Receiver<Due>,
    mut out: Outgoing<W>,
) -> Result<(), Hangup> {
    let mut next = due.recv().await;
    while let Some(item) = next {
        let (api, since, answer, room) = match item {
            Due::Answer { api, since, answer, room } => (api, since, answer, room),
            Due::End(hangup) => {
                out.flush().await?;
                return Err(hangup);
            }
        };
        let reply = match answer {
            Waiting::Ready(reply) => reply,
            Waiting::Later(mut later) => {
                let reply = match (&mut later).now_or_never() {
                    Some(reply) => reply?,
                    None => {
                        out.flush().await?;
                        later.await?
                    }
                };
                out.pace.queued(reply.bytes());
                reply
            }
        };
        // Before anything is waited for: the next request may need it.
        drop(room);
        metrics::observe_request(api, since.elapsed());
        out.pace.answered();
        out.add(reply);
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
    rooms: Vec<OwnedSemaphorePermit>,
    /// Failures that they tell.
    failed: Vec<Key>,
}

impl<W: AsyncWrite + Unpin> Outgoing<W> {
    fn new(to: W, peer: Arc<Peer>, pace: Pace) -> Self {
        let (pieces, rooms, failed) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { to, peer, pace, pieces, bytes: 0, rooms, failed }
    }

    fn add(&mut self, reply: Reply) {
        self.bytes += reply.bytes();
        self.pieces.extend(reply.pieces);
        self.rooms.extend(reply.room);
        self.failed.extend(reply.failed);
    }

    fn is_full(&self) -> bool {
        self.bytes >= GATHER_BYTES || self.pieces.len() >= GATHER_PIECES
    }

    /// Writes all there is. A client that has gone reads nothing any more, which is no error of the broker's.
    async fn flush(&mut self) -> Result<(), Hangup> {
        while !self.pieces.is_empty() {
            let slices: Vec<_> =
                self.pieces.iter().take(GATHER_PIECES).map(|piece| IoSlice::new(piece)).collect();
            let write = tokio::time::timeout(READ_PATIENCE, self.to.write_vectored(&slices)).await;
            match write.map_err(|_| Hangup::Slow)? {
                Ok(written) if written > 0 => self.written(written),
                Ok(_) | Err(_) => {
                    self.pieces.clear();
                    self.pace.written(self.bytes);
                    self.bytes = 0;
                }
            }
        }
        self.rooms.clear();
        if !self.failed.is_empty() {
            self.peer.lanes.told(&std::mem::take(&mut self.failed), self.pace.last_read());
        }
        Ok(())
    }

    fn written(&mut self, mut written: usize) {
        self.bytes -= written;
        self.pace.written(written);
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
