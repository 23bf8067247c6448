//! What probes say about other brokers, as a pure state machine: no I/O, and time only as it is told. The prober's task
//! owns it ([`super`]).
//!
//! * **Evidence** is this broker's own: a peer that was reached under its present registration *refuses* connections, or
//!   has *missed* [`MISSES`] probes in a row. Who was never reached gives none, so a wrong address kills nobody.
//! * **Death** needs two observers: this broker and one that has said the same of the same registration within [`FRESH`].
//!   Where there is no third broker, a refusal that this one sees is enough, silence is not.
//! * **Who is cut off** has no say: a broker that does not reach half of the registered ones, itself included, accuses
//!   nobody, to itself or to others. Of two equal halves of more than two brokers the one with the coordinator has a say, or
//!   with the lowest number while none of them is elected: else each would end the other one's registrations.
//!   A refused connection is contact: the other end's machine has answered. Who was never reached does not count.
//!   When it reaches them again, what it saw, and what lay in buffers, does not count.
//! * **A pause of this process** makes others look dead. A tick that comes later than [`LATE`] throws all evidence away,
//!   what others said included: their words lay in a buffer for as long.
//! * **One at a time.** A registration is ended only while everybody to whom partitions are assigned is registered: the
//!   partitions of the one before have moved, or it is back. So one decision moves one broker's partitions. Except the
//!   coordinator's: without it they would never move.
//! * **Bounded.** Besides each tick's, a probe is sent for something new only, never for what was said before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use geminga_metastore::LeaseId;
use geminga_proto::ids::BrokerId;
use tokio::time::Instant;

/// Between probes of one peer (DESIGN 6).
pub(crate) const INTERVAL: Duration = Duration::from_millis(200);
/// Probes in a row without an answer that count as silence.
const MISSES: u32 = 3;
/// A tick that is later than this says that the process, or its machine, stood still.
const LATE: Duration = Duration::from_millis(100);
/// How long the word of another broker counts. It repeats it with every probe and every answer.
const FRESH: Duration = Duration::from_millis(600);

/// Another broker that is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its registration, or its last one.
    pub(crate) lease: LeaseId,
    /// False: its key is gone, but partitions are still assigned to it.
    pub(crate) registered: bool,
}

/// How a broker looks dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// Nobody listens at its address, or somebody else.
    Refused,
    /// It does not answer.
    Missed,
}

/// What one broker's own probes say of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) broker: BrokerId,
    pub(crate) lease: LeaseId,
    pub(crate) evidence: Evidence,
}

/// What happens.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// Who there is besides this broker, and who is elected.
    Members { peers: BTreeMap<BrokerId, Member>, coordinator: Option<BrokerId> },
    /// The time that [`Core::due`] named has come.
    Tick,
    /// A peer answered a probe.
    Answered(BrokerId),
    /// A peer's address refuses connections, or another process answers there.
    Refused(BrokerId),
    /// What another broker sees.
    Told { peer: BrokerId, seen: Vec<Seen> },
    /// The revocation that was asked for is over: what was owned has moved, or the broker is back, or it failed.
    RevocationOver,
}

/// What the task must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Send a probe, which also tells what this broker sees.
    Probe(BrokerId),
    /// End the registration of a broker that is dead, as long as [`Core::dead`] names it. Answered by
    /// [`Event::RevocationOver`].
    Revoke { broker: BrokerId, lease: LeaseId },
    /// This process stood still, or was cut off: nothing that it saw counts.
    Distrusted,
}

#[derive(Debug)]
struct Peer {
    member: Member,
    /// It has answered under this registration or an earlier one.
    known: bool,
    /// It has answered under this registration.
    reached: bool,
    refused: bool,
    /// The probe of the last tick is not answered.
    waiting: bool,
    /// Ticks in a row whose probe was not answered.
    misses: u32,
    /// What it sees, and when it said so.
    told: (Vec<Seen>, Option<Instant>),
}

impl Peer {
    fn new(member: Member) -> Self {
        let told = (Vec::new(), None);
        let (reached, refused, waiting) = (false, false, false);
        Self { member, known: false, reached, refused, waiting, misses: 0, told }
    }

    fn evidence(&self) -> Option<Evidence> {
        if !self.reached {
            return None;
        }
        let missed = (self.misses >= MISSES).then_some(Evidence::Missed);
        if self.refused { Some(Evidence::Refused) } else { missed }
    }

    /// No probe is overdue: it, or its machine in its place, answers. Stricter than the lack of evidence: whoever is cut off
    /// does not lose all others in one tick.
    fn has_contact(&self) -> bool {
        self.reached && self.misses + 1 < MISSES
    }

    fn says_dead(&self, now: Instant, broker: BrokerId, lease: LeaseId) -> bool {
        let (seen, Some(at)) = &self.told else { return false };
        now.saturating_duration_since(*at) <= FRESH
            && seen.iter().any(|seen| seen.broker == broker && seen.lease == lease)
    }
}

/// The state of one prober.
#[derive(Debug)]
pub(crate) struct Core {
    me: BrokerId,
    peers: BTreeMap<BrokerId, Peer>,
    coordinator: Option<BrokerId>,
    /// `None` while there is nobody to probe.
    due: Option<Instant>,
    /// Whose registration is being ended.
    revoked: Option<BrokerId>,
    /// There is contact with less than half of the registered brokers, this one included, or with the half that has no say.
    cut_off: bool,
}

impl Core {
    /// The prober of one broker, which knows of no others yet.
    pub(crate) fn new(me: BrokerId) -> Self {
        let peers = BTreeMap::new();
        Self { me, peers, coordinator: None, due: None, revoked: None, cut_off: false }
    }

    /// When the next [`Event::Tick`] is due; `None` while there is nobody to probe.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What this broker's own probes say; nothing while it is cut off.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        if self.cut_off {
            return Vec::new();
        }
        let seen = |(broker, peer): (&BrokerId, &Peer)| {
            let (broker, lease) = (*broker, peer.member.lease);
            Some(Seen { broker, lease, evidence: peer.evidence()? })
        };
        self.peers.iter().filter_map(seen).collect()
    }

    /// Who answers, and by which registration.
    pub(crate) fn reached(&self) -> BTreeMap<BrokerId, LeaseId> {
        let reached = self.peers.iter().filter(|(_, p)| p.reached && p.evidence().is_none());
        reached.map(|(broker, peer)| (*broker, peer.member.lease)).collect()
    }

    /// Who is dead, as seen by two.
    pub(crate) fn dead(&self, now: Instant) -> BTreeSet<BrokerId> {
        self.peers.keys().copied().filter(|broker| self.is_dead(now, *broker)).collect()
    }

    /// Handles one event.
    pub(crate) fn step(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Members { peers, coordinator } => {
                self.coordinator = coordinator;
                self.on_members(now, &peers, &mut effects);
            }
            Event::Tick => self.on_tick(now, &mut effects),
            Event::Answered(broker) => {
                if let Some(peer) = self.peers.get_mut(&broker) {
                    (peer.known, peer.reached, peer.refused) = (true, true, false);
                    (peer.waiting, peer.misses) = (false, 0);
                }
            }
            Event::Refused(broker) => {
                if let Some(peer) = self.peers.get_mut(&broker)
                    && peer.reached
                {
                    (peer.waiting, peer.misses) = (false, 0);
                    if !std::mem::replace(&mut peer.refused, true) {
                        self.tell_others(broker, &mut effects);
                    }
                }
            }
            Event::Told { peer, seen } => self.on_told(now, peer, seen, &mut effects),
            Event::RevocationOver => self.revoked = None,
        }
        self.look_around(&mut effects);
        self.revoke(now, &mut effects);
        effects
    }

    fn on_members(
        &mut self,
        now: Instant,
        members: &BTreeMap<BrokerId, Member>,
        effects: &mut Vec<Effect>,
    ) {
        self.peers.retain(|broker, _| members.contains_key(broker));
        for (broker, member) in members {
            match self.peers.get_mut(broker) {
                Some(peer) if peer.member.lease == member.lease => peer.member = *member,
                before => {
                    let known = before.is_some_and(|peer| peer.known);
                    self.peers.insert(*broker, Peer { known, ..Peer::new(*member) });
                    effects.push(Effect::Probe(*broker));
                }
            }
        }
        self.due = match self.peers.is_empty() {
            true => None,
            false => self.due.or(Some(now + INTERVAL)),
        };
    }

    fn on_tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let Some(due) = self.due else { return };
        let late = now.saturating_duration_since(due) > LATE;
        self.due = Some(now + INTERVAL);
        if late {
            effects.push(Effect::Distrusted);
            self.distrust();
        }
        let mut silent = Vec::new();
        for (broker, peer) in &mut self.peers {
            if !late && peer.waiting {
                peer.misses = peer.misses.saturating_add(1);
                if peer.misses == MISSES {
                    silent.push(*broker);
                }
            }
            peer.waiting = true;
            effects.push(Effect::Probe(*broker));
        }
        // The probes of this tick went out before the evidence of this tick was there.
        for broker in silent {
            self.tell_others(broker, effects);
        }
    }

    fn on_told(
        &mut self,
        now: Instant,
        teller: BrokerId,
        seen: Vec<Seen>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(peer) = self.peers.get_mut(&teller) else { return };
        let (before, _) = std::mem::replace(&mut peer.told, (seen, Some(now)));
        let news = self.peers[&teller].told.0.iter().filter(|seen| {
            let about = self.peers.get(&seen.broker);
            // Every answer to a probe repeats what was said: without the first condition two that cannot reach each other
            // would have a third one probe them without a pause.
            !before.contains(seen)
                && about.is_some_and(|p| p.member.lease == seen.lease && p.evidence().is_none())
        });
        // Seen for oneself is seen by two.
        effects.extend(news.map(|seen| Effect::Probe(seen.broker)));
    }

    /// Notices that this broker is cut off, or that it is no longer.
    fn look_around(&mut self, effects: &mut Vec<Effect>) {
        let cut_off = self.is_cut_off();
        let was = std::mem::replace(&mut self.cut_off, cut_off);
        // Others come back one after the other, and with them what they saw meanwhile.
        if was && !self.cut_off {
            if self.peers.values().any(|peer| peer.evidence().is_some()) {
                effects.push(Effect::Distrusted);
            }
            self.distrust();
        }
    }

    fn is_cut_off(&self) -> bool {
        let registered = self.peers.iter().filter(|(_, p)| p.member.registered && p.known);
        let mut all = BTreeMap::from([(self.me, true)]);
        all.extend(registered.map(|(broker, peer)| (*broker, peer.has_contact())));
        let contact = all.values().filter(|contact| **contact).count();
        if all.len() == 2 || contact * 2 != all.len() {
            return contact * 2 < all.len();
        }
        // Both halves may reach the metadata store, and so name the same one.
        let elected = self.coordinator.and_then(|elected| all.get(&elected));
        !elected.or(all.values().next()).is_some_and(|contact| *contact)
    }

    /// Throws away what was seen and said.
    fn distrust(&mut self) {
        for peer in self.peers.values_mut() {
            (peer.refused, peer.misses, peer.told) = (false, 0, (Vec::new(), None));
        }
    }

    fn tell_others(&self, about: BrokerId, effects: &mut Vec<Effect>) {
        let others = self.peers.keys().filter(|broker| **broker != about);
        effects.extend(others.map(|broker| Effect::Probe(*broker)));
    }

    fn is_dead(&self, now: Instant, broker: BrokerId) -> bool {
        if self.cut_off {
            return false;
        }
        let Some(peer) = self.peers.get(&broker) else { return false };
        let Some(evidence) = peer.evidence() else { return false };
        if self.peers.len() == 1 {
            return evidence == Evidence::Refused;
        }
        let mut others = self.peers.iter().filter(|(other, _)| **other != broker);
        others.any(|(_, other)| other.says_dead(now, broker, peer.member.lease))
    }

    /// The coordinator first: without one nothing moves.
    fn revoke(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.revoked.is_some() {
            return;
        }
        let moving = self.peers.values().any(|peer| !peer.member.registered);
        let others = self.peers.keys().copied().filter(|_| !moving);
        let dead = self.coordinator.into_iter().chain(others).find(|broker| {
            self.peers.get(broker).is_some_and(|p| p.member.registered)
                && self.is_dead(now, *broker)
        });
        if let Some(broker) = dead {
            let lease = self.peers[&broker].member.lease;
            self.revoked = Some(broker);
            effects.push(Effect::Revoke { broker, lease });
        }
    }
}

#[cfg(test)]
mod tests;
