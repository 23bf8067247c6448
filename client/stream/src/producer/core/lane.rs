//! One partition: what waits, what is on its way, and what an answer means for the rest.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use geminga_proto::reason::{ApiError, Reason};
use geminga_records::{Sequence, sequence_after};
use geminga_runtime::Random;
use tokio::time::Instant;

use super::batch::{Batch, Open, fail_all, halves};
use super::{Ack, Done, ProducerId, Rules};
use crate::backoff;
use crate::directory::Way;
use crate::error::Error;

/// What an answer means for the rest of the lane.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    pub(super) error: Error,
    /// Wait before going on.
    pub(super) pause: bool,
}

#[derive(Debug)]
pub(super) struct Lane<W> {
    pub(super) topic: Arc<str>,
    pub(super) partition: u32,
    /// Unless `failed`, the first `on_the_way` are on their way and the others are not, and none [has left](Batch::has_left).
    pub(super) queue: VecDeque<Batch<W>>,
    pub(super) open: Option<Open<W>>,
    pub(super) on_the_way: usize,
    /// The way that the newest element took.
    pub(super) way: Way,
    /// The way that the next one is to take.
    pub(super) next_way: Way,
    /// The first failure since the last restart, while other answers are still awaited.
    pub(super) failed: Option<Failed>,
    /// The next element starts again.
    pub(super) restart: bool,
    pub(super) resume_at: Option<Instant>,
    pub(super) failures: u32,
    pub(super) last_error: Option<Error>,
    /// Bytes of the newest sealed batch before compression: about as large the next one will be.
    pub(super) last_bytes: usize,
    /// Bytes of records since a batch's worth of them had come last, in however many batches.
    pub(super) run_bytes: usize,
    /// Whose numbers the next batch gets; `None` until it is first needed.
    pub(super) producer: Option<ProducerId>,
    /// The next number.
    pub(super) next_sequence: i32,
}

impl<W> Lane<W> {
    pub(super) fn new(topic: Arc<str>, partition: u32, way: Way) -> Self {
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
            run_bytes: 0,
            producer: None,
            next_sequence: 0,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.open.is_none()
    }

    /// Whether nothing is on another way than the next element's.
    pub(super) fn is_on_its_way(&self) -> bool {
        self.on_the_way == 0 || self.way == self.next_way
    }

    /// Whether anything may be sent; what there is, is another question. `producer`: whether there is an id for new lanes.
    pub(super) fn may_send(&self, rules: &Rules, producer: bool, now: Instant) -> bool {
        self.may_send_ever(rules, producer) && self.resume_at.is_none_or(|at| at <= now)
    }

    /// Whether time alone may let something be sent.
    pub(super) fn may_send_ever(&self, rules: &Rules, producer: bool) -> bool {
        self.failed.is_none()
            && (!rules.idempotent || producer || self.producer.is_some())
            && self.on_the_way < rules.in_flight
            && self.is_on_its_way()
            && self.follows(self.on_the_way)
    }

    /// Whether there is anything to send.
    pub(super) fn has_next(&self, rules: &Rules, flush: bool, now: Instant) -> bool {
        self.on_the_way < self.queue.len() || self.is_ripe(rules, flush, now)
    }

    /// Whether it depends on a stream.
    pub(super) fn takes(&self, way: Way) -> bool {
        way == if self.on_the_way > 0 { self.way } else { self.next_way }
    }

    pub(super) fn is_ripe(&self, rules: &Rules, flush: bool, now: Instant) -> bool {
        self.open.as_ref().is_some_and(|open| flush || open.born + rules.linger <= now)
    }

    /// Moves the open batch to the queue.
    pub(super) fn seal(&mut self, done: &mut Vec<Done<W>>) {
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
    pub(super) fn settle(
        &mut self,
        random: &dyn Random,
        now: Instant,
        done: &mut Vec<Done<W>>,
    ) -> bool {
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
    pub(super) fn numbers_refused(&mut self, refused: ApiError, done: &mut Vec<Done<W>>) -> bool {
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
    pub(super) fn let_go(&mut self, error: &Error, done: &mut Vec<Done<W>>) -> bool {
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
    pub(super) fn number(&mut self, place: usize, id: Option<ProducerId>) -> Option<()> {
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
    pub(super) fn follows(&self, place: usize) -> bool {
        let owner = |s: Sequence| (s.producer_id, s.epoch);
        let Some(before) = place.checked_sub(1).and_then(|place| self.queue.get(place)) else {
            return true;
        };
        let next = self.queue.get(place).and_then(|batch| batch.sequence).map(owner);
        before.sequence.map(owner) == next.or(self.producer)
    }

    /// What is queued from `place` on is certainly not written, and one with numbers before it is missing: they get numbers of
    /// the next epoch when they are sent. False when the epochs of the id are used up.
    pub(super) fn renumber(&mut self, place: usize) -> bool {
        for batch in self.queue.iter_mut().skip(place) {
            debug_assert!(batch.attempt.is_none(), "its answer is about the numbers that it has");
            (batch.sequence, batch.doubt) = (None, false);
        }
        self.next_sequence = 0;
        self.producer = self.producer.and_then(|(id, epoch)| Some((id, epoch.checked_add(1)?)));
        self.producer.is_some()
    }

    /// Sends nothing for a while, which grows with the failures in a row.
    pub(super) fn wait(&mut self, error: Error, random: &dyn Random, now: Instant) {
        // A partition that has just moved is asked for at its owner at once. When that sends us on, views differ.
        let moved = error.reason() == Reason::NotOwner && self.failures == 0;
        self.last_error = Some(error);
        self.failures = self.failures.saturating_add(1);
        self.resume_at = (!moved).then(|| now + backoff::pause(self.failures, random));
    }

    pub(super) fn timed_out(&self, after: Duration) -> Error {
        let last = self.last_error.clone().unwrap_or_else(|| {
            let message = "no answer yet; check the server's health";
            ApiError::new(Reason::Unknown, message).into()
        });
        Error::TimedOut { after, last: Box::new(last) }
    }
}

/// The batch at `place` is in the log, at `base_offset` when that is known.
pub(super) fn acknowledge<W>(
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
pub(super) fn fail_batch<W>(
    lane: &mut Lane<W>,
    place: usize,
    error: ApiError,
    done: &mut Vec<Done<W>>,
) {
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
pub(super) fn may_pass(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::MessageTooLarge
            | Reason::InvalidRecord
            | Reason::InvalidRequest
            | Reason::NotSupported
    )
}

pub(super) fn is_about_numbers(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::OutOfOrderSequence | Reason::UnknownProducerId | Reason::InvalidProducerEpoch
    )
}
