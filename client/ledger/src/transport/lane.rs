//! One stream of requests and replies, as one task. Requests are sent in the order of [`Lane::call`]; whatever is queued
//! when the stream is ready goes into one message. A reply is matched to its request by id. When anything breaks, every
//! pending call ends without an answer and the lane is done; what broke is known before the first of them ends.
//!
//! What waits to be sent is bounded in number and in bytes: a bookie that does not read keeps what its writers had sent
//! it, even after they have left it out. A call above the bound ends without an answer, and was not sent.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use geminga_runtime::Tasks;
use geminga_tls::status_cause;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Most calls that wait to be sent.
const QUEUE: usize = 16 * 1024;
/// Most calls in one message.
const BATCH: usize = 256;

/// How a stream's messages are made and taken apart.
pub(super) trait Wire: Send + 'static {
    /// A request as the caller gives it.
    type Request: Send + 'static;
    /// A reply as the caller gets it.
    type Reply: Send + 'static;
    /// A message of requests.
    type Outgoing: Send + 'static;
    /// A message of replies.
    type Incoming: Send + 'static;

    /// Bytes that count towards the size of a message.
    fn size(request: &Self::Request) -> usize;
    /// Puts requests into one message.
    fn pack(requests: Vec<(u64, Self::Request)>) -> Self::Outgoing;
    /// Takes replies out of a message.
    fn unpack(message: Self::Incoming) -> Vec<(u64, Self::Reply)>;
}

/// A call that waits to be sent.
struct Call<W: Wire> {
    request: W::Request,
    answer: oneshot::Sender<W::Reply>,
    /// Given back when it is sent.
    _room: OwnedSemaphorePermit,
}

/// The callers' end. Calls fail once the lane is done.
pub(super) struct Lane<W: Wire> {
    calls: mpsc::Sender<Call<W>>,
    room: Arc<Semaphore>,
    bytes: usize,
    broke: Arc<OnceLock<String>>,
}

/// How much a lane takes at once, bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Of one message; a single call may be larger.
    pub(super) message: usize,
    /// Of all calls that wait to be sent. Far above what a bookie that reads lets pile up.
    pub(super) queue: usize,
}

impl<W: Wire> Lane<W> {
    /// Starts the lane's task. `open` connects and opens the stream for a receiver of outgoing messages.
    pub(super) fn start<F, S>(tasks: &Tasks, name: &'static str, limits: Limits, open: F) -> Self
    where
        F: FnOnce(mpsc::Receiver<W::Outgoing>) -> BoxFuture<'static, Result<S, tonic::Status>>
            + Send
            + 'static,
        S: Stream<Item = Result<W::Incoming, tonic::Status>> + Send + Unpin + 'static,
    {
        let (calls, queue) = mpsc::channel(QUEUE);
        let (cancelled, broke) = (tasks.cancelled(), Arc::new(OnceLock::new()));
        let why = Arc::clone(&broke);
        tasks.spawn(name, async move {
            let mut waiting = Waiting::<W>::new(queue);
            let ended = tokio::select! {
                () = cancelled => Ok(()),
                ended = waiting.exchange(limits.message, open) => ended,
            };
            if let Err(status) = ended {
                tracing::debug!(lane = name, %status, "bookie stream ended");
                let _first = why.set(status_cause(&status));
            }
            // Only now do callers hear of it.
            drop(waiting);
        });
        let bytes = limits.queue.min(Semaphore::MAX_PERMITS);
        Self { calls, room: Arc::new(Semaphore::new(bytes)), bytes, broke }
    }

    /// Bytes of calls that wait to be sent.
    pub(super) fn waiting(&self) -> usize {
        self.bytes.saturating_sub(self.room.available_permits())
    }

    /// What broke, once something did.
    pub(super) fn broke(&self) -> Arc<OnceLock<String>> {
        Arc::clone(&self.broke)
    }

    /// Whether the lane is done.
    pub(super) fn is_closed(&self) -> bool {
        self.calls.is_closed()
    }

    /// Enqueues at once. Resolves to `None` when no answer will come.
    pub(super) fn call(&self, request: W::Request) -> BoxFuture<'static, Option<W::Reply>> {
        let (answer, reply) = oneshot::channel();
        let bytes = u32::try_from(W::size(&request).min(self.bytes)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(bytes);
        let queued = room
            .is_ok_and(|room| self.calls.try_send(Call { request, answer, _room: room }).is_ok());
        if queued { reply.map(Result::ok).boxed() } else { std::future::ready(None).boxed() }
    }
}

/// All calls that have no answer yet.
struct Waiting<W: Wire> {
    queue: mpsc::Receiver<Call<W>>,
    /// The one of the queue that is sent next.
    first: Option<Call<W>>,
    sent: HashMap<u64, oneshot::Sender<W::Reply>>,
    next_id: u64,
}

impl<W: Wire> Waiting<W> {
    fn new(queue: mpsc::Receiver<Call<W>>) -> Self {
        Self { queue, first: None, sent: HashMap::new(), next_id: 0 }
    }

    /// Sends calls and answers them, until the stream or the lane ends.
    async fn exchange<F, S>(&mut self, max_bytes: usize, open: F) -> Result<(), tonic::Status>
    where
        F: FnOnce(mpsc::Receiver<W::Outgoing>) -> BoxFuture<'static, Result<S, tonic::Status>>,
        S: Stream<Item = Result<W::Incoming, tonic::Status>> + Unpin,
    {
        // Few messages are enough to keep the stream busy; what comes after them gathers into larger ones.
        let (outgoing, messages) = mpsc::channel(4);
        let mut replies = open(messages).await?;
        loop {
            tokio::select! {
                biased;
                message = replies.next() => {
                    let Some(message) = message else { return Ok(()) };
                    self.answer(message?);
                }
                call = self.queue.recv(), if self.first.is_none() => match call {
                    Some(call) => self.first = Some(call),
                    None => return Ok(()),
                },
                slot = outgoing.reserve(), if self.first.is_some() => {
                    let Ok(slot) = slot else { return Ok(()) };
                    slot.send(self.pack(max_bytes));
                }
            }
        }
    }

    fn answer(&mut self, message: W::Incoming) {
        for (id, reply) in W::unpack(message) {
            if let Some(answer) = self.sent.remove(&id) {
                // A caller that went away does not want its answer.
                let _gone = answer.send(reply);
            }
        }
    }

    /// A message of the first call and those behind it.
    fn pack(&mut self, max_bytes: usize) -> W::Outgoing {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(Call { request, answer, _room }) = self.first.take() {
            bytes += W::size(&request);
            self.sent.insert(self.next_id, answer);
            batch.push((self.next_id, request));
            self.next_id += 1;
            if bytes < max_bytes && batch.len() < BATCH {
                self.first = self.queue.try_recv().ok();
            }
        }
        W::pack(batch)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::stream;
    use tokio::sync::watch;

    use super::*;

    const QUEUE_BYTES: usize = 64 << 20;

    struct Megabytes;

    impl Wire for Megabytes {
        type Request = usize;
        type Reply = usize;
        type Outgoing = Vec<(u64, usize)>;
        type Incoming = Vec<(u64, usize)>;

        fn size(request: &usize) -> usize {
            request << 20
        }

        fn pack(requests: Vec<(u64, usize)>) -> Self::Outgoing {
            requests
        }

        fn unpack(message: Self::Incoming) -> Vec<(u64, usize)> {
            message
        }
    }

    type Message = Result<Vec<(u64, usize)>, tonic::Status>;

    /// A peer that echoes requests once it reads, and the switch.
    fn lane(tasks: &Tasks) -> (Lane<Megabytes>, watch::Sender<bool>) {
        let (reads, mut may_read) = watch::channel(false);
        let limits = Limits { message: 1 << 20, queue: QUEUE_BYTES };
        let lane = Lane::start(tasks, "test", limits, move |requests| {
            let echo = async move {
                may_read
                    .wait_for(|reads| *reads)
                    .await
                    .map_err(|_| tonic::Status::aborted("the peer is gone"))?;
                let next = |mut requests: mpsc::Receiver<_>| async move {
                    let message = requests.recv().await?;
                    Some((Message::Ok(message), requests))
                };
                Ok(stream::unfold(requests, next).boxed())
            };
            echo.boxed()
        });
        (lane, reads)
    }

    /// What waits is bounded by bytes; a call without any is not held up by them.
    #[tokio::test]
    async fn what_waits_is_bounded_by_bytes() {
        let tasks = Tasks::new("test");
        let (lane, reads) = lane(&tasks);
        let waiting: Vec<_> = (0..QUEUE_BYTES >> 20).map(|_| lane.call(1)).collect();
        assert_eq!(lane.waiting(), QUEUE_BYTES);
        assert_eq!(lane.call(1).await, None);
        let small = lane.call(0);
        reads.send_replace(true);
        let long = Duration::from_secs(30);
        for call in waiting {
            assert_eq!(tokio::time::timeout(long, call).await, Ok(Some(1)));
        }
        assert_eq!(tokio::time::timeout(long, small).await, Ok(Some(0)));
        assert_eq!(tokio::time::timeout(long, lane.call(1)).await, Ok(Some(1)), "room came back");
        assert_eq!(lane.waiting(), 0);
    }

    /// A stream that ends takes its calls with it, and later ones are not taken.
    #[tokio::test]
    async fn calls_end_with_their_stream() {
        let tasks = Tasks::new("test");
        let (lane, reads) = lane(&tasks);
        let call = lane.call(1);
        drop(reads);
        assert_eq!(call.await, None);
        assert_eq!(lane.broke().get().map(String::as_str), Some("the peer is gone"));
        assert!(lane.is_closed());
        assert_eq!(lane.call(1).await, None);
    }
}
