//! Accepted batches on their way through one partition, in order: waiting, then in an entry that the log has, then answered.
//! Pure: the partition's task moves what this says.
//!
//! * Batches are gathered into entries and never merged or re-encoded (P6). There is no timer: while few entries are
//!   on their way a batch leaves at once, otherwise whatever gathered leaves when one is acknowledged, or as
//!   soon as it fills an entry.
//! * An answer leaves only when its entry is acknowledged, in order (P1). When the log is lost, what was in an entry has
//!   an unknown outcome, and what waited was certainly not written.
//! * Answers may be given up while the log still works on their entries: their senders are told that the outcome is
//!   unknown rather than nothing. All that is in flight goes together, so that none is acknowledged after an earlier one failed.

use std::collections::VecDeque;

use geminga_proto::caps;
use geminga_proto::ids::{Offset, Term};
use geminga_proto::payload::Payload;
use geminga_records::Batch;
use tokio::time::Instant;

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
    /// Bytes of the payload.
    pub(crate) bytes: usize,
    /// The batches, stamped, end to end.
    pub(crate) payload: Payload,
    /// Whom to tell which base offset.
    pub(crate) answers: Vec<(Offset, R)>,
}

#[derive(Debug)]
struct InFlight<R> {
    number: u64,
    since: Instant,
    bytes: usize,
    answers: Vec<(Offset, R)>,
}

/// What was accepted and not answered. `R`: whom to answer.
#[derive(Debug)]
pub(crate) struct Queue<R> {
    waiting: VecDeque<(Batch, R)>,
    waiting_bytes: usize,
    /// How many of `waiting`, from the front, are apart from the messages that they came in.
    detached: usize,
    in_flight: VecDeque<InFlight<R>>,
    in_flight_bytes: usize,
}

impl<R> Default for Queue<R> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            detached: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
        }
    }
}

impl<R> Queue<R> {
    /// Takes a batch; its order is fixed.
    pub(crate) fn push(&mut self, batch: Batch, answer: R) {
        self.waiting_bytes += batch.len();
        self.waiting.push_back((batch, answer));
    }

    /// Copies what waits out of the messages that it came in, which are as large as everything that was sent with it, to
    /// whatever partitions: bounds count the bytes of batches only.
    pub(crate) fn detach(&mut self) {
        for (batch, _) in self.waiting.iter_mut().skip(self.detached) {
            *batch = batch.detached();
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
    /// gives it.
    pub(crate) fn gather(
        &mut self,
        first: Offset,
        term: Term,
        has_room: impl Fn(usize) -> bool,
    ) -> Option<Gathered<R>> {
        let (count, bytes) = self.next_entry().filter(|(_, bytes)| has_room(*bytes))?;
        let mut gathered = Gathered {
            offset_count: 0,
            max_timestamp: -1,
            bytes,
            payload: Payload::default(),
            answers: Vec::with_capacity(count),
        };
        for (batch, answer) in self.waiting.drain(..count) {
            let base = Offset(first.0 + i64::from(gathered.offset_count));
            let header = batch.header();
            gathered.offset_count += offsets(&batch);
            gathered.max_timestamp = gathered.max_timestamp.max(header.max_timestamp);
            gathered.answers.push((base, answer));
            let [head, shared] = batch.stamp(base.0, term.0);
            gathered.payload.push(head);
            gathered.payload.push_known(shared, batch.shared_checksum());
        }
        self.waiting_bytes -= bytes;
        self.detached = self.detached.saturating_sub(count);
        Some(gathered)
    }

    /// How many batches the next entry takes and how many bytes these are; `None` while it must not leave.
    fn next_entry(&self) -> Option<(usize, usize)> {
        let (mut count, mut bytes, mut taken) = (0, 0, 0u32);
        for (batch, _) in &self.waiting {
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
    pub(crate) fn sent(
        &mut self,
        number: u64,
        since: Instant,
        bytes: usize,
        answers: Vec<(Offset, R)>,
    ) {
        debug_assert!(self.in_flight.back().is_none_or(|last| last.number < number));
        self.in_flight_bytes += bytes;
        self.in_flight.push_back(InFlight { number, since, bytes, answers });
    }

    /// Everything up to append `through` is durable: whom to tell which base offset, in order.
    pub(crate) fn acked(&mut self, through: u64) -> Vec<(Offset, R)> {
        let mut answers = Vec::new();
        while let Some(entry) = self.in_flight.pop_front_if(|entry| entry.number <= through) {
            self.in_flight_bytes -= entry.bytes;
            answers.extend(entry.answers);
        }
        answers
    }

    /// Since when the longest-waiting sender waits for an acknowledgement.
    pub(crate) fn waits_since(&self) -> Option<Instant> {
        self.in_flight.iter().find(|entry| !entry.answers.is_empty()).map(|entry| entry.since)
    }

    /// Gives up the answers, not the entries, of all that the log has and did not acknowledge.
    pub(crate) fn abandon(&mut self) -> Vec<R> {
        let answers = self.in_flight.iter_mut().flat_map(|entry| entry.answers.drain(..));
        answers.map(|(_, answer)| answer).collect()
    }

    /// Gives up what has no place in the log yet: certainly not written.
    pub(crate) fn take_waiting(&mut self) -> Vec<R> {
        (self.waiting_bytes, self.detached) = (0, 0);
        self.waiting.drain(..).map(|(_, answer)| answer).collect()
    }

    /// Gives up what the log has and did not acknowledge: the outcome is unknown.
    pub(crate) fn take_in_flight(&mut self) -> Vec<R> {
        self.in_flight_bytes = 0;
        let answers = self.in_flight.drain(..).flat_map(|entry| entry.answers);
        answers.map(|(_, answer)| answer).collect()
    }
}

fn offsets(batch: &Batch) -> u32 {
    u32::try_from(batch.header().offset_count()).expect("a parsed batch is within the most records")
}

#[cfg(test)]
mod tests;
