//! How batches end: by an answer, with their stream, when their time is over, or with the producer.

use std::collections::BTreeSet;

use geminga_proto::reason::Reason;
use tokio::time::Instant;

use super::batch::fail_all;
use super::lane::{Failed, Lane, acknowledge, fail_batch};
use super::{Answer, Core, Done};
use crate::directory::Way;
use crate::error::Error;

impl<W> Core<W> {
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
