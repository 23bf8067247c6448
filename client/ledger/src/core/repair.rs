//! Repair of one ledger as a pure state machine (protocol 6.5): brings the fragments that do not change any more back to copies on all
//! their members, one copy at a time, and removes the mark when nothing is left to do. The caller holds the ledger's lock,
//! which saves work and decides nothing: what is safe rests on the swaps.
//!
//! ```text
//!   Read ─► for each immutable fragment with a marked member:
//!             AskTails ─► [ ChooseTarget ─► ] Copy ─► Swap ─► Read …        (a place goes to somebody else)
//!                                             Copy ─► Read …                (a member gets what it lacks)
//!                           ChooseTarget ─► Copy ─► Swap ─► Read …          (a copy moves, of a fragment that lacks none)
//!        ─► nothing left: RemoveMark ─► Finish
//! ```
//!
//! * Only immutable fragments are touched: all but the last, and the last of a closed ledger (H17, M3, M4).
//! * A swap replaces exactly one member of exactly one fragment of the value that was read (M5), after its successor reported everything
//!   as durable (A2). Whatever a swap came to, everything is read again (M9, merge rule).
//! * Who is replaced is no source of the copy for its own place (A3): a reader that goes by the old metadata finds it whole, and a place is
//!   never left by the only one who has the bytes.
//! * A copy moves only where every member has the whole fragment, and only to somebody who spreads it better (6.7): it is never why there are
//!   fewer copies. A move that finds nobody, or no source, is dropped with its mark; the audit asks for it again while it makes sense.
//! * Where no peer delivers what was uploaded and is not trimmed, its object does (T6). What is in an object is never called lost.
//! * The mark goes only at the version that was read *before* everything that was found clean.

mod fragment;

use geminga_metastore::Version;
use geminga_metastore::record::{LedgerMeta, LedgerState, Tier, Under, UnderReason};
use geminga_proto::ids::{EntryId, Member};

use super::commit::CasResult;
use super::mutation::{Mutation, Mutations};
use fragment::{Job, Look, Refill};

/// Successors that did not take their copies, before a place is left for later.
const MAX_SHUNNED: usize = 8;
/// Steps of one repair; the next one goes on.
const MAX_ROUNDS: u32 = 2_000;

/// What one member said about a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tail {
    /// It holds everything up to here, on stable storage.
    Holds {
        /// The fragment's first entry minus one when it holds nothing.
        tail: EntryId,
        /// Whether it vouches for what it does not hold (K1).
        authoritative: bool,
    },
    /// No answer, or one that says nothing.
    Unknown,
}

/// One copy: of `first..=last`, into a fragment that begins at `fragment_first`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Copy {
    /// Who holds it, best first. Each chunk is taken from the first that delivers it.
    pub sources: Vec<Member>,
    /// Whether what none of them delivers may come from the ledger's object (T6).
    pub object: bool,
    /// Who receives it.
    pub to: Member,
    /// The fragment.
    pub fragment_first: EntryId,
    /// First entry.
    pub first: EntryId,
    /// Last entry.
    pub last: EntryId,
}

/// What happens to a repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The mark and, after it, the metadata, linearizably (M8).
    Read {
        /// `None`: not marked.
        mark: Option<(Under, Version)>,
        /// `None`: no such ledger.
        meta: Option<(Box<LedgerMeta>, Version)>,
    },
    /// What the members said, in the order asked.
    Tails(Vec<Tail>),
    /// Who can take the place.
    Target(Option<Member>),
    /// The target reported everything up to here as durable.
    Copied {
        /// Its tail.
        tail: EntryId,
    },
    /// No source delivered this entry.
    SourcesFailed {
        /// Which.
        entry: EntryId,
        /// Whether each said that it has none, or a rotten one: not merely that it did not answer.
        lost: bool,
    },
    /// The target did not take its copies.
    TargetFailed,
    /// The swap ended.
    Swapped(CasResult),
    /// The mark was removed, or had changed.
    MarkRemoved(bool),
}

/// What the task must do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Read the mark, then the metadata.
    Read,
    /// Ask each of these how far the fragment is durable there.
    AskTails {
        /// The fragment.
        first: EntryId,
        /// Its ensemble.
        members: Vec<Member>,
    },
    /// Find somebody for a place by placement (6.7).
    ChooseTarget {
        /// The ensemble.
        ensemble: Vec<Member>,
        /// The place.
        position: usize,
        /// Who failed at it.
        shunned: Vec<Member>,
        /// Whether only somebody will do with whom the ensemble is spread better: nothing is wrong with who has the place.
        spreads: bool,
    },
    /// Copy, then [`Event::Copied`].
    Copy(Copy),
    /// Replace the metadata if its version is as expected.
    Swap {
        /// The version read.
        expected: Version,
        /// The new value.
        meta: Box<LedgerMeta>,
    },
    /// Remove the mark if its version is this.
    RemoveMark(Version),
    /// It is over.
    Finish(Finish),
}

/// How a repair ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Finish {
    /// Every fragment has all its copies, and the mark is gone.
    Clean,
    /// The ledger is deleted: nothing to repair, and no mark.
    Gone,
    /// Nobody had marked it.
    Unmarked,
    /// Something has to happen first; the mark stays.
    Waits(Wait),
    /// No copy of this entry is known of, in this fragment: an operator must act; the mark stays.
    Lost {
        /// The fragment.
        fragment_first: EntryId,
        /// The first entry of it that nobody has.
        entry: EntryId,
    },
}

/// What a repair waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Wait {
    /// Somebody who can take a place.
    Target,
    /// An open ledger's end: its last fragment is its writer's (H17).
    Open,
    /// A member to come back, or to be given up.
    Member(Member),
    /// A target that takes copies, or a source that delivers them.
    Copy,
    /// Another copy than the one of the member that is to be left (A3).
    OtherCopy(Member),
    /// The object store: the ledger's object has what no peer delivers (T6).
    Object,
    /// Its turn: it took too long for one.
    Turn,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    Reading,
    Asking(usize),
    Choosing(usize, usize),
    /// The job's copy runs; a target when a place is taken.
    Copying(Job),
    Swapping,
    Removing(Finish),
    Over,
}

/// A place that has its successor, all copied, but not in the metadata yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Ready {
    first: EntryId,
    old: Member,
    new: Member,
}

/// One repair.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Repair {
    op: u128,
    mutations: Mutations,
    phase: Phase,
    meta: Option<(LedgerMeta, Version)>,
    mark: Option<(Under, Version)>,
    look: Look,
    ready: Option<Ready>,
    shunned: Vec<Member>,
    lost: Option<(EntryId, EntryId)>,
    sent: Option<LedgerMeta>,
    rounds: u32,
}

impl Repair {
    /// A repair that has done nothing. `op` is a fresh random number (M9).
    pub fn new(op: u128, mutations: Mutations) -> (Self, Vec<Effect>) {
        let repair = Self {
            op,
            mutations,
            phase: Phase::Reading,
            meta: None,
            mark: None,
            look: Look::default(),
            ready: None,
            shunned: Vec::new(),
            lost: None,
            sent: None,
            rounds: 0,
        };
        (repair, vec![Effect::Read])
    }

    /// The metadata that was read last.
    pub fn meta(&self) -> Option<&LedgerMeta> {
        self.meta.as_ref().map(|(meta, _)| meta)
    }

    /// Handles one event; exactly one effect follows, until [`Effect::Finish`].
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        self.rounds += 1;
        if self.rounds > MAX_ROUNDS && self.phase != Phase::Over {
            return self.finish(Finish::Waits(Wait::Turn));
        }
        match (std::mem::replace(&mut self.phase, Phase::Over), event) {
            (Phase::Reading, Event::Read { mark, meta }) => {
                self.read(mark, meta.map(|(meta, version)| (*meta, version)))
            }
            (Phase::Asking(index), Event::Tails(tails)) => self.asked(index, tails),
            (Phase::Choosing(index, position), Event::Target(target)) => {
                self.chosen(index, position, target)
            }
            (Phase::Copying(job), event) => self.copied(job, &event),
            (Phase::Swapping, Event::Swapped(result)) => {
                if matches!(result, CasResult::Applied(_)) {
                    self.ready = None;
                    self.shunned.clear();
                }
                self.read_again()
            }
            (Phase::Removing(finish), Event::MarkRemoved(true)) => self.finish(finish),
            (Phase::Removing(_), Event::MarkRemoved(false)) => self.read_again(),
            // An answer to nothing that was asked.
            (phase, _) => {
                self.phase = phase;
                Vec::new()
            }
        }
    }

    fn read_again(&mut self) -> Vec<Effect> {
        self.phase = Phase::Reading;
        vec![Effect::Read]
    }

    fn finish(&mut self, finish: Finish) -> Vec<Effect> {
        self.phase = Phase::Over;
        vec![Effect::Finish(finish)]
    }

    fn remove(&mut self, finish: Finish) -> Vec<Effect> {
        let Some((_, version)) = &self.mark else { return self.finish(finish) };
        let version = *version;
        self.phase = Phase::Removing(finish);
        vec![Effect::RemoveMark(version)]
    }

    fn read(
        &mut self,
        mark: Option<(Under, Version)>,
        meta: Option<(LedgerMeta, Version)>,
    ) -> Vec<Effect> {
        let version = |mark: &Option<(Under, Version)>| mark.as_ref().map(|(_, version)| *version);
        if version(&self.mark) != version(&mark) {
            // Something may have failed since it was sent.
            self.look.doubt();
        }
        self.mark = mark;
        if meta.is_none()
            && self.mutations.is(Mutation::MakeKeyAgain)
            && let Some((old, _)) = self.meta.take()
        {
            self.phase = Phase::Swapping;
            return vec![Effect::Swap { expected: Version(0), meta: Box::new(old) }];
        }
        let there = meta.filter(|(meta, _)| meta.state != LedgerState::Deleting);
        let Some((meta, version)) = there else { return self.remove(Finish::Gone) };
        let Some((mark, _)) = &self.mark else {
            self.meta = Some((meta, version));
            return self.finish(Finish::Unmarked);
        };
        if self.mutations.is(Mutation::RepairResendsOldValue)
            && self.ready.is_some()
            && let Some(sent) = &self.sent
        {
            self.phase = Phase::Swapping;
            return vec![Effect::Swap { expected: version, meta: Box::new(sent.clone()) }];
        }
        self.look.begin(&meta, mark, self.mutations);
        self.meta = Some((meta, version));
        self.next_fragment()
    }

    fn next_fragment(&mut self) -> Vec<Effect> {
        let (meta, _) = self.meta.as_ref().expect("fragments were found in it");
        let Some(index) = self.look.next() else { return self.conclude() };
        let fragment = &meta.fragments[index];
        let (first, members) = (fragment.first_entry, fragment.ensemble.clone());
        self.phase = Phase::Asking(index);
        vec![Effect::AskTails { first, members }]
    }

    fn asked(&mut self, index: usize, tails: Vec<Tail>) -> Vec<Effect> {
        let meta = &self.meta.as_ref().expect("its members were asked").0;
        let mark = &self.mark.as_ref().expect("only marked ledgers are repaired").0;
        self.look.tails = tails;
        let Some(job) = self.look.job(meta, mark, index, self.mutations) else {
            return self.next_fragment();
        };
        match job {
            Job::Refill(Refill { copy, .. }) if copy.sources.is_empty() && !copy.object => {
                let at = (copy.fragment_first, copy.first);
                self.unreadable(index, &copy.to.clone(), at)
            }
            Job::Refill(refill) => {
                let copy = refill.copy.clone();
                self.phase = Phase::Copying(Job::Refill(refill));
                vec![Effect::Copy(copy)]
            }
            Job::Replace { position, .. } => {
                let fragment = &meta.fragments[index];
                let old = &fragment.ensemble[position];
                if let Some(ready) = &self.ready
                    && ready.first == fragment.first_entry
                    && ready.old == *old
                {
                    let target = ready.new.clone();
                    return self.swap(index, position, target);
                }
                let spreads = !mark.replace.contains(old);
                let ensemble = fragment.ensemble.clone();
                self.phase = Phase::Choosing(index, position);
                let shunned = self.shunned.clone();
                vec![Effect::ChooseTarget { ensemble, position, shunned, spreads }]
            }
        }
    }

    fn chosen(&mut self, index: usize, position: usize, target: Option<Member>) -> Vec<Effect> {
        let meta = &self.meta.as_ref().expect("a place of it").0;
        let mark = &self.mark.as_ref().expect("only marked ledgers are repaired").0;
        let fragment = &meta.fragments[index];
        let (first, old) = (fragment.first_entry, fragment.ensemble[position].clone());
        let moves = !mark.replace.contains(&old);
        let Some(target) = target else {
            match moves {
                true => self.look.settle(first, old),
                false => self.look.skip(first, old, Wait::Target),
            }
            return self.read_again();
        };
        let end = self.look.end(meta, index);
        if end < first || self.mutations.is(Mutation::RepairSwapsFirst) {
            return self.swap(index, position, target);
        }
        let sources = self.look.sources(meta, index, position, mark, first, self.mutations);
        let object = in_object(meta, self.mutations);
        if !self.look.reaches(end, &sources, &fragment.ensemble) && !object {
            if moves {
                // A copy that cannot move is none that is lost: it stays where it is.
                self.look.settle(first, old);
                return self.read_again();
            }
            let entry = self.look.best(&sources, &fragment.ensemble, first).next();
            return self.unreadable(index, &old, (first, entry));
        }
        let copy =
            Copy { sources, object, to: target.clone(), fragment_first: first, first, last: end };
        self.phase = Phase::Copying(Job::Replace { position, index, target: Some(target) });
        vec![Effect::Copy(copy)]
    }

    /// Nobody who was asked has it. Whether it is lost depends on who was not.
    fn unreadable(
        &mut self,
        index: usize,
        wants: &Member,
        (first, entry): (EntryId, EntryId),
    ) -> Vec<Effect> {
        let meta = &self.meta.as_ref().expect("its members were asked").0;
        let mark = &self.mark.as_ref().expect("only marked ledgers are repaired").0;
        let wait = match self.look.hope(meta, index, wants, mark, entry) {
            Some(wait) => wait,
            None => {
                self.lost.get_or_insert((first, entry));
                Wait::Copy
            }
        };
        self.look.skip(first, wants.clone(), wait);
        self.read_again()
    }

    fn copied(&mut self, job: Job, event: &Event) -> Vec<Effect> {
        let meta = &self.meta.as_ref().expect("a copy is of a ledger").0;
        let (index, wants) = match &job {
            Job::Refill(refill) => (refill.index, refill.copy.to.clone()),
            Job::Replace { index, position, .. } => {
                (*index, meta.fragments[*index].ensemble[*position].clone())
            }
        };
        let first = meta.fragments[index].first_entry;
        let end = self.look.end(meta, index);
        match (event, job) {
            (Event::Copied { tail }, job)
                if *tail >= end || self.mutations.is(Mutation::RepairTrustsShortTail) =>
            {
                match job {
                    Job::Refill(refill) => {
                        // Only what was sent was compared with what rotted there.
                        let all = refill.copy.first == first;
                        let sent = match all {
                            true => &mut self.look.verified,
                            false => &mut self.look.filled,
                        };
                        sent.push((first, wants));
                        self.read_again()
                    }
                    Job::Replace { position, target, .. } => match target {
                        Some(target) => self.swap(index, position, target),
                        None => self.read_again(),
                    },
                }
            }
            (Event::SourcesFailed { .. }, Job::Replace { .. }) if self.moves(&wants) => {
                // Who has the place has the bytes, and keeps both.
                self.look.settle(first, wants);
                self.read_again()
            }
            (Event::SourcesFailed { .. }, _) if in_object(meta, self.mutations) => {
                self.look.skip(first, wants, Wait::Object);
                self.read_again()
            }
            (Event::SourcesFailed { entry, lost: true }, _) => {
                self.unreadable(index, &wants, (first, *entry))
            }
            (Event::SourcesFailed { .. }, _) => {
                self.look.skip(first, wants, Wait::Copy);
                self.read_again()
            }
            (_, Job::Replace { target: Some(target), .. }) if self.shunned.len() < MAX_SHUNNED => {
                self.shunned.push(target);
                self.read_again()
            }
            _ => {
                self.look.skip(first, wants, Wait::Copy);
                self.read_again()
            }
        }
    }

    /// Whether a place is merely to go to somebody who spreads the copies better.
    fn moves(&self, member: &Member) -> bool {
        self.mark.as_ref().is_some_and(|(mark, _)| !mark.replace.contains(member))
    }

    /// 6.5 step 5: exactly that member at that fragment, in the value that was read.
    fn swap(&mut self, index: usize, position: usize, target: Member) -> Vec<Effect> {
        let (meta, version) = self.meta.as_ref().expect("a place of it");
        let mut new = meta.clone();
        let fragment = &mut new.fragments[index];
        let first = fragment.first_entry;
        let old = std::mem::replace(&mut fragment.ensemble[position], target.clone());
        if new.validate().is_err() {
            // Chosen from a cache: it has become a member meanwhile.
            self.shunned.push(target);
            if self.shunned.len() > MAX_SHUNNED {
                self.look.skip(first, old, Wait::Target);
            }
            self.ready = None;
            return self.read_again();
        }
        new.last_op = self.op;
        let expected = *version;
        self.ready = Some(Ready { first, old, new: target });
        self.sent = Some(new.clone());
        self.phase = Phase::Swapping;
        vec![Effect::Swap { expected, meta: Box::new(new) }]
    }

    /// 6.5 step 6.
    fn conclude(&mut self) -> Vec<Effect> {
        if let Some((fragment_first, entry)) = self.lost {
            return self.finish(Finish::Lost { fragment_first, entry });
        }
        if let Some(wait) = self.look.waits() {
            return self.finish(Finish::Waits(wait));
        }
        let meta = &self.meta.as_ref().expect("all of it was looked at").0;
        let mark = &self.mark.as_ref().expect("only marked ledgers are repaired").0;
        let ended = meta.state == LedgerState::Closed;
        let last = &meta.last_fragment().ensemble;
        let waits = |member: &Member| {
            // Who was away and is back is its writer's to fill, or to mark once it ends.
            let back = mark.reason == UnderReason::Gone
                && !mark.replace.contains(member)
                && !mark.damaged.contains(member);
            mark.members.contains(member) && !back
        };
        if !ended && last.iter().any(waits) {
            return self.finish(Finish::Waits(Wait::Open));
        }
        self.remove(Finish::Clean)
    }
}

/// Whether the entries of a ledger are in its object as well as at bookies: trimmed ones are nobody's here (T6).
fn in_object(meta: &LedgerMeta, mutations: Mutations) -> bool {
    matches!(meta.tier, Tier::Offloaded(_)) && !mutations.is(Mutation::RepairForgetsObject)
}

#[cfg(test)]
mod tests;
