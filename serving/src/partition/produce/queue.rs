//! Accepted batches on their way through one partition, in order: waiting, then in an entry that the log has, then answered.
//! Pure: the partition's task moves what this says.
//!
//! * Batches are gathered into entries and never merged or re-encoded (P6). There is no timer: while few entries are
//!   on their way a batch leaves at once, otherwise whatever gathered leaves when one is acknowledged, or as
//!   soon as it fills an entry.
//! * An answer leaves only when its entry is acknowledged, in order (P1). When the log is lost, what was in an entry has
//!   an unknown outcome, and what waited was certainly not written.
//! * A batch may have followers: duplicates of an idempotent producer that wait for its fate (P2).
//! * Answers may be given up while the log still works on their entries: their senders are told that the outcome is
//!   unknown rather than nothing. All that is in flight goes together, so that none is acknowledged after an earlier one failed.

use std::collections::{BTreeMap, VecDeque};

use geminga_proto::caps;
use geminga_proto::ids::{Offset, Term};
use geminga_proto::payload::Payload;
use geminga_records::Batch;
use tokio::time::Instant;

use crate::partition::index;
use crate::partition::producers::{Stamp, Ticket};

/// Unacknowledged entries up to which a batch leaves without waiting for company.
pub(crate) const EAGER_ENTRIES: usize = 4;
/// Most bytes in unacknowledged entries, but for a single larger one.
pub(crate) const WINDOW_BYTES: usize = 16 * 1024 * 1024;

/// Batches that form one entry.
#[derive(Debug)]
pub(crate) struct Gathered<R> {
    /// Offsets that they take.
    pub(crate) offset_count: u32,
    /// Largest timestamp, milliseconds; -1 when there is none.
    pub(crate) max_timestamp: i64,
    /// The index of idempotent producers' batches, then the batches, stamped, end to end.
    pub(crate) payload: Payload,
    /// Whom to tell which base offset.
    pub(crate) slots: Slots<R>,
}

/// The batches of one entry, in order.
#[derive(Debug)]
pub(crate) struct Slots<R> {
    first: Ticket,
    /// Bytes of the batches.
    pub(crate) bytes: usize,
    slots: Vec<Slot<R>>,
}

#[derive(Debug)]
struct Slot<R> {
    base: Offset,
    stamp: Option<Stamp>,
    dated: Option<i64>,
    /// `None`: it was given up.
    answer: Option<R>,
}

impl<R> Slots<R> {
    /// How many batches.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whom to tell of the first batch.
    pub(crate) fn first_answer(&self) -> Option<&R> {
        self.slots.first()?.answer.as_ref()
    }

    /// Whom to tell.
    pub(crate) fn into_answers(self) -> impl Iterator<Item = R> {
        self.slots.into_iter().filter_map(|slot| slot.answer)
    }
}

/// A batch whose fate is known: it is durable.
#[derive(Debug)]
pub(crate) struct Durable<R> {
    /// Offset of its first record.
    pub(crate) base: Offset,
    /// An idempotent producer's.
    pub(crate) stamp: Option<Stamp>,
    /// When the owner dated it, if it did; milliseconds since the Unix epoch.
    pub(crate) dated: Option<i64>,
    /// When the log was given it.
    pub(crate) sent: Instant,
    /// Whom to tell: the one who sent it, unless that was given up, and its followers.
    pub(crate) answers: Vec<R>,
}

#[derive(Debug)]
struct Waiting<R> {
    batch: Batch,
    stamp: Option<Stamp>,
    answer: R,
}

impl<R> Waiting<R> {
    /// Gives it the owner's time; what is kept of an idempotent producer's says so, too.
    fn date(&mut self, now_ms: i64) {
        self.batch = self.batch.with_log_append_time(now_ms);
        self.stamp = self.stamp.and_then(|_| Stamp::of(self.batch.header()));
    }
}

#[derive(Debug)]
struct InFlight<R> {
    number: u64,
    since: Instant,
    /// Since when the one who waits for longest waits.
    waits: Option<Instant>,
    slots: Slots<R>,
}

/// What was accepted and not answered. `R`: whom to answer.
#[derive(Debug)]
pub(crate) struct Queue<R> {
    waiting: VecDeque<Waiting<R>>,
    waiting_bytes: usize,
    /// How many of `waiting`, from the front, are apart from the messages that they came in.
    detached: usize,
    in_flight: VecDeque<InFlight<R>>,
    in_flight_bytes: usize,
    /// The next batch's.
    next_ticket: u64,
    /// Of batches that wait or are in flight; bounded by what they take of the room of accepted batches.
    followers: BTreeMap<Ticket, Vec<R>>,
}

impl<R> Default for Queue<R> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            detached: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            next_ticket: 0,
            followers: BTreeMap::new(),
        }
    }
}

impl<R> Queue<R> {
    /// Takes a batch; its order is fixed. `stamp`: an idempotent producer's.
    pub(crate) fn push(&mut self, batch: Batch, stamp: Option<Stamp>, answer: R) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.waiting_bytes += batch.len();
        self.waiting.push_back(Waiting { batch, stamp, answer });
        ticket
    }

    /// Lets a duplicate wait for the fate of a batch that was pushed and is not answered.
    pub(crate) fn follow(&mut self, ticket: Ticket, answer: R, now: Instant) {
        if ticket < self.first_waiting() {
            let after = self.in_flight.partition_point(|entry| entry.slots.first <= ticket);
            if let Some(entry) = after.checked_sub(1).and_then(|at| self.in_flight.get_mut(at)) {
                entry.waits.get_or_insert(now);
            }
        }
        self.followers.entry(ticket).or_default().push(answer);
    }

    /// The ticket of the oldest batch that waits, or of the next.
    fn first_waiting(&self) -> Ticket {
        Ticket(self.next_ticket - self.waiting.len() as u64)
    }

    /// Takes the followers of a batch. Without any, which is the rule, that costs nothing.
    fn followers_of(&mut self, ticket: Ticket) -> Vec<R> {
        if self.followers.is_empty() {
            return Vec::new();
        }
        self.followers.remove(&ticket).unwrap_or_default()
    }

    /// Copies what waits out of the messages that it came in, which are as large as everything that was sent with it, to
    /// whatever partitions: bounds count the bytes of batches only.
    pub(crate) fn detach(&mut self) {
        for waiting in self.waiting.iter_mut().skip(self.detached) {
            waiting.batch = waiting.batch.detached();
        }
        self.detached = self.waiting.len();
    }

    /// Since when the log has the oldest entry that it did not acknowledge.
    pub(crate) fn stands_since(&self) -> Option<Instant> {
        self.in_flight.front().map(|entry| entry.since)
    }

    /// Whether nothing waits for an acknowledgement.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// The next entry, when it may leave now and the log has room for its bytes. `first` is the offset that the log
    /// gives it. `dated`: the time that its batches get, where the topic says that the owner dates them; milliseconds since the
    /// Unix epoch.
    pub(crate) fn gather(
        &mut self,
        first: Offset,
        term: Term,
        dated: Option<i64>,
        has_room: impl Fn(usize) -> bool,
    ) -> Option<Gathered<R>> {
        let (count, bytes) = self.next_entry().filter(|(_, bytes)| has_room(*bytes))?;
        if let Some(now_ms) = dated {
            self.waiting.iter_mut().take(count).for_each(|waiting| waiting.date(now_ms));
        }
        let slots = Slots { first: self.first_waiting(), bytes, slots: Vec::with_capacity(count) };
        let index = index::encode(&self.rows(count));
        let mut gathered = Gathered {
            offset_count: 0,
            max_timestamp: -1,
            payload: Payload::with_index(index),
            slots,
        };
        for Waiting { batch, stamp, answer } in self.waiting.drain(..count) {
            let base = Offset(first.0 + i64::from(gathered.offset_count));
            let header = batch.header();
            gathered.offset_count += offsets(&batch);
            gathered.max_timestamp = gathered.max_timestamp.max(header.max_timestamp);
            gathered.slots.slots.push(Slot { base, stamp, dated, answer: Some(answer) });
            let [head, shared] = batch.stamp(base.0, term.0);
            gathered.payload.push(head);
            gathered.payload.push_known(shared, batch.shared_checksum());
        }
        self.waiting_bytes -= bytes;
        self.detached = self.detached.saturating_sub(count);
        Some(gathered)
    }

    /// The rows of an entry's index: of each idempotent producer's batch among the next `count` its place and stamp.
    fn rows(&self, count: usize) -> Vec<(u32, Stamp)> {
        let (mut rows, mut place) = (Vec::new(), 0);
        for Waiting { batch, stamp, .. } in self.waiting.iter().take(count) {
            rows.extend(stamp.map(|stamp| (place, stamp)));
            place += offsets(batch);
        }
        rows
    }

    /// How many batches the next entry takes and how many bytes these are; `None` while it must not leave.
    fn next_entry(&self) -> Option<(usize, usize)> {
        let (mut count, mut bytes, mut taken) = (0, 0, 0u32);
        for Waiting { batch, .. } in &self.waiting {
            let Some(total) = taken.checked_add(offsets(batch)) else { break };
            if count > 0 && bytes + batch.len() > caps::ENTRY_GATHER_BYTES {
                break;
            }
            (count, bytes, taken) = (count + 1, bytes + batch.len(), total);
        }
        let full = self.waiting_bytes >= caps::ENTRY_GATHER_BYTES;
        let fits = self.in_flight_bytes + bytes <= WINDOW_BYTES;
        let leaves =
            self.in_flight.is_empty() || (fits && (full || self.in_flight.len() < EAGER_ENTRIES));
        (count > 0 && leaves).then_some((count, bytes))
    }

    /// The log has taken an entry as its append `number`, at `since`; both rise.
    pub(crate) fn sent(&mut self, number: u64, since: Instant, slots: Slots<R>) {
        debug_assert!(self.in_flight.back().is_none_or(|last| last.number < number));
        self.in_flight_bytes += slots.bytes;
        self.in_flight.push_back(InFlight { number, since, waits: Some(since), slots });
    }

    /// Everything up to append `through` is durable: which batches these are, in order.
    pub(crate) fn acked(&mut self, through: u64) -> Vec<Durable<R>> {
        let mut durable = Vec::new();
        while let Some(entry) = self.in_flight.pop_front_if(|entry| entry.number <= through) {
            self.in_flight_bytes -= entry.slots.bytes;
            for (ticket, slot) in (entry.slots.first.0..).map(Ticket).zip(entry.slots.slots) {
                let Slot { base, stamp, dated, answer } = slot;
                let mut answers: Vec<R> = answer.into_iter().collect();
                answers.extend(self.followers_of(ticket));
                durable.push(Durable { base, stamp, dated, sent: entry.since, answers });
            }
        }
        durable
    }

    /// Since when the longest-waiting sender waits for an acknowledgement.
    pub(crate) fn waits_since(&self) -> Option<Instant> {
        self.in_flight.iter().filter_map(|entry| entry.waits).min()
    }

    /// Gives up the answers, not the entries, of all that the log has and did not acknowledge.
    pub(crate) fn abandon(&mut self) -> Vec<R> {
        let mut answers = Vec::new();
        for entry in &mut self.in_flight {
            entry.waits = None;
            answers.extend(entry.slots.slots.iter_mut().filter_map(|slot| slot.answer.take()));
        }
        let waiting = self.followers.split_off(&self.first_waiting());
        let followers = std::mem::replace(&mut self.followers, waiting);
        answers.extend(followers.into_values().flatten());
        answers
    }

    /// Gives up what has no place in the log yet: certainly not written. In order, each with its stamp.
    pub(crate) fn take_waiting(&mut self) -> Vec<(Option<Stamp>, Vec<R>)> {
        let followers = self.followers.split_off(&self.first_waiting());
        let first = self.first_waiting();
        let mut followers = followers.into_iter().peekable();
        (self.waiting_bytes, self.detached) = (0, 0);
        let tickets = (first.0..).map(Ticket);
        let taken = tickets.zip(self.waiting.drain(..)).map(|(ticket, waiting)| {
            let mut answers = vec![waiting.answer];
            answers
                .extend(followers.next_if(|(of, _)| *of == ticket).into_iter().flat_map(|f| f.1));
            (waiting.stamp, answers)
        });
        taken.collect()
    }

    /// Gives up what the log has and did not acknowledge: the outcome is unknown.
    pub(crate) fn take_in_flight(&mut self) -> Vec<R> {
        let answers = self.abandon();
        self.in_flight_bytes = 0;
        self.in_flight.clear();
        answers
    }
}

fn offsets(batch: &Batch) -> u32 {
    u32::try_from(batch.header().offset_count()).expect("a parsed batch is within the most records")
}

#[cfg(test)]
mod tests;
