//! One connection: three loops that run as one task. Frames are read ahead, requests are served one after the other, and answers
//! are written in the order of requests, as Kafka promises.
//!
//! ```text
//!   socket ─► frames ─(bounded)─► serve ─(bounded)─► answers ─► socket
//! ```
//!
//! * A request is served when the one before it has its place: records that were handed to their partitions need not be durable
//!   before the next request begins. Whatever else is asked is answered first.
//! * When the client has gone, what waits on its behalf (a long poll, a join) ends at once; records that it sent are still
//!   written.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::Instant;

use super::call::{Answer, Call, Hangup, Peer, Reply};
use super::codec::Header;
use super::frame::{Frame, Frames};
use super::{Kafka, api, metrics};

/// Frames that are read and not served yet.
const READ_AHEAD: usize = 8;
/// Answers that are not written yet.
const IN_FLIGHT: usize = 1024;
/// Answers that are there are written together up to so many bytes.
const GATHER_BYTES: usize = 256 * 1024;
/// Most pieces of one write.
const GATHER_PIECES: usize = 64;
/// How long a client may take to read what was written.
const READ_PATIENCE: Duration = Duration::from_mins(1);

/// An answer that is due.
struct Due {
    api: &'static str,
    since: Instant,
    answer: Waiting,
    /// Of the request's bytes, until it is answered.
    _room: Option<OwnedSemaphorePermit>,
}

enum Waiting {
    Ready(Reply),
    Later(BoxFuture<'static, Result<Reply, Hangup>>),
}

/// Serves a client until it goes, or must be sent away.
///
/// # Errors
/// Why the client was sent away.
pub(super) async fn serve(kafka: Kafka, peer: Arc<Peer>, stream: TcpStream) -> Result<(), Hangup> {
    let (reader, writer) = stream.into_split();
    let (frames_in, frames) = mpsc::channel(READ_AHEAD);
    let (due_in, due) = mpsc::channel(IN_FLIGHT);
    let (gone_in, gone) = watch::channel(false);
    let frames_of = Frames::new(reader, kafka.ctx.produce_room.clone());
    let read = read(frames_of, frames_in, gone_in);
    let serve = requests(kafka, peer, frames, due_in, gone);
    let write = write(due, writer);
    // What a client sent before it closed is served; what sends it away ends all three.
    futures::try_join!(read, serve, write).map(|_| ())
}

async fn read<R: AsyncRead + Unpin>(
    mut frames: Frames<R>,
    to: mpsc::Sender<Frame>,
    gone: watch::Sender<bool>,
) -> Result<(), Hangup> {
    while let Some(frame) = frames.next().await? {
        if to.send(frame).await.is_err() {
            break;
        }
    }
    let _ = gone.send(true);
    Ok(())
}

async fn requests(
    kafka: Kafka,
    peer: Arc<Peer>,
    mut frames: mpsc::Receiver<Frame>,
    to: mpsc::Sender<Due>,
    mut gone: watch::Receiver<bool>,
) -> Result<(), Hangup> {
    while let Some(Frame { mut bytes, room }) = frames.recv().await {
        let since = Instant::now();
        let header = Header::fixed(&mut bytes)?;
        let api = api::find(header.key).ok_or(Hangup::Unsupported)?;
        let call = Call { kafka: kafka.clone(), peer: Arc::clone(&peer), header };
        let serving = api.serve(call, bytes);
        let answer = if api.outlives_client() {
            serving.await?
        } else {
            tokio::select! {
                biased;
                answer = serving => answer?,
                _ = gone.wait_for(|gone| *gone) => continue,
            }
        };
        let answer = match answer {
            Answer::Ready(reply) => Waiting::Ready(reply),
            Answer::Later(reply) => Waiting::Later(reply),
            Answer::None => {
                metrics::observe_request(api.name(), since.elapsed());
                continue;
            }
        };
        let due = Due { api: api.name(), since, answer, _room: room };
        if to.send(due).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn write<W: AsyncWrite + Unpin>(mut due: mpsc::Receiver<Due>, to: W) -> Result<(), Hangup> {
    let mut out = Outgoing { to, pieces: VecDeque::new(), bytes: 0 };
    let mut next = due.recv().await;
    while let Some(Due { api, since, answer, _room }) = next {
        let reply = match answer {
            Waiting::Ready(reply) => reply,
            Waiting::Later(mut later) => match (&mut later).now_or_never() {
                Some(reply) => reply?,
                None => {
                    out.flush().await?;
                    later.await?
                }
            },
        };
        metrics::observe_request(api, since.elapsed());
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
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

impl<W: AsyncWrite + Unpin> Outgoing<W> {
    fn add(&mut self, reply: Reply) {
        self.bytes += reply.iter().map(Bytes::len).sum::<usize>();
        self.pieces.extend(reply);
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
                    self.bytes = 0;
                }
            }
        }
        Ok(())
    }

    fn written(&mut self, mut written: usize) {
        self.bytes -= written;
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
