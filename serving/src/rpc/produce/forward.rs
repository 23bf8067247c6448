//! One long-lived stream to another broker, for the elements of one client's stream that it owns (DESIGN 6, "wrong broker").
//!
//! An append that may have been sent is never repeated here. When the stream ends, what was handed to the transport and
//! not answered is UNKNOWN; what was not is NOT_READY. Both follow from who holds the answer at that time: a [`Forward`]
//! that is dropped says NOT_READY, the ledger of what was [sent](Sent) says UNKNOWN.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;
use futures::{FutureExt, Stream};
use geminga_proto::caps;
use geminga_proto::ids::{BrokerId, Offset, PartitionIndex};
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;
use geminga_proto::v1::stream_client::StreamClient;
use geminga_records::Batch;
use geminga_runtime::{Tasks, requests};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tonic::transport::Channel;

use super::lane::Meta;
use crate::router::{Appended, hop};

/// Elements handed over and not yet taken by the transport; their bytes are bounded by the client's stream.
const QUEUE: usize = 256;
/// One message gathers what is queued up to this size; one element may be larger.
const GATHER_BYTES: usize = 512 * 1024;

pub(super) type Answer = Result<Appended, ApiError>;

/// An element on its way to the transport.
struct Forward {
    element: v1::ProduceElement,
    bytes: usize,
    answer: Option<oneshot::Sender<Answer>>,
    broker: BrokerId,
}

impl Drop for Forward {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            let why = format!(
                "the partition's owner, broker {}, cannot be reached: try again",
                self.broker
            );
            let _ = answer.send(Err(ApiError::new(Reason::NotReady, why)));
        }
    }
}

/// What was handed to the transport and not answered, by the id that it was sent under. `None` once the stream is over.
#[derive(Debug)]
struct Sent {
    broker: BrokerId,
    open: Mutex<Option<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    next_id: u64,
    answers: HashMap<u64, oneshot::Sender<Answer>>,
}

impl Sent {
    /// Notes that an element is handed over now. `None`, and the element fails as not sent, when the stream is over.
    fn hand_over(&self, mut forward: Forward) -> Option<v1::ProduceElement> {
        let mut open = self.open.lock();
        let waiting = open.as_mut()?;
        let answer = forward.answer.take()?;
        let mut element = std::mem::take(&mut forward.element);
        if element.acks == i32::from(v1::Acks::None) {
            // No answer will come. It may be lost, which is what its sender chose.
            let _ = answer.send(Ok(Appended { base_offset: Offset(-1), log_append_time_ms: -1 }));
        } else {
            element.id = waiting.next_id;
            waiting.next_id += 1;
            waiting.answers.insert(element.id, answer);
        }
        Some(element)
    }

    fn answered(&self, result: v1::ProduceResult) {
        let Some(answer) = self.open.lock().as_mut().and_then(|w| w.answers.remove(&result.id))
        else {
            return;
        };
        let _ = answer.send(match &result.error {
            None => Ok(Appended {
                base_offset: Offset(result.base_offset),
                log_append_time_ms: result.log_append_time_ms,
            }),
            Some(error) => Err(ApiError::from_proto(error)),
        });
    }

    /// The stream is over, for the reason given.
    fn end(&self, why: &str) {
        let Some(waiting) = self.open.lock().take() else { return };
        for answer in waiting.answers.into_values() {
            let why = format!(
                "the stream to broker {} ended ({why}): the batch may have been written",
                self.broker
            );
            let _ = answer.send(Err(ApiError::new(Reason::Unknown, why)));
        }
    }
}

/// A handle on one stream; it ends when the last handle is gone and everything is answered.
#[derive(Debug, Clone)]
pub(super) struct Forwarder {
    broker: BrokerId,
    queue: mpsc::Sender<Forward>,
    sent: Arc<Sent>,
}

impl Forwarder {
    /// Starts a stream to `broker`, which ends with `gone` at the latest: a machine that vanished breaks no connection.
    pub(super) fn start(
        broker: BrokerId,
        channel: Channel,
        gone: impl Future<Output = ()> + Send + 'static,
        tasks: &Tasks,
    ) -> Self {
        let (queue, elements) = mpsc::channel(QUEUE);
        let sent = Arc::new(Sent { broker, open: Mutex::new(Some(Waiting::default())) });
        let run = run(Arc::clone(&sent), channel, elements);
        let run = requests::scope(requests::current(), run).boxed();
        let cancelled = tasks.cancelled();
        let ended = Arc::clone(&sent);
        tasks.spawn("forwarded produce", async move {
            tokio::select! {
                why = run => ended.end(&why),
                () = gone => ended.end("its registration ended"),
                () = cancelled => ended.end("this broker is shutting down"),
            }
        });
        Self { broker, queue, sent }
    }

    /// Whether the stream still takes elements.
    pub(super) fn is_open(&self) -> bool {
        !self.queue.is_closed() && self.sent.open.lock().is_some()
    }

    /// Whether both are the same stream.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.sent, &other.sent)
    }

    /// Queues one element; when this returns its order is fixed. The answer resolves in any case.
    pub(super) async fn send(
        &self,
        topic: &str,
        partition: PartitionIndex,
        meta: Meta,
        batch: Batch,
    ) -> BoxFuture<'static, Answer> {
        let acks = if meta.answered { v1::Acks::All } else { v1::Acks::None };
        let (answer, answered) = oneshot::channel();
        let bytes = batch.len();
        let element = v1::ProduceElement {
            id: 0,
            topic: topic.to_owned(),
            partition: Some(partition.0),
            data: Some(v1::produce_element::Data::Batch(batch.into_bytes())),
            acks: acks.into(),
            restart: meta.restart,
            // It stands in the batch.
            producer: None,
        };
        let forward = Forward { element, bytes, answer: Some(answer), broker: self.broker };
        // A refused element is dropped, and says so.
        let _ = self.queue.send(forward).await;
        answered
            .map(|answer| answer.expect("whoever holds the answer gives one before it goes"))
            .boxed()
    }
}

/// Runs the stream to its end; says why it ended.
async fn run(sent: Arc<Sent>, channel: Channel, elements: mpsc::Receiver<Forward>) -> String {
    let mut client = StreamClient::new(channel)
        .max_decoding_message_size(caps::MAX_INTERNAL_MESSAGE_BYTES)
        .max_encoding_message_size(caps::MAX_INTERNAL_MESSAGE_BYTES);
    let requests = Requests { sent: Arc::clone(&sent), elements, left: None, begun: false };
    let mut answers = match client.produce(hop(requests)).await {
        Ok(response) => response.into_inner(),
        Err(status) => return status.message().to_owned(),
    };
    loop {
        match answers.message().await {
            Ok(Some(response)) => {
                for result in response.results {
                    sent.answered(result);
                }
            }
            Ok(None) => return "it was closed".to_owned(),
            Err(status) => return status.message().to_owned(),
        }
    }
}

/// The elements as the transport takes them, gathered into messages. Ends when nobody can queue more, or when the stream
/// is over. An empty message goes ahead: it says that all are direct, so that their owner finds room for the first among
/// what is forwarded, too. Else that could wait there for what clients sent, which may in turn wait for this broker.
struct Requests {
    sent: Arc<Sent>,
    elements: mpsc::Receiver<Forward>,
    left: Option<Forward>,
    begun: bool,
}

/// What is sent to owners.
fn direct(elements: Vec<v1::ProduceElement>) -> v1::ProduceRequest {
    v1::ProduceRequest { elements, direct: true, forwarded: true, client_id: String::new() }
}

impl Stream for Requests {
    type Item = v1::ProduceRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if !std::mem::replace(&mut this.begun, true) {
            return Poll::Ready(Some(direct(Vec::new())));
        }
        let mut next = match this.left.take() {
            Some(forward) => Some(forward),
            None => ready!(this.elements.poll_recv(cx)),
        };
        let (mut gathered, mut bytes) = (Vec::new(), 0);
        while let Some(forward) = next {
            if !gathered.is_empty() && bytes + forward.bytes > GATHER_BYTES {
                this.left = Some(forward);
                break;
            }
            bytes += forward.bytes;
            let Some(element) = this.sent.hand_over(forward) else { return Poll::Ready(None) };
            gathered.push(element);
            next = this.elements.try_recv().ok();
        }
        Poll::Ready((!gathered.is_empty()).then(|| direct(gathered)))
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    fn forward(acks: v1::Acks) -> (Forward, oneshot::Receiver<Answer>) {
        let (answer, answered) = oneshot::channel();
        let element = v1::ProduceElement { id: 9, acks: acks.into(), ..Default::default() };
        (Forward { element, bytes: 1, answer: Some(answer), broker: BrokerId(2) }, answered)
    }

    fn sent() -> Arc<Sent> {
        Arc::new(Sent { broker: BrokerId(2), open: Mutex::new(Some(Waiting::default())) })
    }

    fn reason(answered: &mut oneshot::Receiver<Answer>) -> Option<Reason> {
        answered.try_recv().expect("answered").err().map(|e| e.reason)
    }

    #[test]
    fn what_was_handed_over_is_unknown_and_what_was_not_is_not_ready() {
        let sent = sent();
        let (first, mut first_answer) = forward(v1::Acks::All);
        let (second, mut second_answer) = forward(v1::Acks::All);
        let (third, mut third_answer) = forward(v1::Acks::All);
        assert!(sent.hand_over(first).is_some());
        drop(second);
        sent.end("reset");
        assert!(sent.hand_over(third).is_none(), "the stream is over");
        assert_eq!(reason(&mut first_answer), Some(Reason::Unknown));
        assert_eq!(reason(&mut second_answer), Some(Reason::NotReady));
        assert_eq!(reason(&mut third_answer), Some(Reason::NotReady));
    }

    #[test]
    fn answers_find_their_elements_whatever_these_were_called() {
        let sent = sent();
        let (first, mut first_answer) = forward(v1::Acks::All);
        let (second, mut second_answer) = forward(v1::Acks::All);
        let ids: Vec<u64> =
            [first, second].into_iter().map(|f| sent.hand_over(f).unwrap().id).collect();
        let error = ApiError::new(Reason::PriorBatchFailed, "x").to_proto();
        sent.answered(v1::ProduceResult { id: ids[1], error: Some(error), ..Default::default() });
        sent.answered(v1::ProduceResult { id: ids[0], base_offset: 7, ..Default::default() });
        sent.answered(v1::ProduceResult { id: 99, ..Default::default() });
        assert_eq!(first_answer.try_recv().unwrap().unwrap().base_offset, Offset(7));
        assert_eq!(reason(&mut second_answer), Some(Reason::PriorBatchFailed));
    }

    /// Else two brokers full of elements for each other would wait for ever: the first message would ask for clients' room.
    #[tokio::test]
    async fn the_first_message_says_that_all_are_direct_and_holds_nothing() {
        let (queue, elements) = mpsc::channel(QUEUE);
        let mut requests = Requests { sent: sent(), elements, left: None, begun: false };
        assert_eq!(requests.next().await, Some(direct(Vec::new())));
        let (first, _answer) = forward(v1::Acks::All);
        queue.send(first).await.unwrap_or_else(|_| panic!("the queue is open"));
        drop(queue);
        let request = requests.next().await.unwrap();
        assert_eq!((request.direct, request.elements.len()), (true, 1));
        assert_eq!(requests.next().await, None);
    }

    #[test]
    fn an_element_without_acks_is_done_when_it_is_handed_over() {
        let (element, mut answer) = forward(v1::Acks::None);
        assert!(sent().hand_over(element).is_some());
        assert_eq!(reason(&mut answer), None);
    }
}
