//! Metrics of a bookie's log, all disks together. Sizes in bytes, times in seconds. Label: `source` is one of memory, disk.

use std::time::Duration;

use super::scrub::Scrubbed;

/// A group commit is on stable storage.
pub(super) fn flushed(bytes: usize, took: Duration) {
    metrics::histogram!("geminga_bookie_flush_bytes").record(bytes as f64);
    metrics::histogram!("geminga_bookie_flush_seconds").record(took.as_secs_f64());
}

/// The disk was told to make durable what was written, and did or failed: a part of a group commit.
pub(super) fn synced(took: Duration) {
    metrics::histogram!("geminga_bookie_sync_seconds").record(took.as_secs_f64());
}

/// Bytes taken for the log.
pub(super) fn appended(bytes: usize) {
    metrics::counter!("geminga_bookie_appended_bytes_total").increment(bytes as u64);
}

/// Bytes were moved out of sparse segments.
pub(super) fn relocated(bytes: usize) {
    metrics::counter!("geminga_bookie_relocated_bytes_total").increment(bytes as u64);
}

/// A segment was scrubbed.
pub(super) fn scrubbed(scrubbed: &Scrubbed) {
    metrics::counter!("geminga_bookie_scrubbed_bytes_total").increment(scrubbed.bytes);
    metrics::counter!("geminga_bookie_bad_extents_total").increment(scrubbed.bad.len() as u64);
    let damaged = u64::from(scrubbed.damaged_frames);
    metrics::counter!("geminga_bookie_damaged_segments_total").increment(damaged);
    metrics::counter!("geminga_bookie_refused_reads_total").increment(scrubbed.refused);
}

/// The number of records that the disk refused, and did not read since, has changed.
pub(super) fn refused_records(before: usize, now: usize) {
    metrics::gauge!("geminga_bookie_refused_records").increment(now as f64 - before as f64);
}

/// The memory that the index of a log takes has changed.
pub(super) fn index_bytes(before: usize, now: usize) {
    metrics::gauge!("geminga_bookie_index_bytes").increment(now as f64 - before as f64);
}

/// A part of an index was read back from the disk.
pub(super) fn index_loaded() {
    metrics::counter!("geminga_bookie_index_loads_total").increment(1);
}

/// A part of an index could not be read back, or written.
pub(super) fn index_failed() {
    metrics::counter!("geminga_bookie_index_errors_total").increment(1);
}

/// Entries were read from there.
pub(super) fn read_from(source: &'static str) {
    metrics::counter!("geminga_bookie_log_reads_total", "source" => source).increment(1);
}

/// Reads stand in line for a disk.
pub(super) fn reads_waiting(delta: f64) {
    metrics::gauge!("geminga_bookie_log_reads_waiting").increment(delta);
}

/// Segments came into use.
pub(super) fn segments_added(segments: usize) {
    metrics::gauge!("geminga_bookie_segments").increment(segments as f64);
}

/// Segments went out of use.
pub(super) fn segments_removed(segments: usize) {
    metrics::gauge!("geminga_bookie_segments").decrement(segments as f64);
}
