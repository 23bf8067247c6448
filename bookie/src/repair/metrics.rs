//! Metrics of repairs. Sizes in bytes, times in seconds.
//!
//! Labels: `outcome` is one of clean, gone, unmarked, waits, lost, failed; `ledger` and `topic` name at most
//! [`MAX_NAMED`] ledgers of which entries are lost.

/// Most ledgers that are named by a metric.
pub(super) const MAX_NAMED: usize = 20;

/// A repair ended.
pub(super) fn repaired(outcome: &'static str, seconds: f64) {
    metrics::counter!("geminga_repair_ledgers_total", "outcome" => outcome).increment(1);
    metrics::histogram!("geminga_repair_seconds").record(seconds);
}

/// Repairs that run.
pub(super) fn running(count: usize) {
    metrics::gauge!("geminga_repair_running").set(count as f64);
}

/// No copy is known of some entry of this ledger, or there is one again.
pub(super) fn lost(ledger: String, topic: String, yes: bool) {
    let value = if yes { 1.0 } else { 0.0 };
    metrics::gauge!("geminga_repair_lost_ledger", "ledger" => ledger, "topic" => topic).set(value);
}

/// What the auditor sees: marked ledgers, those of which entries are lost, and how old the oldest mark is.
pub(super) fn marks(marked: usize, lost: usize, oldest_seconds: f64) {
    metrics::gauge!("geminga_repair_marked_ledgers").set(marked as f64);
    metrics::gauge!("geminga_repair_lost_ledgers").set(lost as f64);
    metrics::gauge!("geminga_repair_oldest_mark_seconds").set(oldest_seconds);
}

/// Ledgers whose copies are to be spread better.
pub(super) fn moves(count: usize) {
    metrics::gauge!("geminga_repair_misplaced_ledgers").set(count as f64);
}

/// A ledger's copy here was given up, of so many bytes.
pub(super) fn given_up(bytes: u64) {
    metrics::counter!("geminga_repair_given_up_ledgers_total").increment(1);
    metrics::counter!("geminga_repair_given_up_bytes_total").increment(bytes);
}

/// Values that the last pass could not read, and went past.
pub(super) fn unread(count: u64) {
    metrics::gauge!("geminga_repair_unreadable_values").set(count as f64);
}

/// Whether this bookie is the auditor.
fn elected(yes: bool) {
    metrics::gauge!("geminga_repair_auditor").set(if yes { 1.0 } else { 0.0 });
}

/// Whether so many bookies vanished together that nothing is repaired for it (A1).
pub(super) fn braked(yes: bool) {
    metrics::gauge!("geminga_repair_storm_brake").set(if yes { 1.0 } else { 0.0 });
}

/// Bookies that name no zone, where others do: nothing new is placed on them (6.7).
pub(super) fn without_zone(count: usize) {
    metrics::gauge!("geminga_repair_bookies_without_zone").set(count as f64);
}

/// The office of the auditor. What its gauges say is true of whoever has it: with it goes what they said, however that ends.
#[derive(Debug)]
pub(super) struct Office;

impl Office {
    /// This bookie does not have it.
    pub(super) fn without() {
        elected(false);
        marks(0, 0, 0.0);
        moves(0);
        unread(0);
        braked(false);
        without_zone(0);
    }

    /// This bookie has it, until this is dropped.
    pub(super) fn taken() -> Self {
        elected(true);
        Self
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        Self::without();
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    /// Else an alert would stand, and a graph add up, for what another bookie looks after now.
    #[test]
    fn nothing_is_said_any_more_by_who_lost_the_office() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let said = || {
            let page = recorder.handle().render();
            let values = page.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
            values.map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        metrics::with_local_recorder(&recorder, || {
            let office = Office::taken();
            marks(3, 1, 60.0);
            moves(2);
            unread(4);
            braked(true);
            without_zone(1);
            assert!(said().iter().all(|value| value != "0"), "{:?}", said());
            drop(office);
        });
        assert_eq!(said(), ["0"; 8]);
    }
}
