//! How many idempotent producers the partitions of a broker remember together. Each partition holds a share of it, which it gives
//! back when it closes. It refuses newcomers only: what a takeover finds is kept, since whoever forgot it could write something
//! twice, and so a broker that takes partitions over may hold more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::partition::metrics;

/// The bound; cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::partition) struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: usize,
    known: AtomicUsize,
}

impl Budget {
    /// Of so many producers.
    pub(in crate::partition) fn new(most: usize) -> Self {
        Self(Arc::new(Shared { most, known: AtomicUsize::new(0) }))
    }

    /// The bound.
    pub(super) fn most(&self) -> usize {
        self.0.most
    }

    fn known(&self) -> usize {
        self.0.known.load(Ordering::Relaxed)
    }
}

/// Without a bound.
impl Default for Budget {
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

/// What one partition takes of it. Partitions that look for room at the same moment may exceed it by one each.
#[derive(Debug, Default)]
pub(super) struct Share {
    budget: Budget,
    held: usize,
}

impl Share {
    /// Of nobody.
    pub(super) fn of(budget: Budget) -> Self {
        Self { budget, held: 0 }
    }

    /// The bound on all.
    pub(super) fn most(&self) -> usize {
        self.budget.most()
    }

    /// Whether one more finds room.
    pub(super) fn has_room(&self) -> bool {
        self.budget.known() < self.budget.most()
    }

    /// Whether there are more than there may be.
    pub(super) fn is_over(&self) -> bool {
        self.budget.known() > self.budget.most()
    }

    /// The partition knows so many.
    pub(super) fn hold(&mut self, producers: usize) {
        let known = &self.budget.0.known;
        if producers > self.held {
            known.fetch_add(producers - self.held, Ordering::Relaxed);
        } else if producers < self.held {
            known.fetch_sub(self.held - producers, Ordering::Relaxed);
        } else {
            return;
        }
        self.held = producers;
        metrics::observe_producers(self.budget.known());
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.hold(0);
    }
}
