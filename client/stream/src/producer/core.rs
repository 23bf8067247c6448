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

mod batch;
mod ending;
mod lane;
mod sending;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use geminga_proto::reason::ApiError;
use geminga_records::{Builder, Compression, Record};
use geminga_runtime::Random;
use tokio::time::Instant;

use self::batch::Open;
use self::lane::Lane;
use crate::backoff;
use crate::directory::{View, Way};
use crate::error::Error;

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

/// An idempotent producer's id and epoch.
pub(crate) type ProducerId = (i64, i16);

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

    /// An idle lane is left out of further rounds.
    fn rest(&mut self, at: usize) {
        if self.lanes[at].is_idle() {
            self.busy.remove(&at);
        }
    }

    /// Adds a record; `now` is asked when it begins a batch. Returns whether the sender has something new to think about, and whether a batch's worth of records has come.
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
        lane.run_bytes += size;
        let enough = sealed || lane.run_bytes >= batch_bytes;
        if enough {
            lane.run_bytes = 0;
        }
        if fresh {
            self.busy.insert(at);
        }
        Ok(Appended { wake: fresh || sealed, enough })
    }
}

/// What [`Core::append`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Appended {
    /// The sender has to look again.
    pub(crate) wake: bool,
    /// A batch became full, or as much has come by now in smaller ones.
    pub(crate) enough: bool,
}

/// Which way a partition's batches go. What nobody acknowledges is forwarded rather than refused without a word.
fn way(rules: &Rules, view: &View, topic: &str, partition: u32) -> Way {
    if rules.acks_none { Way::Any } else { view.way(topic, partition) }
}

/// Room for a batch after one of `last_bytes`: lanes that fill their batches get it whole, others what they needed.
fn room(last_bytes: usize, batch_bytes: usize) -> usize {
    if last_bytes > batch_bytes / 2 { last_bytes.max(batch_bytes) } else { last_bytes }
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
