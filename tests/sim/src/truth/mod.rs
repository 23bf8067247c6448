//! What is true in the simulated world, whatever its parts believe, and the invariants of protocol 8.2 on it. Every step of
//! a part that an invariant is about is reported here and checked at once, against what only the step changed.
//!
//! * [`ledger`]: what writers wrote and acknowledged, and what the metadata says of it.
//! * [`disk`]: what bookies accepted, promised and still have after a start.
//! * [`payload`]: what producers were told, against what the closed ledgers hold.

mod disk;
mod ledger;
mod payload;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use geminga_ledger::core::quorum::Zone;
use geminga_proto::ids::{EntryId, LedgerId, Member};

use disk::DiskTruth;
pub(crate) use disk::Staged;
pub(crate) use ledger::LedgerTruth;
use payload::Payloads;

use crate::context::number;

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which: its id in the protocol, and its name.
    pub invariant: &'static str,
    /// What was seen.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

/// Everything that is known to be true.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) ledgers: BTreeMap<LedgerId, LedgerTruth>,
    disks: BTreeMap<Member, DiskTruth>,
    /// The highest seal that a bookie answered, under whatever incarnation (I11).
    seals: BTreeMap<(usize, LedgerId), geminga_proto::ids::SealEpoch>,
    /// Disk-lives that are gone, or damaged.
    lost: BTreeSet<Member>,
    payloads: Payloads,
    /// Zones that bookies are in, by turns, and in how many of them acknowledgements are.
    zones: usize,
    min_ack_zones: usize,
    /// The broker that holds the chain's term.
    pub(crate) owner: Option<usize>,
    violation: Option<Violation>,
}

impl Truth {
    /// A world whose bookies are in so many zones, and acknowledgements in so many of them.
    pub(crate) fn of(zones: usize, min_ack_zones: usize) -> Self {
        Self { zones, min_ack_zones, ..Self::default() }
    }

    /// Where a member's bookie is.
    pub(crate) fn zone(&self, member: &Member) -> Zone {
        Zone(u16::try_from(number(member) % self.zones).expect("few bookies"))
    }

    /// In how many zones these members are.
    fn zones<'a>(&self, members: impl Iterator<Item = &'a Member>) -> usize {
        members.map(|member| self.zone(member)).collect::<BTreeSet<_>>().len()
    }

    /// The first invariant that was seen not to hold.
    pub(crate) fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    pub(crate) fn violated(&mut self, invariant: &'static str, detail: String) {
        if self.violation.is_none() {
            self.violation = Some(Violation { invariant, detail });
        }
    }

    /// A disk-life is gone or damaged: what it promised is void.
    pub(crate) fn lose(&mut self, member: &Member) {
        self.lost.insert(member.clone());
    }

    pub(crate) fn is_lost(&self, member: &Member) -> bool {
        self.lost.contains(member)
    }

    /// Whether this disk-life can be lost without losing more copies of anything than the ack quorum allows.
    pub(crate) fn may_lose(&self, member: &Member) -> bool {
        let fits = |ledger: &LedgerTruth| {
            let Some(meta) = ledger.live() else { return true };
            meta.fragments.iter().filter(|f| f.ensemble.contains(member)).all(|fragment| {
                let lost = fragment.ensemble.iter().filter(|m| self.lost.contains(m)).count();
                lost + 1 < usize::from(meta.qa)
            })
        };
        !self.lost.contains(member) && self.ledgers.values().all(fits)
    }

    /// In how many zones an entry is, or was, on stable storage, wherever the metadata says by now that it is: a recovery that does not
    /// know of its acknowledgement may have moved it.
    fn zones_of_copies(&self, ledger: LedgerId, entry: EntryId) -> usize {
        let holds = self.disks.iter().filter(|(_, disk)| disk.holds(ledger, entry));
        self.zones(holds.map(|(member, _)| member))
    }

    /// Members of an entry's ensemble that had it on stable storage at some time, and how many of these are lost.
    fn copies(&self, ledger: LedgerId, members: &[Member], entry: EntryId) -> (usize, usize) {
        let had = |member: &&Member| {
            self.disks.get(*member).is_some_and(|disk| disk.holds(ledger, entry))
        };
        let lost = members.iter().filter(had).filter(|m| self.lost.contains(*m)).count();
        (members.iter().filter(had).count(), lost)
    }
}
