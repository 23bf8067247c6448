//! S5: what the writer is not known to have acknowledged is brought to Qa durable copies, aiming at Qw.
//!
//! Members of the sealed ensemble are filled from their own tails on. Where too few of them are there, others stand in for
//! them: they receive what lies above the acknowledged part as a fragment of their own, which nobody hears of before the
//! close (M4, H4). The LAC is never touched (H6). Whoever holds everything is a source, also one that stands in: what it
//! holds was verified when it was copied there. A source that did not deliver is asked again after a pause, since nobody else
//! may have the entries; those that do not take their copies are waited for only briefly once Qa hold them.

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
        let busy = self.positions.iter().any(|p| p.copying_from.is_some());
        match (self.readable(), busy) {
            (true, false) => effects.extend(self.find_length()),
            (true, true) => effects.extend(self.wait_for_stragglers()),
            (false, true) => {}
            (false, false) => {
                effects.extend(self.look_for_stand_ins());
                effects.extend(self.ask_sources_later());
            }
        }
        effects
    }

    /// Contiguity: a lagging member is filled from its own tail on (4.3).
    fn start_copy(&mut self, target: usize) -> Option<Effect> {
        let end = self.end;
        let position = &self.positions[target];
        let tail = position.final_tail().filter(|tail| *tail < end)?;
        if position.copying_from.is_some() || (position.failed && position.stand_in.is_none()) {
            return None;
        }
        let first = tail.next();
        let from = self.sources(first).find(|source| !position.bad_sources.contains(source))?;
        let from = from.clone();
        let (to, fragment_first) = match &position.stand_in {
            Some(stand_in) => (stand_in.member.clone(), self.new_first()),
            None => {
                let fragment = self.held().0.last_fragment();
                (fragment.ensemble[target].clone(), fragment.first_entry)
            }
        };
        self.positions[target].copying_from = Some(from.clone());
        Some(Effect::Copy { from, target, to, fragment_first, first, last: end })
    }

    /// Who holds everything from `first` to the end. Those who stand in have nothing of what is known to be acknowledged.
    fn sources(&self, first: EntryId) -> impl Iterator<Item = &Member> {
        let (end, above) = (self.end, first >= self.new_first());
        let members = self.held().0.last_fragment().ensemble.iter().zip(&self.positions);
        members.flat_map(move |(member, position)| {
            let member = position.tail.is_some_and(|tail| tail >= end).then_some(member);
            let stand_in = position.stand_in.as_ref().filter(|s| above && s.tail >= end);
            member.into_iter().chain(stand_in.map(|s| &s.member))
        })
    }

    pub(super) fn copied(&mut self, target: usize, tail: EntryId) -> Vec<Effect> {
        let position = &mut self.positions[target];
        let from = position.copying_from.take();
        match &mut position.stand_in {
            Some(stand_in) => stand_in.tail = stand_in.tail.max(tail),
            None => position.tail = position.tail.max(Some(tail)),
        }
        self.silent.retain(|member| Some(member) != from.as_ref());
        self.go_on_copying()
    }

    /// After copying nothing about who stands in changes any more: it is what the closing swap says.
    pub(super) fn target_failed(&mut self, target: usize) -> Vec<Effect> {
        if self.phase != Phase::Copying {
            return Vec::new();
        }
        let position = &mut self.positions[target];
        position.copying_from = None;
        position.failed = true;
        if let Some(stand_in) = position.stand_in.take() {
            self.shunned.push(stand_in.member);
        }
        self.go_on_copying()
    }

    pub(super) fn source_failed(
        &mut self,
        from: Member,
        target: usize,
        entry: EntryId,
        corrupt: bool,
    ) -> Vec<Effect> {
        if self.phase != Phase::Copying {
            return Vec::new();
        }
        let position = &mut self.positions[target];
        position.copying_from = None;
        position.bad_sources.push(from.clone());
        match corrupt {
            true => self.corrupt.push((from, entry)),
            false if !self.silent.contains(&from) => self.silent.push(from),
            false => {}
        }
        if let Some(effects) = self.end_below_unreadable(entry) {
            return effects;
        }
        self.go_on_copying()
    }

    /// Qa hold everything: the rest has a moment to take it, and is marked otherwise (S7).
    fn wait_for_stragglers(&mut self) -> Option<Effect> {
        let started = std::mem::replace(&mut self.copy_grace_started, true);
        (!started).then_some(Effect::StartCopyGrace)
    }

    pub(super) fn copy_grace_over(&mut self) -> Vec<Effect> {
        match self.phase {
            Phase::Copying if self.readable() => self.find_length(),
            _ => Vec::new(),
        }
    }

    /// Nobody is left to ask, but some did not deliver: perhaps they will.
    fn ask_sources_later(&mut self) -> Option<Effect> {
        if self.silent.is_empty() || self.pausing {
            return None;
        }
        self.pausing = true;
        Some(Effect::StartPause)
    }

    pub(super) fn pause_over(&mut self) -> Vec<Effect> {
        self.pausing = false;
        let corrupt = &self.corrupt;
        for position in &mut self.positions {
            position.bad_sources.retain(|source| corrupt.iter().any(|(bad, _)| bad == source));
        }
        self.go_on_copying()
    }

    /// Unreadable content: the ledger may end below an entry that nobody can deliver only if coverage says that it
    /// was never acknowledged (4.3, last paragraph).
    fn end_below_unreadable(&mut self, entry: EntryId) -> Option<Vec<Effect>> {
        if self.phase != Phase::Copying || entry <= self.acknowledged || entry > self.end {
            return None;
        }
        let is_bad =
            |member: &Member| self.corrupt.iter().any(|(bad, at)| bad == member && *at <= entry);
        if !self.holders(entry).all(is_bad) {
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

    /// Who holds this entry, which is above what is known to be acknowledged: members, and those who stand in and have
    /// received it.
    fn holders(&self, entry: EntryId) -> impl Iterator<Item = &Member> {
        let members = self.held().0.last_fragment().ensemble.iter().zip(&self.positions);
        members.flat_map(move |(member, position)| {
            let member = position.tail.is_some_and(|tail| tail >= entry).then_some(member);
            let stand_in = position.stand_in.as_ref().filter(|s| s.tail >= entry);
            member.into_iter().chain(stand_in.map(|s| &s.member))
        })
    }

    /// Asks for others where the sealed ensemble alone does not reach Qa copies. A source must be there.
    fn look_for_stand_ins(&mut self) -> Option<Effect> {
        let lost = self.positions.iter().enumerate().filter(|(_, p)| p.is_lost());
        let lost: Vec<usize> = lost.map(|(index, _)| index).collect();
        let source = self.sources(self.new_first()).next().is_some();
        if lost.is_empty() || !source || self.searching {
            return None;
        }
        self.searching = true;
        let standing = self.positions.iter().filter_map(|p| p.stand_in.as_ref());
        let standing = standing.map(|stand_in| stand_in.member.clone());
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
