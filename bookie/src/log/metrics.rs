//! Metrics of a bookie's log, all disks together. Sizes in bytes, times in seconds; no labels.

use std::time::Duration;

/// A group commit is on stable storage.
pub(super) fn flushed(bytes: usize, took: Duration) {
    metrics::histogram!("geminga_bookie_flush_bytes").record(bytes as f64);
    metrics::histogram!("geminga_bookie_flush_seconds").record(took.as_secs_f64());
}

/// Bytes taken for the log.
pub(super) fn appended(bytes: usize) {
    metrics::counter!("geminga_bookie_appended_bytes_total").increment(bytes as u64);
}

/// Bytes were moved out of sparse segments.
pub(super) fn relocated(bytes: usize) {
    metrics::counter!("geminga_bookie_relocated_bytes_total").increment(bytes as u64);
}

/// Segments came into use.
pub(super) fn segments_added(segments: usize) {
    metrics::gauge!("geminga_bookie_segments").increment(segments as f64);
}

/// Segments went out of use.
pub(super) fn segments_removed(segments: usize) {
    metrics::gauge!("geminga_bookie_segments").decrement(segments as f64);
}
