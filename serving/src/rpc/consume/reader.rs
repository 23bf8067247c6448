//! Where a member's partitions stand: which to read next, what was read and waits for credit, which to leave alone for
//! a while. Pure; the stream's task makes the calls.
//!
//! ```text
//!   Queued ──► Reading ──► Held ──all sent──► Queued        errors: ──► Backoff ──► Queued, from the same offset
//!                 └─ out of range ─► Looking ─► Queued              or ──► Stopped, until the client seeks
//! ```
//!
//! * One read of a partition is out at a time, and the next begins where its last piece ended: nothing is skipped and
//!   nothing repeated.
//! * Partitions take turns: a partition that was read goes to the end of the queue, one that was sent from too, unless
//!   a batch of it is half sent.
//! * What is held is bounded: one read for each of at most [`MAX_READS`] partitions, [`MAX_HELD_BYTES`] together but for single
//!   batches that are larger, and none begins without credit.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use geminga_proto::ids::Offset;
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;
use tokio::time::Instant;

use crate::groups::types::TopicPartition;
use crate::router::ReadSpec;
use crate::rpc::chunks::{Chunk, Chunks, Cut, unreadable};
use crate::rpc::outgoing::Charged;
use crate::rpc::way::Lease;

/// Most partitions that are being read, or held with data, at one time.
const MAX_READS: usize = 64;
/// Most bytes that are being read or held together.
const MAX_HELD_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of one read: the credit divided among the partitions, within these bounds.
const MIN_READ_BYTES: usize = 64 * 1024;
const MAX_READ_BYTES: usize = 1024 * 1024;
/// A long poll, where every partition has one; where they take turns.
const LONG_POLL: Duration = Duration::from_secs(1);
const SHORT_POLL: Duration = Duration::from_millis(20);
/// Between attempts at a partition that cannot be read: first, and doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// So many times in a row, over about five seconds, a partition is out of range before that is believed. One that was
/// deposed and does not know it yet lacks what its successor has committed; to begin anew for its sake would repeat, or skip,
/// everything.
const OUT_OF_RANGE: u32 = 14;

/// A call to make. Its answer carries the ticket back.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Work {
    pub(super) tp: TopicPartition,
    pub(super) ticket: u64,
    pub(super) call: Call,
}

/// Which.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Call {
    /// Read on, and first wait for so many bytes of room, if any.
    Read(ReadSpec, usize),
    /// Find where to begin again.
    Find,
}

/// Its answer.
#[derive(Debug)]
pub(super) enum Answer {
    Read(Result<Charged, ApiError>),
    Found(Result<i64, ApiError>),
}

#[derive(Debug)]
enum Phase {
    Queued(Next),
    Out,
    Held(Box<Chunks>),
    Backoff(Instant, Next),
    Failed(ApiError),
    Stopped,
}

/// Which call is next, without its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Read,
    Find,
}

#[derive(Debug)]
struct Partition {
    position: i64,
    paused: bool,
    phase: Phase,
    failures: u32,
    /// Room that its next batch needs to be taken apart, where that is more than was free.
    needs: usize,
    /// Of the call that is out; another answer is of a call that no longer counts.
    ticket: u64,
}

/// The partitions of one assignment.
#[derive(Debug)]
pub(super) struct Reader {
    format: v1::Format,
    reset: v1::OffsetReset,
    partitions: BTreeMap<TopicPartition, Partition>,
    /// Queued and not paused, in turn. Each at most once.
    queue: VecDeque<TopicPartition>,
    /// Held or failed, and not paused, in turn. Each at most once.
    ready: VecDeque<TopicPartition>,
    backoffs: BTreeSet<(Instant, TopicPartition)>,
    /// Partitions that are out or held.
    busy: usize,
    tickets: u64,
}

impl Reader {
    /// A reader without partitions.
    pub(super) fn new(format: v1::Format, reset: v1::OffsetReset) -> Self {
        Self {
            format,
            reset,
            partitions: BTreeMap::new(),
            queue: VecDeque::new(),
            ready: VecDeque::new(),
            backoffs: BTreeSet::new(),
            busy: 0,
            tickets: 0,
        }
    }

    /// Reads these, each from its offset on, and no others.
    pub(super) fn start(&mut self, starts: Vec<(TopicPartition, i64)>) {
        self.stop();
        for (tp, position) in starts {
            let phase = Phase::Queued(Next::Read);
            self.queue.push_back(tp.clone());
            let partition =
                Partition { position, paused: false, phase, failures: 0, needs: 0, ticket: 0 };
            self.partitions.insert(tp, partition);
        }
    }

    /// Reads nothing any more.
    pub(super) fn stop(&mut self) {
        self.partitions.clear();
        self.queue.clear();
        self.ready.clear();
        self.backoffs.clear();
        self.busy = 0;
    }

    /// Goes on at another offset. A partition that is not assigned (any more) is none of ours.
    pub(super) fn seek(&mut self, tp: &TopicPartition, offset: i64) {
        let Some(mut partition) = self.take(tp) else { return };
        partition.position = offset;
        (partition.failures, partition.needs, partition.ticket) = (0, 0, 0);
        partition.phase = Phase::Queued(Next::Read);
        self.put(tp, partition);
    }

    /// Sends nothing of a partition until further notice, or sends on. Meanwhile what was read of it would be in the way.
    pub(super) fn pause(&mut self, tp: &TopicPartition, paused: bool) {
        let Some(mut partition) = self.take(tp) else { return };
        partition.paused = paused;
        if paused && matches!(partition.phase, Phase::Held(..)) {
            partition.phase = Phase::Queued(Next::Read);
        }
        self.put(tp, partition);
    }

    /// Whether something was read that is not sent.
    pub(super) fn holds(&self) -> bool {
        self.ready.iter().any(|tp| self.is_held(tp))
    }

    /// Forgets what was read and is not sent: it is read again.
    pub(super) fn let_go(&mut self) {
        let held: Vec<_> = self.ready.iter().filter(|tp| self.is_held(tp)).cloned().collect();
        for tp in held {
            if let Some(mut partition) = self.take(&tp) {
                partition.phase = Phase::Queued(Next::Read);
                self.put(&tp, partition);
            }
        }
    }

    fn is_held(&self, tp: &TopicPartition) -> bool {
        let partition = self.partitions.get(tp);
        partition.is_some_and(|partition| matches!(partition.phase, Phase::Held(..)))
    }

    /// Takes a partition out of its place.
    fn take(&mut self, tp: &TopicPartition) -> Option<Partition> {
        let partition = self.partitions.remove(tp)?;
        match &partition.phase {
            Phase::Queued(_) => self.queue.retain(|other| other != tp),
            Phase::Out => self.busy -= 1,
            Phase::Held(..) => {
                self.busy -= 1;
                self.ready.retain(|other| other != tp);
            }
            Phase::Failed(_) => self.ready.retain(|other| other != tp),
            Phase::Backoff(until, _) => {
                self.backoffs.remove(&(*until, tp.clone()));
            }
            Phase::Stopped => {}
        }
        Some(partition)
    }

    /// Puts a partition where its phase belongs, at the end.
    fn put(&mut self, tp: &TopicPartition, partition: Partition) {
        match &partition.phase {
            Phase::Queued(_) if partition.paused => {}
            Phase::Queued(_) => self.queue.push_back(tp.clone()),
            Phase::Out => self.busy += 1,
            Phase::Held(..) => {
                self.busy += 1;
                if !partition.paused {
                    self.ready.push_back(tp.clone());
                }
            }
            Phase::Failed(_) => self.ready.push_back(tp.clone()),
            Phase::Backoff(until, _) => {
                self.backoffs.insert((*until, tp.clone()));
            }
            Phase::Stopped => {}
        }
        self.partitions.insert(tp.clone(), partition);
    }

    /// The next call to make, if any may be made. Asked again until there is none.
    pub(super) fn next_work(&mut self, credit: i64) -> Option<Work> {
        if credit <= 0 || self.busy >= MAX_READS {
            return None;
        }
        let tp = self.queue.pop_front()?;
        self.tickets += 1;
        let (ticket, takes_turns) = (self.tickets, self.partitions.len() > MAX_READS);
        let partitions = self.partitions.len().max(1);
        let share = usize::try_from(credit).unwrap_or(usize::MAX) / partitions;
        let share = share.min(MAX_HELD_BYTES / partitions.min(MAX_READS));
        let partition = self.partitions.get_mut(&tp)?;
        let Phase::Queued(call) = partition.phase else { return None };
        partition.phase = Phase::Out;
        partition.ticket = ticket;
        self.busy += 1;
        let call = match call {
            Next::Find => Call::Find,
            Next::Read => {
                let spec = ReadSpec {
                    offset: Offset(partition.position),
                    max_bytes: share.clamp(MIN_READ_BYTES, MAX_READ_BYTES),
                    min_bytes: 1,
                    max_wait: if takes_turns { SHORT_POLL } else { LONG_POLL },
                };
                Call::Read(spec, partition.needs)
            }
        };
        Some(Work { tp, ticket, call })
    }

    /// Takes the answer to a call.
    pub(super) fn on_answer(
        &mut self,
        now: Instant,
        tp: &TopicPartition,
        ticket: u64,
        answer: Answer,
    ) {
        if self.partitions.get(tp).is_none_or(|partition| partition.ticket != ticket) {
            return;
        }
        let Some(mut partition) = self.take(tp) else { return };
        partition.phase = match answer {
            // It may be paused for long.
            Answer::Read(Ok(_)) if partition.paused => Phase::Queued(Next::Read),
            Answer::Read(Ok(read)) => self.on_read(&mut partition, read),
            Answer::Found(Ok(offset)) => {
                partition.position = offset;
                Phase::Queued(Next::Read)
            }
            Answer::Read(Err(error)) => self.on_error(now, &mut partition, Next::Read, error),
            Answer::Found(Err(error)) => self.on_error(now, &mut partition, Next::Find, error),
        };
        self.put(tp, partition);
    }

    fn on_read(&self, partition: &mut Partition, found: Charged) -> Phase {
        (partition.failures, partition.needs) = (0, 0);
        let chunks = Chunks::new(found, partition.position, self.format);
        if chunks.is_empty() {
            partition.position = partition.position.max(chunks.end());
            return Phase::Queued(Next::Read);
        }
        Phase::Held(Box::new(chunks))
    }

    fn on_error(
        &self,
        now: Instant,
        partition: &mut Partition,
        call: Next,
        error: ApiError,
    ) -> Phase {
        match error.reason {
            Reason::OffsetOutOfRange if partition.failures < OUT_OF_RANGE => {
                backoff(now, partition, call)
            }
            Reason::OffsetOutOfRange if self.reset != v1::OffsetReset::None => {
                Phase::Queued(Next::Find)
            }
            // A topic that is gone leaves the assignment soon; one that was just made arrives here soon.
            Reason::UnknownTopic | Reason::UnknownPartition => backoff(now, partition, call),
            reason if reason.retriable() => backoff(now, partition, call),
            _ => Phase::Failed(error),
        }
    }

    /// Ends the pauses that are over.
    pub(super) fn tick(&mut self, now: Instant) {
        while let Some((until, tp)) = self.backoffs.first().cloned()
            && until <= now
        {
            let Some(mut partition) = self.take(&tp) else { return };
            if let Phase::Backoff(_, call) = partition.phase {
                partition.phase = Phase::Queued(call);
            }
            self.put(&tp, partition);
        }
    }

    /// When [`Reader::tick`] is due, if ever.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.backoffs.first().map(|(until, _)| *until)
    }

    /// Whether there may be something to send.
    pub(super) fn has_data(&self, credit: i64) -> bool {
        credit > 0 && !self.ready.is_empty()
    }

    /// Whether what is next must wait until the client was written what it was given.
    pub(super) fn is_waiting(&self) -> bool {
        let next = self.ready.front().and_then(|tp| self.partitions.get(tp));
        next.is_some_and(|next| matches!(&next.phase, Phase::Held(chunks) if chunks.is_waiting()))
    }

    /// What to send next, what it costs, and its room; asked again until [`Reader::has_data`] is false. Beyond the credit only
    /// with a single batch or record that is larger than what is left of it.
    pub(super) fn next_data(
        &mut self,
        credit: i64,
    ) -> Option<(v1::PartitionData, i64, Option<Lease>)> {
        let room = usize::try_from(credit).ok().filter(|room| *room > 0)?;
        while !self.is_waiting()
            && let Some(tp) = self.ready.front().cloned()
        {
            let mut partition = self.take(&tp)?;
            let next = match &mut partition.phase {
                Phase::Held(chunks) => chunks.next(room),
                Phase::Failed(error) => {
                    let data = failed(&tp, partition.position, error);
                    partition.phase = Phase::Stopped;
                    self.put(&tp, partition);
                    return Some((data, 0, None));
                }
                Phase::Queued(_) | Phase::Out | Phase::Backoff(..) | Phase::Stopped => {
                    Ok(Cut::Nothing)
                }
            };
            match next {
                Ok(Cut::Piece(chunk)) => {
                    partition.position = chunk.next_offset;
                    let cost = i64::try_from(chunk.bytes).unwrap_or(i64::MAX);
                    let lease = chunk.room.clone();
                    let data = sent(&tp, &partition, chunk);
                    self.after(&tp, partition);
                    return Some((data, cost, lease));
                }
                Ok(Cut::Nothing) => self.after(&tp, partition),
                Ok(Cut::Short(needs)) => {
                    partition.needs = needs;
                    partition.phase = Phase::Queued(Next::Read);
                    self.put(&tp, partition);
                }
                Err(error) => {
                    let error = unreadable(&tp, partition.position, &error);
                    partition.phase = Phase::Failed(error);
                    self.put(&tp, partition);
                }
            }
        }
        None
    }

    /// Something was taken of what a partition held.
    fn after(&mut self, tp: &TopicPartition, mut partition: Partition) {
        let (mut rest, mut open) = (None, false);
        if let Phase::Held(chunks) = &partition.phase {
            rest = chunks.is_empty().then(|| chunks.end());
            open = chunks.is_open();
        }
        if let Some(end) = rest {
            partition.position = partition.position.max(end);
            partition.phase = Phase::Queued(Next::Read);
        }
        self.put(tp, partition);
        // A batch that was taken apart is sent to its end before another one takes up memory.
        if open && let Some(last) = self.ready.pop_back() {
            self.ready.push_front(last);
        }
    }
}

fn backoff(now: Instant, partition: &mut Partition, call: Next) -> Phase {
    let pause = FIRST_PAUSE.saturating_mul(1 << partition.failures.min(10)).min(LONGEST_PAUSE);
    partition.failures = partition.failures.saturating_add(1);
    Phase::Backoff(now + pause, call)
}

fn sent(tp: &TopicPartition, partition: &Partition, chunk: Chunk) -> v1::PartitionData {
    let (high_watermark, log_start_offset) = match &partition.phase {
        Phase::Held(chunks) => (chunks.high_watermark, chunks.log_start),
        Phase::Queued(_) | Phase::Out | Phase::Backoff(..) | Phase::Failed(_) | Phase::Stopped => {
            (chunk.next_offset, 0)
        }
    };
    v1::PartitionData {
        topic: tp.topic.to_string(),
        partition: tp.partition,
        data: Some(chunk.data),
        next_offset: chunk.next_offset,
        high_watermark,
        log_start_offset,
        error: None,
    }
}

fn failed(tp: &TopicPartition, position: i64, error: &ApiError) -> v1::PartitionData {
    v1::PartitionData {
        topic: tp.topic.to_string(),
        partition: tp.partition,
        next_offset: position,
        error: Some(error.to_proto()),
        ..v1::PartitionData::default()
    }
}

#[cfg(test)]
mod tests;
