//! S2 to S4: seals, who counts, and what the end follows from.

use geminga_metastore::Version;
use geminga_proto::ids::{EntryId, Member};

use super::{Effect, Finish, Phase, Position, Recovery, Stop};
use crate::core::mutation::Mutation;
use crate::core::quorum;

impl Recovery {
    /// S2: seal the frozen ensemble (H5).
    pub(super) fn marked(&mut self, version: Version) -> Vec<Effect> {
        self.phase = Phase::Sealing;
        let fragment_first = self.floor().next();
        let (meta, held_version) = self.meta.as_mut().expect("held since the mark was built");
        *held_version = version;
        let fragment = meta.last_fragment();
        self.positions = vec![Position::default(); fragment.ensemble.len()];
        let seal = |(position, member): (usize, &Member)| Effect::Seal {
            position,
            member: member.clone(),
            epoch: meta.seal_epoch,
            fragment_first,
        };
        let mut effects = vec![Effect::StartDeadline];
        effects.extend(fragment.ensemble.iter().enumerate().map(seal));
        if self.enough_seals() {
            // Only with a mutation: an ensemble of one less than nobody.
            effects.extend(self.fix_end());
        }
        effects
    }

    /// Everything up to here is in earlier fragments (H3; a test breaks it).
    fn floor(&self) -> EntryId {
        if self.mutations.is(Mutation::SealFromTheStart) {
            return EntryId::NONE;
        }
        self.fragment_first().prev()
    }

    pub(super) fn authoritative(&self) -> impl Iterator<Item = &Position> {
        let all = self.mutations.is(Mutation::CountNonAuthoritative);
        self.positions.iter().filter(move |p| (all || p.authoritative) && p.tail.is_some())
    }

    pub(super) fn enough_seals(&self) -> bool {
        let (meta, _) = self.held();
        let mut have = self.authoritative().count();
        if self.mutations.is(Mutation::SealWithOneLess) {
            have += 1;
        }
        quorum::covered(meta.qw, meta.qa, have)
    }

    /// S3: a reply counts when it is authoritative; a late one may still become the target of a copy.
    pub(super) fn sealed(
        &mut self,
        index: usize,
        tail: EntryId,
        max_lac: EntryId,
        authoritative: bool,
    ) -> Vec<Effect> {
        if !matches!(self.phase, Phase::Sealing | Phase::Copying)
            || self.positions[index].tail.is_some()
        {
            return Vec::new();
        }
        let position = &mut self.positions[index];
        position.tail = Some(tail);
        position.max_lac = Some(max_lac);
        position.authoritative = authoritative;
        if self.phase == Phase::Copying {
            return self.go_on_copying();
        }
        if self.positions.iter().all(|p| p.tail.is_some()) && self.enough_seals() {
            return self.fix_end();
        }
        if self.enough_seals() && !self.grace_started {
            self.grace_started = true;
            return vec![Effect::StartGrace];
        }
        Vec::new()
    }

    /// An answer that says nothing counts nothing (1.6, H15); a test breaks it.
    pub(super) fn seal_unknown(&mut self, index: usize) -> Vec<Effect> {
        if self.phase == Phase::Sealing && self.mutations.is(Mutation::CountUnknownAsNegative) {
            let floor = self.floor();
            return self.sealed(index, floor, EntryId::NONE, true);
        }
        Vec::new()
    }

    /// S4: the end is the longest authoritative tail; what the writer is known to have acknowledged needs no copy.
    pub(super) fn fix_end(&mut self) -> Vec<Effect> {
        let floor = self.floor();
        self.end = self.heard().filter_map(|p| p.tail).fold(floor, EntryId::max);
        if self.mutations.is(Mutation::TakeShortestTail) {
            let shortest = self.heard().filter_map(|p| p.tail).min();
            self.end = shortest.unwrap_or(floor).max(floor);
        }
        self.acknowledged = self.heard().filter_map(|p| p.max_lac).fold(floor, EntryId::max);
        if self.acknowledged > self.end && self.overrides() {
            // Those who do not vouch for what they lack may still have more than those who do.
            self.end = self.heard().filter_map(|p| p.tail).fold(floor, EntryId::max);
            self.give_up_lost();
        } else if self.acknowledged > self.end {
            let stop = Stop::AcknowledgedLost { acknowledged: self.acknowledged, tail: self.end };
            return self.finish(Finish::Stopped(stop));
        }
        self.phase = Phase::Copying;
        self.go_on_copying()
    }

    pub(super) fn deadline(&mut self) -> Vec<Effect> {
        let phase = self.phase;
        match phase {
            Phase::Copying if self.readable() || self.overrides() => {
                // Whoever was to deliver the last entry may be gone by now.
                let mut effects = vec![Effect::StartDeadline];
                effects.extend(self.find_length());
                effects
            }
            Phase::Sealing if self.enough_seals() || self.overrides() => {
                // Coverage may be a moment old: what follows must end as well.
                let mut effects = vec![Effect::StartDeadline];
                effects.extend(self.fix_end());
                effects
            }
            Phase::Sealing | Phase::Copying => {
                let missing = self.missing();
                self.finish(Finish::Stopped(Stop::Missing(missing)))
            }
            // Nobody delivers the last entry. A ledger that ended there could never be opened.
            Phase::ReadingLength if self.overrides() => vec![Effect::FindEnd(self.end)],
            Phase::ReadingLength => {
                let end = self.end;
                self.finish(Finish::Stopped(Stop::Unreadable(end)))
            }
            Phase::ReadingMeta | Phase::Marking | Phase::Closing | Phase::Done => Vec::new(),
        }
    }

    /// Members without an authoritative answer, or that did not take or deliver a copy (4.8).
    pub(super) fn missing(&self) -> Vec<Member> {
        let ensemble = &self.held().0.last_fragment().ensemble;
        let fails = |index: usize| {
            let member = &ensemble[index];
            self.silent.contains(member) || self.corrupt.iter().any(|(bad, _)| bad == member)
        };
        let lacks = |(index, p): &(usize, &Position)| {
            !p.authoritative || p.failed || p.tail.is_none() || fails(*index)
        };
        let lacking = self.positions.iter().enumerate().filter(lacks);
        lacking.map(|(index, _)| ensemble[index].clone()).collect()
    }
}
