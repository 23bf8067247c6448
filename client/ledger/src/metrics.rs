//! Metrics of the ledger client. Sizes in bytes, times in seconds; no labels.

/// Payload bytes taken for writing.
pub(crate) fn appended(bytes: usize) {
    metrics::counter!("geminga_ledger_appended_bytes_total").increment(bytes as u64);
    metrics::counter!("geminga_ledger_appended_entries_total").increment(1);
}

/// A member was left out of an open ledger.
pub(crate) fn left_out() {
    metrics::counter!("geminga_ledger_members_left_out_total").increment(1);
}

/// A recovery ended; `outcome` is one of closed, gone, stopped.
pub(crate) fn recovered(outcome: &'static str, seconds: f64) {
    metrics::counter!("geminga_ledger_recoveries_total", "outcome" => outcome).increment(1);
    metrics::histogram!("geminga_ledger_recovery_seconds").record(seconds);
}
