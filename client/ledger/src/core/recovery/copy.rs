//! S5: what the writer is not known to have acknowledged is brought to Qa durable copies, aiming at Qw.
//!
//! Members of the sealed ensemble are filled from their own tails on. Where too few of them are there, others stand in for
//! them: they receive what lies above the acknowledged part as a fragment of their own, which nobody hears of before the
//! close (M4, H4). The LAC is never touched (H6).

use geminga_metastore::record::{Fragment, LedgerMeta};
use geminga_proto::caps;
use geminga_proto::ids::{EntryId, Member};

use super::position::StandIn;
use super::{Effect, Finish, Phase, Position, Recovery, Stop};
use crate::core::mutation::Mutation;
use crate::core::quorum;

impl Recovery {
    /// How many of the final ensemble hold everything up to the end.
    fn complete_copies(&self) -> usize {
        let complete = |p: &&Position| p.final_tail().is_some_and(|tail| tail >= self.end);
        self.positions.iter().filter(complete).count()
    }

    /// Whether the end is readable from Qa members: nothing above the acknowledged part, or copied (S5).
    pub(super) fn readable(&self) -> bool {
        self.end == self.acknowledged
            || quorum::acknowledged(self.held().0.qa, self.complete_copies())
    }

    /// Starts copies that can start, and goes on when nothing is left to wait for.
    pub(super) fn go_on_copying(&mut self) -> Vec<Effect> {
        if self.phase != Phase::Copying {
            return Vec::new();
        }
        let mut effects = Vec::new();
        if self.end > self.acknowledged {
            for target in 0..self.positions.len() {
                effects.extend(self.start_copy(target));
            }
        }
        let busy = self.positions.iter().any(|p| p.copying);
        if !busy && self.readable() {
            effects.extend(self.find_length());
        } else if !busy {
            effects.extend(self.look_for_stand_ins());
        }
        effects
    }

    /// Contiguity: a lagging member is filled from its own tail on (4.3).
    fn start_copy(&mut self, target: usize) -> Option<Effect> {
        let end = self.end;
        let position = &self.positions[target];
        let tail = position.final_tail().filter(|tail| *tail < end)?;
        if position.copying || (position.failed && position.stand_in.is_none()) {
            return None;
        }
        let can_serve = |(index, source): &(usize, &Position)| {
            source.tail.is_some_and(|t| t >= end) && !position.bad_sources.contains(index)
        };
        let (source, _) = self.positions.iter().enumerate().find(can_serve)?;
        let (to, fragment_first) = match &position.stand_in {
            Some(stand_in) => (stand_in.member.clone(), self.new_first()),
            None => {
                let fragment = self.held().0.last_fragment();
                (fragment.ensemble[target].clone(), fragment.first_entry)
            }
        };
        self.positions[target].copying = true;
        Some(Effect::Copy { source, target, to, fragment_first, first: tail.next(), last: end })
    }

    pub(super) fn copied(&mut self, target: usize, tail: EntryId) -> Vec<Effect> {
        let position = &mut self.positions[target];
        position.copying = false;
        match &mut position.stand_in {
            Some(stand_in) => stand_in.tail = stand_in.tail.max(tail),
            None => position.tail = position.tail.max(Some(tail)),
        }
        self.go_on_copying()
    }

    pub(super) fn target_failed(&mut self, target: usize) -> Vec<Effect> {
        let position = &mut self.positions[target];
        position.copying = false;
        position.failed = true;
        if let Some(stand_in) = position.stand_in.take() {
            self.shunned.push(stand_in.member.bookie);
        }
        self.go_on_copying()
    }

    pub(super) fn source_failed(
        &mut self,
        source: usize,
        target: usize,
        entry: EntryId,
        corrupt: bool,
    ) -> Vec<Effect> {
        self.positions[target].copying = false;
        self.positions[target].bad_sources.push(source);
        if corrupt {
            self.positions[source].corrupt_at = Some(entry);
        }
        if let Some(effects) = self.end_below_unreadable(entry) {
            return effects;
        }
        self.go_on_copying()
    }

    /// Unreadable content: the ledger may end below an entry that nobody can deliver only if coverage says that it
    /// was never acknowledged (4.3, last paragraph).
    fn end_below_unreadable(&mut self, entry: EntryId) -> Option<Vec<Effect>> {
        if self.phase != Phase::Copying || entry <= self.acknowledged || entry > self.end {
            return None;
        }
        let holders = || self.positions.iter().filter(|p| p.tail.is_some_and(|tail| tail >= entry));
        if !holders().all(|p| p.corrupt_at.is_some_and(|at| at <= entry)) {
            return None;
        }
        let without =
            self.authoritative().filter(|p| p.tail.is_some_and(|tail| tail < entry)).count();
        let (meta, _) = self.held();
        let never_acked = quorum::covered(meta.qw, meta.qa, without)
            || self.mutations.is(Mutation::EndBelowUnreadable);
        if !never_acked && !self.overrides() {
            return Some(self.finish(Finish::Stopped(Stop::Unreadable(entry))));
        }
        self.end = entry.prev();
        for position in &mut self.positions {
            position.bad_sources.clear();
        }
        Some(self.go_on_copying())
    }

    /// Asks for others where the sealed ensemble alone does not reach Qa copies. A source must be there.
    fn look_for_stand_ins(&mut self) -> Option<Effect> {
        let lost = self.positions.iter().enumerate().filter(|(_, p)| p.is_lost());
        let lost: Vec<usize> = lost.map(|(index, _)| index).collect();
        let source = self.positions.iter().any(|p| p.tail.is_some_and(|tail| tail >= self.end));
        if lost.is_empty() || !source || self.searching {
            return None;
        }
        self.searching = true;
        let standing = self.positions.iter().filter_map(|p| p.stand_in.as_ref());
        let standing = standing.map(|stand_in| stand_in.member.bookie.clone());
        let shunned = self.shunned.iter().cloned().chain(standing).collect();
        Some(Effect::Search { lost, shunned })
    }

    pub(super) fn found(&mut self, found: Vec<(Member, Member)>) -> Vec<Effect> {
        if self.phase != Phase::Copying || !self.searching {
            return Vec::new();
        }
        self.searching = false;
        let tail = self.new_first().prev();
        let ensemble = self.held().0.last_fragment().ensemble.clone();
        for (old, new) in found {
            let Some(index) = ensemble.iter().position(|member| *member == old) else { continue };
            let mut others = self.positions.iter().enumerate().filter(|(i, _)| *i != index);
            let taken = others.any(|(i, p)| {
                let member = p.stand_in.as_ref().map_or(&ensemble[i], |s| &s.member);
                member.bookie == new.bookie
            });
            let position = &mut self.positions[index];
            // One that answered meanwhile needs nobody in its place.
            if position.is_lost() && !taken && new != old {
                position.stand_in = Some(StandIn { member: new, tail });
                position.bad_sources.clear();
            }
        }
        let mut effects = self.publish_early();
        effects.extend(self.go_on_copying());
        effects
    }

    /// First entry of the fragment of those who stand in: what is known to be acknowledged stays where it is. In a ledger
    /// that takes no further fragment they receive the whole last one instead.
    fn new_first(&self) -> EntryId {
        let (meta, _) = self.held();
        if meta.fragments.len() < caps::MAX_FRAGMENTS {
            self.acknowledged.next()
        } else {
            self.fragment_first()
        }
    }

    /// The fragments with those who stand in, for the closing swap (S6).
    pub(super) fn final_fragments(&self, meta: &LedgerMeta) -> Vec<Fragment> {
        let mut fragments = meta.fragments.clone();
        let first_entry = self.new_first();
        if self.end < first_entry || self.positions.iter().all(|p| p.stand_in.is_none()) {
            return fragments;
        }
        let last = meta.last_fragment();
        let members = last.ensemble.iter().zip(&self.positions);
        let ensemble = members
            .map(|(member, p)| p.stand_in.as_ref().map_or(member, |s| &s.member).clone())
            .collect();
        if first_entry == last.first_entry {
            fragments.pop();
        }
        fragments.push(Fragment { first_entry, ensemble });
        fragments
    }

    /// Nothing; H4 is what a test breaks here.
    fn publish_early(&self) -> Vec<Effect> {
        if !self.mutations.is(Mutation::PublishStandInsEarly) {
            return Vec::new();
        }
        let (held, version) = self.held();
        let mut meta = held.clone();
        meta.fragments = self.final_fragments(held);
        vec![Effect::Cas { expected: *version, meta: Box::new(meta) }]
    }

    /// S7: who lacks entries of the ledger as it is closed.
    pub(super) fn lacking(&self) -> Vec<Member> {
        let ensemble = &self.held().0.last_fragment().ensemble;
        let mut lacking = Vec::new();
        for (member, position) in ensemble.iter().zip(&self.positions) {
            // One that somebody stands in for has only the acknowledged part to hold.
            let needed = if position.stand_in.is_some() { self.acknowledged } else { self.end };
            let needed = needed.max(self.fragment_first().prev());
            if needed >= self.fragment_first() && position.tail.is_none_or(|tail| tail < needed) {
                lacking.push(member.clone());
            }
            if let Some(stand_in) = position.stand_in.as_ref().filter(|s| s.tail < self.end) {
                lacking.push(stand_in.member.clone());
            }
        }
        lacking
    }
}
