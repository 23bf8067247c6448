//! One client's produce stream: reads elements while few enough bytes are in flight, keeps a lane for each partition, and
//! moves elements and answers between the lanes and the partitions' owners. All decisions about order are the lanes'.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use geminga_proto::ids::{BrokerId, PartitionIndex, TopicId};
use geminga_proto::messages::Messages;
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::{caps, v1};
use geminga_records::Batch;
use geminga_runtime::requests::{self, RequestId};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::element::{self, Named, Placed, Taken};
use super::forward::{Answer, Forwarder};
use super::gather::{self, gather};
use super::lane::{Item, Lane, Meta, Submit, Ticket, prior_failed};
use super::room::{Held, Taken as Room};
use crate::ownership::topology::Topic;
use crate::quotas::{Account, Kind, millis};
use crate::router::{Appender, Route, no_owner, not_owner};
use crate::rpc::context::Context;
use geminga_proto::messages::is_unreadable;

/// Nothing is read from a stream that has so many bytes in flight.
const MAX_IN_FLIGHT: usize = 32 * 1024 * 1024;
/// Most partitions that one stream may have in flight or failed.
const MAX_LANES: usize = 20_000;
/// Lanes that rest are forgotten beyond this number.
const KEEP_LANES: usize = 1_024;
/// How long an element waits for its partition to get an owner before it is NOT_READY.
const OWNER_WAIT: Duration = Duration::from_secs(1);
/// After a failure that may pass, the next attempt at the partition waits this long, so that clients which repeat at once do not
/// burn both ends.
const PACE: Duration = Duration::from_millis(50);
/// Elements that wait behind others for so long do not keep the messages that they came in.
const STANDS_STILL: Duration = Duration::from_millis(500);
/// Most events handled before answers are sent.
const MAX_EVENTS: usize = 1_024;
/// Most results in one message; nothing is read from a client that leaves so many untaken.
const MAX_RESULTS: usize = 4_096;

/// What a message counts towards.
const QUOTAS: [Kind; 2] = [Kind::Produce, Kind::Request];

type Key = (TopicId, PartitionIndex);

/// How elements of a lane went last.
enum Path {
    /// Into one opening here.
    Local(Arc<dyn Appender>),
    Remote(Forwarder),
}

struct Tracked {
    lane: Lane<Batch>,
    topic: Arc<Topic>,
    path: Option<Path>,
    /// Of the newest element.
    direct: bool,
    not_before: Option<Instant>,
    /// When an element was submitted, or its fate became known.
    moved: Instant,
}

/// How the next element would go.
enum Way {
    /// Here: into the opening that was used last, or into a new one.
    Local(Option<Arc<dyn Appender>>),
    Remote(Forwarder),
    NoOwner,
    Refused(ApiError),
}

enum Event {
    /// An element's place is fixed, or it was refused.
    Submitted(Key, Ticket, Result<(Path, BoxFuture<'static, Answer>), ApiError>),
    /// An element's fate is known.
    Resolved(Key, Ticket, Answer),
    /// The wait for an owner is over.
    Waited(Key, Submit<Batch>),
}

enum Input {
    /// Not read from: too much is in flight.
    Resting(Box<Messages<v1::ProduceRequest>>),
    Reading(BoxFuture<'static, Intake>),
    /// The client, or the broker, wants no more.
    Closed,
    /// The client is gone: nobody reads answers.
    Broken,
}

struct Intake {
    input: Box<Messages<v1::ProduceRequest>>,
    taken: Result<Message, Unread>,
}

/// A message, taken in.
struct Message {
    direct: bool,
    /// Room that was taken for it, and where: as one that is direct or not.
    room: (bool, Room),
    /// What its elements cost together.
    cost: usize,
    /// Whose it is, and bytes of its elements.
    from: Account,
    bytes: usize,
    elements: Vec<Taken>,
}

/// Why there is no message.
enum Unread {
    /// The client has said everything.
    End,
    /// The client has gone.
    Gone(Status),
    /// It is not one that could be taken.
    Refused(ApiError),
}

/// See the module.
pub(super) struct Session {
    ctx: Arc<Context>,
    input: Input,
    stopping: BoxFuture<'static, ()>,
    stopped: bool,
    /// What the stream ends with, after what is in flight.
    last: Option<Status>,
    lanes: HashMap<Key, Tracked>,
    /// Partitions with a failed element whose topic could not be found, so that it has no lane to fail in (P5).
    unplaced: HashSet<Named>,
    forwarders: HashMap<BrokerId, Forwarder>,
    work: FuturesUnordered<BoxFuture<'static, Event>>,
    in_flight: usize,
    /// Batches that went on their way here.
    batches: u64,
    /// Whether the last message was direct: the next one is taken for one of the same.
    direct: bool,
    held: Held,
    /// The client that owes for what it sent, until that is paid: nothing is read from it, and it is told.
    muted: Option<(Account, BoxFuture<'static, ()>)>,
    results: Vec<v1::ProduceResult>,
}

impl Session {
    pub(super) fn new(ctx: Arc<Context>, input: Messages<v1::ProduceRequest>) -> Self {
        Self {
            stopping: ctx.intake.cancelled().boxed(),
            held: Held::new(ctx.produce_room.clone()),
            ctx,
            input: Input::Resting(Box::new(input)),
            stopped: false,
            last: None,
            lanes: HashMap::new(),
            unplaced: HashSet::new(),
            forwarders: HashMap::new(),
            work: FuturesUnordered::new(),
            in_flight: 0,
            batches: 0,
            direct: false,
            muted: None,
            results: Vec::new(),
        }
    }

    /// Serves the stream to its end.
    pub(super) async fn run(mut self, answers: mpsc::Sender<Result<v1::ProduceResponse, Status>>) {
        while !self.is_over() {
            self.read_on();
            tokio::select! {
                biased;
                () = answers.closed() => return,
                () = &mut self.stopping, if !self.stopped => {
                    self.stopped = true;
                    self.close(&ApiError::new(Reason::ShuttingDown, "the broker is shutting down: ask another one"));
                }
                room = answers.reserve(), if !self.results.is_empty() => {
                    let Ok(room) = room else { return };
                    let count = self.results.len().min(MAX_RESULTS);
                    let results = self.results.drain(..count).collect();
                    let owed = self.muted.as_ref().map(|(client, _)| client.debt(QUOTAS).0);
                    let throttle_ms = millis(owed.unwrap_or_default());
                    room.send(Ok(v1::ProduceResponse { results, throttle_ms }));
                }
                Some(event) = self.work.next() => self.on_events(event),
                () = paid(&mut self.muted) => self.muted = None,
                intake = reading(&mut self.input) => self.on_intake(intake),
            }
        }
        if let Some(status) = self.last.take() {
            // A client that has gone does not hear it.
            let _gone = answers.send(Err(status)).await;
        }
    }

    fn is_over(&self) -> bool {
        match self.input {
            Input::Broken => true,
            Input::Closed => self.in_flight == 0 && self.results.is_empty(),
            Input::Resting(_) | Input::Reading(_) => false,
        }
    }

    /// Takes nothing more; what is in flight is finished first.
    fn close(&mut self, why: &ApiError) {
        self.input = Input::Closed;
        self.last.get_or_insert_with(|| why.to_status());
    }

    fn read_on(&mut self) {
        let too_much = self.in_flight >= MAX_IN_FLIGHT || self.results.len() >= MAX_RESULTS;
        if too_much || self.held.owes() || self.muted.is_some() {
            return;
        }
        self.input = match std::mem::replace(&mut self.input, Input::Closed) {
            Input::Resting(input) => {
                Input::Reading(intake(Arc::clone(&self.ctx), input, self.direct).boxed())
            }
            other => other,
        };
    }

    fn on_intake(&mut self, intake: Intake) {
        let Intake { input, taken } = intake;
        match taken {
            Ok(Message { direct, room: (assumed, room), cost, from, bytes, elements }) => {
                self.input = Input::Resting(input);
                self.direct = direct;
                self.charge(from, bytes);
                self.held.charge(assumed, direct, room, cost);
                elements.into_iter().for_each(|element| self.on_element(element));
            }
            Err(Unread::End) => self.input = Input::Closed,
            Err(Unread::Gone(status)) => {
                tracing::debug!(%status, "produce stream broke");
                self.input = Input::Broken;
            }
            Err(Unread::Refused(error)) => self.close(&error),
        }
    }

    /// Counts a message towards its client's quotas, which slow it down and refuse nothing.
    fn charge(&mut self, client: Account, bytes: usize) {
        let sent = client.charge(Kind::Produce, bytes as u64);
        let asked = client.charge(Kind::Request, 1);
        if !sent.max(asked).is_zero() {
            let pays = client.clone();
            let paid = async move {
                pays.paid(QUOTAS).await;
            };
            self.muted = Some((client, paid.boxed()));
        }
    }

    fn on_element(&mut self, taken: Taken) {
        let Taken { named, meta, outcome } = taken;
        if meta.restart {
            self.unplaced.remove(&named);
        } else if self.unplaced.contains(&named) {
            return self.refuse(&named, meta, &prior_failed());
        }
        match outcome {
            Ok(placed) => self.on_placed(placed, meta),
            Err(error) => {
                self.refuse(&named, meta, &error);
                // A longer name will never be a topic's.
                if meta.answered && named.0.len() <= caps::MAX_TOPIC_NAME_BYTES {
                    self.unplaced.insert(named);
                    self.check_lanes();
                }
            }
        }
    }

    fn refuse(&mut self, (topic, partition): &Named, meta: Meta, error: &ApiError) {
        self.held.give_back(meta.direct, meta.cost);
        if meta.answered {
            self.results.push(v1::ProduceResult {
                id: meta.id,
                topic: topic.clone(),
                partition: *partition,
                base_offset: -1,
                log_append_time_ms: -1,
                error: Some(error.to_proto()),
            });
        }
    }

    /// Whether there is room to remember one more partition; else the stream ends.
    fn check_lanes(&mut self) -> bool {
        let fits = self.lanes.len() + self.unplaced.len() < MAX_LANES;
        if !fits {
            let why = format!("more than {MAX_LANES} partitions on one stream: open another");
            self.close(&ApiError::new(Reason::LimitExceeded, why));
        }
        fits
    }

    fn on_placed(&mut self, placed: Placed, meta: Meta) {
        let Placed { topic, partition, work } = placed;
        let key = (topic.id, partition);
        self.forget_idle();
        if !self.lanes.contains_key(&key) && !self.check_lanes() {
            return self.held.give_back(meta.direct, meta.cost);
        }
        self.in_flight += meta.cost;
        let tracked = self.lanes.entry(key).or_insert_with(|| Tracked {
            lane: Lane::default(),
            topic,
            path: None,
            direct: meta.direct,
            not_before: None,
            moved: Instant::now(),
        });
        tracked.direct = meta.direct;
        tracked.push(Item { meta, work });
        self.pump(key);
    }

    fn forget_idle(&mut self) {
        if self.lanes.len() >= KEEP_LANES {
            self.lanes.retain(|_, tracked| !tracked.lane.is_idle());
        }
    }

    fn on_events(&mut self, first: Event) {
        let mut next = Some(first);
        for _ in 0..MAX_EVENTS {
            let Some(event) = next else { return };
            self.on_event(event);
            next = self.work.next().now_or_never().flatten();
        }
        if let Some(event) = next {
            self.on_event(event);
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Submitted(key, ticket, outcome) => self.on_submitted(key, ticket, outcome),
            Event::Resolved(key, ticket, answer) => {
                if let Some(tracked) = self.lanes.get_mut(&key) {
                    tracked.moved = Instant::now();
                    let answer = answer.map_err(|error| tracked.failed(error));
                    tracked.lane.resolved(ticket, answer);
                }
                self.pump(key);
            }
            Event::Waited(key, submit) => {
                let way = match self.way(key) {
                    Way::NoOwner => Way::Refused(self.no_owner(key)),
                    way => way,
                };
                self.send(key, submit, way);
            }
        }
    }

    fn on_submitted(
        &mut self,
        key: Key,
        ticket: Ticket,
        outcome: Result<(Path, BoxFuture<'static, Answer>), ApiError>,
    ) {
        if let Some(tracked) = self.lanes.get_mut(&key) {
            tracked.moved = Instant::now();
            match outcome {
                Ok((path, pending)) => {
                    tracked.path = Some(path);
                    tracked.lane.submitted(ticket, Ok(()));
                    self.work.push(
                        pending.map(move |answer| Event::Resolved(key, ticket, answer)).boxed(),
                    );
                }
                Err(error) => {
                    let error = tracked.failed(error);
                    tracked.lane.submitted(ticket, Err(error));
                }
            }
        }
        self.pump(key);
    }

    /// Submits what the lane allows, and collects its results.
    fn pump(&mut self, key: Key) {
        if let Some(tracked) = self.lanes.get(&key)
            && tracked.lane.has_next()
        {
            let way = self.way(key);
            if let Some(tracked) = self.lanes.get_mut(&key)
                && let Some(submit) = tracked.lane.next(tracked.goes(&way))
            {
                self.send(key, submit, way);
            }
        }
        self.collect(key);
    }

    fn collect(&mut self, key: Key) {
        let Some(tracked) = self.lanes.get_mut(&key) else { return };
        while let Some((meta, answer)) = tracked.lane.take_result() {
            self.in_flight -= meta.cost;
            self.held.give_back(meta.direct, meta.cost);
            if meta.answered {
                self.results.push(result(meta, &tracked.topic, key.1, answer));
            }
        }
    }

    /// How an element goes now.
    fn way(&mut self, key: Key) -> Way {
        let Some(tracked) = self.lanes.get(&key) else { return Way::NoOwner };
        match self.ctx.router.owner_of(&tracked.topic, key.1) {
            Route::Local { .. } => Way::Local(tracked.open_here()),
            Route::Remote { address, .. } if tracked.direct => {
                Way::Refused(not_owner(&tracked.topic.name, key.1, address))
            }
            Route::Remote { broker, .. } => match self.forwarder(broker) {
                Ok(forwarder) => Way::Remote(forwarder),
                Err(error) => Way::Refused(error),
            },
            Route::NoOwner => Way::NoOwner,
        }
    }

    fn no_owner(&self, key: Key) -> ApiError {
        no_owner(self.lanes.get(&key).map_or("", |t| t.topic.name.as_str()), key.1)
    }

    fn forwarder(&mut self, broker: BrokerId) -> Result<Forwarder, ApiError> {
        if let Some(forwarder) = self.forwarders.get(&broker).filter(|f| f.is_open()) {
            return Ok(forwarder.clone());
        }
        self.forwarders.retain(|_, forwarder| forwarder.is_open());
        let channel = self.ctx.router.channel(broker)?;
        let gone = self.ctx.router.gone(broker);
        let forwarder = Forwarder::start(broker, channel, gone, &self.ctx.tasks);
        self.forwarders.insert(broker, forwarder.clone());
        Ok(forwarder)
    }

    /// What logs and traces call the next batch. A stream lasts for as long as its client wants: it is not traced as one.
    fn next_id(&mut self) -> Option<RequestId> {
        let stream = requests::current()?;
        if !self.ctx.requests.are_told() {
            return Some(stream);
        }
        self.batches += 1;
        Some(stream.part(self.batches))
    }

    /// Sends a submitted element on its way.
    fn send(&mut self, key: Key, submit: Submit<Batch>, way: Way) {
        let id = self.next_id();
        let Some(tracked) = self.lanes.get_mut(&key) else { return };
        tracked.moved = Instant::now();
        let topic = Arc::clone(&tracked.topic);
        let pace = tracked.not_before.take();
        let Submit { ticket, meta, element } = submit;
        let work = match way {
            Way::Local(opening) => {
                let partitions = Arc::clone(&self.ctx.partitions);
                async move {
                    paced(pace).await;
                    let submitted = async {
                        let opening = match opening {
                            Some(opening) => opening,
                            None => partitions.appender(topic, key.1).await?,
                        };
                        let pending = requests::scope(id, opening.append(element)).await?;
                        Ok((Path::Local(opening), pending))
                    };
                    Event::Submitted(key, ticket, submitted.await)
                }
                .boxed()
            }
            Way::Remote(forwarder) => async move {
                paced(pace).await;
                let pending = forwarder.send(&topic.name, key.1, meta, element).await;
                Event::Submitted(key, ticket, Ok((Path::Remote(forwarder), pending)))
            }
            .boxed(),
            Way::NoOwner => {
                let topology = self.ctx.router.topology().clone();
                let submit = Submit { ticket, meta, element };
                async move {
                    let owner = |view: &crate::ownership::topology::Topology| {
                        view.owner(key.0, key.1).filter(|o| o.address.is_some())
                    };
                    topology.wait_for(OWNER_WAIT, owner).await;
                    Event::Waited(key, submit)
                }
                .boxed()
            }
            Way::Refused(error) => async move {
                paced(pace).await;
                Event::Submitted(key, ticket, Err(error))
            }
            .boxed(),
        };
        self.work.push(work);
    }
}

impl Tracked {
    /// The next element. Behind others that stand still it waits in a buffer of its own: bounds count what the elements
    /// take, and a message is as large as everything that was sent with it.
    fn push(&mut self, mut item: Item<Batch>) {
        if self.lane.is_waiting() && self.moved.elapsed() >= STANDS_STILL {
            item.work = item.work.map(|batch| batch.detached());
        }
        self.lane.push(item);
    }

    /// The opening here that was used last, if it still takes batches.
    fn open_here(&self) -> Option<Arc<dyn Appender>> {
        match &self.path {
            Some(Path::Local(opening)) if opening.is_open() => Some(Arc::clone(opening)),
            _ => None,
        }
    }

    /// Whether the next element would go where those that wait have gone. An opening that ended fails all that waits in
    /// it, which must be known before a later one is used.
    fn goes(&self, way: &Way) -> bool {
        match (way, &self.path) {
            (_, None) | (Way::Local(Some(_)), Some(Path::Local(_))) | (Way::Refused(_), _) => true,
            (Way::Remote(next), Some(Path::Remote(last))) => next.is(last),
            _ => false,
        }
    }

    /// What the client is told, and when the partition is tried again.
    fn failed(&mut self, error: ApiError) -> ApiError {
        if error.reason.retriable() && error.reason != Reason::PriorBatchFailed {
            self.not_before = Some(Instant::now() + PACE);
        }
        if error.reason == Reason::NotOwner && !self.direct {
            let why =
                format!("the partition is moving to another broker ({}): try again", error.message);
            return ApiError::new(Reason::NotReady, why);
        }
        error
    }
}

/// Waits for room for one message, reads it, and takes its elements in. `direct`: what it is taken for.
async fn intake(
    ctx: Arc<Context>,
    mut input: Box<Messages<v1::ProduceRequest>>,
    direct: bool,
) -> Intake {
    let taken = match gather(&mut input, &ctx.produce_room, direct).await {
        Ok(Some((request, room))) => take_in(&ctx, request, room.map(|room| (direct, room))).await,
        Ok(None) => Err(Unread::End),
        Err(gather::Unread::Failed(status)) => Err(unread(status)),
        Err(gather::Unread::Late(error)) => Err(Unread::Refused(error)),
    };
    Intake { input, taken }
}

/// `room`: what the message has, and whether as a direct one.
async fn take_in(
    ctx: &Context,
    request: v1::ProduceRequest,
    room: Option<(bool, Room)>,
) -> Result<Message, Unread> {
    let v1::ProduceRequest { elements: untaken, direct, client_id, forwarded } = request;
    if untaken.len() > caps::MAX_PRODUCE_ELEMENTS {
        let (count, limit) = (untaken.len(), caps::MAX_PRODUCE_ELEMENTS);
        let why = format!("{count} elements in one request: send {limit} at most");
        return Err(Unread::Refused(ApiError::new(Reason::LimitExceeded, why)));
    }
    let cost: usize = untaken.iter().map(element::cost).sum();
    let bytes = cost - untaken.len() * element::OVERHEAD_BYTES;
    let from = ctx.quotas.account(&client_id, forwarded);
    let room = match room {
        Some(room) => room,
        None => (direct, ctx.produce_room.take(direct, cost).await),
    };
    let mut elements = Vec::with_capacity(untaken.len());
    for element in untaken {
        let cost = element::cost(&element);
        elements.push(element::take(ctx, element, direct, cost).await);
        // Thousands of them are not taken in one go.
        tokio::task::consume_budget().await;
    }
    Ok(Message { direct, room, cost, from, bytes, elements })
}

/// A client that went away, or one that sent what is no message of ours: that one is told.
fn unread(status: Status) -> Unread {
    if !is_unreadable(&status) {
        return Unread::Gone(status);
    }
    let (reason, why) = match status.code() {
        Code::OutOfRange => (Reason::LimitExceeded, "is too large: send less at once"),
        _ => (Reason::InvalidRequest, "cannot be read: check its fields"),
    };
    let why = format!("a request {why} ({})", status.message());
    Unread::Refused(ApiError::new(reason, why))
}

/// Resolves when a message was read; never while none is being read. Cancel-safe.
async fn reading(input: &mut Input) -> Intake {
    match input {
        Input::Reading(intake) => intake.await,
        Input::Resting(_) | Input::Closed | Input::Broken => std::future::pending().await,
    }
}

/// Resolves when the client has paid; never while it owes nothing. Cancel-safe.
async fn paid(muted: &mut Option<(Account, BoxFuture<'static, ()>)>) {
    match muted {
        Some((_, paid)) => paid.await,
        None => std::future::pending().await,
    }
}

async fn paced(until: Option<Instant>) {
    if let Some(until) = until {
        tokio::time::sleep_until(until).await;
    }
}

fn result(
    meta: Meta,
    topic: &Topic,
    partition: PartitionIndex,
    answer: Answer,
) -> v1::ProduceResult {
    let (base_offset, log_append_time_ms, error) = match answer {
        Ok(done) => (done.base_offset.0, done.log_append_time_ms, None),
        Err(error) => (-1, -1, Some(error.to_proto())),
    };
    v1::ProduceResult {
        id: meta.id,
        topic: topic.name.clone(),
        partition: Some(partition.0),
        base_offset,
        log_append_time_ms,
        error,
    }
}

#[cfg(test)]
mod tests;
