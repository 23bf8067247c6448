//! What is sent next, and when.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::lane::Lane;
use super::{Ack, Core, Done, Element};
use crate::directory::Way;

/// What an element takes of a message beside its batch and its topic's name.
const ELEMENT_BYTES: usize = 32;
impl<W> Core<W> {
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
}
