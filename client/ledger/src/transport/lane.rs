//! One stream of requests and replies, as one task. Requests are sent in the order of [`Lane::call`]; whatever is queued
//! when the stream is ready goes into one message. A reply is matched to its request by id. When anything breaks, every
//! pending call ends without an answer and the lane is done.

use std::collections::HashMap;

use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use geminga_runtime::Tasks;
use tokio::sync::{mpsc, oneshot};

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

type Call<W> = (<W as Wire>::Request, oneshot::Sender<<W as Wire>::Reply>);

/// The callers' end. Calls fail once the lane is done.
pub(super) struct Lane<W: Wire> {
    calls: mpsc::Sender<Call<W>>,
}

impl<W: Wire> Lane<W> {
    /// Starts the lane's task. `open` connects and opens the stream for a receiver of outgoing messages.
    pub(super) fn start<F, S>(tasks: &Tasks, name: &'static str, max_bytes: usize, open: F) -> Self
    where
        F: FnOnce(mpsc::Receiver<W::Outgoing>) -> BoxFuture<'static, Result<S, tonic::Status>>
            + Send
            + 'static,
        S: Stream<Item = Result<W::Incoming, tonic::Status>> + Send + Unpin + 'static,
    {
        let (calls, queue) = mpsc::channel(QUEUE);
        let cancelled = tasks.cancelled();
        tasks.spawn(name, async move {
            let run = run::<W, F, S>(queue, max_bytes, open);
            tokio::select! {
                () = cancelled => {}
                result = run => if let Err(status) = result {
                    tracing::debug!(lane = name, %status, "bookie stream ended");
                },
            }
        });
        Self { calls }
    }

    /// Whether the lane is done.
    pub(super) fn is_closed(&self) -> bool {
        self.calls.is_closed()
    }

    /// Enqueues at once. Resolves to `None` when no answer will come.
    pub(super) fn call(&self, request: W::Request) -> BoxFuture<'static, Option<W::Reply>> {
        let (answer, reply) = oneshot::channel();
        match self.calls.try_send((request, answer)) {
            Ok(()) => reply.map(Result::ok).boxed(),
            Err(_) => std::future::ready(None).boxed(),
        }
    }
}

async fn run<W, F, S>(
    mut queue: mpsc::Receiver<Call<W>>,
    max_bytes: usize,
    open: F,
) -> Result<(), tonic::Status>
where
    W: Wire,
    F: FnOnce(mpsc::Receiver<W::Outgoing>) -> BoxFuture<'static, Result<S, tonic::Status>>,
    S: Stream<Item = Result<W::Incoming, tonic::Status>> + Unpin,
{
    // Few messages are enough to keep the stream busy; what comes after them gathers into larger ones.
    let (outgoing, messages) = mpsc::channel(4);
    let mut replies = open(messages).await?;
    let mut pending: HashMap<u64, oneshot::Sender<W::Reply>> = HashMap::new();
    let mut next_id = 0u64;
    let mut first = None;
    loop {
        tokio::select! {
            biased;
            message = replies.next() => {
                let Some(message) = message else { return Ok(()) };
                for (id, reply) in W::unpack(message?) {
                    if let Some(answer) = pending.remove(&id) {
                        // A caller that went away does not want its answer.
                        let _gone = answer.send(reply);
                    }
                }
            }
            call = queue.recv(), if first.is_none() => match call {
                Some(call) => first = Some(call),
                None => return Ok(()),
            },
            slot = outgoing.reserve(), if first.is_some() => {
                let Ok(slot) = slot else { return Ok(()) };
                let mut batch = Vec::new();
                let mut bytes = 0;
                while let Some((request, answer)) = first.take() {
                    bytes += W::size(&request);
                    pending.insert(next_id, answer);
                    batch.push((next_id, request));
                    next_id += 1;
                    if bytes < max_bytes && batch.len() < BATCH {
                        first = queue.try_recv().ok();
                    }
                }
                slot.send(W::pack(batch));
            }
        }
    }
}
