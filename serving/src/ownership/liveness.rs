//! When a broker counts as dead: a pure state machine over what a watch on `brokers/` shows and over how long the
//! metadata store was out of reach. The coordinator's task owns it, from the start of the process, elected or not.
//!
//! A broker's key lives by a lease, so its absence says that the broker died, left, or that *the store* was paused and
//! ended the leases of living brokers on resuming. These register again under the same id, and no term may
//! change because the store was away (DESIGN 6). So absence counts as death
//!
//! * **at once** when the watch showed the key being deleted while this process had contact without a gap
//!   ([`Contact::proves_no_pause`](super::contact::Contact::proves_no_pause)). A clean shutdown revokes the lease and looks
//!   the same;
//! * **at once** when probes report the broker dead as well ([`super::probes`]);
//! * **otherwise** one time to live plus two seconds after the absence was first noticed. This is the rule of
//!   DESIGN 6 for a coordinator that was just elected or had no contact: it has seen no deletion, or not with contact.
//!   A broker that was watching with contact before its election has seen as much as an elected one;
//! * **at once** in a process that is the only possible broker (standalone: the embedded store is locked by this process
//!   and drops the leases of former ones when it is opened).
//!
//! A broker that was taken for dead may live, and register again: when its network is back, or the store. What it is told
//! to do is therefore kept for [`ABSENCE`] after its absence was noticed, however certain its death looks
//! ([`Liveness::is_gone`]). One that leaves in order takes that with it ([`super::registration`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use geminga_proto::ids::BrokerId;
use tokio::time::Instant;

/// Added to the time to live before an unexplained absence counts as death (DESIGN 6).
pub const GRACE: Duration = Duration::from_secs(2);

/// How long a broker may be absent, and register again as the one that it was.
pub const ABSENCE: Duration = Duration::from_secs(600);

/// Who lives, who may, and who does not.
#[derive(Debug)]
pub struct Liveness {
    ttl: Duration,
    sole: bool,
    present: BTreeSet<BrokerId>,
    /// Absent, but not certainly dead before this time.
    suspect: BTreeMap<BrokerId, Instant>,
    /// Draining brokers that are absent, and when they are gone for good.
    leaving: BTreeMap<BrokerId, Instant>,
}

impl Liveness {
    /// Nobody is known yet. `ttl`: of the brokers' leases. `sole`: no other broker can exist.
    pub fn new(ttl: Duration, sole: bool) -> Self {
        Self {
            ttl,
            sole,
            present: BTreeSet::new(),
            suspect: BTreeMap::new(),
            leaving: BTreeMap::new(),
        }
    }

    /// A full list, at the start or after history was lost: what it lacks went unseen.
    pub fn on_snapshot(&mut self, now: Instant, present: BTreeSet<BrokerId>) {
        let gone: Vec<BrokerId> = self.present.difference(&present).copied().collect();
        for broker in gone {
            self.suspect(now, broker);
        }
        self.suspect.retain(|broker, _| !present.contains(broker));
        self.leaving.retain(|broker, _| !present.contains(broker));
        self.present = present;
    }

    /// A key appeared, for the first time or again.
    pub fn on_registered(&mut self, broker: BrokerId) {
        self.suspect.remove(&broker);
        self.leaving.remove(&broker);
        self.present.insert(broker);
    }

    /// The watch showed a key being deleted. `certain`: not by a pause of the store.
    pub fn on_deleted(&mut self, now: Instant, broker: BrokerId, certain: bool) {
        self.present.remove(&broker);
        if certain {
            self.suspect.insert(broker, now);
        } else {
            self.suspect(now, broker);
        }
    }

    /// Owners named by the assignment: who is absent without having been seen is suspected from now on. What
    /// nobody names any more is forgotten.
    pub fn on_owners(&mut self, now: Instant, owners: &BTreeSet<BrokerId>) {
        for broker in owners {
            if !self.present.contains(broker) {
                self.suspect(now, *broker);
            }
        }
        self.suspect.retain(|broker, deadline| owners.contains(broker) || *deadline > now);
    }

    /// Brokers that are to own nothing: how long those are absent is measured from now on.
    pub fn on_draining(&mut self, now: Instant, draining: &BTreeSet<BrokerId>) {
        let gone_at = if self.sole { now } else { now + ABSENCE };
        for broker in draining.difference(&self.present) {
            self.leaving.entry(*broker).or_insert(gone_at);
        }
        self.leaving.retain(|broker, _| draining.contains(broker));
    }

    /// Whether a draining broker will not register again.
    pub fn is_gone(&self, now: Instant, broker: BrokerId) -> bool {
        self.leaving.get(&broker).is_some_and(|at| *at <= now)
    }

    /// Brokers that are dead as probes of two others show: if they are absent, they do not come back.
    pub fn on_probed_dead(&mut self, now: Instant, dead: &BTreeSet<BrokerId>) {
        for broker in dead {
            if let Some(deadline) = self.suspect.get_mut(broker) {
                *deadline = now.min(*deadline);
            }
        }
    }

    fn suspect(&mut self, now: Instant, broker: BrokerId) {
        let deadline = self.deadline(now);
        self.suspect.entry(broker).or_insert(deadline);
    }

    /// When an absence that was noticed at `now` is no pause of the store.
    fn deadline(&self, now: Instant) -> Instant {
        if self.sole { now } else { now + self.ttl + GRACE }
    }

    /// Brokers that are registered.
    pub fn live(&self) -> &BTreeSet<BrokerId> {
        &self.present
    }

    /// Brokers that are absent but not certainly dead.
    pub fn suspects(&self, now: Instant) -> BTreeSet<BrokerId> {
        self.suspect.iter().filter(|(_, deadline)| **deadline > now).map(|(b, _)| *b).collect()
    }

    /// When the next suspect counts as dead, or a draining broker as gone, if nothing happens before.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        self.suspect
            .values()
            .chain(self.leaving.values())
            .copied()
            .filter(|deadline| *deadline > now)
            .min()
    }
}

#[cfg(test)]
mod tests;
