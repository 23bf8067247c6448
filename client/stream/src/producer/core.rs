//! What a producer decides, without any I/O: how records become batches, what is sent next, and what is sent again.
//!
//! A *lane* is one partition. Its batches are sent in order, several on their way at once. When one fails, nothing more
//! is sent until every batch of the lane that is on its way has been answered; then sending starts again at the first
//! that is not acknowledged, marked `restart` (go-back-N, P5). So there are never two attempts at one batch at a time,
//! and the first copies of records stand in the log in the order in which they were given. A stream that broke counts
//! as the answer *unknown* to everything on its way, and unknown is repeated.
//!
//! Each lane takes the [`Way`] that the view names for its partition. A lane changes its way when nothing of it is on the
//! former one.
//!
//! *Idempotent*, each batch gets the next sequence numbers of its lane when it is first sent, and keeps them: whatever is
//! repeated is written once. A batch is *in doubt* when the outcome of an attempt is not known.
//!
//! * Without one batch, brokers take none after it in its epoch. So when one that was certainly not written leaves its lane,
//!   neither were those behind it, and these get new numbers in the lane's next epoch.
//! * One in doubt stays until its fate is known, also when nobody waits for it any more. A refusal for good is no news of
//!   what became of earlier attempts: where repeating it may help it is repeated while somebody waits. Else it ends, and
//!   what is in doubt behind it ends with it, since under new numbers it could be written a second time.
//! * Numbers change only while nothing that has them is on its way: until then a batch that ended keeps its place.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use geminga_proto::reason::{ApiError, Reason};
use geminga_records::{Builder, Compression, Record, Sequence, decode, encode, sequence_after};
use geminga_runtime::Random;
use tokio::time::Instant;

use crate::backoff;
use crate::directory::{View, Way};
use crate::error::Error;

/// Decompressed bytes of one of our own batches: what its builder let in.
const OWN_BATCH_BYTES: usize = 2 * geminga_proto::caps::MAX_BATCH_BYTES;

/// What an element takes of a message beside its batch and its topic's name.
const ELEMENT_BYTES: usize = 32;
/// How long after its delivery timeout the answer to a batch is still waited for, before its stream is given up: longer
/// than a broker takes to say that it does not know. Giving up costs other partitions a repetition.
const STUCK: Duration = Duration::from_secs(60);

/// What the core needs to know of the producer's settings.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) compression: Compression,
    /// Most bytes of a batch before compression, unless one record alone is larger.
    pub(crate) batch_bytes: usize,
    /// How long a batch waits to become full.
    pub(crate) linger: Duration,
    /// Most batches of one lane on their way.
    pub(crate) in_flight: usize,
    pub(crate) delivery_timeout: Duration,
    /// Batches end when they are sent; nobody waits for answers.
    pub(crate) acks_none: bool,
    /// Batches have sequence numbers. Not without acknowledgements.
    pub(crate) idempotent: bool,
}

/// Where an acknowledged record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: u32,
    /// Its offset; `None` with [`Acks::None`](super::Acks::None): it was sent, no more is known. Also when a broker says that
    /// it was written before, and does not remember where.
    pub offset: Option<i64>,
    /// When the broker appended it, milliseconds since the Unix epoch; 0 when it does not date records.
    pub log_append_time_ms: i64,
}

/// How a record ended, and who waits for that.
pub(crate) type Done<W> = (W, Result<Ack, Error>);

/// The answer to an element: its base offset and the broker's time, or why not.
pub(crate) type Answer = Result<(i64, i64), ApiError>;

/// A batch to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) id: u64,
    pub(crate) topic: Arc<str>,
    pub(crate) partition: u32,
    pub(crate) batch: Bytes,
    pub(crate) restart: bool,
}

/// A sealed batch.
#[derive(Debug)]
struct Batch<W> {
    bytes: geminga_records::Batch,
    /// None once they have been told that it took too long; then it is not sent again.
    waiters: Vec<W>,
    born: Instant,
    /// The id under which it is on its way.
    attempt: Option<u64>,
    /// Since when.
    sent_at: Instant,
    /// Its numbers, from when it is first sent on.
    sequence: Option<Sequence>,
    /// An attempt with these numbers may have been written.
    doubt: bool,
    /// The newest attempt was refused because of its numbers.
    refused: Option<ApiError>,
    /// It was refused for good, and is not sent again although it is in doubt.
    given_up: bool,
}

impl<W> Batch<W> {
    fn new(bytes: geminga_records::Batch, waiters: Vec<W>, born: Instant) -> Self {
        Self {
            bytes,
            waiters,
            born,
            attempt: None,
            sent_at: born,
            sequence: None,
            doubt: false,
            refused: None,
            given_up: false,
        }
    }

    /// Nobody knows what became of its newest attempt.
    fn unknown(&mut self) {
        self.doubt |= self.sequence.is_some();
    }

    /// Whether it is not sent again, and has no answer to come.
    fn has_left(&self) -> bool {
        let forgotten = self.waiters.is_empty() && (self.given_up || !self.doubt);
        forgotten && self.attempt.is_none()
    }

    /// When its stream is given up, once nobody waits for it any more.
    fn stuck_at(&self, timeout: Duration) -> Option<Instant> {
        let on_its_way = self.attempt.is_some() && self.waiters.is_empty();
        on_its_way.then(|| (self.born + timeout).max(self.sent_at) + STUCK)
    }
}

/// An idempotent producer's id and epoch.
pub(crate) type ProducerId = (i64, i16);

/// A batch that still takes records.
#[derive(Debug)]
struct Open<W> {
    builder: Builder,
    waiters: Vec<W>,
    born: Instant,
}

/// What an answer means for the rest of the lane.
#[derive(Debug, Clone)]
struct Failed {
    error: Error,
    /// Wait before going on.
    pause: bool,
}

#[derive(Debug)]
struct Lane<W> {
    topic: Arc<str>,
    partition: u32,
    /// Unless `failed`, the first `on_the_way` are on their way and the others are not, and none [has left](Batch::has_left).
    queue: VecDeque<Batch<W>>,
    open: Option<Open<W>>,
    on_the_way: usize,
    /// The way that the newest element took.
    way: Way,
    /// The way that the next one is to take.
    next_way: Way,
    /// The first failure since the last restart, while other answers are still awaited.
    failed: Option<Failed>,
    /// The next element starts again.
    restart: bool,
    resume_at: Option<Instant>,
    failures: u32,
    last_error: Option<Error>,
    /// Bytes of the newest sealed batch before compression: about as large the next one will be.
    last_bytes: usize,
    /// Whose numbers the next batch gets; `None` until it is first needed.
    producer: Option<ProducerId>,
    /// The next number.
    next_sequence: i32,
}

impl<W> Lane<W> {
    fn new(topic: Arc<str>, partition: u32, way: Way) -> Self {
        Self {
            topic,
            partition,
            queue: VecDeque::new(),
            open: None,
            on_the_way: 0,
            way,
            next_way: way,
            failed: None,
            restart: false,
            resume_at: None,
            failures: 0,
            last_error: None,
            last_bytes: 0,
            producer: None,
            next_sequence: 0,
        }
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.open.is_none()
    }

    /// Whether nothing is on another way than the next element's.
    fn is_on_its_way(&self) -> bool {
        self.on_the_way == 0 || self.way == self.next_way
    }

    /// Whether anything may be sent; what there is, is another question. `producer`: whether there is an id for new lanes.
    fn may_send(&self, rules: &Rules, producer: bool, now: Instant) -> bool {
        self.may_send_ever(rules, producer) && self.resume_at.is_none_or(|at| at <= now)
    }

    /// Whether time alone may let something be sent.
    fn may_send_ever(&self, rules: &Rules, producer: bool) -> bool {
        self.failed.is_none()
            && (!rules.idempotent || producer || self.producer.is_some())
            && self.on_the_way < rules.in_flight
            && self.is_on_its_way()
            && self.follows(self.on_the_way)
    }

    /// Whether there is anything to send.
    fn has_next(&self, rules: &Rules, flush: bool, now: Instant) -> bool {
        self.on_the_way < self.queue.len() || self.is_ripe(rules, flush, now)
    }

    /// Whether it depends on a stream.
    fn takes(&self, way: Way) -> bool {
        way == if self.on_the_way > 0 { self.way } else { self.next_way }
    }

    fn is_ripe(&self, rules: &Rules, flush: bool, now: Instant) -> bool {
        self.open.as_ref().is_some_and(|open| flush || open.born + rules.linger <= now)
    }

    /// Moves the open batch to the queue.
    fn seal(&mut self, done: &mut Vec<Done<W>>) {
        let Some(Open { builder, waiters, born }) = self.open.take() else { return };
        self.last_bytes = builder.len();
        match builder.finish() {
            Ok(bytes) => self.queue.push_back(Batch::new(bytes, waiters, born)),
            // Compression can make a batch of the largest size larger.
            Err(error) => fail_all(waiters, &Error::from(error), done),
        }
    }

    /// All answers are in: start again from the first batch that is not acknowledged. False when the epochs of the producer id
    /// are used up.
    fn settle(&mut self, random: &dyn Random, now: Instant, done: &mut Vec<Done<W>>) -> bool {
        if self.on_the_way > 0 {
            return true;
        }
        let Some(Failed { error, pause }) = self.failed.take() else { return true };
        self.restart = true;
        // Behind another that is not acknowledged, such a refusal follows from that one's fate.
        let id_left = match self.queue.front_mut().and_then(|batch| batch.refused.take()) {
            Some(refused) => self.numbers_refused(refused, done),
            None => self.let_go(&error, done),
        };
        if pause {
            self.wait(error, random, now);
        } else {
            self.last_error = Some(error);
        }
        id_left
    }

    /// The broker does not know the lane's numbers, or knows others. Whatever is certainly not written may have new ones; what
    /// is in doubt could be written a second time under these, so it ends here. A number that the broker misses, of a batch that
    /// was acknowledged, is a loss: the first batch after it ends with that, so that somebody hears of it. False when there
    /// must be another id.
    fn numbers_refused(&mut self, refused: ApiError, done: &mut Vec<Done<W>>) -> bool {
        tracing::warn!(topic = %self.topic, partition = self.partition, error = %refused, "sequence numbers are refused");
        let reason = refused.reason;
        let error = Error::from(refused);
        let mut first = true;
        self.queue.retain_mut(|batch| {
            let lost = std::mem::take(&mut first) && reason == Reason::OutOfOrderSequence;
            let ends = lost || batch.doubt;
            if ends {
                let error = if batch.doubt { Error::in_doubt(&error) } else { error.clone() };
                fail_all(std::mem::take(&mut batch.waiters), &error, done);
            }
            !ends && !batch.has_left()
        });
        let id_left = self.renumber(0);
        if reason == Reason::InvalidProducerEpoch {
            // Somebody else has written under this id.
            self.producer = None;
        }
        id_left && self.producer.is_some()
    }

    /// Lets go the batches that have left; nothing from the first of them on is on its way. What stays behind one with numbers
    /// gets others: behind one that was certainly not written nothing was, behind one in doubt whatever is in doubt itself
    /// ends, too, because of `error`. False when the epochs of the id are used up.
    fn let_go(&mut self, error: &Error, done: &mut Vec<Done<W>>) -> bool {
        let (mut kept, mut gap, mut certain) = (0, None, false);
        self.queue.retain_mut(|batch| {
            if batch.has_left() || (certain && batch.waiters.is_empty()) {
                if batch.sequence.is_some() {
                    gap = gap.or(Some(kept));
                    certain |= !batch.doubt;
                }
                return false;
            }
            let ends = gap.is_some() && batch.doubt && !certain;
            if ends {
                fail_all(std::mem::take(&mut batch.waiters), &Error::in_doubt(error), done);
            }
            kept += usize::from(!ends);
            !ends
        });
        gap.is_none_or(|place| self.renumber(place))
    }

    /// Gives the batch at `place` numbers, unless it has some. `id`: for a lane that has none.
    fn number(&mut self, place: usize, id: Option<ProducerId>) -> Option<()> {
        let batch = self.queue.get_mut(place)?;
        if batch.sequence.is_none() {
            let (producer_id, epoch) = *self.producer.get_or_insert(id?);
            let sequence = Sequence { producer_id, epoch, first: self.next_sequence };
            let count = batch.bytes.header().record_count.cast_unsigned();
            self.next_sequence = sequence_after(sequence.first, count);
            batch.bytes.set_sequence(sequence);
            batch.sequence = Some(sequence);
        }
        Some(())
    }

    /// Whether the batch at `place` may be sent behind those on their way: those of a former epoch have to be acknowledged before.
    fn follows(&self, place: usize) -> bool {
        let owner = |s: Sequence| (s.producer_id, s.epoch);
        let Some(before) = place.checked_sub(1).and_then(|place| self.queue.get(place)) else {
            return true;
        };
        let next = self.queue.get(place).and_then(|batch| batch.sequence).map(owner);
        before.sequence.map(owner) == next.or(self.producer)
    }

    /// What is queued from `place` on is certainly not written, and one with numbers before it is missing: they get numbers of
    /// the next epoch when they are sent. False when the epochs of the id are used up.
    fn renumber(&mut self, place: usize) -> bool {
        for batch in self.queue.iter_mut().skip(place) {
            debug_assert!(batch.attempt.is_none(), "its answer is about the numbers that it has");
            (batch.sequence, batch.doubt) = (None, false);
        }
        self.next_sequence = 0;
        self.producer = self.producer.and_then(|(id, epoch)| Some((id, epoch.checked_add(1)?)));
        self.producer.is_some()
    }

    /// Sends nothing for a while, which grows with the failures in a row.
    fn wait(&mut self, error: Error, random: &dyn Random, now: Instant) {
        // A partition that has just moved is asked for at its owner at once. When that sends us on, views differ.
        let moved = error.reason() == Reason::NotOwner && self.failures == 0;
        self.last_error = Some(error);
        self.failures = self.failures.saturating_add(1);
        self.resume_at = (!moved).then(|| now + backoff::pause(self.failures, random));
    }

    fn timed_out(&self, after: Duration) -> Error {
        let last = self.last_error.clone().unwrap_or_else(|| {
            let message = "no answer yet; check the server's health";
            ApiError::new(Reason::Unknown, message).into()
        });
        Error::TimedOut { after, last: Box::new(last) }
    }
}

fn fail_all<W>(waiters: Vec<W>, error: &Error, done: &mut Vec<Done<W>>) {
    done.extend(waiters.into_iter().map(|waiter| (waiter, Err(error.clone()))));
}

/// The state of a producer. `W` is whoever waits for one record.
#[derive(Debug)]
pub(crate) struct Core<W> {
    rules: Rules,
    random: Arc<dyn Random>,
    /// Who owns what.
    view: Arc<View>,
    lanes: Vec<Lane<W>>,
    by_partition: HashMap<Arc<str>, HashMap<u32, usize>>,
    /// The lane that took a record last: often the next one's, too.
    latest: usize,
    /// Lanes that hold records.
    busy: BTreeSet<usize>,
    /// Where the last round over `busy` ended, so that no lane starves.
    cursor: usize,
    /// Elements on their way, and their lanes.
    attempts: HashMap<u64, usize>,
    next_id: u64,
    /// Records without an end.
    pending: usize,
    /// Batches do not wait to become full.
    flush: bool,
    /// Nobody sends any more.
    closed: bool,
    /// The id for lanes that have none.
    producer: Option<ProducerId>,
    /// Failed attempts in a row to get one.
    producer_failures: u32,
    /// Not asked for before.
    producer_at: Option<Instant>,
}

impl<W> Core<W> {
    pub(crate) fn new(rules: Rules, random: Arc<dyn Random>) -> Self {
        Self {
            rules,
            random,
            view: Arc::default(),
            lanes: Vec::new(),
            by_partition: HashMap::new(),
            latest: 0,
            busy: BTreeSet::new(),
            cursor: 0,
            attempts: HashMap::new(),
            next_id: 1,
            pending: 0,
            flush: false,
            closed: false,
            producer: None,
            producer_failures: 0,
            producer_at: None,
        }
    }

    /// Whether a producer id is to be asked for now.
    pub(crate) fn wants_producer(&self, now: Instant) -> bool {
        self.lacks_producer() && self.producer_at.is_none_or(|at| at <= now)
    }

    fn lacks_producer(&self) -> bool {
        let lacks = |at: &usize| self.lanes[*at].producer.is_none();
        self.rules.idempotent && self.producer.is_none() && self.busy.iter().any(lacks)
    }

    /// There is an id.
    pub(crate) fn on_producer(&mut self, id: ProducerId) {
        self.producer = Some(id);
        (self.producer_failures, self.producer_at) = (0, None);
    }

    /// There is none yet: what waits for it waits on.
    pub(crate) fn on_no_producer(&mut self, error: &Error, now: Instant) {
        self.producer_failures = self.producer_failures.saturating_add(1);
        self.producer_at = Some(now + backoff::pause(self.producer_failures, &*self.random));
        for &at in &self.busy {
            self.lanes[at].last_error = Some(error.clone());
        }
    }

    /// Records that were given and have not ended.
    pub(crate) fn pending(&self) -> usize {
        self.pending
    }

    /// Whether batches end when they are sent.
    pub(crate) fn acks_none(&self) -> bool {
        self.rules.acks_none
    }

    /// Owners are these from now on.
    pub(crate) fn set_view(&mut self, view: Arc<View>) {
        self.view = view;
        for lane in &mut self.lanes {
            lane.next_way = way(&self.rules, &self.view, &lane.topic, lane.partition);
        }
    }

    /// From now on (not) send batches before they are full.
    pub(crate) fn set_flush(&mut self, flush: bool) {
        self.flush = flush;
    }

    fn lane(&mut self, topic: &Arc<str>, partition: u32) -> usize {
        let same = |lane: &Lane<W>| lane.partition == partition && Arc::ptr_eq(&lane.topic, topic);
        if !self.lanes.get(self.latest).is_some_and(same) {
            self.latest = self.find_lane(topic, partition);
        }
        self.latest
    }

    fn find_lane(&mut self, topic: &Arc<str>, partition: u32) -> usize {
        if let Some(&lane) = self.by_partition.get(topic).and_then(|lanes| lanes.get(&partition)) {
            return lane;
        }
        let lane = self.lanes.len();
        let way = way(&self.rules, &self.view, topic, partition);
        self.lanes.push(Lane::new(Arc::clone(topic), partition, way));
        self.by_partition.entry(Arc::clone(topic)).or_default().insert(partition, lane);
        lane
    }

    /// Adds a record; `now` is asked when it begins a batch. Returns whether the sender has something new to think about, and whether a batch became full.
    ///
    /// # Errors
    /// The waiter, and why the record can never be sent.
    pub(crate) fn append(
        &mut self,
        topic: &Arc<str>,
        partition: u32,
        record: &Record,
        waiter: W,
        now: impl FnOnce() -> Instant,
        done: &mut Vec<Done<W>>,
    ) -> Result<Appended, (W, Error)> {
        if self.closed {
            return Err((waiter, Error::Closed));
        }
        let at = self.lane(topic, partition);
        let (batch_bytes, compression) = (self.rules.batch_bytes, self.rules.compression);
        let lane = &mut self.lanes[at];
        let size = record_bytes(record);
        let full = |open: &Open<W>| open.builder.len() + size > batch_bytes;
        let mut sealed = lane.open.as_ref().is_some_and(full);
        if sealed {
            let before = done.len();
            lane.seal(done);
            self.pending -= done.len() - before;
        }
        let fresh = lane.open.is_none();
        let last_bytes = lane.last_bytes;
        let open = lane.open.get_or_insert_with(|| Open {
            builder: Builder::with_room(compression, room(last_bytes, batch_bytes)),
            waiters: Vec::new(),
            born: now(),
        });
        if let Err(error) = open.builder.push(record) {
            if open.waiters.is_empty() {
                lane.open = None;
            }
            return Err((waiter, error.into()));
        }
        open.waiters.push(waiter);
        self.pending += 1;
        if open.builder.len() >= batch_bytes {
            let before = done.len();
            lane.seal(done);
            self.pending -= done.len() - before;
            sealed = true;
        }
        if fresh {
            self.busy.insert(at);
        }
        Ok(Appended { wake: fresh || sealed, sealed })
    }

    /// The ways for which [`Core::collect`] would return something.
    pub(crate) fn ready(&self, now: Instant) -> BTreeSet<Way> {
        let ready = |&at: &usize| {
            let lane = &self.lanes[at];
            let ready = lane.may_send(&self.rules, self.producer.is_some(), now)
                && lane.has_next(&self.rules, self.flush, now);
            ready.then_some(lane.next_way)
        };
        self.busy.iter().filter_map(ready).collect()
    }

    /// Batches to be sent one way now, at most `budget` bytes of them unless one alone is larger. Without acknowledgements
    /// they end here.
    pub(crate) fn collect(
        &mut self,
        way: Way,
        budget: usize,
        now: Instant,
        done: &mut Vec<Done<W>>,
    ) -> Vec<Element> {
        let mut elements = Vec::new();
        let mut bytes = 0;
        let cursor = self.cursor;
        let round: Vec<usize> =
            self.busy.range(cursor..).chain(self.busy.range(..cursor)).copied().collect();
        for at in round {
            if self.lanes[at].next_way != way {
                continue;
            }
            while let Some(more) = self.next_bytes(at, now, done) {
                if !elements.is_empty() && bytes + more > budget {
                    self.cursor = at;
                    return elements;
                }
                bytes += more;
                elements.extend(self.send_next(at, now, done));
            }
            self.rest(at);
        }
        elements
    }

    /// What the next element of a lane takes of a message, if one may be sent now.
    fn next_bytes(&mut self, at: usize, now: Instant, done: &mut Vec<Done<W>>) -> Option<usize> {
        let rules = &self.rules;
        let lane = &mut self.lanes[at];
        if !lane.may_send(rules, self.producer.is_some(), now) {
            return None;
        }
        if lane.on_the_way == lane.queue.len() && lane.is_ripe(rules, self.flush, now) {
            let before = done.len();
            lane.seal(done);
            self.pending -= done.len() - before;
        }
        let batch = lane.queue.get(lane.on_the_way)?;
        Some(batch.bytes.len() + lane.topic.len() + ELEMENT_BYTES)
    }

    /// The element that [`Core::next_bytes`] measured.
    fn send_next(&mut self, at: usize, now: Instant, done: &mut Vec<Done<W>>) -> Option<Element> {
        let rules = &self.rules;
        let lane = &mut self.lanes[at];
        let place = lane.on_the_way;
        if rules.idempotent {
            lane.number(place, self.producer)?;
        }
        let batch = lane.queue.get_mut(place)?;
        let id = self.next_id;
        self.next_id += 1;
        let element = Element {
            id,
            topic: Arc::clone(&lane.topic),
            partition: lane.partition,
            batch: batch.bytes.as_bytes().clone(),
            // Without answers nobody learns of a failure, so each element stands for itself. What a stream that was left
            // knows of earlier failures is past.
            restart: std::mem::take(&mut lane.restart)
                || rules.acks_none
                || lane.way != lane.next_way,
        };
        lane.way = lane.next_way;
        lane.resume_at = None;
        if rules.acks_none {
            let batch = lane.queue.remove(place).expect("it is there");
            lane.failures = 0;
            self.pending -= batch.waiters.len();
            let ack = Ack {
                topic: Arc::clone(&lane.topic),
                partition: lane.partition,
                offset: None,
                log_append_time_ms: 0,
            };
            done.extend(batch.waiters.into_iter().map(|waiter| (waiter, Ok(ack.clone()))));
        } else {
            (batch.attempt, batch.sent_at, batch.refused) = (Some(id), now, None);
            lane.on_the_way += 1;
            self.attempts.insert(id, at);
        }
        Some(element)
    }

    /// An idle lane is left out of further rounds.
    fn rest(&mut self, at: usize) {
        if self.lanes[at].is_idle() {
            self.busy.remove(&at);
        }
    }

    /// An element was answered. Answers to ids that are not on their way mean nothing.
    pub(crate) fn on_result(
        &mut self,
        id: u64,
        result: Answer,
        now: Instant,
        done: &mut Vec<Done<W>>,
    ) {
        let Some(at) = self.attempts.remove(&id) else { return };
        let lane = &mut self.lanes[at];
        let place = lane.queue.iter().position(|batch| batch.attempt == Some(id));
        let Some(place) = place else { return };
        lane.on_the_way -= 1;
        lane.queue[place].attempt = None;
        let before = done.len();
        match result {
            Ok((base_offset, time_ms)) => {
                if lane.failed.is_none() {
                    lane.failures = 0;
                    lane.last_error = None;
                }
                acknowledge(lane, place, Some(base_offset), time_ms, done);
            }
            Err(error) if error.reason == Reason::DuplicateSequence && self.rules.idempotent => {
                acknowledge(lane, place, None, 0, done);
                let error = error.into();
                lane.failed.get_or_insert(Failed { error, pause: false });
            }
            Err(error) => fail_batch(lane, place, error, done),
        }
        let id_left = lane.settle(&*self.random, now, done);
        self.producer = self.producer.filter(|_| id_left);
        self.pending -= done.len() - before;
        self.rest(at);
    }

    /// The stream of one way broke, or could not be opened: everything on it has the answer *unknown*, and everything that
    /// was to be sent on it waits a while.
    pub(crate) fn on_stream_lost(
        &mut self,
        way: Way,
        error: &Error,
        now: Instant,
        done: &mut Vec<Done<W>>,
    ) {
        let before = done.len();
        let lanes = &self.lanes;
        self.attempts.retain(|_, at| !lanes[*at].takes(way));
        for at in self.busy.clone() {
            let lane = &mut self.lanes[at];
            if !lane.takes(way) {
                continue;
            }
            for batch in &mut lane.queue {
                if batch.attempt.take().is_some() {
                    batch.unknown();
                }
            }
            if std::mem::take(&mut lane.on_the_way) > 0 {
                lane.failed = None;
                lane.restart = true;
            }
            lane.wait(error.clone(), &*self.random, now);
            let id_left = lane.let_go(error, done);
            self.producer = self.producer.filter(|_| id_left);
            self.rest(at);
        }
        self.pending -= done.len() - before;
    }

    /// Ends what has waited for too long; what is on its way then keeps its place until it is answered, so that there
    /// are never two attempts. Returns the ways where that has taken too long as well: then nobody answers on their streams,
    /// and they must be given up, with [`Core::on_stream_lost`].
    pub(crate) fn expire(&mut self, now: Instant, done: &mut Vec<Done<W>>) -> BTreeSet<Way> {
        let timeout = self.rules.delivery_timeout;
        let before = done.len();
        let mut stuck = BTreeSet::new();
        for at in self.busy.clone() {
            let lane = &mut self.lanes[at];
            let (way, error) = (lane.way, lane.timed_out(timeout));
            for batch in lane.queue.iter_mut().filter(|batch| batch.born + timeout <= now) {
                fail_all(std::mem::take(&mut batch.waiters), &error, done);
                if batch.stuck_at(timeout).is_some_and(|at| at <= now) {
                    stuck.insert(way);
                }
            }
            // Otherwise when all answers are in.
            let id_left = lane.failed.is_some() || lane.let_go(&error, done);
            self.producer = self.producer.filter(|_| id_left);
            let overdue = lane.open.as_ref().is_some_and(|open| open.born + timeout <= now);
            if overdue && let Some(open) = lane.open.take() {
                fail_all(open.waiters, &error, done);
            }
            self.rest(at);
        }
        self.pending -= done.len() - before;
        stuck
    }

    /// Ends everything with `error`, and refuses more.
    pub(crate) fn close(&mut self, error: &Error, done: &mut Vec<Done<W>>) {
        self.closed = true;
        for lane in &mut self.lanes {
            for batch in lane.queue.drain(..) {
                fail_all(batch.waiters, error, done);
            }
            if let Some(open) = lane.open.take() {
                fail_all(open.waiters, error, done);
            }
            lane.on_the_way = 0;
        }
        self.busy.clear();
        self.attempts.clear();
        self.pending = 0;
    }

    /// When next, after `now`, a batch has waited long enough, or a pause ends.
    pub(crate) fn ready_after(&self, now: Instant) -> Option<Instant> {
        let linger = if self.flush { Duration::ZERO } else { self.rules.linger };
        let of = |lane: &Lane<W>| {
            let free = lane.may_send_ever(&self.rules, self.producer.is_some());
            let queued = lane.on_the_way < lane.queue.len();
            let ripe = lane.open.as_ref().filter(|_| !queued).map(|open| open.born + linger);
            lane.resume_at.max(ripe).filter(|at| free && *at > now)
        };
        let asked = self.producer_at.filter(|at| *at > now && self.lacks_producer());
        self.busy.iter().filter_map(|&at| of(&self.lanes[at])).chain(asked).min()
    }

    /// When a batch will have waited for too long.
    pub(crate) fn overdue_at(&self) -> Option<Instant> {
        let timeout = self.rules.delivery_timeout;
        let of = |lane: &Lane<W>| {
            let stuck = lane.queue.iter().filter_map(|batch| batch.stuck_at(timeout)).min();
            let oldest = lane.queue.iter().find(|batch| !batch.waiters.is_empty());
            let oldest = oldest.map(|b| b.born).or(lane.open.as_ref().map(|open| open.born));
            stuck.into_iter().chain(oldest.map(|born| born + timeout)).min()
        };
        self.busy.iter().filter_map(|&at| of(&self.lanes[at])).min()
    }
}

/// What [`Core::append`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Appended {
    /// The sender has to look again.
    pub(crate) wake: bool,
    /// A batch became full.
    pub(crate) sealed: bool,
}

/// Which way a partition's batches go. What nobody acknowledges is forwarded rather than refused without a word.
fn way(rules: &Rules, view: &View, topic: &str, partition: u32) -> Way {
    if rules.acks_none { Way::Any } else { view.way(topic, partition) }
}

/// Room for a batch after one of `last_bytes`: lanes that fill their batches get it whole, others what they needed.
fn room(last_bytes: usize, batch_bytes: usize) -> usize {
    if last_bytes > batch_bytes / 2 { last_bytes.max(batch_bytes) } else { last_bytes }
}

/// The batch at `place` is in the log, at `base_offset` when that is known.
fn acknowledge<W>(
    lane: &mut Lane<W>,
    place: usize,
    base_offset: Option<i64>,
    log_append_time_ms: i64,
    done: &mut Vec<Done<W>>,
) {
    let batch = lane.queue.remove(place).expect("it is there");
    let ack = |offset| Ack {
        topic: Arc::clone(&lane.topic),
        partition: lane.partition,
        offset,
        log_append_time_ms,
    };
    let waiters = (0..).zip(batch.waiters);
    done.extend(waiters.map(|(at, waiter)| (waiter, Ok(ack(base_offset.map(|base| base + at))))));
}

/// One batch was answered with `error`. When it has ended by that, [`Lane::let_go`] lets it go.
fn fail_batch<W>(lane: &mut Lane<W>, place: usize, error: ApiError, done: &mut Vec<Done<W>>) {
    let reason = error.reason;
    let batch = lane.queue.get_mut(place).expect("it is there");
    if reason == Reason::Unknown {
        batch.unknown();
    }
    // Nobody waits for it any more.
    let over = batch.waiters.is_empty();
    let numbers = batch.sequence.is_some() && is_about_numbers(reason);
    let again = reason.retriable() || (!numbers && batch.doubt && !over && may_pass(reason));
    // The first failure says what is wrong; later ones follow from it.
    let failed = Failed { error: Error::from(error.clone()), pause: again };
    lane.failed.get_or_insert(failed);
    if again {
        return;
    }
    if numbers {
        batch.refused = Some(error);
        return;
    }
    batch.given_up = true;
    let mut waiters = std::mem::take(&mut batch.waiters);
    let error = Error::from(error);
    if batch.doubt {
        // In halves it could be written a second time.
        return fail_all(waiters, &Error::in_doubt(&error), done);
    }
    let born = batch.born;
    match (reason == Reason::MessageTooLarge && !over).then(|| halves(&batch.bytes)).flatten() {
        Some([first, second]) => {
            let middle = usize::try_from(first.header().record_count).unwrap_or(0);
            let rest = waiters.split_off(middle);
            lane.queue.insert(place + 1, Batch::new(second, rest, born));
            lane.queue.insert(place + 1, Batch::new(first, waiters, born));
        }
        None => fail_all(waiters, &error, done),
    }
}

/// Whether a batch of which an attempt may have been written is worth repeating although it is refused for good: what is wrong
/// is not the batch, or not as it left here.
fn may_pass(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::MessageTooLarge
            | Reason::InvalidRecord
            | Reason::InvalidRequest
            | Reason::NotSupported
    )
}

fn is_about_numbers(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::OutOfOrderSequence | Reason::UnknownProducerId | Reason::InvalidProducerEpoch
    )
}

/// A batch that is too large as a whole may be small enough in halves: the topic's limit is about batches.
fn halves(batch: &geminga_records::Batch) -> Option<[geminga_records::Batch; 2]> {
    let compression = batch.header().compression().ok()?;
    let records = decode(batch, OWN_BATCH_BYTES).ok()?;
    let (first, second) = records.split_at(records.len() / 2);
    // One record has no halves: a batch without records cannot be made.
    Some([encode(first, compression).ok()?, encode(second, compression).ok()?])
}

/// About what a record adds to a batch.
pub(crate) fn record_bytes(record: &Record) -> usize {
    let part = |part: Option<&Bytes>| part.map_or(0, Bytes::len);
    let header = |(key, value): &(String, Option<Bytes>)| key.len() + part(value.as_ref()) + 6;
    let headers: usize = record.headers.iter().map(header).sum();
    part(record.key.as_ref()) + part(record.value.as_ref()) + headers + 24
}

#[cfg(test)]
mod tests;
