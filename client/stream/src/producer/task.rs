//! The task between a producer's core and its streams, one for each way that its partitions take. It decides nothing: it
//! asks for a producer id when the core wants one, opens a stream when there is something to send on it, moves elements
//! out and results in, and tells the core when a stream broke.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::{BoxFuture, OptionFuture};
use futures::stream::{BoxStream, FuturesUnordered, SelectAll};
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};
use geminga_proto::caps;
use geminga_proto::messages::sent::{self, Sent};
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;
use geminga_proto::v1::stream_client::StreamClient;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use super::ProducerId;
use super::Shared;
use super::core::Element;
use crate::directory::{View, Way};
use crate::error::Error;

/// Messages that wait for the network.
const QUEUE: usize = 2;
/// Batches in one message, unless one alone is larger.
const MESSAGE_BYTES: usize = 1024 * 1024;
/// How long the end of the streams is waited for.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Without anything to do, look again at least this often.
const IDLE: Duration = Duration::from_secs(3600);

/// One stream.
struct Stream {
    /// Whom it was opened to.
    address: String,
    requests: mpsc::Sender<v1::ProduceRequest>,
    /// Nothing is handed over before: without acknowledgements it would count as sent.
    open: bool,
    /// Tells its answers from those of an earlier stream of the same way.
    number: u64,
    /// The stream is reset when this goes: a server that does not answer any more is to stop working on what it has.
    keep: oneshot::Sender<()>,
}

/// What comes from a server.
enum Answer {
    /// The stream is open.
    Open,
    Results(v1::ProduceResponse),
    /// The stream is over.
    Over(Error),
}

/// An answer, and the stream that it came on.
type Heard = (Way, u64, Answer);

/// The streams of one producer.
#[derive(Default)]
struct Streams {
    open: BTreeMap<Way, Stream>,
    /// What comes on all of them, those included that were given up. Each opens its stream when it is first polled.
    answers: SelectAll<BoxStream<'static, Heard>>,
    opened: u64,
}

impl Streams {
    fn open(&mut self, way: Way, address: String, channel: Channel) {
        self.opened += 1;
        let number = self.opened;
        let (requests, queue) = mpsc::channel(QUEUE);
        let answers = async move {
            StreamClient::new(Sent::new(channel))
                .max_decoding_message_size(caps::MAX_CLIENT_MESSAGE_BYTES)
                .produce(sent::request(ReceiverStream::new(queue)))
                .await
        }
        .map_ok(|opened| {
            let results = opened.into_inner().map_ok(Answer::Results);
            futures::stream::iter([Ok(Answer::Open)]).chain(results)
        })
        .try_flatten_stream();
        let server = address.clone();
        let over = futures::stream::iter([Err(Status::unavailable("the server ended the stream"))]);
        let answers = answers.chain(over).map(move |answer| {
            let answer =
                answer.unwrap_or_else(|status| Answer::Over(Error::from_status(&server, &status)));
            (way, number, answer)
        });
        let (keep, given_up) = oneshot::channel::<()>();
        self.answers.push(answers.take_until(given_up).boxed());
        self.open.insert(way, Stream { address, requests, open: false, number, keep });
    }

    /// The stream that an answer came on, unless that was given up.
    fn of(&mut self, way: Way, number: u64) -> Option<&mut Stream> {
        self.open.get_mut(&way).filter(|stream| stream.number == number)
    }
}

/// Resolves when the stream of one of these ways has room for a message. Cancel-safe.
async fn room(open: &BTreeMap<Way, Stream>, ways: &BTreeSet<Way>) -> Way {
    let open = ways.iter().filter_map(|way| Some((*way, open.get(way).filter(|s| s.open)?)));
    let mut room: FuturesUnordered<_> = open
        .map(|(way, stream)| async move {
            match stream.requests.reserve().await {
                Ok(_) => way,
                // The other end has gone, and an answer is about to say why.
                Err(_) => std::future::pending().await,
            }
        })
        .collect();
    match room.next().await {
        Some(way) => way,
        None => std::future::pending().await,
    }
}

/// What happened next.
enum Happened {
    Cancelled,
    Answered(Heard),
    /// There is a producer id, or none yet.
    Asked(Result<ProducerId, Error>),
    /// A stream has room for a message.
    Room(Way),
    /// Owners have changed, as far as is known.
    Moved,
    /// Something may have become ready, or overdue.
    Woken,
}

/// Runs until the producer is closed and empty, or the client is closed.
pub(super) async fn run(shared: Arc<Shared>, _end: watch::Sender<()>) {
    let mut streams = Streams::default();
    let mut views = shared.client.directory().watch();
    let mut asked: Option<BoxFuture<'static, Result<ProducerId, Error>>> = None;
    shared.set_view(&mut views);
    loop {
        let (ready, wants_producer, wake_at, empty) = {
            let core = shared.core.lock();
            let now = Instant::now();
            // What is ready waits for room only.
            let wake_at = core.ready_after(now).into_iter().chain(core.overdue_at()).min();
            (core.ready(now), core.wants_producer(now), wake_at, core.pending() == 0)
        };
        if wants_producer && asked.is_none() {
            let admin = shared.client.admin();
            asked = Some(async move { admin.init_producer().await }.boxed());
        }
        for way in &ready {
            if !streams.open.contains_key(way) {
                shared.open(&mut streams, *way);
            }
        }
        if empty && ready.is_empty() && shared.closing.load(Ordering::SeqCst) {
            return finish(streams).await;
        }
        let wake_at = wake_at.unwrap_or_else(|| Instant::now() + IDLE);
        let happened = tokio::select! {
            biased;
            () = shared.client.tasks().cancelled() => Happened::Cancelled,
            Some(answer) = streams.answers.next() => Happened::Answered(answer),
            Some(answer) = OptionFuture::from(asked.as_mut()) => Happened::Asked(answer),
            _ = views.changed() => Happened::Moved,
            way = room(&streams.open, &ready) => Happened::Room(way),
            () = shared.wake.notified() => Happened::Woken,
            () = tokio::time::sleep_until(wake_at) => Happened::Woken,
        };
        match happened {
            Happened::Cancelled => return shared.cancel(),
            Happened::Answered(heard) => shared.on_answer(&mut streams, heard),
            Happened::Asked(answer) => {
                asked = None;
                shared.on_asked(answer);
            }
            Happened::Moved => shared.set_view(&mut views),
            Happened::Room(way) => {
                if let Some(stream) = streams.open.get(&way) {
                    shared.send(way, stream);
                }
            }
            Happened::Woken => {}
        }
        shared.expire(&mut streams);
    }
}

/// Ends the streams from our side and waits until the servers have taken everything.
async fn finish(streams: Streams) {
    let Streams { open, mut answers, .. } = streams;
    let _keep: Vec<_> = open.into_values().map(|stream| stream.keep).collect();
    let end = async { while answers.next().await.is_some() {} };
    if tokio::time::timeout(CLOSE_TIMEOUT, end).await.is_err() {
        tracing::warn!("a server did not end a produce stream in time");
    }
}

impl Shared {
    fn set_view(&self, views: &mut watch::Receiver<Arc<View>>) {
        let view = Arc::clone(&views.borrow_and_update());
        self.core.lock().set_view(view);
    }

    fn open(&self, streams: &mut Streams, way: Way) {
        let directory = self.client.directory();
        // A broker that cannot be reached any more is one of a view that the task has not seen yet.
        let Some(address) = directory.address(way) else { return };
        match directory.own_channel(&address) {
            Ok(channel) => streams.open(way, address, channel),
            Err(error) => self.lost(way, &error),
        }
    }

    fn on_answer(&self, streams: &mut Streams, (way, number, answer): Heard) {
        let Some(stream) = streams.of(way, number) else { return };
        match answer {
            Answer::Open => {
                stream.open = true;
                self.client.directory().answered(&stream.address);
            }
            Answer::Results(response) => self.on_response(response),
            Answer::Over(error) => self.give_up(streams, way, &error),
        }
    }

    /// The stream of a way is over.
    fn give_up(&self, streams: &mut Streams, way: Way, error: &Error) {
        tracing::debug!(?way, %error, "produce stream lost");
        if let Some(stream) = streams.open.remove(&way)
            && error.sends_away()
        {
            self.client.directory().failed(&stream.address);
        }
        self.lost(way, error);
    }

    fn lost(&self, way: Way, error: &Error) {
        let mut done = Vec::new();
        {
            let mut core = self.core.lock();
            core.on_stream_lost(way, error, Instant::now(), &mut done);
            self.note(&core);
        }
        self.tell(done);
    }

    fn cancel(&self) {
        let mut done = Vec::new();
        {
            let mut core = self.core.lock();
            core.close(&Error::Closed, &mut done);
            self.note(&core);
        }
        self.tell(done);
    }

    /// Sends one message; only this task sends, so the room that was there still is.
    fn send(&self, way: Way, stream: &Stream) {
        let Ok(room) = stream.requests.try_reserve() else { return };
        let mut done = Vec::new();
        let elements = {
            let mut core = self.core.lock();
            let elements = core.collect(way, MESSAGE_BYTES, Instant::now(), &mut done);
            self.note(&core);
            elements
        };
        let acks = if self.acks_none() { v1::Acks::None } else { v1::Acks::All };
        if !elements.is_empty() {
            room.send(v1::ProduceRequest {
                elements: elements.into_iter().map(|element| to_wire(element, acks)).collect(),
                direct: way != Way::Any,
                client_id: self.client.config().client_id.clone(),
                forwarded: false,
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
        for result in &response.results {
            if let Some(error) = &result.error {
                self.on_error(result, &ApiError::from_proto(error));
            }
        }
        {
            let mut core = self.core.lock();
            for result in response.results {
                let end = match &result.error {
                    None => Ok((result.base_offset, result.log_append_time_ms)),
                    Some(error) => Err(ApiError::from_proto(error)),
                };
                core.on_result(result.id, end, now, &mut done);
            }
            self.note(&core);
        }
        self.tell(done);
    }

    fn on_asked(&self, answer: Result<ProducerId, Error>) {
        let mut core = self.core.lock();
        match answer {
            Ok(id) => core.on_producer(id),
            Err(error) => {
                tracing::debug!(%error, "no producer id yet");
                core.on_no_producer(&error, Instant::now());
            }
        }
    }

    /// What an error says of the cluster.
    fn on_error(&self, result: &v1::ProduceResult, error: &ApiError) {
        let directory = self.client.directory();
        match (error.reason, &error.owner_address, result.partition) {
            (Reason::UnknownTopic | Reason::UnknownPartition, ..) => {
                self.topics.lock().remove(result.topic.as_str());
            }
            (Reason::NotOwner, Some(owner), Some(partition)) => {
                directory.moved(&result.topic, partition, owner);
            }
            (reason, ..) if reason.retriable() => directory.trouble(),
            _ => {}
        }
    }

    /// Ends what is overdue, and gives up streams that are stuck.
    fn expire(&self, streams: &mut Streams) {
        loop {
            let mut done = Vec::new();
            let stuck = {
                let mut core = self.core.lock();
                let stuck = core.expire(Instant::now(), &mut done);
                self.note(&core);
                stuck
            };
            self.tell(done);
            if stuck.is_empty() {
                return;
            }
            for way in stuck {
                let server = streams.open.get(&way).map(|stream| stream.address.clone());
                let server = server.unwrap_or_default();
                let lost = Error::Unreachable { server, why: "no answer".to_owned() };
                self.give_up(streams, way, &lost);
            }
        }
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
        // It stands in the batch.
        producer: None,
    }
}
