//! Simulated time: a queue of what will happen, ordered by time and, within one instant, by when it was put in.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::event::Event;

/// Microseconds since the run began.
pub(crate) type Time = u64;

/// One millisecond.
pub(crate) const MS: Time = 1_000;

#[derive(Debug)]
struct Entry {
    at: Time,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    now: Time,
    number: u64,
    queue: BinaryHeap<Reverse<Entry>>,
}

impl Schedule {
    pub(crate) fn now(&self) -> Time {
        self.now
    }

    /// Not before now.
    pub(crate) fn at(&mut self, at: Time, event: Event) {
        self.number += 1;
        self.queue.push(Reverse(Entry { at: at.max(self.now), number: self.number, event }));
    }

    pub(crate) fn after(&mut self, delay: Time, event: Event) {
        self.at(self.now + delay, event);
    }

    /// The next event; time moves on to it.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let Reverse(entry) = self.queue.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }
}
