//! Every metric of topic partitions. Label values: `outcome` of an opening is `opened` or `failed`; `outcome` of a produced
//! batch is `acked`, `duplicate`, `unknown` or `refused`; `source` of bytes that
//! readers got is `memory` or `ledgers`, `how` a read of ledgers was met `asked` or `kept`; `reason` of a
//! read that failed is a [`Reason`]. Sizes are bytes as stored, times are seconds.

use std::time::Duration;

use geminga_proto::reason::Reason;
use metrics::{counter, gauge, histogram};

/// Topic partitions that are open, opening or closing here.
pub(super) fn observe_open(partitions: usize) {
    gauge!("geminga_partitions_open").set(partitions as f64);
}

/// An attempt to take a partition over ended.
pub(super) fn observe_opening(opened: bool, took: Duration) {
    let outcome = if opened { "opened" } else { "failed" };
    counter!("geminga_partition_openings_total", "outcome" => outcome).increment(1);
    histogram!("geminga_partition_opening_seconds").record(took.as_secs_f64());
}

/// An entry of so many batches was handed to the log.
pub(super) fn count_entry(batches: usize, bytes: usize) {
    counter!("geminga_produce_entries_total").increment(1);
    counter!("geminga_produce_entry_batches_total").increment(batches as u64);
    counter!("geminga_produce_entry_bytes_total").increment(bytes as u64);
}

/// A batch was acknowledged, so long after it was accepted.
pub(super) fn observe_acked(bytes: usize, records: u32, took: Duration) {
    counter!("geminga_produce_batches_total", "outcome" => "acked").increment(1);
    counter!("geminga_produce_bytes_total").increment(bytes as u64);
    counter!("geminga_produce_records_total").increment(u64::from(records));
    histogram!("geminga_produce_seconds").record(took.as_secs_f64());
}

/// A batch of an idempotent producer came again; it is answered and not written.
pub(super) fn count_duplicate() {
    counter!("geminga_produce_batches_total", "outcome" => "duplicate").increment(1);
}

/// A batch was accepted and not acknowledged.
pub(super) fn count_failed(unknown: bool) {
    let outcome = if unknown { "unknown" } else { "refused" };
    counter!("geminga_produce_batches_total", "outcome" => outcome).increment(1);
}

/// Idempotent producers that the partitions of this broker remember together.
pub(super) fn observe_producers(producers: usize) {
    gauge!("geminga_partition_producers").set(producers as f64);
}

/// Segments were removed, of which nothing was needed any more.
pub(super) fn count_removed_segments(segments: usize) {
    counter!("geminga_partition_removed_segments_total").increment(segments as u64);
}

/// A read was answered.
pub(super) fn count_fetched(batches: usize, bytes: usize) {
    counter!("geminga_fetch_reads_total").increment(1);
    counter!("geminga_fetch_batches_total").increment(batches as u64);
    counter!("geminga_fetch_bytes_total").increment(bytes as u64);
}

/// A read was not answered: long polls that came to an end without records were.
pub(super) fn count_failed_fetch(reason: Reason) {
    counter!("geminga_fetch_failures_total", "reason" => reason.as_str()).increment(1);
}

/// A reader got so many bytes of entries from there.
pub(super) fn count_read_from(source: &'static str, bytes: usize) {
    counter!("geminga_fetch_source_bytes_total", "source" => source).increment(bytes as u64);
}

/// A reader of ledgers got entries that were asked for then, or that were there or on their way already.
pub(super) fn count_piece(how: &'static str) {
    counter!("geminga_fetch_ledger_reads_total", "how" => how).increment(1);
}

/// Bytes a second that old entries are read with at most, while they are held back.
pub(super) fn observe_pace(rate: Option<u64>) {
    gauge!("geminga_fetch_pace_bytes_per_second").set(rate.unwrap_or(0) as f64);
}

/// A read of old entries had to wait for that.
pub(super) fn count_paced() {
    counter!("geminga_fetch_paced_reads_total").increment(1);
}

/// What had been read of a log was given up, since nobody came for it or its room was needed.
pub(super) fn count_dropped_read() {
    counter!("geminga_fetch_dropped_reads_total").increment(1);
}
