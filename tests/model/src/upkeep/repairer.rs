//! Repairs of the ledger: the production core, and what becomes of its effects. No lock: it decides nothing.

use geminga_ledger::core::commit::CasResult;
use geminga_ledger::core::repair::{Copy, Effect, Event, Repair, Tail};
use geminga_metastore::Version;
use geminga_metastore::record::{Tier, UnderReason};
use geminga_proto::ids::{EntryId, Member};

use super::size::Upkeep;
use super::world::{Action, Trouble, World};
use crate::ledger::{member, number};

/// One repair.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Repairing {
    repair: Repair,
    /// What it is to do next.
    effect: Effect,
}

impl World {
    pub(super) fn repairs(&self, size: &Upkeep, actions: &mut Vec<Action>) {
        for (index, running) in self.repairs.iter().enumerate() {
            let Some(Repairing { effect, .. }) = running else {
                // Of two that do not run, one is as good as the other.
                let first = self.repairs[..index].iter().all(Option::is_some);
                actions.extend((first && self.mark.is_some()).then_some(Action::Start(index)));
                continue;
            };
            let repair = |trouble| Action::Repair(index, trouble);
            let (lost_replies, short) = (self.left.lost_replies > 0, self.left.short > 0);
            match effect {
                Effect::ChooseTarget { ensemble, position, shunned, .. } => {
                    let found = self.targets(size, ensemble, *position, shunned);
                    let none = found.is_empty().then_some(Action::Choose(index, None));
                    actions.extend(none);
                    actions.extend(found.into_iter().map(|b| Action::Choose(index, Some(b))));
                }
                Effect::Swap { .. } => {
                    actions.push(repair(Trouble::No));
                    actions.extend(lost_replies.then(|| repair(Trouble::LostReply)));
                }
                Effect::Copy(_) => {
                    actions.push(repair(Trouble::No));
                    actions.extend(short.then(|| repair(Trouble::Short)));
                }
                _ => actions.push(repair(Trouble::No)),
            }
        }
    }

    /// Bookies that may take a place.
    fn targets(
        &self,
        size: &Upkeep,
        ensemble: &[Member],
        position: usize,
        shunned: &[Member],
    ) -> Vec<usize> {
        let drains = |bookie| size.marked.contains(&(bookie, UnderReason::Draining));
        let free = |bookie: &usize| {
            let new = member(*bookie, self.bookies[*bookie].life);
            let mut others = ensemble.iter().enumerate();
            let apart = others
                .all(|(place, old)| old.bookie != new.bookie || (place == position && *old != new));
            apart && !drains(*bookie) && !shunned.contains(&new)
        };
        (0..size.bookies).filter(free).collect()
    }

    pub(super) fn start_repair(&mut self, size: &Upkeep, index: usize) {
        let (repair, mut effects) = Repair::new(index as u128 + 1, size.client_mutations);
        let effect = effects.pop().expect("it reads first");
        self.repairs[index] = Some(Repairing { repair, effect });
        self.repair(size, index, Trouble::No);
    }

    fn tell(&mut self, index: usize, event: Event) {
        let Some(running) = &mut self.repairs[index] else { return };
        let effect = running.repair.step(event).pop().expect("one thing at a time");
        match effect {
            Effect::Finish(_) => self.repairs[index] = None,
            effect => running.effect = effect,
        }
    }

    pub(super) fn choose(&mut self, index: usize, bookie: Option<usize>) {
        let target = bookie.map(|bookie| member(bookie, self.bookies[bookie].life));
        self.tell(index, Event::Target(target));
    }

    pub(super) fn repair(&mut self, size: &Upkeep, index: usize, trouble: Trouble) {
        self.left.lost_replies -= u8::from(trouble == Trouble::LostReply);
        self.left.short -= u8::from(trouble == Trouble::Short);
        let Some(running) = &self.repairs[index] else { return };
        let event = match running.effect.clone() {
            Effect::Read => {
                let mark = self.mark.clone().map(|mark| (mark, self.mark_version));
                let meta = self.meta.clone().map(|(meta, version)| (Box::new(meta), version));
                Event::Read { mark, meta }
            }
            Effect::AskTails { first, members } => {
                Event::Tails(members.iter().map(|m| self.tail(size, m, first)).collect())
            }
            Effect::Copy(copy) => self.copy(size, &copy, trouble),
            Effect::Swap { expected, meta } => {
                let result = self.cas(expected, *meta);
                let lost = trouble == Trouble::LostReply;
                Event::Swapped(if lost { CasResult::Unknown } else { result })
            }
            Effect::RemoveMark(version) => Event::MarkRemoved(self.remove_mark(version)),
            Effect::ChooseTarget { .. } | Effect::Finish(_) => return,
        };
        self.tell(index, event);
    }

    /// How far a member says that it holds the ledger.
    fn tail(&self, size: &Upkeep, of: &Member, first: EntryId) -> Tail {
        if !self.answers(of) {
            return Tail::Unknown;
        }
        let mut held = (first.0..size.entries as i64).map(EntryId);
        let missing = held.find(|entry| !self.delivers(of, *entry));
        let tail = missing.map_or(EntryId(size.entries as i64 - 1), EntryId::prev);
        Tail::Holds { tail, authoritative: true }
    }

    fn copy(&mut self, size: &Upkeep, copy: &Copy, trouble: Trouble) -> Event {
        if !self.answers(&copy.to) {
            return Event::TargetFailed;
        }
        for entry in (copy.first.0..=copy.last.0).map(EntryId) {
            if !copy.sources.iter().any(|source| self.delivers(source, entry)) {
                let lost = copy.sources.iter().all(|source| self.answers(source));
                return Event::SourcesFailed { entry, lost };
            }
            if trouble == Trouble::Short {
                break;
            }
            self.bookies[number(&copy.to)].held |= 1 << entry.0;
        }
        match self.tail(size, &copy.to, copy.fragment_first) {
            Tail::Holds { tail, .. } => Event::Copied { tail },
            Tail::Unknown => Event::TargetFailed,
        }
    }

    fn remove_mark(&mut self, version: Version) -> bool {
        if version != self.mark_version {
            return false;
        }
        let (Some(mark), meta) = (self.mark.take(), self.closed()) else { return false };
        // Nobody is asked for the entries of a trimmed one.
        let kept = meta.filter(|meta| !matches!(meta.tier, Tier::Trimmed(_)));
        let unclean = kept.is_some_and(|meta| {
            let members = meta.fragments.iter().flat_map(|fragment| &fragment.ensemble);
            let mut marked = members.filter(|member| mark.members.contains(member));
            marked.any(|m| mark.replace.contains(m) || !self.had_all(m))
        });
        self.broken.unclean |= unclean;
        self.mark_version.0 += 1;
        true
    }

    /// Whether a member has everything, or had it when its life was lost.
    fn had_all(&self, of: &Member) -> bool {
        let Some(last) = self.closed().and_then(|meta| meta.last_entry) else { return true };
        (0..=last.0).all(|entry| self.had(of, EntryId(entry)))
    }
}
