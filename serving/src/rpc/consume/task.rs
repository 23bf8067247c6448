//! The task of one stream: it moves messages between the client, the member, the reader, the coordinator and the
//! partitions' owners, and decides nothing. It never waits for the client while the coordinator has to hear from it.

use std::collections::VecDeque;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt};
use geminga_proto::ids::PartitionIndex;
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;
use geminga_proto::v1::consume_request::Op;
use geminga_proto::v1::consume_response::Event as Say;
use tokio::time::Instant;
use tonic::Status;

use super::member::{CommitCall, Effect, Event, Member};
use super::reader::{Answer, Call, Reader, Work};
use super::{ConsumeContext, Joining};
use crate::groups::types::{Commit, CommitBy, TopicPartition};
use crate::groups::{metrics, wire};
use crate::quotas::{Account, Kind, millis};
use crate::router::OffsetAt;
use crate::rpc::outgoing::{Giver, LOOK, Waits, Watch};
use geminga_proto::messages::is_unreadable;

/// How long the coordinator is looked for before a member hears of it: for a join (besides its wait), a heartbeat, a
/// commit, a departure.
const JOIN: Duration = Duration::from_secs(15);
const BEAT: Duration = Duration::from_secs(5);
const COMMIT: Duration = Duration::from_secs(30);
const DEPART: Duration = Duration::from_secs(10);
/// Offsets looked up at one time, and the pause between attempts at one.
const LOOK_UPS: usize = 32;
const LOOK_UP_PAUSE: Duration = Duration::from_millis(200);
/// Calls to owners of partitions that are out, those that a seek made void included.
const MAX_CALLS: usize = 256;
/// Events that wait for the client; above, its requests are not taken.
const MAX_SAYINGS: usize = 1024;
/// What a member's data, and its commits, count towards. They hold back data only: to hold back what it says would cost it its
/// membership.
const QUOTAS: [Kind; 2] = [Kind::Consume, Kind::Request];
/// How long the last events may take to leave.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// More credit than this is not remembered.
const MAX_CREDIT: i64 = 1 << 50;

type Events = Giver<v1::ConsumeResponse>;
type Pending = Option<BoxFuture<'static, Event>>;
type Reads = FuturesUnordered<BoxFuture<'static, (TopicPartition, u64, Answer)>>;

/// Serves one stream to its end.
pub(super) async fn serve<S>(
    context: ConsumeContext,
    mut requests: S,
    events: Events,
    mut watch: Watch,
) where
    S: Stream<Item = Result<v1::ConsumeRequest, Status>> + Send + Unpin + 'static,
{
    let _counted = metrics::ConsumerStream::opened();
    let (stopping, still) = (context.tasks.cancelled(), context.tasks.cancelled());
    let served = async {
        let joining = first(&context, &mut requests).await?;
        Box::pin(Consumer::new(context, joining, requests, &events).run()).await;
        Ok::<(), ApiError>(())
    };
    let error = tokio::select! {
        biased;
        () = stopping => {
            let why = "this broker is shutting down: join again at another one with the same member id";
            Err(ApiError::new(Reason::ShuttingDown, why))
        }
        () = watch.until_gone() => {
            tracing::debug!("consumer's stream broke");
            Ok(())
        }
        served = served => served,
    };
    if let Err(error) = error {
        // A client that takes nothing any more does not hear it.
        let _last = tokio::time::timeout(LAST_WORDS, events.end(error.to_status())).await;
    }
    drop(events);
    tokio::select! {
        () = still => {}
        () = watch.until_written() => {}
    }
}

/// The first request, which must be a join of topics that exist.
async fn first<S>(context: &ConsumeContext, requests: &mut S) -> Result<Joining, ApiError>
where
    S: Stream<Item = Result<v1::ConsumeRequest, Status>> + Unpin,
{
    let request = requests.next().await.transpose().map_err(|s| ApiError::from_status(&s))?;
    let Some(v1::ConsumeRequest { op: Some(Op::Join(join)) }) = request else {
        return Err(ApiError::new(Reason::InvalidRequest, "a consume stream begins with a join"));
    };
    let joining = Joining::new(join, &*context.random)?;
    for topic in &joining.join.topics {
        context.topology.resolve(topic).await?;
    }
    Ok(joining)
}

struct Consumer<'a, S> {
    context: ConsumeContext,
    joining: Joining,
    member: Member,
    reader: Reader,
    credit: i64,
    client: Account,
    /// While data is held back: until that is paid.
    muted: Option<BoxFuture<'static, Duration>>,
    /// For so long the next data was held back.
    held_back: Duration,
    /// `None` once the client has closed its side.
    requests: Option<S>,
    events: &'a Events,
    /// What was decided to be said; before any data.
    sayings: VecDeque<Say>,
    join: Pending,
    beat: Pending,
    commit: Pending,
    depart: Pending,
    resolve: Pending,
    reads: Reads,
}

/// What woke the task.
enum Woken {
    Room,
    /// What the client was given is written; it was not for a while.
    Written,
    Look,
    Member(Event),
    Read(TopicPartition, u64, Answer),
    Request(Option<Result<v1::ConsumeRequest, Status>>),
    Due,
    Paid(Duration),
    Gone,
}

impl<'a, S> Consumer<'a, S>
where
    S: Stream<Item = Result<v1::ConsumeRequest, Status>> + Send + Unpin + 'static,
{
    fn new(context: ConsumeContext, joining: Joining, requests: S, events: &'a Events) -> Self {
        let ms = |ms: u32| Duration::from_millis(u64::from(ms));
        let join = &joining.join;
        let (member, first) = Member::new(
            Instant::now(),
            join.caller.member.clone(),
            ms(join.session_timeout_ms),
            ms(join.rebalance_timeout_ms),
        );
        let reader = Reader::new(joining.format, joining.reset);
        let client = context.quotas.account(&join.client_id, false);
        let mut consumer = Self {
            context,
            joining,
            member,
            reader,
            credit: 0,
            client,
            muted: None,
            held_back: Duration::ZERO,
            requests: Some(requests),
            events,
            sayings: VecDeque::new(),
            join: None,
            beat: None,
            commit: None,
            depart: None,
            resolve: None,
            reads: Reads::new(),
        };
        consumer.carry_out(first);
        consumer.charge(Kind::Request, 1);
        consumer
    }

    async fn run(mut self) {
        while !self.member.has_ended() {
            if self.is_held_back() && self.context.client.is_room_wanted() {
                self.reader.let_go();
            }
            // What it may not be given yet would be in the way of others.
            while self.muted.is_none()
                && self.reads.len() < MAX_CALLS
                && let Some(work) = self.reader.next_work(self.credit)
            {
                let call = self.work(work);
                self.reads.push(call);
            }
            let woken = self.woken().await;
            let now = Instant::now();
            match woken {
                Woken::Room => self.say(),
                Woken::Written => {}
                Woken::Look if self.context.client.is_room_wanted() => self.reader.let_go(),
                Woken::Look => {}
                Woken::Member(event) => self.step(now, event),
                Woken::Read(tp, ticket, answer) => self.reader.on_answer(now, &tp, ticket, answer),
                Woken::Request(request) => {
                    if let Some(event) = self.on_request(request) {
                        self.step(now, event);
                    }
                }
                Woken::Paid(held_back) => {
                    self.muted = None;
                    self.held_back = held_back;
                }
                Woken::Due => {
                    self.reader.tick(now);
                    self.step(now, Event::Tick);
                }
                Woken::Gone => {
                    tracing::debug!(group = %self.joining.group, member = %self.member.id(), "consumer's stream broke");
                    return;
                }
            }
        }
        let last = async {
            for say in self.sayings {
                if !self.events.is_taking().await {
                    return;
                }
                let event = v1::ConsumeResponse { event: Some(say), throttle_ms: 0 };
                self.events.give(event, None);
            }
        };
        let _unheard = tokio::time::timeout(LAST_WORDS, last).await;
    }

    /// Whether something was read that the client has no credit for, or has to wait for.
    fn is_held_back(&self) -> bool {
        (self.credit <= 0 || self.muted.is_some()) && self.reader.holds()
    }

    /// Waits for whatever is next. Cancel-safe: everything that is under way stays in its place.
    async fn woken(&mut self) -> Woken {
        let due = [self.member.next_deadline(), self.reader.next_deadline()];
        let due = due.into_iter().flatten().min();
        let may_read = self.muted.is_none() && self.reader.has_data(self.credit);
        let is_waiting = may_read && self.reader.is_waiting();
        let to_say = !self.sayings.is_empty() || (may_read && !is_waiting);
        let is_held_back = self.is_held_back();
        let listens = self.member.has_room() && self.sayings.len() < MAX_SAYINGS;
        tokio::select! {
            biased;
            event = done(&mut self.join) => Woken::Member(event),
            event = done(&mut self.beat) => Woken::Member(event),
            event = done(&mut self.commit) => Woken::Member(event),
            event = done(&mut self.depart) => Woken::Member(event),
            event = done(&mut self.resolve) => Woken::Member(event),
            () = until(due) => Woken::Due,
            // Somebody may want its room.
            () = tokio::time::sleep(LOOK), if is_held_back => Woken::Due,
            () = tokio::time::sleep(LOOK), if is_waiting => Woken::Look,
            held_back = paid(&mut self.muted) => Woken::Paid(held_back),
            request = next(&mut self.requests), if listens => Woken::Request(request),
            taking = self.events.is_taking(), if to_say => match taking {
                true => Woken::Room,
                false => Woken::Gone,
            },
            () = self.events.until_written(), if is_waiting => Woken::Written,
            Some((tp, ticket, answer)) = self.reads.next() => Woken::Read(tp, ticket, answer),
        }
    }

    /// Sends one event; there was room for it, and only this task takes room.
    fn say(&mut self) {
        let (mut throttle_ms, mut room) = (0, None);
        let event = match self.sayings.pop_front() {
            Some(say) => say,
            None => {
                let Some((data, cost, held)) = self.reader.next_data(self.credit) else { return };
                room = held;
                self.credit = self.credit.saturating_sub(cost);
                metrics::consumed(cost);
                self.charge(Kind::Consume, u64::try_from(cost).unwrap_or(0));
                throttle_ms = millis(std::mem::take(&mut self.held_back));
                Say::Data(data)
            }
        };
        self.events.give(v1::ConsumeResponse { event: Some(event), throttle_ms }, room);
    }

    /// Counts what the client had, or asked for; the next data waits until that is paid.
    fn charge(&mut self, kind: Kind, amount: u64) {
        if !self.client.charge(kind, amount).is_zero() && self.muted.is_none() {
            let client = self.client.clone();
            self.muted = Some(async move { client.paid(QUOTAS).await }.boxed());
        }
    }

    fn step(&mut self, now: Instant, event: Event) {
        let effects = self.member.step(now, event);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Say(say) => self.sayings.push_back(say),
                Effect::Join => {
                    self.beat = None;
                    self.join = Some(self.call_join());
                }
                Effect::Beat(generation) => self.beat = Some(self.call_beat(generation)),
                Effect::Commit(call) => self.commit = Some(self.call_commit(call)),
                Effect::Depart => {
                    (self.join, self.beat, self.resolve) = (None, None, None);
                    self.depart = Some(self.call_depart());
                }
                Effect::Resolve(starts) => self.resolve = Some(self.look_up(starts)),
                Effect::Read(starts) => self.reader.start(starts),
                Effect::Stop => {
                    self.resolve = None;
                    self.reads = Reads::new();
                    self.reader.stop();
                }
            }
        }
    }

    fn on_request(&mut self, request: Option<Result<v1::ConsumeRequest, Status>>) -> Option<Event> {
        let op = match request {
            Some(Ok(request)) => request.op,
            // A client that is told nothing would wait for answers for ever.
            Some(Err(status)) if is_unreadable(&status) => {
                self.requests = None;
                return Some(invalid("a request cannot be read: check its size and its fields"));
            }
            // A broken stream is noticed on the other side as well; until then it is merely silent.
            Some(Err(_)) | None => {
                self.requests = None;
                return Some(Event::HalfClosed);
            }
        };
        match op {
            Some(Op::Credit(credit)) => {
                let more = i64::try_from(credit.bytes).unwrap_or(i64::MAX);
                self.credit = self.credit.saturating_add(more).min(MAX_CREDIT);
                None
            }
            Some(Op::Commit(commit)) => {
                self.charge(Kind::Request, 1);
                match wire::commit_offsets(commit.offsets) {
                    Ok(offsets) => Some(Event::Commit(commit.id, offsets)),
                    Err(error) => {
                        let error = Some(ApiError::from(error).to_proto());
                        let refused = v1::ConsumeCommitted { id: commit.id, error };
                        self.sayings.push_back(Say::Committed(refused));
                        None
                    }
                }
            }
            Some(Op::Revoked(revoked)) => Some(Event::Revoked(revoked.generation)),
            Some(Op::Leave(_)) => Some(Event::Leave),
            Some(Op::Seek(seek)) => {
                if seek.offset < 0 {
                    return Some(invalid("an offset to seek to must not be negative"));
                }
                let tp = TopicPartition { topic: seek.topic.into(), partition: seek.partition };
                self.reader.seek(&tp, seek.offset);
                None
            }
            Some(Op::Pause(pause)) => {
                let tp = TopicPartition { topic: pause.topic.into(), partition: pause.partition };
                self.reader.pause(&tp, pause.paused);
                None
            }
            Some(Op::Join(_)) => Some(invalid("a stream joins once: open another one")),
            None => Some(invalid("this request is of a newer version: upgrade this broker")),
        }
    }

    fn call_join(&self) -> BoxFuture<'static, Event> {
        let (groups, joining) = (self.context.groups.clone(), self.joining.clone());
        let within = JOIN + Duration::from_millis(u64::from(joining.join.session_timeout_ms / 3));
        async move { Event::Joined(groups.join(&joining.group, joining.join, within).await) }
            .boxed()
    }

    fn call_beat(&self, generation: i32) -> BoxFuture<'static, Event> {
        let (groups, joining) = (self.context.groups.clone(), &self.joining);
        let (group, caller) = (joining.group.clone(), joining.join.caller.clone());
        async move { Event::Beaten(groups.heartbeat(&group, caller, generation, BEAT).await) }
            .boxed()
    }

    fn call_commit(&self, call: CommitCall) -> BoxFuture<'static, Event> {
        let (groups, group) = (self.context.groups.clone(), self.joining.group.clone());
        let by = CommitBy {
            caller: self.joining.join.caller.clone(),
            generation: call.generation,
            sequence: call.sequence,
        };
        let commit = Commit { by: Some(by), offsets: call.offsets };
        async move { Event::Committed(groups.commit(&group, commit, COMMIT).await) }.boxed()
    }

    /// A departure that fails is one that the session timeout makes.
    fn call_depart(&self) -> BoxFuture<'static, Event> {
        let (groups, joining) = (self.context.groups.clone(), &self.joining);
        let (group, caller) = (joining.group.clone(), joining.join.caller.clone());
        async move {
            if let Err(error) = groups.leave(&group, caller, DEPART).await {
                tracing::warn!(%group, %error, "member departs by its session timeout");
            }
            Event::Left
        }
        .boxed()
    }

    /// Finds where to start what has no committed offset.
    fn look_up(&self, starts: Vec<(TopicPartition, Option<i64>)>) -> BoxFuture<'static, Event> {
        let (context, reset) = (self.context.clone(), self.joining.reset);
        async move {
            let (known, unknown): (Vec<_>, Vec<_>) =
                starts.into_iter().partition(|(_, at)| at.is_some());
            let mut found: Vec<_> =
                known.into_iter().filter_map(|(tp, at)| Some((tp, at?))).collect();
            let mut look_ups = futures::stream::iter(unknown)
                .map(|(tp, _)| {
                    let context = context.clone();
                    async move { settle(&context, &tp, reset).await.map(|at| (tp, at)) }
                })
                .buffer_unordered(LOOK_UPS)
                .boxed();
            while let Some(one) = look_ups.next().await {
                match one {
                    Ok(one) => found.push(one),
                    Err(error) => return Event::Resolved(Err(error)),
                }
            }
            found.sort_unstable();
            Event::Resolved(Ok(found))
        }
        .boxed()
    }

    fn work(&self, work: Work) -> BoxFuture<'static, (TopicPartition, u64, Answer)> {
        let (context, reset) = (self.context.clone(), self.joining.reset);
        let Work { tp, ticket, call } = work;
        async move {
            let answer = match call {
                Call::Find => Answer::Found(find(&context, &tp, reset).await),
                Call::Read(spec, needs) => {
                    let partition = PartitionIndex(tp.partition);
                    let one = |spec| {
                        let (context, tp) = (context.clone(), tp.clone());
                        async move {
                            let topic = context.topology.resolve(&tp.topic).await?;
                            context.source.read(&topic, partition, spec).await
                        }
                    };
                    let read = context.client.read(spec, needs, Waits::Always, one).await;
                    Answer::Read(read.map(|read| read.expect("room was waited for")))
                }
            };
            (tp, ticket, answer)
        }
        .boxed()
    }
}

/// A request that no client should make ends the stream, like one that is not understood.
fn invalid(why: &str) -> Event {
    Event::Invalid(ApiError::new(Reason::InvalidRequest, why))
}

/// Where a partition starts, however long that cannot be said.
async fn settle(
    context: &ConsumeContext,
    tp: &TopicPartition,
    reset: v1::OffsetReset,
) -> Result<i64, ApiError> {
    loop {
        match find(context, tp, reset).await {
            // A topic that is gone leaves the assignment soon.
            Err(error)
                if error.reason.retriable()
                    || matches!(error.reason, Reason::UnknownTopic | Reason::UnknownPartition) =>
            {
                tracing::debug!(partition = %tp, %error, "start offset cannot be found yet");
                tokio::time::sleep(LOOK_UP_PAUSE).await;
            }
            found => return found,
        }
    }
}

async fn find(
    context: &ConsumeContext,
    tp: &TopicPartition,
    reset: v1::OffsetReset,
) -> Result<i64, ApiError> {
    let at = match reset {
        v1::OffsetReset::Earliest => OffsetAt::Earliest,
        v1::OffsetReset::Latest => OffsetAt::Latest,
        v1::OffsetReset::None => {
            let why = format!(
                "{tp} has no committed offset: commit one, or join with offset_reset earliest or latest"
            );
            return Err(ApiError::new(Reason::OffsetOutOfRange, why));
        }
    };
    let topic = context.topology.resolve(&tp.topic).await?;
    let found = context.source.find_offset(&topic, PartitionIndex(tp.partition), at).await?;
    Ok(found.offset.map_or(0, |offset| offset.0))
}

/// The answer to a call, which is then over; never, without one. Cancel-safe.
async fn done(call: &mut Pending) -> Event {
    match call {
        Some(running) => {
            let event = running.await;
            *call = None;
            event
        }
        None => std::future::pending().await,
    }
}

/// Resolves when a client that is held back has paid, with how long that took; never, when it is not. Cancel-safe.
async fn paid(muted: &mut Option<BoxFuture<'static, Duration>>) -> Duration {
    match muted {
        Some(paid) => paid.await,
        None => std::future::pending().await,
    }
}

async fn next<S: Stream + Unpin>(requests: &mut Option<S>) -> Option<S::Item> {
    match requests {
        Some(requests) => requests.next().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
