//! Where the answer to a write goes. A reply carries the room that its request took in its sender's budget, and gives it
//! back when it leaves: a peer that does not read its replies, or a disk that does not sync, stops that peer's requests and nobody else's.

use geminga_proto::bookie::WriteReply;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::watched::Watched;

/// Least bytes that a request counts for, so that small ones are bounded in number.
pub(crate) const MIN_ROOM: usize = 1024;

/// A reply on its way to a stream.
#[derive(Debug)]
pub(crate) struct Outgoing<R> {
    /// The request that it answers.
    pub(crate) request_id: u64,
    /// The answer.
    pub(crate) reply: R,
    /// Given back when the reply is sent.
    pub(crate) room: OwnedSemaphorePermit,
}

/// Who gets the reply.
#[derive(Debug)]
pub(crate) enum ReplyTo {
    /// A stream of a connection. Its queue has a place for each request that its budget lets in.
    Stream {
        /// The request.
        request_id: u64,
        /// What is told of it.
        watched: Watched,
        /// The stream's replies.
        replies: mpsc::Sender<Result<Outgoing<WriteReply>, tonic::Status>>,
        /// What the request took.
        room: OwnedSemaphorePermit,
    },
    /// A caller in this process.
    Caller {
        /// What is told of it.
        watched: Watched,
        /// Who waits.
        reply: oneshot::Sender<WriteReply>,
        /// What the request took.
        room: OwnedSemaphorePermit,
    },
}

impl ReplyTo {
    /// The request is in the log's queue.
    pub(crate) fn placed(&mut self) {
        let (Self::Stream { watched, .. } | Self::Caller { watched, .. }) = self;
        watched.placed();
    }

    /// Answers. Never waits: whoever asked and went away does not want it any more.
    pub(crate) fn send(self, reply: WriteReply) {
        match self {
            Self::Stream { request_id, watched, replies, room } => {
                watched.answered(reply.code, 0);
                let outgoing = Outgoing { request_id, reply, room };
                if replies.try_send(Ok(outgoing)).is_err() {
                    tracing::debug!(request_id, "the stream of a reply is gone");
                }
            }
            Self::Caller { watched, reply: caller, room } => {
                watched.answered(reply.code, 0);
                drop(room);
                if caller.send(reply).is_err() {
                    tracing::debug!("the caller of a write is gone");
                }
            }
        }
    }
}
