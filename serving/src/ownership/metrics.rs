//! Every metric of ownership. Label values: `cause` is `new` (first owner), `death` (the owner is gone), `drain` (it is to own
//! nothing), `balance` (it has more partitions than others), `load` (it carries more bytes) or `asked` (by an operator);
//! `outcome` of a keep-alive is `answered` or `unanswered`; `evidence` is `refused` (nobody listens at the broker's address) or `missed` (it does not answer).

use metrics::{counter, gauge};

/// Size of the cluster as this broker sees it.
pub(super) fn observe_topology(topics: usize, brokers: usize) {
    gauge!("geminga_topology_topics").set(topics as f64);
    gauge!("geminga_topology_brokers").set(brokers as f64);
}

/// Whether this broker is registered.
pub(super) fn observe_registered(registered: bool) {
    gauge!("geminga_broker_registered").set(f64::from(u8::from(registered)));
}

/// A registration that ended while the process lived.
pub(super) fn count_registration_lost() {
    counter!("geminga_broker_registrations_lost_total").increment(1);
}

/// A keep-alive of the registration was answered, or not in time.
pub(super) fn count_keep_alive(answered: bool) {
    let outcome = if answered { "answered" } else { "unanswered" };
    counter!("geminga_metadata_keep_alives_total", "outcome" => outcome).increment(1);
}

/// Whether this broker is the coordinator.
pub(super) fn observe_elected(elected: bool) {
    gauge!("geminga_coordinator_elected").set(f64::from(u8::from(elected)));
}

/// Partitions that the coordinator sees, and those of them whose owner is not registered, or that never had one. Both 0 at brokers
/// that are not the coordinator.
pub(super) fn observe_partitions(all: usize, unserved: usize) {
    gauge!("geminga_coordinator_partitions").set(all as f64);
    gauge!("geminga_coordinator_unserved_partitions").set(unserved as f64);
}

/// Partitions that the coordinator gave another owner.
pub(super) fn count_moves(cause: &'static str, partitions: u64) {
    counter!("geminga_coordinator_moves_total", "cause" => cause).increment(partitions);
}

/// Transactions of the coordinator that were not committed.
pub(super) fn count_failed_decision() {
    counter!("geminga_coordinator_failed_decisions_total").increment(1);
}

/// Brokers that answer this one's probes.
pub(super) fn observe_reached(brokers: usize) {
    gauge!("geminga_probe_reached_brokers").set(brokers as f64);
}

/// A broker whose registration this one ends, since its peers see it dead.
pub(super) fn count_revocation(refused: bool) {
    let evidence = if refused { "refused" } else { "missed" };
    counter!("geminga_probe_revocations_total", "evidence" => evidence).increment(1);
}

/// The process stood still, or was cut off from the others, and threw away what its probes had shown.
pub(super) fn count_distrusted_probes() {
    counter!("geminga_probe_distrusted_total").increment(1);
}
