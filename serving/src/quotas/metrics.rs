//! What quotas did. Labels: `quota` is a [`Kind`]'s name; never a client id, of which there may be any number.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{counter, gauge};

use super::core::Kind;

/// A stream was not read, or an answer held back, for so long.
pub(super) fn throttled(kind: Kind, waited: Duration) {
    counter!("geminga_quota_throttled_total", "quota" => kind.name()).increment(1);
    counter!("geminga_quota_throttled_seconds_total", "quota" => kind.name())
        .increment(whole_seconds(&WAITED_MS[kind as usize], waited));
}

/// All that was waited since the process started, in milliseconds, by kind. Counters are whole numbers: what is no second yet waits
/// here.
static WAITED_MS: [AtomicU64; Kind::ALL.len()] = [const { AtomicU64::new(0) }; Kind::ALL.len()];

/// How many seconds become whole by waiting so much longer.
fn whole_seconds(all_ms: &AtomicU64, waited: Duration) -> u64 {
    let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
    let before = all_ms.fetch_add(waited_ms, Ordering::Relaxed);
    (before.wrapping_add(waited_ms) / 1_000).saturating_sub(before / 1_000)
}

/// How many client ids have quotas of their own.
pub(super) fn observe(clients: usize) {
    gauge!("geminga_quota_clients").set(clients as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_waits_become_seconds_together() {
        let all = AtomicU64::new(0);
        let waits = [400, 400, 400, 0, 2_800, 999, 1];
        let counted = waits.map(|ms| whole_seconds(&all, Duration::from_millis(ms)));
        assert_eq!(counted, [0, 0, 1, 0, 3, 0, 1]);
    }
}
