//! The task between a producer's core and its stream. It decides nothing: it opens a stream when there is something to
//! send, moves elements out and results in, and tells the core when the stream broke.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};
use geminga_proto::caps;
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;
use geminga_proto::v1::stream_client::StreamClient;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use super::Shared;
use super::core::Element;
use crate::error::Error;

/// Messages that wait for the network.
const QUEUE: usize = 2;
/// Batches in one message, unless one alone is larger.
const MESSAGE_BYTES: usize = 1024 * 1024;
/// How long the end of a stream is waited for.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Without anything to do, look again at least this often.
const IDLE: Duration = Duration::from_secs(3600);

/// One stream.
struct Stream {
    requests: mpsc::Sender<v1::ProduceRequest>,
    /// Opens the stream when it is first polled.
    answers: BoxStream<'static, Result<Answer, Status>>,
    /// Nothing is handed over before: without acknowledgements it would count as sent.
    open: bool,
}

/// What comes from the server.
enum Answer {
    /// The stream is open.
    Open,
    Results(v1::ProduceResponse),
}

impl Stream {
    fn open(channel: Channel) -> Self {
        let (requests, queue) = mpsc::channel(QUEUE);
        let answers = async move {
            StreamClient::new(channel)
                .max_decoding_message_size(caps::MAX_CLIENT_MESSAGE_BYTES)
                .produce(ReceiverStream::new(queue))
                .await
        }
        .map_ok(|opened| {
            let results = opened.into_inner().map_ok(Answer::Results);
            futures::stream::iter([Ok(Answer::Open)]).chain(results)
        })
        .try_flatten_stream()
        .boxed();
        Self { requests, answers, open: false }
    }
}

/// What happened next.
enum Happened {
    Cancelled,
    /// A message, or the end of the stream.
    Answered(Option<Result<Answer, Status>>),
    /// The stream has room for a message.
    Room,
    /// Something may have become ready, or overdue.
    Woken,
}

/// Runs until the producer is closed and empty, or the client is closed.
pub(super) async fn run(shared: Arc<Shared>, _end: watch::Sender<()>) {
    let channel = shared.client.own_channel();
    let mut stream: Option<Stream> = None;
    loop {
        let (ready, wake_at, empty) = {
            let core = shared.core.lock();
            let ready = core.is_ready(Instant::now());
            // What is ready waits for room only.
            let ready_at = core.ready_at().filter(|_| !ready);
            (ready, ready_at.into_iter().chain(core.overdue_at()).min(), core.pending() == 0)
        };
        if ready && stream.is_none() {
            stream = Some(Stream::open(channel.clone()));
        }
        if empty && !ready && shared.closing.load(Ordering::SeqCst) {
            if let Some(stream) = stream {
                finish(stream).await;
            }
            return;
        }
        match next(&shared, stream.as_mut(), ready, wake_at).await {
            Happened::Cancelled => {
                let mut done = Vec::new();
                {
                    let mut core = shared.core.lock();
                    core.close(&Error::Closed, &mut done);
                    shared.note(&core);
                }
                shared.tell(done);
                return;
            }
            Happened::Answered(Some(Ok(Answer::Open))) => {
                if let Some(opened) = &mut stream {
                    opened.open = true;
                }
            }
            Happened::Answered(Some(Ok(Answer::Results(response)))) => {
                shared.on_response(response);
            }
            Happened::Answered(Some(Err(status))) => {
                shared.on_lost(&Error::from_status(shared.client.server(), &status));
                stream = None;
            }
            Happened::Answered(None) => {
                shared.on_lost(&shared.lost("the server ended the stream"));
                stream = None;
            }
            Happened::Room => {
                if let Some(open) = &stream {
                    shared.send(open);
                }
            }
            Happened::Woken => {}
        }
        if shared.expire() {
            shared.on_lost(&shared.lost("no answer"));
            stream = None;
            shared.expire();
        }
    }
}

/// Waits for something to happen. Nothing is lost when this is dropped.
async fn next(
    shared: &Shared,
    stream: Option<&mut Stream>,
    ready: bool,
    wake_at: Option<Instant>,
) -> Happened {
    let wake_at = wake_at.unwrap_or_else(|| Instant::now() + IDLE);
    let (answered, room) = match stream {
        Some(Stream { requests, answers, open }) => (
            answers.next().map(Happened::Answered).left_future(),
            async move {
                if !*open {
                    return std::future::pending().await;
                }
                match requests.reserve().await {
                    Ok(_) => Happened::Room,
                    // The other end has gone, and `answers` is about to say why.
                    Err(_) => std::future::pending().await,
                }
            }
            .left_future(),
        ),
        None => (std::future::pending().right_future(), std::future::pending().right_future()),
    };
    tokio::select! {
        biased;
        () = shared.client.tasks().cancelled() => Happened::Cancelled,
        happened = answered => happened,
        happened = room, if ready => happened,
        () = shared.wake.notified() => Happened::Woken,
        () = tokio::time::sleep_until(wake_at) => Happened::Woken,
    }
}

/// Ends the stream from our side and waits until the server has taken everything.
async fn finish(stream: Stream) {
    let Stream { requests, mut answers, .. } = stream;
    drop(requests);
    let end = async { while let Some(Ok(_)) = answers.next().await {} };
    if tokio::time::timeout(CLOSE_TIMEOUT, end).await.is_err() {
        tracing::warn!("the server did not end a produce stream in time");
    }
}

impl Shared {
    fn lost(&self, why: &str) -> Error {
        Error::Unreachable { server: self.client.server().to_owned(), why: why.to_owned() }
    }

    /// Sends one message; only this task sends, so the room that was there still is.
    fn send(&self, stream: &Stream) {
        let Ok(room) = stream.requests.try_reserve() else { return };
        let mut done = Vec::new();
        let elements = {
            let mut core = self.core.lock();
            let elements = core.collect(MESSAGE_BYTES, Instant::now(), &mut done);
            self.note(&core);
            elements
        };
        let acks = if self.acks_none() { v1::Acks::None } else { v1::Acks::All };
        if !elements.is_empty() {
            room.send(v1::ProduceRequest {
                elements: elements.into_iter().map(|element| to_wire(element, acks)).collect(),
                direct: false,
                client_id: self.client.config().client_id.clone(),
            });
        }
        self.tell(done);
    }

    fn acks_none(&self) -> bool {
        self.core.lock().acks_none()
    }

    fn on_response(&self, response: v1::ProduceResponse) {
        let now = Instant::now();
        let mut done = Vec::new();
        {
            let mut core = self.core.lock();
            for result in response.results {
                let end = match &result.error {
                    None => Ok((result.base_offset, result.log_append_time_ms)),
                    Some(error) => Err(ApiError::from_proto(error)),
                };
                if let Err(error) = &end
                    && matches!(error.reason, Reason::UnknownTopic | Reason::UnknownPartition)
                {
                    self.topics.lock().remove(result.topic.as_str());
                }
                core.on_result(result.id, end, now, &mut done);
            }
            self.note(&core);
        }
        self.tell(done);
    }

    fn on_lost(&self, error: &Error) {
        tracing::debug!(%error, "produce stream lost");
        self.core.lock().on_stream_lost(error, Instant::now());
    }

    /// Ends what is overdue; returns whether the stream is stuck.
    fn expire(&self) -> bool {
        let mut done = Vec::new();
        let stuck = {
            let mut core = self.core.lock();
            let stuck = core.expire(Instant::now(), &mut done);
            self.note(&core);
            stuck
        };
        self.tell(done);
        stuck
    }
}

fn to_wire(element: Element, acks: v1::Acks) -> v1::ProduceElement {
    v1::ProduceElement {
        id: element.id,
        topic: element.topic.as_ref().to_owned(),
        partition: Some(element.partition),
        data: Some(v1::produce_element::Data::Batch(element.batch)),
        acks: acks.into(),
        restart: element.restart,
    }
}
