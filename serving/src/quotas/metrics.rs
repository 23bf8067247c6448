//! What quotas did. Labels: `quota` is a [`Kind`]'s name; never a client id, of which there may be any number.

use std::time::Duration;

use metrics::{counter, gauge};

use super::core::Kind;

/// A stream was not read, or an answer held back, for so long.
pub(super) fn throttled(kind: Kind, waited: Duration) {
    counter!("geminga_quota_throttled_total", "quota" => kind.name()).increment(1);
    // Counters are whole numbers.
    let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
    counter!("geminga_quota_throttled_milliseconds_total", "quota" => kind.name())
        .increment(waited_ms);
}

/// How many client ids have quotas of their own.
pub(super) fn observe(clients: usize) {
    gauge!("geminga_quota_clients").set(clients as f64);
}
