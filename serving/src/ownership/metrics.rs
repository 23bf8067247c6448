//! Every metric of ownership. Label values: `cause` is `new` (first owner), `death` (the owner is gone), `drain` (it is to own
//! nothing), `balance` (it has more partitions than others), `load` (it carries more bytes) or `asked` (by an operator).

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

/// Whether this broker is the coordinator.
pub(super) fn observe_elected(elected: bool) {
    gauge!("geminga_coordinator_elected").set(f64::from(u8::from(elected)));
}

/// Partitions that the coordinator gave another owner.
pub(super) fn count_moves(cause: &'static str, partitions: u64) {
    counter!("geminga_coordinator_moves_total", "cause" => cause).increment(partitions);
}

/// Transactions of the coordinator that were not committed.
pub(super) fn count_failed_decision() {
    counter!("geminga_coordinator_failed_decisions_total").increment(1);
}
