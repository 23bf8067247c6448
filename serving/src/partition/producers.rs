//! What a partition knows of its idempotent producers: a batch that comes again is recognised, and one that comes too early is
//! not taken. Pure and neutral: gRPC, Kafka and transactions check their batches here.
//!
//! ```text
//!   check ─► assign ─► in the queue or the log ─┬─► commit: its entry is at or below the LAC
//!                                               └─► take_back: certainly not written (P3)
//! ```
//!
//! * **Assigned and committed are told apart (P1, P2).** Of a committed batch the offset is known. Of an assigned one only who
//!   waits for it is; a duplicate waits with it.
//! * **The committed state follows from the log alone (P4)**: from a snapshot and the batches after it, in order. So every owner
//!   has the same, but for whom a former owner forgot, by time or for want of room, after its last snapshot: the next one knows
//!   them for longer. That harms nobody: what it knows of them is in the log, and where one of them began anew, which is in the
//!   log as well, what was forgotten then is forgotten by whoever reads it.
//! * Within an epoch numbers have no gaps, from 0 on: what is older than the batches that are remembered was written.
//! * Times are milliseconds since the opening by a clock that never jumps: no wall clock makes anybody forgotten. What is read back
//!   may have been written just before the opening, its acknowledgement lost with the owner, whatever the snapshot says of its
//!   age: nobody is pushed out for want of room before [`PROTECTED_MS`] have passed here.

mod budget;

use std::collections::{BTreeMap, HashMap, VecDeque};

use geminga_proto::caps;
use geminga_proto::ids::Offset;
use geminga_proto::reason::{ApiError, Reason};
use geminga_records::{Header, Sequence, sequence_after, sequence_distance};

pub(super) use budget::Budget;
use budget::Share;

use super::mutation::{Mutation, Mutations};
use crate::router::ActiveProducer;

/// A producer that appended within this time is not forgotten for want of room: it may still have to send something again.
pub(super) const PROTECTED_MS: i64 = 300_000;
/// Numbers further back than this are taken for numbers ahead.
const PAST: u32 = 1 << 30;

/// Of a batch's attributes: that its largest timestamp is when the partition's owner dated it.
const LOG_APPEND_TIME: i16 = 1 << 3;

/// What a batch says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Whose it is, and the number of its first record.
    pub(crate) sequence: Sequence,
    /// Records; at least one.
    pub(crate) count: u32,
    /// Its attributes as in the batch's header.
    pub(crate) attributes: i16,
    /// Its largest timestamp, milliseconds.
    pub(crate) max_timestamp: i64,
}

impl Stamp {
    /// That of an idempotent producer's batch.
    pub(crate) fn of(header: &Header) -> Option<Self> {
        Some(Self {
            sequence: header.sequence()?,
            count: u32::try_from(header.offset_count()).ok()?,
            attributes: header.attributes,
            max_timestamp: header.max_timestamp,
        })
    }
}

/// Names a batch that is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u64);

/// What is to be done with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the producer's next: [`Producers::assign`].
    Next,
    /// It is in the log.
    Committed(Offset),
    /// It is on its way: its fate is that of this one (P2).
    Assigned(Ticket),
    /// It is not taken.
    Refused(Refusal),
}

/// Why a batch is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A batch before it is missing; this number would be the next.
    OutOfOrder {
        /// The next.
        expected: i32,
    },
    /// Written before, longer ago than is remembered.
    TooOld,
    /// The producer has this later epoch.
    Fenced {
        /// The later one.
        epoch: i16,
    },
    /// Not the first batch of a producer of which nothing is known.
    Unknown,
    /// There are as many producers as there may be.
    TooMany,
    /// There are as many as this broker remembers, in all its partitions.
    BrokerFull {
        /// So many.
        most: usize,
    },
}

impl Refusal {
    /// Whether a former owner, whose state stands still, may come to it wrongly.
    pub(crate) fn needs_proof(self) -> bool {
        match self {
            Self::OutOfOrder { .. } | Self::Unknown => true,
            Self::TooOld | Self::Fenced { .. } | Self::TooMany | Self::BrokerFull { .. } => false,
        }
    }

    /// What the producer is told.
    pub(crate) fn error(self, stamp: &Stamp) -> ApiError {
        let Sequence { producer_id, epoch, first } = stamp.sequence;
        let (reason, why) = match self {
            Self::OutOfOrder { expected } => (
                Reason::OutOfOrderSequence,
                format!("expected {expected}: send what comes before it first"),
            ),
            Self::TooOld => (
                Reason::DuplicateSequence,
                "it was written before, and where is not remembered".to_owned(),
            ),
            Self::Fenced { epoch } => (
                Reason::InvalidProducerEpoch,
                format!("the producer has written with epoch {epoch}: take a new id"),
            ),
            Self::Unknown => (
                Reason::UnknownProducerId,
                "nothing is known of the producer any more: begin its next epoch at 0".to_owned(),
            ),
            Self::TooMany => (
                Reason::Overloaded,
                format!(
                    "{} idempotent producers write to the partition at once: use fewer, or wait",
                    caps::MAX_PRODUCERS_PER_PARTITION
                ),
            ),
            Self::BrokerFull { most } => (
                Reason::Overloaded,
                format!(
                    "the partitions of this broker remember {most} idempotent producers, its limit: try again later, raise \
                     --max-producers, or add a broker"
                ),
            ),
        };
        let batch = format!("sequence {first} of producer {producer_id}, epoch {epoch}");
        ApiError::new(reason, format!("{batch}: {why}"))
    }
}

/// A batch in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Number of its first record.
    pub(crate) first: i32,
    /// Records.
    pub(crate) count: u32,
    /// Offset of its first record.
    pub(crate) base_offset: Offset,
    /// Its largest timestamp, milliseconds.
    pub(crate) max_timestamp: i64,
    /// Whether that is when the owner dated it. Snapshots do not say: false where it is not known.
    pub(crate) dated: bool,
}

impl Kept {
    fn is(&self, stamp: &Stamp) -> bool {
        self.first == stamp.sequence.first && self.count == stamp.count
    }

    fn next(&self) -> i32 {
        sequence_after(self.first, self.count)
    }
}

/// What is in the log of one producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Producer {
    /// Its newest epoch.
    pub(crate) epoch: i16,
    /// When it appended last, milliseconds since the opening; negative when an earlier owner dated it in its snapshot. What that
    /// one appended later counts as appended when it was read.
    pub(crate) appended_ms: i64,
    /// Its newest batches of that epoch, in order, at least one.
    pub(crate) batches: VecDeque<Kept>,
}

impl Producer {
    /// Whether it may still have to send something again.
    fn is_protected(&self, now_ms: i64) -> bool {
        // Dates before the opening are another machine's wall clock's: they are not held against anybody.
        now_ms.saturating_sub(self.appended_ms.max(0)) < PROTECTED_MS
    }
}

#[derive(Debug, Clone, Copy)]
struct Assigned {
    epoch: i16,
    first: i32,
    count: u32,
    ticket: Ticket,
}

/// The state.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    committed: HashMap<i64, Producer>,
    /// By the offset of the newest batch: who appended longest ago is first.
    order: BTreeMap<Offset, i64>,
    /// What is on its way, in order; no empty queue.
    assigned: HashMap<i64, VecDeque<Assigned>>,
    /// How many of those that have something on its way have nothing in the log.
    comers: usize,
    share: Share,
    mutations: Mutations,
}

impl Producers {
    /// Nobody. `budget`: of all partitions. `mutations`: rules that a test breaks.
    pub(super) fn new(budget: Budget, mutations: Mutations) -> Self {
        Self { share: Share::of(budget), mutations, ..Self::default() }
    }

    /// What is to be done with a batch that arrives now.
    pub(crate) fn check(&self, stamp: &Stamp, now_ms: i64) -> Verdict {
        let Sequence { producer_id, epoch, first } = stamp.sequence;
        let committed = self.committed.get(&producer_id);
        let assigned = self.assigned.get(&producer_id);
        let newest = match (assigned.and_then(VecDeque::back), committed) {
            (Some(a), _) => Some((a.epoch, sequence_after(a.first, a.count))),
            (None, Some(c)) => c.batches.back().map(|kept| (c.epoch, kept.next())),
            (None, None) => None,
        };
        let Some((newest_epoch, expected)) = newest else {
            return match first {
                0 => self.find_room(now_ms).map_or_else(Verdict::Refused, |()| Verdict::Next),
                _ => Verdict::Refused(Refusal::Unknown),
            };
        };
        if epoch < newest_epoch {
            return Verdict::Refused(Refusal::Fenced { epoch: newest_epoch });
        }
        let expected = if epoch > newest_epoch { 0 } else { expected };
        if first == expected {
            return Verdict::Next;
        }
        if epoch > newest_epoch {
            return Verdict::Refused(Refusal::OutOfOrder { expected });
        }
        let committed = committed.filter(|producer| producer.epoch == epoch);
        self.seen(stamp, expected, assigned, committed)
    }

    /// The verdict on a batch of the newest epoch that is not the next.
    fn seen(
        &self,
        stamp: &Stamp,
        expected: i32,
        assigned: Option<&VecDeque<Assigned>>,
        committed: Option<&Producer>,
    ) -> Verdict {
        let Sequence { epoch, first, .. } = stamp.sequence;
        let mut oldest = expected;
        if let Some(assigned) = assigned {
            let from = assigned.partition_point(|a| a.epoch < epoch);
            if let Some(base) = assigned.get(from).map(|a| a.first) {
                oldest = base;
                let distance = sequence_distance(base, first);
                let at = assigned.partition_point(|a| {
                    a.epoch < epoch || sequence_distance(base, a.first) < distance
                });
                let same = |a: &&Assigned| a.first == first && a.count == stamp.count;
                if let Some(found) = assigned.get(at).filter(same) {
                    if self.mutations.is(Mutation::AckEarly) {
                        return Verdict::Committed(Offset(-1));
                    }
                    return Verdict::Assigned(found.ticket);
                }
            }
        }
        if let Some(committed) = committed {
            oldest = committed.batches.front().map_or(oldest, |kept| kept.first);
            if let Some(found) = committed.batches.iter().find(|kept| kept.is(stamp)) {
                return Verdict::Committed(found.base_offset);
            }
        }
        let behind = Some(sequence_distance(first, expected)).filter(|behind| *behind <= PAST);
        let gap = behind.and_then(|behind| behind.checked_sub(stamp.count));
        if gap.is_some_and(|gap| gap >= sequence_distance(oldest, expected)) {
            return Verdict::Refused(Refusal::TooOld);
        }
        Verdict::Refused(Refusal::OutOfOrder { expected })
    }

    /// Whether one more producer finds room. Where there is none each that comes pushes out the one that was silent for longest.
    fn find_room(&self, now_ms: i64) -> Result<(), Refusal> {
        let (most, known) = (caps::MAX_PRODUCERS_PER_PARTITION, self.committed.len() + self.comers);
        // Those before the one that would go are pushed out by who came before.
        let goes = |place: usize| {
            let victim = self.order.values().nth(place).and_then(|id| self.committed.get(id));
            victim.is_some_and(|producer| !producer.is_protected(now_ms))
        };
        if known >= most && !goes(known - most) {
            return Err(Refusal::TooMany);
        }
        if !self.share.has_room() && !goes(self.comers) {
            return Err(Refusal::BrokerFull { most: self.share.most() });
        }
        Ok(())
    }

    /// The next batch of its producer, as [`Producers::check`] said, is on its way; tickets rise.
    pub(crate) fn assign(&mut self, stamp: &Stamp, ticket: Ticket) {
        let Sequence { producer_id, epoch, first } = stamp.sequence;
        let queue = self.assigned.entry(producer_id).or_default();
        self.comers += usize::from(queue.is_empty() && !self.committed.contains_key(&producer_id));
        queue.push_back(Assigned { epoch, first, count: stamp.count, ticket });
        self.account();
    }

    /// An assigned batch is in the log. Batches are committed in the order in which they were assigned.
    pub(crate) fn commit(&mut self, stamp: &Stamp, base_offset: Offset, now_ms: i64) {
        let id = stamp.sequence.producer_id;
        if let Some(queue) = self.assigned.get_mut(&id) {
            self.comers -= usize::from(!self.committed.contains_key(&id));
            let front = queue.pop_front();
            debug_assert_eq!(front.map(|a| a.first), Some(stamp.sequence.first));
            if queue.is_empty() {
                self.assigned.remove(&id);
            }
        }
        self.append(stamp, base_offset, now_ms);
    }

    /// The newest assigned batch of its producer is not written, and will not be: it may come again (P3).
    pub(crate) fn take_back(&mut self, stamp: &Stamp) {
        if self.mutations.is(Mutation::KeepRefused) {
            return;
        }
        let id = stamp.sequence.producer_id;
        let Some(queue) = self.assigned.get_mut(&id) else { return };
        let back = queue.pop_back();
        debug_assert_eq!(back.map(|a| a.first), Some(stamp.sequence.first));
        if queue.is_empty() {
            self.assigned.remove(&id);
            self.comers -= usize::from(!self.committed.contains_key(&id));
            self.account();
        }
    }

    /// The next batch in the log, as it is now. Who comes new pushes one out where this broker remembers too many.
    pub(crate) fn append(&mut self, stamp: &Stamp, base_offset: Offset, now_ms: i64) {
        let known = self.committed.len();
        self.remember(stamp, base_offset, now_ms);
        let oldest = self.order.values().next().and_then(|id| self.committed.get(id));
        let goes = oldest.is_some_and(|producer| !producer.is_protected(now_ms));
        if self.committed.len() > known && self.share.is_over() && goes {
            self.forget_oldest();
        }
        self.account();
    }

    /// The next batch in the log, as a takeover reads it. What this broker has room for decides nothing here: what is forgotten
    /// follows from the log alone (P4).
    pub(crate) fn replay(&mut self, stamp: &Stamp, base_offset: Offset) {
        self.remember(stamp, base_offset, 0);
        self.account();
    }

    /// What is in the log was checked when it came.
    fn remember(&mut self, stamp: &Stamp, base_offset: Offset, now_ms: i64) {
        let Sequence { producer_id, epoch, first } = stamp.sequence;
        let producer = self.committed.entry(producer_id).or_insert_with(|| Producer {
            epoch,
            appended_ms: now_ms,
            batches: VecDeque::with_capacity(1),
        });
        if let Some(newest) = producer.batches.back() {
            self.order.remove(&newest.base_offset);
        }
        // Where the numbers do not go on its owner had forgotten it: what came before is none of this line of numbers.
        let goes_on = producer.batches.back().is_none_or(|newest| newest.next() == first);
        if producer.epoch != epoch || !goes_on {
            producer.batches.clear();
            producer.epoch = epoch;
        }
        if producer.batches.len() >= caps::PRODUCER_BATCHES {
            producer.batches.pop_front();
        }
        let Stamp { count, max_timestamp, attributes, .. } = *stamp;
        let dated = attributes & LOG_APPEND_TIME != 0;
        producer.batches.push_back(Kept { first, count, base_offset, max_timestamp, dated });
        producer.appended_ms = now_ms;
        self.order.insert(base_offset, producer_id);
        while self.committed.len() > caps::MAX_PRODUCERS_PER_PARTITION {
            self.forget_oldest();
        }
    }

    /// Forgets who appended longest ago, but for what it has on its way.
    fn forget_oldest(&mut self) {
        let Some((_, silent)) = self.order.pop_first() else { return };
        self.committed.remove(&silent);
        self.comers += usize::from(self.assigned.contains_key(&silent));
    }

    /// Whom this partition knows is charged to the budget of all.
    fn account(&mut self) {
        self.share.hold(self.committed.len() + self.comers);
    }

    /// Takes a producer from a snapshot. Of two that cannot both be, since they are the same one, or appended the same batch, the
    /// one that comes later is believed.
    pub(crate) fn restore(&mut self, id: i64, producer: Producer) {
        let Some(newest) = producer.batches.back().map(|newest| newest.base_offset) else { return };
        let former = self.committed.remove(&id);
        if let Some(former) = former.and_then(|former| former.batches.back().cloned()) {
            self.order.remove(&former.base_offset);
        }
        if let Some(other) = self.order.insert(newest, id) {
            self.committed.remove(&other);
        }
        self.committed.insert(id, producer);
        self.account();
    }

    /// When the owner dated a batch that is in the log ([`Verdict::Committed`]), as far as that is known.
    pub(crate) fn dated(&self, stamp: &Stamp) -> Option<i64> {
        let producer = self.committed.get(&stamp.sequence.producer_id)?;
        let kept = producer.batches.iter().find(|kept| kept.is(stamp))?;
        kept.dated.then_some(kept.max_timestamp)
    }

    /// Who is in the log, for people; who appended longest ago first.
    pub(crate) fn active(&self) -> Vec<ActiveProducer> {
        let active = |(id, producer): (i64, &Producer)| {
            let newest = producer.batches.back()?;
            Some(ActiveProducer {
                id,
                epoch: producer.epoch,
                last_sequence: sequence_after(newest.first, newest.count.saturating_sub(1)),
                last_timestamp_ms: newest.max_timestamp,
            })
        };
        self.committed().filter_map(active).collect()
    }

    /// Whether something is in the log of anybody.
    pub(crate) fn knows_any(&self) -> bool {
        !self.committed.is_empty()
    }

    /// Forgets who appended nothing for so long and has nothing on its way.
    pub(crate) fn expire(&mut self, now_ms: i64, after_ms: i64) {
        let Self { committed, order, assigned, .. } = &mut *self;
        order.retain(|_, id| {
            let silent = |p: &Producer| now_ms.saturating_sub(p.appended_ms) >= after_ms;
            let keep = assigned.contains_key(id) || !committed.get(id).is_some_and(silent);
            if !keep {
                committed.remove(id);
            }
            keep
        });
        self.account();
    }

    /// What is committed: who appended longest ago first.
    pub(crate) fn committed(&self) -> impl Iterator<Item = (i64, &Producer)> {
        self.order.values().filter_map(|id| Some((*id, self.committed.get(id)?)))
    }
}

#[cfg(test)]
mod tests;
