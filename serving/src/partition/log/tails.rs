//! The bound on recent entries in memory of all partitions of a broker together: thousands of partitions that each stay
//! within their own bound would still be too much. A ring of those that keep something: when all together keep too
//! much, the one at the head forgets its oldest entries and goes to the end. Partitions that take nothing more thus give
//! up what they keep in the end, since nothing comes after it.
//!
//! One lock at a time: a partition's own, or the ring's, for moments.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::segments::Segments;

/// Members up to which nobody looks for ones that are gone.
const MIN_SWEEP: usize = 64;

/// The bound; cloning shares it.
#[derive(Clone)]
pub struct Tails(Arc<Shared>);

struct Shared {
    max_bytes: usize,
    bytes: AtomicUsize,
    ring: Mutex<Ring>,
}

#[derive(Default)]
struct Ring {
    members: VecDeque<Weak<Segments>>,
    /// Members that are gone are dropped when there are so many.
    sweep_at: usize,
}

impl fmt::Debug for Tails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tails")
            .field("bytes", &self.bytes())
            .field("max_bytes", &self.0.max_bytes)
            .finish_non_exhaustive()
    }
}

impl Tails {
    /// Room for `max_bytes` of payload.
    pub fn new(max_bytes: usize) -> Self {
        Self(Arc::new(Shared { max_bytes, bytes: AtomicUsize::new(0), ring: Mutex::default() }))
    }

    /// Payload bytes kept by all partitions.
    pub fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Takes a partition in that keeps something; it is in no more once [`Segments::forget`] left it with nothing.
    pub(super) fn join(&self, member: Weak<Segments>) {
        let mut ring = self.0.ring.lock();
        ring.members.push_back(member);
        if ring.members.len() >= ring.sweep_at.max(MIN_SWEEP) {
            ring.members.retain(|member| member.strong_count() > 0);
            ring.sweep_at = ring.members.len() * 2;
        }
    }

    /// A partition keeps `more` bytes; somebody forgets as many where that is too much.
    pub(super) fn grew(&self, more: usize) {
        self.0.bytes.fetch_add(more, Ordering::Relaxed);
        loop {
            let over = self.bytes().saturating_sub(self.0.max_bytes);
            if over == 0 {
                return;
            }
            let Some(member) = self.0.ring.lock().members.pop_front() else { return };
            let Some(segments) = member.upgrade() else { continue };
            // It tells `shrank` what it forgot.
            if segments.forget(over) {
                self.0.ring.lock().members.push_back(member);
            }
        }
    }

    /// A partition keeps so much less.
    pub(super) fn shrank(&self, less: usize) {
        self.0.bytes.fetch_sub(less, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn members(&self) -> usize {
        self.0.ring.lock().members.len()
    }
}

#[cfg(test)]
mod tests;
