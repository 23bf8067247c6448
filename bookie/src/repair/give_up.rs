//! Whether a bookie gives up its copy of one ledger, as a pure state machine (protocol 5.6): no clock, no I/O. The task around it, which has
//! the ledger's repair lock, carries out one effect at a time and comes back with its event; so does the simulator.
//!
//! ```text
//!   announce ─► read lock, mark and metadata ─► ask every member of every fragment ─► look how far this copy goes ─► drop
//! ```
//!
//! Invariant: everything that the decision rests on is read behind the announcement. Whoever took the lock before that is seen, and whoever
//! sends entries after that ends it at the ledger itself.

use std::collections::VecDeque;

use geminga_metastore::record::{CloseKind, LedgerMeta, LedgerState, Tier};
use geminga_proto::ids::{EntryId, Member};

use crate::ledger::{Mutation, Mutations};

/// What the task does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Tell the ledger's owner that the copy may go: whoever sends entries of it from then on ends that.
    Announce,
    /// Read, linearizably and in this order, whether the lock is held still, whether the ledger is marked, and its metadata.
    Read,
    /// Ask a member how far it holds the fragment that begins here.
    Ask {
        /// Who.
        member: Member,
        /// The fragment's first entry.
        first: EntryId,
    },
    /// Look for the last entry that anything here knows of.
    Reach,
    /// Drop the copy, unless somebody sent something since it was announced.
    Drop,
    /// Over; whether the copy is gone.
    Finish(bool),
}

/// What came of an effect.
#[expect(clippy::large_enum_variant, reason = "one at a time, and never kept")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It was announced; false where there is no copy.
    Announced(bool),
    /// What stands.
    Read {
        /// Whether the lock is held still.
        locked: bool,
        /// Whether somebody marked the ledger.
        marked: bool,
        /// Its metadata, if there is any.
        meta: Option<LedgerMeta>,
    },
    /// How far a member holds, durably and vouching for it; `None`: it does not say.
    Tail(Option<EntryId>),
    /// How far anything here goes.
    Reach(EntryId),
    /// Whether it was dropped.
    Dropped(bool),
}

/// How far a member of a fragment that ends at the second said that it holds it.
type Held = (Option<EntryId>, EntryId);

/// A member, and the bounds of the fragment that it is asked about.
type Place = (Member, EntryId, EntryId);

/// What was read, what members said, and who is to be asked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    meta: Box<LedgerMeta>,
    marked: bool,
    held: Vec<Held>,
    left: VecDeque<Place>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// `decided`: the rule is broken, and all was read before.
    Announcing {
        decided: bool,
    },
    Reading,
    /// Somebody is asked about a fragment that ends there.
    Asking {
        asked: Asked,
        end: EntryId,
    },
    Reaching(Asked),
    Dropping,
    Over,
}

/// One attempt at one copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GiveUp {
    member: Member,
    phase: Phase,
    mutations: Mutations,
}

/// Whether metadata may name `member` nowhere and need nothing of it.
pub fn is_unnamed(meta: &LedgerMeta, member: &Member) -> bool {
    // Of trimmed ones whoever tiers drops the entries, after a look at the object.
    meta.state == LedgerState::Closed
        && !matches!(meta.tier, Tier::Trimmed(_))
        && meta.fragments.iter().all(|fragment| !fragment.ensemble.contains(member))
}

/// Whether a member has its part.
fn is_whole((tail, end): &Held) -> bool {
    tail.is_some_and(|tail| tail >= *end)
}

/// Whether others have everything, and that is all there is. `reach`: the last entry that is known of here.
fn is_excess(
    meta: &LedgerMeta,
    member: &Member,
    reach: EntryId,
    marked: bool,
    held: &[Held],
    mutations: Mutations,
) -> bool {
    let whole = held.iter().all(is_whole);
    let ends = meta.last_entry.is_some_and(|last| reach <= last)
        && !matches!(meta.close_kind, Some(CloseKind::ForcedWithRisk { .. }));
    is_unnamed(meta, member) && ends && (!marked && whole || mutations.is(Mutation::GiveUpNeeded))
}

/// Every member of every fragment that holds entries.
fn places(meta: &LedgerMeta) -> VecDeque<Place> {
    let mut places = VecDeque::new();
    for (index, fragment) in meta.fragments.iter().enumerate() {
        let first = fragment.first_entry;
        let Some(end) = meta.fragment_end(index).filter(|end| *end >= first) else { continue };
        places.extend(fragment.ensemble.iter().map(|member| (member.clone(), first, end)));
    }
    places
}

fn ask_next(mut asked: Asked) -> (Phase, Effect) {
    match asked.left.pop_front() {
        Some((member, first, end)) => (Phase::Asking { asked, end }, Effect::Ask { member, first }),
        None => (Phase::Reaching(asked), Effect::Reach),
    }
}

impl GiveUp {
    /// One that has not begun, of this bookie's disk in its present life; and what comes first.
    pub fn new(member: Member, mutations: Mutations) -> (Self, Effect) {
        let (phase, first) = match mutations.is(Mutation::AnnounceLate) {
            true => (Phase::Reading, Effect::Read),
            false => (Phase::Announcing { decided: false }, Effect::Announce),
        };
        (Self { member, phase, mutations }, first)
    }

    /// One event. The copy stays after one that says so, and after one that does not belong to the effect before.
    pub fn step(&mut self, event: Event) -> Effect {
        let (phase, effect) = match (std::mem::replace(&mut self.phase, Phase::Over), event) {
            (Phase::Announcing { decided: false }, Event::Announced(true)) => {
                (Phase::Reading, Effect::Read)
            }
            (Phase::Announcing { decided: true }, Event::Announced(true)) => {
                (Phase::Dropping, Effect::Drop)
            }
            (Phase::Reading, Event::Read { locked: true, marked, meta: Some(meta) }) => {
                let left = places(&meta);
                ask_next(Asked { meta: Box::new(meta), marked, held: Vec::new(), left })
            }
            (Phase::Asking { mut asked, end }, Event::Tail(tail)) => {
                asked.held.push((tail, end));
                // Nobody behind the first that has not everything: others wait for the lock.
                if !is_whole(&(tail, end)) {
                    asked.left.clear();
                }
                ask_next(asked)
            }
            (Phase::Reaching(Asked { meta, marked, held, .. }), Event::Reach(reach)) => {
                match is_excess(&meta, &self.member, reach, marked, &held, self.mutations) {
                    true if self.mutations.is(Mutation::AnnounceLate) => {
                        (Phase::Announcing { decided: true }, Effect::Announce)
                    }
                    true => (Phase::Dropping, Effect::Drop),
                    false => (Phase::Over, Effect::Finish(false)),
                }
            }
            (Phase::Dropping, Event::Dropped(dropped)) => (Phase::Over, Effect::Finish(dropped)),
            _ => (Phase::Over, Effect::Finish(false)),
        };
        self.phase = phase;
        effect
    }
}

#[cfg(test)]
mod tests;
