//! What is to be done about one fragment, from what its members said: first what members lack, so that there are more copies
//! sooner, then the places of those that are gone, then the places of those that still hold everything, and last, where nothing is
//! missing, copies that would be better somewhere else.

use geminga_metastore::record::{LedgerMeta, LedgerState, Tier, Under};
use geminga_proto::ids::{EntryId, Member};

use super::{Copy, Mutation, Mutations, Tail, Wait};

/// The next thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Job {
    /// A member gets what it lacks, or what has rotted there: no change of metadata.
    Refill(Refill),
    /// A place goes to somebody else.
    Replace {
        /// The fragment.
        index: usize,
        /// The place.
        position: usize,
        /// Who, once chosen.
        target: Option<Member>,
    },
}

/// A copy to a member.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Refill {
    /// The fragment.
    pub(super) index: usize,
    pub(super) copy: Copy,
}

/// What is looked at, and what was put off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Look {
    /// Fragments that are still to be looked at, last first.
    left: Vec<usize>,
    /// Of the fragment that is looked at, in the order of its ensemble.
    pub(super) tails: Vec<Tail>,
    /// Members that were sent what they lacked of a fragment.
    pub(super) filled: Vec<(EntryId, Member)>,
    /// Members that hold a fragment for certain, by its first entry: they were sent all of it.
    pub(super) verified: Vec<(EntryId, Member)>,
    skipped: Vec<(EntryId, Member, Wait)>,
    /// Places that nobody is better for.
    settled: Vec<(EntryId, Member)>,
}

impl Look {
    /// All immutable fragments that a marked member is in.
    pub(super) fn begin(&mut self, meta: &LedgerMeta, mark: &Under, mutations: Mutations) {
        let closed = meta.state == LedgerState::Closed;
        let open_too = mutations.is(Mutation::RepairOpenFragment);
        let immutable = |index: usize| closed || open_too || index + 1 < meta.fragments.len();
        let marked = |index: usize| {
            let named = |member| mark.members.contains(member) || mark.misplaced.contains(member);
            meta.fragments[index].ensemble.iter().any(named)
        };
        let all = (0..meta.fragments.len()).rev();
        self.left = all.filter(|index| immutable(*index) && marked(*index)).collect();
    }

    /// What was sent may have rotted since.
    pub(super) fn doubt(&mut self) {
        self.filled.clear();
        self.verified.clear();
    }

    /// The next fragment.
    pub(super) fn next(&mut self) -> Option<usize> {
        self.left.pop()
    }

    /// The last entry of a fragment; before its first when it holds none, or when bookies have dropped theirs for an object (T6):
    /// such a place is given away without a copy, for nobody is asked for its entries.
    pub(super) fn end(&self, meta: &LedgerMeta, index: usize) -> EntryId {
        // An open end only where H17 is broken on purpose.
        let first = meta.fragments[index].first_entry;
        if matches!(meta.tier, Tier::Trimmed(_)) {
            return first.prev();
        }
        meta.fragment_end(index).unwrap_or(first.prev())
    }

    /// Leaves a member for later.
    pub(super) fn skip(&mut self, first: EntryId, member: Member, wait: Wait) {
        if !self.is_skipped(first, &member) {
            self.skipped.push((first, member, wait));
        }
    }

    /// Leaves a copy where it is: nothing is missing, and nobody is better for it.
    pub(super) fn settle(&mut self, first: EntryId, member: Member) {
        self.settled.push((first, member));
    }

    fn is_skipped(&self, first: EntryId, member: &Member) -> bool {
        self.skipped.iter().any(|(at, who, _)| *at == first && who == member)
    }

    /// What was left for later waits for this.
    pub(super) fn waits(&self) -> Option<Wait> {
        self.skipped.first().map(|(_, _, wait)| wait.clone())
    }

    fn tail(&self, position: usize) -> Tail {
        self.tails.get(position).copied().unwrap_or(Tail::Unknown)
    }

    fn holds(&self, position: usize, entry: EntryId) -> bool {
        matches!(self.tail(position), Tail::Holds { tail, .. } if tail >= entry)
    }

    /// What to do about a fragment; `None`: nothing now.
    pub(super) fn job(
        &mut self,
        meta: &LedgerMeta,
        mark: &Under,
        index: usize,
        mutations: Mutations,
    ) -> Option<Job> {
        let fragment = &meta.fragments[index];
        let (first, end) = (fragment.first_entry, self.end(meta, index));
        for (position, member) in fragment.ensemble.iter().enumerate() {
            if mark.replace.contains(member) || self.is_skipped(first, member) {
                continue;
            }
            let verified = self.verified.contains(&(first, member.clone()));
            let sent = verified || self.filled.contains(&(first, member.clone()));
            let rotten = mark.damaged.contains(member)
                && !verified
                && !mutations.is(Mutation::RepairForgetsRot);
            let from = match self.tail(position) {
                // It took all of it, and says that it has not: not again before somebody looked.
                Tail::Holds { tail, .. } if tail < end && sent => {
                    self.skip(first, member.clone(), Wait::Copy);
                    continue;
                }
                Tail::Holds { tail, authoritative: true } if tail < end => tail.next(),
                Tail::Holds { .. } if rotten && first <= end => first,
                // Who has all of it has it, whatever else was lost there, or given up.
                Tail::Holds { tail, authoritative } if authoritative || tail >= end => continue,
                Tail::Holds { .. } | Tail::Unknown => {
                    if mark.members.contains(member) && first <= end {
                        self.skip(first, member.clone(), Wait::Member(member.clone()));
                    }
                    continue;
                }
            };
            let sources = self.sources(meta, index, position, mark, from, mutations);
            let sources = match self.reaches(end, &sources, &fragment.ensemble) {
                true => sources,
                false => Vec::new(),
            };
            let (to, object) = (member.clone(), super::in_object(meta, mutations));
            let copy = Copy { sources, object, to, fragment_first: first, first: from, last: end };
            return Some(Job::Refill(Refill { index, copy }));
        }
        let mut places: Vec<usize> = (0..fragment.ensemble.len())
            .filter(|position| {
                let member = &fragment.ensemble[*position];
                mark.replace.contains(member) && !self.is_skipped(first, member)
            })
            .collect();
        places.sort_by_key(|position| self.holds(*position, end));
        let place = places.first().copied();
        let position =
            place.or_else(|| self.movable(&fragment.ensemble, mark, first, end, mutations))?;
        Some(Job::Replace { index, position, target: None })
    }

    /// A copy that may move: of a fragment that lacks none (6.7).
    fn movable(
        &self,
        ensemble: &[Member],
        mark: &Under,
        first: EntryId,
        end: EntryId,
        mutations: Mutations,
    ) -> Option<usize> {
        let whole = (0..ensemble.len()).all(|position| self.holds(position, end));
        let waits = ensemble.iter().any(|member| self.is_skipped(first, member));
        if (!whole || waits) && !mutations.is(Mutation::RepairMovesShort) {
            return None;
        }
        ensemble.iter().position(|member| {
            let settled = self.settled.contains(&(first, member.clone()));
            mark.misplaced.contains(member)
                && !mark.replace.contains(member)
                && !settled
                && !self.is_skipped(first, member)
        })
    }

    /// Who else holds the fragment from `from` on, at least in part: whole copies first. Never whom the copy is for, or who is to be
    /// left by it (A3).
    pub(super) fn sources(
        &self,
        meta: &LedgerMeta,
        index: usize,
        position: usize,
        mark: &Under,
        from: EntryId,
        mutations: Mutations,
    ) -> Vec<Member> {
        let ensemble = &meta.fragments[index].ensemble;
        let own_too = mutations.is(Mutation::RepairDropsSource);
        let mut sources: Vec<usize> = (0..ensemble.len())
            .filter(|other| (*other != position || own_too) && self.holds(*other, from))
            .collect();
        sources.sort_by_key(|other| {
            let Tail::Holds { tail, authoritative } = self.tail(*other) else { return (true, 0) };
            let doubtful = !authoritative || mark.damaged.contains(&ensemble[*other]);
            (doubtful, -tail.0)
        });
        sources.into_iter().map(|other| ensemble[other].clone()).collect()
    }

    /// The furthest that these members hold, at least the entry before `first`.
    pub(super) fn best(&self, of: &[Member], ensemble: &[Member], first: EntryId) -> EntryId {
        let tails = ensemble.iter().enumerate().filter(|(_, member)| of.contains(member));
        let tails = tails.filter_map(|(position, _)| match self.tail(position) {
            Tail::Holds { tail, .. } => Some(tail),
            Tail::Unknown => None,
        });
        tails.max().unwrap_or(first.prev()).max(first.prev())
    }

    /// Whether one of these members holds `end`.
    pub(super) fn reaches(&self, end: EntryId, of: &[Member], ensemble: &[Member]) -> bool {
        !of.is_empty() && self.best(of, ensemble, EntryId(0)) >= end
    }

    /// Who may still have an entry that nobody else delivered; `None`: nobody, as far as anybody knows.
    pub(super) fn hope(
        &self,
        meta: &LedgerMeta,
        index: usize,
        wants: &Member,
        mark: &Under,
        entry: EntryId,
    ) -> Option<Wait> {
        let ensemble = &meta.fragments[index].ensemble;
        for (position, member) in ensemble.iter().enumerate() {
            let given_up = mark.replace.contains(member);
            match self.tail(position) {
                Tail::Unknown if !given_up => return Some(Wait::Member(member.clone())),
                // Only itself: with others in the ensemble these are filled from it first.
                Tail::Holds { tail, .. } if member == wants && given_up && tail >= entry => {
                    return Some(Wait::OtherCopy(member.clone()));
                }
                _ => {}
            }
        }
        None
    }
}
