//! Metrics of reads from the object store. Sizes in bytes.

use metrics::{counter, gauge};

/// What it may hold.
pub(super) fn limit(bytes: usize) {
    gauge!("geminga_memory_limit_bytes", "part" => "cold").set(bytes as f64);
}

/// Entries were given to a reader; `held` is cached or on its way.
pub(super) fn read(bytes: usize, held: usize) {
    counter!("geminga_cold_read_bytes_total").increment(bytes as u64);
    gauge!("geminga_memory_used_bytes", "part" => "cold").set(held as f64);
}

/// A request was made once more.
pub(super) fn again() {
    counter!("geminga_cold_retries_total").increment(1);
}

/// An object was not there of which bookies have dropped their copies.
pub(super) fn lost() {
    counter!("geminga_cold_lost_objects_total").increment(1);
}

/// A reader got an error.
pub(super) fn failed() {
    counter!("geminga_cold_failures_total").increment(1);
}

/// A block was not in memory, and came from there.
pub(super) fn block_from(source: &'static str) {
    counter!("geminga_cold_blocks_total", "source" => source).increment(1);
}

/// What the files of the cache on disk take.
pub(super) fn disk(bytes: u64) {
    gauge!("geminga_cold_disk_bytes").set(bytes as f64);
}

/// The cache on disk could not be read or written.
pub(super) fn disk_failed() {
    counter!("geminga_cold_disk_failures_total").increment(1);
}
