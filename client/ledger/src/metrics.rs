//! Metrics of the ledger client. Sizes in bytes, times in seconds; labels have few values.

/// Payload bytes taken for writing.
pub(crate) fn appended(bytes: usize) {
    metrics::counter!("geminga_ledger_appended_bytes_total").increment(bytes as u64);
    metrics::counter!("geminga_ledger_appended_entries_total").increment(1);
}

/// A member was left out of an open ledger.
pub(crate) fn left_out() {
    metrics::counter!("geminga_ledger_members_left_out_total").increment(1);
}

/// A change of an ensemble ended; `outcome` is one of committed, refused, deposed.
pub(crate) fn ensemble_changed(outcome: &'static str) {
    metrics::counter!("geminga_ledger_ensemble_changes_total", "outcome" => outcome).increment(1);
}

/// How many zones fewer than asked for have a bookie that takes new data.
pub(crate) fn zones_missing(zones: usize) {
    metrics::gauge!("geminga_ledger_zones_missing").set(zones as f64);
}

/// A ledger was marked as under-replicated.
pub(crate) fn marked_under() {
    metrics::counter!("geminga_ledger_under_marks_total").increment(1);
}

/// Entry bytes were copied by a repair.
pub(crate) fn repaired(bytes: usize) {
    metrics::counter!("geminga_repair_copied_bytes_total").increment(bytes as u64);
}

/// A place of an ensemble went to somebody else.
pub(crate) fn place_given() {
    metrics::counter!("geminga_repair_places_total").increment(1);
}

/// A recovery ended; `outcome` is one of closed, gone, stopped.
pub(crate) fn recovered(outcome: &'static str, seconds: f64) {
    metrics::counter!("geminga_ledger_recoveries_total", "outcome" => outcome).increment(1);
    metrics::histogram!("geminga_ledger_recovery_seconds").record(seconds);
}
