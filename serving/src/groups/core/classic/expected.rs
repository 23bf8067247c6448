//! Ids that were given out, and that nobody has joined with yet. A rebalance waits for them, so they are kept for a moment only,
//! and the oldest give way to newer ones: asking for ids keeps nobody out of a group.

use std::collections::BTreeMap;
use std::sync::Arc;

use geminga_proto::caps;

/// Whoever was given an id joins with it at once.
const LONGEST_MS: u32 = 60_000;
/// Most ids of one group.
const MAX_EXPECTED: usize = caps::MAX_GROUP_MEMBERS;
/// What an id costs beside its bytes.
const OVERHEAD_BYTES: usize = 64;

/// The ids of one group.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// Each with the order in which it was given out, and until when it is good.
    ids: BTreeMap<Arc<str>, (u64, u64)>,
    given_out: u64,
    bytes: usize,
}

impl Expected {
    /// An id is given out to a member with this session timeout.
    pub(super) fn insert(&mut self, id: &Arc<str>, session_timeout_ms: u32, now_ms: u64) {
        if self.ids.len() >= MAX_EXPECTED {
            let oldest = self.ids.iter().min_by_key(|(_, (order, _))| *order);
            if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
                self.remove(&oldest);
            }
        }
        self.given_out += 1;
        let until_ms = now_ms + u64::from(session_timeout_ms.min(LONGEST_MS));
        if self.ids.insert(id.clone(), (self.given_out, until_ms)).is_none() {
            self.bytes += id.len() + OVERHEAD_BYTES;
        }
    }

    /// Whether the id was there.
    pub(super) fn remove(&mut self, id: &str) -> bool {
        let there = self.ids.remove(id).is_some();
        if there {
            self.bytes -= id.len() + OVERHEAD_BYTES;
        }
        there
    }

    /// Forgets those that nobody joined with in time.
    pub(super) fn expire(&mut self, now_ms: u64) {
        self.ids.retain(|_, (_, until_ms)| *until_ms > now_ms);
        self.bytes = self.ids.keys().map(|id| id.len() + OVERHEAD_BYTES).sum();
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.ids.contains_key(id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// When [`Expected::expire`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.ids.values().map(|(_, until_ms)| *until_ms).min()
    }

    /// What they count for against the limits.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
