//! One partition in the manager's table: one life, from the takeover to the end. The life's task and the manager share
//! the phase; only the life ends it, so that a next opening never overlaps an earlier one here.

use std::sync::Arc;

use geminga_proto::ids::Term;
use geminga_proto::reason::ApiError;
use tokio::sync::watch;
use tokio::time::Instant;

use super::gate::Demand;
use super::handle::Handle;
use crate::ownership::topology::Topic;
use crate::partition::produce::Opening;
use crate::partition::task::Closing;

/// Where a life stands.
#[derive(Debug, Clone)]
pub(in crate::partition) enum Phase {
    /// The log is being taken over.
    Opening,
    /// It serves.
    Open(Arc<Handle>),
    /// It takes nothing more, as whoever comes late is told; what is on its way may still be acknowledged.
    Closing(ApiError),
    /// It was closed.
    Ended(ApiError),
    /// The takeover failed, or the log was lost.
    Failed {
        /// Why.
        error: ApiError,
        /// Not tried again before.
        retry_at: Instant,
        /// So many in a row.
        failures: u32,
    },
}

/// One life.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) opening: Opening,
    /// The topic's name.
    pub(super) name: String,
    /// The topic as it is now; its life follows it.
    pub(super) topic: Arc<watch::Sender<Arc<Topic>>>,
    pub(super) term: Term,
    /// Requests that asked for it, the first one not counted.
    pub(super) demand: Demand,
    pub(super) phase: Arc<watch::Sender<Phase>>,
    pub(super) close: Arc<watch::Sender<Option<Closing>>>,
}

impl Slot {
    pub(super) fn new(opening: Opening, topic: &Arc<Topic>, term: Term) -> Self {
        Self {
            opening,
            name: topic.name.clone(),
            topic: Arc::new(watch::Sender::new(Arc::clone(topic))),
            term,
            demand: Demand::default(),
            phase: Arc::new(watch::Sender::new(Phase::Opening)),
            close: Arc::new(watch::Sender::new(None)),
        }
    }

    /// Takes over what was altered. Another version of a topic is another value in the view.
    pub(super) fn follow(&self, topic: Arc<Topic>) {
        self.topic.send_if_modified(|now| {
            let altered = !Arc::ptr_eq(now, &topic);
            *now = topic;
            altered
        });
    }

    /// Stops the intake at once and tells the life to end. The first word counts.
    pub(super) fn close(&self, closing: Closing) {
        self.phase.send_if_modified(|phase| {
            let alive = matches!(phase, Phase::Opening | Phase::Open(_));
            if alive {
                *phase = Phase::Closing(closing.error.clone());
            }
            alive
        });
        self.close.send_if_modified(|close| {
            let first = close.is_none();
            if first {
                *close = Some(closing);
            }
            first
        });
    }

    /// Whether a new life may take its place now.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        match &*self.phase.borrow() {
            Phase::Ended(_) => true,
            Phase::Failed { retry_at, .. } => now >= *retry_at,
            Phase::Opening | Phase::Open(_) | Phase::Closing(_) => false,
        }
    }

    /// Since when an open one was not used.
    pub(super) fn quiet_since(&self) -> Option<Instant> {
        match &*self.phase.borrow() {
            Phase::Open(handle) => Some(*handle.used.lock()),
            Phase::Opening | Phase::Closing(_) | Phase::Ended(_) | Phase::Failed { .. } => None,
        }
    }

    /// Failures in a row up to now.
    pub(super) fn failures(&self) -> u32 {
        match &*self.phase.borrow() {
            Phase::Failed { failures, .. } => *failures,
            Phase::Opening | Phase::Open(_) | Phase::Closing(_) | Phase::Ended(_) => 0,
        }
    }
}
