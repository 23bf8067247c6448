//! One partition on one produce stream: a pure state machine that keeps the order of its elements (P5).
//!
//! Elements are submitted one after the other and acknowledged in the same order. After the first that fails, every later
//! one is refused until one arrives with `restart`. A restart begins a new *epoch*: failures of elements submitted before
//! it are the past, which the client knew when it restarted, and stop nothing.
//!
//! ```text
//!   pushed -> queue -> [submitting: at most one] -> slots: waiting or done -> results, from the front
//! ```
//!
//! An element goes to the partition by some *path* (an opening here, or a stream to its owner). The next element may take
//! another path only when nothing waits on the former one: else an element whose fate is open could fail after a later
//! one was written.

use std::collections::VecDeque;

use geminga_proto::reason::{ApiError, Reason};

use crate::router::Appended;

/// What is known of an element besides its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    /// The client's name for it, echoed.
    pub(super) id: u64,
    /// Whether its result is sent. One whose result is not sent may be lost, so its failure stops nothing.
    pub(super) answered: bool,
    /// Begin anew after a failure.
    pub(super) restart: bool,
    /// The caller wants NOT_OWNER rather than a hop.
    pub(super) direct: bool,
    /// Bytes charged to the stream until it is done.
    pub(super) cost: usize,
}

/// An element with its data, or with the reason why it cannot be submitted.
#[derive(Debug)]
pub(super) struct Item<E> {
    pub(super) meta: Meta,
    pub(super) work: Result<E, ApiError>,
}

/// Names one element of the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// An element to submit now; answered by [`Lane::submitted`].
#[derive(Debug)]
pub(super) struct Submit<E> {
    pub(super) ticket: Ticket,
    pub(super) meta: Meta,
    pub(super) element: E,
}

#[derive(Debug)]
struct Slot {
    meta: Meta,
    epoch: u64,
    done: Option<Result<Appended, ApiError>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lane<E> {
    queue: VecDeque<Item<E>>,
    slots: VecDeque<Slot>,
    /// Ticket of the front slot.
    front: u64,
    /// How many slots are not done.
    waiting: usize,
    submitting: bool,
    epoch: u64,
    failed: bool,
}

impl<E> Default for Lane<E> {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            slots: VecDeque::new(),
            front: 0,
            waiting: 0,
            submitting: false,
            epoch: 0,
            failed: false,
        }
    }
}

impl<E> Lane<E> {
    /// The stream's next element of this partition.
    pub(super) fn push(&mut self, item: Item<E>) {
        self.queue.push_back(item);
    }

    /// What to submit now, if anything. `same_path`: whether the next element would take the path of those that wait.
    pub(super) fn next(&mut self, same_path: bool) -> Option<Submit<E>> {
        while !self.submitting {
            let front = self.queue.front()?;
            let refused = self.failed && !front.meta.restart;
            if !refused && front.work.is_ok() && !same_path && self.waiting > 0 {
                return None;
            }
            let Item { meta, work } = self.queue.pop_front()?;
            if meta.restart {
                self.epoch += 1;
                self.failed = false;
            }
            let work = if refused { Err(prior_failed()) } else { work };
            let ticket = self.open_slot(meta);
            match work {
                Ok(element) => {
                    self.submitting = true;
                    return Some(Submit { ticket, meta, element });
                }
                Err(error) => self.resolved(ticket, Err(error)),
            }
        }
        None
    }

    fn open_slot(&mut self, meta: Meta) -> Ticket {
        let ticket = Ticket(self.front + self.slots.len() as u64);
        self.slots.push_back(Slot { meta, epoch: self.epoch, done: None });
        self.waiting += 1;
        ticket
    }

    /// The element's place is fixed, or it was refused.
    pub(super) fn submitted(&mut self, ticket: Ticket, outcome: Result<(), ApiError>) {
        debug_assert!(self.submitting, "one element is submitted at a time");
        self.submitting = false;
        if let Err(error) = outcome {
            self.resolved(ticket, Err(error));
        }
    }

    /// The element's fate is known.
    pub(super) fn resolved(&mut self, ticket: Ticket, result: Result<Appended, ApiError>) {
        let index = usize::try_from(ticket.0 - self.front).expect("as many as there are slots");
        let slot = &mut self.slots[index];
        debug_assert!(slot.done.is_none(), "an element has one fate");
        if result.is_err() && slot.meta.answered && slot.epoch == self.epoch {
            self.failed = true;
        }
        slot.done = Some(result);
        self.waiting -= 1;
    }

    /// The next result in order, once it is known.
    pub(super) fn take_result(&mut self) -> Option<(Meta, Result<Appended, ApiError>)> {
        self.slots.front()?.done.as_ref()?;
        let slot = self.slots.pop_front()?;
        self.front += 1;
        Some((slot.meta, slot.done?))
    }

    /// Whether an element waits to be submitted and may be, as far as the lane knows.
    pub(super) fn has_next(&self) -> bool {
        !self.submitting && !self.queue.is_empty()
    }

    /// Whether an element waits, to be submitted or for its fate.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting > 0 || !self.queue.is_empty()
    }

    /// Whether nothing would be lost by forgetting the lane.
    pub(super) fn is_idle(&self) -> bool {
        !self.failed && self.queue.is_empty() && self.slots.is_empty()
    }
}

pub(super) fn prior_failed() -> ApiError {
    ApiError::new(
        Reason::PriorBatchFailed,
        "an earlier batch of this partition failed: send again from that one on, the first with restart",
    )
}

#[cfg(test)]
mod tests;
