//! What arrives on a stream. Requests are handed on in the order sent. Each takes room in the stream's budget until its reply has left;
//! without room the stream is not read, so a slow disk, or a peer that does not read, stops that peer at its socket.
//!
//! Bytes that are no valid request, or more than a message may have, end this stream with a status that says so, and nothing
//! else.

use std::sync::Arc;

use futures::stream::FuturesUnordered;
use futures::{Future, FutureExt, StreamExt};
use geminga_proto::bookie::{
    InvalidMessage, QueryOp, QueryReply, QueryRequest, WriteReply, WriteRequest,
};
use geminga_proto::internal as wire;
use geminga_proto::messages::{Messages, is_unreadable};
use geminga_runtime::requests::{self, RequestId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::{Status, Streaming};

use super::gather::Item;
use crate::handle::{BookieHandle, room};
use crate::ledger::{MAX_READ_BYTES, MIN_ROOM, Outgoing, ReplyTo};
use crate::metrics;
use crate::watched::Watched;

/// Bytes that one stream may have outstanding.
pub(super) const BUDGET: usize = 32 * 1024 * 1024;
/// A read counts for what it may bring, at least this.
const MIN_READ_ROOM: usize = 64 * 1024;

/// Counts a stream for as long as it lasts.
struct Counted(&'static str);

impl Counted {
    fn new(stream: &'static str) -> Self {
        metrics::streams(stream, 1.0);
        Self(stream)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::streams(self.0, -1.0);
    }
}

/// Hands writes on until the stream ends, the bookie stops, or a message is invalid.
pub(super) async fn writes(
    mut requests: Messages<wire::WriteRequests>,
    handle: BookieHandle,
    replies: mpsc::Sender<Item<WriteReply>>,
    cancelled: impl Future<Output = ()> + Send,
) {
    let _counted = Counted::new("write");
    let budget = Arc::new(Semaphore::new(BUDGET));
    tokio::pin!(cancelled);
    loop {
        let message = tokio::select! {
            biased;
            () = &mut cancelled => return,
            message = next(&replies, "write", requests.message()) => message,
        };
        let Some(message) = message else { return };
        for request in message.requests {
            let cause = RequestId::parse(&request.cause);
            let (request_id, request) = match WriteRequest::from_wire(request) {
                Ok(valid) => valid,
                Err(invalid) => return refuse(&replies, "write", &invalid),
            };
            let watched = Watched::write(handle.requests(), handle.adds(), &request, cause);
            let room = tokio::select! {
                biased;
                () = &mut cancelled => return,
                () = replies.closed() => return,
                room = take(&budget, request.payload_bytes()) => room,
            };
            let to = ReplyTo::Stream { request_id, watched, replies: replies.clone(), room };
            match handle.admit(&request) {
                Ok(disk) => disk.write(request, to).await,
                Err(refusal) => to.send(refusal),
            }
        }
    }
}

/// Answers queries, many at a time, until the stream ends, the bookie stops, or a message is invalid.
pub(super) async fn queries(
    mut incoming: Streaming<wire::QueryRequests>,
    handle: BookieHandle,
    replies: mpsc::Sender<Item<QueryReply>>,
    cancelled: impl Future<Output = ()> + Send,
) {
    let _counted = Counted::new("query");
    let budget = Arc::new(Semaphore::new(BUDGET));
    let mut answers = FuturesUnordered::new();
    let mut asked = Vec::new().into_iter();
    tokio::pin!(cancelled);
    loop {
        let Some(request) = asked.next() else {
            tokio::select! {
                biased;
                () = &mut cancelled => return,
                () = replies.closed() => return,
                Some(()) = answers.next() => {}
                message = next(&replies, "query", incoming.message()) => match message {
                    Some(wire::QueryRequests { requests }) => asked = requests.into_iter(),
                    // Nothing more is asked; what was is still answered.
                    None => break,
                },
            }
            continue;
        };
        let cause = RequestId::parse(&request.cause);
        let (request_id, request) = match QueryRequest::from_wire(request) {
            Ok(valid) => valid,
            Err(invalid) => return refuse(&replies, "query", &invalid),
        };
        let wanted = take(&budget, query_room(&request.op));
        tokio::pin!(wanted);
        let room = loop {
            tokio::select! {
                biased;
                () = &mut cancelled => return,
                () = replies.closed() => return,
                Some(()) = answers.next() => {}
                room = &mut wanted => break room,
            }
        };
        let answer = answer(handle.clone(), replies.clone(), request_id, request, room);
        answers.push(requests::scope(cause, answer).boxed());
    }
    while answers.next().await.is_some() {}
}

async fn answer(
    handle: BookieHandle,
    replies: mpsc::Sender<Item<QueryReply>>,
    request_id: u64,
    request: QueryRequest,
    room: OwnedSemaphorePermit,
) {
    let reply = handle.query(request).await;
    if replies.try_send(Ok(Outgoing { request_id, reply, room })).is_err() {
        tracing::debug!(request_id, "the stream of a reply is gone");
    }
}

fn query_room(op: &QueryOp) -> usize {
    match op {
        QueryOp::Read { max_bytes, .. } => {
            (*max_bytes as usize).clamp(MIN_READ_ROOM, MAX_READ_BYTES)
        }
        QueryOp::WaitLac { .. } => MIN_ROOM,
        QueryOp::Inventory { .. } => MIN_READ_ROOM,
    }
}

async fn take(budget: &Arc<Semaphore>, bytes: usize) -> OwnedSemaphorePermit {
    let room = room(bytes, BUDGET);
    Arc::clone(budget).acquire_many_owned(room).await.expect("a stream's budget is never closed")
}

/// The next message; `None` when there is none, or the peer is gone, or what it sent is no message.
async fn next<M, R>(
    replies: &mpsc::Sender<Item<R>>,
    stream: &'static str,
    message: impl Future<Output = Result<Option<M>, Status>>,
) -> Option<M> {
    match message.await {
        Ok(message) => message,
        Err(status) if is_unreadable(&status) => {
            end(replies, stream, status);
            None
        }
        Err(status) => {
            tracing::debug!(%status, "a stream of requests broke");
            None
        }
    }
}

fn refuse<R>(replies: &mpsc::Sender<Item<R>>, stream: &'static str, invalid: &InvalidMessage) {
    end(replies, stream, Status::invalid_argument(invalid.to_string()));
}

fn end<R>(replies: &mpsc::Sender<Item<R>>, stream: &'static str, why: Status) {
    tracing::warn!(stream, why = why.message(), "a stream of requests is ended");
    metrics::stream_refused(stream);
    if replies.try_send(Err(why)).is_err() {
        tracing::debug!("the peer is gone");
    }
}
