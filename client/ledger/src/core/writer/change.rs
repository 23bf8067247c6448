//! Positions that fail, and the change of the ensemble that replaces them (2.5).
//!
//! `Running ─ Search ─► Searched ─ Change ─► Changing ─► Running`: while a search is under way entries complete as
//! before; from the moment the change is sent until its outcome is known none does (W6).

use geminga_proto::caps;
use geminga_proto::ids::{EntryId, Member};

use super::{Effect, Link, Phase, Position, Replacement, Search, Writer};
use crate::core::mutation::Mutation;
use crate::core::quorum::Zone;

/// A change whose outcome is not known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Change {
    /// First entry of its fragment: the LAC plus one, as frozen.
    first: EntryId,
    /// Who comes, by position, and where that one is.
    comes: Vec<(usize, Member, Zone)>,
}

impl Change {
    fn replaces(&self, index: usize) -> bool {
        self.comes.iter().any(|(position, ..)| *position == index)
    }

    /// With other names for members, whose positions were brought into this order; for the model checker.
    #[cfg(feature = "mutations")]
    pub(super) fn rename(&mut self, order: &[usize], rename: &impl Fn(&Member) -> Member) {
        for (position, member, _) in &mut self.comes {
            let new = order.iter().position(|old| old == position);
            *position = new.expect("an order has every position");
            *member = rename(member);
        }
        self.comes.sort();
    }
}

impl Writer {
    /// A position fails. Where others are healthy somebody is looked for to take its place.
    pub(super) fn give_up(&mut self, member: &Member, effects: &mut Vec<Effect>) {
        let Some(index) = self.index_of(member) else { return };
        let position = &mut self.positions[index];
        if !self.phase.takes_entries() || position.is_missing() {
            return;
        }
        position.failed = true;
        self.look_for_others(effects);
    }

    /// It may be gone, and nothing is under way to it that would tell: it is asked. Who answers stays, since a registration that
    /// ended is no proof of death; who does not is given up like anybody whose connection is gone.
    pub(super) fn unregistered(&mut self, member: &Member, effects: &mut Vec<Effect>) {
        let Some(index) = self.index_of(member) else { return };
        let position = &mut self.positions[index];
        let asked = self.phase == Phase::Running && !self.mutations.is(Mutation::AskNobody);
        if !asked || !position.is_healthy() || position.acked < self.lap {
            return;
        }
        position.link = Link::Connecting;
        effects.push(Effect::Hello(index));
    }

    /// Searches for whoever may take the places of what is missing; collects failures until the change is sent.
    pub(super) fn look_for_others(&mut self, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Running || !self.positions.iter().any(Position::is_missing) {
            return;
        }
        if self.is_nobody_left() {
            // Nothing is left that a change would keep: a close by metadata alone, and a new ledger, are faster (2.9).
            self.searching = false;
            self.lose_quorum(effects);
            return;
        }
        self.searching = true;
        effects.push(Effect::Search);
    }

    pub(super) fn searched(&mut self, search: Search, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Running || !self.searching {
            return;
        }
        self.searching = false;
        match search {
            Search::Found(found) => {
                if !self.start_change(found, effects) {
                    self.do_without(effects);
                }
            }
            Search::Unanswered => self.do_without(effects),
            Search::TooMany => {
                self.ask_to_roll(effects);
                self.do_without(effects);
            }
        }
    }

    /// Step 1 to 3, if the ensemble would be able to acknowledge then. Otherwise nothing is started: a ledger never falls below the
    /// zones that it began with (6.7); the next one may have fewer.
    fn start_change(&mut self, found: Vec<Replacement>, effects: &mut Vec<Effect>) -> bool {
        let mut ensemble: Vec<Member> = self.positions.iter().map(|p| p.member.clone()).collect();
        let mut comes = Vec::new();
        for Replacement { lost: old, by: new, zone } in found {
            let Some(index) = self.index_of(&old) else { continue };
            let elsewhere = ensemble.iter().enumerate();
            let mut elsewhere = elsewhere.filter(|(i, _)| *i != index);
            let taken = elsewhere.any(|(_, member)| member.bookie == new.bookie);
            if self.positions[index].is_missing() && new != old && !taken {
                ensemble[index] = new.clone();
                comes.push((index, new, zone));
            }
        }
        let newcomers = comes.iter().map(|(_, _, zone)| *zone);
        if comes.is_empty() || !self.rule.is_met(self.healthy().chain(newcomers)) {
            return false;
        }
        let first = self.lac.next();
        let full = self.fragments >= caps::MAX_FRAGMENTS
            && !self.mutations.is(Mutation::IgnoreFragmentLimit);
        if first != self.first && full {
            self.ask_to_roll(effects);
            return false;
        }
        self.phase = Phase::Changing;
        self.change = Some(Change { first, comes });
        effects.push(Effect::Change { first, ensemble });
        true
    }

    /// Step 0: those that nobody replaces are left out while enough others are healthy; otherwise their buffer is kept and they
    /// may resume.
    pub(super) fn do_without(&mut self, effects: &mut Vec<Effect>) {
        let enough = self.rule.is_met(self.healthy()) && !self.mutations.is(Mutation::WaitForSpare);
        for index in 0..self.positions.len() {
            if enough && self.positions[index].failed {
                self.leave_out(index, effects);
            }
        }
        if enough {
            self.release(effects);
        } else {
            self.lose_quorum(effects);
        }
    }

    fn leave_out(&mut self, index: usize, effects: &mut Vec<Effect>) {
        let position = &mut self.positions[index];
        position.link = Link::Absent;
        position.failed = false;
        effects.push(Effect::LeftOut(index));
        self.mark_debt(index, effects);
    }

    /// Steps 5 and 6.
    pub(super) fn changed(&mut self, effects: &mut Vec<Effect>) {
        let Some(change) = self.change.take() else { return };
        let ended = change.first != self.first;
        self.mark_behind(&change, ended, effects);
        self.first = change.first;
        self.fragments += usize::from(ended);
        for position in &mut self.positions {
            // What it lacks below belongs to the fragment that ended.
            position.sent = position.sent.max(change.first.prev());
        }
        for (index, member, zone) in change.comes {
            self.positions[index] = Position::new(member, zone, change.first);
            effects.push(Effect::Hello(index));
        }
        self.resume(effects);
    }

    /// The change certainly did not take place: the ensemble is what it was.
    pub(super) fn not_changed(&mut self, effects: &mut Vec<Effect>) {
        if self.change.take().is_some() {
            self.phase = Phase::Running;
            self.do_without(effects);
            self.resume(effects);
        }
    }

    /// Unfreezes the LAC, and does what had to wait for that.
    fn resume(&mut self, effects: &mut Vec<Effect>) {
        self.phase = Phase::Running;
        self.find_quorum();
        self.complete(effects);
        if self.close_asked {
            self.close(effects);
        } else if self.positions.iter().any(|p| p.failed) {
            self.look_for_others(effects);
        }
    }

    /// Who lacks entries of the fragment that ends now. A live one that stays may have them under way.
    fn mark_behind(&mut self, change: &Change, ended: bool, effects: &mut Vec<Effect>) {
        let lac = change.first.prev();
        let mut behind = Vec::new();
        if self.mutations.is(Mutation::ForgetDebt) {
            return;
        }
        for (index, position) in self.positions.iter_mut().enumerate() {
            let lacks = position.owes || (ended && position.acked < lac);
            if lacks && (change.replaces(index) || position.link != Link::Live) {
                behind.push(position.member.clone());
                position.owes = false;
            } else {
                position.owes = lacks;
            }
        }
        if !behind.is_empty() {
            effects.push(Effect::MarkUnder(behind));
        }
    }

    /// A position that may lack entries of a fragment that has ended, and will not get them any more.
    pub(super) fn mark_debt(&mut self, index: usize, effects: &mut Vec<Effect>) {
        let position = &mut self.positions[index];
        if std::mem::take(&mut position.owes) && position.acked < self.first.prev() {
            effects.push(Effect::MarkUnder(vec![position.member.clone()]));
        }
    }

    /// A reply that says that this writer has lost its role; not from one that has left, or is about to: a bookie that
    /// finds itself outside of the ensemble says the same (K2).
    pub(super) fn verdict(&mut self, member: &Member, effects: &mut Vec<Effect>) {
        let Some(index) = self.index_of(member) else { return };
        if self.change.as_ref().is_some_and(|change| change.replaces(index)) {
            self.positions[index].link = Link::Connecting;
            return;
        }
        if self.phase == Phase::Closing {
            // Nothing completes any more, and the close tells by itself. A bookie that this ledger is new to finds it closed,
            // by this very writer, before the writer hears of that.
            return;
        }
        if self.mutations.is(Mutation::IgnoreVerdicts) {
            return self.disconnected(member, effects);
        }
        self.die(effects);
    }

    /// A member that was left out is there again.
    pub(super) fn back(&mut self, member: &Member, effects: &mut Vec<Effect>) {
        let absent = self.index_of(member).is_some_and(|i| self.positions[i].link == Link::Absent);
        if absent && self.phase.takes_entries() {
            self.ask_to_roll(effects);
        }
    }

    fn ask_to_roll(&mut self, effects: &mut Vec<Effect>) {
        if !std::mem::replace(&mut self.roll_asked, true) {
            effects.push(Effect::Roll);
        }
    }

    fn lose_quorum(&mut self, effects: &mut Vec<Effect>) {
        if !std::mem::replace(&mut self.quorum_lost, true) {
            effects.push(Effect::QuorumLost);
        }
    }

    /// Enough are healthy again, or have come.
    pub(super) fn find_quorum(&mut self) {
        if self.quorum_lost && self.rule.is_met(self.healthy()) {
            self.quorum_lost = false;
        }
    }

    /// W6; a test breaks it.
    pub(super) fn is_frozen(&self) -> bool {
        match self.phase {
            Phase::Running => false,
            Phase::Changing => !self.mutations.is(Mutation::CompleteWhileChanging),
            Phase::Closing | Phase::Closed | Phase::Dead => true,
        }
    }
}

#[cfg(test)]
mod tests;
