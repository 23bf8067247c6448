//! Every metric of topics.

use metrics::{counter, gauge};

/// Deleted topics of which something is left, as this broker sees it.
pub(super) fn observe_deleted(topics: usize) {
    gauge!("geminga_topics_being_removed").set(topics as f64);
}

/// A deleted topic of which nothing is left.
pub(super) fn count_removed() {
    counter!("geminga_topics_removed_total").increment(1);
}
