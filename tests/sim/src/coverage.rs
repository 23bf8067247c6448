//! What a run has reached, by name: a simulation that finds nothing has to prove that it looked. The names in
//! [`REQUIRED`] are the *sometimes* of protocol 8.2 and the faults; a batch that misses one fails.

use std::collections::BTreeMap;

/// How often each thing happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<&'static str, u64>);

impl Coverage {
    /// It happened.
    pub(crate) fn hit(&mut self, name: &'static str) {
        self.add(name, 1);
    }

    pub(crate) fn add(&mut self, name: &'static str, times: u64) {
        *self.0.entry(name).or_default() += times;
    }

    /// How often it happened.
    pub fn count(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// Everything, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(name, times)| (*name, *times))
    }

    /// Takes another run's counts in.
    pub fn merge(&mut self, other: &Self) {
        for (name, times) in other.iter() {
            self.add(name, times);
        }
    }

    /// What a batch must have reached and has not.
    pub fn missing(&self) -> Vec<&'static str> {
        REQUIRED.iter().copied().filter(|name| self.count(name) == 0).collect()
    }
}

/// What every batch of [`crate::CI_SEEDS`] seeds must reach.
pub const REQUIRED: &[&str] = &[
    "fault: bookie killed",
    "fault: bookie lost power",
    "fault: broker crashed",
    "fault: broker paused",
    "fault: connection broken",
    "fault: disk full",
    "fault: disk read-only",
    "fault: disk slow",
    "fault: disk wiped",
    "fault: host cut off",
    "fault: I/O error",
    "fault: lossy network",
    "fault: network slow",
    "fault: one-way partition",
    "fault: ownership moved",
    "fault: partition",
    "fault: power cut inside a disk operation",
    "fault: read error",
    "fault: recoverer killed",
    "fault: rot",
    "fault: store out",
    "fault: store slow",
    "fault: stray recovery",
    "ack: with exactly Qa copies",
    "ack: in two zones, of more copies than two",
    "bookie: contact refused by the metadata",
    "bookie: duplicate add compared",
    "bookie: out of order",
    "bookie: ledger deleted",
    "bookie: old incarnation refused",
    "bookie: stale epoch refused",
    "bookie: writer refused by a seal",
    "fault: object store refuses",
    "fault: object store's reply lost",
    "fault: object truncated",
    "fault: repair died",
    "tier: copy dropped for an object",
    "tier: offloaded by the second attempt",
    "tier: read from the object",
    "tier: trimmed",
    "tier: uploader died",
    "give up: a copy went",
    "give up: a copy stayed",
    "repair: a place went to somebody else",
    "repair: copy to be moved",
    "repair: completed under faults",
    "repair: ledger marked",
    "repair: the lock was lost",
    "repair: swap lost",
    "disk: log refused after rot",
    "disk: damaged copy read",
    "disk: power cut while opening",
    "disk: unsynced entries lost",
    "disk: unsynced entries survived",
    "end: entry with Qa copies recovered",
    "end: ledger closed by its recoverer",
    "end: ledger closed by its writer",
    "end: ledger closed while two recovered it",
    "end: ledger deleted",
    "log: entries moved",
    "log: segments given back",
    "log: snapshot written",
    "network: message doubled",
    "network: message lost",
    "outcome: acknowledged",
    "outcome: not written",
    "outcome: unknown",
    "outcome: unknown, found in the closed ledger",
    "outcome: unknown, written again",
    "recovery: ensemble changed",
    "recovery: entries copied",
    "recovery: followed another",
    "recovery: sources asked again",
    "recovery: others stand in",
    "recovery: stopped for want of members",
    "recovery: stale",
    "store: applied, reply lost",
    "store: applied after its caller gave up",
    "store: guard failed",
    "store: unknown outcome resolved as applied",
    "store: unknown outcome resolved as not applied",
    "writer: append while another owns the chain",
    "writer: asked one that is not registered",
    "writer: ensemble changed",
    "writer: members marked for repair",
    "writer: position left out",
    "writer: quorum lost",
    "writer: reconnected",
    "writer: rolled",
    "writer: search unanswered",
    "writer: unknown change found in the metadata",
];
