//! What leaves a stream: replies that are ready together go in one message, up to a size. So one advance of the durable mark, which
//! answers many adds, costs one message.

use futures::Stream;
use futures::stream::unfold;
use geminga_proto::bookie::{QueryReply, WriteReply};
use geminga_proto::internal as wire;
use tokio::sync::mpsc;
use tonic::Status;

use super::intake::BUDGET;
use crate::ledger::{MIN_ROOM, Outgoing};

/// Replies in one message.
const MAX_REPLIES: usize = 1024;
/// A message is closed once it holds so many bytes of entries.
const MESSAGE_BYTES: usize = 1024 * 1024;

pub(super) type Item<R> = Result<Outgoing<R>, Status>;

/// A stream's replies: a place for each request that its budget lets in, and one for the error that ends it. So nobody
/// who answers ever waits.
pub(super) fn queue<R>() -> (mpsc::Sender<Item<R>>, mpsc::Receiver<Item<R>>) {
    mpsc::channel(BUDGET / MIN_ROOM + 1)
}

/// How replies become a message.
pub(super) trait Reply: Sized + Send {
    /// The message.
    type Message: Default + Send;
    /// Puts one in; returns how many bytes of entries it holds.
    fn put(self, request_id: u64, message: &mut Self::Message) -> usize;
}

impl Reply for WriteReply {
    type Message = wire::WriteReplies;

    fn put(self, request_id: u64, message: &mut Self::Message) -> usize {
        message.replies.push(self.to_wire(request_id));
        0
    }
}

impl Reply for QueryReply {
    type Message = wire::QueryReplies;

    fn put(self, request_id: u64, message: &mut Self::Message) -> usize {
        let bytes = self.entries.iter().map(bytes::Bytes::len).sum();
        message.replies.push(self.to_wire(request_id));
        bytes
    }
}

/// The messages of a stream; it ends when all that was asked is answered and no more can be asked, or with an error.
pub(super) fn messages<R: Reply + 'static>(
    queue: mpsc::Receiver<Item<R>>,
) -> impl Stream<Item = Result<R::Message, Status>> + Send {
    unfold(Some((queue, None)), |state| async move {
        let (mut queue, held) = state?;
        let mut next = match held {
            Some(item) => item,
            None => queue.recv().await?,
        };
        let (mut message, mut count, mut bytes) = (R::Message::default(), 0, 0);
        loop {
            match next {
                Ok(Outgoing { request_id, reply, room }) => {
                    bytes += reply.put(request_id, &mut message);
                    count += 1;
                    drop(room);
                }
                Err(status) if count == 0 => return Some((Err(status), None)),
                Err(status) => return Some((Ok(message), Some((queue, Some(Err(status)))))),
            }
            if count == MAX_REPLIES || bytes >= MESSAGE_BYTES {
                break;
            }
            match queue.try_recv() {
                Ok(item) => next = item,
                Err(_) => break,
            }
        }
        Some((Ok(message), Some((queue, None))))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::StreamExt;
    use geminga_proto::bookie::Code;
    use tokio::sync::Semaphore;

    use super::*;

    fn outgoing<R>(request_id: u64, reply: R, budget: &Arc<Semaphore>) -> Item<R> {
        let room = Arc::clone(budget).try_acquire_owned().unwrap();
        Ok(Outgoing { request_id, reply, room })
    }

    #[tokio::test]
    async fn replies_that_are_ready_together_share_a_message() {
        let budget = Arc::new(Semaphore::new(5000));
        let (send, queue) = queue();
        for id in 0..1500 {
            let reply = WriteReply::refusal(Code::Ok, "");
            send.try_send(outgoing(id, reply, &budget)).unwrap();
        }
        send.try_send(Err(Status::invalid_argument("bad"))).unwrap();
        let mut messages = std::pin::pin!(messages(queue));
        let first = messages.next().await.unwrap().unwrap();
        assert_eq!(first.replies.len(), MAX_REPLIES);
        assert_eq!(messages.next().await.unwrap().unwrap().replies.len(), 1500 - MAX_REPLIES);
        assert_eq!(budget.available_permits(), 5000, "room comes back with the reply");
        assert!(messages.next().await.unwrap().is_err());
        assert!(messages.next().await.is_none());
    }

    #[tokio::test]
    async fn large_replies_go_alone() {
        let budget = Arc::new(Semaphore::new(10));
        let (send, queue) = queue();
        for id in 0..2 {
            let entries = vec![bytes::Bytes::from(vec![0; MESSAGE_BYTES])];
            let reply = QueryReply { entries, ..QueryReply::refusal(Code::Ok, "") };
            send.try_send(outgoing(id, reply, &budget)).unwrap();
        }
        drop(send);
        let counts: Vec<usize> =
            messages(queue).map(|message| message.unwrap().replies.len()).collect().await;
        assert_eq!(counts, [1, 1]);
    }
}
